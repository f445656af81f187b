use super::sample::{failed, trial};
use super::*;
use crate::protocols::cross_dataset;
use crate::record::TestSet;

fn loaded(records: Vec<Record>) -> Loaded {
    Loaded {
        records,
        ..Loaded::default()
    }
}

fn method<'a>(section: &'a Section, label: &str) -> &'a Method {
    section.methods.iter().find(|m| m.label == label).unwrap()
}

/// Two datasets, two seeds of coop, zero-shot once.
fn small() -> Vec<Record> {
    vec![
        trial("zero-shot", "dtd", 0, 1, &[("base", 50.0), ("novel", 60.0)]),
        trial(
            "zero-shot",
            "eurosat",
            0,
            1,
            &[("base", 40.0), ("novel", 30.0)],
        ),
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
    let h = |place| {
        section
            .entry(coop, place, Metric::Harmonic, 16)
            .figure()
            .unwrap()
            .mean
    };
    assert_eq!(h(Place::Dataset("dtd")), 2.0 * 82.0 * 45.0 / 127.0);
    // Averaged columns: base (82 + 91) / 2, novel (45 + 56) / 2.
    assert_eq!(h(Place::Average), 2.0 * 86.5 * 50.5 / 137.0);
    let of_seeds = (2.0 * 80.0 * 50.0 / 130.0 + 2.0 * 84.0 * 40.0 / 124.0) / 2.0;
    assert!((h(Place::Dataset("dtd")) - of_seeds).abs() > 0.01);
}

#[test]
fn trials_of_one_table_that_ran_on_several_devices_are_told() {
    let note = |devices: [Option<&str>; 2], arithmetics: [Option<&str>; 2]| {
        let mut records = small();
        for (i, record) in records.iter_mut().take(2).enumerate() {
            record.provenance.device = devices[i].map(str::to_owned);
            record.provenance.arithmetic = arithmetics[i].map(str::to_owned);
        }
        Summary::new(&loaded(records)).health.devices
    };
    assert_eq!(note([None; 2], [None; 2]), [""; 0]);
    let cards = [Some("cuda:0 NVIDIA H100"), Some("cuda:1 NVIDIA H100")];
    let wanted = "base-to-novel on drawn: 2 trials on NVIDIA H100, 4 trials on the processor";
    assert_eq!(note(cards, [None; 2]), [wanted]);
    // Older records tell no arithmetic, and ran by the portable one.
    assert_eq!(note([None; 2], [Some("portable"), None]), [""; 0]);
    let told = note([None; 2], [Some("amx"), Some("emulated")]);
    let wanted =
        "base-to-novel on drawn: 4 trials on the processor, 2 trials on the processor (amx)";
    assert_eq!(told, [wanted]);
}

#[test]
fn deviations_are_over_seeds() {
    let summary = Summary::new(&loaded(small()));
    let section = &summary.sections[0];
    let coop = method(section, "coop");
    let base = |place| {
        section
            .entry(coop, place, Metric::Accuracy(TestSet::BASE), 16)
            .figure()
            .unwrap()
    };
    assert!((base(Place::Dataset("dtd")).deviation.unwrap() - 8f64.sqrt()).abs() < 1e-12);
    // Seed averages are 85 and 88.
    assert!((base(Place::Average).deviation.unwrap() - 4.5f64.sqrt()).abs() < 1e-12);
    let zero = section.entry(
        method(section, "zero-shot"),
        Place::Average,
        Metric::Accuracy(TestSet::BASE),
        16,
    );
    assert_eq!(
        zero,
        Entry::Whole(Figure {
            mean: 45.0,
            deviation: None,
            seeds: 1
        })
    );
}

#[test]
fn a_terminal_gets_the_first_of_a_long_list_and_their_number() {
    let health = Health {
        missing: (0..9).map(|i| format!("trial {i}")).collect(),
        broken: vec![("a.json".into(), "cut short".to_owned())],
        ..Health::default()
    };
    assert_eq!(health.notes().len(), 2 + 1 + 9);
    let brief = health.brief();
    assert_eq!(brief.len(), 2 + 1 + 5 + 1);
    assert_eq!(brief[1], "  a.json: cut short");
    assert_eq!(brief[7..], ["  trial 4", "  and 4 more"]);
}

#[test]
fn a_dataset_that_is_not_the_published_one_is_said_once() {
    let mut records = small();
    for record in &mut records {
        record.notes = vec!["dtd: 10 classes; the papers used 47".to_owned()];
    }
    let notes = Summary::new(&loaded(records)).health.notes();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("not comparable"));
    assert_eq!(notes[1], "  dtd: 10 classes; the papers used 47");
}

#[test]
fn a_missing_seed_is_a_gap_and_so_is_its_average() {
    let mut records = small();
    records.remove(3);
    let summary = Summary::new(&loaded(records));
    let section = &summary.sections[0];
    let coop = method(section, "coop");
    let base = |place| section.entry(coop, place, Metric::Accuracy(TestSet::BASE), 16);
    assert_eq!(base(Place::Dataset("dtd")), Entry::Gap);
    assert_eq!(base(Place::Average), Entry::Gap);
    assert_eq!(
        section.entry(coop, Place::Average, Metric::Harmonic, 16),
        Entry::Gap
    );
    assert!(matches!(base(Place::Dataset("eurosat")), Entry::Whole(_)));
    assert_eq!(
        summary.health.missing,
        ["base-to-novel coop dtd 16 shots seed 2"]
    );
}

#[test]
fn a_failed_seed_is_a_gap_with_its_reason() {
    let mut records = small();
    records[3] = failed("coop", "dtd", 16, 2, "the loss became NaN");
    let summary = Summary::new(&loaded(records));
    let section = &summary.sections[0];
    let coop = method(section, "coop");
    assert_eq!(
        section.entry(
            coop,
            Place::Dataset("dtd"),
            Metric::Accuracy(TestSet::BASE),
            16
        ),
        Entry::Gap
    );
    assert_eq!(
        summary.health.failed[0].trial,
        "base-to-novel coop dtd 16 shots seed 2"
    );
    assert_eq!(summary.health.failed[0].reason, "the loss became NaN");
    assert!(
        summary.health.missing.is_empty(),
        "{:?}",
        summary.health.missing
    );
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
    assert_eq!(
        section.entry(coop, Place::Average, Metric::Accuracy(TestSet::BASE), 16),
        Entry::Gap
    );
}

#[test]
fn the_plan_tells_what_is_missing_from_what_nobody_wanted() {
    let records = small();
    let mut all = loaded(records.clone());
    all.planned = records
        .iter()
        .filter(|r| r.method == "zero-shot" || r.dataset == "dtd")
        .map(Planned::of)
        .collect();
    all.planned.push(Planned {
        key: "extra".to_owned(),
        seed: 3,
        ..Planned::of(&records[2])
    });
    let summary = Summary::new(&all);
    let section = &summary.sections[0];
    let coop = method(section, "coop");
    let base = |place| section.entry(coop, place, Metric::Accuracy(TestSet::BASE), 16);
    assert_eq!(base(Place::Dataset("dtd")), Entry::Gap);
    assert_eq!(base(Place::Dataset("eurosat")), Entry::Blank);
    assert_eq!(
        summary.health.missing,
        ["base-to-novel coop dtd 16 shots seed 3"]
    );
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
    let cell = section
        .cell(method(section, "coop"), "dtd", TestSet::BASE, 16)
        .unwrap();
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
    assert!(
        summary.sections[1].title().ends_with(", large (beefbeef)"),
        "{}",
        summary.sections[1].title()
    );
}

#[test]
fn a_source_is_tested_but_not_averaged() {
    let all = sample::sweep(
        &cross_dataset::PROTOCOL,
        &["zero-shot", "coop"],
        &["imagenet", "dtd", "eurosat"],
        &[16],
    );
    let summary = Summary::new(&all);
    let section = &summary.sections[0];
    assert_eq!(section.source.as_deref(), Some("imagenet"));
    assert_eq!(section.datasets, ["imagenet", "dtd", "eurosat"]);
    assert_eq!(section.targets().collect::<Vec<_>>(), ["dtd", "eurosat"]);
    assert!(
        summary.health.notes().is_empty(),
        "{:?}",
        summary.health.notes()
    );
    for label in ["zero-shot", "coop"] {
        let m = method(section, label);
        let of = |place| {
            section
                .entry(m, place, Metric::Accuracy(TestSet::ALL), 16)
                .figure()
                .unwrap()
                .mean
        };
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
    let base = section.entry(
        coop,
        Place::Dataset("dtd"),
        Metric::Accuracy(TestSet::BASE),
        16,
    );
    assert_eq!(base.figure().unwrap().mean, 46.0);
}

#[test]
fn intervals_are_student_t() {
    let figure = Figure {
        mean: 82.4,
        deviation: Some(0.8888194417315619),
        seeds: 3,
    };
    // scipy: 80.19205010585775 to 84.60794989414224.
    assert!((figure.half_interval(0.95).unwrap() - (84.60794989414224 - 82.4)).abs() < 1e-9);
    let one = Figure {
        deviation: None,
        seeds: 1,
        ..figure
    };
    assert_eq!(one.half_interval(0.95), None);
}

#[test]
fn spending_is_a_mean_over_finished_trials() {
    let mut records = small();
    records.push(failed("coop", "ucf101", 16, 1, "no memory"));
    let summary = Summary::new(&loaded(records));
    let coop = &summary.sections[0].spending[&("coop".to_owned(), 16)];
    assert_eq!((coop.trials, coop.parameters), (4, 2048 * 5));
    // 160 s for 800 steps, and 1.5 s for 2000 pictures.
    assert_eq!(
        (coop.train_seconds, coop.seconds_a_step),
        (160.0, Some(0.2))
    );
    assert_eq!(coop.seconds_a_picture, 1.5 / 2000.0);
    let zero = &summary.sections[0].spending[&("zero-shot".to_owned(), 0)];
    assert_eq!(zero.seconds_a_step, None);
}

#[test]
fn the_two_averages_of_h_are_told_apart() {
    let summary = Summary::new(&loaded(small()));
    let section = &summary.sections[0];
    let coop = method(section, "coop");
    let of = |metric| {
        section
            .entry(coop, Place::Average, metric, 16)
            .figure()
            .unwrap()
            .mean
    };
    let datasets = (2.0 * 82.0 * 45.0 / 127.0 + 2.0 * 91.0 * 56.0 / 147.0) / 2.0;
    assert!((of(Metric::MeanOfHarmonics) - datasets).abs() < 1e-12);
    assert!((of(Metric::Harmonic) - of(Metric::MeanOfHarmonics)).abs() > 0.01);
}

#[test]
fn figures_as_published_round_first_and_divide_by_n() {
    let mut records = small();
    records[2] = trial("coop", "dtd", 16, 1, &[("base", 80.05), ("novel", 50.0)]);
    let summary = Summary::new(&loaded(records)).with_spread(Spread::AsPublished);
    let section = &summary.sections[0];
    let coop = method(section, "coop");
    let base = |place| {
        section
            .entry(coop, place, Metric::Accuracy(TestSet::BASE), 16)
            .figure()
            .unwrap()
    };
    // 80.05 prints as 80.1 (or 80.0 by the last bit), 84.0 stays.
    let own = base(Place::Dataset("dtd"));
    assert!((own.mean - 82.05).abs() < 1e-9, "{own:?}");
    assert!((own.deviation.unwrap() - 1.95).abs() < 1e-9, "{own:?}");
    assert_eq!(base(Place::Average).deviation, None);
    let zero = section.entry(
        method(section, "zero-shot"),
        Place::Dataset("dtd"),
        Metric::Accuracy(TestSet::BASE),
        16,
    );
    assert_eq!(zero.figure().unwrap().deviation, None);
}

#[test]
fn one_record_of_a_trial_asked_for_twice_is_enough() {
    let mut all = loaded(small());
    for mut record in small() {
        record.key += "-again";
        all.records.push(record);
    }
    all.planned = all.records.iter().map(Planned::of).collect();
    let health = Summary::new(&all).health;
    assert!(health.missing.is_empty(), "{:?}", health.missing);
    assert_eq!((health.finished, health.set_aside.len()), (6, 6));
}

#[test]
fn a_cell_holds_what_the_last_stage_left() {
    let mut record = trial("coop", "dtd", 16, 1, &[("all", 80.0), ("all", 60.0)]);
    record.tests[1].stage = 1;
    let loaded = loaded(vec![record]);
    let summary = Summary::new(&loaded);
    let section = &summary.sections[0];
    let cell = section.cell(method(section, "coop"), "dtd", TestSet::ALL, 16);
    assert_eq!(cell.unwrap().values, [(1, 60.0)]);
}

#[test]
fn of_many_methods_the_best_and_zero_shot_keep_their_colour() {
    let mut records = vec![trial(
        "zero-shot",
        "dtd",
        0,
        1,
        &[("base", 30.0), ("novel", 30.0)],
    )];
    let mut add = |count: usize| {
        for i in records.len() - 1..count {
            let at = 40.0 + i as f64;
            let label = format!("coop-m{i}");
            records.push(trial(&label, "dtd", 16, 1, &[("base", at), ("novel", at)]));
        }
        let summary = Summary::new(&loaded(records.clone()));
        let methods = &summary.sections[0].methods;
        let coloured = methods.iter().filter(|m| !m.is_grey);
        coloured.map(|m| m.label.clone()).collect::<Vec<_>>()
    };
    assert_eq!(add(11).len(), 12, "as many as can be told apart");
    let kept = add(15);
    assert_eq!(kept.len(), 9);
    assert_eq!(kept[0], "zero-shot");
    assert!(kept.contains(&"coop-m14".to_owned()) && !kept.contains(&"coop-m3".to_owned()));
}
