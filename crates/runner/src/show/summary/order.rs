//! In which order methods, datasets and class sets stand.

use std::collections::BTreeSet;

use super::Method;
use crate::protocols::Shows;
use crate::record::{Record, Test, TestSet};
use crate::store::Planned;

/// Methods in plan order, else untrained first, then by label.
pub(super) fn methods(records: &[&Record], planned: &[&Planned]) -> Vec<Method> {
    let mut order: Vec<(&str, &str)> = Vec::new();
    let mut add = |label, algorithm| {
        if !order.iter().any(|m| m.0 == label) {
            order.push((label, algorithm));
        }
    };
    for trial in planned {
        add(&trial.method, &trial.algorithm);
    }
    let mut rest: Vec<&&Record> = records.iter().collect();
    rest.sort_by_key(|r| (r.shots > 0, &r.method));
    for record in rest {
        add(&record.method, &record.algorithm);
    }
    let is_trained = |label: &str| {
        let shots = planned.iter().map(|p| (&p.method, p.shots));
        shots
            .chain(records.iter().map(|r| (&r.method, r.shots)))
            .any(|(m, shots)| m == label && shots > 0)
    };
    let peeking = super::uses::peeking(records);
    order
        .iter()
        .enumerate()
        .map(|(i, (label, algorithm))| Method {
            label: (*label).to_owned(),
            algorithm: (*algorithm).to_owned(),
            variant: order[..i].iter().filter(|m| m.1 == *algorithm).count(),
            is_trained: is_trained(label),
            peeks: peeking.contains(label),
            is_grey: false,
        })
        .collect()
}

/// Datasets tested on: the source, then plan order (the order of the tests, where there is a source), then by name.
pub(super) fn datasets(
    source: Option<&str>,
    records: &[&Record],
    planned: &[&Planned],
) -> Vec<String> {
    let tested: BTreeSet<&str> = records
        .iter()
        .flat_map(|r| &r.tests)
        .map(|t| t.dataset.as_str())
        .collect();
    let mut order: Vec<&str> = source.into_iter().filter(|s| tested.contains(s)).collect();
    let first = records
        .iter()
        .filter(|r| source.is_some() && !r.tests.is_empty())
        .take(1);
    let wanted = first.flat_map(|r| &r.tests).map(|t| t.dataset.as_str());
    let wanted = wanted.chain(
        planned
            .iter()
            .filter(|_| source.is_none())
            .map(|p| p.dataset.as_str()),
    );
    let failed = records
        .iter()
        .filter(|_| source.is_none())
        .map(|r| r.dataset.as_str());
    let others: BTreeSet<&str> = tested.iter().copied().chain(failed).collect();
    for dataset in wanted.chain(others) {
        if !order.contains(&dataset) {
            order.push(dataset);
        }
    }
    order.into_iter().map(str::to_owned).collect()
}

/// All, base, novel, then parts in their order; where classes come in sessions, those of the last.
pub(super) fn class_sets(records: &[&Record]) -> Vec<TestSet> {
    let tests = records.iter().flat_map(|r| {
        let is_last = |t: &&Test| {
            r.protocol.shows != Shows::Sessions || r.last_tests().any(|last| *t == last)
        };
        r.tests.iter().filter(is_last)
    });
    let sets: BTreeSet<TestSet> = tests.map(|t| t.class_set).collect();
    sets.into_iter().collect()
}
