//! What a method asks of whoever runs it, as data: the runner feeds it accordingly, tables disclose it.

/// What a method sees of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// Features of the frozen image tower; they can be cached.
    Features,
    /// Pixels, because something in the image tower is learned or local features are read.
    Pixels,
    /// Features of the frozen image tower, of many views of one test picture at a time; nothing is trained before. Methods
    /// that see the same views share one encoding of them.
    Views {
        /// How many, the test view included.
        count: usize,
        /// Whether AugMix follows crop and flip where the protocol asks for it.
        augmix: bool,
    },
}

/// How the few shots are handed over as a whole, before any step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Each picture once, as in testing.
    Plain,
    /// So many passes of training views.
    Passes(usize),
}

/// Validation pictures a method chooses by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    /// None.
    None,
    /// The few that are drawn with the shots: at most four a class, as published.
    Few,
    /// As many a class as there are shots.
    AsShots,
    /// The whole validation split, which no few-shot learner would have; only to repeat published numbers.
    Whole,
}

/// What a training view of a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// A crop, flipped half the time; [`Needs::crop`] says how much of the picture it covers.
    Crop,
    /// The whole picture, its sides made equal, through two operations of RandAugment, as CoPrompt is trained.
    RandAugment,
}

/// Everything a method asks for. [`Needs::features`], [`Needs::pixels`] and [`Needs::views`] ask for nothing besides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Needs {
    /// What it sees of a picture.
    pub sees: Sees,
    /// Whether [`crate::Method::fit`] gets the few shots, and how.
    pub support: Option<Support>,
    /// Validation pictures that `fit` gets beside them.
    pub validation: Validation,
    /// Whether `fit` gets the test pictures with their labels: only to repeat released code that chooses by them.
    pub peeks: bool,
    /// Whether training batches are unlabelled training pictures of every class of the dataset.
    pub unlabelled: bool,
    /// Whether a second frozen backbone is needed.
    pub teacher: bool,
    /// Whether it must have learned prompts before.
    pub teacher_prompts: bool,
    /// Whether descriptions of the classes are needed.
    pub descriptions: bool,
    /// Whether test pictures come one at a time in an order that the seed draws, and the predictor remembers them.
    pub stream: bool,
    /// What training views of pictures are.
    pub view: View,
    /// What the second view is that each training picture comes with, drawn for itself; `None`: there is no second.
    pub second_view: Option<View>,
    /// Whether steps read features of the frozen image tower beside the pixels ([`crate::Batch::frozen_features`]).
    pub frozen_features: bool,
    /// Share of the picture that training crops cover.
    pub crop: (f64, f64),
    /// Whether its scores depend on whether the classes asked are those it was trained on.
    pub knows_split: bool,
    /// Whether a tower's own weights are trained: that one runs on the processor, wherever the other does.
    pub trains_tower: bool,
}

/// Share of the picture that training crops cover unless a release says otherwise.
pub const CROP: (f64, f64) = (0.08, 1.0);

impl Needs {
    /// Of a method that sees `sees` and asks for nothing besides.
    const fn only(sees: Sees) -> Self {
        Self {
            sees,
            support: None,
            validation: Validation::None,
            peeks: false,
            unlabelled: false,
            teacher: false,
            teacher_prompts: false,
            descriptions: false,
            stream: false,
            view: View::Crop,
            second_view: None,
            frozen_features: false,
            crop: CROP,
            knows_split: false,
            trains_tower: false,
        }
    }

    /// Features of the frozen image tower.
    pub const fn features() -> Self {
        Self::only(Sees::Features)
    }

    /// Pixels.
    pub const fn pixels() -> Self {
        Self::only(Sees::Pixels)
    }

    /// Features of the views of one test picture.
    pub const fn views(count: usize, augmix: bool) -> Self {
        Self::only(Sees::Views { count, augmix })
    }

    /// Whether test pictures come one at a time.
    pub fn one_at_a_time(&self) -> bool {
        self.stream || matches!(self.sees, Sees::Views { .. })
    }
}
