//! Inputs as the unit takes them: rounded to bfloat16, or split into two or three, in tiles.
//!
//! A tile is 16 rows of 64 bytes: of the left input 16 rows of 32 values along the inner side; of the right input 16
//! pairs of values along the inner side (a pair is one word, the earlier value in its lower half) of 16 columns. A step
//! is 32 values of the inner side, for 32 rows or columns: two tiles of the highest part, then two of every other. Steps of the same rows or columns follow one another, so
//! that a kernel reads both inputs from end to end. What is missing to whole tiles is zero.
//!
//! Rounding is to nearest, ties to even; subnormal numbers become zero, and NaN stays NaN: what `vcvtne2ps2bf16` does, so
//! that with or without that instruction the bits are the same. The next part is what rounding took away, rounded in its
//! turn, and so on. Three parts are the value itself, to the last bit, from 2^-103 on; below, what would be a subnormal
//! part is missing. Where a part is infinite (its value is, or rounds up to it), the others are not finite either, and nor
//! is what they are multiplied to: an infinity may come out as NaN, but never as a number.

use std::ops::Range;

use rayon::prelude::*;

use super::super::Kept;
use super::super::gemm::Mat;
use super::super::scratch::{self, Buffer};
use super::{Grade, SIDE, STEP, TILE, step_words};

#[cfg(target_arch = "x86_64")]
mod wide;

/// An input of a product in tiles.
#[derive(Debug)]
pub(super) struct Tiles {
    grade: Grade,
    lanes: usize,
    inner: usize,
    buffer: Buffer,
    /// Of the first word, so that tiles start at cache lines.
    offset: usize,
}

impl Tiles {
    fn empty(grade: Grade, lanes: usize, inner: usize) -> Self {
        let words = lanes.div_ceil(SIDE) * inner.div_ceil(STEP) * step_words(grade);
        let (buffer, offset) = aligned(words);
        Self {
            grade,
            lanes,
            inner,
            buffer,
            offset,
        }
    }

    /// Rows that `write(i, row)` gives, of `inner` values each.
    pub(super) fn of_rows(
        grade: Grade,
        rows: usize,
        inner: usize,
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let mut all = Self::empty(grade, rows, inner);
        let steps = all.steps();
        let out = all.out();
        (0..rows.div_ceil(SIDE / 2)).into_par_iter().for_each_init(
            // What is behind a row stays zero.
            || scratch::zeros(steps * STEP),
            // SAFETY: a tile's rows are this task's alone.
            |row, tile| unsafe { tile_rows(grade, [rows, inner], tile, &write, row, out) },
        );
        all
    }

    /// As [`Tiles::of_rows`], by the calling thread alone.
    pub(super) fn of_rows_alone(
        grade: Grade,
        rows: usize,
        inner: usize,
        write: impl Fn(usize, &mut [f32]),
    ) -> Self {
        let mut all = Self::empty(grade, rows, inner);
        let mut row = scratch::zeros(all.steps() * STEP);
        let out = all.out();
        for tile in 0..rows.div_ceil(SIDE / 2) {
            // SAFETY: nobody else knows of the buffer.
            unsafe { tile_rows(grade, [rows, inner], tile, &write, &mut row, out) };
        }
        all
    }

    /// Its first word.
    fn out(&mut self) -> Out {
        Out(self.buffer[self.offset..].as_mut_ptr().cast())
    }

    /// Columns of `right` `[inner, columns]`.
    pub(super) fn of_columns(grade: Grade, right: Mat) -> Self {
        let values = Values::of(right);
        let mut all = Self::empty(grade, values.columns, values.inner);
        let (steps, words) = (all.steps(), step_words(grade));
        let out = all.out();
        let blocks = steps.div_ceil(super::DEPTH);
        (0..values.columns.div_ceil(SIDE) * blocks)
            .into_par_iter()
            .for_each(|task| {
                let (panel, first) = (task / blocks, task % blocks * super::DEPTH);
                let range = first..steps.min(first + super::DEPTH);
                let len = range.len() * words;
                // SAFETY: a task's steps of a panel are its alone, and inside the buffer.
                let out = unsafe {
                    std::slice::from_raw_parts_mut(out.at((panel * steps + first) * words), len)
                };
                values.lay_out(grade, panel * SIDE, range, out);
            });
        all
    }

    /// How exact.
    pub(super) fn grade(&self) -> Grade {
        self.grade
    }

    /// Rows of a left input, columns of a right one.
    pub(super) fn lanes(&self) -> usize {
        self.lanes
    }

    /// Values along the inner side.
    pub(super) fn inner(&self) -> usize {
        self.inner
    }

    /// Steps along the inner side.
    pub(super) fn steps(&self) -> usize {
        self.inner.div_ceil(STEP)
    }

    /// Steps `steps` of the rows or columns from `group * 32` on.
    pub(super) fn words(&self, group: usize, steps: Range<usize>) -> &[u32] {
        let words = step_words(self.grade);
        let first = self.offset + group * self.steps() * words;
        as_words(&self.buffer[first + steps.start * words..first + steps.end * words])
    }
}

/// Rows of tile `tile` to where they lie from the first word `out` on; `row` is room for one, zero behind its `inner`
/// values.
///
/// # Safety
/// Nobody else may touch words of these rows, and `out` must be of tiles of this shape.
unsafe fn tile_rows(
    grade: Grade,
    [rows, inner]: [usize; 2],
    tile: usize,
    write: impl Fn(usize, &mut [f32]),
    row: &mut [f32],
    out: Out,
) {
    let group = tile / 2 * (row.len() / STEP) * step_words(grade);
    for i in 0..SIDE / 2 {
        let at = tile * (SIDE / 2) + i;
        let to = group + tile % 2 * TILE + 16 * i;
        if at < rows {
            write(at, &mut row[..inner]);
        } else {
            row.fill(0.0);
        }
        // SAFETY: the caller's promise.
        unsafe { split_row(grade, row, out.at(to)) };
    }
    // For the next tile.
    row[inner..].fill(0.0);
}

/// A buffer with room for `len` words from a cache line on, and where that is.
pub(super) fn aligned(len: usize) -> (Buffer, usize) {
    let buffer = scratch::take(len + 16);
    let offset = buffer.as_ptr().align_offset(64).min(16);
    (buffer, offset)
}

pub(super) fn as_words(values: &[f32]) -> &[u32] {
    // SAFETY: of the same size and alignment, and every pattern of bits is both.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

pub(super) fn as_words_mut(values: &mut [f32]) -> &mut [u32] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

/// Where values of a right input lie: the one place that reads them.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    from: Kept<'a>,
    pub(super) columns: usize,
    pub(super) inner: usize,
    column_stride: usize,
    inner_stride: usize,
}

impl<'a> Values<'a> {
    /// Of `right` `[inner, columns]`.
    ///
    /// # Panics
    /// When its slice is too short.
    pub(super) fn of(right: Mat<'a>) -> Self {
        let source = right.t().source();
        let values = Self {
            from: source.numbers,
            columns: source.lanes,
            inner: source.inner,
            column_stride: source.lane_stride,
            inner_stride: source.inner_stride,
        };
        if values.columns > 0 && values.inner > 0 {
            let last = (values.columns - 1) * values.column_stride
                + (values.inner - 1) * values.inner_stride;
            assert!(values.from.len() > last, "a product reads past its inputs");
        }
        values
    }

    /// The panel of 32 columns from `column` on, `steps` of it.
    ///
    /// # Panics
    /// When `out` has another size.
    pub(super) fn lay_out(
        &self,
        grade: Grade,
        column: usize,
        steps: Range<usize>,
        out: &mut [u32],
    ) {
        assert_eq!(
            out.len(),
            steps.len() * step_words(grade),
            "a panel has its size"
        );
        #[cfg(target_arch = "x86_64")]
        if wide::is_supported() && (self.column_stride == 1 || self.inner_stride == 1) {
            // SAFETY: the processor has the instructions.
            unsafe {
                match self.from {
                    Kept::Float32(n) => wide::lay_out(self, n, grade, column, steps, out),
                    Kept::Half(n) => wide::lay_out(self, n, grade, column, steps, out),
                    Kept::Bfloat16(n) => wide::lay_out(self, n, grade, column, steps, out),
                }
            }
            return;
        }
        self.lay_out_plainly(grade, column, steps, out);
    }

    /// As [`Values::lay_out`], on any processor.
    fn lay_out_plainly(&self, grade: Grade, column: usize, steps: Range<usize>, out: &mut [u32]) {
        for (step, out) in steps.zip(out.chunks_exact_mut(step_words(grade))) {
            for (k, n) in (0..STEP / 2).flat_map(|k| (0..SIDE).map(move |n| (k, n))) {
                let value = |odd: usize| {
                    let (k, n) = (step * STEP + 2 * k + odd, column + n);
                    let there = k < self.inner && n < self.columns;
                    if there {
                        self.from.at(k * self.inner_stride + n * self.column_stride)
                    } else {
                        0.0
                    }
                };
                let at = n / 16 * TILE + 16 * k + n % 16;
                let parts = split([value(0), value(1)]);
                for (part, word) in parts.into_iter().enumerate().take(grade.parts()) {
                    out[2 * TILE * part + at] = word;
                }
            }
        }
    }
}

/// A row of whole steps: of every step 16 words of the highest part at `out`, and 16 of every other two tiles behind.
///
/// # Safety
/// Those must be valid for writes.
unsafe fn split_row(grade: Grade, row: &[f32], out: *mut u32) {
    #[cfg(target_arch = "x86_64")]
    if wide::is_supported() {
        // SAFETY: the caller's promise; the processor has the instructions.
        unsafe { wide::split_row(grade, row, out) };
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { split_row_plainly(grade, row, out) };
}

/// As [`split_row`], on any processor.
///
/// # Safety
/// As there.
unsafe fn split_row_plainly(grade: Grade, row: &[f32], out: *mut u32) {
    for (step, values) in row.chunks_exact(STEP).enumerate() {
        for (i, pair) in values.chunks_exact(2).enumerate() {
            let parts = split([pair[0], pair[1]]);
            for (part, word) in parts.into_iter().enumerate().take(grade.parts()) {
                // SAFETY: the caller's promise.
                unsafe {
                    out.add(step * step_words(grade) + 2 * TILE * part + i)
                        .write(word)
                };
            }
        }
    }
}

/// The words of the parts of a pair, from the highest.
#[inline(always)]
fn split(mut pair: [f32; 2]) -> [u32; 3] {
    [(); 3].map(|()| {
        let part = pair.map(rounded);
        pair = [0, 1].map(|i| pair[i] - f32::from_bits(part[i] << 16));
        part[0] | part[1] << 16
    })
}

/// Rounded to bfloat16.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if x.is_nan() {
        // Quiet.
        (bits >> 16) | 0x40
    } else if x.abs() < f32::MIN_POSITIVE {
        (bits >> 16) & 0x8000
    } else {
        nearest
    }
}

#[derive(Clone, Copy)]
struct Out(*mut u32);
// SAFETY: every task writes words of its own.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}
impl Out {
    fn at(self, index: usize) -> *mut u32 {
        // SAFETY: callers stay inside the buffer the pointer was taken from.
        unsafe { self.0.add(index) }
    }
}

#[cfg(test)]
mod tests;
