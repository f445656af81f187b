//! Prompt-tuning methods of CLIP: one file a method, each the published algorithm. No I/O, no clock, no loop.
//!
//! A method says what it sees of a picture, gives a loss and, once trained, a predictor. The caller owns the loop, the
//! optimizer and the order of pictures. To add a method: one file, and one line in [`METHODS`].
//!
//! Differs: float32 throughout. The authors of CoOp, CoCoOp, VPT, IVLP, MaPLe, KgCoOp, ProGrad and PromptSRC train in
//! half precision (deep prompts are float32 and rounded in the forward pass), TPT's tune under autocast.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};
use clip::Clip;

pub mod context;
pub mod init;
pub mod losses;
pub mod optimizer;
pub mod settings;
pub mod templates;
pub mod training;

pub mod cocoop;
pub mod coop;
pub mod ivlp;
pub mod kgcoop;
pub mod language_prompting;
pub mod maple;
pub mod prograd;
pub mod promptsrc;
pub mod tpt;
pub mod vpt;
pub mod zero_shot;

pub use init::Init;
pub use optimizer::{Optimizer, Rule};
pub use settings::{Problem, Settings};
pub use training::{Schedule, Training};

/// Every method there is. Order is the order of tables and charts.
pub const METHODS: &[Entry] = &[
    zero_shot::ENTRY,
    coop::ENTRY,
    cocoop::ENTRY,
    vpt::ENTRY,
    language_prompting::ENTRY,
    ivlp::ENTRY,
    maple::ENTRY,
    kgcoop::ENTRY,
    prograd::ENTRY,
    promptsrc::ENTRY,
    tpt::ENTRY,
];

/// The entry called `name`.
pub fn find(name: &str) -> Option<&'static Entry> {
    METHODS.iter().find(|e| e.name == name)
}

/// What a method needs of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// Features of the frozen image tower; they can be cached.
    Features,
    /// Pixels, because prompts enter the image tower.
    Pixels,
    /// Features of many views of one picture at a time; nothing is trained before.
    Views {
        /// How many, the test view included.
        count: usize,
        /// Whether AugMix follows crop and flip where the protocol asks for it.
        augmix: bool,
    },
}

/// One line of the registry.
pub struct Entry {
    /// Name in suites.
    pub name: &'static str,
    /// Name in tables and legends.
    pub title: &'static str,
    /// Paper.
    pub source: &'static str,
    /// How it is trained unless a suite says otherwise; `None` where nothing is trained.
    pub training: Option<Training>,
    /// Reads its `config`.
    pub read: fn(&mut Settings) -> Box<dyn Config>,
}

/// A method's checked settings.
pub trait Config: Send + Sync {
    /// What the method will need of a picture.
    fn sees(&self) -> Sees;

    /// Binds the method to a backbone and classes, with fresh initial values.
    ///
    /// # Errors
    /// A backbone that cannot take its prompts, class names that are too long, words outside the vocabulary.
    fn build(
        &self,
        clip: &Arc<Clip>,
        classes: &Classes,
        init: &mut Init,
    ) -> Result<Box<dyn Method>>;
}

/// The classes a method is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// In label order, `_` already turned into spaces.
    pub names: Vec<String>,
    /// Catalogue id of the dataset.
    pub dataset: String,
    /// Hand-written prompt of the dataset, `{}` standing for the name.
    pub template: String,
}

impl Classes {
    /// Cleans the names as every published implementation does.
    pub fn new(names: &[String], dataset: &str, template: &str) -> Self {
        let names = names.iter().map(|n| n.replace('_', " ")).collect();
        Self {
            names,
            dataset: dataset.to_owned(),
            template: template.to_owned(),
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// `template` filled with each name.
    pub fn texts(&self, template: &str) -> Vec<String> {
        self.names
            .iter()
            .map(|n| template.replace("{}", n))
            .collect()
    }
}

/// Pictures as a method gets them.
#[derive(Clone, Debug)]
pub enum Images {
    /// `[B, 3, R, R]`, normalised.
    Pixels(Tensor),
    /// `[B, E]`, not normalised, of the frozen image tower.
    Features(Tensor),
}

impl Images {
    /// Features `[B, E]` of unit length, without a graph.
    ///
    /// # Errors
    /// Those of the image tower.
    pub fn unit_features(&self, clip: &Clip) -> Result<Tensor> {
        match self {
            Self::Features(f) => clip::model::unit(f),
            Self::Pixels(p) => clip::model::unit(&clip.encode_image(p)?),
        }
    }

    /// The pixels.
    ///
    /// # Errors
    /// When only features were given; the caller did not ask [`Config::sees`].
    pub fn pixels(&self) -> Result<&Tensor> {
        match self {
            Self::Pixels(p) => Ok(p),
            Self::Features(_) => {
                candle_core::bail!("this method needs pixels, it was given features")
            }
        }
    }
}

/// A training batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Pictures.
    pub images: Images,
    /// `[B]`, u32.
    pub labels: Tensor,
}

/// A loss and what it is made of.
#[derive(Clone, Debug)]
pub struct Loss {
    /// What is minimised, a scalar.
    pub total: Tensor,
    /// Named parts, weighted as they enter.
    pub parts: Vec<(&'static str, Tensor)>,
}

impl From<Tensor> for Loss {
    fn from(total: Tensor) -> Self {
        Self {
            parts: vec![("cross_entropy", total.clone())],
            total,
        }
    }
}

/// A method bound to a backbone and classes.
pub trait Method: Send {
    /// Trained tensors under the published names, in a fixed order.
    fn parameters(&self) -> Vec<(String, Var)>;

    /// The loss of a batch.
    ///
    /// # Errors
    /// When the batch does not fit.
    fn loss(&mut self, batch: &Batch) -> Result<Loss>;

    /// Gradients of a loss. A hook for methods that do more than minimise it.
    ///
    /// # Errors
    /// Those of candle.
    fn gradients(&self, loss: &Loss) -> Result<GradStore> {
        loss.total.backward()
    }

    /// Called after each epoch (0-based) of `epochs`.
    ///
    /// # Errors
    /// Those of candle.
    fn end_epoch(&mut self, _epoch: usize, _epochs: usize) -> Result<()> {
        Ok(())
    }

    /// Called once after the last epoch, before anything is tested or saved.
    ///
    /// # Errors
    /// Those of candle.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    /// Binds the trained prompts to other classes: all that depends on classes is rebuilt here and nowhere else.
    ///
    /// # Errors
    /// When the prompts cannot go there (contexts of their own for each class), or names do not fit.
    fn bind(&mut self, classes: &Classes) -> Result<()>;

    /// Everything that depends on prompts and classes but not on pictures, computed once.
    ///
    /// # Errors
    /// Those of the towers.
    fn predictor(&self) -> Result<Box<dyn Predict + '_>>;
}

/// Class scores of pictures.
pub trait Predict {
    /// `[B, K]`; for methods that see views, `[1, K]` of the picture whose views are given.
    ///
    /// # Errors
    /// When the pictures do not fit.
    fn logits(&self, images: &Images) -> Result<Tensor>;
}

/// Scaled cosines to fixed texts; what most trained prompts come down to.
pub struct Cosine<'a> {
    /// The backbone.
    pub clip: &'a Clip,
    /// `[K, E]`, unit length.
    pub texts: Tensor,
}

impl Predict for Cosine<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        self.clip
            .logits(&images.unit_features(self.clip)?, &self.texts)
    }
}

/// Writes named values over a method's parameters.
///
/// # Errors
/// Names the parameters that are missing, unknown or of another shape, all at once.
pub fn load_parameters(method: &dyn Method, values: &BTreeMap<String, Tensor>) -> Result<()> {
    let parameters = method.parameters();
    let mut wrong = Vec::new();
    for (name, var) in &parameters {
        match values.get(name) {
            None => wrong.push(format!("{name} is missing")),
            Some(v) if v.dims() != var.dims() => {
                wrong.push(format!(
                    "{name} is {:?}, this method has {:?}",
                    v.dims(),
                    var.dims()
                ));
            }
            Some(_) => {}
        }
    }
    for name in values
        .keys()
        .filter(|n| !parameters.iter().any(|(p, _)| p == *n))
    {
        wrong.push(format!("{name} is no parameter of this method"));
    }
    if !wrong.is_empty() {
        candle_core::bail!("prompts do not fit: {}", wrong.join("; "));
    }
    for (name, var) in &parameters {
        var.set(&values[name].to_dtype(var.dtype())?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
