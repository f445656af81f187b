//! Learned context vectors in a text: how the family lays them out around the class name.

use candle_core::{Result, Tensor, Var, bail};
use clip::{Clip, Slot, Wording};

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

/// Token ids of `text` with what stands before and behind it.
pub(crate) fn tokens(wording: &Wording, text: &str) -> Result<Vec<u32>> {
    wording.sequence(text).map_err(candle_core::Error::wrap)
}

/// The words a context starts from: how many there are (counted by spaces, as published) and their embeddings.
///
/// # Errors
/// No words, or words outside the vocabulary.
pub fn word_embeddings(clip: &Clip, words: &str, count: usize) -> Result<Tensor> {
    let wording = clip.text.wording();
    tokens(wording, words)?;
    let ids = wording.encode(words);
    if ids.len() < count {
        bail!(
            "{words:?} has {} tokens, {count} context vectors start from it",
            ids.len()
        );
    }
    clip.text.embed(&ids[..count])
}

/// How many words, as the published code counts them.
pub fn word_count(words: &str) -> usize {
    words.split(' ').count()
}

/// The ids of `lead` and `rest` as one text: what stands before the words, and what follows the `count` tokens of the
/// lead that a context replaces.
fn around(wording: &Wording, lead: &str, rest: &str, count: usize) -> Result<[Vec<Slot>; 2]> {
    let ids = tokens(wording, &format!("{lead} {rest}"))?;
    let first = wording.starts();
    if ids.len() < first + count {
        bail!(
            "{lead:?} are fewer than {count} tokens of this backbone, which the context replaces"
        );
    }
    let slots = |ids: &[u32]| ids.iter().map(|t| Slot::Token(*t)).collect();
    Ok([slots(&ids[..first]), slots(&ids[first + count..])])
}

/// A sequence for each class: `lead` (the words or `X`s that the context replaces), the name and a period, in which
/// context row `row(class, i)` takes the place of the `i`-th word.
///
/// # Errors
/// A text of more tokens than the tower of `wording` takes.
pub fn sequences(
    wording: &Wording,
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
            let [mut slots, rest] = around(wording, lead, &format!("{name}."), count)?;
            let context: Vec<Slot> = (0..count).map(|i| Slot::Context(row(class, i))).collect();
            let name_length = wording.encode(name).len();
            let (before, after) = match position {
                Position::End => (count, 0),
                Position::Middle => (count / 2, name_length),
                Position::Front => (0, name_length),
            };
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
/// A text of more tokens than the tower of `wording` takes.
pub fn sequences_before(
    wording: &Wording,
    classes: &Classes,
    rest: &str,
    count: usize,
    row: impl Fn(usize, usize) -> usize,
) -> Result<Vec<Vec<Slot>>> {
    let lead = placeholder(count);
    let texts = classes.texts(rest);
    let one = |(class, text): (usize, &String)| {
        let [mut slots, words] = around(wording, &lead, text, count)?;
        slots.extend((0..count).map(|i| Slot::Context(row(class, i))));
        slots.extend(words);
        Ok(slots)
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
        let slots = sequences(
            &Wording::default(),
            &classes,
            &placeholder(4),
            4,
            position,
            |_, i| i,
        )
        .unwrap();
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
