//! Deep language prompting: IVLP without its image half.
//!
//! A baseline of Khattak et al., *MaPLe*, <https://arxiv.org/abs/2210.03117> (their `IVLP` trainer with vision depth 0,
//! 69bce21): 4 tokens, all 12 layers, lr 0.0025, 5 epochs, batch 4.

use candle_core::Result;

use crate::parts::independent::{Independent, Sizes};
use crate::{
    Backbones, Checkpoint, Classes, Config, Cost, Entry, Group, Init, Method, Needs, Replay,
    Settings, Training,
};

/// Registry entry. Recorded runs of it are IVLP's.
pub const ENTRY: Entry = Entry {
    name: "language-prompting",
    title: "Language prompting",
    source: "https://arxiv.org/abs/2210.03117",
    group: Group::TextPrompts,
    training: Some(Training::sgd(5, 4, 0.0025)),
    read: |s| Box::new(LanguageConfig(read(s))),
    checkpoint: Some(Checkpoint::WHOLE_MODEL),
    replay: Replay::None,
};

struct LanguageConfig(Sizes);

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

impl Config for LanguageConfig {
    fn needs(&self) -> Needs {
        self.0.needs()
    }

    fn cost(&self) -> Cost {
        self.0.cost()
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(Independent::new(
            &on.clip, classes, &self.0, init,
        )?))
    }
}
