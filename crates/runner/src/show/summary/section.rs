//! One protocol on one backbone: cells of method, dataset, class set and shots.

use std::collections::{BTreeMap, BTreeSet};

use super::Spending;
use super::continual::Matrices;
use super::figure::{Cell, Entry, Figure, Method, Metric, Place, Score, Spread};
use super::health::trial_name;
use super::order::{class_sets, datasets, methods};
use super::uses::Uses;
use crate::protocols::{Protocol, Starts};
use crate::record::{Found, Outcome, Record, Test, TestSet};
use crate::start;
use crate::stats;
use crate::stats::continual::Measure;
use crate::store::Planned;

type CellKey = (String, String, TestSet, usize);

/// Most methods that charts can tell apart by colour and marker.
const IN_COLOUR: usize = 12;
/// How many keep their colour where there are more.
const BEST: usize = 8;

/// What a finished trial told that it found.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundBy {
    /// Label of the method.
    pub method: String,
    /// Dataset it learned.
    pub dataset: String,
    /// Shots.
    pub shots: usize,
    /// Seed.
    pub seed: u64,
    /// What.
    pub found: Found,
    /// Accuracy of its first test in percent.
    pub tested: Option<f64>,
}

fn found(records: &[&Record]) -> Vec<FoundBy> {
    let told = records
        .iter()
        .filter(|r| r.outcome == Outcome::Finished && !r.found.is_empty());
    let told = told.map(|r| FoundBy {
        method: r.method.clone(),
        dataset: r.dataset.clone(),
        shots: r.shots,
        seed: r.seed,
        found: r.found.clone(),
        tested: r.tests.first().map(Test::accuracy),
    });
    let mut all: Vec<FoundBy> = told.collect();
    all.sort_by(|a, b| (&a.dataset, a.shots, a.seed).cmp(&(&b.dataset, b.shots, b.seed)));
    all
}

/// One protocol on one backbone (and from one source dataset, where the protocol has one).
#[derive(Clone, Debug)]
pub struct Section {
    /// How accuracy was measured.
    pub protocol: &'static Protocol,
    /// Backbone as the user named it.
    pub backbone: String,
    /// SHA-256 of its tensors, hex.
    pub fingerprint: String,
    /// What all its trials start from, as [`start`] has it; `None` where they start from each dataset.
    pub source: Option<String>,
    /// Methods in the order of the suite; without a plan, untrained ones first.
    pub methods: Vec<Method>,
    /// Datasets tested on, in the order of the suite; a source comes first.
    pub datasets: Vec<String>,
    /// Class sets tested on: all, base, novel, then parts in their order.
    pub class_sets: Vec<TestSet>,
    /// Numbers of shots, ascending, without 0.
    pub shots: Vec<usize>,
    /// Seeds of trained methods.
    pub seeds: BTreeSet<u64>,
    /// What the finished trials took, by method and shots.
    pub spending: BTreeMap<(String, usize), Spending>,
    /// What each method uses, by its label.
    pub uses: BTreeMap<String, Uses>,
    /// What finished trials told that they found.
    pub found: Vec<FoundBy>,
    /// How seeds are summed up.
    pub(super) spread: Spread,
    /// What counts alike in an accuracy.
    pub(super) score: Score,
    told: Told,
    /// Of the same datasets each learned by itself, where the protocol learns all at once and that was run too.
    pub beside: Option<Box<Self>>,
    pub(super) matrices: Matrices,
    /// What datasets are called, where that is not their ids.
    titles: BTreeMap<String, String>,
    cells: BTreeMap<CellKey, Cell>,
}

/// What headings and file names must tell, for another section of the protocol differs in it alone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// The backbone.
    pub(super) backbone: bool,
    /// Which datasets the trials start from, where they start from all.
    pub(super) start: bool,
}

impl Section {
    pub(super) fn new(
        protocol: &'static Protocol,
        backbone: &str,
        fingerprint: &str,
        source: Option<&str>,
        records: &[&Record],
        planned: &[&Planned],
        told: Told,
    ) -> Self {
        // Untrained methods belong to every source.
        let belongs = |shots: usize, dataset: &str| {
            let is_everywhere = shots == 0 && protocol.has_source();
            source.is_none_or(|source| is_everywhere || dataset == source)
        };
        let records: Vec<&Record> = records
            .iter()
            .copied()
            .filter(|r| belongs(r.shots, &r.dataset))
            .collect();
        let planned: Vec<&Planned> = planned
            .iter()
            .copied()
            .filter(|p| belongs(p.shots, &p.dataset))
            .collect();

        let mut section = Self {
            protocol,
            backbone: backbone.to_owned(),
            fingerprint: fingerprint.to_owned(),
            source: source.map(str::to_owned),
            methods: methods(&records, &planned),
            datasets: datasets(source, &records, &planned),
            class_sets: class_sets(&records),
            shots: Vec::new(),
            seeds: BTreeSet::new(),
            spending: super::cost::spending(&records),
            uses: super::uses::uses(&records),
            found: found(&records),
            spread: Spread::default(),
            score: Score::default(),
            told,
            beside: None,
            matrices: super::continual::matrices(&records),
            titles: records.iter().flat_map(|r| r.titles.clone()).collect(),
            cells: BTreeMap::new(),
        };
        let trained = planned
            .iter()
            .map(|p| (p.shots, p.seed))
            .chain(records.iter().map(|r| (r.shots, r.seed)));
        let trained: BTreeSet<(usize, u64)> = trained.filter(|t| t.0 > 0).collect();
        section.shots = trained
            .iter()
            .map(|t| t.0)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        section.seeds = trained.iter().map(|t| t.1).collect();
        section.expect(&records, &planned);
        section.fill(&records);
        section.shade();
        section
    }

    /// With more methods than eyes can follow, leaves colour to the best, and to zero-shot CLIP which all are held
    /// against: by the headline's average at the largest number of shots.
    fn shade(&mut self) {
        let Some(metric) = self.headline().filter(|_| self.methods.len() > IN_COLOUR) else {
            return;
        };
        let most = self.shots.last().copied().unwrap_or(0);
        let mean = |method: &Method| {
            let entry = self.entry(method, Place::Average, metric, most);
            entry.figure().map_or(f64::NEG_INFINITY, |f| f.mean)
        };
        let mut order: Vec<(f64, usize)> = self.methods.iter().map(mean).zip(0..).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        let kept: BTreeSet<usize> = order.iter().take(BEST).map(|(_, place)| *place).collect();
        for (place, method) in self.methods.iter_mut().enumerate() {
            method.is_grey = !kept.contains(&place) && method.algorithm != "zero-shot";
        }
    }

    /// Methods in the order that charts draw them: grey ones first, so that they lie behind.
    pub fn drawn(&self) -> impl Iterator<Item = &Method> {
        let grey = self.methods.iter().filter(|m| m.is_grey);
        grey.chain(self.methods.iter().filter(|m| !m.is_grey))
    }

    /// Notes in every cell which seeds it should have.
    fn expect(&mut self, records: &[&Record], planned: &[&Planned]) {
        let mut asked: BTreeMap<(&str, &str, usize), BTreeSet<u64>> = BTreeMap::new();
        for p in planned {
            let of = (p.method.as_str(), p.dataset.as_str(), p.shots);
            asked.entry(of).or_default().insert(p.seed);
        }
        for method in &self.methods {
            let shots = if method.is_trained {
                self.shots.clone()
            } else {
                vec![0]
            };
            let own: BTreeSet<u64> = records
                .iter()
                .filter(|r| r.method == method.label)
                .map(|r| r.seed)
                .collect();
            for dataset in &self.datasets {
                for &shots in &shots {
                    let asked = |on: &str| -> BTreeSet<u64> {
                        let seeds = asked.get(&(method.label.as_str(), on, shots));
                        seeds.cloned().unwrap_or_default()
                    };
                    let expected = if planned.is_empty() {
                        if method.is_trained {
                            self.seeds.clone()
                        } else {
                            own.clone()
                        }
                    } else {
                        let direct = asked(dataset);
                        match &self.source {
                            // A trial on the source is tested on every target.
                            Some(source) if direct.is_empty() => asked(source),
                            _ => direct,
                        }
                    };
                    for class_set in &self.class_sets {
                        let key = (method.label.clone(), dataset.clone(), *class_set, shots);
                        self.cells
                            .entry(key)
                            .or_default()
                            .expected
                            .clone_from(&expected);
                    }
                }
            }
        }
    }

    /// Puts every accuracy into its cell: that of the last stage which tested it.
    fn fill(&mut self, records: &[&Record]) {
        for record in records {
            for test in record.tests.iter().rev() {
                // Sessions before the last are the matrix's.
                if record.outcome != Outcome::Finished || !self.class_sets.contains(&test.class_set)
                {
                    continue;
                }
                let key = (
                    record.method.clone(),
                    test.dataset.clone(),
                    test.class_set,
                    record.shots,
                );
                let cell = self.cells.entry(key).or_default();
                // Two trials of an untrained method may test the same target; they say the same.
                if let Err(at) = cell.values.binary_search_by_key(&record.seed, |v| v.0) {
                    cell.values.insert(at, (record.seed, test.accuracy()));
                    if let Some(accuracy) = test.macro_accuracy() {
                        let at = cell.macros.partition_point(|v| v.0 < record.seed);
                        cell.macros.insert(at, (record.seed, accuracy));
                    }
                    cell.calibration.insert(at, (record.seed, test.ece));
                    cell.keys.insert(at, (record.seed, record.key.clone()));
                }
            }
            if record.outcome != Outcome::Finished {
                for ((method, dataset, _, shots), cell) in &mut self.cells {
                    let is_tested = *dataset == record.dataset || self.source.is_some();
                    if *method == record.method && *shots == record.shots && is_tested {
                        cell.failed.insert(record.seed);
                    }
                }
            }
        }
    }

    /// What tables and charts call a dataset: its title, where its row has one.
    pub fn called<'a>(&'a self, dataset: &'a str) -> &'a str {
        self.titles.get(dataset).map_or(dataset, String::as_str)
    }

    /// How seeds are summed up.
    pub fn spread(&self) -> Spread {
        self.spread
    }

    /// What counts alike in an accuracy.
    pub fn score(&self) -> Score {
        self.score
    }

    /// The same section with another accuracy.
    pub fn scored(&self, score: Score) -> Self {
        Self {
            score,
            ..self.clone()
        }
    }

    /// Whether macro accuracy is another number than accuracy somewhere: classes have unequal numbers of test pictures.
    pub fn is_unequal(&self) -> bool {
        self.cells.values().any(|cell| {
            let both = cell.macros.iter().zip(&cell.values);
            let mut both = both.filter(|(by_class, by_picture)| by_class.0 == by_picture.0);
            both.any(|(by_class, by_picture)| (by_class.1 - by_picture.1).abs() > 1e-9)
        })
    }

    /// Heading: the protocol, and what tells this section from its neighbours.
    pub fn title(&self) -> String {
        let mut title = self.protocol.title.to_owned();
        match (&self.source, self.protocol.starts) {
            (Some(source), Starts::All) => {
                title += &format!(" on {}", start::called(source, |id| self.called(id)));
                if self.told.start {
                    let first = start::datasets(source).next().unwrap_or_default();
                    title += &format!(", {} first", self.called(first));
                }
            }
            (Some(source), _) => title += &format!(" from {}", self.called(source)),
            (None, _) => {}
        }
        if self.told.backbone {
            title += &format!(", {} ({})", self.backbone, self.short_fingerprint());
        }
        title
    }

    /// Enough of the backbone's fingerprint to tell it from another.
    pub fn short_fingerprint(&self) -> &str {
        self.fingerprint.get(..8).unwrap_or(&self.fingerprint)
    }

    /// Start of the names of this section's files.
    pub fn slug(&self) -> String {
        let mut slug = self.protocol.name.to_owned();
        match (&self.source, self.protocol.starts) {
            (Some(source), Starts::All) if self.told.start => {
                let hash = crate::hash::hex(source.as_bytes());
                slug += &format!("-on-{}-{}", start::short(source), &hash[..6]);
            }
            (Some(source), Starts::Source) => slug += &format!("-from-{source}"),
            _ => {}
        }
        if self.told.backbone {
            slug += &format!("-{}", self.short_fingerprint());
        }
        slug.chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect()
    }

    /// Datasets an average is taken over: all, less the source and those that no trial learned where others are.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.datasets
            .iter()
            .map(String::as_str)
            .filter(|d| !self.is_source(d) && !self.is_unseen(d))
    }

    /// Whether `dataset` is one that a trial of all others was tested on without having learned it.
    pub fn is_unseen(&self, dataset: &str) -> bool {
        let learned = self
            .source
            .as_deref()
            .filter(|_| self.protocol.starts == Starts::All);
        learned.is_some_and(|all| !start::datasets(all).any(|id| id == dataset))
    }

    /// Whether `dataset` is the one that trials start from, which no average holds.
    pub fn is_source(&self, dataset: &str) -> bool {
        self.protocol.has_source() && self.source.as_deref() == Some(dataset)
    }

    /// Every cell: method, dataset, class set, shots, accuracies.
    pub fn cells(&self) -> impl Iterator<Item = (&str, &str, TestSet, usize, &Cell)> {
        self.cells
            .iter()
            .map(|((m, d, c, s), cell)| (m.as_str(), d.as_str(), *c, *s, cell))
    }

    /// The cell of a method, whatever the number of shots where it is not trained.
    pub fn cell(
        &self,
        method: &Method,
        dataset: &str,
        class_set: TestSet,
        shots: usize,
    ) -> Option<&Cell> {
        let shots = if method.is_trained { shots } else { 0 };
        self.cells
            .get(&(method.label.clone(), dataset.to_owned(), class_set, shots))
    }

    /// What a table or chart shows for a method in one place.
    pub fn entry(&self, method: &Method, place: Place<'_>, metric: Metric, shots: usize) -> Entry {
        let class_set = match metric {
            Metric::Accuracy(class_set) => class_set,
            Metric::Continual(_) if place == Place::Average && self.source.is_none() => {
                return self.average(method, metric, shots, &self.averaged(place));
            }
            Metric::Continual(measure) => return self.continual(method, place, measure, shots),
            Metric::MeanOfHarmonics if place == Place::Average => {
                return self.mean_of_harmonics(method, shots);
            }
            Metric::Harmonic | Metric::MeanOfHarmonics => {
                return self.harmonic(method, place, shots);
            }
        };
        match place {
            Place::Dataset(dataset) => match self.cell(method, dataset, class_set, shots) {
                None => Entry::Blank,
                Some(cell) if cell.expected.is_empty() && cell.values.is_empty() => Entry::Blank,
                Some(cell) if !cell.is_whole() => Entry::Gap,
                Some(cell) if cell.scored(self.score).len() < cell.values.len() => Entry::Gap,
                Some(cell) => {
                    let values: Vec<f64> = cell.scored(self.score).iter().map(|v| v.1).collect();
                    let (mean, deviation) = self.spread.of(&values);
                    Entry::Whole(Figure {
                        mean: mean.expect("a whole cell has values"),
                        deviation,
                        seeds: values.len(),
                    })
                }
            },
            Place::Average | Place::Unseen => {
                self.average(method, metric, shots, &self.averaged(place))
            }
        }
    }

    /// Datasets that the figure of a place is a mean over.
    pub fn averaged<'a>(&'a self, place: Place<'a>) -> Vec<&'a str> {
        match place {
            Place::Dataset(dataset) => vec![dataset],
            Place::Average => self.targets().collect(),
            Place::Unseen => {
                let all = self.datasets.iter().map(String::as_str);
                all.filter(|d| self.is_unseen(d)).collect()
            }
        }
    }

    /// Mean over datasets, with the deviation over seeds of that mean. A gap anywhere is a gap here.
    pub fn average(
        &self,
        method: &Method,
        metric: Metric,
        shots: usize,
        datasets: &[&str],
    ) -> Entry {
        let of = |d: &&str| self.entry(method, Place::Dataset(d), metric, shots);
        let entries: Vec<Entry> = datasets.iter().map(of).collect();
        if entries.iter().all(|e| *e == Entry::Blank) {
            return Entry::Blank;
        }
        let Some(figures) = entries
            .iter()
            .map(Entry::figure)
            .collect::<Option<Vec<_>>>()
        else {
            return Entry::Gap;
        };
        let means: Vec<f64> = figures.iter().map(|f| f.mean).collect();
        let by_seed = self.seed_averages(method, metric, shots, datasets);
        Entry::Whole(Figure {
            mean: stats::mean(&means).expect("there is a dataset"),
            deviation: by_seed
                .as_deref()
                .and_then(stats::sample_deviation)
                .filter(|_| self.spread == Spread::Sample),
            seeds: by_seed.map_or(1, |values| values.len()),
        })
    }

    /// Each seed's mean over datasets; `None` where the datasets do not share their seeds.
    fn seed_averages(
        &self,
        method: &Method,
        metric: Metric,
        shots: usize,
        datasets: &[&str],
    ) -> Option<Vec<f64>> {
        let of = |dataset: &&str| match metric {
            Metric::Accuracy(set) => {
                let cell = self.cell(method, dataset, set, shots)?;
                Some(cell.scored(self.score).to_vec())
            }
            Metric::Continual(measure) => {
                self.measured(method, Place::Dataset(dataset), measure, shots)
            }
            Metric::Harmonic | Metric::MeanOfHarmonics => None,
        };
        let all: Vec<Vec<(u64, f64)>> = datasets.iter().map(of).collect::<Option<_>>()?;
        let seeds = |values: &[(u64, f64)]| values.iter().map(|v| v.0).collect::<Vec<_>>();
        let first = seeds(all.first()?);
        if all.iter().any(|values| seeds(values) != first) {
            return None;
        }
        let mean =
            |i: usize| stats::mean(&all.iter().map(|values| values[i].1).collect::<Vec<_>>());
        (0..first.len()).map(mean).collect()
    }

    fn mean_of_harmonics(&self, method: &Method, shots: usize) -> Entry {
        let of = |dataset| self.harmonic(method, Place::Dataset(dataset), shots);
        let entries: Vec<Entry> = self.targets().map(of).collect();
        if entries.iter().all(|e| *e == Entry::Blank) {
            return Entry::Blank;
        }
        let figures = entries
            .iter()
            .map(Entry::figure)
            .collect::<Option<Vec<_>>>();
        figures.map_or(Entry::Gap, |figures| {
            let means: Vec<f64> = figures.iter().map(|f| f.mean).collect();
            Entry::Whole(Figure {
                mean: stats::mean(&means).expect("there is a dataset"),
                deviation: None,
                seeds: figures.iter().map(|f| f.seeds).min().unwrap_or(0),
            })
        })
    }

    fn harmonic(&self, method: &Method, place: Place<'_>, shots: usize) -> Entry {
        let Some([base, novel]) = self.protocol.halves() else {
            return Entry::Blank;
        };
        let of = |class_set| self.entry(method, place, Metric::Accuracy(class_set), shots);
        match (of(base), of(novel)) {
            (Entry::Whole(base), Entry::Whole(novel)) => Entry::Whole(Figure {
                mean: stats::harmonic_mean(base.mean, novel.mean),
                deviation: None,
                seeds: base.seeds.min(novel.seeds),
            }),
            (Entry::Blank, Entry::Blank) => Entry::Blank,
            _ => Entry::Gap,
        }
    }

    /// What methods are judged by: H where the protocol shows one, else accuracy on the first class set; `None` where
    /// nothing is tested yet.
    pub fn headline(&self) -> Option<Metric> {
        if self.protocol.halves().is_some() {
            return Some(Metric::Harmonic);
        }
        if self.protocol.shows.is_continual() {
            return (!self.matrices.is_empty()).then_some(Metric::Continual(Measure::Average));
        }
        self.class_sets.first().map(|set| Metric::Accuracy(*set))
    }

    /// Names of trials that should be there: neither finished nor failed.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for ((method, dataset, _, shots), cell) in &self.cells {
            // A trial from a source is missing once, not once a target.
            let dataset = match (&self.source, self.protocol.starts) {
                (Some(source), Starts::All) => source,
                (Some(source), Starts::Source) if *shots > 0 => source,
                _ => dataset,
            };
            for seed in cell
                .expected
                .iter()
                .filter(|seed| !cell.failed.contains(seed))
            {
                if cell.values.iter().all(|v| v.0 != *seed) {
                    missing.push(trial_name(self.protocol, method, dataset, *shots, *seed));
                }
            }
        }
        missing.sort();
        missing.dedup();
        missing
    }
}
