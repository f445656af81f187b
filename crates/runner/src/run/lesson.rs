//! What a stage of a trial learns: pictures of one dataset or of several at once, handed to a method whole or in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use datasets::{ClassSet, Item, Stream};
use methods::{
    Batch, Descriptions, Images, Labelled, Method, Needs, Rate, Sees, Shots, Support, Training,
    Validation,
};

use crate::record::Outcome;
use crate::run::checkpoint::{Checkpoint, Learning};
use crate::run::feed::{self, Feed};
use crate::run::suite::Views;
use crate::run::testing::Answers;
use crate::run::trial::{Epoch, Interrupted, Outcomes, Stage, Step, Task};

/// Steps that the random streams of one stage have to themselves.
pub(super) const STAGE: u64 = 1 << 40;

/// A dataset that is learned, or that a method is built for.
pub struct Lesson {
    /// The dataset.
    pub feed: Arc<Feed>,
    /// Which of its classes.
    pub set: ClassSet,
    /// What describes them, for methods that need it.
    pub descriptions: Option<Arc<Descriptions>>,
    /// What is learned from.
    pub learned: Learned,
}

/// Pictures that a method learns from, labels renumbered for the classes trained on.
#[derive(Default)]
pub struct Learned {
    /// The few shots; every training picture of the dataset for a method that takes them without labels; none where
    /// nothing is learned.
    pub train: Vec<Item>,
    /// Validation pictures, where the method chooses by some.
    pub validation: Vec<Item>,
    /// Test pictures, where it chooses by these.
    pub test: Vec<Item>,
}

/// Training pictures of several lessons as one list: labels go on from one dataset's classes to the next's.
struct Together<'a> {
    /// Each with the place of its first picture and its first label.
    parts: Vec<(feed::Training<'a>, &'a [Item], usize, u32)>,
}

impl<'a> Together<'a> {
    fn new(
        stage: &'a Stage,
        items: impl Fn(&'a Lesson) -> &'a [Item],
        (views, needs): (Views, &Needs),
        seed: u64,
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        let (mut first, mut label, mut parts) = (0, 0, Vec::new());
        for lesson in &stage.lessons {
            let items = items(lesson);
            let source = lesson.feed.training(items, (views, needs), seed, stop);
            parts.push((source, items, first, label));
            first += items.len();
            label += lesson.feed.dataset.split.names_of(lesson.set)?.len() as u32;
        }
        Ok(Self { parts })
    }

    fn len(&self) -> usize {
        self.parts.iter().map(|(_, items, ..)| items.len()).sum()
    }

    /// Whether views come again, so that their features are kept.
    fn keeps_features(&self) -> bool {
        self.parts.iter().all(|(s, ..)| s.come_again())
    }

    /// The part of a picture.
    fn part(&self, index: usize) -> usize {
        self.parts
            .partition_point(|(_, _, first, _)| *first <= index)
            - 1
    }

    /// Labels of the pictures at `indices`.
    fn labels(&self, indices: &[usize]) -> Vec<u32> {
        let label = |&i: &usize| {
            let (_, items, first, label) = &self.parts[self.part(i)];
            items[i - first].label + label
        };
        indices.iter().map(label).collect()
    }

    /// Which dataset each picture is of, where there are several.
    fn tasks(&self, indices: &[usize]) -> Result<Option<Tensor>> {
        if self.parts.len() == 1 {
            return Ok(None);
        }
        let tasks: Vec<u32> = indices.iter().map(|i| self.part(*i) as u32).collect();
        Ok(Some(Tensor::new(tasks, &Device::Cpu)?))
    }

    /// What `of` gives for the pictures at `indices`, in their order, each part asked once.
    fn gather(
        &self,
        indices: &[usize],
        of: impl Fn(&feed::Training<'a>, &[usize]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if let [(only, ..)] = &self.parts[..] {
            return of(only, indices);
        }
        let (mut rows, mut pieces) = (vec![0u32; indices.len()], Vec::new());
        let mut done = 0;
        for (number, (source, _, first, _)) in self.parts.iter().enumerate() {
            let places: Vec<usize> = (0..indices.len())
                .filter(|place| self.part(indices[*place]) == number)
                .collect();
            if places.is_empty() {
                continue;
            }
            let own: Vec<usize> = places.iter().map(|p| indices[*p] - first).collect();
            pieces.push(of(source, &own)?);
            for place in places {
                rows[place] = done;
                done += 1;
            }
        }
        let rows = Tensor::new(rows, &Device::Cpu)?;
        Ok(Tensor::cat(&pieces, 0)?.index_select(&rows, 0)?)
    }

    /// Makes the views that a step on the pictures at `indices` will ask for.
    fn prepare(&self, needs: &Needs, indices: &[usize], epoch: usize) {
        for (number, (source, _, first, _)) in self.parts.iter().enumerate() {
            let own = indices.iter().filter(|i| self.part(**i) == number);
            let own: Vec<usize> = own.map(|i| i - first).collect();
            source.prepare(needs, &own, epoch);
        }
    }

    fn images(&self, indices: &[usize], epoch: usize, sees: Sees) -> Result<Images> {
        Ok(match sees {
            Sees::Pixels => Images::Pixels(self.gather(indices, |s, i| s.pixels(i, epoch))?),
            _ => Images::Features(self.gather(indices, |s, i| s.features(i, epoch))?),
        })
    }
}

/// The few shots as a whole, and what a method chooses by.
///
/// # Errors
/// [`Interrupted`]; a list without pictures; a picture that is missing or broken.
pub fn shots(task: &Task, stage: &Stage, needs: &Needs, support: Support) -> Result<Shots> {
    type List = fn(&Lesson) -> &[Item];
    let whole = |items: List, what: &str, views: Views, passes: usize| -> Result<Labelled> {
        if let Some(lesson) = stage.lessons.iter().find(|l| items(l).is_empty()) {
            bail!(
                "dataset {}: has no {what} pictures of these classes, which {} needs",
                lesson.feed.dataset.id,
                task.method.name
            );
        }
        let source = Together::new(stage, items, (views, needs), task.seed, task.stop)?;
        let all: Vec<usize> = (0..source.len()).collect();
        let passes = (0..passes).map(|pass| {
            if task.stop.load(Ordering::Relaxed) {
                return Err(Interrupted.into());
            }
            source.images(&all, pass, needs.sees)
        });
        Ok(Labelled {
            passes: passes.collect::<Result<_>>()?,
            labels: source.labels(&all),
        })
    };
    // Passes are views that no step sees again, kept so that trials of one seed share them.
    let (views, passes) = match support {
        Support::Plain => (Views::None, 1),
        Support::Passes(n) => (Views::Cached(n), n),
    };
    let chosen_by = |wanted: bool, items: List, what| {
        wanted
            .then(|| whole(items, what, Views::None, 1))
            .transpose()
    };
    Ok(Shots {
        train: whole(|l| &l.learned.train, "training", views, passes)?,
        validation: chosen_by(
            needs.validation != Validation::None,
            |l| &l.learned.validation,
            "validation",
        )?,
        test: chosen_by(needs.peeks, |l| &l.learned.test, "test")?,
        seed: task.seed,
    })
}

/// A step's batch.
fn batch(
    task: &Task,
    source: &Together,
    needs: &Needs,
    chunk: &[usize],
    epoch: usize,
    seed: u64,
) -> Result<Batch> {
    if task.stop.load(Ordering::Relaxed) {
        return Err(Interrupted.into());
    }
    let labels = source.labels(chunk);
    Ok(Batch {
        second: needs
            .second_view
            .map(|view| source.gather(chunk, |s, i| s.second(view, i, epoch)))
            .transpose()?
            .map(Images::Pixels),
        frozen: (needs.frozen_features && source.keeps_features())
            .then(|| source.gather(chunk, |s, i| s.features(i, epoch)))
            .transpose()?,
        tasks: source.tasks(chunk)?,
        seed,
        ..Batch::new(
            source.images(chunk, epoch, needs.sees)?,
            Tensor::new(labels, &Device::Cpu)?,
        )
    })
}

/// Trains a method on a stage's pictures, on from where a checkpoint left it; a loss that is not finite gives the outcome
/// to record.
///
/// Whatever a step sees follows from the seed, the stage, the epoch and the step alone.
///
/// # Errors
/// [`Interrupted`], with a checkpoint left; no pictures; a picture that is missing or broken; a parameter without a
/// gradient.
pub fn train(
    task: &Task,
    number: usize,
    training: &Training,
    needs: &Needs,
    method: &mut dyn Method,
    out: &mut Outcomes,
    from: Option<Learning>,
) -> Result<Option<Outcome>> {
    let mut clock = Instant::now();
    let stage = &task.stages[number];
    let source = Together::new(
        stage,
        |l| &l.learned.train,
        (task.views, needs),
        task.seed,
        task.stop,
    )?;
    let n = source.len();
    let length = training.length(n);
    if length.per_epoch == 0 {
        bail!(
            "dataset {}: no training pictures were picked",
            stage.lessons[0].feed.dataset.id
        );
    }
    // Every stage draws its own numbers; the first draws those of a trial without stages.
    let stream = STAGE * number as u64;
    let mut optimizer = training.optimizer();
    let mut at = from.unwrap_or_default();
    optimizer.restore(&std::mem::take(&mut at.optimizer))?;
    let failed = |at: &Learning, value: f64| Outcome::Failed {
        reason: format!(
            "the loss became {value} at step {}; a lower lr may help",
            at.done
        ),
        step: Some(at.done),
        last_loss: at.last,
    };
    let mut spent = |out: &mut Outcomes| {
        out.cost.train_seconds += clock.elapsed().as_secs_f64();
        clock = Instant::now();
    };
    while at.epoch < length.epochs {
        let epoch = at.epoch;
        // The last epoch ends where the steps do.
        let before = at.done as usize - at.step;
        let steps = length.per_epoch.min(length.steps - before);
        let order = Stream::named(task.seed, "batches", stream + epoch as u64).permutation(n);
        let chunks = order.chunks(training.batch).take(steps).skip(at.step);
        let mut chunks = chunks.peekable();
        while let Some(chunk) = chunks.next() {
            let seed = Stream::named(task.seed, "steps", stream + at.done).next_u64();
            let batch = batch(task, &source, needs, chunk, epoch, seed);
            let is_stopped = batch.as_ref().is_err_and(|e| e.is::<Interrupted>());
            if let Some(keeper) = task.keeper.filter(|k| is_stopped || k.is_due()) {
                spent(out);
                keeper.write(&Checkpoint {
                    stage: number,
                    learning: Some(Learning {
                        optimizer: optimizer.state()?.into_iter().collect(),
                        ..at.clone()
                    }),
                    learned: methods::kept(method)?.into_iter().collect(),
                    ..out.checkpoint(number, Answers::default())
                })?;
            }
            let rate = Rate {
                lr: training.lr_at(at.done as usize, &length),
                by_parameter: !training.is_warm_up(at.done as usize, &length),
            };
            if training.starts_anew(at.done as usize, &length) {
                optimizer = training.optimizer();
            }
            let (batch, next) = (batch?, chunks.peek());
            // The next step's pictures are decoded and cropped beside this one, which leaves cores idle between its
            // products, or all of them where it runs on a card.
            let step = rayon::in_place_scope(|scope| {
                if let Some(next) = next {
                    scope.spawn(|_| source.prepare(needs, next, epoch));
                }
                methods::step(method, &mut optimizer, &batch, rate)
            })?;
            let value = step.value;
            if step.gradients.is_none() {
                spent(out);
                return Ok(Some(failed(&at, value)));
            }
            at.sum += value;
            at.last = Some(value);
            at.step += 1;
            at.done += 1;
            method.stepped(at.done as usize, length.steps)?;
            task.observer.stepped(&Step {
                done: at.done as usize,
                all: length.steps,
                loss: value,
                learning_rate: Some(rate.lr),
            });
        }
        let (mean, lr) = (
            at.sum / steps as f64,
            training.lr_at(epoch * length.per_epoch, &length),
        );
        out.losses.push(mean);
        out.learning_rates.push(lr);
        task.observer.epoch_ended(&Epoch {
            done: epoch + 1,
            loss: mean,
            learning_rate: lr,
        });
        method.end_epoch(epoch, length.epochs)?;
        (at.epoch, at.step, at.sum) = (epoch + 1, 0, 0.0);
    }
    method.finish()?;
    out.cost.steps += at.done;
    spent(out);
    let finite = |t: &Tensor| -> Result<bool> {
        let values = t.flatten_all()?.to_vec1::<f32>()?;
        Ok(values.iter().all(|v| v.is_finite()))
    };
    for (_, var) in method.parameters() {
        if !finite(&var.as_detached_tensor())? {
            return Ok(Some(failed(&at, f64::NAN)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
