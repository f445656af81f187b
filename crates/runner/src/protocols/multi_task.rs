//! Train once on K shots of all classes of several datasets, test on each of them and on datasets not trained on.

use datasets::ClassSet;

use super::{Protocol, Shows, Stage, Starts, Wanted};
use crate::record::TestSet;
use crate::start;

/// What it is.
pub static PROTOCOL: Protocol = Protocol {
    name: "multi-task",
    title: "Many tasks at once",
    explain: "Each method is trained once, on K labelled images of every class of all datasets together, and tested on the \
              whole test set of each of them, and of datasets that it has not seen, among all classes of that dataset. A \
              method that knows tasks is told which dataset it is asked about.",
    starts: Starts::All,
    fields: &["unseen"],
    has_training: true,
    stages: |wanted: &Wanted<'_>, start| {
        let trained = start::datasets(start).map(str::to_owned);
        let unseen = wanted.unseen.unwrap_or_default().iter().cloned();
        vec![Stage {
            train: trained.clone().map(|id| (id, ClassSet::All)).collect(),
            tests: trained.chain(unseen).map(|id| (id, TestSet::ALL)).collect(),
        }]
    },
    shows: Shows::Tasks,
};
