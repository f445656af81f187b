//! A suite's trials: listed, run and written down as soon as they are done. Which worker runs which is seen to in
//! [`worker`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clip::Clip;
use clip::weights::Architecture;
use datasets::{Catalogue, Dataset, Picks};
use methods::{Backbones, Descriptions};
use rayon::prelude::*;

use crate::device::ran::{self, Ran};
use crate::machine;
use crate::reason::reason;
use crate::record::{Cost, Found, Outcome, Provenance, Record, SCHEMA};
use crate::run::cache::Cache;
use crate::run::checkpoint::{self, Keeper};
use crate::run::described;
use crate::run::feed::{self, Feed};
use crate::run::lesson::Lesson;
use crate::run::picked;
use crate::run::plan;
use crate::run::population::Population;
use crate::run::suite::{Line, Resolved, Suite};
use crate::run::taught::{self, Taught};
use crate::run::trial::{self, Interrupted, Observer, Task};
use crate::run::work::Counter;
use crate::start;
use crate::store::{Planned, Store, replace};

mod key;
mod stages;
mod views;
mod worker;

pub use worker::{OnFailure, Tally, Work};

/// Version of what trials compute; a change that moves any number raises it, and finished trials run again.
pub const RESULTS: u32 = 4;

/// One trial of the plan.
pub struct Trial {
    /// What tables know of it before it has run.
    pub planned: Planned,
    line: usize,
    method: Arc<Resolved>,
    /// Hash of the few shots of each dataset it learns from, by its id; none where it takes none.
    picks: BTreeMap<String, String>,
}

/// A suite with its data and backbone, ready to run.
pub struct Sweep {
    suite: Suite,
    clip: Arc<Clip>,
    architecture: Architecture,
    feeds: BTreeMap<String, Arc<Feed>>,
    /// Second backbones, by the names that methods give them.
    teachers: BTreeMap<String, Arc<Clip>>,
    /// What these learned before, by path and dataset.
    taught: BTreeMap<(PathBuf, String), Taught>,
    /// Descriptions by path and dataset.
    descriptions: BTreeMap<(PathBuf, String), Arc<Descriptions>>,
    /// Trials in suite order.
    pub trials: Vec<Trial>,
    /// How often a running trial leaves a checkpoint. Changes no result.
    pub checkpoint_every: Duration,
    /// Where its towers run, and by what, as records tell it.
    pub ran: Ran,
}

impl Sweep {
    /// Opens every dataset and lists the trials.
    ///
    /// # Errors
    /// Every dataset that cannot be opened, all at once.
    pub fn new(
        suite: Suite,
        clip: Arc<Clip>,
        architecture: Architecture,
        catalogue: &Catalogue,
        root: Option<&Path>,
        cache: Option<&Cache>,
        teachers: BTreeMap<String, Arc<Clip>>,
    ) -> Result<Self> {
        let (mut feeds, mut wrong) = (BTreeMap::new(), Vec::new());
        for id in suite.all_datasets() {
            match feed::open(id, catalogue, root) {
                Ok(dataset) => {
                    feeds.insert(
                        id.clone(),
                        Arc::new(Feed::new(dataset, clip.clone()).with_cache(cache.cloned())),
                    );
                }
                Err(e) => {
                    let told = reason(&e);
                    // A data folder that is not there is one mistake, however many datasets should be in it.
                    if !wrong.contains(&told) {
                        wrong.push(told);
                    }
                }
            }
        }
        let mut taught = BTreeMap::new();
        for cell in plan::cells(&suite) {
            let line = &suite.methods[cell.line];
            let teacher = line.teacher.as_ref().and_then(|name| teachers.get(name));
            let (Some(teacher), Some(path)) = (teacher, &line.teacher_prompts) else {
                continue;
            };
            let key = (path.clone(), cell.dataset);
            if taught.contains_key(&key) {
                continue;
            }
            match taught::read(path, &key.1, teacher.fingerprint()) {
                Ok(read) => {
                    taught.insert(key, read);
                }
                Err(e) if wrong.contains(&reason(&e)) => {}
                Err(e) => wrong.push(reason(&e)),
            }
        }
        let mut descriptions = BTreeMap::new();
        for (path, id) in plan::described(&suite) {
            let Some(feed) = feeds.get(&id) else { continue };
            match described::read(&path, &feed.dataset) {
                Ok(read) => {
                    descriptions.insert((path, id), Arc::new(read));
                }
                Err(e) => wrong.push(reason(&e)),
            }
        }
        wrong.extend(stages::empty_sessions(&suite, &feeds));
        if !wrong.is_empty() {
            bail!(wrong.join("\n"));
        }
        let mut sweep = Self {
            suite,
            clip,
            architecture,
            feeds,
            teachers,
            taught,
            descriptions,
            trials: Vec::new(),
            checkpoint_every: checkpoint::EVERY,
            ran: Ran::default(),
        };
        sweep.trials = sweep.list()?;
        Ok(sweep)
    }

    /// The suite.
    pub fn suite(&self) -> &Suite {
        &self.suite
    }

    /// Sizes of its backbone.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The datasets, with what must be said of them.
    pub fn datasets(&self) -> impl Iterator<Item = &Dataset> {
        self.feeds.values().map(|f| &f.dataset)
    }

    /// What it asks for.
    pub fn planned(&self) -> Vec<Planned> {
        self.trials.iter().map(|t| t.planned.clone()).collect()
    }

    /// The trials in suite order; on all cores, for a suite may have a hundred thousand.
    fn list(&self) -> Result<Vec<Trial>> {
        let cells = plan::cells(&self.suite);
        let taught = |cell: &plan::Cell| -> BTreeSet<String> {
            if !cell.method.takes_shots() {
                return BTreeSet::new();
            }
            let stages = plan::stages(&self.suite, cell.protocol, &cell.dataset);
            let learned = stages.into_iter().flat_map(|s| s.train);
            learned.map(|(id, _)| id).collect()
        };
        let taught: Vec<BTreeSet<String>> = cells.par_iter().map(taught).collect();
        let asked = cells.iter().zip(&taught);
        let asked = asked.flat_map(|(c, ids)| ids.iter().map(|id| (id.as_str(), c.shots, c.seed)));
        let mut seen = HashSet::new();
        let lists: Vec<(&str, usize, u64)> = asked.filter(|list| seen.insert(*list)).collect();
        let hashes = lists.par_iter().map(|&(id, shots, seed)| {
            let split = &self.feeds[id].dataset.split;
            let picks = picked::picks(&self.suite.picks, id, split, shots, seed);
            picks.map(|p| p.hash()).map_err(|e| reason(&e))
        });
        let hashes: Vec<Result<String, String>> = hashes.collect();
        // Lists that cannot be read are told all at once.
        let wrong: Vec<&str> = hashes
            .iter()
            .filter_map(|h| h.as_ref().err())
            .map(String::as_str)
            .collect();
        if !wrong.is_empty() {
            bail!(wrong.join("\n"));
        }
        let hashes: HashMap<_, _> = lists.into_iter().zip(hashes.iter().flatten()).collect();
        let trial = |(cell, taught): (plan::Cell, &BTreeSet<String>)| {
            let line = &self.suite.methods[cell.line];
            let hash = |id: &String| hashes[&(id.as_str(), cell.shots, cell.seed)].clone();
            let picks = taught.iter().map(|id| (id.clone(), hash(id))).collect();
            let mut planned = Planned {
                key: String::new(),
                protocol: cell.protocol,
                method: line.label.clone(),
                algorithm: line.entry.name.to_owned(),
                dataset: cell.dataset,
                shots: cell.shots,
                seed: cell.seed,
            };
            planned.key = self.key(&planned, line, &cell.method, &picks);
            Trial {
                planned,
                line: cell.line,
                method: cell.method,
                picks,
            }
        };
        Ok(cells.into_par_iter().zip(&taught).map(trial).collect())
    }

    /// The datasets that a trial starts from.
    fn start(&self, planned: &Planned) -> Vec<&Feed> {
        let ids = start::datasets(&planned.dataset);
        ids.map(|id| &*self.feeds[id]).collect()
    }

    /// The few shots of a dataset that a trial learns from; none where it takes none. Lists are drawn or read when they are
    /// needed: those of many thousands of trials would fill the memory.
    fn picks(&self, trial: &Trial, id: &str) -> Result<Option<Picks>> {
        let Some(hash) = trial.picks.get(id) else {
            return Ok(None);
        };
        let (from, split) = (&self.suite.picks, &self.feeds[id].dataset.split);
        let picks = picked::picks(from, id, split, trial.planned.shots, trial.planned.seed)?;
        if picks.hash() != *hash {
            bail!("dataset {id}: its pick list is another than when the run began (picks)");
        }
        Ok(Some(picks))
    }

    /// The second backbone of a method.
    fn teacher(&self, line: &Line) -> Option<&Arc<Clip>> {
        self.teachers.get(line.teacher.as_ref()?)
    }

    /// What it learned before a trial that starts from `dataset`.
    fn taught(&self, line: &Line, dataset: &str) -> Option<&Taught> {
        let path = line.teacher_prompts.clone()?;
        self.taught.get(&(path, dataset.to_owned()))
    }

    /// What describes a dataset's classes for a method.
    fn described(&self, line: &Line, dataset: &str) -> Option<&Arc<Descriptions>> {
        let path = line.descriptions.clone()?;
        self.descriptions.get(&(path, dataset.to_owned()))
    }

    /// Runs one trial, on from its checkpoint if it has one, and writes what it leaves.
    ///
    /// # Errors
    /// [`Interrupted`], with a checkpoint left; when results cannot be written. A trial that fails is a record, not an
    /// error here.
    pub fn one(
        &self,
        store: &Store,
        trial: &Trial,
        threads: usize,
        stop: &AtomicBool,
        observer: &dyn Observer,
    ) -> Result<Record> {
        let (record, outcomes) = self.tried(store, trial, threads, stop, observer)?;
        self.keep(store, trial, &record, outcomes)?;
        Ok(record)
    }

    /// Runs a trial: what it leaves, and beside it what came out of it, where it did not fail.
    ///
    /// # Errors
    /// [`Interrupted`], with a checkpoint left. A trial that fails otherwise is a record that says why.
    fn tried(
        &self,
        store: &Store,
        trial: &Trial,
        threads: usize,
        stop: &AtomicBool,
        observer: &dyn Observer,
    ) -> Result<(Record, Option<trial::Outcomes>)> {
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        let clock = Instant::now();
        let keeper = self.keeper(store, trial);
        let result = self.outcomes(trial, stop, observer, &keeper);
        let mut record = self.record(trial, threads, started);
        match result {
            Ok(mut outcomes) => {
                record.outcome = outcomes.outcome.clone();
                record.tests = std::mem::take(&mut outcomes.tests);
                record.losses = std::mem::take(&mut outcomes.losses);
                record.learning_rates = std::mem::take(&mut outcomes.learning_rates);
                record.found = std::mem::take(&mut outcomes.found);
                record.provenance.device = ran::devices(&outcomes.ran);
                record.provenance.arithmetic = ran::arithmetics(&outcomes.ran);
                record.cost = outcomes.cost.clone();
                record.cost.operations = self.operations(trial);
                Ok((record, Some(outcomes)))
            }
            Err(e) if e.is::<Interrupted>() => Err(e),
            Err(e) => {
                record.outcome = Outcome::Failed {
                    reason: reason(&e),
                    step: None,
                    last_loss: None,
                };
                record.cost.train_seconds = clock.elapsed().as_secs_f64();
                Ok((record, None))
            }
        }
    }

    fn keeper(&self, store: &Store, trial: &Trial) -> Keeper {
        Keeper::new(store.dir(), &trial.planned.key, self.checkpoint_every)
    }

    /// The record of a trial of which nothing has come out yet.
    fn record(&self, trial: &Trial, threads: usize, started: u64) -> Record {
        let p = &trial.planned;
        let splits = self.start(p).into_iter();
        let picks = start::datasets(&p.dataset).filter_map(|id| trial.picks.get(id));
        Record {
            schema: SCHEMA,
            key: p.key.clone(),
            suite: self.suite.name.clone(),
            suite_hash: self.suite.hash.clone(),
            protocol: p.protocol,
            method: p.method.clone(),
            algorithm: p.algorithm.clone(),
            settings: trial.method.settings.clone().into(),
            suite_settings: self.settings(trial).into(),
            dataset: p.dataset.clone(),
            shots: p.shots,
            seed: p.seed,
            outcome: Outcome::Finished,
            tests: Vec::new(),
            losses: Vec::new(),
            learning_rates: Vec::new(),
            found: Found::new(),
            notes: self.notes(trial),
            titles: self.titles(trial),
            cost: Cost::default(),
            provenance: Provenance {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                commit: env!("PROMPTBED_COMMIT").to_owned(),
                backbone: self.suite.backbone.clone(),
                backbone_fingerprint: self.clip.identity(),
                split_hash: key::one_hash(splits.map(Feed::split_hash)),
                picks_hash: key::one_hash(picks.map(String::as_str)),
                processor: machine::processor(),
                device: ran::devices(std::slice::from_ref(&self.ran)),
                arithmetic: ran::arithmetics(std::slice::from_ref(&self.ran)),
                threads,
                started,
            },
        }
    }

    /// Writes down what a trial left. The record comes last, and takes the
    /// checkpoint's place: it says that all else is there.
    fn keep(
        &self,
        store: &Store,
        trial: &Trial,
        record: &Record,
        outcomes: Option<trial::Outcomes>,
    ) -> Result<()> {
        let p = &trial.planned;
        if let Some(outcomes) = outcomes.filter(|o| o.outcome == Outcome::Finished) {
            store.write_predictions(&p.key, &outcomes.predictions)?;
            crate::run::prompts::write(
                &store
                    .dir()
                    .join("prompts")
                    .join(format!("{}.safetensors", p.key)),
                record,
                &outcomes,
            )?;
            for id in trial.picks.keys() {
                let Some(picks) = self.picks(trial, id)? else {
                    continue;
                };
                let path = store
                    .dir()
                    .join("picks")
                    .join(picked::name(id, p.shots, p.seed));
                std::fs::create_dir_all(store.dir().join("picks"))
                    .with_context(|| format!("{}: cannot be written", path.display()))?;
                replace(&path, picks.to_json().as_bytes())?;
            }
        }
        store.write(record)?;
        self.keeper(store, trial).remove();
        Ok(())
    }

    fn outcomes(
        &self,
        trial: &Trial,
        stop: &AtomicBool,
        observer: &dyn Observer,
        keeper: &Keeper,
    ) -> Result<trial::Outcomes> {
        let line = self.line_of(trial);
        let on = Backbones {
            clip: self.clip.clone(),
            teacher: self.teacher(line).cloned(),
            teacher_prompts: self
                .taught(line, &trial.planned.dataset)
                .map(|taught| taught.prompts.clone()),
        };
        trial::run(&Task {
            on: &on,
            method: &trial.method,
            stages: &self.stages(trial)?,
            views: self.suite.views,
            seed: trial.planned.seed,
            ran: &self.ran,
            stop,
            observer,
            keeper: Some(keeper),
        })
    }

    /// What of the suite a trial runs with.
    fn settings(&self, trial: &Trial) -> BTreeMap<String, serde_json::Value> {
        let precision = self.suite.precision.name();
        let mut settings = BTreeMap::from([("precision".to_owned(), precision.into())]);
        // A method that is not trained sees no training view.
        if trial.method.training.is_some() {
            settings.insert("views".to_owned(), self.suite.views.to_string().into());
        }
        if let Some(arithmetic) = self.suite.arithmetic {
            settings.insert("arithmetic".to_owned(), arithmetic.name().into());
        }
        if let Some(bytes) = self.suite.memory {
            settings.insert("memory".to_owned(), bytes.into());
        }
        settings
    }

    /// What must be said of the datasets of a trial.
    fn notes(&self, trial: &Trial) -> Vec<String> {
        let mut notes: Vec<String> = Vec::new();
        for target in self.targets(&trial.planned, self.line_of(trial)) {
            let dataset = &target.feed.dataset;
            for note in dataset.notes.iter().filter(|n| n.is_of_numbers()) {
                let note = format!("{}: {note}", dataset.id);
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
        notes
    }

    /// What tables call its datasets, where that is not their ids.
    fn titles(&self, trial: &Trial) -> BTreeMap<String, String> {
        let own = self.start(&trial.planned);
        let targets = self.targets(&trial.planned, self.line_of(trial));
        let targets = targets.iter().map(|t| &t.feed.dataset);
        let all = targets.chain(own.iter().map(|f| &f.dataset));
        // Drawn ones go by their ids: their titles say what is drawn, and rows of a catalogue say how they are called.
        let is_drawn = |id: &str| datasets::drawn::ids().any(|drawn| drawn == id);
        all.filter(|d| d.title != d.id && !is_drawn(&d.id))
            .map(|d| (d.id.clone(), d.title.clone()))
            .collect()
    }

    /// What training a trial cannot do without.
    fn operations(&self, trial: &Trial) -> f64 {
        let counter = Counter {
            architecture: &self.architecture,
            method: &trial.method,
        };
        let count = || -> Result<f64> {
            let mut sum = 0.0;
            if !trial.method.learns() {
                return Ok(sum);
            }
            for stage in self.stages(trial)? {
                let of = |l: &Lesson| Population::counted(&l.feed.dataset.split);
                let of: Vec<Population> = stage.lessons.iter().map(of).collect::<Result<_>>()?;
                let lessons = of.iter().zip(&stage.lessons);
                let lessons = lessons.map(|(of, l)| (of, l.set, l.learned.train.len()));
                let lessons: Vec<_> = lessons.collect();
                sum += counter.learning(&lessons, self.suite.views).total();
            }
            Ok(sum)
        };
        // A set without classes has failed before it gets here.
        count().unwrap_or(0.0)
    }

    fn line_of(&self, trial: &Trial) -> &Line {
        &self.suite.methods[trial.line]
    }
}
