//! `promptbed cancel`: takes back what was submitted.

use std::path::PathBuf;

use anyhow::Result;

use super::Done;
use crate::cluster;
use crate::cluster::jobs::Phase;
use crate::store::Store;

/// Cancel what `submit` put into a cluster's queue for a results folder. Running trials leave a checkpoint; submitting
/// again goes on from there.
///
/// Example: promptbed cancel results/quick
#[derive(clap::Args)]
pub struct Cancel {
    /// Results folder.
    dir: PathBuf,
}

impl Cancel {
    pub fn run(self) -> Result<Done> {
        let store = Store::open(&self.dir)?;
        let found = cluster::cancel(store.dir())?;
        let count = |phases: &[Phase]| {
            let of = found.iter().filter(|s| phases.contains(&s.queued.phase()));
            of.count()
        };
        crate::say!(
            "{} running and {} waiting tasks are cancelled",
            count(&[Phase::Running]),
            count(&[Phase::Queued, Phase::Held])
        );
        Ok(Done::All)
    }
}
