//! One pass through a tower, noted so that gradients can go back through it.

use std::sync::Arc;

use crate::attention::{Attention, Kind, flat};
use crate::card::{Gpu, Precision};
use crate::error::{Error, Result};
use crate::kernels::Heads;
use crate::memory::{Buffer, Lane};
use crate::products::{Mat, Plus};

/// Rows `[rows, width]` on the card.
#[derive(Clone, Debug)]
pub struct Value {
    /// Holds the memory.
    _data: Arc<Buffer>,
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
    bias: Option<Buffer>,
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
    rows: usize,
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
    from: Buffer,
    pub(crate) offset: Buffer,
    pub(crate) list: Buffer,
    count: usize,
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

/// Notes of one operation, for the way back.
pub(crate) enum Node {
    Norm {
        x: Value,
        norm: Norm,
        stats: Buffer,
        out: usize,
    },
    Linear {
        x: Option<usize>,
        matrix: Arc<Matrix>,
        residual: Option<usize>,
        out: usize,
    },
    Activate {
        h: Value,
        kind: Activation,
        out: usize,
    },
    Attend {
        qkv: Value,
        attention: Arc<Attention>,
        heads: Heads,
        attended: Value,
        logsum: Buffer,
        out: usize,
    },
    Put {
        x: Option<usize>,
        prompt: Option<usize>,
        puts: Arc<Puts>,
        kept: f32,
        share: f32,
        out: usize,
    },
    Gather {
        x: usize,
        gather: Arc<Gather>,
        out: usize,
    },
    LowRank {
        into: Option<usize>,
        x: Value,
        masked: Value,
        kept: Option<(Value, f32)>,
        middle: Value,
        down: Value,
        up: Value,
        scale: f32,
        column: usize,
        out: usize,
    },
    Sum {
        a: Option<usize>,
        b: Option<usize>,
        out: usize,
    },
    Host {
        x: Option<usize>,
        inputs: Vec<Option<usize>>,
        back: Box<HostBack>,
        out: usize,
    },
}

/// One pass.
pub struct Tape {
    pub(crate) lane: Arc<Lane>,
    pub(crate) precision: Precision,
    /// Whether inputs that are said to be tracked are.
    keep: bool,
    pub(crate) nodes: Vec<Node>,
    pub(crate) slots: usize,
    /// Slot, place in the flat inputs and rows and width of each tracked input.
    pub(crate) leaves: Vec<(usize, usize, (usize, usize))>,
    /// Numbers of all inputs.
    pub(crate) flat: usize,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a pass of {} operations on {:?}",
            self.nodes.len(),
            self.lane
        )
    }
}

impl Tape {
    /// A pass on the calling thread's lane. Without `keep` nothing is noted, and memory is free again as soon as no
    /// [`Value`] holds it.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(gpu: &Gpu, precision: Precision, keep: bool) -> Result<Self> {
        Ok(Self {
            lane: gpu.lane()?,
            precision,
            keep,
            nodes: Vec::new(),
            slots: 0,
            leaves: Vec::new(),
            flat: 0,
        })
    }

    /// Where the pass runs.
    pub fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Whether products take half numbers.
    pub(crate) fn is_half(&self) -> bool {
        self.precision == Precision::Half
    }

    fn slot(&mut self, tracked: bool) -> Option<usize> {
        tracked.then(|| {
            self.slots += 1;
            self.slots - 1
        })
    }

    /// Rows that are made here; with a slot if `tracked`.
    fn made(&mut self, rows: usize, width: usize, half: bool, tracked: bool) -> Result<Value> {
        let data = self.lane.take(rows * width * if half { 2 } else { 4 })?;
        Ok(Value {
            address: data.address,
            _data: Arc::new(data),
            rows,
            width,
            half,
            slot: self.slot(tracked),
        })
    }

    /// What is trained: rows of these shapes, one after the other in `flat`.
    ///
    /// # Errors
    /// When the shapes are not those of `flat`, or the card's memory is used up.
    pub fn inputs(&mut self, flat: &[f32], shapes: &[(usize, usize)]) -> Result<Vec<Value>> {
        let count: usize = shapes.iter().map(|(r, w)| r * w).sum();
        if count != flat.len() || self.flat != 0 {
            return Err(Error::Shape(format!(
                "{} numbers are not rows of {shapes:?}",
                flat.len()
            )));
        }
        let data = Arc::new(self.lane.upload(flat)?);
        let mut values = Vec::with_capacity(shapes.len());
        for &(rows, width) in shapes {
            let slot = self.slot(self.keep);
            if let Some(slot) = slot {
                self.leaves.push((slot, self.flat, (rows, width)));
            }
            values.push(Value {
                address: data.address + 4 * self.flat as u64,
                _data: data.clone(),
                rows,
                width,
                half: false,
                slot,
            });
            self.flat += rows * width;
        }
        Ok(values)
    }

    /// Rows that get no gradient.
    ///
    /// # Errors
    /// When the card's memory is used up.
    pub fn upload(&mut self, values: &[f32], width: usize) -> Result<Value> {
        let data = self.lane.upload(values)?;
        Ok(constant(Arc::new(data), values.len() / width.max(1), width))
    }

    /// The rows' numbers, once all that was launched is done.
    ///
    /// # Errors
    /// What the driver says.
    pub fn read(&self, value: &Value) -> Result<Vec<f32>> {
        if !value.half {
            return self.lane.download(value.address, value.count());
        }
        let wide = self.lane.floats(value.count())?;
        let (from, to) = (value.address, wide.address);
        self.lane.widen(true, from, to, value.count())?;
        self.lane.download(wide.address, value.count())
    }

    /// LayerNorm of each row.
    ///
    /// # Errors
    /// When shapes do not fit, or the card's memory is used up.
    pub fn norm(&mut self, x: &Value, norm: &Norm, want: Want) -> Result<Value> {
        if norm.gain.width != x.width || norm.bias.width != x.width || x.half {
            return Err(Error::Shape(format!(
                "a norm of width {} got rows of {}",
                norm.gain.width, x.width
            )));
        }
        let tracked = [x, &norm.gain, &norm.bias].iter().any(|v| v.is_tracked());
        let half = self.is_half() && want == Want::Product;
        let out = self.made(x.rows, x.width, half, tracked)?;
        let stats = if tracked {
            Some(self.lane.floats(2 * x.rows)?)
        } else {
            None
        };
        let (stream, input) = match half {
            true => (None, Some(out.address)),
            false => (Some(out.address), None),
        };
        let weights = (norm.gain.address, norm.bias.address);
        let kept = stats.as_ref().map(|s| s.address);
        let lane = &self.lane;
        let of_half = self.is_half();
        lane.norm(
            of_half,
            x.address,
            weights,
            stream,
            input,
            kept,
            x.shape(),
            norm.epsilon,
        )?;
        if let (Some(out), Some(stats)) = (out.slot, stats) {
            let (x, norm) = (x.clone(), norm.clone());
            self.nodes.push(Node::Norm {
                x,
                norm,
                stats,
                out,
            });
        }
        Ok(out)
    }

    /// `residual + x weight^T + bias`.
    ///
    /// # Errors
    /// When shapes do not fit, or the card's memory is used up.
    pub fn linear(
        &mut self,
        x: &Value,
        matrix: &Arc<Matrix>,
        residual: Option<&Value>,
    ) -> Result<Value> {
        let out_shape = (x.rows, matrix.columns);
        if x.width != matrix.inner || residual.is_some_and(|r| r.half || r.shape() != out_shape) {
            return Err(Error::Shape(format!(
                "a linear layer of {} numbers got rows of {}",
                matrix.inner, x.width
            )));
        }
        let tracked = x.is_tracked() || residual.is_some_and(Value::is_tracked);
        let out = self.made(x.rows, matrix.columns, false, tracked)?;
        let plus = Plus {
            bias: matrix.bias.as_ref().map(|b| b.address),
            matrix: residual.map(|r| r.address),
        };
        let input = self.as_input(x, matrix.half)?;
        let (left, right) = (input.mat(), matrix.mat().t());
        self.lane
            .multiply(out.mat(), left, right, plus, matrix.half, self.precision)?;
        if let Some(slot) = out.slot {
            self.nodes.push(Node::Linear {
                x: x.slot,
                matrix: matrix.clone(),
                residual: residual.and_then(|r| r.slot),
                out: slot,
            });
        }
        Ok(out)
    }

    /// The same rows in float32.
    ///
    /// # Errors
    /// When the card's memory is used up.
    pub fn float(&mut self, x: &Value) -> Result<Value> {
        if !x.half {
            return Ok(x.clone());
        }
        let wide = self.as_input(x, false)?;
        let out = Value {
            slot: self.slot(x.is_tracked()),
            ..wide
        };
        if let Some(slot) = out.slot {
            let (a, b) = (x.slot, None);
            self.nodes.push(Node::Sum { a, b, out: slot });
        }
        Ok(out)
    }

    /// `x` in the numbers that a matrix of half or float32 ones is multiplied with.
    fn as_input(&mut self, x: &Value, half: bool) -> Result<Value> {
        if x.half == half {
            return Ok(x.clone());
        }
        let out = self.made(x.rows, x.width, half, false)?;
        match half {
            true => self
                .lane
                .to_input(true, x.address, out.address, 1.0, x.count())?,
            false => self.lane.widen(true, x.address, out.address, x.count())?,
        }
        Ok(out)
    }

    /// The non-linearity of every number.
    ///
    /// # Errors
    /// When the card's memory is used up.
    pub fn activate(&mut self, h: &Value, kind: Activation) -> Result<Value> {
        let half = self.is_half();
        let out = self.made(h.rows, h.width, half, h.is_tracked())?;
        self.lane
            .activate(half, h.address, out.address, h.count(), kind as usize)?;
        if let Some(slot) = out.slot {
            self.nodes.push(Node::Activate {
                h: h.clone(),
                kind,
                out: slot,
            });
        }
        Ok(out)
    }

    /// Attention of `heads` heads: `qkv` `[R, 3 W]` (queries, keys, values) to `[queries, W]`.
    ///
    /// # Errors
    /// When shapes do not fit, or the card's memory is used up.
    pub fn attend(
        &mut self,
        qkv: &Value,
        attention: &Arc<Attention>,
        heads: usize,
    ) -> Result<Value> {
        let width = qkv.width / 3;
        if qkv.rows != attention.rows() || !qkv.width.is_multiple_of(3 * heads) || qkv.half {
            return Err(Error::Shape(format!(
                "attention over {} rows in {heads} heads got [{}, {}]",
                attention.rows(),
                qkv.rows,
                qkv.width
            )));
        }
        let heads = Heads {
            count: heads,
            size: width / heads,
        };
        let (half, queries) = (self.is_half(), attention.queries());
        let out = self.made(queries, width, half, qkv.is_tracked())?;
        let logsum = self.lane.floats(heads.count * queries)?;
        let (to, sums) = (out.address, logsum.address);
        match &attention.kind {
            Kind::Full(of) => {
                self.lane
                    .attend_full(self.precision, qkv.address, *of, to, sums, heads)?
            }
            Kind::Paths(of, _) => self
                .lane
                .attend_path(half, qkv.address, of, to, sums, heads)?,
        }
        if let Some(slot) = out.slot {
            self.nodes.push(Node::Attend {
                qkv: qkv.clone(),
                attention: attention.clone(),
                heads,
                attended: out.clone(),
                logsum,
                out: slot,
            });
        }
        Ok(out)
    }

    /// `kept * x + share * prompt` in the rows that `puts` names, `x` in all others.
    ///
    /// # Errors
    /// When shapes do not fit, or the card's memory is used up.
    pub fn put(
        &mut self,
        x: &Value,
        prompt: &Value,
        puts: &Arc<Puts>,
        [kept, share]: [f32; 2],
    ) -> Result<Value> {
        if x.width != prompt.width || x.rows != puts.rows || prompt.rows < puts.sources {
            return Err(Error::Shape(format!(
                "prompt rows [{}, {}] do not go into rows [{}, {}]",
                prompt.rows, prompt.width, x.rows, x.width
            )));
        }
        let tracked = x.is_tracked() || prompt.is_tracked();
        let out = self.made(x.rows, x.width, false, tracked)?;
        let (from, list) = (prompt.address, puts.source.address);
        self.lane
            .put_rows(x.address, from, list, out.address, (kept, share), x.shape())?;
        if let Some(slot) = out.slot {
            self.nodes.push(Node::Put {
                x: x.slot,
                prompt: prompt.slot,
                puts: puts.clone(),
                kept,
                share,
                out: slot,
            });
        }
        Ok(out)
    }

    /// The rows that `gather` names.
    ///
    /// # Errors
    /// When shapes do not fit, or the card's memory is used up.
    pub fn gather(&mut self, x: &Value, gather: &Arc<Gather>) -> Result<Value> {
        if x.rows != gather.rows || x.half {
            return Err(Error::Shape(format!(
                "rows of {} are asked for, {} are there",
                gather.rows, x.rows
            )));
        }
        let out = self.made(gather.count, x.width, false, x.is_tracked())?;
        let from = gather.from.address;
        self.lane
            .gather(x.address, from, out.address, out.shape())?;
        if let (Some(out), Some(x)) = (out.slot, x.slot) {
            let gather = gather.clone();
            self.nodes.push(Node::Gather { x, gather, out });
        }
        Ok(out)
    }

    /// Adds `scale * up (down x)` to columns of `into`, which must not be used again: what comes out takes its place.
    ///
    /// # Errors
    /// When shapes do not fit, or the card's memory is used up.
    pub fn low_rank(&mut self, into: Value, x: &Value, low: &LowRank) -> Result<Value> {
        let (rank, inner) = low.down.shape();
        let fits = x.width == inner && low.up.width == rank && into.rows == x.rows;
        if !fits || low.column + low.up.rows > into.width || x.half || into.half {
            return Err(Error::Shape(format!(
                "a low rank [{rank}, {inner}] and [{}, {}] of rows [{}, {}]",
                low.up.rows, low.up.width, x.rows, x.width
            )));
        }
        let masked = match low.kept {
            None => x.clone(),
            Some((kept, factor)) => {
                if kept.shape() != x.shape() {
                    return Err(Error::Shape(format!(
                        "dropout of {:?} on rows {:?}: it has one number for each value of the tower's rows",
                        kept.shape(),
                        x.shape()
                    )));
                }
                let out = self.made(x.rows, x.width, false, false)?;
                let (x, kept) = (x.address, kept.address);
                self.lane.times(x, kept, out.address, factor, out.count())?;
                out
            }
        };
        let middle = self.made(x.rows, rank, false, false)?;
        let [down, up] = [low.down, low.up].map(|v| v.mat().t());
        self.float_product(middle.mat(), masked.mat(), down, false)?;
        // The scale goes into the narrow rows.
        let scaled = self.times(&middle, low.scale)?;
        self.float_product(
            columns(&into, low.column, low.up.rows),
            scaled.mat(),
            up,
            true,
        )?;
        let tracked = [&into, x, low.down, low.up].iter().any(|v| v.is_tracked());
        let out = Value {
            slot: self.slot(tracked),
            ..into.clone()
        };
        if let Some(slot) = out.slot {
            self.nodes.push(Node::LowRank {
                into: into.slot,
                x: x.clone(),
                masked,
                kept: low.kept.map(|(kept, factor)| (kept.clone(), factor)),
                middle,
                down: low.down.clone(),
                up: low.up.clone(),
                scale: low.scale,
                column: low.column,
                out: slot,
            });
        }
        Ok(out)
    }

    /// `x` times a number.
    pub(crate) fn times(&self, x: &Value, factor: f32) -> Result<Value> {
        let data = self.lane.floats(x.count())?;
        // Without a half of its own, `to_input` is a product with a number.
        self.lane
            .to_input(false, x.address, data.address, factor, x.count())?;
        Ok(constant(Arc::new(data), x.rows, x.width))
    }

    /// A product of what is trained: in float32 whatever the weights are.
    pub(crate) fn float_product(&self, out: Mat, left: Mat, right: Mat, add: bool) -> Result<()> {
        let plus = Plus {
            bias: None,
            matrix: add.then_some(out.address),
        };
        self.lane
            .multiply(out, left, right, plus, false, self.precision)
    }

    /// `a + b`.
    ///
    /// # Errors
    /// When shapes do not fit, or the card's memory is used up.
    pub fn sum(&mut self, a: &Value, b: &Value) -> Result<Value> {
        if a.shape() != b.shape() || a.half || b.half {
            return Err(Error::Shape(format!(
                "{:?} and {:?} do not add up",
                a.shape(),
                b.shape()
            )));
        }
        let out = self.made(a.rows, a.width, false, a.is_tracked() || b.is_tracked())?;
        self.lane.copy(out.address, a.address, a.count())?;
        self.lane
            .add(false, out.address, b.address, None, a.count())?;
        if let Some(out) = out.slot {
            let (a, b) = (a.slot, b.slot);
            self.nodes.push(Node::Sum { a, b, out });
        }
        Ok(out)
    }

    /// Rows `[x.rows, width]` that the processor computed of `x` and of `inputs`, with what it gives back of their
    /// gradient.
    ///
    /// # Errors
    /// When the card's memory is used up.
    pub fn host(
        &mut self,
        x: &Value,
        inputs: &[&Value],
        computed: &[f32],
        width: usize,
        back: Box<HostBack>,
    ) -> Result<Value> {
        let tracked = x.is_tracked() || inputs.iter().any(|v| v.is_tracked());
        let data = self.lane.upload(computed)?;
        let mut out = constant(Arc::new(data), computed.len() / width.max(1), width);
        out.slot = self.slot(tracked);
        if let Some(slot) = out.slot {
            self.nodes.push(Node::Host {
                x: x.slot,
                inputs: inputs.iter().map(|v| v.slot).collect(),
                back,
                out: slot,
            });
        }
        Ok(out)
    }

    /// Patches of `pixels` `[B, 3, G P, G P]` as rows `[B G G, 3 P P]`, to be multiplied.
    ///
    /// # Errors
    /// When the card's memory is used up.
    pub fn patches(&mut self, pixels: &[f32], [batch, grid, patch]: [usize; 3]) -> Result<Value> {
        let width = 3 * patch * patch;
        if pixels.len() != batch * grid * grid * width {
            return Err(Error::Shape(format!(
                "{} pixels are not {batch} pictures of {grid} patches of {patch} a side",
                pixels.len()
            )));
        }
        let pixels = self.lane.upload(pixels)?;
        let half = self.is_half();
        let out = self.made(batch * grid * grid, width, half, false)?;
        self.lane
            .patches(half, pixels.address, out.address, (batch, grid, patch))?;
        Ok(out)
    }

    /// Rows `[B (classes + count + extra), W]`: the class row (where there is one), `count` patch rows and `extra` zeros
    /// of each picture, with positions `[classes + count, W]` on all but the zeros.
    ///
    /// # Errors
    /// When shapes do not fit, or the card's memory is used up.
    pub fn embed_pictures(
        &mut self,
        patches: &Value,
        classes: Option<&Value>,
        positions: &Value,
        batch: usize,
        extra: usize,
    ) -> Result<Value> {
        let (count, width) = (patches.rows / batch.max(1), patches.width);
        let length = usize::from(classes.is_some()) + count;
        if positions.shape() != (length, width) || patches.half {
            return Err(Error::Shape(format!(
                "positions {:?} for {length} rows of width {width}",
                positions.shape()
            )));
        }
        let out = self.made(batch * (length + extra), width, false, false)?;
        let class = classes.map(|c| c.address);
        let sizes = (batch, count, extra, width);
        let (from, to) = (patches.address, out.address);
        self.lane
            .embed_pictures(from, class, positions.address, to, sizes)?;
        Ok(out)
    }
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

fn constant(data: Arc<Buffer>, rows: usize, width: usize) -> Value {
    Value {
        address: data.address,
        _data: data,
        rows,
        width,
        half: false,
        slot: None,
    }
}
