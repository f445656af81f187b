//! Fetching a dataset: download, compare with the published sums, unpack, put in place.
//!
//! ```text
//! DATA/downloads/<id>/<file>.part    what has arrived, and <file>.part.json, of what
//! DATA/downloads/<id>/<file>         whole and of the published sum
//! DATA/downloads/<id>/<file>.unpacking/   being unpacked; then each part is renamed to its place
//! ```
//! Whenever it ends, by an error, a signal or a power cut, the same call continues: a place is there whole or not at all.

mod download;
mod error;
mod sums;
mod unpack;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::catalogue::{Archive, Gives, Source};
use unpack::Limits;

pub use error::{EntryProblem, FetchError};
pub use unpack::{MAX_ENTRIES, MAX_UNPACKED};

/// The folder, below the data folder, that downloads are kept in.
pub const DOWNLOADS: &str = "downloads";

/// How broken connections are borne.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Attempts in a row without a new byte before giving up.
    pub attempts: u32,
    /// Time before the second attempt; doubles with each one that brings nothing.
    pub wait: Duration,
    /// Time a connection may take.
    pub connect: Duration,
    /// Time a server may be silent.
    pub silence: Duration,
}

/// What is happening, for people who wait.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Bytes arrive.
    Downloading {
        /// On disk.
        done: u64,
        /// Of the whole, where known.
        all: Option<u64>,
    },
    /// The connection broke; another attempt follows.
    Waiting {
        /// Why.
        reason: &'a str,
        /// How long.
        wait: Duration,
    },
    /// Sums are computed.
    Verifying {
        /// Bytes read.
        done: u64,
        /// Of these.
        all: u64,
    },
    /// Files are unpacked.
    Unpacking {
        /// Entries so far.
        entries: u64,
        /// Bytes so far.
        bytes: u64,
    },
}

/// How it is fetched.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// An address that has every file as `<mirror>/<id>/<file>`, also those that a person would have to get.
    pub mirror: Option<String>,
    /// Whether archives stay in the downloads folder after they have been unpacked.
    pub keep: bool,
    /// With broken connections.
    pub patience: Patience,
}

/// What came of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything it gives was there already.
    There,
    /// It was downloaded, or found in the downloads folder, and put in place.
    Fetched,
    /// It was copied from elsewhere below the data folder.
    Copied,
    /// A person must get it.
    ByHand {
        /// How.
        how: String,
        /// Where to put it, so that the next fetch goes on with it; nothing where no rule unpacks it.
        put: Option<PathBuf>,
        /// What is missing until then.
        places: Vec<PathBuf>,
    },
}

/// The right to fetch into a data folder: one process at a time.
pub struct Fetcher {
    root: PathBuf,
    options: Options,
    _lock: File,
}

impl Fetcher {
    /// Takes the downloads folder below `root`.
    ///
    /// # Errors
    /// [`FetchError::Io`], or [`FetchError::Busy`] when another process has it.
    pub fn new(root: &Path, options: Options) -> Result<Self, FetchError> {
        let folder = root.join(DOWNLOADS);
        fs::create_dir_all(&folder).map_err(FetchError::io(&folder))?;
        let lock = download::lock(&folder)?;
        Ok(Self {
            root: root.to_owned(),
            options,
            _lock: lock,
        })
    }

    /// Fetches one file of the dataset `id`; `tell` hears of progress.
    ///
    /// # Errors
    /// [`FetchError`]; what was in place before is untouched.
    pub fn fetch(
        &self,
        id: &str,
        archive: &Archive,
        tell: &dyn Fn(Event),
    ) -> Result<Outcome, FetchError> {
        let missing = |place: &&Path| !self.root.join(place).exists();
        let places: Vec<PathBuf> = archive
            .places()
            .into_iter()
            .filter(missing)
            .map(|place| self.root.join(place))
            .collect();
        if places.is_empty() {
            return Ok(Outcome::There);
        }
        let folder = self.root.join(DOWNLOADS).join(id);
        let path = folder.join(&archive.file);
        let by_hand = |how: String| Outcome::ByHand {
            how,
            put: (!matches!(archive.gives, Gives::Done(_))).then(|| path.clone()),
            places: places.clone(),
        };
        let mirrored = self
            .options
            .mirror
            .as_ref()
            .map(|mirror| format!("{}/{id}/{}", mirror.trim_end_matches('/'), archive.file));
        if let (Source::Copy(from), Gives::File(to)) = (&archive.from, &archive.gives) {
            let from = self.root.join(from);
            if !from.exists() {
                return Ok(Outcome::ByHand {
                    how: format!("it is a copy of {}, which is not there yet", from.display()),
                    put: None,
                    places,
                });
            }
            copy(&from, &self.root.join(to))?;
            return Ok(Outcome::Copied);
        }
        if let (Gives::Done(_), Source::ByHand(how)) = (&archive.gives, &archive.from) {
            return Ok(by_hand(how.clone()));
        }
        let found = path.exists();
        if !found {
            let url = match (mirrored, &archive.from) {
                (Some(url), _) => url,
                (None, Source::Url(url)) => url.clone(),
                (None, Source::ByHand(how)) => return Ok(by_hand(how.clone())),
                (None, Source::Copy(from)) => {
                    return Ok(by_hand(format!("it is a copy of {}", from.display())));
                }
            };
            fs::create_dir_all(&folder).map_err(FetchError::io(&folder))?;
            download::download(&url, &path, archive.bytes, &self.options.patience, tell)?;
        }
        self.verify(&path, archive, !found, tell)?;
        match &archive.gives {
            Gives::File(to) => {
                let to = self.root.join(to);
                make_parent(&to)?;
                if self.options.keep {
                    copy(&path, &to)?;
                } else {
                    fs::rename(&path, &to).map_err(FetchError::io(&to))?;
                }
            }
            Gives::Parts { inner, parts } => {
                self.parts(&path, inner.as_deref(), parts, tell)?;
                // What a person brought is theirs.
                let ours = !found || matches!(archive.from, Source::Url(_));
                if ours && !self.options.keep {
                    download::remove(&path)?;
                }
            }
            Gives::Done(_) => {}
        }
        // Empty once nothing is kept.
        let _ = fs::remove_dir(&folder);
        Ok(Outcome::Fetched)
    }

    fn verify(
        &self,
        path: &Path,
        archive: &Archive,
        downloaded: bool,
        tell: &dyn Fn(Event),
    ) -> Result<(), FetchError> {
        match sums::check(path, archive.bytes, &archive.sums, tell) {
            Err(FetchError::Sum {
                path,
                kind,
                found,
                published,
                ..
            }) if downloaded => {
                download::remove(&path)?;
                Err(FetchError::Sum {
                    path,
                    kind,
                    found,
                    published,
                    removed: true,
                })
            }
            other => other,
        }
    }

    /// Unpacks the parts whose places are empty, and then moves them there.
    fn parts(
        &self,
        path: &Path,
        inner: Option<&str>,
        parts: &[(String, PathBuf)],
        tell: &dyn Fn(Event),
    ) -> Result<(), FetchError> {
        let staging = download::beside(path, "unpacking");
        clear(&staging)?;
        fs::create_dir_all(&staging).map_err(FetchError::io(&staging))?;
        let outcome = self.staged(path, inner, parts, &staging, tell);
        let cleared = clear(&staging);
        outcome.and(cleared)
    }

    fn staged(
        &self,
        path: &Path,
        inner: Option<&str>,
        parts: &[(String, PathBuf)],
        staging: &Path,
        tell: &dyn Fn(Event),
    ) -> Result<(), FetchError> {
        let length = |path: &Path| fs::metadata(path).map(|about| about.len());
        let limits = Limits::of(length(path).map_err(FetchError::io(path))?);
        let mut from = path.to_owned();
        let mut folder = staging.to_owned();
        if let Some(inner) = inner {
            unpack::unpack(path, &[inner], staging, limits, tell)?;
            from = staging.join(inner);
            if !from.is_file() {
                return Err(FetchError::NoPart {
                    path: path.to_owned(),
                    part: inner.to_owned(),
                });
            }
            // A name that no path of the archive can have.
            folder = staging.join("..unpacked");
        }
        let wanted: Vec<&(String, PathBuf)> = parts
            .iter()
            .filter(|(_, to)| !self.root.join(to).exists())
            .collect();
        let names: Vec<&str> = wanted.iter().map(|(part, _)| part.as_str()).collect();
        // An archive within an archive gains nothing: the limit stays that of the outer one.
        unpack::unpack(&from, &names, &folder, limits, tell)?;
        for (part, _) in &wanted {
            if !folder.join(part).exists() {
                return Err(FetchError::NoPart {
                    path: from,
                    part: part.clone(),
                });
            }
        }
        for (part, to) in wanted {
            let to = self.root.join(to);
            make_parent(&to)?;
            fs::rename(folder.join(part), &to).map_err(FetchError::io(&to))?;
        }
        Ok(())
    }
}

fn make_parent(path: &Path) -> Result<(), FetchError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(FetchError::io(parent))
}

fn copy(from: &Path, to: &Path) -> Result<(), FetchError> {
    make_parent(to)?;
    let aside = download::beside(to, "copying");
    fs::copy(from, &aside).map_err(FetchError::io(from))?;
    fs::rename(&aside, to).map_err(FetchError::io(to))
}

fn clear(folder: &Path) -> Result<(), FetchError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FetchError::io(folder)(error))
        }
        _ => Ok(()),
    }
}
