//! CLIP-Adapter: two small layers behind the image tower, blended with what comes out of it.
//!
//! Gao et al., *CLIP-Adapter: Better Vision-Language Models with Feature Adapters*, <https://arxiv.org/abs/2110.04544>.
//! Follows the authors' `clip_adapter.py` at 08d07f8, the released image adapter.
//!
//! `B` images, `K` classes, `E` joint width.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use clip::{Clip, model::unit};

use crate::parts::adapter::{Adapter, read_reduction};
use crate::parts::described::Classifier;
use crate::parts::image_tokens::tracked;
use crate::parts::losses::cross_entropy;
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init,
    Loss, Method, Needs, Predict, Replay, Settings, TextCost, Training,
};

/// Registry entry. The authors release no configuration; the trainer is written for CoOp's, whose 200 epochs, batch of 32
/// and rate of 0.002 these are.
pub const ENTRY: Entry = Entry {
    name: "clip-adapter",
    title: "CLIP-Adapter",
    source: "https://arxiv.org/abs/2110.04544",
    group: Group::Features,
    training: Some(Training::sgd(200, 32, 0.002)),
    read: |s| Box::new(AdapterConfig::read(s)),
    checkpoint: Some(Checkpoint {
        folder: "clip_adapter",
        module: Some("adapter."),
    }),
    replay: Replay::Steps(&["clip_adapter"], |r| {
        r.settings(&[("ratio", "ratio"), ("reduction", "reduction")])
    }),
};

struct AdapterConfig {
    ratio: f64,
    reduction: usize,
    base: Classifier,
}

impl AdapterConfig {
    fn read(s: &mut Settings) -> Self {
        let ratio = "share of the adapted feature (0.2 in the released code; the paper chooses it by dataset)";
        Self {
            ratio: s.number("ratio", 0.2, 0.0..=1.0, ratio),
            reduction: read_reduction(s),
            base: Classifier::read(s),
        }
    }
}

impl Config for AdapterConfig {
    fn needs(&self) -> Needs {
        self.base.needs(Needs::features())
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let width = on.clip.embedding_size();
        let mut method = ClipAdapter {
            clip: on.clip.clone(),
            adapter: Adapter::new(width, self.reduction, self.ratio, init)?,
            texts: on.clip.logit_scale.clone(),
            base: self.base,
        };
        method.bind(classes)?;
        Ok(Box::new(method))
    }
}

struct ClipAdapter {
    clip: Arc<Clip>,
    adapter: Adapter,
    /// `[K, E]`, unit length, of the dataset's own prompt, or of descriptions.
    texts: Tensor,
    base: Classifier,
}

impl ClipAdapter {
    /// `[B, K]`.
    fn scores(&self, images: &Images, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let features = images.features(&self.clip)?; // [B, E]
        let blend = self.adapter.blend(&features, &of)?;
        self.clip.logits(&unit(&blend)?, &self.texts)
    }
}

impl Method for ClipAdapter {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.adapter.named("adapter")
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let scores = self.scores(&batch.images, tracked)?;
        Ok(cross_entropy(&scores, &batch.labels)?.into())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        let hand_written = || unit(&self.clip.encode_texts(&classes.texts(&classes.template))?);
        self.texts = self.base.texts(&self.clip, classes, hand_written)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Trained(self)))
    }
}

struct Trained<'a>(&'a ClipAdapter);

impl Predict for Trained<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        self.0.scores(images, Var::as_detached_tensor)
    }
}
