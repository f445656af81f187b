//! Matrix products over panels: both inputs are laid out so that a kernel reads them from end to end, once for a whole
//! product, and then shared by all threads. For processors with AVX-512; float32, and bfloat16 where there is AVX512-BF16.
//!
//! The `gemm` crate lays its inputs out again for every piece of a product that a thread takes. On an AMD EPYC (Zen 4,
//! two cores) its products of 2048 a side ran at 190 to 200 GFLOP/s, where two of the kernels here can do 236 on data in
//! the caches. Sums of float32 are added up exactly as in `gemm` (in blocks of at most 512 along the inner dimension),
//! so that both give the same bits.
//!
//! Everything here is in words of 32 bits: a float32, or a pair of bfloat16 that follow one another along the inner
//! dimension. A step is one such word.

use rayon::prelude::*;

use super::scratch::{self, Buffer};

#[cfg(target_arch = "x86_64")]
pub(super) mod kernel;

/// Rows of the left input, and of the output, that a kernel takes at once.
pub(super) const ROWS: usize = 12;
/// Columns of the right input, and of the output, that a kernel takes at once: two vectors of 16.
pub(super) const COLUMNS: usize = 32;
/// Rows of one task.
const TASK_ROWS: usize = 8 * ROWS;
/// Columns of one task.
const TASK_COLUMNS: usize = 4 * COLUMNS;

/// Columns of one task that lays its own panels out.
const PIECE: usize = 2 * COLUMNS;

/// What a word holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// A float32.
    Float32,
    /// Two bfloat16.
    Bfloat16,
}

impl Words {
    /// Whether this processor has the instructions.
    pub(super) fn are_supported(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let wide = is_x86_feature_detected!("avx512f");
            match self {
                Self::Float32 => wide,
                Self::Bfloat16 => {
                    wide && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512bf16")
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            false
        }
    }

    /// Steps that are summed in registers before the sum goes to the output: all of the same number but the last.
    /// A panel of them has to stay in the second-level cache. Fixed, as it decides rounding.
    fn depth(self, steps: usize) -> usize {
        let most = match self {
            Self::Float32 => 512,
            Self::Bfloat16 => 384,
        };
        steps.div_ceil(steps.div_ceil(most).max(1))
    }
}

/// Where words of an input lie: word `step` of `lane` (a row of the left input, a column of the right) is at
/// `lane * lane_stride + step * step_stride`; one of both strides is 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) words: &'a [f32],
    pub(super) lanes: usize,
    pub(super) lane_stride: usize,
    pub(super) steps: usize,
    pub(super) step_stride: usize,
}

impl Source<'_> {
    fn fits(&self) -> bool {
        let last = (self.lanes - 1) * self.lane_stride + (self.steps - 1) * self.step_stride;
        self.words.len() > last && (self.lane_stride == 1 || self.step_stride == 1)
    }
}

/// An input in panels of [`ROWS`] or [`COLUMNS`] lanes. For every block of steps ([`Words::depth`]), every panel, every
/// step of the block: the panel's words.
#[derive(Debug)]
pub(super) struct Panels {
    buffer: Buffer,
    /// Of the first word, so that vectors start at cache lines.
    offset: usize,
    lanes: usize,
    steps: usize,
    depth: usize,
    width: usize,
}

impl Panels {
    fn empty(words: Words, lanes: usize, steps: usize, width: usize) -> Self {
        let buffer = scratch::take(lanes.div_ceil(width) * width * steps + 16);
        let offset = buffer.as_ptr().align_offset(64).min(16);
        let depth = words.depth(steps);
        Self {
            buffer,
            offset,
            lanes,
            steps,
            depth,
            width,
        }
    }

    fn panels(&self) -> usize {
        self.lanes.div_ceil(self.width)
    }

    fn words(&self) -> &[f32] {
        &self.buffer[self.offset..]
    }

    /// First word of a panel in the block that begins at step `block`, and the steps there.
    fn at(&self, block: usize, panel: usize) -> (usize, usize) {
        let depth = self.depth.min(self.steps - block);
        ((block * self.panels() + panel * depth) * self.width, depth)
    }

    /// Lays `source` out.
    pub(super) fn of(words: Words, source: &Source, width: usize) -> Self {
        assert!(
            source.fits() && words.are_supported(),
            "an input in panels lies inside its slice"
        );
        let mut all = Self::empty(words, source.lanes, source.steps, width);
        let out = Out(all.buffer[all.offset..].as_mut_ptr());
        let blocks = source.steps.div_ceil(all.depth);
        let all_ref = &all;
        (0..blocks * all.panels()).into_par_iter().for_each(|task| {
            let (block, panel) = (
                task / all_ref.panels() * all_ref.depth,
                task % all_ref.panels(),
            );
            let (first, depth) = all_ref.at(block, panel);
            let lane = panel * width;
            let part = Source {
                words: &source.words[lane * source.lane_stride + block * source.step_stride..],
                lanes: width.min(source.lanes - lane),
                steps: depth,
                ..*source
            };
            // SAFETY: a panel's words are this task's alone.
            unsafe { lay_out(&part, width, out.at(first)) };
        });
        all
    }

    /// Rows that `write(i, row)` gives, rounded to bfloat16: `inner` values each.
    pub(super) fn rounded(
        lanes: usize,
        inner: usize,
        width: usize,
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let words = Words::Bfloat16;
        assert!(words.are_supported(), "bfloat16 needs AVX512-BF16");
        let steps = inner.div_ceil(2);
        let mut all = Self::empty(words, lanes, steps, width);
        let out = Out(all.buffer[all.offset..].as_mut_ptr());
        let all_ref = &all;
        (0..all.panels()).into_par_iter().for_each_init(
            // A value more where their number is odd: it stays zero.
            || (vec![0f32; 2 * steps], vec![0f32; width * steps]),
            |(row, rounded), panel| {
                let lane = panel * width;
                let height = width.min(lanes - lane);
                for i in 0..height {
                    write(lane + i, &mut row[..inner]);
                    round(row, &mut rounded[i * steps..(i + 1) * steps]);
                }
                for block in (0..steps).step_by(all_ref.depth) {
                    let (first, depth) = all_ref.at(block, panel);
                    let part = Source {
                        words: &rounded[block..],
                        lanes: height,
                        lane_stride: steps,
                        steps: depth,
                        step_stride: 1,
                    };
                    // SAFETY: a panel's words are this task's alone.
                    unsafe { lay_out(&part, width, out.at(first)) };
                }
            },
        );
        all
    }

    /// Lanes.
    pub(super) fn lanes(&self) -> usize {
        self.lanes
    }
}

/// `out = keep * out + left right`; `left` in panels of [`ROWS`], `right` of [`COLUMNS`], rows of `out` `stride` apart.
///
/// # Safety
/// Rows `0..left.lanes()` of `right.lanes()` values must be valid for writes and touched by no one else.
pub(super) unsafe fn multiply(
    words: Words,
    out: *mut f32,
    stride: usize,
    left: &Panels,
    right: &Panels,
    keep: bool,
) {
    assert_eq!(
        (left.width, right.width),
        (ROWS, COLUMNS),
        "panels are as wide as the kernel"
    );
    assert_eq!(
        (left.steps, left.depth),
        (right.steps, right.depth),
        "inner sizes differ"
    );
    assert!(words.are_supported(), "products over panels need AVX-512");
    let pieces = right.lanes.div_ceil(TASK_COLUMNS);
    let out = Out(out);
    (0..left.lanes.div_ceil(TASK_ROWS) * pieces)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|task| {
            let (row, column) = (task / pieces * TASK_ROWS, task % pieces * TASK_COLUMNS);
            let rows = row..left.lanes.min(row + TASK_ROWS);
            let columns = column..right.lanes.min(column + TASK_COLUMNS);
            for block in (0..left.steps).step_by(left.depth) {
                let keep = keep || block > 0;
                for panel in columns.start / COLUMNS..columns.end.div_ceil(COLUMNS) {
                    let (at, depth) = right.at(block, panel);
                    let weights = &right.words()[at..at + depth * COLUMNS];
                    let first = panel * COLUMNS;
                    let width = COLUMNS.min(right.lanes - first);
                    for row in rows.clone().step_by(ROWS) {
                        let (at, _) = left.at(block, row / ROWS);
                        let values = &left.words()[at..at + depth * ROWS];
                        let height = ROWS.min(rows.end - row);
                        // SAFETY: these rows and columns of the output are this task's alone.
                        unsafe {
                            let to = out.at(row * stride + first);
                            tile(words, values, weights, [height, width], to, stride, keep);
                        }
                    }
                }
            }
        });
}

/// Tasks of [`multiply_in_pieces`] for so many columns.
pub(super) fn pieces(columns: usize) -> usize {
    columns.div_ceil(PIECE)
}

/// As [`multiply`], of a right input that every task lays out for itself, a piece of [`PIECE`] columns and a block of
/// steps at a time. Worth it for few rows: the weights are then read once and stay in the task's own cache, and while
/// one thread waits for memory the others compute. The bits are the same.
///
/// # Safety
/// As [`multiply`].
pub(super) unsafe fn multiply_in_pieces(
    words: Words,
    out: *mut f32,
    stride: usize,
    left: &Panels,
    right: &Source,
    keep: bool,
) {
    assert!(
        left.width == ROWS && left.steps == right.steps && right.fits(),
        "inner sizes differ, or the right input is not there"
    );
    assert!(words.are_supported(), "products over panels need AVX-512");
    let out = Out(out);
    (0..right.lanes.div_ceil(PIECE))
        .into_par_iter()
        .with_max_len(1)
        .for_each(|piece| {
            let columns = piece * PIECE..right.lanes.min((piece + 1) * PIECE);
            let mut buffer = scratch::take(PIECE * left.depth + 16);
            let offset = buffer.as_ptr().align_offset(64).min(16);
            let room = &mut buffer[offset..];
            for block in (0..left.steps).step_by(left.depth) {
                let keep = keep || block > 0;
                let depth = left.depth.min(left.steps - block);
                for (panel, lane) in columns.clone().step_by(COLUMNS).enumerate() {
                    let part = Source {
                        words: &right.words[lane * right.lane_stride + block * right.step_stride..],
                        lanes: COLUMNS.min(right.lanes - lane),
                        steps: depth,
                        ..*right
                    };
                    let to = &mut room[panel * depth * COLUMNS..(panel + 1) * depth * COLUMNS];
                    // SAFETY: as long as a panel.
                    unsafe { lay_out(&part, COLUMNS, to.as_mut_ptr()) };
                }
                for row in (0..left.lanes).step_by(ROWS) {
                    let (at, _) = left.at(block, row / ROWS);
                    let values = &left.words()[at..at + depth * ROWS];
                    let height = ROWS.min(left.lanes - row);
                    for (panel, lane) in columns.clone().step_by(COLUMNS).enumerate() {
                        let weights = &room[panel * depth * COLUMNS..(panel + 1) * depth * COLUMNS];
                        let width = COLUMNS.min(right.lanes - lane);
                        // SAFETY: these columns of the output are this task's alone.
                        unsafe {
                            let to = out.at(row * stride + lane);
                            tile(words, values, weights, [height, width], to, stride, keep);
                        }
                    }
                }
            }
        });
}

/// A tile of a product: `height` rows and `width` columns.
///
/// # Safety
/// As [`multiply`], for the tile.
unsafe fn tile(
    words: Words,
    values: &[f32],
    weights: &[f32],
    [height, width]: [usize; 2],
    out: *mut f32,
    stride: usize,
    keep: bool,
) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise; the instructions were asked for.
    unsafe {
        kernel::tile(words, values, weights, [height, width], out, stride, keep);
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (words, values, weights, height, width, out, stride, keep);
        unreachable!("nobody gets here without the instructions");
    }
}

/// One panel of a source that is at most `width` lanes, to `out`.
///
/// # Safety
/// `out` must be valid for `width * source.steps` words.
unsafe fn lay_out(source: &Source, width: usize, out: *mut f32) {
    assert!(
        source.fits() && source.lanes <= width,
        "a panel lies inside its source"
    );
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise, and the source was just checked; the instructions were asked for.
    unsafe {
        if source.step_stride == 1 {
            kernel::transpose(source, width, out);
        } else {
            kernel::copy(source, width, out);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (source, width, out);
        unreachable!("nobody gets here without the instructions");
    }
}

/// Rounds pairs of `row` to words of two bfloat16, to nearest, ties to even.
fn round(row: &[f32], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: callers asked for the instructions.
    unsafe {
        kernel::round(row, out);
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (row, out);
        unreachable!("nobody gets here without the instructions");
    }
}

#[derive(Clone, Copy)]
struct Out(*mut f32);
// SAFETY: every task writes words of its own.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}
impl Out {
    fn at(self, index: usize) -> *mut f32 {
        // SAFETY: callers stay inside the buffer the pointer was taken from.
        unsafe { self.0.add(index) }
    }
}
