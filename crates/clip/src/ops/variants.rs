//! What differs between published blocks: the non-linearity, where norms stand, and what they add to the variance.

use candle_core::{Result, Tensor, bail};
use pulp::Arch;
use serde::{Deserialize, Serialize};

use super::rows;
use crate::changes::Norm;

/// The MLP's non-linearity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: OpenAI's weights, and the checkpoints trained to match them.
    #[default]
    QuickGelu,
    /// `x * Phi(x)`: open_clip's default.
    Gelu,
    /// The same by a hyperbolic tangent: SigLIP in transformers, and SigLIP 2.
    GeluTanh,
}

impl Activation {
    /// Of every value of `h`.
    pub(super) fn forward(self, h: &[f32], out: &mut [f32]) {
        match self {
            Self::QuickGelu => rows::quick_gelu(h, out),
            Self::Gelu => rows::erf_gelu(h, out),
            Self::GeluTanh => rows::tanh_gelu(h, out),
        }
    }

    /// Of one row.
    pub(super) fn row(self, arch: Arch, h: &[f32], out: &mut [f32]) {
        match self {
            Self::QuickGelu => rows::quick_gelu_row(arch, h, out),
            Self::Gelu => rows::erf_gelu_row(h, out),
            Self::GeluTanh => rows::tanh_gelu_row(h, out),
        }
    }

    /// Of one row: `out = grad * d f(h) / dh`.
    pub(super) fn backward_row(self, arch: Arch, h: &[f32], grad: &[f32], out: &mut [f32]) {
        match self {
            Self::QuickGelu => rows::quick_gelu_backward_row(arch, h, grad, out),
            Self::Gelu => rows::erf_gelu_backward_row(h, grad, out),
            Self::GeluTanh => rows::tanh_gelu_backward_row(h, grad, out),
        }
    }

    /// `grad *= d f(h) / dh`.
    pub(super) fn backward(self, h: &[f32], grad: &mut [f32]) {
        match self {
            Self::QuickGelu => rows::quick_gelu_backward(h, grad),
            Self::Gelu => rows::erf_gelu_backward(h, grad),
            Self::GeluTanh => rows::tanh_gelu_backward(h, grad),
        }
    }
}

/// Where the norms of a block stand, and what they add to the variance: what differs between published blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Norms {
    /// Before attention and MLP, 1e-5: CLIP's towers.
    #[default]
    Clip,
    /// Before attention and MLP, 1e-6: timm's vision transformers, and SigLIP's towers.
    Vit,
    /// Behind both sums, 1e-12: BERT.
    Bert,
}

/// A LayerNorm of rows, gain, bias and what is added to the variance.
type LayerNorm = fn(&Tensor, &Tensor, &Tensor, f32) -> Result<Tensor>;

impl Norms {
    /// What is added to the variance.
    pub fn epsilon(self) -> f32 {
        match self {
            Self::Clip => rows::NORM_EPSILON,
            Self::Vit => 1e-6,
            Self::Bert => 1e-12,
        }
    }

    /// That a branch can stand beside a block ([`crate::changes::Beside`]).
    pub(crate) fn take_beside(self) -> Result<()> {
        if self == Self::Bert {
            bail!(
                "a branch beside a block reads what the norm before it gives; this text tower's norms stand behind (BERT)"
            );
        }
        Ok(())
    }

    /// What attention or the MLP takes of `x`.
    pub(super) fn inside(self, x: &Tensor, norm: &Norm, by: LayerNorm) -> Result<Tensor> {
        match self {
            Self::Bert => Ok(x.clone()),
            _ => by(x, &norm.gain, &norm.bias, self.epsilon()),
        }
    }

    /// What goes on of the sum `x`.
    pub(super) fn behind(self, x: Tensor, norm: &Norm, by: LayerNorm) -> Result<Tensor> {
        match self {
            Self::Bert => by(&x, &norm.gain, &norm.bias, self.epsilon()),
            _ => Ok(x),
        }
    }
}
