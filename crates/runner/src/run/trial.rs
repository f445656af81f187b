//! One trial: a method, a dataset, shots and a seed, trained and tested under a protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::{D, Device, Tensor};
use datasets::{ClassSet, Item, Stream};
use methods::{
    Backbones, Batch, Classes, Descriptions, Images, Init, Labelled, Method, Needs, Predict, Rate,
    Sees, Shots, Support, Training,
};

use crate::record::{ClassTally, Cost, Outcome, Test, TestSet};
use crate::run::feed::Feed;
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

/// What a trial is made of.
pub struct Task<'a> {
    /// Backbone, and a teacher where the method has one.
    pub on: &'a Backbones,
    /// Method and settings.
    pub method: &'a Resolved,
    /// Dataset trained on (or only tested on).
    pub feed: &'a Feed,
    /// Classes trained on.
    pub set: ClassSet,
    /// What describes its classes, for methods that need it.
    pub descriptions: Option<&'a Arc<Descriptions>>,
    /// What it learns from.
    pub learned: &'a Learned,
    /// Where it is tested.
    pub targets: &'a [Target],
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

/// The loss stopped being a number.
#[derive(Debug)]
struct Diverged {
    step: u64,
    last: Option<f64>,
    value: f64,
}

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
    let classes = classes_of(task.feed, task.set, task.descriptions)?;
    let mut method = task
        .method
        .config
        .build(task.on, &classes, &mut Init::seeded(task.seed))?;
    let mut out = Outcomes {
        outcome: Outcome::Finished,
        tests: Vec::new(),
        predictions: Vec::new(),
        losses: Vec::new(),
        learning_rates: Vec::new(),
        cost: Cost::default(),
        prompts: Vec::new(),
        classes: classes.names.clone(),
    };
    let needs = task.method.config.needs();
    if task.method.learns() {
        let started = Instant::now();
        if let Some(support) = needs.support {
            method.fit(&shots(task, &needs, support)?)?;
        }
        let failed = match &task.method.training {
            None => None,
            Some(training) => train(task, training, &needs, method.as_mut(), &mut out)?,
        };
        out.cost.parameters = method
            .parameters()
            .iter()
            .map(|(_, v)| v.elem_count() as u64)
            .sum();
        out.cost.train_seconds = started.elapsed().as_secs_f64();
        if let Some(d) = failed {
            let reason = format!(
                "the loss became {} at step {}; a lower lr may help",
                d.value, d.step
            );
            out.outcome = Outcome::Failed {
                reason,
                step: Some(d.step),
                last_loss: d.last,
            };
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
    for (index, target) in task.targets.iter().enumerate() {
        let bound = if std::ptr::eq(&*target.feed, task.feed) && target.set.among == task.set {
            classes.clone()
        } else {
            classes_of(&target.feed, target.set.among, target.descriptions.as_ref())?
        };
        method.bind(&bound)?;
        let (test, predictions) = test(
            method.predictor()?.as_ref(),
            &needs,
            target,
            &bound,
            index as u32,
            task.seed,
            task.stop,
        )?;
        task.observer.tested(&test);
        out.tests.push(test);
        out.predictions.extend(predictions);
    }
    out.cost.test_seconds = started.elapsed().as_secs_f64();
    out.cost.peak_memory = crate::machine::peak_memory();
    Ok(out)
}

/// The few shots as a whole, and what a method chooses by.
fn shots(task: &Task, needs: &Needs, support: Support) -> Result<Shots> {
    let whole = |items: &[Item], what: &str, views: Views, passes: usize| -> Result<Labelled> {
        if items.is_empty() {
            bail!(
                "dataset {}: has no {what} pictures of these classes, which {} needs",
                task.feed.dataset.id,
                task.method.name
            );
        }
        let source = task.feed.training(items, views, needs.crop, task.seed);
        let all: Vec<usize> = (0..items.len()).collect();
        let passes = (0..passes).map(|pass| {
            if task.stop.load(Ordering::Relaxed) {
                return Err(Interrupted.into());
            }
            Ok(match needs.sees {
                Sees::Pixels => Images::Pixels(source.pixels(&all, pass)?),
                _ => Images::Features(source.features(&all, pass)?),
            })
        });
        Ok(Labelled {
            passes: passes.collect::<Result<_>>()?,
            labels: items.iter().map(|i| i.label).collect(),
        })
    };
    // Passes are views that no step sees again, kept so that trials of one seed share them.
    let (views, passes) = match support {
        Support::Plain => (Views::None, 1),
        Support::Passes(n) => (Views::Cached(n), n),
    };
    let learned = task.learned;
    let chosen_by = |wanted: bool, items: &[Item], what| {
        wanted
            .then(|| whole(items, what, Views::None, 1))
            .transpose()
    };
    Ok(Shots {
        train: whole(&learned.train, "training", views, passes)?,
        validation: chosen_by(
            needs.validation != methods::Validation::None,
            &learned.validation,
            "validation",
        )?,
        test: chosen_by(needs.peeks, &learned.test, "test")?,
        seed: task.seed,
    })
}

fn train(
    task: &Task,
    training: &Training,
    needs: &Needs,
    method: &mut dyn Method,
    out: &mut Outcomes,
) -> Result<Option<Diverged>> {
    let items = &task.learned.train;
    let n = items.len();
    let steps = training.steps_per_epoch(n);
    if steps == 0 {
        bail!(
            "dataset {}: no training pictures were picked",
            task.feed.dataset.id
        );
    }
    let source = task.feed.training(items, task.views, needs.crop, task.seed);
    let mut optimizer = training.optimizer();
    let (mut done, mut last) = (0u64, None);
    for epoch in 0..training.epochs {
        let order = Stream::named(task.seed, "batches", epoch as u64).permutation(n);
        let lr = training.lr_at(epoch * steps, steps);
        let mut sum = 0.0;
        for chunk in order.chunks(training.batch).take(steps) {
            if task.stop.load(Ordering::Relaxed) {
                return Err(Interrupted.into());
            }
            let images = match needs.sees {
                Sees::Pixels => Images::Pixels(source.pixels(chunk, epoch)?),
                _ => Images::Features(source.features(chunk, epoch)?),
            };
            let second = needs
                .second_view
                .then(|| source.second(chunk, epoch).map(Images::Pixels))
                .transpose()?;
            let labels: Vec<u32> = chunk.iter().map(|i| items[*i].label).collect();
            let batch = Batch {
                second,
                seed: Stream::named(task.seed, "steps", done).next_u64(),
                ..Batch::new(images, Tensor::new(labels, &Device::Cpu)?)
            };
            let rate = Rate {
                lr: training.lr_at(done as usize, steps),
                by_parameter: !training.is_warm_up(epoch),
            };
            let step = methods::step(method, &mut optimizer, &batch, rate)?;
            let value = step.value;
            if step.gradients.is_none() {
                return Ok(Some(Diverged {
                    step: done,
                    last,
                    value,
                }));
            }
            sum += value;
            last = Some(value);
            done += 1;
            task.observer.stepped(&Step {
                done: done as usize,
                all: steps * training.epochs,
                loss: value,
                learning_rate: rate.lr,
            });
        }
        let mean = sum / steps as f64;
        out.losses.push(mean);
        out.learning_rates.push(lr);
        task.observer.epoch_ended(&Epoch {
            done: epoch + 1,
            loss: mean,
            learning_rate: lr,
        });
        method.end_epoch(epoch, training.epochs)?;
    }
    method.finish()?;
    out.cost.steps = done;
    let finite = |t: &Tensor| -> Result<bool> {
        Ok(t.flatten_all()?
            .to_vec1::<f32>()?
            .iter()
            .all(|v| v.is_finite()))
    };
    for (_, var) in method.parameters() {
        if !finite(&var.as_detached_tensor())? {
            return Ok(Some(Diverged {
                step: done,
                last,
                value: f64::NAN,
            }));
        }
    }
    Ok(None)
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
