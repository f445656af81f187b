//! CoOp: learn the words around the class name; CLIP stays frozen.
//!
//! Zhou et al., *Learning to Prompt for Vision-Language Models*, <https://arxiv.org/abs/2109.01134>.
//! Follows the authors' `trainers/coop.py` at ff61507.
//!
//! `K` classes, `M` context vectors, `W` text width, `E` joint width, `B` images.

use candle_core::{Result, Var};

use crate::parts::context::{Context, Start, read_position};
use crate::parts::losses::cross_entropy;
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Init, Loss,
    Method, Needs, Predict, Replay, Settings, Training,
};

/// Registry entry. 200 epochs are the paper's for 8 and 16 shots; 50 for 1 shot, 100 for 2 and 4, 50 on ImageNet.
pub const ENTRY: Entry = Entry {
    name: "coop",
    title: "CoOp",
    source: "https://arxiv.org/abs/2109.01134",
    group: Group::TextPrompts,
    training: Some(Training::sgd(200, 32, 0.002)),
    read: |s| Box::new(CoOpConfig::read(s)),
    checkpoint: Some(Checkpoint::PROMPT_LEARNER),
    replay: Replay::Steps(&["coop"], |r| {
        let mut table = r.settings(&[
            ("n_ctx", "n_ctx"),
            ("position", "position"),
            ("csc", "per_class"),
        ])?;
        table.insert("init".into(), r.words("ctx_init").into());
        Ok(table)
    }),
};

/// Settings.
#[derive(Clone, Debug)]
struct CoOpConfig(Start);

impl CoOpConfig {
    fn read(s: &mut Settings) -> Self {
        let count = s.count(
            "n_ctx",
            16,
            1..=72,
            "context vectors, M; the words' count replaces it when `init` is set",
        );
        let init = s.words(
            "init",
            "",
            "words the context starts from; none: normal noise of deviation 0.02",
        );
        let position = read_position(s);
        let per_class = s.flag(
            "per_class",
            false,
            "a context for each class instead of one for all",
        );
        if per_class && init.is_some() {
            s.refuse(
                "per_class",
                "contexts for each class start from noise; leave out `init`",
            );
        }
        Self(Start {
            count,
            init,
            position,
            per_class,
        })
    }
}

impl Config for CoOpConfig {
    fn needs(&self) -> Needs {
        Needs::features()
    }

    fn cost(&self) -> Cost {
        Cost {
            text: self.0.cost(),
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(Context::new(&on.clip, classes, &self.0, init)?))
    }
}

impl Method for Context {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.named()
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let images = batch.images.unit_features(&self.clip)?; // [B, E]
        let texts = self.texts(self.ctx.as_tensor())?; // [K, E]
        Ok(cross_entropy(&self.clip.logits(&images, &texts)?, &batch.labels)?.into())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.rebind(classes)
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        self.cosine()
    }
}
