//! Readers: from the files of a dataset to its three lists. One file a behaviour; none knows a dataset by name.

mod array_file;
mod built;
mod folders;
mod groups;
mod lists;
mod matlab;
mod names;
mod npy;
mod presence;
mod split_json;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::catalogue::{Reader, Row};
use crate::error::{Problem, ProblemKind};
use crate::split::Part;
use crate::{Error, Pictures, Split};

pub use folders::is_picture_name;
pub use names::{ClassNames, class_names_file};
pub(crate) use presence::missing;

/// The largest split, names or catalogue file that is read: ten times ImageNet's training list.
const MAX_TEXT_BYTES: u64 = 1 << 30;

/// What a reader found.
pub(crate) struct Lists {
    /// The three lists.
    pub split: Split,
    /// The file or folder the lists come from, for messages about them.
    pub from: PathBuf,
    /// True when the reader listed the pictures itself, so that they need not be looked for.
    pub listed: bool,
    /// What was passed over in class folders.
    pub passed: PassedOver,
    /// Where the pictures come from, where that is no folder of files.
    pub source: Option<Arc<dyn Pictures>>,
    /// How groups are shared out, where the row says which pictures belong together.
    pub shared_out: Option<SharedOut>,
}

/// Groups of pictures (drivers, scenes) in three lists, none of them in two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SharedOut {
    /// Groups in train, val and test.
    pub groups: [usize; 3],
    /// Groups that no list of the fold names, and their pictures, which are in no list then.
    pub outside: (usize, usize),
}

/// What lies in class folders and is in no list: how many, and the first.
#[derive(Clone, Debug, Default)]
pub(crate) struct PassedOver {
    /// Files that are no pictures by their names.
    pub files: Option<(usize, PathBuf)>,
    /// Pictures in folders inside class folders.
    pub below: Option<(usize, PathBuf)>,
}

/// Reads the lists of a row below `root`. The entries are checked, the pictures are not looked for.
pub(crate) fn read(row: &Row, root: &Path) -> Result<Lists, Error> {
    let lists = match row.reader {
        Reader::SplitJson => {
            let path = root.join(row.split.as_deref().unwrap_or(Path::new("")));
            match &row.unsplit {
                Some(unsplit) if !path.exists() => built::read(row, unsplit, root)?,
                _ => split_json::read(&path)?,
            }
        }
        Reader::ClassFolders => folders::read(row, root)?,
        Reader::NumberedFolders => folders::read_numbered(row, root)?,
        Reader::PictureLists => lists::read(row, root)?,
        Reader::ArrayFile => array_file::read(row, root)?,
    };
    let problems = lists.split.problems();
    if !problems.is_empty() {
        return Err(Error::Entries {
            path: lists.from,
            problems,
        });
    }
    match &row.groups {
        Some(groups) => groups::kept_together(groups, lists, root),
        None => Ok(lists),
    }
}

/// Reads a split file of the CoOp family by itself, without its pictures.
///
/// # Errors
/// A file that cannot be read or is no split, or every entry that is wrong.
pub fn split_file(path: &Path) -> Result<Split, Error> {
    let lists = split_json::read(path)?;
    let problems = lists.split.problems();
    if problems.is_empty() {
        Ok(lists.split)
    } else {
        Err(Error::Entries {
            path: lists.from,
            problems,
        })
    }
}

/// The text of a file, without a byte order mark.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let bytes = read_bytes(path, MAX_TEXT_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        Error::Syntax {
            path: path.to_owned(),
            line: before.iter().filter(|&&byte| byte == b'\n').count() + 1,
            column: before
                .iter()
                .rev()
                .take_while(|&&byte| byte != b'\n')
                .count()
                + 1,
            message: "not UTF-8".to_owned(),
        }
    })?;
    Ok(text
        .strip_prefix('\u{feff}')
        .map(str::to_owned)
        .unwrap_or(text))
}

/// The bytes of a file that has at most `limit`.
pub(crate) fn read_bytes(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let size = fs::metadata(path).map_err(Error::io(path))?.len();
    if size > limit {
        let message = format!("{size} bytes are more than the limit of {limit}");
        return Err(Error::Io {
            path: path.to_owned(),
            source: std::io::Error::other(message),
        });
    }
    fs::read(path).map_err(Error::io(path))
}

/// The text of a file that the catalogue names; `what` it is goes into the message when it is missing.
fn read_named(path: &Path, what: &'static str, hint: &str) -> Result<String, Error> {
    found(path, what, hint)?;
    read_text(path)
}

fn found(path: &Path, what: &'static str, hint: &str) -> Result<(), Error> {
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::Missing {
            path: path.to_owned(),
            what,
            hint: hint.to_owned(),
        }),
        Err(source) => Err(Error::Io {
            path: path.to_owned(),
            source,
        }),
        Ok(_) => Ok(()),
    }
}

pub(crate) fn json_error(path: &Path, error: &serde_json::Error) -> Error {
    let message = error.to_string();
    let message = message
        .split(" at line ")
        .next()
        .unwrap_or_default()
        .to_owned();
    Error::Syntax {
        path: path.to_owned(),
        line: error.line(),
        column: error.column(),
        message,
    }
}

/// A JSON value for a message, shortened.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn problem(part: Part, index: usize, field: &str, kind: ProblemKind) -> Problem {
    Problem {
        field: format!("{}[{index}]{field}", part.name()),
        kind,
    }
}

/// A path as a list writes it: `\` of Windows parts folders as `/` does, so that the lists of one machine are those of
/// any other.
pub(crate) fn written(path: &str) -> PathBuf {
    PathBuf::from(path.replace('\\', "/"))
}

/// A relative path as the split file writes it: with `/`.
fn joined(folder: &str, name: &str) -> PathBuf {
    if folder.is_empty() {
        PathBuf::from(name)
    } else {
        PathBuf::from(format!("{folder}/{name}"))
    }
}
