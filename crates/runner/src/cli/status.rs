//! `promptbed status`: what a results folder has, what is at work, and how long the rest takes.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clip::ops::Arithmetic;
use serde::Serialize;

use super::Done;
use super::dry::time;
use crate::cluster::Queue;
use crate::store::Store;
use crate::store::claims::{Holder, Running, Worker};
use crate::store::survey::{Seconds, State, Survey, Surveyed};

/// Failed and damaged trials that are listed one by one.
const LISTED: usize = 20;
/// Beats that a worker may miss before it is shown as silent.
const MISSED: f64 = 4.0;

/// Show how a sweep stands: reads a results folder, prints what is done, running, failed and left, and how long that takes.
///
/// Example: promptbed status results/quick --watch
#[derive(clap::Args)]
pub struct Status {
    /// Results folder.
    dir: PathBuf,
    /// Print again every few seconds, until every trial has ended.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5", value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub fn run(self) -> Result<Done> {
        let store = Store::open(&self.dir)?;
        loop {
            let survey = store.survey()?;
            let mut standing = Standing::of(&self.dir, &survey);
            standing.queue = Queue::of(&self.dir);
            if self.json {
                let line = serde_json::to_string(&standing).expect("texts and numbers are JSON");
                crate::out!("{line}");
            } else {
                if self.watch.is_some() && std::io::stdout().is_terminal() {
                    // To the top of an empty screen.
                    crate::out!("\x1b[H\x1b[2J");
                }
                standing.print();
            }
            let Some(seconds) = self.watch else { break };
            if standing.left + standing.running.len() + standing.damaged.len() == 0 {
                break;
            }
            std::thread::sleep(Duration::from_secs(seconds));
        }
        Ok(Done::All)
    }
}

/// How a folder stands, as it is shown.
#[derive(Debug, Default, Serialize)]
struct Standing {
    dir: PathBuf,
    /// Trials asked for.
    trials: usize,
    finished: usize,
    left: usize,
    running: Vec<AtWork>,
    failed: Vec<Told>,
    damaged: Vec<Told>,
    /// Records that no suite asks for.
    unplanned: usize,
    suites: Vec<OfSuite>,
    workers: Vec<Worker>,
    problems: Vec<String>,
    /// Tasks of a cluster that were submitted for it.
    queue: Queue,
    /// Seconds that one worker with one trial at a time would need for what runs and is left; null where nothing has
    /// finished yet.
    seconds_of_work: Option<f64>,
    /// Seconds until all is done with as many trials at a time as run now; null where none runs, too.
    seconds_left: Option<f64>,
}

/// A suite's share.
#[derive(Debug, Default, Serialize)]
struct OfSuite {
    suite: String,
    trials: usize,
    finished: usize,
    failed: usize,
    running: usize,
    left: usize,
}

/// A trial and what is said of it.
#[derive(Debug, Serialize)]
struct Told {
    key: String,
    reason: String,
}

/// A running trial.
#[derive(Debug, Serialize)]
struct AtWork {
    key: String,
    host: String,
    pid: u32,
    job: Option<String>,
    /// The card that its towers run on, if one.
    device: Option<String>,
    /// What they multiply by on the processor, if there.
    arithmetic: Option<String>,
    /// Unix seconds by its machine's clock.
    since: u64,
    /// Seconds it had run for when its worker told last.
    seconds: f64,
    step: usize,
    steps: usize,
    /// Seconds until its end, by its steps or what trials like it took.
    seconds_left: Option<f64>,
    /// Seconds until its worker's allocation or time limit ends, where that is known.
    allocated: Option<f64>,
    /// Seconds since its worker was heard of, where it should have been.
    silent: Option<f64>,
}

impl AtWork {
    fn of(key: &str, by: &Holder, how: Option<&Running>, expected: Option<f64>) -> Self {
        let how = how.cloned().unwrap_or_default();
        let seconds_left = if how.step > 0 && how.steps > how.step {
            Some(how.seconds / how.step as f64 * (how.steps - how.step) as f64)
        } else {
            expected.map(|all| (all - how.seconds).max(0.0))
        };
        Self {
            key: key.to_owned(),
            host: by.process.host.clone(),
            pid: by.process.pid,
            job: by.job.clone(),
            device: None,
            arithmetic: None,
            since: by.since,
            seconds: how.seconds,
            step: how.step,
            steps: how.steps,
            seconds_left,
            allocated: None,
            silent: None,
        }
    }

    fn line(&self) -> String {
        let mut line = format!("  {}  on {}, process {}", self.key, self.host, self.pid);
        if let Some(job) = &self.job {
            line += &format!(" ({job})");
        }
        if let Some(device) = &self.device {
            line += &format!(" on {device}");
        }
        // What every processor has goes without saying.
        let special = self.arithmetic.as_deref();
        if let Some(arithmetic) = special.filter(|a| *a != Arithmetic::Portable.name()) {
            line += &format!(" by {arithmetic}");
        }
        line += &format!(", for {}", time(self.seconds));
        if self.steps > 0 {
            line += &format!(", step {} of {}", self.step, self.steps);
        }
        if let Some(left) = self.seconds_left {
            line += &format!(", about {} more", time(left));
        }
        if let Some(allocated) = self.allocated {
            line += &format!("; its worker ends in {}", time(allocated));
        }
        if let Some(silent) = self.silent {
            line += &format!("; not heard of for {}", time(silent));
        }
        line
    }
}

impl Standing {
    fn of(dir: &std::path::Path, survey: &Survey) -> Self {
        let seconds = Seconds::of(survey);
        let mut all = Self {
            dir: dir.to_owned(),
            trials: survey.trials.len(),
            unplanned: survey.unplanned,
            workers: survey.workers.clone(),
            problems: survey.problems.clone(),
            suites: survey
                .suites
                .iter()
                .map(|suite| OfSuite {
                    suite: suite.clone(),
                    ..OfSuite::default()
                })
                .collect(),
            ..Self::default()
        };
        let workers = survey.workers.iter().map(|w| (w.process.id(), w));
        let workers: BTreeMap<String, &Worker> = workers.collect();
        let mut work = Some(0.0);
        let mut add = |more: Option<f64>| work = work.zip(more).map(|(a, b)| a + b);
        for trial in &survey.trials {
            let Surveyed { planned, state, .. } = trial;
            let expected = seconds.expected(planned);
            let share = &mut all.suites[trial.suite];
            share.trials += 1;
            let told = |reason: &String| Told {
                key: planned.key.clone(),
                reason: reason.clone(),
            };
            match state {
                State::Finished => {
                    all.finished += 1;
                    share.finished += 1;
                }
                State::Failed(reason) => {
                    all.failed.push(told(reason));
                    share.failed += 1;
                }
                State::Damaged(reason) => {
                    all.damaged.push(told(reason));
                    share.left += 1;
                    add(expected);
                }
                State::Left => {
                    all.left += 1;
                    share.left += 1;
                    add(expected);
                }
                State::Running(by, how) => {
                    let mut at = AtWork::of(&planned.key, by, how.as_ref(), expected);
                    if let Some(worker) = workers.get(&by.worker()) {
                        at.allocated = worker.until.map(until);
                        at.device.clone_from(&worker.device);
                        at.arithmetic.clone_from(&worker.arithmetic);
                        let is_late = worker.heard > MISSED * worker.every;
                        at.silent = is_late.then_some(worker.heard);
                    }
                    add(at.seconds_left);
                    all.running.push(at);
                    share.running += 1;
                }
            }
        }
        all.seconds_of_work = work;
        all.seconds_left = work.filter(|_| !all.running.is_empty()).map(|work| {
            let longest = all.running.iter().filter_map(|r| r.seconds_left);
            let longest = longest.fold(0.0, f64::max);
            (work / all.running.len() as f64).max(longest)
        });
        all
    }

    fn print(&self) {
        let counts = |finished: usize, failed: usize, running: usize, left: usize| {
            format!("{finished} finished, {running} running, {failed} failed, {left} left")
        };
        let left = self.left + self.damaged.len();
        crate::out!(
            "{}: {} trials: {}",
            self.dir.display(),
            self.trials,
            counts(self.finished, self.failed.len(), self.running.len(), left)
        );
        if self.suites.len() > 1 {
            for s in &self.suites {
                let counts = counts(s.finished, s.failed, s.running, s.left);
                crate::out!("  {}: {} trials: {counts}", s.suite, s.trials);
            }
        }
        if self.unplanned > 0 {
            crate::out!("  {} records that no suite asks for", self.unplanned);
        }
        if !self.running.is_empty() {
            crate::out!("running:");
            for at in &self.running {
                crate::out!("{}", at.line());
            }
        }
        for line in self.queue.lines() {
            crate::out!("{line}");
        }
        list("failed", &self.failed);
        list("damaged, to run again", &self.damaged);
        for problem in &self.problems {
            crate::out!("{problem}");
        }
        match (self.seconds_of_work, self.seconds_left) {
            _ if left + self.running.len() == 0 => {}
            (None, _) => {
                crate::out!("no trial has finished yet: how long the rest takes is not known")
            }
            (Some(work), None) => crate::out!(
                "about {} left, one trial at a time, by what trials like those took",
                time(work)
            ),
            (Some(work), Some(left)) => crate::out!(
                "about {} left with the {} at a time that run now ({} one at a time), by what trials like those took",
                time(left),
                self.running.len(),
                time(work)
            ),
        }
    }
}

fn list(what: &str, trials: &[Told]) {
    if trials.is_empty() {
        return;
    }
    crate::out!("{what}:");
    for told in trials.iter().take(LISTED) {
        crate::out!("  {}: {}", told.key, told.reason);
    }
    if trials.len() > LISTED {
        crate::out!("  and {} more (--json lists all)", trials.len() - LISTED);
    }
}

/// Seconds until a time of a worker's clock. Only to be shown: it is compared with ours.
fn until(end: u64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0.0, |d| d.as_secs_f64());
    (end as f64 - now).max(0.0)
}
