//! Methods that adapt to views of test pictures share their encodings, and no number changes by it.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

mod bed;

use std::collections::BTreeMap;

use bed::Bed;
use serde_json::Value;

const HEAD: &str = r#"
version  = 1
protocol = "test-time"
datasets = ["drawn-textures"]
seeds    = [1]
"#;

/// The first four see the same views, the others each their own: unmixed ones, those of another order.
const METHODS: [&str; 6] = [
    "name = \"tpt\"\nconfig = { views = 4, keep = 0.5 }\n",
    "name = \"ctpt\"\nconfig = { views = 4, keep = 0.5 }\n",
    "name = \"zero\"\nconfig = { views = 4, augmix = true }\n",
    "name = \"mta\"\nconfig = { views = 4, augmix = true }\n",
    "name = \"zero\"\nlabel = \"unmixed\"\nconfig = { views = 4 }\n",
    "name = \"tda\"\nconfig = { views = 4, keep = 0.5 }\n",
];

fn suite(methods: &[&str]) -> String {
    let methods = methods.iter().map(|m| format!("[[method]]\n{m}"));
    HEAD.to_owned() + &methods.collect::<String>()
}

/// Records and predictions of a run, without the suite that asked for them.
fn run(
    bed: &Bed,
    out: &str,
    more: &[&str],
) -> (BTreeMap<String, Value>, BTreeMap<String, Vec<u8>>) {
    let arguments = [&["run", "suite.toml", "--out", out], more].concat();
    let answer = bed.run(&arguments);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let mut records = bed.records(out);
    for record in records.values_mut() {
        record.as_object_mut().unwrap().remove("suite_hash");
    }
    (records, bed.files(&format!("{out}/predictions")))
}

#[test]
fn together_side_by_side_from_disk_and_each_alone_methods_answer_alike() {
    let bed = Bed::with_suite(&suite(&METHODS));
    let together = run(&bed, "together", &["--jobs", "1"]);
    assert_eq!(together.0.len(), METHODS.len());
    assert!(run(&bed, "beside", &["--jobs", "2"]) == together);
    let cached = ["--jobs", "2", "--cache", "features"];
    assert!(run(&bed, "filled", &cached) == together);
    let listed = |bed: &Bed| bed.run(&["cache", "list", "features"]).stdout;
    let before = listed(&bed);
    assert!(run(&bed, "read", &cached) == together);
    assert_eq!(listed(&bed), before, "all that is needed is there");

    let (mut records, mut predictions) = (BTreeMap::new(), BTreeMap::new());
    for method in METHODS {
        let bed = Bed::with_suite(&suite(&[method]));
        let (own, answers) = run(&bed, "out", &["--jobs", "1"]);
        records.extend(own);
        predictions.extend(answers);
    }
    assert!((records, predictions) == together);
}

#[test]
fn a_cache_holds_views_once_whoever_sees_them() {
    let pictures = |methods: &[&str]| {
        let bed = Bed::with_suite(&suite(methods));
        run(&bed, "out", &["--jobs", "2", "--cache", "features"]);
        let folder = std::fs::read_dir(bed.path("features")).unwrap();
        let files = folder.flat_map(|of| std::fs::read_dir(of.unwrap().path()).unwrap());
        let name = |file: &std::fs::DirEntry| file.file_name().into_string().unwrap();
        let files = files.filter(|file| name(file.as_ref().unwrap()).ends_with(".features"));
        files.count()
    };
    let one = pictures(&METHODS[..1]);
    assert!(one > 0);
    assert_eq!(pictures(&METHODS[..4]), one);
    assert!(pictures(&METHODS[3..5]) > one);
}

#[test]
fn one_that_was_stopped_among_others_goes_on_to_the_same_answers() {
    let bed = Bed::with_suite(&suite(&METHODS[..3]));
    let whole = run(&bed, "whole", &["--jobs", "2"]);
    let (mut stops, more) = (0, ["--jobs", "1", "--time-limit", "1s"]);
    loop {
        let answer = bed.run(&[&["run", "suite.toml", "--out", "out"][..], &more].concat());
        match answer.code {
            Some(0) => break,
            Some(75) => stops += 1,
            code => panic!("{code:?}: {}", answer.stderr),
        }
    }
    assert!(run(&bed, "out", &[]) == whole, "stopped {stops} times");
}
