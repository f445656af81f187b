//! The worked examples of docs/applications.md, run as they stand there.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

mod bed;

use std::path::Path;

use bed::Bed;

/// The blocks of a page in order: what stands behind the three ticks, and the text.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((_, behind)) = rest.split_once("```") {
        let (kind, behind) = behind.split_once('\n').unwrap();
        let (text, behind) = behind.split_once("```").unwrap();
        blocks.push((kind, text));
        rest = behind;
    }
    blocks
}

/// A TOML block that begins with `# NAME.toml` is that file; every line of a `bash` block is run. Blocks under "Real data"
/// need data that is not here and are marked `sh`.
#[test]
fn the_examples_run_from_folder_to_report() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/applications.md");
    let page = std::fs::read_to_string(path).unwrap();
    let bed = Bed::with_suite("");
    let mut ran = 0;
    for (kind, text) in blocks(&page) {
        match kind {
            "toml" => {
                let name = text.lines().next().and_then(|line| line.strip_prefix("# "));
                if let Some(name) = name.filter(|name| name.ends_with(".toml")) {
                    std::fs::write(bed.path(name), text).unwrap();
                }
            }
            "bash" => {
                for line in text.lines().filter(|line| !line.trim().is_empty()) {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    assert_eq!(words[0], "promptbed", "{line}");
                    let answer = bed.run(&words[1..]);
                    assert_eq!(
                        answer.code,
                        Some(0),
                        "{line}\n{}\n{}",
                        answer.stdout,
                        answer.stderr
                    );
                    ran += 1;
                }
            }
            _ => {}
        }
    }
    assert!(ran >= 12, "only {ran} commands");
    for example in ["scans", "aerial", "cabins"] {
        let results = format!("results/{example}");
        assert!(bed.path(format!("{results}/report.html")).is_file());
        let tables = bed.files(&format!("{results}/tables"));
        assert!(
            tables.contains_key("few-shot-macro-accuracy.csv"),
            "{example}"
        );
        // The tallies of classes are read for whoever asks for macro accuracy.
        let is_asked = example != "aerial";
        assert_eq!(
            tables.contains_key("few-shot-recall.csv"),
            is_asked,
            "{example}"
        );
    }
    // What is unequal is said in the report, and only there.
    let report = |example: &str| {
        let path = bed.path(format!("results/{example}/report.html"));
        std::fs::read_to_string(path)
            .unwrap()
            .contains("Macro accuracy")
    };
    assert_eq!(
        ["scans", "aerial", "cabins"].map(report),
        [true, false, true]
    );
}

#[test]
fn a_drawn_set_in_a_folder_is_the_one_in_the_program() {
    let bed = Bed::with_suite("");
    let draw = bed.run(&["data", "draw", "drawn-scans", "--out", "."]);
    assert_eq!(draw.code, Some(0), "{}", draw.stderr);
    let again = bed.run(&["data", "draw", "drawn-scans", "--out", "."]);
    assert_eq!(again.code, Some(2));
    assert!(
        again.stderr.contains("is there already"),
        "{}",
        again.stderr
    );
    let unknown = bed.run(&["data", "draw", "drawn-scan", "--out", "."]);
    assert!(
        unknown.stderr.contains("did you mean drawn-scans?"),
        "{}",
        unknown.stderr
    );
    let suite = |dataset: &str| {
        format!(
            "version = 1\nprotocol = \"few-shot\"\nbackbone = \"drawn\"\ndatasets = [\"{dataset}\"]\nshots = [4]\nseeds = [1]\n\
             [[method]]\nname = \"zero-shot\"\n[[method]]\nname = \"tip-adapter\"\n"
        )
    };
    let mut tested = Vec::new();
    for dataset in ["drawn-scans", "scans"] {
        std::fs::write(bed.path("suite.toml"), suite(dataset)).unwrap();
        let run = bed.run(&[
            "run",
            "suite.toml",
            "--out",
            dataset,
            "--data",
            ".",
            "--catalogue",
            "scans.toml",
        ]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let records = bed.records(dataset);
        let of = |record: &serde_json::Value| {
            (
                record["tests"][0]["correct"].clone(),
                record["tests"][0]["classes"].clone(),
            )
        };
        tested.push(records.values().map(of).collect::<Vec<_>>());
    }
    assert_eq!(tested[0].len(), 2);
    assert_eq!(tested[0], tested[1]);
}
