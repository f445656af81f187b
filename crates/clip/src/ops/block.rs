//! A whole transformer block as one differentiable operation; BERT's, whose norms stand behind, in parts.
//!
//! `y = x + attention(norm_1(x)); out = y + mlp(norm_2(y))`, the block of CLIP's towers (arXiv 2103.00020, and the
//! released model code). Frozen weights get no gradient and cost no backward product; trainable ones (pre-training)
//! do. `R` packed rows, `W` width, `H` hidden width of the MLP.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp2, Layout as Strides, Result, Shape, Tensor, bail};
use pulp::Arch;

use super::attention::{self, Heads, Plan};
use super::gemm::Mat;
use super::layout::Layout;
use super::products::{Arithmetic, Left, Place, Products, Right, Start};
use super::scratch::{self, Buffer};
use super::{Kept, composed, on_pool, parts, rows, values, with_kept, with_values};
use crate::changes::BlockChange;

mod backward;

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

    /// Where [`PARTS`] lie in the flat weights.
    pub(crate) fn ranges(&self) -> [Range<usize>; 12] {
        let mut at = 0;
        self.parts().map(|p| {
            let n = p.iter().product::<usize>();
            at += n;
            at - n..at
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
    /// bfloat16; they are widened where they are multiplied.
    pub theta: Tensor,
    products: Products,
    laid: Arc<Places>,
}

/// Where a block's five matrices are kept as products take them, forward and backward.
type Places = [[Place; 2]; 5];

/// Blocks of so few numbers keep their frozen matrices laid out for both directions, for three times their memory. Those of
/// published CLIPs are several times as large.
const SMALL: usize = 1 << 20;

impl Block {
    /// In the portable arithmetic.
    pub fn new(shape: BlockShape, theta: Tensor) -> Self {
        Self {
            shape,
            theta,
            products: Products::default(),
            laid: Arc::default(),
        }
    }

    /// With other weights of the same shape.
    pub(crate) fn with(&self, theta: Tensor) -> Self {
        Self {
            theta,
            laid: Arc::default(),
            ..self.clone()
        }
    }

    /// Multiplies by `arithmetic` from now on, in float32's grade; see [`Block::products`].
    pub fn use_arithmetic(&mut self, arithmetic: Arithmetic) {
        self.products = Products::exact(arithmetic);
    }

    /// Multiplies so from now on.
    pub(crate) fn use_products(&mut self, products: Products) {
        self.products = products;
    }

    /// The same block with the inputs of its products rounded to bfloat16, in the same arithmetic.
    pub fn rounded(&self) -> Self {
        Self {
            products: self.products.rounded(),
            ..self.clone()
        }
    }

    /// What its rows are multiplied with weights by: trained weights by multiply-adds of float32 whatever was asked for.
    pub(crate) fn products(&self) -> Products {
        if self.theta.track_op() {
            Products::Float32
        } else {
            self.products
        }
    }

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
            by: self.products(),
            plan,
            selected,
            keep: x.track_op() || self.theta.track_op(),
            train: self.theta.track_op(),
            // What is trained changes.
            laid: (!self.theta.track_op() && self.shape.len() <= SMALL)
                .then(|| Arc::clone(&self.laid)),
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
    by: Products,
    plan: Plan,
    /// Packed rows that go on, when not all do.
    selected: Option<Vec<usize>>,
    keep: bool,
    train: bool,
    laid: Option<Arc<Places>>,
    saved: Mutex<Option<Saved>>,
}

/// Gain and bias of a norm.
struct Norm<'a> {
    gain: Cow<'a, [f32]>,
    bias: Cow<'a, [f32]>,
}

/// A matrix `[out, inner]` as it is kept.
struct Matrix<'a> {
    numbers: Mat<'a>,
    places: Option<&'a [Place; 2]>,
}

impl<'a> Matrix<'a> {
    /// What rows are multiplied with, `[inner, out]`.
    fn forward(&self) -> Right<'a> {
        Right::kept(self.numbers.t(), self.places.map(|[forward, _]| forward))
    }

    /// What gradients are multiplied with, `[out, inner]`.
    fn backward(&self) -> Right<'a> {
        Right::kept(self.numbers, self.places.map(|[_, backward]| backward))
    }
}

/// The parts of a block's flat weights: matrices as they are kept, the others in float32.
struct Weights<'a> {
    norm_1: Norm<'a>,
    query: Matrix<'a>,
    key_value: Matrix<'a>,
    bias_in: Cow<'a, [f32]>,
    out: Matrix<'a>,
    bias_out: Cow<'a, [f32]>,
    norm_2: Norm<'a>,
    expand: Matrix<'a>,
    bias_expand: Cow<'a, [f32]>,
    contract: Matrix<'a>,
    bias_contract: Cow<'a, [f32]>,
}

impl<'a> Weights<'a> {
    fn new(shape: &BlockShape, theta: Kept<'a>, laid: Option<&'a Places>) -> Self {
        let (w, h) = (shape.width, shape.hidden);
        let matrix = |i: usize, numbers: Kept<'a>, out: usize, inner: usize| Matrix {
            numbers: Mat::kept(numbers, out, inner),
            places: laid.map(|l| &l[i]),
        };
        let ranges = shape.ranges();
        let part = |i: usize| theta.slice(ranges[i].clone());
        let norm = |i: usize| Norm {
            gain: part(i).floats(),
            bias: part(i + 1).floats(),
        };
        Self {
            norm_1: norm(0),
            query: matrix(0, part(2).slice(0..w * w), w, w),
            key_value: matrix(1, part(2).slice(w * w..3 * w * w), 2 * w, w),
            bias_in: part(3).floats(),
            out: matrix(2, part(4), w, w),
            bias_out: part(5).floats(),
            norm_2: norm(6),
            expand: matrix(3, part(8), h, w),
            bias_expand: part(9).floats(),
            contract: matrix(4, part(10), w, h),
            bias_contract: part(11).floats(),
        }
    }
}

/// Row `i` of rows of `width`.
fn row(x: &[f32], i: usize, width: usize) -> &[f32] {
    &x[i * width..(i + 1) * width]
}

/// Rows of `x`, one after the other.
fn gather(x: &[f32], rows: &[usize], width: usize) -> Buffer {
    let mut out = scratch::take(rows.len() * width);
    for (out, &r) in out.chunks_exact_mut(width).zip(rows) {
        out.copy_from_slice(row(x, r, width));
    }
    out
}

impl Fused {
    /// Of rows `x`. Between two products a row is read once, and written as the next takes it.
    fn forward(&self, x: &[f32], theta: Kept) -> Vec<f32> {
        let (by, w, h) = (self.by, self.shape.width, self.shape.hidden);
        let (arch, epsilon) = (Arch::new(), self.shape.norms.epsilon());
        let weights = Weights::new(&self.shape, theta, self.laid.as_deref());
        let r = x.len() / w;
        let normed_row = |x: &[f32], norm: &Norm, out: &mut [f32]| {
            rows::norm_row(arch, x, (&norm.gain, &norm.bias), epsilon, out);
        };

        let first = |i: usize, out: &mut [f32]| normed_row(row(x, i, w), &weights.norm_1, out);
        let normed = Left::written(by, [r, w], w, first);
        let (bias_q, bias_kv) = weights.bias_in.split_at(w);
        let mut kv = scratch::take(r * 2 * w);
        normed.product(&mut kv, weights.key_value.forward(), Start::Bias(bias_kv));
        let (asking, gathered) = match &self.selected {
            None => (normed, None),
            Some(selected) => {
                drop(normed);
                let first = |i: usize, out: &mut [f32]| first(selected[i], out);
                let asking = Left::written(by, [selected.len(), w], w, first);
                (asking, Some(gather(x, selected, w)))
            }
        };
        let residual = gathered.as_deref().unwrap_or(x);
        let rs = residual.len() / w;
        let mut q = scratch::take(rs * w);
        asking.product(&mut q, weights.query.forward(), Start::Bias(bias_q));
        drop(asking);

        let mut attended = scratch::take(rs * w);
        let mut logsum = scratch::take(rs * self.shape.heads);
        let heads = self.shape.heads();
        attention::forward(
            by.arithmetic(),
            &self.plan,
            heads,
            &q,
            &kv,
            &mut attended,
            &mut logsum,
        );

        let mut middle = scratch::take(rs * w);
        let start = Start::Onto(&weights.bias_out, residual);
        let asked = Left::of(by, [rs, w], w, &attended);
        asked.product(&mut middle, weights.out.forward(), start);
        drop(asked);

        let second = |i: usize, out: &mut [f32]| {
            normed_row(row(&middle, i, w), &weights.norm_2, out);
        };
        let normed = Left::written(by, [rs, w], h, second);
        let mut hidden = scratch::take(rs * h);
        // Where nothing is kept, this bias has always come behind the sum: features kept on disk have the bits of that.
        let is_behind =
            by == Products::Float32 && !self.keep && self.shape.activation == Activation::QuickGelu;
        let bias = &weights.bias_expand;
        let start = if is_behind {
            Start::Zero
        } else {
            Start::Bias(bias)
        };
        normed.product(&mut hidden, weights.expand.forward(), start);
        drop(normed);
        let active = Left::written(by, [rs, h], w, |i, out| {
            let hidden = row(&hidden, i, h);
            if is_behind {
                rows::quick_gelu_of_sum(arch, hidden, bias, out);
            } else {
                self.shape.activation.row(arch, hidden, out);
            }
        });
        let mut out = vec![0f32; rs * w];
        let start = Start::Onto(&weights.bias_contract, &middle);
        active.product(&mut out, weights.contract.forward(), start);
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
        let theta = Kept::of(s2, l2)?;
        let out = on_pool(|| self.forward(x, theta));
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
            with_kept(theta, |theta| {
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
