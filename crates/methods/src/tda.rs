//! TDA: test pictures that were sure, and those that were half sure, are remembered by the class they were taken for; what
//! comes later is drawn to the first and pushed from the second. Nothing is trained.
//!
//! Karmanov et al., *Efficient Test-Time Adaptation of Vision-Language Models*, <https://arxiv.org/abs/2403.18293>.
//! Follows the authors' `tda_runner.py` and `utils.py` at e697fb0. A picture is remembered before it is scored, so it always
//! finds itself; its class is the predicted one, never the true one; scores depend on the order of pictures.
//!
//! Published strengths and sharpnesses of the positive memory (`alpha`, `beta`) were chosen for each dataset, on what is not
//! said: ImageNet and ImageNet-A 2, 5; -V2 and -R 1, 8; -Sketch 2.363, 7.45; Caltech101 5, 5; DTD 2, 3; EuroSAT 4, 8;
//! Aircraft 2, 2; Food101 1, 1; Flowers 1, 5; Pets 2, 7; Cars 1, 7; SUN397 2, 3; UCF101 3, 8. ImageNet's are the defaults.
//! The variants of ImageNet have 64 views, everything else the test view alone.
//!
//! Differs: AugMix is left to the dataset's row, which has none for ImageNet's variants; the authors mix there.
//!
//! `V` views, the first of them the test view; `K` classes, `E` joint width.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor, Var, bail};
use clip::Clip;

use crate::parts::losses::softmax;
use crate::parts::views;
use crate::parts::wording::Wording;
use crate::replay::{Comparison, Stage};
use crate::{
    Backbones, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Method, Needs,
    Predict, Replay, Settings, TextCost,
};

mod kept;

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "tda",
    title: "TDA",
    source: "https://arxiv.org/abs/2403.18293",
    group: Group::TestTime,
    training: None,
    read: |s| Box::new(TdaConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["tda"], replay),
};

/// What cosines are multiplied with, whatever the backbone learned.
const SCALE: f64 = 100.0;

/// A memory's settings.
#[derive(Clone, Copy, Debug)]
struct Memory {
    /// Pictures a class.
    capacity: usize,
    /// Weight of what it says.
    alpha: f32,
    /// How near a picture must be.
    beta: f32,
}

#[derive(Clone, Debug)]
struct TdaConfig {
    wording: Wording,
    views: usize,
    keep: f64,
    augmix: bool,
    positive: Memory,
    negative: Memory,
    /// Entropies, as a share of the largest in bits, between which a picture is half sure.
    unsure: (f64, f64),
    /// Probabilities between which a class of a half-sure picture is one it probably is not.
    mask: (f32, f32),
}

impl TdaConfig {
    fn read(s: &mut Settings) -> Self {
        let help = "the seven of CLIP's authors on ImageNet and its variants and the dataset's own prompt elsewhere; or one of these";
        let wording = Wording::read(
            s,
            &["seven-on-imagenet", "dataset", "seven", "photo", "ensemble"],
            help,
        );
        let count = s.count(
            "views",
            1,
            1..=4096,
            "views of a picture, the test view included (published: 64 on ImageNet's variants)",
        );
        let config = Self {
            wording,
            views: count,
            keep: s.number(
                "keep",
                0.1,
                0.0..=1.0,
                "share of views, those of lowest entropy, that are kept, where there are several",
            ),
            augmix: s.flag(
                "augmix",
                true,
                "AugMix on the views of fine-grained datasets",
            ),
            positive: Memory {
                capacity: s.count("capacity", 3, 1..=1000, "sure pictures kept a class"),
                alpha: s.number("alpha", 2.0, 0.0..=1e6, "weight of the sure pictures") as f32,
                beta: s.number(
                    "beta",
                    5.0,
                    0.0..=1e6,
                    "sharpness towards the sure pictures",
                ) as f32,
            },
            negative: Memory {
                capacity: s.count(
                    "negative_capacity",
                    2,
                    0..=1000,
                    "half-sure pictures kept a class; 0: none are",
                ),
                alpha: s.number(
                    "negative_alpha",
                    0.117,
                    0.0..=1e6,
                    "weight of the half-sure pictures",
                ) as f32,
                beta: s.number(
                    "negative_beta",
                    1.0,
                    0.0..=1e6,
                    "sharpness towards the half-sure pictures",
                ) as f32,
            },
            unsure: (
                s.number(
                    "entropy_above",
                    0.2,
                    0.0..=1.0,
                    "entropy, as a share of log2 K, above which a picture is half sure",
                ),
                s.number(
                    "entropy_below",
                    0.5,
                    0.0..=1.0,
                    "entropy, as a share of log2 K, below which a picture is half sure",
                ),
            ),
            mask: (
                s.number(
                    "mask_above",
                    0.03,
                    0.0..=1.0,
                    "probability above which a half-sure picture speaks against a class",
                ) as f32,
                s.number(
                    "mask_below",
                    1.0,
                    0.0..=1.0,
                    "probability below which it does",
                ) as f32,
            ),
        };
        if config.views > 1 && (config.views as f64 * config.keep) < 1.0 {
            s.refuse(
                "keep",
                format!(
                    "{} of {} views leaves none; keep at least one",
                    config.keep, config.views
                ),
            );
        }
        config
    }
}

impl Config for TdaConfig {
    fn needs(&self) -> Needs {
        let sees = match self.views {
            1 => Needs::features(),
            count => Needs::views(count, self.augmix),
        };
        Needs {
            stream: true,
            ..sees
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, _: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(Tda {
            clip: on.clip.clone(),
            texts: self.wording.texts(&on.clip, classes)?,
            config: self.clone(),
        }))
    }
}

struct Tda {
    clip: Arc<Clip>,
    config: TdaConfig,
    /// `[K, E]`, unit length.
    texts: Tensor,
}

/// A picture as it is remembered.
#[derive(Clone, Debug)]
struct Seen {
    /// Its place in the stream.
    number: usize,
    /// `[E]`; of several views the mean, not made unit again.
    feature: Vec<f32>,
    /// `[K]`.
    logits: Vec<f32>,
    /// `[K]`.
    p: Vec<f32>,
    /// In nats.
    entropy: f32,
    /// The class of the largest logit.
    class: usize,
}

impl Seen {
    /// Its entropy as a share of the largest in bits, `log2 K`; not a number where there is one class.
    fn unsureness(&self) -> f64 {
        // Nats over bits, as published.
        f64::from(self.entropy / (self.p.len() as f64).log2() as f32)
    }
}

/// Remembered pictures of each class, by entropy.
type Shelves = Vec<Vec<Arc<Seen>>>;

/// Puts a picture on its class's shelf; on a full one it takes the place of the least sure if it is surer.
fn remember(shelves: &mut Shelves, seen: &Arc<Seen>, capacity: usize) {
    let shelf = &mut shelves[seen.class];
    if shelf.len() < capacity {
        shelf.push(seen.clone());
    } else if let Some(last) = shelf.last_mut()
        && seen.entropy < last.entropy
    {
        *last = seen.clone();
    }
    shelf.sort_by(|a, b| a.entropy.total_cmp(&b.entropy));
}

/// What a memory says of a picture: for each class, over remembered pictures, how near they are where `speaks` lets them.
fn recall(
    shelves: &Shelves,
    feature: &[f32],
    memory: Memory,
    speaks: impl Fn(&Seen, usize) -> bool,
) -> Vec<f32> {
    let mut said = vec![0f32; shelves.len()];
    for item in shelves.iter().flatten() {
        let near: f32 = item.feature.iter().zip(feature).map(|(a, b)| a * b).sum();
        let weight = (memory.beta * near - memory.beta).exp();
        for (class, said) in said.iter_mut().enumerate() {
            if speaks(item, class) {
                *said += memory.alpha * weight;
            }
        }
    }
    said
}

/// What has been seen so far.
struct Stream {
    count: usize,
    positive: Shelves,
    negative: Shelves,
}

/// A scored picture.
struct Scored {
    seen: Arc<Seen>,
    /// `[K]`.
    positive: Vec<f32>,
    /// `[K]`.
    negative: Vec<f32>,
}

impl Scored {
    /// `[K]`: of the texts, towards the sure, away from the half sure.
    fn logits(&self) -> Vec<f32> {
        let memories = self.positive.iter().zip(&self.negative);
        let all = self.seen.logits.iter().zip(memories);
        all.map(|(own, (to, from))| own + to - from).collect()
    }
}

impl Stream {
    fn new(classes: usize) -> Self {
        Self {
            count: 0,
            positive: vec![Vec::new(); classes],
            negative: vec![Vec::new(); classes],
        }
    }

    fn score(&mut self, mut seen: Seen, config: &TdaConfig) -> Scored {
        seen.number = self.count;
        self.count += 1;
        let seen = Arc::new(seen);
        remember(&mut self.positive, &seen, config.positive.capacity);
        let (above, below) = config.unsure;
        let unsureness = seen.unsureness();
        if above < unsureness && unsureness < below {
            remember(&mut self.negative, &seen, config.negative.capacity);
        }
        let (above, below) = config.mask;
        let feature = &seen.feature;
        Scored {
            positive: recall(&self.positive, feature, config.positive, |item, class| {
                item.class == class
            }),
            negative: recall(&self.negative, feature, config.negative, |item, class| {
                above < item.p[class] && item.p[class] < below
            }),
            seen,
        }
    }
}

impl Tda {
    /// What is remembered of one picture by its unit features `[V, E]`.
    fn see(&self, features: &Tensor) -> Result<Seen> {
        let logits = clip::ops::scaled_cosine(features, &self.texts, SCALE)?; // [V, K]
        let (features, logits, p, entropy) = match features.dim(0)? {
            1 => {
                let entropy = views::entropies(&logits)?[0];
                let p = softmax(&logits)?;
                (features.clone(), logits, p, entropy)
            }
            count => {
                let kept = views::confident(&logits, views::kept(count, self.config.keep)?)?;
                let logits = views::rows(&logits, &kept)?;
                let entropy = views::mean_entropy(&logits)?.to_scalar()?;
                let p = softmax(&logits)?;
                (views::rows(features, &kept)?, logits, p, entropy)
            }
        };
        let class = logits.mean(0)?.argmax(0)?.to_scalar::<u32>()? as usize;
        Ok(Seen {
            number: 0,
            feature: features.mean(0)?.to_vec1()?,
            logits: logits.mean(0)?.to_vec1()?,
            p: p.mean(0)?.to_vec1()?,
            entropy,
            class,
        })
    }
}

impl Method for Tda {
    fn parameters(&self) -> Vec<(String, Var)> {
        Vec::new()
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.texts = self.config.wording.texts(&self.clip, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Remembering {
            method: self,
            stream: RefCell::new(Stream::new(self.texts.dim(0)?)),
        }))
    }
}

/// Scores pictures in the order in which they come, and remembers them as long as it lives.
struct Remembering<'a> {
    method: &'a Tda,
    stream: RefCell<Stream>,
}

impl Predict for Remembering<'_> {
    /// Several pictures at once are scored one after the other.
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let Self { method, stream } = self;
        let features = images.unit_features(&method.clip)?;
        let pictures = match method.config.views {
            1 => (0..features.dim(0)?)
                .map(|i| features.narrow(0, i, 1))
                .collect::<Result<Vec<_>>>()?,
            _ => vec![features],
        };
        let mut rows = Vec::with_capacity(pictures.len());
        for picture in &pictures {
            let seen = method.see(picture)?;
            let scored = stream.borrow_mut().score(seen, &method.config);
            rows.push(Tensor::new(scored.logits(), method.texts.device())?);
        }
        Tensor::stack(&rows, 0)
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.stream.borrow().state()
    }

    fn restore(&self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let (classes, width) = self.method.texts.dims2()?;
        *self.stream.borrow_mut() = Stream::of_state(state, classes, width)?;
        Ok(())
    }
}

/// The settings of a recorded run.
fn recorded(stage: &Stage) -> Result<TdaConfig> {
    let r = stage.recording;
    let Some(params) = r.field("params") else {
        bail!("params: must be a table");
    };
    let number = |path: &str| match params.pointer(path).and_then(serde_json::Value::as_f64) {
        Some(number) => Ok(number),
        None => bail!("params{path}: must be a number"),
    };
    let memory = |sign: &str| -> Result<Memory> {
        if params.pointer(&format!("/{sign}/enabled")) != Some(&true.into()) {
            bail!("params.{sign}.enabled: only runs with both memories can be replayed");
        }
        Ok(Memory {
            capacity: number(&format!("/{sign}/shot_capacity"))? as usize,
            alpha: number(&format!("/{sign}/alpha"))? as f32,
            beta: number(&format!("/{sign}/beta"))? as f32,
        })
    };
    let between = |what: &str| -> Result<(f64, f64)> {
        Ok((
            number(&format!("/negative/{what}/lower"))?,
            number(&format!("/negative/{what}/upper"))?,
        ))
    };
    let mask = between("mask_threshold")?;
    let views = r.field("views").and_then(serde_json::Value::as_u64);
    Ok(TdaConfig {
        wording: Wording::These(r.texts("templates").unwrap_or_default()),
        views: views.unwrap_or(1) as usize,
        keep: r.number("selection_p")?,
        augmix: false,
        positive: memory("positive")?,
        negative: memory("negative")?,
        unsure: between("entropy_threshold")?,
        mask: (mask.0 as f32, mask.1 as f32),
    })
}

/// The recorded stream: features, logits, entropies, predictions, both memories after every picture, what each says.
fn replay(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let config = recorded(stage)?;
    if r.number("logit_scale")? != SCALE {
        bail!("params.logit_scale: must be {SCALE}");
    }
    let classes = r.classes()?;
    let tda = Tda {
        clip: stage.clip.clone(),
        texts: config.wording.texts(&stage.clip, &classes)?,
        config,
    };
    c.values("texts", &tda.texts.t()?, r.get("text_weights")?)?;
    let pictures = r.get(if r.tensors.contains_key("views") {
        "views"
    } else {
        "images"
    })?;
    let places = |name: &str| r.get(name)?.to_dtype(DType::I64)?.to_vec3::<i64>();
    let (positive, negative) = (places("cache.pos")?, places("cache.neg")?);
    let answers: Vec<i64> = r.get("pred")?.to_dtype(DType::I64)?.to_vec1()?;
    let labels: Vec<i64> = r
        .get("labels")?
        .flatten_all()?
        .to_dtype(DType::I64)?
        .to_vec1()?;
    let entropies = r.numbers("entropy")?.unwrap_or_default();
    let shares = r.numbers("entropy.normalised")?.unwrap_or_default();
    let mut stream = Stream::new(classes.len());
    let mut right = 0;
    for number in 0..pictures.dim(0)? {
        let views = Images::Pixels(pictures.get(number)?);
        let seen = tda.see(&views.unit_features(&tda.clip)?)?;
        let scored = stream.score(seen, &tda.config);
        let seen = &scored.seen;
        let row = |values: &[f32]| Tensor::new(values, &candle_core::Device::Cpu);
        let recorded = |name: &str| r.get(name)?.get(number);
        c.values("features", &row(&seen.feature)?, &recorded("features")?)?;
        c.values("prob_map", &row(&seen.p)?, &recorded("prob_map")?)?;
        c.logits(&row(&seen.logits)?, &recorded("logits.clip")?)?;
        c.logits(&row(&scored.positive)?, &recorded("logits.pos")?)?;
        c.logits(&row(&scored.negative)?, &recorded("logits.neg")?)?;
        let logits = row(&scored.logits())?;
        c.logits(&logits, &recorded("logits.after")?)?;
        c.loss(f64::from(seen.entropy), entropies[number]);
        c.loss(seen.unsureness(), shares[number]);
        c.choice("class", seen.class as i64, answers[number]);
        let shelved = |shelves: &Shelves, capacity: usize| -> Vec<Vec<i64>> {
            let place =
                |shelf: &Vec<Arc<Seen>>, i: usize| shelf.get(i).map_or(-1, |s| s.number as i64);
            let shelf = |shelf: &Vec<Arc<Seen>>| (0..capacity).map(|i| place(shelf, i)).collect();
            shelves.iter().map(shelf).collect()
        };
        let config = &tda.config;
        let ours = shelved(&stream.positive, config.positive.capacity);
        c.choice("sure pictures", &ours, &positive[number]);
        let ours = shelved(&stream.negative, config.negative.capacity);
        c.choice("half-sure pictures", &ours, &negative[number]);
        let best = i64::from(logits.argmax(0)?.to_scalar::<u32>()?);
        right += usize::from(best == labels[number]);
        c.steps += 1;
    }
    if let Some(accuracy) = r.field("test_acc").and_then(serde_json::Value::as_f64) {
        let ours = 100.0 * right as f64 / c.steps as f64;
        c.choice(
            "right",
            right,
            (accuracy * c.steps as f64 / 100.0).round() as usize,
        );
        c.loss(ours, accuracy);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(number: usize, class: usize, entropy: f32) -> Arc<Seen> {
        Arc::new(Seen {
            number,
            feature: vec![1.0, 0.0],
            logits: vec![0.0; 3],
            p: vec![0.5, 0.02, 0.48],
            entropy,
            class,
        })
    }

    fn numbers(shelf: &[Arc<Seen>]) -> Vec<usize> {
        shelf.iter().map(|s| s.number).collect()
    }

    #[test]
    fn a_full_shelf_takes_only_what_is_surer_than_its_last() {
        let mut shelves: Shelves = vec![Vec::new(); 3];
        for (number, entropy) in [(0, 0.5), (1, 0.3), (2, 0.5), (3, 0.4)] {
            remember(&mut shelves, &seen(number, 1, entropy), 2);
        }
        // 2 is as sure as the last, 0, which stays until 3 comes.
        assert_eq!(numbers(&shelves[1]), [1, 3]);
        assert!(shelves[0].is_empty() && shelves[2].is_empty());
        remember(&mut shelves, &seen(4, 0, 0.1), 0);
        assert!(shelves[0].is_empty(), "a memory without room stays empty");
    }

    #[test]
    fn a_memory_speaks_by_nearness() {
        let memory = Memory {
            capacity: 2,
            alpha: 3.0,
            beta: 2.0,
        };
        let shelves: Shelves = vec![vec![seen(0, 0, 0.1)], Vec::new(), vec![seen(1, 2, 0.1)]];
        // At a cosine of 0.6 the weight is exp(-2 (1 - 0.6)).
        let weight = 3.0 * (-0.8f32).exp();
        let positive = recall(&shelves, &[0.6, 0.8], memory, |s, class| s.class == class);
        assert!((positive[0] - weight).abs() < 1e-6 && positive[1] == 0.0);
        // Both pictures hold classes 0 and 2 for likely, 1 for none.
        let negative = recall(&shelves, &[0.6, 0.8], memory, |s, class| s.p[class] > 0.03);
        assert!((negative[0] - 2.0 * weight).abs() < 1e-6 && negative[1] == 0.0);
    }

    #[test]
    fn unsureness_is_nats_over_bits_and_one_class_is_never_unsure() {
        let three = seen(0, 0, 3f32.ln());
        assert!((three.unsureness() - 2f64.ln()).abs() < 1e-6);
        let one = Seen {
            p: vec![1.0],
            entropy: 0.0,
            ..(*three).clone()
        };
        assert!(one.unsureness().is_nan());
    }
}
