//! Who works on which trial: claims, so that any number of processes on any number of machines that share a folder do
//! every trial once.
//!
//! ```text
//! DIR/ claims/<key>.json  claims/.<token>.end  workers/<id>.json
//! ```
//!
//! A *claim* is a file named for its trial. It is made once, with a *token* that no other claim ever has, is never written
//! again, and goes when the trial's record is there. Each *worker* (a process) has one file of its own, which it writes
//! anew every few seconds with a counter and how far its trials are.
//!
//! **Claiming.** The claim is written aside and linked to its name ([`exclusive`]); one link succeeds. Whoever has claimed
//! looks once more whether a finished record is there by now.
//!
//! **Ending** a claim, by its owner or by whoever takes it for dead. Nobody may remove a name on the strength of what it
//! held a moment ago: another process may have put its own claim there since. So the right to remove the claim with token
//! `t` is itself a file that one process can make, `.t.end`. Its maker looks whether the claim still has token `t`, which
//! nobody but itself can change now, removes it, and removes `.t.end`. Who comes late finds another token or none, and
//! leaves it. A process that dies while it holds `.t.end` has left a file with a token of its own, which is ended in the
//! same way. An owner writes its record between making `.t.end` and removing the claim: one that was taken for dead finds
//! that out before it writes, and lets go.
//!
//! **Death.** On the same machine (the same boot, the same namespaces) a claim is dead once no process with its id and
//! start time is there: at once, and only then, however long one is stopped. On another machine it is dead once its worker's
//! counter has not changed for as long as the *silence*, five minutes unless told, measured by the clock of whoever waits
//! from the moment when it saw the counter first. No time that another machine wrote is ever compared with another: clocks
//! may differ or jump. A machine that sleeps longer than the silence loses its claims; its workers see it and let go. What
//! remains of two doing the same work is such a sleep between the last look and the writing of the record, some
//! milliseconds; then two write the same result, each whole.
//!
//! **What of NFS is used**: link(2) to a new name, whose success is told by the count of names (exclusive on every version of
//! NFS); rename(2) over an own file; unlink(2); open(2) after close(2), which sees what was closed before. No locks, no
//! appending, no times, no listing for anything that must be exact. An old answer from a client's cache (a claim that
//! is gone is still seen, or the other way round) delays a claim and does nothing else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::process::Process;
use super::{StoreError, exclusive};

mod beat;
mod held;
mod watch;

pub use beat::{Running, Worker, workers};
pub use held::Claim;
use held::Shared;
use watch::Watch;

/// Folder of claims.
pub(super) const CLAIMS: &str = "claims";
/// Folder of workers' files.
pub(super) const WORKERS: &str = "workers";
/// How long a worker on another machine is silent before it counts as dead, unless told.
pub const SILENCE: Duration = Duration::from_secs(300);
/// Times that a claim is tried anew when it changes under our hands.
const TRIES: usize = 8;
/// Tells apart the tokens of one process.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// What a claim says: whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Tells this claim from any other one ever made.
    pub token: String,
    /// Key of the trial; of an end, the token that is ended.
    pub key: String,
    /// Its process.
    pub process: Process,
    /// Its job in a cluster, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Unix seconds by its clock, to show.
    pub since: u64,
}

impl Holder {
    /// Name of its worker's file, without the ending.
    pub fn worker(&self) -> String {
        self.process.id()
    }
}

/// What came of trying to claim a trial.
pub enum Tried<'a> {
    /// It is ours.
    Ours(Claim<'a>),
    /// Another worker has it.
    Held {
        /// Who.
        by: Box<Holder>,
        /// Whether it is known to live, rather than not known to be dead.
        lives: bool,
    },
}

/// A worker's part in a folder's claims. Dropped, it takes its file away.
pub struct Claims {
    folder: PathBuf,
    shared: Arc<Shared>,
    watch: Mutex<Watch>,
    taken_over: AtomicU64,
    beating: beat::Beating,
}

impl Claims {
    /// Joins the workers of the results folder `dir`.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn join(dir: &Path, silence: Duration) -> Result<Self, StoreError> {
        Self::join_as(dir, silence, Process::this().clone())
    }

    /// As [`Claims::join`], under the name of any process.
    fn join_as(dir: &Path, silence: Duration, process: Process) -> Result<Self, StoreError> {
        for folder in [dir.join(CLAIMS), dir.join(WORKERS)] {
            std::fs::create_dir_all(&folder).map_err(|source| StoreError::Io {
                path: folder,
                source,
            })?;
        }
        let shared = Arc::new(Shared::new(dir, process, silence));
        let beating = beat::Beating::start(shared.clone())?;
        Ok(Self {
            folder: dir.join(CLAIMS),
            watch: Mutex::new(Watch::new(dir.join(WORKERS), silence)),
            shared,
            taken_over: AtomicU64::new(0),
            beating,
        })
    }

    /// Where the claim of a trial is or would be.
    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.json"))
    }

    /// Claims of dead workers that this one has taken over.
    pub fn taken_over(&self) -> u64 {
        self.taken_over.load(Ordering::Relaxed)
    }

    /// What this worker's file says beside its running trials; told at the next beat.
    pub fn tell(&self, change: impl FnOnce(&mut Worker)) {
        change(&mut self.shared.about.lock().expect("no panic while held"));
    }

    /// Writes this worker's file now.
    pub fn beat(&self) {
        self.beating.now();
    }

    fn holder(&self, of: &str) -> Holder {
        let process = self.shared.process.clone();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Holder {
            token: format!("{}-{count}", process.id()),
            key: of.to_owned(),
            process,
            job: beat::job(),
            since: beat::now(),
        }
    }

    /// Claims the trial with this key, if nobody has it who may live.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn claim(&self, key: &str) -> Result<Tried<'_>, StoreError> {
        let path = self.path(key);
        let mut last = None;
        for _ in 0..TRIES {
            let holder = self.holder(key);
            if self.make(&path, &holder)? {
                return Ok(Tried::Ours(Claim::new(self, holder)));
            }
            let Some(by) = read(&path)? else {
                continue;
            };
            match self.is_dead(&by) {
                Some(false) => return Ok(held(by, true)),
                None => return Ok(held(by, false)),
                Some(true) => {
                    if self.end(&path, &by.token)? {
                        self.taken_over.fetch_add(1, Ordering::Relaxed);
                    }
                    last = Some(by);
                }
            }
        }
        // Others are at it all the time; so it is in good hands.
        Ok(held(last.unwrap_or_else(|| self.holder(key)), false))
    }

    fn make(&self, path: &Path, holder: &Holder) -> Result<bool, StoreError> {
        let json = serde_json::to_vec(holder).expect("texts and numbers are JSON");
        exclusive::make(path, &json).map_err(|source| StoreError::Io {
            path: path.to_owned(),
            source,
        })
    }

    /// Whether the worker of a claim is dead; `None` while that is not known.
    fn is_dead(&self, by: &Holder) -> Option<bool> {
        // Another worker within this process (in tests) has a name that no process has.
        if by.process == self.shared.process {
            return Some(false);
        }
        match by.process.lives() {
            Some(lives) => Some(!lives),
            None => {
                let mut watch = self.watch.lock().expect("no panic while held");
                watch.is_dead(&by.worker(), Instant::now())
            }
        }
    }

    /// Takes the right to end the claim with `token`, where nobody who may live has it.
    fn take_end(&self, token: &str) -> Result<Option<(PathBuf, Holder)>, StoreError> {
        let path = self.folder.join(format!(".{token}.end"));
        for _ in 0..TRIES {
            let ours = self.holder(token);
            if self.make(&path, &ours)? {
                return Ok(Some((path, ours)));
            }
            match read(&path)? {
                None => {}
                Some(by) if self.is_dead(&by) == Some(true) => {
                    self.end(&path, &by.token)?;
                }
                Some(_) => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Removes the file at `path` if it is the claim with `token`: true where it was, and this call removed it.
    fn end(&self, path: &Path, token: &str) -> Result<bool, StoreError> {
        let Some((end, _)) = self.take_end(token)? else {
            return Ok(false);
        };
        let removed = match read(path) {
            Ok(Some(by)) if by.token == token => remove(path),
            Ok(_) => Ok(false),
            Err(e) => Err(e),
        };
        remove(&end)?;
        removed
    }

    /// Removes claims and files of workers that are dead: what is left where a process died between its record and its
    /// claim.
    ///
    /// # Errors
    /// When the folders cannot be listed or changed.
    pub fn tidy(&self) -> Result<(), StoreError> {
        for path in files(&self.folder)? {
            if let Some(by) = read(&path)?
                && self.is_dead(&by) == Some(true)
                && self.end(&path, &by.token)?
            {
                self.taken_over.fetch_add(1, Ordering::Relaxed);
            }
        }
        let workers = self.shared.folder.join(WORKERS);
        for path in files(&workers)? {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let Some(process) = Process::of_id(&name) else {
                continue;
            };
            let by = Holder {
                process,
                ..Holder::default()
            };
            if self.is_dead(&by) == Some(true) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

fn held<'a>(by: Holder, lives: bool) -> Tried<'a> {
    let by = Box::new(by);
    Tried::Held { by, lives }
}

/// The claim at `path`; none where there is no file. One that cannot be read (a machine lost power) is a claim whose
/// worker is never heard of.
fn read(path: &Path) -> Result<Option<Holder>, StoreError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        // Over NFS, a file that another machine has just removed.
        Err(error) if error.kind() == std::io::ErrorKind::StaleNetworkFileHandle => {
            return Ok(None);
        }
        Err(source) => {
            return Err(StoreError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let hash = crate::hash::hex(&[name, &bytes].concat());
        Holder {
            token: format!("unreadable-{}", &hash[..16]),
            process: Process {
                machine: hash[..12].to_owned(),
                ..Process::default()
            },
            ..Holder::default()
        }
    })))
}

/// Removes a file: true where it was there.
fn remove(path: &Path) -> Result<bool, StoreError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(StoreError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Files of a folder that end claims or are JSON; those being written are not among them.
fn files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let fail = |source| StoreError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|e| e == "json" || e == "end") {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Every claim of a results folder by key, and the workers that have told of themselves: what `status` shows.
///
/// # Errors
/// When the folder cannot be read.
pub fn all(dir: &Path) -> Result<HashMap<String, Holder>, StoreError> {
    let folder = dir.join(CLAIMS);
    if !folder.is_dir() {
        return Ok(HashMap::new());
    }
    let mut found = HashMap::new();
    for path in files(&folder)? {
        if path.extension().is_some_and(|e| e == "json")
            && let Some(holder) = read(&path)?
        {
            let key = path.file_stem().unwrap_or_default().to_string_lossy();
            found.insert(key.into_owned(), holder);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
