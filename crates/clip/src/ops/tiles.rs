//! Products on the matrix unit.

use super::gemm::Mat;
use super::products::Start;

/// What multiplies tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// The processor's.
    Amx,
    /// Software that gives the same bits.
    Emulated,
}

impl Unit {
    /// Whether this machine has one that this process may use, and that multiplies rightly.
    pub(crate) fn is_there() -> bool {
        false
    }
}

/// How exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grade {
    /// Inputs as a high and a low half in bfloat16, three products: float32's grade.
    Split,
    /// Inputs rounded to bfloat16, one product.
    Rounded,
}

/// Rows `[rows, inner]` as the unit takes them.
#[derive(Debug)]
pub(crate) struct Left {
    grade: Grade,
    rows: usize,
    inner: usize,
    values: Vec<f32>,
}

impl Left {
    /// Rows that `write(i, row)` gives, `inner` values each.
    pub(crate) fn new(
        grade: Grade,
        rows: usize,
        inner: usize,
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let mut values = vec![0f32; rows * inner];
        for (i, row) in values.chunks_mut(inner).enumerate() {
            write(i, row);
        }
        Self {
            grade,
            rows,
            inner,
            values,
        }
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }
}

/// `out = start + left right`: `right` is `[inner, columns]` however strided, `out` `[rows, columns]` without gaps. Runs on
/// the threads of the current pool; bits of a row depend neither on their number nor on other rows.
///
/// # Panics
/// When shapes do not fit.
pub(crate) fn product(unit: Unit, out: &mut [f32], left: &Left, right: Mat, start: Start) {
    let _ = (unit, left.grade);
    let columns = right.cols();
    assert_eq!(out.len(), left.rows * columns, "shapes of a product fit");
    for (i, out) in out.chunks_mut(columns).enumerate() {
        for (j, out) in out.iter_mut().enumerate() {
            let sum: f32 = (0..left.inner)
                .map(|k| left.values[i * left.inner + k] * right.at(k, j))
                .sum();
            *out = sum
                + match start {
                    Start::Zero => 0.0,
                    Start::Output => *out,
                    Start::Bias(bias) => bias[j],
                    Start::Onto(bias, base) => base[i * columns + j] + bias[j],
                };
        }
    }
}
