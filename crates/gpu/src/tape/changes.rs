//! What a method changes in a block: low ranks, and branches on the processor.

use std::sync::Arc;

use super::{Node, Tape};
use crate::error::{Error, Result};
use crate::parts::{HostBack, LowRank, Value, columns, constant};
use crate::products::{Mat, Plus};

impl Tape {
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
}
