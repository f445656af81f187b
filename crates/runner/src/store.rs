//! A results folder: one file a trial, written as soon as it exists, read back whole or reported as broken.
//!
//! ```text
//! DIR/ plan.json  trials/<key>.json  predictions/<key>.parquet  trials.parquet
//! ```
//!
//! Every file appears by renaming a finished temporary file over it, so a reader never sees half of one, and neither
//! does the next run after a crash.

mod columns;
mod file;
mod frame;
mod predictions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};

use crate::protocols::Protocol;
use crate::record::{Outcome, Record, SCHEMA, from_1};
pub(crate) use file::replace;
pub use predictions::Prediction;

/// What can go wrong with a results folder.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A JSON file does not hold what it should.
    #[error("{path}: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A parquet file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the parquet library said.
        source: ParquetError,
    },
    /// A record that a later read would refuse.
    #[error("{path}: {problem}", path = path.display())]
    Record {
        /// The file it was meant for.
        path: PathBuf,
        /// Field and reason.
        problem: String,
    },
    /// A chart could not be drawn.
    #[error("{path}: {problem}", path = path.display())]
    Chart {
        /// The file.
        path: PathBuf,
        /// What the drawing library said.
        problem: String,
    },
    /// No folder there.
    #[error("{path}: no such results folder", path = path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
}

/// One trial a suite asks for: what tells a missing trial from one nobody wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Key its record will have.
    pub key: String,
    /// How accuracy is measured.
    pub protocol: &'static Protocol,
    /// Label of the method in the suite.
    pub method: String,
    /// Name of the algorithm in the registry.
    pub algorithm: String,
    /// Dataset trained on (or tested on, where nothing is trained).
    pub dataset: String,
    /// Labelled training pictures a class; 0 where nothing is trained.
    pub shots: usize,
    /// Seed of the trial.
    pub seed: u64,
}

impl Planned {
    /// The line a record fulfils.
    pub fn of(record: &Record) -> Self {
        Self {
            key: record.key.clone(),
            protocol: record.protocol,
            method: record.method.clone(),
            algorithm: record.algorithm.clone(),
            dataset: record.dataset.clone(),
            shots: record.shots,
            seed: record.seed,
        }
    }
}

/// Everything a results folder holds that can be trusted, and what cannot.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Whole records, ordered by key.
    pub records: Vec<Record>,
    /// Files of `trials/` (and the plan) that are corrupted or too new, each with the reason.
    pub problems: Vec<(PathBuf, String)>,
    /// Trials asked for, in the order asked; empty when the folder has no plan.
    pub planned: Vec<Planned>,
}

/// A results folder.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens a results folder, making it (and its `trials/` and `predictions/`) where it is not there.
    ///
    /// # Errors
    /// When a folder cannot be made.
    pub fn create(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        for folder in [dir.join("trials"), dir.join("predictions")] {
            std::fs::create_dir_all(&folder).map_err(|source| StoreError::Io {
                path: folder,
                source,
            })?;
        }
        Ok(Self { dir })
    }

    /// Opens a results folder that is there.
    ///
    /// # Errors
    /// When it is not, or has no `trials/`.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        let trials = dir.join("trials");
        if trials.is_dir() {
            Ok(Self { dir })
        } else {
            Err(StoreError::Missing { path: trials })
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the record with this key is or would be.
    pub fn record_path(&self, key: &str) -> PathBuf {
        self.dir.join("trials").join(format!("{key}.json"))
    }

    /// Writes one record: whole or not at all, replacing one with the same key.
    ///
    /// # Errors
    /// When it cannot be written, or when [`Store::read_all`] would refuse it (a number that is not finite, tests that
    /// do not add up, a key that is not a file name).
    pub fn write(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.record_path(&record.key);
        let refuse = |problem: String| StoreError::Record {
            path: path.clone(),
            problem,
        };
        if record.key.is_empty() || record.key.starts_with('.') || record.key.contains(['/', '\\'])
        {
            return Err(refuse(format!("key: {:?} is not a file name", record.key)));
        }
        let json = serde_json::to_vec_pretty(record).map_err(|source| StoreError::Json {
            path: path.clone(),
            source,
        })?;
        // Reading it back is the check: JSON has no NaN, so serde writes one as null, which no reader would take.
        parse(&json, &record.key).map_err(refuse)?;
        replace(&path, &json)
    }

    /// Reads every record. A file that cannot be trusted is named in [`Loaded::problems`], never skipped in silence.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn read_all(&self) -> Result<Loaded, StoreError> {
        let mut loaded = Loaded::default();
        for path in file::finished(&self.dir.join("trials"))? {
            let key = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let read = if path.extension().is_some_and(|e| e == "json") {
                std::fs::read(&path)
                    .map_err(|e| e.to_string())
                    .and_then(|bytes| parse(&bytes, &key))
            } else {
                Err("not a record: records end in .json".to_owned())
            };
            match read {
                Ok(record) => loaded.records.push(record),
                Err(problem) => loaded.problems.push((path, problem)),
            }
        }
        match self.read_plan() {
            Ok(plan) => loaded.planned = in_order(plan),
            Err(StoreError::Json { path, source }) => {
                loaded.problems.push((path, source.to_string()))
            }
            Err(error) => return Err(error),
        }
        Ok(loaded)
    }

    /// Whether a whole record with this key says its trial ran to the end. A failed or corrupted one may be run again.
    pub fn has_finished(&self, key: &str) -> bool {
        std::fs::read(self.record_path(key)).is_ok_and(|bytes| {
            parse(&bytes, key).is_ok_and(|record| record.outcome == Outcome::Finished)
        })
    }

    /// Records what a suite asks for, replacing what that suite asked for before. Tables then know which trials are
    /// missing, and set aside records that no suite asks for any more.
    ///
    /// # Errors
    /// When the plan cannot be written.
    pub fn write_plan(&self, suite: &str, planned: &[Planned]) -> Result<(), StoreError> {
        // A plan that cannot be parsed is only a note of what was asked for: this suite's part is known again now.
        let mut plan = match self.read_plan() {
            Err(StoreError::Json { .. }) => BTreeMap::new(),
            other => other?,
        };
        plan.insert(suite.to_owned(), planned.to_vec());
        let path = self.dir.join("plan.json");
        let json = serde_json::to_vec_pretty(&plan).map_err(|source| StoreError::Json {
            path: path.clone(),
            source,
        })?;
        replace(&path, &json)
    }

    fn read_plan(&self) -> Result<BTreeMap<String, Vec<Planned>>, StoreError> {
        let path = self.dir.join("plan.json");
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| StoreError::Json { path, source })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(source) => Err(StoreError::Io { path, source }),
        }
    }
}

/// Trials of every suite, each once.
fn in_order(plan: BTreeMap<String, Vec<Planned>>) -> Vec<Planned> {
    let mut seen = BTreeSet::new();
    plan.into_values()
        .flatten()
        .filter(|trial| seen.insert(trial.key.clone()))
        .collect()
}

/// A record from its file's bytes, or the reason why it cannot be trusted.
fn parse(bytes: &[u8], key: &str) -> Result<Record, String> {
    let mut value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|e| format!("corrupted: {e}"))?;
    let schema = value.get("schema").and_then(serde_json::Value::as_u64);
    match schema {
        None => return Err("schema: missing; not a record".to_owned()),
        Some(0) => return Err("schema: 0 was never in use".to_owned()),
        Some(newer) if newer > u64::from(SCHEMA) => {
            return Err(format!(
                "schema: {newer} is newer than {SCHEMA}, the newest this program reads; update it"
            ));
        }
        Some(_) => {}
    }
    let record: Result<Record, _> = if schema == Some(1) {
        from_1(&mut value);
        serde_json::from_value(value)
    } else {
        // `from_slice` again rather than `from_value`: its errors say where in the file.
        serde_json::from_slice(bytes)
    };
    let record = record.map_err(|e| format!("corrupted: {e}"))?;
    if record.key != key {
        return Err(format!(
            "key: {:?} does not match the file's name",
            record.key
        ));
    }
    if record.outcome == Outcome::Finished && record.tests.is_empty() {
        return Err("tests: a finished trial has at least one".to_owned());
    }
    for (i, test) in record.tests.iter().enumerate() {
        if test.total == 0 || test.correct > test.total {
            return Err(format!(
                "tests[{i}]: {} correct of {} pictures",
                test.correct, test.total
            ));
        }
        let correct: u64 = test.classes.iter().map(|class| class.correct).sum();
        let total: u64 = test.classes.iter().map(|class| class.total).sum();
        if !test.classes.is_empty() && (correct, total) != (test.correct, test.total) {
            return Err(format!(
                "tests[{i}].classes: sum to {correct} of {total}, not {} of {}",
                test.correct, test.total
            ));
        }
    }
    Ok(record)
}

#[cfg(test)]
mod tests;
