//! What can go wrong in this crate, with where and what would be right.

use std::path::{Path, PathBuf};

/// The one error type of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text has more tokens than a CLIP text tower has places.
    #[error("{text:?} is {tokens} tokens with start and end; at most {limit} fit, so shorten it")]
    TooLong {
        /// The text as given.
        text: String,
        /// Its tokens, start and end included.
        tokens: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A weight file or its configuration is not what it should be; every fault found, not only the first.
    #[error("{}", faults.iter().map(|f| format!("{}: {f}", path.display())).collect::<Vec<_>>().join("\n"))]
    Weights {
        /// The file or folder.
        path: PathBuf,
        /// At least one.
        faults: Vec<Fault>,
    },
    /// candle refused an operation; a defect of this crate, as shapes are checked before.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// One thing wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Fault {
    /// The tensor, key, record or byte offset.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Fault {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// The first few, and how many more there are.
    pub(crate) fn shortened(mut faults: Vec<Self>) -> Vec<Self> {
        const MOST: usize = 8;
        if let Some(more @ 1..) = faults.len().checked_sub(MOST) {
            faults.truncate(MOST);
            faults.push(Self::new(
                "others",
                format!("{more} more tensors are damaged"),
            ));
        }
        faults
    }
}

impl Error {
    /// A weight file with one fault.
    pub(crate) fn weights(
        path: &Path,
        field: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        let faults = vec![Fault::new(field, problem)];
        Self::Weights {
            path: path.to_owned(),
            faults,
        }
    }

    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}
