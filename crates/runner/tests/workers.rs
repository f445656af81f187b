//! Many workers on one results folder.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]
#![cfg(unix)]

mod bed;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bed::Bed;
use serde_json::Value;

/// 13 trials; those of MaPLe take long enough to be caught at work.
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
epochs = 1

[[method]]
name   = "zero-shot"
"#;
const TRIALS: usize = 2 * 2 * 3 + 2; // methods, datasets, seeds; zero-shot once a dataset

/// Waits until `is_so`.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let patience = Instant::now();
    while !is_so() {
        assert!(patience.elapsed() < Duration::from_secs(300), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start(bed: &Bed, arguments: &[&str]) -> Child {
    bed.command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the workers' log says, in its order.
fn log(bed: &Bed) -> Vec<(String, u64, String)> {
    let text = std::fs::read_to_string(bed.path("log")).unwrap();
    let line = |line: &str| {
        let told: Value = serde_json::from_str(line).unwrap();
        let word = |field: &str| told[field].as_str().unwrap().to_owned();
        (word("what"), told["pid"].as_u64().unwrap(), word("key"))
    };
    text.lines().map(line).collect()
}

/// Everything below a folder that must not be there once all is done.
fn left_over(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(left_over(&path));
        } else if name.starts_with('.') {
            found.push(name);
        }
    }
    found
}

fn same_as_alone(bed: &Bed) {
    let whole = bed.run(&["run", "suite.toml", "--out", "whole"]);
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    assert_eq!(bed.records("shared"), bed.records("whole"));
    for folder in ["tables", "prompts", "predictions", "picks"] {
        let path = |of: &str| format!("{of}/{folder}");
        let (ours, theirs) = (bed.files(&path("shared")), bed.files(&path("whole")));
        assert!(ours == theirs, "{folder}/ is another");
    }
    for folder in ["claims", "workers"] {
        assert!(
            bed.files(&format!("shared/{folder}")).is_empty(),
            "{folder}"
        );
    }
    assert_eq!(left_over(&bed.path("shared")), [""; 0]);
}

const WORKER: [&str; 8] = [
    "worker",
    "shared",
    "--jobs",
    "1",
    "--threads",
    "1",
    "--log",
    "log",
];

#[test]
fn four_workers_run_every_trial_once() {
    let bed = Bed::with_suite(SUITE);
    let first = start(
        &bed,
        &[
            "run",
            "suite.toml",
            "--out",
            "shared",
            "--jobs",
            "1",
            "--log",
            "log",
        ],
    );
    until("the folder is set up", || {
        bed.path("shared/suites/suite/plan.json").exists()
    });
    let mut others: Vec<Child> = (0..3).map(|_| start(&bed, &WORKER)).collect();
    let first = first.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&first.stderr);
    assert_eq!(first.status.code(), Some(0), "{told}");
    for other in &mut others {
        assert_eq!(other.wait().unwrap().code(), Some(0));
    }
    let mut begun: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (what, _, key) in log(&bed) {
        begun.entry(key).or_default().push(what);
    }
    assert_eq!(begun.len(), TRIALS);
    for (key, what) in begun {
        assert_eq!(what, ["begin", "end"], "{key}");
    }
    // Whoever stays to the end prints what one process alone prints.
    let table = String::from_utf8(first.stdout).unwrap();
    let whole = bed.run(&["run", "suite.toml", "--out", "whole"]);
    assert_eq!(table, whole.stdout);
    same_as_alone(&bed);
}

#[test]
fn a_killed_worker_s_trial_is_another_s_at_once() {
    let bed = Bed::with_suite(SUITE);
    let mut first = start(
        &bed,
        &[
            "run",
            "suite.toml",
            "--out",
            "shared",
            "--jobs",
            "1",
            "--log",
            "log",
        ],
    );
    until("a trial has begun", || {
        !bed.files("shared/claims").is_empty() && bed.path("log").exists()
    });
    first.kill().unwrap();
    first.wait().unwrap();
    let claimed: Vec<String> = bed.files("shared/claims").into_keys().collect();
    assert_eq!(claimed.len(), 1, "{claimed:?}");
    let answer = bed.run(&WORKER);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(
        answer.stderr.contains(", 1 taken over from dead workers"),
        "{}",
        answer.stderr
    );
    let key = claimed[0].strip_suffix(".json").unwrap();
    let ends = log(&bed)
        .iter()
        .filter(|(what, _, k)| what == "end" && k == key)
        .count();
    assert_eq!(ends, 1);
    same_as_alone(&bed);
}

#[test]
fn a_worker_does_the_list_it_is_given_and_leaves_the_rest() {
    let bed = Bed::with_suite(SUITE);
    let first = start(&bed, &["run", "suite.toml", "--out", "shared"]);
    until("the folder is set up", || {
        bed.path("shared/suites/suite/plan.json").exists()
    });
    let mut first = first;
    first.kill().unwrap();
    first.wait().unwrap();
    let plan = std::fs::read(bed.path("shared/suites/suite/plan.json")).unwrap();
    let plan: Vec<Value> = serde_json::from_slice(&plan).unwrap();
    let key = |i: usize| plan[i]["key"].as_str().unwrap().to_owned();
    let last = plan.len() - 1;
    let lists = serde_json::json!([[key(0)], [key(last), key(last - 2)]]);
    std::fs::write(bed.path("lists.json"), lists.to_string()).unwrap();
    let with = |more: &[&str]| {
        let answer = bed.run(&[&WORKER[..], more].concat());
        (answer.code, answer.stderr)
    };
    for file in bed.files("shared/trials").into_keys() {
        std::fs::remove_file(bed.path("shared/trials").join(file)).unwrap();
    }
    let _ = std::fs::remove_file(bed.path("log"));
    let (code, told) = with(&["--trials", "lists.json", "--index", "1"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("2 trials finished, 0 were before"), "{told}");
    let begun = log(&bed).into_iter().filter(|(what, ..)| what == "begin");
    let begun: Vec<String> = begun.map(|(_, _, key)| key).collect();
    assert_eq!(begun, [key(last), key(last - 2)]);
    let (code, told) = with(&["--trials", "lists.json", "--index", "2"]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("has 2 lists, numbered from 0"), "{told}");
    let odd = serde_json::json!([[key(0), "coop-of-another-suite"]]);
    std::fs::write(bed.path("lists.json"), odd.to_string()).unwrap();
    let (code, told) = with(&["--trials", "lists.json", "--index", "0"]);
    assert_eq!(code, Some(2), "{told}");
    assert!(
        told.contains("1 of 2 trials asked for are not in suite suite"),
        "{told}"
    );
    let (code, told) = with(&["--suite", "other"]);
    assert_eq!(code, Some(2), "{told}");
    assert!(
        told.contains("--suite other: is not in shared, which has suite"),
        "{told}"
    );
}

#[test]
fn a_damaged_record_is_set_aside_and_its_trial_runs_again() {
    let bed = Bed::with_suite(&SUITE.replace("maple", "coop").replacen(
        "name   = \"coop\"\n",
        "name = \"coop\"\nlabel = \"other\"\n",
        1,
    ));
    let run = ["run", "suite.toml", "--out", "shared"];
    assert_eq!(bed.run(&run).code, Some(0));
    let before = bed.records("shared");
    let name = before.keys().next().unwrap().clone();
    let path = bed.path("shared/trials").join(&name);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&path, &bytes).unwrap();
    let answer = bed.run(&run);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    for told in [
        "its checksum is of other bytes",
        "1 trials finished, 13 were before, 0 failed",
        "1 damaged records were set aside",
    ] {
        assert!(answer.stderr.contains(told), "{told}: {}", answer.stderr);
    }
    assert_eq!(bed.records("shared"), before);
    assert_eq!(bed.files("shared/damaged")[&name], bytes);
}

#[test]
fn two_suites_in_one_folder_keep_to_themselves() {
    let bed = Bed::with_suite("");
    let zero = |dataset: &str| {
        format!(
            "version = 1\nprotocol = \"few-shot\"\ndatasets = [\"{dataset}\"]\nshots = [1]\nseeds = [1]\n\
             [[method]]\nname = \"zero-shot\"\n"
        )
    };
    std::fs::write(bed.path("one.toml"), zero("drawn-textures")).unwrap();
    std::fs::write(bed.path("two.toml"), zero("drawn-satellite")).unwrap();
    let mut both = ["one.toml", "two.toml"].map(|s| start(&bed, &["run", s, "--out", "shared"]));
    for child in &mut both {
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    for (name, dataset) in [("one", "drawn-textures"), ("two", "drawn-satellite")] {
        let text = std::fs::read_to_string(bed.path(format!("shared/suites/{name}/suite.toml")));
        assert_eq!(text.unwrap(), zero(dataset));
    }
    assert_eq!(bed.records("shared").len(), 2);
    // Both are a worker's to do,
    for file in bed.files("shared/trials").into_keys() {
        std::fs::remove_file(bed.path("shared/trials").join(file)).unwrap();
    }
    let answer = bed.run(&["worker", "shared"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert_eq!(bed.records("shared").len(), 2);
    // and tables know of both.
    let table = bed.run(&["table", "shared"]);
    assert!(table.stdout.contains("drawn-textures") && table.stdout.contains("drawn-satellite"));
}

#[test]
fn a_worker_needs_a_suite_in_its_folder() {
    let bed = Bed::with_suite("");
    std::fs::create_dir_all(bed.path("empty/trials")).unwrap();
    let answer = bed.run(&["worker", "empty"]);
    assert_eq!(answer.code, Some(2));
    assert!(
        answer.stderr.contains("holds no suite to work on"),
        "{}",
        answer.stderr
    );
    let answer = bed.run(&["worker", "nowhere"]);
    assert_eq!(answer.code, Some(2));
    assert!(
        answer.stderr.contains("no such results folder"),
        "{}",
        answer.stderr
    );
}

/// `wild` diverges (see `diverge.rs`); `coop` comes after it.
const WILD: &str = r#"
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
fn a_sweep_that_stops_at_a_failure_begins_nothing_more() {
    let bed = Bed::with_suite(WILD);
    let run = ["run", "suite.toml", "--out", "out", "--jobs", "1"];
    let answer = bed.run(&[&run[..], &["--on-failure", "stop", "--retries", "2"]].concat());
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    for told in [
        "0 trials finished, 0 were before, 1 failed, 1 not begun",
        "stopped at the first failure",
    ] {
        assert!(answer.stderr.contains(told), "{told}: {}", answer.stderr);
    }
    // A loss that is no number would be none again.
    assert!(!answer.stderr.contains("tried again"), "{}", answer.stderr);
    let answer = bed.run(&run);
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    assert!(
        answer
            .stderr
            .contains("1 trials finished, 0 were before, 1 failed")
    );
}

/// Zero-shot CLIP and a short CoOp on these datasets.
fn short(datasets: &str, epochs: usize) -> String {
    format!(
        "version = 1\nprotocol = \"base-to-novel\"\ndatasets = [{datasets}]\nshots = [1]\nseeds = [1]\nviews = \"none\"\n\
         [[method]]\nname = \"zero-shot\"\n[[method]]\nname = \"coop\"\nepochs = {epochs}\n"
    )
}

#[test]
fn a_suite_that_changed_says_in_what_and_what_still_counts() {
    let bed = Bed::with_suite(&short("\"drawn-textures\", \"drawn-satellite\"", 1));
    let run = ["run", "suite.toml", "--out", "out"];
    let first = bed.run(&run);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert!(!first.stderr.contains("differs"), "{}", first.stderr);
    let changed = short("\"drawn-textures\", \"drawn-food\"", 2);
    std::fs::write(bed.path("suite.toml"), changed).unwrap();
    let second = bed.run(&run);
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    let told = "note: suite suite differs from what was run into out before:\n  \
                datasets: drawn-food came; drawn-satellite went\n  \
                method coop: epochs 2, was 1\n  \
                1 of 4 trials are finished and count; 3 that it asked for before it asks for no longer\n\
                4 trials: 1 finished before, 3 to run\n";
    assert!(second.stderr.starts_with(told), "{}", second.stderr);
    let third = bed.run(&run);
    assert!(!third.stderr.contains("differs"), "{}", third.stderr);
}

#[test]
fn status_tells_what_is_done_failed_and_left() {
    let bed = Bed::with_suite(WILD);
    let run = [
        "run",
        "suite.toml",
        "--out",
        "out",
        "--jobs",
        "1",
        "--on-failure",
        "stop",
    ];
    assert_eq!(bed.run(&run).code, Some(1));
    let answer = bed.run(&["status", "out"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    for told in [
        "out: 2 trials: 0 finished, 0 running, 1 failed, 1 left\n",
        "failed:\n  wild-drawn-textures-1shot-seed1-",
        "no trial has finished yet",
    ] {
        assert!(answer.stdout.contains(told), "{told}: {}", answer.stdout);
    }
    assert_eq!(bed.run(&["worker", "out"]).code, Some(1));
    let answer = bed.run(&["status", "out", "--json"]);
    let told: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!((&told["finished"], &told["left"]), (&1.into(), &0.into()));
    assert_eq!(told["failed"].as_array().unwrap().len(), 1);
    let answer = bed.run(&["status", "nowhere"]);
    assert_eq!(answer.code, Some(2));
    assert!(
        answer.stderr.contains("no such results folder"),
        "{}",
        answer.stderr
    );
}

#[test]
fn folders_of_two_machines_become_the_one_that_one_machine_makes() {
    let both = short("\"drawn-textures\", \"drawn-satellite\"", 1);
    let bed = Bed::with_suite(&both);
    assert_eq!(
        bed.run(&["run", "suite.toml", "--out", "whole"]).code,
        Some(0)
    );
    for (machine, dataset) in [("one", "textures"), ("two", "satellite")] {
        let files = bed.files("whole/trials").into_keys();
        let own: Vec<String> = files.filter(|f| f.contains(dataset)).collect();
        assert_eq!(own.len(), 2);
        for folder in ["trials", "suites/suite"] {
            std::fs::create_dir_all(bed.path(machine).join(folder)).unwrap();
        }
        let copy = |file: &str| {
            std::fs::copy(bed.path("whole").join(file), bed.path(machine).join(file)).unwrap();
        };
        own.iter().for_each(|file| copy(&format!("trials/{file}")));
        for file in ["suite.toml", "run.json", "plan.json"] {
            copy(&format!("suites/suite/{file}"));
        }
    }
    let merge = ["merge", "one", "two", "--out", "merged"];
    let answer = bed.run(&merge);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(
        answer.stdout.contains("two: 2 trials taken"),
        "{}",
        answer.stdout
    );
    assert_eq!(bed.records("merged"), bed.records("whole"));
    let tables = ["merged", "whole"].map(|f| bed.run(&["table", f]).stdout);
    assert_eq!(tables[0], tables[1]);
    // Another answer under the same key is told, kept, and changes nothing.
    let key = bed.files("two/trials").into_keys().next().unwrap();
    let path = bed.path("two/trials").join(&key);
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    record["tests"][0]["ece"] = 99.0.into();
    record["schema"] = 2.into();
    record.as_object_mut().unwrap().remove("checksum");
    std::fs::write(&path, record.to_string()).unwrap();
    let answer = bed.run(&merge);
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    assert!(
        answer.stderr.contains("conflict: trial "),
        "{}",
        answer.stderr
    );
    assert!(bed.path("merged/conflicts/two/trials").join(&key).exists());
    assert_eq!(bed.records("merged"), bed.records("whole"));
    // What it merged is a folder that a worker finds done.
    let answer = bed.run(&["worker", "merged"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
}
