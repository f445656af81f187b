//! `promptbed compare`: what changed between two results folders.

use std::path::PathBuf;

use anyhow::Result;

use super::Done;
use crate::show::compare::compare;
use crate::store::Store;

/// Compare two results folders: trials only in one, accuracies that moved, settings that differ; exit code 1 if
/// trials or accuracies differ.
///
/// Example: promptbed compare results/quick results/quick-again
#[derive(clap::Args)]
pub struct Compare {
    /// First results folder.
    first: PathBuf,
    /// Second results folder.
    second: PathBuf,
}

impl Compare {
    pub fn run(self) -> Result<Done> {
        let first = Store::open(&self.first)?.read_all()?;
        let second = Store::open(&self.second)?.read_all()?;
        let comparison = compare(&first, &second);
        let name = |path: &PathBuf| path.display().to_string();
        crate::out!(
            "{}",
            comparison
                .text(&name(&self.first), &name(&self.second))
                .trim_end()
        );
        Ok(if comparison.is_clean() {
            Done::All
        } else {
            Done::NotAll
        })
    }
}
