//! What a method took.

use std::collections::BTreeMap;

use crate::record::{Outcome, Record};

/// Mean cost of a method's finished trials at one number of shots.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spending {
    /// Trials averaged over.
    pub trials: usize,
    /// Largest number of trained numbers (some methods train more with more classes).
    pub parameters: u64,
    /// Trained numbers of a trial.
    pub mean_parameters: f64,
    /// Optimizer steps of a trial.
    pub steps: f64,
    /// Wall seconds of training a trial.
    pub train_seconds: f64,
    /// Operations of learning a trial: of both towers, what no step or candidate can do without; 0 where nothing is learned, or
    /// a trial's were not counted.
    pub operations: f64,
    /// Candidates that a search scored in a trial.
    pub scored: f64,
    /// Wall seconds an optimizer step; `None` where there is none.
    pub seconds_a_step: Option<f64>,
    /// Operations an optimizer step; `None` where there is none, or a trial's were not counted.
    pub operations_a_step: Option<f64>,
    /// Wall seconds a tested picture.
    pub seconds_a_picture: f64,
    /// Largest peak memory of the process in bytes.
    pub peak_memory: u64,
}

/// Spending by method and shots.
pub(super) fn spending(records: &[&Record]) -> BTreeMap<(String, usize), Spending> {
    let mut groups: BTreeMap<(String, usize), Vec<&Record>> = BTreeMap::new();
    for record in records.iter().filter(|r| r.outcome == Outcome::Finished) {
        groups
            .entry((record.method.clone(), record.shots))
            .or_default()
            .push(record);
    }
    let spend = |records: Vec<&Record>| {
        let sum = |field: fn(&Record) -> f64| records.iter().map(|r| field(r)).sum::<f64>();
        let steps = sum(|r| r.cost.steps as f64);
        let tests = || records.iter().flat_map(|r| &r.tests);
        Spending {
            trials: records.len(),
            parameters: records.iter().map(|r| r.cost.parameters).max().unwrap_or(0),
            mean_parameters: sum(|r| r.cost.parameters as f64) / records.len() as f64,
            steps: steps / records.len() as f64,
            train_seconds: sum(|r| r.cost.train_seconds) / records.len() as f64,
            operations: match records.iter().all(|r| r.cost.operations > 0.0) {
                true => sum(|r| r.cost.operations) / records.len() as f64,
                false => 0.0,
            },
            scored: sum(|r| r.cost.scored as f64) / records.len() as f64,
            seconds_a_step: (steps > 0.0).then(|| sum(|r| r.cost.train_seconds) / steps),
            operations_a_step: (steps > 0.0 && records.iter().all(|r| r.cost.operations > 0.0))
                .then(|| sum(|r| r.cost.operations) / steps),
            seconds_a_picture: tests().map(|t| t.seconds).sum::<f64>()
                / tests().map(|t| t.total as f64).sum::<f64>(),
            peak_memory: records
                .iter()
                .map(|r| r.cost.peak_memory)
                .max()
                .unwrap_or(0),
        }
    };
    groups
        .into_iter()
        .map(|(key, records)| (key, spend(records)))
        .collect()
}
