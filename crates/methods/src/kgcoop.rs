//! KgCoOp: CoOp whose class features are kept near those of hand-written prompts.
//!
//! Yao et al., *Visual-Language Prompt Tuning with Knowledge-guided Context Optimization*,
//! <https://arxiv.org/abs/2303.13283>. Follows the authors' code at c43ccc3; the published numbers were made with the
//! squared cosine schedule that code had until 98d11b8, which is the default here (`schedule = "cosine"` for the later one).

use candle_core::{Result, Tensor, Var};
use clip::{Clip, model::unit};

use crate::parts::context::{Context, Start};
use crate::parts::described::Classifier;
use crate::parts::losses::{cross_entropy, mean_cosine};
use crate::parts::templates;
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Init, Loss,
    Method, Needs, Predict, Replay, Schedule, Settings, Training,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "kgcoop",
    title: "KgCoOp",
    source: "https://arxiv.org/abs/2303.13283",
    group: Group::TextPrompts,
    training: Some(Training {
        schedule: Schedule::CosineSquared,
        ..Training::sgd(100, 128, 0.002)
    }),
    read: |s| Box::new(KgCoOpConfig::read(s)),
    checkpoint: Some(Checkpoint::PROMPT_LEARNER),
    replay: Replay::Steps(&["kgcoop"], |r| {
        let mut table = r.settings(&[("n_ctx", "n_ctx"), ("w", "weight")])?;
        table.insert("init".into(), r.words("ctx_init").into());
        Ok(table)
    }),
};

struct KgCoOpConfig {
    start: Start,
    weight: f64,
    near: Classifier,
}

impl KgCoOpConfig {
    fn read(s: &mut Settings) -> Self {
        Self {
            start: Start::read(s, 4, "a photo of a"),
            weight: s.number(
                "weight",
                8.0,
                0.0..=1000.0,
                "of the distance to hand-written prompts (paper: 8)",
            ),
            near: Classifier::read(s),
        }
    }
}

impl Config for KgCoOpConfig {
    fn needs(&self) -> Needs {
        self.near.needs(Needs::features())
    }

    fn cost(&self) -> Cost {
        Cost {
            text: self.start.cost(),
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(KgCoOp {
            context: Context::new(&on.clip, classes, &self.start, init)?,
            teacher: teacher(&on.clip, classes, self.near)?,
            weight: self.weight,
            near: self.near,
        }))
    }
}

/// Unit features `[K, E]` of the authors' own hand-written prompts: CoOp's, but for textures.
fn teacher(clip: &Clip, classes: &Classes, near: Classifier) -> Result<Tensor> {
    near.texts(clip, classes, || {
        let template = templates::of("kgcoop", classes);
        unit(&clip.encode_texts(&classes.texts(template))?)
    })
}

struct KgCoOp {
    context: Context,
    teacher: Tensor,
    weight: f64,
    near: Classifier,
}

impl Method for KgCoOp {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.context.named()
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let clip = &self.context.clip;
        let images = batch.images.unit_features(clip)?; // [B, E]
        let texts = self.context.texts(self.context.ctx.as_tensor())?; // [K, E]
        let ce = cross_entropy(&clip.logits(&images, &texts)?, &batch.labels)?;
        let distance = mean_cosine(&texts, &self.teacher)?.affine(-self.weight, self.weight)?;
        Loss::sum(vec![("cross_entropy", ce), ("text_distance", distance)])
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.context.rebind(classes)?;
        self.teacher = teacher(&self.context.clip, classes, self.near)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        self.context.cosine()
    }
}
