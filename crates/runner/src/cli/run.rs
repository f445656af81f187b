//! `promptbed run`: a suite file in, tables and charts out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use datasets::Catalogue;

use super::Done;
use super::stop::{Limits, Stop};
use crate::backbone;
use crate::run::cache::Cache;
use crate::run::feed;
use crate::run::progress::Progress;
use crate::run::suite::{Precision, Suite};
use crate::run::sweep::Sweep;
use crate::run::tensorboard::Events;
use crate::show::{plot, table};
use crate::store::Store;

/// A backbone of at most this many numbers runs trials side by side, a core each; a larger one runs one trial on all.
const SMALL: usize = 20_000_000;

/// Run a suite: reads a suite file, writes records, tables and charts.
///
/// Finished trials are not run again, and a trial that was stopped or killed goes on from its last checkpoint, so the same
/// command continues after an interruption. Exit codes: 0 all done, 1 some trials failed, 2 an error, 130 interrupted, 75
/// stopped by --time-limit, SIGTERM or SIGUSR1: come again.
///
/// Example: promptbed run suites/quick.toml
#[derive(clap::Args)]
pub struct Run {
    /// Suite file.
    suite: PathBuf,
    /// Results folder [default: results/<suite>].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Folder that holds the datasets.
    #[arg(long)]
    data: Option<PathBuf>,
    /// More dataset rows, a TOML file.
    #[arg(long)]
    catalogue: Option<PathBuf>,
    /// CLIP weights: a file or folder of any known format, or a name of `model list` [default: the suite's backbone].
    #[arg(long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    told: backbone::Told,
    #[command(flatten)]
    kept: backbone::Kept,
    /// Trials at a time [default: all cores for a small CLIP, else 1]. Changes no result.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Folder that keeps features of frozen image towers and decoded test pictures between runs [default: none]. Changes no result.
    #[arg(long)]
    cache: Option<PathBuf>,
    /// Folder for TensorBoard event files, one folder a trial, written while it runs [default: none]. Changes no result.
    #[arg(long)]
    tensorboard: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
    /// List the trials, estimate what they take on this machine, and stop. Needs neither pictures nor weights of a
    /// released CLIP: counts what is not there by its published sizes.
    #[arg(long)]
    dry_run: bool,
}

/// How the cores are shared out.
pub struct Share {
    /// Trials at a time.
    pub jobs: usize,
    /// Threads of each.
    pub threads: usize,
}

impl Share {
    /// For a backbone of `numbers` numbers, unless the user says how many trials at a time.
    pub fn new(jobs: Option<u16>, numbers: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let usual = if numbers <= SMALL { cores } else { 1 };
        let jobs = jobs.map_or(usual, usize::from);
        Self {
            jobs,
            threads: (cores / jobs).max(1),
        }
    }
}

/// The catalogue, with the user's rows.
pub fn catalogue(more: Option<&std::path::Path>) -> Result<Catalogue> {
    let mut catalogue = Catalogue::built_in();
    if let Some(path) = more {
        catalogue.merge(Catalogue::load(path)?, path)?;
    }
    Ok(catalogue)
}

impl Run {
    pub fn run(self) -> Result<Done> {
        let started = Instant::now();
        let catalogue = catalogue(self.catalogue.as_deref())?;
        let suite = Suite::read(&self.suite, &feed::known(&catalogue))?;
        if self.dry_run {
            return super::dry::run(
                suite,
                &catalogue,
                self.data.as_deref(),
                self.model.as_deref(),
                &self.told,
                self.jobs,
            );
        }
        let weights = backbone::weights(&suite.backbone, self.model.as_deref(), &self.told)?;
        backbone::takes(&weights, suite.sees())?;
        let architecture = weights.architecture.clone();
        let mut clip = self.kept.load(&weights)?;
        Arc::make_mut(&mut clip).text.memory = suite.memory;
        let least = clip.text.least_memory();
        if suite.memory.is_some_and(|most| most < least) {
            crate::say!(
                "note: memory: the text tower holds one piece of classes at a time, {:.1} MB with this backbone; less is \
                 not possible",
                least as f64 / 1e6
            );
        }
        if suite.precision == Precision::Bfloat16 {
            backbone::use_bfloat16(Arc::make_mut(&mut clip))
                .with_context(|| format!("{}: precision", self.suite.display()))?;
            let gain = clip::ops::bfloat::gain();
            if gain < 1.2 {
                crate::say!(
                    "note: precision: on this processor bfloat16 multiplies {gain:.1} times as fast as float32, so \
                     \"float32\" costs no time and rounds nothing"
                );
            }
        }
        let mut teachers = BTreeMap::new();
        for name in suite.methods.iter().filter_map(|l| l.teacher.as_ref()) {
            if !teachers.contains_key(name) {
                let teacher = backbone::weights(name, None, &backbone::Told::default())
                    .and_then(|weights| self.kept.load(&weights))
                    .with_context(|| format!("{}: teacher", self.suite.display()))?;
                teachers.insert(name.clone(), teacher);
            }
        }
        let cache = self.cache.as_deref().map(Cache::open).transpose()?;
        let name = suite.name.clone();
        let mut sweep = Sweep::new(
            suite,
            clip.clone(),
            architecture,
            &catalogue,
            self.data.as_deref(),
            cache.as_ref(),
            teachers,
        )?;
        sweep.checkpoint_every = self.limits.checkpoint_every;
        for dataset in sweep.datasets() {
            for note in &dataset.notes {
                crate::say!("note: {}: {note}", dataset.id);
            }
        }
        let dir = self
            .out
            .unwrap_or_else(|| PathBuf::from("results").join(name));
        let store = Store::create(&dir)?;
        let copy = dir.join("suite.toml");
        std::fs::write(&copy, &sweep.suite().text)
            .with_context(|| format!("{}: cannot be written", copy.display()))?;

        let Share { jobs, threads } = Share::new(self.jobs, clip.parameters());
        let stop = Stop::listen(started, self.limits.time_limit)?;
        let events = self.tensorboard.as_deref().map(Events::create);
        let events = events.transpose()?;
        let progress = Progress::new(jobs);
        let tally = sweep.run(
            &store,
            jobs,
            threads,
            stop.flag(),
            &progress,
            events.as_ref(),
        )?;
        progress.finish();
        let loaded = store.read_all()?;
        store.write_frame(&loaded)?;
        table::render_all(&loaded, &dir)?;
        let read = |key: &str, dataset: &str, set| store.read_predictions_on(key, dataset, set);
        plot::render_all(&loaded, &read, &dir, plot::Size::Screen)?;
        crate::out!("{}", table::terminal(&loaded));
        crate::say!(
            "{} trials finished, {} were before, {} failed; tables, charts and records in {}",
            tally.finished,
            tally.before,
            tally.failed.len(),
            dir.display()
        );
        if tally.interrupted {
            let reason = stop.reason();
            crate::say!("{reason}; the same command continues");
            return Ok(reason.done());
        }
        Ok(if tally.failed.is_empty() && loaded.problems.is_empty() {
            Done::All
        } else {
            Done::NotAll
        })
    }
}
