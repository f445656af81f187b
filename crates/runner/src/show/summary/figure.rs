//! What a section is made of: methods, cells, figures, and ways to ask for them.

use std::collections::BTreeSet;

use crate::record::TestSet;
use crate::stats;
use crate::stats::continual::Measure;

/// A method as it stands in tables and charts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// Label in the suite, unique.
    pub label: String,
    /// Name of the algorithm in the registry.
    pub algorithm: String,
    /// Place among the section's methods with this algorithm, from 0.
    pub variant: usize,
    /// Whether it has labelled training pictures. One that does not stands beside every number of shots.
    pub is_trained: bool,
    /// Whether it chose by test pictures or by a whole validation split, as some released code does.
    pub peeks: bool,
    /// Whether charts draw it grey: one of many, and not among the few that matter.
    pub is_grey: bool,
}

/// Accuracies of one method on one class set of one dataset at one number of shots.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// Seed and top-1 accuracy in percent, by seed.
    pub values: Vec<(u64, f64)>,
    /// Seed and macro accuracy in percent, by seed; of the seeds whose classes were tallied.
    pub macros: Vec<(u64, f64)>,
    /// Expected calibration error in percent, by seed.
    pub calibration: Vec<(u64, f64)>,
    /// Seed and key of the record, by seed.
    pub keys: Vec<(u64, String)>,
    /// Seeds that should be here.
    pub expected: BTreeSet<u64>,
    /// Seeds that failed.
    pub failed: BTreeSet<u64>,
}

impl Cell {
    /// Seed and accuracy in percent, by seed.
    pub fn scored(&self, score: Score) -> &[(u64, f64)] {
        match score {
            Score::Pictures => &self.values,
            Score::Classes => &self.macros,
        }
    }

    /// Whether every expected seed is here.
    pub fn is_whole(&self) -> bool {
        !self.values.is_empty()
            && self
                .expected
                .iter()
                .all(|seed| self.values.iter().any(|v| v.0 == *seed))
    }
}

/// A mean over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Mean in percent.
    pub mean: f64,
    /// Sample standard deviation over seeds; `None` of one seed, and of a harmonic mean (which is taken of means).
    pub deviation: Option<f64>,
    /// Seeds.
    pub seeds: usize,
}

impl Figure {
    /// Half of the Student-t interval of the mean over seeds at `level`; `None` where there is no spread.
    pub fn half_interval(&self, level: f64) -> Option<f64> {
        let n = self.seeds as f64;
        let t = || stats::student_t_quantile(0.5 + level / 2.0, n - 1.0);
        self.deviation
            .filter(|_| self.seeds > 1)
            .map(|deviation| t() * deviation / n.sqrt())
    }
}

/// How the seeds of a cell are summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// Mean, and sample standard deviation (divides by n - 1).
    #[default]
    Sample,
    /// What the published scripts print: each seed first rounded to one decimal, population standard deviation
    /// (divides by n); averages over datasets without one.
    AsPublished,
}

impl Spread {
    pub(super) fn of(self, values: &[f64]) -> (Option<f64>, Option<f64>) {
        match self {
            Self::Sample => (stats::mean(values), stats::sample_deviation(values)),
            Self::AsPublished => {
                let (mean, deviation) = stats::as_published(values).unzip();
                (mean, deviation.filter(|_| values.len() > 1))
            }
        }
    }
}

/// What counts alike in an accuracy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Score {
    /// Every picture: correct pictures over all pictures, as the papers print it.
    #[default]
    Pictures,
    /// Every class: macro accuracy, the mean of the classes' recall.
    Classes,
}

/// What a table shows in one place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry {
    /// Nobody asked for it.
    Blank,
    /// Asked for, but a seed is missing or failed.
    Gap,
    /// A figure computed from every seed asked for.
    Whole(Figure),
}

impl Entry {
    /// The figure, where there is one.
    pub fn figure(&self) -> Option<Figure> {
        if let Self::Whole(figure) = self {
            Some(*figure)
        } else {
            None
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Top-1 accuracy on a class set.
    Accuracy(TestSet),
    /// Harmonic mean of seed-averaged base and novel accuracy, where the protocol shows one.
    Harmonic,
    /// Mean over datasets of their [`Metric::Harmonic`]: the other average people print. The same as it in one place.
    MeanOfHarmonics,
    /// What is kept of what was learned one after the other.
    Continual(Measure),
}

/// Where it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// One dataset.
    Dataset(&'a str),
    /// Mean over the section's datasets (targets only, where there is a source; those trained on, where others are too).
    Average,
    /// Mean over those that were not trained on, where all others were.
    Unseen,
}
