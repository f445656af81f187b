//! A sweep that was stopped, and started again.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]
#![cfg(unix)]

mod bed;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use bed::Bed;

/// Twelve trials; those of MaPLe, which come first, take long enough to be caught at work.
const SUITE: &str = r#"
version  = 1
protocol = "base-to-novel"
datasets = ["drawn-textures", "drawn-satellite"]
shots    = [1]
seeds    = [1, 2, 3]
views    = { cached = 2 }

[[method]]
name   = "maple"
epochs = 3

[[method]]
name   = "coop"
epochs = 2

[[method.where]]
datasets = ["drawn-textures"]
epochs   = 1
"#;
const TRIALS: usize = 2 * 2 * 3; // methods, datasets, seeds
const RUN: [&str; 6] = ["run", "suite.toml", "--jobs", "1", "--out", "stopped"];

/// Starts the sweep and returns once its first record is there.
fn started(bed: &Bed) -> Child {
    let mut command = bed.command(&RUN);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let patience = Instant::now();
    while bed.files("stopped/trials").is_empty() {
        assert!(
            patience.elapsed() < Duration::from_secs(120),
            "no record in two minutes"
        );
        assert!(
            child.try_wait().expect("the child is ours").is_none(),
            "it ended before its first record"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

fn written(bed: &Bed) -> BTreeMap<String, SystemTime> {
    let when = |name: &String| {
        let file =
            std::fs::metadata(bed.path("stopped/trials").join(name)).expect("it was just listed");
        file.modified().expect("this system keeps times")
    };
    bed.files("stopped/trials")
        .keys()
        .map(|name| (name.clone(), when(name)))
        .collect()
}

/// Continues what `started` was stopped at, and compares it with a sweep that nobody stopped.
fn continues_as_if_never_stopped(bed: &Bed) {
    let before = written(bed);
    assert!(
        (1..TRIALS).contains(&before.len()),
        "stopped mid-way, with {} of {TRIALS} records",
        before.len()
    );
    let answer = bed.run(&RUN);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let count = format!(
        "{} trials finished, {} were before, 0 failed",
        TRIALS - before.len(),
        before.len()
    );
    assert!(answer.stderr.contains(&count), "{count}: {}", answer.stderr);
    let after = written(bed);
    assert_eq!(after.len(), TRIALS);
    for (name, time) in &before {
        assert_eq!(
            after[name], *time,
            "{name} was finished and is not run again"
        );
    }

    let whole = bed.run(&["run", "suite.toml", "--jobs", "1", "--out", "whole"]);
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    assert_eq!(whole.stdout, answer.stdout);
    assert_eq!(bed.records("stopped"), bed.records("whole"));
    for folder in ["tables", "prompts", "predictions", "picks"] {
        let (ours, theirs) = (
            bed.files(&format!("stopped/{folder}")),
            bed.files(&format!("whole/{folder}")),
        );
        assert!(!theirs.is_empty(), "{folder}/ is written");
        assert!(
            ours.keys().eq(theirs.keys()),
            "{folder}/ holds the same files"
        );
        for (name, bytes) in &ours {
            assert!(
                theirs[name] == *bytes,
                "{folder}/{name} is the same byte for byte"
            );
        }
    }
    let again = bed.run(&RUN);
    assert_eq!(again.code, Some(0));
    assert!(
        again.stderr.contains(&format!(
            "0 trials finished, {TRIALS} were before, 0 failed"
        )),
        "{}",
        again.stderr
    );
    assert_eq!(written(bed), after, "nothing is run again once all is done");
}

#[test]
fn a_killed_sweep_continues_as_if_it_had_never_stopped() {
    let bed = Bed::with_suite(SUITE);
    let mut child = started(&bed);
    child.kill().expect("the child is ours");
    let status = child.wait().expect("the child is ours");
    assert_eq!(
        status.signal(),
        Some(9),
        "it was running until it was killed"
    );
    continues_as_if_never_stopped(&bed);
}

#[test]
fn an_interrupted_sweep_says_so_and_continues_as_if_it_had_never_stopped() {
    let bed = Bed::with_suite(SUITE);
    let child = started(&bed);
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("`kill` is there");
    assert!(sent.success());
    let ended = child.wait_with_output().expect("the child is ours");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(
        said.contains("interrupted; the same command continues"),
        "{said}"
    );
    continues_as_if_never_stopped(&bed);
}
