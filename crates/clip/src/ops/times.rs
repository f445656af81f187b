//! A plain matrix product, as candle's but for what that does besides: it asks the system for the number of cores each time,
//! which takes longer than a small product, and multiplies gradients that nobody wants.

use candle_core::{CpuStorage, CustomOp2, Layout as Strides, Result, Shape, Tensor, bail};

use super::gemm::{Mat, whole};
use super::{on_pool, values, with_values};

/// `x matrix`, `[n, inner]` times `[inner, out]`, with the bits of candle's product.
///
/// # Errors
/// When shapes do not fit.
pub fn times(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    let ((_, inner), (rows, _)) = (x.dims2()?, matrix.dims2()?);
    if inner != rows {
        bail!("rows of {inner} numbers times a matrix of {rows}");
    }
    if !x.device().is_cpu() {
        return x.matmul(matrix);
    }
    let op = Times {
        tracked: (x.track_op(), matrix.track_op()),
    };
    x.contiguous()?.apply_op2(&matrix.contiguous()?, op)
}

struct Times {
    /// Whether rows and matrix want gradients.
    tracked: (bool, bool),
}

fn multiplied(m: usize, n: usize, a: Mat, b: Mat) -> Vec<f32> {
    let mut out = vec![0f32; m * n];
    on_pool(|| whole(&mut out, a, b));
    out
}

impl CustomOp2 for Times {
    fn name(&self) -> &'static str {
        "times"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Strides,
        s2: &CpuStorage,
        l2: &Strides,
    ) -> Result<(CpuStorage, Shape)> {
        let ((n, inner), (_, out)) = (l1.shape().dims2()?, l2.shape().dims2()?);
        let (x, matrix) = (values(s1, l1)?, values(s2, l2)?);
        let (a, b) = (
            Mat::new(x, n, inner, inner),
            Mat::new(matrix, inner, out, out),
        );
        Ok((
            CpuStorage::F32(multiplied(n, out, a, b)),
            Shape::from((n, out)),
        ))
    }

    fn bwd(
        &self,
        x: &Tensor,
        matrix: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((n, inner), out) = (x.dims2()?, matrix.dim(1)?);
        let (of_rows, of_matrix) = self.tracked;
        with_values(grad, |grad| {
            let grad = Mat::new(grad, n, out, out);
            let tensor =
                |values: Vec<f32>, of: &Tensor| Tensor::from_vec(values, of.shape(), of.device());
            let rows = of_rows.then(|| {
                with_values(matrix, |matrix| {
                    let b = Mat::new(matrix, inner, out, out).t();
                    tensor(multiplied(n, inner, grad, b), x)
                })
            });
            let own = of_matrix.then(|| {
                with_values(x, |x| {
                    let a = Mat::new(x, n, inner, inner).t();
                    tensor(multiplied(inner, out, a, grad), matrix)
                })
            });
            Ok((rows.transpose()?, own.transpose()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::noise;
    use candle_core::{Device, Var};

    fn drawn(rows: usize, columns: usize, seed: u32) -> Tensor {
        Tensor::from_vec(noise(rows * columns, seed), (rows, columns), &Device::Cpu).unwrap()
    }

    #[test]
    fn a_product_and_its_gradients_are_those_of_candle() {
        for (n, inner, out) in [(1, 8, 5), (9, 128, 64), (64, 768, 512), (3, 40, 1)] {
            let x = Var::from_tensor(&drawn(n, inner, 1)).unwrap();
            let matrix = Var::from_tensor(&drawn(inner, out, 2)).unwrap();
            let upstream = drawn(n, out, 3);
            let all = |made: Tensor| {
                let grads = (&made * &upstream).unwrap().backward().unwrap();
                let of = |v: &Var| grads.get(v.as_tensor()).unwrap().clone();
                [made, of(&x), of(&matrix)]
                    .map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
            };
            let ours = all(times(x.as_tensor(), matrix.as_tensor()).unwrap());
            let theirs = all(x.as_tensor().matmul(matrix.as_tensor()).unwrap());
            assert_eq!(ours[0], theirs[0], "{n}x{inner}x{out}");
            for (ours, theirs) in ours.iter().zip(&theirs) {
                let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
                assert!(worst.fold(0f32, f32::max) < 1e-4, "{n}x{inner}x{out}");
            }
        }
    }

    #[test]
    fn a_matrix_that_is_not_trained_gets_no_gradient() {
        let x = Var::from_tensor(&drawn(3, 4, 1)).unwrap();
        let matrix = drawn(4, 5, 2);
        let made = times(x.as_tensor(), &matrix).unwrap();
        let grads = made.sum_all().unwrap().backward().unwrap();
        assert!(grads.get(x.as_tensor()).is_some());
        assert!(grads.get(&matrix).is_none());
        assert!(!times(&matrix.t().unwrap(), &matrix).unwrap().track_op());
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let error = times(&drawn(3, 4, 1), &drawn(5, 2, 1)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("rows of 4 numbers times a matrix of 5")
        );
    }
}
