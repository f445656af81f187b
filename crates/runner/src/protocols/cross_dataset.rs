//! Train on all classes of a source dataset, test on it and on every other dataset.

use datasets::ClassSet;

use super::{Protocol, Shows, Stage, Starts, Wanted};
use crate::record::TestSet;

/// What it is.
pub static PROTOCOL: Protocol = Protocol {
    name: "cross-dataset",
    title: "Cross-dataset transfer",
    explain: "Each method is trained once, on K labelled images of every class of the source dataset, and tested as it is \
              on the whole test set of every other dataset, among all classes of that dataset.",
    starts: Starts::Source,
    fields: &[],
    has_training: true,
    stages: |wanted: &Wanted<'_>, source| vec![transfer(source, wanted.datasets)],
    shows: Shows::Sets,
};

/// Trained on all of `source`, tested on all of it first, then on all of every other of `targets`.
pub(super) fn transfer(source: &str, targets: &[String]) -> Stage {
    let others = targets
        .iter()
        .map(String::as_str)
        .filter(|id| *id != source);
    let tested = std::iter::once(source).chain(others);
    Stage {
        train: vec![(source.to_owned(), ClassSet::All)],
        tests: tested.map(|id| (id.to_owned(), TestSet::ALL)).collect(),
    }
}
