//! One trial: a method, a dataset, shots and a seed, trained and tested under a protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::{D, Tensor};
use datasets::{ClassSet, Stream};
use methods::{Backbones, Classes, Descriptions, Images, Init, Method, Needs, Predict, Sees};

use crate::record::{ClassTally, Cost, Outcome, Test, TestSet};
use crate::run::feed::Feed;
use crate::run::lesson::{self, Lesson};
use crate::run::suite::{Resolved, Views};
use crate::stats::{ECE_BINS, expected_calibration_error, reliability};
use crate::store::Prediction;

/// Pictures a predictor gets at once.
const TESTED_AT_ONCE: usize = 64;

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
    /// Set when the user wants to stop.
    pub stop: &'a AtomicBool,
    /// Hears of progress.
    pub observer: &'a dyn Observer,
}

/// A step that is done.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Steps done, this one included.
    pub done: usize,
    /// Steps there will be.
    pub all: usize,
    /// Its loss.
    pub loss: f64,
    /// Its learning rate.
    pub learning_rate: f64,
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

/// Hears of a trial while it runs, and cannot change it.
pub trait Observer: Sync {
    /// After each step.
    fn stepped(&self, _step: &Step) {}

    /// After each epoch.
    fn epoch_ended(&self, _epoch: &Epoch) {}

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
    /// Mean loss of each epoch.
    pub losses: Vec<f64>,
    /// Learning rate of each epoch.
    pub learning_rates: Vec<f64>,
    /// Time and size.
    pub cost: Cost,
    /// Trained tensors by published name, and what else the method must keep to score again; none where it learns nothing.
    pub prompts: Vec<(String, Tensor)>,
    /// Names of the classes trained on.
    pub classes: Vec<String>,
}

/// The user stopped the run; nothing of the trial is kept.
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

/// Runs a trial.
///
/// # Errors
/// [`Interrupted`]; anything else that is wrong with data, backbone or settings. A loss that is not finite is no error
/// but an [`Outcome::Failed`].
pub fn run(task: &Task) -> Result<Outcomes> {
    let mut out = Outcomes {
        outcome: Outcome::Finished,
        tests: Vec::new(),
        predictions: Vec::new(),
        losses: Vec::new(),
        learning_rates: Vec::new(),
        cost: Cost::default(),
        prompts: Vec::new(),
        classes: Vec::new(),
    };
    let needs = task.method.config.needs();
    let mut built: Option<Box<dyn Method>> = None;
    let mut test_index = 0;
    for (number, stage) in task.stages.iter().enumerate() {
        let taught = stage
            .lessons
            .iter()
            .map(|l| classes_of(&l.feed, l.set, l.descriptions.as_ref()))
            .collect::<Result<Vec<_>>>()?;
        let classes = match &taught[..] {
            [one] => one.clone(),
            several => Classes::joined(several),
        };
        let method = match &mut built {
            Some(method) => {
                method.bind(&classes)?;
                method
            }
            None => {
                let (config, mut init) = (&task.method.config, Init::seeded(task.seed));
                let method = match &taught[..] {
                    [one] => config.build(task.on, one, &mut init)?,
                    several => config.build_tasks(task.on, several, &mut init)?,
                };
                built.insert(method)
            }
        };
        out.classes.clone_from(&classes.names);
        if task.method.learns() {
            let started = Instant::now();
            if let Some(support) = needs.support {
                method.fit(&lesson::shots(task, stage, &needs, support)?)?;
            }
            let failed = match &task.method.training {
                None => None,
                Some(training) => {
                    let method = method.as_mut();
                    lesson::train(task, number, training, &needs, method, &mut out)?
                }
            };
            out.cost.parameters = method
                .parameters()
                .iter()
                .map(|(_, v)| v.elem_count() as u64)
                .sum();
            out.cost.train_seconds += started.elapsed().as_secs_f64();
            if let Some(outcome) = failed {
                out.outcome = outcome;
                return Ok(out);
            }
            out.prompts = method
                .parameters()
                .into_iter()
                .map(|(n, v)| (n, v.as_detached_tensor()))
                .chain(method.state())
                .collect();
        }
        let started = Instant::now();
        for target in &stage.targets {
            let own = &stage.lessons[0];
            let bound = if Arc::ptr_eq(&target.feed, &own.feed)
                && target.set.among == own.set
                && taught.len() == 1
            {
                classes.clone()
            } else {
                classes_of(&target.feed, target.set.among, target.descriptions.as_ref())?
            };
            method.bind(&bound)?;
            let (mut test, predictions) = test(
                method.predictor()?.as_ref(),
                &needs,
                target,
                &bound,
                test_index,
                task.seed,
                task.stop,
            )?;
            test_index += 1;
            test.stage = number;
            task.observer.tested(&test);
            out.tests.push(test);
            out.predictions.extend(predictions);
        }
        out.cost.test_seconds += started.elapsed().as_secs_f64();
    }
    out.cost.peak_memory = crate::machine::peak_memory();
    Ok(out)
}

/// Tests the predictor of a method that is bound to `classes`, those of `target`; `seed` draws views where a method sees
/// views, and the order of pictures where it remembers them.
///
/// # Errors
/// [`Interrupted`]; a picture that is missing or broken; logits that are not finite.
pub fn test(
    predictor: &dyn Predict,
    needs: &Needs,
    target: &Target,
    classes: &Classes,
    test_index: u32,
    seed: u64,
    stop: &AtomicBool,
) -> Result<(Test, Vec<Prediction>)> {
    let started = Instant::now();
    let split = &target.feed.dataset.split;
    let labels = target.set.labels(split.class_names().len());
    let (mut split, _) = split.subset(target.set.among)?;
    split.test.retain(|item| labels.contains(&item.label));
    let mut items = split.test;
    if items.is_empty() {
        bail!(
            "dataset {}: no test pictures of its {} classes",
            target.feed.dataset.id,
            target.set
        );
    }
    if needs.stream {
        // A method that remembers what it has seen sees pictures in an order that the seed draws.
        let order =
            Stream::named(seed, "test-stream", u64::from(test_index)).permutation(items.len());
        items = order.into_iter().map(|i| items[i].clone()).collect();
    }
    let mut predictions: Vec<Prediction> = Vec::with_capacity(items.len());
    let at_once = if needs.one_at_a_time() {
        1
    } else {
        TESTED_AT_ONCE
    };
    for (number, chunk) in items.chunks(at_once).enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        let images = match needs.sees {
            Sees::Features => Images::Features(target.feed.test_features(chunk)?),
            Sees::Pixels => Images::Pixels(target.feed.test_pixels(chunk)?),
            Sees::Views { count, augmix } => {
                // AugMix only where the published code has it: the dataset's row says where not.
                let mix = augmix && target.feed.dataset.augmix;
                Images::Pixels(target.feed.tuning_views(
                    &chunk[0],
                    count,
                    mix,
                    seed,
                    number as u64,
                )?)
            }
        };
        let logits = predictor
            .logits(&images)?
            .to_dtype(candle_core::DType::F32)?;
        let p = methods::parts::losses::softmax(&logits)?;
        let best: Vec<u32> = logits.argmax(D::Minus1)?.to_vec1()?;
        let confidence: Vec<f32> = p.max(D::Minus1)?.to_vec1()?;
        for ((item, predicted), confidence) in chunk.iter().zip(best).zip(confidence) {
            if !confidence.is_finite() {
                bail!("{}: its logits are not finite", item.path.display());
            }
            predictions.push(Prediction {
                test_index,
                dataset: target.feed.dataset.id.clone(),
                class_set: target.set,
                image: item.path.to_string_lossy().into_owned(),
                label: item.label,
                predicted,
                confidence,
            });
        }
    }
    let mut tallies: Vec<ClassTally> = classes
        .names
        .iter()
        .map(|n| ClassTally {
            name: n.clone(),
            correct: 0,
            total: 0,
        })
        .collect();
    for p in &predictions {
        let tally = &mut tallies[p.label as usize];
        tally.total += 1;
        tally.correct += u64::from(p.predicted == p.label);
    }
    let test = Test {
        dataset: target.feed.dataset.id.clone(),
        class_set: target.set,
        stage: 0,
        correct: tallies.iter().map(|t| t.correct).sum(),
        total: tallies.iter().map(|t| t.total).sum(),
        classes: tallies,
        ece: {
            let sure = predictions
                .iter()
                .map(|p| (f64::from(p.confidence), p.label == p.predicted));
            expected_calibration_error(&reliability(sure, ECE_BINS))
        },
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok((test, predictions))
}
