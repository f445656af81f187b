//! Products of one head, by the thread that looks at it.

use crate::ops::gemm::{Mat, Threads, product_into};
use crate::ops::products::Arithmetic;
use crate::ops::scratch;
use crate::ops::tiles::{self, Grade, Unit};

/// Queries from which on tiles are worth laying out: pictures, not texts.
const MANY: usize = 32;

/// What multiplies inside a task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Multiplier(Option<Unit>);

impl Multiplier {
    /// In a block that multiplies `by`, for so many queries. Attention is of float32's grade in every precision.
    pub(super) fn of(by: Arithmetic, queries: usize) -> Self {
        Self(by.unit().filter(|_| queries >= MANY))
    }

    /// `out = a b`, rows `stride` apart.
    pub(super) fn product(self, out: &mut [f32], stride: usize, a: Mat, b: Mat) {
        assert!(
            stride >= b.cols() && out.len() >= a.rows().max(1) * stride + b.cols() - stride,
            "product writes past its output"
        );
        // SAFETY: `out` is exclusively borrowed and long enough, as just asserted.
        unsafe { self.product_into(out.as_mut_ptr(), stride, a, b) }
    }

    /// As [`Multiplier::product`], into a raw pointer.
    ///
    /// # Safety
    /// Rows `0..a.rows()` of `b.cols()` values, `stride` apart, must be valid for writes and touched by no one else.
    pub(super) unsafe fn product_into(self, out: *mut f32, stride: usize, a: Mat, b: Mat) {
        let Some(unit) = self.0 else {
            // SAFETY: the caller's promise.
            unsafe { product_into(out, stride, a, b, false, Threads::One) };
            return;
        };
        // SAFETY: the caller's promise.
        unsafe { tiles::product_alone(unit, Grade::Six, out, stride, a, b) }
    }

    /// As [`Multiplier::product_into`] of `at` transposed: `out = at^T b`. Where tiles are multiplied, what comes out is
    /// transposed instead, as it is narrower.
    ///
    /// # Safety
    /// As [`Multiplier::product_into`], for `at.cols()` rows.
    pub(super) unsafe fn transposed_into(self, out: *mut f32, stride: usize, at: Mat, b: Mat) {
        if self.0.is_none() {
            // SAFETY: the caller's promise.
            unsafe { self.product_into(out, stride, at.t(), b) };
            return;
        }
        let (rows, columns) = (at.cols(), b.cols());
        let mut turned = scratch::take(rows * columns);
        self.product(&mut turned, rows, b.t(), at);
        for (j, column) in turned.chunks_exact(rows).enumerate() {
            for (i, value) in column.iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { out.add(i * stride + j).write(*value) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::attention::{Heads, Plan, Saved, backward, forward};
    use crate::ops::layout::Layout;
    use crate::ops::noise;
    use crate::ops::products::Arithmetic;

    /// Output, log-sums, and gradients of queries and of keys and values.
    fn all(by: Arithmetic, layout: &Layout, heads: Heads) -> [Vec<f32>; 4] {
        let (plan, w) = (Plan::all(layout), heads.count * heads.size);
        let rows = layout.rows();
        // Large enough that some weights are nearly one and others nearly nothing.
        let q: Vec<f32> = noise(rows * w, 1).into_iter().map(|v| 4.0 * v).collect();
        let (kv, grad) = (noise(rows * 2 * w, 2), noise(rows * w, 3));
        let mut out = vec![0f32; rows * w];
        let mut logsum = vec![0f32; rows * heads.count];
        forward(by, &plan, heads, &q, &kv, &mut out, &mut logsum);
        let (mut dq, mut dkv) = (vec![0f32; rows * w], vec![0f32; rows * 2 * w]);
        let saved = Saved {
            q: &q,
            kv: &kv,
            out: &out,
            logsum: &logsum,
        };
        backward(by, &plan, heads, &saved, &grad, &mut dq, &mut dkv);
        [out, logsum, dq, dkv]
    }

    const TILES: Arithmetic = Arithmetic::Emulated;

    #[test]
    fn tiles_attend_as_float32_does() {
        for (count, length, heads, size) in [(2, 50, 3, 64), (1, 197, 2, 64), (3, 33, 1, 20)] {
            let layout = Layout::full(count, length);
            let heads = Heads { count: heads, size };
            let (plain, tiles) = (
                all(Arithmetic::Portable, &layout, heads),
                all(TILES, &layout, heads),
            );
            for (name, (plain, tiles)) in ["out", "logsum", "dq", "dkv"]
                .iter()
                .zip(plain.iter().zip(&tiles))
            {
                let most = plain.iter().fold(0f32, |m, v| m.max(v.abs()));
                let worst = plain
                    .iter()
                    .zip(tiles)
                    .fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(
                    worst <= 1e-5 * most,
                    "{name}, {length} rows: {worst} of {most}"
                );
                assert_ne!(plain, tiles, "{name}: tiles were multiplied");
            }
        }
    }

    #[test]
    fn texts_attend_as_they_do_in_the_portable_arithmetic() {
        let heads = Heads { count: 2, size: 32 };
        let texts = Layout::full(5, 12);
        assert_eq!(
            all(TILES, &texts, heads),
            all(Arithmetic::Portable, &texts, heads)
        );
    }

    #[test]
    fn a_picture_attends_the_same_whatever_stands_beside_it_and_on_any_number_of_threads() {
        let heads = Heads { count: 2, size: 64 };
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            pool.install(|| all(TILES, &Layout::full(3, 50), heads))
        };
        assert_eq!(on(1), on(3));
    }
}
