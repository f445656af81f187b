//! The towers of a CLIP from their tensors, and back.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor};

use super::source::Source;
use super::{Clip, ImageTower};
use crate::image::VisionTransformer;
use crate::ops::block::PARTS;
use crate::ops::{Activation, Block, Norms};
use crate::pooled::PooledTransformer;
use crate::resnet::ModifiedResNet;
use crate::text::{Family, Head, TextTower};

/// The text tower, of OpenAI's names and those that [`crate::weights`] gives to what OpenAI's has not.
pub(super) fn text(
    source: &mut Source,
    token_rows: Option<&[u32]>,
    heads: Option<usize>,
    activation: Activation,
) -> Result<TextTower> {
    let family = source.origin.family();
    let norms = match family {
        Family::Clip => Norms::Clip,
        Family::Bert(_) => Norms::Bert,
        Family::Siglip => Norms::Vit,
    };
    let positional_embedding = source.get("positional_embedding")?;
    let width = positional_embedding.dim(1)?;
    let rows = |ids: &[u32]| ids.iter().zip(0..).map(|(id, row)| (*id, row)).collect();
    Ok(TextTower {
        family,
        wording: source.origin.wording(),
        token_embedding: source.get("token_embedding.weight")?,
        token_rows: token_rows.map(rows),
        positional_embedding,
        type_embedding: source.maybe("type_embedding")?,
        norm_before: source.maybe_norm("ln_embedding")?,
        blocks: source.blocks("transformer.resblocks", width, heads, (activation, norms))?,
        norm: source.maybe_norm("ln_final")?,
        head: head(source)?,
        memory: None,
        card: None,
    })
}

fn head(source: &mut Source) -> Result<Head> {
    if let Some(matrix) = source.maybe("text_projection")? {
        return Ok(Head::Linear(matrix, source.maybe("text_projection.bias")?));
    }
    Ok(match source.maybe("text_projection.0")? {
        Some(first) => Head::Mlp([first, source.get("text_projection.2")?]),
        None => Head::None,
    })
}

/// The image tower.
pub(super) fn image(
    source: &mut Source,
    heads: Option<usize>,
    activation: Activation,
) -> Result<ImageTower> {
    let origin = source.origin;
    if origin.shape("visual.layer1.0.conv1.weight").is_some() {
        let has = |name: &str| origin.shape(name).is_some();
        let resnet = ModifiedResNet::read(&has, &|name| origin.get(name))?;
        return Ok(ImageTower::ResNet(resnet));
    }
    let conv = origin.get("visual.conv1.weight")?;
    let (width, channels, patch_size, _) = conv.dims4()?;
    let flat = conv.reshape((width, channels * patch_size * patch_size))?;
    let patch_embedding = source.own("visual.conv1.weight", flat)?;
    let patch_bias = source.maybe("visual.conv1.bias")?;
    // Only timm's and SigLIP's patches have a bias.
    let norms = match &patch_bias {
        Some(_) => Norms::Vit,
        None => Norms::Clip,
    };
    let class_embedding = source.maybe("visual.class_embedding")?;
    let positional_embedding = source.get("visual.positional_embedding")?;
    let norm_before = source.maybe_norm("visual.ln_pre")?;
    let base = "visual.transformer.resblocks";
    let blocks = source.blocks(base, width, heads, (activation, norms))?;
    let norm_after = source.norm("visual.ln_post")?;
    let Some(class_embedding) = class_embedding else {
        return Ok(ImageTower::Pooled(PooledTransformer {
            patch_size,
            patch_embedding,
            patch_bias,
            positional_embedding,
            blocks,
            norm_after,
            probe: source.get("visual.attn_pool.probe")?,
            weight_in: source.get("visual.attn_pool.in_proj_weight")?,
            bias_in: source.get("visual.attn_pool.in_proj_bias")?,
            out: linear(source, "out_proj")?,
            norm: source.norm("visual.attn_pool.norm")?,
            expand: linear(source, "mlp.c_fc")?,
            contract: linear(source, "mlp.c_proj")?,
        }));
    };
    Ok(ImageTower::Transformer(VisionTransformer {
        patch_size,
        patch_embedding,
        patch_bias,
        class_embedding,
        positional_embedding,
        norm_before,
        blocks,
        norm_after,
        projection: source.get("visual.proj")?,
        is_bfloat16: false,
        card: None,
    }))
}

/// A layer of the pool.
fn linear(source: &mut Source, name: &str) -> Result<(Tensor, Tensor)> {
    source.norm(&format!("visual.attn_pool.{name}"))
}

/// The tensors that stand beside the blocks, by name.
fn beside(clip: &Clip) -> Result<Vec<(&'static str, Tensor)>> {
    let text = &clip.text;
    let mut all = vec![
        ("positional_embedding", text.positional_embedding.clone()),
        ("token_embedding.weight", text.token_embedding.clone()),
        ("logit_scale", clip.logit_scale.clone()),
    ];
    let mut norm = |names: [&'static str; 2], norm: &Option<(Tensor, Tensor)>| {
        if let Some((gain, bias)) = norm {
            all.push((names[0], gain.clone()));
            all.push((names[1], bias.clone()));
        }
    };
    norm(["ln_final.weight", "ln_final.bias"], &text.norm);
    let names = ["ln_embedding.weight", "ln_embedding.bias"];
    norm(names, &text.norm_before);
    if let ImageTower::Transformer(v) = &clip.image {
        let names = ["visual.ln_pre.weight", "visual.ln_pre.bias"];
        norm(names, &v.norm_before);
        let names = ["visual.ln_post.weight", "visual.ln_post.bias"];
        norm(names, &Some(v.norm_after.clone()));
        let p = v.patch_size;
        let conv = v.patch_embedding.reshape((v.width(), 3, p, p))?;
        all.push(("visual.conv1.weight", conv));
        let bias = v.patch_bias.iter().cloned();
        all.extend(bias.map(|t| ("visual.conv1.bias", t)));
        all.push(("visual.class_embedding", v.class_embedding.clone()));
        let positions = v.positional_embedding.clone();
        all.push(("visual.positional_embedding", positions));
        all.push(("visual.proj", v.projection.clone()));
    }
    let types = text.type_embedding.iter().cloned();
    all.extend(types.map(|t| ("type_embedding", t)));
    match &text.head {
        Head::None => {}
        Head::Linear(matrix, bias) => {
            all.push(("text_projection", matrix.clone()));
            let bias = bias.iter().cloned();
            all.extend(bias.map(|b| ("text_projection.bias", b)));
        }
        Head::Mlp([first, second]) => {
            all.push(("text_projection.0", first.clone()));
            all.push(("text_projection.2", second.clone()));
        }
    }
    Ok(all)
}

/// The blocks of both towers, by name.
fn blocks(clip: &Clip) -> Vec<(String, &Block)> {
    let image: &[Block] = match &clip.image {
        ImageTower::Transformer(v) => &v.blocks,
        ImageTower::ResNet(_) | ImageTower::Pooled(_) => &[],
    };
    let towers = [
        ("transformer", &clip.text.blocks[..]),
        ("visual.transformer", image),
    ];
    let named = towers.into_iter().flat_map(|(base, blocks)| {
        let name = move |i: usize| format!("{base}.resblocks.{i}");
        blocks.iter().enumerate().map(move |(i, b)| (name(i), b))
    });
    named.collect()
}

/// [`Clip::parameters`].
pub(super) fn parameters(clip: &Clip) -> usize {
    let beside = beside(clip).unwrap_or_default();
    let beside: usize = beside.iter().map(|(_, t)| t.elem_count()).sum();
    let inside: usize = blocks(clip).iter().map(|(_, b)| b.shape.len()).sum();
    beside + inside
}

/// [`Clip::tensors`].
pub(super) fn tensors(clip: &Clip) -> Result<BTreeMap<String, Tensor>> {
    let named = beside(clip)?.into_iter();
    let mut out: BTreeMap<String, Tensor> = named
        .map(|(name, t)| (name.to_owned(), t.detach()))
        .collect();
    for (base, block) in blocks(clip) {
        let mut at = 0;
        for (part, shape) in PARTS.iter().zip(block.shape.parts()) {
            let n = shape.iter().product::<usize>();
            let part_of = block.theta.detach().narrow(0, at, n)?;
            let part_of = part_of.to_dtype(DType::F32)?.reshape(shape)?;
            out.insert(format!("{base}.{part}"), part_of);
            at += n;
        }
    }
    Ok(out)
}
