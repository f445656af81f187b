//! Train on a source, test on it and on its shifted variants.

use super::cross_dataset::transfer;
use super::{Protocol, Shows, Starts, Wanted};

/// What it is.
pub static PROTOCOL: Protocol = Protocol {
    name: "domain-generalization",
    title: "Domain generalization",
    explain: "Each method is trained once, on K labelled images of every class of the source dataset, and tested as it is \
              on shifted variants of the source: the same classes, other kinds of images.",
    starts: Starts::Source,
    fields: &["variants"],
    has_training: true,
    stages: |wanted: &Wanted<'_>, source| {
        vec![transfer(source, wanted.variants.unwrap_or(wanted.datasets))]
    },
    shows: Shows::Sets,
};
