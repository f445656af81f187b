//! The jobs of a results folder, as we know them: `jobs/<n>/` holds the script, what each task works through, the ids
//! the engine gave, and the logs. Nothing here decides what is done: that is in the records.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::{StoreError, replace};

/// The name an engine has for a job or an array of jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobId {
    /// The id.
    pub id: String,
    /// The cluster it is on, where the engine serves several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

impl JobId {
    /// From `id` or `id;cluster`, as `sbatch --parsable` prints it.
    pub fn parsed(text: &str) -> Option<Self> {
        let (id, cluster) = match text.split_once(';') {
            Some((id, cluster)) => (id, Some(cluster.to_owned())),
            None => (text, None),
        };
        let is_number = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        (is_number && cluster.as_deref() != Some("")).then(|| Self {
            id: id.to_owned(),
            cluster,
        })
    }
}

/// Tasks that were submitted as one array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submitted {
    /// Its id.
    pub job: JobId,
    /// Tasks before its first one.
    pub offset: usize,
    /// Tasks.
    pub tasks: usize,
}

/// `job.json`: what of a submission the engine took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// The engine.
    pub engine: String,
    /// Name of the suite.
    pub suite: String,
    /// Seconds since 1970.
    pub submitted: u64,
    /// The arrays, in the order of their tasks.
    pub arrays: Vec<Submitted>,
    /// The job that shows the folder when they have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<JobId>,
    /// Whether it was cancelled from here. Its tasks may be leaving still, but do not come back.
    #[serde(default)]
    pub is_cancelled: bool,
}

impl Submission {
    /// Every id.
    pub fn ids(&self) -> impl Iterator<Item = &JobId> {
        self.arrays.iter().map(|a| &a.job).chain(&self.tables)
    }
}

/// A job's folder.
#[derive(Clone, Debug)]
pub struct Job {
    /// `jobs/<n>`.
    pub folder: PathBuf,
    /// What was submitted.
    pub submission: Submission,
    /// Keys that each task works through.
    pub tasks: Vec<Vec<String>>,
}

impl Job {
    /// Makes the next folder of `dir`, with `tasks` in it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(
        dir: &Path,
        engine: &str,
        suite: &str,
        submitted: u64,
        tasks: Vec<Vec<String>>,
    ) -> Result<Self, StoreError> {
        let all = dir.join("jobs");
        fs::create_dir_all(&all).map_err(|source| StoreError::Io {
            path: all.clone(),
            source,
        })?;
        let mut number = numbers(&all)?.last().map_or(1, |n| n + 1);
        let folder = loop {
            let folder = all.join(number.to_string());
            match fs::create_dir(&folder) {
                Ok(()) => break folder,
                // Somebody else submits at this moment.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(source) => {
                    return Err(StoreError::Io {
                        path: folder,
                        source,
                    });
                }
            }
        };
        let job = Self {
            submission: Submission {
                engine: engine.to_owned(),
                suite: suite.to_owned(),
                submitted,
                arrays: Vec::new(),
                tables: None,
                is_cancelled: false,
            },
            tasks,
            folder,
        };
        job.write_json("tasks.json", &job.tasks)?;
        job.save()?;
        Ok(job)
    }

    /// Writes `job.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> Result<(), StoreError> {
        self.write_json("job.json", &self.submission)
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), StoreError> {
        let path = self.folder.join(name);
        let json = serde_json::to_vec_pretty(value).map_err(|source| StoreError::Json {
            path: path.clone(),
            source,
        })?;
        replace(&path, &json)
    }

    /// Removes the folder of a job that no engine took.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn discard(self) -> Result<(), StoreError> {
        fs::remove_dir_all(&self.folder).map_err(|source| StoreError::Io {
            path: self.folder,
            source,
        })
    }

    /// Keys that a task in the queue works through; none for the job that shows the folder.
    pub fn keys(&self, queued: &Queued) -> &[String] {
        let arrays = self.submission.arrays.iter();
        let mut of = arrays.filter(|a| a.job == queued.job);
        let place = of.next().zip(queued.task).map(|(a, task)| a.offset + task);
        place
            .and_then(|at| self.tasks.get(at))
            .map_or(&[], Vec::as_slice)
    }
}

/// The folder that the next job of `dir` gets, unless somebody else submits at the same moment.
///
/// # Errors
/// When the folders cannot be listed.
pub fn next(dir: &Path) -> Result<PathBuf, StoreError> {
    let all = dir.join("jobs");
    let number = numbers(&all)?.last().map_or(1, |n| n + 1);
    Ok(all.join(number.to_string()))
}

/// Every job of a results folder, oldest first. A folder whose files are not whole was never submitted, or by a process
/// that died at it: what the engine has of it cannot be known, and its trials count as nobody's.
///
/// # Errors
/// When the folder cannot be listed.
pub fn read(dir: &Path) -> Result<Vec<Job>, StoreError> {
    let all = dir.join("jobs");
    let mut jobs = Vec::new();
    for number in numbers(&all)? {
        let folder = all.join(number.to_string());
        let (Some(submission), Some(tasks)) = (
            parsed(&folder.join("job.json")),
            parsed(&folder.join("tasks.json")),
        ) else {
            continue;
        };
        jobs.push(Job {
            folder,
            submission,
            tasks,
        });
    }
    Ok(jobs)
}

fn parsed<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The numbers of the folders in `jobs/`, ascending; none where it is not there.
fn numbers(all: &Path) -> Result<Vec<u64>, StoreError> {
    let fail = |source| StoreError::Io {
        path: all.to_owned(),
        source,
    };
    let entries = match fs::read_dir(all) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(fail(source)),
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(fail)?.file_name();
        found.extend(name.to_str().and_then(|n| n.parse::<u64>().ok()));
    }
    Ok(found.into_iter().collect())
}

/// A task, or a job that is no array, in an engine's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Its job.
    pub job: JobId,
    /// Its index in the array.
    pub task: Option<usize>,
    /// The engine's word for its state.
    pub state: String,
    /// The engine's word for why it waits.
    pub reason: String,
}

/// Where a task is, in the words of all engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Will start by itself.
    Queued,
    /// On a machine.
    Running,
    /// Will not start before a person does something.
    Held,
    /// Ending.
    Leaving,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Held => "held",
            Self::Leaving => "leaving",
        })
    }
}

impl Queued {
    /// Where it is.
    pub fn phase(&self) -> Phase {
        let waits_for_ever = |reason: &str| {
            // `launch failed requeued held`, `JobHeldUser`, `JobHeldAdmin`, `job requeued in held state`
            reason.to_ascii_lowercase().contains("held") || reason == "DependencyNeverSatisfied"
        };
        match self.state.as_str() {
            "COMPLETING" | "COMPLETED" | "CANCELLED" | "FAILED" | "TIMEOUT" | "PREEMPTED"
            | "NODE_FAIL" | "OUT_OF_MEMORY" | "BOOT_FAIL" | "DEADLINE" => Phase::Leaving,
            "REQUEUE_HOLD" | "SPECIAL_EXIT" => Phase::Held,
            "PENDING" if waits_for_ever(&self.reason) => Phase::Held,
            "PENDING" | "REQUEUED" | "REQUEUE_FED" | "CONFIGURING" | "REVOKED" => Phase::Queued,
            _ => Phase::Running,
        }
    }

    /// Its name as the engine's programs take it.
    pub fn name(&self) -> String {
        match self.task {
            Some(task) => format!("{}_{task}", self.job.id),
            None => self.job.id.clone(),
        }
    }

    /// Its name and why it waits.
    pub fn shown(&self) -> String {
        format!("{} ({})", self.name(), self.reason)
    }

    /// As `status --json` has it.
    pub fn json(&self, keys: &[String]) -> Value {
        serde_json::json!({
            "task": self.name(),
            "cluster": self.job.cluster,
            "phase": self.phase(),
            "state": self.state,
            "reason": self.reason,
            "trials": keys,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(id: &str, task: Option<usize>, state: &str, reason: &str) -> Queued {
        Queued {
            job: JobId::parsed(id).unwrap(),
            task,
            state: state.to_owned(),
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn an_id_is_a_number_with_or_without_a_cluster() {
        for wrong in [
            "",
            "a",
            "12a",
            "12_3",
            "12;",
            ";far",
            "Submitted batch job 12",
        ] {
            assert_eq!(JobId::parsed(wrong), None, "{wrong}");
        }
        let far = JobId::parsed("12;far").unwrap();
        assert_eq!(
            (far.id.as_str(), far.cluster.as_deref()),
            ("12", Some("far"))
        );
    }

    #[test]
    fn a_job_is_read_back_and_its_tasks_found_through_the_offsets() {
        let dir = tempfile::tempdir().unwrap();
        let tasks: Vec<Vec<String>> = (0..6).map(|i| vec![format!("k{i}")]).collect();
        let mut job = Job::create(dir.path(), "slurm", "quick", 7, tasks).unwrap();
        assert!(job.folder.ends_with("jobs/1"));
        for (id, offset, tasks) in [("12", 0, 4), ("16", 4, 2)] {
            let job_id = JobId::parsed(id).unwrap();
            job.submission.arrays.push(Submitted {
                job: job_id,
                offset,
                tasks,
            });
        }
        job.submission.tables = JobId::parsed("18");
        job.save().unwrap();
        // Half of a folder: whoever made it died.
        fs::create_dir(dir.path().join("jobs/9")).unwrap();
        let read = read(dir.path()).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].submission, job.submission);
        let keys = |id, task| read[0].keys(&queued(id, task, "PENDING", "None")).to_vec();
        assert_eq!(keys("12", Some(3)), ["k3"]);
        assert_eq!(keys("16", Some(1)), ["k5"]);
        for nobodys in [("16", Some(2)), ("18", None), ("99", Some(0))] {
            assert_eq!(keys(nobodys.0, nobodys.1), [""; 0]);
        }
        let next = Job::create(dir.path(), "slurm", "quick", 8, Vec::new()).unwrap();
        assert!(next.folder.ends_with("jobs/10"));
    }

    #[test]
    fn a_folder_without_jobs_has_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn what_waits_for_a_person_is_held() {
        for (state, reason, phase) in [
            ("PENDING", "Priority", Phase::Queued),
            ("PENDING", "BeginTime", Phase::Queued),
            ("PENDING", "JobHeldUser", Phase::Held),
            ("PENDING", "launch failed requeued held", Phase::Held),
            ("PENDING", "DependencyNeverSatisfied", Phase::Held),
            ("RUNNING", "None", Phase::Running),
            ("SUSPENDED", "None", Phase::Running),
            ("COMPLETING", "None", Phase::Leaving),
        ] {
            assert_eq!(
                queued("1", None, state, reason).phase(),
                phase,
                "{state} {reason}"
            );
        }
    }
}
