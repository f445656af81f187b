//! TPT: tune the context on one test picture at a time, so that its views agree; then forget.
//!
//! Shu et al., *Test-Time Prompt Tuning for Zero-Shot Generalization*, <https://arxiv.org/abs/2209.07511>.
//! Follows the authors' `tpt_classification.py` at 63ecbac.
//!
//! Differs: no autocast, hence no GradScaler, which skips a picture's step when its half-precision gradient overflows.
//!
//! `V` views, the first of them the test view; `K` classes, `E` joint width.

use crate::optimizer::{Optimizer, Rule};
use crate::parts::context::{Context, Start};
use crate::parts::losses::log_softmax;
use crate::replay::{Comparison, Stage};
use crate::{
    Backbones, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Method, Needs,
    Predict, Replay, Settings, TextCost,
};
use candle_core::{D, Result, Tensor, Var, bail};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "tpt",
    title: "TPT",
    source: "https://arxiv.org/abs/2209.07511",
    group: Group::TestTime,
    training: None,
    read: |s| Box::new(TptConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["tpt"], replay),
};

#[derive(Clone, Debug)]
struct TptConfig {
    start: Start,
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
            start: Start::read(s, 4, "a photo of a"),
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
    fn needs(&self) -> Needs {
        Needs::views(self.views, self.augmix)
    }

    /// Of a test picture: the texts once to tune on and once to score by.
    fn cost(&self) -> Cost {
        Cost {
            text: TextCost {
                forward: 2.0,
                ..self.start.cost()
            },
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let context = Context::new(&on.clip, classes, &self.start, init)?;
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
struct Tuned {
    /// `[K]` of the test view with the tuned context.
    logits: Tensor,
    /// `[K]` of the test view before.
    before: Tensor,
    /// The tuned context `[M, W]`.
    context: Tensor,
    /// Gradient of the first step.
    gradient: Option<Tensor>,
    /// Views that were kept, ascending.
    kept: Vec<usize>,
    /// Loss of the last step.
    loss: f64,
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

/// Each recorded picture, tuned on from the recorded context.
fn replay(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let whole = |key: &str| r.field(key).and_then(serde_json::Value::as_i64);
    let mut table = r.settings(&[("n_ctx", "n_ctx")])?;
    table.insert("init".into(), r.words("ctx_init").into());
    table.insert("views".into(), whole("views").unwrap_or(64).into());
    table.insert("steps".into(), whole("tta_steps").unwrap_or(1).into());
    let keep = r.field("selection_p").and_then(serde_json::Value::as_f64);
    table.insert("keep".into(), keep.unwrap_or(0.1).into());
    table.insert("lr".into(), r.rate(0)?.into());
    let mut settings = Settings::new(table);
    let config = TptConfig::read(&mut settings);
    if let Some(p) = settings.finish().problems.first() {
        bail!("params.{}: {}", p.field, p.message);
    }
    let classes = r.classes()?;
    let context = Context::new(&stage.clip, &classes, &config.start, &mut Init::seeded(0))?;
    let tpt = Tpt { context, config };
    let Some(start) = r.named("init.").into_values().next() else {
        bail!("tensor init.* is missing");
    };
    tpt.context.ctx.set(&start)?;
    let views = r.get("views")?;
    let (before, after) = (r.get("logits.before")?, r.get("logits.after")?);
    let Some(losses) = r.numbers("loss")? else {
        bail!("tensor loss is missing");
    };
    let kept: Vec<Vec<i64>> = r
        .get("selected")?
        .to_dtype(candle_core::DType::I64)?
        .to_vec2()?;
    let finals = r.named("final.").into_values().next();
    let gradient = r.named("grad0.").into_values().next();
    for picture in 0..views.dim(0)? {
        let tuned = tpt.tune(&Images::Pixels(views.get(picture)?))?;
        c.loss(tuned.loss, losses[picture]);
        c.logits(&tuned.before, &before.get(picture)?)?;
        c.logits(&tuned.logits, &after.get(picture)?)?;
        let ours: Vec<i64> = tuned.kept.iter().map(|i| *i as i64).collect();
        c.choice("kept views", &ours, &kept[picture]);
        if let Some(want) = &finals {
            let own = if want.rank() == 3 {
                want.get(picture)?
            } else {
                want.clone()
            };
            c.values("context", &tuned.context, &own)?;
        }
        if let (Some(want), Some(ours)) = (&gradient, &tuned.gradient) {
            if want.rank() == 3 {
                c.gradient("context", ours, &want.get(picture)?)?;
            } else if picture == 0 {
                c.gradient("context", ours, want)?;
            }
        }
        c.steps += 1;
    }
    Ok(())
}
