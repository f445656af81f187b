//! Products on the matrix unit of Intel processors (AMX, `tdpbf16ps`), and the same in software, bit for bit.
//!
//! The unit multiplies bfloat16 and sums in float32. For float32's grade, both inputs are split into three bfloat16 parts,
//! and six of the nine products are summed ([`Grade::Six`]). With two parts and three of the four products
//! ([`Grade::Split`]) it is twice as fast, and off by ten to thirty times as much as float32.
//!
//! Measured on a Xeon with a prototype in C, three products do 600 to 1056 GFLOP/s of float32 work on two cores, about
//! three times what AVX-512 does; six would do half of that, which nobody has measured yet.
//!
//! Inputs are laid out in tiles ([`layout`]). A kernel makes 32 rows by 32 columns of sums over a range of steps of 32
//! along the inner side; sums wait as float32 in between, so that no bit depends on where ranges end. The order of all
//! operations of a sum is that of the inner side, whatever the other rows and columns and the number of threads.

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use super::gemm::Mat;
use super::products::Start;
use layout::{Tiles, Values, aligned, as_words, as_words_mut};

mod emulated;
mod layout;
#[cfg(target_arch = "x86_64")]
mod machine;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod signals;

/// Words of a tile.
const TILE: usize = 256;
/// Rows, and columns, that a kernel takes at once: two tiles of each.
const SIDE: usize = 32;
/// Values along the inner side in a step: a tile's row.
const STEP: usize = 32;
/// Sums of a kernel.
const SUMS: usize = SIDE * SIDE;

/// Steps that are multiplied before the next rows or columns: 96 kB of an input (in [`Grade::Six`]), so that those of a
/// task stay in the second-level cache. No bit depends on it.
const DEPTH: usize = 16;
/// Rows, and columns, of one task at most.
const TASK: usize = 4 * SIDE;
/// Columns of one task that lays its own columns out.
const PIECE: usize = 2 * SIDE;
/// From so many rows on, laying out the right input once for all costs next to nothing.
const MANY_ROWS: usize = 1024;

/// What multiplies tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// The processor's.
    Amx,
    /// Software that gives the same bits.
    Emulated,
}

impl Unit {
    /// Whether this machine has one that this process may use, and that multiplies as the manual says.
    pub(crate) fn is_there() -> bool {
        Self::lack().is_none()
    }

    /// Why this machine's cannot be used, in words; `None` where it can. Found out once a process.
    pub(crate) fn lack() -> Option<&'static str> {
        #[cfg(target_arch = "x86_64")]
        {
            use std::sync::OnceLock;

            use machine::Lack;

            static LACK: OnceLock<Option<Lack>> = OnceLock::new();
            // SAFETY: asked only where the processor has the unit and the system allows it.
            let lack =
                LACK.get_or_init(|| machine::missing(|| unsafe { gives_the_manuals_bits() }));
            lack.map(|lack| match lack {
                Lack::Processor => "this processor has no matrix unit for bfloat16 (AMX)",
                Lack::System => "the operating system does not keep the matrix unit's tiles",
                Lack::Permission => "the operating system refused the use of the matrix unit",
                Lack::Bits => "the matrix unit's sums are not those of Intel's manual",
            })
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            Some("this processor has no matrix unit for bfloat16 (AMX)")
        }
    }

    /// The same.
    ///
    /// # Panics
    /// When it cannot multiply here.
    fn asked(self) -> Self {
        assert!(
            self.can_multiply(),
            "a product is asked of a unit that can multiply"
        );
        self
    }

    /// Whether products may be asked of it.
    fn can_multiply(self) -> bool {
        #[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
        if signals::are_installed() {
            return true;
        }
        self == Self::Emulated || Self::is_there()
    }
}

/// A product of all instructions that kernels use, against the emulation's.
///
/// # Safety
/// The processor must have the unit, and this process the permission to use it.
#[cfg(target_arch = "x86_64")]
unsafe fn gives_the_manuals_bits() -> bool {
    let drawn = |seed: u32| -> Vec<u32> {
        let mut s = seed;
        (0..2 * step_words(Grade::Six))
            .map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Two values of either sign between 2^-7 and 2.
                s & 0x83ff_83ff | 0x3c00_3c00
            })
            .collect()
    };
    let (left, right) = (drawn(1), drawn(2));
    let mut same = true;
    for (grade, tall) in Grade::ALL.map(|g| [(g, true), (g, false)]).as_flattened() {
        let mut sums = [vec![0f32; SUMS], vec![0f32; SUMS]];
        for keep in [false, true] {
            let [theirs, ours] = &mut sums;
            // SAFETY: the caller's promise; tiles are configured.
            unsafe {
                let _tiles = machine::Configured::new();
                machine::multiply(*grade, *tall, &left, &right, theirs, keep);
            }
            emulated::multiply(*grade, *tall, &left, &right, ours, keep);
        }
        let [theirs, ours] = sums.map(|s| s.into_iter().map(f32::to_bits).collect::<Vec<_>>());
        same &= theirs == ours;
    }
    same
}

/// How exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grade {
    /// Inputs as three parts in bfloat16, each the rounding of what is left, and the six products that count: float32's
    /// grade. XLA calls it `BF16_BF16_F32_X6`.
    Six,
    /// Inputs as a high and a low half in bfloat16, three products: errors of ten to thirty times float32's. XLA calls it
    /// `BF16_BF16_F32_X3`.
    Split,
    /// Inputs rounded to bfloat16, one product.
    Rounded,
}

impl Grade {
    /// All of them.
    const ALL: [Self; 3] = [Self::Six, Self::Split, Self::Rounded];

    /// Parts of an input.
    const fn parts(self) -> usize {
        match self {
            Self::Six => 3,
            Self::Split => 2,
            Self::Rounded => 1,
        }
    }

    /// Which part of the left input is multiplied with which of the right, in order: 0 is the highest. Small products come
    /// before the largest where that costs no load.
    const fn order(self) -> &'static [(usize, usize)] {
        match self {
            Self::Six => &[(0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0)],
            Self::Split => &[(0, 1), (0, 0), (1, 0)],
            Self::Rounded => &[(0, 0)],
        }
    }
}

/// Words of a step of 32 rows or columns.
const fn step_words(grade: Grade) -> usize {
    2 * TILE * grade.parts()
}

/// Where a tile of a kernel's sums begins: of the upper or lower 16 rows, and the left or right 16 columns.
const fn place(row_tile: usize, column_tile: usize) -> usize {
    (2 * row_tile + column_tile) * TILE
}

/// Rows `[rows, inner]` as the unit takes them.
#[derive(Debug)]
pub(crate) struct Left(Tiles);

impl Left {
    /// Rows that `write(i, row)` gives, `inner` values each; made on the threads of the current pool.
    pub(crate) fn new(
        grade: Grade,
        rows: usize,
        inner: usize,
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        Self(Tiles::of_rows(grade, rows, inner, write))
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.0.lanes()
    }
}

/// Columns `[inner, columns]` as the unit takes them: for weights that are multiplied with many times. As many bytes as
/// float32 in [`Grade::Split`], half as many again in [`Grade::Six`], half of them in [`Grade::Rounded`].
#[derive(Debug)]
pub(crate) struct Right(Tiles);

impl Right {
    /// Of `right` `[inner, columns]`, however strided; made on the threads of the current pool.
    pub(crate) fn new(grade: Grade, right: Mat) -> Self {
        Self(Tiles::of_columns(grade, right))
    }

    /// Columns.
    pub(crate) fn columns(&self) -> usize {
        self.0.lanes()
    }
}

/// `out = start + left right`: `right` is `[inner, columns]` however strided, `out` `[rows, columns]` without gaps. Runs on
/// the threads of the current pool; bits of a row depend neither on their number nor on other rows.
///
/// # Panics
/// When shapes do not fit, and when `unit` cannot multiply here.
pub(crate) fn product(unit: Unit, out: &mut [f32], left: &Left, right: Mat, start: Start) {
    let values = Values::of(right);
    let pieces = values.columns.div_ceil(PIECE);
    if left.rows() >= MANY_ROWS || pieces < 2 * rayon::current_num_threads() {
        product_with(unit, out, left, &Right::new(left.0.grade(), right), start);
        return;
    }
    let source = Source::Flat(values);
    Work::new(unit, out, left, source, start).run(left.rows(), PIECE);
}

/// As [`product`], with columns that were laid out before, in the grade of `left`: the same bits.
///
/// # Panics
/// As [`product`].
pub(crate) fn product_with(unit: Unit, out: &mut [f32], left: &Left, right: &Right, start: Start) {
    assert_eq!(left.0.grade(), right.0.grade(), "grades of a product fit");
    let work = Work::new(unit, out, left, Source::Tiles(&right.0), start);
    // Tasks as large as leaves two for every thread.
    let tasks = |side: usize| left.rows().div_ceil(side) * right.columns().div_ceil(side);
    let enough = |side: &usize| tasks(*side) >= 2 * rayon::current_num_threads();
    let side = [TASK, TASK / 2].into_iter().find(enough).unwrap_or(SIDE);
    work.run(side, side);
}

/// `out = left right`, rows of it `stride` apart, by the calling thread alone: inside of what runs in parallel already.
///
/// # Panics
/// When shapes do not fit, and when `unit` cannot multiply here.
///
/// # Safety
/// Rows `0..left.rows()` of `right.cols()` values, `stride` apart, must be valid for writes and touched by no one else.
pub(crate) unsafe fn product_alone(
    unit: Unit,
    grade: Grade,
    out: *mut f32,
    stride: usize,
    left: Mat,
    right: Mat,
) {
    let [rows, columns] = [left.rows(), right.cols()];
    assert_eq!(left.cols(), right.rows(), "shapes of a product fit");
    if rows == 0 || columns == 0 {
        return;
    }
    let write = |i: usize, row: &mut [f32]| left.read_row(i, row);
    let left = Tiles::of_rows_alone(grade, rows, left.cols(), write);
    let work = Work {
        arch: Arch::new(),
        unit: unit.asked(),
        left: &left,
        right: Source::Flat(Values::of(right)),
        columns,
        start: Start::Zero,
        out,
        stride,
    };
    // SAFETY: the caller's promise.
    unsafe { work.task([0, rows], [0, columns]) };
}

/// The right input of a product.
enum Source<'a> {
    /// Laid out.
    Tiles(&'a Tiles),
    /// To be laid out, by every task the columns it needs. Worth it for few rows: weights are then read once and stay in
    /// the task's own cache.
    Flat(Values<'a>),
}

impl Source<'_> {
    /// Inner side and columns.
    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Tiles(tiles) => [tiles.inner(), tiles.lanes()],
            Self::Flat(values) => [values.inner, values.columns],
        }
    }
}

/// A product.
struct Work<'a> {
    arch: Arch,
    unit: Unit,
    left: &'a Tiles,
    right: Source<'a>,
    columns: usize,
    start: Start<'a>,
    out: *mut f32,
    /// Of rows of the output.
    stride: usize,
}
// SAFETY: every task writes rows and columns of its own.
unsafe impl Sync for Work<'_> {}

impl<'a> Work<'a> {
    fn new(
        unit: Unit,
        out: &'a mut [f32],
        left: &'a Left,
        right: Source<'a>,
        start: Start<'a>,
    ) -> Self {
        let [inner, columns] = right.shape();
        let there = match start {
            Start::Zero | Start::Output => true,
            Start::Bias(bias) => bias.len() == columns,
            Start::Onto(bias, base) => bias.len() == columns && base.len() == out.len(),
        };
        assert!(
            left.0.inner() == inner && out.len() == left.rows() * columns && there,
            "shapes of a product fit"
        );
        Self {
            arch: Arch::new(),
            unit: unit.asked(),
            left: &left.0,
            right,
            columns,
            start,
            out: out.as_mut_ptr(),
            stride: columns,
        }
    }

    /// In tasks of so many rows and columns, both multiples of [`SIDE`] where they are not all there are.
    fn run(&self, rows: usize, columns: usize) {
        let (height, width) = (self.left.lanes(), self.columns);
        if height == 0 || width == 0 {
            return;
        }
        let across = width.div_ceil(columns);
        (0..height.div_ceil(rows) * across)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| {
                let (row, column) = (task / across * rows, task % across * columns);
                // SAFETY: tasks share no row and column of the output.
                unsafe {
                    self.task(
                        [row, height.min(row + rows)],
                        [column, width.min(column + columns)],
                    );
                }
            });
    }

    /// The given rows and columns of the output, from and to.
    ///
    /// # Safety
    /// Nobody else touches them.
    unsafe fn task(&self, rows: [usize; 2], columns: [usize; 2]) {
        // SAFETY: it was asked whether the unit can multiply.
        #[cfg(target_arch = "x86_64")]
        let _tiles = (self.unit == Unit::Amx).then(|| unsafe { machine::Configured::new() });
        let (grade, steps) = (self.left.grade(), self.left.steps());
        let panels = (columns[1] - columns[0]).div_ceil(SIDE);
        let groups = (rows[1] - rows[0]).div_ceil(SIDE);
        let (mut sums, sums_at) = aligned(groups * panels * SUMS);
        let depth = DEPTH.min(steps);
        let room = match self.right {
            Source::Tiles(_) => 0,
            Source::Flat(_) => panels * depth * step_words(grade),
        };
        let (mut room, room_at) = aligned(room);
        // Once also when the inner side is empty.
        for block in (0..steps.max(1)).step_by(DEPTH) {
            let range = block..steps.min(block + DEPTH);
            let words = range.len() * step_words(grade);
            if let Source::Flat(values) = &self.right {
                let room = as_words_mut(&mut room[room_at..]).chunks_exact_mut(words.max(1));
                for (column, room) in (columns[0]..columns[1]).step_by(SIDE).zip(room) {
                    values.lay_out(grade, column, range.clone(), room);
                }
            }
            let sums = sums[sums_at..].chunks_exact_mut(SUMS);
            let tiles = (0..groups).flat_map(|g| (0..panels).map(move |p| (g, p)));
            for ((group, panel), sums) in tiles.zip(sums) {
                let (row, column) = (rows[0] + group * SIDE, columns[0] + panel * SIDE);
                let size = [SIDE.min(rows[1] - row), SIDE.min(columns[1] - column)];
                let left = self.left.words(row / SIDE, range.clone());
                let right = match &self.right {
                    Source::Tiles(tiles) => tiles.words(column / SIDE, range.clone()),
                    Source::Flat(_) => &as_words(&room[room_at..])[panel * words..][..words],
                };
                let tall = size[0] > SIDE / 2;
                // SAFETY: tiles are configured where the unit needs it.
                unsafe { multiply(self.unit, grade, tall, left, right, sums, block > 0) };
                if range.end == steps {
                    // Inside the output, and this task's, as the caller promises.
                    self.arch.dispatch(End {
                        work: self,
                        place: [row, column],
                        size,
                        sums,
                    });
                }
            }
        }
    }
}

/// Sums that go to the output, `size` rows and columns of it from `place` on: inside the output, and touched by no one
/// else. No closure: the way to vectors passes a function that the compiler need not inline, and then makes for the oldest
/// processors.
struct End<'a> {
    work: &'a Work<'a>,
    place: [usize; 2],
    size: [usize; 2],
    sums: &'a [f32],
}

impl NullaryFnOnce for End<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Work {
            columns,
            start,
            out,
            stride,
            ..
        } = *self.work;
        for i in 0..self.size[0] {
            for (tile, first) in (0..self.size[1]).step_by(SIDE / 2).enumerate() {
                let width = (self.size[1] - first).min(SIDE / 2);
                let column = self.place[1] + first;
                let at = (self.place[0] + i) * columns + column;
                let sums = &self.sums[place(i / 16, tile) + i % 16 * 16..][..width];
                // SAFETY: inside the output, as whoever made this promised.
                let out = unsafe {
                    let to = out.add((self.place[0] + i) * stride + column);
                    std::slice::from_raw_parts_mut(to, width)
                };
                match start {
                    Start::Zero => out.copy_from_slice(sums),
                    Start::Output => end([sums], out, |out, [sum]| out + sum),
                    Start::Bias(bias) => {
                        let from = [&bias[column..][..width], sums];
                        end(from, out, |_, [bias, sum]| bias + sum);
                    }
                    Start::Onto(bias, base) => {
                        let from = [&base[at..][..width], &bias[column..][..width], sums];
                        end(from, out, |_, [base, bias, sum]| base + bias + sum);
                    }
                }
            }
        }
    }
}

/// `out = of(out, from)`, at most 16 values; all of them, nearly always, in one vector.
#[inline(always)]
fn end<const N: usize>(from: [&[f32]; N], out: &mut [f32], of: impl Fn(f32, [f32; N]) -> f32) {
    if let Ok(out) = <&mut [f32; 16]>::try_from(&mut *out) {
        let from = from.map(|from| *from.first_chunk::<16>().expect("as many as the output"));
        for i in 0..16 {
            out[i] = of(out[i], from.map(|from| from[i]));
        }
    } else {
        for (i, out) in out.iter_mut().enumerate() {
            *out = of(*out, from.map(|from| from[i]));
        }
    }
}

/// `sums = keep * sums + left right` for 32 rows, or 16 where they are not `tall`, and 32 columns: steps of both inputs in
/// order, of each the products of [`Grade::order`].
///
/// # Safety
/// Of the processor's unit: within the life of a [`machine::Configured`] of this thread.
unsafe fn multiply(
    unit: Unit,
    grade: Grade,
    tall: bool,
    left: &[u32],
    right: &[u32],
    sums: &mut [f32],
    keep: bool,
) {
    if left.is_empty() {
        sums.fill(0.0);
        return;
    }
    match unit {
        // SAFETY: the caller's promise.
        #[cfg(target_arch = "x86_64")]
        Unit::Amx => unsafe { machine::multiply(grade, tall, left, right, sums, keep) },
        #[cfg(not(target_arch = "x86_64"))]
        Unit::Amx => unreachable!("nobody gets here without the unit"),
        Unit::Emulated => emulated::multiply(grade, tall, left, right, sums, keep),
    }
}

#[cfg(test)]
mod tests;
