//! What a suite comes to: its trials and where each is tested, before any picture or weight is read.

use datasets::ClassSet;

use crate::record::Protocol;
use crate::run::suite::{Resolved, Suite, is_transfer};

/// One trial of a suite.
pub struct Cell {
    /// Which of the suite's methods.
    pub line: usize,
    /// How accuracy is measured.
    pub protocol: Protocol,
    /// Dataset trained on, or tested on where nothing is trained.
    pub dataset: String,
    /// Training pictures a class; 0 where nothing is trained.
    pub shots: usize,
    /// Seed.
    pub seed: u64,
    /// The method with its settings here.
    pub method: Resolved,
}

/// The trials of a suite, in its order.
pub fn cells(suite: &Suite) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &protocol in &suite.protocols {
        let trained_on: Vec<&String> = if is_transfer(protocol) {
            suite.source.iter().collect()
        } else {
            suite.datasets.iter().collect()
        };
        let lines = suite.methods.iter().enumerate();
        for (index, line) in lines.filter(|(_, l)| l.runs_under(protocol)) {
            for dataset in &trained_on {
                let takes_shots = line
                    .resolve(protocol, dataset, suite.shots.first().copied().unwrap_or(0))
                    .takes_shots();
                let shots = if takes_shots { &suite.shots[..] } else { &[0] };
                for &shots in shots {
                    // What draws nothing is the same for every seed.
                    let seeds = if line.resolve(protocol, dataset, shots).is_random() {
                        &suite.seeds[..]
                    } else {
                        &suite.seeds[..suite.seeds.len().min(1)]
                    };
                    cells.extend(seeds.iter().map(|&seed| Cell {
                        line: index,
                        protocol,
                        dataset: (*dataset).clone(),
                        shots,
                        seed,
                        method: line.resolve(protocol, dataset, shots),
                    }));
                }
            }
        }
    }
    cells
}

/// The classes that a protocol trains on.
pub fn trained_classes(protocol: Protocol) -> ClassSet {
    if protocol == Protocol::BaseToNovel {
        ClassSet::Base
    } else {
        ClassSet::All
    }
}

/// Where a trial on `dataset` is tested.
pub fn targets(suite: &Suite, protocol: Protocol, dataset: &str) -> Vec<(String, ClassSet)> {
    let own = |set| (dataset.to_owned(), set);
    match protocol {
        Protocol::FewShot | Protocol::TestTime => vec![own(ClassSet::All)],
        Protocol::BaseToNovel => vec![own(ClassSet::Base), own(ClassSet::Novel)],
        Protocol::CrossDataset | Protocol::DomainGeneralization => {
            let shifted = suite
                .variants
                .as_ref()
                .filter(|_| protocol == Protocol::DomainGeneralization);
            let others = shifted.unwrap_or(&suite.datasets).iter();
            let mut targets = vec![own(ClassSet::All)];
            targets.extend(
                others
                    .filter(|id| *id != dataset)
                    .map(|id| (id.clone(), ClassSet::All)),
            );
            targets
        }
    }
}
