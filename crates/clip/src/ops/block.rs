//! A whole transformer block as one differentiable operation; BERT's, whose norms stand behind, in parts.
//!
//! `y = x + attention(norm_1(x)); out = y + mlp(norm_2(y))`, the block of CLIP's towers (arXiv 2103.00020, and the
//! released model code). Frozen weights get no gradient and cost no backward product; trainable ones (pre-training)
//! do. `R` packed rows, `W` width, `H` hidden width of the MLP.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp2, Layout as Strides, Result, Shape, Tensor, bail};

use super::attention::{self, Heads, Plan};
use super::gemm::{Mat, Threads, product};
use super::layout::Layout;
use super::rows;
use super::scratch::{self, Buffer};
use super::{composed, on_pool, parts, values, widened, with_values};
use crate::changes::BlockChange;

pub use super::variants::{Activation, Norms};

/// Sizes of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockShape {
    /// `W`.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// `H`, usually `4 W`.
    pub hidden: usize,
    /// Between the MLP's two products.
    pub activation: Activation,
    /// Where the norms stand.
    pub norms: Norms,
}

/// Names of a block's tensors in the order in which their values lie in its flat weights, with OpenAI's names.
pub const PARTS: [&str; 12] = [
    "ln_1.weight",
    "ln_1.bias",
    "attn.in_proj_weight",
    "attn.in_proj_bias",
    "attn.out_proj.weight",
    "attn.out_proj.bias",
    "ln_2.weight",
    "ln_2.bias",
    "mlp.c_fc.weight",
    "mlp.c_fc.bias",
    "mlp.c_proj.weight",
    "mlp.c_proj.bias",
];

impl BlockShape {
    /// Shapes of [`PARTS`].
    pub fn parts(&self) -> [Vec<usize>; 12] {
        let (w, h) = (self.width, self.hidden);
        [
            vec![w],
            vec![w],
            vec![3 * w, w],
            vec![3 * w],
            vec![w, w],
            vec![w],
            vec![w],
            vec![w],
            vec![h, w],
            vec![h],
            vec![w, h],
            vec![w],
        ]
    }

    /// Numbers in the flat weights.
    pub fn len(&self) -> usize {
        self.parts()
            .iter()
            .map(|p| p.iter().product::<usize>())
            .sum()
    }

    /// A block without weights does not exist.
    pub fn is_empty(&self) -> bool {
        false
    }

    pub(crate) fn split<'a>(&self, theta: &'a [f32]) -> [&'a [f32]; 12] {
        let mut at = 0;
        self.parts().map(|p| {
            let n = p.iter().product::<usize>();
            at += n;
            &theta[at - n..at]
        })
    }

    pub(super) fn heads(&self) -> Heads {
        Heads {
            count: self.heads,
            size: self.width / self.heads,
        }
    }
}

/// One block: sizes and its weights, flat `[BlockShape::len()]`.
#[derive(Clone, Debug)]
pub struct Block {
    /// Sizes.
    pub shape: BlockShape,
    /// All weights in the order of [`PARTS`]. A `Var` here trains them. Frozen ones may be kept in half precision or
    /// bfloat16; they are widened for each use.
    pub theta: Tensor,
}

impl Block {
    /// `[R, W]` to `[R, W]`; or, with `select`, to `[sequences, W]`: the row at own position `select[s]` of each
    /// sequence.
    ///
    /// # Errors
    /// When `x` has not the layout's rows.
    pub fn forward(
        &self,
        x: &Tensor,
        layout: &Arc<Layout>,
        select: Option<&[usize]>,
    ) -> Result<Tensor> {
        let (r, w) = x.dims2()?;
        if r != layout.rows() || w != self.shape.width {
            bail!(
                "block of width {} and {} rows got [{r}, {w}]",
                self.shape.width,
                layout.rows()
            );
        }
        if !x.device().is_cpu() {
            return composed::block(self, x, layout, select, &BlockChange::default());
        }
        if self.shape.norms == Norms::Bert {
            return parts::forward(self, &BlockChange::default(), x, layout, select);
        }
        let selected = select.map(|positions| layout.chosen(positions));
        let plan = match select {
            None => Plan::all(layout),
            Some(positions) => Plan::one_a_sequence(layout, positions),
        };
        let op = Fused {
            shape: self.shape,
            plan,
            selected,
            keep: x.track_op() || self.theta.track_op(),
            train: self.theta.track_op(),
            saved: Mutex::new(None),
        };
        x.contiguous()?.apply_op2(&self.theta, op)
    }
}

struct Saved {
    q: Buffer,
    kv: Buffer,
    attended: Buffer,
    logsum: Buffer,
    middle: Buffer,
    hidden: Buffer,
}

struct Fused {
    shape: BlockShape,
    plan: Plan,
    /// Packed rows that go on, when not all do.
    selected: Option<Vec<usize>>,
    keep: bool,
    train: bool,
    saved: Mutex<Option<Saved>>,
}

pub(super) fn gather(x: &[f32], rows: &[usize], width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len() * width);
    for &r in rows {
        out.extend_from_slice(&x[r * width..(r + 1) * width]);
    }
    out
}

impl Fused {
    fn forward(&self, x: &[f32], theta: &[f32]) -> Vec<f32> {
        let (w, h) = (self.shape.width, self.shape.hidden);
        let epsilon = self.shape.norms.epsilon();
        let r = x.len() / w;
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
        ] = self.shape.split(theta);

        let mut normed = scratch::take(r * w);
        rows::norm_forward(x, g1, b1, epsilon, &mut normed);
        let mut kv = scratch::take(r * 2 * w);
        rows::fill_rows(&mut kv, &b_in[w..], None);
        let w_kv = Mat::new(&w_in[w * w..], 2 * w, w, w);
        product(
            &mut kv,
            2 * w,
            Mat::new(&normed, r, w, w),
            w_kv.t(),
            true,
            Threads::Pool,
        );
        let chosen = self
            .selected
            .as_ref()
            .map(|s| (gather(&normed, s, w), gather(x, s, w)));
        let (asking, residual) = chosen
            .as_ref()
            .map_or((&normed[..], x), |(n, x)| (&n[..], &x[..]));
        let rs = asking.len() / w;
        let mut q = scratch::take(rs * w);
        rows::fill_rows(&mut q, &b_in[..w], None);
        product(
            &mut q,
            w,
            Mat::new(asking, rs, w, w),
            Mat::new(w_in, w, w, w).t(),
            true,
            Threads::Pool,
        );

        let mut attended = scratch::take(rs * w);
        let mut logsum = scratch::take(rs * self.shape.heads);
        attention::forward(
            &self.plan,
            self.shape.heads(),
            &q,
            &kv,
            &mut attended,
            &mut logsum,
        );

        let mut middle = scratch::take(rs * w);
        rows::fill_rows(&mut middle, b_out, Some(residual));
        product(
            &mut middle,
            w,
            Mat::new(&attended, rs, w, w),
            Mat::new(w_out, w, w, w).t(),
            true,
            Threads::Pool,
        );

        drop(normed);
        let mut normed = scratch::take(rs * w);
        rows::norm_forward(&middle, g2, b2, epsilon, &mut normed);
        let mut hidden = scratch::take(rs * h);
        let in_place = !self.keep && self.shape.activation == Activation::QuickGelu;
        if !in_place {
            rows::fill_rows(&mut hidden, b_fc, None);
        }
        product(
            &mut hidden,
            h,
            Mat::new(&normed, rs, w, w),
            Mat::new(w_fc, h, w, w).t(),
            !in_place,
            Threads::Pool,
        );
        drop(normed);
        let mut active = Buffer::default();
        let activated = if in_place {
            rows::quick_gelu_in_place(&mut hidden, b_fc);
            &hidden
        } else {
            active = scratch::take(rs * h);
            self.shape.activation.forward(&hidden, &mut active);
            &active
        };
        let mut out = vec![0f32; rs * w];
        rows::fill_rows(&mut out, b_proj, Some(&middle));
        product(
            &mut out,
            w,
            Mat::new(activated, rs, h, h),
            Mat::new(w_proj, w, h, h).t(),
            true,
            Threads::Pool,
        );
        drop(active);
        if self.keep {
            let saved = Saved {
                q,
                kv,
                attended,
                logsum,
                middle,
                hidden,
            };
            *self
                .saved
                .lock()
                .expect("no thread panics while it holds this") = Some(saved);
        }
        out
    }

    /// Gradients of the rows and, when training, of the flat weights.
    fn backward(&self, x: &[f32], theta: &[f32], grad: &[f32]) -> (Vec<f32>, Option<Vec<f32>>) {
        let (w, h) = (self.shape.width, self.shape.hidden);
        let epsilon = self.shape.norms.epsilon();
        let (r, rs) = (x.len() / w, grad.len() / w);
        let [g1, b1, w_in, _, w_out, _, g2, b2, w_fc, _, w_proj, _] = self.shape.split(theta);
        let guard = self
            .saved
            .lock()
            .expect("no thread panics while it holds this");
        let s = guard
            .as_ref()
            .expect("backward runs after forward, which kept this because the graph is tracked");
        let mut weights = self.train.then(|| WeightGradients::new(&self.shape));

        let mut d_hidden = scratch::take(rs * h);
        product(
            &mut d_hidden,
            h,
            Mat::new(grad, rs, w, w),
            Mat::new(w_proj, w, h, h),
            false,
            Threads::Pool,
        );
        if let Some(weights) = &mut weights {
            let mut active = vec![0f32; rs * h];
            self.shape.activation.forward(&s.hidden, &mut active);
            weights.linear(10, grad, w, &active, h);
        }
        self.shape.activation.backward(&s.hidden, &mut d_hidden);
        let mut d_normed = scratch::take(rs * w);
        product(
            &mut d_normed,
            w,
            Mat::new(&d_hidden, rs, h, h),
            Mat::new(w_fc, h, w, w),
            false,
            Threads::Pool,
        );
        if let Some(weights) = &mut weights {
            let mut normed = vec![0f32; rs * w];
            rows::norm_forward(&s.middle, g2, b2, epsilon, &mut normed);
            weights.linear(8, &d_hidden, h, &normed, w);
            weights.norm(6, &s.middle, &d_normed);
        }
        let mut d_middle = grad.to_vec();
        rows::norm_backward(&s.middle, g2, &d_normed, epsilon, &mut d_middle);

        let mut d_attended = d_normed; // same size, written anew
        product(
            &mut d_attended,
            w,
            Mat::new(&d_middle, rs, w, w),
            Mat::new(w_out, w, w, w),
            false,
            Threads::Pool,
        );
        drop(d_hidden);
        let mut dq = scratch::zeros(rs * w);
        let mut dkv = scratch::zeros(r * 2 * w);
        let saved = attention::Saved {
            q: &s.q,
            kv: &s.kv,
            out: &s.attended,
            logsum: &s.logsum,
        };
        attention::backward(
            &self.plan,
            self.shape.heads(),
            &saved,
            &d_attended,
            &mut dq,
            &mut dkv,
        );

        let mut d_first = scratch::take(r * w);
        product(
            &mut d_first,
            w,
            Mat::new(&dkv, r, 2 * w, 2 * w),
            Mat::new(&w_in[w * w..], 2 * w, w, w),
            false,
            Threads::Pool,
        );
        let query_weights = Mat::new(w_in, w, w, w);
        let mut dx = match &self.selected {
            None => {
                product(
                    &mut d_first,
                    w,
                    Mat::new(&dq, rs, w, w),
                    query_weights,
                    true,
                    Threads::Pool,
                );
                if weights.is_some() {
                    d_middle.clone()
                } else {
                    std::mem::take(&mut d_middle)
                }
            }
            Some(selected) => {
                let mut from_queries = scratch::take(rs * w);
                product(
                    &mut from_queries,
                    w,
                    Mat::new(&dq, rs, w, w),
                    query_weights,
                    false,
                    Threads::Pool,
                );
                let mut dx = vec![0f32; r * w];
                for (i, &row) in selected.iter().enumerate() {
                    for j in 0..w {
                        d_first[row * w + j] += from_queries[i * w + j];
                        dx[row * w + j] = d_middle[i * w + j];
                    }
                }
                dx
            }
        };
        if let Some(weights) = &mut weights {
            weights.linear(4, &d_middle, w, &s.attended, w);
            let mut normed = vec![0f32; r * w];
            rows::norm_forward(x, g1, b1, epsilon, &mut normed);
            let asking = self
                .selected
                .as_ref()
                .map_or_else(|| normed.clone(), |s| gather(&normed, s, w));
            weights.attention_inputs(&dq, &asking, &dkv, &normed);
            weights.norm(0, x, &d_first);
        }
        rows::norm_backward(x, g1, &d_first, epsilon, &mut dx);
        (dx, weights.map(|w| w.flat))
    }
}

struct WeightGradients {
    flat: Vec<f32>,
    starts: Vec<usize>,
    width: usize,
    epsilon: f32,
}

impl WeightGradients {
    fn new(shape: &BlockShape) -> Self {
        let mut starts = vec![0];
        for part in shape.parts() {
            starts.push(starts[starts.len() - 1] + part.iter().product::<usize>());
        }
        Self {
            flat: vec![0.0; shape.len()],
            starts,
            width: shape.width,
            epsilon: shape.norms.epsilon(),
        }
    }

    /// Part `index` is a weight `[out, inner]`, the part after it its bias.
    fn linear(&mut self, index: usize, grad: &[f32], out: usize, input: &[f32], inner: usize) {
        let n = grad.len() / out;
        let (weight, bias) =
            self.flat[self.starts[index]..self.starts[index + 2]].split_at_mut(out * inner);
        product(
            weight,
            inner,
            Mat::new(grad, n, out, out).t(),
            Mat::new(input, n, inner, inner),
            false,
            Threads::Pool,
        );
        rows::column_sums(grad, bias);
    }

    fn attention_inputs(&mut self, dq: &[f32], asking: &[f32], dkv: &[f32], normed: &[f32]) {
        let w = self.width;
        let (weight, bias) = self.flat[self.starts[2]..self.starts[4]].split_at_mut(3 * w * w);
        let (wq, wkv) = weight.split_at_mut(w * w);
        let (rs, r) = (dq.len() / w, normed.len() / w);
        product(
            wq,
            w,
            Mat::new(dq, rs, w, w).t(),
            Mat::new(asking, rs, w, w),
            false,
            Threads::Pool,
        );
        product(
            wkv,
            w,
            Mat::new(dkv, r, 2 * w, 2 * w).t(),
            Mat::new(normed, r, w, w),
            false,
            Threads::Pool,
        );
        rows::column_sums(dq, &mut bias[..w]);
        rows::column_sums(dkv, &mut bias[w..]);
    }

    fn norm(&mut self, index: usize, x: &[f32], grad: &[f32]) {
        let (gain, bias) =
            self.flat[self.starts[index]..self.starts[index + 2]].split_at_mut(self.width);
        rows::norm_weights_backward(x, grad, self.epsilon, gain, bias);
    }
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        "transformer-block"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Strides,
        s2: &CpuStorage,
        l2: &Strides,
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(s1, l1)?;
        let out = widened(s2, l2, |theta| Ok(on_pool(|| self.forward(x, theta))))?;
        let shape = Shape::from((out.len() / self.shape.width, self.shape.width));
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        theta: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dtheta) = with_values(x, |x| {
            with_values(theta, |theta| {
                with_values(grad, |grad| Ok(on_pool(|| self.backward(x, theta, grad))))
            })
        })?;
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        let dtheta = dtheta
            .map(|d| Tensor::from_vec(d, theta.shape(), theta.device()))
            .transpose()?;
        Ok((Some(dx), dtheta))
    }
}

#[cfg(test)]
pub(super) mod tests;
