//! `promptbed merge`: results folders of several machines, made one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::Done;
use crate::store::{Store, claims};

/// Merge results folders into one: for machines that share no file system.
///
/// Every trial is taken once; a finished one rather than one that failed. What differs (a trial with other tests, a suite
/// that asks for other things) is named, stays as the first folder has it, and the others' is kept in OUT/conflicts; the
/// exit code is 1 then. The folders stay as they are.
///
/// Example: promptbed merge laptop/quick server/quick --out results/quick
#[derive(clap::Args)]
pub struct Merge {
    /// Results folders.
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Results folder to put them into, which may be there already.
    #[arg(long)]
    out: PathBuf,
}

impl Merge {
    pub fn run(self) -> Result<Done> {
        let stores = self
            .dirs
            .iter()
            .map(Store::open)
            .collect::<Result<Vec<_>, _>>()?;
        if self.out.exists() {
            for worker in claims::workers(&self.out)? {
                if worker.process.lives() != Some(false) {
                    bail!(
                        "--out {}: {} works there; merge when it has ended",
                        self.out.display(),
                        worker.process
                    );
                }
            }
        }
        let out = Store::create(&self.out)?;
        out.tidy()?;
        let (mut names, mut is_whole) = (BTreeSet::new(), true);
        for from in stores {
            if from.dir().canonicalize().ok() == out.dir().canonicalize().ok() {
                continue;
            }
            let merged = out.merge(&from, &name(from.dir(), &mut names))?;
            crate::out!(
                "{}: {} trials taken, {} instead of failed ones, {} were there",
                from.dir().display(),
                merged.new,
                merged.better,
                merged.same
            );
            for (what, place) in &merged.conflicts {
                crate::say!(
                    "conflict: {what}: {} has another one, which is now {}",
                    from.dir().display(),
                    place.display()
                );
            }
            for (place, problem) in &merged.damaged {
                crate::say!("damaged: {}: {problem}", place.display());
            }
            is_whole &= merged.conflicts.is_empty() && merged.damaged.is_empty();
        }
        Ok(if is_whole { Done::All } else { Done::NotAll })
    }
}

/// What a folder is called among the conflicts: its name, with a number where that is taken.
fn name(dir: &Path, taken: &mut BTreeSet<String>) -> String {
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let own = real.file_name().unwrap_or_default().to_string_lossy();
    let mut name = own.clone().into_owned();
    let mut number = 1;
    while !taken.insert(name.clone()) {
        number += 1;
        name = format!("{own}-{number}");
    }
    name
}
