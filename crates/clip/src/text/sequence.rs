//! What a text is made of before the tower sees it.

/// One position of a text sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// A vocabulary word, by its token id.
    Token(u32),
    /// A learned vector: a row of [`crate::TextPrompt::context`].
    Context(usize),
}
