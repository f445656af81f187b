//! A test of a trial: which pictures, in which order, what is answered to them, and what comes of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::D;
use datasets::{Item, Stream};
use methods::{Classes, Images, Needs, Predict, Sees};

use crate::record::{ClassTally, Test};
use crate::run::feed::Series;
use crate::run::trial::{Interrupted, Target};
use crate::stats::{ECE_BINS, expected_calibration_error, reliability};
use crate::store::Prediction;

/// Pictures a predictor gets at once.
const TESTED_AT_ONCE: usize = 64;

/// The pictures of a target, as a method is asked about them.
pub struct Exam<'a> {
    needs: &'a Needs,
    target: &'a Target,
    classes: &'a Classes,
    index: u32,
    seed: u64,
    items: Vec<Item>,
}

/// Answers so far, in the order of the pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Label with the highest logit, of each.
    pub predicted: Vec<u32>,
    /// Softmax probability of it.
    pub confidence: Vec<f32>,
    /// Wall seconds they took.
    pub seconds: f64,
}

impl<'a> Exam<'a> {
    /// Of a method that is bound to `classes`, those of `target`; the `index`-th test of its trial. `seed` draws views
    /// where a method sees views, and the order of pictures where it remembers them.
    ///
    /// # Errors
    /// A target without pictures; a dataset too small to be halved.
    pub fn new(
        needs: &'a Needs,
        target: &'a Target,
        classes: &'a Classes,
        index: u32,
        seed: u64,
    ) -> Result<Self> {
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
                Stream::named(seed, "test-stream", u64::from(index)).permutation(items.len());
            items = order.into_iter().map(|i| items[i].clone()).collect();
        }
        Ok(Self {
            needs,
            target,
            classes,
            index,
            seed,
            items,
        })
    }

    fn at_once(&self) -> usize {
        if self.needs.one_at_a_time() {
            1
        } else {
            TESTED_AT_ONCE
        }
    }

    /// Whether every picture is answered.
    ///
    /// # Errors
    /// Answers that are no part of this test: too many, or not as many as are asked at once.
    pub fn is_over(&self, answers: &Answers) -> Result<bool> {
        let count = answers.predicted.len();
        let is_over = count == self.items.len();
        let is_whole =
            is_over || (count < self.items.len() && count.is_multiple_of(self.at_once()));
        if !is_whole || answers.confidence.len() != count {
            bail!("test {}: {count} answers do not fit", self.index);
        }
        Ok(is_over)
    }

    fn images(&self, chunk: &[Item], number: usize, stop: &AtomicBool) -> Result<Images> {
        if stop.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        let feed = &self.target.feed;
        Ok(match self.needs.sees {
            Sees::Features => Images::Features(feed.test_features(chunk, stop)?),
            Sees::Pixels => Images::Pixels(feed.test_pixels(chunk)?),
            Sees::Views { .. } => {
                let series = Series::of(self.needs, feed.dataset.augmix, self.seed);
                let series = series.expect("there is one where views are seen");
                Images::Features(feed.view_features(&chunk[0], &series, number)?)
            }
        })
    }

    /// Asks `predictor` about the pictures behind `answers`. Before each picture that it gets, or each batch of them,
    /// `paused` hears what there is, and whether the test now stops there.
    ///
    /// # Errors
    /// [`Interrupted`]; a picture that is missing or broken; logits that are not finite.
    pub fn sit(
        &self,
        predictor: &dyn Predict,
        stop: &AtomicBool,
        mut answers: Answers,
        mut paused: impl FnMut(&Answers, bool) -> Result<()>,
    ) -> Result<(Test, Vec<Prediction>)> {
        let (at_once, before) = (self.at_once(), answers.seconds);
        let started = Instant::now();
        let chunks = self.items.chunks(at_once).enumerate();
        for (number, chunk) in chunks.skip(answers.predicted.len() / at_once) {
            paused(&answers, false)?;
            let images = match self.images(chunk, number, stop) {
                Ok(images) => images,
                Err(e) => {
                    if e.is::<Interrupted>() {
                        paused(&answers, true)?;
                    }
                    return Err(e);
                }
            };
            let logits = predictor
                .logits(&images)?
                .to_dtype(candle_core::DType::F32)?;
            let p = methods::parts::losses::softmax(&logits)?;
            let best: Vec<u32> = logits.argmax(D::Minus1)?.to_vec1()?;
            let confidence: Vec<f32> = p.max(D::Minus1)?.to_vec1()?;
            for (item, confidence) in chunk.iter().zip(&confidence) {
                if !confidence.is_finite() {
                    bail!("{}: its logits are not finite", item.path.display());
                }
            }
            answers.predicted.extend(best);
            answers.confidence.extend(confidence);
            answers.seconds = before + started.elapsed().as_secs_f64();
        }
        Ok(self.marked(&answers))
    }

    /// What is recorded of a test that is over.
    pub fn marked(&self, answers: &Answers) -> (Test, Vec<Prediction>) {
        let Self { target, items, .. } = self;
        let given = answers.predicted.iter().zip(&answers.confidence);
        let predictions: Vec<Prediction> = items
            .iter()
            .zip(given)
            .map(|(item, (predicted, confidence))| Prediction {
                test_index: self.index,
                dataset: target.feed.dataset.id.clone(),
                class_set: target.set,
                image: item.path.to_string_lossy().into_owned(),
                label: item.label,
                predicted: *predicted,
                confidence: *confidence,
            })
            .collect();
        let mut tallies: Vec<ClassTally> = self
            .classes
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
            recall: None,
            ece: {
                let sure = predictions
                    .iter()
                    .map(|p| (f64::from(p.confidence), p.label == p.predicted));
                expected_calibration_error(&reliability(sure, ECE_BINS))
            },
            seconds: answers.seconds,
        };
        (test, predictions)
    }
}
