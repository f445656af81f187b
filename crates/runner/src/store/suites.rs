//! The suites of a results folder: what each asks for and how it was run, in a folder of its own, so that any number of
//! suites and processes write side by side.
//!
//! ```text
//! suites/<name>/suite.toml  the suite's text     run.json  data, weights and settings it was run with     plan.json  its trials
//! ```
//! Older programs wrote one `suite.toml` and one `plan.json` for the whole folder; both are still read, and `suite.toml`
//! still written, with the suite that was run last.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::survey::{State, Surveyed};
use super::{Planned, Store, StoreError, replace};

/// The trials of each suite.
pub(super) type Plans = BTreeMap<String, Vec<Planned>>;
/// Files that cannot be read, and why.
type Problems = Vec<(PathBuf, String)>;

impl Store {
    /// The folder of a suite.
    pub fn suite_folder(&self, name: &str) -> PathBuf {
        self.dir.join("suites").join(name)
    }

    /// Keeps a suite's text and how it is run.
    ///
    /// # Errors
    /// When it cannot be written, or no folder can have this name.
    pub fn write_suite(
        &self,
        name: &str,
        text: &str,
        run: &impl Serialize,
    ) -> Result<(), StoreError> {
        let folder = self.make_suite_folder(name)?;
        replace(&folder.join("suite.toml"), text.as_bytes())?;
        write_json(folder.join("run.json"), run)?;
        replace(&self.dir.join("suite.toml"), text.as_bytes())
    }

    fn make_suite_folder(&self, name: &str) -> Result<PathBuf, StoreError> {
        let folder = self.suite_folder(name);
        if name.is_empty() || name.bytes().all(|b| b == b'.') {
            return Err(StoreError::Record {
                path: folder,
                problem: format!("{name:?} is no name for a suite"),
            });
        }
        match std::fs::create_dir_all(&folder) {
            Ok(()) => Ok(folder),
            Err(source) => Err(StoreError::Io {
                path: folder,
                source,
            }),
        }
    }

    /// The names of the suites that have a folder here.
    ///
    /// # Errors
    /// When these cannot be listed.
    pub fn suites(&self) -> Result<Vec<String>, StoreError> {
        let folder = self.dir.join("suites");
        let fail = |source| StoreError::Io {
            path: folder.clone(),
            source,
        };
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(fail)?;
            if entry.path().is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The text of a suite; none where it is not here. `name` may be `None` for the suite that was run last.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn suite_text(&self, name: Option<&str>) -> Result<Option<String>, StoreError> {
        let path = match name {
            Some(name) => self.suite_folder(name).join("suite.toml"),
            None => self.dir.join("suite.toml"),
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io { path, source }),
        }
    }

    /// How a suite was run; none where that is not kept.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn suite_run<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        read_json(&self.suite_folder(name).join("run.json"))
    }

    /// Records what a suite asks for, replacing what that suite asked for before. Tables then know which trials are
    /// missing, and set aside records that no suite asks for any more.
    ///
    /// # Errors
    /// When the plan cannot be written.
    pub fn write_plan(&self, suite: &str, planned: &[Planned]) -> Result<(), StoreError> {
        // An old plan that cannot be parsed is only a note of what was asked for.
        let old = self.dir.join("plan.json");
        if let Err(StoreError::Json { .. }) = read_json::<Plans>(&old) {
            self.set_aside(&old)?;
        }
        let folder = self.make_suite_folder(suite)?;
        write_json(folder.join("plan.json"), &planned)
    }

    /// What a suite asked for when it was run last.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn plan(&self, suite: &str) -> Result<Option<Vec<Planned>>, StoreError> {
        let own = read_json(&self.suite_folder(suite).join("plan.json"))?;
        Ok(match own {
            Some(plan) => Some(plan),
            None => read_json::<Plans>(&self.dir.join("plan.json"))?
                .and_then(|mut old| old.remove(suite)),
        })
    }

    /// Whether every trial that any suite asks for is finished.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn plans_are_over(&self) -> Result<bool, StoreError> {
        let survey = self.survey()?;
        let is_over = |t: &Surveyed| matches!(t.state, State::Finished);
        Ok(survey.trials.iter().all(is_over))
    }

    /// What every suite asks for, and plans that cannot be read.
    pub(super) fn plans(&self) -> Result<(Plans, Problems), StoreError> {
        let mut problems = Vec::new();
        let mut plans = match read_json::<Plans>(&self.dir.join("plan.json")) {
            Ok(plans) => plans.unwrap_or_default(),
            Err(StoreError::Json { path, source }) => {
                problems.push((path, source.to_string()));
                Plans::new()
            }
            Err(error) => return Err(error),
        };
        for name in self.suites()? {
            match read_json(&self.suite_folder(&name).join("plan.json")) {
                Ok(Some(plan)) => {
                    plans.insert(name, plan);
                }
                Ok(None) => {}
                Err(StoreError::Json { path, source }) => problems.push((path, source.to_string())),
                Err(error) => return Err(error),
            }
        }
        Ok((plans, problems))
    }
}

fn write_json(path: PathBuf, value: &impl Serialize) -> Result<(), StoreError> {
    match serde_json::to_vec_pretty(value) {
        Ok(json) => replace(&path, &json),
        Err(source) => Err(StoreError::Json { path, source }),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let path = path.to_owned();
    match std::fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(source) => Err(StoreError::Json { path, source }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io { path, source }),
    }
}
