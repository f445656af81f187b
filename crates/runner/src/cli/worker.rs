//! `promptbed worker`: one more process for the trials of a results folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::Done;
use super::setup::Places;
use super::working::{self, Working};
use crate::device::OnMachine;
use crate::store::Store;

/// Work on a results folder beside others: runs trials of its suites that nobody has, and leaves when there are none.
///
/// The folder says what is run, and with which data and weights, as `promptbed run` wrote it. Any number of workers, on any
/// number of machines that share the folder, run every trial once. Several on one machine share its cores best with --jobs 1
/// --threads N, cores over workers; of several GPUs each wants a worker: --device cuda:0, cuda:1 ... Exit codes are those of `run`.
///
/// Example: promptbed worker results/quick --jobs 1 --threads 1
#[derive(clap::Args)]
pub struct Worker {
    /// Results folder.
    dir: PathBuf,
    /// Suite of the folder [default: all, one after the other].
    #[arg(long, value_name = "NAME")]
    suite: Option<String>,
    /// Only the trials of one list of this file, in its order: a JSON list of lists of keys.
    #[arg(long, value_name = "FILE", requires = "index")]
    trials: Option<PathBuf>,
    /// Which of the lists, from 0.
    #[arg(long, value_name = "N", requires = "trials")]
    index: Option<usize>,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    working: Working,
    #[command(flatten)]
    on: OnMachine,
}

impl Worker {
    pub fn run(self) -> Result<Done> {
        let started = Instant::now();
        let store = Store::open(&self.dir)?;
        let keys = match (&self.trials, self.index) {
            (Some(path), Some(index)) => Some(list(path, index)?),
            _ => None,
        };
        let suites = self.suites(&store, keys.as_deref())?;
        let device = self.on.open()?;
        let stop = self.working.stop(started)?;
        let mut ends = Vec::new();
        for name in suites {
            let mut opened = self.places.reopen(&store, &name, &device)?;
            let tally = self
                .working
                .work(&mut opened, &store, keys.as_deref(), false, &stop)?;
            working::say(&tally, &stop, &self.dir);
            let ended = working::done(&tally, &stop);
            if tally.interrupted {
                return Ok(ended);
            }
            ends.push(ended);
        }
        // Who finds that all is done shows it; two at once write the same.
        let is_done = store.plans_are_over()?;
        if is_done {
            working::show(&store)?;
        }
        Ok(if ends.iter().all(|e| matches!(e, Done::All)) {
            Done::All
        } else {
            Done::NotAll
        })
    }

    /// The suites to work on.
    fn suites(&self, store: &Store, keys: Option<&[String]>) -> Result<Vec<String>> {
        let all = store.suites()?;
        let named = all.join(", ");
        if let Some(name) = &self.suite {
            if !all.contains(name) {
                bail!(
                    "--suite {name}: is not in {}, which has {}",
                    self.dir.display(),
                    if all.is_empty() { "none" } else { &named }
                );
            }
            return Ok(vec![name.clone()]);
        }
        if all.is_empty() {
            bail!(
                "{}: holds no suite to work on; `promptbed run SUITE --out {}` puts one there",
                self.dir.display(),
                self.dir.display()
            );
        }
        let Some(keys) = keys else {
            return Ok(all);
        };
        // Those whose plans have the keys.
        let keys: BTreeSet<&str> = keys.iter().map(String::as_str).collect();
        let mut of = Vec::new();
        for name in &all {
            let plan = store.plan(name)?.unwrap_or_default();
            if plan.iter().any(|p| keys.contains(p.key.as_str())) {
                of.push(name.clone());
            }
        }
        match &of[..] {
            [_] => Ok(of),
            _ => bail!("--trials: name the suite of these trials with --suite, one of {named}"),
        }
    }
}

/// List `index` of a file of lists.
fn list(path: &Path, index: usize) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: cannot be read (--trials)", path.display()))?;
    let mut lists: Vec<Vec<String>> = serde_json::from_str(&text)
        .with_context(|| format!("{}: is no list of lists of keys (--trials)", path.display()))?;
    if index >= lists.len() {
        bail!(
            "--index {index}: {} has {} lists, numbered from 0",
            path.display(),
            lists.len()
        );
    }
    Ok(lists.swap_remove(index))
}
