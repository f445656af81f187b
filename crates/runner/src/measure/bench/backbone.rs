//! CLIPs of the released sizes with drawn weights, so that a benchmark needs no download.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{Device, Tensor};
use clip::Clip;
use clip::weights::{Architecture, ImageTower, Transformer};
use rayon::prelude::*;

use crate::run::sizes;

/// Sizes that can be timed, as on the command line: those of [`sizes`] with a transformer as image tower.
const NAMES: [&str; 3] = ["vit-b32", "vit-b16", "vit-l14"];
const POSITIONS: usize = 77;
const VOCABULARY: usize = 49_408;

/// Names of the sizes there are.
pub fn names() -> Vec<&'static str> {
    NAMES.to_vec()
}

/// A CLIP of the sizes called `name`, its weights drawn; `None` for a name that is not one of [`names`].
///
/// # Errors
/// None that a caller can cause.
pub fn drawn(name: &str) -> Option<Result<Clip>> {
    let known = NAMES.contains(&name).then(|| format!("clip-{name}"))?;
    sizes::released(&known).map(|a| build(&a))
}

/// A CLIP of these sizes, its weights drawn.
///
/// # Errors
/// None that a caller can cause.
pub fn build(a: &Architecture) -> Result<Clip> {
    let mut draw = Draw::default();
    match &a.image {
        ImageTower::Transformer {
            blocks,
            patch,
            image,
        }
        | ImageTower::Pooled {
            blocks,
            patch,
            image,
        } => {
            let w = blocks.width;
            let tokens = 1 + (image / patch).pow(2);
            draw.values("visual.conv1.weight", &[w, 3, *patch, *patch], 0.02)?;
            draw.values("visual.class_embedding", &[w], 0.02)?;
            draw.values("visual.positional_embedding", &[tokens, w], 0.02)?;
            draw.norm("visual.ln_pre", w)?;
            draw.blocks("visual.transformer", blocks)?;
            draw.norm("visual.ln_post", w)?;
            draw.values("visual.proj", &[w, a.embedding], 0.02)?;
        }
        ImageTower::ResNet {
            width,
            layers,
            image,
            ..
        } => draw.resnet(*width, layers, *image, a.embedding)?,
    }
    let t = a.text.width;
    draw.values("token_embedding.weight", &[VOCABULARY, t], 0.02)?;
    draw.values("positional_embedding", &[POSITIONS, t], 0.01)?;
    draw.blocks("transformer", &a.text)?;
    draw.norm("ln_final", t)?;
    draw.values("text_projection", &[t, a.embedding], 0.02)?;
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

    fn blocks(&mut self, base: &str, sizes: &Transformer) -> Result<()> {
        let (width, hidden) = (sizes.width, sizes.hidden);
        for i in 0..sizes.layers {
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
                ("mlp.c_fc", hidden, width),
                ("mlp.c_proj", width, hidden),
            ] {
                let (weight, bias) = both(part);
                self.linear(&weight, &bias, out, from)?;
            }
        }
        Ok(())
    }

    /// A convolution and the normalisation after it.
    fn convolution(&mut self, kernel: &str, norm: &str, shape: [usize; 3]) -> Result<()> {
        let [out, from, side] = shape;
        let deviation = ((from * side * side) as f32).powf(-0.5);
        self.values(
            &format!("visual.{kernel}.weight"),
            &[out, from, side, side],
            deviation,
        )?;
        self.norm(&format!("visual.{norm}"), out)?;
        self.values(&format!("visual.{norm}.running_mean"), &[out], 0.0)?;
        let ones = Tensor::from_vec(vec![1f32; out], out, &Device::Cpu)?;
        self.tensors
            .insert(format!("visual.{norm}.running_var"), ones);
        Ok(())
    }

    fn resnet(
        &mut self,
        width: usize,
        layers: &[usize; 4],
        image: usize,
        embedding: usize,
    ) -> Result<()> {
        self.convolution("conv1", "bn1", [width / 2, 3, 3])?;
        self.convolution("conv2", "bn2", [width / 2, width / 2, 3])?;
        self.convolution("conv3", "bn3", [width, width / 2, 3])?;
        let mut from = width;
        for (stage, count) in layers.iter().enumerate() {
            let planes = width << stage;
            for i in 0..*count {
                let base = format!("layer{}.{i}", stage + 1);
                for (n, shape) in [
                    [planes, from, 1],
                    [planes, planes, 3],
                    [4 * planes, planes, 1],
                ]
                .into_iter()
                .enumerate()
                {
                    let n = n + 1;
                    self.convolution(&format!("{base}.conv{n}"), &format!("{base}.bn{n}"), shape)?;
                }
                if i == 0 {
                    let (kernel, norm) = (
                        format!("{base}.downsample.0"),
                        format!("{base}.downsample.1"),
                    );
                    self.convolution(&kernel, &norm, [4 * planes, from, 1])?;
                }
                from = 4 * planes;
            }
        }
        let places = (image / 32).pow(2) + 1;
        self.values(
            "visual.attnpool.positional_embedding",
            &[places, from],
            0.02,
        )?;
        for (name, out) in [
            ("q_proj", from),
            ("k_proj", from),
            ("v_proj", from),
            ("c_proj", embedding),
        ] {
            let base = format!("visual.attnpool.{name}");
            self.linear(
                &format!("{base}.weight"),
                &format!("{base}.bias"),
                out,
                from,
            )?;
        }
        Ok(())
    }
}
