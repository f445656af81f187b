//! TPT: tune the context on one test picture at a time, so that its views agree; then forget.
//!
//! Shu et al., *Test-Time Prompt Tuning for Zero-Shot Generalization*, <https://arxiv.org/abs/2209.07511>.
//! Follows the authors' `tpt_classification.py` at 63ecbac.
//!
//! Differs: no autocast, hence no GradScaler, which skips a picture's step when its half-precision gradient overflows.

use candle_core::Result;

use crate::parts::tuning::{Objective, Tuner, Tuning, replay};
use crate::parts::views::mean_entropy;
use crate::{
    Backbones, Classes, Config, Cost, Entry, Group, Init, Loss, Method, Needs, Replay, Settings,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "tpt",
    title: "TPT",
    source: "https://arxiv.org/abs/2209.07511",
    group: Group::TestTime,
    training: None,
    read: |s| Box::new(TptConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["tpt"], |stage, c| {
        replay(stage, c, |s| (TptConfig::read(s).0, objective())).map(|_| ())
    }),
};

#[derive(Clone, Debug)]
struct TptConfig(Tuning);

impl TptConfig {
    fn read(s: &mut Settings) -> Self {
        Self(Tuning::read(s))
    }
}

/// The kept views' entropy, together.
fn objective() -> Objective {
    Box::new(|kept, _| Loss::sum(vec![("entropy", mean_entropy(kept)?)]))
}

impl Config for TptConfig {
    fn needs(&self) -> Needs {
        self.0.needs()
    }

    fn cost(&self) -> Cost {
        self.0.cost()
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let tuner = Tuner::new(&on.clip, classes, &self.0, objective(), init)?;
        Ok(Box::new(tuner))
    }
}
