use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::*;
use crate::record::TestSet;
use crate::show::summary::sample;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).unwrap();
    (dir, store)
}

#[test]
fn a_record_comes_back_as_it_was_written() {
    let (_dir, store) = store();
    let record = sample::trial("coop", "dtd", 4, 1, &[("base", 71.5), ("novel", 62.25)]);
    assert!(!store.has_finished(&record.key));
    store.write(&record).unwrap();
    assert!(store.has_finished(&record.key));
    let loaded = store.read_all().unwrap();
    assert_eq!(
        serde_json::to_value(&loaded.records).unwrap(),
        serde_json::to_value([&record]).unwrap()
    );
    assert!(loaded.problems.is_empty());
}

#[test]
fn broken_records_are_named_and_never_skipped() {
    let (_dir, store) = store();
    let good = sample::trial("coop", "dtd", 4, 1, &[("base", 71.5)]);
    store.write(&good).unwrap();
    let path = store.record_path(&good.key);
    let text = std::fs::read_to_string(&path).unwrap();
    let put = |name: &str, text: &str| std::fs::write(path.with_file_name(name), text).unwrap();
    // A checksum that is right does not make up for what is wrong.
    let sealed = |text: String| String::from_utf8(sealed::seal_anew(&text)).unwrap();
    let renamed = |key: &str| text.replace(&format!("\"{}\"", good.key), &format!("\"{key}\""));

    put("half.json", &text[..text.len() / 2]);
    put(
        "newer.json",
        &sealed(renamed("newer").replacen("\"schema\": 3", "\"schema\": 7", 1)),
    );
    put("moved.json", &text);
    put(
        "sums.json",
        &sealed(renamed("sums").replacen("\"correct\": 1430", "\"correct\": 3000", 1)),
    );
    put(
        "touched.json",
        &renamed("touched").replacen("\"correct\": 1430", "\"correct\": 1431", 1),
    );
    put("notes.txt", "hello");
    put(".left-over.json.12-0.tmp", "{");

    let loaded = store.read_all().unwrap();
    assert_eq!(loaded.records.len(), 1);
    let problem = |name: &str| {
        let found = loaded
            .problems
            .iter()
            .find(|(path, _)| path.file_name().unwrap() == name);
        found
            .unwrap_or_else(|| panic!("{name} is not among {:?}", loaded.problems))
            .1
            .as_str()
    };
    assert_eq!(loaded.problems.len(), 6);
    assert!(
        problem("half.json").starts_with("corrupted: "),
        "{}",
        problem("half.json")
    );
    assert!(problem("newer.json").contains("7 is newer than 3"));
    assert!(problem("touched.json").contains("its checksum is of other bytes"));
    assert!(problem("moved.json").contains("does not match the file's name"));
    assert!(problem("sums.json").contains("3000 correct of 2000"));
    assert!(problem("notes.txt").contains("not a record"));
    assert!(!store.has_finished("half"));
}

#[test]
fn a_record_nobody_could_read_is_not_written() {
    let (_dir, store) = store();
    let mut record = sample::trial("coop", "dtd", 4, 1, &[("base", 71.5)]);
    record.losses = vec![0.5, f64::NAN];
    let error = store.write(&record).unwrap_err().to_string();
    assert!(error.contains("null"), "{error}");
    assert!(!store.record_path(&record.key).exists());
    record.losses.clear();
    record.key = "../escape".to_owned();
    assert!(
        store
            .write(&record)
            .unwrap_err()
            .to_string()
            .contains("not a file name")
    );
}

#[test]
fn failed_trials_may_run_again() {
    let (_dir, store) = store();
    let record = sample::failed("coop", "dtd", 4, 1, "the loss became NaN at step 12");
    store.write(&record).unwrap();
    assert!(!store.has_finished(&record.key));
    assert_eq!(store.read_all().unwrap().records.len(), 1);
}

#[test]
fn writing_leaves_no_temporary_file() {
    let (_dir, store) = store();
    for seed in 1..4 {
        store
            .write(&sample::trial("coop", "dtd", 4, seed, &[("base", 71.5)]))
            .unwrap();
    }
    assert_eq!(
        std::fs::read_dir(store.dir().join("trials"))
            .unwrap()
            .count(),
        3
    );
}

#[test]
fn plans_of_two_suites_live_side_by_side() {
    let (_dir, store) = store();
    let records: Vec<Record> = (1..4)
        .map(|seed| sample::trial("coop", "dtd", 4, seed, &[("base", 71.5)]))
        .collect();
    let planned: Vec<Planned> = records.iter().map(Planned::of).collect();
    store.write_plan("one", &planned[..2]).unwrap();
    store.write_plan("two", &planned[1..]).unwrap();
    store.write_plan("one", &planned[..2]).unwrap();
    assert_eq!(store.read_all().unwrap().planned, planned);
    std::fs::write(store.dir().join("plan.json"), "[").unwrap();
    assert_eq!(store.read_all().unwrap().problems.len(), 1);
    store.write_plan("two", &planned).unwrap();
    assert_eq!(store.read_all().unwrap().planned, planned);
    assert!(store.read_all().unwrap().problems.is_empty());
    assert!(store.dir().join("damaged/plan.json").exists());
}

#[test]
fn the_one_plan_of_an_older_program_counts_until_its_suite_is_run_again() {
    let (_dir, store) = store();
    let records: Vec<Record> = (1..4)
        .map(|seed| sample::trial("coop", "dtd", 4, seed, &[("base", 71.5)]))
        .collect();
    let planned: Vec<Planned> = records.iter().map(Planned::of).collect();
    let old = serde_json::json!({"one": planned[..1], "two": planned[1..2]});
    std::fs::write(store.dir().join("plan.json"), old.to_string()).unwrap();
    assert_eq!(store.read_all().unwrap().planned, planned[..2]);
    assert_eq!(store.plan("two").unwrap().unwrap(), planned[1..2]);
    store.write_plan("two", &planned[2..]).unwrap();
    assert_eq!(store.plan("two").unwrap().unwrap(), planned[2..]);
    assert_eq!(store.read_all().unwrap().planned.len(), 2);
    assert!(store.plan("three").unwrap().is_none());
}

#[test]
fn damaged_files_are_kept_under_their_names() {
    let (_dir, store) = store();
    for expected in ["k.json", "k-2.json", "k-3.json"] {
        std::fs::write(store.record_path("k"), "{").unwrap();
        let standing = store.standing("k").unwrap();
        assert!(matches!(standing, Standing::Damaged(_)), "{standing:?}");
        let place = store.set_aside(&store.record_path("k")).unwrap();
        assert_eq!(place, store.dir().join("damaged").join(expected));
        assert_eq!(store.standing("k").unwrap(), Standing::Missing);
    }
}

#[test]
fn predictions_come_back_as_they_were_written() {
    let (_dir, store) = store();
    let predictions: Vec<Prediction> = (0..500)
        .map(|i| Prediction {
            test_index: i / 250,
            dataset: "dtd".to_owned(),
            class_set: if i < 250 {
                TestSet::BASE
            } else {
                TestSet::NOVEL
            },
            image: format!("images/lined/lined_{i:04}.jpg"),
            label: i % 24,
            predicted: i % 23,
            confidence: (i as f32 / 500.0).sqrt(),
        })
        .collect();
    assert_eq!(store.read_predictions("k").unwrap(), None);
    store.write_predictions("k", &predictions).unwrap();
    assert_eq!(
        store.read_predictions("k").unwrap().as_deref(),
        Some(&predictions[..])
    );
    let novel = store
        .read_predictions_on("k", "dtd", TestSet::NOVEL)
        .unwrap();
    assert_eq!(novel.as_deref(), Some(&predictions[250..]));
    assert_eq!(
        store
            .read_predictions_on("k", "eurosat", TestSet::NOVEL)
            .unwrap(),
        Some(vec![])
    );
    let bytes = std::fs::metadata(store.predictions_path("k"))
        .unwrap()
        .len();
    assert!(bytes < 12_000, "500 predictions take {bytes} bytes");
    store.write_predictions("none", &[]).unwrap();
    assert_eq!(store.read_predictions("none").unwrap(), Some(vec![]));
    std::fs::write(store.predictions_path("k"), b"PAR1nonsensePAR1").unwrap();
    assert!(matches!(
        store.read_predictions("k"),
        Err(StoreError::Parquet { .. })
    ));
}

#[test]
fn the_frame_has_a_row_for_each_trial_and_test() {
    let (_dir, store) = store();
    store
        .write(&sample::trial(
            "coop",
            "dtd",
            4,
            1,
            &[("base", 71.5), ("novel", 62.25)],
        ))
        .unwrap();
    store
        .write(&sample::failed("coop", "dtd", 4, 2, "no memory"))
        .unwrap();
    let loaded = store.read_all().unwrap();
    store.write_frame(&loaded).unwrap();
    let file = std::fs::File::open(store.dir().join("trials.parquet")).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let rows: Vec<Vec<(String, Field)>> = reader
        .get_row_iter(None)
        .unwrap()
        .map(|row| row.unwrap().into_columns())
        .collect();
    assert_eq!(rows.len(), 3);
    let column = |name: &str| -> Vec<&Field> {
        let values = rows.iter().flatten().filter(|(n, _)| n == name);
        values.map(|(_, value)| value).collect()
    };
    assert_eq!(
        column("accuracy"),
        [&Field::Double(71.5), &Field::Double(62.25), &Field::Null]
    );
    assert_eq!(column("reason")[2], &Field::Str("no memory".to_owned()));
    assert_eq!(column("shots"), [&Field::ULong(4); 3]);
}
