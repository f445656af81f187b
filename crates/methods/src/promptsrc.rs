//! PromptSRC: IVLP held near frozen CLIP by three losses, its prompts averaged over epochs by a Gaussian.
//!
//! Khattak et al., *Self-regulating Prompts: Foundational Model Adaptation without Forgetting*,
//! <https://arxiv.org/abs/2307.06948>. Follows the authors' `trainers/promptsrc.py` at bb95c77.
//!
//! `B` images, `K` classes, `E` joint width.
//!
//! Differs: the authors average the whole half-precision state, frozen towers included; here only prompts, in float32.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var, bail};
use clip::{Clip, model::unit};

use crate::parts::image_tokens::tracked;
use crate::parts::independent::{Independent, Sizes};
use crate::parts::losses::{cross_entropy, log_softmax, mean_absolute, softmax};
use crate::parts::{templates, texts};
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Init, Loss,
    Method, Needs, Predict, Replay, Settings, Training,
};

/// Registry entry. Defaults are base-to-novel's. Cross-dataset: depth 3, mean 6, deviation 10. Few-shot: 50 epochs, mean
/// and deviation 30 and 30, or 45 and 5 for Cars, Flowers, Aircraft, DTD and EuroSAT.
pub const ENTRY: Entry = Entry {
    name: "promptsrc",
    title: "PromptSRC",
    source: "https://arxiv.org/abs/2307.06948",
    group: Group::BothTowers,
    training: Some(Training::sgd(20, 4, 0.0025)),
    read: |s| Box::new(PromptSrcConfig::read(s)),
    checkpoint: Some(Checkpoint::WHOLE_MODEL),
    replay: Replay::Steps(&["promptsrc"], |r| {
        let mut table = Sizes::recorded(r)?;
        if let Some(texts) = r.list("teacher_templates") {
            table.insert("teacher_templates".into(), texts);
        }
        // A recorded step counts as an epoch.
        if let Some(weights) = r.numbers("gpa.weights")? {
            let weights = weights.into_iter().map(toml::Value::Float);
            table.insert("gpa_weights".into(), weights.collect::<Vec<_>>().into());
        }
        Ok(table)
    }),
};

struct PromptSrcConfig {
    sizes: Sizes,
    /// Of text distance, image distance and logit divergence.
    weights: [f64; 3],
    mean: f64,
    deviation: f64,
    epoch_weights: Vec<f64>,
    templates: Vec<String>,
}

impl PromptSrcConfig {
    fn read(s: &mut Settings) -> Self {
        let mut config = Self {
            sizes: Sizes::read(s),
            weights: [
                s.number(
                    "text_weight",
                    25.0,
                    0.0..=1e6,
                    "of the L1 distance to the text teacher",
                ),
                s.number(
                    "image_weight",
                    10.0,
                    0.0..=1e6,
                    "of the L1 distance to the image teacher",
                ),
                s.number(
                    "logit_weight",
                    1.0,
                    0.0..=1e6,
                    "of the divergence from the teacher's logits",
                ),
            ],
            mean: s.number(
                "gpa_mean",
                15.0,
                -1e6..=1e6,
                "epoch (1-based) on which the aggregation centres",
            ),
            deviation: s.number("gpa_std", 1.0, 1e-6..=1e6, "its width in epochs"),
            epoch_weights: s.numbers(
                "gpa_weights",
                "aggregation weight of each epoch outright, instead of mean and width",
            ),
            templates: s.texts(
                "teacher_templates",
                "texts the frozen teacher averages, `{}` for the name; none: the published 60",
            ),
        };
        if config.templates.is_empty() {
            config.templates = templates::teacher()
                .into_iter()
                .map(str::to_owned)
                .collect();
        }
        if let Some(bad) = config.templates.iter().find(|t| !t.contains("{}")) {
            s.refuse(
                "teacher_templates",
                format!("{bad:?} has no {{}} for the name"),
            );
        }
        if config.sizes.image == 0 {
            s.refuse(
                "n_ctx_vision",
                "PromptSRC prompts the image tower; use 1 or more",
            );
        }
        config
    }
}

impl Config for PromptSrcConfig {
    fn needs(&self) -> Needs {
        Needs {
            frozen_features: true,
            ..Needs::pixels()
        }
    }

    /// The frozen tower sees each picture too.
    fn cost(&self) -> Cost {
        let own = self.sizes.cost();
        Cost {
            image: ImageCost {
                frozen: 1.0,
                ..own.image
            },
            ..own
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let clip = &on.clip;
        Ok(Box::new(PromptSrc {
            student: Independent::new(clip, classes, &self.sizes, init)?,
            classes: classes.clone(),
            teacher: None,
            templates: self.templates.clone(),
            weights: self.weights,
            gaussian: (self.mean, self.deviation),
            epoch_weights: self.epoch_weights.clone(),
            aggregate: Vec::new(),
        }))
    }
}

/// Unit text features `[K, E]`: per class the mean of un-normalised features over 60 templates, then normalised.
fn teacher(clip: &Clip, classes: &Classes, templates: &[String]) -> Result<Tensor> {
    let texts: Vec<Vec<String>> = templates.iter().map(|t| classes.texts(t)).collect();
    unit(&(texts::sum(clip, &texts, texts::PLAIN)? / templates.len() as f64)?)
}

/// Densities at 1, 2, ... `epochs` of a Gaussian of `(mean, deviation)`, scaled to sum to 1.
fn gaussian_weights((mean, deviation): (f64, f64), epochs: usize) -> Vec<f64> {
    let exponents: Vec<f64> = (1..=epochs)
        .map(|e| -((e as f64 - mean) / deviation).powi(2) / 2.0)
        .collect();
    // Far from the mean every density underflows; their ratios do not.
    let largest = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let densities: Vec<f64> = exponents.iter().map(|x| (x - largest).exp()).collect();
    let sum: f64 = densities.iter().sum();
    densities.iter().map(|d| d / sum).collect()
}

struct PromptSrc {
    student: Independent,
    classes: Classes,
    /// `[K, E]` of `classes`, unit length; computed where a step asks for it, as tests do not.
    teacher: Option<Tensor>,
    templates: Vec<String>,
    weights: [f64; 3],
    gaussian: (f64, f64),
    epoch_weights: Vec<f64>,
    /// Weighted sum of each parameter over the epochs so far, in the order of the parameters.
    aggregate: Vec<Tensor>,
}

impl PromptSrc {
    fn teacher(&mut self) -> Result<Tensor> {
        let teacher = match self.teacher.take() {
            Some(teacher) => teacher,
            None => teacher(&self.student.clip, &self.classes, &self.templates)?,
        };
        Ok(self.teacher.insert(teacher).clone())
    }

    fn epoch_weight(&self, epoch: usize, epochs: usize) -> Result<f64> {
        if !self.epoch_weights.is_empty() {
            if self.epoch_weights.len() != epochs {
                bail!(
                    "gpa_weights: {} weights for {epochs} epochs; give one an epoch",
                    self.epoch_weights.len()
                );
            }
            return Ok(self.epoch_weights[epoch]);
        }
        Ok(gaussian_weights(self.gaussian, epochs)[epoch])
    }
}

impl Method for PromptSrc {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.student.parameters()
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let teacher = self.teacher()?;
        let clip = &self.student.clip;
        let images = self.student.images(&batch.images, tracked)?; // [B, E]
        let texts = self.student.texts(tracked)?; // [K, E]
        let frozen = batch.frozen_features(clip)?; // [B, E]
        let logits = clip.logits(&images, &texts)?; // [B, K]
        let wanted = clip.logits(&frozen, &teacher)?; // [B, K]
        let ce = cross_entropy(&logits, &batch.labels)?;
        let text = (mean_absolute(&texts, &teacher)? * self.weights[0])?;
        let image = (mean_absolute(&images, &frozen)? * self.weights[1])?;
        // Divided by all B K elements, as published, not by B.
        let divergence =
            (softmax(&wanted)? * (log_softmax(&wanted)? - log_softmax(&logits)?)?)?.mean_all()?;
        let logit = (divergence * self.weights[2])?;
        Loss::sum(vec![
            ("cross_entropy", ce),
            ("text_l1", text),
            ("image_l1", image),
            ("logit_kl", logit),
        ])
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let names = self.parameters().into_iter().map(|(name, _)| name);
        names
            .zip(&self.aggregate)
            .map(|(name, sum)| (format!("aggregate.{name}"), sum.clone()))
            .collect()
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let names = self.parameters().into_iter();
        let sums = names.map(|(name, _)| state.get(&format!("aggregate.{name}")).cloned());
        // None at all before the first epoch has ended, and after the last.
        self.aggregate = sums.collect::<Option<_>>().unwrap_or_default();
        if self.aggregate.len() != state.len() {
            bail!("the running averages in the state are not those of these prompts");
        }
        Ok(())
    }

    fn end_epoch(&mut self, epoch: usize, epochs: usize) -> Result<()> {
        let weight = self.epoch_weight(epoch, epochs)?;
        let now = self
            .parameters()
            .into_iter()
            .map(|(_, v)| v.as_detached_tensor() * weight)
            .collect::<Result<Vec<_>>>()?;
        self.aggregate = if epoch == 0 {
            now
        } else {
            self.aggregate
                .iter()
                .zip(now)
                .map(|(sum, now)| sum + now)
                .collect::<Result<_>>()?
        };
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        for ((_, var), value) in self.parameters().into_iter().zip(&self.aggregate) {
            var.set(value)?;
        }
        self.aggregate.clear();
        Ok(())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.student.bind(classes)?;
        self.classes.clone_from(classes);
        self.teacher = None;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        self.student.predictor()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregation_weights_are_the_published_ones() {
        let weights = gaussian_weights((15.0, 1.0), 20);
        for (epoch, want) in [
            (13, 0.054),
            (14, 0.242),
            (15, 0.399),
            (16, 0.242),
            (17, 0.054),
        ] {
            assert!(
                (weights[epoch - 1] - want).abs() < 5e-4,
                "{epoch}: {}",
                weights[epoch - 1]
            );
        }
    }

    #[test]
    fn weights_far_from_the_mean_are_numbers_that_sum_to_one() {
        for (mean, deviation) in [(1e6, 1e-6), (45.0, 1.0), (-300.0, 5.0), (3.0, 1e-6)] {
            let weights = gaussian_weights((mean, deviation), 5);
            assert!(
                (weights.iter().sum::<f64>() - 1.0).abs() < 1e-12,
                "{mean} {deviation}: {weights:?}"
            );
        }
        assert_eq!(
            gaussian_weights((45.0, 1.0), 5)
                .iter()
                .rposition(|w| *w > 0.5),
            Some(4),
            "the nearest epoch leads"
        );
    }
}
