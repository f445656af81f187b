//! Which pictures belong together: a driver's, a scene's, a patient's.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// How the pictures of a dataset are told apart by driver, scene or patient, so that all of a group are in one list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Where the group of a picture is said.
    pub by: GroupBy,
    /// Who is in which list, where that is published; else the groups are cut 50/20/30.
    pub fold: Option<Fold>,
}

/// Where the group of a picture is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// In a CSV or JSON file below the data folder.
    List(PathBuf),
    /// In the name of its file: the digits behind this text.
    InName(String),
}

/// A published way to share groups out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// A JSON file below the data folder: `{"fold0": {"train": [...], "val": [...], "test": [...]}, ...}`.
    pub file: PathBuf,
    /// Which of them.
    pub name: String,
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenGroups {
    list: Option<PathBuf>,
    in_name: Option<String>,
    folds: Option<PathBuf>,
    fold: Option<String>,
}

impl WrittenGroups {
    /// The files it names.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        [self.list.as_deref(), self.folds.as_deref()]
            .into_iter()
            .flatten()
    }

    /// The groups, or nothing after telling `rule` what is wrong.
    pub(super) fn checked(self, rule: &mut dyn FnMut(&str, String)) -> Option<Groups> {
        let by = match (self.list, self.in_name) {
            (Some(list), None) => Some(GroupBy::List(list)),
            (None, Some(text)) if !text.is_empty() => Some(GroupBy::InName(text)),
            (None, Some(_)) => {
                rule("groups.in_name", "is empty".to_owned());
                None
            }
            _ => {
                let message = "exactly one of `list` and `in_name` is needed".to_owned();
                rule("groups", message);
                None
            }
        };
        let fold = match (self.folds, self.fold) {
            (Some(file), Some(name)) => Some(Fold { file, name }),
            (None, None) => None,
            (folds, _) => {
                let (lacks, has) = if folds.is_some() {
                    ("fold", "folds")
                } else {
                    ("folds", "fold")
                };
                rule(
                    "groups",
                    format!("`{lacks}` is needed where `{has}` is given"),
                );
                None
            }
        };
        Some(Groups { by: by?, fold })
    }
}
