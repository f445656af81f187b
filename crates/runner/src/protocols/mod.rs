//! Protocols: how accuracy is measured. Each is one file here and one line of [`PROTOCOLS`]; everyone else asks it.
//!
//! A protocol says what a trial is trained on and tested on ([`Protocol::stages`]) and what is shown of it
//! ([`Protocol::shows`]). Suites, plans, tables, charts, reports and the checks of published numbers go by that.

use std::cmp::Ordering;
use std::fmt;

use datasets::ClassSet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::record::TestSet;

pub mod all_classes;
pub mod base_to_novel;
pub mod cross_dataset;
pub mod domain_generalization;
pub mod few_shot;
pub mod test_time;

/// Every protocol, in the order of reports.
pub static PROTOCOLS: &[&Protocol] = &[
    &few_shot::PROTOCOL,
    &base_to_novel::PROTOCOL,
    &all_classes::PROTOCOL,
    &cross_dataset::PROTOCOL,
    &domain_generalization::PROTOCOL,
    &test_time::PROTOCOL,
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
    /// Whether its trials start from the suite's `source` alone, rather than from each of its datasets.
    pub has_source: bool,
    /// Whether the suite's `variants` may name what it tests on.
    pub has_variants: bool,
    /// Whether methods get labelled training pictures. Where they get none, no method that is trained can run.
    pub has_training: bool,
    /// What a trial that starts from a dataset does, one stage after the other: trained on, then tested, with what
    /// earlier stages learned.
    pub stages: fn(&Wanted<'_>, dataset: &str) -> Vec<Stage>,
    /// What tables, charts and reports show of it.
    pub shows: Shows,
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
}

/// One stage of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Datasets trained on and which of their classes; several are learned at once, none means that nothing is trained.
    pub train: Vec<(String, ClassSet)>,
    /// Where it is tested then, in the order of the record's tests.
    pub tests: Vec<(String, TestSet)>,
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
}

impl Protocol {
    /// The two class sets whose harmonic mean it shows, base first; `None` where it shows no such mean.
    pub fn halves(&self) -> Option<[TestSet; 2]> {
        match self.shows {
            Shows::Sets => None,
            Shows::Halves { base, novel } => Some([base, novel]),
        }
    }

    /// The datasets that trials start from.
    pub fn starts<'a>(&self, wanted: &Wanted<'a>) -> Vec<&'a str> {
        if self.has_source {
            wanted.source.into_iter().collect()
        } else {
            wanted.datasets.iter().map(String::as_str).collect()
        }
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

    use super::*;

    /// Two datasets, a source that is none of them, two variants.
    fn with_all(check: impl Fn(&Wanted<'_>)) {
        let named = |names: [&str; 2]| names.map(str::to_owned);
        let (datasets, variants) = (named(["dtd", "eurosat"]), named(["sketch", "rendition"]));
        check(&Wanted {
            datasets: &datasets,
            source: Some("imagenet"),
            variants: Some(&variants),
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
                    let stages = (protocol.stages)(wanted, start);
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

    /// Learns a third of the classes after the other and is asked among all it has seen.
    static CLASS_INCREMENTAL: Protocol = Protocol {
        name: "class-incremental",
        stages: |_, dataset| {
            let parts = |first, last| ClassSet::Parts { first, last, of: 3 };
            let stage = |i| Stage {
                train: vec![(dataset.to_owned(), parts(i, i))],
                tests: vec![(dataset.to_owned(), TestSet::of(parts(1, i)))],
            };
            (1..=3).map(stage).collect()
        },
        ..few_shot::PROTOCOL
    };

    /// Learns every dataset at once.
    static MULTI_TASK: Protocol = Protocol {
        name: "multi-task",
        stages: |wanted, _| {
            let each = || wanted.datasets.iter().cloned();
            vec![Stage {
                train: each().map(|id| (id, ClassSet::All)).collect(),
                tests: each().map(|id| (id, TestSet::ALL)).collect(),
            }]
        },
        ..few_shot::PROTOCOL
    };

    #[test]
    fn several_stages_and_several_training_datasets_are_data_too() {
        with_all(|wanted| {
            let stages = (CLASS_INCREMENTAL.stages)(wanted, "dtd");
            let learned: Vec<usize> = stages.iter().flat_map(|s| s.train[0].1.range(47)).collect();
            assert_eq!(learned, (0..47).collect::<Vec<_>>());
            assert_eq!(stages[2].tests[0].1.among.range(47), 0..47);

            let stages = (MULTI_TASK.stages)(wanted, "dtd");
            assert_eq!((stages.len(), stages[0].train.len()), (1, 2));
        });
    }
}
