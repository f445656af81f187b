//! TPT: tune the context on one test picture at a time, so that its views agree; then forget.
//!
//! Shu et al., *Test-Time Prompt Tuning for Zero-Shot Generalization*, <https://arxiv.org/abs/2209.07511>.
//! Follows the authors' `tpt_classification.py` at 63ecbac.
//!
//! Differs: no autocast, hence no GradScaler, which skips a picture's step when its half-precision gradient overflows.
//!
//! `V` views, the first of them the test view; `K` classes, `E` joint width.

use std::sync::Arc;

use candle_core::{D, Result, Tensor, Var, bail};
use clip::Clip;

use crate::coop::Context;
use crate::losses::log_softmax;
use crate::optimizer::{Optimizer, Rule};
use crate::{Batch, Classes, Config, Entry, Images, Init, Loss, Method, Predict, Sees, Settings};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "tpt",
    title: "TPT",
    source: "https://arxiv.org/abs/2209.07511",
    training: None,
    read: |s| Box::new(TptConfig::read(s)),
};

#[derive(Clone, Debug)]
struct TptConfig {
    count: usize,
    words: Option<String>,
    views: usize,
    keep: f64,
    steps: usize,
    lr: f64,
    decay: f64,
    augmix: bool,
}

impl TptConfig {
    fn read(s: &mut Settings) -> Self {
        let config = Self {
            count: s.count(
                "n_ctx",
                4,
                1..=72,
                "context vectors, M; the words' count replaces it when `init` is set",
            ),
            words: s.words(
                "init",
                "a photo of a",
                "words the context starts from; none: noise",
            ),
            views: s.count(
                "views",
                64,
                2..=4096,
                "views of a picture, the test view included",
            ),
            keep: s.number(
                "keep",
                0.1,
                0.0..=1.0,
                "share of views, those of lowest entropy, that are kept",
            ),
            steps: s.count("steps", 1, 1..=1000, "AdamW steps a picture"),
            lr: s.number("lr", 5e-3, 0.0..=100.0, "of AdamW"),
            decay: s.number(
                "weight_decay",
                1e-2,
                0.0..=10.0,
                "of AdamW (PyTorch's default, as published)",
            ),
            augmix: s.flag(
                "augmix",
                true,
                "AugMix on the views of fine-grained datasets (never on ImageNet's, as published)",
            ),
        };
        if (config.views as f64 * config.keep) < 1.0 {
            s.refuse(
                "keep",
                format!(
                    "{} of {} views leaves none; keep at least one",
                    config.keep, config.views
                ),
            );
        }
        config
    }
}

impl Config for TptConfig {
    fn sees(&self) -> Sees {
        Sees::Views {
            count: self.views,
            augmix: self.augmix,
        }
    }

    fn build(
        &self,
        clip: &Arc<Clip>,
        classes: &Classes,
        init: &mut Init,
    ) -> Result<Box<dyn Method>> {
        let context = Context::at_end(clip, classes, self.words.as_deref(), self.count, init)?;
        Ok(Box::new(Tpt {
            context,
            config: self.clone(),
        }))
    }
}

struct Tpt {
    /// Its context is where every picture starts from: the words, or loaded values (a CoOp context).
    context: Context,
    config: TptConfig,
}

/// What tuning on one picture gave.
pub struct Tuned {
    /// `[K]` of the test view with the tuned context.
    pub logits: Tensor,
    /// `[K]` of the test view before.
    pub before: Tensor,
    /// The tuned context `[M, W]`.
    pub context: Tensor,
    /// Gradient of the first step.
    pub gradient: Option<Tensor>,
    /// Views that were kept, ascending.
    pub kept: Vec<usize>,
    /// Loss of the last step.
    pub loss: f64,
}

/// Indices of the `keep` rows of lowest entropy of `[V, K]` logits, ascending.
///
/// # Errors
/// Those of candle.
pub fn confident(logits: &Tensor, keep: usize) -> Result<Vec<usize>> {
    let log_p = log_softmax(logits)?;
    let entropy: Vec<f32> = (log_p.exp()? * &log_p)?.sum(D::Minus1)?.neg()?.to_vec1()?;
    let mut order: Vec<usize> = (0..entropy.len()).collect();
    order.sort_by(|a, b| entropy[*a].total_cmp(&entropy[*b]));
    order.truncate(keep);
    order.sort_unstable();
    Ok(order)
}

/// Entropy of the mean of the rows' distributions; `[n, K]` to a scalar.
///
/// # Errors
/// Those of candle.
pub fn mean_entropy(logits: &Tensor) -> Result<Tensor> {
    let log_p = log_softmax(logits)?;
    let n = log_p.dim(0)? as f64;
    let top = log_p.max_keepdim(0)?.detach();
    let mean = (log_p
        .broadcast_sub(&top)?
        .exp()?
        .sum_keepdim(0)?
        .log()?
        .add(&top)?
        - n.ln())?;
    // A probability that underflows has no entropy, not a NaN.
    let mean = mean.maximum(f64::from(f32::MIN))?;
    (mean.exp()? * mean)?.sum_all()?.neg()
}

impl Tpt {
    fn tune(&self, views: &Images) -> Result<Tuned> {
        let clip = &self.context.clip;
        let features = views.unit_features(clip)?; // [V, E]
        let count = features.dim(0)?;
        let keep = (count as f64 * self.config.keep) as usize;
        if keep == 0 {
            bail!(
                "{count} views and keep = {} leave none to tune on",
                self.config.keep
            );
        }
        let ctx = Var::from_tensor(&self.context.ctx.as_detached_tensor())?;
        let named = [("ctx".to_owned(), ctx.clone())];
        let mut optimizer = Optimizer::new(Rule::AdamW, 0.0, self.config.decay);
        let (mut kept, mut before, mut gradient, mut last) = (Vec::new(), None, None, 0.0);
        for step in 0..self.config.steps {
            let logits = clip.logits(&features, &self.context.texts(ctx.as_tensor())?)?; // [V, K]
            if step == 0 {
                before = Some(logits.get(0)?.detach());
                kept = confident(&logits.detach(), keep)?;
            }
            let rows: Vec<u32> = kept.iter().map(|i| *i as u32).collect();
            let loss =
                mean_entropy(&logits.index_select(&Tensor::new(rows, logits.device())?, 0)?)?;
            last = f64::from(loss.to_scalar::<f32>()?);
            let gradients = loss.backward()?;
            if step == 0 {
                gradient = gradients.get(ctx.as_tensor()).map(Tensor::detach);
            }
            optimizer.step(&named, &gradients, self.config.lr)?;
        }
        let tuned = ctx.as_detached_tensor();
        let logits = clip
            .logits(&features.narrow(0, 0, 1)?, &self.context.texts(&tuned)?)?
            .get(0)?;
        let before = before.expect("there is at least one step");
        Ok(Tuned {
            logits,
            before,
            context: tuned,
            gradient,
            kept,
            loss: last,
        })
    }
}

impl Method for Tpt {
    /// Not trained before testing; named so that a CoOp context can be loaded to start from.
    fn parameters(&self) -> Vec<(String, Var)> {
        self.context.named()
    }

    fn loss(&mut self, _: &Batch) -> Result<Loss> {
        bail!("TPT has no training set; it tunes while it predicts")
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.context.rebind(classes)
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(TestTime { method: self }))
    }
}

struct TestTime<'a> {
    method: &'a Tpt,
}

impl Predict for TestTime<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        self.method.tune(images)?.logits.unsqueeze(0)
    }
}

/// Everything that tuning on one picture gives, for replaying recorded runs.
///
/// # Errors
/// Those of the towers, and bad settings.
pub fn tune_once(
    config: &toml::Table,
    clip: &Arc<Clip>,
    classes: &Classes,
    ctx: &Tensor,
    views: &Images,
) -> Result<Tuned> {
    let mut settings = Settings::new(config.clone());
    let config = TptConfig::read(&mut settings);
    if let Some(p) = settings.finish().problems.first() {
        bail!("{}: {}", p.field, p.message);
    }
    let context = Context::at_end(
        clip,
        classes,
        config.words.as_deref(),
        config.count,
        &mut Init::seeded(0),
    )?;
    let tpt = Tpt { context, config };
    tpt.context.ctx.set(ctx)?;
    tpt.tune(views)
}
