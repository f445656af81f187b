//! CLIP-Adapter: two small layers behind the image tower, blended with what comes out of it.
//!
//! Gao et al., *CLIP-Adapter: Better Vision-Language Models with Feature Adapters*, <https://arxiv.org/abs/2110.04544>.
//! Follows the authors' `clip_adapter.py` at 08d07f8, the released image adapter.
//!
//! `B` images, `K` classes, `E` joint width, `H` hidden width.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use clip::{Clip, model::unit};

use crate::parts::losses::{cross_entropy, relu};
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
}

impl AdapterConfig {
    fn read(s: &mut Settings) -> Self {
        let ratio = "share of the adapted feature (0.2 in the released code; the paper chooses it by dataset)";
        let reduction = "joint width over hidden width";
        Self {
            ratio: s.number("ratio", 0.2, 0.0..=1.0, ratio),
            reduction: s.count("reduction", 4, 1..=4096, reduction),
        }
    }
}

impl Config for AdapterConfig {
    fn needs(&self) -> Needs {
        Needs::features()
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let width = on.clip.embedding_size();
        let hidden = (width / self.reduction).max(1);
        // `torch.nn.Linear` without a bias draws its weight and nothing more.
        let mut layer = |out: usize, inner: usize| {
            Var::from_tensor(&init.uniform(&[out, inner], 1.0 / (inner as f64).sqrt())?)
        };
        let mut method = Adapter {
            clip: on.clip.clone(),
            down: layer(hidden, width)?,
            up: layer(width, hidden)?,
            texts: on.clip.logit_scale.clone(),
            ratio: self.ratio,
        };
        method.bind(classes)?;
        Ok(Box::new(method))
    }
}

struct Adapter {
    clip: Arc<Clip>,
    /// `[H, E]`.
    down: Var,
    /// `[E, H]`.
    up: Var,
    /// `[K, E]`, unit length, of the dataset's own prompt.
    texts: Tensor,
    ratio: f64,
}

impl Adapter {
    /// `[B, K]` with `down` and `up` as the layers.
    fn scores(&self, images: &Images, down: &Tensor, up: &Tensor) -> Result<Tensor> {
        let features = images.features(&self.clip)?; // [B, E]
        let hidden = relu(&features.matmul(&down.t()?)?)?; // [B, H]
        // The second ReLU too: the blend adds nothing below zero, and is of features that are not normalised yet.
        let adapted = relu(&hidden.matmul(&up.t()?)?)?; // [B, E]
        let blend = ((adapted * self.ratio)? + (features * (1.0 - self.ratio))?)?;
        self.clip.logits(&unit(&blend)?, &self.texts)
    }
}

impl Method for Adapter {
    fn parameters(&self) -> Vec<(String, Var)> {
        vec![
            ("adapter.fc.0.weight".into(), self.down.clone()),
            ("adapter.fc.2.weight".into(), self.up.clone()),
        ]
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let scores = self.scores(&batch.images, self.down.as_tensor(), self.up.as_tensor())?;
        Ok(cross_entropy(&scores, &batch.labels)?.into())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.texts = unit(&self.clip.encode_texts(&classes.texts(&classes.template))?)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Trained {
            method: self,
            down: self.down.as_detached_tensor(),
            up: self.up.as_detached_tensor(),
        }))
    }
}

struct Trained<'a> {
    method: &'a Adapter,
    down: Tensor,
    up: Tensor,
}

impl Predict for Trained<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        self.method.scores(images, &self.down, &self.up)
    }
}
