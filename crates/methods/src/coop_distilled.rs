//! CoOp with distillation to zero-shot: CoOp for continual learning, whose context must not make CLIP forget the classes met
//! before, nor what it knew of these without learning.
//!
//! What is published: CoOp itself (<https://arxiv.org/abs/2109.01134>, `trainers/coop.py` at ff61507); keeping old outputs by
//! distillation while training on new pictures alone (LwF, <https://arxiv.org/abs/1606.09282>), from the original CLIP as teacher
//! and with its soft cross entropy times `t^2` (ZSCL, <https://arxiv.org/abs/2303.06628>, `mtil/src/models/finetune.py` of
//! github.com/Thunderbeee/ZSCL at 08c6ef6, which tunes the towers and distils on pictures of ImageNet); and, of prompts, a
//! divergence between zero-shot and prompted scores (ProGrad, <https://arxiv.org/abs/2205.14865>, which only turns the gradient
//! by it).
//!
//! What is ours: putting these together for one shared context, with the hand-written prompts of every class met so far as
//! what is distilled. No released code is followed, and no published number is of it.
//!
//! `K` classes of the running stage, `S` classes met before that are none of these, `B` images, `E` joint width:
//!
//! `CE(scores[.., ..K]) + weight * t^2 * KL(softmax(zero-shot / t) || softmax(scores / t))`, the second over all `K + S`.

use std::collections::BTreeMap;

use candle_core::{D, Result, Tensor, Var};
use clip::{TextPlan, model::unit};

use crate::parts::context::{Context, Start};
use crate::parts::losses::{cross_entropy, log_softmax, softmax};
use crate::parts::seen::{self, Known};
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Init, Loss,
    Method, Needs, Predict, Replay, Settings, Training,
};

/// Registry entry, trained as CoOp is.
pub const ENTRY: Entry = Entry {
    name: "coop-distilled",
    title: "CoOp, distilled",
    source: "https://arxiv.org/abs/1606.09282",
    group: Group::TextPrompts,
    training: Some(Training::sgd(200, 32, 0.002)),
    read: |s| Box::new(DistilledConfig::read(s)),
    checkpoint: Some(Checkpoint::PROMPT_LEARNER),
    replay: Replay::None,
};

struct DistilledConfig {
    start: Start,
    weight: f64,
    temperature: f64,
}

impl DistilledConfig {
    fn read(s: &mut Settings) -> Self {
        let help = "of the distillation (ZSCL: 1)";
        Self {
            start: Start::read(s, 16, ""),
            weight: s.number("weight", 1.0, 0.0..=1000.0, help),
            temperature: s.number(
                "temperature",
                2.0,
                0.01..=1000.0,
                "of the distillation, t (LwF and ZSCL: 2)",
            ),
        }
    }
}

impl Config for DistilledConfig {
    fn needs(&self) -> Needs {
        Needs::features()
    }

    /// The texts of classes met before are not counted.
    fn cost(&self) -> Cost {
        Cost {
            text: self.start.cost(),
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let context = Context::new(&on.clip, classes, &self.start, init)?;
        let bound = Known::of(classes);
        Ok(Box::new(Distilled {
            taught: Taught::new(&context, &bound, &[])?,
            context,
            bound,
            seen: Vec::new(),
            weight: self.weight,
            temperature: self.temperature,
        }))
    }
}

/// What is distilled.
struct Taught {
    /// `[K + S, E]`, unit length: hand-written prompts of the classes bound and of those met before.
    by_hand: Tensor,
    /// Learned texts of the `S`, where there are any.
    before: Option<TextPlan>,
}

impl Taught {
    fn new(context: &Context, bound: &[Known], seen: &[Known]) -> Result<Self> {
        let others: Vec<&Known> = seen
            .iter()
            .filter(|k| !bound.iter().any(|b| b.is(k)))
            .collect();
        let texts = bound.iter().chain(others.iter().copied()).map(Known::text);
        let by_hand = context.clip.encode_texts(&texts.collect::<Vec<_>>())?;
        let names: Vec<String> = others.iter().map(|k| k.name.clone()).collect();
        let before = (!names.is_empty()).then(|| context.plan_of(&Classes::new(&names, "", "{}")));
        Ok(Self {
            by_hand: unit(&by_hand)?,
            before: before.transpose()?,
        })
    }
}

struct Distilled {
    context: Context,
    bound: Vec<Known>,
    /// Classes that earlier stages ended with.
    seen: Vec<Known>,
    taught: Taught,
    weight: f64,
    temperature: f64,
}

impl Method for Distilled {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.context.named()
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        seen::state(&self.seen)
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        if let Some(other) = state.keys().find(|name| *name != seen::KEPT) {
            candle_core::bail!("{other} is no state of this method");
        }
        self.seen = seen::restored(state)?;
        self.taught = Taught::new(&self.context, &self.bound, &self.seen)?;
        Ok(())
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let (clip, ctx) = (&self.context.clip, self.context.ctx.as_tensor());
        let images = batch.images.unit_features(clip)?; // [B, E]
        let own = self.context.texts(ctx)?; // [K, E]
        let texts = match &self.taught.before {
            None => own.clone(),
            Some(plan) => {
                let before = unit(&self.context.raw_texts_of(plan, ctx)?)?; // [S, E]
                Tensor::cat(&[&own, &before], 0)?
            }
        };
        let ce = cross_entropy(&clip.logits(&images, &own)?, &batch.labels)?;
        let t = self.temperature;
        let student = log_softmax(&(clip.logits(&images, &texts)? / t)?)?; // [B, K + S]
        let teacher = (clip.logits(&images, &self.taught.by_hand)? / t)?;
        let soft = softmax(&teacher)?;
        let gap = (log_softmax(&teacher)? - student)?;
        let kl = (soft * gap)?.sum(D::Minus1)?.mean_all()?;
        let distilled = (kl * (self.weight * t * t))?;
        Loss::sum(vec![("cross_entropy", ce), ("distillation", distilled)])
    }

    /// The classes of the stage that ends have been met from now on.
    fn finish(&mut self) -> Result<()> {
        let new = self
            .bound
            .iter()
            .filter(|k| !self.seen.iter().any(|s| s.is(k)));
        self.seen.extend(new.cloned().collect::<Vec<_>>());
        Ok(())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.context.rebind(classes)?;
        self.bound = Known::of(classes);
        self.taught = Taught::new(&self.context, &self.bound, &self.seen)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        self.context.cosine()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{base, batch, build, clip, flat, noise, novel};
    use candle_core::Device;

    fn parts(method: &mut dyn Method, labels: [u32; 4]) -> Vec<f32> {
        let labels = Tensor::new(&labels, &Device::Cpu).unwrap();
        let loss = method.loss(&Batch { labels, ..batch() }).unwrap();
        loss.parts
            .iter()
            .map(|(_, p)| p.to_scalar().unwrap())
            .collect()
    }

    #[test]
    fn a_context_of_the_teachers_own_words_has_nothing_to_be_distilled() {
        let photo = Classes {
            template: "a photo of a {}.".to_owned(),
            ..base()
        };
        let mut method = build("coop-distilled", "init = \"a photo of a\"", &clip());
        method.bind(&photo).unwrap();
        let [_, distilled] = parts(method.as_mut(), [0, 1, 2, 0])[..] else {
            panic!("two parts")
        };
        assert!(distilled.abs() < 1e-5, "{distilled}");
        method.parameters()[0]
            .1
            .set(&noise(&[4, 64], 1, 0.5))
            .unwrap();
        assert!(parts(method.as_mut(), [0, 1, 2, 0])[1] > 1e-3);
    }

    #[test]
    fn distillation_is_the_divergence_worked_out_by_hand_over_all_classes_met() {
        let clip = clip();
        let mut method = build(
            "coop-distilled",
            "n_ctx = 2\nweight = 3.0\ntemperature = 4.0",
            &clip,
        );
        method.parameters()[0]
            .1
            .set(&noise(&[2, 64], 1, 0.5))
            .unwrap();
        method.finish().unwrap();
        method.bind(&novel()).unwrap();
        let got = parts(method.as_mut(), [0, 1, 1, 0]);
        // All five classes, those of the running stage first.
        let names = [novel().names, base().names].concat();
        let all = Classes::new(&names, "eurosat", &base().template);
        let scores = |classes: &Classes, name: &str, config: &str| -> Vec<Vec<f32>> {
            let mut other = build(name, config, &clip);
            if name == "coop" {
                let value = method.parameters()[0].1.as_detached_tensor();
                other.parameters()[0].1.set(&value).unwrap();
            }
            other.bind(classes).unwrap();
            let logits = other.predictor().unwrap().logits(&batch().images);
            logits.unwrap().to_vec2().unwrap()
        };
        let (student, teacher) = (
            scores(&all, "coop", "n_ctx = 2"),
            scores(&all, "zero-shot", ""),
        );
        let soft = |row: &[f32]| -> Vec<f64> {
            let e: Vec<f64> = row.iter().map(|s| (f64::from(*s) / 4.0).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.iter().map(|e| e / sum).collect()
        };
        let kl: f64 = teacher
            .iter()
            .zip(&student)
            .map(|(p, q)| {
                let (p, q) = (soft(p), soft(q));
                p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>()
            })
            .sum();
        let want = 3.0 * 16.0 * kl / 4.0;
        assert!(
            (f64::from(got[1]) - want).abs() < 1e-4 * want,
            "{} {want}",
            got[1]
        );
        // Cross entropy asks about the running stage alone.
        let mut coop = build("coop", "n_ctx = 2", &clip);
        coop.parameters()[0]
            .1
            .set(&method.parameters()[0].1.as_detached_tensor())
            .unwrap();
        coop.bind(&novel()).unwrap();
        assert_eq!(parts(coop.as_mut(), [0, 1, 1, 0])[0], got[0]);
    }

    #[test]
    fn classes_met_are_state_and_each_is_met_once() {
        let mut method = build("coop-distilled", "n_ctx = 2", &clip());
        assert!(method.state().is_empty());
        for classes in [base(), novel(), base()] {
            method.bind(&classes).unwrap();
            method.finish().unwrap();
        }
        let state: BTreeMap<_, _> = method.state().into_iter().collect();
        let seen = seen::restored(&state).unwrap();
        assert_eq!(seen.len(), 5);
        let mut again = build("coop-distilled", "n_ctx = 2", &clip());
        again.restore(&state).unwrap();
        let kept = again.state();
        assert_eq!(
            flat(&kept[0].1.to_dtype(candle_core::DType::F32).unwrap()).len(),
            state[seen::KEPT].elem_count()
        );
        assert_eq!(
            parts(method.as_mut(), [0, 1, 2, 0]),
            parts(again.as_mut(), [0, 1, 2, 0])
        );
        let wrong = BTreeMap::from([("buffer".to_owned(), noise(&[1], 1, 1.0))]);
        assert!(
            again
                .restore(&wrong)
                .unwrap_err()
                .to_string()
                .contains("buffer")
        );
    }
}
