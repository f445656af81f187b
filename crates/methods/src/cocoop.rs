//! CoCoOp: a context that a small network shifts for each picture.
//!
//! Zhou et al., *Conditional Prompt Learning for Vision-Language Models*, <https://arxiv.org/abs/2203.05557>.
//! Follows the authors' `trainers/cocoop.py` at ff61507.

use candle_core::Result;

use crate::parts::conditional::Conditional;
use crate::parts::context::Start;
use crate::{
    Backbones, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Init, Method, Needs,
    Replay, TextCost, Training,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "cocoop",
    title: "CoCoOp",
    source: "https://arxiv.org/abs/2203.05557",
    group: Group::TextPrompts,
    training: Some(Training::sgd(10, 1, 0.002)),
    read: |s| Box::new(CoCoOpConfig(Start::read(s, 4, "a photo of a"))),
    checkpoint: Some(Checkpoint::PROMPT_LEARNER),
    replay: Replay::Steps(&["cocoop"], |r| {
        let mut table = r.settings(&[("n_ctx", "n_ctx")])?;
        table.insert("init".into(), r.words("ctx_init").into());
        Ok(table)
    }),
};

struct CoCoOpConfig(Start);

impl Config for CoCoOpConfig {
    fn needs(&self) -> Needs {
        Needs::features()
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost {
                per_picture: true,
                ..self.0.cost()
            },
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(Conditional::new(
            &on.clip, classes, &self.0, init,
        )?))
    }
}
