//! What a dataset is downloaded as: addresses, published sums, and what of it goes where.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::split::stays_inside;

/// A published checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sum {
    /// MD5, lower-case hexadecimal. It tells a wrong file from the right one, not malice from honesty.
    Md5(String),
    /// SHA-256, lower-case hexadecimal.
    Sha256(String),
}

/// Where a file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An address that answers without a click.
    Url(String),
    /// A person must get it; this says how.
    ByHand(String),
    /// A file below the data folder.
    Copy(PathBuf),
}

/// What is done with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gives {
    /// It goes to this place below the data folder as it is.
    File(PathBuf),
    /// It is an archive; parts of it go to places below the data folder.
    Parts {
        /// The archive within it that holds the parts.
        inner: Option<String>,
        /// Part and place.
        parts: Vec<(String, PathBuf)>,
    },
    /// No rule unpacks it: a person does, and then this is there.
    Done(PathBuf),
}

/// One file that a dataset is downloaded as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Its name in the downloads folder and on a mirror.
    pub file: String,
    /// Where it comes from.
    pub from: Source,
    /// Its length as published.
    pub bytes: Option<u64>,
    /// Its sums as published; all must fit.
    pub sums: Vec<Sum>,
    /// What is done with it.
    pub gives: Gives,
}

impl Archive {
    /// The places below the data folder that it fills.
    pub fn places(&self) -> Vec<&Path> {
        match &self.gives {
            Gives::File(to) | Gives::Done(to) => vec![to],
            Gives::Parts { parts, .. } => parts.iter().map(|(_, to)| to.as_path()).collect(),
        }
    }
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenArchive {
    file: String,
    url: Option<String>,
    by_hand: Option<String>,
    copy: Option<PathBuf>,
    bytes: Option<u64>,
    md5: Option<String>,
    sha256: Option<String>,
    inner: Option<String>,
    #[serde(default)]
    gives: BTreeMap<String, PathBuf>,
    to: Option<PathBuf>,
    done: Option<PathBuf>,
}

impl WrittenArchive {
    /// The archive, or nothing after telling `rule` every field that is wrong.
    pub(super) fn checked(self, rule: &mut dyn FnMut(&str, String)) -> Option<Archive> {
        let mut good = true;
        let mut wrong = |field: &str, message: String| {
            good = false;
            rule(field, message);
        };
        let plain = !self.file.is_empty()
            && !self.file.starts_with('.')
            && !self.file.contains(['/', '\\', '\0']);
        if !plain {
            let message = format!("{:?} must be a plain file name", self.file);
            wrong("file", message);
        }
        let mut sums = Vec::new();
        for (field, sum, digits, make) in [
            ("md5", self.md5, 32, Sum::Md5 as fn(String) -> Sum),
            ("sha256", self.sha256, 64, Sum::Sha256),
        ] {
            let Some(sum) = sum else { continue };
            let sum = sum.to_ascii_lowercase();
            if sum.len() != digits || !sum.bytes().all(|b| b.is_ascii_hexdigit()) {
                wrong(
                    field,
                    format!("{sum:?} must be {digits} hexadecimal digits"),
                );
            }
            sums.push(make(sum));
        }
        let from = match (self.url, self.by_hand, self.copy) {
            (Some(url), None, None) => {
                if !(url.starts_with("https://") || url.starts_with("http://")) {
                    wrong(
                        "url",
                        format!("{url:?} must begin with https:// or http://"),
                    );
                }
                Some(Source::Url(url))
            }
            (None, Some(how), None) => Some(Source::ByHand(how)),
            (None, None, Some(path)) => {
                inside(&path, "copy", &mut wrong);
                Some(Source::Copy(path))
            }
            _ => {
                let message = "exactly one of `url`, `by_hand` and `copy` is needed".to_owned();
                wrong("url", message);
                None
            }
        };
        let gives = match (self.to, self.done, self.gives.is_empty()) {
            (Some(to), None, true) => {
                inside(&to, "to", &mut wrong);
                Some(Gives::File(to))
            }
            (None, Some(done), true) => {
                inside(&done, "done", &mut wrong);
                if !matches!(from, Some(Source::ByHand(_))) {
                    wrong("done", "belongs to `by_hand` only".to_owned());
                }
                Some(Gives::Done(done))
            }
            (None, None, false) => {
                for (part, to) in &self.gives {
                    inside(Path::new(part), "gives", &mut wrong);
                    inside(to, "gives", &mut wrong);
                }
                let parts = self.gives.into_iter().collect();
                let inner = self.inner.clone();
                Some(Gives::Parts { inner, parts })
            }
            _ => {
                let message = "exactly one of `gives`, `to` and `done` is needed".to_owned();
                wrong("gives", message);
                None
            }
        };
        if let Some(inner) = &self.inner {
            inside(Path::new(inner), "inner", &mut wrong);
            if !matches!(gives, Some(Gives::Parts { .. })) {
                wrong("inner", "belongs to `gives` only".to_owned());
            }
        }
        if matches!(from, Some(Source::Copy(_))) && !matches!(gives, Some(Gives::File(_))) {
            wrong("copy", "needs `to`".to_owned());
        }
        good.then_some(())?;
        Some(Archive {
            file: self.file,
            from: from?,
            bytes: self.bytes,
            sums,
            gives: gives?,
        })
    }
}

fn inside(path: &Path, field: &str, wrong: &mut impl FnMut(&str, String)) {
    if !stays_inside(path) {
        wrong(field, format!("{path:?} must be relative and without `..`"));
    }
}
