//! A whole CLIP: both towers, the temperature, and how they come from (and go back to) named tensors.

mod source;
mod towers;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Result, Tensor, Var, bail};

use crate::image::VisionTransformer;
use crate::ops::products::Products;
use crate::ops::{Activation, Arithmetic, scaled_cosine};
use crate::pooled::PooledTransformer;
use crate::prompts::{ImagePrompt, TextPrompt};
use crate::remembered::Remembered;
use crate::resnet::ModifiedResNet;
use crate::text::{Slot, TextPlan, TextTower};
use crate::weights::{self, Look, Weights};
use source::{Origin, Source};

pub use crate::ops::unit;

/// The image side of a CLIP.
#[derive(Clone, Debug)]
pub enum ImageTower {
    /// A vision transformer, which takes prompts.
    Transformer(VisionTransformer),
    /// A ModifiedResNet with attention pooling; frozen, takes no prompts.
    ResNet(ModifiedResNet),
    /// SigLIP's vision transformer, whose features are pooled from all patches; frozen, takes no prompts.
    Pooled(PooledTransformer),
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
    logit_bias: Option<f64>,
    scale: f64,
    arithmetic: Arithmetic,
    is_bfloat16x3: bool,
    fingerprint: String,
    /// What follows the fingerprint where these tensors are not run as OpenAI's are.
    manner: String,
    look: Look,
    /// Trained tensors by name, when made for training.
    trained: BTreeMap<String, Var>,
    /// Shared by clones, which are frozen alike.
    remembered: Arc<Remembered>,
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
        match Self::build(origin, weights.activations(), rows, false, keep) {
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
            [activation; 2],
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
            [Activation::QuickGelu; 2],
            token_rows,
            true,
            Keep::Float32,
        )
    }

    /// Has frozen blocks of both towers multiply by `arithmetic` from now on, and the patch embedding of a vision
    /// transformer. What is trained of a tower's own goes on in [`Arithmetic::Portable`], and so does a ResNet.
    ///
    /// # Errors
    /// Where this machine has not the instructions, for bfloat16 too where pictures go through in that; where inputs are
    /// multiplied as two halves ([`Clip::use_bfloat16x3`]) and `arithmetic` is the portable one.
    pub fn use_arithmetic(&mut self, arithmetic: Arithmetic) -> Result<()> {
        if let Some(why) = arithmetic.lack() {
            bail!("arithmetic {:?}: {why}", arithmetic.name());
        }
        self.multiply_by(arithmetic, self.is_bfloat16x3)
    }

    /// Has frozen blocks of both towers multiply inputs as two halves in bfloat16, three products each, from now on: half the
    /// products of float32's grade, with ten to thirty times the error of float32. Attention and the patch embedding stay of
    /// float32's grade. It lasts when the arithmetic changes, and goes together with bfloat16 in any order.
    ///
    /// # Errors
    /// In [`Arithmetic::Portable`], which has no such products.
    pub fn use_bfloat16x3(&mut self) -> Result<()> {
        self.multiply_by(self.arithmetic, true)
    }

    /// Whether frozen blocks multiply inputs as two halves in bfloat16.
    pub fn is_bfloat16x3(&self) -> bool {
        self.is_bfloat16x3
    }

    fn multiply_by(&mut self, arithmetic: Arithmetic, is_bfloat16x3: bool) -> Result<()> {
        let exact = Products::exact(arithmetic);
        let products = match exact.split() {
            _ if !is_bfloat16x3 => exact,
            Some(split) => split,
            None => bail!(
                "bfloat16x3 needs arithmetic {:?} or {:?}, not {:?}",
                Arithmetic::Amx.name(),
                Arithmetic::Emulated.name(),
                arithmetic.name()
            ),
        };
        match &mut self.image {
            ImageTower::Transformer(tower) => tower.use_products(products)?,
            ImageTower::Pooled(tower) => tower.use_products(products),
            ImageTower::ResNet(_) => {}
        }
        for block in &mut self.text.blocks {
            block.use_products(products);
        }
        self.arithmetic = arithmetic;
        self.is_bfloat16x3 = is_bfloat16x3;
        self.forget();
        Ok(())
    }

    /// Begins anew with what is remembered, where other bits come out from here on.
    pub(crate) fn forget(&mut self) {
        self.remembered = Arc::default();
    }

    /// What frozen blocks multiply by.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    fn build(
        origin: Origin,
        activations: [Activation; 2],
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
        let heads = origin.heads();
        let text = towers::text(&mut source, token_rows, heads[1], activations[1])?;
        let image = towers::image(&mut source, heads[0], activations[0])?;
        let logit_scale = source.get("logit_scale")?.flatten_all()?;
        let logit_scale = logit_scale.get(0)?;
        let scale = f64::from(logit_scale.to_scalar::<f32>()?).exp();
        let bias = source.maybe("logit_bias")?;
        let bias = bias.map(|b| b.flatten_all()?.get(0)?.to_scalar::<f32>());
        let logit_bias = bias.transpose()?.map(f64::from);
        Ok(Self {
            text,
            image,
            logit_scale,
            logit_bias,
            scale,
            arithmetic: Arithmetic::default(),
            is_bfloat16x3: false,
            fingerprint: String::new(),
            manner: String::new(),
            look: Look::default(),
            trained: source.trained,
            remembered: Arc::default(),
        })
    }

    /// `exp(logit_scale)`: what cosines are multiplied with.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// What SigLIP adds to scaled cosines before its sigmoid. A softmax takes it off again; a threshold does not.
    pub fn logit_bias(&self) -> Option<f64> {
        self.logit_bias
    }

    /// `E`.
    pub fn embedding_size(&self) -> usize {
        self.text.joint_width()
    }

    /// Pixels a side.
    pub fn image_size(&self) -> usize {
        match &self.image {
            ImageTower::Transformer(t) => t.image_size(),
            ImageTower::ResNet(r) => r.image_size(),
            ImageTower::Pooled(p) => p.image_size(),
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
        towers::parameters(self)
    }

    /// The vision transformer, or an error that says why prompts cannot enter.
    ///
    /// # Errors
    /// When the image tower is a ResNet, or SigLIP's.
    pub fn transformer(&self) -> Result<&VisionTransformer> {
        match &self.image {
            ImageTower::Transformer(t) => Ok(t),
            ImageTower::ResNet(_) => {
                bail!("this backbone's image tower is a ResNet, which takes no prompt tokens")
            }
            ImageTower::Pooled(_) => bail!(
                "this backbone's image tower has no class token (SigLIP): its features are pooled from all patches, and \
                 it takes no prompt tokens"
            ),
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
            ImageTower::Pooled(p) => p.forward(pixels),
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
            ImageTower::Pooled(_) => bail!(
                "this backbone's picture features are pooled from all patches (SigLIP): there are no local ones beside them"
            ),
        }
    }

    /// Token slots of `text`: start, words, end; unpadded.
    ///
    /// # Errors
    /// When the text is longer than the tower takes (CLIP's: 77 tokens).
    pub fn slots(&self, text: &str) -> Result<Vec<Slot>> {
        let ids = self.text.wording().sequence(text);
        let ids = ids.map_err(candle_core::Error::wrap)?;
        Ok(ids.into_iter().map(Slot::Token).collect())
    }

    /// A plan for plain texts; what they share at their start is computed once.
    ///
    /// # Errors
    /// A text that is too long, or a word outside a cut-down vocabulary.
    pub fn text_plan(&self, texts: &[String]) -> Result<TextPlan> {
        let sequences = texts.iter().map(|t| self.slots(t));
        self.text.plan(&sequences.collect::<Result<Vec<_>>>()?)
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

    /// What `make` gives, or gave when `what` was asked for of the same `texts` before; for tensors that nothing but this CLIP
    /// as it is and the texts go into, without a graph. Some 32 MiB are kept. Where the towers are trained it is made anew.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn once(
        &self,
        what: &str,
        texts: &[String],
        make: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        if self.trained.is_empty() {
            self.remembered.get(what, texts, make)
        } else {
            make()
        }
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

    /// All tensors under OpenAI's names (and those of [`crate::weights`] for what OpenAI's have not), detached; ResNet and
    /// SigLIP image towers are not taken apart again.
    ///
    /// # Errors
    /// Those of candle.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        towers::tensors(self)
    }
}
