//! What a method's passes through the towers are, for counting operations before and after a run.

use std::ops::Range;

use clip::ops::Work;

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
    /// Blocks below the first that something learned enters: nothing goes back through them, and where a step has a frozen
    /// pass, too, both passes have them in common. Of a tower that has no more, all but the last.
    pub below: usize,
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
        below: 0,
    };

    /// One pass forward and back with `tokens` tokens more.
    pub const fn trained(tokens: usize) -> Self {
        Self {
            frozen: 0.0,
            trained: 1.0,
            tokens,
            below: 0,
        }
    }

    /// Operations of a step's passes without a gradient, and of those with one. `work` says what a range of the tower's
    /// `depth` blocks does with so many tokens more: the embedding comes with the first block, the projection with the last.
    pub fn operations(&self, depth: usize, work: impl Fn(Range<usize>, usize) -> Work) -> [f64; 2] {
        let below = self.below.min(depth.saturating_sub(1));
        let common = match below {
            0 => 0.0,
            _ => self.frozen.max(self.trained) * work(0..below, 0).forward,
        };
        [
            common + self.frozen * work(below..depth, 0).forward,
            self.trained * work(below..depth, self.tokens).both(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_below_the_first_prompted_one_count_once_and_forward_only() {
        // An embedding of 100 operations; a block does 10 forward and 20 back, and 1 and 2 more for each token.
        let work = |blocks: Range<usize>, tokens: usize| {
            let own = (blocks.len() * (10 + tokens)) as f64;
            let embedding = if blocks.start == 0 { 100.0 } else { 0.0 };
            Work {
                forward: embedding + own,
                backward: 2.0 * own,
            }
        };
        let both = |below, depth| {
            let cost = ImageCost {
                frozen: 1.0,
                below,
                ..ImageCost::trained(5)
            };
            cost.operations(depth, work)
        };
        assert_eq!(both(0, 4), [140.0, 100.0 + 180.0]);
        assert_eq!(both(3, 4), [100.0 + 30.0 + 10.0, 45.0]);
        assert_eq!(both(3, 2), [100.0 + 10.0 + 10.0, 45.0]);
        let alone = ImageCost {
            below: 1,
            ..ImageCost::trained(0)
        };
        assert_eq!(alone.operations(4, work), [110.0, 90.0]);
        assert_eq!(ImageCost::FROZEN.operations(4, work), [140.0, 0.0]);
    }
}
