//! What the predictions say beyond accuracy: paired tests, calibration, classes and confusions, at a section's largest
//! number of shots.

use std::collections::BTreeMap;

use crate::record::TestSet;
use crate::show::summary::{Cell, Method, Metric, Place, Section};
use crate::stats::{self, Bin, ECE_BINS, McNemar, Wilcoxon};
use crate::store::{Prediction, StoreError};

/// Reads the predictions of the trial with a key on a dataset and class set; `None` when it kept none at all.
pub type Reader<'a> =
    dyn Fn(&str, &str, TestSet) -> Result<Option<Vec<Prediction>>, StoreError> + 'a;

/// Two methods on the same pictures of one class set of one dataset.
///
/// The picture is the unit, whatever the number of seeds: it counts for the method that gets it right in the larger
/// share of its seeds, and for neither when the shares are equal. With one seed each this is McNemar's test as
/// published; counting a picture once a seed would pretend that seeds are new pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureTest {
    /// Labels of the two methods.
    pub methods: (String, String),
    /// Dataset tested on.
    pub dataset: String,
    /// Class set tested on.
    pub class_set: TestSet,
    /// McNemar's test.
    pub result: McNemar,
    /// Exact p-value after Holm's correction over every test of the section.
    pub holm: f64,
}

/// Two methods over the datasets of a section.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetTest {
    /// Labels of the two methods.
    pub methods: (String, String),
    /// What is compared: a class set or `H`.
    pub metric: String,
    /// Mean difference in points, second less first.
    pub difference: f64,
    /// Datasets the second method wins, and loses.
    pub wins: (usize, usize),
    /// Wilcoxon's signed-rank test.
    pub result: Wilcoxon,
    /// p-value after Holm's correction over the section's tests of this metric.
    pub holm: f64,
}

/// Confidence against accuracy of a method, over all datasets, seeds and pictures of a class set.
#[derive(Clone, Debug, PartialEq)]
pub struct Reliability {
    /// Label of the method.
    pub method: String,
    /// Class set tested on.
    pub class_set: TestSet,
    /// Fifteen bins.
    pub bins: Vec<Bin>,
}

/// A class that a method gained or lost against the untrained one.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassChange {
    /// Label of the method.
    pub method: String,
    /// Dataset and class set.
    pub place: (String, TestSet),
    /// Label in the class set.
    pub class: u32,
    /// Test pictures of the class.
    pub pictures: usize,
    /// Accuracy of the untrained method and of this one, in percent.
    pub accuracy: (f64, f64),
}

/// Two classes a method confuses.
#[derive(Clone, Debug, PartialEq)]
pub struct Confusion {
    /// Label of the method.
    pub method: String,
    /// Dataset and class set.
    pub place: (String, TestSet),
    /// True and predicted label in the class set.
    pub labels: (u32, u32),
    /// Share of the true class's predictions, in percent.
    pub share: f64,
}

/// Everything found in one section.
#[derive(Clone, Debug, Default)]
pub struct Analysis {
    /// Number of shots analysed.
    pub shots: usize,
    /// Label of the method the classes are held against: the first untrained one.
    pub reference: Option<String>,
    /// Pairs on the same pictures.
    pub pictures: Vec<PictureTest>,
    /// Pairs over datasets.
    pub datasets: Vec<DatasetTest>,
    /// Calibration of each method.
    pub reliability: Vec<Reliability>,
    /// Largest gains and losses of each method.
    pub classes: Vec<ClassChange>,
    /// Most frequent confusions of each method.
    pub confusions: Vec<Confusion>,
    /// Trials without predictions, and predictions that cannot be read.
    pub problems: Vec<String>,
}

/// Gains, losses and confusions kept of each method.
const KEPT: usize = 5;

/// A class with fewer pictures says nothing.
const FEWEST: usize = 5;

impl Analysis {
    /// Analyses a section. A predictions file that is missing or broken is a problem in the result, no error.
    pub fn new(section: &Section, read: &Reader<'_>) -> Self {
        let shots = section.shots.last().copied().unwrap_or(0);
        let reference = section
            .methods
            .iter()
            .find(|m| !m.is_trained)
            .map(|m| m.label.clone());
        let mut found = Self {
            shots,
            reference,
            ..Self::default()
        };
        found.over_datasets(section);
        for dataset in &section.datasets {
            found.over_pictures(section, dataset, read);
        }
        let raw: Vec<f64> = found.pictures.iter().map(|t| t.result.exact).collect();
        for (test, p) in found.pictures.iter_mut().zip(stats::holm(&raw)) {
            test.holm = p;
        }
        found.keep_extremes(section);
        found.problems.sort();
        found.problems.dedup();
        found
    }

    fn over_datasets(&mut self, section: &Section) {
        let mut metrics: Vec<(String, Metric)> = section
            .class_sets
            .iter()
            .map(|set| (set.to_string(), Metric::Accuracy(*set)))
            .collect();
        let halves = section.protocol.halves();
        if halves.is_some_and(|[_, novel]| section.class_sets.contains(&novel)) {
            metrics.push(("H".to_owned(), Metric::Harmonic));
        }
        for (name, metric) in metrics {
            let mean = |method: &Method, dataset| {
                let entry = section.entry(method, Place::Dataset(dataset), metric, self.shots);
                entry.figure().map(|f| f.mean)
            };
            let mut tests = Vec::new();
            for (first, second) in pairs(&section.methods) {
                // Only datasets both have whole; tests between other datasets would not be paired.
                let differences: Vec<f64> = section
                    .targets()
                    .filter_map(|d| Some(mean(second, d)? - mean(first, d)?))
                    .collect();
                let Some(result) = stats::wilcoxon(&differences).filter(|_| differences.len() > 1)
                else {
                    continue;
                };
                tests.push(DatasetTest {
                    methods: (first.label.clone(), second.label.clone()),
                    metric: name.clone(),
                    difference: stats::mean(&differences).expect("there are differences"),
                    wins: (
                        differences.iter().filter(|d| **d > 0.0).count(),
                        differences.iter().filter(|d| **d < 0.0).count(),
                    ),
                    result,
                    holm: 1.0,
                });
            }
            let raw: Vec<f64> = tests.iter().map(|t| t.result.p).collect();
            for (test, p) in tests.iter_mut().zip(stats::holm(&raw)) {
                test.holm = p;
            }
            self.datasets.extend(tests);
        }
    }

    fn over_pictures(&mut self, section: &Section, dataset: &str, read: &Reader<'_>) {
        for &class_set in &section.class_sets {
            let mut judged: Vec<(&Method, Judged)> = Vec::new();
            for method in &section.methods {
                let Some(cell) = section.cell(method, dataset, class_set, self.shots) else {
                    continue;
                };
                if !cell.is_whole() {
                    continue;
                }
                match judge(cell, dataset, class_set, read) {
                    Ok(one) => judged.push((method, one)),
                    Err(problem) => self.problems.push(problem),
                }
            }
            let methods: Vec<&Method> = judged.iter().map(|(m, _)| *m).collect();
            for (i, first) in methods.iter().enumerate() {
                for (j, second) in methods.iter().enumerate().skip(i + 1) {
                    let Some(result) = compare(&judged[i].1, &judged[j].1) else {
                        self.problems.push(format!(
                            "{} and {} were not tested on the same images of {dataset} ({class_set})",
                            first.label, second.label
                        ));
                        continue;
                    };
                    self.pictures.push(PictureTest {
                        methods: (first.label.clone(), second.label.clone()),
                        dataset: dataset.to_owned(),
                        class_set,
                        result,
                        holm: 1.0,
                    });
                }
            }
            let place = (dataset.to_owned(), class_set);
            let untrained = judged
                .iter()
                .find(|(m, _)| Some(&m.label) == self.reference.as_ref())
                .map(|j| j.1.classes());
            for (method, one) in &judged {
                self.add_reliability(method, class_set, one);
                self.add_confusions(method, &place, one);
                if let Some(before) = untrained
                    .as_ref()
                    .filter(|_| Some(&method.label) != self.reference.as_ref())
                {
                    for (class, (pictures, after)) in one.classes() {
                        let Some((_, before)) = before.get(&class).filter(|_| pictures >= FEWEST)
                        else {
                            continue;
                        };
                        self.classes.push(ClassChange {
                            method: method.label.clone(),
                            place: place.clone(),
                            class,
                            pictures,
                            accuracy: (*before, after),
                        });
                    }
                }
            }
        }
    }

    fn add_reliability(&mut self, method: &Method, class_set: TestSet, one: &Judged) {
        let bins = stats::reliability(one.sure.iter().copied(), ECE_BINS);
        let same = |r: &&mut Reliability| r.method == method.label && r.class_set == class_set;
        match self.reliability.iter_mut().find(same) {
            Some(all) => {
                all.bins = all
                    .bins
                    .iter()
                    .zip(&bins)
                    .map(|(a, b)| join(a, b))
                    .collect()
            }
            None => self.reliability.push(Reliability {
                method: method.label.clone(),
                class_set,
                bins,
            }),
        }
    }

    fn add_confusions(&mut self, method: &Method, place: &(String, TestSet), one: &Judged) {
        let mut totals: BTreeMap<u32, usize> = BTreeMap::new();
        for (labels, count) in &one.confusions {
            *totals.entry(labels.0).or_default() += count;
        }
        for (labels, count) in one
            .confusions
            .iter()
            .filter(|((truth, guess), _)| truth != guess)
        {
            let total = totals[&labels.0];
            if total >= FEWEST {
                self.confusions.push(Confusion {
                    method: method.label.clone(),
                    place: place.clone(),
                    labels: *labels,
                    share: 100.0 * *count as f64 / total as f64,
                });
            }
        }
    }

    /// Keeps the largest changes and confusions of each method.
    fn keep_extremes(&mut self, section: &Section) {
        let change = |c: &ClassChange| c.accuracy.1 - c.accuracy.0;
        let mut classes = std::mem::take(&mut self.classes);
        classes.sort_by(|a, b| change(b).total_cmp(&change(a)));
        let mut confusions = std::mem::take(&mut self.confusions);
        confusions.sort_by(|a, b| b.share.total_cmp(&a.share));
        for method in &section.methods {
            let own = || classes.iter().filter(|c| c.method == method.label);
            self.classes
                .extend(own().filter(|c| change(c) > 0.0).take(KEPT).cloned());
            self.classes
                .extend(own().rev().filter(|c| change(c) < 0.0).take(KEPT).cloned());
            self.confusions.extend(
                confusions
                    .iter()
                    .filter(|c| c.method == method.label)
                    .take(KEPT)
                    .cloned(),
            );
        }
    }
}

/// Every two methods, in the section's order.
fn pairs(methods: &[Method]) -> impl Iterator<Item = (&Method, &Method)> {
    methods
        .iter()
        .enumerate()
        .flat_map(move |(i, first)| methods[i + 1..].iter().map(move |second| (first, second)))
}

/// Every prediction of a cell, seeds together.
#[derive(Default)]
struct Judged {
    /// By image: label, and how many seeds are right.
    images: BTreeMap<String, (u32, usize)>,
    seeds: usize,
    /// Confidence and whether it is right, of every prediction.
    sure: Vec<(f64, bool)>,
    /// Predictions by true and predicted label.
    confusions: BTreeMap<(u32, u32), usize>,
}

impl Judged {
    /// By class: pictures, and accuracy in percent over pictures and seeds.
    fn classes(&self) -> BTreeMap<u32, (usize, f64)> {
        let mut tallies: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
        for (label, right) in self.images.values() {
            let tally = tallies.entry(*label).or_default();
            tally.0 += 1;
            tally.1 += right;
        }
        let share = |(pictures, right): (usize, usize)| {
            100.0 * right as f64 / (pictures * self.seeds) as f64
        };
        tallies
            .into_iter()
            .map(|(class, tally)| (class, (tally.0, share(tally))))
            .collect()
    }
}

fn judge(
    cell: &Cell,
    dataset: &str,
    class_set: TestSet,
    read: &Reader<'_>,
) -> Result<Judged, String> {
    let mut judged = Judged {
        seeds: cell.keys.len(),
        ..Judged::default()
    };
    for ((_, key), (_, accuracy)) in cell.keys.iter().zip(&cell.values) {
        let all = read(key, dataset, class_set)
            .map_err(|e| e.to_string())?
            .ok_or_else(|| format!("{key}: kept no predictions"))?;
        let (mut right, mut total) = (0usize, 0usize);
        for p in all {
            let is_right = p.predicted == p.label;
            right += usize::from(is_right);
            total += 1;
            judged.sure.push((f64::from(p.confidence), is_right));
            *judged.confusions.entry((p.label, p.predicted)).or_default() += 1;
            let image = judged.images.entry(p.image).or_insert((p.label, 0));
            image.1 += usize::from(is_right);
        }
        // A predictions file of another run would otherwise slip in unnoticed.
        let shown = 100.0 * right as f64 / total as f64;
        if (shown - accuracy).abs() > 1e-6 || total == 0 {
            return Err(format!(
                "{key}: {dataset} ({class_set}): predictions and record disagree"
            ));
        }
    }
    Ok(judged)
}

/// McNemar's test on shares of seeds; `None` when the images differ.
fn compare(first: &Judged, second: &Judged) -> Option<McNemar> {
    if first.images.len() != second.images.len() {
        return None;
    }
    let (mut only_first, mut only_second) = (0, 0);
    for (image, (_, right)) in &first.images {
        let (_, other) = second.images.get(image)?;
        // Shares of seeds, compared without a division.
        match (right * second.seeds).cmp(&(other * first.seeds)) {
            std::cmp::Ordering::Greater => only_first += 1,
            std::cmp::Ordering::Less => only_second += 1,
            std::cmp::Ordering::Equal => {}
        }
    }
    Some(stats::mcnemar(only_first, only_second))
}

/// Two bins of the same range as one.
fn join(a: &Bin, b: &Bin) -> Bin {
    let count = a.count + b.count;
    let mean = |x: f64, y: f64| {
        let part = |value: f64, n: usize| if n == 0 { 0.0 } else { value * n as f64 };
        (part(x, a.count) + part(y, b.count)) / count as f64
    };
    Bin {
        count,
        confidence: mean(a.confidence, b.confidence),
        accuracy: mean(a.accuracy, b.accuracy),
        ..*a
    }
}

#[cfg(test)]
mod tests;
