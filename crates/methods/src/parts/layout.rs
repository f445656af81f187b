//! Learned context vectors in a text: how the family lays them out around the class name.

use candle_core::{Result, Tensor, Var, bail};
use clip::{Clip, Slot, Tokenizer};

use crate::Classes;

/// Where the class name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// `[context] name.`
    End,
    /// `[first half] name [second half].`
    Middle,
    /// `name [context].`
    Front,
}

/// Token ids of `text` with start and end.
pub(crate) fn tokens(text: &str) -> Result<Vec<u32>> {
    Tokenizer::shared()
        .sequence(text)
        .map_err(candle_core::Error::wrap)
}

/// The words a context starts from: how many there are (counted by spaces, as published) and their embeddings.
///
/// # Errors
/// No words, or words outside the vocabulary.
pub fn word_embeddings(clip: &Clip, words: &str, count: usize) -> Result<Tensor> {
    let ids = tokens(words)?;
    if ids.len() < count + 2 {
        bail!(
            "{words:?} has {} tokens, {count} context vectors start from it",
            ids.len() - 2
        );
    }
    clip.text.embed(&ids[1..1 + count])
}

/// How many words, as the published code counts them.
pub fn word_count(words: &str) -> usize {
    words.split(' ').count()
}

/// A sequence for each class: `lead` (the words or `X`s that the context replaces), the name and a period, in which
/// context row `row(class, i)` takes the place of the `i`-th word.
///
/// # Errors
/// A text of more than 77 tokens.
pub fn sequences(
    classes: &Classes,
    lead: &str,
    count: usize,
    position: Position,
    row: impl Fn(usize, usize) -> usize,
) -> Result<Vec<Vec<Slot>>> {
    classes
        .names
        .iter()
        .enumerate()
        .map(|(class, name)| {
            let ids = tokens(&format!("{lead} {name}."))?;
            let context: Vec<Slot> = (0..count).map(|i| Slot::Context(row(class, i))).collect();
            let start = Slot::Token(ids[0]);
            let rest: Vec<Slot> = ids[1 + count..].iter().map(|t| Slot::Token(*t)).collect();
            let name_length = Tokenizer::shared().encode(name).len();
            let (before, after) = match position {
                Position::End => (count, 0),
                Position::Middle => (count / 2, name_length),
                Position::Front => (0, name_length),
            };
            let mut slots = vec![start];
            slots.extend(&context[..before]);
            slots.extend(&rest[..after]);
            slots.extend(&context[before..]);
            slots.extend(&rest[after..]);
            Ok(slots)
        })
        .collect()
}

/// A sequence for each class: `count` context rows `row(class, i)`, then `rest` with the name in the place of `{}`.
///
/// # Errors
/// A text of more than 77 tokens.
pub fn sequences_before(
    classes: &Classes,
    rest: &str,
    count: usize,
    row: impl Fn(usize, usize) -> usize,
) -> Result<Vec<Vec<Slot>>> {
    let lead = placeholder(count);
    let texts = classes.texts(rest);
    let one = |(class, text): (usize, &String)| {
        let ids = tokens(&format!("{lead} {text}"))?;
        let words = ids[1 + count..].iter().map(|t| Slot::Token(*t));
        let context = (0..count).map(|i| Slot::Context(row(class, i)));
        Ok(std::iter::once(Slot::Token(ids[0]))
            .chain(context)
            .chain(words)
            .collect())
    };
    texts.iter().enumerate().map(one).collect()
}

/// `X` once for each context vector: the placeholder of contexts that start from noise.
pub fn placeholder(count: usize) -> String {
    vec!["X"; count].join(" ")
}

/// A trained tensor from its initial value.
///
/// # Errors
/// Those of candle.
pub fn variable(initial: &Tensor) -> Result<Var> {
    Var::from_tensor(&initial.detach())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(position: Position) -> Vec<char> {
        let classes = Classes::new(&["annual_crop land".into()], "any", "{}");
        let slots = sequences(&classes, &placeholder(4), 4, position, |_, i| i).unwrap();
        slots[0]
            .iter()
            .map(|s| {
                if matches!(s, Slot::Context(_)) {
                    'c'
                } else {
                    't'
                }
            })
            .collect()
    }

    #[test]
    fn the_class_name_stands_where_it_is_asked_to() {
        assert_eq!(
            shape(Position::End),
            "tcccctttt".chars().chain("t".chars()).collect::<Vec<_>>()
        );
        assert_eq!(
            shape(Position::Middle),
            "tcctttcctt".chars().collect::<Vec<_>>()
        );
        assert_eq!(
            shape(Position::Front),
            "ttttcccctt".chars().collect::<Vec<_>>()
        );
    }
}
