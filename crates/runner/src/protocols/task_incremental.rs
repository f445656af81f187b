//! Learn several datasets one after the other; after each, test on all of them: MTIL, as ZSCL has it.

use datasets::ClassSet;

use super::{Protocol, Shows, Stage, Starts};
use crate::record::TestSet;
use crate::start;

/// What it is.
pub static PROTOCOL: Protocol = Protocol {
    name: "task-incremental",
    title: "Datasets one after the other",
    explain: "Each method is trained on K labelled images of every class of one dataset after the other, going on from what \
              it has learned. After each it is tested on the whole test set of every dataset, learned or still to come, \
              among all classes of that dataset: which dataset an image is of is known.",
    starts: Starts::All,
    fields: &[],
    has_training: true,
    stages: |_, start| {
        let all = start::datasets(start).map(str::to_owned);
        let tests: Vec<_> = all.clone().map(|id| (id, TestSet::ALL)).collect();
        let stage = |id| Stage {
            train: vec![(id, ClassSet::All)],
            tests: tests.clone(),
        };
        all.map(stage).collect()
    },
    shows: Shows::Datasets,
};
