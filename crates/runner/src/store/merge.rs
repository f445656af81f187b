//! Results folders of machines that share no file system, made one.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::sealed::{Unreadable, parse};
use super::{Planned, Store, StoreError, file, replace};
use crate::record::{Outcome, Record, Test};

/// Where what does not fit is kept.
const CONFLICTS: &str = "conflicts";

/// What came of merging a folder.
#[derive(Debug, Default)]
pub struct Merged {
    /// Trials that were not here.
    pub new: usize,
    /// Trials that had failed here and are finished there.
    pub better: usize,
    /// Trials that were here as well as they are there.
    pub same: usize,
    /// What is not the same here and there: what, and where the other one is now.
    pub conflicts: Vec<(String, PathBuf)>,
    /// Records of that folder that cannot be trusted, where they are now, and why.
    pub damaged: Vec<(PathBuf, String)>,
}

impl Store {
    /// Takes in the trials and suites of `from`, which keeps its own. What is not the same in both (a trial with other tests,
    /// a suite that asks for other things, other pictures for the same few shots) stays as it is here, and the other one is
    /// kept in `conflicts/<name>/`.
    ///
    /// # Errors
    /// When a folder cannot be read or written, and a record that a newer program has written.
    pub fn merge(&self, from: &Self, name: &str) -> Result<Merged, StoreError> {
        let mut merged = Merged::default();
        let aside = self.dir.join(CONFLICTS).join(name);
        self.merge_suites(from, &aside, &mut merged)?;
        for path in listed(&from.dir.join("picks"))? {
            let to = self.dir.join("picks").join(name_of(&path));
            let bytes = read(&path)?;
            match fs::read(&to) {
                Ok(ours) if ours == bytes => {}
                Ok(_) => {
                    let other = aside.join("picks").join(name_of(&path));
                    put(&other, &bytes)?;
                    let what = format!("picks {}", name_of(&path));
                    merged.conflicts.push((what, other));
                }
                Err(_) => put(&to, &bytes)?,
            }
        }
        for path in listed(&from.dir.join("trials"))? {
            self.merge_trial(from, &path, &aside, &mut merged)?;
        }
        for path in listed(&from.dir.join("checkpoints"))? {
            let to = self.dir.join("checkpoints").join(name_of(&path));
            let key = path.file_stem().unwrap_or_default().to_string_lossy();
            if !to.exists() && !self.has_finished(&key) {
                put(&to, &read(&path)?)?;
            }
        }
        Ok(merged)
    }

    fn merge_suites(
        &self,
        from: &Self,
        aside: &Path,
        merged: &mut Merged,
    ) -> Result<(), StoreError> {
        let (plans, _) = from.plans()?;
        let is_alone = plans.len() == 1;
        for (suite, plan) in plans {
            let theirs = match from.suite_text(Some(&suite))? {
                // Older programs kept one text for the whole folder.
                None if is_alone => from.suite_text(None)?,
                text => text,
            };
            let folder = self.suite_folder(&suite);
            if let Some(theirs) = theirs {
                match self.suite_text(Some(&suite))? {
                    Some(ours) if ours == theirs => {}
                    Some(_) => {
                        let other = aside.join("suites").join(&suite).join("suite.toml");
                        put(&other, theirs.as_bytes())?;
                        merged.conflicts.push((format!("suite {suite}"), other));
                    }
                    None => {
                        put(&folder.join("suite.toml"), theirs.as_bytes())?;
                        let run = from.suite_folder(&suite).join("run.json");
                        if run.exists() {
                            put(&folder.join("run.json"), &read(&run)?)?;
                        }
                        if self.suite_text(None)?.is_none() {
                            put(&self.dir.join("suite.toml"), theirs.as_bytes())?;
                        }
                    }
                }
            }
            let mut ours: Vec<Planned> = self.plan(&suite)?.unwrap_or_default();
            let known: HashSet<String> = ours.iter().map(|p| p.key.clone()).collect();
            ours.extend(plan.into_iter().filter(|p| !known.contains(&p.key)));
            self.write_plan(&suite, &ours)?;
        }
        Ok(())
    }

    fn merge_trial(
        &self,
        from: &Self,
        path: &Path,
        aside: &Path,
        merged: &mut Merged,
    ) -> Result<(), StoreError> {
        let key = path.file_stem().unwrap_or_default().to_string_lossy();
        let bytes = read(path)?;
        let theirs = match parse(&bytes, &key) {
            Ok(record) => record,
            Err(Unreadable::Newer(problem)) => return Err(refuse(path, problem)),
            Err(Unreadable::Damaged(problem)) => {
                let to = aside.join("damaged").join(name_of(path));
                put(&to, &bytes)?;
                merged.damaged.push((to, problem));
                return Ok(());
            }
        };
        let own = self.record_path(&key);
        let ours = match fs::read(&own) {
            Err(_) => None,
            Ok(bytes) => match parse(&bytes, &key) {
                Ok(record) => Some(record),
                Err(Unreadable::Newer(problem)) => return Err(refuse(&own, problem)),
                Err(Unreadable::Damaged(problem)) => {
                    merged.damaged.push((self.set_aside(&own)?, problem));
                    None
                }
            },
        };
        match ours {
            None => {
                merged.new += 1;
                copy_trial(from, &theirs, &bytes, &self.dir)
            }
            Some(ours) if !is_finished(&ours) && is_finished(&theirs) => {
                merged.better += 1;
                copy_trial(from, &theirs, &bytes, &self.dir)
            }
            Some(ours) if is_finished(&theirs) && !agree(&ours.tests, &theirs.tests) => {
                copy_trial(from, &theirs, &bytes, aside)?;
                let other = aside.join("trials").join(name_of(path));
                merged.conflicts.push((format!("trial {key}"), other));
                Ok(())
            }
            Some(_) => {
                merged.same += 1;
                Ok(())
            }
        }
    }
}

fn is_finished(record: &Record) -> bool {
    record.outcome == Outcome::Finished
}

/// Percent by which the calibration error of the same answers may differ: another processor rounds confidences otherwise.
const ROUNDED: f64 = 0.01;

/// Whether two trials answered alike, whatever time it took.
fn agree(ours: &[Test], theirs: &[Test]) -> bool {
    let same = |(a, b): (&Test, &Test)| {
        let timed = Test {
            seconds: a.seconds,
            ece: a.ece,
            ..b.clone()
        };
        *a == timed && (a.ece - b.ece).abs() <= ROUNDED
    };
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(same)
}

/// Copies what a trial left to the results folder `to`, its record last.
fn copy_trial(from: &Store, record: &Record, bytes: &[u8], to: &Path) -> Result<(), StoreError> {
    let key = &record.key;
    for (folder, ending) in [("predictions", "parquet"), ("prompts", "safetensors")] {
        let name = format!("{key}.{ending}");
        let path = from.dir.join(folder).join(&name);
        if path.exists() {
            put(&to.join(folder).join(&name), &read(&path)?)?;
        }
    }
    put(&to.join("trials").join(format!("{key}.json")), bytes)
}

/// The files of a folder, none where it is not there.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if folder.is_dir() {
        file::finished(folder)
    } else {
        Ok(Vec::new())
    }
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn refuse(path: &Path, problem: String) -> StoreError {
    StoreError::Record {
        path: path.to_owned(),
        problem,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|source| StoreError::Io {
        path: path.to_owned(),
        source,
    })
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|source| StoreError::Io {
            path: folder.to_owned(),
            source,
        })?;
    }
    replace(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::summary::sample;

    fn store(records: &[Record], text: &str) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let planned: Vec<Planned> = records.iter().map(Planned::of).collect();
        store.write_suite("suite", text, &"run").unwrap();
        store.write_plan("suite", &planned).unwrap();
        for record in records {
            store.write(record).unwrap();
            store.write_predictions(&record.key, &[]).unwrap();
        }
        (dir, store)
    }

    fn trial(seed: u64, accuracy: f64) -> Record {
        sample::trial("coop", "dtd", 4, seed, &[("base", accuracy)])
    }

    #[test]
    fn folders_become_one_that_has_what_each_had() {
        let mut slower = trial(2, 60.0);
        slower.tests[0].seconds += 1.0;
        let (_one, one) = store(&[trial(1, 71.5), trial(2, 60.0)], "same");
        let (_two, two) = store(&[slower, trial(3, 50.0)], "same");
        let (_out, out) = store(&[], "same");
        for (from, expected) in [(&one, [2, 0, 0]), (&two, [1, 0, 1]), (&two, [0, 0, 2])] {
            let merged = out.merge(from, "from").unwrap();
            assert_eq!([merged.new, merged.better, merged.same], expected);
            assert!(merged.conflicts.is_empty() && merged.damaged.is_empty());
        }
        let loaded = out.read_all().unwrap();
        assert_eq!((loaded.records.len(), loaded.planned.len()), (3, 3));
        for record in &loaded.records {
            assert!(out.predictions_path(&record.key).exists());
        }
    }

    #[test]
    fn a_finished_trial_beats_one_that_failed() {
        let failed = || sample::failed("coop", "dtd", 4, 1, "no memory");
        let (_bad, bad) = store(&[failed()], "same");
        let (_good, good) = store(&[trial(1, 71.5)], "same");
        let (_out, out) = store(&[failed()], "same");
        assert_eq!(out.merge(&bad, "bad").unwrap().same, 1);
        assert_eq!(out.merge(&good, "good").unwrap().better, 1);
        assert_eq!(out.merge(&bad, "bad").unwrap().same, 1);
        assert!(out.has_finished(&trial(1, 71.5).key));
    }

    #[test]
    fn what_does_not_fit_is_named_and_kept() {
        let (_one, one) = store(&[trial(1, 71.5)], "one");
        let (_two, two) = store(&[trial(1, 61.5), trial(2, 50.0)], "two");
        fs::write(two.record_path(&trial(2, 50.0).key), "{").unwrap();
        let merged = one.merge(&two, "two").unwrap();
        let what: Vec<&str> = merged
            .conflicts
            .iter()
            .map(|(what, _)| what.as_str())
            .collect();
        let key = trial(1, 0.0).key;
        assert_eq!(what, ["suite suite", &format!("trial {key}")]);
        assert_eq!(merged.damaged.len(), 1);
        let places = merged.conflicts.iter().map(|(_, place)| place);
        for place in places.chain(merged.damaged.iter().map(|(place, _)| place)) {
            assert!(place.exists(), "{}", place.display());
        }
        let theirs = Store::open(one.dir().join("conflicts/two")).unwrap();
        assert_eq!(
            theirs.read_all().unwrap().records[0].tests[0].accuracy(),
            61.5
        );
        assert_eq!(one.read_all().unwrap().records[0].tests[0].accuracy(), 71.5);
    }
}
