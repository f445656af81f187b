//! SGD, Adam and AdamW with PyTorch's semantics (spec of each: `torch.optim`), over named tensors.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Storage, Tensor, Var, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Which rule updates the prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// `g += decay p; buffer = momentum buffer + g` (first step: `g`); `p -= lr buffer`. No dampening, no Nesterov.
    Sgd,
    /// Moments 0.9 and 0.999, decay added to the gradient.
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
    epsilon: f64,
    times: usize,
    state: BTreeMap<String, State>,
    stepped: bool,
}

/// What Adam adds to the root of the second moment unless told otherwise (PyTorch's default).
pub const EPSILON: f64 = 1e-8;

/// Name under which [`Optimizer::state`] says that there has been an update.
const STEPPED: &str = "stepped";

/// What is remembered of a tensor.
#[derive(Debug)]
enum State {
    /// Of SGD.
    Momentum(Tensor),
    /// Of Adam; `steps` counts the tensor's own updates, as in PyTorch.
    Moments {
        first: Tensor,
        second: Tensor,
        steps: i32,
    },
}

impl Optimizer {
    /// `momentum` is used by SGD only.
    pub fn new(rule: Rule, momentum: f64, decay: f64) -> Self {
        Self {
            rule,
            momentum,
            decay,
            epsilon: EPSILON,
            times: 1,
            state: BTreeMap::new(),
            stepped: false,
        }
    }

    /// With another number than [`EPSILON`].
    #[must_use]
    pub fn with_epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Making every update so many times in a row on the same gradients.
    #[must_use]
    pub fn repeating(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Whether it has made an update.
    pub fn has_stepped(&self) -> bool {
        self.stepped
    }

    /// Everything that updates have left behind, by the names of the tensors: with it, [`Optimizer::restore`] makes of a
    /// fresh optimizer one whose next update is the same bit for bit.
    ///
    /// # Errors
    /// Those of candle.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::new();
        if self.stepped {
            all.push((STEPPED.to_owned(), Tensor::new(&[1u32], &Device::Cpu)?));
        }
        for (name, state) in &self.state {
            match state {
                State::Momentum(buffer) => all.push((format!("momentum.{name}"), buffer.clone())),
                State::Moments {
                    first,
                    second,
                    steps,
                } => {
                    all.push((format!("first.{name}"), first.clone()));
                    all.push((format!("second.{name}"), second.clone()));
                    let steps = Tensor::new(&[i64::from(*steps)], &Device::Cpu)?;
                    all.push((format!("steps.{name}"), steps));
                }
            }
        }
        Ok(all)
    }

    /// Puts back what [`Optimizer::state`] gave.
    ///
    /// # Errors
    /// Tensors that this rule does not keep, or a part of what it keeps.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let mut found = BTreeMap::new();
        let mut read = 0;
        for (key, tensor) in state {
            let get = |part: &str, name: &str| match state.get(&format!("{part}.{name}")) {
                Some(tensor) => Ok(tensor.clone()),
                None => bail!("the optimizer's state has no {part} of {name}"),
            };
            match (self.rule, key.split_once('.')) {
                (Rule::Sgd, Some(("momentum", name))) => {
                    found.insert(name.to_owned(), State::Momentum(tensor.clone()));
                    read += 1;
                }
                (Rule::Adam | Rule::AdamW, Some(("first", name))) => {
                    let steps = match get("steps", name)?.to_vec1::<i64>()?[..] {
                        [steps] => i32::try_from(steps).ok(),
                        _ => None,
                    };
                    let Some(steps) = steps else {
                        bail!("the optimizer's state has no count of the steps of {name}");
                    };
                    let moments = State::Moments {
                        first: tensor.clone(),
                        second: get("second", name)?,
                        steps,
                    };
                    found.insert(name.to_owned(), moments);
                    read += 3;
                }
                _ => {}
            }
        }
        let stepped = state.contains_key(STEPPED);
        if read + usize::from(stepped) != state.len() {
            bail!("the state is not that of {:?}", self.rule);
        }
        (self.state, self.stepped) = (found, stepped);
        Ok(())
    }

    /// One update, or as many as it repeats. A tensor without a gradient is left alone, decay included, as in PyTorch.
    ///
    /// # Errors
    /// Those of candle.
    pub fn step(
        &mut self,
        parameters: &[(String, Var)],
        gradients: &GradStore,
        lr: f64,
    ) -> Result<()> {
        self.step_at(parameters, gradients, |_| lr)
    }

    /// As [`Optimizer::step`], with a learning rate for each parameter by its name.
    ///
    /// # Errors
    /// Those of candle.
    pub fn step_at(
        &mut self,
        parameters: &[(String, Var)],
        gradients: &GradStore,
        rate: impl Fn(&str) -> f64,
    ) -> Result<()> {
        self.stepped = true;
        for _ in 0..self.times {
            self.update(parameters, gradients, &rate)?;
        }
        Ok(())
    }

    fn update(
        &mut self,
        parameters: &[(String, Var)],
        gradients: &GradStore,
        rate: impl Fn(&str) -> f64,
    ) -> Result<()> {
        for (name, var) in parameters {
            let lr = rate(name);
            let Some(g) = gradients.get(var.as_tensor()) else {
                continue;
            };
            let p = var.as_detached_tensor();
            let g = g.detach();
            let next = match self.rule {
                Rule::Sgd => {
                    let buffer = match self.state.get(name) {
                        Some(State::Momentum(b)) if self.momentum != 0.0 => Some(b),
                        _ => None,
                    };
                    let by = [self.decay, self.momentum, lr];
                    let (buffer, next) = descend(&p, &g, buffer, by)?;
                    self.state.insert(name.clone(), State::Momentum(buffer));
                    next
                }
                Rule::Adam | Rule::AdamW => {
                    let (mut p, mut g) = (p, g);
                    if self.rule == Rule::AdamW {
                        p = (p * (1.0 - lr * self.decay))?;
                    } else if self.decay != 0.0 {
                        g = (g + (&p * self.decay)?)?;
                    }
                    let (m, v) = ((&g * 0.1)?, (g.sqr()? * 0.001)?);
                    let (m, v, steps) = match self.state.get(name) {
                        Some(State::Moments {
                            first,
                            second,
                            steps,
                        }) => (((first * 0.9)? + m)?, ((second * 0.999)? + v)?, steps + 1),
                        _ => (m, v, 1),
                    };
                    let (c1, c2) = (1.0 - 0.9f64.powi(steps), 1.0 - 0.999f64.powi(steps));
                    let scale = ((v.sqrt()? / c2.sqrt())? + self.epsilon)?;
                    let next = (p - ((&m / scale)? * (lr / c1))?)?;
                    self.state.insert(
                        name.clone(),
                        State::Moments {
                            first: m,
                            second: v,
                            steps,
                        },
                    );
                    next
                }
            };
            var.set(&next.detach())?;
        }
        Ok(())
    }
}

/// Numbers that a thread updates at a time.
const PIECE: usize = 1 << 14;

/// One step of gradient descent: the new momentum buffer and the new values. One pass on all threads, where an operation
/// at a time is four on one: MaPLe trains 3.5 million numbers.
fn descend(
    p: &Tensor,
    g: &Tensor,
    buffer: Option<&Tensor>,
    [decay, momentum, lr]: [f64; 3],
) -> Result<(Tensor, Tensor)> {
    let (decay, momentum, lr) = (decay as f32, momentum as f32, lr as f32);
    let numbers = |t: &Tensor| t.contiguous()?.flatten_all();
    let (p_flat, g_flat) = (numbers(p)?, numbers(g)?);
    let b_flat = buffer.map(numbers).transpose()?;
    let n = p_flat.elem_count();
    let (mut gathered, mut next) = (vec![0f32; n], vec![0f32; n]);
    read(&p_flat, |p| {
        read(&g_flat, |g| {
            let mut run = |b: Option<&[f32]>| {
                let out = gathered
                    .par_chunks_mut(PIECE)
                    .zip(next.par_chunks_mut(PIECE));
                out.enumerate().for_each(|(piece, (gathered, next))| {
                    let at = piece * PIECE..piece * PIECE + next.len();
                    let inputs = p[at.clone()].iter().zip(&g[at.clone()]);
                    let b = b.map(|b| &b[at]);
                    let out = gathered.iter_mut().zip(next);
                    for (i, ((gathered, next), (p, g))) in out.zip(inputs).enumerate() {
                        let mut value = *g;
                        if decay != 0.0 {
                            value += p * decay;
                        }
                        if let Some(b) = b {
                            value += b[i] * momentum;
                        }
                        *gathered = value;
                        *next = p - value * lr;
                    }
                });
                Ok(())
            };
            match &b_flat {
                Some(b) => read(b, |b| run(Some(b))),
                None => run(None),
            }
        })
    })?;
    let tensor = |values| Tensor::from_vec(values, p.shape(), p.device());
    Ok((tensor(gathered)?, tensor(next)?))
}

/// Runs `f` on the numbers of a flat tensor.
fn read<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(values), Some((start, end))) => f(&values.as_slice::<f32>()?[start..end]),
        _ => bail!("prompts are float32 and on the processor"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Three steps on f(p) = sum(p^2 * [1, 2]) from [1, -1], lr 0.1.
    fn run(rule: Rule) -> Vec<f32> {
        let p = Var::new(&[1f32, -1.0], &Device::Cpu).unwrap();
        let weights = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let mut o = Optimizer::new(rule, 0.9, 0.01);
        for _ in 0..3 {
            let loss = (p.as_tensor().sqr().unwrap() * &weights)
                .unwrap()
                .sum_all()
                .unwrap();
            o.step(&[("p".into(), p.clone())], &loss.backward().unwrap(), 0.1)
                .unwrap();
        }
        p.as_tensor().to_vec1().unwrap()
    }

    #[test]
    fn a_repeated_update_decays_and_gathers_each_time_on_the_one_gradient() {
        let p = Var::new(&[1f32], &Device::Cpu).unwrap();
        let loss = (p.as_tensor() * 2.0).unwrap().sum_all().unwrap();
        let mut o = Optimizer::new(Rule::Sgd, 0.9, 0.01).repeating(3);
        let gradients = loss.backward().unwrap();
        o.step(&[("p".into(), p.clone())], &gradients, 0.1).unwrap();
        let (mut want, mut buffer) = (1.0, 0.0);
        for _ in 0..3 {
            buffer = 0.9 * buffer + 2.0 + 0.01 * want;
            want -= 0.1 * buffer;
        }
        let got = p.as_tensor().to_vec1::<f32>().unwrap()[0];
        assert!((f64::from(got) - want).abs() < 1e-6, "{got} {want}");
    }

    #[test]
    fn descent_in_one_pass_has_the_bits_of_an_operation_at_a_time() {
        let drawn = |seed: u32| -> Tensor {
            let mut s = seed;
            let values = (0..3 * PIECE as u32 + 5).map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (s >> 8) as f32 / (1 << 23) as f32 - 1.0
            });
            Tensor::from_iter(values, &Device::Cpu).unwrap()
        };
        let (p, g, b) = (drawn(1), drawn(2), drawn(3));
        for decay in [0.0, 5e-4] {
            for buffer in [None, Some(&b)] {
                let found = descend(&p, &g, buffer, [decay, 0.9, 0.002]).unwrap();
                let mut gathered = g.clone();
                if decay != 0.0 {
                    gathered = (gathered + (&p * decay).unwrap()).unwrap();
                }
                if let Some(b) = buffer {
                    gathered = ((b * 0.9).unwrap() + gathered).unwrap();
                }
                let next = (&p - (&gathered * 0.002).unwrap()).unwrap();
                for (found, wanted) in [(found.0, gathered), (found.1, next)] {
                    let [found, wanted] = [found, wanted].map(|t| t.to_vec1::<f32>().unwrap());
                    assert!(found == wanted);
                }
            }
        }
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
                                if rule == Rule::Adam {
                                    g += 0.01 * p
                                } else {
                                    p *= 1.0 - 0.1 * 0.01
                                }
                                m = 0.9 * m + 0.1 * g;
                                v = 0.999 * v + 0.001 * g * g;
                                let (mh, vh) =
                                    (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.999f64.powi(t)));
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
                assert!(
                    (f64::from(*got) - want).abs() < 1e-5,
                    "{rule:?}: {got} {want}"
                );
            }
        }
    }

    #[test]
    fn weight_decay_moves_a_tensor_whose_gradient_is_zero() {
        // With g = 0: SGD and AdamW shrink p by lr * decay; Adam normalises the decay and moves by lr.
        for (rule, want) in [
            (Rule::Sgd, 2.0 - 0.1 * 0.05 * 2.0),
            (Rule::Adam, 2.0 - 0.1),
            (Rule::AdamW, 2.0 - 0.1 * 0.05 * 2.0),
        ] {
            let p = Var::new(&[2f32], &Device::Cpu).unwrap();
            let nothing = p.as_tensor().zeros_like().unwrap();
            let loss = (p.as_tensor() * nothing).unwrap().sum_all().unwrap();
            let mut o = Optimizer::new(rule, 0.9, 0.05);
            o.step(&[("p".into(), p.clone())], &loss.backward().unwrap(), 0.1)
                .unwrap();
            let got = f64::from(p.as_tensor().to_vec1::<f32>().unwrap()[0]);
            assert!((got - want).abs() < 1e-6, "{rule:?}: {got} {want}");
        }
    }

    #[test]
    fn an_optimizer_with_the_state_of_another_goes_on_as_it_would() {
        for rule in [Rule::Sgd, Rule::Adam, Rule::AdamW] {
            let fresh = || Optimizer::new(rule, 0.9, 0.01);
            let p = Var::new(&[1f32, -1.0], &Device::Cpu).unwrap();
            let step = |o: &mut Optimizer, p: &Var| {
                let loss = p.as_tensor().sqr().unwrap().sum_all().unwrap();
                let gradients = loss.backward().unwrap();
                o.step(&[("a.p".into(), p.clone())], &gradients, 0.1)
                    .unwrap();
                p.as_tensor().to_vec1::<f32>().unwrap()
            };
            let mut first = fresh();
            (0..3).for_each(|_| drop(step(&mut first, &p)));
            let state: BTreeMap<_, _> = first.state().unwrap().into_iter().collect();
            let copy = Var::from_tensor(&p.as_tensor().copy().unwrap()).unwrap();
            let mut second = fresh();
            assert!(!second.has_stepped());
            second.restore(&state).unwrap();
            assert!(second.has_stepped());
            for _ in 0..3 {
                assert_eq!(step(&mut first, &p), step(&mut second, &copy), "{rule:?}");
            }
            let other = if rule == Rule::Sgd {
                Rule::Adam
            } else {
                Rule::Sgd
            };
            let refused = Optimizer::new(other, 0.9, 0.01).restore(&state);
            assert!(refused.is_err(), "{rule:?} is not {other:?}");
            let mut less = state.clone();
            less.remove("steps.a.p");
            assert_eq!(fresh().restore(&less).is_err(), rule != Rule::Sgd);
        }
    }

    #[test]
    fn adam_counts_the_steps_of_each_tensor() {
        // `late` gets its first gradient in the third step; its move must be a first step's, which is lr.
        let (early, late) = (
            Var::new(&[1f32], &Device::Cpu).unwrap(),
            Var::new(&[1f32], &Device::Cpu).unwrap(),
        );
        let both = [
            ("early".to_owned(), early.clone()),
            ("late".to_owned(), late.clone()),
        ];
        let mut o = Optimizer::new(Rule::Adam, 0.9, 0.0);
        for step in 0..3 {
            let mut loss = early.as_tensor().sum_all().unwrap();
            if step == 2 {
                loss = (loss + (late.as_tensor() * 3.0).unwrap().sum_all().unwrap()).unwrap();
            }
            o.step(&both, &loss.backward().unwrap(), 0.01).unwrap();
        }
        let got = late.as_tensor().to_vec1::<f32>().unwrap()[0];
        assert!((got - 0.99).abs() < 1e-6, "{got}");
    }
}
