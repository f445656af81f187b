//! Matrix products over borrowed slices: the one place that calls the `gemm` crate, or does better (see [`super::panels`]).

use gemm::Parallelism;
use rayon::prelude::*;

use super::panels::{self, COLUMNS, Cut, ROWS, Source, Words};
use super::products::Start;
use super::{Kept, scratch};

mod direct;

/// A strided view of a matrix: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: Kept<'a>,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Rows of `cols` values that lie `row_stride` apart.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self {
            row_stride,
            ..Self::kept(Kept::Float32(data), rows, cols)
        }
    }

    /// Rows of `cols` numbers that follow one another, however they are kept.
    pub(crate) fn kept(data: Kept<'a>, rows: usize, cols: usize) -> Self {
        Self {
            data,
            rows,
            cols,
            row_stride: cols,
            col_stride: 1,
        }
    }

    /// The transpose, without moving a value.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Writes row `i`.
    pub(super) fn read_row(&self, i: usize, out: &mut [f32]) {
        let from = i * self.row_stride;
        match self.data {
            Kept::Float32(values) if self.col_stride == 1 => {
                out.copy_from_slice(&values[from..from + self.cols]);
            }
            _ => {
                for (j, out) in out.iter_mut().enumerate() {
                    *out = self.data.at(from + j * self.col_stride);
                }
            }
        }
    }

    /// As an input of panels whose lanes are rows.
    pub(super) fn source(&self) -> Source<'a> {
        Source {
            numbers: self.data,
            lanes: self.rows,
            lane_stride: self.row_stride,
            inner: self.cols,
            inner_stride: self.col_stride,
        }
    }

    /// Runs `f` on the same matrix in float32: as it is, or widened into a buffer that is used again.
    pub(super) fn widened<T>(&self, f: impl FnOnce(Mat) -> T) -> T {
        if let Kept::Float32(_) = self.data {
            return f(*self);
        }
        let numbers = self.data.slice(0..self.data.len().min(self.last() + 1));
        let mut buffer = scratch::take(numbers.len());
        numbers.widen(&mut buffer);
        f(Mat {
            data: Kept::Float32(&buffer),
            ..*self
        })
    }

    /// Where the values of [`Mat::widened`] begin.
    fn values(&self) -> *const f32 {
        match self.data {
            Kept::Float32(values) => values.as_ptr(),
            _ => unreachable!("halves were widened before"),
        }
    }

    fn last(&self) -> usize {
        (self.rows.max(1) - 1) * self.row_stride + (self.cols.max(1) - 1) * self.col_stride
    }
}

/// How many threads a product may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Only the calling one (inside a loop that is parallel already).
    One,
    /// All of the current rayon pool.
    Pool,
}

/// `out = keep * out + a b`, where `out` has rows `out_stride` apart and `keep` is 0 or 1.
///
/// # Panics
/// When the shapes do not fit each other or the slices are too short for them.
pub fn product(out: &mut [f32], out_stride: usize, a: Mat, b: Mat, keep: bool, threads: Threads) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(k, b.rows, "inner sizes of a product differ");
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        out_stride >= n && out.len() >= (m - 1) * out_stride + n,
        "product writes past its output"
    );
    // SAFETY: `out` is exclusively borrowed and long enough, as just asserted.
    unsafe { product_into(out.as_mut_ptr(), out_stride, a, b, keep, threads) }
}

/// `out = a b` in one call of the `gemm` crate, as candle does it: sums are cut by the sizes of the whole product.
///
/// # Panics
/// When the shapes do not fit each other or the slices are too short for them.
pub(super) fn whole(out: &mut [f32], a: Mat, b: Mat) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!((k, out.len()), (b.rows, m * n), "shapes of a product fit");
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        k == 0 || (a.data.len() > a.last() && b.data.len() > b.last()),
        "product reads past its inputs"
    );
    let parallelism = match rayon::current_num_threads() {
        threads if threads > 1 && is_shared(m, k, n) => Parallelism::Rayon(threads),
        _ => Parallelism::None,
    };
    // SAFETY: `out` is exclusively borrowed and long enough, inputs are inside the slices, as just asserted.
    unsafe { call(out.as_mut_ptr(), n, a, b, 0..n, false, parallelism) };
}

/// As [`product`], into a raw pointer, for callers that fill disjoint columns of one matrix from several threads.
///
/// # Safety
/// Rows `0..a.rows` of `b.cols` values, `out_stride` apart, must be valid for writes and touched by no one else.
pub unsafe fn product_into(
    out: *mut f32,
    out_stride: usize,
    a: Mat,
    b: Mat,
    keep: bool,
    threads: Threads,
) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    if m == 0 || n == 0 {
        return;
    }
    if k > 0 {
        assert!(
            a.data.len() > a.last() && b.data.len() > b.last(),
            "product reads past its inputs"
        );
    }
    if threads == Threads::Pool
        && let Some(cut) = panels_take(m, k, n)
    {
        let left = panels::Left::of(cut, &a.source());
        let start = if keep { Start::Output } else { Start::Zero };
        // SAFETY: the caller's promise; inputs are inside the slices (asserted).
        unsafe { panels::product(out, out_stride, &left, &b.t().source(), start) };
        return;
    }
    if threads == Threads::One && direct::takes(&a, &b) {
        // SAFETY: the caller's promise; inputs are inside the slices (asserted).
        unsafe { direct::product(out, out_stride, a, b, keep) };
        return;
    }
    a.widened(|a| {
        b.widened(|b| {
            // SAFETY: the caller's promise.
            unsafe { by_gemm(out, out_stride, a, b, keep, threads) }
        });
    });
}

/// How a product of `m` rows, `k` inner numbers and `n` columns that all threads share goes over panels; `None` where
/// `gemm` does it. Sums are those of `gemm`, which sees the pieces of columns that [`by_gemm`] gives it: those of at most
/// [`FEW`] rows and as many columns it adds up in other blocks, and the smallest in another order.
pub(super) fn panels_take(m: usize, k: usize, n: usize) -> Option<Cut> {
    let words = Words::Float32;
    if n < 2 * COLUMNS || k < ROWS || !words.are_supported() {
        return None;
    }
    if m > FEW {
        return Some(words.evenly(k));
    }
    let step = if is_shared(m, k, n) { piece_of(n) } else { n };
    let last = n - (n - 1) / step * step;
    if m == 1 || m * last <= ADDED_UP_ACROSS {
        return None;
    }
    let of = |columns: usize| {
        if columns <= FEW {
            words.fully(k)
        } else {
            words.evenly(k)
        }
    };
    Some(of(step)).filter(|cut| *cut == of(last))
}

/// Whether it is worth more threads than one.
fn is_shared(m: usize, k: usize, n: usize) -> bool {
    m * n * k >= 1 << 18
}

/// The product by the `gemm` crate.
///
/// # Safety
/// As [`product_into`], whose checks were made.
unsafe fn by_gemm(out: *mut f32, out_stride: usize, a: Mat, b: Mat, keep: bool, threads: Threads) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    let shared = threads == Threads::Pool && is_shared(m, k, n);
    if !shared || n < 2 * LANE_STEP {
        let parallelism = if shared && rayon::current_num_threads() > 1 {
            Parallelism::Rayon(rayon::current_num_threads())
        } else {
            Parallelism::None
        };
        // SAFETY: reads are inside the slices (asserted), writes are the caller's promise.
        unsafe { call(out, out_stride, a, b, 0..n, keep, parallelism) };
        return;
    }
    // The same pieces whatever the number of threads, so that this changes no bit: columns in pieces that whichever
    // thread is free takes: a thread that the system holds up holds up none of the others, and nobody waits at a barrier
    // after every block of the inner dimension, as `gemm`'s own threads do.
    let step = piece_of(n);
    let out = Shared(out);
    (0..n.div_ceil(step))
        .into_par_iter()
        .with_max_len(1)
        .for_each(|piece| {
            let columns = piece * step..n.min((piece + 1) * step);
            // SAFETY: as above; pieces are disjoint columns.
            unsafe {
                call(
                    out.pointer(),
                    out_stride,
                    a,
                    b,
                    columns,
                    keep,
                    Parallelism::None,
                )
            };
        });
}

/// Columns of a piece.
fn piece_of(n: usize) -> usize {
    if n < 2 * LANE_STEP {
        n
    } else {
        n.div_ceil(PIECES).next_multiple_of(LANE_STEP)
    }
}

/// `gemm` cuts the inner dimension of products of so few rows and columns otherwise.
pub(crate) const FEW: usize = 64;
/// Most numbers of a product that `gemm` may add up in vectors along the inner dimension.
const ADDED_UP_ACROSS: usize = 16 * 16;
/// Pieces a product shared by threads is cut into.
const PIECES: usize = 8;
/// Columns the widest kernel takes at once.
const LANE_STEP: usize = 64;

#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: every piece writes its own columns.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}
impl Shared {
    fn pointer(self) -> *mut f32 {
        self.0
    }
}

/// The given columns of `out = keep * out + a b`.
///
/// # Safety
/// As [`product_into`], whose checks were made.
unsafe fn call(
    out: *mut f32,
    out_stride: usize,
    a: Mat,
    b: Mat,
    columns: std::ops::Range<usize>,
    keep: bool,
    parallelism: Parallelism,
) {
    let first = columns.start;
    // SAFETY: the caller's promise; column `first` is inside both matrices.
    unsafe {
        gemm::gemm(
            a.rows,
            columns.len(),
            a.cols,
            out.add(first),
            1,
            out_stride as isize,
            keep,
            a.values(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.values().wrapping_add(first * b.col_stride),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::noise;

    #[test]
    fn product_of_transposed_views_is_the_plain_sum() {
        let (m, k, n) = (5, 7, 3);
        let (a, b) = (noise(m * k, 1), noise(n * k, 2));
        let mut out = vec![1.0; m * n];
        product(
            &mut out,
            n,
            Mat::new(&a, m, k, k),
            Mat::new(&b, n, k, k).t(),
            true,
            Threads::One,
        );
        for i in 0..m {
            for j in 0..n {
                let want: f32 = 1.0 + (0..k).map(|l| a[i * k + l] * b[j * k + l]).sum::<f32>();
                assert!((out[i * n + j] - want).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn products_over_panels_give_the_bits_of_gemm() {
        if !Words::Float32.are_supported() {
            eprintln!("SKIPPED: this processor has no AVX-512");
            return;
        }
        // Of two threads whatever the machine: with many, no product here would be cut into pieces of columns.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2);
        let pool = pool.build().unwrap();
        for (m, k, n) in [
            (65, 12, 64),
            (100, 768, 96),
            (405, 512, 1536),
            (197, 2048, 512),
            (96, 770, 2300),
            (131, 3072, 129),
            (301, 1000, 200),
            (67, 515, 300),
            (1030, 512, 256),
            (5, 128, 128),
            (33, 128, 512),
            (64, 512, 64),
            (40, 700, 140),
            (17, 768, 320),
            (50, 768, 3072),
            (50, 3072, 768),
            (64, 1200, 1100),
            (3, 1200, 87),
        ] {
            assert!(panels_take(m, k, n).is_some(), "{m}x{k}x{n}");
            let (a, b) = (noise(m * k, 5), noise(n * k, 6));
            let lefts = [Mat::new(&a, m, k, k), Mat::new(&a, k, m, m).t()];
            let rights = [Mat::new(&b, k, n, n), Mat::new(&b, n, k, k).t()];
            for (left, right, keep) in lefts
                .into_iter()
                .flat_map(|l| rights.map(|r| (l, r)))
                .flat_map(|(l, r)| [(l, r, false), (l, r, true)])
            {
                let stride = n + 3;
                let (mut ours, mut theirs) = (noise(m * stride, 7), noise(m * stride, 7));
                pool.install(|| {
                    product(&mut ours, stride, left, right, keep, Threads::Pool);
                });
                // SAFETY: as large as the product.
                unsafe {
                    let to = theirs.as_mut_ptr();
                    by_gemm(to, stride, left, right, keep, Threads::One);
                    if m <= FEW {
                        theirs.copy_from_slice(&noise(m * stride, 7));
                        let to = Shared(theirs.as_mut_ptr());
                        pool.install(|| {
                            by_gemm(to.pointer(), stride, left, right, keep, Threads::Pool);
                        });
                    }
                }
                assert_eq!(ours, theirs, "{m}x{k}x{n}, keep {keep}");
            }
        }
    }

    #[test]
    fn products_that_gemm_adds_up_in_more_than_one_way_are_left_to_it() {
        // Few numbers; and pieces of columns of which the last is so narrow that `gemm` cuts its inner side otherwise.
        for (m, k, n) in [
            (1, 512, 512),
            (4, 512, 64),
            (2, 512, 128),
            (40, 700, 130),
            (60, 700, 576),
        ] {
            assert_eq!(panels_take(m, k, n), None, "{m}x{k}x{n}");
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        for (m, k, n) in [
            (300, 512, 1536),
            (64, 2048, 512),
            (788, 768, 768),
            (37, 128, 512),
            (60, 128, 384),
            (11, 512, 128),
            (700, 256, 128),
        ] {
            let (a, b) = (noise(m * k, 3), noise(n * k, 4));
            let mut one = vec![0.0; m * n];
            let mut two = vec![0.0; m * n];
            let (lhs, rhs) = (Mat::new(&a, m, k, k), Mat::new(&b, n, k, k).t());
            let pool = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                pool.build().unwrap()
            };
            pool(1).install(|| product(&mut one, n, lhs, rhs, false, Threads::Pool));
            pool(2).install(|| product(&mut two, n, lhs, rhs, false, Threads::Pool));
            assert_eq!(one, two, "{m}x{k}x{n}");
        }
    }
}
