//! What rows are multiplied with weights by.
//!
//! A left input is laid out once, as its kind of product takes it, from rows that a function writes one by one: what a norm
//! or an activation gives is never written as a matrix that would be read again. What sums begin with (a bias, a residual
//! sum) is loaded where they are made.

use std::sync::OnceLock;

use rayon::prelude::*;

use super::gemm::{self, Mat, Threads, panels_take};
use super::panels::{self, COLUMNS, Cut, Panels, Words};
use super::rows::{self, ROWS_PER_TASK};
use super::scratch::{self, Buffer};
use super::tiles::{self, Grade, Unit};

/// Instructions that multiply, whatever the precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// Multiply-adds of vectors, on every processor.
    #[default]
    Portable,
    /// The matrix unit of Intel processors from Sapphire Rapids on (AMX, `tdpbf16ps`): float32 inputs as three parts in
    /// bfloat16, six products of them, with an error below that of a loop in float32.
    Amx,
    /// The same bits as [`Arithmetic::Amx`] from any processor, by following the manual of its instructions: slow, for
    /// looking again at results of a machine that has the unit.
    Emulated,
}

impl Arithmetic {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Amx, Self::Emulated];

    /// As suites, records and the environment write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Amx => "amx",
            Self::Emulated => "emulated",
        }
    }

    /// Whether this machine can.
    pub fn is_supported(self) -> bool {
        self.lack().is_none()
    }

    /// Why this machine cannot, in words for its user; `None` where it can. Found out once a process.
    pub fn lack(self) -> Option<&'static str> {
        match self {
            Self::Portable | Self::Emulated => None,
            Self::Amx => Unit::lack(),
        }
    }

    /// Whether this machine can with inputs rounded to bfloat16: in the portable arithmetic processors with AVX512-BF16 can.
    pub fn is_supported_in_bfloat16(self) -> bool {
        self.is_supported() && Products::exact(self).rounded().is_supported()
    }

    /// What is expected to be the fastest of float32's grade here, for whoever asks for that: the matrix unit where there is
    /// one. Nobody has measured six products on one. From three products in a prototype, 300 to 530 GFLOP/s are to be
    /// expected of two cores of a Xeon, where the portable arithmetic does 315 to 370; so where nobody asks, all machines
    /// multiply by [`Arithmetic::Portable`], the default.
    pub fn fastest() -> Self {
        match Self::Amx.is_supported() {
            true => Self::Amx,
            false => Self::Portable,
        }
    }

    /// What multiplies tiles, where tiles are multiplied.
    pub(crate) fn unit(self) -> Option<Unit> {
        match self {
            Self::Portable => None,
            Self::Amx => Some(Unit::Amx),
            Self::Emulated => Some(Unit::Emulated),
        }
    }

    /// The arithmetic whose bits these are: that of the unit for its emulation.
    pub fn bits(self) -> Self {
        match self {
            Self::Portable => Self::Portable,
            Self::Amx | Self::Emulated => Self::Amx,
        }
    }
}

/// A kind of product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Products {
    /// Multiply-adds of float32.
    #[default]
    Float32,
    /// Multiply-adds of pairs of bfloat16, sums in float32 (AVX512-BF16).
    Pairs,
    /// Tiles of the matrix unit, or of what follows it.
    Tiles(Unit, Grade),
}

impl Products {
    /// Those of float32's grade.
    pub(crate) fn exact(arithmetic: Arithmetic) -> Self {
        match arithmetic.unit() {
            None => Self::Float32,
            Some(unit) => Self::Tiles(unit, Grade::Six),
        }
    }

    /// Of inputs as two halves in bfloat16, three products, by the same arithmetic; `None` in the portable one, which has
    /// none.
    pub(crate) fn split(self) -> Option<Self> {
        match self {
            Self::Float32 | Self::Pairs => None,
            Self::Tiles(unit, _) => Some(Self::Tiles(unit, Grade::Split)),
        }
    }

    /// Whose they are.
    pub(crate) fn arithmetic(self) -> Arithmetic {
        match self {
            Self::Float32 | Self::Pairs => Arithmetic::Portable,
            Self::Tiles(Unit::Amx, _) => Arithmetic::Amx,
            Self::Tiles(Unit::Emulated, _) => Arithmetic::Emulated,
        }
    }

    /// Of inputs rounded to bfloat16, by the same arithmetic.
    pub(crate) fn rounded(self) -> Self {
        match self {
            Self::Float32 | Self::Pairs => Self::Pairs,
            Self::Tiles(unit, _) => Self::Tiles(unit, Grade::Rounded),
        }
    }

    /// Whether this machine has the instructions.
    pub(crate) fn is_supported(self) -> bool {
        match self {
            Self::Float32 | Self::Tiles(Unit::Emulated, _) => true,
            Self::Pairs => Words::Bfloat16.are_supported(),
            Self::Tiles(Unit::Amx, _) => Unit::is_there(),
        }
    }

    /// What names of kept results end in: other bits, another name. The unit and what follows it give the same.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Float32 => "",
            Self::Pairs => "-bfloat16",
            Self::Tiles(_, Grade::Six) => "-amx",
            Self::Tiles(_, Grade::Split) => "-bfloat16x3-amx",
            Self::Tiles(_, Grade::Rounded) => "-bfloat16-amx",
        }
    }
}

/// Rows `[rows, inner]` as products take them.
pub(crate) struct Left<'a> {
    rows: usize,
    inner: usize,
    laid: Laid<'a>,
}

enum Laid<'a> {
    /// One after the other, for products of float32 that panels do not take (few rows, other processors).
    Given(&'a [f32]),
    Written(Buffer),
    Panels(panels::Left<'a>),
    Tiles(Unit, tiles::Left),
}

impl<'a> Left<'a> {
    /// Rows that `write(i, row)` gives, `inner` values each; for products of at least `columns` columns.
    pub(crate) fn written(
        by: Products,
        [rows, inner]: [usize; 2],
        columns: usize,
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let laid = match Self::cut(by, [rows, inner], columns) {
            Some(cut) => Laid::Panels(panels::Left::written(cut, rows, inner, write)),
            None => match by {
                Products::Tiles(unit, grade) => {
                    Laid::Tiles(unit, tiles::Left::new(grade, rows, inner, write))
                }
                _ => {
                    let mut buffer = scratch::take(rows * inner);
                    let tasks = buffer.par_chunks_mut((ROWS_PER_TASK * inner).max(1));
                    tasks.enumerate().for_each(|(task, some)| {
                        for (i, row) in some.chunks_exact_mut(inner).enumerate() {
                            write(task * ROWS_PER_TASK + i, row);
                        }
                    });
                    Laid::Written(buffer)
                }
            },
        };
        Self { rows, inner, laid }
    }

    /// As [`Left::written`], of rows that are there.
    pub(crate) fn of(
        by: Products,
        [rows, inner]: [usize; 2],
        columns: usize,
        values: &'a [f32],
    ) -> Self {
        assert_eq!(values.len(), rows * inner, "rows have their shape");
        let laid = match Self::cut(by, [rows, inner], columns) {
            Some(cut) => {
                let source = Mat::new(values, rows, inner, inner).source();
                Laid::Panels(panels::Left::of(cut, &source))
            }
            None => match by {
                Products::Tiles(unit, grade) => {
                    let write = |i: usize, row: &mut [f32]| {
                        row.copy_from_slice(&values[i * inner..][..inner])
                    };
                    Laid::Tiles(unit, tiles::Left::new(grade, rows, inner, write))
                }
                _ => Laid::Given(values),
            },
        };
        Self { rows, inner, laid }
    }

    /// What panels hold, where panels are multiplied.
    fn cut(by: Products, [rows, inner]: [usize; 2], columns: usize) -> Option<Cut> {
        match by {
            Products::Float32 => panels_take(rows, inner, columns),
            Products::Pairs if rows > 0 => Some(Words::Bfloat16.evenly(inner)),
            _ => None,
        }
    }

    /// `out = start + left right`: `right` is `[inner, columns]`, `out` `[rows, columns]`.
    ///
    /// # Panics
    /// When shapes do not fit.
    pub(crate) fn product<'b>(&self, out: &mut [f32], right: impl Into<Right<'b>>, start: Start) {
        let Right { matrix, place } = right.into();
        let columns = matrix.cols();
        assert_eq!(
            (matrix.rows(), out.len()),
            (self.inner, self.rows * columns),
            "shapes of a product fit"
        );
        if out.is_empty() {
            return;
        }
        let (of_bias, of_base) = start.len();
        assert!(
            of_bias.is_none_or(|n| n == columns) && of_base.is_none_or(|n| n == out.len()),
            "what sums begin with fits them"
        );
        let values = match &self.laid {
            Laid::Panels(left) => {
                let (to, right) = (out.as_mut_ptr(), matrix.t().source());
                let place = place.filter(|_| left.cut() == Words::Float32.evenly(self.inner));
                // SAFETY: the output is exclusively borrowed, and it and the start are as large as was just asserted.
                unsafe {
                    match place {
                        Some(place) => {
                            let right = place.get(|| Panels::of(left.cut(), &right, COLUMNS));
                            panels::multiply(to, columns, left, right, start);
                        }
                        None => panels::product(to, columns, left, &right, start),
                    }
                }
                return;
            }
            Laid::Tiles(unit, left) => {
                tiles::product(*unit, out, left, matrix, start);
                return;
            }
            Laid::Given(values) => values,
            Laid::Written(values) => &values[..],
        };
        match start {
            Start::Zero | Start::Output => {}
            Start::Bias(bias) => rows::fill_rows(out, bias, None),
            Start::Onto(bias, base) => rows::fill_rows(out, bias, Some(base)),
        }
        let keep = !matches!(start, Start::Zero);
        let left = Mat::new(values, self.rows, self.inner, self.inner);
        gemm::product(out, columns, left, matrix, keep, Threads::Pool);
    }
}

/// The right side of a product, `[inner, columns]`.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    matrix: Mat<'a>,
    /// Where its panels of float32 are kept, or will be.
    place: Option<&'a Place>,
}

impl<'a> Right<'a> {
    /// Numbers that never change, laid out once where `place` is given and panels of float32 are multiplied.
    pub(crate) fn kept(matrix: Mat<'a>, place: Option<&'a Place>) -> Self {
        Self { matrix, place }
    }
}

impl<'a> From<Mat<'a>> for Right<'a> {
    fn from(matrix: Mat<'a>) -> Self {
        Self::kept(matrix, None)
    }
}

/// A right side that was laid out, once it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Place(OnceLock<Panels>);

impl Place {
    /// Two threads that ask at once may both lay it out: nobody waits for a pool that may be waiting for him.
    fn get(&self, lay_out: impl FnOnce() -> Panels) -> &Panels {
        match self.0.get() {
            Some(panels) => panels,
            None => {
                let panels = lay_out();
                self.0.get_or_init(|| panels)
            }
        }
    }
}

/// What sums of a product begin with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    /// Nothing.
    Zero,
    /// What is in the output.
    Output,
    /// A value for each column, `[columns]`.
    Bias(&'a [f32]),
    /// A value for each column, on top of rows `[rows, columns]`: `base + bias`.
    Onto(&'a [f32], &'a [f32]),
}

impl Start<'_> {
    /// Values of the bias and of the base.
    fn len(&self) -> (Option<usize>, Option<usize>) {
        match self {
            Self::Zero | Self::Output => (None, None),
            Self::Bias(bias) => (Some(bias.len()), None),
            Self::Onto(bias, base) => (Some(bias.len()), Some(base.len())),
        }
    }
}

#[cfg(test)]
mod tests;
