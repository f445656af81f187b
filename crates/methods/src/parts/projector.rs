//! PromptKD's projector: from the features of one tower to the width of another's, by two layers with BatchNorm between.
//!
//! `B` images, `E` joint width of the one, `T` of the other.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, Var, bail};

use super::image_tokens::tracked;
use super::inside::linear;
use super::layout::variable;
use super::losses::relu;
use crate::Init;

/// Linear, BatchNorm, ReLU, linear.
pub(crate) struct Projector {
    /// Weights `[T, E, 1, 1]` and `[T, T, 1, 1]`, as convolutions have them, with their biases `[T]`.
    first: (Var, Var),
    second: (Var, Var),
    /// Gain and shift `[T]`.
    norm: (Var, Var),
    /// Mean and variance `[T]` of the batches so far.
    running: (Tensor, Tensor),
}

impl Projector {
    /// Of BatchNorm, PyTorch's.
    const EPSILON: f64 = 1e-5;
    /// Share of the newest batch in the running values, PyTorch's.
    const MOMENTUM: f64 = 0.1;
    /// Published names of the running values.
    const RUNNING: [&'static str; 2] = [
        "VPT_image_trans.conv1.1.running_mean",
        "VPT_image_trans.conv1.1.running_var",
    ];

    /// From `inner` to `out`, as PyTorch starts its layers.
    pub(crate) fn new(inner: usize, out: usize, init: &mut Init) -> Result<Self> {
        let mut layer = |inner: usize| -> Result<(Var, Var)> {
            let (weight, bias) = init.linear(out, inner)?;
            Ok((
                variable(&weight.reshape((out, inner, 1, 1))?)?,
                variable(&bias)?,
            ))
        };
        let (first, second) = (layer(inner)?, layer(out)?);
        let zeros = first.1.as_tensor().zeros_like()?;
        let ones = zeros.ones_like()?;
        Ok(Self {
            first,
            second,
            norm: (variable(&ones)?, variable(&zeros)?),
            running: (zeros.detach(), ones.detach()),
        })
    }

    /// Under the published names.
    pub(crate) fn named(&self) -> Vec<(String, Var)> {
        let layers = [("0", &self.first), ("1", &self.norm), ("3", &self.second)];
        let both = layers.into_iter().flat_map(|(number, (weight, bias))| {
            let base = format!("VPT_image_trans.conv1.{number}");
            [
                (format!("{base}.weight"), weight.clone()),
                (format!("{base}.bias"), bias.clone()),
            ]
        });
        both.collect()
    }

    /// BatchNorm's running values.
    pub(crate) fn state(&self) -> Vec<(String, Tensor)> {
        let values = [self.running.0.clone(), self.running.1.clone()];
        let names = Self::RUNNING.map(str::to_owned);
        names.into_iter().zip(values).collect()
    }

    /// Puts back what [`Projector::state`] gave.
    ///
    /// # Errors
    /// Names or shapes that are not its own.
    pub(crate) fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let [mean, variance] = Self::RUNNING.map(|name| state.get(name));
        match (mean, variance) {
            (Some(mean), Some(variance)) if state.len() == 2 => {
                let dims = self.running.0.dims();
                if mean.dims() != dims || variance.dims() != dims {
                    bail!(
                        "BatchNorm's running values are {:?}, not {dims:?}",
                        mean.dims()
                    );
                }
                let device = self.running.0.device();
                let kept = |t: &Tensor| t.to_dtype(DType::F32)?.to_device(device);
                self.running = (kept(mean)?, kept(variance)?);
                Ok(())
            }
            _ => bail!("the state is {}", Self::RUNNING.join(" and ")),
        }
    }

    /// One of the linear layers on `[B, ..]`.
    fn layer(
        x: &Tensor,
        (weight, bias): &(Var, Var),
        of: impl Fn(&Var) -> Tensor,
    ) -> Result<Tensor> {
        linear(x, &of(weight).flatten_from(1)?, &of(bias))
    }

    /// What follows on rows that are normalised.
    fn rest(&self, normalised: &Tensor, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let scaled = normalised.broadcast_mul(&of(&self.norm.0))?;
        let hidden = relu(&scaled.broadcast_add(&of(&self.norm.1))?)?;
        Self::layer(&hidden, &self.second, of)
    }

    /// `[B, T]` of features `[B, E]`, normalised by what is remembered.
    pub(crate) fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let fixed = Var::as_detached_tensor;
        let (mean, variance) = &self.running;
        let x = Self::layer(features, &self.first, fixed)?.broadcast_sub(mean)?;
        self.rest(
            &x.broadcast_div(&(variance + Self::EPSILON)?.sqrt()?)?,
            fixed,
        )
    }

    /// The same normalised by the batch, which is remembered.
    pub(crate) fn train(&mut self, features: &Tensor) -> Result<Tensor> {
        let pictures = features.dim(0)? as f64;
        if pictures < 2.0 {
            bail!("BatchNorm needs two pictures or more in a batch; use a larger `batch`");
        }
        let x = Self::layer(features, &self.first, tracked)?;
        let mean = x.mean_keepdim(0)?;
        let x = x.broadcast_sub(&mean)?;
        let variance = x.sqr()?.mean_keepdim(0)?;
        let blend = |old: &Tensor, new: &Tensor, by: f64| {
            let new = (new.detach().flatten_all()? * (by * Self::MOMENTUM))?;
            (old * (1.0 - Self::MOMENTUM))? + new
        };
        // The variance that is remembered is the unbiased one.
        self.running = (
            blend(&self.running.0, &mean, 1.0)?,
            blend(&self.running.1, &variance, pictures / (pictures - 1.0))?,
        );
        let deviation = (variance + Self::EPSILON)?.sqrt()?;
        self.rest(&x.broadcast_div(&deviation)?, tracked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::flat;

    #[test]
    fn batches_are_normalised_by_themselves_and_remembered_for_testing() {
        let mut projector = Projector::new(2, 1, &mut Init::seeded(1)).unwrap();
        let set = |var: &Var, values: &[f32]| {
            let values = Tensor::new(values, var.device()).unwrap();
            var.set(&values.reshape(var.dims()).unwrap()).unwrap();
        };
        set(&projector.first.0, &[1.0, 0.0]);
        set(&projector.first.1, &[5.0]);
        set(&projector.second.0, &[1.0]);
        set(&projector.second.1, &[0.0]);
        // 1 and 3 have mean 2 and variance 1, unbiased 2; the first layer's bias moves both.
        let two = Tensor::new(&[[1f32, 9.0], [3.0, 9.0]], &candle_core::Device::Cpu).unwrap();
        let got = flat(&projector.train(&two).unwrap());
        assert!(got[0] == 0.0 && (got[1] - 1.0).abs() < 1e-5, "{got:?}");
        let near = |t: &Tensor, want: f32| (flat(t)[0] - want).abs() < 1e-6;
        assert!(near(&projector.running.0, 0.1 * 7.0));
        assert!(near(&projector.running.1, 0.9 + 0.1 * 2.0));
        // Testing a picture does not depend on the others: (8 - 0.7) / sqrt(1.1).
        let got = flat(&projector.forward(&two).unwrap());
        assert!((got[1] - 7.3 / 1.1f32.sqrt()).abs() < 1e-4, "{got:?}");
        let alone = projector.train(&two.narrow(0, 0, 1).unwrap());
        assert!(alone.unwrap_err().to_string().contains("two pictures"));
    }
}
