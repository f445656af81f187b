//! KgCoOp: CoOp whose class features are kept near those of hand-written prompts.
//!
//! Yao et al., *Visual-Language Prompt Tuning with Knowledge-guided Context Optimization*,
//! <https://arxiv.org/abs/2303.13283>. Follows the authors' code at c43ccc3; the published numbers were made with the
//! squared cosine schedule that code had until 98d11b8, which is the default here (`schedule = "cosine"` for the later one).

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use clip::{Clip, model::unit};

use crate::coop::Context;
use crate::losses::{cross_entropy, mean_cosine};
use crate::{
    Batch, Classes, Config, Entry, Init, Loss, Method, Predict, Schedule, Sees, Settings, Training,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "kgcoop",
    title: "KgCoOp",
    source: "https://arxiv.org/abs/2303.13283",
    training: Some(Training {
        schedule: Schedule::CosineSquared,
        ..Training::sgd(100, 128, 0.002)
    }),
    read: |s| Box::new(KgCoOpConfig::read(s)),
};

struct KgCoOpConfig {
    count: usize,
    init: Option<String>,
    weight: f64,
}

impl KgCoOpConfig {
    fn read(s: &mut Settings) -> Self {
        Self {
            count: s.count(
                "n_ctx",
                4,
                1..=72,
                "context vectors, M; the words' count replaces it when `init` is set",
            ),
            init: s.words(
                "init",
                "a photo of a",
                "words the context starts from; none: normal noise of deviation 0.02",
            ),
            weight: s.number(
                "weight",
                8.0,
                0.0..=1000.0,
                "of the distance to hand-written prompts (paper: 8)",
            ),
        }
    }
}

impl Config for KgCoOpConfig {
    fn sees(&self) -> Sees {
        Sees::Features
    }

    fn build(
        &self,
        clip: &Arc<Clip>,
        classes: &Classes,
        init: &mut Init,
    ) -> Result<Box<dyn Method>> {
        let context = Context::at_end(clip, classes, self.init.as_deref(), self.count, init)?;
        let teacher = teacher(clip, classes)?;
        Ok(Box::new(KgCoOp {
            context,
            teacher,
            weight: self.weight,
        }))
    }
}

/// Unit features `[K, E]` of the authors' own hand-written prompts: CoOp's, but for textures.
fn teacher(clip: &Clip, classes: &Classes) -> Result<Tensor> {
    let template = match classes.dataset.as_str() {
        "dtd" => "a photo of a {}, a type of texture.",
        _ => &classes.template,
    };
    unit(&clip.encode_texts(&classes.texts(template))?)
}

struct KgCoOp {
    context: Context,
    teacher: Tensor,
    weight: f64,
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
        Ok(Loss {
            total: (&ce + &distance)?,
            parts: vec![("cross_entropy", ce), ("text_distance", distance)],
        })
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.context.rebind(classes)?;
        self.teacher = teacher(&self.context.clip, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        self.context.cosine()
    }
}
