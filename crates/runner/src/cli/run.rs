//! `promptbed run`: a suite file in, tables and charts out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use datasets::Catalogue;

use super::Done;
use super::setup::{self, Setup};
use super::working::{self, Working};
use crate::device::OnMachine;
use crate::run::changed::differences;
use crate::run::feed;
use crate::run::suite::Suite;
use crate::run::sweep::Sweep;
use crate::show::table;
use crate::store::Store;

/// Run a suite: reads a suite file, writes records, tables and charts.
///
/// Finished trials are not run again, and a trial that was stopped or killed goes on from its last checkpoint, so the same
/// command continues after an interruption. Any number of processes, on this machine or others that share the folder, may
/// run it at once, or help with `promptbed worker`: every trial is run once. Exit codes: 0 all done, 1 some trials failed,
/// 2 an error, 130 interrupted, 75 stopped by --time-limit, SIGTERM or SIGUSR1: come again.
///
/// Example: promptbed run suites/quick.toml
#[derive(clap::Args)]
pub struct Run {
    /// Suite file.
    suite: PathBuf,
    /// Results folder [default: results/<suite>].
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    setup: Setup,
    #[command(flatten)]
    working: Working,
    #[command(flatten)]
    on: OnMachine,
    /// List the trials, estimate what they take on this machine, and stop. Needs neither pictures nor weights of a
    /// released CLIP: counts what is not there by its published sizes.
    #[arg(long)]
    dry_run: bool,
}

impl Run {
    pub fn run(self) -> Result<Done> {
        let started = Instant::now();
        let catalogue = setup::catalogue(self.setup.places.catalogue.as_deref())?;
        let suite = Suite::read(&self.suite, &feed::known(&catalogue))?;
        let place = setup::place(&suite, &self.suite, &self.on.open()?)?;
        if self.dry_run {
            return super::dry::run(suite, &catalogue, &self.setup, &self.working, &place);
        }
        let name = suite.name.clone();
        let mut opened = self.setup.open(suite, &self.suite, &catalogue, &place)?;
        let dir = self
            .out
            .unwrap_or_else(|| PathBuf::from("results").join(name));
        let store = Store::create(&dir)?;
        let sweep = &opened.sweep;
        say_changes(&store, sweep, &self.suite, &catalogue)?;
        self.setup.keep(&store, sweep.suite(), &self.suite)?;
        store.write_plan(&sweep.suite().name, &sweep.planned())?;
        let stop = self.working.stop(started)?;
        let tally = self.working.work(&mut opened, &store, None, true, &stop)?;
        let loaded = working::show(&store)?;
        crate::out!("{}", table::terminal(&loaded));
        working::say(&tally, &stop, &dir);
        Ok(match working::done(&tally, &stop) {
            Done::All if !loaded.problems.is_empty() => Done::NotAll,
            done => done,
        })
    }
}

/// Says in what a suite differs from what it was when it was run into this folder last, if it does, and what still counts.
fn say_changes(store: &Store, sweep: &Sweep, path: &Path, catalogue: &Catalogue) -> Result<()> {
    let suite = sweep.suite();
    // A plan that cannot be read is told with the tables.
    let Some(before) = store.plan(&suite.name).ok().flatten() else {
        return Ok(());
    };
    let now = sweep.planned();
    let keys = |plan: &[crate::store::Planned]| -> BTreeSet<String> {
        plan.iter().map(|p| p.key.clone()).collect()
    };
    let (before, now) = (keys(&before), keys(&now));
    if before == now {
        return Ok(());
    }
    crate::say!(
        "note: suite {} differs from what was run into {} before:",
        suite.name,
        store.dir().display()
    );
    // Older programs kept one text for the whole folder.
    let text = match store.suite_text(Some(&suite.name))? {
        Some(text) => Some(text),
        None => store.suite_text(None)?,
    };
    let old = text.map(|text| Suite::of_text(text, path, &feed::known(catalogue)));
    match old {
        Some(Ok(old)) => {
            let lines = differences(&old, suite);
            for line in &lines {
                crate::say!("  {line}");
            }
            if lines.is_empty() {
                crate::say!("  its data, its weights or the program's results are others");
            }
        }
        _ => crate::say!("  what it was cannot be read any more"),
    }
    let counts = now.iter().filter(|key| store.has_finished(key)).count();
    crate::say!(
        "  {counts} of {} trials are finished and count; {} that it asked for before it asks for no longer",
        now.len(),
        before.difference(&now).count()
    );
    Ok(())
}
