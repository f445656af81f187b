//! What has become of every trial that the suites of a results folder ask for, without reading more than that takes.

use std::collections::{BTreeMap, HashMap, HashSet};

use rayon::prelude::*;

use super::claims::{self, Holder, Running, Worker};
use super::sealed::{Brief, Unreadable, brief};
use super::{Planned, Store, StoreError, file};
use crate::record::Outcome;

/// How a trial stands.
#[derive(Clone, Debug)]
pub enum State {
    /// It ran to the end.
    Finished,
    /// It did not, and why.
    Failed(String),
    /// A worker is at it that is not known to be dead; how far it is, where its worker has told.
    Running(Box<Holder>, Option<Running>),
    /// Its record cannot be trusted, and why. It will run again.
    Damaged(String),
    /// Nobody has run it, or whoever did has died.
    Left,
}

/// A trial and how it stands.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// The first suite that asks for it.
    pub suite: usize,
    /// What is asked for.
    pub planned: Planned,
    /// How it stands.
    pub state: State,
    /// Seconds of training and testing, where it is finished.
    pub seconds: Option<f64>,
}

/// A results folder's trials.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Names of its suites.
    pub suites: Vec<String>,
    /// Trials in the order asked for, each once.
    pub trials: Vec<Surveyed>,
    /// Workers that are not known to be dead.
    pub workers: Vec<Worker>,
    /// Records that no suite asks for.
    pub unplanned: usize,
    /// Plans that cannot be read, and why.
    pub problems: Vec<String>,
}

impl Store {
    /// Looks at every trial.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn survey(&self) -> Result<Survey, StoreError> {
        let (plans, problems) = self.plans()?;
        let mut survey = Survey {
            suites: plans.keys().cloned().collect(),
            problems: problems
                .into_iter()
                .map(|(path, problem)| format!("{}: {problem}", path.display()))
                .collect(),
            ..Survey::default()
        };
        let mut seen = HashSet::new();
        let mut wanted = Vec::new();
        for (suite, plan) in plans.into_values().enumerate() {
            for planned in plan {
                if seen.insert(planned.key.clone()) {
                    wanted.push((suite, planned));
                }
            }
        }
        let files = file::finished(&self.dir.join("trials"))?;
        let keys = files.iter().filter_map(|path| path.file_stem()?.to_str());
        survey.unplanned = keys.filter(|key| !seen.contains(*key)).count();
        let there: HashSet<&str> = files
            .iter()
            .filter_map(|path| path.file_stem()?.to_str())
            .collect();
        let claims = claims::all(&self.dir)?;
        let workers = claims::workers(&self.dir)?;
        let mut running: HashMap<String, Running> = HashMap::new();
        for worker in workers {
            if worker.process.lives() != Some(false) {
                let own = worker.running.iter().cloned();
                running.extend(own.map(|r| (r.key.clone(), r)));
                survey.workers.push(worker);
            }
        }
        let look = |(suite, planned): (usize, Planned)| {
            let read = if there.contains(planned.key.as_str()) {
                self.brief(&planned.key)
            } else {
                None
            };
            let seconds = match &read {
                Some(Ok(brief)) if brief.outcome == Outcome::Finished => {
                    Some(brief.cost.train_seconds + brief.cost.test_seconds)
                }
                _ => None,
            };
            let held = claims
                .get(&planned.key)
                .filter(|by| by.process.lives() != Some(false));
            let state = match (read, held) {
                (Some(Ok(brief)), _) if brief.outcome == Outcome::Finished => State::Finished,
                (_, Some(by)) => {
                    let how = running.get(&planned.key).cloned();
                    State::Running(Box::new(by.clone()), how)
                }
                (Some(Ok(brief)), None) => match brief.outcome {
                    Outcome::Failed { reason, .. } => State::Failed(reason),
                    Outcome::Finished => State::Finished,
                },
                (Some(Err(problem)), None) => State::Damaged(problem.to_string()),
                (None, None) => State::Left,
            };
            Surveyed {
                suite,
                planned,
                state,
                seconds,
            }
        };
        survey.trials = wanted.into_par_iter().map(look).collect();
        Ok(survey)
    }

    /// The least of the record with this key; none where there is none.
    fn brief(&self, key: &str) -> Option<Result<Brief, Unreadable>> {
        match std::fs::read(self.record_path(key)) {
            Ok(bytes) => Some(brief(&bytes, key)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => Some(Err(Unreadable::Damaged(error.to_string()))),
        }
    }
}

/// What trials take, by what trials that are like them have taken.
#[derive(Clone, Debug, Default)]
pub struct Seconds {
    /// Sums and counts by method, dataset and shots, where an empty word or `None` stands for all of them.
    means: BTreeMap<(String, String, Option<usize>), (f64, usize)>,
}

impl Seconds {
    /// From the finished trials.
    pub fn of(survey: &Survey) -> Self {
        let mut means: BTreeMap<_, (f64, usize)> = BTreeMap::new();
        for trial in &survey.trials {
            let Some(seconds) = trial.seconds else {
                continue;
            };
            for like in likenesses(&trial.planned) {
                let mean = means.entry(like).or_default();
                mean.0 += seconds;
                mean.1 += 1;
            }
        }
        Self { means }
    }

    /// Seconds of a trial: the mean of finished ones with its method, dataset and shots, or as many of these as were run;
    /// none where nothing has finished.
    pub fn expected(&self, trial: &Planned) -> Option<f64> {
        likenesses(trial)
            .into_iter()
            .find_map(|like| self.means.get(&like))
            .map(|(sum, count)| sum / *count as f64)
    }
}

/// Kinds that a trial belongs to, the most like it first.
fn likenesses(trial: &Planned) -> [(String, String, Option<usize>); 4] {
    let (method, dataset, shots) = (&trial.method, &trial.dataset, Some(trial.shots));
    [
        (method.clone(), dataset.clone(), shots),
        (method.clone(), String::new(), shots),
        (method.clone(), String::new(), None),
        (String::new(), String::new(), None),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::summary::sample;

    #[test]
    fn every_trial_asked_for_stands_somewhere() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let trial = |seed| sample::trial("coop", "dtd", 4, seed, &[("base", 71.5)]);
        let records: Vec<_> = (1..7).map(trial).collect();
        let planned: Vec<Planned> = records.iter().map(Planned::of).collect();
        store.write_plan("suite", &planned).unwrap();
        store.write(&records[0]).unwrap();
        store
            .write(&sample::failed("coop", "dtd", 4, 2, "no memory"))
            .unwrap();
        std::fs::write(store.record_path(&planned[2].key), "{").unwrap();
        store
            .write(&sample::trial("coop", "dtd", 1, 1, &[("base", 1.0)]))
            .unwrap();
        let claims = claims::Claims::join(store.dir(), claims::SILENCE).unwrap();
        let Ok(claims::Tried::Ours(claim)) = claims.claim(&planned[3].key) else {
            panic!("nobody else had it");
        };
        claim.advance(3, 9);
        claims.beat();
        while store.survey().unwrap().workers[0].running.is_empty() {
            std::thread::yield_now();
        }
        let survey = store.survey().unwrap();
        let states: Vec<&State> = survey.trials.iter().map(|t| &t.state).collect();
        assert!(matches!(states[0], State::Finished));
        assert!(matches!(states[1], State::Failed(why) if why == "no memory"));
        assert!(matches!(states[2], State::Damaged(_)));
        match states[3] {
            State::Running(by, Some(how)) => {
                assert_eq!(by.process, *crate::store::Process::this());
                assert_eq!((how.step, how.steps), (3, 9));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(states[4], State::Left));
        assert_eq!((survey.unplanned, survey.workers.len()), (1, 1));
        let seconds = Seconds::of(&survey);
        assert_eq!(seconds.expected(&planned[4]), survey.trials[0].seconds);
        let other = Planned {
            method: "other".to_owned(),
            ..planned[4].clone()
        };
        assert_eq!(seconds.expected(&other), survey.trials[0].seconds);
        assert_eq!(Seconds::default().expected(&other), None);
    }
}
