//! What a suite will cost, before it runs: trials, pictures through the image tower, operations, hours on this machine.
//!
//! Operations are counted from sizes ([`crate::run::work`]); hours are operations over rates that are timed just then ([`rate`]).
//! Reading, decoding and resizing pictures is not in it, nor what is neither tower. So it is an estimate, and says so.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result};
use clip::weights::Architecture;
use datasets::{Catalogue, ClassSet, drawn};
use methods::Sees;

use crate::device::Place;
use crate::run::feed::{self, Series};
use crate::run::plan::{self, Cell};
use crate::run::suite::{Suite, Views};

pub mod rate;

use crate::run::population::Population;
use crate::run::work::{self, Counter, Load};
use rate::Rates;

/// Most classes whose texts are timed.
const TIMED_CLASSES: usize = 24;

/// The datasets of a suite.
///
/// # Errors
/// A data folder that is not there although it was named, a dataset that is broken, or one that is absent and whose
/// catalogue row says nothing of its size.
pub fn populations(
    suite: &Suite,
    catalogue: &Catalogue,
    root: Option<&Path>,
) -> Result<BTreeMap<String, Population>> {
    let mut found = BTreeMap::new();
    for id in suite.all_datasets() {
        let is_there = drawn::open(id).is_some() || {
            let row = catalogue.find(id)?;
            root.is_some_and(|root| !root.is_dir() || row.images_folder(root).exists())
        };
        let population = if is_there {
            let dataset = feed::open(id, catalogue, root)?;
            let notes = dataset.notes.iter().map(ToString::to_string);
            Population::counted(&dataset.split).map(|mut p| {
                p.augmix = dataset.augmix;
                p.notes = notes.collect();
                p
            })
        } else {
            Population::published(catalogue.find(id)?)
        };
        found.insert(
            id.clone(),
            population.with_context(|| format!("dataset {id}"))?,
        );
    }
    Ok(found)
}

/// What the trials of one method take.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its label in the suite.
    pub method: String,
    /// Trials.
    pub trials: usize,
    /// Their work.
    pub load: Load,
}

/// What a suite takes, a line a method in suite order. What trials share counts for the first that needs it; of views of
/// test pictures, without a cache on disk (`is_cached`), as many as a process keeps.
pub fn loads(
    suite: &Suite,
    cells: &[Cell],
    architecture: &Architecture,
    populations: &BTreeMap<String, Population>,
    is_cached: bool,
) -> Vec<Line> {
    let mut lines: Vec<Line> = suite
        .methods
        .iter()
        .map(|m| Line {
            method: m.label.clone(),
            trials: 0,
            load: Load::default(),
        })
        .collect();
    let frozen = work::image(architecture, 0).forward;
    let encoded = |pictures: usize| Load {
        images: pictures as u64,
        image_forward: pictures as f64 * frozen,
        ..Load::default()
    };
    let (mut tested, mut viewed, mut seen) = (HashSet::new(), HashSet::new(), HashSet::new());
    for cell in cells {
        let line = &mut lines[cell.line];
        line.trials += 1;
        let counter = Counter {
            architecture,
            method: &cell.method,
        };
        let needs = cell.method.config.needs();
        let sees = needs.sees;
        let is_shared = sees == Sees::Features && suite.views != Views::Fresh;
        for stage in plan::stages(suite, cell.protocol, &cell.dataset) {
            let taught = stage.taught();
            let pictures = |of: &Population, set| {
                if needs.unlabelled {
                    of.train()
                } else {
                    of.picked(cell.shots, set)
                }
            };
            let lessons = taught.iter().map(|(id, set)| {
                let of = &populations[id];
                (of, *set, pictures(of, *set))
            });
            let mut load = counter.learning(&lessons.collect::<Vec<_>>(), suite.views);
            let picks = (taught, cell.shots, cell.seed);
            if is_shared && load.steps > 0 && !viewed.insert(picks) {
                (load.images, load.image_forward) = (0, 0.0);
            }
            line.load += load;
            for (id, set) in stage.tests {
                let of = &populations[&id];
                let mut load = counter.testing(of, set);
                if let Some(series) = Series::of(&needs, of.augmix, cell.seed)
                    && !seen.insert((id.clone(), set.pictures, series))
                {
                    let kept = series.pictures_kept(architecture.embedding);
                    let pictures = of.tests(set.pictures);
                    let again = if is_cached {
                        0
                    } else {
                        pictures.saturating_sub(kept)
                    };
                    let share = again as f64 / pictures.max(1) as f64;
                    load.images = (load.images as f64 * share).round() as u64;
                    load.image_forward *= share;
                }
                line.load += load;
                if sees == Sees::Features && tested.insert(id) {
                    line.load += encoded(of.tests(ClassSet::All));
                }
            }
        }
    }
    lines.retain(|l| l.trials > 0);
    lines
}

/// What each trial takes on its own, where nothing is shared with others: as tasks on different machines do.
pub fn alone(
    suite: &Suite,
    cells: &[Cell],
    architecture: &Architecture,
    populations: &BTreeMap<String, Population>,
) -> Vec<Load> {
    let one = |cell| {
        let cell = std::slice::from_ref(cell);
        loads(suite, cell, architecture, populations, false)
    };
    let sum = |lines: Vec<Line>| {
        let mut load = Load::default();
        lines.into_iter().for_each(|line| load += line.load);
        load
    };
    cells.iter().map(|cell| sum(one(cell))).collect()
}

/// The rates for this suite at a place, `jobs` trials of `threads` threads at a time.
///
/// # Errors
/// None that a caller can cause.
pub fn rates(
    suite: &Suite,
    cells: &[Cell],
    architecture: &Architecture,
    populations: &BTreeMap<String, Population>,
    (jobs, threads): (usize, usize),
    place: &Place,
) -> Result<Rates> {
    let classes = cells.iter().map(|c| {
        let first = plan::stages(suite, c.protocol, &c.dataset)
            .into_iter()
            .next();
        let taught = first.map_or_else(Vec::new, |stage| stage.taught());
        let counts = taught.iter().map(|(id, set)| populations[id].classes(*set));
        counts.sum::<usize>()
    });
    let mean = classes.sum::<usize>() / cells.len().max(1);
    let classes = mean.clamp(2, TIMED_CLASSES);
    rate::measure(architecture, classes, (jobs, threads), place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::sizes::released;

    /// Pictures encoded for each method of a suite over drawn pets and seeds 1 and 2.
    fn encoded(methods: &str, is_cached: bool, pictures: usize) -> Vec<u64> {
        let text = format!(
            "version = 1\nprotocol = \"test-time\"\ndatasets = [\"oxford-pets\"]\nseeds = [1, 2]\n{methods}"
        );
        let ids = ["oxford-pets".to_owned()];
        let suite = Suite::of_text(text, Path::new("suite.toml"), &ids).unwrap();
        let catalogue = Catalogue::built_in();
        let mut row = catalogue.find("oxford-pets").unwrap().clone();
        row.pictures.as_mut().unwrap().test = pictures;
        let population = Population::published(&row).unwrap();
        let populations = BTreeMap::from([("oxford-pets".to_owned(), population)]);
        let architecture = released("clip-vit-b16").unwrap();
        let cells = plan::cells(&suite);
        let lines = loads(&suite, &cells, &architecture, &populations, is_cached);
        lines.iter().map(|l| l.load.images).collect()
    }

    #[test]
    fn views_that_methods_share_count_for_the_first_of_them() {
        let methods = "[[method]]\nname = \"tpt\"\n[[method]]\nname = \"ctpt\"\n[[method]]\nname = \"zero\"\n\
                       [[method]]\nname = \"mta\"\n[[method]]\nname = \"tda\"\nconfig = { views = 64 }\n";
        let views = |pictures: u64| 2 * 64 * pictures;
        // ZERO and MTA do not mix, TDA sees pictures in an order of its own.
        assert_eq!(
            encoded(methods, false, 1000),
            [views(1000), 0, views(1000), 0, views(1000)]
        );
        // More than a process keeps are encoded again, unless they are on disk.
        let many = "[[method]]\nname = \"tpt\"\n[[method]]\nname = \"ctpt\"\n";
        assert_eq!(encoded(many, true, 5000), [views(5000), 0]);
        assert_eq!(encoded(many, false, 5000), [views(5000), views(904)]);
    }
}
