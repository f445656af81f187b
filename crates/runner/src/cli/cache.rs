//! `promptbed cache`: what is kept of frozen image towers.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::Done;
use crate::cache;

/// List or prune a folder of image features: reads and removes files that `run --cache` wrote.
///
/// Example: promptbed cache list features/
#[derive(clap::Args)]
pub struct Cache {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// A line for each CLIP: files, pictures, megabytes; exits 1 if a file is damaged.
    List {
        /// The folder that was given to `run --cache`.
        dir: PathBuf,
    },
    /// Remove files that are damaged or old. What is removed is computed again when it is needed.
    Prune {
        /// The folder that was given to `run --cache`.
        dir: PathBuf,
        /// Remove what was written at least this many days ago; 0 removes all.
        #[arg(long, default_value_t = 90)]
        days: u32,
    },
}

impl Cache {
    pub fn run(self) -> Result<Done> {
        match self.what {
            What::List { dir } => {
                let held = cache::list(&dir)?;
                crate::out!(
                    "{:<16} {:>7} {:>9} {:>9}",
                    "backbone",
                    "files",
                    "pictures",
                    "MB"
                );
                for h in &held {
                    crate::out!(
                        "{:<16} {:>7} {:>9} {:>9.1}{}",
                        h.fingerprint,
                        h.files,
                        h.pictures,
                        h.bytes as f64 / 1e6,
                        match h.damaged {
                            0 => String::new(),
                            n => format!("  {n} damaged; `promptbed cache prune` removes them"),
                        }
                    );
                }
                let whole = held.iter().all(|h| h.damaged == 0);
                Ok(if whole { Done::All } else { Done::NotAll })
            }
            What::Prune { dir, days } => {
                let age = Duration::from_secs(u64::from(days) * 86_400);
                let (files, bytes) = cache::prune(&dir, age)?;
                crate::say!("{files} files removed, {:.1} MB", bytes as f64 / 1e6);
                Ok(Done::All)
            }
        }
    }
}
