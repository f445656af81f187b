//! Times training steps and evaluation of a method, and holds them against this machine's own matrix products.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use clip::ops::Arithmetic;
use clip::{Clip, ImageTower, TextPlan};
use methods::parts::layout;
use methods::{Batch, Classes, Config, Images, Init, Predict, Sees};
use serde::Serialize;

use crate::device::Place;
use crate::machine::{peak_memory, processor, resident};

pub(crate) mod backbone;
pub mod growth;
mod machine;
mod names;

pub use machine::machine_rate;
pub use names::{class_names, names_of};

/// The words of every context, as in the base-to-novel settings of the papers.
const WORDS: &str = "a photo of a";

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Training steps, then one evaluation batch.
    Train,
    /// Whole test pictures: views in, logits out.
    TestTime,
    /// Evaluation of pictures by a method without training it.
    Evaluate,
    /// The frozen image tower alone.
    Encode,
    /// The same with its products in bfloat16, against the machine's products in float32.
    EncodeBfloat16,
}

/// One thing that can be timed.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name on the command line.
    pub name: &'static str,
    /// Method it is of; empty for the image tower alone.
    method: &'static str,
    kind: Kind,
    /// Pictures a step, as published.
    batch: usize,
    /// Settings that are not the method's own defaults, TOML.
    config: &'static str,
}

impl Case {
    /// Why it cannot be timed there, where it cannot.
    pub fn refusal(&self, place: &Place) -> Option<&'static str> {
        if self.kind != Kind::EncodeBfloat16 {
            return None;
        }
        if place.is_card() {
            return Some(
                "bfloat16 is of the processor; on a GPU time encode with --precision half",
            );
        }
        let can = place
            .arithmetic()
            .is_none_or(Arithmetic::is_supported_in_bfloat16);
        (!can).then_some("this processor has no AVX512-BF16")
    }
}

/// Settings of the published base-to-novel tables, where they are not the method's own defaults.
const CONFIGS: [(&str, &str); 5] = [
    ("coop", "init = 'a photo of a'"),
    ("prograd", "n_ctx = 4"),
    // Words that every vocabulary has; the authors' are chosen by dataset.
    ("atprompt", "attributes = ['photo']"),
    ("softcpt", "task_names = ['bench = photo']"),
    (
        "plotpp",
        "prefixes = ['a photo of a', 'a photo of a', 'a photo of a', 'a photo of a']",
    ),
];

/// Evaluations of a method without training it, and the image tower alone.
const OTHERS: [Case; 4] = [
    evaluation("cocoop-eval", "cocoop", 4, ""),
    evaluation("coop-eval", "coop", 64, "init = 'a photo of a'"),
    encode("encode", Kind::Encode),
    encode("encode-bf16", Kind::EncodeBfloat16),
];

const fn evaluation(
    name: &'static str,
    method: &'static str,
    batch: usize,
    config: &'static str,
) -> Case {
    Case {
        name,
        method,
        kind: Kind::Evaluate,
        batch,
        config,
    }
}

const fn encode(name: &'static str, kind: Kind) -> Case {
    Case {
        name,
        method: "",
        kind,
        batch: 16,
        config: "",
    }
}

/// Everything that can be timed, with the batch sizes of the published base-to-novel settings: every method that trains
/// by steps or adapts to views of a test picture, and [`OTHERS`].
pub fn cases() -> Vec<Case> {
    let methods = methods::METHODS.iter().filter_map(|entry| {
        let own = CONFIGS.iter().find(|(name, _)| *name == entry.name);
        let needs = entry.default_config().needs();
        // What only a suite can give is timed in a run.
        if needs.teacher || needs.descriptions || needs.support.is_some() {
            return None;
        }
        let (kind, batch) = match (&entry.training, needs.sees) {
            (Some(training), _) => (Kind::Train, training.batch),
            (None, Sees::Views { count, .. }) => (Kind::TestTime, count),
            (None, _) => return None,
        };
        Some(Case {
            name: entry.name,
            method: entry.name,
            kind,
            batch,
            config: own.map_or("", |(_, config)| config),
        })
    });
    methods.chain(OTHERS).collect()
}

/// How to time.
#[derive(Clone, Debug)]
pub struct Options {
    /// `drawn`, a released size, or a weight file.
    pub backbone: String,
    /// Classes' names.
    pub names: Vec<String>,
    /// Pictures a step; the published number where not given.
    pub batch: Option<usize>,
    /// Timed steps.
    pub steps: usize,
    /// Pictures that one step of an evaluation takes, a batch at a time; one batch where not given.
    pub images: Option<usize>,
    /// Whether image features are at hand (cached views) instead of pixels.
    pub cached: bool,
    /// Bytes that the text tower's graph may hold.
    pub memory: Option<usize>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Case.
    pub method: String,
    /// Weights' sizes.
    pub backbone: String,
    /// `fresh` or `cached`.
    pub views: &'static str,
    /// Classes.
    pub classes: usize,
    /// Tokens of all prompts, end tokens included and padding not.
    pub text_tokens: usize,
    /// Rows the text tower computes: tokens of starts that prompts share count once.
    pub text_rows: usize,
    /// Pictures a step.
    pub batch: usize,
    /// Pictures a step took, a batch at a time.
    pub images: usize,
    /// Bytes the text graph was held to; 0: no bound.
    pub memory: usize,
    /// Timed steps, after one that is not.
    pub steps: usize,
    /// Median of a step (or of a batch evaluated, a picture tuned on).
    pub seconds_per_step: f64,
    /// Fastest step.
    pub fastest: f64,
    /// Slowest step.
    pub slowest: f64,
    /// Pictures a second.
    pub images_per_second: f64,
    /// Pictures a second of evaluation, for trained methods.
    pub evaluated_per_second: Option<f64>,
    /// Seconds to bind the trained prompts and compute the class texts, for trained methods.
    pub bind_seconds: Option<f64>,
    /// Peak resident megabytes from start to the last step.
    pub peak_rss_mb: u64,
    /// Resident megabytes before the first step.
    pub rss_before_mb: u64,
    /// GFLOP a step cannot do without.
    pub gflop_needed: f64,
    /// GFLOP/s of this machine's product of float32's grade in the arithmetic that ran, measured before and after; the
    /// larger. On a card nothing is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_gflops: Option<f64>,
    /// Needed operations over what the machine's products could have done in the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Threads.
    pub threads: usize,
    /// Processor.
    pub processor: String,
    /// What the processor multiplied by, where towers ran on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arithmetic: Option<&'static str>,
    /// The card that towers ran on, if one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Numbers of products there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<&'static str>,
}

/// The case called `name`.
///
/// # Errors
/// An unknown name, with those there are.
pub fn find(name: &str) -> Result<Case> {
    let cases = cases();
    let names: Vec<&str> = cases.iter().map(|c| c.name).collect();
    cases
        .iter()
        .find(|c| c.name == name)
        .copied()
        .with_context(|| {
            format!(
                "--method {name:?}: nothing of that name can be timed; there are {}",
                names.join(", ")
            )
        })
}

/// The backbone to time with: a released size with drawn weights, the shipped CLIP, or a file.
///
/// # Errors
/// A name that is none of these, or what is wrong with the file.
pub fn load(name: &str) -> Result<Clip> {
    if let Some(clip) = backbone::drawn(name) {
        return clip;
    }
    if name == "drawn" {
        return Ok(Arc::unwrap_or_clone(crate::backbone::shipped()?));
    }
    let path = crate::cli::at_home(Path::new(name)).map_err(anyhow::Error::msg)?;
    if !path.exists() {
        bail!(
            "--backbone {name:?}: neither {}, drawn, nor a weight file",
            backbone::names().join(", ")
        );
    }
    let told = crate::backbone::Told::default();
    let weights = crate::backbone::weights(name, Some(&path), &told)?;
    Ok(Clip::from_weights(&weights)?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 {
        values[half]
    } else {
        (values[half - 1] + values[half]) / 2.0
    }
}

/// The prompts "a photo of a {name}." laid out, and their tokens, each prompt for itself.
///
/// # Errors
/// A name that the vocabulary does not have.
pub(crate) fn prompts(clip: &Clip, classes: &Classes) -> Result<(TextPlan, usize)> {
    let words = layout::word_count(WORDS);
    let sequences = layout::sequences(
        clip.text.wording(),
        classes,
        WORDS,
        words,
        layout::Position::End,
        |_, i| i,
    )?;
    let tokens = sequences.iter().map(Vec::len).sum();
    Ok((clip.text.plan(&sequences)?, tokens))
}

/// Floating-point operations that a step of `case` cannot do without; see [`clip::ops::work`] for the formula.
fn needed(case: &Case, clip: &Clip, text: &TextPlan, batch: usize, cached: bool) -> Result<f64> {
    let ImageTower::Transformer(tower) = &clip.image else {
        bail!("operations of a ResNet are not counted; time a vision transformer");
    };
    if case.method.is_empty() {
        return Ok(tower.work(batch, 0).forward);
    }
    let cost = case.config()?.cost();
    let work = clip.text.work(text);
    let (forward, backward) = match case.kind {
        // A picture's own texts; texts that all pictures share are computed before.
        Kind::Evaluate => (f64::from(u8::from(cost.text.per_picture)), 0.0),
        _ => (cost.text.forward, cost.text.backward),
    };
    let times = if cost.text.per_picture {
        batch as f64
    } else {
        1.0
    };
    let mut all = times * (forward * work.forward + backward * work.backward);
    let mut image = cost.image;
    if cached {
        image.frozen = 0.0;
    }
    let passes = image.operations(tower.depth(), |blocks, tokens| {
        tower.work_of(blocks, batch, tokens)
    });
    all += passes.iter().sum::<f64>();
    Ok(all)
}

impl Case {
    /// The method with the case's settings.
    ///
    /// # Errors
    /// None: cases name settings that methods have, which a test holds them to.
    pub fn config(&self) -> Result<Box<dyn Config>> {
        let entry = methods::find(self.method).expect("cases name methods of the registry");
        let table = self.config.parse().expect("cases have valid TOML");
        Ok(entry.read(table).checked()?)
    }
}

/// Times `case` with a CLIP that was taken to `place`.
///
/// # Errors
/// Sizes that do not fit the backbone, a backbone that cannot take the method's prompts.
pub fn measure(case: &Case, clip: Clip, options: &Options, place: &Place) -> Result<Measured> {
    // As trials do: a thread outside the pool would go to sleep and be woken for every parallel piece of work.
    rayon::scope(|_| timed(case, clip, options, place))
}

fn timed(case: &Case, mut clip: Clip, options: &Options, place: &Place) -> Result<Measured> {
    if case.kind == Kind::EncodeBfloat16 {
        crate::backbone::use_bfloat16(&mut clip)?;
    }
    let clip = Arc::new(clip);
    let batch = options.batch.unwrap_or(case.batch);
    let classes = Classes::new(&options.names, "bench", "a photo of a {}.");
    let is_evaluation = matches!(
        case.kind,
        Kind::Evaluate | Kind::Encode | Kind::EncodeBfloat16
    );
    if options.images.is_some() && !is_evaluation {
        bail!("--images: {} takes a batch a step", case.name);
    }
    let images = options.images.unwrap_or(batch);
    let (text, text_tokens) = prompts(&clip, &classes)?;
    let gflop = needed(case, &clip, &text, images, options.cached)? / 1e9;
    let mut draw = Init::seeded(1);
    let (size, width) = (clip.image_size(), clip.embedding_size());
    let pixels = draw.normal(&[batch, 3, size, size], 1.0)?;
    let labels: Vec<u32> = (0..batch).map(|i| (i % classes.len()) as u32).collect();
    let labels = Tensor::new(labels, &Device::Cpu)?;
    let features = draw.normal(&[batch, width], 1.0)?;
    // On a card it would say nothing of what was timed.
    let rate = || place.arithmetic().map(machine_rate);
    let before = rate();
    let mut seconds = Vec::new();
    let (mut evaluated, mut bind) = (None, None);
    let mut rss_before = 0;
    let mut peak = 0;
    let mut clocked = |step: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        rss_before = resident() >> 20;
        for i in 0..=options.steps {
            let clock = Instant::now();
            // The step that is not timed needs no more than a batch.
            let batches = if i == 0 { 1 } else { images.div_ceil(batch) };
            for _ in 0..batches {
                step()?;
            }
            if i > 0 {
                seconds.push(clock.elapsed().as_secs_f64());
            }
        }
        peak = peak_memory() >> 20;
        Ok(())
    };
    if case.method.is_empty() {
        clocked(&mut || clip.encode_image(&pixels).map(drop).map_err(Into::into))?;
    } else {
        let config = case.config()?;
        if options.cached && config.needs().sees == Sees::Pixels {
            bail!(
                "--views cached: {} trains through the image tower, its pictures cannot be cached",
                case.name
            );
        }
        let mut method = config.build(&clip.clone().into(), &classes, &mut draw)?;
        let images = if options.cached {
            Images::Features(features)
        } else {
            Images::Pixels(pixels.clone())
        };
        match case.kind {
            Kind::Train => {
                let entry = methods::find(case.method).expect("as above");
                let training = entry.training.as_ref().expect("a trained method");
                let mut optimizer = training.optimizer();
                let batch = Batch {
                    second: config
                        .needs()
                        .second_view
                        .map(|_| Images::Pixels(pixels.clone())),
                    ..Batch::new(images, labels)
                };
                clocked(&mut || {
                    methods::step(method.as_mut(), &mut optimizer, &batch, 2e-3)?;
                    Ok(())
                })?;
                let clock = Instant::now();
                let predictor = method.predictor()?;
                bind = Some(clock.elapsed().as_secs_f64());
                let clock = Instant::now();
                predictor.logits(&batch.images)?;
                let pictures = batch.labels.dim(0)? as f64;
                evaluated = Some(pictures / clock.elapsed().as_secs_f64());
            }
            _ => {
                let predictor: Box<dyn Predict + '_> = method.predictor()?;
                clocked(&mut || predictor.logits(&images).map(drop).map_err(Into::into))?;
            }
        }
    }
    let machine = rate().zip(before).map(|(after, before)| after.max(before));
    let step = median(seconds.clone());
    let pictures = if case.kind == Kind::TestTime {
        1
    } else {
        images
    };
    Ok(Measured {
        method: case.name.to_owned(),
        backbone: options.backbone.clone(),
        views: if options.cached { "cached" } else { "fresh" },
        classes: classes.len(),
        text_tokens,
        text_rows: text.rows(),
        batch,
        images,
        memory: options.memory.unwrap_or(0),
        steps: options.steps,
        seconds_per_step: step,
        fastest: seconds.iter().copied().fold(f64::INFINITY, f64::min),
        slowest: seconds.iter().copied().fold(0.0, f64::max),
        images_per_second: pictures as f64 / step,
        evaluated_per_second: evaluated,
        bind_seconds: bind,
        peak_rss_mb: peak,
        rss_before_mb: rss_before,
        gflop_needed: gflop,
        machine_gflops: machine,
        share: machine.map(|machine| gflop / step / machine),
        threads: rayon::current_num_threads(),
        processor: processor(),
        arithmetic: place.arithmetic().map(Arithmetic::name),
        device: place.is_card().then(|| place.device()),
        precision: place.is_card().then(|| place.precision().name()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_a_method_with_settings_that_it_knows() {
        for case in cases().iter().filter(|c| !c.method.is_empty()) {
            let entry = methods::find(case.method).unwrap_or_else(|| panic!("{}", case.method));
            assert_eq!(entry.training.is_some(), case.kind != Kind::TestTime);
            case.config().unwrap();
        }
    }

    #[test]
    fn every_case_runs_on_the_shipped_clip_and_counts_its_operations() {
        for case in &cases() {
            let place = Place::default();
            if let Some(why) = case.refusal(&place) {
                eprintln!("SKIPPED: {}: {why}", case.name);
                continue;
            }
            let options = Options {
                backbone: "drawn".to_owned(),
                names: class_names(3, true).unwrap(),
                batch: Some(
                    2.max(case.batch.min(4) * usize::from(case.kind == Kind::TestTime) * 5),
                ),
                steps: 1,
                images: None,
                cached: false,
                memory: None,
            };
            let m = measure(case, load("drawn").unwrap(), &options, &place).unwrap();
            // How large the share is depends on what else the machine does.
            let counted = m.gflop_needed > 0.0 && m.gflop_needed.is_finite();
            let share = m.share.unwrap();
            assert!(counted && share > 0.0 && share.is_finite(), "{m:?}");
            assert_eq!(m.arithmetic, Some("portable"));
        }
    }
}
