//! A transformer block in parts, for blocks in which a method changes something.
//!
//! The same results as [`Block::forward`] of one fused operation, from operations that each give gradients of what is
//! tracked alone: a LayerNorm or a low rank that is trained costs no product for the gradients of frozen matrices. What
//! it costs against the fused block: every part is kept for backward, and low ranks add passes over the rows.

use std::sync::{Arc, Mutex};

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout as Strides, Result, Shape, Tensor,
    bail,
};

use super::attention::{self, Heads, Plan};
use super::block::BlockShape;
use super::gemm::{Mat, Threads, product};
use super::layout::Layout;
use super::norm::layer_norm_by;
use super::products::{Arithmetic, Left, Products, Start};
use super::{Activation, Block, Kept, on_pool, rows, values, with_kept, with_values};
use crate::changes::{BlockChange, Norm, Projection};

/// [`Block::forward`] with a change inside of the block, or of a block whose norms stand behind.
///
/// # Errors
/// When shapes do not fit.
pub(super) fn forward(
    block: &Block,
    change: &BlockChange,
    x: &Tensor,
    layout: &Arc<Layout>,
    select: Option<&[usize]>,
) -> Result<Tensor> {
    let w = block.shape.width;
    let [norm_1, norm_2] = block.norms_with(change)?;
    let parts = block.parts()?;
    let (w_in, b_in) = (&parts[2], &parts[3]);
    let by = block.products();
    let linear = |x: &Tensor, weight: &Tensor, bias: &Tensor| linear_by(by, x, weight, bias);

    let norms = block.shape.norms;
    let normed = norms.inside(x, &norm_1, layer_norm_by)?;
    let (plan, chosen) = match select {
        None => (Plan::all(layout), None),
        Some(positions) => {
            let rows = layout.chosen(positions).into_iter().map(|r| r as u32);
            let rows = Tensor::new(rows.collect::<Vec<_>>(), x.device())?;
            (Plan::one_a_sequence(layout, positions), Some(rows))
        }
    };
    let of_chosen = |x: &Tensor| match &chosen {
        Some(rows) => x.index_select(rows, 0),
        None => Ok(x.clone()),
    };
    let (asking, residual) = (of_chosen(&normed)?, of_chosen(x)?);
    let plus = |y: Tensor, of, x: &Tensor, rows: Option<&Tensor>| -> Result<Tensor> {
        let mut ranks = change.low_rank.iter().filter(|l| l.of == of);
        ranks.try_fold(y, |y, low_rank| y + low_rank.of_rows(x, rows)?)
    };
    let q = linear(&asking, &w_in.narrow(0, 0, w)?, &b_in.narrow(0, 0, w)?)?;
    let q = plus(q, Projection::Query, &asking, chosen.as_ref())?;
    let mut kv = linear(
        &normed,
        &w_in.narrow(0, w, 2 * w)?,
        &b_in.narrow(0, w, 2 * w)?,
    )?;
    let changes = |p| change.low_rank.iter().any(|l| l.of == p);
    if changes(Projection::Key) || changes(Projection::Value) {
        let [k, v] = [kv.narrow(1, 0, w)?, kv.narrow(1, w, w)?];
        let k = plus(k, Projection::Key, &normed, None)?;
        let v = plus(v, Projection::Value, &normed, None)?;
        kv = Tensor::cat(&[k, v], 1)?;
    }
    let attend = Attend {
        by: block.products().arithmetic(),
        plan,
        heads: block.shape.heads(),
        logsum: Mutex::default(),
    };
    let attended = q.contiguous()?.apply_op2(&kv.contiguous()?, attend)?;
    let out = linear(&attended, &parts[4], &parts[5])?;
    let out = plus(out, Projection::Out, &attended, chosen.as_ref())?;
    let middle = norms.behind((residual + out)?, &norm_1, layer_norm_by)?;

    let hidden = linear(
        &norms.inside(&middle, &norm_2, layer_norm_by)?,
        &parts[8],
        &parts[9],
    )?;
    let hidden = hidden.apply_op1(Activate(block.shape.activation))?;
    let out = (middle + linear(&hidden, &parts[10], &parts[11])?)?;
    norms.behind(out, &norm_2, layer_norm_by)
}

impl Block {
    /// As [`Block::forward`], with what a method changes. Differentiable in the change, too.
    ///
    /// # Errors
    /// As [`Block::forward`], and when the change does not fit the block.
    pub fn forward_with(
        &self,
        x: &Tensor,
        layout: &Arc<Layout>,
        select: Option<&[usize]>,
        change: &BlockChange,
    ) -> Result<Tensor> {
        let out = match (change.is_inside(), x.device().is_cpu()) {
            (false, _) => self.forward(x, layout, select)?,
            (true, true) => forward(self, change, x, layout, select)?,
            (true, false) => super::composed::block(self, x, layout, select, change)?,
        };
        let Some(beside) = &change.beside else {
            return Ok(out);
        };
        self.shape.norms.take_beside()?;
        let [norm, _] = self.norms_with(change)?;
        let going_on = match select {
            None => x.clone(),
            Some(positions) => {
                let rows = layout.chosen(positions).into_iter().map(|r| r as u32);
                x.index_select(&Tensor::new(rows.collect::<Vec<_>>(), x.device())?, 0)?
            }
        };
        let normed = self.shape.norms.inside(&going_on, &norm, layer_norm_by)?;
        out + (beside.f)(&beside.tensors, &normed)?
    }

    /// The tensors of [`super::block::PARTS`] in their shapes, as views of the flat weights.
    pub(super) fn parts(&self) -> Result<Vec<Tensor>> {
        let mut at = 0;
        let parts = self.shape.parts().into_iter().map(|shape| {
            let n = shape.iter().product::<usize>();
            at += n;
            self.theta.narrow(0, at - n, n)?.reshape(shape)
        });
        parts.collect()
    }

    /// `ln_1` and `ln_2`, in float32: what a method that trains them starts from.
    ///
    /// # Errors
    /// Those of candle.
    pub fn norms(&self) -> Result<[Norm; 2]> {
        let parts = self.parts()?;
        let norm = |i: usize| -> Result<Norm> {
            Ok(Norm {
                gain: parts[i].to_dtype(DType::F32)?,
                bias: parts[i + 1].to_dtype(DType::F32)?,
            })
        };
        Ok([norm(0)?, norm(6)?])
    }

    /// The norms that the block uses under a change.
    pub(super) fn norms_with(&self, change: &BlockChange) -> Result<[Norm; 2]> {
        let [first, second] = self.norms()?;
        Ok([
            change.norm_1.clone().unwrap_or(first),
            change.norm_2.clone().unwrap_or(second),
        ])
    }
}

/// Attention in which each sequence of `layout` is asked one query `[sequences, W]`, of keys and values `[R, 2 W]`.
///
/// # Errors
/// When shapes do not fit.
pub(crate) fn one_asks(
    query: &Tensor,
    kv: &Tensor,
    layout: &Layout,
    shape: BlockShape,
) -> Result<Tensor> {
    let attend = Attend {
        by: Arithmetic::Portable,
        plan: Plan::one_a_sequence(layout, &vec![0; layout.sequences()]),
        heads: shape.heads(),
        logsum: Mutex::default(),
    };
    query.apply_op2(&kv.contiguous()?, attend)
}

/// The MLP's non-linearity of every value.
///
/// # Errors
/// Those of candle.
pub(crate) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Activate(activation))
}

/// `x weight^T + bias`: `x` `[n, i]`, `weight` `[o, i]`, `bias` `[o]`, result `[n, o]`. Of a frozen weight there is no
/// gradient; it may be kept in half precision or bfloat16.
///
/// # Errors
/// When shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    linear_by(Products::Float32, x, weight, bias)
}

/// As [`linear`], by a kind of product where the weight is frozen.
///
/// # Errors
/// As there.
pub(crate) fn linear_by(
    by: Products,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
) -> Result<Tensor> {
    let ((_, i), (o, wi)) = (x.dims2()?, weight.dims2()?);
    if i != wi || bias.dims() != [o] {
        bail!(
            "a linear layer of {:?} and bias {:?} got rows of {i}",
            weight.dims(),
            bias.dims()
        );
    }
    let train = weight.track_op() || bias.track_op();
    let by = if train { Products::Float32 } else { by };
    let linear = Linear { by, o, i, train };
    let x = x.contiguous()?;
    x.apply_op3(&weight.contiguous()?, &bias.contiguous()?, linear)
}

struct Linear {
    by: Products,
    o: usize,
    i: usize,
    train: bool,
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Strides,
        s2: &CpuStorage,
        l2: &Strides,
        s3: &CpuStorage,
        l3: &Strides,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, (o, i)) = (values(s1, l1)?, (self.o, self.i));
        let (weight, bias) = (Kept::of(s2, l2)?, Kept::of(s3, l3)?.floats());
        let n = x.len() / i;
        let mut out = vec![0f32; n * o];
        on_pool(|| {
            let rows = Left::of(self.by, [n, i], o, x);
            let weight = Mat::kept(weight, o, i);
            rows.product(&mut out, weight.t(), Start::Bias(&bias));
        });
        Ok((CpuStorage::F32(out), Shape::from((n, o))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (n, o, i) = (x.dim(0)?, self.o, self.i);
        with_values(grad, |grad| {
            let dx = with_kept(weight, |weight| {
                let mut dx = vec![0f32; n * i];
                on_pool(|| {
                    let upstream = Left::of(self.by, [n, o], i, grad);
                    upstream.product(&mut dx, Mat::kept(weight, o, i), Start::Zero);
                });
                Tensor::from_vec(dx, (n, i), x.device())
            })?;
            if !self.train {
                return Ok((Some(dx), None, None));
            }
            let (mut dw, mut db) = (vec![0f32; o * i], vec![0f32; o]);
            with_values(x, |x| {
                let (a, b) = (Mat::new(grad, n, o, o), Mat::new(x, n, i, i));
                on_pool(|| product(&mut dw, i, a.t(), b, false, Threads::Pool));
                rows::column_sums(grad, &mut db);
                Ok(())
            })?;
            let dw = Tensor::from_vec(dw, weight.shape(), x.device())?;
            let db = Tensor::from_vec(db, bias.shape(), x.device())?;
            Ok((Some(dx), Some(dw), Some(db)))
        })
    }
}

/// Queries `[rs, W]` and keys and values `[r, 2 W]` to attended values `[rs, W]`.
struct Attend {
    by: Arithmetic,
    plan: Plan,
    heads: Heads,
    logsum: Mutex<Vec<f32>>,
}

impl CustomOp2 for Attend {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Strides,
        s2: &CpuStorage,
        l2: &Strides,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, kv) = (values(s1, l1)?, values(s2, l2)?);
        let mut out = vec![0f32; q.len()];
        let rows = q.len() / (self.heads.count * self.heads.size);
        let mut logsum = vec![0f32; rows * self.heads.count];
        on_pool(|| {
            attention::forward(
                self.by,
                &self.plan,
                self.heads,
                q,
                kv,
                &mut out,
                &mut logsum,
            )
        });
        *self
            .logsum
            .lock()
            .expect("no thread panics while it holds this") = logsum;
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let logsum = self
            .logsum
            .lock()
            .expect("no thread panics while it holds this");
        let (mut dq, mut dkv) = (vec![0f32; q.elem_count()], vec![0f32; kv.elem_count()]);
        with_values(q, |q| {
            with_values(kv, |kv| {
                with_values(out, |out| {
                    with_values(grad, |grad| {
                        let saved = attention::Saved {
                            q,
                            kv,
                            out,
                            logsum: &logsum,
                        };
                        on_pool(|| {
                            attention::backward(
                                self.by, &self.plan, self.heads, &saved, grad, &mut dq, &mut dkv,
                            );
                        });
                        Ok(())
                    })
                })
            })
        })?;
        let dq = Tensor::from_vec(dq, q.shape(), q.device())?;
        let dkv = Tensor::from_vec(dkv, kv.shape(), q.device())?;
        Ok((Some(dq), Some(dkv)))
    }
}

/// The MLP's non-linearity.
struct Activate(Activation);

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Strides) -> Result<(CpuStorage, Shape)> {
        let h = values(storage, layout)?;
        let mut out = vec![0f32; h.len()];
        on_pool(|| self.0.forward(h, &mut out));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, h: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut d = with_values(grad, |g| Ok(g.to_vec()))?;
        with_values(h, |h| {
            on_pool(|| self.0.backward(h, &mut d));
            Ok(())
        })?;
        Tensor::from_vec(d, h.shape(), h.device()).map(Some)
    }
}

#[cfg(test)]
mod tests;
