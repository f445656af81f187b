//! Is a dataset on disk what the papers used? A typed report for people and programs.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::catalogue::Row;
use crate::dataset::{Note, notes, source};
use crate::error::{Problem, ProblemKind};
use crate::split::Part;
use crate::{Error, readers};

/// What one dataset looks like on disk.
#[derive(Debug)]
pub struct Report {
    /// Its id.
    pub id: String,
    /// What tables call it.
    pub title: String,
    /// The verdict.
    pub state: State,
    /// Class and picture counts of the lists, when they could be read.
    pub counts: Option<Found>,
    /// How many pictures of the lists are not there under their exact names.
    pub missing_count: usize,
    /// The first of them.
    pub missing: Vec<Problem>,
    /// Pictures that do not decode (deep checks only), in list order.
    pub broken: Vec<(PathBuf, Error)>,
    /// How many pictures were decoded.
    pub decoded: usize,
    /// Why the dataset cannot be opened, when something other than missing pictures is wrong.
    pub error: Option<Error>,
    /// Differences from the papers, and other things to know.
    pub notes: Vec<Note>,
}

/// The verdict on a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As published, and every picture is there (and decodes, if that was looked at).
    Present,
    /// Usable, but not what the papers used; the notes say where.
    Differs,
    /// Something is there, but pictures or files are missing or broken: it cannot be used.
    Partial,
    /// Nothing of it is there.
    Absent,
}

impl State {
    /// True when trials can run on it.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Present | Self::Differs)
    }

    /// One word for a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Differs => "differs",
            Self::Partial => "partial",
            Self::Absent => "missing",
        }
    }
}

/// Counts of the lists on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Classes.
    pub classes: usize,
    /// Training pictures.
    pub train: usize,
    /// Validation pictures.
    pub val: usize,
    /// Test pictures.
    pub test: usize,
}

/// How many missing pictures a report names.
pub const NAMED: usize = 5;

/// Looks at one dataset below `data_root`. With `deep`, every picture is decoded; `progress` is told, now and then and
/// from any thread, how many more were.
pub fn check(row: &Row, data_root: &Path, deep: bool, progress: impl Fn(usize) + Sync) -> Report {
    let mut report = Report {
        id: row.id.clone(),
        title: row.title.clone(),
        state: State::Absent,
        counts: None,
        missing_count: 0,
        missing: Vec::new(),
        broken: Vec::new(),
        decoded: 0,
        error: None,
        notes: Vec::new(),
    };
    let images = row.images_folder(data_root);
    let anything = images.exists()
        || row
            .split
            .as_ref()
            .is_some_and(|split| data_root.join(split).exists());
    let lists = match readers::read(row, data_root) {
        Ok(lists) => lists,
        Err(error) => {
            if anything {
                report.state = State::Partial;
            }
            report.error = Some(error);
            return report;
        }
    };
    let split = &lists.split;
    report.counts = Some(Found {
        classes: split.class_names().len(),
        train: split.train.len(),
        val: split.val.len(),
        test: split.test.len(),
    });
    report.notes = notes(row, &lists, data_root);
    let source = match source(row, &lists, &images) {
        Ok(source) => source,
        Err(error) => {
            report.error = Some(error);
            report.state = State::Partial;
            return report;
        }
    };
    let missing = if lists.listed {
        Vec::new()
    } else {
        readers::missing(split, &images)
    };
    report.missing_count = missing.len();
    if deep {
        let items: Vec<_> = Part::ALL
            .iter()
            .flat_map(|&part| split.part(part))
            .collect();
        // What is missing was counted already.
        let absent: std::collections::HashSet<&str> =
            missing.iter().filter_map(absent_path).collect();
        let there: Vec<_> = items
            .into_iter()
            .filter(|item| !absent.contains(&*item.path.to_string_lossy()))
            .collect();
        report.decoded = there.len();
        report.broken = there
            .par_iter()
            .filter_map(|item| {
                let outcome = source.rgb(item);
                progress(1);
                outcome.err().map(|error| (item.path.clone(), error))
            })
            .collect();
    }
    report.missing = missing.into_iter().take(NAMED).collect();
    report.state = if report.missing_count > 0 || !report.broken.is_empty() {
        State::Partial
    } else if !report.notes.iter().any(Note::is_of_numbers) {
        State::Present
    } else {
        State::Differs
    };
    report
}

fn absent_path(problem: &Problem) -> Option<&str> {
    match &problem.kind {
        ProblemKind::NoPicture { path, .. } | ProblemKind::CaseOnly { path, .. } => Some(path),
        _ => None,
    }
}
