//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;

/// Tells apart the temporary files of threads of one process.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Puts `bytes` at `path`: written aside, flushed to the disk, renamed over it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
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

/// A hidden name beside `path` that no other writer uses.
pub(super) fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()))
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
