//! Zero-shot CLIP: hand-written prompts, nothing is learned.
//!
//! Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*,
//! <https://arxiv.org/abs/2103.00020>. The ensemble is that of CoOp's `ZeroshotCLIP2` (ff61507).

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use clip::Clip;

use crate::parts::{templates, texts};
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
    read: |s| Box::new(Templates::read(s)),
    checkpoint: None,
    replay: Replay::None,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Templates {
    Dataset,
    Ensemble,
    Photo,
}

impl Templates {
    fn read(s: &mut Settings) -> Self {
        let help = "the dataset's own prompt, CoOp's ensemble of 7 (plus the dataset's), or \"a photo of a {}.\"";
        match s.choice("templates", &["dataset", "ensemble", "photo"], help) {
            "ensemble" => Self::Ensemble,
            "photo" => Self::Photo,
            _ => Self::Dataset,
        }
    }
}

impl Config for Templates {
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
        let mut method = ZeroShot {
            clip: on.clip.clone(),
            templates: *self,
            texts: on.clip.logit_scale.clone(),
        };
        method.bind(classes)?;
        Ok(Box::new(method))
    }
}

struct ZeroShot {
    clip: Arc<Clip>,
    templates: Templates,
    /// `[K, E]`, unit length.
    texts: Tensor,
}

impl Method for ZeroShot {
    fn parameters(&self) -> Vec<(String, Var)> {
        Vec::new()
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        let mut used: Vec<&str> = match self.templates {
            Templates::Dataset => vec![&classes.template],
            Templates::Photo => vec![templates::PHOTO],
            Templates::Ensemble => templates::SELECTED.to_vec(),
        };
        if self.templates == Templates::Ensemble && templates::joins_the_ensemble(&classes.dataset)
        {
            used.push(&classes.template);
        }
        self.texts = texts::averaged(&self.clip, &classes.names, &used)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Cosine {
            clip: &self.clip,
            texts: self.texts.clone(),
        }))
    }
}
