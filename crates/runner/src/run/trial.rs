//! One trial: a method, a dataset, shots and a seed, trained and tested under a protocol.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::Tensor;
use datasets::ClassSet;
use methods::{Backbones, Classes, Config, Descriptions, Init, Method, Needs};

use crate::device::ran::Ran;
use crate::reason::reason;
use crate::record::{Cost, Found, Outcome, Test, TestSet};
use crate::run::checkpoint::{Checkpoint, Keeper, Learning, Tensors};
use crate::run::feed::Feed;
use crate::run::lesson::{self, Lesson};
use crate::run::rounds;
use crate::run::suite::{Resolved, Views};
use crate::run::testing::{Answers, Exam};
use crate::store::Prediction;

/// A class set to test on.
pub struct Target {
    /// Its dataset.
    pub feed: Arc<Feed>,
    /// Which of its test pictures, told apart among which of its classes.
    pub set: TestSet,
    /// What describes them, for methods that need it.
    pub descriptions: Option<Arc<Descriptions>>,
}

/// One stage of a trial.
pub struct Stage {
    /// What is learned, several datasets at once where there are several; of one dataset only the classes that the method
    /// is built for, where nothing is learned.
    pub lessons: Vec<Lesson>,
    /// Where it is tested then.
    pub targets: Vec<Target>,
}

/// What a trial is made of.
pub struct Task<'a> {
    /// Backbone, and a teacher where the method has one.
    pub on: &'a Backbones,
    /// Method and settings.
    pub method: &'a Resolved,
    /// One after the other, with what earlier ones learned.
    pub stages: &'a [Stage],
    /// Training views.
    pub views: Views,
    /// Of every random stream.
    pub seed: u64,
    /// Where its towers run, as records write it.
    pub ran: &'a Ran,
    /// Set when the user wants to stop.
    pub stop: &'a AtomicBool,
    /// Hears of progress.
    pub observer: &'a dyn Observer,
    /// Keeps its checkpoints; without one a trial that is stopped is lost.
    pub keeper: Option<&'a Keeper>,
}

/// A step that is done, or a round of a search.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Steps done, this one included.
    pub done: usize,
    /// Steps there will be.
    pub all: usize,
    /// Its loss; of a round of a search the smallest so far.
    pub loss: f64,
    /// Its learning rate, where there is one.
    pub learning_rate: Option<f64>,
}

/// An epoch that is done.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    /// Epochs done, this one included.
    pub done: usize,
    /// Mean loss of its steps.
    pub loss: f64,
    /// Its learning rate.
    pub learning_rate: f64,
}

/// What was done before a trial went on from a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Steps, over all stages.
    pub steps: u64,
    /// Epochs, over all stages.
    pub epochs: usize,
    /// Whole tests.
    pub tests: usize,
}

/// Hears of a trial while it runs, and cannot change it.
pub trait Observer: Sync {
    /// Before anything else, where it goes on from a checkpoint.
    fn resumed(&self, _before: &Resumed) {}

    /// After each step.
    fn stepped(&self, _step: &Step) {}

    /// After each epoch.
    fn epoch_ended(&self, _epoch: &Epoch) {}

    /// Inside a test: how many of its pictures are answered.
    fn answered(&self, _done: usize) {}

    /// After each test.
    fn tested(&self, _test: &Test) {}
}

/// What a trial gives.
pub struct Outcomes {
    /// Finished or failed.
    pub outcome: Outcome,
    /// One a target.
    pub tests: Vec<Test>,
    /// One a tested picture.
    pub predictions: Vec<Prediction>,
    /// Mean loss of each epoch; smallest loss so far behind each round of a search.
    pub losses: Vec<f64>,
    /// Learning rate of each epoch.
    pub learning_rates: Vec<f64>,
    /// Time and size.
    pub cost: Cost,
    /// Trained tensors by published name, and what else the method must keep to score again; none where it learns nothing.
    pub prompts: Vec<(String, Tensor)>,
    /// Names of the classes trained on, of the last stage.
    pub classes: Vec<String>,
    /// What each stage taught, of each dataset.
    pub taught: Vec<Vec<Classes>>,
    /// What the method tells that it found.
    pub found: Found,
    /// Where its towers ran, one after the other.
    pub ran: Vec<Ran>,
}

/// The run was asked to stop before the trial was over.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// The classes of a set, as methods take them.
///
/// # Errors
/// A dataset too small to be halved.
pub fn classes_of(
    feed: &Feed,
    set: ClassSet,
    descriptions: Option<&Arc<Descriptions>>,
) -> Result<Classes> {
    let split = &feed.dataset.split;
    let names = split.names_of(set)?;
    let classes = Classes::new(&names, &feed.dataset.id, &feed.dataset.template);
    let classes = classes.described(descriptions.cloned());
    Ok(match set {
        ClassSet::All => classes,
        _ => classes.among(&split.names_of(ClassSet::All)?),
    })
}

/// Runs a trial, from where its checkpoint left it if there is one.
///
/// # Errors
/// [`Interrupted`], with a checkpoint left where [`Task::keeper`] keeps any; anything else that is wrong with data,
/// backbone or settings. A loss that is not finite is no error but an [`Outcome::Failed`].
pub fn run(task: &Task) -> Result<Outcomes> {
    let found = task.keeper.and_then(|k| Some((k, k.read()?)));
    let again = found.and_then(|(keeper, checkpoint)| {
        let again = Running::again(task, checkpoint);
        again.map_err(|e| keeper.pass_over(reason(&e))).ok()
    });
    let mut running = again.unwrap_or_else(|| Running::new(task));
    for number in running.stage..task.stages.len() {
        running.stage = number;
        if let Some(outcome) = running.learn()? {
            running.out.outcome = outcome;
            return Ok(running.out);
        }
        running.test()?;
    }
    running.out.cost.peak_memory = crate::machine::peak_memory();
    Ok(running.out)
}

/// How far the stage is that is to run next.
enum Place {
    /// Its classes are not bound yet.
    Before,
    /// Bound and put back, inside its training.
    Learning(Learning),
    /// Bound; all that it learns is learned.
    Learned,
}

/// A trial on its way.
struct Running<'a> {
    task: &'a Task<'a>,
    needs: Needs,
    method: Option<Box<dyn Method>>,
    out: Outcomes,
    stage: usize,
    place: Place,
    /// Answers to a test that was stopped, and what its predictor remembered.
    begun: Option<(Answers, Tensors)>,
}

impl<'a> Running<'a> {
    fn new(task: &'a Task<'a>) -> Self {
        Self {
            task,
            needs: task.method.config.needs(),
            method: None,
            out: Outcomes {
                outcome: Outcome::Finished,
                tests: Vec::new(),
                predictions: Vec::new(),
                losses: Vec::new(),
                learning_rates: Vec::new(),
                cost: Cost::default(),
                prompts: Vec::new(),
                classes: Vec::new(),
                taught: Vec::new(),
                found: Found::new(),
                ran: vec![task.ran.clone()],
            },
            stage: 0,
            place: Place::Before,
            begun: None,
        }
    }

    /// As it was when `checkpoint` was written: built for the classes of its first stage, bound to those of the others in
    /// turn, as methods remember where they come from, and given what it had learned.
    fn again(task: &'a Task<'a>, checkpoint: Checkpoint) -> Result<Self> {
        let mut running = Self::new(task);
        if checkpoint.stage >= task.stages.len() {
            bail!(
                "it is in stage {} of {}",
                checkpoint.stage,
                task.stages.len()
            );
        }
        for number in 0..=checkpoint.stage {
            running.stage = number;
            running.bind()?;
        }
        running.place = match checkpoint.learning {
            None => Place::Learned,
            Some(learning) => {
                match (&task.method.training, task.method.config.search()) {
                    (Some(training), _) => training.optimizer().restore(&learning.optimizer)?,
                    (None, Some(_)) => {}
                    (None, None) => bail!("it is inside a training, and there is none"),
                }
                Place::Learning(learning)
            }
        };
        if task.method.learns() {
            let method = running.method.as_mut().expect("bound above");
            methods::put_back(method.as_mut(), checkpoint.learned)?;
            running.out.prompts = methods::kept(method.as_ref())?;
            running.out.found = found(method.as_ref());
        }
        let out = &mut running.out;
        out.losses = checkpoint.losses;
        out.learning_rates = checkpoint.learning_rates;
        out.cost = checkpoint.cost;
        out.ran = checkpoint.ran;
        if out.ran.last() != Some(task.ran) {
            out.ran.push(task.ran.clone());
        }
        let stages = task.stages[..=checkpoint.stage].iter().enumerate();
        let mut targets = stages.flat_map(|(n, s)| s.targets.iter().map(move |t| (n, t)));
        for (index, answers) in (0..).zip(checkpoint.tests) {
            let (Some((number, target)), None) = (targets.next(), &running.begun) else {
                bail!("it has more tests than there are");
            };
            let classes = classes_asked(&task.stages[number], target)?;
            let exam = Exam::new(&running.needs, target, &classes, index, task.seed)?;
            if exam.is_over(&answers)? {
                out.sat(exam.marked(&answers), number);
            } else {
                running.begun = Some((answers, checkpoint.predictor.clone()));
            }
        }
        let inside = match &running.place {
            Place::Learning(learning) => learning.done,
            _ => 0,
        };
        task.observer.resumed(&Resumed {
            steps: out.cost.steps + inside,
            epochs: out.losses.len(),
            tests: out.tests.len(),
        });
        Ok(running)
    }

    /// Builds the method for the classes of the running stage, or binds it to them.
    fn bind(&mut self) -> Result<()> {
        let taught = taught(&self.task.stages[self.stage])?;
        let classes = joined(&taught);
        match &mut self.method {
            Some(method) => method.bind(&classes)?,
            None => {
                let (config, mut init) = (&self.task.method.config, Init::seeded(self.task.seed));
                self.method = Some(built(config.as_ref(), self.task.on, &taught, &mut init)?);
            }
        }
        self.out.classes = classes.names;
        self.out.taught.push(taught);
        Ok(())
    }

    /// Learns what the running stage has to learn; a loss that is not finite gives the outcome to record.
    fn learn(&mut self) -> Result<Option<Outcome>> {
        let task = self.task;
        let from = match std::mem::replace(&mut self.place, Place::Before) {
            Place::Before => {
                self.bind()?;
                if let Some(method) = self.method.as_mut().filter(|_| task.method.learns()) {
                    method.begin()?;
                }
                None
            }
            Place::Learning(learning) => Some(learning),
            Place::Learned => return Ok(None),
        };
        if !task.method.learns() {
            return Ok(None);
        }
        let (stage, number) = (&task.stages[self.stage], self.stage);
        let method = self.method.as_mut().expect("bound above");
        let search = task.method.config.search();
        let mut given = None;
        // A search sees the shots in every round, so one that goes on is given them again.
        if let Some(support) = self.needs.support
            && (from.is_none() || search.is_some())
        {
            let started = Instant::now();
            let shots = lesson::shots(task, stage, &self.needs, support);
            // What earlier stages came to is not lost with this one's beginning; one that goes on has its own checkpoint.
            if let (Err(e), Some(before), Some(keeper)) =
                (&shots, number.checked_sub(1), task.keeper)
                && from.is_none()
                && e.is::<Interrupted>()
            {
                keeper.write(&self.out.checkpoint(before, Answers::default()))?;
            }
            let shots = shots?;
            if from.is_none() {
                method.fit(&shots)?;
            }
            given = Some(shots);
            self.out.cost.train_seconds += started.elapsed().as_secs_f64();
        }
        let (out, method) = (&mut self.out, method.as_mut());
        let failed = match (&task.method.training, search, given) {
            (Some(training), ..) => {
                lesson::train(task, number, training, &self.needs, method, out, from)?
            }
            (None, Some(search), Some(given)) => {
                rounds::search(task, number, search, &given, method, out, from)?;
                None
            }
            _ => None,
        };
        out.cost.parameters = method
            .parameters()
            .iter()
            .map(|(_, v)| v.elem_count() as u64)
            .sum();
        if failed.is_none() {
            out.prompts = methods::kept(method)?;
            out.found = found(method);
        }
        Ok(failed)
    }

    /// Tests what is learned on the targets of the running stage that are not tested yet.
    fn test(&mut self) -> Result<()> {
        let (task, number) = (self.task, self.stage);
        let before: usize = task.stages[..number].iter().map(|s| s.targets.len()).sum();
        let stage = &task.stages[number];
        let done = self.out.tests.len() - before;
        for (index, target) in (before as u32..).zip(&stage.targets).skip(done) {
            let mut clock = Instant::now();
            let method = self.method.as_mut().expect("bound before it learned");
            let classes = classes_asked(stage, target)?;
            method.bind(&classes)?;
            let mut predictor = method.predictor()?;
            let mut answers = Answers::default();
            if let (Some((given, seen)), Some(keeper)) = (self.begun.take(), task.keeper) {
                match predictor.restore(&seen) {
                    Ok(()) => answers = given,
                    Err(e) => {
                        keeper.pass_over(e);
                        predictor = method.predictor()?;
                    }
                }
            }
            let exam = Exam::new(&self.needs, target, &classes, index, task.seed)?;
            let out = &mut self.out;
            let sat = exam.sit(
                predictor.as_ref(),
                task.stop,
                answers,
                |answers, leaving| {
                    if !leaving {
                        task.observer.answered(answers.predicted.len());
                    }
                    let keeper = task.keeper.filter(|k| leaving || k.is_due());
                    let Some(keeper) = keeper else {
                        return Ok(());
                    };
                    out.cost.test_seconds += clock.elapsed().as_secs_f64();
                    clock = Instant::now();
                    keeper.write(&Checkpoint {
                        predictor: predictor.state()?.into_iter().collect(),
                        ..out.checkpoint(number, answers.clone())
                    })
                },
            )?;
            out.sat(sat, number);
            out.cost.test_seconds += clock.elapsed().as_secs_f64();
            task.observer
                .tested(out.tests.last().expect("it was just added"));
        }
        Ok(())
    }
}

impl Outcomes {
    /// Adds a test of stage `number`.
    fn sat(&mut self, (mut test, predictions): (Test, Vec<Prediction>), number: usize) {
        test.stage = number;
        self.tests.push(test);
        self.predictions.extend(predictions);
    }

    /// Behind the training of stage `number`, with these answers to the running test.
    pub(super) fn checkpoint(&self, number: usize, answers: Answers) -> Checkpoint {
        let mut tests: Vec<Answers> = Vec::new();
        let mut rest = &self.predictions[..];
        for test in &self.tests {
            let (own, others) = rest.split_at(test.total as usize);
            tests.push(Answers {
                predicted: own.iter().map(|p| p.predicted).collect(),
                confidence: own.iter().map(|p| p.confidence).collect(),
                seconds: test.seconds,
            });
            rest = others;
        }
        if !answers.predicted.is_empty() {
            tests.push(answers);
        }
        Checkpoint {
            stage: number,
            learning: None,
            learned: self.prompts.iter().cloned().collect(),
            losses: self.losses.clone(),
            learning_rates: self.learning_rates.clone(),
            cost: self.cost.clone(),
            ran: self.ran.clone(),
            tests,
            predictor: Tensors::new(),
        }
    }
}

/// What a method tells that it found.
fn found(method: &dyn Method) -> Found {
    let told = method.found().into_iter();
    told.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The classes that a stage teaches, of each dataset.
fn taught(stage: &Stage) -> Result<Vec<Classes>> {
    let lessons = stage.lessons.iter();
    lessons
        .map(|l| classes_of(&l.feed, l.set, l.descriptions.as_ref()))
        .collect()
}

/// The classes of one dataset, or of several as one list.
pub(super) fn joined(taught: &[Classes]) -> Classes {
    match taught {
        [one] => one.clone(),
        several => Classes::joined(several),
    }
}

/// A method built for what its first stage teaches.
///
/// # Errors
/// Those of [`Config::build`].
pub(super) fn built(
    config: &dyn Config,
    on: &Backbones,
    taught: &[Classes],
    init: &mut Init,
) -> candle_core::Result<Box<dyn Method>> {
    match taught {
        [one] => config.build(on, one, init),
        several => config.build_tasks(on, several, init),
    }
}

/// The classes that pictures of `target` are told apart among.
fn classes_asked(stage: &Stage, target: &Target) -> Result<Classes> {
    match &stage.lessons[..] {
        // The very ones that were learned.
        [own] if Arc::ptr_eq(&target.feed, &own.feed) && target.set.among == own.set => {
            classes_of(&own.feed, own.set, own.descriptions.as_ref())
        }
        _ => classes_of(&target.feed, target.set.among, target.descriptions.as_ref()),
    }
}
