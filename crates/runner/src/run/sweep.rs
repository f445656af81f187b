//! A suite's trials: listed, claimed, run side by side, written down as soon as they are done.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clip::Clip;
use clip::weights::Architecture;
use datasets::{Catalogue, Dataset, Picks, picks};
use methods::{Backbones, Descriptions};

use crate::machine;
use crate::reason::reason;
use crate::record::{Cost, Outcome, Provenance, Record, SCHEMA, Test};
use crate::run::cache::Cache;
use crate::run::checkpoint::{self, Keeper};
use crate::run::described;
use crate::run::feed::{self, Feed};
use crate::run::picked;
use crate::run::plan;
use crate::run::population::Population;
use crate::run::progress::Progress;
use crate::run::suite::{Line, Resolved, Suite};
use crate::run::taught::{self, Taught};
use crate::run::tensorboard::{Curves, Events};
use crate::run::trial::{self, Epoch, Interrupted, Observer, Resumed, Step, Task};
use crate::run::work::Counter;
use crate::store::{Planned, Store, replace};

mod key;
mod stages;

/// Version of what trials compute; a change that moves any number raises it, and finished trials run again.
const RESULTS: u32 = 3;

/// One trial of the plan.
pub struct Trial {
    /// What tables know of it before it has run.
    pub planned: Planned,
    line: usize,
    method: Resolved,
    /// The few shots of each dataset it learns from, by its id; none where it takes none.
    picks: BTreeMap<String, Arc<Picks>>,
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
}

/// How a sweep went.
#[derive(Debug, Default)]
pub struct Tally {
    /// Finished now.
    pub finished: usize,
    /// Finished before, not run again.
    pub before: usize,
    /// Failed, with reasons.
    pub failed: Vec<(String, String)>,
    /// Stopped by the user before all was done.
    pub interrupted: bool,
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
        let mut wanted = suite.datasets.clone();
        for id in suite.source.iter().chain(suite.variants.iter().flatten()) {
            if !wanted.contains(id) {
                wanted.push(id.clone());
            }
        }
        let (mut feeds, mut wrong) = (BTreeMap::new(), Vec::new());
        for id in &wanted {
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
        for path in suite.methods.iter().filter_map(|l| l.descriptions.as_ref()) {
            for (id, feed) in &feeds {
                match described::read(path, &feed.dataset) {
                    Ok(read) => {
                        descriptions.insert((path.clone(), id.clone()), Arc::new(read));
                    }
                    Err(e) => wrong.push(reason(&e)),
                }
            }
        }
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
        };
        sweep.trials = sweep.list()?;
        Ok(sweep)
    }

    /// The suite.
    pub fn suite(&self) -> &Suite {
        &self.suite
    }

    /// The datasets, with what must be said of them.
    pub fn datasets(&self) -> impl Iterator<Item = &Dataset> {
        self.feeds.values().map(|f| &f.dataset)
    }

    fn list(&self) -> Result<Vec<Trial>> {
        let mut wrong = Vec::new();
        let mut drawn: HashMap<(String, usize, u64), Arc<Picks>> = HashMap::new();
        let cells = plan::cells(&self.suite).into_iter();
        let trials = cells.map(|cell| {
            let line = &self.suite.methods[cell.line];
            let stages = plan::stages(&self.suite, cell.protocol, &cell.dataset);
            let taught = stages.iter().flat_map(|s| &s.train).map(|(id, _)| id);
            let taught: BTreeSet<&String> = taught.filter(|_| cell.method.takes_shots()).collect();
            let picks = taught.into_iter().map(|id| {
                let split = &self.feeds[id].dataset.split;
                let entry = drawn.entry((id.clone(), cell.shots, cell.seed));
                let picks = entry.or_insert_with(|| {
                    let from = &self.suite.picks;
                    let picks = picked::picks(from, id, split, cell.shots, cell.seed);
                    // A list that cannot be read is told below, with all the others.
                    Arc::new(picks.unwrap_or_else(|e| {
                        wrong.push(reason(&e));
                        picks::draw(split, cell.shots, cell.seed)
                    }))
                });
                (id.clone(), picks.clone())
            });
            let picks: BTreeMap<_, _> = picks.collect();
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
        });
        let trials = trials.collect();
        if !wrong.is_empty() {
            bail!(wrong.join("\n"));
        }
        Ok(trials)
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

    /// Runs what is not finished in `store`, `jobs` trials at a time.
    ///
    /// # Errors
    /// When results cannot be written. A trial that fails is counted, not an error here.
    pub fn run(
        &self,
        store: &Store,
        jobs: usize,
        threads: usize,
        stop: &AtomicBool,
        progress: &Progress,
        events: Option<&Events>,
    ) -> Result<Tally> {
        let planned: Vec<Planned> = self.trials.iter().map(|t| t.planned.clone()).collect();
        store.write_plan(&self.suite.name, &planned)?;
        checkpoint::tidy(store.dir(), |key| store.has_finished(key));
        let mut tally = Tally::default();
        let mut queue = VecDeque::new();
        for trial in &self.trials {
            if store.has_finished(&trial.planned.key) {
                tally.before += 1
            } else {
                queue.push_back(trial)
            }
        }
        progress.start(self.trials.len(), tally.before);
        let (queue, tally) = (Mutex::new(queue), Mutex::new(tally));
        let broken: Mutex<Option<anyhow::Error>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for job in 0..jobs {
                let (queue, tally, broken) = (&queue, &tally, &broken);
                let worker = move || -> Result<()> {
                    let pool = rayon::ThreadPoolBuilder::new()
                        .num_threads(threads)
                        .build()?;
                    while !stop.load(Ordering::Relaxed) {
                        let Some(trial) = queue.lock().expect("no panic while held").pop_front()
                        else {
                            break;
                        };
                        progress.begin(job, &trial.planned);
                        let watch = Watch {
                            progress,
                            job,
                            curves: events.map(|e| e.trial(&trial.planned.key)),
                        };
                        let outcome =
                            pool.install(|| self.one(store, trial, threads, stop, &watch));
                        let mut tally = tally.lock().expect("no panic while held");
                        match outcome {
                            Ok(record) => {
                                match &record.outcome {
                                    Outcome::Finished => tally.finished += 1,
                                    Outcome::Failed { reason, .. } => {
                                        tally.failed.push((record.key.clone(), reason.clone()));
                                    }
                                }
                                progress.end(job, &record);
                            }
                            Err(e) if e.is::<Interrupted>() => tally.interrupted = true,
                            Err(e) => return Err(e),
                        }
                    }
                    Ok(())
                };
                std::thread::Builder::new()
                    .name(format!("trial-{job}"))
                    .stack_size(16 << 20)
                    .spawn_scoped(scope, move || {
                        if let Err(e) = worker() {
                            stop.store(true, Ordering::Relaxed);
                            broken.lock().expect("no panic while held").get_or_insert(e);
                        }
                    })
                    .expect("threads can be started");
            }
        });
        if let Some(e) = broken.into_inner().expect("no panic while held") {
            return Err(e);
        }
        let mut tally = tally.into_inner().expect("no panic while held");
        tally.interrupted |= !queue.into_inner().expect("no panic while held").is_empty();
        Ok(tally)
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
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        let clock = Instant::now();
        let p = &trial.planned;
        let feed = &self.feeds[&p.dataset];
        let keeper = Keeper::new(store.dir(), &p.key, self.checkpoint_every);
        let result = self.outcomes(trial, stop, observer, &keeper);
        let mut record = Record {
            schema: SCHEMA,
            key: p.key.clone(),
            suite: self.suite.name.clone(),
            suite_hash: self.suite.hash.clone(),
            protocol: p.protocol,
            method: p.method.clone(),
            algorithm: p.algorithm.clone(),
            settings: trial.method.settings.clone(),
            suite_settings: self.settings(trial),
            dataset: p.dataset.clone(),
            shots: p.shots,
            seed: p.seed,
            outcome: Outcome::Finished,
            tests: Vec::new(),
            losses: Vec::new(),
            learning_rates: Vec::new(),
            notes: self.notes(trial),
            titles: self.titles(trial),
            cost: Cost::default(),
            provenance: Provenance {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                commit: env!("PROMPTBED_COMMIT").to_owned(),
                backbone: self.suite.backbone.clone(),
                backbone_fingerprint: self.clip.identity(),
                split_hash: feed.split_hash().to_owned(),
                picks_hash: trial
                    .picks
                    .get(&p.dataset)
                    .map(|p| p.hash())
                    .unwrap_or_default(),
                processor: machine::processor(),
                threads,
                started,
            },
        };
        match result {
            Ok(outcomes) => {
                if outcomes.outcome == Outcome::Finished {
                    store.write_predictions(&p.key, &outcomes.predictions)?;
                    crate::run::prompts::write(
                        &store
                            .dir()
                            .join("prompts")
                            .join(format!("{}.safetensors", p.key)),
                        &record,
                        &outcomes,
                    )?;
                    for (id, picks) in &trial.picks {
                        let path = store
                            .dir()
                            .join("picks")
                            .join(picked::name(id, p.shots, p.seed));
                        std::fs::create_dir_all(store.dir().join("picks"))
                            .with_context(|| format!("{}: cannot be written", path.display()))?;
                        replace(&path, picks.to_json().as_bytes())?;
                    }
                }
                record.outcome = outcomes.outcome;
                record.tests = outcomes.tests;
                record.losses = outcomes.losses;
                record.learning_rates = outcomes.learning_rates;
                record.cost = outcomes.cost;
                record.cost.operations = self.operations(trial);
            }
            Err(e) if e.is::<Interrupted>() => return Err(e),
            Err(e) => {
                record.outcome = Outcome::Failed {
                    reason: reason(&e),
                    step: None,
                    last_loss: None,
                };
                record.cost.train_seconds = clock.elapsed().as_secs_f64();
            }
        }
        store.write(&record)?;
        keeper.remove();
        Ok(record)
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
        let own = &self.feeds[&trial.planned.dataset].dataset;
        let targets = self.targets(&trial.planned, self.line_of(trial));
        let all = targets.iter().map(|t| &t.feed.dataset).chain([own]);
        // Drawn ones go by their ids: their titles say what is drawn, and rows of a catalogue say how they are called.
        let is_drawn = |id: &str| datasets::drawn::datasets().iter().any(|d| d.id == id);
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
                // Datasets that are learned at once are counted as one after the other: as many pictures, fewer texts.
                for lesson in &stage.lessons {
                    let of = Population::counted(&lesson.feed.dataset.split)?;
                    let pictures = lesson.learned.train.len();
                    let load = counter.training(&of, lesson.set, pictures, self.suite.views);
                    sum += load.total();
                }
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

/// One job's trial, shown on the terminal and, where asked for, in event files.
struct Watch<'a> {
    progress: &'a Progress,
    job: usize,
    curves: Option<Curves>,
}

impl Observer for Watch<'_> {
    fn resumed(&self, before: &Resumed) {
        self.curves.iter().for_each(|c| c.resumed(before));
    }

    fn stepped(&self, step: &Step) {
        self.progress.step(self.job, step.done, step.all);
        self.curves.iter().for_each(|c| c.stepped(step));
    }

    fn epoch_ended(&self, epoch: &Epoch) {
        self.curves.iter().for_each(|c| c.epoch_ended(epoch));
    }

    fn tested(&self, test: &Test) {
        self.curves.iter().for_each(|c| c.tested(test));
    }
}
