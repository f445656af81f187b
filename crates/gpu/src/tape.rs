//! One pass through a tower, noted so that gradients can go back through it.

mod changes;
mod pictures;

use std::sync::Arc;

use crate::attention::{Attention, Kind};
use crate::card::{Gpu, Precision};
use crate::error::{Error, Result};
use crate::kernels::Heads;
use crate::memory::{Buffer, Lane};
use crate::parts::constant;
use crate::parts::{Activation, Gather, HostBack, Matrix, Norm, Puts, Value, Want};
use crate::products::Plus;

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

    pub(crate) fn slot(&mut self, tracked: bool) -> Option<usize> {
        tracked.then(|| {
            self.slots += 1;
            self.slots - 1
        })
    }

    /// Rows that are made here; with a slot if `tracked`.
    pub(crate) fn made(
        &mut self,
        rows: usize,
        width: usize,
        half: bool,
        tracked: bool,
    ) -> Result<Value> {
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
        let input = self.as_input(x, matrix.is_half())?;
        let (left, right) = (input.mat(), matrix.mat().t());
        self.lane.multiply(
            out.mat(),
            left,
            right,
            plus,
            matrix.is_half(),
            self.precision,
        )?;
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
}
