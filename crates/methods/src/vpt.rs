//! Deep vision prompting: learned tokens in the image tower, hand-written texts.
//!
//! Jia et al., *Visual Prompt Tuning*, <https://arxiv.org/abs/2203.12119>, as the `VPT` trainer of MaPLe's code (69bce21)
//! has it: 8 tokens, all 12 layers, texts "a photo of a {}." for every dataset.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use clip::{Clip, model::unit};

use crate::parts::image_tokens::{ImageTokens, Prompted, tracked};
use crate::parts::losses::cross_entropy;
use crate::parts::templates;
use crate::settings::Depth;
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Init, Loss,
    Method, Needs, Predict, Replay, TextCost, Training,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "vpt",
    title: "VPT",
    source: "https://arxiv.org/abs/2203.12119",
    group: Group::BothTowers,
    training: Some(Training::sgd(5, 4, 0.0025)),
    read: |s| {
        Box::new(VptConfig {
            count: s.count(
                "n_ctx",
                8,
                1..=512,
                "prompt tokens (8, though the published file is named for 4)",
            ),
            depth: s.depth("depth", 12, "prompted image layers, J, the input included"),
        })
    },
    checkpoint: Some(Checkpoint::WHOLE_MODEL),
    replay: Replay::Steps(&["vpt"], |r| {
        r.settings(&[("n_ctx_vision", "n_ctx"), ("depth", "depth")])
    }),
};

struct VptConfig {
    count: usize,
    depth: Depth,
}

impl Config for VptConfig {
    fn needs(&self) -> Needs {
        Needs::pixels()
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::trained(self.count),
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let clip = &on.clip;
        let image = ImageTokens::new(clip, self.count, Some(self.depth), init)?;
        Ok(Box::new(Vpt {
            clip: clip.clone(),
            image,
            texts: texts(clip, classes)?,
        }))
    }
}

fn texts(clip: &Clip, classes: &Classes) -> Result<Tensor> {
    unit(&clip.encode_texts(&classes.texts(templates::PHOTO))?)
}

struct Vpt {
    clip: Arc<Clip>,
    image: ImageTokens,
    /// `[K, E]`, unit length.
    texts: Tensor,
}

impl Method for Vpt {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.image.named()
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let tower = self.clip.transformer()?;
        let images = unit(&tower.encode(batch.images.pixels()?, &self.image.prompt(tracked))?)?; // [B, E]
        Ok(cross_entropy(&self.clip.logits(&images, &self.texts)?, &batch.labels)?.into())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.texts = texts(&self.clip, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        let prompt = self.image.prompt(Var::as_detached_tensor);
        Ok(Box::new(Prompted {
            clip: &self.clip,
            texts: self.texts.clone(),
            prompt,
        }))
    }
}
