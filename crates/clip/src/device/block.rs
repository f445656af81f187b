//! One block on the card: eight launches, with what a method changes in it.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor, Var};
use gpu::{Attention, Gather, Lane, LowRank, Matrix, Norm, Precision, Tape, Value, Want};

use super::{Placed, numbers, wrap};
use crate::changes::{self, Beside, BlockChange, Projection};
use crate::ops::block::BlockShape;
use crate::ops::{Activation, Block, Norms};

/// A block's frozen weights on the card.
#[derive(Debug)]
pub(super) struct CardBlock {
    shape: BlockShape,
    norms: [Norm; 2],
    qkv: Arc<Matrix>,
    out: Arc<Matrix>,
    expand: Arc<Matrix>,
    contract: Arc<Matrix>,
}

/// A frozen norm on the card.
pub(super) fn norm(lane: &Lane, gain: &Tensor, bias: &Tensor, epsilon: f32) -> Result<Norm> {
    let place = |t: &Tensor| -> Result<Value> {
        let values = numbers(t)?;
        let buffer = lane.upload_shared(&values).map_err(wrap)?;
        Ok(Value::constant(&Arc::new(buffer), 1, values.len()))
    };
    Ok(Norm {
        gain: place(gain)?,
        bias: place(bias)?,
        epsilon,
    })
}

/// A norm that a method changes, or the frozen one.
pub(super) fn changed(
    frozen: &Norm,
    change: Option<&changes::Norm>,
    placed: &Placed,
) -> Result<Norm> {
    match change {
        None => Ok(frozen.clone()),
        Some(change) => Ok(Norm {
            gain: placed.of(&change.gain)?.clone(),
            bias: placed.of(&change.bias)?.clone(),
            epsilon: frozen.epsilon,
        }),
    }
}

/// Rows of a layout on the card: who asks whom, and which rows go on where not all do.
pub(super) struct Rows {
    pub(super) attention: Arc<Attention>,
    pub(super) chosen: Option<Arc<Chosen>>,
}

/// Rows that go on.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) gather: Arc<Gather>,
    pub(super) rows: Vec<usize>,
}

impl CardBlock {
    pub(super) fn new(block: &Block, lane: &Lane, precision: Precision) -> Result<Self> {
        let theta = numbers(&block.theta)?;
        let (shape, epsilon) = (block.shape, block.shape.norms.epsilon());
        let [
            g1,
            b1,
            w_in,
            b_in,
            w_out,
            b_out,
            g2,
            b2,
            w_fc,
            b_fc,
            w_proj,
            b_proj,
        ] = shape.ranges().map(|part| &theta[part]);
        let (w, h) = (shape.width, shape.hidden);
        let matrix = |weight: &[f32], sizes, bias: &[f32]| {
            let made = Matrix::new(lane, weight, sizes, false, Some(bias), precision);
            made.map(Arc::new).map_err(wrap)
        };
        let norm = |gain: &[f32], bias: &[f32]| -> Result<Norm> {
            let tensor = |v: &[f32]| Tensor::from_slice(v, v.len(), &Device::Cpu);
            norm(lane, &tensor(gain)?, &tensor(bias)?, epsilon)
        };
        Ok(Self {
            shape,
            norms: [norm(g1, b1)?, norm(g2, b2)?],
            qkv: matrix(w_in, [3 * w, w], b_in)?,
            out: matrix(w_out, [w, w], b_out)?,
            expand: matrix(w_fc, [h, w], b_fc)?,
            contract: matrix(w_proj, [w, h], b_proj)?,
        })
    }

    /// As [`Block::forward_with`].
    pub(super) fn forward(
        &self,
        tape: &mut Tape,
        x: Value,
        rows: &Rows,
        change: &BlockChange,
        placed: &Placed,
    ) -> Result<Value> {
        let norms = [
            changed(&self.norms[0], change.norm_1.as_ref(), placed)?,
            changed(&self.norms[1], change.norm_2.as_ref(), placed)?,
        ];
        let behind = self.shape.norms == Norms::Bert;
        let normed = match behind {
            true => x.clone(),
            false => tape.norm(&x, &norms[0], Want::Product).map_err(wrap)?,
        };
        let mut qkv = tape.linear(&normed, &self.qkv, None).map_err(wrap)?;
        let of = |p: Projection| change.low_rank.iter().filter(move |l| l.of == p);
        let columns = [Projection::Query, Projection::Key, Projection::Value];
        if columns.iter().any(|p| of(*p).next().is_some()) {
            let wide = tape.float(&normed).map_err(wrap)?;
            for (i, projection) in columns.into_iter().enumerate() {
                for low in of(projection) {
                    let column = i * self.shape.width;
                    qkv = add_low_rank(tape, qkv, &wide, low, column, None, placed)?;
                }
            }
        }
        drop(normed);
        let heads = self.shape.heads;
        let attended = tape.attend(&qkv, &rows.attention, heads).map_err(wrap)?;
        drop(qkv);
        let chosen = rows.chosen.as_deref();
        let residual = match chosen {
            None => x.clone(),
            Some(chosen) => tape.gather(&x, &chosen.gather).map_err(wrap)?,
        };
        let linear = tape.linear(&attended, &self.out, Some(&residual));
        let mut middle = linear.map_err(wrap)?;
        for low in of(Projection::Out) {
            let wide = tape.float(&attended).map_err(wrap)?;
            let only = chosen.map(|c| &c.rows[..]);
            middle = add_low_rank(tape, middle, &wide, low, 0, only, placed)?;
        }
        drop(attended);
        if behind {
            middle = tape.norm(&middle, &norms[0], Want::Stream).map_err(wrap)?;
        }
        let normed = match behind {
            true => middle.clone(),
            false => tape.norm(&middle, &norms[1], Want::Product).map_err(wrap)?,
        };
        let hidden = tape.linear(&normed, &self.expand, None).map_err(wrap)?;
        drop(normed);
        let kind = match self.shape.activation {
            Activation::QuickGelu => gpu::Activation::QuickGelu,
            Activation::Gelu => gpu::Activation::Gelu,
            Activation::GeluTanh => gpu::Activation::GeluTanh,
        };
        let active = tape.activate(&hidden, kind).map_err(wrap)?;
        drop(hidden);
        let linear = tape.linear(&active, &self.contract, Some(&middle));
        let mut out = linear.map_err(wrap)?;
        drop(active);
        if behind {
            out = tape.norm(&out, &norms[1], Want::Stream).map_err(wrap)?;
        }
        let Some(beside) = &change.beside else {
            return Ok(out);
        };
        self.shape.norms.take_beside()?;
        let normed = tape
            .norm(&residual, &norms[0], Want::Stream)
            .map_err(wrap)?;
        let branch = branch(tape, beside, &normed, placed)?;
        tape.sum(&out, &branch).map_err(wrap)
    }
}

/// `into` and a low rank of `x`, whose rows are `only` those of all where not all go on.
fn add_low_rank(
    tape: &mut Tape,
    into: Value,
    x: &Value,
    low: &changes::LowRank,
    column: usize,
    only: Option<&[usize]>,
    placed: &Placed,
) -> Result<Value> {
    let kept = match &low.dropout {
        None => None,
        Some(dropout) => {
            let kept = dropout.kept.to_dtype(DType::F32)?;
            let kept = match only {
                None => kept,
                Some(rows) => {
                    let rows: Vec<u32> = rows.iter().map(|r| *r as u32).collect();
                    kept.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?
                }
            };
            let width = kept.dim(1)?;
            let kept = tape.upload(&numbers(&kept)?, width).map_err(wrap)?;
            Some((kept, (1.0 / dropout.share) as f32))
        }
    };
    let low = LowRank {
        down: placed.of(&low.down)?,
        up: placed.of(&low.up)?,
        scale: low.scale as f32,
        column,
        kept: kept.as_ref().map(|(kept, factor)| (kept, *factor)),
    };
    tape.low_rank(into, x, &low).map_err(wrap)
}

/// A branch beside a block: the method's own function, on the processor.
fn branch(tape: &mut Tape, beside: &Beside, x: &Value, placed: &Placed) -> Result<Value> {
    let values = tape.read(x).map_err(wrap)?;
    let inputs = beside.tensors.iter().map(|t| placed.of(t));
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    let own = beside.tensors.iter().map(|t| Var::from_tensor(&t.detach()));
    let own = own.collect::<Result<Vec<_>>>()?;
    let rows = Var::from_vec(values, (x.rows, x.width), &Device::Cpu)?;
    let tensors: Vec<Tensor> = own.iter().map(|v| v.as_tensor().clone()).collect();
    let out = (beside.f)(&tensors, rows.as_tensor())?;
    let computed = numbers(&out)?;
    let width = out.dim(1)?;
    let graph = Mutex::new((own, rows, out));
    let back = move |dy: &[f32]| {
        let graph = graph.lock().unwrap_or_else(PoisonError::into_inner);
        let (own, rows, out) = &*graph;
        let gradients = Tensor::from_slice(dy, out.shape(), &Device::Cpu)
            .and_then(|dy| (out * dy)?.sum_all()?.backward())?;
        let of = |v: &Var| match gradients.get(v) {
            Some(g) => numbers(g),
            None => Ok(vec![0.0; v.elem_count()]),
        };
        let own = own.iter().map(of).collect::<Result<Vec<_>>>()?;
        Ok((of(rows)?, own))
    };
    let back =
        move |dy: &[f32]| back(dy).map_err(|e: candle_core::Error| gpu::Error::Host(e.to_string()));
    tape.host(x, &inputs, &computed, width, Box::new(back))
        .map_err(wrap)
}
