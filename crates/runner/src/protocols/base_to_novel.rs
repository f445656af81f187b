//! Train on K shots of the base classes, test on base and on novel classes, each among themselves.

use datasets::ClassSet;

use super::{Protocol, Shows, Stage, Starts};
use crate::record::TestSet;

/// What it is.
pub static PROTOCOL: Protocol = Protocol {
    name: "base-to-novel",
    title: "Base-to-novel generalization",
    explain: "A dataset's classes, sorted by label, are cut in half: the first half (rounded up) is the base classes, the \
              rest the novel ones. Each method is trained on K labelled images of every base class and tested twice: on \
              base test images among base classes, and on novel test images among novel classes, which it has never seen.",
    starts: Starts::Each,
    fields: &[],
    has_training: true,
    stages: |_, dataset| {
        vec![Stage {
            train: vec![(dataset.to_owned(), ClassSet::Base)],
            tests: vec![
                (dataset.to_owned(), TestSet::BASE),
                (dataset.to_owned(), TestSet::NOVEL),
            ],
        }]
    },
    shows: Shows::Halves {
        base: TestSet::BASE,
        novel: TestSet::NOVEL,
    },
};
