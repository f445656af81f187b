//! C-TPT: TPT whose tuned texts must also stay spread out, because prompts that disperse them are calibrated.
//!
//! Yoon et al., *C-TPT: Calibrated Test-Time Prompt Tuning for Vision-Language Models via Text Feature Dispersion*,
//! <https://arxiv.org/abs/2403.14119>. Follows the authors' `tpt_classification.py` at 085e6c2, run type `tpt_ctpt`.
//!
//! Differs: no autocast, hence no GradScaler. Which datasets have AugMix is TPT's choice; the authors' script for
//! ImageNet and its variants mixes there too.
//!
//! `K` classes, `E` joint width.

use candle_core::{D, DType, Result, Tensor, bail};

use crate::parts::losses::softmax;
use crate::parts::tuning::{self, Objective, Tuner, Tuning};
use crate::parts::views::mean_entropy;
use crate::replay::{Comparison, Stage};
use crate::{
    Backbones, Classes, Config, Cost, Entry, Group, Init, Loss, Method, Needs, Replay, Settings,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "ctpt",
    title: "C-TPT",
    source: "https://arxiv.org/abs/2403.14119",
    group: Group::TestTime,
    training: None,
    read: |s| Box::new(CtptConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["ctpt"], replay),
};

#[derive(Clone, Debug)]
struct CtptConfig {
    tuning: Tuning,
    lambda: f64,
}

impl CtptConfig {
    fn read(s: &mut Settings) -> Self {
        Self {
            tuning: Tuning::read(s),
            lambda: s.number(
                "lambda",
                50.0,
                0.0..=1e6,
                "weight of the texts' dispersion (published: 50 on fine-grained datasets, 20 on ImageNet and its variants)",
            ),
        }
    }

    /// The kept views' entropy less the weighted dispersion.
    fn objective(&self) -> Objective {
        let lambda = self.lambda;
        Box::new(move |kept, texts| {
            Loss::sum(vec![
                ("entropy", mean_entropy(kept)?),
                ("dispersion", (dispersion(texts)? * -lambda)?),
            ])
        })
    }
}

impl Config for CtptConfig {
    fn needs(&self) -> Needs {
        self.tuning.needs()
    }

    fn cost(&self) -> Cost {
        self.tuning.cost()
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let tuner = Tuner::new(&on.clip, classes, &self.tuning, self.objective(), init)?;
        Ok(Box::new(tuner))
    }
}

/// Mean distance of texts `[K, E]` to their mean, through which the gradient goes too.
fn dispersion(texts: &Tensor) -> Result<Tensor> {
    let apart = texts.broadcast_sub(&texts.mean_keepdim(0)?)?;
    if apart.dim(0)? < 2 {
        // One class is its own mean; the slope of a distance of 0 is not a number.
        return Tensor::zeros((), apart.dtype(), apart.device());
    }
    apart.sqr()?.sum(D::Minus1)?.sqrt()?.mean_all()
}

/// As TPT's, and the calibration of what came out: confidences, and their expected calibration error.
fn replay(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let logits = tuning::replay(stage, c, |s| {
        let config = CtptConfig::read(s);
        (config.tuning.clone(), config.objective())
    })?;
    let r = stage.recording;
    let p = softmax(&logits)?;
    let ours = p.max(D::Minus1)?.to_dtype(DType::F64)?;
    c.values("confidence", &ours, r.get("confidence")?)?;
    let Some(said) = r.field("ece") else {
        return Ok(());
    };
    let number = |key: &str| said.get(key).and_then(serde_json::Value::as_f64);
    let (Some(bins), Some(value)) = (number("bins"), number("value")) else {
        bail!("ece: must be bins and value");
    };
    let predicted: Vec<u32> = p.argmax(D::Minus1)?.to_vec1()?;
    let labels: Vec<u32> = r
        .get("labels")?
        .flatten_all()?
        .to_dtype(DType::U32)?
        .to_vec1()?;
    let right = predicted.iter().zip(&labels).map(|(p, l)| p == l);
    let answers: Vec<(f64, bool)> = ours.to_vec1()?.into_iter().zip(right).collect();
    c.loss(calibration_error(&answers, bins as usize), value);
    Ok(())
}

/// Expected calibration error of `(confidence, is it right)` in equal bins `(low, high]`, as a share of 1.
fn calibration_error(answers: &[(f64, bool)], bins: usize) -> f64 {
    let bin = |confidence: f64| ((confidence * bins as f64).ceil() as usize).clamp(1, bins) - 1;
    // A bin's |accuracy - confidence| times its share is |sum of (right - confidence)| over all answers.
    let mut gaps = vec![0.0; bins];
    for (confidence, right) in answers {
        gaps[bin(*confidence)] += f64::from(u8::from(*right)) - confidence;
    }
    gaps.iter().map(|gap: &f64| gap.abs()).sum::<f64>() / answers.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn dispersion_is_the_mean_distance_to_the_mean() {
        // The mean of (3, 4), (-3, -4) and (0, 0) is (0, 0): distances 5, 5 and 0.
        let texts = Tensor::new(&[[3f32, 4.0], [-3.0, -4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let got = dispersion(&texts).unwrap().to_scalar::<f32>().unwrap();
        assert!((got - 10.0 / 3.0).abs() < 1e-6, "{got}");
    }

    #[test]
    fn the_mean_that_texts_are_apart_from_moves_with_them() {
        // Of (x, 0) and (0, 0): |x| / 2; with a mean that stood still the slope would be 1/2 too, but of the first alone.
        let texts = Var::new(&[[2f32, 0.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let gradients = dispersion(texts.as_tensor()).unwrap().backward().unwrap();
        let slopes: Vec<Vec<f32>> = gradients.get(&texts).unwrap().to_vec2().unwrap();
        assert_eq!(slopes, [[0.5, 0.0], [-0.5, 0.0]]);
    }

    #[test]
    fn one_class_has_no_dispersion_and_no_slope() {
        let texts = Var::new(&[[0.6f32, 0.8]], &Device::Cpu).unwrap();
        let value = dispersion(texts.as_tensor()).unwrap();
        assert_eq!(value.to_scalar::<f32>().unwrap(), 0.0);
        assert!(value.backward().unwrap().get(&texts).is_none());
    }

    #[test]
    fn calibration_is_measured_bin_by_bin() {
        // Bins of a fifth: (0.8, 1] holds 0.9 right and 1.0 wrong, (0.4, 0.6] holds 0.5 right.
        let answers = [(0.9, true), (1.0, false), (0.5, true)];
        let want = ((1.9f64 - 1.0).abs() + 0.5) / 3.0;
        assert!((calibration_error(&answers, 5) - want).abs() < 1e-12);
    }
}
