//! What a suite comes to: its trials and where each is tested, before any picture or weight is read.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::protocols::{Protocol, Stage};
use crate::record::TestSet;
use crate::run::suite::{Resolved, Suite};

/// One trial of a suite.
pub struct Cell {
    /// Which of the suite's methods.
    pub line: usize,
    /// How accuracy is measured.
    pub protocol: &'static Protocol,
    /// What it starts from, as [`start`](crate::start) has it: what is trained on, or tested on where nothing is trained.
    pub dataset: String,
    /// Training pictures a class; 0 where nothing is trained.
    pub shots: usize,
    /// Seed.
    pub seed: u64,
    /// The method with its settings here, which cells that differ by their seeds share.
    pub method: Arc<Resolved>,
}

/// The trials of a suite, in its order.
pub fn cells(suite: &Suite) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &protocol in &suite.protocols {
        let trained_on = protocol.starts(&suite.wanted());
        let lines = suite.methods.iter().enumerate();
        for (index, line) in lines.filter(|(_, l)| l.runs_under(protocol)) {
            for dataset in &trained_on {
                let takes_shots = line
                    .resolve(protocol, dataset, suite.shots.first().copied().unwrap_or(0))
                    .takes_shots();
                let shots = if takes_shots { &suite.shots[..] } else { &[0] };
                for &shots in shots {
                    let method = Arc::new(line.resolve(protocol, dataset, shots));
                    // What draws nothing is the same for every seed.
                    let seeds = if method.is_random() {
                        &suite.seeds[..]
                    } else {
                        &suite.seeds[..suite.seeds.len().min(1)]
                    };
                    cells.extend(seeds.iter().map(|&seed| Cell {
                        line: index,
                        protocol,
                        dataset: dataset.clone(),
                        shots,
                        seed,
                        method: method.clone(),
                    }));
                }
            }
        }
    }
    cells
}

/// The stages of a trial that starts from `start`.
pub fn stages(suite: &Suite, protocol: &Protocol, start: &str) -> Vec<Stage> {
    (protocol.stages)(&suite.wanted(), start)
}

/// Where a trial from `start` is tested, over all its stages.
pub fn targets(suite: &Suite, protocol: &Protocol, start: &str) -> Vec<(String, TestSet)> {
    stages(suite, protocol, start)
        .into_iter()
        .flat_map(|stage| stage.tests)
        .collect()
}

/// Where methods' descriptions are, each with a dataset that they must describe: one that a trial learns or is tested on.
pub fn described(suite: &Suite) -> BTreeSet<(PathBuf, String)> {
    let mut all = BTreeSet::new();
    for line in &suite.methods {
        let Some(path) = &line.descriptions else {
            continue;
        };
        for &protocol in suite.protocols.iter().filter(|p| line.runs_under(p)) {
            for start in protocol.starts(&suite.wanted()) {
                for stage in stages(suite, protocol, &start) {
                    let learned = stage.train.into_iter().map(|(id, _)| id);
                    let asked = stage.tests.into_iter().map(|(id, _)| id);
                    all.extend(learned.chain(asked).map(|id| (path.clone(), id)));
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn only_what_a_line_learns_or_is_tested_on_must_be_described() {
        let text = r#"
            version  = 1
            protocol = ["few-shot", "multi-task"]
            datasets = ["drawn-textures", "drawn-pets"]
            unseen   = ["drawn-food"]
            shots    = [1]
            [[method]]
            name         = "by-description"
            descriptions = "words"
            protocols    = ["few-shot"]
        "#;
        let ids = ["drawn-textures", "drawn-pets", "drawn-food"].map(str::to_owned);
        let asked = |text: String| {
            let suite = Suite::of_text(text, Path::new("suite.toml"), &ids).unwrap();
            let all = described(&suite).into_iter();
            all.map(|(_, id)| id).collect::<Vec<_>>()
        };
        assert_eq!(asked(text.to_owned()), ["drawn-pets", "drawn-textures"]);
        let everywhere = text.replace("protocols    = [\"few-shot\"]", "");
        assert_eq!(asked(everywhere).len(), 3);
    }
}
