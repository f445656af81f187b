//! Products with weights and activations rounded to bfloat16 and sums in float32, where the processor multiplies pairs
//! of bfloat16 (AVX512-BF16). That is twice the products of float32 a second on an AMD EPYC (Zen 4), and no more than in
//! float32 on an Intel Xeon (Sapphire Rapids), whose fast way is another unit that is not used here: see [`gain`].
//!
//! Weights are rounded (to nearest, ties to even) and laid out once; activations are rounded as they are laid out for
//! each product. What is between products (norms, attention, activations, the residual sum) stays float32.

use std::time::Instant;

use super::gemm::{Mat, Threads, product};
use super::panels::{self, COLUMNS, Panels, ROWS, Words};

mod block;

pub use block::BfloatBlock;

/// Whether this processor has the instructions.
pub fn is_supported() -> bool {
    Words::Bfloat16.are_supported()
}

/// A weight `[N, K]` in bfloat16.
#[derive(Debug)]
pub struct Packed {
    panels: Panels,
    inner: usize,
}

impl Packed {
    /// Of `weight` `[columns, inner]`.
    ///
    /// # Panics
    /// When it has another size; without [`is_supported`].
    pub fn new(weight: &[f32], columns: usize, inner: usize) -> Self {
        assert_eq!(weight.len(), columns * inner, "a weight has its shape");
        let panels = Panels::rounded(columns, inner, COLUMNS, |i, row| {
            row.copy_from_slice(&weight[i * inner..(i + 1) * inner]);
        });
        Self { panels, inner }
    }

    /// `out += rows weight^T`, where `out` is `[R, N]`.
    ///
    /// # Panics
    /// When shapes do not fit.
    pub fn product(&self, out: &mut [f32], rows: &Rows) {
        let columns = self.panels.lanes();
        assert_eq!(
            (rows.inner, out.len()),
            (self.inner, rows.panels.lanes() * columns),
            "shapes of a product fit"
        );
        let out = out.as_mut_ptr();
        // SAFETY: the output is exclusively borrowed and as large as was just asserted.
        unsafe {
            panels::multiply(
                Words::Bfloat16,
                out,
                columns,
                &rows.panels,
                &self.panels,
                true,
            )
        };
    }
}

/// Rows `[R, K]` in bfloat16.
#[derive(Debug)]
pub struct Rows {
    panels: Panels,
    inner: usize,
}

impl Rows {
    /// `rows` rows of `inner` values that `write(i, row)` gives.
    ///
    /// # Panics
    /// Without [`is_supported`].
    pub fn new(rows: usize, inner: usize, write: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let panels = Panels::rounded(rows, inner, ROWS, write);
        Self { panels, inner }
    }
}

/// How many times faster than in float32 a product runs in bfloat16 here: a quick look for a hint, not a measurement.
/// About 50 ms.
///
/// # Panics
/// Without [`is_supported`].
pub fn gain() -> f64 {
    let (m, k, n) = (384, 768, 1536);
    let (rows, weight) = (vec![0.5f32; m * k], vec![0.25f32; n * k]);
    let packed = Packed::new(&weight, n, k);
    let mut out = vec![0f32; m * n];
    let mut best = [f64::INFINITY; 2];
    for _ in 0..5 {
        let clock = Instant::now();
        let (a, w) = (Mat::new(&rows, m, k, k), Mat::new(&weight, n, k, k));
        product(&mut out, n, a, w.t(), true, Threads::Pool);
        best[0] = clock.elapsed().as_secs_f64().min(best[0]);
        let clock = Instant::now();
        let write = |i: usize, row: &mut [f32]| row.copy_from_slice(&rows[i * k..(i + 1) * k]);
        packed.product(&mut out, &Rows::new(m, k, write));
        best[1] = clock.elapsed().as_secs_f64().min(best[1]);
    }
    best[0] / best[1]
}

#[cfg(test)]
mod tests;
