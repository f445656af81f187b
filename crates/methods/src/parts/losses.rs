//! The few losses that the methods are built of. `B` images, `K` classes, `E` joint width.

use candle_core::{D, Result, Tensor};

pub use clip::ops::composed::{log_softmax, softmax};
pub use clip::ops::cross_entropy;

/// Mean of `|a - b|` over all elements; its slope is 0 where they are equal, as in PyTorch.
///
/// # Errors
/// When shapes do not fit.
pub fn mean_absolute(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let difference = (a - b)?;
    (&difference * difference.detach().sign()?)?.mean_all()
}

/// Mean over rows of the cosine of `a` and `b`, both `[n, E]` and of unit length.
///
/// # Errors
/// When shapes do not fit.
pub fn mean_cosine(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    (a * b)?.sum(D::Minus1)?.mean_all()
}

/// `x` where it is positive, else 0; slope 0 at 0, as in PyTorch.
///
/// # Errors
/// Those of candle.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    x * x.detach().gt(0f64)?.to_dtype(x.dtype())?
}

/// Dependence of `a` `[n, E]` and `b` `[n, F]`: `trace(H K H L)` with `K = a a'`, `L = b b'` of the matrices divided by their
/// Frobenius norms, and `H` taking means off. Not divided by `(n - 1)^2`, as DeKg's authors have it.
///
/// # Errors
/// When shapes do not fit.
pub fn hsic(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let scaled = |t: &Tensor| t.broadcast_div(&t.sqr()?.sum_all()?.sqrt()?);
    let centred = |t: &Tensor| t.broadcast_sub(&t.mean_keepdim(0)?);
    let (a, b) = (centred(&scaled(a)?)?, scaled(b)?);
    (a.matmul(&a.t()?)? * b.matmul(&b.t()?)?)?.sum_all()
}

/// `x sigmoid(1.702 x)`.
///
/// # Errors
/// Those of candle.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    x * (x * 0.851)?.tanh()?.affine(0.5, 0.5)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn values(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn kinks_have_torchs_values_and_slopes() {
        let x = Var::new(&[-0.5f32, 0.0, 2.0], &Device::Cpu).unwrap();
        let y = relu(x.as_tensor()).unwrap();
        assert_eq!(values(&y), [0.0, 0.0, 2.0]);
        let slopes = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(values(slopes.get(&x).unwrap()), [0.0, 0.0, 1.0]);

        let to = Tensor::new(&[1f32, 0.0, 1.0], &Device::Cpu).unwrap();
        let y = mean_absolute(x.as_tensor(), &to).unwrap();
        assert!((y.to_scalar::<f32>().unwrap() - 2.5 / 3.0).abs() < 1e-6);
        let slopes = y.backward().unwrap();
        let third = 1.0 / 3.0;
        for (got, want) in values(slopes.get(&x).unwrap())
            .iter()
            .zip([-third, 0.0, third])
        {
            assert!((got - want).abs() < 1e-6);
        }
    }

    #[test]
    fn cross_entropy_is_the_mean_negative_log_probability_of_the_labels() {
        // Probabilities 1/4, 3/4 and 9/10, 1/10.
        let logits = Tensor::new(&[[0f32, 3f32.ln()], [9f32.ln(), 0.0]], &Device::Cpu).unwrap();
        let labels = Tensor::new(&[1u32, 1], &Device::Cpu).unwrap();
        let got = cross_entropy(&logits, &labels)
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        let want = -(0.75f32.ln() + 0.1f32.ln()) / 2.0;
        assert!((got - want).abs() < 1e-6, "{got} {want}");
    }

    #[test]
    fn dependence_is_the_trace_worked_out_by_hand() {
        // Columns (3, 0, 0) and (0, 4, 0) of norm 5; the other is the same: K = diag(9, 16, 0) / 25, and
        // trace(H K H K) = sum of squares of K, less 2/3 of its rows' squared sums, plus a ninth of its squared sum.
        let a = Tensor::new(&[[3f32, 0.0], [0.0, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let got = hsic(&a, &a).unwrap().to_scalar::<f32>().unwrap();
        let squares = (81.0 + 256.0) / 625.0;
        let want = squares - 2.0 / 3.0 * squares + 1.0 / 9.0;
        assert!((got - want).abs() < 1e-6, "{got} {want}");
        // Rows that are all alike depend on nothing.
        let same = Tensor::ones((3, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(hsic(&same, &a).unwrap().to_scalar::<f32>().unwrap().abs() < 1e-7);
    }

    #[test]
    fn quick_gelu_has_its_known_values() {
        let x = Tensor::new(&[-100f32, 0.0, 1.0], &Device::Cpu).unwrap();
        let got = values(&quick_gelu(&x).unwrap());
        assert!(
            got[0].abs() < 1e-4 && got[1] == 0.0 && (got[2] - 0.845_795_8).abs() < 1e-5,
            "{got:?}"
        );
    }
}
