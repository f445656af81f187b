//! Claims that this worker holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Claims, Holder, StoreError, Worker, beat, read, remove};
use crate::store::process::Process;

/// What a worker's threads and its heartbeat know together.
pub(super) struct Shared {
    /// The results folder.
    pub folder: PathBuf,
    pub process: Process,
    /// Time between beats.
    pub every: Duration,
    /// What the worker's file says, but for its running trials.
    pub about: Mutex<Worker>,
    /// Running trials by token.
    pub running: Mutex<BTreeMap<String, Arc<Progress>>>,
}

impl Shared {
    pub(super) fn new(dir: &Path, process: Process, silence: Duration) -> Self {
        let every = beat::every(silence);
        Self {
            folder: dir.to_owned(),
            about: Mutex::new(Worker::new(process.clone(), every)),
            process,
            every,
            running: Mutex::default(),
        }
    }

    fn forget(&self, token: &str) {
        let mut running = self.running.lock().expect("no panic while held");
        running.remove(token);
    }
}

/// How far a trial is.
pub(super) struct Progress {
    pub key: String,
    /// Its claim.
    pub path: PathBuf,
    pub token: String,
    pub since: u64,
    pub started: Instant,
    pub step: AtomicUsize,
    pub steps: AtomicUsize,
    /// Set once the claim is another's or gone.
    pub is_lost: AtomicBool,
}

/// A trial that is this worker's to run. Dropped, it is free again.
pub struct Claim<'a> {
    claims: &'a Claims,
    progress: Arc<Progress>,
    has_ended: bool,
}

impl<'a> Claim<'a> {
    pub(super) fn new(claims: &'a Claims, holder: Holder) -> Self {
        let progress = Arc::new(Progress {
            path: claims.path(&holder.key),
            key: holder.key,
            token: holder.token.clone(),
            since: holder.since,
            started: Instant::now(),
            step: AtomicUsize::new(0),
            steps: AtomicUsize::new(0),
            is_lost: AtomicBool::new(false),
        });
        let mut running = claims.shared.running.lock().expect("no panic while held");
        running.insert(holder.token, progress.clone());
        drop(running);
        Self {
            claims,
            progress,
            has_ended: false,
        }
    }

    /// `done` of `all` steps are done; told at the next beat.
    pub fn advance(&self, done: usize, all: usize) {
        self.progress.step.store(done, Ordering::Relaxed);
        self.progress.steps.store(all, Ordering::Relaxed);
    }

    /// Whether another worker has taken the trial over, as of the last beat.
    pub fn is_lost(&self) -> bool {
        self.progress.is_lost.load(Ordering::Relaxed)
    }

    /// Does `last`, which writes what the trial gave, while nobody can take the claim over, and frees the trial. `None`,
    /// and nothing done, where it has been taken over: the results are another's to write.
    ///
    /// # Errors
    /// Those of `last`, and when the claim's files cannot be read or written. The trial is free then.
    pub fn end<T, E: From<StoreError>>(
        mut self,
        last: impl FnOnce() -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        self.has_ended = true;
        self.claims.shared.forget(&self.progress.token);
        let (path, token) = (&self.progress.path, &self.progress.token);
        let Some((end, _)) = self.claims.take_end(token)? else {
            return Ok(None);
        };
        let is_ours = match read(path) {
            Ok(by) => by.is_some_and(|by| by.token == *token),
            Err(e) => {
                remove(&end)?;
                return Err(e.into());
            }
        };
        let written = is_ours.then(last);
        let removed = if is_ours { remove(path) } else { Ok(false) };
        remove(&end)?;
        let written = written.transpose()?;
        removed?;
        Ok(written)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.claims.shared.forget(&self.progress.token);
            // Best effort: what is left is known for dead once this process is.
            let _ = self.claims.end(&self.progress.path, &self.progress.token);
        }
    }
}
