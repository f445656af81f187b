//! Sweeps on a cluster: the trials that are left, packed into tasks that a batch system starts as workers on the results
//! folder.
//!
//! ```text
//! DIR/bin/promptbed-<hash>    the program as it was at submission: a rebuild changes nothing in the queue
//! DIR/jobs/<n>/job.sh         what runs; tables.sh: what runs after it
//! DIR/jobs/<n>/tasks.json     what each task works through, a list of keys each
//! DIR/jobs/<n>/job.json       the ids the engine gave
//! DIR/jobs/<n>/<job>_<task>.log
//! ```
//!
//! What is done, running or failed is read from records and claims, never from the engine: it only knows what waits.

pub mod jobs;
pub mod pack;
pub mod script;
pub mod slurm;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::hash;
use crate::reason::reason;
use crate::store::replace;
use jobs::{Job, JobId, Phase, Queued};
use pack::Chunk;

/// Exit code of a worker that stopped early, with what it has saved: to be started again.
pub const COME_AGAIN: u8 = 75;

/// A task of ours that an engine has in its queue.
#[derive(Clone, Debug)]
pub struct Standing {
    /// What the engine says of it.
    pub queued: Queued,
    /// Trials it works through; none for a job that makes tables.
    pub keys: Vec<String>,
    /// Whether its job was cancelled from here.
    pub is_cancelled: bool,
}

impl Standing {
    /// Whether its trials will be run, or wait for a person to let it go on: they need no other task.
    pub fn stands(&self) -> bool {
        !self.is_cancelled && self.queued.phase() != Phase::Leaving
    }
}

/// The tasks of a results folder that are in the queue. Where nothing was ever submitted, the engine is not asked.
///
/// # Errors
/// A folder that cannot be listed; an engine that is not there or does not answer.
pub fn standing(dir: &Path) -> Result<Vec<Standing>> {
    let jobs = jobs::read(dir)?;
    let ids: Vec<JobId> = jobs
        .iter()
        .flat_map(|j| j.submission.ids())
        .cloned()
        .collect();
    let queued = slurm::queue(&ids)?;
    let of = |queued: Queued| {
        // Ids start anew where a cluster was set up again: the newest job is meant.
        let mut newest = jobs.iter().rev();
        let job = newest.find(|j| j.submission.ids().any(|id| *id == queued.job))?;
        Some(Standing {
            keys: job.keys(&queued).to_vec(),
            is_cancelled: job.submission.is_cancelled,
            queued,
        })
    };
    Ok(queued.into_iter().filter_map(of).collect())
}

/// What is in the queue, to be shown.
#[derive(Debug, Default, Serialize)]
pub struct Queue {
    /// Every task and the trials it works through.
    tasks: Vec<Value>,
    /// Tasks by where they are.
    #[serde(skip)]
    counts: BTreeMap<Phase, usize>,
    /// Tasks that wait for a person, each with the engine's reason.
    #[serde(skip)]
    held: Vec<String>,
    /// Why the engine could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Queue {
    /// Of a results folder. An engine that does not answer is told, and no error: the folder says the rest.
    pub fn of(dir: &Path) -> Self {
        let mut queue = Self::default();
        match standing(dir) {
            Ok(tasks) => {
                for Standing { queued, keys, .. } in tasks {
                    queue.tasks.push(queued.json(&keys));
                    *queue.counts.entry(queued.phase()).or_default() += 1;
                    if queued.phase() == Phase::Held {
                        queue.held.push(queued.shown());
                    }
                }
            }
            Err(error) => {
                let said = reason(&error);
                crate::say!("note: what is in the queue is not known: {said}");
                queue.problem = Some(said);
            }
        }
        queue
    }

    /// For a person; nothing where the queue has nothing of ours.
    pub fn lines(&self) -> Vec<String> {
        if self.tasks.is_empty() {
            return Vec::new();
        }
        let counts = self.counts.iter().map(|(phase, n)| format!("{n} {phase}"));
        let counts: Vec<String> = counts.collect();
        let mut lines = vec![format!("tasks in the queue: {}", counts.join(", "))];
        if !self.held.is_empty() {
            lines.push(format!("  held: {}", self.held.join(", ")));
        }
        lines
    }
}

/// Ids of everything that was ever submitted for a results folder.
///
/// # Errors
/// A folder that cannot be listed.
pub fn names(dir: &Path) -> Result<HashSet<String>> {
    let jobs = jobs::read(dir)?;
    let ids = jobs.iter().flat_map(|j| j.submission.ids());
    Ok(ids.map(|id| id.id.clone()).collect())
}

/// Submits a job in chunks of at most `most` tasks, then `after`, which starts when they have ended. What the engine
/// took is written down before it is asked for more.
///
/// # Errors
/// The engine's own words. If it took nothing, the job's folder is gone; otherwise what it took is said.
pub fn submit(mut job: Job, script: &str, after: &str, most: usize) -> Result<Job> {
    let (path, path_after) = (job.folder.join("job.sh"), job.folder.join("tables.sh"));
    replace(&path, script.as_bytes())?;
    replace(&path_after, after.as_bytes())?;
    for Chunk { offset, tasks } in pack::chunks(job.tasks.len(), most) {
        match slurm::submit_array(&path, tasks, offset) {
            Ok(id) => {
                job.submission.arrays.push(jobs::Submitted {
                    job: id,
                    offset,
                    tasks,
                });
                job.save()?;
            }
            Err(error) if offset == 0 => {
                job.discard()?;
                return Err(error.into());
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "{offset} of {} tasks were submitted, as {}; the same command submits what is left",
                        job.tasks.len(),
                        named(&job)
                    )
                });
            }
        }
    }
    let arrays: Vec<JobId> = job
        .submission
        .arrays
        .iter()
        .map(|a| a.job.clone())
        .collect();
    let tables = slurm::submit_after(&path_after, &arrays).with_context(|| {
        format!(
            "all tasks were submitted, as {}, but not the job that makes the tables",
            named(&job)
        )
    })?;
    job.submission.tables = Some(tables);
    job.save()?;
    Ok(job)
}

/// The ids of a job's arrays, with commas.
pub fn named(job: &Job) -> String {
    let ids: Vec<&str> = job
        .submission
        .arrays
        .iter()
        .map(|a| a.job.id.as_str())
        .collect();
    ids.join(", ")
}

/// Cancels what a results folder has in the queue; what that was. Running workers are told as at a limit.
///
/// # Errors
/// A folder that cannot be read or written; the engine's own words.
pub fn cancel(dir: &Path) -> Result<Vec<Standing>> {
    let found = standing(dir)?;
    let mut ids: Vec<JobId> = Vec::new();
    for one in &found {
        if !ids.contains(&one.queued.job) {
            ids.push(one.queued.job.clone());
        }
    }
    if let Err(error) = slurm::cancel(&ids) {
        // One that ended in between is an error to it and none to us.
        if standing(dir)?
            .iter()
            .any(|s| s.queued.phase() != Phase::Leaving)
        {
            return Err(error.into());
        }
    }
    for mut job in jobs::read(dir)? {
        if job.submission.ids().any(|id| ids.contains(id)) {
            job.submission.is_cancelled = true;
            job.save()?;
        }
    }
    Ok(found)
}

/// This program, to be kept in a results folder.
pub struct Program {
    bytes: Vec<u8>,
    path: PathBuf,
}

impl Program {
    /// Reads it, for `dir`.
    ///
    /// # Errors
    /// Its file cannot be found or read.
    pub fn read(dir: &Path) -> Result<Self> {
        // On Linux the file behind this name is the one that runs, even after a rebuild has put another in its place.
        let own = PathBuf::from("/proc/self/exe");
        let own = if own.exists() {
            own
        } else {
            std::env::current_exe().context("this program's own file is not known")?
        };
        let bytes =
            std::fs::read(&own).with_context(|| format!("{}: cannot be read", own.display()))?;
        let name = format!("promptbed-{}", &hash::hex(&bytes)[..12]);
        Ok(Self {
            path: dir.join("bin").join(name),
            bytes,
        })
    }

    /// Where its copy is, or would be: named by its hash.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the copy there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&self) -> Result<()> {
        let cannot = || format!("{}: cannot be written", self.path.display());
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).with_context(cannot)?;
        }
        if !self.path.exists() {
            replace(&self.path, &self.bytes)?;
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&self.path, mode).with_context(cannot)?;
        }
        Ok(())
    }
}
