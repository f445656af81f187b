//! One worker of a sweep: takes trials that nobody has, runs them side by side, and leaves those of others alone.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::{Sweep, Trial};
use crate::device::ran;
use crate::record::{Outcome, Record, Test};
use crate::run::checkpoint;
use crate::run::log::{Log, What};
use crate::run::progress::Progress;
use crate::run::tensorboard::{Curves, Events};
use crate::run::trial::{Epoch, Interrupted, Observer, Resumed, Step};
use crate::store::claims::{Claim, Claims, Holder, Tried};
use crate::store::{Standing, Store};

/// Time between two looks at a trial that another worker has.
const AGAIN: Duration = Duration::from_millis(500);
/// Time in which a wish to stop reaches a running trial.
const PASSED_ON: Duration = Duration::from_millis(50);

/// What a worker does about a trial that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnFailure {
    /// Writes down why and goes on with the next.
    #[default]
    Continue,
    /// Begins no further trial.
    Stop,
}

/// How a worker works.
pub struct Work<'a> {
    /// Trials at a time.
    pub jobs: usize,
    /// Threads of each.
    pub threads: usize,
    /// Keys of the trials it does, in this order, but that those which see the same views of test pictures follow each
    /// other; all of the suite where not given.
    pub keys: Option<&'a [String]>,
    /// Times that a trial which failed is tried again.
    pub retries: u32,
    /// What it does about one that fails all the same.
    pub on_failure: OnFailure,
    /// Whether it stays until the trials of others have ended, too.
    pub waits: bool,
    /// After which a worker of another machine that does not stir is dead.
    pub silence: Duration,
    /// How much longer it may work, where that is limited: only told to whoever asks how the sweep stands.
    pub limit: Option<Duration>,
    /// Set when it is to stop.
    pub stop: &'a AtomicBool,
    /// What the user sees.
    pub progress: &'a Progress,
    /// Training curves.
    pub events: Option<&'a Events>,
    /// Begins and ends of trials.
    pub log: Option<&'a Log>,
}

/// How a sweep went.
#[derive(Debug, Default)]
pub struct Tally {
    /// Finished now, here.
    pub finished: usize,
    /// Finished before, not run again.
    pub before: usize,
    /// Ended by other workers in the meantime.
    pub elsewhere: usize,
    /// Other workers are still at these.
    pub running: Vec<(String, Holder)>,
    /// Failed, with reasons, here or elsewhere.
    pub failed: Vec<(String, String)>,
    /// Begun here, and taken over by others that took this worker for dead.
    pub lost: usize,
    /// Dead workers' trials that this one has taken over.
    pub taken_over: u64,
    /// Records that could not be trusted, and where they are now.
    pub damaged: Vec<PathBuf>,
    /// Not begun because one failed.
    pub left: usize,
    /// Stopped by the user before all was done.
    pub interrupted: bool,
}

impl Sweep {
    /// Runs what is not finished in `store` and nobody else runs, `jobs` trials at a time.
    ///
    /// # Errors
    /// When results cannot be written, a newer program has written some of them, or keys are asked for that the suite
    /// has not. A trial that fails is counted, not an error here.
    pub fn run(&self, store: &Store, work: &Work) -> Result<Tally> {
        let trials = self.wanted(work.keys)?;
        store.tidy()?;
        let claims = Claims::join(store.dir(), work.silence)?;
        claims.tell(|w| {
            (w.jobs, w.threads) = (work.jobs, work.threads);
            let here = std::slice::from_ref(&self.ran);
            (w.device, w.arithmetic) = (ran::devices(here), ran::arithmetics(here));
            w.ends_within(work.limit);
        });
        claims.tidy()?;
        let is_over = |key: &str| store.has_finished(key);
        checkpoint::tidy(store.dir(), is_over);
        let mut tally = Tally::default();
        let (mut fresh, mut failed_before) = (VecDeque::new(), HashMap::new());
        let look = |trial: &&Trial| store.standing(&trial.planned.key);
        let standings = trials.par_iter().map(look).collect::<Result<Vec<_>, _>>()?;
        for (trial, standing) in trials.iter().zip(standings) {
            match standing {
                Standing::Finished => {
                    tally.before += 1;
                    continue;
                }
                Standing::Failed { started, .. } => {
                    failed_before.insert(trial.planned.key.as_str(), started);
                }
                Standing::Newer(problem) => return Err(newer(store, trial, &problem)),
                Standing::Missing | Standing::Damaged(_) => {}
            }
            self.expect_views(trial);
            fresh.push_back(*trial);
        }
        work.progress.start(trials.len(), tally.before);
        let halts: Vec<AtomicBool> = (0..work.jobs).map(|_| AtomicBool::new(false)).collect();
        let shift = Shift {
            sweep: self,
            store,
            work,
            claims: &claims,
            failed_before,
            queue: Mutex::new(Queue {
                fresh,
                met: VecDeque::new(),
            }),
            tally: Mutex::new(tally),
            closes: AtomicBool::new(false),
            halts,
        };
        shift.work()?;
        let Shift { queue, tally, .. } = shift;
        let queue = queue.into_inner().expect("no panic while held");
        let mut tally = tally.into_inner().expect("no panic while held");
        let met = queue.met.iter().map(|(trial, _)| trial);
        let left: Vec<&&Trial> = queue.fresh.iter().chain(met).collect();
        left.iter().for_each(|trial| self.release_views(trial));
        let left = left.len();
        tally.interrupted |= work.stop.load(Ordering::Relaxed) && left > 0;
        if !tally.interrupted {
            tally.left = left;
        }
        claims.tidy()?;
        tally.taken_over = claims.taken_over();
        drop(claims);
        // One that was taken for dead may have left a checkpoint behind the record.
        checkpoint::tidy(store.dir(), is_over);
        store.tidy()?;
        Ok(tally)
    }

    /// The trials with these keys, or all.
    fn wanted(&self, keys: Option<&[String]>) -> Result<Vec<&Trial>> {
        let Some(keys) = keys else {
            return Ok(self.trials.iter().collect());
        };
        let all = self.trials.iter().map(|t| (t.planned.key.as_str(), t));
        let all: HashMap<&str, &Trial> = all.collect();
        let unknown: Vec<&str> = keys
            .iter()
            .map(String::as_str)
            .filter(|key| !all.contains_key(key))
            .collect();
        if let Some(first) = unknown.first() {
            bail!(
                "{} of {} trials asked for are not in suite {}, the first is {first}; the suite, its data, its weights or \
                 the program are others since the list was written",
                unknown.len(),
                keys.len(),
                self.suite.name
            );
        }
        Ok(keys.iter().map(|key| all[key.as_str()]).collect())
    }
}

fn newer(store: &Store, trial: &Trial, problem: &str) -> anyhow::Error {
    let path = store.record_path(&trial.planned.key);
    anyhow::anyhow!("{}: {problem}", path.display())
}

/// Trials that are to be run or waited for.
struct Queue<'s> {
    /// Not looked at yet.
    fresh: VecDeque<&'s Trial>,
    /// Held by others when looked at last, with the time of the next look.
    met: VecDeque<(&'s Trial, Instant)>,
}

/// What a job does next.
enum Turn<'s> {
    /// Looks at this trial, for the first time or again.
    Look(&'s Trial, bool),
    /// Nothing for this long.
    Wait(Duration),
    /// Leaves.
    Leave,
}

/// A worker at work.
struct Shift<'s> {
    sweep: &'s Sweep,
    store: &'s Store,
    work: &'s Work<'s>,
    claims: &'s Claims,
    /// When those trials started that had failed before the shift began.
    failed_before: HashMap<&'s str, u64>,
    queue: Mutex<Queue<'s>>,
    tally: Mutex<Tally>,
    /// Set when no further trial is to begin.
    closes: AtomicBool,
    /// Stops each job's trial.
    halts: Vec<AtomicBool>,
}

impl<'s> Shift<'s> {
    fn work(&self) -> Result<()> {
        let broken: Mutex<Option<anyhow::Error>> = Mutex::new(None);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    if self.work.stop.load(Ordering::Relaxed) {
                        self.halts
                            .iter()
                            .for_each(|h| h.store(true, Ordering::Relaxed));
                    }
                    std::thread::sleep(PASSED_ON);
                }
            });
            let jobs: Vec<_> = (0..self.work.jobs)
                .map(|job| {
                    let broken = &broken;
                    std::thread::Builder::new()
                        .name(format!("trial-{job}"))
                        .stack_size(16 << 20)
                        .spawn_scoped(scope, move || {
                            if let Err(e) = self.job(job) {
                                self.work.stop.store(true, Ordering::Relaxed);
                                broken.lock().expect("no panic while held").get_or_insert(e);
                            }
                        })
                        .expect("threads can be started")
                })
                .collect();
            let ended: Vec<_> = jobs.into_iter().map(|job| job.join()).collect();
            is_over.store(true, Ordering::Relaxed);
            if let Some(panic) = ended.into_iter().find_map(Result::err) {
                std::panic::resume_unwind(panic);
            }
        });
        match broken.into_inner().expect("no panic while held") {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    fn job(&self, job: usize) -> Result<()> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.work.threads)
            .build()?;
        let mut last = None;
        while !self.work.stop.load(Ordering::Relaxed) && !self.closes.load(Ordering::Relaxed) {
            match self.turn(last) {
                Turn::Look(trial, again) => {
                    last = Some(trial);
                    if self.look(job, &pool, trial, again)? {
                        self.sweep.release_views(trial);
                    }
                }
                Turn::Wait(time) => std::thread::sleep(time.min(PASSED_ON)),
                Turn::Leave => break,
            }
        }
        Ok(())
    }

    /// What follows behind `last`: a trial that sees the views it saw, which are kept for that long, or else the first.
    fn turn(&self, last: Option<&Trial>) -> Turn<'s> {
        let mut queue = self.queue.lock().expect("no panic while held");
        let fresh = queue.fresh.iter().copied();
        let next = last.and_then(|last| self.sweep.sees_same(last, fresh));
        if let Some(trial) = queue.fresh.remove(next.unwrap_or(0)) {
            return Turn::Look(trial, false);
        }
        let now = Instant::now();
        match queue.met.front() {
            None => Turn::Leave,
            Some((_, due)) if *due > now => Turn::Wait(*due - now),
            Some((trial, _)) => {
                let trial = *trial;
                queue.met.pop_front();
                Turn::Look(trial, true)
            }
        }
    }

    fn tally(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.tally.lock().expect("no panic while held"));
    }

    fn log(&self, what: What, key: &str) -> Result<()> {
        self.work.log.map_or(Ok(()), |log| log.write(what, key))
    }

    /// Whether another worker has ended this trial since the shift began, which is counted then.
    fn has_ended(&self, trial: &Trial, standing: &Standing) -> Result<bool> {
        let key = &trial.planned.key;
        match standing {
            Standing::Finished => self.tally(|t| t.elsewhere += 1),
            Standing::Failed { reason, started } => {
                if self.failed_before.get(key.as_str()) == Some(started) {
                    return Ok(false);
                }
                self.tally(|t| t.failed.push((key.clone(), reason.clone())));
            }
            Standing::Newer(problem) => return Err(newer(self.store, trial, problem)),
            Standing::Missing | Standing::Damaged(_) => return Ok(false),
        }
        self.work.progress.ended_elsewhere();
        Ok(true)
    }

    /// Runs a trial unless it is ended or another's; whether the shift is done with it.
    fn look(
        &self,
        job: usize,
        pool: &rayon::ThreadPool,
        trial: &'s Trial,
        again: bool,
    ) -> Result<bool> {
        let key = &trial.planned.key;
        if self.has_ended(trial, &self.store.standing(key)?)? {
            return Ok(true);
        }
        match self.claims.claim(key)? {
            Tried::Ours(claim) => {
                // Its last worker may have ended it between our look and our claim.
                let standing = self.store.standing(key)?;
                if self.has_ended(trial, &standing)? {
                    return Ok(true);
                }
                if let Standing::Damaged(problem) = standing {
                    self.set_aside(key, &problem)?;
                }
                self.take(job, pool, trial, claim)
            }
            Tried::Held { by, lives } => {
                if again && lives && !self.work.waits {
                    self.tally(|t| t.running.push((key.clone(), *by)));
                    return Ok(true);
                }
                let next = Instant::now() + if again { AGAIN } else { Duration::ZERO };
                let mut queue = self.queue.lock().expect("no panic while held");
                queue.met.push_back((trial, next));
                if again && queue.fresh.is_empty() {
                    self.work.progress.waits(queue.met.len(), &by);
                }
                Ok(false)
            }
        }
    }

    fn set_aside(&self, key: &str, problem: &str) -> Result<()> {
        let path = self.store.record_path(key);
        let place = self.store.set_aside(&path)?;
        crate::say!(
            "note: {}: {problem}; it is now {}, and its trial runs again",
            path.display(),
            place.display()
        );
        self.tally(|t| t.damaged.push(place));
        Ok(())
    }

    /// Runs a trial that is ours, writes it down and frees it; whether the shift is done with it.
    fn take(
        &self,
        job: usize,
        pool: &rayon::ThreadPool,
        trial: &'s Trial,
        claim: Claim,
    ) -> Result<bool> {
        let key = &trial.planned.key;
        let (work, halt) = (self.work, &self.halts[job]);
        work.progress.begin(job, &trial.planned);
        self.log(What::Begin, key)?;
        let watch = Watch {
            progress: work.progress,
            job,
            curves: work.events.map(|e| e.trial(key)),
            claim: &claim,
            halt,
        };
        let mut tries = 0;
        let (record, outcomes) = loop {
            match pool.install(|| {
                self.sweep
                    .tried(self.store, trial, work.threads, halt, &watch)
            }) {
                Ok((record, None)) if tries < work.retries && !halt.load(Ordering::Relaxed) => {
                    tries += 1;
                    if let Outcome::Failed { reason, .. } = &record.outcome {
                        let times = work.retries;
                        crate::say!("note: {key}: {reason}; tried again, {tries} of {times}");
                    }
                }
                Ok(ended) => break ended,
                Err(e) if e.is::<Interrupted>() => {
                    let is_lost = claim.is_lost();
                    halt.store(work.stop.load(Ordering::Relaxed), Ordering::Relaxed);
                    self.log(if is_lost { What::Lost } else { What::Left }, key)?;
                    drop(claim);
                    if is_lost {
                        self.lose(trial);
                    } else {
                        self.tally(|t| t.interrupted = true);
                    }
                    return Ok(!is_lost);
                }
                Err(e) => return Err(e),
            }
        };
        drop(watch);
        let kept = claim.end(|| -> Result<()> {
            self.sweep.keep(self.store, trial, &record, outcomes)?;
            self.log(What::End, key)
        });
        if kept
            .with_context(|| format!("while trial {key} was written"))?
            .is_none()
        {
            self.log(What::Lost, key)?;
            self.lose(trial);
            return Ok(false);
        }
        self.count(&record);
        work.progress.end(job, &record);
        Ok(true)
    }

    /// Another worker has taken the trial over; what came of it is seen to later.
    fn lose(&self, trial: &'s Trial) {
        let key = &trial.planned.key;
        crate::say!("note: {key}: another worker took this one for dead and has its trial now");
        self.tally(|t| t.lost += 1);
        let mut queue = self.queue.lock().expect("no panic while held");
        queue.met.push_back((trial, Instant::now() + AGAIN));
    }

    fn count(&self, record: &Record) {
        let is_finished = record.outcome == Outcome::Finished;
        self.tally(|t| match &record.outcome {
            Outcome::Finished => t.finished += 1,
            Outcome::Failed { reason, .. } => {
                t.failed.push((record.key.clone(), reason.clone()));
            }
        });
        self.claims.tell(|w| {
            w.finished += usize::from(is_finished);
            w.failed += usize::from(!is_finished);
        });
        if !is_finished && self.work.on_failure == OnFailure::Stop {
            self.closes.store(true, Ordering::Relaxed);
        }
    }
}

/// One job's trial, shown on the terminal, to other workers and, where asked for, in event files.
struct Watch<'a> {
    progress: &'a Progress,
    job: usize,
    curves: Option<Curves>,
    claim: &'a Claim<'a>,
    halt: &'a AtomicBool,
}

impl Watch<'_> {
    /// Another worker has the trial now: what this one does is in vain.
    fn halt_if_lost(&self) {
        if self.claim.is_lost() {
            self.halt.store(true, Ordering::Relaxed);
        }
    }
}

impl Observer for Watch<'_> {
    fn resumed(&self, before: &Resumed) {
        self.curves.iter().for_each(|c| c.resumed(before));
    }

    fn stepped(&self, step: &Step) {
        self.progress.step(self.job, step.done, step.all);
        self.claim.advance(step.done, step.all);
        self.halt_if_lost();
        self.curves.iter().for_each(|c| c.stepped(step));
    }

    fn epoch_ended(&self, epoch: &Epoch) {
        self.curves.iter().for_each(|c| c.epoch_ended(epoch));
    }

    fn answered(&self, _: usize) {
        self.halt_if_lost();
    }

    fn tested(&self, test: &Test) {
        self.curves.iter().for_each(|c| c.tested(test));
    }
}
