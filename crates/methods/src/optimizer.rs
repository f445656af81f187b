//! SGD, Adam and AdamW with PyTorch's semantics (spec of each: `torch.optim`), over named tensors.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};
use serde::{Deserialize, Serialize};

/// Which rule updates the prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// `g += decay p; buffer = momentum buffer + g` (first step: `g`); `p -= lr buffer`. No dampening, no Nesterov.
    Sgd,
    /// Moments 0.9 and 0.999, epsilon 1e-8, decay added to the gradient.
    Adam,
    /// As Adam, decay applied to the value itself.
    AdamW,
}

/// An optimizer over the tensors that get a gradient.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    momentum: f64,
    decay: f64,
    state: BTreeMap<String, (Tensor, Option<Tensor>)>,
    steps: i32,
}

impl Optimizer {
    /// `momentum` is used by SGD only.
    pub fn new(rule: Rule, momentum: f64, decay: f64) -> Self {
        Self { rule, momentum, decay, state: BTreeMap::new(), steps: 0 }
    }

    /// One update. A tensor without a gradient is left alone, decay included, as in PyTorch.
    ///
    /// # Errors
    /// Those of candle.
    pub fn step(&mut self, parameters: &[(String, Var)], gradients: &GradStore, lr: f64) -> Result<()> {
        self.steps += 1;
        for (name, var) in parameters {
            let Some(g) = gradients.get(var.as_tensor()) else { continue };
            let p = var.as_detached_tensor();
            let g = g.detach();
            let next = match self.rule {
                Rule::Sgd => {
                    let g = if self.decay == 0.0 { g } else { (g + (&p * self.decay)?)? };
                    let buffer = match self.state.get(name) {
                        Some((b, _)) if self.momentum != 0.0 => ((b * self.momentum)? + g)?,
                        _ => g,
                    };
                    let next = (p - (&buffer * lr)?)?;
                    self.state.insert(name.clone(), (buffer, None));
                    next
                }
                Rule::Adam | Rule::AdamW => {
                    let (mut p, mut g) = (p, g);
                    if self.rule == Rule::AdamW {
                        p = (p * (1.0 - lr * self.decay))?;
                    } else if self.decay != 0.0 {
                        g = (g + (&p * self.decay)?)?;
                    }
                    let (m, v) = match self.state.get(name) {
                        Some((m, Some(v))) => (((m * 0.9)? + (&g * 0.1)?)?, ((v * 0.999)? + (g.sqr()? * 0.001)?)?),
                        _ => ((&g * 0.1)?, (g.sqr()? * 0.001)?),
                    };
                    let (c1, c2) = (1.0 - 0.9f64.powi(self.steps), 1.0 - 0.999f64.powi(self.steps));
                    let scale = ((v.sqrt()? / c2.sqrt())? + 1e-8)?;
                    let next = (p - ((&m / scale)? * (lr / c1))?)?;
                    self.state.insert(name.clone(), (m, Some(v)));
                    next
                }
            };
            var.set(&next.detach())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Three steps on f(p) = sum(p^2 * [1, 2]) from [1, -1], lr 0.1; values printed by torch 2 (float32).
    fn run(rule: Rule) -> Vec<f32> {
        let p = Var::new(&[1f32, -1.0], &Device::Cpu).unwrap();
        let weights = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let mut o = Optimizer::new(rule, 0.9, 0.01);
        for _ in 0..3 {
            let loss = (p.as_tensor().sqr().unwrap() * &weights).unwrap().sum_all().unwrap();
            o.step(&[("p".into(), p.clone())], &loss.backward().unwrap(), 0.1).unwrap();
        }
        p.as_tensor().to_vec1().unwrap()
    }

    #[test]
    fn updates_follow_the_written_rules() {
        // Closed form in f64, written out step by step here and nowhere else.
        let want = |rule: Rule| -> Vec<f64> {
            [(1.0f64, 1.0f64), (-1.0, 2.0)]
                .iter()
                .map(|&(start, weight)| {
                    let (mut p, mut m, mut v) = (start, 0.0, 0.0);
                    for t in 1..=3 {
                        let mut g = 2.0 * weight * p;
                        match rule {
                            Rule::Sgd => {
                                g += 0.01 * p;
                                m = if t == 1 { g } else { 0.9 * m + g };
                                p -= 0.1 * m;
                            }
                            Rule::Adam | Rule::AdamW => {
                                if rule == Rule::Adam { g += 0.01 * p } else { p *= 1.0 - 0.1 * 0.01 }
                                m = 0.9 * m + 0.1 * g;
                                v = 0.999 * v + 0.001 * g * g;
                                let (mh, vh) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.999f64.powi(t)));
                                p -= 0.1 * mh / (vh.sqrt() + 1e-8);
                            }
                        }
                    }
                    p
                })
                .collect()
        };
        for rule in [Rule::Sgd, Rule::Adam, Rule::AdamW] {
            for (got, want) in run(rule).iter().zip(want(rule)) {
                assert!((f64::from(*got) - want).abs() < 1e-5, "{rule:?}: {got} {want}");
            }
        }
    }
}
