//! What is kept of what was learned one after the other: a matrix of accuracies for each trial, and what is measured of it.

use std::collections::BTreeMap;

use datasets::ClassSet;

use super::Section;
use super::figure::{Entry, Figure, Method, Place};
use crate::protocols::Shows;
use crate::record::{Outcome, Record, Test};
use crate::start;
use crate::stats::continual::{Matrix, Measure, Tally};

/// By method, what trials start from, and shots; then by seed.
pub(super) type Matrices = BTreeMap<(String, String, usize), BTreeMap<u64, Matrix>>;

/// Of every finished trial of a protocol that learns one thing after the other.
pub(super) fn matrices(records: &[&Record]) -> Matrices {
    let mut all = Matrices::new();
    for record in records.iter().filter(|r| r.outcome == Outcome::Finished) {
        let matrix = match record.protocol.shows {
            Shows::Sessions => of_sessions(record),
            Shows::Datasets => of_datasets(record),
            Shows::Sets | Shows::Halves { .. } | Shows::Tasks => None,
        };
        if let Some(matrix) = matrix {
            let of = (record.method.clone(), record.dataset.clone(), record.shots);
            all.entry(of).or_default().insert(record.seed, matrix);
        }
    }
    all
}

fn stage(record: &Record, number: usize) -> impl Iterator<Item = &Test> {
    record.tests.iter().filter(move |t| t.stage == number)
}

fn stages(record: &Record) -> usize {
    record.tests.iter().map(|t| t.stage + 1).max().unwrap_or(0)
}

/// After each session one test asks about all classes so far, which come session after session.
fn of_sessions(record: &Record) -> Option<Matrix> {
    let count = stages(record);
    let classes = stage(record, count.checked_sub(1)?).next()?.classes.len();
    let row = |number: usize| -> Option<Vec<Tally>> {
        let test = stage(record, number).next()?;
        let ClassSet::Sessions { cut, .. } = test.class_set.among else {
            return None;
        };
        let session = |j: usize| {
            let range = ClassSet::Sessions {
                first: j,
                last: j,
                cut,
            };
            let own = test.classes.get(range.range(classes))?;
            Some(Tally {
                correct: own.iter().map(|c| c.correct).sum(),
                total: own.iter().map(|c| c.total).sum(),
            })
        };
        (1..=number + 1).map(session).collect()
    };
    Matrix::of_sessions((0..count).map(row).collect::<Option<_>>()?)
}

fn of_datasets(record: &Record) -> Option<Matrix> {
    let row = |number| -> Option<Vec<Tally>> {
        let of = |id: &str| {
            let test = stage(record, number).find(|t| t.dataset == id)?;
            Some(Tally {
                correct: test.correct,
                total: test.total,
            })
        };
        start::datasets(&record.dataset).map(of).collect()
    };
    Matrix::of_datasets((0..stages(record)).map(row).collect::<Option<_>>()?)
}

/// A place of the mean matrix: after which was learned, which was asked about, and their mean accuracy in percent.
pub type Spot = (usize, usize, f64);

impl Section {
    /// How many things are learned one after the other; 0 where no trial has told.
    pub fn learned(&self) -> usize {
        let all = self.matrices.values().flat_map(BTreeMap::values);
        all.map(Matrix::len).max().unwrap_or(0)
    }

    /// Every matrix: method, start, shots, seed.
    pub fn matrices(&self) -> impl Iterator<Item = (&str, &str, usize, u64, &Matrix)> {
        self.matrices
            .iter()
            .flat_map(|((method, start, shots), seeds)| {
                let one =
                    move |(seed, matrix): (&u64, _)| (&**method, &**start, *shots, *seed, matrix);
                seeds.iter().map(one)
            })
    }

    /// What trials start from of which matrices are shown: the dataset, or all that are learned one after the other.
    fn matrices_of(
        &self,
        method: &Method,
        dataset: &str,
        shots: usize,
    ) -> Option<&BTreeMap<u64, Matrix>> {
        let start = self.source.as_deref().unwrap_or(dataset);
        let shots = if method.is_trained { shots } else { 0 };
        let of = (method.label.clone(), start.to_owned(), shots);
        self.matrices.get(&of)
    }

    /// The mean over seeds of a method's matrices on a dataset in sessions, or on all in a row; by row, then column.
    pub fn mean_matrix(&self, method: &Method, dataset: &str, shots: usize) -> Vec<Spot> {
        let Some(seeds) = self.matrices_of(method, dataset, shots) else {
            return Vec::new();
        };
        let count = seeds.values().map(Matrix::len).max().unwrap_or(0);
        let places = (0..count).flat_map(|t| (0..count).map(move |j| (t, j)));
        let spot = |(t, j)| {
            let values = seeds.values().filter_map(|m| m.at(t, j));
            let values: Vec<f64> = values.map(Tally::accuracy).collect();
            Some((t, j, crate::stats::mean(&values)?))
        };
        places.filter_map(spot).collect()
    }

    /// A measure by seed: on a dataset in sessions; of datasets in a row one column, or all where `place` is the average.
    pub(super) fn measured(
        &self,
        method: &Method,
        place: Place<'_>,
        measure: Measure,
        shots: usize,
    ) -> Option<Vec<(u64, f64)>> {
        let (dataset, column) = match (&self.source, place) {
            (None, Place::Dataset(dataset)) => (dataset, None),
            (Some(start), Place::Average) => (&**start, None),
            (Some(start), Place::Dataset(dataset)) => {
                let column = start::datasets(start).position(|id| id == dataset)?;
                (dataset, Some(column))
            }
            (None, Place::Average) | (_, Place::Unseen) => return None,
        };
        let of = |(seed, matrix): (&u64, &Matrix)| {
            let value = match column {
                Some(column) => matrix.of_column(column, measure),
                None => matrix.measure(measure),
            };
            Some((*seed, value?))
        };
        let seeds = self.matrices_of(method, dataset, shots)?;
        seeds.iter().map(of).collect()
    }

    /// What a table or chart shows of a measure. An average over datasets in sessions is one of means over seeds.
    pub(super) fn continual(
        &self,
        method: &Method,
        place: Place<'_>,
        measure: Measure,
        shots: usize,
    ) -> Entry {
        // Whether every seed is there is what the cell of the last test says.
        let Some(class_set) = self.class_sets.last() else {
            return Entry::Blank;
        };
        let dataset = match place {
            Place::Dataset(dataset) => Some(dataset),
            _ => self.datasets.first().map(String::as_str),
        };
        let cell = dataset.and_then(|d| self.cell(method, d, *class_set, shots));
        match cell {
            None => return Entry::Blank,
            Some(cell) if cell.expected.is_empty() && cell.values.is_empty() => {
                return Entry::Blank;
            }
            Some(cell) if !cell.is_whole() => return Entry::Gap,
            Some(_) => {}
        }
        let Some(by_seed) = self.measured(method, place, measure, shots) else {
            return Entry::Blank;
        };
        let values: Vec<f64> = by_seed.iter().map(|v| v.1).collect();
        let (mean, deviation) = self.spread.of(&values);
        mean.map_or(Entry::Blank, |mean| {
            Entry::Whole(Figure {
                mean,
                deviation,
                seeds: values.len(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::{class_incremental, task_incremental};
    use crate::record::ClassTally;
    use crate::show::summary::{Metric, Summary, sample};
    use crate::store::Loaded;

    fn section(records: Vec<Record>) -> Section {
        let loaded = Loaded {
            records,
            ..Loaded::default()
        };
        let mut sections = Summary::new(&loaded).sections;
        assert_eq!(sections.len(), 1);
        sections.remove(0)
    }

    fn mean(section: &Section, place: Place<'_>, measure: Measure) -> f64 {
        let metric = Metric::Continual(measure);
        let entry = section.entry(&section.methods[0], place, metric, 4);
        entry.figure().unwrap().mean
    }

    /// Five classes of ten pictures in three sessions, of which this many are right.
    fn in_sessions(seed: u64, rows: [&[u64]; 3]) -> Record {
        let tests = (1..).zip(rows).map(|(number, row)| {
            let name = if number == 1 {
                "session-1-of-3-shuffled-1993".to_owned()
            } else {
                format!("sessions-1-{number}-of-3-shuffled-1993")
            };
            let class = |&correct: &u64| ClassTally {
                name: "any".to_owned(),
                correct,
                total: 10,
            };
            let classes: Vec<ClassTally> = row.iter().map(class).collect();
            Test {
                stage: number - 1,
                correct: row.iter().sum(),
                total: 10 * row.len() as u64,
                classes,
                ..sample::test("dtd", &name, 1.0)
            }
        });
        let protocol = &class_incremental::PROTOCOL;
        sample::record(protocol, "coop", "dtd", 4, seed, tests.collect())
    }

    #[test]
    fn sessions_are_cut_out_of_the_classes_seen_so_far() {
        // Sessions of 2, 2 and 1 classes: accuracies 90 | 60 80 | 70 40 90.
        let rows: [&[u64]; 3] = [&[8, 10], &[5, 7, 9, 7], &[7, 7, 3, 5, 9]];
        let section = section(vec![in_sessions(1, rows)]);
        assert_eq!((section.learned(), section.class_sets.len()), (3, 1));
        let dtd = Place::Dataset("dtd");
        let matrix = section.mean_matrix(&section.methods[0], "dtd", 4);
        let wanted = [
            (0, 0, 90.0),
            (1, 0, 60.0),
            (1, 1, 80.0),
            (2, 0, 70.0),
            (2, 1, 40.0),
            (2, 2, 90.0),
        ];
        assert_eq!(matrix, wanted);
        assert_eq!(mean(&section, dtd, Measure::After(2)), 70.0);
        assert_eq!(mean(&section, dtd, Measure::Last), 62.0);
        assert_eq!(
            mean(&section, dtd, Measure::Average),
            (90.0 + 70.0 + 62.0) / 3.0
        );
        assert_eq!(mean(&section, dtd, Measure::Forgetting), 30.0);
        // One dataset is its own average, and the last accuracy is what a plain test of it says.
        assert_eq!(mean(&section, Place::Average, Measure::Last), 62.0);
        let last = Metric::Accuracy(section.class_sets[0]);
        let plain = section.entry(&section.methods[0], dtd, last, 4);
        assert_eq!(plain.figure().unwrap().mean, 62.0);
        assert_eq!(
            section.headline(),
            Some(Metric::Continual(Measure::Average))
        );
    }

    #[test]
    fn seeds_are_averaged_and_a_seed_that_failed_leaves_a_gap() {
        let rows: [&[u64]; 3] = [&[8, 10], &[5, 7, 9, 7], &[7, 7, 3, 5, 9]];
        let better: [&[u64]; 3] = [&[10, 10], &[5, 7, 9, 7], &[7, 7, 3, 5, 9]];
        let mut records = vec![in_sessions(1, rows), in_sessions(2, better)];
        let both = section(records.clone());
        let first = Metric::Continual(Measure::After(1));
        let entry = |s: &Section| s.entry(&s.methods[0], Place::Dataset("dtd"), first, 4);
        let figure = entry(&both).figure().unwrap();
        assert_eq!((figure.mean, figure.seeds), (95.0, 2));
        assert!((figure.deviation.unwrap() - 50f64.sqrt()).abs() < 1e-9);
        records[1].outcome = Outcome::Failed {
            reason: "no memory".to_owned(),
            step: None,
            last_loss: None,
        };
        records[1].tests.clear();
        assert_eq!(entry(&section(records)), Entry::Gap);
    }

    #[test]
    fn datasets_in_a_row_have_a_matrix_of_all_and_a_column_each() {
        let accuracies = [[80.0, 50.0], [70.0, 90.0]];
        let tests = accuracies.iter().enumerate().flat_map(|(stage, row)| {
            let of = ["eurosat", "dtd"].into_iter().zip(row);
            of.map(move |(id, accuracy)| Test {
                stage,
                ..sample::test(id, "all", *accuracy)
            })
        });
        let protocol = &task_incremental::PROTOCOL;
        let record = sample::record(protocol, "coop", "eurosat+dtd", 4, 1, tests.collect());
        let section = section(vec![record]);
        assert_eq!(section.datasets, ["eurosat", "dtd"], "in the order learned");
        assert_eq!(
            section.title(),
            "Datasets one after the other on eurosat + dtd"
        );
        assert_eq!(mean(&section, Place::Average, Measure::Transfer), 50.0);
        assert_eq!(mean(&section, Place::Average, Measure::Average), 72.5);
        assert_eq!(mean(&section, Place::Average, Measure::Last), 80.0);
        assert_eq!(
            mean(&section, Place::Dataset("eurosat"), Measure::Forgetting),
            10.0
        );
        let first = Metric::Continual(Measure::Transfer);
        let of_first = section.entry(&section.methods[0], Place::Dataset("eurosat"), first, 4);
        assert_eq!(of_first, Entry::Blank, "there is nothing before the first");
        // What tables of accuracies have is that after the last.
        let plain = Metric::Accuracy(crate::record::TestSet::ALL);
        assert_eq!(
            section
                .entry(&section.methods[0], Place::Average, plain, 4)
                .figure()
                .unwrap()
                .mean,
            80.0
        );
    }
}
