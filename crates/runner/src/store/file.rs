//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;
use super::process::Process;

/// Characters of a file's name that its temporary file shows.
const SHOWN: usize = 100;

/// Tells apart the temporary files of threads of one process.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Puts `bytes` at `path`: written aside, flushed to the disk, renamed over it. A link is followed: what it leads to is
/// replaced, and the link stays. A device or pipe is written to, for it cannot be replaced without being lost.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let fail = |source| StoreError::Io {
        path: path.to_owned(),
        source,
    };
    let place = match place(path).map_err(fail)? {
        Place::File(place) => place,
        Place::Stream(mut stream) => {
            let written = stream.write_all(bytes).and_then(|()| stream.flush());
            // A reader that went away is no error, as on standard output.
            return match written {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                other => other.map_err(fail),
            };
        }
    };
    let path = place.as_path();
    let aside = aside(path);
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(source) = written {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_file(&aside);
        return Err(StoreError::Io {
            path: aside,
            source,
        });
    }
    settle(&aside, path)
}

/// Puts `bytes` at `path` as [`replace`] does, but for what only a machine that stays up needs: nothing is flushed.
pub(super) fn replace_loosely(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let aside = aside(path);
    let written = fs::write(&aside, bytes).and_then(|()| fs::rename(&aside, path));
    written.map_err(|source| {
        let _ = fs::remove_file(&aside);
        StoreError::Io {
            path: path.to_owned(),
            source,
        }
    })
}

/// Where bytes for a path go.
enum Place {
    /// A file that is there or will be, by a name that is no link.
    File(PathBuf),
    /// What cannot be replaced.
    Stream(Box<dyn Write>),
}

/// Links that lead from one to the next before somebody has tied a knot; the kernel's own limit.
const MOST_LINKS: usize = 40;

fn place(path: &Path) -> io::Result<Place> {
    let mut at = path.to_owned();
    for _ in 0..MOST_LINKS {
        // Our own streams are written through: opened again, a file behind them would be written from its start.
        match at.to_str() {
            Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => {
                return Ok(Place::Stream(Box::new(io::stdout())));
            }
            Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => {
                return Ok(Place::Stream(Box::new(io::stderr())));
            }
            _ => {}
        }
        let kind = match fs::symlink_metadata(&at) {
            Ok(data) => data.file_type(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Place::File(at)),
            Err(error) => return Err(error),
        };
        if kind.is_dir() {
            return Err(io::Error::other("is a folder; name a file"));
        }
        if kind.is_file() {
            return Ok(Place::File(at));
        }
        if !kind.is_symlink() || is_of_a_process(&at) {
            let stream = fs::OpenOptions::new().write(true).open(&at)?;
            return Ok(Place::Stream(Box::new(stream)));
        }
        let to = fs::read_link(&at)?;
        at = at.parent().unwrap_or(Path::new("")).join(to);
    }
    Err(io::Error::other("is a link that leads to itself"))
}

/// Whether this is an open file of a process (`/proc/1/fd/3`, `/dev/fd/3`), whose link may name what is no path.
fn is_of_a_process(path: &Path) -> bool {
    let Some(folder) = path.parent() else {
        return false;
    };
    (path.starts_with("/proc") && folder.ends_with("fd")) || folder == Path::new("/dev/fd")
}

/// A hidden name beside `path` that no other writer uses.
pub(super) fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Where the name is as long as names may be, its first part will do: what follows is what tells writers apart.
    let shown: String = name.chars().take(SHOWN).collect();
    hidden_beside(path, &shown)
}

/// A hidden name in the folder of `path` that begins with `name` and says which process uses it; [`owner`] reads it.
pub(super) fn hidden_beside(path: &Path, name: &str) -> PathBuf {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = Process::this().id();
    path.with_file_name(format!(".{name}.{id}-{count}.tmp"))
}

/// Whose temporary file has this name.
pub(super) enum Owner {
    /// This process.
    Process(Process),
    /// A process of a program that wrote less into its names.
    Unknown,
}

/// The owner of a temporary file; none where the name is of no such file.
pub(super) fn owner(name: &str) -> Option<Owner> {
    let name = name.strip_prefix('.')?.strip_suffix(".tmp")?;
    let (_, id) = name.rsplit_once('.')?;
    let (id, _) = id.rsplit_once('-')?;
    if let Some(process) = Process::of_id(id) {
        return Some(Owner::Process(process));
    }
    id.bytes()
        .all(|b| b.is_ascii_digit())
        .then_some(Owner::Unknown)
}

/// Renames a finished file to its name and makes the rename last.
pub(super) fn settle(aside: &Path, path: &Path) -> Result<(), StoreError> {
    fs::rename(aside, path).map_err(|source| StoreError::Io {
        path: path.to_owned(),
        source,
    })?;
    // A rename survives a power cut only once the folder is flushed; where folders cannot be opened (Windows), the
    // file is whole anyway.
    if let Some(folder) = path.parent().and_then(|parent| File::open(parent).ok()) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Files of a folder in name order, without the hidden ones (temporary files of a writer, maybe a dead one).
pub(super) fn finished(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let fail = |source| StoreError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_says_whose_it_is() {
        let long = "k".repeat(250);
        for path in ["a/plan.json", "claims/", &long] {
            let aside = aside(Path::new(path));
            let name = aside.file_name().unwrap().to_str().unwrap();
            assert!(name.len() < 200, "{name}");
            match owner(name) {
                Some(Owner::Process(process)) => assert_eq!(process.lives(), Some(true)),
                _ => panic!("{name}"),
            }
        }
        assert!(matches!(
            owner(".plan.json.123-4.tmp"),
            Some(Owner::Unknown)
        ));
        for name in [
            "plan.json",
            ".plan.json",
            ".x.tmp",
            ".x.y-3.tmp",
            "x.1-2.tmp",
        ] {
            assert!(owner(name).is_none(), "{name}");
        }
    }
}
