//! The traits of a method, and what it is given.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};
use clip::Clip;

use crate::classes::Classes;
use crate::cost::Cost;
use crate::init::Init;
use crate::needs::Needs;

/// A method's checked settings.
pub trait Config: Send + Sync {
    /// What the method asks of whoever runs it.
    fn needs(&self) -> Needs;

    /// Its passes through the towers. No default: a method that is not counted would look free.
    fn cost(&self) -> Cost;

    /// How it searches the few shots, where it does.
    fn search(&self) -> Option<Search> {
        None
    }

    /// Binds the method to backbones and classes, with fresh initial values.
    ///
    /// # Errors
    /// A backbone that cannot take its prompts, class names that are too long, words outside the vocabulary, a teacher or
    /// descriptions that are not there.
    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>>;

    /// As [`Config::build`], for several datasets learned at once, each a task. A method that knows no tasks learns the
    /// classes of all as if they were one dataset's. Labels go on from one task's classes to the next's, and
    /// [`Batch::tasks`] tells of which task each picture is. The built method is bound to [`Classes::joined`] of the tasks,
    /// which is also what it is bound to before [`Method::restore`] and before each further stage of learning.
    ///
    /// # Errors
    /// As [`Config::build`].
    fn build_tasks(
        &self,
        on: &Backbones,
        tasks: &[Classes],
        init: &mut Init,
    ) -> Result<Box<dyn Method>> {
        self.build(on, &Classes::joined(tasks), init)
    }
}

/// A search over the few shots, in rounds: no gradient, so what it costs is how many candidates are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// How often [`Method::search`] is called.
    pub rounds: usize,
    /// Most candidates that all rounds together score, each on every shot.
    pub candidates: usize,
}

/// What a round of a search came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// Candidates that it scored.
    pub scored: usize,
    /// Smallest value so far of what the search makes small: a loss, or the share of the shots that are told wrong.
    pub loss: f64,
}

/// What a search asks a command outside of the program. The caller runs it and keeps the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The command with its arguments; never a shell's.
    pub command: Vec<String>,
    /// What it reads, as one line.
    pub request: serde_json::Value,
    /// Longest that it may take, in seconds.
    pub seconds: u64,
}

/// The frozen models a method is built on.
#[derive(Clone)]
pub struct Backbones {
    /// The one it adapts.
    pub clip: Arc<Clip>,
    /// A second one, for methods that learn from it.
    pub teacher: Option<Arc<Clip>>,
    /// What the second one learned before, by published name.
    pub teacher_prompts: Option<Arc<BTreeMap<String, Tensor>>>,
}

impl From<Arc<Clip>> for Backbones {
    fn from(clip: Arc<Clip>) -> Self {
        Self {
            clip,
            teacher: None,
            teacher_prompts: None,
        }
    }
}

impl Backbones {
    /// The second backbone.
    ///
    /// # Errors
    /// When there is none, saying how one is named.
    pub fn teacher(&self) -> Result<&Arc<Clip>> {
        match &self.teacher {
            Some(teacher) => Ok(teacher),
            None => bail!("this method learns from a second backbone; name it with `teacher`"),
        }
    }

    /// What the second backbone learned before.
    ///
    /// # Errors
    /// When there is nothing, saying how it is given.
    pub fn teacher_prompts(&self) -> Result<&BTreeMap<String, Tensor>> {
        match &self.teacher_prompts {
            Some(prompts) => Ok(prompts),
            None => bail!(
                "this method learns from a second backbone with prompts; give those with `teacher_prompts`: train \
                 promptsrc on that backbone, or bring the checkpoint of its authors"
            ),
        }
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
        clip::model::unit(&self.features(clip)?)
    }

    /// Features `[B, E]` as they leave the image tower, without a graph.
    ///
    /// # Errors
    /// Those of the image tower.
    pub fn features(&self, clip: &Clip) -> Result<Tensor> {
        match self {
            Self::Features(f) => Ok(f.clone()),
            Self::Pixels(p) => clip.encode_image(p),
        }
    }

    /// The pixels.
    ///
    /// # Errors
    /// When only features were given; the caller did not ask [`Config::needs`].
    pub fn pixels(&self) -> Result<&Tensor> {
        match self {
            Self::Pixels(p) => Ok(p),
            Self::Features(_) => bail!("this method needs pixels, it was given features"),
        }
    }

    /// How many.
    ///
    /// # Errors
    /// Those of candle.
    pub fn count(&self) -> Result<usize> {
        match self {
            Self::Pixels(t) | Self::Features(t) => t.dim(0),
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
    /// A second view of each, where the method asks for one.
    pub second: Option<Images>,
    /// Features of the frozen image tower `[B, E]`, not normalised, of the same views, where they are at hand.
    pub frozen: Option<Tensor>,
    /// `[B]`, u32: which of several datasets each picture is of, where several are learned at once.
    pub tasks: Option<Tensor>,
    /// Seeds what the method draws in this step; another number each step, so that a trial that goes on from a
    /// checkpoint draws alike.
    pub seed: u64,
}

impl Batch {
    /// The second views.
    ///
    /// # Errors
    /// When there are none; the caller did not ask [`Config::needs`].
    pub fn second(&self) -> Result<&Images> {
        match &self.second {
            Some(second) => Ok(second),
            None => bail!("this method needs a second view of each picture, it was given one"),
        }
    }

    /// Features `[B, E]` of unit length of the pictures, by the frozen image tower of `clip`, without a graph: those at hand,
    /// else of the pixels. A method that sees pixels says that it asks ([`crate::Needs::frozen_features`]).
    ///
    /// # Errors
    /// Those of the image tower.
    pub fn frozen_features(&self, clip: &Clip) -> Result<Tensor> {
        match &self.frozen {
            Some(features) => clip::model::unit(features),
            None => self.images.unit_features(clip),
        }
    }

    /// Pictures with their labels and nothing besides.
    pub fn new(images: Images, labels: Tensor) -> Self {
        Self {
            images,
            labels,
            second: None,
            frozen: None,
            tasks: None,
            seed: 0,
        }
    }
}

/// Pictures with their labels, as a whole.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// Each pass over the pictures: the same pictures in the same order, in other views.
    pub passes: Vec<Images>,
    /// Of each picture.
    pub labels: Vec<u32>,
}

/// What [`Method::fit`] gets.
#[derive(Clone, Debug)]
pub struct Shots {
    /// The few labelled training pictures.
    pub train: Labelled,
    /// Validation pictures, where [`Needs::validation`] asks for some; one pass.
    pub validation: Option<Labelled>,
    /// Test pictures of the classes trained on, where [`Needs::peeks`] asks for them; one pass.
    pub test: Option<Labelled>,
    /// Seeds what the method draws.
    pub seed: u64,
}

/// A loss and what it is made of.
#[derive(Clone, Debug)]
pub struct Loss {
    /// What is minimised, a scalar.
    pub total: Tensor,
    /// Named parts, weighted as they enter; they add up to the total.
    pub parts: Vec<(&'static str, Tensor)>,
    /// Named scalars beside it that are no part of the total: what steers the gradient, or tells how it came about.
    pub beside: Vec<(&'static str, Tensor)>,
}

impl Loss {
    /// The sum of `parts`.
    ///
    /// # Errors
    /// Those of candle; no parts.
    pub fn sum(parts: Vec<(&'static str, Tensor)>) -> Result<Self> {
        let mut total: Option<Tensor> = None;
        for (_, part) in &parts {
            total = Some(match total {
                None => part.clone(),
                Some(sum) => (sum + part)?,
            });
        }
        let Some(total) = total else {
            bail!("a loss has at least one part");
        };
        Ok(Self {
            total,
            parts,
            beside: Vec::new(),
        })
    }
}

impl From<Tensor> for Loss {
    fn from(total: Tensor) -> Self {
        Self {
            parts: vec![("cross_entropy", total.clone())],
            total,
            beside: Vec::new(),
        }
    }
}

/// A method bound to backbones and classes.
pub trait Method: Send {
    /// Trained tensors under the published names, in a fixed order.
    fn parameters(&self) -> Vec<(String, Var)>;

    /// What else must be kept to go on from here, between any two steps, or to score again: caches, searched numbers,
    /// running averages. Whatever a later step, [`Method::end_epoch`], [`Method::finish`] or predictor depends on and that
    /// building the method anew would not give is here or among the parameters; a test asks it of every method.
    fn state(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// Puts back what [`Method::state`] gave. The method is bound to the classes that it learned last.
    ///
    /// # Errors
    /// Names or shapes that are not its own.
    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        no_state(state)
    }

    /// Called when a stage of learning begins, once the method is bound to its classes and before it sees their pictures;
    /// not where a stage goes on from a checkpoint. What earlier stages learned is there; a method that starts some of it
    /// anew does so here.
    ///
    /// # Errors
    /// Those of candle.
    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    /// Called once in a stage before any step, where [`Needs::support`] asks for the few shots. A method without steps does all it
    /// does here.
    ///
    /// # Errors
    /// Those of candle.
    fn fit(&mut self, _shots: &Shots) -> Result<()> {
        Ok(())
    }

    /// One round of a search, behind [`Method::fit`] and before any test, as often as [`Config::search`] says. Everything that
    /// the next round depends on is in [`Method::state`] then; `seed` seeds what this one draws, another number each round.
    ///
    /// # Errors
    /// Those of candle.
    fn search(&mut self, _shots: &Shots, _seed: u64) -> Result<Round> {
        bail!("this method does not search")
    }

    /// What the next round of a search asks a command for, where it asks anything.
    fn asks(&self) -> Option<Question> {
        None
    }

    /// Takes the lines that answer [`Method::asks`], for the next round; gives what is wrong with those that are of no use.
    ///
    /// # Errors
    /// Those of candle.
    fn answered(&mut self, _lines: &[String]) -> Result<Vec<String>> {
        bail!("this method asks nothing")
    }

    /// What it found, for people to read: names with texts or numbers, in the order they are told.
    fn found(&self) -> Vec<(&'static str, serde_json::Value)> {
        Vec::new()
    }

    /// The loss of a batch.
    ///
    /// # Errors
    /// When the batch does not fit.
    fn loss(&mut self, _batch: &Batch) -> Result<Loss> {
        bail!("this method has no training steps")
    }

    /// Those of [`Method::parameters`] that the next step trains.
    fn trained_now(&self) -> Vec<(String, Var)> {
        self.parameters()
    }

    /// Factor on the learning rate of a parameter.
    fn rate(&self, _parameter: &str) -> f64 {
        1.0
    }

    /// Gradients of a loss. A hook for methods that do more than minimise it.
    ///
    /// # Errors
    /// Those of candle.
    fn gradients(&self, loss: &Loss) -> Result<GradStore> {
        loss.total.backward()
    }

    /// Called after each step, `done` of `all` steps being done then.
    ///
    /// # Errors
    /// Those of candle.
    fn stepped(&mut self, _done: usize, _all: usize) -> Result<()> {
        Ok(())
    }

    /// Called after each epoch (0-based) of `epochs`.
    ///
    /// # Errors
    /// Those of candle.
    fn end_epoch(&mut self, _epoch: usize, _epochs: usize) -> Result<()> {
        Ok(())
    }

    /// Called once after the last epoch or round, before anything is tested or saved.
    ///
    /// # Errors
    /// Those of candle.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    /// Binds the trained prompts to other classes: all that depends on classes is rebuilt here and nowhere else.
    ///
    /// Before a test these are the classes of one dataset. A method built for several tells which task it is asked about by
    /// [`Classes::dataset`], and that it was not trained on that dataset where no task has this id
    /// ([`Classes::places_of`] of the joined classes is `None`). A trial of several stages is bound to each stage's new
    /// classes before it learns them, alone, and then to those it is asked about: all seen so far, those of an earlier
    /// stage first.
    ///
    /// # Errors
    /// When the prompts cannot go there (contexts of their own for each class), or names do not fit.
    fn bind(&mut self, classes: &Classes) -> Result<()>;

    /// Everything that depends on prompts and classes but not on pictures, computed once. State that test pictures leave
    /// behind ([`Needs::stream`]) lives as long as the predictor.
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

    /// What the pictures so far have left behind, where it remembers any ([`Needs::stream`]): with it, another predictor
    /// of the same method scores the next ones alike.
    ///
    /// # Errors
    /// Those of candle.
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(Vec::new())
    }

    /// Puts back what [`Predict::state`] gave, before any picture is scored.
    ///
    /// # Errors
    /// Names or shapes that are not its own.
    fn restore(&self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        no_state(state)
    }
}

/// Refuses the state of something that has none.
pub(crate) fn no_state(state: &BTreeMap<String, Tensor>) -> Result<()> {
    match state.keys().next() {
        None => Ok(()),
        Some(name) => bail!("{name} is no state of this method"),
    }
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
