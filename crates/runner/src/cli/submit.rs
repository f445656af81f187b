//! `promptbed submit`: a suite file in, jobs of a cluster out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::ValueEnum;
use rayon::prelude::*;

use super::Done;
use super::dry::time as readable;
use super::setup::{self, Setup};
use super::stop::duration;
use crate::cluster::jobs::{self, Job, Phase};
use crate::cluster::pack::{self, Task, Weighed};
use crate::cluster::script::{self, Array, Wishes};
use crate::cluster::{self, Program, Standing, slurm};
use crate::device::{OnMachine, Place, Wanted};
use crate::measure::estimate;
use crate::run::feed;
use crate::run::plan;
use crate::run::population::Population;
use crate::run::suite::{Precision, Suite};
use crate::run::sweep::Sweep;
use crate::store::Store;
use crate::store::claims::{self, Holder};

/// Tasks that an array may have on a cluster as Slurm comes (`MaxArraySize`).
const USUAL_ARRAY: usize = 1001;

/// What starts the tasks.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Engine {
    /// Slurm, through sbatch.
    Slurm,
}

/// Submit a suite to a cluster: packs the trials that are left into a job array, the longest first, submits it and
/// returns. Prints the ids of the arrays, a line each.
///
/// Left is what is not finished, runs nowhere and waits in no queue, so submitting again submits what is left by then.
/// Each task is a `promptbed worker` on the results folder, which must be on a file system that all machines share. A
/// last job makes the tables.
///
/// Example: promptbed submit suites/quick.toml --time 4h --cpus 4 --mem 8G
#[derive(clap::Args)]
pub struct Submit {
    /// Suite file.
    suite: PathBuf,
    /// Results folder [default: results/<suite>].
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    setup: Setup,
    #[command(flatten)]
    on: OnMachine,
    /// What starts the tasks.
    #[arg(long, value_enum, default_value = "slurm")]
    engine: Engine,
    /// Most tasks that trials are packed into. More than the cluster allows in an array go as several.
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u32).range(1..))]
    array_size: u32,
    /// Cores of each task [default: as the cluster has it].
    #[arg(long, value_name = "C", value_parser = clap::value_parser!(u16).range(1..))]
    cpus: Option<u16>,
    /// Memory of each task, as sbatch takes it: 8G [default: as the cluster has it].
    #[arg(long, value_name = "M")]
    mem: Option<String>,
    /// Limit of each task, as 90m, 4h or 1d12h, or as Slurm writes it: 04:00:00; rounded up to minutes. Before it ends,
    /// a task saves what it has and queues again [default: as the cluster has it].
    #[arg(long, value_name = "T", value_parser = minutes)]
    time: Option<u64>,
    /// Partition [default: as the cluster has it].
    #[arg(long, value_name = "P")]
    partition: Option<String>,
    /// One more option of sbatch, as --sbatch-arg=--account=lab; may be given again.
    #[arg(long, value_name = "OPTION", value_parser = option)]
    sbatch_arg: Vec<String>,
    /// Print the script and submit nothing.
    #[arg(long)]
    print: bool,
}

fn option(text: &str) -> Result<String, String> {
    if text.starts_with("--array") {
        return Err(
            "is decided by --array-size; `scontrol update JobId=ID ArrayTaskThrottle=N` bounds how many run at once"
                .to_owned(),
        );
    }
    if text.starts_with("--") && text.len() > 2 {
        Ok(text.to_owned())
    } else {
        Err(
            "must be one long option of sbatch with its value, as --sbatch-arg=--account=lab"
                .to_owned(),
        )
    }
}

/// Minutes of a limit, rounded up.
fn minutes(text: &str) -> Result<u64, String> {
    let seconds = if text.contains([':', '-']) {
        slurm::seconds(text)
    } else if text.ends_with(|c: char| c.is_ascii_alphabetic()) {
        duration(text).ok().map(|d| d.as_secs_f64().ceil() as u64)
    } else {
        // To Slurm a bare number is minutes, to `--time-limit` it is seconds.
        None
    };
    let found = seconds.filter(|s| *s > 0).map(|s| s.div_ceil(60));
    found.ok_or_else(|| {
        "must be a time with units, as 90m, 4h or 1d12h, or as Slurm writes it: 04:00:00 or 1-12"
            .to_owned()
    })
}

impl Submit {
    pub fn run(self) -> Result<Done> {
        let Engine::Slurm = self.engine;
        let most = self.most_tasks()?;
        let catalogue = setup::catalogue(self.setup.places.catalogue.as_deref())?;
        let suite = Suite::read(&self.suite, &feed::known(&catalogue))?;
        let elsewhere = self.on.elsewhere()?;
        // Cards are where the tasks run.
        let place = match self.on.device()?.unwrap_or_default() {
            Wanted::Processor => setup::place(&suite, &self.suite, &elsewhere)?,
            Wanted::Card(_) | Wanted::Auto => elsewhere.with((Precision::Float32, ""), None)?,
        };
        let name = suite.name.clone();
        let sweep = self
            .setup
            .open(suite, &self.suite, &catalogue, &place)?
            .sweep;
        let dir = self
            .out
            .clone()
            .unwrap_or_else(|| PathBuf::from("results").join(&name));
        // Jobs start in folders of their own choice.
        let dir = std::path::absolute(&dir)
            .with_context(|| format!("{}: has no place", dir.display()))?;
        let found = Found::new(&sweep, &dir, self.print)?;
        found.say(&dir);
        if found.left.is_empty() {
            return Ok(Done::All);
        }
        let tasks = self.tasks(&sweep, &found.left)?;
        let program = Program::read(&dir)?;
        let scripts =
            |folder: &Path| self.scripts(sweep.suite(), &dir, folder, &program, tasks.len(), most);
        if self.print {
            crate::out!("{}", scripts(&jobs::next(&dir)?)?.0.trim_end());
            say_tasks(&tasks, found.left.len());
            return Ok(Done::All);
        }
        let store = Store::create(&dir)?;
        self.setup.keep(&store, sweep.suite(), &self.suite)?;
        store.write_plan(&name, &sweep.planned())?;
        program.keep()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let lists = tasks.iter().map(|t| t.keys.clone()).collect();
        let job = Job::create(&dir, "slurm", &name, now.map_or(0, |d| d.as_secs()), lists)?;
        let (script, after) = scripts(&job.folder)?;
        let job = cluster::submit(job, &script, &after, most)?;
        for array in &job.submission.arrays {
            crate::out!("{}", array.job.id);
        }
        say_tasks(&tasks, found.left.len());
        crate::say!(
            "scripts and logs: {}; `promptbed status {}` shows how far it is, `promptbed cancel` takes it back",
            job.folder.display(),
            dir.display()
        );
        Ok(Done::All)
    }

    /// Most tasks of one array; the usual where there is no Slurm and nothing is submitted.
    fn most_tasks(&self) -> Result<usize> {
        match slurm::most_tasks() {
            Err(error) if self.print => {
                crate::say!("note: {error}");
                crate::say!(
                    "note: shown as for a cluster whose arrays have at most {USUAL_ARRAY} tasks"
                );
                Ok(USUAL_ARRAY)
            }
            other => Ok(other?),
        }
    }

    /// The trials that are left, packed by what each takes on its own.
    fn tasks(&self, sweep: &Sweep, left: &[usize]) -> Result<Vec<Task>> {
        let suite = sweep.suite();
        let mut populations = BTreeMap::new();
        for dataset in sweep.datasets() {
            populations.insert(dataset.id.clone(), Population::counted(&dataset.split)?);
        }
        let cells = plan::cells(suite);
        let architecture = sweep.architecture();
        let loads = estimate::alone(suite, &cells, architecture, &populations);
        let threads = self.cpus.map_or(1, usize::from);
        // No more than this machine has: what matters is how trials compare.
        let threads = threads.min(crate::machine::cores());
        let rates = estimate::rates(
            suite,
            &cells,
            architecture,
            &populations,
            (1, threads),
            &Place::default(),
        )?;
        let weighed = left.iter().map(|&trial| Weighed {
            key: sweep.trials[trial].planned.key.clone(),
            seconds: rates.seconds(&loads[trial]),
        });
        Ok(pack::pack(weighed.collect(), self.array_size as usize))
    }

    /// The script of the array and the one of the job after it.
    fn scripts(
        &self,
        suite: &Suite,
        dir: &Path,
        folder: &Path,
        program: &Program,
        tasks: usize,
        most: usize,
    ) -> Result<(String, String)> {
        let wishes = Wishes {
            cpus: self.cpus,
            memory: self.mem.clone(),
            minutes: self.time,
            partition: self.partition.clone(),
            more: self.sbatch_arg.clone(),
        };
        let from = std::env::current_dir().context("the folder this runs in is not known")?;
        let name = suite.name.as_str();
        let (list, program) = (folder.join("tasks.json"), program.path());
        let (dir, list, program) = (
            script::text(dir)?,
            script::text(&list)?,
            script::text(program)?,
        );
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        let mut worker: Vec<String> =
            words(&[program, "worker", dir, "--suite", name, "--trials", list]);
        if let Some(device) = self.on.device()? {
            worker.extend(["--device".to_owned(), device.to_string()]);
        }
        if let Some(arithmetic) = self.on.arithmetic()?.passed_on(suite.arithmetic) {
            worker.extend(["--arithmetic".to_owned(), arithmetic.to_string()]);
        }
        let array = Array {
            suite: name,
            from: &from,
            folder,
            tasks: tasks.min(most),
            wishes: &wishes,
            worker: &worker,
        };
        let after = [
            words(&[program, "table", dir]),
            words(&[program, "plot", dir]),
            words(&[program, "report", dir]),
        ];
        let after = script::after(name, &from, folder, &wishes, &after)?;
        Ok((array.script()?, after))
    }
}

/// Where the trials of a suite are.
struct Found {
    finished: usize,
    /// Held by workers that live, or may.
    claimed: usize,
    /// In tasks that will come to them.
    waiting: usize,
    /// Tasks that wait for a person: what is in no other place but them, by the names that the engine has for them.
    held: Vec<String>,
    /// Places of the others among the suite's trials.
    left: Vec<usize>,
}

impl Found {
    /// Looks at records, claims and the queue. An engine that does not answer is an error, unless this is only `to_show`.
    fn new(sweep: &Sweep, dir: &Path, to_show: bool) -> Result<Self> {
        let queue = match cluster::standing(dir) {
            Err(error) if to_show => {
                crate::say!("note: {}", crate::reason::reason(&error));
                Vec::new()
            }
            other => other?,
        };
        let mut found = Self {
            finished: 0,
            claimed: 0,
            waiting: 0,
            held: Vec::new(),
            left: Vec::new(),
        };
        let Ok(store) = Store::open(dir) else {
            found.left = (0..sweep.trials.len()).collect();
            return Ok(found);
        };
        let claims = claims::all(dir)?;
        let ours: HashSet<String> = cluster::names(dir)?;
        let standing: Vec<&Standing> = queue.iter().filter(|s| s.stands()).collect();
        let mut tasks: HashMap<&str, &Standing> = HashMap::new();
        for one in &standing {
            tasks.extend(one.keys.iter().map(|key| (key.as_str(), *one)));
        }
        let keys: Vec<&str> = sweep
            .trials
            .iter()
            .map(|t| t.planned.key.as_str())
            .collect();
        let is_finished: Vec<bool> = keys.par_iter().map(|key| store.has_finished(key)).collect();
        for (trial, key) in keys.into_iter().enumerate() {
            if is_finished[trial] {
                found.finished += 1;
            } else if claims
                .get(key)
                .is_some_and(|by| may_live(by, &ours, &queue))
            {
                found.claimed += 1;
            } else if let Some(task) = tasks.get(key) {
                found.waiting += 1;
                let (queued, name) = (&task.queued, task.queued.shown());
                if queued.phase() == Phase::Held && !found.held.contains(&name) {
                    found.held.push(name);
                }
            } else {
                found.left.push(trial);
            }
        }
        Ok(found)
    }

    fn say(&self, dir: &Path) {
        let all = self.finished + self.claimed + self.waiting + self.left.len();
        if !self.held.is_empty() {
            crate::say!(
                "note: these tasks wait until somebody releases them (scontrol release) or cancels them (promptbed cancel \
                 {}): {}",
                dir.display(),
                self.held.join(", ")
            );
        }
        let said = if self.left.is_empty() {
            "nothing is left to submit".to_owned()
        } else {
            format!("{} are left", self.left.len())
        };
        crate::say!(
            "{said}: of {all} trials {} are finished, {} are running, {} are in tasks in the queue",
            self.finished,
            self.claimed,
            self.waiting
        );
    }
}

/// Whether the holder of a claim may live. On another machine only the engine knows, and only of its own jobs.
fn may_live(by: &Holder, ours: &HashSet<String>, queue: &[Standing]) -> bool {
    if let Some(lives) = by.process.lives() {
        return lives;
    }
    let name = by.job.as_deref().and_then(|job| job.strip_prefix("slurm "));
    match name.filter(|name| {
        let id = name.split_once('_').map_or(*name, |(id, _)| id);
        ours.contains(id)
    }) {
        Some(name) => queue.iter().any(|s| s.queued.name() == name),
        None => true,
    }
}

fn say_tasks(tasks: &[Task], trials: usize) {
    let longest = tasks.first().map_or(0.0, |t| t.seconds);
    crate::say!(
        "{trials} trials in {} tasks; the longest would take this machine about {}",
        tasks.len(),
        readable(longest)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_whole_minutes_rounded_up() {
        for (text, wanted) in [
            ("90s", 2),
            ("30m", 30),
            ("4h", 240),
            ("1d12h", 2160),
            ("1h30m1s", 91),
            ("04:00:00", 240),
            ("1-12", 2160),
            ("1:01", 2),
        ] {
            assert_eq!(minutes(text), Ok(wanted), "{text}");
        }
        for wrong in ["", "0s", "45", "h", "4x", "0:00", "-5"] {
            assert!(minutes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_option_is_one_long_word() {
        assert!(option("--account=lab").is_ok());
        for wrong in ["", "--", "-A", "lab", "--array=0-3%2"] {
            assert!(option(wrong).is_err(), "{wrong}");
        }
    }
}
