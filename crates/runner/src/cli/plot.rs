//! `promptbed plot`: the charts of a results folder.

use std::path::PathBuf;

use anyhow::Result;

use super::Done;
use crate::plot;
use crate::store::Store;

/// Draw charts: reads a results folder, writes its charts/ (SVG and PNG).
///
/// Example: promptbed plot results/quick
#[derive(clap::Args)]
pub struct Plot {
    /// Results folder.
    dir: PathBuf,
}

impl Plot {
    pub fn run(self) -> Result<Done> {
        let loaded = Store::open(&self.dir)?.read_all()?;
        for path in plot::render_all(&loaded, &self.dir)? {
            crate::say!("{}", path.display());
        }
        Ok(if loaded.problems.is_empty() {
            Done::All
        } else {
            Done::NotAll
        })
    }
}
