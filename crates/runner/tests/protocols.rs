//! Protocols end to end: what they ask adds up, for every kind of method.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

mod bed;

use std::collections::BTreeMap;

use bed::Bed;
use serde_json::Value;

/// A method that sees features, one that sees pixels, one that sees views of one picture, and one that is not trained.
const SUITE: &str = r#"
version  = 1
protocol = ["base-to-novel", "all-classes"]
datasets = ["drawn-textures"]
shots    = [1]
seeds    = [1]
views    = "none"

[[method]]
name = "zero-shot"

[[method]]
name   = "coop"
epochs = 2
config = { n_ctx = 2 }

[[method]]
name   = "vpt"
epochs = 1

[[method]]
name   = "tpt"
config = { views = 4, keep = 0.5 }
"#;

/// Correct and all pictures by class set, of every record by method and protocol.
fn counted(bed: &Bed) -> BTreeMap<(String, String), BTreeMap<String, (u64, u64)>> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let records = bed.records("out").into_values();
    records
        .map(|record| {
            let tests = record["tests"].as_array().unwrap().iter().map(|test| {
                assert!(test.get("stage").is_none(), "one stage is not written");
                let count = |name: &str| test[name].as_u64().unwrap();
                (text(&test["class_set"]), (count("correct"), count("total")))
            });
            let trial = (text(&record["method"]), text(&record["protocol"]));
            (trial, tests.collect())
        })
        .collect()
}

#[test]
fn base_and_novel_among_all_classes_are_the_whole_test_set() {
    let bed = Bed::with_suite(SUITE);
    let answer = bed.run(&["run", "suite.toml", "--out", "out"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let counted = counted(&bed);
    assert_eq!(counted.len(), 8);
    for method in ["zero-shot", "coop", "vpt", "tpt"] {
        let of = |protocol: &str| &counted[&(method.to_owned(), protocol.to_owned())];
        let (halves, all) = (of("base-to-novel"), of("all-classes"));
        for half in ["base", "novel"] {
            let (alone, among) = (halves[half], all[&format!("{half}-among-all")]);
            assert_eq!(alone.1, among.1, "{method}: the same {half} pictures");
            // TPT adapts to the classes that are asked; of all others, more classes can only mislead.
            assert!(
                method == "tpt" || among.0 <= alone.0,
                "{method}, {half}: {} among all, {} alone",
                among.0,
                alone.0
            );
        }
    }

    // What was learned is what base-to-novel learns, and asked about every picture it gives the sum.
    let prompts = bed.files("out/prompts");
    let coop: Vec<&String> = prompts.keys().filter(|n| n.starts_with("coop")).collect();
    assert_eq!(coop.len(), 2);
    for name in coop {
        let file = format!("out/prompts/{name}");
        let answer = bed.run(&[
            "eval",
            "--prompts",
            &file,
            "--dataset",
            "drawn-textures",
            "--json",
        ]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        let told: Value = serde_json::from_str(&answer.stdout).unwrap();
        let all = &counted[&("coop".to_owned(), "all-classes".to_owned())];
        let sum = |field: fn(&(u64, u64)) -> u64| all.values().map(field).sum::<u64>();
        assert_eq!(told["correct"], sum(|c| c.0));
        assert_eq!(told["total"], sum(|c| c.1));
    }

    let table = &bed.files("out/tables")["all-classes-average.md"];
    let table = String::from_utf8(table.clone()).unwrap();
    let head = table.lines().find(|l| l.starts_with("| Method"));
    let cells: Vec<&str> = head.unwrap().split('|').map(str::trim).collect();
    assert_eq!(cells, ["", "Method", "Base", "Novel", "H", ""]);
    assert!(table.contains("Base and novel classes at once"), "{table}");
    let charts = bed.files("out/charts");
    for chart in ["datasets", "novel-against-base", "cost", "reliability"] {
        let name = format!("all-classes-{chart}.svg");
        assert!(charts.contains_key(&name), "{name} is not drawn");
    }
    let answer = bed.run(&["report", "out"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
}
