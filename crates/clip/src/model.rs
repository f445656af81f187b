//! A whole CLIP: both towers, the temperature, and how they come from (and go back to) named tensors.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{D, DType, Device, Result, Tensor, Var, bail};

use crate::image::{ImagePrompt, VisionTransformer};
use crate::ops::block::PARTS;
use crate::ops::{Activation, Block, BlockShape};
use crate::resnet::ModifiedResNet;
use crate::text::{Slot, TextPlan, TextPrompt, TextTower};
use crate::tokenizer::Tokenizer;
use crate::weights::{self, Weights};

/// The image side of a CLIP.
#[derive(Clone, Debug)]
pub enum ImageTower {
    /// A vision transformer, which takes prompts.
    Transformer(VisionTransformer),
    /// A ModifiedResNet with attention pooling; frozen, takes no prompts.
    ResNet(ModifiedResNet),
}

/// A CLIP with float32 weights.
#[derive(Clone, Debug)]
pub struct Clip {
    /// Text tower.
    pub text: TextTower,
    /// Image tower.
    pub image: ImageTower,
    /// The trained logarithm of the temperature, a scalar.
    pub logit_scale: Tensor,
    scale: f64,
    fingerprint: String,
    /// Trained tensors by name, when made for training.
    trained: BTreeMap<String, Var>,
}

/// Every row scaled to unit length.
///
/// # Errors
/// Those of candle.
pub fn unit(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}

impl Clip {
    /// Reads any weight file the crate knows; see [`weights::open`].
    ///
    /// # Errors
    /// Those of [`weights::open`], naming the file.
    pub fn load(path: &Path) -> std::result::Result<Self, crate::Error> {
        Ok(Self::from_weights(&weights::open(path)?)?)
    }

    /// Builds frozen towers.
    ///
    /// # Errors
    /// When a tensor is missing or has an unfit shape.
    pub fn from_weights(weights: &Weights) -> Result<Self> {
        let mut clip = Self::build(
            &weights.tensors,
            weights.activation,
            weights.token_rows.as_deref(),
            false,
        )?;
        clip.fingerprint = weights.fingerprint();
        Ok(clip)
    }

    /// Frozen towers of tensors that come from no file; they have no fingerprint.
    ///
    /// # Errors
    /// As [`Clip::from_weights`].
    pub fn frozen(tensors: &BTreeMap<String, Tensor>, activation: Activation) -> Result<Self> {
        Self::build(tensors, activation, None, false)
    }

    /// Builds towers whose every tensor is trained, for pre-training.
    ///
    /// # Errors
    /// As [`Clip::from_weights`].
    pub fn trainable(
        tensors: &BTreeMap<String, Tensor>,
        token_rows: Option<&[u32]>,
    ) -> Result<Self> {
        Self::build(tensors, Activation::QuickGelu, token_rows, true)
    }

    fn build(
        tensors: &BTreeMap<String, Tensor>,
        activation: Activation,
        token_rows: Option<&[u32]>,
        train: bool,
    ) -> Result<Self> {
        let mut source = Source {
            tensors,
            trained: BTreeMap::new(),
            train,
        };
        let positional_embedding = source.get("positional_embedding")?;
        let width = positional_embedding.dim(1)?;
        let text = TextTower {
            token_embedding: source.get("token_embedding.weight")?,
            token_rows: token_rows.map(|ids| {
                ids.iter()
                    .zip(0..)
                    .map(|(id, row)| (*id, row))
                    .collect::<HashMap<_, _>>()
            }),
            positional_embedding,
            blocks: source.blocks("transformer.resblocks", width, activation)?,
            norm: source.norm("ln_final")?,
            projection: source.get("text_projection")?,
            memory: None,
        };
        let image = if tensors.contains_key("visual.layer1.0.conv1.weight") {
            ImageTower::ResNet(ModifiedResNet::new(tensors)?)
        } else {
            let conv = tensors.get("visual.conv1.weight");
            let Some(conv) = conv else {
                bail!("tensor visual.conv1.weight is missing: no image tower")
            };
            let (width, channels, patch_size, _) = conv.dims4()?;
            let flat = conv.reshape((width, channels * patch_size * patch_size))?;
            ImageTower::Transformer(VisionTransformer {
                patch_size,
                patch_embedding: source.own("visual.conv1.weight", flat)?,
                class_embedding: source.get("visual.class_embedding")?,
                positional_embedding: source.get("visual.positional_embedding")?,
                norm_before: source.norm("visual.ln_pre")?,
                blocks: source.blocks("visual.transformer.resblocks", width, activation)?,
                norm_after: source.norm("visual.ln_post")?,
                projection: source.get("visual.proj")?,
                bfloat: Default::default(),
            })
        };
        let logit_scale = source.get("logit_scale")?.flatten_all()?;
        let logit_scale = logit_scale.get(0)?;
        let scale = f64::from(logit_scale.to_scalar::<f32>()?).exp();
        Ok(Self {
            text,
            image,
            logit_scale,
            scale,
            fingerprint: String::new(),
            trained: source.trained,
        })
    }

    /// `exp(logit_scale)`: what cosines are multiplied with.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// `E`.
    pub fn embedding_size(&self) -> usize {
        self.text.projection.dim(1).unwrap_or(0)
    }

    /// Pixels a side.
    pub fn image_size(&self) -> usize {
        match &self.image {
            ImageTower::Transformer(t) => t.image_size(),
            ImageTower::ResNet(r) => r.image_size(),
        }
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        self.logit_scale.device()
    }

    /// SHA-256 over names, shapes and values of the tensors, hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Numbers in all tensors of both towers.
    pub fn parameters(&self) -> usize {
        self.tensors()
            .map(|t| t.values().map(Tensor::elem_count).sum())
            .unwrap_or(0)
    }

    /// The vision transformer, or an error that says why prompts cannot enter.
    ///
    /// # Errors
    /// When the image tower is a ResNet.
    pub fn transformer(&self) -> Result<&VisionTransformer> {
        match &self.image {
            ImageTower::Transformer(t) => Ok(t),
            ImageTower::ResNet(_) => {
                bail!("this backbone's image tower is a ResNet, which takes no prompt tokens")
            }
        }
    }

    /// Image features `[B, E]`, not normalised, without prompts and without a graph in frozen towers.
    ///
    /// # Errors
    /// When pixels are not `[B, 3, R, R]`.
    pub fn encode_image(&self, pixels: &Tensor) -> Result<Tensor> {
        match &self.image {
            ImageTower::Transformer(t) => t.encode(pixels, &ImagePrompt::default()),
            ImageTower::ResNet(r) => r.forward(pixels),
        }
    }

    /// Token slots of `text`: start, words, end; unpadded.
    ///
    /// # Errors
    /// When the text is longer than 77 tokens.
    pub fn slots(&self, text: &str) -> Result<Vec<Slot>> {
        let ids = Tokenizer::shared()
            .sequence(text)
            .map_err(candle_core::Error::wrap)?;
        Ok(ids.into_iter().map(Slot::Token).collect())
    }

    /// A plan for plain texts; what they share at their start is computed once.
    ///
    /// # Errors
    /// A text that is too long, or a word outside a cut-down vocabulary.
    pub fn text_plan(&self, texts: &[String]) -> Result<TextPlan> {
        let group = texts
            .iter()
            .map(|t| self.slots(t))
            .collect::<Result<Vec<_>>>()?;
        self.text.plan(&[group])
    }

    /// Text features `[n, E]`, not normalised, in pieces of bounded size.
    ///
    /// # Errors
    /// As [`Clip::text_plan`].
    pub fn encode_texts(&self, texts: &[String]) -> Result<Tensor> {
        const AT_ONCE: usize = 256;
        let pieces = texts
            .chunks(AT_ONCE)
            .map(|t| {
                self.text
                    .encode(&self.text_plan(t)?, &TextPrompt::default())
            })
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&pieces, 0)
    }

    /// `scale * images texts^T`, `[B, K]`, of unit-length features. The scale multiplies the images, as published.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn logits(&self, images: &Tensor, texts: &Tensor) -> Result<Tensor> {
        (images * self.scale)?.matmul(&texts.t()?)
    }

    /// Trained tensors by name (empty for frozen towers). Blocks are one flat tensor each.
    pub fn trained(&self) -> &BTreeMap<String, Var> {
        &self.trained
    }

    /// All tensors under OpenAI's names, detached; ResNet towers are not taken apart again.
    ///
    /// # Errors
    /// Those of candle.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut out = BTreeMap::new();
        let mut put = |name: &str, t: &Tensor| out.insert(name.to_owned(), t.detach());
        put("positional_embedding", &self.text.positional_embedding);
        put("token_embedding.weight", &self.text.token_embedding);
        put("ln_final.weight", &self.text.norm.0);
        put("ln_final.bias", &self.text.norm.1);
        put("text_projection", &self.text.projection);
        put("logit_scale", &self.logit_scale);
        let mut blocks: Vec<(String, &Block)> = Vec::new();
        let named = |base: &str, i: usize| format!("{base}.resblocks.{i}");
        blocks.extend(
            self.text
                .blocks
                .iter()
                .enumerate()
                .map(|(i, b)| (named("transformer", i), b)),
        );
        if let ImageTower::Transformer(v) = &self.image {
            let p = v.patch_size;
            put(
                "visual.conv1.weight",
                &v.patch_embedding.reshape((v.width(), 3, p, p))?,
            );
            put("visual.class_embedding", &v.class_embedding);
            put("visual.positional_embedding", &v.positional_embedding);
            put("visual.ln_pre.weight", &v.norm_before.0);
            put("visual.ln_pre.bias", &v.norm_before.1);
            put("visual.ln_post.weight", &v.norm_after.0);
            put("visual.ln_post.bias", &v.norm_after.1);
            put("visual.proj", &v.projection);
            blocks.extend(
                v.blocks
                    .iter()
                    .enumerate()
                    .map(|(i, b)| (named("visual.transformer", i), b)),
            );
        }
        for (base, block) in blocks {
            let mut at = 0;
            for (part, shape) in PARTS.iter().zip(block.shape.parts()) {
                let n = shape.iter().product::<usize>();
                out.insert(
                    format!("{base}.{part}"),
                    block.theta.detach().narrow(0, at, n)?.reshape(shape)?,
                );
                at += n;
            }
        }
        Ok(out)
    }
}

struct Source<'a> {
    tensors: &'a BTreeMap<String, Tensor>,
    trained: BTreeMap<String, Var>,
    train: bool,
}

impl Source<'_> {
    fn raw(&self, name: &str) -> Result<Tensor> {
        match self.tensors.get(name) {
            Some(t) => t.to_dtype(DType::F32)?.contiguous(),
            None => bail!("tensor {name} is missing"),
        }
    }

    fn get(&mut self, name: &str) -> Result<Tensor> {
        let t = self.raw(name)?;
        self.own(name, t)
    }

    fn own(&mut self, name: &str, t: Tensor) -> Result<Tensor> {
        if !self.train {
            return t.to_dtype(DType::F32)?.contiguous();
        }
        let var = Var::from_tensor(&t)?;
        self.trained.insert(name.to_owned(), var.clone());
        Ok(var.as_tensor().clone())
    }

    fn norm(&mut self, base: &str) -> Result<(Tensor, Tensor)> {
        Ok((
            self.get(&format!("{base}.weight"))?,
            self.get(&format!("{base}.bias"))?,
        ))
    }

    fn blocks(&mut self, base: &str, width: usize, activation: Activation) -> Result<Vec<Block>> {
        let count = (0..)
            .take_while(|i| {
                self.tensors
                    .contains_key(&format!("{base}.{i}.ln_1.weight"))
            })
            .count();
        if count == 0 {
            bail!("tensor {base}.0.ln_1.weight is missing: the tower has no blocks");
        }
        (0..count)
            .map(|i| {
                let hidden = self.raw(&format!("{base}.{i}.mlp.c_fc.weight"))?.dim(0)?;
                // Heads are 64 wide in every released CLIP; a narrower tower has one.
                let shape = BlockShape {
                    width,
                    heads: (width / 64).max(1),
                    hidden,
                    activation,
                };
                let parts = PARTS
                    .iter()
                    .zip(shape.parts())
                    .map(|(part, want)| {
                        let name = format!("{base}.{i}.{part}");
                        let t = self.raw(&name)?;
                        if t.dims() != want {
                            bail!(
                                "{name} is {:?}, a block of width {width} has {want:?}",
                                t.dims()
                            );
                        }
                        t.flatten_all()
                    })
                    .collect::<Result<Vec<_>>>()?;
                let theta = self.own(&format!("{base}.{i}"), Tensor::cat(&parts, 0)?)?;
                Ok(Block { shape, theta })
            })
            .collect()
    }
}
