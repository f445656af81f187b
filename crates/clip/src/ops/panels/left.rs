//! The left input of a product: rows of float32 where they lie, anything else in panels.

use rayon::prelude::*;

use super::{Cut, Panels, ROWS, Source, Words};
use crate::ops::kept::Kept;
use crate::ops::rows::ROWS_PER_TASK;
use crate::ops::scratch::{self, Buffer};

/// Values between rows that are written here, beside their own: rows that lie a power of two apart would share places of
/// the first cache.
const PAD: usize = 16;
/// Rows so many values apart, or a multiple of it, share places of the first cache.
const SHARED: usize = 512;

/// A left input. Kernels read one number of each of twelve rows at a step, which costs the same from rows as from panels.
#[derive(Debug)]
pub(in crate::ops) enum Left<'a> {
    /// Of float32.
    Rows(Rows<'a>),
    /// In panels of [`ROWS`].
    Panels(Panels),
}

/// Rows of float32, `stride` apart.
#[derive(Debug)]
pub(in crate::ops) struct Rows<'a> {
    cut: Cut,
    values: Values<'a>,
    lanes: usize,
    inner: usize,
    stride: usize,
}

#[derive(Debug)]
enum Values<'a> {
    Given(&'a [f32]),
    Written(Buffer),
}

/// Where a kernel finds the numbers of some rows.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Of the first row's first step.
    pub(super) first: *const f32,
    /// From a row to the next; `None` in a panel, where all rows' words of a step follow one another.
    pub(super) apart: Option<usize>,
}

impl<'a> Left<'a> {
    /// Of a source that is there.
    pub(in crate::ops) fn of(cut: Cut, source: &Source<'a>) -> Self {
        let stride = source.lane_stride;
        match source.numbers {
            Kept::Float32(values) if cut.words == Words::Float32 && source.inner_stride == 1 => {
                assert!(source.fits(), "rows lie inside their slice");
                let (lanes, inner) = (source.lanes, source.inner);
                if lanes > 1 && stride.is_multiple_of(SHARED) {
                    return Self::written(cut, lanes, inner, |i, row| {
                        row.copy_from_slice(&values[i * stride..][..inner]);
                    });
                }
                Self::Rows(Rows {
                    cut,
                    values: Values::Given(values),
                    lanes,
                    inner,
                    stride,
                })
            }
            _ => Self::Panels(Panels::of(cut, source, ROWS)),
        }
    }

    /// Of rows that `write(i, row)` gives, `inner` values each.
    pub(in crate::ops) fn written(
        cut: Cut,
        lanes: usize,
        inner: usize,
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        if cut.words != Words::Float32 {
            return Self::Panels(Panels::written(cut, lanes, inner, ROWS, write));
        }
        let stride = match inner + PAD {
            shared if shared.is_multiple_of(SHARED) => shared + PAD,
            stride => stride,
        };
        let mut buffer = scratch::take(lanes * stride);
        let tasks = buffer.par_chunks_mut(ROWS_PER_TASK * stride).enumerate();
        tasks.for_each(|(task, some)| {
            for (i, row) in some.chunks_exact_mut(stride).enumerate() {
                write(task * ROWS_PER_TASK + i, &mut row[..inner]);
            }
        });
        Self::Rows(Rows {
            cut,
            values: Values::Written(buffer),
            lanes,
            inner,
            stride,
        })
    }

    /// How its inner side is added up.
    pub(in crate::ops) fn cut(&self) -> Cut {
        match self {
            Self::Rows(rows) => rows.cut,
            Self::Panels(panels) => panels.cut,
        }
    }

    pub(super) fn lanes(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.lanes,
            Self::Panels(panels) => panels.lanes,
        }
    }

    pub(super) fn inner(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.inner,
            Self::Panels(panels) => panels.inner,
        }
    }

    pub(super) fn steps(&self) -> usize {
        self.inner().div_ceil(self.cut().words.values())
    }

    /// Steps of the block that begins at step `block`.
    pub(super) fn depth(&self, block: usize) -> usize {
        self.cut().depth.min(self.steps() - block)
    }

    /// `height` rows from `row`, a multiple of [`ROWS`], in the block that begins at step `block`.
    pub(super) fn place(&self, block: usize, row: usize, height: usize) -> Place {
        let depth = self.depth(block);
        match self {
            Self::Rows(rows) => {
                let values = match &rows.values {
                    Values::Given(values) => values,
                    Values::Written(values) => &values[..],
                };
                let first = row * rows.stride + block;
                let last = first + (height - 1) * rows.stride + depth;
                Place {
                    first: values[first..last].as_ptr(),
                    apart: Some(rows.stride),
                }
            }
            Self::Panels(panels) => {
                let (at, _) = panels.at(block, row / ROWS);
                Place {
                    first: panels.words()[at..at + depth * ROWS].as_ptr(),
                    apart: None,
                }
            }
        }
    }
}
