//! Task residuals: a learned offset to each class's text feature; no tower is run while training.
//!
//! Yu et al., *Task Residual for Tuning Vision-Language Models*, <https://arxiv.org/abs/2211.10277>.
//! Follows the authors' `trainers/taskres.py` at 293cc9e, with their regular base.
//!
//! `B` images, `K` classes, `E` joint width.
//!
//! Differs: on ImageNet the authors start from an ensemble of eight templates, here from the dataset's own.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var, bail};
use clip::{Clip, model::unit};

use crate::parts::losses::cross_entropy;
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cosine, Cost, Entry, Group, ImageCost, Init,
    Loss, Method, Needs, Predict, Replay, Rule, Settings, TextCost, Training,
};

/// Registry entry, as the authors' `adam_lr2e-3_B256_ep200.yaml`; they have a file for 100 epochs too.
pub const ENTRY: Entry = Entry {
    name: "task-residual",
    title: "TaskRes",
    source: "https://arxiv.org/abs/2211.10277",
    group: Group::Features,
    training: Some(Training {
        optimizer: Rule::Adam,
        ..Training::sgd(200, 256, 0.002)
    }),
    read: |s| Box::new(TaskResidualConfig::read(s)),
    checkpoint: Some(Checkpoint::PROMPT_LEARNER),
    replay: Replay::Steps(&["taskres"], |r| r.settings(&[("alpha", "scale")])),
};

struct TaskResidualConfig {
    scale: f64,
}

impl TaskResidualConfig {
    fn read(s: &mut Settings) -> Self {
        Self {
            scale: s.number(
                "scale",
                1.0,
                0.0..=100.0,
                "of the residuals, alpha (the authors give one for each dataset)",
            ),
        }
    }
}

impl Config for TaskResidualConfig {
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
        let texts = on.clip.encode_texts(&classes.texts(&classes.template))?;
        let residuals = Var::from_tensor(&texts.zeros_like()?)?;
        Ok(Box::new(TaskResidual {
            clip: on.clip.clone(),
            owners: classes.clone(),
            texts,
            residuals,
            scale: self.scale,
        }))
    }
}

struct TaskResidual {
    clip: Arc<Clip>,
    /// Classes that the residuals belong to.
    owners: Classes,
    /// `[K, E]`, frozen, not normalised.
    texts: Tensor,
    /// `[K, E]`.
    residuals: Var,
    scale: f64,
}

impl TaskResidual {
    /// Class features `[K, E]`, unit length.
    fn classifier(&self, residuals: &Tensor) -> Result<Tensor> {
        unit(&(&self.texts + (residuals * self.scale)?)?)
    }
}

impl Method for TaskResidual {
    fn parameters(&self) -> Vec<(String, Var)> {
        vec![(
            "prompt_learner.text_feature_residuals".into(),
            self.residuals.clone(),
        )]
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let images = batch.images.unit_features(&self.clip)?; // [B, E]
        let texts = self.classifier(self.residuals.as_tensor())?; // [K, E]
        Ok(cross_entropy(&self.clip.logits(&images, &texts)?, &batch.labels)?.into())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        if *classes != self.owners {
            bail!(
                "residuals belong to the classes they were trained on and cannot be used with others"
            );
        }
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        let texts = self.classifier(&self.residuals.as_detached_tensor())?;
        Ok(Box::new(Cosine {
            clip: &self.clip,
            texts,
        }))
    }
}
