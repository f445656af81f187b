//! Where a trial stands, on disk: what it takes to go on from there to the same bits.
//!
//! `DIR/checkpoints/<key>.safetensors`: replaced whole every few minutes and when the run is asked to stop, read when the
//! trial begins again, gone once its record is there. The metadata hold a description as JSON, and a SHA-256 over it and
//! every tensor. Numbers that enter results are tensors, so that none is rounded on its way through JSON:
//!
//! ```text
//! learned/<name>                  parameters and state of the method; behind a training those it ended with
//! optimizer/<name>                inside a training
//! epoch                           [1 or 2] f64: sum of the running epoch's losses; the last loss, where there is one
//! losses, learning_rates          [epochs so far] f64
//! predicted/<i>, confidence/<i>   [pictures so far] of the i-th test
//! predictor/<name>                what the pictures of the running test have left behind
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use safetensors::{SafeTensors, View};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::device::ran::Ran;
use crate::record::Cost;
use crate::run::testing::Answers;
use crate::store::{StoreError, replace};

/// Version of the file. Of another version nothing is used.
const VERSION: u32 = 2;

/// Names of the metadata.
const DESCRIPTION: &str = "promptbed-checkpoint";
const SUM: &str = "sha256";

/// Folder of a results folder.
const FOLDER: &str = "checkpoints";

/// How a file's name ends behind the key.
const ENDING: &str = ".safetensors";

/// Seconds between two checkpoints of a trial, unless a user says otherwise.
pub const EVERY: Duration = Duration::from_secs(120);

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Where a trial stands.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// Stage that it is in, from 0.
    pub stage: usize,
    /// Where in the training of that stage; `None` behind it.
    pub learning: Option<Learning>,
    /// What [`methods::kept`] gives: now, or behind the training as that left it. Nothing where nothing is learned.
    pub learned: Tensors,
    /// Mean loss of each epoch so far.
    pub losses: Vec<f64>,
    /// Learning rate of each.
    pub learning_rates: Vec<f64>,
    /// So far; steps are those of stages that are over.
    pub cost: Cost,
    /// Where its towers ran so far, one after the other.
    pub ran: Vec<Ran>,
    /// One for each test that has begun; only the last may be unfinished.
    pub tests: Vec<Answers>,
    /// Of the predictor of an unfinished test.
    pub predictor: Tensors,
}

/// A place in a training, between two steps.
#[derive(Clone, Debug, Default)]
pub struct Learning {
    /// Running epoch, from 0.
    pub epoch: usize,
    /// Steps of it that are done.
    pub step: usize,
    /// Steps that are done in all.
    pub done: u64,
    /// Sum of the epoch's losses.
    pub sum: f64,
    /// The last loss.
    pub last: Option<f64>,
    /// What [`methods::Optimizer::state`] gives.
    pub optimizer: Tensors,
}

/// What the metadata say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    version: u32,
    key: String,
    /// Version and commit: another program may round otherwise.
    program: String,
    stage: usize,
    /// Epoch, steps of it, steps in all.
    learning: Option<(usize, usize, u64)>,
    cost: Cost,
    ran: Vec<Ran>,
    /// Seconds of each test.
    tests: Vec<f64>,
}

fn program() -> String {
    let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("PROMPTBED_COMMIT"));
    format!("{version} {commit}").trim().to_owned()
}

/// Over the description and every tensor, in the order of names.
fn sum<V: View>(description: &str, tensors: &BTreeMap<String, V>) -> String {
    let mut hasher = Sha256::new();
    hasher.update((description.len() as u64).to_le_bytes());
    hasher.update(description);
    for (name, tensor) in tensors {
        let data = tensor.data();
        let head = format!("{name}\n{:?} {:?}\n", tensor.dtype(), tensor.shape());
        hasher.update((head.len() as u64).to_le_bytes());
        hasher.update(head);
        hasher.update((data.len() as u64).to_le_bytes());
        hasher.update(data);
    }
    crate::hash::written(&hasher.finalize())
}

impl Checkpoint {
    /// The bytes of the file of the trial called `key`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn to_bytes(&self, key: &str) -> Result<Vec<u8>> {
        self.described(&self.description(key))
    }

    fn description(&self, key: &str) -> Description {
        let learning = self.learning.as_ref();
        Description {
            version: VERSION,
            key: key.to_owned(),
            program: program(),
            stage: self.stage,
            learning: learning.map(|l| (l.epoch, l.step, l.done)),
            cost: self.cost.clone(),
            ran: self.ran.clone(),
            tests: self.tests.iter().map(|t| t.seconds).collect(),
        }
    }

    fn described(&self, description: &Description) -> Result<Vec<u8>> {
        let learning = self.learning.as_ref();
        let description = serde_json::to_string(description)?;
        let mut tensors = Tensors::new();
        let mut put = |of: &str, from: &Tensors| {
            let named = |(name, t): (&String, &Tensor)| (format!("{of}/{name}"), t.clone());
            tensors.extend(from.iter().map(named));
        };
        put("learned", &self.learned);
        put("predictor", &self.predictor);
        learning
            .into_iter()
            .for_each(|l| put("optimizer", &l.optimizer));
        if let Some(l) = learning {
            let values: Vec<f64> = std::iter::once(l.sum).chain(l.last).collect();
            tensors.insert("epoch".to_owned(), Tensor::new(values, &Device::Cpu)?);
        }
        for (name, values) in [
            ("losses", &self.losses),
            ("learning_rates", &self.learning_rates),
        ] {
            // A list of nothing is left out.
            if !values.is_empty() {
                let values = Tensor::new(&values[..], &Device::Cpu)?;
                tensors.insert(name.to_owned(), values);
            }
        }
        for (i, test) in self.tests.iter().enumerate() {
            if !test.predicted.is_empty() {
                let predicted = Tensor::new(&test.predicted[..], &Device::Cpu)?;
                tensors.insert(format!("predicted/{i}"), predicted);
                let confidence = Tensor::new(&test.confidence[..], &Device::Cpu)?;
                tensors.insert(format!("confidence/{i}"), confidence);
            }
        }
        let views: BTreeMap<String, &Tensor> =
            tensors.iter().map(|(n, t)| (n.clone(), t)).collect();
        let metadata = HashMap::from([
            (SUM.to_owned(), sum(&description, &views)),
            (DESCRIPTION.to_owned(), description),
        ]);
        Ok(safetensors::serialize(views, Some(metadata))?)
    }

    /// What [`Checkpoint::to_bytes`] wrote of the trial called `key`.
    ///
    /// # Errors
    /// Why it is of no use: damaged, of another trial, of another program.
    pub fn of_bytes(bytes: &[u8], key: &str) -> Result<Self> {
        let damaged = "it is damaged";
        let (_, metadata) = SafeTensors::read_metadata(bytes).context(damaged)?;
        let metadata = metadata.metadata().clone().unwrap_or_default();
        let (Some(text), Some(told)) = (metadata.get(DESCRIPTION), metadata.get(SUM)) else {
            bail!("it holds no `{DESCRIPTION}`: it is no checkpoint of a trial");
        };
        let views = SafeTensors::deserialize(bytes).context(damaged)?;
        let views: BTreeMap<String, _> = views.tensors().into_iter().collect();
        if sum(text, &views) != *told {
            bail!("it is damaged: its contents do not have its checksum");
        }
        let value: serde_json::Value = serde_json::from_str(text).context(damaged)?;
        if value["version"] != VERSION {
            bail!(
                "its version is {}, this program's is {VERSION}",
                value["version"]
            );
        }
        let description: Description = serde_json::from_value(value).context(damaged)?;
        if description.key != key {
            bail!("it is of the trial {}", description.key);
        }
        if description.program != program() {
            bail!("it was written by promptbed {}", description.program);
        }
        let tensors =
            candle_core::safetensors::load_buffer(bytes, &Device::Cpu).context(damaged)?;
        let part = |of: &str| -> Tensors {
            let own = |(name, t): (&String, &Tensor)| {
                let name = name.strip_prefix(of)?.strip_prefix('/')?;
                Some((name.to_owned(), t.clone()))
            };
            tensors.iter().filter_map(own).collect()
        };
        let exact = |name: &str| match tensors.get(name) {
            Some(values) => values.to_vec1::<f64>(),
            None => Ok(Vec::new()),
        };
        let learning = match description.learning {
            None => None,
            Some((epoch, step, done)) => {
                let running = exact("epoch")?;
                Some(Learning {
                    epoch,
                    step,
                    done,
                    sum: running.first().copied().unwrap_or(0.0),
                    last: running.get(1).copied(),
                    optimizer: part("optimizer"),
                })
            }
        };
        let tests = description.tests.iter().enumerate().map(|(i, seconds)| {
            let (predicted, confidence) = (
                tensors.get(&format!("predicted/{i}")),
                tensors.get(&format!("confidence/{i}")),
            );
            Ok(Answers {
                predicted: predicted.map_or(Ok(Vec::new()), Tensor::to_vec1)?,
                confidence: confidence.map_or(Ok(Vec::new()), Tensor::to_vec1)?,
                seconds: *seconds,
            })
        });
        Ok(Self {
            stage: description.stage,
            learning,
            learned: part("learned"),
            losses: exact("losses")?,
            learning_rates: exact("learning_rates")?,
            cost: description.cost,
            ran: description.ran,
            tests: tests.collect::<Result<_>>()?,
            predictor: part("predictor"),
        })
    }
}

/// Keeps the checkpoint of one trial. A checkpoint only saves time, so what goes wrong with one is said and changes nothing
/// of the trial.
pub struct Keeper {
    key: String,
    results: PathBuf,
    path: PathBuf,
    every: Duration,
    /// When the last was written, or the trial begun.
    saved: Mutex<Instant>,
    /// Whether it was said that none can be written.
    told: AtomicBool,
}

impl Keeper {
    /// Of the trial called `key` in the results folder `results`; one is due `every` so often.
    pub fn new(results: &Path, key: &str, every: Duration) -> Self {
        Self {
            key: key.to_owned(),
            results: results.to_owned(),
            path: results.join(FOLDER).join(format!("{key}{ENDING}")),
            every,
            saved: Mutex::new(Instant::now()),
            told: AtomicBool::new(false),
        }
    }

    /// Where an answer that the trial was given at `place` is kept: beside its record, for good.
    pub fn beside(&self, place: &str) -> PathBuf {
        self.results
            .join("answers")
            .join(&self.key)
            .join(format!("{place}.jsonl"))
    }

    /// Where the trial stands, if it was begun before. One that is of no use is told and passed over.
    pub fn read(&self) -> Option<Checkpoint> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            Err(e) => {
                self.pass_over(e);
                return None;
            }
        };
        let read = Checkpoint::of_bytes(&bytes, &self.key);
        read.map_err(|e| self.pass_over(crate::reason::reason(&e)))
            .ok()
    }

    /// Says why the checkpoint that is there is not used.
    pub fn pass_over(&self, why: impl Display) {
        crate::say!(
            "note: {}: {why}; the trial begins anew",
            self.path.display()
        );
    }

    /// Whether it is time for the next.
    pub fn is_due(&self) -> bool {
        self.saved.lock().expect("no panic while held").elapsed() >= self.every
    }

    /// Writes one in the place of the last.
    ///
    /// # Errors
    /// Those of candle. A disk that cannot be written is said once.
    pub fn write(&self, checkpoint: &Checkpoint) -> Result<()> {
        let bytes = checkpoint.to_bytes(&self.key)?;
        if let Err(e) = self.put(&bytes)
            && !self.told.swap(true, Ordering::Relaxed)
        {
            crate::say!("note: {e}; the trial goes on, but cannot be continued if it is stopped");
        }
        *self.saved.lock().expect("no panic while held") = Instant::now();
        Ok(())
    }

    fn put(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let folder = self.path.parent().expect("a folder was joined");
        let put = || {
            let made = std::fs::create_dir_all(folder);
            made.map_err(|source| StoreError::Io {
                path: folder.to_owned(),
                source,
            })?;
            replace(&self.path, bytes)
        };
        // The last checkpoint's end takes the folder away, maybe just now and in another process.
        put().or_else(|_| put())
    }

    /// Takes the checkpoint away, for the trial is over. Best effort: [`tidy`] takes one that stays.
    pub fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
        if let Some(folder) = self.path.parent() {
            let _ = std::fs::remove_dir(folder); // where it was the last
        }
    }
}

/// Takes away checkpoints of `results` whose trials are over: a process may have died between the two.
pub fn tidy(results: &Path, is_over: impl Fn(&str) -> bool) {
    let folder = results.join(FOLDER);
    let Ok(entries) = std::fs::read_dir(&folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let key = name.to_str().and_then(|name| name.strip_suffix(ENDING));
        if key.is_some_and(|key| !key.starts_with('.') && is_over(key)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let _ = std::fs::remove_dir(folder); // where nothing is left in it
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(values: &[f32]) -> Tensors {
        let tensor = Tensor::new(values, &Device::Cpu).unwrap();
        Tensors::from([("a/b.c".to_owned(), tensor)])
    }

    fn flat(tensors: &Tensors) -> Vec<(String, Vec<u32>)> {
        let bits = |t: &Tensor| {
            t.to_vec1::<f32>()
                .unwrap()
                .iter()
                .map(|v| v.to_bits())
                .collect()
        };
        tensors.iter().map(|(n, t)| (n.clone(), bits(t))).collect()
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            stage: 1,
            learning: Some(Learning {
                epoch: 3,
                step: 2,
                done: 17,
                sum: 0.1 + 0.2,
                last: Some(1.0 / 3.0),
                optimizer: tensors(&[-0.0, f32::MIN_POSITIVE / 2.0]),
            }),
            learned: tensors(&[f32::NAN, f32::INFINITY, 1e-45]),
            losses: vec![1.0 / 7.0, 5e-324, 1e300],
            learning_rates: vec![2e-3],
            cost: Cost {
                train_seconds: 1.5,
                scored: 0,
                steps: 40,
                ..Cost::default()
            },
            ran: vec![Ran::default(), Ran::on_card("cuda:0 A".to_owned())],
            tests: vec![
                Answers {
                    predicted: vec![3, 1],
                    confidence: vec![0.3, 1.0],
                    seconds: 0.25,
                },
                Answers::default(),
            ],
            predictor: tensors(&[4.0]),
        }
    }

    #[test]
    fn what_is_read_is_what_was_written_bit_for_bit() {
        let written = checkpoint();
        let read = Checkpoint::of_bytes(&written.to_bytes("key").unwrap(), "key").unwrap();
        assert_eq!(read.stage, written.stage);
        assert_eq!(read.losses, written.losses);
        assert_eq!(read.learning_rates, written.learning_rates);
        assert_eq!(read.cost, written.cost);
        assert_eq!(read.ran, written.ran);
        assert_eq!(read.tests, written.tests);
        assert_eq!(flat(&read.learned), flat(&written.learned));
        assert_eq!(flat(&read.predictor), flat(&written.predictor));
        let (read, written) = (read.learning.unwrap(), written.learning.unwrap());
        assert_eq!((read.epoch, read.step, read.done), (3, 2, 17));
        assert_eq!((read.sum, read.last), (written.sum, written.last));
        assert_eq!(flat(&read.optimizer), flat(&written.optimizer));

        let bare = Checkpoint::default();
        let read = Checkpoint::of_bytes(&bare.to_bytes("key").unwrap(), "key").unwrap();
        assert!(read.learning.is_none() && read.learned.is_empty() && read.tests.is_empty());
    }

    #[test]
    fn another_version_another_program_and_another_file_are_told() {
        let whole = checkpoint();
        let told = |change: fn(&mut Description)| {
            let mut description = whole.description("key");
            change(&mut description);
            let bytes = whole.described(&description).unwrap();
            let refused = Checkpoint::of_bytes(&bytes, "key").unwrap_err();
            refused.to_string()
        };
        assert!(told(|d| d.version = 1).contains("its version is 1, this program's is 2"));
        assert!(told(|d| d.program = "0.0.1".to_owned()).contains("by promptbed 0.0.1"));
        assert!(told(|d| d.key = "other".to_owned()).contains("of the trial other"));
        let prompts = safetensors::serialize(&whole.learned, None).unwrap();
        let refused = Checkpoint::of_bytes(&prompts, "key").unwrap_err();
        assert!(refused.to_string().contains("no checkpoint"), "{refused}");
    }

    #[test]
    fn only_checkpoints_of_trials_that_are_over_are_tidied_away() {
        let results = tempfile::tempdir().unwrap();
        let keeper = |key: &str| Keeper::new(results.path(), key, Duration::ZERO);
        for key in ["over", "running"] {
            assert!(keeper(key).read().is_none());
            keeper(key).write(&checkpoint()).unwrap();
        }
        tidy(results.path(), |key| key == "over");
        assert!(keeper("over").read().is_none());
        assert!(keeper("running").read().is_some());
        keeper("running").remove();
        assert!(!results.path().join(FOLDER).exists());
        tidy(results.path(), |_| true);
    }

    #[test]
    fn one_is_due_after_its_time_and_a_disk_that_cannot_be_written_costs_only_the_checkpoint() {
        let results = tempfile::tempdir().unwrap();
        assert!(Keeper::new(results.path(), "key", Duration::ZERO).is_due());
        let keeper = Keeper::new(results.path(), "key", Duration::from_secs(3600));
        assert!(!keeper.is_due());
        // A file where the folder should be.
        std::fs::write(results.path().join(FOLDER), "").unwrap();
        keeper.write(&checkpoint()).unwrap();
        assert!(keeper.told.load(Ordering::Relaxed));
    }
}
