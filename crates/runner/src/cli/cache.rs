//! `promptbed cache`: what is kept of frozen image towers and test pictures.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::Done;
use crate::run::cache;

/// List or prune a folder of image features and packed pictures: reads and removes files that `run --cache` wrote.
///
/// Example: promptbed cache list features/
#[derive(clap::Args)]
pub struct Cache {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// A line for each CLIP's features and each dataset's packed pictures: files, pictures, megabytes; exits 1 if a file is damaged.
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
                let packed = cache::list_packs(&dir)?;
                let line = |name: &str, files: usize, pictures: u64, bytes: u64, damaged: usize| {
                    let note = match damaged {
                        0 => String::new(),
                        n => format!("  {n} damaged; `promptbed cache prune` removes them"),
                    };
                    let mb = bytes as f64 / 1e6;
                    crate::out!("{name:<16} {files:>7} {pictures:>9} {mb:>9.1}{note}");
                };
                crate::out!(
                    "{:<16} {:>7} {:>9} {:>9}",
                    "backbone",
                    "files",
                    "pictures",
                    "MB"
                );
                for h in &held {
                    line(&h.fingerprint, h.files, h.pictures, h.bytes, h.damaged);
                }
                if !packed.is_empty() {
                    crate::out!("{:<16}", "packed pictures");
                }
                for p in &packed {
                    line(&p.dataset, p.files, p.pictures, p.bytes, p.damaged);
                }
                let whole =
                    held.iter().all(|h| h.damaged == 0) && packed.iter().all(|p| p.damaged == 0);
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
