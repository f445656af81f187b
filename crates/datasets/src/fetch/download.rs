//! From an address to a file, however often the connection breaks.
//!
//! What has arrived is kept as `<file>.part`; `<file>.part.json` says of which address and version it is a part. The next
//! attempt, or the next run, asks for the rest only (`Range`), and only if the server still has that version (`If-Range`).
//! A server that sends the whole file instead is taken at its word: the part begins anew.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Event, FetchError, Patience};

/// The most bytes of a file whose length nobody has published.
const MAX_BYTES: u64 = 1 << 37;
/// Bytes between two looks at the connection.
const BLOCK: usize = 1 << 17;

/// What the part on disk is a part of.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Kept {
    url: String,
    /// `ETag` (a strong one) or `Last-Modified`.
    version: Option<String>,
    /// Length of the whole.
    all: Option<u64>,
}

/// How an attempt ended, when it is no error.
enum Attempt {
    Whole,
    /// Broken off, for this reason.
    Broken(String),
    /// The server cannot continue the part; it must begin anew.
    Anew,
}

/// Downloads `url` to `path`, which is there only when the file is whole. The sum is for the caller to look at.
pub(super) fn download(
    url: &str,
    path: &Path,
    bytes: Option<u64>,
    patience: &Patience,
    tell: &dyn Fn(Event),
) -> Result<(), FetchError> {
    let job = Job {
        url,
        part: beside(path, "part"),
        state: beside(path, "part.json"),
        bytes,
        agent: agent(url, patience),
        tell,
    };
    let mut idle = 0;
    loop {
        let before = job.length();
        let reason = match job.attempt()? {
            Attempt::Whole => break,
            Attempt::Anew => {
                job.forget()?;
                "the server cannot continue the download".to_owned()
            }
            Attempt::Broken(reason) => reason,
        };
        let after = job.length();
        idle = if after > before { 0 } else { idle + 1 };
        if idle >= patience.attempts {
            return Err(FetchError::Connection {
                url: url.to_owned(),
                reason,
                attempts: patience.attempts,
                kept: after,
            });
        }
        let wait = patience.wait * 2u32.pow(idle.saturating_sub(1).min(5));
        tell(Event::Waiting {
            reason: &reason,
            wait,
        });
        std::thread::sleep(wait);
    }
    fs::rename(&job.part, path).map_err(FetchError::io(path))?;
    remove(&job.state)
}

fn agent(url: &str, patience: &Patience) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder()
        .timeout_connect(Some(patience.connect))
        // Of one read, not of the whole file: a slow line may take a day, a dead one a minute.
        .timeout_per_read(Some(patience.silence))
        .max_redirects(8)
        // What a status means depends on the request; see `Job::attempt`.
        .http_status_as_error(false)
        // Compressed on the way it would be other bytes than those that were summed.
        .accept_encoding("identity")
        .user_agent(concat!("promptbed/", env!("CARGO_PKG_VERSION")));
    if is_local(url) {
        // A proxy, which is taken from the environment, cannot reach what is local here.
        config = config.proxy(None);
    }
    config.build().into()
}

fn is_local(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    ["localhost", "127.", "[::1]"]
        .iter()
        .any(|local| host.starts_with(local))
}

/// `path` with a second ending.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.{ending}"))
}

pub(super) fn remove(path: &Path) -> Result<(), FetchError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FetchError::io(path)(error))
        }
        _ => Ok(()),
    }
}

struct Job<'a> {
    url: &'a str,
    part: PathBuf,
    state: PathBuf,
    bytes: Option<u64>,
    agent: ureq::Agent,
    tell: &'a dyn Fn(Event),
}

impl Job<'_> {
    fn length(&self) -> u64 {
        fs::metadata(&self.part).map_or(0, |about| about.len())
    }

    /// What is known of the part, when it is a part of this address.
    fn kept(&self) -> Option<Kept> {
        let text = fs::read(&self.state).ok()?;
        let kept: Kept = serde_json::from_slice(&text).ok()?;
        (kept.url == self.url && self.length() > 0).then_some(kept)
    }

    fn forget(&self) -> Result<(), FetchError> {
        remove(&self.state)?;
        remove(&self.part)
    }

    fn attempt(&self) -> Result<Attempt, FetchError> {
        let kept = self.kept();
        let have = kept.as_ref().map_or(0, |_| self.length());
        if let Some(all) = kept.as_ref().and_then(|kept| kept.all)
            && have == all
        {
            return Ok(Attempt::Whole);
        }
        let mut request = self.agent.get(self.url);
        if let Some(kept) = &kept {
            request = request.header("Range", format!("bytes={have}-"));
            if let Some(version) = &kept.version {
                request = request.header("If-Range", version);
            }
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error) => return Ok(Attempt::Broken(error.to_string())),
        };
        let status = response.status();
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let refused = || FetchError::Status {
            url: self.url.to_owned(),
            status: status.as_u16(),
            text: status.canonical_reason().unwrap_or("(unknown)").to_owned(),
        };
        let length = header("Content-Length").and_then(|text| text.trim().parse::<u64>().ok());
        let (start, all) = match status.as_u16() {
            200 => (0, length),
            206 => match header("Content-Range").and_then(range) {
                Some((start, all)) if start == have && have > 0 => {
                    (have, all.or(length.map(|length| have + length)))
                }
                _ => return Ok(Attempt::Anew),
            },
            416 if have > 0 => return Ok(Attempt::Anew),
            // The server's trouble, not the file's: it may pass.
            408 | 429 | 500..=599 => {
                return Ok(Attempt::Broken(format!("the server answers {status}")));
            }
            _ => return Err(refused()),
        };
        if let (Some(offered), Some(published)) = (all, self.bytes)
            && offered != published
        {
            return Err(FetchError::Length {
                url: self.url.to_owned(),
                offered,
                published,
            });
        }
        let strong = header("ETag")
            .filter(|tag| !tag.starts_with("W/"))
            .or_else(|| header("Last-Modified"));
        let now = Kept {
            url: self.url.to_owned(),
            version: strong.map(str::to_owned),
            all: all.or(self.bytes),
        };
        self.receive(start, &now, &mut response.into_body().into_reader())
    }

    /// Writes what comes behind the first `start` bytes of the part.
    fn receive(
        &self,
        start: u64,
        now: &Kept,
        reader: &mut dyn Read,
    ) -> Result<Attempt, FetchError> {
        let io = || FetchError::io(&self.part);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.part)
            .map_err(io())?;
        file.set_len(start).map_err(io())?;
        file.seek(SeekFrom::Start(start)).map_err(io())?;
        let state = serde_json::to_vec(now).expect("text and numbers");
        // Aside and renamed: a state cut short would throw the part away.
        let aside = beside(&self.state, "tmp");
        fs::write(&aside, state).map_err(FetchError::io(&aside))?;
        fs::rename(&aside, &self.state).map_err(FetchError::io(&self.state))?;
        let limit = now.all.unwrap_or(MAX_BYTES);
        let mut block = vec![0; BLOCK];
        let mut done = start;
        loop {
            let read = match reader.read(&mut block) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Attempt::Broken(error.to_string())),
            };
            if done + read as u64 > limit {
                drop(file);
                self.forget()?;
                return Err(FetchError::TooLong {
                    url: self.url.to_owned(),
                    limit,
                });
            }
            file.write_all(&block[..read]).map_err(io())?;
            done += read as u64;
            (self.tell)(Event::Downloading { done, all: now.all });
        }
        if now.all.is_some_and(|all| done < all) {
            return Ok(Attempt::Broken("the connection ended early".to_owned()));
        }
        file.sync_all().map_err(io())?;
        Ok(Attempt::Whole)
    }
}

/// Start and whole length of `bytes 5-9/10`; the length may be `*`.
fn range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, all) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end): (u64, u64) = (start.trim().parse().ok()?, end.trim().parse().ok()?);
    let all = all.trim().parse().ok();
    (start <= end && all.is_none_or(|all| end < all)).then_some((start, all))
}

/// Takes the one lock of a downloads folder; it is held as long as the file is.
pub(super) fn lock(folder: &Path) -> Result<File, FetchError> {
    let path = folder.join(".lock");
    let file = File::create(&path).map_err(FetchError::io(&path))?;
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => Err(FetchError::Busy {
            folder: folder.to_owned(),
        }),
        // Where locks are not supported (some network disks) one fetch at a time is up to the user.
        Err(fs::TryLockError::Error(_)) | Ok(()) => Ok(file),
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 5,
            wait: Duration::from_secs(1),
            connect: Duration::from_secs(20),
            silence: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_nonsense_is_not() {
        assert_eq!(range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(range("bytes 5-9/*"), Some((5, None)));
        for wrong in [
            "",
            "bytes */10",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "5-9/10",
            "bytes a-b/c",
        ] {
            assert_eq!(range(wrong), None, "{wrong}");
        }
    }
}
