//! The same suite twice gives the same numbers, whatever ran before and how many trials run side by side.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]

mod bed;

use bed::Bed;

/// Methods of every kind: nothing trained, features only, pixels through a prompted image tower, one picture at a time.
const SUITE: &str = r#"
version  = 1
protocol = "base-to-novel"
datasets = ["drawn-textures", "drawn-satellite"]
shots    = [1]
seeds    = [1, 2]
views    = { cached = 2 }

[[method]]
name = "zero-shot"

[[method]]
name   = "coop"
epochs = 2

[[method]]
name   = "promptsrc"
epochs = 2
"#;

#[test]
fn the_same_suite_gives_the_same_records_and_prompts() {
    let bed = Bed::with_suite(SUITE);
    let run = |results: &str, jobs: &str| {
        let answer = bed.run(&["run", "suite.toml", "--out", results, "--jobs", jobs]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        answer.stdout
    };
    let (first, again, beside) = (run("first", "1"), run("again", "1"), run("beside", "2"));

    let records = bed.records("first");
    assert_eq!(
        records.len(),
        2 * (1 + 2 + 2),
        "2 datasets; zero-shot once, two methods with 2 seeds"
    );
    let prompts = bed.files("first/prompts");
    assert_eq!(prompts.len(), 2 * (2 + 2), "a file for every trained trial");
    let predictions = bed.files("first/predictions");
    assert_eq!(predictions.len(), records.len());
    let seeds = |method: &str| {
        let of = records
            .values()
            .filter(|r| r["method"] == method && r["dataset"] == "drawn-textures");
        of.map(|r| r["losses"].to_string()).collect::<Vec<_>>()
    };
    assert_ne!(
        seeds("coop")[0],
        seeds("coop")[1],
        "seeds make a difference, so equality below says something"
    );

    for (other, printed) in [("again", again), ("beside", beside)] {
        assert_eq!(bed.records(other), records, "{other}: records");
        assert!(
            bed.files(&format!("{other}/prompts")) == prompts,
            "{other}: bytes of the prompts"
        );
        assert!(
            bed.files(&format!("{other}/predictions")) == predictions,
            "{other}: bytes of the predictions"
        );
        assert_eq!(
            bed.files(&format!("{other}/tables")),
            bed.files("first/tables"),
            "{other}: tables"
        );
        assert_eq!(printed, first, "{other}: what is printed");
    }
}

#[test]
fn neither_a_feature_cache_nor_a_bound_on_memory_changes_an_accuracy() {
    let bed = Bed::with_suite(SUITE);
    let run = |suite: &str, results: &str, more: &[&str]| {
        let arguments = [&["run", suite, "--out", results, "--jobs", "2"], more].concat();
        let answer = bed.run(&arguments);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        bed.records(results)
    };
    let plain = run("suite.toml", "plain", &[]);
    let filled = run("suite.toml", "filled", &["--cache", "features"]);
    let listed = bed.run(&["cache", "list", "features"]);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    let head = |line: &str| line.split_whitespace().next().unwrap_or("").to_owned();
    let heads: Vec<String> = listed.stdout.lines().map(head).collect();
    assert_eq!(heads[0], "backbone", "{}", listed.stdout);
    assert_eq!(
        heads[2..],
        ["packed", "drawn-satellite", "drawn-textures"],
        "{}",
        listed.stdout
    );
    let read = run("suite.toml", "read", &["--cache", "features"]);
    let again = bed.run(&["cache", "list", "features"]);
    assert_eq!(
        again.stdout, listed.stdout,
        "the second run found all it needed"
    );
    assert!(filled == plain && read == plain);

    std::fs::write(
        bed.path("bounded.toml"),
        SUITE.replace("version  = 1", "version = 1\nmemory = \"0.5MB\""),
    )
    .unwrap();
    let bounded = run("bounded.toml", "bounded", &[]);
    assert_eq!(bounded.len(), plain.len());
    for (key, record) in bounded {
        assert_eq!(record["suite_settings"]["memory"], 500_000, "{key}");
        for of in ["tests", "losses", "learning_rates", "outcome"] {
            assert_eq!(record[of], plain[&key][of], "{key}: {of}");
        }
    }
}
