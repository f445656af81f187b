//! PromptSRC: IVLP held near frozen CLIP by three losses, its prompts averaged over epochs by a Gaussian.
//!
//! Khattak et al., *Self-regulating Prompts: Foundational Model Adaptation without Forgetting*,
//! <https://arxiv.org/abs/2307.06948>. Follows the authors' `trainers/promptsrc.py` at bb95c77.
//!
//! `B` images, `K` classes, `E` joint width.
//!
//! Differs: the authors average the whole half-precision state, frozen towers included; here only prompts, in float32.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use clip::{Clip, model::unit};

use crate::ivlp::{Independent, Sizes, tracked};
use crate::losses::{cross_entropy, log_softmax, mean_absolute, softmax};
use crate::{Batch, Classes, Config, Entry, Images, Init, Loss, Method, Predict, Sees, Settings, Training, templates};

/// Registry entry. Defaults are base-to-novel's. Cross-dataset: depth 3, mean 6, deviation 10. Few-shot: 50 epochs, mean
/// and deviation 30 and 30, or 45 and 5 for Cars, Flowers, Aircraft, DTD and EuroSAT.
pub const ENTRY: Entry = Entry {
    name: "promptsrc",
    title: "PromptSRC",
    source: "https://arxiv.org/abs/2307.06948",
    training: Some(Training::sgd(20, 4, 0.0025)),
    read: |s| Box::new(PromptSrcConfig::read(s)),
};

struct PromptSrcConfig {
    sizes: Sizes,
    /// Of text distance, image distance and logit divergence.
    weights: [f64; 3],
    mean: f64,
    deviation: f64,
    epoch_weights: Vec<f64>,
}

impl PromptSrcConfig {
    fn read(s: &mut Settings) -> Self {
        let config = Self {
            sizes: Sizes::read(s),
            weights: [
                s.number("text_weight", 25.0, 0.0..=1e6, "of the L1 distance to the text teacher"),
                s.number("image_weight", 10.0, 0.0..=1e6, "of the L1 distance to the image teacher"),
                s.number("logit_weight", 1.0, 0.0..=1e6, "of the divergence from the teacher's logits"),
            ],
            mean: s.number("gpa_mean", 15.0, -1e6..=1e6, "epoch (1-based) on which the aggregation centres"),
            deviation: s.number("gpa_std", 1.0, 1e-6..=1e6, "its width in epochs"),
            epoch_weights: s.numbers("gpa_weights", "aggregation weight of each epoch outright, instead of mean and width"),
        };
        if config.sizes.image == 0 {
            s.refuse("n_ctx_vision", "PromptSRC prompts the image tower; use 1 or more");
        }
        config
    }
}

impl Config for PromptSrcConfig {
    fn sees(&self) -> Sees {
        Sees::Pixels
    }

    fn build(&self, clip: &Arc<Clip>, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(PromptSrc {
            student: Independent::new(clip, classes, &self.sizes, init)?,
            teacher: teacher(clip, classes)?,
            weights: self.weights,
            gaussian: (self.mean, self.deviation),
            epoch_weights: self.epoch_weights.clone(),
            aggregate: Vec::new(),
        }))
    }
}

/// Unit text features `[K, E]`: per class the mean of un-normalised features over 60 templates, then normalised.
fn teacher(clip: &Clip, classes: &Classes) -> Result<Tensor> {
    let templates = templates::teacher();
    let mut sum: Option<Tensor> = None;
    for template in &templates {
        let features = clip.encode_texts(&classes.texts(template))?;
        sum = Some(match sum {
            None => features,
            Some(sum) => (sum + features)?,
        });
    }
    unit(&(sum.expect("there are templates") / templates.len() as f64)?)
}

struct PromptSrc {
    student: Independent,
    teacher: Tensor,
    weights: [f64; 3],
    gaussian: (f64, f64),
    epoch_weights: Vec<f64>,
    /// Weighted sum of each parameter over the epochs so far, in the order of the parameters.
    aggregate: Vec<Tensor>,
}

impl PromptSrc {
    fn epoch_weight(&self, epoch: usize, epochs: usize) -> f64 {
        if let Some(w) = self.epoch_weights.get(epoch) {
            return *w;
        }
        let (mean, deviation) = self.gaussian;
        let density = |e: usize| (-((e + 1) as f64 - mean).powi(2) / (2.0 * deviation * deviation)).exp();
        density(epoch) / (0..epochs).map(density).sum::<f64>()
    }
}

impl Method for PromptSrc {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.student.parameters()
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let clip = &self.student.clip;
        let images = self.student.images(&batch.images, tracked)?; // [B, E]
        let texts = self.student.texts(tracked)?; // [K, E]
        let frozen = Images::Pixels(batch.images.pixels()?.clone()).unit_features(clip)?; // [B, E]
        let logits = clip.logits(&images, &texts)?; // [B, K]
        let wanted = clip.logits(&frozen, &self.teacher)?; // [B, K]
        let ce = cross_entropy(&logits, &batch.labels)?;
        let text = (mean_absolute(&texts, &self.teacher)? * self.weights[0])?;
        let image = (mean_absolute(&images, &frozen)? * self.weights[1])?;
        // Divided by all B K elements, as published, not by B.
        let divergence = (softmax(&wanted)? * (log_softmax(&wanted)? - log_softmax(&logits)?)?)?.mean_all()?;
        let logit = (divergence * self.weights[2])?;
        let total = (((&ce + &text)? + &image)? + &logit)?;
        Ok(Loss {
            total,
            parts: vec![("cross_entropy", ce), ("text_l1", text), ("image_l1", image), ("logit_kl", logit)],
        })
    }

    fn end_epoch(&mut self, epoch: usize, epochs: usize) -> Result<()> {
        let weight = self.epoch_weight(epoch, epochs);
        let now = self.parameters().into_iter().map(|(_, v)| v.as_detached_tensor() * weight).collect::<Result<Vec<_>>>()?;
        self.aggregate = if epoch == 0 {
            now
        } else {
            self.aggregate.iter().zip(now).map(|(sum, now)| sum + now).collect::<Result<_>>()?
        };
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        for ((_, var), value) in self.parameters().into_iter().zip(&self.aggregate) {
            var.set(value)?;
        }
        Ok(())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.student.bind(classes)?;
        self.teacher = teacher(&self.student.clip, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        self.student.predictor()
    }
}
