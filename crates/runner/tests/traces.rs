//! Recorded training runs of the published algorithms, replayed.

#[path = "../../clip/tests/shared/mod.rs"]
mod shared;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use promptbed::measure::replay::{Replay, replay, traces_in};
use shared::shared;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/traces")
}

fn replay_all(folder: &Path) -> Vec<Replay> {
    let traces = traces_in(folder).unwrap_or_else(|e| panic!("{e:#}"));
    traces
        .iter()
        .map(|dir| replay(dir).unwrap_or_else(|e| panic!("{}: {e:#}", dir.display())))
        .collect()
}

fn all_pass(replays: &[Replay]) {
    let wrong: Vec<String> = replays
        .iter()
        .filter(|r| !r.pass)
        .map(|r| format!("{r:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(replays.iter().all(|r| r.deviation.steps > 0));
}

#[test]
fn every_recorded_run_replays_within_tolerance() {
    let replays = replay_all(&fixtures());
    assert_eq!(replays.len(), 15);
    all_pass(&replays);
}

/// Recorded from the authors' own trainers, over the same model and pictures.
#[test]
fn every_run_of_the_authors_code_replays_within_tolerance() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/published");
    let replays = replay_all(&folder);
    assert_eq!(replays.len(), 6);
    all_pass(&replays);
}

/// One or more of every method that has been added since, but those whose authors' code is not recorded.
#[test]
fn a_recording_of_each_newer_method_replays_within_tolerance() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recorded");
    let replays = replay_all(&folder);
    let wrong: Vec<&Replay> = replays.iter().filter(|r| !r.pass).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let older = ["fixtures/traces", "fixtures/published"];
    let folders = older.map(|f| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(f));
    let older = folders.iter().flat_map(|folder| replay_all(folder));
    let replayed: Vec<String> = replays.into_iter().chain(older).map(|r| r.method).collect();
    let without = methods::METHODS.iter().filter(|entry| {
        let names = entry.replay.names();
        !replayed.iter().any(|r| names.contains(&r.as_str()))
    });
    let without: Vec<&str> = without.map(|entry| entry.name).collect();
    // Language prompting is IVLP without pictures' prompts, and is recorded as that; of the search over templates there is no
    // released code without a language model, BiomedCoOp is not recorded, prototypes and the distilled CoOp follow nobody's
    // code.
    let known = [
        "zero-shot",
        "template-search",
        "prototypes",
        "coop-distilled",
        "language-prompting",
        "biomedcoop",
        "mta",
    ];
    assert_eq!(without, known);
}

/// What pictures go through is compared pixel for pixel.
#[test]
fn recorded_operations_on_pictures_replay_without_a_model() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../datasets/tests/fixtures");
    let replays = replay_all(&folder);
    let names: Vec<&str> = replays.iter().map(|r| r.method.as_str()).collect();
    assert_eq!(names, ["randaugment"]);
    assert_eq!(replays[0].deviation.steps, 21);
    all_pass(&replays);
}

/// Twelve longer runs of nine methods recorded from the published repositories themselves; too large to ship.
#[test]
fn the_traces_beside_the_repository_replay_within_tolerance() {
    let Some(folder) = shared("traces") else {
        return;
    };
    let replays = replay_all(&folder);
    assert_eq!(replays.len(), 12);
    all_pass(&replays);
}

/// A copy of a fixture that a test may spoil.
struct Spoiled {
    root: tempfile::TempDir,
    trace: PathBuf,
}

impl Spoiled {
    fn copy(name: &str) -> Self {
        let spoiled = Self::copy_of(&fixtures().join(name));
        std::fs::copy(
            fixtures().join("model.safetensors"),
            spoiled.root.path().join("model.safetensors"),
        )
        .expect("it ships");
        spoiled
    }

    fn copy_of(folder: &Path) -> Self {
        let root = tempfile::tempdir().expect("temporary folders can be made");
        let trace = root.path().join("trace");
        std::fs::create_dir(&trace).expect("the folder is new");
        for file in ["trace.json", "trace.safetensors"] {
            std::fs::copy(folder.join(file), trace.join(file)).expect("it ships");
        }
        Self { root, trace }
    }

    fn text(self, change: impl Fn(&str) -> String) -> Self {
        let path = self.trace.join("trace.json");
        let before = std::fs::read_to_string(&path).expect("it was copied");
        let after = change(&before);
        assert_ne!(before, after, "something is changed");
        std::fs::write(&path, after).expect("it was copied");
        self
    }

    fn tensor(self, name: &str, change: impl Fn(&Tensor) -> candle_core::Result<Tensor>) -> Self {
        let path = self.trace.join("trace.safetensors");
        let mut tensors: HashMap<String, Tensor> =
            candle_core::safetensors::load(&path, &Device::Cpu).expect("a recording");
        let changed = change(&tensors[name]).expect("the change is possible");
        tensors.insert(name.to_owned(), changed);
        candle_core::safetensors::save(&tensors, &path).expect("the folder can be written");
        self
    }

    fn replay(self) -> Replay {
        let replay = replay(&self.trace).unwrap_or_else(|e| panic!("{e:#}"));
        drop(self.root);
        replay
    }
}

#[test]
fn a_copied_trace_passes() {
    let replay = Spoiled::copy("kgcoop")
        .tensor("labels", |t| Ok(t.clone()))
        .replay();
    assert!(replay.pass, "{replay:?}");
}

#[test]
fn another_weight_of_kgcoops_term_is_seen_in_the_loss() {
    let replay = Spoiled::copy("kgcoop")
        .text(|t| t.replace("\"w\": 2.0", "\"w\": 2.1"))
        .replay();
    assert!(!replay.pass && replay.deviation.loss > 1e-3, "{replay:?}");
}

#[test]
fn other_labels_are_seen_in_loss_and_gradient() {
    let other = |labels: &Tensor| labels.ones_like()?.sub(&labels.minimum(1i64)?);
    let replay = Spoiled::copy("coop-front").tensor("labels", other).replay();
    assert!(
        !replay.pass && replay.deviation.loss > 1e-3 && replay.deviation.gradient > 1e-2,
        "{replay:?}"
    );
}

#[test]
fn another_learning_rate_is_seen_in_the_trained_values() {
    let replay = Spoiled::copy("maple")
        .text(|t| t.replace("[1e-05, 0.02, 0.0125]", "[1e-05, 0.02, 0.0126]"))
        .replay();
    assert!(!replay.pass && replay.deviation.values > 1e-3, "{replay:?}");
}

#[test]
fn other_logits_are_seen() {
    let replay = Spoiled::copy("ivlp")
        .tensor("logits.before", |t| t.affine(1.0, 0.01))
        .replay();
    assert!(
        !replay.pass && replay.deviation.logits > 9e-3 && replay.deviation.values < 1e-3,
        "{replay:?}"
    );
}

#[test]
fn other_kept_views_are_seen() {
    let replay = Spoiled::copy("tpt")
        .tensor("selected", |t| t.affine(1.0, 1.0))
        .replay();
    assert!(
        !replay.pass && !replay.deviation.choices.is_empty(),
        "{replay:?}"
    );
}

#[test]
fn one_other_pixel_is_seen() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = folder.join("../datasets/tests/fixtures/randaugment");
    let other = |picture: &Tensor| {
        let mut values: Vec<u8> = picture.flatten_all()?.to_vec1()?;
        values[100] ^= 1;
        Tensor::from_vec(values, picture.dims(), &Device::Cpu)
    };
    let replay = Spoiled::copy_of(&folder).tensor("single.3", other).replay();
    assert!(!replay.pass, "{replay:?}");
    assert_eq!(
        replay.deviation.choices,
        ["single.3: differing pixels: 1, recorded 0"]
    );
}

#[test]
fn values_that_are_not_numbers_never_pass() {
    let replay = Spoiled::copy("maple")
        .tensor("loss", |t| t.affine(f64::NAN, 0.0))
        .replay();
    assert!(!replay.pass, "{replay:?}");
}
