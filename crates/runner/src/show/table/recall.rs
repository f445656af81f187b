//! Macro accuracy and the recall of each class, as CSV: a line a cell, and a line a class and seed.

use std::collections::BTreeSet;

use super::csv::line;
use crate::record::{Outcome, Record};
use crate::show::summary::{Metric, Place, Score, Section};
use crate::store::Loaded;

/// Names and texts of the section's files; none where no class was tallied. Recall by class needs the tallies themselves,
/// which are not there where records were read for their figures alone.
pub(super) fn render(section: &Section, loaded: &Loaded) -> Vec<(String, String)> {
    let files = [
        ("macro-accuracy", macros(section)),
        ("recall", classes(section, loaded)),
    ];
    let named = files
        .into_iter()
        .filter_map(|(name, text)| Some((format!("{}-{name}.csv", section.slug()), text?)));
    named.collect()
}

/// Accuracy and macro accuracy of each method, dataset, class set and number of shots.
fn macros(section: &Section) -> Option<String> {
    let by_picture = section.scored(Score::Pictures);
    let by_class = section.scored(Score::Classes);
    let head = [
        "method",
        "dataset",
        "classes",
        "shots",
        "accuracy",
        "accuracy sd",
        "macro accuracy",
        "macro accuracy sd",
        "seeds",
    ];
    let mut text = String::new();
    line(&mut text, &head.map(str::to_owned));
    let mut is_empty = true;
    for method in &section.methods {
        let shots = match method.is_trained {
            true => section.shots.clone(),
            false => vec![0],
        };
        for (dataset, class_set) in section
            .datasets
            .iter()
            .flat_map(|d| section.class_sets.iter().map(move |set| (d, *set)))
        {
            for &shots in &shots {
                let metric = Metric::Accuracy(class_set);
                let of = |section: &Section| {
                    let entry = section.entry(method, Place::Dataset(dataset), metric, shots);
                    entry.figure()
                };
                let (Some(by_picture), Some(by_class)) = (of(&by_picture), of(&by_class)) else {
                    continue;
                };
                is_empty = false;
                let digits = |value: f64| format!("{value:.4}");
                let deviation = |value: Option<f64>| value.map_or_else(String::new, digits);
                let cells = [
                    method.label.clone(),
                    dataset.clone(),
                    class_set.to_string(),
                    shots.to_string(),
                    digits(by_picture.mean),
                    deviation(by_picture.deviation),
                    digits(by_class.mean),
                    deviation(by_class.deviation),
                    by_class.seeds.to_string(),
                ];
                line(&mut text, &cells);
            }
        }
    }
    (!is_empty).then_some(text)
}

/// What each trial got right of each class.
fn classes(section: &Section, loaded: &Loaded) -> Option<String> {
    let keys: BTreeSet<&str> = section
        .cells()
        .flat_map(|(.., cell)| cell.keys.iter().map(|key| key.1.as_str()))
        .collect();
    let head = [
        "method", "dataset", "classes", "shots", "seed", "label", "class", "correct", "images",
        "recall",
    ];
    let mut text = String::new();
    line(&mut text, &head.map(str::to_owned));
    let mut is_empty = true;
    let counts = |r: &&Record| r.outcome == Outcome::Finished && keys.contains(r.key.as_str());
    for record in loaded.records.iter().filter(counts) {
        for test in &record.tests {
            for (label, class) in test.classes.iter().enumerate() {
                is_empty = false;
                let recall = class.recall().map(|recall| format!("{recall:.4}"));
                let cells = [
                    record.method.clone(),
                    test.dataset.clone(),
                    test.class_set.to_string(),
                    record.shots.to_string(),
                    record.seed.to_string(),
                    label.to_string(),
                    class.name.clone(),
                    class.correct.to_string(),
                    class.total.to_string(),
                    recall.unwrap_or_default(),
                ];
                line(&mut text, &cells);
            }
        }
    }
    (!is_empty).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ClassTally;
    use crate::show::summary::{Summary, sample};
    use crate::store::Planned;

    /// 90 of 100 of a common class and 1 of 4 of a rare one: 91 of 104 pictures, and (90 + 25) / 2 of the classes.
    fn unequal(seed: u64, rare: u64) -> Record {
        let tally = |name: &str, correct, total| ClassTally {
            name: name.to_owned(),
            correct,
            total,
        };
        let mut record = sample::trial("coop", "busi", 16, seed, &[("all", 50.0)]);
        let test = &mut record.tests[0];
        test.classes = vec![
            tally("common, or so", 90, 100),
            tally("rare", rare, 4),
            tally("absent", 0, 0),
        ];
        (test.correct, test.total) = (90 + rare, 104);
        record
    }

    fn loaded(records: Vec<Record>) -> Loaded {
        Loaded {
            planned: records.iter().map(Planned::of).collect(),
            records,
            problems: Vec::new(),
        }
    }

    #[test]
    fn macro_accuracy_is_the_mean_of_the_classes_recall() {
        let mut test = unequal(1, 1).tests.remove(0);
        assert_eq!(test.accuracy(), 100.0 * 91.0 / 104.0);
        assert_eq!(test.macro_accuracy(), Some(57.5));
        test.drop_tallies();
        assert!(test.classes.is_empty());
        assert_eq!(test.macro_accuracy(), Some(57.5));
        test.recall = None;
        assert_eq!(test.macro_accuracy(), None);
    }

    #[test]
    fn files_hold_what_was_computed_by_hand() {
        let loaded = loaded(vec![unequal(1, 1), unequal(2, 3)]);
        let summary = Summary::new(&loaded);
        let files = render(&summary.sections[0], &loaded);
        // Recalls 90 and 25, 90 and 75: 57.5 and 82.5, their mean 70, their deviation 25 / sqrt 2.
        assert_eq!(
            files[0],
            (
                "few-shot-macro-accuracy.csv".to_owned(),
                "method,dataset,classes,shots,accuracy,accuracy sd,macro accuracy,macro accuracy sd,seeds\n\
                 coop,busi,all,16,88.4615,1.3598,70.0000,17.6777,2\n"
                    .to_owned()
            )
        );
        let recall: Vec<&str> = files[1].1.lines().collect();
        assert_eq!(
            recall[..4],
            [
                "method,dataset,classes,shots,seed,label,class,correct,images,recall",
                "coop,busi,all,16,1,0,\"common, or so\",90,100,90.0000",
                "coop,busi,all,16,1,1,rare,1,4,25.0000",
                "coop,busi,all,16,1,2,absent,0,0,",
            ]
        );
        assert_eq!(recall.len(), 7);
        assert!(summary.sections[0].is_unequal());
    }

    #[test]
    fn records_without_tallies_have_macro_accuracy_and_no_recall_by_class() {
        let mut records = vec![unequal(1, 1)];
        records[0].tests[0].drop_tallies();
        let kept = loaded(records);
        let names = |loaded: &Loaded| -> Vec<String> {
            let summary = Summary::new(loaded);
            let files = render(&summary.sections[0], loaded);
            files.into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(&kept), ["few-shot-macro-accuracy.csv"]);
        let mut records = kept.records;
        records[0].tests[0].recall = None;
        assert_eq!(names(&loaded(records)), Vec::<String>::new());
    }
}
