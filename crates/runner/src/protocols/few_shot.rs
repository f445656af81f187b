//! Train on K shots of all classes, test on all classes.

use datasets::ClassSet;

use super::{Protocol, Shows, Stage, Starts};
use crate::record::TestSet;

/// What it is.
pub static PROTOCOL: Protocol = Protocol {
    name: "few-shot",
    title: "Few-shot learning",
    explain: "Each method is trained on K labelled images of every class of a dataset (K shots) and tested on the \
              dataset's whole test set, told apart among all its classes.",
    starts: Starts::Each,
    fields: &[],
    has_training: true,
    stages: |_, dataset| {
        vec![Stage {
            train: vec![(dataset.to_owned(), ClassSet::All)],
            tests: vec![(dataset.to_owned(), TestSet::ALL)],
        }]
    },
    shows: Shows::Sets,
};
