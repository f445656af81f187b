//! Zero-shot CLIP: hand-written prompts, nothing is learned.
//!
//! Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*,
//! <https://arxiv.org/abs/2103.00020>. The ensemble is that of CoOp's `ZeroshotCLIP2` (ff61507).

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use clip::Clip;

use crate::parts::wording::Wording;
use crate::{
    Backbones, Classes, Config, Cosine, Cost, Entry, Group, ImageCost, Init, Method, Needs,
    Predict, Replay, Settings, TextCost,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "zero-shot",
    title: "Zero-shot CLIP",
    source: "https://arxiv.org/abs/2103.00020",
    group: Group::TrainingFree,
    training: None,
    read: |s| Box::new(ZeroShotConfig::read(s)),
    checkpoint: None,
    replay: Replay::None,
};

#[derive(Clone, Debug)]
struct ZeroShotConfig(Wording);

impl ZeroShotConfig {
    fn read(s: &mut Settings) -> Self {
        let help = "the dataset's own prompt, CoOp's ensemble of 7 (plus the dataset's), or \"a photo of a {}.\"";
        Self(Wording::read(s, &["dataset", "ensemble", "photo"], help))
    }
}

impl Config for ZeroShotConfig {
    fn needs(&self) -> Needs {
        Needs::features()
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, _: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(ZeroShot {
            clip: on.clip.clone(),
            texts: self.0.texts(&on.clip, classes)?,
            wording: self.0.clone(),
        }))
    }
}

struct ZeroShot {
    clip: Arc<Clip>,
    wording: Wording,
    /// `[K, E]`, unit length.
    texts: Tensor,
}

impl Method for ZeroShot {
    fn parameters(&self) -> Vec<(String, Var)> {
        Vec::new()
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.texts = self.wording.texts(&self.clip, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Cosine {
            clip: &self.clip,
            texts: self.texts.clone(),
        }))
    }
}
