//! Tip-Adapter-F: Tip-Adapter whose keys are trained.
//!
//! Zhang et al., *Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification*, <https://arxiv.org/abs/2207.09519>.
//! Follows the authors' `main.py` at d0e2d6f.
//!
//! `B` images, `K` classes, `N` shots, `E` joint width.
//!
//! Differs: the authors keep the epoch whose keys are best on the test pictures, search alpha and beta with them on the whole
//! validation split, and print the better of the two test accuracies (`paper_compat`; the search on ImageNet's test pictures
//! is not here). Without it the last epoch's keys are kept and the search is on the few validation shots. A class without a
//! shot is refused.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, Var, bail};

use crate::parts::cache::{Cache, CacheConfig, Recorded};
use crate::parts::grid::Point;
use crate::parts::losses::cross_entropy;
use crate::parts::{shots, templates};
use crate::replay::{Comparison, Stage};
use crate::{
    Backbones, Batch, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Loss, Method,
    Needs, Predict, Replay, Rule, Schedule, Shots, TextCost, Training, step,
};

/// Registry entry, as the authors' `configs/` (EuroSAT: 100 epochs).
pub const ENTRY: Entry = Entry {
    name: "tip-adapter-f",
    title: "Tip-Adapter-F",
    source: "https://arxiv.org/abs/2207.09519",
    group: Group::Features,
    training: Some(Training {
        optimizer: Rule::AdamW,
        weight_decay: 0.01,
        epsilon: 1e-4,
        warmup_epochs: 0,
        schedule: Schedule::CosineSteps,
        drop_last: false,
        ..Training::sgd(20, 256, 0.001)
    }),
    read: |s| Box::new(TrainedCacheConfig(CacheConfig::read(s, COMPAT))),
    checkpoint: None,
    replay: Replay::Own(&["tip_adapter"], replay),
};

const COMPAT: &str = "choose the epoch by the test pictures and search on the whole validation split, as released; \
                      without it the last epoch is kept";

struct TrainedCacheConfig(CacheConfig);

impl Config for TrainedCacheConfig {
    fn needs(&self) -> Needs {
        Needs {
            peeks: self.0.paper_compat,
            ..self.0.needs()
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, _: &mut Init) -> Result<Box<dyn Method>> {
        let used = templates::on_features(classes);
        let cache = Cache::new(&on.clip, &self.0, classes, &used)?;
        Ok(Box::new(TipAdapterF::new(cache)))
    }
}

/// Names of the state for unit features and labels of the validation pictures that it will search by.
const VALIDATION: [&str; 2] = ["validation_features", "validation_labels"];

/// The same of the test pictures that it peeks at.
const TEST: [&str; 2] = ["test_features", "test_labels"];

struct TipAdapterF {
    cache: Cache,
    /// `[N, E]` with the keys' values `[N, K]`, once there are shots.
    keys: Option<(Var, Tensor)>,
    /// Unit features of the test pictures with their labels, and the best keys so far: only to repeat published numbers.
    test: Option<(Tensor, Vec<u32>)>,
    best: Option<(usize, Tensor)>,
}

impl TipAdapterF {
    fn new(cache: Cache) -> Self {
        Self {
            cache,
            keys: None,
            test: None,
            best: None,
        }
    }

    fn trained(&self) -> Result<&(Var, Tensor)> {
        match &self.keys {
            Some(keys) => Ok(keys),
            None => bail!("{}", shots::NOT_YET),
        }
    }

    /// `[B, K]` of unit features while training.
    fn scores(&self, features: &Tensor) -> Result<Tensor> {
        let (keys, values) = self.trained()?;
        self.cache
            .scores(features, keys.as_tensor(), values, self.cache.point)
    }

    /// Test pictures that `keys` get right.
    fn peek(&self, keys: &Tensor, at: Point) -> Result<Option<usize>> {
        let Some((features, labels)) = &self.test else {
            return Ok(None);
        };
        let values = &self.trained()?.1;
        let scores = self.cache.scores(features, keys, values, at)?;
        shots::hits(&scores, labels).map(Some)
    }
}

impl Method for TipAdapterF {
    fn parameters(&self) -> Vec<(String, Var)> {
        let keys = self.keys.iter();
        keys.map(|(keys, _)| ("adapter.weight".to_owned(), keys.clone()))
            .collect()
    }

    /// While it is trained, what it will choose by, too.
    fn state(&self) -> Vec<(String, Tensor)> {
        let mut all = self.cache.state();
        let mut keep = |name: &str, tensor: Tensor| all.push((name.to_owned(), tensor));
        let kept = |t: Result<Tensor>| t.expect("a list of numbers is a tensor");
        let lists = [
            (VALIDATION, self.cache.searched_by()),
            (TEST, self.test.as_ref()),
        ];
        for ([features, labels], pictures) in lists {
            if let Some((of, own)) = pictures {
                keep(features, of.clone());
                keep(labels, kept(shots::labels_kept(own)));
            }
        }
        if let Some((right, keys)) = &self.best {
            keep("best_keys", keys.clone());
            keep("best_hits", kept(shots::number(*right as f64)));
        }
        all
    }

    /// Where there are no keys yet, they come with the state.
    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let keys = match (state.get("adapter.weight"), &self.keys) {
            (Some(keys), _) => keys.to_dtype(DType::F32)?,
            (None, Some((keys, _))) => keys.as_detached_tensor(),
            (None, None) => bail!("the state of the cache has no adapter.weight"),
        };
        self.cache.restore(&keys, state)?;
        self.keys = Some((Var::from_tensor(&keys)?, self.cache.values()?));
        let pictures = |[features, labels]: [&str; 2]| -> Result<Option<(Tensor, Vec<u32>)>> {
            let (Some(features), Some(labels)) = (state.get(features), state.get(labels)) else {
                return Ok(None);
            };
            let classes = self.cache.rows.trained().len();
            Ok(Some((features.clone(), shots::labels_of(labels, classes)?)))
        };
        let validation = pictures(VALIDATION)?;
        self.test = pictures(TEST)?;
        self.cache.search_by(validation);
        self.best = match (state.get("best_hits"), state.get("best_keys")) {
            (Some(hits), Some(keys)) => Some((shots::number_of(hits)? as usize, keys.clone())),
            _ => None,
        };
        Ok(())
    }

    fn fit(&mut self, given: &Shots) -> Result<()> {
        self.cache.fill(given)?;
        let Some((keys, _)) = &self.cache.filled else {
            bail!("{}", shots::NOT_YET);
        };
        self.keys = Some((Var::from_tensor(keys)?, self.cache.values()?));
        if self.cache.config.paper_compat {
            let Some(test) = &given.test else {
                bail!("paper_compat chooses by the test pictures, and there are none");
            };
            let features = self.cache.features(&test.passes[0])?;
            self.test = Some((features, test.labels.clone()));
        }
        Ok(())
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let features = self.cache.features(&batch.images)?; // [B, E]
        Ok(cross_entropy(&self.scores(&features)?, &batch.labels)?.into())
    }

    fn end_epoch(&mut self, _epoch: usize, _epochs: usize) -> Result<()> {
        let keys = self.trained()?.0.as_detached_tensor();
        if let Some(right) = self.peek(&keys, self.cache.point)?
            && self.best.as_ref().is_none_or(|(most, _)| right > *most)
        {
            self.best = Some((right, keys.copy()?));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let best = self.best.take();
        if let Some((_, keys)) = &best {
            self.trained()?.0.set(keys)?;
        }
        let keys = self.trained()?.0.as_detached_tensor();
        let first = self.cache.point;
        self.cache.choose(&keys)?;
        if let (Some((most, _)), Some(now)) = (best, self.peek(&keys, self.cache.point)?)
            && most >= now
        {
            self.cache.point = first;
        }
        self.test = None;
        self.cache.search_by(None);
        Ok(())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.cache.rows.bind(classes)
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        let (keys, values) = self.trained()?;
        Ok(Box::new(Cached {
            cache: &self.cache,
            keys: keys.as_detached_tensor(),
            values,
        }))
    }
}

struct Cached<'a> {
    cache: &'a Cache,
    keys: Tensor,
    values: &'a Tensor,
}

impl Predict for Cached<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let (cache, features) = (self.cache, self.cache.features(images)?);
        let scores = cache.scores(&features, &self.keys, self.values, cache.point)?;
        cache.rows.of(&scores)
    }
}

/// Training step for step, the test pictures after each epoch, which epoch is kept, the second grid and what it chooses.
fn replay(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let (recorded, mut config) = (Recorded::of(r)?, Recorded::settings(r)?);
    config.paper_compat = true;
    let cache = Cache::new(&stage.clip, &config, &r.classes()?, &recorded.templates())?;
    let mut tip = TipAdapterF::new(cache);
    tip.fit(&recorded.shots)?;
    c.parameters(&tip, &r.named("init."))?;

    let training = ENTRY.training.expect("it is trained");
    let mut optimizer = training.optimizer();
    let (images, labels) = (r.get("images")?, r.get("labels")?.to_dtype(DType::U32)?);
    let epochs = r.field("epochs").and_then(serde_json::Value::as_u64);
    let (Some(losses), Some(epochs)) = (r.numbers("loss")?, epochs) else {
        bail!("epochs and tensor loss are missing");
    };
    let per_epoch = (losses.len() / epochs as usize).max(1);
    let mut kept = (0, 0);
    for (number, want) in losses.iter().enumerate() {
        let batch = Batch::new(Images::Pixels(images.get(number)?), labels.get(number)?);
        let scores = tip.scores(&tip.cache.features(&batch.images)?)?;
        c.logits(&scores, &r.get("logits.train")?.get(number)?)?;
        let done = step(&mut tip, &mut optimizer, &batch, r.rate(number)?)?;
        c.loss(done.value, *want);
        if let (0, Some(gradients)) = (number, &done.gradients) {
            let ours = gradients.get(tip.trained()?.0.as_tensor());
            let ours = ours.expect("a step without one is an error");
            c.gradient("adapter.weight", ours, r.get("grad0.adapter.weight")?)?;
        }
        if (number + 1) % per_epoch == 0 {
            let epoch = number / per_epoch;
            let keys = tip.trained()?.0.as_detached_tensor();
            let (features, labels) = tip.test.as_ref().expect("paper_compat peeks");
            let values = &tip.trained()?.1;
            let scores = tip.cache.scores(features, &keys, values, tip.cache.point)?;
            c.logits(&scores, &r.get("logits.epoch")?.get(epoch)?)?;
            let percent = r.at(&format!("/epoch_test_acc/{epoch}"));
            c.accuracy("epoch_test_acc", &scores, labels, percent)?;
            tip.end_epoch(epoch, epochs as usize)?;
            let most = tip.best.as_ref().map_or(0, |(most, _)| *most);
            if most > kept.1 {
                kept = (epoch, most);
            }
        }
        c.steps += 1;
    }
    c.choice("best_epoch", Some(kept.0 as f64), r.at("/best_epoch"));
    c.parameters(&tip, &r.named("final."))?;
    let first = tip.cache.point;
    let test = (tip.test.clone()).expect("paper_compat peeks");
    let best = tip.best.as_ref().map(|(_, keys)| keys.clone());
    let Some(best) = best else {
        bail!("no epoch is recorded");
    };
    c.values("best.adapter.weight", &best, r.get("best.adapter.weight")?)?;
    let Some(hits) = tip.cache.searched(&best)? else {
        bail!("nothing is searched");
    };
    let of = shots::validation(&recorded.shots)?.labels.len();
    c.hits("grid.tip_f", &hits, of, r.get("grid.tip_f")?)?;
    let point = tip.cache.config.grid.best(&hits);
    c.chosen("beta", point.beta, r.at("/searched/tip_f/beta"));
    c.chosen("alpha", point.alpha, r.at("/searched/tip_f/alpha"));
    let scores = tip.cache.scores(&test.0, &best, &tip.trained()?.1, point)?;
    c.logits(&scores, r.get("logits.tip_f")?)?;
    c.accuracy(
        "tip_f.test_acc",
        &scores,
        &test.1,
        r.at("/searched/tip_f/test_acc"),
    )?;

    tip.finish()?;
    let reported = r.at("/reported_test_acc");
    let images = Images::Pixels(r.get("test_images")?.clone());
    let scores = tip.predictor()?.logits(&images)?;
    c.accuracy("reported_test_acc", &scores, &test.1, reported)?;
    c.choice(
        "the searched pair is dropped where it is no better",
        tip.cache.point,
        first,
    );
    Ok(())
}
