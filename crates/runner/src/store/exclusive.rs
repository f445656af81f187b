//! Files that exactly one of many writers makes.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use super::file;

/// Puts `bytes` at `path` unless a file is there: true where this call made it.
///
/// Written aside and linked to its name, so that it is never seen half written. NFS may answer a link with an error
/// although it was made (the answer was lost, the request came twice): what counts is that the file has two names then,
/// as open(2) says. File systems without links get the file made by its name, and filled after that.
pub(super) fn make(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let aside = file::hidden_beside(path, "");
    if let Err(error) = fs::write(&aside, bytes) {
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    let linked = fs::hard_link(&aside, path);
    let made = match &linked {
        Ok(()) => Ok(true),
        Err(error) if has_no_links(error) => make_by_name(path, bytes),
        Err(_) if names(&aside) == Some(2) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    };
    let _ = fs::remove_file(&aside);
    made
}

fn has_no_links(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unsupported | ErrorKind::PermissionDenied
    )
}

fn make_by_name(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            let written = file.write_all(bytes);
            if written.is_err() {
                let _ = fs::remove_file(path);
            }
            written.map(|()| true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Names that the file has, where the system tells.
fn names(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).ok().map(|data| data.nlink())
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn one_of_many_makes_the_file_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one");
        let start = Barrier::new(16);
        let made: Vec<bool> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..16)
                .map(|i| {
                    let (path, start) = (&path, &start);
                    scope.spawn(move || {
                        start.wait();
                        make(path, format!("{i}").as_bytes()).unwrap()
                    })
                })
                .collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(made.iter().filter(|made| **made).count(), 1);
        let winner = made.iter().position(|made| *made).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), winner.to_string());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(!make_by_name(&path, b"x").unwrap());
        assert!(make_by_name(&folder.path().join("two"), b"x").unwrap());
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(make(&folder.path().join("no/one"), b"x").is_err());
    }
}
