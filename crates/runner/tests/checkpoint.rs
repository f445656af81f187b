//! Trials that are stopped anywhere, by anything, and go on: their results are those of trials that nobody stopped, bit for
//! bit, and nothing is left over.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

mod bed;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bed::Bed;
use datasets::Catalogue;
use promptbed::backbone;
use promptbed::record::Test;
use promptbed::run::checkpoint::Checkpoint;
use promptbed::run::feed;
use promptbed::run::suite::Suite;
use promptbed::run::sweep::{Sweep, Trial};
use promptbed::run::trial::{Interrupted, Observer, Step};
use promptbed::store::Store;

/// Counts what can be heard of a trial, and stops it at one of these.
struct Stopper {
    heard: AtomicUsize,
    at: usize,
    stop: AtomicBool,
}

impl Stopper {
    fn at(at: usize) -> Self {
        Self {
            heard: AtomicUsize::new(0),
            at,
            stop: AtomicBool::new(false),
        }
    }

    fn hear(&self) {
        if self.heard.fetch_add(1, Ordering::Relaxed) + 1 == self.at {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

impl Observer for Stopper {
    fn stepped(&self, _: &Step) {
        self.hear();
    }

    fn answered(&self, _: usize) {
        self.hear();
    }

    fn tested(&self, _: &Test) {
        self.hear();
    }
}

/// A suite's trials, and the folder they write to.
struct Trials {
    bed: Bed,
    sweep: Sweep,
}

impl Trials {
    fn of(suite: &str) -> Self {
        let bed = Bed::with_suite(suite);
        let catalogue = Catalogue::built_in();
        let suite = Suite::read(&bed.path("suite.toml"), &feed::known(&catalogue)).unwrap();
        let weights = backbone::weights(backbone::SHIPPED, None, &backbone::Told::default());
        let clip = backbone::shipped().unwrap();
        let architecture = weights.unwrap().architecture;
        let sweep = Sweep::new(
            suite,
            clip,
            architecture,
            &catalogue,
            None,
            None,
            BTreeMap::new(),
        );
        Self {
            bed,
            sweep: sweep.unwrap(),
        }
    }

    /// Whether the trial is over, having begun or gone on in the folder `out`.
    fn run(&self, trial: &Trial, out: &str, stopper: &Stopper) -> bool {
        let store = Store::create(self.bed.path(out)).unwrap();
        match self.sweep.one(&store, trial, 1, &stopper.stop, stopper) {
            Ok(_) => true,
            Err(e) => {
                assert!(e.is::<Interrupted>(), "{e:#}");
                false
            }
        }
    }

    fn whole(&self, trial: &Trial) -> usize {
        let stopper = Stopper::at(0);
        assert!(self.run(trial, "whole", &stopper));
        stopper.heard.load(Ordering::Relaxed)
    }

    fn compare(&self, trial: &Trial, out: &str) {
        let key = &trial.planned.key;
        let record = format!("{key}.json");
        let [ours, theirs] = [out, "whole"].map(|f| self.bed.records(f).remove(&record).unwrap());
        assert_eq!(theirs["outcome"]["status"], "finished", "{theirs}");
        assert_eq!(ours, theirs, "{key} in {out}");
        for (folder, ending) in [("predictions", "parquet"), ("prompts", "safetensors")] {
            let name = format!("{key}.{ending}");
            let [ours, theirs] =
                [out, "whole"].map(|f| self.bed.files(&format!("{f}/{folder}")).remove(&name));
            assert!(ours == theirs, "{folder}/{name} in {out}");
        }
        assert!(
            !self.bed.path(out).join("checkpoints").exists(),
            "{key}: no checkpoint is left"
        );
    }

    /// Every trial, stopped at every `share`-th of what can be heard of it but at least at each second, until it is over.
    fn go_on_as_if_never_stopped(&self, share: usize) {
        for trial in &self.sweep.trials {
            let all = self.whole(trial);
            let every = (all / share).max(2);
            let out = format!("every-{every}");
            let mut parts = 1;
            // What is heard first may be where it was stopped: the second is behind it.
            while !self.run(trial, &out, &Stopper::at(every)) {
                parts += 1;
                assert!(parts <= all, "{} comes to an end", trial.planned.key);
            }
            assert!(parts > 2, "{} of {all} was stopped", trial.planned.key);
            self.compare(trial, &out);
        }
    }
}

#[test]
fn trained_methods_of_every_kind_go_on_from_any_step_and_test() {
    Trials::of(
        r#"
version  = 1
protocol = "base-to-novel"
datasets = ["drawn-textures"]
shots    = [2]
seeds    = [1]
views    = { cached = 2 }

[[method]]
name   = "coop"
epochs = 3
batch  = 4

[[method]]
name   = "maple"
epochs = 2
batch  = 4

[[method]]
name   = "promptsrc"
epochs = 3
batch  = 6
config = { gpa_mean = 2.0 }

[[method]]
name   = "dept"
epochs = 2
batch  = 6

[[method]]
name   = "2sfs"
epochs = 2
batch  = 6

[[method]]
name   = "clip-lora"
epochs = 2
batch  = 6

[[method]]
name   = "mmrl"
epochs = 2
batch  = 6
"#,
    )
    .go_on_as_if_never_stopped(usize::MAX);
}

#[test]
fn methods_that_see_the_shots_as_a_whole_go_on_from_any_step_and_test() {
    Trials::of(
        r#"
version  = 1
protocol = ["few-shot", "all-classes"]
datasets = ["drawn-textures"]
shots    = [2]
seeds    = [1]
views    = { cached = 2 }

[[method]]
name = "zero-shot"

[[method]]
name      = "tip-adapter"
protocols = ["few-shot"]

[[method]]
name      = "lp-plus-plus"
protocols = ["few-shot"]

[[method]]
name      = "tip-adapter-f"
protocols = ["few-shot"]
epochs    = 3
batch     = 8

[[method]]
label     = "tip-adapter-f-as-released"
name      = "tip-adapter-f"
protocols = ["few-shot"]
epochs    = 3
batch     = 8
config    = { paper_compat = true }

[[method]]
name      = "cocoop"
protocols = ["all-classes"]
epochs    = 2
batch     = 8
"#,
    )
    .go_on_as_if_never_stopped(usize::MAX);
}

#[test]
fn searches_go_on_from_any_round_and_test() {
    let trials = Trials::of(
        r#"
version  = 1
protocol = "base-to-novel"
datasets = ["drawn-textures"]
shots    = [2]
seeds    = [1]
views    = "none"

[[method]]
name   = "template-search"
config = { budget = 25, per_round = 5, start = 10 }

[[method]]
label  = "template-search-asked"
name   = "template-search"
config = { budget = 14, per_round = 3, start = 6, proposer = ["sh", "-c", """
read line
echo '{"template": "a small drawing of a {}."}'
echo '{"template": "a large drawing of a {}."}'
echo 'no template'"""] }

[[method]]
name   = "bpt-vlm"
config = { n_ctx = 2, n_ctx_vision = 2, dim = 4, dim_vision = 3, popsize = 6, budget = 30 }
"#,
    );
    trials.go_on_as_if_never_stopped(usize::MAX);
    let records = trials.bed.records("whole");
    let of = |label: &str| {
        let mut own = records.values().filter(|r| r["method"] == label);
        own.next().unwrap().clone()
    };
    let (searched, asked, found) = (
        of("template-search"),
        of("template-search-asked"),
        of("bpt-vlm"),
    );
    let scored = |record: &serde_json::Value| record["cost"]["scored"].as_u64();
    assert_eq!([&searched, &found].map(scored), [Some(25), Some(30)]);
    assert_eq!(searched["losses"].as_array().unwrap().len(), 5);
    // Six that are hand-written; then two new ones, and nothing new after that.
    assert_eq!(scored(&asked), Some(8));
    assert_eq!(asked["found"]["lines refused"], 3);
    assert!(
        searched["found"]["template"]
            .as_str()
            .unwrap()
            .contains("{}")
    );
    assert!(searched["found"]["accuracy held out"].is_number());
    let kept = trials
        .bed
        .files(&format!("whole/answers/{}", asked["key"].as_str().unwrap()));
    assert_eq!(kept.len(), 3, "an answer a round is kept");
}

#[test]
fn trials_with_tests_on_other_datasets_go_on_inside_and_between_them() {
    Trials::of(
        r#"
version  = 1
protocol = ["cross-dataset", "domain-generalization"]
source   = "drawn-broad"
datasets = ["drawn-textures", "drawn-satellite", "drawn-pets"]
variants = "drawn-shifts"
shots    = [1]
seeds    = [1]
views    = "none"

[[method]]
name   = "coop"
epochs = 2
batch  = 16
"#,
    )
    .go_on_as_if_never_stopped(usize::MAX);
}

#[test]
fn trials_of_several_stages_and_tasks_go_on_from_any_step_and_test_of_each() {
    Trials::of(
        r#"
version  = 1
protocol = ["multi-task", "class-incremental", "task-incremental"]
datasets = ["drawn-textures", "drawn-satellite"]
unseen   = ["drawn-pets"]
sessions = { count = 3, first = 4 }
shots    = [1]
seeds    = [1]
views    = { cached = 2 }

[[method]]
name = "zero-shot"

[[method]]
name   = "coop"
epochs = 2
batch  = 16

[[method]]
name   = "promptsrc"
epochs = 2
batch  = 16
config = { gpa_mean = 1.0 }
"#,
    )
    .go_on_as_if_never_stopped(usize::MAX);
}

#[test]
fn methods_that_adapt_to_test_pictures_go_on_inside_their_stream() {
    Trials::of(
        r#"
version  = 1
protocol = "test-time"
datasets = ["drawn-textures"]
shots    = [1]
seeds    = [1]

[[method]]
name   = "tpt"
config = { views = 4, keep = 0.5 }

[[method]]
name = "tda"

[[method]]
label  = "tda-views"
name   = "tda"
config = { views = 4, keep = 0.5 }

[[method]]
name   = "zero"
config = { views = 4, keep = 0.5 }
"#,
    )
    .go_on_as_if_never_stopped(6);
}

#[test]
fn a_checkpoint_that_is_cut_or_flipped_anywhere_is_told_and_the_trial_begins_anew() {
    let trials = Trials::of(
        r#"
version  = 1
protocol = "few-shot"
datasets = ["drawn-textures"]
shots    = [1]
seeds    = [1]
views    = "none"

[[method]]
name   = "coop"
epochs = 3
batch  = 4
"#,
    );
    let trial = &trials.sweep.trials[0];
    let all = trials.whole(trial);
    assert!(!trials.run(trial, "out", &Stopper::at(all - 1)));
    let key = &trial.planned.key;
    let path = trials
        .bed
        .path(format!("out/checkpoints/{key}.safetensors"));
    let good = std::fs::read(&path).unwrap();
    let read = Checkpoint::of_bytes(&good, key).unwrap();
    assert!(read.learning.is_none() && read.losses.len() == 3);

    let told = |bytes: &[u8], key: &str| {
        let e = Checkpoint::of_bytes(bytes, key).err();
        e.map(|e| format!("{e:#}"))
    };
    for length in (0..good.len()).step_by(97).chain([good.len() - 1]) {
        let told = told(&good[..length], key).unwrap_or_else(|| panic!("cut at {length}"));
        assert!(told.contains("damaged"), "cut at {length}: {told}");
    }
    let mut bytes = good.clone();
    for (i, at) in (0..good.len()).step_by(7).enumerate() {
        let bit = 1 << (i % 8);
        bytes[at] ^= bit;
        assert!(told(&bytes, key).is_some(), "bit {bit} of byte {at}");
        bytes[at] ^= bit;
    }
    let other = told(&good, "other").unwrap();
    assert!(other.contains(&format!("of the trial {key}")), "{other}");

    for spoiled in [good[..good.len() / 2].to_vec(), Vec::new(), {
        let mut bytes = good.clone();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        bytes
    }] {
        std::fs::remove_dir_all(trials.bed.path("out")).unwrap();
        assert!(!trials.run(trial, "out", &Stopper::at(all - 1)));
        std::fs::write(&path, spoiled).unwrap();
        let stopper = Stopper::at(0);
        assert!(trials.run(trial, "out", &stopper));
        assert_eq!(stopper.heard.load(Ordering::Relaxed), all, "from its start");
        trials.compare(trial, "out");
    }
    // A whole one saves the work.
    std::fs::remove_dir_all(trials.bed.path("out")).unwrap();
    assert!(!trials.run(trial, "out", &Stopper::at(all - 1)));
    let stopper = Stopper::at(0);
    assert!(trials.run(trial, "out", &stopper));
    assert!(stopper.heard.load(Ordering::Relaxed) < 4);
    trials.compare(trial, "out");
}

#[cfg(unix)]
mod signals {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, ExitStatus, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    const RUN: [&str; 7] = [
        "run",
        "suite.toml",
        "--jobs",
        "1",
        "--out",
        "stopped",
        "--checkpoint-every",
    ];

    fn suite(method: &str) -> Bed {
        Bed::with_suite(&format!(
            r#"
version  = 1
protocol = ["base-to-novel", "test-time"]
datasets = ["drawn-textures"]
shots    = [4]
seeds    = [1]
views    = {{ cached = 2 }}

[[method]]
{method}
"#
        ))
    }

    /// The checkpoint that is there, if it is not taken away just now.
    fn checkpoint(bed: &Bed) -> Option<Vec<u8>> {
        let entries = std::fs::read_dir(bed.path("stopped/checkpoints")).ok()?;
        let mut paths = entries.map(|e| e.unwrap().path());
        let path = paths.find(|p| p.extension().is_some_and(|e| e == "safetensors"))?;
        std::fs::read(path).ok()
    }

    /// Starts the run and returns once it has come further than it was.
    fn started(bed: &Bed) -> Child {
        let before = checkpoint(bed);
        let mut child = bed
            .command(&RUN)
            .arg("0")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let patience = Instant::now();
        while checkpoint(bed).is_none_or(|now| Some(now) == before) {
            assert!(patience.elapsed() < Duration::from_secs(120));
            assert!(child.try_wait().unwrap().is_none(), "it is over too soon");
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    }

    fn send(child: &Child, signal: &str) {
        let id = child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.unwrap().success());
    }

    fn ended(child: Child) -> (ExitStatus, String) {
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        (ended.status, said)
    }

    fn goes_on_as_if_never_stopped(bed: &Bed) {
        let answer = bed.run(&[&RUN[..], &["120"]].concat());
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        assert!(!answer.stderr.contains("anew"), "{}", answer.stderr);
        let whole = bed.run(&["run", "suite.toml", "--jobs", "1", "--out", "whole"]);
        assert_eq!(whole.code, Some(0), "{}", whole.stderr);
        assert_eq!(whole.stdout, answer.stdout);
        assert_eq!(bed.records("stopped"), bed.records("whole"));
        for folder in ["predictions", "prompts", "tables"] {
            let [ours, theirs] = ["stopped", "whole"].map(|f| bed.files(&format!("{f}/{folder}")));
            assert!(ours == theirs, "{folder}/");
        }
        // What the killed process was writing may be there still; it is hidden, and the next worker takes it away.
        assert!(bed.files("stopped/checkpoints").is_empty());
    }

    #[test]
    fn signals_and_kills_lose_a_step_and_the_exit_code_says_which_it_was() {
        for (method, first) in [
            ("name = \"maple\"\nepochs = 12", "-TERM"),
            (
                "name = \"tda\"\nconfig = { views = 8, keep = 0.25 }",
                "-USR1",
            ),
        ] {
            let bed = suite(method);
            let child = started(&bed);
            send(&child, first);
            let (status, said) = ended(child);
            assert_eq!(status.code(), Some(75), "{said}");
            let told = format!("stopped by SIG{}; the same command", &first[1..]);
            assert!(said.contains(&told), "{said}");

            let mut child = started(&bed);
            child.kill().unwrap();
            assert_eq!(ended(child).0.signal(), Some(9));

            let child = started(&bed);
            send(&child, "-INT");
            send(&child, "-INT");
            let (status, said) = ended(child);
            assert_eq!(status.code(), Some(130), "{said}");
            goes_on_as_if_never_stopped(&bed);
        }
    }

    #[test]
    fn a_time_limit_stops_a_run_that_goes_on_later() {
        let bed = suite("name = \"maple\"\nepochs = 40");
        let wrong = bed.run(&["run", "suite.toml", "--time-limit", "soon"]);
        assert_eq!(wrong.code, Some(2));
        assert!(
            wrong.stderr.contains("\"soon\" is no duration; write 8h"),
            "{}",
            wrong.stderr
        );
        let limited = [&RUN[..], &["120", "--time-limit", "1.5s"]].concat();
        let answer = bed.run(&limited);
        assert_eq!(answer.code, Some(75), "{}", answer.stderr);
        let told = "stopped at the time limit; the same command continues";
        assert!(answer.stderr.contains(told), "{}", answer.stderr);
        goes_on_as_if_never_stopped(&bed);
    }
}
