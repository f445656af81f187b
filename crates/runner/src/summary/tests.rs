use super::sample::{failed, planned, trial};
use super::*;

fn loaded(records: Vec<Record>) -> Loaded {
    Loaded { records, ..Loaded::default() }
}

fn method<'a>(section: &'a Section, label: &str) -> &'a Method {
    section.methods.iter().find(|m| m.label == label).unwrap()
}

/// Two datasets, two seeds of coop, zero-shot once.
fn small() -> Vec<Record> {
    vec![
        trial("zero-shot", "dtd", 0, 1, &[("base", 50.0), ("novel", 60.0)]),
        trial("zero-shot", "eurosat", 0, 1, &[("base", 40.0), ("novel", 30.0)]),
        trial("coop", "dtd", 16, 1, &[("base", 80.0), ("novel", 50.0)]),
        trial("coop", "dtd", 16, 2, &[("base", 84.0), ("novel", 40.0)]),
        trial("coop", "eurosat", 16, 1, &[("base", 90.0), ("novel", 60.0)]),
        trial("coop", "eurosat", 16, 2, &[("base", 92.0), ("novel", 52.0)]),
    ]
}

#[test]
fn harmonic_mean_is_of_averages_and_not_an_average() {
    let summary = Summary::new(&loaded(small()));
    let section = &summary.sections[0];
    let coop = method(section, "coop");
    let h = |place| section.entry(coop, place, Metric::Harmonic, 16).figure().unwrap().mean;
    assert_eq!(h(Place::Dataset("dtd")), 2.0 * 82.0 * 45.0 / 127.0);
    // Averaged columns: base (82 + 91) / 2, novel (45 + 56) / 2.
    assert_eq!(h(Place::Average), 2.0 * 86.5 * 50.5 / 137.0);
    let of_seeds = (2.0 * 80.0 * 50.0 / 130.0 + 2.0 * 84.0 * 40.0 / 124.0) / 2.0;
    assert!((h(Place::Dataset("dtd")) - of_seeds).abs() > 0.01);
}

#[test]
fn deviations_are_over_seeds() {
    let summary = Summary::new(&loaded(small()));
    let section = &summary.sections[0];
    let coop = method(section, "coop");
    let base = |place| section.entry(coop, place, Metric::Accuracy("base"), 16).figure().unwrap();
    assert!((base(Place::Dataset("dtd")).deviation.unwrap() - 8f64.sqrt()).abs() < 1e-12);
    // Seed averages are 85 and 88.
    assert!((base(Place::Average).deviation.unwrap() - 4.5f64.sqrt()).abs() < 1e-12);
    let zero = section.entry(method(section, "zero-shot"), Place::Average, Metric::Accuracy("base"), 16);
    assert_eq!(zero, Entry::Whole(Figure { mean: 45.0, deviation: None, seeds: 1 }));
}

#[test]
fn a_missing_seed_is_a_gap_and_so_is_its_average() {
    let mut records = small();
    records.remove(3);
    let summary = Summary::new(&loaded(records));
    let section = &summary.sections[0];
    let coop = method(section, "coop");
    let base = |place| section.entry(coop, place, Metric::Accuracy("base"), 16);
    assert_eq!(base(Place::Dataset("dtd")), Entry::Gap);
    assert_eq!(base(Place::Average), Entry::Gap);
    assert_eq!(section.entry(coop, Place::Average, Metric::Harmonic, 16), Entry::Gap);
    assert!(matches!(base(Place::Dataset("eurosat")), Entry::Whole(_)));
    assert_eq!(summary.health.missing, ["base-to-novel coop dtd 16 shots seed 2"]);
}

#[test]
fn a_failed_seed_is_a_gap_with_its_reason() {
    let mut records = small();
    records[3] = failed("coop", "dtd", 16, 2, "the loss became NaN");
    let summary = Summary::new(&loaded(records));
    let section = &summary.sections[0];
    let coop = method(section, "coop");
    assert_eq!(section.entry(coop, Place::Dataset("dtd"), Metric::Accuracy("base"), 16), Entry::Gap);
    assert_eq!(summary.health.failed[0].trial, "base-to-novel coop dtd 16 shots seed 2");
    assert_eq!(summary.health.failed[0].reason, "the loss became NaN");
    assert!(summary.health.missing.is_empty(), "{:?}", summary.health.missing);
}

#[test]
fn a_dataset_whose_every_trial_failed_is_still_a_row() {
    let mut records = small();
    records.retain(|r| r.dataset != "eurosat");
    records.push(failed("coop", "eurosat", 16, 1, "no memory"));
    let summary = Summary::new(&loaded(records));
    let section = &summary.sections[0];
    assert_eq!(section.datasets, ["dtd", "eurosat"]);
    let coop = method(section, "coop");
    assert_eq!(section.entry(coop, Place::Average, Metric::Accuracy("base"), 16), Entry::Gap);
}

#[test]
fn the_plan_tells_what_is_missing_from_what_nobody_wanted() {
    let records = small();
    let mut all = loaded(records.clone());
    all.planned = records.iter().filter(|r| r.method == "zero-shot" || r.dataset == "dtd").map(planned).collect();
    all.planned.push(Planned { key: "extra".to_owned(), seed: 3, ..planned(&records[2]) });
    let summary = Summary::new(&all);
    let section = &summary.sections[0];
    let coop = method(section, "coop");
    let base = |place| section.entry(coop, place, Metric::Accuracy("base"), 16);
    assert_eq!(base(Place::Dataset("dtd")), Entry::Gap);
    assert_eq!(base(Place::Dataset("eurosat")), Entry::Blank);
    assert_eq!(summary.health.missing, ["base-to-novel coop dtd 16 shots seed 3"]);
    assert_eq!(summary.health.set_aside.len(), 2);
}

#[test]
fn the_newer_record_of_a_trial_counts() {
    let mut records = small();
    let mut again = trial("coop", "dtd", 16, 2, &[("base", 88.0), ("novel", 40.0)]);
    again.key = "another-key".to_owned();
    again.provenance.started += 100;
    records.push(again);
    let summary = Summary::new(&loaded(records));
    let section = &summary.sections[0];
    let cell = section.cell(method(section, "coop"), "dtd", "base", 16).unwrap();
    assert_eq!(cell.values, [(1, 80.0), (2, 88.0)]);
    assert_eq!(summary.health.set_aside.len(), 1);
}

#[test]
fn two_backbones_are_never_averaged() {
    let mut records = small();
    for mut record in small() {
        record.key += "-large";
        record.provenance.backbone = "large".to_owned();
        record.provenance.backbone_fingerprint = "beef".repeat(16);
        records.push(record);
    }
    let summary = Summary::new(&loaded(records));
    assert_eq!(summary.sections.len(), 2);
    assert_ne!(summary.sections[0].slug(), summary.sections[1].slug());
    assert!(summary.sections[1].title().ends_with(", large"), "{}", summary.sections[1].title());
}

#[test]
fn a_source_is_tested_but_not_averaged() {
    let all = sample::sweep(Protocol::CrossDataset, &["zero-shot", "coop"], &["imagenet", "dtd", "eurosat"], &[16]);
    let summary = Summary::new(&all);
    let section = &summary.sections[0];
    assert_eq!(section.source.as_deref(), Some("imagenet"));
    assert_eq!(section.datasets, ["imagenet", "dtd", "eurosat"]);
    assert_eq!(section.targets().collect::<Vec<_>>(), ["dtd", "eurosat"]);
    assert!(summary.health.notes().is_empty(), "{:?}", summary.health.notes());
    for label in ["zero-shot", "coop"] {
        let m = method(section, label);
        let of = |place| section.entry(m, place, Metric::Accuracy("all"), 16).figure().unwrap().mean;
        let mean = f64::midpoint(of(Place::Dataset("dtd")), of(Place::Dataset("eurosat")));
        assert!((of(Place::Average) - mean).abs() < 1e-12);
    }
}

#[test]
fn a_collapsed_seed_is_flagged_and_kept() {
    let mut records = small();
    records[3] = trial("coop", "dtd", 16, 2, &[("base", 12.0), ("novel", 40.0)]);
    let summary = Summary::new(&loaded(records));
    assert_eq!(summary.health.collapsed.len(), 1);
    assert_eq!(summary.health.collapsed[0].accuracy, 12.0);
    let section = &summary.sections[0];
    let coop = method(section, "coop");
    let base = section.entry(coop, Place::Dataset("dtd"), Metric::Accuracy("base"), 16);
    assert_eq!(base.figure().unwrap().mean, 46.0);
}
