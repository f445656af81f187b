//! Results that are committed still read: the tables and charts made of them are those beside them, byte for byte.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use datasets::Catalogue;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use promptbed::protocols;
use promptbed::record::{Cost, Outcome, Provenance, Record, SCHEMA, Settings, Test};
use promptbed::run::suite::Suite;
use promptbed::run::{feed, plan};
use promptbed::show::plot::{self, Size};
use promptbed::show::table;
use promptbed::store::{Loaded, Planned};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../results")
        .join(name)
}

/// A row of a `trials.parquet`, by column.
type Row = BTreeMap<String, Field>;

fn rows(path: &Path) -> Vec<Row> {
    let file = std::fs::File::open(path).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    rows.map(|row| row.unwrap().into_columns().into_iter().collect())
        .collect()
}

/// The records of a `trials.parquet`, as far as tables and charts need them.
fn records(rows: &[Row]) -> Vec<Record> {
    let text = |column: &str, i: usize| match &rows[i][column] {
        Field::Str(text) => text.clone(),
        other => panic!("{column}: {other}"),
    };
    let whole = |column: &str, i: usize| match &rows[i][column] {
        Field::ULong(number) => *number,
        Field::Long(number) => *number as u64,
        other => panic!("{column}: {other}"),
    };
    let real = |column: &str, i: usize| match &rows[i][column] {
        Field::Double(number) => *number,
        other => panic!("{column}: {other}"),
    };
    let mut records: BTreeMap<String, Record> = BTreeMap::new();
    for i in 0..rows.len() {
        assert_eq!(text("status", i), "finished");
        let key = text("key", i);
        let record = records.entry(key.clone()).or_insert_with(|| Record {
            schema: SCHEMA,
            key,
            suite: text("suite", i),
            suite_hash: text("suite_hash", i),
            protocol: protocols::find(&text("protocol", i)).unwrap(),
            method: text("method", i),
            algorithm: text("algorithm", i),
            settings: serde_json::from_str(&text("settings", i)).unwrap(),
            suite_settings: Settings::default(),
            dataset: text("trained_on", i),
            shots: whole("shots", i) as usize,
            seed: whole("seed", i),
            outcome: Outcome::Finished,
            tests: Vec::new(),
            losses: Vec::new(),
            found: BTreeMap::new(),
            learning_rates: Vec::new(),
            notes: Vec::new(),
            titles: BTreeMap::new(),
            cost: Cost {
                train_seconds: real("train_seconds", i),
                test_seconds: 0.0,
                scored: 0,
                steps: whole("steps", i),
                parameters: whole("parameters", i),
                peak_memory: whole("peak_memory", i),
                operations: real("operations", i),
            },
            provenance: Provenance {
                backbone: text("backbone", i),
                backbone_fingerprint: text("backbone_fingerprint", i),
                started: whole("started", i),
                ..Provenance::default()
            },
        });
        record.tests.push(Test {
            dataset: text("dataset", i),
            class_set: text("class_set", i).parse().unwrap(),
            stage: 0,
            correct: whole("correct", i),
            total: whole("total", i),
            classes: Vec::new(),
            recall: None,
            ece: real("ece", i),
            seconds: real("test_seconds", i),
        });
    }
    records.into_values().collect()
}

/// A results folder from its frame and its suite, which says in which order its trials stand.
fn loaded(name: &str) -> Loaded {
    let records = records(&rows(&folder(name).join("trials.parquet")));
    let known = feed::known(&Catalogue::built_in());
    let suite = Suite::read(&folder(name).join("suite.toml"), &known).unwrap();
    let trial = |p: &Planned| {
        let words = (p.protocol, p.method.clone(), p.dataset.clone());
        (words, p.shots, p.seed)
    };
    let mut found: BTreeMap<_, Planned> = records
        .iter()
        .map(|r| (trial(&Planned::of(r)), Planned::of(r)))
        .collect();
    let planned: Vec<Planned> = plan::cells(&suite)
        .into_iter()
        .map(|cell| {
            let label = suite.methods[cell.line].label.clone();
            let words = (cell.protocol, label, cell.dataset.clone());
            let trial = (words, cell.shots, cell.seed);
            found
                .remove(&trial)
                .unwrap_or_else(|| panic!("{name}: {trial:?} is planned and not there"))
        })
        .collect();
    assert!(found.is_empty(), "{name}: nobody plans {found:?}");
    Loaded {
        records,
        problems: Vec::new(),
        planned,
    }
}

/// Every file of `made` that is committed is the same, and every committed one is made.
fn same(made: &Path, committed: &Path) {
    let mut names: Vec<_> = std::fs::read_dir(committed)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert!(!names.is_empty());
    for name in names {
        let (new, old) = (made.join(&name), committed.join(&name));
        let new = std::fs::read(&new).unwrap_or_else(|e| panic!("{}: {e}", new.display()));
        let before = std::fs::read(&old).unwrap();
        // Another encoder may pack the same picture another way.
        let is_same = if old.extension().is_some_and(|e| e == "png") {
            let pixels = |bytes: &[u8]| image::load_from_memory(bytes).unwrap().into_rgba8();
            pixels(&new) == pixels(&before)
        } else {
            new == before
        };
        assert!(is_same, "{} is another now", old.display());
    }
}

#[test]
fn committed_results_make_the_committed_tables_and_charts() {
    for name in ["quick", "drawn-all"] {
        let loaded = loaded(name);
        let made = tempfile::tempdir().unwrap();
        table::render_all(&loaded, made.path()).unwrap();
        plot::render_all(&loaded, &|_, _, _| Ok(None), made.path(), Size::Screen).unwrap();
        for part in ["tables", "charts"] {
            same(&made.path().join(part), &folder(name).join(part));
        }
    }
}
