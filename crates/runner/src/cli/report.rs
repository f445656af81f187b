//! `promptbed report`: one page about one or several results folders.

use std::path::PathBuf;

use anyhow::Result;

use super::Done;
use crate::show::report;
use crate::store::Store;

/// Write a report: reads results folders, writes one self-contained HTML page with tables, charts and provenance.
///
/// Example: promptbed report results/quick
#[derive(clap::Args)]
pub struct Report {
    /// Results folders.
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Page to write [default: report.html in the first folder].
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Report {
    pub fn run(self) -> Result<Done> {
        let out = self.out.unwrap_or_else(|| self.dirs[0].join("report.html"));
        let stores = self
            .dirs
            .iter()
            .map(Store::open)
            .collect::<Result<Vec<_>, _>>()?;
        let mut is_whole = true;
        for store in &stores {
            let loaded = store.read_all()?;
            for (path, problem) in &loaded.problems {
                crate::say!("{}: {problem}", path.display());
            }
            is_whole &= loaded.problems.is_empty();
        }
        report::write(&self.dirs, &out)?;
        crate::out!("{}", out.display());
        Ok(if is_whole { Done::All } else { Done::NotAll })
    }
}
