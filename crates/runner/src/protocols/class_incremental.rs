//! Learn the classes of one dataset in sessions, a few at a time; after each, tell apart all classes seen so far.

use datasets::ClassSet;

use super::{Protocol, Shows, Stage, Starts, Wanted};
use crate::record::TestSet;

/// What it is.
pub static PROTOCOL: Protocol = Protocol {
    name: "class-incremental",
    title: "Classes in sessions",
    explain: "A dataset's classes come in sessions. In each, a method is trained on K labelled images of that session's \
              classes alone, going on from what it has learned, and is then tested on the test images of all classes seen \
              so far, told apart among all of these; nothing says of which session an image is.",
    starts: Starts::Each,
    fields: &["sessions"],
    has_training: true,
    stages: |wanted: &Wanted<'_>, dataset| {
        let sessions = |cut, first, last| ClassSet::Sessions { first, last, cut };
        let stages = wanted.sessions.into_iter().flat_map(|cut| {
            (1..=cut.count).map(move |number| Stage {
                train: vec![(dataset.to_owned(), sessions(cut, number, number))],
                tests: vec![(dataset.to_owned(), TestSet::of(sessions(cut, 1, number)))],
            })
        });
        stages.collect()
    },
    shows: Shows::Sessions,
};
