//! A suite's trials: listed, claimed, run side by side, written down as soon as they are done.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clip::Clip;
use clip::weights::Architecture;
use datasets::{Catalogue, Dataset, Picks, picks};
use methods::Sees;

use crate::cache::Cache;
use crate::data::{self, Feed};
use crate::estimate::population::Population;
use crate::estimate::work::Counter;
use crate::picked;
use crate::plan;
use crate::progress::Progress;
use crate::reason::reason;
use crate::record::{Cost, Outcome, Provenance, Record, SCHEMA, Test};
use crate::store::{Planned, Store, replace};
use crate::suite::{Line, Precision, Resolved, Suite};
use crate::tensorboard::{Curves, Events};
use crate::trial::{self, Epoch, Interrupted, Observer, Step, Target, Task};

/// Version of what trials compute; a change that moves any number raises it, and finished trials run again.
const RESULTS: u32 = 3;

/// One trial of the plan.
pub struct Trial {
    /// What tables know of it before it has run.
    pub planned: Planned,
    line: usize,
    method: Resolved,
    picks: Option<Arc<Picks>>,
}

/// A suite with its data and backbone, ready to run.
pub struct Sweep {
    suite: Suite,
    clip: Arc<Clip>,
    architecture: Architecture,
    feeds: BTreeMap<String, Arc<Feed>>,
    /// Trials in suite order.
    pub trials: Vec<Trial>,
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
    ) -> Result<Self> {
        let mut wanted = suite.datasets.clone();
        for id in suite.source.iter().chain(suite.variants.iter().flatten()) {
            if !wanted.contains(id) {
                wanted.push(id.clone());
            }
        }
        let (mut feeds, mut wrong) = (BTreeMap::new(), Vec::new());
        for id in &wanted {
            match data::open(id, catalogue, root) {
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
        if !wrong.is_empty() {
            bail!(wrong.join("\n"));
        }
        let mut sweep = Self {
            suite,
            clip,
            architecture,
            feeds,
            trials: Vec::new(),
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
            let picks = line.entry.training.is_some().then(|| {
                let split = &self.feeds[&cell.dataset].dataset.split;
                let entry = drawn.entry((cell.dataset.clone(), cell.shots, cell.seed));
                entry
                    .or_insert_with(|| {
                        let from = &self.suite.picks;
                        let picks =
                            picked::picks(from, &cell.dataset, split, cell.shots, cell.seed);
                        // A list that cannot be read is told below, with all the others.
                        Arc::new(picks.unwrap_or_else(|e| {
                            wrong.push(reason(&e));
                            picks::draw(split, cell.shots, cell.seed)
                        }))
                    })
                    .clone()
            });
            let mut planned = Planned {
                key: String::new(),
                protocol: cell.protocol,
                method: line.label.clone(),
                algorithm: line.entry.name.to_owned(),
                dataset: cell.dataset,
                shots: cell.shots,
                seed: cell.seed,
            };
            planned.key = self.key(&planned, &cell.method, picks.as_deref());
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

    /// A readable name and a hash of everything that can change the result.
    fn key(&self, p: &Planned, method: &Resolved, picks: Option<&Picks>) -> String {
        let feed = &self.feeds[&p.dataset].dataset;
        let targets: Vec<[String; 3]> = self
            .targets(p)
            .iter()
            .map(|t| {
                [
                    t.feed.dataset.id.clone(),
                    t.feed.dataset.split.hash(),
                    t.feed.dataset.template.clone(),
                ]
            })
            .collect();
        let mut all = serde_json::json!({
            "results": RESULTS,
            "algorithm": p.algorithm,
            "settings": method.settings,
            "protocol": p.protocol,
            "views": self.suite.views.to_string(),
            "backbone": self.clip.identity(),
            "split": feed.split.hash(),
            "template": feed.template,
            "targets": targets,
            "picks": picks.map(Picks::hash),
            "seed": p.seed,
        });
        if matches!(method.config.sees(), Sees::Views { augmix: true, .. }) {
            let targets = self.targets(p);
            let plain = targets
                .iter()
                .map(|t| &t.feed.dataset)
                .filter(|d| !d.augmix);
            let plain: Vec<&str> = plain.map(|d| d.id.as_str()).collect();
            // Named only where a row leaves AugMix out, so that no other trial gets another key.
            if !plain.is_empty() {
                all["without_augmix"] = plain.into();
            }
        }
        if self.suite.precision != Precision::default() {
            all["precision"] = self.suite.precision.name().into();
        }
        let hash = crate::hash::hex(all.to_string().as_bytes());
        format!(
            "{}-{}-{}shot-seed{}-{}",
            p.method,
            p.dataset,
            p.shots,
            p.seed,
            &hash[..10]
        )
    }

    fn targets(&self, planned: &Planned) -> Vec<Target> {
        let targets = plan::targets(&self.suite, planned.protocol, &planned.dataset);
        let target = |(id, set)| Target {
            feed: self.feeds[&id].clone(),
            set,
        };
        targets.into_iter().map(target).collect()
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

    fn one(
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
        let result = self.outcomes(trial, feed, stop, observer);
        let mut record = Record {
            schema: SCHEMA,
            key: p.key.clone(),
            suite: self.suite.name.clone(),
            suite_hash: self.suite.hash.clone(),
            protocol: p.protocol,
            method: p.method.clone(),
            algorithm: p.algorithm.clone(),
            settings: trial.method.settings.clone(),
            dataset: p.dataset.clone(),
            shots: p.shots,
            seed: p.seed,
            outcome: Outcome::Finished,
            tests: Vec::new(),
            losses: Vec::new(),
            learning_rates: Vec::new(),
            notes: self.notes(p),
            titles: self.titles(p),
            cost: Cost::default(),
            provenance: Provenance {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                commit: env!("PROMPTBED_COMMIT").to_owned(),
                backbone: self.suite.backbone.clone(),
                backbone_fingerprint: self.clip.identity(),
                split_hash: feed.dataset.split.hash(),
                picks_hash: trial.picks.as_ref().map(|p| p.hash()).unwrap_or_default(),
                processor: processor(),
                threads,
                started,
            },
        };
        // A method that is not trained sees none of them; its own `views` are another thing (TPT's count).
        if trial.method.training.is_some() {
            let views = self.suite.views.to_string();
            record.settings.insert("views".to_owned(), views.into());
        }
        record
            .settings
            .insert("precision".to_owned(), self.suite.precision.name().into());
        if let Some(bytes) = self.suite.memory {
            record.settings.insert("memory".to_owned(), bytes.into());
        }
        match result {
            Ok(outcomes) => {
                if outcomes.outcome == Outcome::Finished {
                    store.write_predictions(&p.key, &outcomes.predictions)?;
                    crate::prompts::write(
                        &store
                            .dir()
                            .join("prompts")
                            .join(format!("{}.safetensors", p.key)),
                        &record,
                        &outcomes,
                    )?;
                    if let Some(picks) = &trial.picks {
                        let path = store
                            .dir()
                            .join("picks")
                            .join(picked::name(&p.dataset, p.shots, p.seed));
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
        Ok(record)
    }

    fn outcomes(
        &self,
        trial: &Trial,
        feed: &Arc<Feed>,
        stop: &AtomicBool,
        observer: &dyn Observer,
    ) -> Result<trial::Outcomes> {
        let set = plan::trained_classes(trial.planned.protocol);
        let picked = match &trial.picks {
            None => Vec::new(),
            Some(picks) => feed.dataset.split.with_picks(picks).subset(set)?.0.train,
        };
        trial::run(&Task {
            clip: &self.clip,
            method: &trial.method,
            feed,
            set,
            picks: &picked,
            targets: &self.targets(&trial.planned),
            views: self.suite.views,
            seed: trial.planned.seed,
            stop,
            observer,
        })
    }

    /// What must be said of the datasets of a trial.
    fn notes(&self, planned: &Planned) -> Vec<String> {
        let mut notes: Vec<String> = Vec::new();
        for target in self.targets(planned) {
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
    fn titles(&self, planned: &Planned) -> BTreeMap<String, String> {
        let own = &self.feeds[&planned.dataset].dataset;
        let targets = self.targets(planned);
        let all = targets.iter().map(|t| &t.feed.dataset).chain([own]);
        // Drawn ones go by their ids: their titles say what is drawn, and rows of a catalogue say how they are called.
        let is_drawn = |id: &str| datasets::drawn::datasets().iter().any(|d| d.id == id);
        all.filter(|d| d.title != d.id && !is_drawn(&d.id))
            .map(|d| (d.id.clone(), d.title.clone()))
            .collect()
    }

    /// What training a trial cannot do without.
    fn operations(&self, trial: &Trial) -> f64 {
        let Some(picks) = &trial.picks else {
            return 0.0;
        };
        let split = &self.feeds[&trial.planned.dataset].dataset.split;
        let set = plan::trained_classes(trial.planned.protocol);
        let counted = Population::counted(split).and_then(|of| {
            let pictures = split.with_picks(picks).subset(set)?.0.train.len();
            let counter = Counter {
                architecture: &self.architecture,
                algorithm: &trial.planned.algorithm,
                method: &trial.method,
            };
            Ok(counter
                .training(&of, set, pictures, self.suite.views)
                .total())
        });
        // A set without classes has failed before it gets here.
        counted.unwrap_or(0.0)
    }

    /// The paper's figures beside the method they belong to.
    pub fn line_of(&self, trial: &Trial) -> &Line {
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

/// Name of the processor, where the system tells.
pub fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find_map(|l| l.strip_prefix("model name"));
    line.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |l| l.trim_start_matches([' ', '\t', ':']).to_owned(),
    )
}
