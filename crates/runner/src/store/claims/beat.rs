//! A worker's own file, written anew every few seconds: that it lives, and how far its trials are.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::held::Shared;
use super::{StoreError, WORKERS, files, read};
use crate::store::file;
use crate::store::process::Process;

/// The longest time between two beats.
const SLOWEST: Duration = Duration::from_secs(10);
/// Beats within the silence after which others take a worker for dead.
const WITHIN: u32 = 10;

/// Seconds between the beats of a worker that others take for dead after `silence`.
pub(super) fn every(silence: Duration) -> Duration {
    (silence / WITHIN).clamp(Duration::from_millis(50), SLOWEST)
}

/// What a worker's file says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Worker {
    /// Its process.
    pub process: Process,
    /// Its job in a cluster, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Unix seconds when it began, by its clock.
    pub since: u64,
    /// Counts how often the file was written.
    pub beat: u64,
    /// Seconds between two beats.
    pub every: f64,
    /// Unix seconds when its allocation or time limit ends, by its clock, where it is told of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Trials at a time.
    pub jobs: usize,
    /// Threads of each.
    pub threads: usize,
    /// The card that their towers run on, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What they multiply by on the processor, if there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arithmetic: Option<String>,
    /// Trials it has finished.
    pub finished: usize,
    /// Trials that failed in it.
    pub failed: usize,
    /// Trials it works on.
    pub running: Vec<Running>,
    /// Seconds since its file was written, by this machine's clock and that of the file system; 0 in the file, and only to
    /// be shown.
    #[serde(default, skip_deserializing)]
    pub heard: f64,
}

/// A trial at work.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Running {
    /// Key of the trial.
    pub key: String,
    /// Unix seconds when it began, by the worker's clock.
    pub since: u64,
    /// Seconds it has run for, whatever clocks say.
    pub seconds: f64,
    /// Steps done.
    pub step: usize,
    /// Steps there will be; 0 before the first.
    pub steps: usize,
}

impl Worker {
    pub(super) fn new(process: Process, every: Duration) -> Self {
        Self {
            process,
            job: job(),
            since: now(),
            every: every.as_secs_f64(),
            until: number("SLURM_JOB_END_TIME"),
            ..Self::default()
        }
    }
}

impl Worker {
    /// Says that it ends after so long at the latest.
    pub fn ends_within(&mut self, limit: Option<Duration>) {
        let end = limit.map(|limit| now() + limit.as_secs());
        self.until = self.until.into_iter().chain(end).min();
    }
}

/// Unix seconds.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The job of a cluster that this process is.
pub(super) fn job() -> Option<String> {
    if let Some(id) = number("SLURM_ARRAY_JOB_ID") {
        return Some(match number("SLURM_ARRAY_TASK_ID") {
            Some(task) => format!("slurm {id}_{task}"),
            None => format!("slurm {id}"),
        });
    }
    if let Some(id) = number("SLURM_JOB_ID") {
        return Some(format!("slurm {id}"));
    }
    number("JOB_COMPLETION_INDEX").map(|index| format!("index {index}"))
}

/// The workers of a results folder that have told of themselves.
///
/// # Errors
/// When the folder cannot be listed.
pub fn workers(dir: &Path) -> Result<Vec<Worker>, StoreError> {
    let folder = dir.join(WORKERS);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let read = |path: PathBuf| {
        let mut worker: Worker = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        let written = std::fs::metadata(&path).and_then(|data| data.modified());
        worker.heard = written.ok()?.elapsed().unwrap_or_default().as_secs_f64();
        Some(worker)
    };
    Ok(files(&folder)?.into_iter().filter_map(read).collect())
}

/// The thread that beats. Dropped, it ends and the file goes.
pub(super) struct Beating {
    shared: Arc<Shared>,
    wake: Arc<(Mutex<Wake>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Wake {
    ends: bool,
    now: bool,
}

impl Beating {
    /// Writes the file once and starts the thread.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn start(shared: Arc<Shared>) -> Result<Self, StoreError> {
        write(&shared)?;
        let wake: Arc<(Mutex<Wake>, Condvar)> = Arc::default();
        let (ours, heard) = (shared.clone(), wake.clone());
        let thread = std::thread::Builder::new()
            .name("heartbeat".to_owned())
            .spawn(move || run(&ours, &heard))
            .expect("threads can be started");
        Ok(Self {
            shared,
            wake,
            thread: Some(thread),
        })
    }

    /// Beats no more.
    #[cfg(test)]
    pub(super) fn fall_silent(&self) {
        self.wake.0.lock().expect("no panic while held").ends = true;
        self.wake.1.notify_one();
        while self.thread.as_ref().is_some_and(|t| !t.is_finished()) {
            std::thread::yield_now();
        }
    }

    /// Beats soon.
    pub(super) fn now(&self) {
        self.wake.0.lock().expect("no panic while held").now = true;
        self.wake.1.notify_one();
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.wake.0.lock().expect("no panic while held").ends = true;
        self.wake.1.notify_one();
        if let Some(thread) = self.thread.take() {
            // It writes files and takes no lock but for a moment: it ends.
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(path(&self.shared));
    }
}

fn path(shared: &Shared) -> PathBuf {
    let name = format!("{}.json", shared.process.id());
    shared.folder.join(WORKERS).join(name)
}

fn run(shared: &Shared, wake: &(Mutex<Wake>, Condvar)) {
    let mut has_failed = false;
    loop {
        let state = wake.0.lock().expect("no panic while held");
        let due = |w: &mut Wake| !w.ends && !w.now;
        let waited = wake.1.wait_timeout_while(state, shared.every, due);
        let (mut state, _) = waited.expect("no panic while held");
        if state.ends {
            return;
        }
        state.now = false;
        drop(state);
        // A disk that is full may have room again; until then other machines hear nothing, and may take over.
        if let Err(error) = write(shared) {
            if !has_failed {
                crate::say!("note: {error}; workers on other machines may take this one for dead");
            }
            has_failed = true;
        } else {
            has_failed = false;
        }
        look(shared);
    }
}

/// Marks the trials whose claims are no longer ours.
pub(super) fn look(shared: &Shared) {
    let running: Vec<_> = {
        let running = shared.running.lock().expect("no panic while held");
        running.values().cloned().collect()
    };
    for progress in running {
        // A claim that cannot be read now is looked at again before the record is written.
        if let Ok(by) = read(&progress.path)
            && by.is_none_or(|by| by.token != progress.token)
        {
            progress.is_lost.store(true, Ordering::Relaxed);
        }
    }
}

fn write(shared: &Shared) -> Result<(), StoreError> {
    let mut about = shared.about.lock().expect("no panic while held");
    about.beat += 1;
    let mut worker = about.clone();
    drop(about);
    let running = shared.running.lock().expect("no panic while held");
    worker.running = running
        .values()
        .map(|p| Running {
            key: p.key.clone(),
            since: p.since,
            seconds: p.started.elapsed().as_secs_f64(),
            step: p.step.load(Ordering::Relaxed),
            steps: p.steps.load(Ordering::Relaxed),
        })
        .collect();
    drop(running);
    let json = serde_json::to_vec(&worker).expect("texts and numbers are JSON");
    file::replace_loosely(&path(shared), &json)
}
