//! Records put in order: which accuracies belong in which cell, what is missing, and what must be said about it.
//!
//! Tables, charts and the report all read a [`Summary`], so they can never disagree.

mod continual;
mod cost;
mod figure;
mod health;
mod order;
#[cfg(test)]
pub mod sample;
mod section;
pub(crate) mod tasks;
pub(crate) mod uses;

use std::collections::{BTreeMap, BTreeSet};

pub use continual::Spot;
pub use cost::Spending;
pub use figure::{Cell, Entry, Figure, Method, Metric, Place, Score, Spread};
pub use health::{Collapse, Failure, Health};
pub use section::Section;
use section::Told;

use crate::protocols::{Protocol, Shows, Starts};
use crate::record::{Outcome, Record};
use crate::store::{Loaded, Planned};

/// Everything a results folder says, in order.
#[derive(Clone, Debug)]
pub struct Summary {
    /// One for each protocol, backbone and, where there is one, source dataset.
    pub sections: Vec<Section>,
    /// What is broken, failed, missing or doubtful.
    pub health: Health,
}

impl Summary {
    /// Puts loaded records in order.
    pub fn new(loaded: &Loaded) -> Self {
        let (kept, set_aside) = keep(loaded);
        let mut groups: BTreeMap<(&'static Protocol, &str, &str), Vec<&Record>> = BTreeMap::new();
        for record in &kept {
            let source = &record.provenance;
            let group = (
                record.protocol,
                source.backbone.as_str(),
                source.backbone_fingerprint.as_str(),
            );
            groups.entry(group).or_default().push(record);
        }
        let backbones: BTreeSet<&str> = groups
            .keys()
            .map(|&(_, _, fingerprint)| fingerprint)
            .collect();
        let mut sections = Vec::new();
        for ((protocol, backbone, fingerprint), records) in &groups {
            let planned: Vec<&Planned> = loaded
                .planned
                .iter()
                .filter(|p| p.protocol == *protocol)
                .collect();
            let sources = sources(protocol, records);
            for source in &sources {
                sections.push(Section::new(
                    protocol,
                    backbone,
                    fingerprint,
                    *source,
                    records,
                    &planned,
                    Told {
                        backbone: backbones.len() > 1,
                        start: sources.len() > 1,
                    },
                ));
            }
        }
        set_beside(&mut sections);
        let health = Health::new(loaded, &kept, set_aside, &sections);
        Self { sections, health }
    }

    /// The same with seeds summed up another way.
    #[must_use]
    pub fn with_spread(mut self, spread: Spread) -> Self {
        for section in &mut self.sections {
            section.spread = spread;
            if let Some(beside) = &mut section.beside {
                beside.spread = spread;
            }
        }
        self
    }

    /// The same with another accuracy.
    #[must_use]
    pub fn with_score(mut self, score: Score) -> Self {
        for section in &mut self.sections {
            section.score = score;
        }
        self
    }
}

/// Puts beside what was learned of all datasets at once what was learned of each by itself, on the same backbone.
fn set_beside(sections: &mut [Section]) {
    let found = |of: &Section| {
        let is_each = |s: &&Section| {
            let p = s.protocol;
            let is_alone = p.starts == Starts::Each && p.shows == Shows::Sets && p.has_training;
            is_alone && s.fingerprint == of.fingerprint && s.backbone == of.backbone
        };
        sections.iter().find(is_each).cloned().map(Box::new)
    };
    let is_beside = |s: &Section| s.protocol.shows == Shows::Tasks;
    let all: Vec<Option<Box<Section>>> = sections
        .iter()
        .map(|s| is_beside(s).then(|| found(s)).flatten())
        .collect();
    for (section, beside) in sections.iter_mut().zip(all) {
        section.beside = beside;
    }
}

/// What a protocol's records start from, where that is not each dataset by itself; one `None` where it is.
fn sources<'a>(protocol: &Protocol, records: &[&'a Record]) -> Vec<Option<&'a str>> {
    if protocol.starts == Starts::Each {
        return vec![None];
    }
    let of = |trained: bool| -> BTreeSet<&'a str> {
        records
            .iter()
            .filter(|r| !trained || r.shots > 0 || protocol.starts == Starts::All)
            .map(|r| r.dataset.as_str())
            .collect()
    };
    let mut found = of(true);
    if found.is_empty() {
        found = of(false).into_iter().take(1).collect();
    }
    found.into_iter().map(Some).collect()
}

/// Records that count, and the keys of those that do not: no suite asks for them any more, or a newer record of the
/// same trial is there.
fn keep(loaded: &Loaded) -> (Vec<&Record>, Vec<String>) {
    let wanted: BTreeSet<&str> = loaded.planned.iter().map(|p| p.key.as_str()).collect();
    let mut newest: BTreeMap<_, &Record> = BTreeMap::new();
    let mut set_aside = Vec::new();
    for record in &loaded.records {
        if !wanted.is_empty() && !wanted.contains(record.key.as_str()) {
            set_aside.push(record.key.clone());
            continue;
        }
        let trial = (
            record.protocol,
            record.provenance.backbone_fingerprint.as_str(),
            record.method.as_str(),
            record.dataset.as_str(),
            record.shots,
            record.seed,
        );
        // A finished trial beats a failed one; between two of a kind the later one counts.
        let rank = |r: &Record| {
            (
                r.outcome == Outcome::Finished,
                r.provenance.started,
                r.key.clone(),
            )
        };
        match newest.get(&trial) {
            Some(other) if rank(other) >= rank(record) => set_aside.push(record.key.clone()),
            Some(other) => {
                set_aside.push(other.key.clone());
                newest.insert(trial, record);
            }
            None => {
                newest.insert(trial, record);
            }
        }
    }
    set_aside.sort();
    (newest.into_values().collect(), set_aside)
}

#[cfg(test)]
mod tests;
