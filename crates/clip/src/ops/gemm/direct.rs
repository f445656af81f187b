//! Products of one thread that are too small to lay inputs out for: a head's in attention. For processors with AVX-512.
//!
//! The `gemm` crate lays both inputs out anew for each of them, which takes as long as multiplying. Here the left one is read
//! where it lies, number by number, and the right one in rows; it is turned or brought together first where its rows do
//! not follow one another. Sums are added up exactly as in `gemm`, so that both give the same bits.

use super::{ADDED_UP_ACROSS, FEW, Mat};
use crate::ops::kept::Kept;
use crate::ops::panels::Words;

#[cfg(target_arch = "x86_64")]
mod kernel;

/// Most steps that `gemm` sums in registers.
const MOST: usize = 512;

/// Whether a product is done here; else `gemm` does it, which adds the smallest up in another order.
pub(super) fn takes(a: &Mat, b: &Mat) -> bool {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    let is_across = a.col_stride == 1 && b.row_stride == 1 && m * n <= ADDED_UP_ACROSS;
    let is_turned = b.row_stride == 1;
    let floats = |mat: &Mat| matches!(mat.data, Kept::Float32(_));
    m > 1
        && n > 1
        && k > 2
        && !is_across
        && (is_turned || b.col_stride == 1)
        && floats(a)
        && floats(b)
        && Words::Float32.are_supported()
}

/// Steps that are summed before the sum goes to the output.
fn depth(m: usize, k: usize, n: usize) -> usize {
    if m <= FEW && n <= FEW {
        k.min(MOST)
    } else {
        k.div_ceil(k.div_ceil(MOST))
    }
}

/// `out = keep * out + a b`, rows of `out` `stride` apart.
///
/// # Safety
/// [`takes`] says so; the inputs lie inside their slices; rows `0..a.rows` of `b.cols` values must be valid for writes and
/// touched by no one else.
pub(super) unsafe fn product(out: *mut f32, stride: usize, a: Mat, b: Mat, keep: bool) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise; the instructions are there, as `takes` says.
    unsafe {
        kernel::product(out, stride, a, b, keep);
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (out, stride, a, b, keep, depth);
        unreachable!("nobody gets here without the instructions");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Parallelism, call};
    use super::*;
    use crate::ops::noise;

    /// Both ways of the same product of inputs with rows `gap` further apart than they are long.
    fn both(m: usize, k: usize, n: usize, gap: usize) {
        let (a, b) = (
            noise((m + k) * (m + k + gap), 1),
            noise((k + n) * (k + n + gap), 2),
        );
        let lefts = [Mat::new(&a, m, k, k + gap), Mat::new(&a, k, m, m + gap).t()];
        let rights = [Mat::new(&b, k, n, n + gap), Mat::new(&b, n, k, k + gap).t()];
        for (left, right, keep) in lefts
            .into_iter()
            .flat_map(|l| rights.map(|r| (l, r)))
            .flat_map(|(l, r)| [(l, r, false), (l, r, true)])
        {
            if !takes(&left, &right) {
                assert!(m * n <= ADDED_UP_ACROSS, "{m}x{k}x{n}");
                continue;
            }
            let stride = n + 3;
            let (mut ours, mut theirs) = (noise(m * stride, 3), noise(m * stride, 3));
            // SAFETY: as large as the product.
            unsafe {
                product(ours.as_mut_ptr(), stride, left, right, keep);
                let to = theirs.as_mut_ptr();
                call(to, stride, left, right, 0..n, keep, Parallelism::None);
            }
            assert_eq!(ours, theirs, "{m}x{k}x{n}, keep {keep}");
        }
    }

    #[test]
    fn products_read_where_they_lie_have_the_bits_of_gemm() {
        if !Words::Float32.are_supported() {
            eprintln!("SKIPPED: this processor has no AVX-512");
            return;
        }
        for (m, k, n) in [
            (17, 32, 17),
            (17, 17, 32),
            (3, 20, 32),
            (2, 3, 2),
            (12, 5, 16),
            (13, 64, 49),
            (197, 64, 197),
            (197, 197, 64),
            (50, 50, 64),
            (577, 577, 64),
            (64, 1100, 64),
            (65, 1100, 33),
            (31, 9, 65),
        ] {
            both(m, k, n, 0);
            both(m, k, n, 41);
        }
    }

    #[test]
    fn what_gemm_adds_up_otherwise_is_left_to_it() {
        let a = noise(32 * 32, 1);
        let takes = |m: usize, k: usize, n: usize| {
            takes(&Mat::new(&a, m, k, k), &Mat::new(&a, n, k, k).t())
        };
        for (m, k, n) in [(1, 32, 32), (16, 16, 16), (32, 2, 32), (32, 16, 1)] {
            assert!(!takes(m, k, n), "{m}x{k}x{n}");
        }
    }
}
