//! Results of the program that wrote records and prompt files of schema 1: still read.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

mod bed;

use std::path::{Path, PathBuf};

use bed::Bed;
use promptbed::store::Store;
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schema-1")
}

/// The old suite, with the old results in `out`.
fn old() -> Bed {
    let bed = Bed::with_suite("");
    // A record says which suite it belongs to by its file's name.
    let suite = std::fs::read(fixtures().join("suite.toml")).unwrap();
    std::fs::write(bed.path("old.toml"), suite).unwrap();
    for folder in ["trials", "prompts", "predictions"] {
        std::fs::create_dir_all(bed.path("out").join(folder)).unwrap();
        let Ok(entries) = std::fs::read_dir(fixtures().join(folder)) else {
            continue;
        };
        for path in entries.map(|e| e.unwrap().path()) {
            let name = path.file_name().unwrap();
            std::fs::copy(&path, bed.path("out").join(folder).join(name)).unwrap();
        }
    }
    bed
}

#[test]
fn settings_of_the_suite_are_told_from_those_of_the_method() {
    let bed = old();
    let loaded = Store::open(bed.path("out")).unwrap().read_all().unwrap();
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    assert_eq!(loaded.records.len(), 5);
    for record in &loaded.records {
        let suite = json!(record.suite_settings);
        let mut expected = json!({"precision": "float32", "memory": 500_000_000});
        if record.algorithm == "coop" {
            expected["views"] = "cached 2".into();
            assert_eq!(record.settings.len(), 13, "{:?}", record.settings);
            assert_eq!(record.settings["lr"], 0.002);
        }
        assert_eq!(suite, expected, "{}", record.key);
        // Older than cards: of the processor.
        assert_eq!(record.provenance.device, None, "{}", record.key);
        assert_eq!(record.provenance.arithmetic, None, "{}", record.key);
        let own = record.settings.get("views");
        let expected = (record.algorithm == "tpt").then(|| Value::from(4));
        assert_eq!(own, expected.as_ref(), "{}", record.key);
    }
}

/// Last digits may differ since the records were made (another `RESULTS`): mixed with new ones in a table, nobody could tell.
#[test]
fn trials_whose_results_another_version_made_run_again_and_their_records_stay() {
    let bed = old();
    let before = bed.files("out/trials");
    let answer = bed.run(&["run", "old.toml", "--out", "out"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    for told in [
        "0 finished before, 5 to run",
        "5 records set aside: no suite asks for it any more, or a newer one replaces it",
    ] {
        let all = format!("{}{}", answer.stderr, answer.stdout);
        assert!(all.contains(told), "{all}");
    }
    let after = bed.files("out/trials");
    assert!(
        before
            .iter()
            .all(|(name, bytes)| after.get(name) == Some(bytes))
    );
    assert_eq!((before.len(), bed.records("out").len()), (5, 10));
    // What the old record says of CoOp's base classes.
    let table = String::from_utf8(bed.files("out/tables")["base-to-novel-average.md"].clone());
    let table = table.unwrap();
    assert!(table.contains("54.38"), "{table}");
    let again = bed.run(&["run", "old.toml", "--out", "out"]);
    assert!(again.stderr.contains("5 finished before, 0 to run"));
}

#[test]
fn prompts_of_an_older_program_give_the_accuracy_of_their_trial() {
    let bed = old();
    let name = bed.files("out/prompts").into_keys().next().unwrap();
    let file = format!("out/prompts/{name}");
    for (half, correct) in [("base", 87), ("novel", 56)] {
        let answer = bed.run(&[
            "eval",
            "--prompts",
            &file,
            "--dataset",
            "drawn-textures",
            "--split",
            half,
            "--json",
        ]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        let told: Value = serde_json::from_str(&answer.stdout).unwrap();
        assert_eq!(
            (&told["correct"], &told["total"]),
            (&json!(correct), &json!(160))
        );
    }
}
