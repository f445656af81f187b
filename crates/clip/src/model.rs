//! A whole CLIP: both towers, the temperature, and how they come from (and go back to) named tensors.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Mutex;

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, Var, bail};
use rayon::prelude::*;

use crate::image::VisionTransformer;
use crate::ops::block::PARTS;
use crate::ops::{Activation, Block, BlockShape, scaled_cosine, with_values};
use crate::prompts::{ImagePrompt, TextPrompt};
use crate::resnet::ModifiedResNet;
use crate::text::{Slot, TextPlan, TextTower};
use crate::tokenizer::Tokenizer;
use crate::weights::{self, Look, Weights};

pub use crate::ops::unit;

/// The image side of a CLIP.
#[derive(Clone, Debug)]
pub enum ImageTower {
    /// A vision transformer, which takes prompts.
    Transformer(VisionTransformer),
    /// A ModifiedResNet with attention pooling; frozen, takes no prompts.
    ResNet(ModifiedResNet),
}

/// How weights of frozen blocks are kept; computing is in float32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Ready to use.
    #[default]
    Float32,
    /// In half precision or bfloat16 where that changes no number, as with OpenAI's weights in whatever file: half the
    /// memory for a widening at each use.
    Compact,
}

/// A CLIP that computes in float32.
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
    /// What follows the fingerprint where these tensors are not run as OpenAI's are.
    manner: String,
    look: Look,
    /// Trained tensors by name, when made for training.
    trained: BTreeMap<String, Var>,
}

impl Clip {
    /// Reads any weight file the crate knows; see [`weights::open`].
    ///
    /// # Errors
    /// Those of [`weights::open`] and [`Clip::from_weights`], naming the file.
    pub fn load(path: &Path) -> std::result::Result<Self, crate::Error> {
        Self::from_weights(&weights::open(path)?)
    }

    /// Builds frozen towers. Tensors are read straight into their places, each once, and hashed as they come: a model
    /// is never in memory twice.
    ///
    /// # Errors
    /// Every tensor whose bytes are damaged or whose numbers are not finite, naming the file.
    pub fn from_weights(weights: &Weights) -> std::result::Result<Self, crate::Error> {
        Self::from_weights_in(weights, Keep::Float32)
    }

    /// As [`Clip::from_weights`], with a choice of how the blocks' weights are kept.
    ///
    /// # Errors
    /// As [`Clip::from_weights`].
    pub fn from_weights_in(
        weights: &Weights,
        keep: Keep,
    ) -> std::result::Result<Self, crate::Error> {
        let digests = Mutex::default();
        let origin = Origin::Weights(weights, &digests);
        let rows = weights.token_rows.as_deref();
        match Self::build(origin, weights.activation, rows, false, keep) {
            Ok(mut clip) => {
                clip.manner = weights.manner();
                clip.look = weights.look;
                let digests = digests.into_inner().expect("no panic while held");
                clip.fingerprint = weights.fingerprint_of(digests)?;
                Ok(clip)
            }
            // The first fault ended it; this tells all of them.
            Err(error) => Err(weights.fingerprint().err().unwrap_or(error.into())),
        }
    }

    /// Frozen towers of tensors that come from no file; they have no fingerprint.
    ///
    /// # Errors
    /// When a tensor is missing or has an unfit shape.
    pub fn frozen(tensors: &BTreeMap<String, Tensor>, activation: Activation) -> Result<Self> {
        Self::build(
            Origin::Tensors(tensors),
            activation,
            None,
            false,
            Keep::Float32,
        )
    }

    /// Builds towers whose every tensor is trained, for pre-training.
    ///
    /// # Errors
    /// As [`Clip::frozen`].
    pub fn trainable(
        tensors: &BTreeMap<String, Tensor>,
        token_rows: Option<&[u32]>,
    ) -> Result<Self> {
        let origin = Origin::Tensors(tensors);
        Self::build(
            origin,
            Activation::QuickGelu,
            token_rows,
            true,
            Keep::Float32,
        )
    }

    fn build(
        origin: Origin,
        activation: Activation,
        token_rows: Option<&[u32]>,
        train: bool,
        keep: Keep,
    ) -> Result<Self> {
        let mut source = Source {
            origin,
            keep,
            trained: BTreeMap::new(),
            train,
        };
        let positional_embedding = source.get("positional_embedding")?;
        let width = positional_embedding.dim(1)?;
        let [image_heads, text_heads] = origin.heads();
        let text = TextTower {
            token_embedding: source.get("token_embedding.weight")?,
            token_rows: token_rows.map(|ids| {
                ids.iter()
                    .zip(0..)
                    .map(|(id, row)| (*id, row))
                    .collect::<HashMap<_, _>>()
            }),
            positional_embedding,
            blocks: source.blocks("transformer.resblocks", width, text_heads, activation)?,
            norm: source.norm("ln_final")?,
            projection: source.get("text_projection")?,
            memory: None,
        };
        let image = if origin.shape("visual.layer1.0.conv1.weight").is_some() {
            ImageTower::ResNet(ModifiedResNet::read(
                &|name| origin.shape(name).is_some(),
                &|name| origin.get(name),
            )?)
        } else {
            let conv = origin.get("visual.conv1.weight")?;
            let (width, channels, patch_size, _) = conv.dims4()?;
            let flat = conv.reshape((width, channels * patch_size * patch_size))?;
            ImageTower::Transformer(VisionTransformer {
                patch_size,
                patch_embedding: source.own("visual.conv1.weight", flat)?,
                class_embedding: source.get("visual.class_embedding")?,
                positional_embedding: source.get("visual.positional_embedding")?,
                norm_before: source.norm("visual.ln_pre")?,
                blocks: source.blocks(
                    "visual.transformer.resblocks",
                    width,
                    image_heads,
                    activation,
                )?,
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
            manner: String::new(),
            look: Look::default(),
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

    /// The fingerprint and, where these tensors are not run as OpenAI's are, what says so
    /// ([`Weights::identity`]): CLIPs of the same one give the same numbers. Empty where there is no fingerprint.
    pub fn identity(&self) -> String {
        match self.fingerprint.as_str() {
            "" => String::new(),
            fingerprint => format!("{fingerprint}{}", self.manner),
        }
    }

    /// How pictures are to be made ready for the image tower.
    pub fn look(&self) -> &Look {
        &self.look
    }

    /// Numbers in all tensors of both towers; of a ResNet's, only the text tower's are counted.
    pub fn parameters(&self) -> usize {
        let norm = |(gain, bias): &(Tensor, Tensor)| gain.elem_count() + bias.elem_count();
        let blocks = |all: &[Block]| all.iter().map(|b| b.shape.len()).sum::<usize>();
        let text = &self.text;
        let of_text = text.positional_embedding.elem_count()
            + text.token_embedding.elem_count()
            + text.projection.elem_count()
            + norm(&text.norm)
            + blocks(&text.blocks)
            + self.logit_scale.elem_count();
        let of_image = match &self.image {
            ImageTower::Transformer(v) => {
                v.patch_embedding.elem_count()
                    + v.class_embedding.elem_count()
                    + v.positional_embedding.elem_count()
                    + v.projection.elem_count()
                    + norm(&v.norm_before)
                    + norm(&v.norm_after)
                    + blocks(&v.blocks)
            }
            ImageTower::ResNet(_) => 0,
        };
        of_text + of_image
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

    /// Features `[B, T, E]` of all tokens, not normalised: the first is what [`Clip::encode_image`] gives, then come the
    /// local ones, of the patches of a transformer (all through `ln_post` and the projection) or of the places of a
    /// ResNet's attention pool.
    ///
    /// # Errors
    /// When pixels are not `[B, 3, R, R]`.
    pub fn encode_image_tokens(&self, pixels: &Tensor) -> Result<Tensor> {
        match &self.image {
            ImageTower::Transformer(t) => {
                let plain = ImagePrompt::default();
                t.read(&t.hidden(pixels, &plain)?, &plain)
            }
            ImageTower::ResNet(r) => r.tokens(pixels),
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
        scaled_cosine(images, texts, self.scale)
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
                    block
                        .theta
                        .detach()
                        .narrow(0, at, n)?
                        .to_dtype(DType::F32)?
                        .reshape(shape)?,
                );
                at += n;
            }
        }
        Ok(out)
    }
}

/// The same numbers in half precision, else in bfloat16, where all of them are the same there; else as they are.
fn compact(theta: Tensor) -> Result<Tensor> {
    let is_same = |small: &Tensor| {
        let (storage, _) = small.storage_and_layout();
        with_values(&theta, |whole| {
            Ok(match &*storage {
                Storage::Cpu(CpuStorage::F16(kept)) => {
                    let mut pairs = kept.iter().zip(whole);
                    pairs.all(|(a, b)| a.to_f32().to_bits() == b.to_bits())
                }
                Storage::Cpu(CpuStorage::BF16(kept)) => {
                    let mut pairs = kept.iter().zip(whole);
                    pairs.all(|(a, b)| a.to_f32().to_bits() == b.to_bits())
                }
                _ => false,
            })
        })
    };
    for kind in [DType::F16, DType::BF16] {
        let small = theta.to_dtype(kind)?;
        if is_same(&small)? {
            return Ok(small);
        }
    }
    Ok(theta)
}

/// Where the tensors of a model come from.
#[derive(Clone, Copy)]
enum Origin<'a> {
    Tensors(&'a BTreeMap<String, Tensor>),
    /// With the digests of what was read.
    Weights(&'a Weights, &'a Mutex<BTreeMap<String, [u8; 32]>>),
}

impl Origin<'_> {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        match self {
            Self::Tensors(tensors) => tensors.get(name).map(Tensor::dims),
            Self::Weights(weights, _) => weights.shape(name),
        }
    }

    /// Heads of the image and the text tower, where they are known.
    fn heads(&self) -> [Option<usize>; 2] {
        match self {
            Self::Tensors(_) => [None, None],
            Self::Weights(weights, _) => weights.architecture.heads().map(|(n, _)| Some(n)),
        }
    }

    fn find(&self, name: &str) -> Result<&[usize]> {
        match self.shape(name) {
            Some(shape) => Ok(shape),
            None => bail!("tensor {name} is missing"),
        }
    }

    /// Writes a tensor's values where they belong.
    fn fill(&self, name: &str, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Tensors(tensors) => with_values(&tensors[name].to_dtype(DType::F32)?, |values| {
                out.copy_from_slice(values);
                Ok(())
            }),
            Self::Weights(weights, digests) => {
                let digest = weights.fill(name, out).map_err(candle_core::Error::wrap)?;
                let mut digests = digests.lock().expect("no panic while held");
                digests.insert(name.to_owned(), digest);
                Ok(())
            }
        }
    }

    fn get(&self, name: &str) -> Result<Tensor> {
        let shape = self.find(name)?;
        if let Self::Tensors(tensors) = self {
            return tensors[name].to_dtype(DType::F32)?.contiguous();
        }
        let mut values = vec![0f32; shape.iter().product()];
        self.fill(name, &mut values)?;
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    /// All weights of a block, flat, each part read into its place.
    fn block(&self, base: &str, shape: &BlockShape) -> Result<Tensor> {
        let mut theta = vec![0f32; shape.len()];
        let mut rest = theta.as_mut_slice();
        for (part, want) in PARTS.iter().zip(shape.parts()) {
            let name = format!("{base}.{part}");
            let found = self.find(&name)?;
            if found != want {
                bail!(
                    "{name} is {found:?}, a block of width {} has {want:?}",
                    shape.width
                );
            }
            let (place, after) = rest.split_at_mut(want.iter().product());
            self.fill(&name, place)?;
            rest = after;
        }
        Tensor::from_vec(theta, shape.len(), &Device::Cpu)
    }
}

struct Source<'a> {
    origin: Origin<'a>,
    keep: Keep,
    trained: BTreeMap<String, Var>,
    train: bool,
}

impl Source<'_> {
    fn get(&mut self, name: &str) -> Result<Tensor> {
        let t = self.origin.get(name)?;
        self.own(name, t)
    }

    fn own(&mut self, name: &str, t: Tensor) -> Result<Tensor> {
        if !self.train {
            return Ok(t);
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

    /// `heads` where they are known, else those of OpenAI's towers of this width.
    fn blocks(
        &mut self,
        base: &str,
        width: usize,
        heads: Option<usize>,
        activation: Activation,
    ) -> Result<Vec<Block>> {
        let (origin, keep) = (self.origin, self.keep);
        let count = (0..)
            .take_while(|i| origin.shape(&format!("{base}.{i}.ln_1.weight")).is_some())
            .count();
        if count == 0 {
            bail!("tensor {base}.0.ln_1.weight is missing: the tower has no blocks");
        }
        let read = |i: usize| {
            let hidden = origin.find(&format!("{base}.{i}.mlp.c_fc.weight"))?;
            let shape = BlockShape {
                width,
                heads: heads.unwrap_or_else(|| weights::heads(width)),
                hidden: hidden.first().copied().unwrap_or(0),
                activation,
            };
            let theta = origin.block(&format!("{base}.{i}"), &shape)?;
            let theta = match keep {
                Keep::Float32 => theta,
                Keep::Compact => compact(theta)?,
            };
            Ok((shape, theta))
        };
        // A block is whole for a moment before it is compact: few at a time then.
        let at_once = match keep {
            Keep::Float32 => count,
            Keep::Compact => 2,
        };
        let all: Vec<usize> = (0..count).collect();
        let read = all.chunks(at_once).flat_map(|some| {
            let blocks = some.par_iter().map(|&i| read(i));
            blocks.collect::<Vec<Result<(BlockShape, Tensor)>>>()
        });
        read.enumerate()
            .map(|(i, block)| {
                let (shape, theta) = block?;
                let theta = self.own(&format!("{base}.{i}"), theta)?;
                Ok(Block { shape, theta })
            })
            .collect()
    }
}
