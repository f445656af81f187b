//! `promptbed table`: the tables of a results folder.

use std::path::PathBuf;

use anyhow::Result;

use super::Done;
use crate::store::Store;
use crate::table;

/// Print and write tables: reads a results folder, writes its tables/ (Markdown, CSV, LaTeX) and trials.parquet.
///
/// Example: promptbed table results/quick
#[derive(clap::Args)]
pub struct Table {
    /// Results folder.
    dir: PathBuf,
}

impl Table {
    pub fn run(self) -> Result<Done> {
        let store = Store::open(&self.dir)?;
        let loaded = store.read_all()?;
        store.write_frame(&loaded)?;
        for path in table::render_all(&loaded, &self.dir)? {
            crate::say!("{}", path.display());
        }
        crate::out!("{}", table::terminal(&loaded));
        Ok(if loaded.problems.is_empty() {
            Done::All
        } else {
            Done::NotAll
        })
    }
}
