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

/// Two learned, one not; three sessions.
const OUTLOOK: &str = r#"
version  = 1
protocol = ["few-shot", "multi-task", "class-incremental", "task-incremental"]
datasets = ["drawn-textures", "drawn-satellite"]
unseen   = ["drawn-pets"]
sessions = 3
shots    = [1]
seeds    = [1, 2]
views    = "none"

[[method]]
name = "zero-shot"

[[method]]
name   = "coop"
epochs = 2
config = { n_ctx = 2 }
"#;

/// Lines of a CSV file, as fields.
fn lines(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Vec<Vec<String>> {
    let bytes = files
        .get(name)
        .unwrap_or_else(|| panic!("{name} is not among {:?}", files.keys().collect::<Vec<_>>()));
    let text = String::from_utf8(bytes.clone()).unwrap();
    let fields = |line: &str| {
        line.split(',')
            .map(|f| f.trim_matches('"').to_owned())
            .collect()
    };
    text.lines().skip(1).map(fields).collect()
}

fn tests(record: &Value) -> Vec<(u64, &str, &str, f64)> {
    let all = record["tests"].as_array().unwrap().iter();
    let percent = |t: &Value| 100.0 * t["correct"].as_f64().unwrap() / t["total"].as_f64().unwrap();
    all.map(|t| {
        let stage = t.get("stage").map_or(0, |s| s.as_u64().unwrap());
        let text = |field: &str| t[field].as_str().unwrap();
        (stage, text("dataset"), text("class_set"), percent(t))
    })
    .collect()
}

#[test]
fn several_tasks_at_once_and_one_after_the_other_add_up() {
    let bed = Bed::with_suite(OUTLOOK);
    let dry = bed.run(&["run", "suite.toml", "--dry-run"]);
    assert_eq!(dry.code, Some(0), "{}", dry.stderr);
    let answer = bed.run(&["run", "suite.toml", "--out", "out"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let records: Vec<Value> = bed.records("out").into_values().collect();
    for record in &records {
        assert_eq!(record["outcome"]["status"], "finished", "{record}");
        let key = record["key"].as_str().unwrap();
        assert!(dry.stdout.contains(key), "{key} was not announced");
    }
    let of = |protocol: &str, method: &str| -> Vec<&Value> {
        let is_one = |r: &&Value| r["protocol"] == protocol && r["method"] == method;
        records.iter().filter(is_one).collect()
    };
    // One trial for all datasets where they are learned together, whatever has no seed once.
    let counts = [
        "few-shot",
        "multi-task",
        "class-incremental",
        "task-incremental",
    ]
    .map(|p| (of(p, "zero-shot").len(), of(p, "coop").len()));
    assert_eq!(counts, [(2, 4), (1, 2), (2, 4), (1, 2)]);

    let together = of("multi-task", "coop")[0];
    assert_eq!(together["dataset"], "drawn-textures+drawn-satellite");
    let key = together["key"].as_str().unwrap();
    assert!(
        key.starts_with("coop-drawn-textures+drawn-satellite-1shot-seed1-"),
        "{key}"
    );
    let asked: Vec<&str> = tests(together).iter().map(|t| t.1).collect();
    assert_eq!(asked, ["drawn-textures", "drawn-satellite", "drawn-pets"]);
    // What is not trained answers alike, whoever else is asked.
    let alone: BTreeMap<&str, f64> = of("few-shot", "zero-shot")
        .into_iter()
        .flat_map(tests)
        .map(|t| (t.1, t.3))
        .collect();
    for (_, dataset, _, accuracy) in tests(of("multi-task", "zero-shot")[0]) {
        assert!(
            alone.get(dataset).is_none_or(|a| *a == accuracy),
            "{dataset}"
        );
    }
    // One prompt of as many numbers as each of two, and about as many steps as both.
    let cost = |record: &Value, field: &str| record["cost"][field].as_u64().unwrap();
    let each = of("few-shot", "coop");
    assert_eq!(cost(together, "parameters"), cost(each[0], "parameters"));
    let tables = bed.files("out/tables");
    let costs = lines(&tables, "multi-task-tasks.csv");
    assert_eq!(costs.len(), 2);
    assert_eq!(costs[0][1..4], ["all at once", "1", "2"]);
    let numbers = |row: &[String]| {
        row[4..]
            .iter()
            .map(|n| n.parse().unwrap())
            .collect::<Vec<f64>>()
    };
    let (at_once, apart) = (numbers(&costs[0]), numbers(&costs[1]));
    assert_eq!(at_once[0] * 2.0, apart[0]);
    assert_eq!(apart[1], at_once[0]);
    assert!(at_once[2] <= apart[2], "{at_once:?} {apart:?}");
    let average = String::from_utf8(tables["multi-task-average.md"].clone()).unwrap();
    for part in ["All at once", "Each by itself", "drawn-pets (unseen)"] {
        assert!(average.contains(part), "{average}");
    }

    // The matrix is the record's tests, row by row, and the last column set what was learned.
    let matrix = lines(&tables, "task-incremental-matrix.csv");
    let rows = of("task-incremental", "coop")[0];
    let mut from_record: Vec<String> = tests(rows).iter().map(|t| format!("{:.4}", t.3)).collect();
    let from_table: Vec<String> = matrix
        .iter()
        .filter(|m| m[0] == "coop" && m[3] == "1")
        .map(|m| m[8].clone())
        .collect();
    assert_eq!(from_table, from_record);
    assert_eq!(from_table.len(), 4);
    // Until something else is learned, a trial of tasks in a row is a few-shot trial.
    let first = tests(rows)[0].3;
    let alone = each
        .iter()
        .find(|r| r["dataset"] == "drawn-textures" && r["seed"] == 1);
    assert_eq!(tests(alone.unwrap())[0].3, first);

    // Sessions: each test is over all classes so far, and the cells of its row are that test's pictures.
    let matrix = lines(&tables, "class-incremental-matrix.csv");
    for record in of("class-incremental", "coop") {
        let (dataset, seed) = (
            record["dataset"].as_str().unwrap(),
            record["seed"].to_string(),
        );
        let own = |m: &&Vec<String>| m[0] == "coop" && m[1] == dataset && m[3] == seed;
        let own: Vec<&Vec<String>> = matrix.iter().filter(own).collect();
        assert_eq!(own.len(), 6);
        let whole = record["tests"].as_array().unwrap();
        assert_eq!(whole.len(), 3);
        for (session, test) in (1..).zip(whole) {
            let row = own.iter().filter(|m| m[4] == session.to_string());
            let sum = |field: usize| {
                row.clone()
                    .map(|m| m[field].parse::<u64>().unwrap())
                    .sum::<u64>()
            };
            assert_eq!(sum(6), test["correct"].as_u64().unwrap());
            assert_eq!(sum(7), test["total"].as_u64().unwrap());
        }
        let set = whole[2]["class_set"].as_str().unwrap();
        assert_eq!(set, "sessions-1-3-of-3-shuffled-1993");
    }
    // Zero-shot ends where it stands among all classes at once: it has nothing to forget.
    from_record = of("class-incremental", "zero-shot")
        .into_iter()
        .map(|r| format!("{:.4}", tests(r)[2].3))
        .collect();
    let all_classes: Vec<String> = of("few-shot", "zero-shot")
        .into_iter()
        .map(|r| format!("{:.4}", tests(r)[0].3))
        .collect();
    assert_eq!(from_record, all_classes);

    let charts = bed.files("out/charts");
    for chart in [
        "multi-task-datasets",
        "class-incremental-by-session",
        "class-incremental-drawn-satellite-matrix",
        "task-incremental-by-session",
        "task-incremental-matrix",
    ] {
        for ending in ["svg", "png"] {
            let name = format!("{chart}.{ending}");
            assert!(
                charts.contains_key(&name),
                "{name} is not among {:?}",
                charts.keys()
            );
        }
    }
    let answer = bed.run(&["report", "out"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    for arguments in [
        &["status", "out"][..],
        &["compare", "out", "out"],
        &["table", "out"],
    ] {
        let answer = bed.run(arguments);
        assert_eq!(answer.code, Some(0), "{arguments:?}: {}", answer.stderr);
        assert!(
            !answer.stderr.contains("cannot be read"),
            "{}",
            answer.stderr
        );
    }

    // What was learned of several is tested again to the same figures.
    for (record, place) in [(together, 1), (of("class-incremental", "coop")[0], 2)] {
        let key = record["key"].as_str().unwrap();
        let (_, dataset, set, accuracy) = tests(record)[place];
        let file = format!("out/prompts/{key}.safetensors");
        let arguments = ["eval", "--prompts", &file, "--dataset", dataset, "--json"];
        let answer = bed.run(&arguments);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        let told: Value = serde_json::from_str(&answer.stdout).unwrap();
        let again = 100.0 * told["correct"].as_f64().unwrap() / told["total"].as_f64().unwrap();
        assert!(
            (again - accuracy).abs() < 1e-9,
            "{dataset} {set}: {again} was {accuracy}"
        );
    }
}

#[test]
fn what_does_not_fit_sessions_and_tasks_is_told_before_anything_runs() {
    let suite = OUTLOOK
        .replace(
            "unseen   = [\"drawn-pets\"]",
            "unseen   = [\"drawn-satellite\"]",
        )
        .replace("sessions = 3", "sessions = { count = 1, firts = 2 }");
    let answer = Bed::with_suite(&suite).run(&["run", "suite.toml", "--out", "out"]);
    assert_eq!(answer.code, Some(2));
    for part in [
        "unseen: drawn-satellite is one of `datasets`, which are trained on",
        "sessions: must be a number of 2 or more",
        "sessions.firts: there is no such key; did you mean `first`?",
    ] {
        assert!(answer.stderr.contains(part), "{part}: {}", answer.stderr);
    }
    let suite = OUTLOOK.replace("sessions = 3\n", "");
    let answer = Bed::with_suite(&suite).run(&["run", "suite.toml", "--dry-run"]);
    let told = "sessions: is missing: class-incremental learns classes in sessions";
    assert!(answer.stderr.contains(told), "{}", answer.stderr);
    // Too many, and an order of other datasets: each dataset once.
    for (sessions, told) in [
        (
            "sessions = 300",
            "there must be a class for each session (sessions)",
        ),
        (
            "sessions = { count = 3, order = \"icarl\" }",
            "the order `icarl` is one of 100 classes",
        ),
    ] {
        let suite = OUTLOOK.replace("sessions = 3", sessions);
        let answer = Bed::with_suite(&suite).run(&["run", "suite.toml", "--out", "out"]);
        assert_ne!(answer.code, Some(0));
        assert_eq!(answer.stderr.matches(told).count(), 2, "{}", answer.stderr);
    }
}
