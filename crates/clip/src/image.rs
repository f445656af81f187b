//! The ViT image tower, which takes prompts as data: extra tokens behind the patches, renewed at every layer.

use std::ops::Add;
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::ops::bfloat::{self, BfloatBlock};
use crate::ops::gemm::{Mat, Threads, product};
use crate::ops::{Block, Layout, Put, Work, layer_norm, put_rows, scratch, with_values};

/// Rows that a frozen tower takes through its blocks at once: enough for the products, few enough for the caches and
/// for memory. Changes no number, as pictures do not see each other.
const ROWS_AT_ONCE: usize = 1600;

/// What a method puts into the image tower. `n` prompt tokens, `W` width.
#[derive(Clone, Debug, Default)]
pub struct ImagePrompt {
    /// `[n, W]`, behind the patch tokens, after positions are added and before the first norm.
    pub tokens: Option<Tensor>,
    /// `deep[i]` `[n, W]` replaces them before block `i + 1`.
    pub deep: Vec<Tensor>,
}

impl crate::Clip {
    /// [`crate::Clip::identity`], and in what numbers pictures go through: what features can differ by.
    pub fn image_fingerprint(&self) -> String {
        let rounded = matches!(&self.image, crate::ImageTower::Transformer(t) if t.is_bfloat16());
        let mut identity = self.identity();
        if rounded && !identity.is_empty() {
            identity += "-bfloat16";
        }
        identity
    }
}

/// The tower. `R` pixels a side, `P` pixels a patch side, `G = R / P`, `W` width, `E` joint width.
#[derive(Clone, Debug)]
pub struct VisionTransformer {
    pub(crate) patch_size: usize,
    /// `[W, 3 P P]`.
    pub(crate) patch_embedding: Tensor,
    pub(crate) class_embedding: Tensor,
    pub(crate) positional_embedding: Tensor,
    pub(crate) norm_before: (Tensor, Tensor),
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm_after: (Tensor, Tensor),
    pub(crate) projection: Tensor,
    /// The blocks once more in bfloat16, for pictures without prompts; empty where all is float32.
    pub(crate) bfloat: Arc<Vec<BfloatBlock>>,
}

impl VisionTransformer {
    /// Makes pictures without prompts, and without a gradient, go through the blocks in bfloat16 from now on; see
    /// [`bfloat`]. With prompts, and where a gradient is asked for, everything stays float32.
    ///
    /// # Errors
    /// On a processor without the instructions; off the CPU.
    pub fn use_bfloat16(&mut self) -> Result<()> {
        if !bfloat::is_supported() {
            bail!(
                "bfloat16 needs a processor with AVX512-BF16, which this one has not; use float32"
            );
        }
        let blocks = self.blocks.iter().map(BfloatBlock::new);
        self.bfloat = Arc::new(blocks.collect::<Result<_>>()?);
        Ok(())
    }

    /// Whether pictures without prompts go through in bfloat16.
    pub fn is_bfloat16(&self) -> bool {
        !self.bfloat.is_empty()
    }

    /// `W`.
    pub fn width(&self) -> usize {
        self.blocks.first().map_or(0, |b| b.shape.width)
    }

    /// Number of blocks.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// `P`.
    pub fn patch_size(&self) -> usize {
        self.patch_size
    }

    /// `G`.
    pub fn grid(&self) -> usize {
        let tokens = self.positional_embedding.dim(0).unwrap_or(1);
        ((tokens - 1) as f64).sqrt() as usize
    }

    /// `R`.
    pub fn image_size(&self) -> usize {
        self.grid() * self.patch_size
    }

    /// Features `[B, E]`, not normalised, of `pixels` `[B, 3, R, R]` (normalised with CLIP's mean and deviation).
    ///
    /// # Errors
    /// Pixels of another size, prompts of another width or count, more deep prompts than blocks.
    pub fn encode(&self, pixels: &Tensor, prompt: &ImagePrompt) -> Result<Tensor> {
        let (batch, w, patches) = (pixels.dim(0)?, self.width(), self.grid() * self.grid());
        if prompt.deep.len() >= self.depth() {
            bail!(
                "{} deep image prompts for a tower of {} blocks",
                prompt.deep.len(),
                self.depth()
            );
        }
        let count = prompt.tokens.as_ref().map_or(Ok(0), |t| t.dim(0))?;
        let at_once = (ROWS_AT_ONCE / (1 + patches + count)).max(1);
        if batch > at_once && !self.is_tracked(pixels, prompt) {
            let pieces = (0..batch)
                .step_by(at_once)
                .map(|i| self.encode(&pixels.narrow(0, i, at_once.min(batch - i))?, prompt))
                .collect::<Result<Vec<_>>>()?;
            return Tensor::cat(&pieces, 0);
        }
        if let Some(deep) = prompt.deep.iter().find(|d| d.dims() != [count, w]) {
            bail!(
                "a deep image prompt is {:?}, the first layer's is [{count}, {w}]",
                deep.dims()
            );
        }
        let mut x = self.embed(pixels)?;
        if count > 0 {
            x = Tensor::cat(
                &[
                    &x,
                    &Tensor::zeros((batch, count, w), x.dtype(), x.device())?,
                ],
                1,
            )?;
        }
        let length = 1 + patches + count;
        let layout = Arc::new(Layout::full(batch, length));
        let prompted: Vec<(usize, usize)> = (0..batch)
            .flat_map(|b| (0..count).map(move |i| (b * length + 1 + patches + i, i)))
            .collect();
        let prompted = Arc::new(prompted);
        let mut x = x.reshape((batch * length, w))?;
        if let Some(tokens) = &prompt.tokens {
            x = put_rows(&x, tokens, &prompted, Put::Instead)?;
        }
        x = layer_norm(&x, &self.norm_before.0, &self.norm_before.1)?;
        let class_rows = vec![0; batch];
        let is_plain = count == 0 && !self.is_tracked(pixels, prompt);
        let rounded = if is_plain { &self.bfloat[..] } else { &[] };
        for (i, block) in self.blocks.iter().enumerate() {
            if i > 0
                && let Some(deep) = prompt.deep.get(i - 1)
            {
                x = put_rows(&x, deep, &prompted, Put::Instead)?;
            }
            let last = i + 1 == self.blocks.len();
            let select = last.then_some(&class_rows[..]);
            x = match rounded.get(i) {
                Some(block) => block.forward(&x, &layout, select)?,
                None => block.forward(&x, &layout, select)?,
            };
        }
        layer_norm(&x, &self.norm_after.0, &self.norm_after.1)?.matmul(&self.projection)
    }

    /// Class token and patches of each picture with their positions, `[B, 1 + G G, W]`.
    fn embed(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, w, tokens) = (pixels.dim(0)?, self.width(), 1 + self.grid() * self.grid());
        let patches = self.patches(pixels)?;
        let own = [
            &self.patch_embedding,
            &self.class_embedding,
            &self.positional_embedding,
        ];
        if !pixels.device().is_cpu() || own.into_iter().chain([pixels]).any(Tensor::track_op) {
            let patch_rows =
                patches
                    .matmul(&self.patch_embedding.t()?)?
                    .reshape((batch, tokens - 1, w))?;
            let class = self
                .class_embedding
                .reshape((1, 1, w))?
                .broadcast_as((batch, 1, w))?;
            return Tensor::cat(&[&class.contiguous()?, &patch_rows], 1)?
                .broadcast_add(&self.positional_embedding);
        }
        // The same in one product and one pass.
        let size = patches.dim(1)?;
        let mut embedded = scratch::take(batch * (tokens - 1) * w);
        with_values(&patches, |patches| {
            with_values(&self.patch_embedding, |weights| {
                let (a, b) = (
                    Mat::new(patches, batch * (tokens - 1), size, size),
                    Mat::new(weights, w, size, size),
                );
                product(&mut embedded, w, a, b.t(), false, Threads::Pool);
                Ok(())
            })
        })?;
        let mut rows = vec![0f32; batch * tokens * w];
        with_values(&self.class_embedding, |class| {
            with_values(&self.positional_embedding, |positions| {
                rows.par_chunks_mut(w).enumerate().for_each(|(i, row)| {
                    let (picture, token) = (i / tokens, i % tokens);
                    let from = if token == 0 {
                        class
                    } else {
                        &embedded[(picture * (tokens - 1) + token - 1) * w..]
                    };
                    let position = &positions[token * w..];
                    for ((out, from), position) in row.iter_mut().zip(from).zip(position) {
                        *out = from + position;
                    }
                });
                Ok(())
            })
        })?;
        Tensor::from_vec(rows, (batch, tokens, w), pixels.device())
    }

    /// What [`VisionTransformer::encode`] of `batch` pictures with `prompts` extra tokens, and its gradient to them,
    /// cannot do without.
    pub fn work(&self, batch: usize, prompts: usize) -> Work {
        let patches = self.grid() * self.grid();
        let layout = Layout::full(batch, 1 + patches + prompts);
        let (last, class_rows) = (self.blocks.len().saturating_sub(1), vec![0; batch]);
        let blocks = self.blocks.iter().enumerate().map(|(i, b)| {
            b.shape
                .work(&layout, (i == last).then_some(&class_rows[..]))
        });
        let projection = 2.0 * (batch * self.projection.elem_count()) as f64;
        let embedding = 2.0 * (batch * patches * self.patch_embedding.elem_count()) as f64;
        let ends = Work {
            forward: embedding + projection,
            backward: projection,
        };
        blocks.fold(ends, Work::add)
    }

    /// Whether a gradient could be asked for.
    fn is_tracked(&self, pixels: &Tensor, prompt: &ImagePrompt) -> bool {
        let prompts = prompt.tokens.iter().chain(&prompt.deep);
        let own = [&self.patch_embedding, &self.class_embedding];
        let blocks = self.blocks.iter().map(|b| &b.theta);
        prompts
            .chain(own)
            .chain(blocks)
            .chain([pixels, &self.positional_embedding, &self.projection])
            .any(Tensor::track_op)
    }

    /// Patches as rows `[B G G, 3 P P]`: with them the patch convolution is one product.
    fn patches(&self, pixels: &Tensor) -> Result<Tensor> {
        let (g, p) = (self.grid(), self.patch_size);
        let (batch, channels, height, width) = pixels.dims4()?;
        if (channels, height, width) != (3, g * p, g * p) {
            bail!(
                "this backbone takes pixels [B, 3, {r}, {r}], got {:?}",
                pixels.dims(),
                r = g * p
            );
        }
        if !pixels.device().is_cpu() {
            return pixels
                .reshape(&[batch, 3, g, p, g, p][..])?
                .permute([0, 2, 4, 1, 3, 5])?
                .reshape((batch * g * g, 3 * p * p));
        }
        with_values(pixels, |data| {
            let side = g * p;
            let mut rows = vec![0f32; data.len()];
            rows.par_chunks_mut(3 * p * p)
                .enumerate()
                .for_each(|(i, row)| {
                    let (b, gy, gx) = (i / (g * g), i / g % g, i % g);
                    for c in 0..3 {
                        for y in 0..p {
                            let from = ((b * 3 + c) * side + gy * p + y) * side + gx * p;
                            row[(c * p + y) * p..][..p].copy_from_slice(&data[from..from + p]);
                        }
                    }
                });
            Tensor::from_vec(rows, (batch * g * g, 3 * p * p), pixels.device())
        })
    }
}
