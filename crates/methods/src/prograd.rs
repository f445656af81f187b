//! ProGrad: CoOp whose gradient never points against what zero-shot CLIP knows.
//!
//! Zhu et al., *Prompt-aligned Gradient for Prompt Tuning*, <https://arxiv.org/abs/2205.14865>.
//! Follows the authors' code (Prompt-align at 1b76203).

use candle_core::backprop::GradStore;
use candle_core::{D, Result, Tensor, Var, bail};
use clip::{Clip, model::unit};

use crate::parts::context::Context;
use crate::parts::layout::{placeholder, word_count, word_embeddings};
use crate::parts::losses::{cross_entropy, log_softmax, softmax};
use crate::parts::templates;
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Init, Loss,
    Method, Needs, Predict, Replay, Settings, TextCost, Training,
};

/// Registry entry. Epochs as CoOp's: 50, 100, 100, 200, 200 for 1, 2, 4, 8, 16 shots.
pub const ENTRY: Entry = Entry {
    name: "prograd",
    title: "ProGrad",
    source: "https://arxiv.org/abs/2205.14865",
    group: Group::TextPrompts,
    training: Some(Training::sgd(200, 32, 0.002)),
    read: |s| Box::new(ProGradConfig::read(s)),
    checkpoint: Some(Checkpoint::PROMPT_LEARNER),
    replay: Replay::Steps(&["prograd"], |r| {
        let mut table = r.settings(&[("n_ctx", "n_ctx")])?;
        table.insert("init".into(), r.words("ctx_init").into());
        Ok(table)
    }),
};

#[derive(Clone, Debug)]
struct ProGradConfig {
    count: usize,
    init: Option<String>,
    lambda: f64,
    temperature: f64,
}

impl ProGradConfig {
    /// Of the classes' dataset when the words are its template's.
    fn lead(&self, classes: &Classes) -> Result<Lead> {
        let words = match self.init.as_deref() {
            Some("template") => templates::of("prograd", classes)
                .split("{}")
                .next()
                .unwrap_or_default()
                .trim(),
            Some(words) => words,
            None => "",
        };
        let count = if words.is_empty() {
            0
        } else {
            word_count(words)
        };
        if count > self.count {
            bail!(
                "the {count} words {words:?} do not fit into n_ctx = {}",
                self.count
            );
        }
        Ok(Lead {
            free: self.count - count,
            words: words.to_owned(),
        })
    }

    fn read(s: &mut Settings) -> Self {
        Self {
            count: s.count("n_ctx", 16, 1..=72, "context vectors, M"),
            init: s.words("init", "template", "words the last vectors start from, zeros before: \"template\" takes those of the dataset's template; none: normal noise"),
            lambda: s.number("lambda", 1.0, 0.0..=10.0, "share of the opposing part that is removed (0.8 for 8 and 16 shots of Flowers102, DTD, EuroSAT)"),
            temperature: s.number("temperature", 1.0, 0.01..=100.0, "of the distillation loss"),
        }
    }
}

impl Config for ProGradConfig {
    fn needs(&self) -> Needs {
        Needs::features()
    }

    /// One pass back for each of the two gradients.
    fn cost(&self) -> Cost {
        Cost {
            text: TextCost {
                backward: 2.0,
                ..TextCost::trained(self.count)
            },
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let clip = &on.clip;
        let width = clip.text.width();
        let lead = self.lead(classes)?;
        let ctx = if lead.words.is_empty() {
            init.normal(&[self.count, width], 0.02)?
        } else {
            // Words are counted by spaces though a comma is a token of its own: its last token stays a frozen one.
            let values = word_embeddings(clip, &lead.words, self.count - lead.free)?;
            let zeros = Tensor::zeros((lead.free, width), values.dtype(), values.device())?;
            if lead.free == 0 {
                values
            } else {
                Tensor::cat(&[zeros, values], 0)?
            }
        };
        let context = Context::of_values(clip, classes, ctx, lead.text())?;
        Ok(Box::new(ProGrad {
            context,
            teacher: teacher(clip, classes)?,
            config: self.clone(),
        }))
    }
}

/// What stands before the class name while it is tokenized.
struct Lead {
    /// `X`s before the words.
    free: usize,
    words: String,
}

impl Lead {
    fn text(&self) -> String {
        format!("{} {}", placeholder(self.free), self.words)
            .trim()
            .to_owned()
    }
}

fn teacher(clip: &Clip, classes: &Classes) -> Result<Tensor> {
    unit(&clip.encode_texts(&classes.texts(templates::of("prograd", classes)))?)
}

struct ProGrad {
    context: Context,
    /// `[K, E]`, unit length.
    teacher: Tensor,
    config: ProGradConfig,
}

impl Method for ProGrad {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.context.named()
    }

    /// The total is the cross entropy; the distillation loss only steers its gradient.
    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let clip = &self.context.clip;
        let images = batch.images.unit_features(clip)?; // [B, E]
        let student = clip.logits(&images, &self.context.texts(self.context.ctx.as_tensor())?)?; // [B, K]
        let teacher = clip.logits(&images, &self.teacher)?; // [B, K]
        let ce = cross_entropy(&student, &batch.labels)?;
        let t = self.config.temperature;
        let soft = softmax(&(teacher / t)?)?;
        let kl = ((soft * log_softmax(&(student / t)?)?)?
            .sum(D::Minus1)?
            .mean_all()?
            * (-t * t))?;
        Ok(Loss {
            total: ce.clone(),
            parts: vec![("cross_entropy", ce)],
            beside: vec![("kl", kl)],
        })
    }

    /// `g_ce`, less `lambda` times its part along `g_kd` where the two disagree.
    fn gradients(&self, loss: &Loss) -> Result<GradStore> {
        let mut grads = loss.total.backward()?;
        let Some((_, kl)) = loss.beside.first() else {
            return Ok(grads);
        };
        let guide = kl.backward()?;
        for (_, var) in self.parameters() {
            let (Some(g), Some(d)) = (
                grads.get(var.as_tensor()).cloned(),
                guide.get(var.as_tensor()),
            ) else {
                continue;
            };
            let norm = d.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
            if norm == 0.0 {
                continue;
            }
            let direction = (d / f64::from(norm))?;
            let along = (&g * &direction)?.sum_all()?.to_scalar::<f32>()?;
            if along < 0.0 {
                grads.insert(
                    var.as_tensor(),
                    (g - (direction * (self.config.lambda * f64::from(along)))?)?,
                );
            }
        }
        Ok(grads)
    }

    /// The context's values stay; the placeholder is the new dataset's own, whose last token can be a frozen one.
    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.context
            .rebind_behind(classes, self.config.lead(classes)?.text())?;
        self.teacher = teacher(&self.context.clip, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        self.context.cosine()
    }
}
