//! The instructions themselves.

use std::arch::x86_64::{
    __m512, __mmask16, _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
};
use std::cell::RefCell;

use super::depth;
use crate::ops::gemm::Mat;
use crate::ops::panels::kernel::{first, transposed};

/// Columns that are multiplied at once: four vectors.
const COLUMNS: usize = 64;
/// Right inputs of so many rows are brought together where they lie apart; fewer are not read often enough.
const WORTH_COPYING: usize = 16;

thread_local! {
    /// A right input whose rows did not follow one another.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// As [`super::product`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn product(out: *mut f32, stride: usize, a: Mat, b: Mat, keep: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        if b.col_stride != 1 {
            ROOM.with_borrow_mut(|room| {
                let across = b.cols.next_multiple_of(16);
                room.resize((across * b.rows).max(room.len()), 0.0);
                turn(&b, across, room);
                multiply(out, stride, a, (room.as_ptr(), across, b.cols), keep);
            });
        } else if b.row_stride > b.cols && a.rows >= WORTH_COPYING {
            ROOM.with_borrow_mut(|room| {
                room.resize((b.cols * b.rows).max(room.len()), 0.0);
                for (i, row) in room.chunks_exact_mut(b.cols).take(b.rows).enumerate() {
                    b.read_row(i, row);
                }
                multiply(out, stride, a, (room.as_ptr(), b.cols, b.cols), keep);
            });
        } else {
            multiply(out, stride, a, (b.values(), b.row_stride, b.cols), keep);
        }
    }
}

/// `b`, whose columns are contiguous, as rows of `across` values.
///
/// # Safety
/// `b` lies inside its slice; `room` has `across * b.rows` values, `across` being a multiple of 16.
#[target_feature(enable = "avx512f")]
unsafe fn turn(b: &Mat, across: usize, room: &mut [f32]) {
    assert!(room.len() >= across * b.rows && across >= b.cols);
    let (from, to) = (b.values(), room.as_mut_ptr());
    for column in (0..b.cols).step_by(16) {
        let columns = (b.cols - column).min(16);
        for row in (0..b.rows).step_by(16) {
            let rows = (b.rows - row).min(16);
            // SAFETY: masked to the numbers that there are; the room was just checked.
            unsafe {
                let lines: [__m512; 16] = std::array::from_fn(|i| {
                    if i < columns {
                        let at = from.add((column + i) * b.col_stride + row);
                        _mm512_maskz_loadu_ps(first(rows), at)
                    } else {
                        _mm512_setzero_ps()
                    }
                });
                for (i, line) in transposed(lines).iter().take(rows).enumerate() {
                    _mm512_mask_storeu_ps(to.add((row + i) * across + column), !0, *line);
                }
            }
        }
    }
}

/// The product with a right input of rows `apart` values apart, `columns` each.
///
/// # Safety
/// As [`product`].
#[target_feature(enable = "avx512f")]
unsafe fn multiply(
    out: *mut f32,
    stride: usize,
    a: Mat,
    (right, apart, columns): (*const f32, usize, usize),
    keep: bool,
) {
    let (m, k) = (a.rows, a.cols);
    let depth = depth(m, k, columns);
    for step in (0..k).step_by(depth) {
        let steps = depth.min(k - step);
        for column in (0..columns).step_by(COLUMNS) {
            let width = COLUMNS.min(columns - column);
            let vectors = width.div_ceil(16);
            let most = [12, 12, 8, 6][vectors - 1];
            for row in (0..m).step_by(most) {
                // SAFETY: inside both inputs and the output.
                unsafe {
                    let tile = Tile {
                        left: a.values().add(row * a.row_stride + step * a.col_stride),
                        row_stride: a.row_stride,
                        col_stride: a.col_stride,
                        right: right.add(step * apart + column),
                        apart,
                        steps,
                        out: out.add(row * stride + column),
                        stride,
                        last: first(width - 16 * (vectors - 1)),
                        keep: keep || step > 0,
                    };
                    of_size(&tile, most.min(m - row), vectors);
                }
            }
        }
    }
}

struct Tile {
    left: *const f32,
    row_stride: usize,
    col_stride: usize,
    right: *const f32,
    apart: usize,
    steps: usize,
    out: *mut f32,
    stride: usize,
    /// Columns of the last vector.
    last: __mmask16,
    keep: bool,
}

/// # Safety
/// The tile lies inside its inputs and its output.
#[target_feature(enable = "avx512f")]
unsafe fn of_size(tile: &Tile, rows: usize, vectors: usize) {
    macro_rules! sizes {
        ($($v:literal: $($m:literal)*;)*) => {
            match (rows, vectors) {
                // SAFETY: the caller's promise.
                $($(($m, $v) => unsafe { multiplied::<$m, $v>(tile) },)*)*
                _ => unreachable!("a tile has at most 24 sums"),
            }
        };
    }
    sizes! {
        1: 1 2 3 4 5 6 7 8 9 10 11 12;
        2: 1 2 3 4 5 6 7 8 9 10 11 12;
        3: 1 2 3 4 5 6 7 8;
        4: 1 2 3 4 5 6;
    }
}

/// `M` rows and `V` vectors of columns, whose sums stay in registers.
///
/// # Safety
/// As [`of_size`].
#[target_feature(enable = "avx512f")]
unsafe fn multiplied<const M: usize, const V: usize>(t: &Tile) {
    let mask = |v: usize| if v + 1 == V { t.last } else { !0 };
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    // SAFETY: the caller's promise; masked to the columns there are.
    unsafe {
        for step in 0..t.steps {
            let row = t.right.add(step * t.apart);
            let row: [__m512; V] =
                std::array::from_fn(|v| _mm512_maskz_loadu_ps(mask(v), row.add(16 * v)));
            let values = t.left.add(step * t.col_stride);
            for (i, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*values.add(i * t.row_stride));
                for (sum, right) in sums.iter_mut().zip(row) {
                    *sum = _mm512_fmadd_ps(value, right, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let to = t.out.add(i * t.stride + 16 * v);
                let sum = if t.keep {
                    _mm512_add_ps(_mm512_maskz_loadu_ps(mask(v), to), *sum)
                } else {
                    *sum
                };
                _mm512_mask_storeu_ps(to, mask(v), sum);
            }
        }
    }
}
