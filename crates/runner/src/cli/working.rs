//! How a process works on trials, and what it says at its end: what `run` and `worker` share.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Done;
use super::setup::Opened;
use super::stop::{Limits, Stop};
use crate::machine;
use crate::run::log::Log;
use crate::run::progress::Progress;
use crate::run::sweep::{OnFailure, Tally, Work};
use crate::run::tensorboard::Events;
use crate::show::{plot, table};
use crate::store::claims::SILENCE;
use crate::store::{Loaded, Store};

/// A backbone of at most this many numbers runs trials side by side, a core each; a larger one runs one trial on all.
const SMALL: usize = 20_000_000;

/// How trials are run. Nothing of it changes a result.
#[derive(clap::Args)]
pub struct Working {
    /// Trials at a time [default: all cores for a small CLIP, else 1]. Changes no result.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Threads of each trial [default: all cores shared out among the trials at a time]. Changes no result.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// What to do about a trial that fails: write down why and go on, or begin no further trial.
    #[arg(long, value_enum, default_value_t)]
    on_failure: OnFailure,
    /// Times that a trial which fails is tried again; not one whose loss is no number, for it would be so again.
    #[arg(long, default_value_t = 0, value_name = "N")]
    retries: u32,
    /// Seconds after which a worker on another machine that does not stir counts as dead, and its trials are taken over;
    /// the same for all workers of a folder.
    #[arg(long, default_value_t = SILENCE.as_secs(), value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    silence: u64,
    /// File that a line is appended to when a trial begins or ends; any number of workers may share it [default: none].
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Folder for TensorBoard event files, one folder a trial, written while it runs [default: none]. Changes no result.
    #[arg(long)]
    tensorboard: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
}

/// How the cores are shared out.
pub struct Share {
    /// Trials at a time.
    pub jobs: usize,
    /// Threads of each.
    pub threads: usize,
}

impl Working {
    /// The cores, for a backbone of `numbers` numbers, unless the user says how.
    pub fn share(&self, numbers: usize) -> Share {
        let cores = machine::cores();
        let usual = if numbers <= SMALL { cores } else { 1 };
        let jobs = self.jobs.map_or(usual, usize::from);
        Share {
            jobs,
            threads: self.threads.map_or((cores / jobs).max(1), usize::from),
        }
    }

    /// Begins to hear of signals and, counted from `started`, of the time limit.
    ///
    /// # Errors
    /// When signals cannot be handled.
    pub fn stop(&self, started: Instant) -> Result<Stop> {
        Stop::listen(started, self.limits.time_limit)
    }

    /// Works on a sweep, all of it or the trials with these keys, until nothing is left to do.
    ///
    /// # Errors
    /// When results cannot be written, and those of [`crate::run::sweep::Sweep::run`].
    pub fn work(
        &self,
        opened: &mut Opened,
        store: &Store,
        keys: Option<&[String]>,
        waits: bool,
        stop: &Stop,
    ) -> Result<Tally> {
        opened.sweep.checkpoint_every = self.limits.checkpoint_every;
        let Share { jobs, threads } = self.share(opened.numbers);
        let events = self.tensorboard.as_deref().map(Events::create);
        let events = events.transpose()?;
        let log = self.log.as_deref().map(Log::open).transpose()?;
        let progress = Progress::new(jobs);
        let tally = opened.sweep.run(
            store,
            &Work {
                jobs,
                threads,
                keys,
                retries: self.retries,
                on_failure: self.on_failure,
                waits,
                silence: Duration::from_secs(self.silence),
                limit: self.limits.time_limit,
                stop: stop.flag(),
                progress: &progress,
                events: events.as_ref(),
                log: log.as_ref(),
            },
        )?;
        progress.finish();
        Ok(tally)
    }
}

/// Writes tables and charts of what is there.
///
/// # Errors
/// When the folder cannot be read or written.
pub fn show(store: &Store) -> Result<Loaded> {
    let loaded = store.read_figures()?;
    store.write_frame(&loaded)?;
    table::render_all(&loaded, store.dir())?;
    let read = |key: &str, dataset: &str, set| store.read_predictions_on(key, dataset, set);
    plot::render_all(&loaded, &read, store.dir(), plot::Size::Screen)?;
    Ok(loaded)
}

/// Says how a sweep went.
pub fn say(tally: &Tally, stop: &Stop, dir: &Path) {
    let mut more = String::new();
    let counts = [
        (tally.elsewhere, "ended by other workers"),
        (tally.running.len(), "running in other workers"),
        (tally.taken_over as usize, "taken over from dead workers"),
        (tally.lost, "lost to other workers"),
        (tally.left, "not begun"),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        more += &format!(", {count} {what}");
    }
    crate::say!(
        "{} trials finished, {} were before, {} failed{more}; tables, charts and records in {}",
        tally.finished,
        tally.before,
        tally.failed.len(),
        dir.display()
    );
    if !tally.damaged.is_empty() {
        crate::say!(
            "{} damaged records were set aside in {}",
            tally.damaged.len(),
            dir.join("damaged").display()
        );
    }
    if tally.left > 0 {
        crate::say!("stopped at the first failure (--on-failure stop); the same command continues");
    }
    if tally.interrupted {
        crate::say!("{}; the same command continues", stop.reason());
    }
}

/// How the verb ended, by what its trials did.
pub fn done(tally: &Tally, stop: &Stop) -> Done {
    if tally.interrupted {
        stop.reason().done()
    } else if tally.failed.is_empty() && tally.left == 0 {
        Done::All
    } else {
        Done::NotAll
    }
}
