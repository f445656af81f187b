//! The ViT image tower, which takes prompts as data (see [`crate::prompts`]) and can be read at every token.

use std::ops::{Add, Range};
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::changes::{BlockChange, Norm};
use crate::device::{self, CardImage};
use crate::ops::gemm::Mat;
use crate::ops::products::{Left, Products, Start};
use crate::ops::{Block, Layout, Put, Work, layer_norm_by, put_rows, scratch, times, with_values};
use crate::prompts::{DeepImage, ImagePrompt};

mod below;
mod patches;

pub use below::Below;
pub(crate) use patches::Patches;

use below::Until;

/// Rows that a frozen tower takes through its blocks at once: enough for the products, few enough for the caches and
/// for memory. Changes no number, as pictures do not see each other.
const ROWS_AT_ONCE: usize = 1600;

impl crate::Clip {
    /// [`crate::Clip::identity`], and in what numbers pictures go through: what features can differ by.
    pub fn image_fingerprint(&self) -> String {
        let identity = self.identity();
        let numbers = match &self.image {
            crate::ImageTower::Transformer(tower) => tower.arithmetic(),
            crate::ImageTower::Pooled(tower) => tower.products().suffix(),
            crate::ImageTower::ResNet(_) => "",
        };
        match identity.as_str() {
            "" => identity,
            _ => identity + numbers,
        }
    }
}

/// Packed rows of tokens `first..first + count` of each of `batch` pictures of `length` tokens, with the token's index.
pub(crate) fn rows_at(
    batch: usize,
    length: usize,
    first: usize,
    count: usize,
) -> Arc<Vec<(usize, usize)>> {
    let rows = (0..batch).flat_map(|b| (0..count).map(move |i| (b * length + first + i, i)));
    Arc::new(rows.collect())
}

/// `x` `[B, T, W]` with rows more in every picture, behind the class token and at most at `last`.
fn insert(x: &Tensor, rows: &DeepImage, last: usize) -> Result<Tensor> {
    let ((batch, length, w), at) = (x.dims3()?, rows.position);
    if at == 0 || at > last {
        bail!("rows enter at position 1 to {last} of {length} tokens, not at {at}");
    }
    let (n, own) = rows.rows.dims2()?;
    if own != w {
        bail!("rows that enter are {own} wide, the tower's are {w}");
    }
    let entering = rows.rows.reshape((1, n, w))?.broadcast_as((batch, n, w))?;
    let (before, after) = (x.narrow(1, 0, at)?, x.narrow(1, at, length - at)?);
    Tensor::cat(&[before, entering, after], 1)
}

/// The tower. `R` pixels a side, `P` pixels a patch side, `G = R / P`, `W` width, `E` joint width.
#[derive(Clone, Debug)]
pub struct VisionTransformer {
    pub(crate) patch_size: usize,
    /// `[W, 3 P P]`.
    pub(crate) patch_embedding: Tensor,
    /// `[W]` (timm's).
    pub(crate) patch_bias: Option<Tensor>,
    pub(crate) class_embedding: Tensor,
    pub(crate) positional_embedding: Tensor,
    /// CLIP's alone.
    pub(crate) norm_before: Option<(Tensor, Tensor)>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm_after: (Tensor, Tensor),
    pub(crate) projection: Tensor,
    /// Whether pictures without prompts go through the blocks in bfloat16.
    pub(crate) is_bfloat16: bool,
    /// Its insides on a card, where they run as long as nothing of the tower's own is trained.
    pub(crate) card: Option<Arc<CardImage>>,
}

impl VisionTransformer {
    /// Makes pictures without prompts, and without a gradient, go through the blocks in bfloat16 from now on; see
    /// [`crate::ops::bfloat`]. With prompts, and where a gradient is asked for, everything stays of float32's grade.
    ///
    /// # Errors
    /// On a processor without the instructions, in the arithmetic that the tower has then.
    pub fn use_bfloat16(&mut self) -> Result<()> {
        Self::check_bfloat16(self.products())?;
        self.is_bfloat16 = true;
        Ok(())
    }

    /// Has the blocks multiply by `products` from now on, and the patch embedding by those of float32's grade of the same
    /// arithmetic.
    ///
    /// # Errors
    /// When pictures go through in bfloat16, which this machine cannot in the arithmetic of `products`.
    pub(crate) fn use_products(&mut self, products: Products) -> Result<()> {
        if self.is_bfloat16 {
            Self::check_bfloat16(products)?;
        }
        for block in &mut self.blocks {
            block.use_products(products);
        }
        Ok(())
    }

    fn check_bfloat16(exact: Products) -> Result<()> {
        if !exact.rounded().is_supported() {
            bail!(
                "bfloat16 needs a processor with AVX512-BF16, which this one has not; use float32"
            );
        }
        Ok(())
    }

    /// What frozen pictures with prompts in them are multiplied by.
    fn products(&self) -> Products {
        self.blocks.first().map(Block::products).unwrap_or_default()
    }

    /// What features are told apart by: the numbers that pictures go through in.
    fn arithmetic(&self) -> &'static str {
        match &self.card {
            Some(card) => device::arithmetic(card.precision),
            None if self.is_bfloat16 => self.products().rounded().suffix(),
            None => self.products().suffix(),
        }
    }

    /// Whether pictures without prompts go through in bfloat16.
    pub fn is_bfloat16(&self) -> bool {
        self.is_bfloat16
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

    /// Blocks, each with its weights.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// `ln_pre`.
    ///
    /// # Errors
    /// timm's towers have none.
    pub fn norm_before(&self) -> Result<Norm> {
        match self.norm_before.clone() {
            Some((gain, bias)) => Ok(Norm { gain, bias }),
            None => bail!("this image tower (timm's) has no norm before its blocks"),
        }
    }

    /// What its norms add to the variance.
    pub(crate) fn epsilon(&self) -> f32 {
        let norms = self.blocks.first().map(|b| b.shape.norms);
        norms.unwrap_or_default().epsilon()
    }

    /// `ln_post`.
    pub fn norm_after(&self) -> Norm {
        let (gain, bias) = self.norm_after.clone();
        Norm { gain, bias }
    }

    /// `proj`, `[W, E]`: what rows behind `ln_post` are multiplied with.
    pub fn projection(&self) -> &Tensor {
        &self.projection
    }

    /// Features `[B, E]`, not normalised, of `pixels` `[B, 3, R, R]` (normalised with CLIP's mean and deviation): the class
    /// token through `ln_post` and the projection. Differentiable in the prompt.
    ///
    /// # Errors
    /// Pixels of another size, prompts of another width or count, more deep prompts than blocks.
    pub fn encode(&self, pixels: &Tensor, prompt: &ImagePrompt) -> Result<Tensor> {
        Below::nothing(self, pixels).encode(prompt)
    }

    /// Last hidden states `[B, T, W]` of every token, before `ln_post`: the class token, the `G G` patches, the prompt's
    /// tokens behind them; rows that [`How::Insert`](crate::How::Insert) put in are at the positions they were given.
    /// Differentiable in the prompt. [`VisionTransformer::read`] makes features of any of them.
    ///
    /// # Errors
    /// As [`VisionTransformer::encode`].
    pub fn hidden(&self, pixels: &Tensor, prompt: &ImagePrompt) -> Result<Tensor> {
        Below::nothing(self, pixels).hidden(prompt)
    }

    /// The card, if pictures go through on one: not where a gradient of pixels or of the tower's own is asked for.
    fn on_card(&self, pixels: &Tensor) -> Option<&Arc<CardImage>> {
        let card = self.card.as_ref()?;
        (!self.is_tracked(pixels, &ImagePrompt::default())).then_some(card)
    }

    /// `ln_post` (the prompt's, if it changes it) of rows `[.., W]`.
    ///
    /// # Errors
    /// When the last dimension is not `W`.
    pub fn post(&self, rows: &Tensor, prompt: &ImagePrompt) -> Result<Tensor> {
        let (gain, bias) = match &prompt.changes.norm_after {
            Some(norm) => (&norm.gain, &norm.bias),
            None => (&self.norm_after.0, &self.norm_after.1),
        };
        let flat = rows.reshape(((), self.width()))?;
        layer_norm_by(&flat, gain, bias, self.epsilon())?.reshape(rows.shape())
    }

    /// Features `[.., E]`, not normalised, of last hidden states `[.., W]`: `ln_post` and the projection. Of a narrowed
    /// [`VisionTransformer::hidden`]: the class token gives what [`VisionTransformer::encode`] does, patches give local
    /// features.
    ///
    /// # Errors
    /// When the last dimension is not `W`.
    pub fn read(&self, rows: &Tensor, prompt: &ImagePrompt) -> Result<Tensor> {
        let mut shape = rows.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.projection.dim(1)?;
        }
        let flat = self.post(rows, prompt)?.reshape(((), self.width()))?;
        times(&flat, &self.projection)?.reshape(shape)
    }

    /// How many pictures with `count` prompt tokens each go through at once where nothing is tracked.
    fn at_once(&self, count: usize) -> usize {
        (ROWS_AT_ONCE / (1 + self.grid() * self.grid() + count)).max(1)
    }

    /// Rows of pictures as far as `until` says.
    fn rows(&self, of: &Below, prompt: &ImagePrompt, until: Until) -> Result<Tensor> {
        let (batch, w) = (of.count()?, self.width());
        prompt.check(self.depth(), w)?;
        let count = prompt.count()?;
        let at_once = self.at_once(count);
        let tracked = self.is_tracked(of.pixels(), prompt);
        if batch > at_once && !tracked && !prompt.changes.drops() {
            let pieces = (0..batch)
                .step_by(at_once)
                .map(|i| self.rows(&of.some(i, at_once.min(batch - i))?, prompt, until))
                .collect::<Result<Vec<_>>>()?;
            return Tensor::cat(&pieces, 0);
        }
        let (first, mut x) = match of.entering() {
            Some((block, rows)) => (block, rows.clone()),
            None => (0, self.embedded(of.pixels(), prompt)?),
        };
        let mut length = 1 + self.grid() * self.grid() + count;
        let mut layout = Arc::new(Layout::full(batch, length));
        let class_rows = vec![0; batch];
        let is_plain = prompt.is_empty() && !tracked;
        let is_rounded = is_plain && self.is_bfloat16;
        let plain = BlockChange::default();
        let end = until.block().unwrap_or(self.depth());
        for (i, block) in self.blocks.iter().enumerate().take(end).skip(first) {
            if i > 0
                && let Some(deep) = prompt.deep.get(i - 1)
            {
                let behind = rows_at(batch, length, length - count, count);
                x = put_rows(&x, deep, &behind, Put::Instead)?;
            }
            for rows in prompt.rows.iter().filter(|r| r.block == i) {
                x = match rows.how.put() {
                    Some(put) => {
                        let (first, n) = (rows.position, rows.rows.dim(0)?);
                        if first + n > length {
                            bail!("rows at {first} to {} of {length} tokens", first + n);
                        }
                        put_rows(&x, &rows.rows, &rows_at(batch, length, first, n), put)?
                    }
                    None => {
                        let x = insert(&x.reshape((batch, length, w))?, rows, length - count)?;
                        length = x.dim(1)?;
                        layout = Arc::new(Layout::full(batch, length));
                        x.reshape((batch * length, w))?
                    }
                };
            }
            let last = until == Until::Classes && i + 1 == self.blocks.len();
            let select = last.then_some(&class_rows[..]);
            let change = prompt.changes.blocks.get(&i).unwrap_or(&plain);
            x = if is_rounded {
                block.rounded().forward(&x, &layout, select)?
            } else {
                block.forward_with(&x, &layout, select, change)?
            };
        }
        Ok(x)
    }

    /// Rows that enter the first block, `[B T, W]`: class token, patches and the prompt's tokens, through `ln_pre`.
    fn embedded(&self, pixels: &Tensor, prompt: &ImagePrompt) -> Result<Tensor> {
        let (mut x, count, w) = (self.embed(pixels)?, prompt.count()?, self.width());
        let batch = x.dim(0)?;
        if count > 0 {
            x = Tensor::cat(
                &[
                    &x,
                    &Tensor::zeros((batch, count, w), x.dtype(), x.device())?,
                ],
                1,
            )?;
        }
        let length = x.dim(1)?;
        let mut x = x.reshape((batch * length, w))?;
        if let Some(tokens) = &prompt.tokens {
            let behind = rows_at(batch, length, length - count, count);
            x = put_rows(&x, tokens, &behind, Put::Instead)?;
        }
        if let Some((gain, bias)) = &self.norm_before {
            let (gain, bias) = match &prompt.changes.norm_before {
                Some(norm) => (&norm.gain, &norm.bias),
                None => (gain, bias),
            };
            x = layer_norm_by(&x, gain, bias, self.epsilon())?;
        } else if prompt.changes.norm_before.is_some() {
            bail!("this image tower (timm's) has no norm before its blocks");
        }
        Ok(x)
    }

    /// Class token and patches of each picture with their positions, `[B, 1 + G G, W]`.
    fn embed(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, w, tokens) = (pixels.dim(0)?, self.width(), 1 + self.grid() * self.grid());
        let patches = Patches::new(pixels, self.grid(), self.patch_size)?;
        let own = [
            &self.patch_embedding,
            &self.class_embedding,
            &self.positional_embedding,
        ];
        let mut own = own.into_iter().chain([pixels]).chain(&self.patch_bias);
        if !pixels.device().is_cpu() || own.any(Tensor::track_op) {
            let mut patch_rows = patches.rows(pixels)?.matmul(&self.patch_embedding.t()?)?;
            if let Some(bias) = &self.patch_bias {
                patch_rows = patch_rows.broadcast_add(bias)?;
            }
            let patch_rows = patch_rows.reshape((batch, tokens - 1, w))?;
            let class = self
                .class_embedding
                .reshape((1, 1, w))?
                .broadcast_as((batch, 1, w))?;
            return Tensor::cat(&[&class.contiguous()?, &patch_rows], 1)?
                .broadcast_add(&self.positional_embedding);
        }
        // The same in one product, of rows that are read where the pixels are, and one pass.
        let count = batch * (tokens - 1);
        let mut embedded = scratch::take(count * w);
        with_values(pixels, |pixels| {
            with_values(&self.patch_embedding, |weights| {
                let size = patches.len();
                let write = |i: usize, row: &mut [f32]| patches.write(pixels, i, row);
                // Of float32's grade in every precision, as what names of features say is of blocks.
                let by = Products::exact(self.products().arithmetic());
                let left = Left::written(by, [count, size], w, write);
                let weights = Mat::new(weights, w, size, size).t();
                match &self.patch_bias {
                    None => left.product(&mut embedded, weights, Start::Zero),
                    Some(bias) => with_values(bias, |bias| {
                        left.product(&mut embedded, weights, Start::Bias(bias));
                        Ok(())
                    })?,
                }
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
        self.work_of(0..self.depth(), batch, prompts)
    }

    /// Those parts of [`VisionTransformer::work`] that `blocks` do: with the first comes the embedding, with the last the
    /// projection.
    pub fn work_of(&self, blocks: Range<usize>, batch: usize, prompts: usize) -> Work {
        let patches = self.grid() * self.grid();
        let layout = Layout::full(batch, 1 + patches + prompts);
        let class_rows = vec![0; batch];
        let mut all = Work::default();
        if blocks.start == 0 {
            all.forward += 2.0 * (batch * patches * self.patch_embedding.elem_count()) as f64;
        }
        if blocks.end == self.depth() {
            let projection = 2.0 * (batch * self.projection.elem_count()) as f64;
            all.forward += projection;
            all.backward += projection;
        }
        let own = blocks.map(|i| {
            let last = i + 1 == self.depth();
            let shape = self.blocks[i].shape;
            shape.work(&layout, last.then_some(&class_rows[..]))
        });
        own.fold(all, Work::add)
    }

    /// Whether a gradient could be asked for.
    fn is_tracked(&self, pixels: &Tensor, prompt: &ImagePrompt) -> bool {
        let blocks = self.blocks.iter().map(|b| &b.theta);
        let norms = self.norm_before.iter().chain([&self.norm_after]);
        let mut own = [
            pixels,
            &self.patch_embedding,
            &self.class_embedding,
            &self.positional_embedding,
            &self.projection,
        ]
        .into_iter()
        .chain(&self.patch_bias)
        .chain(blocks)
        .chain(norms.flat_map(|(gain, bias)| [gain, bias]));
        prompt.is_tracked() || own.any(Tensor::track_op)
    }
}
