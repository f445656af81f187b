//! The rounds of a search over the few shots, with a checkpoint between any two.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Result;
use datasets::Stream;
use methods::{Method, Question, Search, Shots};

use crate::run::answers;
use crate::run::checkpoint::{Checkpoint, Learning};
use crate::run::lesson::STAGE;
use crate::run::testing::Answers;
use crate::run::trial::{Interrupted, Outcomes, Step, Task};

/// Searches `shots` on from where a checkpoint left it. What a round draws follows from the seed, the stage and the round
/// alone.
///
/// # Errors
/// [`Interrupted`], with a checkpoint left; those of the method.
pub fn search(
    task: &Task,
    number: usize,
    search: Search,
    shots: &Shots,
    method: &mut dyn Method,
    out: &mut Outcomes,
    from: Option<Learning>,
) -> Result<()> {
    let mut clock = Instant::now();
    let mut at = from.unwrap_or_default();
    let mut spent = |out: &mut Outcomes| {
        out.cost.train_seconds += clock.elapsed().as_secs_f64();
        clock = Instant::now();
    };
    let stream = STAGE * number as u64;
    while at.epoch < search.rounds {
        let is_stopped = task.stop.load(Ordering::Relaxed);
        if let Some(keeper) = task.keeper.filter(|k| is_stopped || k.is_due()) {
            spent(out);
            keeper.write(&Checkpoint {
                stage: number,
                learning: Some(at.clone()),
                learned: methods::kept(method)?.into_iter().collect(),
                ..out.checkpoint(number, Answers::default())
            })?;
        }
        if is_stopped {
            return Err(Interrupted.into());
        }
        if let Some(question) = method.asks() {
            let place = format!("{number}-{}", at.epoch);
            let lines = ask(task, &place, &question)?;
            let wrong = method.answered(&lines)?;
            if let Some(first) = wrong.first() {
                crate::say!(
                    "note: {}: {} of {} lines in round {} are of no use: {first}",
                    question.command.join(" "),
                    wrong.len(),
                    lines.len(),
                    at.epoch + 1
                );
            }
        }
        let seed = Stream::named(task.seed, "rounds", stream + at.done).next_u64();
        let round = method.search(shots, seed)?;
        out.cost.scored += round.scored as u64;
        out.losses.push(round.loss);
        at.last = Some(round.loss);
        at.epoch += 1;
        at.done += 1;
        task.observer.stepped(&Step {
            done: at.epoch,
            all: search.rounds,
            loss: round.loss,
            learning_rate: None,
        });
    }
    method.finish()?;
    spent(out);
    Ok(())
}

/// The answer to `question`, as it was kept at `place` if it has been asked before, so that a trial that runs again gets the
/// same; else as the command gives it, kept from now on.
fn ask(task: &Task, place: &str, question: &Question) -> Result<Vec<String>> {
    let kept = task.keeper.map(|keeper| keeper.beside(place));
    if let Some(path) = &kept
        && let Some(lines) = answers::read(path, question)?
    {
        return Ok(lines);
    }
    let lines = answers::of_command(question, task.stop)?;
    if let Some(path) = &kept {
        answers::write(path, question, &lines)?;
    }
    Ok(lines)
}
