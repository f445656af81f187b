//! A trial whose loss stops being a number.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]

mod bed;

use bed::Bed;

/// `wild` multiplies its prompts by about -1000 a step: their magnitude leaves 32 bits after a dozen.
const SUITE: &str = r#"
version  = 1
protocol = "base-to-novel"
datasets = ["drawn-textures"]
shots    = [1]
seeds    = [1]
views    = "none"

[[method]]
name          = "coop"
label         = "wild"
epochs        = 30
lr            = 100.0
weight_decay  = 10.0
schedule      = "constant"
warmup_epochs = 0

[[method]]
name   = "coop"
epochs = 1
"#;

#[test]
fn a_diverged_trial_is_a_gap_and_the_sweep_goes_on() {
    let bed = Bed::with_suite(SUITE);
    let answer = bed.run(&["run", "suite.toml", "--out", "results", "--jobs", "1"]);
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    assert!(
        answer
            .stderr
            .contains("1 trials finished, 0 were before, 1 failed"),
        "{}",
        answer.stderr
    );

    let records = bed.records("results");
    let of = |method: &str| {
        records
            .values()
            .find(|r| r["method"] == method)
            .expect("every trial leaves a record")
    };
    let (wild, tame) = (of("wild"), of("coop"));
    assert_eq!(wild["outcome"]["status"], "failed");
    let step = wild["outcome"]["step"]
        .as_u64()
        .expect("the step is recorded");
    assert!((1..=30).contains(&step), "{step}");
    let last = wild["outcome"]["last_loss"]
        .as_f64()
        .expect("the last finite loss is recorded");
    assert!(last.is_finite());
    let reason = wild["outcome"]["reason"].as_str().expect("a reason");
    assert!(
        reason.contains(&format!("at step {step}")) && reason.contains("lr"),
        "{reason}"
    );
    assert_eq!(wild["tests"].as_array().expect("a list").len(), 0);
    assert_eq!(tame["outcome"]["status"], "finished");
    assert_eq!(
        tame["tests"].as_array().expect("a list").len(),
        2,
        "base and novel"
    );

    let key = wild["key"].as_str().expect("a key");
    assert!(
        answer.stderr.contains(&format!("failed: {key}: {reason}")),
        "as it happens: {}",
        answer.stderr
    );
    assert!(
        answer.stdout.contains(reason),
        "and at the end: {}",
        answer.stdout
    );
    assert!(
        !bed.path(format!("results/prompts/{key}.safetensors"))
            .exists(),
        "nothing is kept of broken prompts"
    );
    let row = answer
        .stdout
        .lines()
        .find(|l| l.starts_with("wild "))
        .expect("the table has a row for it");
    assert_eq!(
        row.split_whitespace().collect::<Vec<_>>(),
        ["wild", "-", "-", "-"],
        "base, novel and H are gaps"
    );
    for (name, bytes) in bed
        .files("results/tables")
        .into_iter()
        .filter(|(name, _)| name.ends_with(".csv"))
    {
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        assert!(
            !text.contains("nan") && !text.contains("inf"),
            "{name}: {text}"
        );
    }

    // A failed trial is tried again, a finished one is not.
    let again = bed.run(&["run", "suite.toml", "--out", "results", "--jobs", "1"]);
    assert_eq!(again.code, Some(1));
    assert!(
        again
            .stderr
            .contains("0 trials finished, 1 were before, 1 failed"),
        "{}",
        again.stderr
    );
}
