//! A context tuned on the views of one test picture at a time, then forgotten: TPT and whoever differs in the loss.
//!
//! `V` views, the first of them the test view, `n` of them kept; `K` classes, `M` context vectors, `W` text width.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, Var, bail};
use clip::Clip;

use super::context::{Context, Start};
use super::views;
use crate::optimizer::{Optimizer, Rule};
use crate::replay::{Comparison, Recording, Stage};
use crate::{
    Classes, Cost, ImageCost, Images, Init, Loss, Method, Needs, Predict, Settings, TextCost,
};

/// How long and how far a picture's context is tuned.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    start: Start,
    views: usize,
    keep: f64,
    steps: usize,
    lr: f64,
    decay: f64,
    augmix: bool,
}

impl Tuning {
    /// The settings, with TPT's defaults.
    pub(crate) fn read(s: &mut Settings) -> Self {
        let start = Start::read(s, 4, "a photo of a");
        let count = views::read_count(s, 64);
        Self {
            start,
            views: count,
            keep: views::read_share(s, 0.1, count),
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
        }
    }

    /// The settings of a recorded run.
    fn recorded(r: &Recording) -> Result<toml::Table> {
        let whole = |key: &str| r.field(key).and_then(serde_json::Value::as_i64);
        let mut table = r.settings(&[("n_ctx", "n_ctx"), ("lambda", "lambda")])?;
        table.insert("init".into(), r.words("ctx_init").into());
        table.insert("views".into(), whole("views").unwrap_or(64).into());
        table.insert("steps".into(), whole("tta_steps").unwrap_or(1).into());
        let keep = r.field("selection_p").and_then(serde_json::Value::as_f64);
        table.insert("keep".into(), keep.unwrap_or(0.1).into());
        table.insert("lr".into(), r.rate(0)?.into());
        Ok(table)
    }

    pub(crate) fn needs(&self) -> Needs {
        Needs::views(self.views, self.augmix)
    }

    /// Of a test picture: the texts once behind each step, the last time to score by, and a gradient of each. Those before
    /// the first step are all pictures' own.
    pub(crate) fn cost(&self) -> Cost {
        Cost {
            text: TextCost {
                forward: self.steps as f64,
                backward: self.steps as f64,
                ..self.start.cost()
            },
            image: ImageCost::FROZEN,
        }
    }
}

/// What a picture's context is tuned for: the loss of the kept views' logits `[n, K]` and the texts `[K, E]`.
pub(crate) type Objective = Box<dyn Fn(&Tensor, &Tensor) -> Result<Loss> + Send + Sync>;

/// A context that is tuned on each test picture.
pub(crate) struct Tuner {
    /// Where every picture starts from: the words, or loaded values (a CoOp context).
    context: Context,
    tuning: Tuning,
    objective: Objective,
}

/// Where every picture starts from: the context, and the texts that it makes, with their graph. They are computed once,
/// for all that a picture adds before its first step is what it asks of them.
struct Started {
    ctx: Var,
    /// `[K, E]`.
    texts: Tensor,
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
    /// Of each step: the loss and its parts.
    losses: Vec<(f64, Vec<f64>)>,
}

impl Tuner {
    pub(crate) fn new(
        clip: &Arc<Clip>,
        classes: &Classes,
        tuning: &Tuning,
        objective: Objective,
        init: &mut Init,
    ) -> Result<Self> {
        Ok(Self {
            context: Context::new(clip, classes, &tuning.start, init)?,
            tuning: tuning.clone(),
            objective,
        })
    }

    fn started(&self) -> Result<Started> {
        let ctx = Var::from_tensor(&self.context.ctx.as_detached_tensor())?;
        let texts = self.context.texts(ctx.as_tensor())?;
        Ok(Started { ctx, texts })
    }

    fn tune(&self, from: &Started, views: &Images) -> Result<Tuned> {
        let clip = &self.context.clip;
        let features = views.unit_features(clip)?; // [V, E]
        let keep = views::kept(features.dim(0)?, self.tuning.keep)?;
        let ctx = Var::from_tensor(&from.ctx.as_detached_tensor())?;
        let named = [("ctx".to_owned(), ctx.clone())];
        let mut optimizer = Optimizer::new(Rule::AdamW, 0.0, self.tuning.decay);
        let (mut kept, mut before, mut gradient) = (Vec::new(), None, None);
        let mut losses = Vec::with_capacity(self.tuning.steps);
        for step in 0..self.tuning.steps {
            let texts = match step {
                0 => from.texts.clone(),
                _ => self.context.texts(ctx.as_tensor())?,
            }; // [K, E]
            let logits = clip.logits(&features, &texts)?; // [V, K]
            if step == 0 {
                before = Some(logits.get(0)?.detach());
                kept = views::confident(&logits.detach(), keep)?;
            }
            let loss = (self.objective)(&views::rows(&logits, &kept)?, &texts)?;
            let value = |t: &Tensor| Ok(f64::from(t.to_scalar::<f32>()?));
            let parts = loss.parts.iter().map(|(_, part)| value(part));
            losses.push((value(&loss.total)?, parts.collect::<Result<_>>()?));
            let mut gradients = loss.total.backward()?;
            if step == 0
                && let Some(first) = gradients.remove(from.ctx.as_tensor())
            {
                gradient = Some(first.detach());
                gradients.insert(ctx.as_tensor(), first);
            }
            optimizer.step(&named, &gradients, self.tuning.lr)?;
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
            losses,
        })
    }
}

impl Method for Tuner {
    /// Not trained before testing; named so that a CoOp context can be loaded to start from.
    fn parameters(&self) -> Vec<(String, Var)> {
        self.context.named()
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.context.rebind(classes)
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(TestTime {
            tuner: self,
            from: self.started()?,
        }))
    }
}

struct TestTime<'a> {
    tuner: &'a Tuner,
    from: Started,
}

impl Predict for TestTime<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        self.tuner.tune(&self.from, images)?.logits.unsqueeze(0)
    }
}

/// Each recorded picture, tuned on from the recorded context. `read` gives the method's tuning and objective; what comes
/// back are the tuned logits `[pictures, K]`.
pub(crate) fn replay(
    stage: &Stage,
    c: &mut Comparison,
    read: impl Fn(&mut Settings) -> (Tuning, Objective),
) -> Result<Tensor> {
    let r = stage.recording;
    let mut settings = Settings::new(Tuning::recorded(r)?);
    let (tuning, objective) = read(&mut settings);
    if let Some(p) = settings.finish().problems.first() {
        bail!("params.{}: {}", p.field, p.message);
    }
    let mut init = Init::seeded(0);
    let tuner = Tuner::new(&stage.clip, &r.classes()?, &tuning, objective, &mut init)?;
    let Some(start) = r.named("init.").into_values().next() else {
        bail!("tensor init.* is missing");
    };
    tuner.context.ctx.set(&start)?;
    let from = tuner.started()?;
    let views = r.get("views")?;
    let (before, after) = (r.get("logits.before")?, r.get("logits.after")?);
    let pictures = views.dim(0)?;
    let Some(losses) = r.numbers("loss")? else {
        bail!("tensor loss is missing");
    };
    // One a step, or that of the last step alone.
    let recorded_steps = losses.len() / pictures.max(1);
    let parts = r.numbers("loss.parts")?;
    let kept: Vec<Vec<i64>> = r.get("selected")?.to_dtype(DType::I64)?.to_vec2()?;
    let finals = r.named("final.").into_values().next();
    let gradient = r.named("grad0.").into_values().next();
    c.choice("pictures", pictures, kept.len());
    let mut scores = Vec::with_capacity(pictures);
    for (picture, kept) in kept.iter().enumerate() {
        let tuned = tuner.tune(&from, &Images::Pixels(views.get(picture)?))?;
        let first = tuned.losses.len().saturating_sub(recorded_steps);
        for (step, (loss, own)) in tuned.losses[first..].iter().enumerate() {
            let row = picture * recorded_steps + step;
            c.loss(*loss, losses[row]);
            if let Some(parts) = &parts {
                // Recorded unweighted; the first is the entropy, the second what enters with -lambda.
                let (entropy, beside) = (parts[2 * row], parts[2 * row + 1]);
                c.loss(own[0], entropy);
                c.loss(own[1], -r.number("lambda")? * beside);
            }
        }
        c.logits(&tuned.before, &before.get(picture)?)?;
        c.logits(&tuned.logits, &after.get(picture)?)?;
        let ours: Vec<i64> = tuned.kept.iter().map(|i| *i as i64).collect();
        c.choice("kept views", &ours, kept);
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
        scores.push(tuned.logits);
        c.steps += 1;
    }
    Tensor::stack(&scores, 0)
}
