//! A product on its own, through the code that blocks multiply by: for measuring what a machine's products can do.

use super::Arithmetic;
use super::gemm::Mat;
use super::products::{Left, Products, Start};

/// Square matrices `[N, N]` that are multiplied again and again, in float32's grade.
pub struct Alone {
    side: usize,
    /// Laid out once: in blocks norms and activations write it so.
    left: Left<'static>,
    right: Vec<f32>,
    out: Vec<f32>,
}

impl Alone {
    /// Matrices of `side` rows and columns of `values`, two numbers that are multiplied with each other.
    ///
    /// # Panics
    /// Where this machine has not the arithmetic ([`Arithmetic::is_supported`]).
    pub fn new(arithmetic: Arithmetic, side: usize, values: [f32; 2]) -> Self {
        assert!(arithmetic.is_supported(), "asked for beforehand");
        let by = Products::exact(arithmetic);
        Self {
            side,
            left: Left::written(by, [side, side], side, |_, row| row.fill(values[0])),
            right: vec![values[1]; side * side],
            out: vec![0.0; side * side],
        }
    }

    /// Multiplies once, on all threads of the current pool, the right input laid out anew as weights are.
    pub fn multiply(&mut self) {
        let right = Mat::new(&self.right, self.side, self.side, self.side);
        self.left.product(&mut self.out, right.t(), Start::Zero);
    }

    /// What came of it, `[N, N]`.
    pub fn out(&self) -> &[f32] {
        &self.out
    }

    /// Operations of one product of float32 numbers, `2 N N N`, whatever they are done by.
    pub fn operations(&self) -> f64 {
        2.0 * (self.side as f64).powi(3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arithmetic_here_multiplies_to_float32s_grade_again_and_again() {
        const SIDE: usize = 48;
        let all = Arithmetic::ALL.into_iter().filter(|a| a.is_supported());
        for arithmetic in all {
            let values = [0.1f32, 0.7];
            let mut alone = Alone::new(arithmetic, SIDE, values);
            let exact = SIDE as f64 * f64::from(values[0]) * f64::from(values[1]);
            for _ in 0..2 {
                alone.multiply();
                let far = alone
                    .out()
                    .iter()
                    .map(|v| (f64::from(*v) / exact - 1.0).abs());
                let far = far.fold(0.0, f64::max);
                assert!(far < 3e-5, "{}: {far}", arithmetic.name());
            }
            assert_eq!(alone.operations(), 2.0 * 48f64.powi(3));
        }
    }
}
