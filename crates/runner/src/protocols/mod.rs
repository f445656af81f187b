//! Protocols: how accuracy is measured. Each is one file here and one line of [`PROTOCOLS`]; everyone else asks it.
//!
//! A protocol says what a trial is trained on and tested on ([`Protocol::stages`]) and what is shown of it
//! ([`Protocol::shows`]). Suites, plans, tables, charts, reports and the checks of published numbers go by that.

use std::cmp::Ordering;
use std::fmt;

use datasets::{ClassSet, Sessions};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::record::TestSet;
use crate::start;

pub mod all_classes;
pub mod base_to_novel;
pub mod class_incremental;
pub mod cross_dataset;
pub mod domain_generalization;
pub mod few_shot;
pub mod multi_task;
pub mod task_incremental;
pub mod test_time;

/// Every protocol, in the order of reports.
pub static PROTOCOLS: &[&Protocol] = &[
    &few_shot::PROTOCOL,
    &base_to_novel::PROTOCOL,
    &all_classes::PROTOCOL,
    &cross_dataset::PROTOCOL,
    &domain_generalization::PROTOCOL,
    &test_time::PROTOCOL,
    &multi_task::PROTOCOL,
    &class_incremental::PROTOCOL,
    &task_incremental::PROTOCOL,
];

/// How accuracy is measured. In files it is its name; two are equal when their names are, and stand in the order of
/// [`PROTOCOLS`].
pub struct Protocol {
    /// Name in suites, records and files: kebab-case, as the file that describes it with `_`.
    pub name: &'static str,
    /// What it is called in a heading.
    pub title: &'static str,
    /// What it does, in full sentences, for a reader of reports.
    pub explain: &'static str,
    /// Where its trials start.
    pub starts: Starts,
    /// Keys of a suite that it reads and few other protocols do: what else of [`Wanted`] its stages go by.
    pub fields: &'static [&'static str],
    /// Whether methods get labelled training pictures. Where they get none, no method that is trained can run.
    pub has_training: bool,
    /// What a trial that starts from there does, one stage after the other: trained on, then tested, with what earlier
    /// stages learned. It is given the id of a dataset, or of all of them as [`start`] joins them.
    pub stages: fn(&Wanted<'_>, start: &str) -> Vec<Stage>,
    /// What tables, charts and reports show of it.
    pub shows: Shows,
}

/// Where the trials of a protocol start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starts {
    /// One from each of the suite's `datasets`.
    Each,
    /// One from its `source`.
    Source,
    /// One from all of its `datasets` together.
    All,
}

/// What a protocol may know of a suite.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The suite's `datasets`, in its order.
    pub datasets: &'a [String],
    /// Its `source`, where it has one.
    pub source: Option<&'a str>,
    /// Its `variants`, where it has them.
    pub variants: Option<&'a [String]>,
    /// Its `unseen`, where it has them: datasets that are tested on and never learned.
    pub unseen: Option<&'a [String]>,
    /// Its `sessions`, where it has them.
    pub sessions: Option<Sessions>,
}

/// One stage of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Datasets trained on and which of their classes; several are learned at once, none means that nothing is trained.
    pub train: Vec<(String, ClassSet)>,
    /// Where it is tested then, in the order of the record's tests.
    pub tests: Vec<(String, TestSet)>,
}

impl Stage {
    /// What a method is bound to before the stage: what is trained on, or where nothing is trained what is asked first.
    pub fn taught(&self) -> Vec<(String, ClassSet)> {
        if !self.train.is_empty() {
            return self.train.clone();
        }
        let asked = self.tests.first().map(|(id, set)| (id.clone(), set.among));
        asked.into_iter().collect()
    }
}

/// What is shown of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Each class set by itself: accuracy by dataset, and against shots.
    Sets,
    /// Accuracy on two class sets beside each other, with their harmonic mean H, which is what methods are judged by.
    Halves {
        /// What was trained on: the columns called base.
        base: TestSet,
        /// What was not: the columns called novel.
        novel: TestSet,
    },
    /// Accuracy by dataset of what was learned of all at once, with an average each over those trained on and the others,
    /// beside what was learned of each by itself.
    Tasks,
    /// What was kept of classes learned session after session: accuracy by session, and the field's measures.
    Sessions,
    /// The same of datasets learned one after the other.
    Datasets,
}

impl Shows {
    /// Whether it shows what is learned one after the other.
    pub fn is_continual(self) -> bool {
        matches!(self, Self::Sessions | Self::Datasets)
    }
}

impl Protocol {
    /// The two class sets whose harmonic mean it shows, base first; `None` where it shows no such mean.
    pub fn halves(&self) -> Option<[TestSet; 2]> {
        match self.shows {
            Shows::Sets | Shows::Tasks | Shows::Sessions | Shows::Datasets => None,
            Shows::Halves { base, novel } => Some([base, novel]),
        }
    }

    /// What its trials start from, as [`start`] has it.
    pub fn starts(&self, wanted: &Wanted<'_>) -> Vec<String> {
        match self.starts {
            Starts::Each => wanted.datasets.to_vec(),
            Starts::Source => wanted.source.map(str::to_owned).into_iter().collect(),
            // A suite without datasets is a mistake that is told elsewhere.
            Starts::All if wanted.datasets.is_empty() => Vec::new(),
            Starts::All => vec![start::of(wanted.datasets)],
        }
    }

    /// Whether its trials start from a `source`.
    pub fn has_source(&self) -> bool {
        self.starts == Starts::Source
    }
}

/// The protocol of that name.
pub fn find(name: &str) -> Option<&'static Protocol> {
    PROTOCOLS.iter().copied().find(|p| p.name == name)
}

/// Names of the protocols that `is_one` holds for, with `between` between them.
pub fn names(is_one: impl Fn(&Protocol) -> bool, between: &str) -> String {
    let names: Vec<&str> = PROTOCOLS
        .iter()
        .filter(|p| is_one(p))
        .map(|p| p.name)
        .collect();
    names.join(between)
}

impl Protocol {
    fn place(&self) -> (usize, &str) {
        let at = PROTOCOLS.iter().position(|p| p.name == self.name);
        (at.unwrap_or(PROTOCOLS.len()), self.name)
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

impl PartialEq for Protocol {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Protocol {}

impl Ord for Protocol {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for Protocol {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for &'static Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        find(&name).ok_or_else(|| {
            let known = names(|_| true, ", ");
            serde::de::Error::custom(format!("{name:?} is no protocol; there are {known}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use datasets::Order;

    use super::*;

    /// Two datasets, a source that is none of them, two variants, one unseen, three sessions.
    fn with_all(check: impl Fn(&Wanted<'_>)) {
        let named = |names: [&str; 2]| names.map(str::to_owned);
        let (datasets, variants) = (named(["dtd", "eurosat"]), named(["sketch", "rendition"]));
        check(&Wanted {
            datasets: &datasets,
            source: Some("imagenet"),
            variants: Some(&variants),
            unseen: Some(&["oxford-pets".to_owned()]),
            sessions: Some(Sessions {
                count: 3,
                first: None,
                order: Order::Shuffled(1993),
            }),
        });
    }

    #[test]
    fn every_file_here_is_a_protocol_of_the_table_and_has_its_name() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/protocols");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| {
                let path = e.unwrap().path();
                path.file_stem()
                    .unwrap()
                    .to_string_lossy()
                    .replace('_', "-")
            })
            .filter(|name| name != "mod")
            .collect();
        let listed: BTreeSet<String> = PROTOCOLS.iter().map(|p| p.name.to_owned()).collect();
        assert_eq!(files, listed);
        assert_eq!(listed.len(), PROTOCOLS.len(), "two have one name");
    }

    #[test]
    fn names_are_what_files_hold_and_an_unknown_one_is_answered_with_those_there_are() {
        for protocol in PROTOCOLS {
            let text = serde_json::to_string(protocol).unwrap();
            assert_eq!(text, format!("{:?}", protocol.name));
            let back: &'static Protocol = serde_json::from_str(&text).unwrap();
            assert_eq!(back, *protocol);
        }
        let error = serde_json::from_str::<&'static Protocol>("\"one-shot\"").unwrap_err();
        let told = error.to_string();
        assert!(
            told.contains("\"one-shot\" is no protocol; there are few-shot, base-to-novel"),
            "{told}"
        );
    }

    #[test]
    fn every_protocol_tests_and_shows_what_it_tests() {
        with_all(|wanted| {
            for protocol in PROTOCOLS {
                let starts = protocol.starts(wanted);
                assert!(!starts.is_empty(), "{protocol} starts nowhere");
                for start in starts {
                    let stages = (protocol.stages)(wanted, &start);
                    let tests: Vec<_> = stages.iter().flat_map(|s| &s.tests).collect();
                    assert!(!tests.is_empty(), "{protocol} tests nothing");
                    assert!(
                        stages.iter().all(|s| s.train.is_empty()) != protocol.has_training,
                        "{protocol}"
                    );
                    for half in protocol.halves().into_iter().flatten() {
                        assert!(tests.iter().any(|t| t.1 == half), "{protocol} lacks {half}");
                    }
                }
                assert!(protocol.explain.ends_with('.'), "{protocol}");
            }
        });
    }

    #[test]
    fn sessions_learn_every_class_once_and_are_asked_about_all_so_far() {
        with_all(|wanted| {
            let stages = (class_incremental::PROTOCOL.stages)(wanted, "dtd");
            assert_eq!(stages.len(), 3);
            let learned = stages.iter().flat_map(|s| s.train[0].1.places(47));
            let learned: Vec<usize> = learned.collect();
            assert_eq!(Some(&learned), Order::Shuffled(1993).of(47).as_ref());
            let mut seen = 0;
            for stage in &stages {
                seen += stage.train[0].1.places(47).len();
                let asked = stage.tests[0].1;
                assert_eq!(asked.among, asked.pictures);
                assert_eq!(asked.among.places(47), learned[..seen]);
            }
        });
    }

    #[test]
    fn several_datasets_are_learned_at_once_or_one_after_the_other() {
        with_all(|wanted| {
            let ids = |of: &[(String, TestSet)]| of.iter().map(|t| t.0.clone()).collect::<Vec<_>>();
            let starts = multi_task::PROTOCOL.starts(wanted);
            assert_eq!(starts, ["dtd+eurosat"]);
            let [stage] = &(multi_task::PROTOCOL.stages)(wanted, &starts[0])[..] else {
                panic!("all at once");
            };
            assert_eq!(stage.train.len(), 2);
            assert_eq!(ids(&stage.tests), ["dtd", "eurosat", "oxford-pets"]);
            assert_eq!(stage.taught(), stage.train);

            let stages = (task_incremental::PROTOCOL.stages)(wanted, &starts[0]);
            let learned: Vec<&str> = stages.iter().map(|s| s.train[0].0.as_str()).collect();
            assert_eq!(learned, ["dtd", "eurosat"]);
            assert!(stages.iter().all(|s| ids(&s.tests) == ["dtd", "eurosat"]));
        });
    }
}
