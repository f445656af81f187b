//! TaskRes: a learned offset to each class's text feature; no tower is run while training.
//!
//! Yu et al., *Task Residual for Tuning Vision-Language Models*, <https://arxiv.org/abs/2211.10277>.
//! Follows the authors' `trainers/taskres.py` at 5195359, with their regular base.
//!
//! `B` images, `K` classes, `E` joint width.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use clip::{Clip, model::unit};

use crate::parts::described::Classifier;
use crate::parts::losses::cross_entropy;
use crate::parts::{rows::Rows, templates, texts};
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init,
    Loss, Method, Needs, Predict, Replay, Rule, Settings, TextCost, Training,
};

/// Registry entry, as the authors' `adam_lr2e-3_B256_ep200.yaml` (100 epochs for 1 to 4 shots; 2e-4 on ImageNet).
pub const ENTRY: Entry = Entry {
    name: "taskres",
    title: "TaskRes",
    source: "https://arxiv.org/abs/2211.10277",
    group: Group::Features,
    training: Some(Training {
        optimizer: Rule::Adam,
        ..Training::sgd(200, 256, 0.002)
    }),
    read: |s| Box::new(TaskResConfig::read(s)),
    checkpoint: Some(Checkpoint::PROMPT_LEARNER),
    replay: Replay::Steps(&["taskres"], |r| r.settings(&[("alpha", "alpha")])),
};

struct TaskResConfig {
    alpha: f64,
    base: Classifier,
}

impl TaskResConfig {
    fn read(s: &mut Settings) -> Self {
        let help = "of the residuals (paper: 0.5; 1 on Flowers102)";
        Self {
            alpha: s.number("alpha", 0.5, 0.0..=100.0, help),
            base: Classifier::read(s),
        }
    }
}

impl Config for TaskResConfig {
    fn needs(&self) -> Needs {
        self.base.needs(Needs::features())
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, _: &mut Init) -> Result<Box<dyn Method>> {
        let mut used = templates::on_features(classes);
        if used.len() > 1 {
            used.push(&classes.template); // the ensemble of ImageNet has the dataset's own, too
        }
        // Names as they are written: the authors leave `_` to the tokenizer.
        let hand_written = || texts::mean(&on.clip, &classes.written, &used);
        let texts = self.base.texts(&on.clip, classes, hand_written)?;
        Ok(Box::new(TaskRes {
            clip: on.clip.clone(),
            rows: Rows::new(classes)?,
            residuals: Var::from_tensor(&texts.zeros_like()?)?,
            texts,
            alpha: self.alpha,
        }))
    }
}

struct TaskRes {
    clip: Arc<Clip>,
    /// Classes that the residuals belong to.
    rows: Rows,
    /// `[K, E]`, frozen, not normalised.
    texts: Tensor,
    /// `[K, E]`.
    residuals: Var,
    alpha: f64,
}

impl TaskRes {
    /// `[B, K]` of the trained classes.
    fn scores(&self, images: &Images, residuals: &Tensor) -> Result<Tensor> {
        let images = images.unit_features(&self.clip)?; // [B, E]
        let texts = unit(&(&self.texts + (residuals * self.alpha)?)?)?; // [K, E]
        self.clip.logits(&images, &texts)
    }
}

impl Method for TaskRes {
    fn parameters(&self) -> Vec<(String, Var)> {
        let name = "prompt_learner.text_feature_residuals";
        vec![(name.to_owned(), self.residuals.clone())]
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let scores = self.scores(&batch.images, self.residuals.as_tensor())?;
        Ok(cross_entropy(&scores, &batch.labels)?.into())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.rows.bind(classes)
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Trained {
            method: self,
            residuals: self.residuals.as_detached_tensor(),
        }))
    }
}

struct Trained<'a> {
    method: &'a TaskRes,
    residuals: Tensor,
}

impl Predict for Trained<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let scores = self.method.scores(images, &self.residuals)?;
        self.method.rows.of(&scores)
    }
}
