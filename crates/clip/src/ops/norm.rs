//! LayerNorm over rows, differentiable in its input and, when they are tracked, its weights.

use candle_core::{CpuStorage, CustomOp3, Layout as Strides, Result, Shape, Tensor};

use super::rows::NORM_EPSILON;
use super::{composed, rows, values, with_values};

/// `[R, W]` normalised row by row as CLIP's towers do, scaled by `gain` and shifted by `bias` (both `[W]`).
///
/// # Errors
/// When shapes do not fit.
pub fn layer_norm(x: &Tensor, gain: &Tensor, bias: &Tensor) -> Result<Tensor> {
    layer_norm_by(x, gain, bias, NORM_EPSILON)
}

/// As [`layer_norm`], with what is added to the variance.
///
/// # Errors
/// When shapes do not fit.
pub fn layer_norm_by(x: &Tensor, gain: &Tensor, bias: &Tensor, epsilon: f32) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return composed::layer_norm_by(x, gain, bias, epsilon);
    }
    x.contiguous()?.apply_op3(
        gain,
        bias,
        LayerNorm {
            train: gain.track_op() || bias.track_op(),
            epsilon,
        },
    )
}

struct LayerNorm {
    train: bool,
    epsilon: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Strides,
        s2: &CpuStorage,
        l2: &Strides,
        s3: &CpuStorage,
        l3: &Strides,
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(s1, l1)?;
        let mut out = vec![0f32; x.len()];
        rows::norm_forward(x, values(s2, l2)?, values(s3, l3)?, self.epsilon, &mut out);
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        with_values(x, |xs| {
            with_values(gain, |gs| {
                with_values(grad, |dy| {
                    let mut dx = vec![0f32; xs.len()];
                    rows::norm_backward(xs, gs, dy, self.epsilon, &mut dx);
                    let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
                    if !self.train {
                        return Ok((Some(dx), None, None));
                    }
                    let (mut dg, mut db) = (vec![0f32; gs.len()], vec![0f32; gs.len()]);
                    rows::norm_weights_backward(xs, dy, self.epsilon, &mut dg, &mut db);
                    let dg = Tensor::from_vec(dg, gain.shape(), x.device())?;
                    let db = Tensor::from_vec(db, bias.shape(), x.device())?;
                    Ok((Some(dx), Some(dg), Some(db)))
                })
            })
        })
    }
}
