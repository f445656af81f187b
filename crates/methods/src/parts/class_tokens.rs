//! Context tokens that a small network makes of each class's frozen features: TCP, and DeKg on it.
//!
//! `B` images, `K` classes, `M` context vectors, `W` text width, `E` joint width, `h = E / 4`.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var, bail};
use clip::{At, Clip, DeepText, How, TextPlan, TextPrompt, model::unit};

use super::image_tokens::tracked;
use super::layout::{sequences_before, variable};
use super::losses::{cross_entropy, hsic, mean_cosine, quick_gelu};
use super::templates;
use crate::replay::{Comparison, Stage, follow};
use crate::settings::Depth;
use crate::{
    Backbones, Batch, Classes, Config, Cosine, Cost, ImageCost, Init, Loss, Method, Needs, Predict,
    Settings, TextCost, load_parameters,
};

/// Settings.
pub(crate) struct ClassTokensConfig {
    count: usize,
    depth: Depth,
    weight: f64,
    /// Of the dependence on the frozen features, where the method has that term.
    dependence: Option<f64>,
}

impl ClassTokensConfig {
    /// With `dependence` as the default of that term's weight, or without the term.
    pub(crate) fn read(s: &mut Settings, dependence: Option<f64>) -> Self {
        Self {
            count: s.count(
                "n_ctx",
                4,
                1..=72,
                "context vectors, M; they start from noise",
            ),
            depth: s.depth(
                "depth",
                9,
                "text block, the first is 1, before which the class's tokens replace the context",
            ),
            weight: s.number(
                "weight",
                8.0,
                0.0..=1000.0,
                "of the distance to hand-written prompts (paper: 8)",
            ),
            dependence: dependence.map(|published| {
                s.number(
                    "dependence_weight",
                    published,
                    0.0..=1000.0,
                    "of the dependence on hand-written prompts (released scripts: 6)",
                )
            }),
        }
    }

    fn make(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<ClassTokens> {
        let clip = &on.clip;
        let (w, e) = (clip.text.width(), clip.embedding_size());
        let hidden = (e / 4).max(1);
        let ctx = init.normal(&[self.count, w], 0.02)?;
        let (w1, b1) = init.linear(hidden, e)?;
        let (w2, b2) = init.linear(self.count * w, hidden)?;
        let (plan, teacher) = bound(clip, classes, self.count)?;
        Ok(ClassTokens {
            clip: clip.clone(),
            ctx: variable(&ctx)?,
            meta: [
                variable(&w1)?,
                variable(&b1)?,
                variable(&w2)?,
                variable(&b2)?,
            ],
            count: self.count,
            block: self.depth.within(clip.text.depth())? - 1,
            weight: self.weight,
            dependence: self.dependence,
            plan,
            teacher,
        })
    }
}

impl Config for ClassTokensConfig {
    fn needs(&self) -> Needs {
        Needs::features()
    }

    /// Each class has rows of its own from its tokens on.
    fn cost(&self) -> Cost {
        Cost {
            text: TextCost {
                shared: 0,
                ..TextCost::trained(self.count)
            },
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(self.make(on, classes, init)?))
    }
}

/// The sequences of `classes`, context row `k M + i` in each, and unit features `[K, E]` of the hand-written prompts.
fn bound(clip: &Clip, classes: &Classes, count: usize) -> Result<(TextPlan, Tensor)> {
    let rest = templates::listed_or("tcp-learned", classes, "{}.");
    let sequences = sequences_before(clip.text.wording(), classes, rest, count, |class, i| {
        class * count + i
    })?;
    let plan = clip.text.plan(&sequences)?;
    let teacher = clip.encode_texts(&classes.texts(templates::of("tcp", classes)))?;
    Ok((plan, unit(&teacher)?))
}

/// The method, bound.
pub(crate) struct ClassTokens {
    clip: Arc<Clip>,
    /// `[M, W]`.
    ctx: Var,
    /// First weight `[h, E]` and bias, second `[M W, h]` and bias.
    meta: [Var; 4],
    count: usize,
    /// Before which the class's tokens replace the context, 0-based.
    block: usize,
    weight: f64,
    dependence: Option<f64>,
    plan: TextPlan,
    /// `[K, E]`, unit length.
    teacher: Tensor,
}

impl ClassTokens {
    /// Tokens of each class, `[K, M, W]`.
    fn class_tokens(&self, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let [w1, b1, w2, b2] = &self.meta;
        let hidden = self.teacher.matmul(&of(w1).t()?)?.broadcast_add(&of(b1))?; // [K, h]
        let tokens = quick_gelu(&hidden)?
            .matmul(&of(w2).t()?)?
            .broadcast_add(&of(b2))?; // [K, M W]
        tokens.reshape((self.teacher.dim(0)?, self.count, self.clip.text.width()))
    }

    /// Class features `[K, E]`, not normalised.
    fn texts(&self, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let (k, m, w) = (self.teacher.dim(0)?, self.count, self.clip.text.width());
        let context = of(&self.ctx).reshape((1, m, w))?.broadcast_as((k, m, w))?;
        let tokens = self.class_tokens(of)?;
        let prompt = TextPrompt {
            context: Some(context.reshape((k * m, w))?),
            deep: vec![DeepText {
                block: self.block,
                at: At::Context,
                rows: tokens.reshape((k * m, w))?,
                how: How::Instead,
            }],
            ..TextPrompt::default()
        };
        self.clip.text.encode(&self.plan, &prompt)
    }
}

impl Method for ClassTokens {
    fn parameters(&self) -> Vec<(String, Var)> {
        let names = [
            "linear1.weight",
            "linear1.bias",
            "linear2.weight",
            "linear2.bias",
        ];
        let meta = names
            .iter()
            .zip(&self.meta)
            .map(|(n, v)| (format!("prompt_learner.meta_net.{n}"), v.clone()));
        [("prompt_learner.ctx".to_owned(), self.ctx.clone())]
            .into_iter()
            .chain(meta)
            .collect()
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let images = batch.images.unit_features(&self.clip)?; // [B, E]
        let raw = self.texts(tracked)?; // [K, E]
        let texts = unit(&raw)?;
        let ce = cross_entropy(&self.clip.logits(&images, &texts)?, &batch.labels)?;
        let distance = mean_cosine(&texts, &self.teacher)?.affine(-self.weight, self.weight)?;
        let mut parts = vec![("cross_entropy", ce), ("text_distance", distance)];
        if let Some(weight) = self.dependence {
            // Of features as they leave the tower, unlike DeKg's own.
            parts.push(("dependence", (hsic(&raw, &self.teacher)? * weight)?));
        }
        Loss::sum(parts)
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        (self.plan, self.teacher) = bound(&self.clip, classes, self.count)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Cosine {
            clip: &self.clip,
            texts: unit(&self.texts(Var::as_detached_tensor)?)?,
        }))
    }
}

/// Replays a recorded run: training steps, frozen features and generated tokens.
pub(crate) fn compare(stage: &Stage, c: &mut Comparison, dependence: Option<f64>) -> Result<()> {
    let r = stage.recording;
    let mut table = r.settings(&[
        ("n_ctx", "n_ctx"),
        ("w", "weight"),
        ("w_hsic", "dependence_weight"),
    ])?;
    table.insert("depth".into(), (r.count("layer")? as i64 + 1).into());
    let config = stage.typed(table, |s| ClassTokensConfig::read(s, dependence))?;
    let classes = r.classes()?;
    let mut method = config.make(&stage.clip.clone().into(), &classes, &mut Init::seeded(0))?;
    load_parameters(&method, &r.named("init."))?;
    c.values("teacher.text", &method.teacher, r.get("teacher.text")?)?;
    follow(stage, &mut method, &mut r.optimizer()?, c)?;
    let names = r.texts("novel_classnames");
    for (suffix, names) in [(".novel", names), ("", r.texts("classnames"))] {
        let Some(names) = names else { continue };
        method.bind(&r.classes_of(&names))?;
        let recorded = format!("teacher.text{suffix}");
        c.values(&recorded, &method.teacher, r.get(&recorded)?)?;
        let tokens = if suffix.is_empty() {
            "class_tokens.after"
        } else {
            "class_tokens.novel"
        };
        if let Some(theirs) = r.tensors.get(tokens) {
            let ours = method.class_tokens(Var::as_detached_tensor)?;
            c.values(tokens, &ours, theirs)?;
        } else if stage.entry.name == "tcp" {
            bail!("tensor {tokens} is missing");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{base, build, clip, flat, noise};

    fn method(settings: &str) -> ClassTokens {
        let table = settings.parse().unwrap();
        let config = ClassTokensConfig::read(&mut Settings::new(table), None);
        let on = clip().into();
        config.make(&on, &base(), &mut Init::seeded(1)).unwrap()
    }

    /// Learned class features `[K, E]`.
    fn texts(method: &ClassTokens) -> Vec<Vec<f32>> {
        method
            .texts(Var::as_detached_tensor)
            .unwrap()
            .to_vec2()
            .unwrap()
    }

    #[test]
    fn frozen_features_of_a_class_make_the_tokens_of_that_class_alone() {
        let mut method = method("");
        let before = texts(&method);
        let e = method.clip.embedding_size();
        let other = unit(&noise(&[1, e], 5, 1.0)).unwrap();
        let rest = method.teacher.narrow(0, 1, 2).unwrap();
        method.teacher = Tensor::cat(&[&other, &rest], 0).unwrap();
        let after = texts(&method);
        assert_ne!(before[0], after[0]);
        assert_eq!(before[1..], after[1..]);
    }

    #[test]
    fn the_context_is_heard_before_the_block_of_the_tokens_only() {
        let other = |method: &ClassTokens| {
            let shape = method.ctx.dims().to_vec();
            method.ctx.set(&noise(&shape, 9, 1.0)).unwrap();
        };
        // At the first block the tokens stand in its place.
        let first = method("depth = 1");
        let before = texts(&first);
        other(&first);
        assert_eq!(before, texts(&first));
        let second = method("depth = 2");
        let before = texts(&second);
        other(&second);
        assert_ne!(before, texts(&second));
    }

    #[test]
    fn tokens_are_the_network_worked_out_by_hand() {
        let mut method = method("n_ctx = 1");
        let (w, e) = (method.clip.text.width(), method.clip.embedding_size());
        // One hidden unit that sees 1: quick-GELU gives 0.8457958, doubled by every weight, plus a tenth.
        let [w1, b1, w2, b2] = &method.meta;
        let hidden = b1.dims()[0];
        let mut first = vec![0f32; hidden * e];
        first[0] = 1.0;
        let mut second = vec![0f32; w * hidden];
        for row in 0..w {
            second[row * hidden] = 2.0;
        }
        let of = |data, shape: &[usize]| Tensor::from_vec(data, shape, b1.device()).unwrap();
        w1.set(&of(first, &[hidden, e])).unwrap();
        b1.set(&b1.zeros_like().unwrap()).unwrap();
        w2.set(&of(second, &[w, hidden])).unwrap();
        b2.set(&of(vec![0.1f32; w], &[w])).unwrap();
        let mut seen = vec![0f32; e];
        seen[0] = 1.0;
        method.teacher = of(seen, &[1, e]);
        let tokens = method.class_tokens(Var::as_detached_tensor).unwrap();
        assert_eq!(tokens.dims(), [1, 1, w]);
        for got in flat(&tokens) {
            assert!((got - (2.0 * 0.845_795_8 + 0.1)).abs() < 1e-5, "{got}");
        }
    }

    #[test]
    fn dependence_adds_its_own_part_and_no_other() {
        let clip = clip();
        let parts = |name: &str| {
            let loss = build(name, "", &clip).loss(&crate::tests::batch()).unwrap();
            let part = |(name, t): &(_, Tensor)| (*name, t.to_scalar::<f32>().unwrap());
            loss.parts.iter().map(part).collect::<Vec<(&str, f32)>>()
        };
        let (without, with) = (parts("tcp"), parts("dekg-tcp"));
        assert_eq!(with[..2], without[..]);
        assert!(with[2].0 == "dependence" && with[2].1 > 0.0, "{with:?}");
    }
}
