//! `promptbed plot`: the charts of a results folder.

use std::path::PathBuf;

use anyhow::Result;

use super::Done;
use crate::show::plot;
use crate::store::Store;

/// Draw charts: reads a results folder, writes its charts/ (SVG and PNG).
///
/// Example: promptbed plot results/quick
#[derive(clap::Args)]
pub struct Plot {
    /// Results folder.
    dir: PathBuf,
    /// Size for a two-column paper (7 inches wide, 7.5-point lettering); names end in -paper.
    #[arg(long)]
    paper: bool,
}

impl Plot {
    pub fn run(self) -> Result<Done> {
        let store = Store::open(&self.dir)?;
        let loaded = store.read_figures()?;
        let read = |key: &str, dataset: &str, set| store.read_predictions_on(key, dataset, set);
        let size = if self.paper {
            plot::Size::Paper
        } else {
            plot::Size::Screen
        };
        for path in plot::render_all(&loaded, &read, &self.dir, size)? {
            crate::say!("{}", path.display());
        }
        Ok(if loaded.problems.is_empty() {
            Done::All
        } else {
            Done::NotAll
        })
    }
}
