//! SigLIP's image tower: a vision transformer without a class token, whose features a learned query pools from all
//! patches.
//!
//! Zhai et al., *Sigmoid Loss for Language Image Pre-Training*, <https://arxiv.org/abs/2303.15343>. As transformers'
//! `SiglipMultiheadAttentionPoolingHead` (5.24) and timm's `AttentionPoolLatent` (1.0) compute it.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::image::Patches;
use crate::ops::products::Products;
use crate::ops::{Block, Layout, layer_norm_by, parts};

/// Rows that go through the blocks at once; changes no number, as pictures do not see each other.
const ROWS_AT_ONCE: usize = 1600;

/// The tower. `R` pixels a side, `P` pixels a patch side, `G = R / P`, `W` width, which is the joint width too.
#[derive(Clone, Debug)]
pub struct PooledTransformer {
    pub(crate) patch_size: usize,
    /// `[W, 3 P P]`.
    pub(crate) patch_embedding: Tensor,
    pub(crate) patch_bias: Option<Tensor>,
    /// `[G G, W]`.
    pub(crate) positional_embedding: Tensor,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm_after: (Tensor, Tensor),
    /// `[W]`: what is asked of all patches.
    pub(crate) probe: Tensor,
    /// `[3 W, W]` and `[3 W]`: queries, keys, values.
    pub(crate) weight_in: Tensor,
    pub(crate) bias_in: Tensor,
    pub(crate) out: (Tensor, Tensor),
    pub(crate) norm: (Tensor, Tensor),
    pub(crate) expand: (Tensor, Tensor),
    pub(crate) contract: (Tensor, Tensor),
}

impl PooledTransformer {
    /// `G`.
    fn grid(&self) -> usize {
        self.positional_embedding.dim(0).unwrap_or(0).isqrt()
    }

    /// `R`.
    pub fn image_size(&self) -> usize {
        self.grid() * self.patch_size
    }

    /// Has the blocks and the pool multiply by `products` from now on; the patch embedding stays as it is.
    pub(crate) fn use_products(&mut self, products: Products) {
        for block in &mut self.blocks {
            block.use_products(products);
        }
    }

    /// What rows are multiplied with weights by.
    pub(crate) fn products(&self) -> Products {
        self.blocks.first().map(Block::products).unwrap_or_default()
    }

    /// Features `[B, W]`, not normalised, of `pixels` `[B, 3, R, R]`.
    ///
    /// # Errors
    /// Pixels of another size.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, rows) = (pixels.dim(0)?, self.grid() * self.grid());
        let at_once = (ROWS_AT_ONCE / rows.max(1)).max(1);
        let pieces = (0..batch).step_by(at_once).map(|i| {
            let some = pixels.narrow(0, i, at_once.min(batch - i))?;
            self.piece(&some)
        });
        Tensor::cat(&pieces.collect::<Result<Vec<_>>>()?, 0)
    }

    fn piece(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, g) = (pixels.dim(0)?, self.grid());
        let (rows, width) = self.positional_embedding.dims2()?;
        let patches = Patches::new(pixels, g, self.patch_size)?.rows(pixels)?;
        let mut x = patches.matmul(&self.patch_embedding.t()?)?;
        if let Some(bias) = &self.patch_bias {
            x = x.broadcast_add(bias)?;
        }
        let x = x.reshape((batch, rows, width))?;
        let x = x.broadcast_add(&self.positional_embedding)?;
        let mut x = x.reshape((batch * rows, width))?;
        let layout = Arc::new(Layout::full(batch, rows));
        for block in &self.blocks {
            x = block.forward(&x, &layout, None)?;
        }
        self.pool(&x, &layout)
    }

    /// Of patches `[B G G, W]`.
    fn pool(&self, x: &Tensor, layout: &Layout) -> Result<Tensor> {
        let shape = self.blocks[0].shape;
        let (w, epsilon) = (shape.width, shape.norms.epsilon());
        let by = self.products();
        let linear =
            |x: &Tensor, weight: &Tensor, bias: &Tensor| parts::linear_by(by, x, weight, bias);
        let x = layer_norm_by(x, &self.norm_after.0, &self.norm_after.1, epsilon)?;
        let (of_query, of_rest) = (
            self.weight_in.narrow(0, 0, w)?,
            self.weight_in.narrow(0, w, 2 * w)?,
        );
        let probe = self.probe.reshape((1, w))?;
        let query = linear(&probe, &of_query, &self.bias_in.narrow(0, 0, w)?)?;
        let query = query.broadcast_as((layout.sequences(), w))?.contiguous()?;
        let kv = linear(&x, &of_rest, &self.bias_in.narrow(0, w, 2 * w)?)?;
        let pooled = parts::one_asks(&query, &kv, layout, shape)?;
        let pooled = linear(&pooled, &self.out.0, &self.out.1)?;
        let hidden = layer_norm_by(&pooled, &self.norm.0, &self.norm.1, epsilon)?;
        let hidden = linear(&hidden, &self.expand.0, &self.expand.1)?;
        let hidden = parts::activate(&hidden, shape.activation)?;
        pooled + linear(&hidden, &self.contract.0, &self.contract.1)?
    }
}
