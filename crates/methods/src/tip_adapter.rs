//! Tip-Adapter: the few shots' features and labels as a cache beside zero-shot scores; nothing is trained.
//!
//! Zhang et al., *Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification*, <https://arxiv.org/abs/2207.09519>.
//! Follows the authors' `main.py` at d0e2d6f.
//!
//! `B` images, `K` classes, `N` shots, `E` joint width.
//!
//! Differs: the authors search alpha and beta on the whole validation split (`paper_compat`), and on ImageNet's test
//! pictures; here on the few validation shots. A class without a shot is refused.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var, bail};

use crate::parts::cache::{COMPAT, Cache, CacheConfig, Recorded};
use crate::parts::{shots, templates};
use crate::replay::{Comparison, Stage};
use crate::{
    Backbones, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Method, Needs,
    Predict, Replay, Shots, TextCost,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "tip-adapter",
    title: "Tip-Adapter",
    source: "https://arxiv.org/abs/2207.09519",
    group: Group::TrainingFree,
    training: None,
    read: |s| Box::new(CacheConfig::read(s, COMPAT)),
    checkpoint: None,
    replay: Replay::Own(&["tip_adapter"], replay),
};

impl Config for CacheConfig {
    fn needs(&self) -> Needs {
        Self::needs(self)
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, _: &mut Init) -> Result<Box<dyn Method>> {
        let used = templates::on_features(classes);
        let cache = Cache::new(&on.clip, self, classes, &used)?;
        Ok(Box::new(TipAdapter { cache }))
    }
}

struct TipAdapter {
    cache: Cache,
}

impl TipAdapter {
    /// `[N, E]`.
    fn keys(&self) -> Result<&Tensor> {
        match &self.cache.filled {
            Some((keys, _)) => Ok(keys),
            None => bail!("{}", shots::NOT_YET),
        }
    }
}

impl Method for TipAdapter {
    fn parameters(&self) -> Vec<(String, Var)> {
        Vec::new()
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let keys = self.cache.filled.iter();
        let keys = keys.map(|(keys, _)| ("cache_keys".to_owned(), keys.clone()));
        keys.chain(self.cache.state()).collect()
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        match state.get("cache_keys") {
            Some(keys) => self.cache.restore(keys, state),
            None => bail!("the state of the cache has no cache_keys"),
        }
    }

    fn fit(&mut self, shots: &Shots) -> Result<()> {
        self.cache.fill(shots)?;
        let keys = self.keys()?.clone();
        self.cache.choose(&keys)
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.cache.rows.bind(classes)
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Cached {
            cache: &self.cache,
            keys: self.keys()?,
            values: self.cache.values()?,
        }))
    }
}

struct Cached<'a> {
    cache: &'a Cache,
    keys: &'a Tensor,
    values: Tensor,
}

impl Predict for Cached<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let features = self.cache.features(images)?;
        let scores = self
            .cache
            .scores(&features, self.keys, &self.values, self.cache.point)?;
        self.cache.rows.of(&scores)
    }
}

/// The cache, zero-shot and first scores, the grid, and what it chooses.
fn replay(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let (recorded, config) = (Recorded::of(r)?, Recorded::settings(r)?);
    let cache = Cache::new(&stage.clip, &config, &r.classes()?, &recorded.templates())?;
    let mut tip = TipAdapter { cache };
    tip.cache.fill(&recorded.shots)?;
    let keys = tip.keys()?.clone();
    let values = tip.cache.values()?;
    c.values(
        "text_weights",
        &tip.cache.texts.t()?,
        r.get("text_weights")?,
    )?;
    c.values("cache_keys", &keys.t()?, r.get("cache_keys")?)?;
    c.values("cache_values", &values, r.get("cache_values")?)?;

    let val = Images::Pixels(r.get("val_images")?.clone());
    let val = tip.cache.features(&val)?;
    let zero_shot = tip.cache.zero_shot(&val)?;
    let first = tip.cache.scores(&val, &keys, &values, tip.cache.point)?;
    c.logits(&zero_shot, r.get("logits.val.zero_shot")?)?;
    c.logits(&first, r.get("logits.val.tip")?)?;
    let val_labels = &shots::validation(&recorded.shots)?.labels;
    c.accuracy(
        "zero_shot.val_acc",
        &zero_shot,
        val_labels,
        r.at("/zero_shot/val_acc"),
    )?;
    c.accuracy(
        "tip_init_val_acc",
        &first,
        val_labels,
        r.at("/tip_init_val_acc"),
    )?;

    let Some(hits) = tip.cache.searched(&keys)? else {
        bail!("nothing is searched");
    };
    c.hits("grid.tip", &hits, val_labels.len(), r.get("grid.tip")?)?;
    let best = tip.cache.config.grid.best(&hits);
    c.chosen("beta", best.beta, r.at("/searched/tip/beta"));
    c.chosen("alpha", best.alpha, r.at("/searched/tip/alpha"));

    tip.cache.choose(&keys)?;
    let test = Images::Pixels(r.get("test_images")?.clone());
    let zero_shot = tip.cache.zero_shot(&tip.cache.features(&test)?)?;
    let scores = tip.predictor()?.logits(&test)?;
    c.logits(&zero_shot, r.get("logits.zero_shot")?)?;
    c.logits(&scores, r.get("logits.tip")?)?;
    c.accuracy(
        "zero_shot.test_acc",
        &zero_shot,
        &recorded.test_labels,
        r.at("/zero_shot/test_acc"),
    )?;
    c.accuracy(
        "tip.test_acc",
        &scores,
        &recorded.test_labels,
        r.at("/searched/tip/test_acc"),
    )?;
    Ok(())
}
