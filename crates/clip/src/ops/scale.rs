//! Scaling a gradient and not the value.

use candle_core::{CpuStorage, CustomOp1, Layout as Strides, Result, Shape, Tensor};

use super::values;

/// `x` as it is, `f32` of any shape; the gradient on its way back is multiplied by `factor`. MMA's rule: the branch of an
/// adapter of scale `s` is trained as if `s` were 1 and still passes a gradient of scale `s` to what is before it
/// (`f(n) = scale_gradient(s * g(scale_gradient(n, s)), 1 / s)`).
///
/// # Errors
/// Those of candle.
pub fn scale_gradient(x: &Tensor, factor: f64) -> Result<Tensor> {
    if !x.track_op() {
        return Ok(x.clone());
    }
    x.contiguous()?.apply_op1(ScaleGradient { factor })
}

struct ScaleGradient {
    factor: f64,
}

impl CustomOp1 for ScaleGradient {
    fn name(&self) -> &'static str {
        "scale-gradient"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Strides) -> Result<(CpuStorage, Shape)> {
        let out = values(storage, layout)?.to_vec();
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        (grad * self.factor).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn the_value_stays_and_the_gradient_is_scaled() {
        let x = Var::new(&[[1.5f32, -0.25], [3.0, 0.125]], &Device::Cpu).unwrap();
        let y = scale_gradient(x.as_tensor(), 0.5).unwrap();
        let rows = |t: &Tensor| t.to_vec2::<f32>().unwrap();
        assert_eq!(rows(&y), rows(x.as_tensor()));
        let loss = y.sqr().unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        // Half of 2 x.
        assert_eq!(rows(gradients.get(&x).unwrap()), rows(x.as_tensor()));
        // Of rows of another layout, too.
        let y = scale_gradient(&x.t().unwrap(), -3.0).unwrap();
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(rows(gradients.get(&x).unwrap()), vec![vec![-3.0; 2]; 2]);
    }

    #[test]
    fn what_has_no_gradient_is_handed_on() {
        let x = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        assert!(!scale_gradient(&x, 2.0).unwrap().track_op());
    }
}
