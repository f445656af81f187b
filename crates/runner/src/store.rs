//! A results folder: one file a trial, written as soon as it exists, read back whole or reported as broken.
//!
//! ```text
//! DIR/ suites/<name>/{suite.toml,run.json,plan.json}  trials/<key>.json  predictions/<key>.parquet  trials.parquet
//!      claims/  workers/  damaged/
//! ```
//!
//! Every file appears by renaming a finished temporary file over it, so a reader never sees half of one, and neither
//! does the next run after a crash. Who works on which trial is told by [`claims`].

pub mod claims;
mod columns;
mod exclusive;
mod file;
mod frame;
mod merge;
mod predictions;
mod process;
mod sealed;
mod suites;
pub mod survey;
mod tidy;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::protocols::{Protocol, Shows};
use crate::record::{Outcome, Record, Shared, Test};
pub(crate) use file::replace;
pub use merge::Merged;
pub use predictions::Prediction;
pub use process::Process;
use sealed::{Unreadable, brief, parse};

/// Records that are read before those that are alike begin to share what they can.
const AT_ONCE: usize = 2048;

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
    /// What it starts from, as [`start`](crate::start) has it: trained on, or tested on where nothing is trained.
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

/// What the file of a trial's record says.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// There is none.
    Missing,
    /// The trial ran to the end.
    Finished,
    /// It did not; it may run again.
    Failed {
        /// Why.
        reason: String,
        /// When it started, Unix seconds: tells one failure from the next.
        started: u64,
    },
    /// It cannot be trusted, and why.
    Damaged(String),
    /// A newer program has written it, and which.
    Newer(String),
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
        let json = sealed::seal(record).map_err(|source| StoreError::Json {
            path: path.clone(),
            source,
        })?;
        // Reading it back is the check: JSON has no NaN, so serde writes one as null, which no reader would take.
        parse(&json, &record.key).map_err(|e| refuse(e.to_string()))?;
        replace(&path, &json)
    }

    /// Reads every record. A file that cannot be trusted is named in [`Loaded::problems`], never skipped in silence.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn read_all(&self) -> Result<Loaded, StoreError> {
        self.load(|_| ())
    }

    /// As [`Store::read_all`], without what neither tables nor charts ask for and what takes most of the memory where there
    /// are many records: tallies of classes, learning rates, and losses but the last.
    ///
    /// # Errors
    /// Those of [`Store::read_all`].
    pub fn read_figures(&self) -> Result<Loaded, StoreError> {
        self.load(|record| {
            // What is kept of sessions is read from the tallies of their classes.
            if record.protocol.shows != Shows::Sessions {
                record.tests.iter_mut().for_each(Test::drop_tallies);
            }
            record.learning_rates = Vec::new();
            record.losses = record.losses.last().copied().into_iter().collect();
        })
    }

    fn load(&self, spare: impl Fn(&mut Record) + Sync) -> Result<Loaded, StoreError> {
        let paths = file::finished(&self.dir.join("trials"))?;
        let read = |path: PathBuf| match self.read(&path) {
            Ok(mut record) => {
                spare(&mut record);
                Ok(record)
            }
            Err(problem) => Err((path, problem.to_string())),
        };
        let mut loaded = Loaded::default();
        let mut shared = Shared::default();
        // In pieces, so that what they share need not be there as many times first.
        for some in paths.chunks(AT_ONCE) {
            let read: Vec<_> = some.par_iter().cloned().map(&read).collect();
            for read in read {
                match read {
                    Ok(mut record) => {
                        shared.share(&record.method, &mut record.settings);
                        shared.share("suite", &mut record.suite_settings);
                        loaded.records.push(record);
                    }
                    Err(problem) => loaded.problems.push(problem),
                }
            }
        }
        let (plans, problems) = self.plans()?;
        loaded.planned = in_order(plans);
        loaded.problems.extend(problems);
        Ok(loaded)
    }

    /// The record in this file of `trials/`.
    fn read(&self, path: &Path) -> Result<Record, Unreadable> {
        if path.extension().is_none_or(|e| e != "json") {
            let reason = "not a record: records end in .json".to_owned();
            return Err(Unreadable::Damaged(reason));
        }
        let key = path.file_stem().unwrap_or_default().to_string_lossy();
        let bytes = std::fs::read(path).map_err(|e| Unreadable::Damaged(e.to_string()))?;
        parse(&bytes, &key)
    }

    /// What is known of the trial with this key.
    ///
    /// # Errors
    /// When its file is there and the system does not let it be read.
    pub fn standing(&self, key: &str) -> Result<Standing, StoreError> {
        let path = self.record_path(key);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Standing::Missing);
            }
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        Ok(match brief(&bytes, key) {
            Ok(brief) => match brief.outcome {
                Outcome::Finished => Standing::Finished,
                Outcome::Failed { reason, .. } => Standing::Failed {
                    reason,
                    started: brief.provenance.started,
                },
            },
            Err(Unreadable::Newer(problem)) => Standing::Newer(problem),
            Err(Unreadable::Damaged(problem)) => Standing::Damaged(problem),
        })
    }

    /// Moves a damaged file to `damaged/`, under its name as far as that is free there, and gives the place.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn set_aside(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let fail = |source| StoreError::Io {
            path: path.to_owned(),
            source,
        };
        let folder = self.dir.join("damaged");
        std::fs::create_dir_all(&folder).map_err(fail)?;
        let name = path.file_name().unwrap_or_default();
        let mut to = folder.join(name);
        let (stem, ending) = (path.file_stem(), path.extension());
        let (stem, ending) = (stem.unwrap_or_default(), ending.unwrap_or_default());
        let mut number = 1;
        while to.exists() {
            number += 1;
            let (stem, ending) = (stem.to_string_lossy(), ending.to_string_lossy());
            to = folder.join(format!("{stem}-{number}.{ending}"));
        }
        std::fs::rename(path, &to).map_err(fail)?;
        Ok(to)
    }

    /// Whether a whole record with this key says its trial ran to the end. A failed or corrupted one may be run again.
    pub fn has_finished(&self, key: &str) -> bool {
        matches!(self.standing(key), Ok(Standing::Finished))
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

#[cfg(test)]
mod tests;
