//! Train on K shots of the base classes, then ask among base and novel classes at once.
//!
//! Base-to-novel never asks whether a method tells a novel class from a base one; whoever uses a prompt does.

use datasets::ClassSet;

use super::{Protocol, Shows, Stage, Starts};
use crate::record::TestSet;

/// Base pictures, told apart among all classes.
const BASE: TestSet = TestSet {
    pictures: ClassSet::Base,
    among: ClassSet::All,
};

/// Novel pictures, told apart among all classes.
const NOVEL: TestSet = TestSet {
    pictures: ClassSet::Novel,
    among: ClassSet::All,
};

/// What it is.
pub static PROTOCOL: Protocol = Protocol {
    name: "all-classes",
    title: "Base and novel classes at once",
    explain: "A dataset's classes, sorted by label, are cut in half: the first half (rounded up) is the base classes, the \
              rest the novel ones. Each method is trained on K labelled images of every base class and then asked among \
              all classes at once: Base is its accuracy on base test images, Novel on images of the classes it has never \
              seen.",
    starts: Starts::Each,
    fields: &[],
    has_training: true,
    stages: |_, dataset| {
        vec![Stage {
            train: vec![(dataset.to_owned(), ClassSet::Base)],
            tests: vec![(dataset.to_owned(), BASE), (dataset.to_owned(), NOVEL)],
        }]
    },
    shows: Shows::Halves {
        base: BASE,
        novel: NOVEL,
    },
};
