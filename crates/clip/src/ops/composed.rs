//! The fused operations written with candle's own: for devices other than the CPU, and to test the fused ones against.

use candle_core::{D, Device, Result, Tensor};

use super::block::{Activation, Block};
use super::layout::Layout;
use super::rows::NORM_EPSILON;
use crate::changes::{BlockChange, Projection};

/// LayerNorm over the last dimension.
///
/// # Errors
/// When shapes do not fit.
pub fn layer_norm(x: &Tensor, gain: &Tensor, bias: &Tensor) -> Result<Tensor> {
    layer_norm_by(x, gain, bias, NORM_EPSILON)
}

/// [`super::layer_norm_by`].
///
/// # Errors
/// When shapes do not fit.
pub fn layer_norm_by(x: &Tensor, gain: &Tensor, bias: &Tensor, epsilon: f32) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let scaled = centred.broadcast_div(&(variance + f64::from(epsilon))?.sqrt()?)?;
    scaled.broadcast_mul(gain)?.broadcast_add(bias)
}

/// Softmax over the last dimension; the maximum is detached, for it cancels out.
///
/// # Errors
/// Those of candle.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = x
        .broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?
        .exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// `log(softmax(x))` over the last dimension.
///
/// # Errors
/// Those of candle.
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let x = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    x.broadcast_sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// [`super::unit`].
///
/// # Errors
/// Those of candle.
pub fn unit(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}

/// [`super::scaled_cosine`].
///
/// # Errors
/// Those of candle.
pub fn scaled_cosine(images: &Tensor, texts: &Tensor, scale: f64) -> Result<Tensor> {
    (images * scale)?.matmul(&texts.t()?)
}

/// [`super::cross_entropy`].
///
/// # Errors
/// Those of candle.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    log_softmax(logits)?
        .gather(&labels.unsqueeze(1)?, 1)?
        .mean_all()?
        .neg()
}

/// Which key rows a query row sees: 0, or `-inf` where it does not.
fn mask(layout: &Layout, device: &Device) -> Result<Tensor> {
    let n = layout.rows();
    let mut allowed = vec![f32::NEG_INFINITY; n * n];
    let mut open = |query: usize, key: usize| allowed[query * n + key] = 0.0;
    for (index, node) in layout.nodes().iter().enumerate() {
        let path = layout.path(index);
        for i in 0..node.length {
            let seen = if layout.is_causal() {
                node.position + i + 1
            } else {
                path.len()
            };
            path[..seen]
                .iter()
                .for_each(|&key| open(node.start + i, key));
        }
    }
    Tensor::from_vec(allowed, (n, n), device)
}

/// [`Block::forward_with`] with composed operations, but for a branch beside the block. Attention is dense over all rows
/// where sequences share a prefix.
///
/// # Errors
/// Those of candle.
pub fn block(
    block: &Block,
    x: &Tensor,
    layout: &Layout,
    select: Option<&[usize]>,
    change: &BlockChange,
) -> Result<Tensor> {
    let (r, w) = x.dims2()?;
    let parts = block.parts()?.into_iter().map(|p| p.to_dtype(x.dtype()));
    let parts = parts.collect::<Result<Vec<_>>>()?;
    let [
        _,
        _,
        w_in,
        b_in,
        w_out,
        b_out,
        _,
        _,
        w_fc,
        b_fc,
        w_proj,
        b_proj,
    ] = &parts[..]
    else {
        unreachable!("a block has twelve parts")
    };
    let [norm_1, norm_2] = block.norms_with(change)?;
    let linear =
        |x: &Tensor, weight: &Tensor, bias: &Tensor| x.matmul(&weight.t()?)?.broadcast_add(bias);
    let low_rank = |of: Projection, x: &Tensor| {
        let ranks = change.low_rank.iter().filter(|l| l.of == of);
        ranks
            .map(|l| l.of_rows(x, None))
            .try_fold(Tensor::zeros((r, w), x.dtype(), x.device())?, |sum, own| {
                sum + own?
            })
    };
    let (heads, d) = (block.shape.heads, w / block.shape.heads);
    let norms = block.shape.norms;
    let normed = norms.inside(x, &norm_1, layer_norm_by)?;
    let added =
        [Projection::Query, Projection::Key, Projection::Value].map(|p| low_rank(p, &normed));
    let [q, k, v] = added;
    let qkv = (linear(&normed, w_in, b_in)? + Tensor::cat(&[q?, k?, v?], 1)?)?;
    let nodes = layout.nodes();
    let uniform = !layout.is_causal() && nodes.windows(2).all(|n| n[0].length == n[1].length);
    let (count, length) = if uniform {
        (layout.sequences(), r / layout.sequences())
    } else {
        (1, r)
    };
    let split = |i: usize| -> Result<Tensor> {
        qkv.narrow(1, i * w, w)?
            .reshape((count, length, heads, d))?
            .transpose(1, 2)?
            .contiguous()
    };
    let (q, k, v) = (split(0)?, split(1)?, split(2)?);
    let scores = (q.matmul(&k.t()?.contiguous()?)? / (d as f64).sqrt())?;
    let scores = if uniform {
        scores
    } else {
        scores.broadcast_add(&mask(layout, x.device())?)?
    };
    let attended = softmax(&scores)?
        .matmul(&v)?
        .transpose(1, 2)?
        .reshape((r, w))?;
    let out = (linear(&attended, w_out, b_out)? + low_rank(Projection::Out, &attended)?)?;
    let mut x = (x + out)?;
    if let Some(positions) = select {
        let rows = layout.chosen(positions);
        let rows: Vec<u32> = rows.iter().map(|&r| r as u32).collect();
        x = x.index_select(&Tensor::new(rows, x.device())?, 0)?;
    }
    let x = norms.behind(x, &norm_1, layer_norm_by)?;
    let h = linear(&norms.inside(&x, &norm_2, layer_norm_by)?, w_fc, b_fc)?;
    let h = match block.shape.activation {
        // h · σ(1.702 h), by σ(z) = (1 + tanh(z / 2)) / 2, of which nothing overflows, gradients included.
        Activation::QuickGelu => (&h * (((&h * 0.851)?.tanh()? + 1.0)? * 0.5)?)?,
        Activation::Gelu => h.gelu_erf()?,
        Activation::GeluTanh => h.gelu()?,
    };
    norms.behind((x + linear(&h, w_proj, b_proj)?)?, &norm_2, layer_norm_by)
}
