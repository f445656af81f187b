//! Independent vision-language prompting: deep prompts in both towers, learned side by side.
//!
//! Rasheed et al., *Fine-tuned CLIP Models are Efficient Video Learners*, <https://arxiv.org/abs/2212.03640>, as the
//! `IVLP` trainer of MaPLe's code (69bce21) and PromptSRC's (bb95c77) has it.

use candle_core::Result;

use crate::parts::independent::{Independent, Sizes};
use crate::{
    Backbones, Checkpoint, Classes, Config, Cost, Entry, Group, Init, Method, Needs, Replay,
    Training,
};

/// Registry entry. Defaults are PromptSRC's baseline; MaPLe's repository has 2 + 2 tokens, depth 12, lr 0.0035, 5 epochs.
pub const ENTRY: Entry = Entry {
    name: "ivlp",
    title: "IVLP",
    source: "https://arxiv.org/abs/2212.03640",
    group: Group::BothTowers,
    training: Some(Training::sgd(20, 4, 0.0025)),
    read: |s| Box::new(Ivlp(Sizes::read(s))),
    checkpoint: Some(Checkpoint::WHOLE_MODEL),
    replay: Replay::Steps(&["ivlp"], Sizes::recorded),
};

struct Ivlp(Sizes);

impl Config for Ivlp {
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
