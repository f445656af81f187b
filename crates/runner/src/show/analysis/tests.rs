use super::*;
use crate::record::{Record, TestSet};
use crate::show::summary::{Summary, sample};
use crate::store::Loaded;

/// A base-to-novel trial on `total` pictures of two classes, right where `is_right` says so, with its predictions.
fn trial(
    method: &str,
    shots: usize,
    seed: u64,
    total: u64,
    is_right: impl Fn(u64) -> bool,
) -> (Record, Vec<Prediction>) {
    let mut record = sample::trial(
        method,
        "dtd",
        shots,
        seed,
        &[("base", 50.0), ("novel", 50.0)],
    );
    let mut predictions = Vec::new();
    for (index, test) in record.tests.iter_mut().enumerate() {
        test.total = total;
        test.correct = (0..total).filter(|i| is_right(*i)).count() as u64;
        test.classes.clear();
        for i in 0..total {
            let label = (i % 2) as u32;
            predictions.push(Prediction {
                test_index: index as u32,
                dataset: test.dataset.clone(),
                class_set: test.class_set,
                image: format!("{i}.png"),
                label,
                predicted: if is_right(i) { label } else { 1 - label },
                confidence: 0.75,
            });
        }
    }
    (record, predictions)
}

fn analyse(trials: &[(Record, Vec<Prediction>)]) -> Analysis {
    let records = trials.iter().map(|t| t.0.clone()).collect();
    let summary = Summary::new(&Loaded {
        records,
        ..Loaded::default()
    });
    let read = |key: &str, dataset: &str, class_set: TestSet| {
        let kept = trials.iter().find(|t| t.0.key == key).map(|t| t.1.iter());
        let on = |p: &&Prediction| p.dataset == dataset && p.class_set == class_set;
        Ok(kept.map(|all| all.filter(on).cloned().collect()))
    };
    Analysis::new(&summary.sections[0], &read)
}

#[test]
fn one_seed_each_is_mcnemar() {
    // Zero-shot right on 0..60, coop on 20..95: 20 only the first, 35 only the second.
    let found = analyse(&[
        trial("zero-shot", 0, 1, 100, |i| i < 60),
        trial("coop", 4, 1, 100, |i| (20..95).contains(&i)),
    ]);
    assert_eq!(found.pictures.len(), 2);
    let test = &found.pictures[0];
    assert_eq!((test.result.only_first, test.result.only_second), (20, 35));
    assert_eq!(test.result, stats::mcnemar(20, 35));
    // Two equal p-values: Holm doubles both.
    assert!((test.holm - 2.0 * test.result.exact).abs() < 1e-12);
    assert!(found.problems.is_empty(), "{:?}", found.problems);
}

#[test]
fn a_picture_counts_once_however_many_seeds() {
    // Coop: seed 1 right on 0..50, seed 2 on 25..75; zero-shot on 0..50.
    // Shares: 0..25 1/2 against 1, 25..50 1 against 1, 50..75 1/2 against 0.
    let found = analyse(&[
        trial("zero-shot", 0, 1, 100, |i| i < 50),
        trial("coop", 4, 1, 100, |i| i < 50),
        trial("coop", 4, 2, 100, |i| (25..75).contains(&i)),
    ]);
    let result = found.pictures[0].result;
    assert_eq!((result.only_first, result.only_second), (25, 25));
}

#[test]
fn predictions_that_contradict_the_record_are_refused() {
    let mut trials = [
        trial("zero-shot", 0, 1, 100, |i| i < 60),
        trial("coop", 4, 1, 100, |i| i < 70),
    ];
    trials[1].1[0].predicted = 1;
    let found = analyse(&trials);
    assert!(
        found.problems[0].contains("predictions and record disagree"),
        "{:?}",
        found.problems
    );
    // The novel half is still sound.
    assert_eq!(found.pictures.len(), 1);
    trials[1].1.clear();
    assert!(analyse(&trials).pictures.is_empty());
}

#[test]
fn reliability_pools_every_picture() {
    let found = analyse(&[
        trial("coop", 4, 1, 100, |i| i < 60),
        trial("coop", 4, 2, 100, |i| i < 90),
    ]);
    let base = &found.reliability[0];
    let bin = base.bins.iter().find(|b| b.count > 0).unwrap();
    assert_eq!(
        (base.class_set, bin.count, bin.confidence, bin.accuracy),
        (TestSet::BASE, 200, 0.75, 0.75)
    );
    assert_eq!(stats::expected_calibration_error(&base.bins), 0.0);
}

#[test]
fn classes_and_confusions_are_found() {
    // Even pictures (class 0): zero-shot all right, coop none; odd ones the other way round.
    let found = analyse(&[
        trial("zero-shot", 0, 1, 40, |i| i % 2 == 0),
        trial("coop", 4, 1, 40, |i| i % 2 == 1),
    ]);
    let changes: Vec<_> = found
        .classes
        .iter()
        .map(|c| (c.class, c.pictures, c.accuracy))
        .collect();
    assert_eq!(changes.len(), 4);
    assert_eq!(changes[0], (1, 20, (0.0, 100.0)));
    assert_eq!(changes[3], (0, 20, (100.0, 0.0)));
    let confusion = found
        .confusions
        .iter()
        .find(|c| c.method == "coop")
        .unwrap();
    assert_eq!((confusion.labels, confusion.share), ((0, 1), 100.0));
}

#[test]
fn wilcoxon_runs_over_datasets() {
    let loaded = sample::sweep(
        &crate::protocols::base_to_novel::PROTOCOL,
        &["zero-shot", "coop", "maple"],
        &sample::DATASETS,
        &[16],
    );
    let summary = Summary::new(&loaded);
    let section = &summary.sections[0];
    let found = Analysis::new(section, &|_, _, _| Ok(None));
    // Three pairs under base, novel and H.
    assert_eq!(found.datasets.len(), 9);
    let test = found
        .datasets
        .iter()
        .find(|t| t.metric == "base" && t.methods.1 == "coop")
        .unwrap();
    assert_eq!((test.wins, test.result.statistic), ((11, 0), 0.0));
    assert!((test.result.p - 2.0 / 2048.0).abs() < 1e-12);
    assert!(test.holm >= test.result.p);
    assert!(!found.problems.is_empty());
}
