//! Texts of classes as a text tower lays them out, for counting what they take: no weight.

use clip::ops::Layout;
use clip::text::{Slot, layouts};

use crate::run::population::{NAME_TOKENS, Name, Words};

/// Most tokens that a class has of its own.
const OWN: usize = 1 << 16;
/// Period and end.
const LAST: [Slot; 2] = [Slot::Token(u32::MAX - 1), Slot::Token(u32::MAX)];

/// Texts, a class each.
#[derive(Debug)]
pub struct Texts {
    /// Where every start that texts share has its rows once.
    pub shared: Vec<Layout>,
    /// Tokens of each.
    pub lengths: Vec<usize>,
}

impl Texts {
    /// Of texts made of these slots.
    pub fn new(sequences: &[Vec<Slot>]) -> Self {
        Self {
            shared: layouts(sequences),
            lengths: sequences.iter().map(Vec::len).collect(),
        }
    }

    /// Of these names. What shares no start is told apart by slots of its own: names that are not known, and words that do
    /// not stand before all names.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a Name>, words: Words) -> Self {
        let sequence = |(class, name): (usize, &Name)| {
            // The start token is one more that all share.
            let mut slots: Vec<Slot> = (0..=words.shared).map(Slot::Context).collect();
            let mut own = ((class + 1) * OWN..).map(Slot::Context);
            slots.extend(own.by_ref().take(words.all.saturating_sub(words.shared)));
            match name {
                Name::Known(tokens) => slots.extend(tokens.iter().copied().map(Slot::Token)),
                Name::Unknown => slots.extend(own.take(NAME_TOKENS)),
            }
            slots.extend(LAST);
            slots
        };
        let sequences: Vec<Vec<Slot>> = names.enumerate().map(sequence).collect();
        Self::new(&sequences)
    }
}
