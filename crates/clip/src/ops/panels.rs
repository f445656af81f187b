//! Matrix products over panels: both inputs are laid out so that a kernel reads them from end to end, once for a whole
//! product, and then shared by all threads. For processors with AVX-512; float32, and bfloat16 where there is AVX512-BF16.
//!
//! The `gemm` crate lays its inputs out again for every piece of a product that a thread takes. On an AMD EPYC (Zen 4,
//! two cores) its products of 2048 a side ran at 190 to 200 GFLOP/s, where two of the kernels here can do 236 on data in
//! the caches. Sums of float32 are added up exactly as in `gemm` (in blocks of at most 512 along the inner dimension),
//! so that both give the same bits.
//!
//! Panels are of words of 32 bits: a float32, or a pair of bfloat16 that follow one another along the inner dimension (of
//! an odd number, the last one's partner is zero). A step is one such word. Numbers are rounded, or widened where they are
//! kept in half precision, while they are laid out.

use rayon::prelude::*;

use super::Kept;
use super::products::Start;
use super::scratch::{self, Buffer};

#[cfg(target_arch = "x86_64")]
pub(super) mod kernel;
mod left;

pub(super) use left::Left;
use left::Place;

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
/// From so many rows on, laying out the right input costs next to nothing, and small tasks keep all threads busy to the end.
const MANY_ROWS: usize = 1024;

/// What a word holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// A float32.
    Float32,
    /// Two bfloat16, rounded to nearest, ties to even.
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

    /// Values of a word.
    fn values(self) -> usize {
        match self {
            Self::Float32 => 1,
            Self::Bfloat16 => 2,
        }
    }

    /// Most steps that are summed in registers.
    fn most(self) -> usize {
        match self {
            Self::Float32 => 512,
            Self::Bfloat16 => 384,
        }
    }

    /// Blocks of the same number of steps, the last one excepted, of `inner` numbers.
    pub(super) fn evenly(self, inner: usize) -> Cut {
        let steps = inner.div_ceil(self.values());
        let depth = steps.div_ceil(steps.div_ceil(self.most()).max(1));
        Cut { words: self, depth }
    }

    /// Blocks of as many steps as there may be, and the rest, of `inner` numbers.
    pub(super) fn fully(self, inner: usize) -> Cut {
        let depth = inner.div_ceil(self.values()).min(self.most());
        Cut { words: self, depth }
    }
}

/// What words hold, and in what blocks the inner side is added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    words: Words,
    /// Steps that are summed in registers before the sum goes to the output. A panel of them has to stay in the second-level
    /// cache. Fixed, as it decides rounding.
    depth: usize,
}

/// Where the numbers of an input lie: number `k` of `lane` (a row of the left input, a column of the right) is at
/// `lane * lane_stride + k * inner_stride`; one of both strides is 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) numbers: Kept<'a>,
    pub(super) lanes: usize,
    pub(super) lane_stride: usize,
    pub(super) inner: usize,
    pub(super) inner_stride: usize,
}

impl Source<'_> {
    fn fits(&self) -> bool {
        let last = (self.lanes - 1) * self.lane_stride + (self.inner - 1) * self.inner_stride;
        self.numbers.len() > last && (self.lane_stride == 1 || self.inner_stride == 1)
    }

    /// At most `lanes` lanes from `lane` on, and at most `inner` numbers of them from `first` on.
    fn part(&self, (lane, lanes): (usize, usize), (first, inner): (usize, usize)) -> Self {
        let at = lane * self.lane_stride + first * self.inner_stride;
        Self {
            numbers: self.numbers.slice(at..self.numbers.len()),
            lanes: lanes.min(self.lanes - lane),
            inner: inner.min(self.inner - first),
            ..*self
        }
    }
}

/// An input in panels of [`ROWS`] or [`COLUMNS`] lanes. For every block of steps ([`Words::depth`]), every panel, every
/// step of the block: the panel's words.
#[derive(Debug)]
pub(super) struct Panels {
    cut: Cut,
    buffer: Buffer,
    /// Of the first word, so that vectors start at cache lines.
    offset: usize,
    lanes: usize,
    inner: usize,
    steps: usize,
    width: usize,
}

impl Panels {
    fn empty(cut: Cut, lanes: usize, inner: usize, width: usize) -> Self {
        assert!(
            cut.words.are_supported(),
            "products over panels need AVX-512, pairs AVX512-BF16"
        );
        let steps = inner.div_ceil(cut.words.values());
        let buffer = scratch::take(lanes.div_ceil(width) * width * steps + 16);
        let offset = buffer.as_ptr().align_offset(64).min(16);
        Self {
            cut,
            buffer,
            offset,
            lanes,
            inner,
            steps,
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
        let depth = self.cut.depth.min(self.steps - block);
        ((block * self.panels() + panel * depth) * self.width, depth)
    }

    /// First number of the block that begins at step `block`, and how many a block has.
    fn numbers(&self, block: usize) -> (usize, usize) {
        let each = self.cut.words.values();
        (block * each, self.cut.depth * each)
    }

    /// Lays `source` out.
    pub(super) fn of(cut: Cut, source: &Source, width: usize) -> Self {
        assert!(source.fits(), "an input in panels lies inside its slice");
        let mut all = Self::empty(cut, source.lanes, source.inner, width);
        let out = Out(all.buffer[all.offset..].as_mut_ptr());
        let blocks = all.steps.div_ceil(cut.depth);
        let all_ref = &all;
        (0..blocks * all.panels()).into_par_iter().for_each(|task| {
            let (block, panel) = (task / all_ref.panels() * cut.depth, task % all_ref.panels());
            let (first, _) = all_ref.at(block, panel);
            let part = source.part((panel * width, width), all_ref.numbers(block));
            // SAFETY: a panel's words are this task's alone.
            unsafe { lay_out(cut.words, &part, width, out.at(first)) };
        });
        all
    }

    /// Lays rows out that `write(i, row)` gives, `inner` values each.
    pub(super) fn written(
        cut: Cut,
        lanes: usize,
        inner: usize,
        width: usize,
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let mut all = Self::empty(cut, lanes, inner, width);
        let out = Out(all.buffer[all.offset..].as_mut_ptr());
        let all_ref = &all;
        // Rows that lie a power of two apart would share places of the first cache.
        let stride = inner + 16;
        (0..all.panels()).into_par_iter().for_each_init(
            || scratch::take(width * stride),
            |rows, panel| {
                let lane = panel * width;
                let height = width.min(lanes - lane);
                for i in 0..height {
                    write(lane + i, &mut rows[i * stride..][..inner]);
                }
                let source = Source {
                    numbers: Kept::Float32(rows),
                    lanes: height,
                    lane_stride: stride,
                    inner,
                    inner_stride: 1,
                };
                for block in (0..all_ref.steps).step_by(cut.depth) {
                    let (first, _) = all_ref.at(block, panel);
                    let part = source.part((0, height), all_ref.numbers(block));
                    // SAFETY: a panel's words are this task's alone.
                    unsafe { lay_out(cut.words, &part, width, out.at(first)) };
                }
            },
        );
        all
    }
}

/// `out = start + left right`; rows of `out`, and of what it begins with, `stride` apart. The
/// bits of a row do not depend on how many there are.
///
/// # Safety
/// Rows of `left` of `right.lanes` values must be valid for writes and touched by no one else; `start` must have as
/// many values.
pub(super) unsafe fn product(
    out: *mut f32,
    stride: usize,
    left: &Left,
    right: &Source,
    start: Start,
) {
    let pieces = right.lanes.div_ceil(PIECE);
    // SAFETY: the caller's promise.
    unsafe {
        if left.lanes() < MANY_ROWS && pieces >= 2 * rayon::current_num_threads() {
            multiply_in_pieces(out, stride, left, right, start);
        } else {
            let right = Panels::of(left.cut(), right, COLUMNS);
            multiply(out, stride, left, &right, start);
        }
    }
}

/// As [`product`], of a right input in panels of [`COLUMNS`] that are cut as those of `left`.
///
/// # Safety
/// As there.
pub(super) unsafe fn multiply(
    out: *mut f32,
    stride: usize,
    left: &Left,
    right: &Panels,
    start: Start,
) {
    assert_eq!(
        (left.cut(), left.inner(), COLUMNS),
        (right.cut, right.inner, right.width),
        "inner sizes differ"
    );
    let (words, lanes) = (left.cut().words, left.lanes());
    // Few rows are shared by columns alone.
    let wide = if lanes <= TASK_ROWS && rayon::current_num_threads() > 1 {
        PIECE
    } else {
        TASK_COLUMNS
    };
    let pieces = right.lanes.div_ceil(wide);
    let out = Out(out);
    (0..lanes.div_ceil(TASK_ROWS) * pieces)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|task| {
            let (row, column) = (task / pieces * TASK_ROWS, task % pieces * wide);
            let rows = row..lanes.min(row + TASK_ROWS);
            let columns = column..right.lanes.min(column + wide);
            for block in (0..left.steps()).step_by(left.cut().depth) {
                for panel in columns.start / COLUMNS..columns.end.div_ceil(COLUMNS) {
                    let (at, depth) = right.at(block, panel);
                    let weights = &right.words()[at..at + depth * COLUMNS];
                    let first = panel * COLUMNS;
                    let width = COLUMNS.min(right.lanes - first);
                    for row in rows.clone().step_by(ROWS) {
                        let height = ROWS.min(rows.end - row);
                        let values = left.place(block, row, height);
                        let begin = Begin::new(start, block, row * stride, first);
                        // SAFETY: these rows and columns of the output are this task's alone.
                        unsafe {
                            let to = out.at(row * stride + first);
                            let shape = [height, width];
                            tile(words, values, weights, shape, to, stride, begin);
                        }
                    }
                }
            }
        });
}

/// As [`multiply`], of a right input that every task lays out for itself, a piece of [`PIECE`] columns and a block of
/// steps at a time. Worth it for few rows: the weights are then read once and stay in the task's own cache, and while
/// one thread waits for memory the others compute. The bits are the same.
///
/// # Safety
/// As [`product`].
unsafe fn multiply_in_pieces(
    out: *mut f32,
    stride: usize,
    left: &Left,
    right: &Source,
    start: Start,
) {
    assert!(
        left.inner() == right.inner && right.fits(),
        "inner sizes differ, or the right input is not there"
    );
    let (Cut { words, depth: most }, lanes) = (left.cut(), left.lanes());
    let out = Out(out);
    (0..right.lanes.div_ceil(PIECE))
        .into_par_iter()
        .with_max_len(1)
        .for_each(|piece| {
            let columns = piece * PIECE..right.lanes.min((piece + 1) * PIECE);
            let mut buffer = scratch::take(PIECE * most + 16);
            let offset = buffer.as_ptr().align_offset(64).min(16);
            let room = &mut buffer[offset..];
            for block in (0..left.steps()).step_by(left.cut().depth) {
                let depth = left.depth(block);
                let numbers = (block * words.values(), most * words.values());
                for (panel, lane) in columns.clone().step_by(COLUMNS).enumerate() {
                    let part = right.part((lane, COLUMNS), numbers);
                    let to = &mut room[panel * depth * COLUMNS..(panel + 1) * depth * COLUMNS];
                    // SAFETY: as long as a panel.
                    unsafe { lay_out(words, &part, COLUMNS, to.as_mut_ptr()) };
                }
                for row in (0..lanes).step_by(ROWS) {
                    let height = ROWS.min(lanes - row);
                    let values = left.place(block, row, height);
                    for (panel, lane) in columns.clone().step_by(COLUMNS).enumerate() {
                        let weights = &room[panel * depth * COLUMNS..(panel + 1) * depth * COLUMNS];
                        let shape = [height, COLUMNS.min(right.lanes - lane)];
                        let begin = Begin::new(start, block, row * stride, lane);
                        // SAFETY: these columns of the output are this task's alone.
                        unsafe {
                            let to = out.at(row * stride + lane);
                            tile(words, values, weights, shape, to, stride, begin);
                        }
                    }
                }
            }
        });
}

/// What sums of a tile begin with: [`Start`] there, or what is in the output where a block of steps was added up before.
#[derive(Clone, Copy)]
enum Begin {
    Zero,
    Output,
    Bias(*const f32),
    /// A bias, and rows as far apart as those of the output.
    Onto(*const f32, *const f32),
}

impl Begin {
    /// Of the tile whose first row begins at `row` in the output, and whose first column is `column`.
    fn new(start: Start, block: usize, row: usize, column: usize) -> Self {
        match start {
            _ if block > 0 => Self::Output,
            Start::Zero => Self::Zero,
            Start::Output => Self::Output,
            Start::Bias(bias) => Self::Bias(bias[column..].as_ptr()),
            Start::Onto(bias, base) => {
                Self::Onto(bias[column..].as_ptr(), base[row + column..].as_ptr())
            }
        }
    }
}

/// A tile of a product: `height` rows and `width` columns.
///
/// # Safety
/// As [`product`], for the tile.
unsafe fn tile(
    words: Words,
    values: Place,
    weights: &[f32],
    [height, width]: [usize; 2],
    out: *mut f32,
    stride: usize,
    begin: Begin,
) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise; the instructions were asked for.
    unsafe {
        kernel::tile(words, values, weights, [height, width], out, stride, begin);
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (words, values, weights, height, width, out, stride, begin);
        unreachable!("nobody gets here without the instructions");
    }
}

/// One panel of a source that is at most `width` lanes, to `out`.
///
/// # Safety
/// `out` must be valid for `width` words for each of the source's steps; the processor must have the instructions.
unsafe fn lay_out(words: Words, source: &Source, width: usize, out: *mut f32) {
    assert!(
        source.fits() && source.lanes <= width,
        "a panel lies inside its source"
    );
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise, and the source was just checked; the instructions were asked for.
    unsafe {
        kernel::lay_out(words, source, width, out);
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (words, source, width, out);
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
