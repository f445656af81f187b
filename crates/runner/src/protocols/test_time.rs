//! No training set: adapt to one test picture at a time.

use super::{Protocol, Shows, Stage, Starts};
use crate::record::TestSet;

/// What it is.
pub static PROTOCOL: Protocol = Protocol {
    name: "test-time",
    title: "Test-time adaptation",
    explain: "Nothing is trained beforehand: a method sees one unlabelled test image at a time, may adapt to it, answers, \
              and starts afresh for the next.",
    starts: Starts::Each,
    fields: &[],
    has_training: false,
    stages: |_, dataset| {
        vec![Stage {
            train: Vec::new(),
            tests: vec![(dataset.to_owned(), TestSet::ALL)],
        }]
    },
    shows: Shows::Sets,
};
