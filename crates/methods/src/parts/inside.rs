//! What methods that change the inside of both towers share: which blocks, small layers, and the texts of one template.

use candle_core::{Result, Tensor, Var, bail};
use clip::Clip;

use super::layout::variable;
use crate::settings::Depth;
use crate::{Init, Settings};

/// Blocks `first..=last`, counted from 1 as published; the same in both towers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    first: Depth,
    last: Depth,
}

impl Span {
    pub(crate) fn read(s: &mut Settings, first: usize, last: usize) -> Self {
        Self {
            first: s.depth("first", first, "first changed block of both towers, from 1"),
            last: s.depth("last", last, "last changed block of both towers, from 1"),
        }
    }

    /// Blocks below the first, of a tower that has them.
    pub(crate) fn below(&self) -> usize {
        self.first.most() - 1
    }

    /// The blocks, counted from 0, of which both towers of `clip` have all.
    ///
    /// # Errors
    /// A ResNet, blocks that are not there, or none between the two.
    pub(crate) fn blocks(&self, clip: &Clip) -> Result<Vec<usize>> {
        let both = clip.text.depth().min(clip.transformer()?.depth());
        let (first, last) = (self.first.within(both)?, self.last.within(both)?);
        if first > last {
            bail!("first: block {first} is behind the last, {last}");
        }
        Ok((first - 1..last).collect())
    }
}

/// A linear layer: weight `[out, in]` and bias `[out]`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Var,
    pub(crate) bias: Var,
}

impl Linear {
    pub(crate) fn new((weight, bias): &(Tensor, Tensor)) -> Result<Self> {
        Ok(Self {
            weight: variable(weight)?,
            bias: variable(bias)?,
        })
    }

    /// Kaiming's normal weight for `fan_out` and ReLU, bias 0.
    pub(crate) fn kaiming(out: usize, inner: usize, init: &mut Init) -> Result<Self> {
        let weight = init.normal(&[out, inner], (2.0 / out as f64).sqrt())?;
        let bias = Tensor::zeros(out, weight.dtype(), weight.device())?;
        Self::new(&(weight, bias))
    }

    /// Under `base`.
    pub(crate) fn named(&self, base: &str) -> [(String, Var); 2] {
        [
            (format!("{base}.weight"), self.weight.clone()),
            (format!("{base}.bias"), self.bias.clone()),
        ]
    }

    pub(crate) fn tensors(&self, of: impl Fn(&Var) -> Tensor) -> [Tensor; 2] {
        [of(&self.weight), of(&self.bias)]
    }
}

/// `x weight^T + bias` of rows `[n, in]`.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)?.broadcast_add(bias)
}
