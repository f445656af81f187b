//! Deep language prompting: IVLP without its image half.
//!
//! A baseline of Khattak et al., *MaPLe*, <https://arxiv.org/abs/2210.03117> (their `IVLP` trainer with vision depth 0,
//! 69bce21): 4 tokens, all 12 layers, lr 0.0025, 5 epochs, batch 4.

use crate::ivlp::Sizes;
use crate::{Entry, Settings, Training};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "language-prompting",
    title: "Language prompting",
    source: "https://arxiv.org/abs/2210.03117",
    training: Some(Training::sgd(5, 4, 0.0025)),
    read: |s| Box::new(read(s)),
};

fn read(s: &mut Settings) -> Sizes {
    Sizes {
        text: s.count("n_ctx", 4, 1..=72, "context tokens"),
        image: 0,
        depth_text: s.depth("depth", 12, "prompted text layers, J, the input included"),
        depth_image: None,
        init: s.words(
            "init",
            "a photo of a",
            "words of the text input; the first n_ctx are learned, the rest stay",
        ),
    }
}
