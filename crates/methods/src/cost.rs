//! What a method's passes through the towers are, for counting operations before and after a run.

/// Passes through the towers: of a training step, of a candidate where a method searches (forward passes only), or of a test
/// picture where it adapts to it. Counted, not timed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// The text tower.
    pub text: TextCost,
    /// The image tower.
    pub image: ImageCost,
}

/// Passes over the texts of all classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextCost {
    /// Tokens beside a class's name, its period, start and end.
    pub words: usize,
    /// How many of these stand before every name and are the same for all classes: computed once.
    pub shared: usize,
    /// Forward passes a step (or a test picture adapted to, beside the one that all pictures start from).
    pub forward: f64,
    /// Passes back through the tower a step.
    pub backward: f64,
    /// Whether each picture has texts of its own.
    pub per_picture: bool,
    /// Whether the texts are those of every class of the dataset, whatever half is learned or asked about.
    pub whole: bool,
}

/// Passes over the pictures of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageCost {
    /// Forward passes of the frozen tower a step; cached features spare them.
    pub frozen: f64,
    /// Forward and backward passes of the tower with something learned in it.
    pub trained: f64,
    /// Tokens in the tower beside class token and patches.
    pub tokens: usize,
}

/// Words of a hand-written prompt ("a photo of a").
pub const WORDS: usize = 4;

impl TextCost {
    /// Hand-written texts, computed once and for all.
    pub const FROZEN: Self = Self {
        words: WORDS,
        shared: WORDS,
        forward: 0.0,
        backward: 0.0,
        per_picture: false,
        whole: false,
    };

    /// One pass forward and back a step, with `words` learned or fixed tokens before each name.
    pub const fn trained(words: usize) -> Self {
        Self {
            words,
            shared: words,
            forward: 1.0,
            backward: 1.0,
            per_picture: false,
            whole: false,
        }
    }
}

impl ImageCost {
    /// One forward pass of the frozen tower.
    pub const FROZEN: Self = Self {
        frozen: 1.0,
        trained: 0.0,
        tokens: 0,
    };

    /// One pass forward and back with `tokens` tokens more.
    pub const fn trained(tokens: usize) -> Self {
        Self {
            frozen: 0.0,
            trained: 1.0,
            tokens,
        }
    }
}
