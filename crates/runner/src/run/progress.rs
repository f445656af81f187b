//! What a person sees while a sweep runs: bars on a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::record::{Outcome, Record};
use crate::start;
use crate::store::Planned;
use crate::store::claims::Holder;

/// Seconds between plain lines.
const QUIET: u64 = 10;
/// Seconds between plain lines about other workers.
const WAITED: u64 = 60;

/// Progress of a sweep.
pub struct Progress {
    /// On a terminal: the overall bar and one bar a job.
    bars: Option<(MultiProgress, ProgressBar, Vec<ProgressBar>)>,
    plain: Mutex<Plain>,
}

struct Plain {
    all: usize,
    before: usize,
    done: usize,
    failed: usize,
    started: Instant,
    spoken: Option<Instant>,
    /// When it was last said that others are waited for.
    waited: Option<Instant>,
    /// Why trials failed, and which was the first.
    reasons: HashMap<String, String>,
}

impl Plain {
    /// What is said of a trial that failed: the reason the first time, which trial it was after that.
    fn failure(&mut self, key: &str, reason: &str) -> String {
        if let Some(first) = self.reasons.get(reason) {
            return format!("failed: {key}: as {first}");
        }
        self.reasons.insert(reason.to_owned(), key.to_owned());
        format!("failed: {key}: {reason}")
    }
}

impl Progress {
    /// For `jobs` trials at a time.
    pub fn new(jobs: usize) -> Self {
        let bars = std::io::stderr().is_terminal().then(|| {
            let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8));
            let overall = multi.add(ProgressBar::new(0));
            let style = |template: &str| {
                ProgressStyle::with_template(template).expect("the templates are valid")
            };
            overall.set_style(style(
                "{bar:40.cyan} {pos}/{len} trials  {elapsed} elapsed, {eta} left  {msg}",
            ));
            overall.enable_steady_tick(Duration::from_millis(500));
            let each = (0..jobs).map(|_| {
                let bar = multi.add(ProgressBar::new(1));
                bar.set_style(style("  {bar:20} {pos}/{len} steps  {msg}"));
                bar
            });
            let each = each.collect();
            (multi, overall, each)
        });
        let plain = Plain {
            all: 0,
            before: 0,
            done: 0,
            failed: 0,
            started: Instant::now(),
            spoken: None,
            waited: None,
            reasons: HashMap::new(),
        };
        Self {
            bars,
            plain: Mutex::new(plain),
        }
    }

    /// A sweep of `all` trials of which `before` are finished already.
    pub fn start(&self, all: usize, before: usize) {
        let mut p = self.plain.lock().expect("no panic while held");
        (p.all, p.before, p.started) = (all, before, Instant::now());
        let left = all - before;
        match &self.bars {
            Some((_, overall, _)) => {
                overall.set_length(all as u64);
                overall.set_position(before as u64);
                overall.reset_eta();
            }
            None => crate::say!("{all} trials: {before} finished before, {left} to run"),
        }
    }

    /// `job` begins a trial.
    pub fn begin(&self, job: usize, trial: &Planned) {
        if let Some((_, _, jobs)) = &self.bars {
            jobs[job].reset();
            jobs[job].set_message(format!(
                "{} on {}, {} shots, seed {}",
                trial.method,
                start::called(&trial.dataset, |id| id),
                trial.shots,
                trial.seed
            ));
        }
    }

    /// `job` has done `done` of `all` steps.
    pub fn step(&self, job: usize, done: usize, all: usize) {
        if let Some((_, _, jobs)) = &self.bars {
            jobs[job].set_length(all as u64);
            jobs[job].set_position(done as u64);
        }
    }

    /// `job` has ended a trial.
    pub fn end(&self, job: usize, record: &Record) {
        let mut p = self.plain.lock().expect("no panic while held");
        p.done += 1;
        let failure = match &record.outcome {
            Outcome::Finished => None,
            Outcome::Failed { reason, .. } => Some(p.failure(&record.key, reason)),
        };
        p.failed += usize::from(failure.is_some());
        if let Some((multi, overall, jobs)) = &self.bars {
            overall.inc(1);
            if p.failed > 0 {
                overall.set_message(format!("{} failed", p.failed));
            }
            jobs[job].set_message("");
            if let Some(f) = failure {
                multi.suspend(|| crate::say!("{f}"));
            }
            return;
        }
        if let Some(f) = failure {
            crate::say!("{f}");
        }
        let quiet = p.spoken.is_some_and(|t| t.elapsed().as_secs() < QUIET);
        let last = p.before + p.done == p.all;
        if quiet && !last {
            return;
        }
        p.spoken = Some(Instant::now());
        let elapsed = p.started.elapsed().as_secs_f64();
        let left = elapsed / p.done as f64 * (p.all - p.before - p.done) as f64;
        let mut figures: Vec<String> = record
            .last_tests()
            .map(|t| {
                let is_elsewhere = record.tests.iter().any(|t| t.dataset != record.dataset);
                let name = if is_elsewhere {
                    t.dataset.clone()
                } else {
                    t.class_set.to_string()
                };
                format!("{name} {:.1}", t.accuracy())
            })
            .collect();
        if record.outcome != Outcome::Finished {
            figures = vec!["failed".to_owned()];
        }
        crate::say!(
            "{}/{} trials, {elapsed:.0} s elapsed, about {left:.0} s left; last {} on {}: {}",
            p.before + p.done,
            p.all,
            record.method,
            start::called(&record.dataset, |id| id),
            figures.join(", ")
        );
    }

    /// A trial that this process was to run has ended in another one.
    pub fn ended_elsewhere(&self) {
        let mut p = self.plain.lock().expect("no panic while held");
        p.before += 1;
        if let Some((_, overall, _)) = &self.bars {
            overall.inc(1);
        }
    }

    /// Only trials of other workers are left: so many, one of them of `by`.
    pub fn waits(&self, trials: usize, by: &Holder) {
        let mut p = self.plain.lock().expect("no panic while held");
        let told = format!(
            "waiting for {trials} of other workers, one of them {}",
            by.process
        );
        if let Some((_, overall, _)) = &self.bars {
            overall.set_message(told);
        } else if p.waited.is_none_or(|t| t.elapsed().as_secs() >= WAITED) {
            p.waited = Some(Instant::now());
            crate::say!("{told}");
        }
    }

    /// Takes the bars away.
    pub fn finish(&self) {
        if let Some((_, overall, jobs)) = &self.bars {
            jobs.iter().for_each(ProgressBar::finish_and_clear);
            overall.finish_and_clear();
        }
    }
}
