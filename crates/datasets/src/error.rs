//! What can go wrong between a folder and a tensor, always with the path and the entry.

use std::fmt;
use std::path::PathBuf;

use crate::decode::DecodeError;

/// How many problems of one file are printed before the rest are only counted.
const SHOWN: usize = 10;

/// The one error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file the catalogue names is not there.
    #[error("{}: {what} is missing{}", path.display(), hint_after(hint))]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// What it would have been, e.g. "the split file".
        what: &'static str,
        /// What would be right; may be empty.
        hint: String,
    },
    /// A JSON or TOML file does not parse.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1; 0 when the parser does not know.
        line: usize,
        /// Column, from 1; 0 when the parser does not know.
        column: usize,
        /// The parser's words.
        message: String,
    },
    /// Entries of a file that parses are wrong; every one of them is here.
    #[error("{}", Problems(path, problems))]
    Entries {
        /// The file or folder the entries stand in.
        path: PathBuf,
        /// All wrong entries, in file order.
        problems: Vec<Problem>,
    },
    /// No dataset of the catalogue has this name.
    #[error("no dataset is called {name:?}{}; known: {}", closest_after(closest), known.join(", "))]
    UnknownDataset {
        /// The name asked for.
        name: String,
        /// The known name nearest to it, when one is near.
        closest: Option<String>,
        /// Every id of the catalogue.
        known: Vec<String>,
    },
    /// A picture does not decode.
    #[error("{}: {source}", path.display())]
    Picture {
        /// The picture.
        path: PathBuf,
        /// Why.
        source: DecodeError,
    },
    /// A packed cache is damaged.
    #[error("{}: {message}", path.display())]
    Pack {
        /// The pack.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A class set of this split has no classes (novel classes of a one-class dataset).
    #[error("{}", empty(set, *classes))]
    EmptyClassSet {
        /// Its name, e.g. "novel".
        set: String,
        /// How many classes the split has.
        classes: usize,
    },
}

fn empty(set: &str, classes: usize) -> String {
    match set {
        "base" | "novel" => {
            format!(
                "the {set} half of {classes} class(es) is empty; base and novel need at least 2 classes"
            )
        }
        set if set.ends_with("-icarl") && classes != 100 => {
            format!("the order `icarl` is one of 100 classes, here are {classes}")
        }
        set if set.starts_with("session") => {
            format!("{set} of {classes} class(es) is empty; there must be a class for each session")
        }
        _ => format!("{set} of {classes} class(es) is empty; there must be a class for each part"),
    }
}

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// One wrong entry of a file: where in the file, what is wrong, what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The entry, e.g. `test[3].path` or `[dtd] prompt`.
    pub field: String,
    /// What is wrong with it.
    pub kind: ProblemKind,
}

/// The ways an entry can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProblemKind {
    /// Not of the expected form.
    #[error("found {found}, expected {expected}")]
    Form {
        /// What stands there, shortened.
        found: String,
        /// What should.
        expected: &'static str,
    },
    /// The path leaves its folder (absolute, or with `..`).
    #[error("{path:?} leads outside the images folder; paths must be relative and without `..`")]
    Outside {
        /// The path as written.
        path: String,
    },
    /// The picture is not there.
    #[error("{path:?} does not exist under {folder}")]
    NoPicture {
        /// The path as written.
        path: String,
        /// The images folder.
        folder: String,
    },
    /// The picture is there under a name that differs in upper and lower case only.
    #[error(
        "{path:?} does not exist under {folder}, but {on_disk:?} does: the names differ in upper and lower case only; rename one of them"
    )]
    CaseOnly {
        /// The path as written.
        path: String,
        /// The path as it is on disk.
        on_disk: String,
        /// The images folder.
        folder: String,
    },
    /// A number between 0 and the largest label has no entry.
    #[error(
        "label {label} has no entry although labels go up to {largest}; labels must be 0, 1, 2, ... without a gap"
    )]
    LabelGap {
        /// The unused label.
        label: u32,
        /// The largest label used.
        largest: u32,
    },
    /// A label carries two names.
    #[error("label {label} is called {second:?} here but {first:?} at {first_field}")]
    TwoNames {
        /// The label.
        label: u32,
        /// Its first name.
        first: String,
        /// Where the first name stands.
        first_field: String,
        /// Its other name.
        second: String,
    },
    /// A label of val or test that train never uses.
    #[error("label {label} ({name:?}) never occurs in train")]
    NotInTrain {
        /// The label.
        label: u32,
        /// Its name.
        name: String,
    },
    /// A list that must not be empty is.
    #[error("is empty")]
    Empty,
    /// A class the names file or list does not know.
    #[error("{name:?} is not in {file}")]
    UnknownName {
        /// The name.
        name: String,
        /// The file that should have it.
        file: String,
    },
    /// A class folder without a single picture.
    #[error("holds no picture (jpg, jpeg, png, webp, gif, bmp, tif, tiff)")]
    NoPictures,
    /// A class folder whose pictures all lie in folders inside it.
    #[error("holds no picture itself, but {count} in folders inside it; move them up")]
    OnlyBelow {
        /// How many.
        count: usize,
    },
    /// A folder holds too few pictures to be split.
    #[error(
        "holds {found} picture(s); splitting 50/20/30 needs at least {least} so that train, val and test all get one"
    )]
    TooFew {
        /// How many there are.
        found: usize,
        /// How many are needed.
        least: usize,
    },
    /// Any other rule of a catalogue row.
    #[error("{0}")]
    Rule(String),
}

struct Problems<'a>(&'a PathBuf, &'a [Problem]);

impl fmt::Display for Problems<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.1.iter().take(SHOWN).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(
                f,
                "{}: {}: {}",
                self.0.display(),
                problem.field,
                problem.kind
            )?;
        }
        if self.1.len() > SHOWN {
            write!(
                f,
                "\n{}: and {} more problems",
                self.0.display(),
                self.1.len() - SHOWN
            )?;
        }
        Ok(())
    }
}

fn hint_after(hint: &str) -> String {
    if hint.is_empty() {
        String::new()
    } else {
        format!("; {hint}")
    }
}

fn closest_after(closest: &Option<String>) -> String {
    closest
        .as_ref()
        .map(|name| format!(" (did you mean {name:?}?)"))
        .unwrap_or_default()
}
