//! The text input of the deep family: words of which the first are learned, and rows that renew them at deeper blocks.

use candle_core::{Result, Tensor};
use clip::{Clip, DeepText, Slot, TextPlan};

use super::layout::{self, Position};
use crate::{Classes, Init};

/// The text input of the deep family: words, of which the first `count` are learned.
#[derive(Clone, Debug)]
pub(crate) struct Lead {
    pub(crate) words: String,
    pub(crate) count: usize,
}

impl Lead {
    /// The words and the first values of their learned part. As published, more than four context tokens, or no words,
    /// start from noise with `X` in the words' place.
    pub(crate) fn start(
        clip: &Clip,
        words: Option<&str>,
        count: usize,
        init: &mut Init,
    ) -> Result<(Self, Tensor)> {
        match words {
            Some(words) if count <= 4 => {
                let lead = Self {
                    words: words.to_owned(),
                    count,
                };
                Ok((lead, layout::word_embeddings(clip, words, count)?))
            }
            _ => {
                let values = init.normal(&[count, clip.text.width()], 0.02)?;
                Ok((
                    Self {
                        words: layout::placeholder(count),
                        count,
                    },
                    values,
                ))
            }
        }
    }

    /// Sequences of `classes`.
    pub(crate) fn plan(&self, clip: &Clip, classes: &Classes) -> Result<TextPlan> {
        let sequences: Vec<Vec<Slot>> = layout::sequences(
            clip.text.wording(),
            classes,
            &self.words,
            self.count,
            Position::End,
            |_, i| i,
        )?;
        clip.text.plan(&sequences)
    }
}

/// Deep text rows for blocks 1, 2, ...: they overwrite the places of the input context.
pub(crate) fn deep_text(rows: impl IntoIterator<Item = Tensor>) -> Vec<DeepText> {
    rows.into_iter()
        .zip(1..)
        .map(|(rows, block)| DeepText::instead(block, 1, rows))
        .collect()
}
