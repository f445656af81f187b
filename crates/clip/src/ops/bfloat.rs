//! Products with weights and activations rounded to bfloat16 and sums in float32, where the processor multiplies pairs
//! of bfloat16 (AVX512-BF16: twice the products of float32 a second).
//!
//! Weights are rounded (to nearest, ties to even) and laid out once; activations are rounded as they are laid out for
//! each product. What is between products (norms, attention, activations, the residual sum) stays float32.

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

#[cfg(test)]
mod tests;
