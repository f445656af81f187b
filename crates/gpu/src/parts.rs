//! What passes are made of: rows, frozen layers, and where rows go.

use std::sync::Arc;

use crate::attention::flat;
use crate::card::Precision;
use crate::error::{Error, Result};
use crate::memory::{Buffer, Lane};
use crate::products::Mat;

/// Rows `[rows, width]` on the card.
#[derive(Clone, Debug)]
pub struct Value {
    /// Holds the memory.
    pub(crate) _data: Arc<Buffer>,
    pub(crate) address: u64,
    /// Rows.
    pub rows: usize,
    /// Numbers of a row.
    pub width: usize,
    /// Whether the numbers are half; else float32.
    pub(crate) half: bool,
    /// Where its gradient gathers, if it has one.
    pub(crate) slot: Option<usize>,
}

impl Value {
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.rows, self.width)
    }

    pub(crate) fn count(&self) -> usize {
        self.rows * self.width
    }

    pub(crate) fn mat(&self) -> Mat {
        Mat::new(self.address, self.rows, self.width)
    }

    /// Frozen rows that are there already.
    pub fn constant(data: &Arc<Buffer>, rows: usize, width: usize) -> Self {
        constant(data.clone(), rows, width)
    }

    /// Whether a gradient goes to it.
    pub fn is_tracked(&self) -> bool {
        self.slot.is_some()
    }
}

/// What a norm's rows are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// To go on as rows: float32.
    Stream,
    /// To be multiplied: in the precision of products.
    Product,
}

/// The MLP's non-linearity; see the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `x * Phi(x)`.
    Gelu,
    /// The same by a hyperbolic tangent.
    GeluTanh,
}

/// Gain and shift of a LayerNorm, `[1, W]` each, and what it adds to the variance.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Multiplies.
    pub gain: Value,
    /// Is added.
    pub bias: Value,
    /// Added to the variance.
    pub epsilon: f32,
}

/// A frozen linear layer `x weight^T + bias`.
#[derive(Debug)]
pub struct Matrix {
    data: Buffer,
    pub(crate) bias: Option<Buffer>,
    /// Numbers that come out.
    pub columns: usize,
    /// Numbers that go in.
    pub inner: usize,
    half: bool,
    /// Whether it lies as `[inner, columns]`.
    turned: bool,
}

impl Matrix {
    /// Of `weight` `[columns, inner]`, or with `turned` `[inner, columns]`, and `bias` `[columns]`.
    ///
    /// # Errors
    /// When sizes do not fit, or the card's memory is used up.
    pub fn new(
        lane: &Lane,
        weight: &[f32],
        [columns, inner]: [usize; 2],
        turned: bool,
        bias: Option<&[f32]>,
        precision: Precision,
    ) -> Result<Self> {
        if weight.len() != columns * inner || bias.is_some_and(|b| b.len() != columns) {
            return Err(Error::Shape(format!(
                "a matrix [{columns}, {inner}] of {} numbers",
                weight.len()
            )));
        }
        // The units of half products want rows that are multiples of 16 bytes.
        let lead = if turned { columns } else { inner };
        let half =
            precision == Precision::Half && lead.is_multiple_of(8) && inner.is_multiple_of(8);
        let data = if half {
            let half: Vec<half::f16> = weight.iter().map(|v| half::f16::from_f32(*v)).collect();
            lane.upload_shared(&half)?
        } else {
            lane.upload_shared(weight)?
        };
        Ok(Self {
            data,
            bias: bias.map(|b| lane.upload_shared(b)).transpose()?,
            columns,
            inner,
            half,
            turned,
        })
    }

    pub(crate) fn is_half(&self) -> bool {
        self.half
    }

    /// `[columns, inner]`.
    pub(crate) fn mat(&self) -> Mat {
        if self.turned {
            Mat::new(self.data.address, self.inner, self.columns).t()
        } else {
            Mat::new(self.data.address, self.columns, self.inner)
        }
    }
}

/// Which prompt row goes to which row.
#[derive(Debug)]
pub struct Puts {
    pub(crate) source: Buffer,
    pub(crate) offset: Buffer,
    pub(crate) list: Buffer,
    pub(crate) rows: usize,
    pub(crate) sources: usize,
}

impl Puts {
    /// For each `(row, source)`, prompt row `source` of `sources` goes to `row` of `rows`.
    ///
    /// # Errors
    /// When one is not there, or a row is named twice.
    pub fn new(lane: &Lane, rows: usize, sources: usize, puts: &[(usize, usize)]) -> Result<Self> {
        let mut of_row = vec![-1i32; rows];
        let mut lists = vec![Vec::new(); sources];
        for &(row, source) in puts {
            if row >= rows || source >= sources {
                return Err(Error::Shape(format!(
                    "prompt row {source} of {sources} cannot go to row {row} of {rows}"
                )));
            }
            if std::mem::replace(&mut of_row[row], source as i32) >= 0 {
                return Err(Error::Shape(format!("two prompt rows go to row {row}")));
            }
            lists[source].push(row);
        }
        let (offset, list) = flat(&lists);
        Ok(Self {
            source: lane.upload_shared(&of_row)?,
            offset: lane.upload_shared(&offset)?,
            list: lane.upload_shared(&list)?,
            rows,
            sources,
        })
    }
}

/// Which row each row is taken from.
#[derive(Debug)]
pub struct Gather {
    pub(crate) from: Buffer,
    pub(crate) offset: Buffer,
    pub(crate) list: Buffer,
    pub(crate) count: usize,
    pub(crate) rows: usize,
}

impl Gather {
    /// Row `i` is row `from[i]` of `rows`; zeros where it is from none.
    ///
    /// # Errors
    /// When a row is not there.
    pub fn new(lane: &Lane, rows: usize, from: &[Option<usize>]) -> Result<Self> {
        let mut lists = vec![Vec::new(); rows];
        let mut ids = Vec::with_capacity(from.len());
        for (to, row) in from.iter().enumerate() {
            match *row {
                Some(row) if row >= rows => {
                    return Err(Error::Shape(format!("row {row} of {rows} is asked for")));
                }
                Some(row) => {
                    lists[row].push(to);
                    ids.push(row as i32);
                }
                None => ids.push(-1),
            }
        }
        let (offset, list) = flat(&lists);
        Ok(Self {
            from: lane.upload_shared(&ids)?,
            offset: lane.upload_shared(&offset)?,
            list: lane.upload_shared(&list)?,
            count: from.len(),
            rows,
        })
    }
}

/// What a branch on the processor gives back of the gradient of its rows: that of the rows that went in, and of its own
/// inputs, in their order.
pub type HostBack = dyn Fn(&[f32]) -> Result<(Vec<f32>, Vec<Vec<f32>>)> + Send + Sync;

/// What `up (down x)` adds to.
#[derive(Clone, Debug)]
pub struct LowRank<'a> {
    /// `[r, inner]`.
    pub down: &'a Value,
    /// `[n, r]`.
    pub up: &'a Value,
    /// Multiplies the sum.
    pub scale: f32,
    /// First of the `n` columns that it is added to.
    pub column: usize,
    /// Multiplies `x` number by number, and by this: dropout.
    pub kept: Option<(&'a Value, f32)>,
}

/// Columns `first..first + count` of `x`.
pub(crate) fn columns(x: &Value, first: usize, count: usize) -> Mat {
    Mat {
        address: x.address + 4 * first as u64,
        rows: x.rows,
        columns: count,
        stride: x.width,
        turned: false,
    }
}

pub(crate) fn constant(data: Arc<Buffer>, rows: usize, width: usize) -> Value {
    Value {
        address: data.address,
        _data: data,
        rows,
        width,
        half: false,
        slot: None,
    }
}
