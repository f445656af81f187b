//! CLIPs of the released sizes with drawn weights, so that a benchmark needs no download.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{Device, Tensor};
use clip::Clip;
use rayon::prelude::*;

/// Sizes of a released CLIP with a transformer as image tower.
struct Sizes {
    name: &'static str,
    embedding: usize,
    vision_width: usize,
    vision_layers: usize,
    patch: usize,
    text_width: usize,
}

/// All of them have 224 pixels a side and 12 text blocks (arXiv 2103.00020, table 20).
const SIZES: [Sizes; 3] = [
    Sizes {
        name: "vit-b32",
        embedding: 512,
        vision_width: 768,
        vision_layers: 12,
        patch: 32,
        text_width: 512,
    },
    Sizes {
        name: "vit-b16",
        embedding: 512,
        vision_width: 768,
        vision_layers: 12,
        patch: 16,
        text_width: 512,
    },
    Sizes {
        name: "vit-l14",
        embedding: 768,
        vision_width: 1024,
        vision_layers: 24,
        patch: 14,
        text_width: 768,
    },
];
const PIXELS: usize = 224;
const TEXT_LAYERS: usize = 12;
const POSITIONS: usize = 77;
const VOCABULARY: usize = 49_408;

/// Names of the sizes there are.
pub fn names() -> Vec<&'static str> {
    SIZES.iter().map(|s| s.name).collect()
}

/// A CLIP of the sizes called `name`, its weights drawn; `None` for a name that is not one of [`names`].
///
/// # Errors
/// None that a caller can cause.
pub fn drawn(name: &str) -> Option<Result<Clip>> {
    let sizes = SIZES.iter().find(|s| s.name == name)?;
    Some(build(sizes))
}

fn build(s: &Sizes) -> Result<Clip> {
    let mut draw = Draw::default();
    let (w, t) = (s.vision_width, s.text_width);
    let tokens = 1 + (PIXELS / s.patch).pow(2);
    draw.values("visual.conv1.weight", &[w, 3, s.patch, s.patch], 0.02)?;
    draw.values("visual.class_embedding", &[w], 0.02)?;
    draw.values("visual.positional_embedding", &[tokens, w], 0.02)?;
    draw.norm("visual.ln_pre", w)?;
    draw.blocks("visual.transformer", w, s.vision_layers)?;
    draw.norm("visual.ln_post", w)?;
    draw.values("visual.proj", &[w, s.embedding], 0.02)?;
    draw.values("token_embedding.weight", &[VOCABULARY, t], 0.02)?;
    draw.values("positional_embedding", &[POSITIONS, t], 0.01)?;
    draw.blocks("transformer", t, TEXT_LAYERS)?;
    draw.norm("ln_final", t)?;
    draw.values("text_projection", &[t, s.embedding], 0.02)?;
    let scale = Tensor::new(100f32.ln(), &Device::Cpu)?;
    draw.tensors.insert("logit_scale".to_owned(), scale);
    Ok(Clip::frozen(
        &draw.tensors,
        clip::ops::Activation::QuickGelu,
    )?)
}

#[derive(Default)]
struct Draw {
    tensors: BTreeMap<String, Tensor>,
}

impl Draw {
    /// Uniform values of the deviation; only their size matters here.
    fn values(&mut self, name: &str, shape: &[usize], deviation: f32) -> Result<()> {
        let mut values = vec![0f32; shape.iter().product()];
        let (reach, salt) = (deviation * 3f32.sqrt(), self.tensors.len() as u64);
        values
            .par_chunks_mut(1 << 14)
            .enumerate()
            .for_each(|(chunk, out)| {
                let mut state =
                    ((salt << 32) | chunk as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                for v in out {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let unit = (state >> 40) as f32 / (1u32 << 24) as f32;
                    *v = reach * (2.0 * unit - 1.0);
                }
            });
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
        self.tensors.insert(name.to_owned(), tensor);
        Ok(())
    }

    fn norm(&mut self, base: &str, width: usize) -> Result<()> {
        let ones = Tensor::from_vec(vec![1f32; width], width, &Device::Cpu)?;
        self.tensors.insert(format!("{base}.weight"), ones);
        self.values(&format!("{base}.bias"), &[width], 0.0)
    }

    fn linear(&mut self, weight: &str, bias: &str, out: usize, from: usize) -> Result<()> {
        self.values(weight, &[out, from], (from as f32).powf(-0.5))?;
        self.values(bias, &[out], 0.0)
    }

    fn blocks(&mut self, base: &str, width: usize, layers: usize) -> Result<()> {
        for i in 0..layers {
            let block = format!("{base}.resblocks.{i}");
            if i > 0 {
                // The same values again: each block of the towers holds its own copy, as for weights from a file, but
                // the drawn ones need not be in memory twice.
                let first = format!("{base}.resblocks.0.");
                let again = self
                    .tensors
                    .range(first.clone()..)
                    .map_while(|(name, tensor)| {
                        let part = name.strip_prefix(&first)?;
                        Some((format!("{block}.{part}"), tensor.clone()))
                    });
                let again: Vec<_> = again.collect();
                self.tensors.extend(again);
                continue;
            }
            let both = |part: &str| {
                (
                    format!("{block}.{part}.weight"),
                    format!("{block}.{part}.bias"),
                )
            };
            self.norm(&format!("{block}.ln_1"), width)?;
            self.norm(&format!("{block}.ln_2"), width)?;
            let fused = (
                format!("{block}.attn.in_proj_weight"),
                format!("{block}.attn.in_proj_bias"),
            );
            self.linear(&fused.0, &fused.1, 3 * width, width)?;
            for (part, out, from) in [
                ("attn.out_proj", width, width),
                ("mlp.c_fc", 4 * width, width),
                ("mlp.c_proj", width, 4 * width),
            ] {
                let (weight, bias) = both(part);
                self.linear(&weight, &bias, out, from)?;
            }
        }
        Ok(())
    }
}
