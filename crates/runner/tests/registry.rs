//! Every method of the registry is known wherever a method must be known; a new one is covered by being there.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

use std::collections::BTreeSet;
use std::process::Command;

use methods::{METHODS, Sees, Settings, Validation};
use promptbed::backbone;
use promptbed::measure::bench;
use promptbed::run::suite::Resolved;
use promptbed::run::work::Counter;

/// A method with its defaults, as a suite would resolve it.
fn resolved(entry: &'static methods::Entry) -> Resolved {
    let reading = entry.read(toml::Table::new());
    Resolved {
        name: entry.name,
        config: reading.config,
        training: entry.training.as_ref().map(|training| {
            // Some say how long they train in steps for each shot.
            training.read(&mut Settings::new(toml::Table::new()), 16)
        }),
        settings: reading.resolved,
    }
}

#[test]
fn every_method_that_learns_is_counted() {
    let weights = backbone::weights("drawn", None, &backbone::Told::default()).unwrap();
    let architecture = weights.architecture.clone();
    let split = &datasets::drawn::open("drawn-textures").unwrap().split;
    let of = promptbed::run::population::Population::counted(split).unwrap();
    for entry in METHODS {
        let method = resolved(entry);
        let counter = Counter {
            architecture: &architecture,
            method: &method,
        };
        let set = datasets::ClassSet::Base;
        let views = promptbed::run::suite::Views::Fresh;
        let training = counter.training(&of, set, 16, views);
        assert_eq!(
            training.total() > 0.0,
            method.learns(),
            "{}: operations of training",
            entry.name
        );
        assert!(
            counter
                .testing(&of, promptbed::record::TestSet::of(set))
                .total()
                > 0.0,
            "{}: operations of testing",
            entry.name
        );
    }
}

#[test]
fn every_method_can_be_timed_or_says_what_only_a_suite_can_give() {
    let timed: BTreeSet<&str> = bench::cases().iter().map(|c| c.name).collect();
    for entry in METHODS {
        let needs = entry.default_config().needs();
        let by_suite = needs.teacher || needs.descriptions || needs.support.is_some();
        let moves = entry.training.is_some() || matches!(needs.sees, Sees::Views { .. });
        assert_eq!(
            timed.contains(entry.name),
            moves && !by_suite,
            "{}",
            entry.name
        );
    }
}

#[test]
fn every_method_is_listed_with_its_settings() {
    let answer = Command::new(env!("CARGO_BIN_EXE_promptbed"))
        .arg("methods")
        .output()
        .unwrap();
    assert!(answer.status.success());
    let listed = String::from_utf8(answer.stdout).unwrap();
    for entry in METHODS {
        let head = format!("{} ({}, {})", entry.name, entry.title, entry.source);
        assert!(listed.contains(&head), "{head}");
    }
}

#[test]
fn names_are_unmistakable() {
    let (mut names, mut titles, mut recorded) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for entry in METHODS {
        assert!(names.insert(entry.name), "{}", entry.name);
        assert!(titles.insert(entry.title), "{}", entry.title);
        // One recording may be of several methods (Tip-Adapter and its trained form), each of which replays its part.
        for name in entry.replay.names() {
            assert!(
                recorded.insert((*name, entry.name)),
                "{}: {name} twice",
                entry.name
            );
        }
        assert!(entry.source.starts_with("https://"), "{}", entry.name);
    }
}

/// What only repeats released code is off unless a suite asks for it.
#[test]
fn no_method_chooses_by_test_or_whole_validation_pictures_by_default() {
    for entry in METHODS {
        let needs = entry.default_config().needs();
        assert!(!needs.peeks, "{}", entry.name);
        assert_ne!(needs.validation, Validation::Whole, "{}", entry.name);
    }
}
