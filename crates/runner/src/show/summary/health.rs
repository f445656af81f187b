//! What a reader must know before believing a figure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::Section;
use crate::device::ran;
use crate::protocols::Protocol;
use crate::record::{Outcome, Record, TestSet};
use crate::start;
use crate::store::Loaded;

/// A trial that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Readable name of the trial.
    pub trial: String,
    /// What it said.
    pub reason: String,
}

/// A seed far below the others of its cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Collapse {
    /// Readable name of the trial.
    pub trial: String,
    /// Class set tested.
    pub class_set: TestSet,
    /// Its accuracy in percent.
    pub accuracy: f64,
    /// Best accuracy of the cell's seeds in percent.
    pub best: f64,
}

/// Entries of a list that a terminal shows.
const BRIEF: usize = 5;

/// What is broken, failed, missing or doubtful in a results folder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// Finished trials that count.
    pub finished: usize,
    /// Failed trials.
    pub failed: Vec<Failure>,
    /// Trials that should be there and are not, by name.
    pub missing: Vec<String>,
    /// Files that cannot be trusted, with the reason.
    pub broken: Vec<(PathBuf, String)>,
    /// Keys of records that no suite asks for any more or that a newer record replaces.
    pub set_aside: Vec<String>,
    /// Seeds that collapsed. They are still part of every mean.
    pub collapsed: Vec<Collapse>,
    /// What must be said of the datasets.
    pub datasets: Vec<String>,
    /// Where and by what trials of one table ran, if not all on one kind of device: a line a protocol and backbone.
    pub devices: Vec<String>,
}

/// A seed has collapsed when it is this many points below its cell's median,
const BELOW_MEDIAN: f64 = 15.0;

/// or below half of its cell's best and this many points below it: near chance, half is soon reached.
const BELOW_BEST: f64 = 10.0;

impl Health {
    pub(super) fn new(
        loaded: &Loaded,
        kept: &[&Record],
        set_aside: Vec<String>,
        sections: &[Section],
    ) -> Self {
        let mut health = Self {
            broken: loaded.problems.clone(),
            set_aside,
            ..Self::default()
        };
        for record in kept {
            match &record.outcome {
                Outcome::Finished => health.finished += 1,
                Outcome::Failed { reason, .. } => health.failed.push(Failure {
                    trial: trial_name(
                        record.protocol,
                        &record.method,
                        &record.dataset,
                        record.shots,
                        record.seed,
                    ),
                    reason: reason.clone(),
                }),
            }
        }
        if loaded.planned.is_empty() {
            health.missing = sections.iter().flat_map(Section::missing).collect();
        } else {
            // By what a trial is, not by key: of two folders read together, one record of a trial is enough.
            let there: BTreeSet<_> = kept
                .iter()
                .map(|r| (r.protocol, &r.method, &r.dataset, r.shots, r.seed))
                .collect();
            health.missing = loaded
                .planned
                .iter()
                .filter(|p| !there.contains(&(p.protocol, &p.method, &p.dataset, p.shots, p.seed)))
                .map(|p| trial_name(p.protocol, &p.method, &p.dataset, p.shots, p.seed))
                .collect();
        }
        let datasets: BTreeSet<_> = kept.iter().flat_map(|r| &r.notes).collect();
        health.datasets = datasets.into_iter().cloned().collect();
        health.devices = devices(kept);
        health.missing.sort();
        health.missing.dedup();
        health.collapsed = sections.iter().flat_map(collapsed).collect();
        health
    }

    /// One sentence for each thing to know, the gravest first; empty when all is well.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.broken.is_empty() {
            notes.push(format!(
                "{} cannot be read and count for nothing.",
                count(self.broken.len(), "file")
            ));
            notes.extend(self.broken.iter().map(|(path, problem)| {
                // The name is enough: the folder is known, and where it lies does not belong in a published table.
                format!(
                    "  {}: {problem}",
                    path.file_name().unwrap_or_default().to_string_lossy()
                )
            }));
        }
        if !self.failed.is_empty() {
            notes.push(format!("{} failed.", count(self.failed.len(), "trial")));
            let mut said: BTreeMap<&str, &str> = BTreeMap::new();
            notes.extend(self.failed.iter().map(|f| {
                // A reason that many trials share (a class name that is too long) is told once.
                let first = *said.entry(&f.reason).or_insert(&f.trial);
                if first == f.trial {
                    format!("  {}: {}", f.trial, f.reason)
                } else {
                    format!("  {}: as {first}", f.trial)
                }
            }));
        }
        if !self.missing.is_empty() {
            notes.push(format!(
                "{} missing (not run yet, or interrupted).",
                count(self.missing.len(), "trial")
            ));
            notes.extend(self.missing.iter().map(|trial| format!("  {trial}")));
        }
        if !self.collapsed.is_empty() {
            notes.push(format!(
                "{} (far below the others of its cell; still part of every mean).",
                count(self.collapsed.len(), "collapsed seed")
            ));
            notes.extend(self.collapsed.iter().map(|c| {
                format!(
                    "  {}, {}: {:.2} against {:.2} at best",
                    c.trial, c.class_set, c.accuracy, c.best
                )
            }));
        }
        if !self.datasets.is_empty() {
            notes.push(
                "Not all datasets are as published: their figures are not comparable with published ones."
                    .to_owned(),
            );
            notes.extend(self.datasets.iter().map(|note| format!("  {note}")));
        }
        if !self.devices.is_empty() {
            notes.push(
                "Trials ran on different devices or by different arithmetics, whose numbers differ in their last digits."
                    .to_owned(),
            );
            notes.extend(self.devices.iter().map(|line| format!("  {line}")));
        }
        if !self.set_aside.is_empty() {
            notes.push(format!(
                "{} set aside: no suite asks for it any more, or a newer one replaces it.",
                count(self.set_aside.len(), "record")
            ));
        }
        notes
    }

    /// The same for a terminal: of a long list the first few, and how many more.
    pub fn brief(&self) -> Vec<String> {
        let mut brief: Vec<String> = Vec::new();
        for group in self.notes().chunk_by(|_, next| next.starts_with("  ")) {
            let most = if group.len() > 1 + BRIEF + 1 {
                1 + BRIEF
            } else {
                group.len()
            };
            brief.extend(group[..most].iter().cloned());
            if most < group.len() {
                brief.push(format!("  and {} more", group.len() - most));
            }
        }
        brief
    }
}

/// Where finished trials ran whose figures stand in one table, wherever that is more than one kind of device.
fn devices(kept: &[&Record]) -> Vec<String> {
    let mut all: BTreeMap<_, BTreeMap<String, usize>> = BTreeMap::new();
    for record in kept.iter().filter(|r| r.outcome == Outcome::Finished) {
        let from = &record.provenance;
        let table = (record.protocol, &from.backbone, &from.backbone_fingerprint);
        let kind = ran::kind(from.device.as_deref(), from.arithmetic.as_deref());
        *all.entry(table).or_default().entry(kind).or_default() += 1;
    }
    let line = |((protocol, backbone, _), kinds): ((&Protocol, &String, _), BTreeMap<_, usize>)| {
        let kinds = kinds
            .iter()
            .map(|(kind, n)| format!("{} on {kind}", count(*n, "trial")));
        let kinds: Vec<String> = kinds.collect();
        format!("{} on {backbone}: {}", protocol.name, kinds.join(", "))
    };
    all.into_iter()
        .filter(|(_, kinds)| kinds.len() > 1)
        .map(line)
        .collect()
}

fn count(n: usize, what: &str) -> String {
    if n == 1 {
        format!("1 {what}")
    } else {
        format!("{n} {what}s")
    }
}

/// `base-to-novel coop dtd 16 shots seed 1`.
pub(super) fn trial_name(
    protocol: &Protocol,
    method: &str,
    dataset: &str,
    shots: usize,
    seed: u64,
) -> String {
    let shots = match shots {
        0 => String::new(),
        1 => " 1 shot".to_owned(),
        n => format!(" {n} shots"),
    };
    let start = start::called(dataset, |id| id);
    format!("{} {method} {start}{shots} seed {seed}", protocol.name)
}

fn collapsed(section: &Section) -> Vec<Collapse> {
    let mut found = Vec::new();
    for (method, dataset, class_set, shots, cell) in section.cells() {
        let mut sorted: Vec<f64> = cell.values.iter().map(|v| v.1).collect();
        sorted.sort_by(f64::total_cmp);
        let Some(&best) = sorted.last().filter(|_| sorted.len() > 1) else {
            continue;
        };
        let median = sorted[sorted.len() / 2];
        for &(seed, accuracy) in &cell.values {
            let is_half = accuracy < best / 2.0 && accuracy < best - BELOW_BEST;
            if is_half || accuracy < median - BELOW_MEDIAN {
                found.push(Collapse {
                    trial: trial_name(section.protocol, method, dataset, shots, seed),
                    class_set,
                    accuracy,
                    best,
                });
            }
        }
    }
    found
}
