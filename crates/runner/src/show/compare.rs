//! Two results folders side by side: trials only in one, accuracies that moved, settings that differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::device::ran;
use crate::protocols::Protocol;
use crate::record::{Outcome, Record, TestSet};
use crate::show::summary::Summary;
use crate::start;
use crate::stats;
use crate::store::Loaded;

/// What two folders are compared on: everything that names a trial but its seed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// How accuracy was measured.
    pub protocol: &'static Protocol,
    /// Label of the method.
    pub method: String,
    /// What was trained on, as [`start`] has it.
    pub trained_on: String,
    /// Labelled training pictures a class.
    pub shots: usize,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}",
            self.protocol.name,
            self.method,
            start::called(&self.trained_on, |id| id)
        )?;
        match self.shots {
            0 => Ok(()),
            1 => write!(f, " 1 shot"),
            n => write!(f, " {n} shots"),
        }
    }
}

/// How sure a difference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Outside the 95 % interval of a difference of two such means.
    Moved,
    /// Inside it.
    Noise,
}

/// An accuracy that is not the same in both folders.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where.
    pub cell: Cell,
    /// Dataset and class set tested on, and the stage after which, from 0.
    pub tested: (String, TestSet, usize),
    /// Mean accuracy in percent, in the first and the second folder.
    pub means: (f64, f64),
    /// Seeds, in the first and the second folder.
    pub seeds: (usize, usize),
    /// Half of the 95 % interval of the difference, in points.
    pub noise: f64,
    /// Whether it is outside.
    pub verdict: Verdict,
}

/// A setting or origin that is not the same in both folders.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Field, e.g. `settings.lr` or `provenance.commit`.
    pub field: String,
    /// Value in the first folder; `(none)` where it is not there.
    pub first: String,
    /// Value in the second folder.
    pub second: String,
    /// Cells it concerns.
    pub cells: Vec<Cell>,
}

/// Everything that differs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Finished trials of the first folder that the second lacks.
    pub only_first: Vec<String>,
    /// Finished trials of the second folder that the first lacks.
    pub only_second: Vec<String>,
    /// Accuracies that differ, those beyond noise first, then by size.
    pub changes: Vec<Change>,
    /// Accuracies that are equal to the last picture.
    pub same: usize,
    /// Settings and origins that differ.
    pub differences: Vec<Difference>,
    /// What is wrong with the first and with the second folder.
    pub notes: (Vec<String>, Vec<String>),
}

/// Compares two loaded folders. Trials are matched by what they are, not by key: a key holds the settings, whose
/// differences are to be shown.
pub fn compare(first: &Loaded, second: &Loaded) -> Comparison {
    let (a, b) = (cells(first), cells(second));
    let mut result = Comparison {
        notes: (
            Summary::new(first).health.brief(),
            Summary::new(second).health.brief(),
        ),
        ..Comparison::default()
    };
    let mut differences: BTreeMap<(String, String, String), Vec<Cell>> = BTreeMap::new();
    let every: BTreeSet<&Cell> = a.keys().chain(b.keys()).collect();
    for cell in every {
        let none = BTreeMap::new();
        let (ours, theirs) = (a.get(cell).unwrap_or(&none), b.get(cell).unwrap_or(&none));
        let lacking =
            |has: &BTreeMap<u64, &Record>, lacks: &BTreeMap<u64, &Record>| -> Vec<String> {
                has.keys()
                    .filter(|seed| !lacks.contains_key(seed))
                    .map(|seed| format!("{cell} seed {seed}"))
                    .collect()
            };
        result.only_first.extend(lacking(ours, theirs));
        result.only_second.extend(lacking(theirs, ours));
        let (Some(one), Some(other)) = (ours.values().next(), theirs.values().next()) else {
            continue;
        };
        accuracies(cell, ours, theirs, &mut result);
        for (field, first, second) in fields(one, other) {
            differences
                .entry((field, first, second))
                .or_default()
                .push(cell.clone());
        }
    }
    result.changes.sort_by(|x, y| {
        let size = |c: &Change| (c.means.1 - c.means.0).abs();
        x.verdict.cmp(&y.verdict).then(size(y).total_cmp(&size(x)))
    });
    result.differences = differences
        .into_iter()
        .map(|((field, first, second), cells)| Difference {
            field,
            first,
            second,
            cells,
        })
        .collect();
    result
}

/// Finished records by cell and seed; the latest of several.
fn cells(loaded: &Loaded) -> BTreeMap<Cell, BTreeMap<u64, &Record>> {
    let mut cells: BTreeMap<Cell, BTreeMap<u64, &Record>> = BTreeMap::new();
    let wanted: BTreeSet<&str> = loaded.planned.iter().map(|p| p.key.as_str()).collect();
    let is_wanted = |r: &&Record| wanted.is_empty() || wanted.contains(r.key.as_str());
    for record in loaded
        .records
        .iter()
        .filter(|r| r.outcome == Outcome::Finished)
        .filter(is_wanted)
    {
        let cell = Cell {
            protocol: record.protocol,
            method: record.method.clone(),
            trained_on: record.dataset.clone(),
            shots: record.shots,
        };
        let kept = cells
            .entry(cell)
            .or_default()
            .entry(record.seed)
            .or_insert(record);
        if kept.provenance.started < record.provenance.started {
            *kept = record;
        }
    }
    cells
}

fn accuracies(
    cell: &Cell,
    ours: &BTreeMap<u64, &Record>,
    theirs: &BTreeMap<u64, &Record>,
    result: &mut Comparison,
) {
    type Tests = BTreeMap<(String, TestSet, usize), Vec<(u64, u64, u64)>>;
    let gather = |records: &BTreeMap<u64, &Record>| -> Tests {
        let mut tests = Tests::new();
        for (seed, record) in records {
            for test in &record.tests {
                let place = (test.dataset.clone(), test.class_set, test.stage);
                tests
                    .entry(place)
                    .or_default()
                    .push((*seed, test.correct, test.total));
            }
        }
        tests
    };
    let (ours, theirs) = (gather(ours), gather(theirs));
    for (place, mine) in ours {
        let Some(other) = theirs.get(&place) else {
            continue;
        };
        if mine == *other {
            result.same += 1;
            continue;
        }
        let percent = |tests: &[(u64, u64, u64)]| -> Vec<f64> {
            tests
                .iter()
                .map(|(_, correct, total)| 100.0 * *correct as f64 / *total as f64)
                .collect()
        };
        let (x, y) = (percent(&mine), percent(other));
        let mean = |values: &[f64]| stats::mean(values).expect("a cell in both has tests in both");
        let means = (mean(&x), mean(&y));
        let pictures = (mine[0].2, other[0].2);
        let noise = noise(&x, &y, pictures);
        result.changes.push(Change {
            cell: cell.clone(),
            tested: place,
            means,
            seeds: (x.len(), y.len()),
            noise,
            verdict: if (means.1 - means.0).abs() > noise {
                Verdict::Moved
            } else {
                Verdict::Noise
            },
        });
    }
}

/// Half of the 95 % interval of a difference of means: Welch's with two seeds or more on both sides, otherwise that of
/// two shares of `pictures` (a single seed says nothing about the spread over seeds).
fn noise(x: &[f64], y: &[f64], pictures: (u64, u64)) -> f64 {
    if let (Some(dx), Some(dy)) = (stats::sample_deviation(x), stats::sample_deviation(y)) {
        let (vx, vy) = (dx * dx / x.len() as f64, dy * dy / y.len() as f64);
        if vx + vy == 0.0 {
            return 0.0;
        }
        let part = |v: f64, n: usize| v * v / (n as f64 - 1.0);
        let freedom = (vx + vy).powi(2) / (part(vx, x.len()) + part(vy, y.len()));
        return stats::student_t_quantile(0.975, freedom) * (vx + vy).sqrt();
    }
    let share = |values: &[f64]| stats::mean(values).unwrap_or(0.0) / 100.0;
    let variance = |p: f64, n: u64| p * (1.0 - p) / n as f64;
    100.0
        * 1.959_963_984_540_054
        * (variance(share(x), pictures.0) + variance(share(y), pictures.1)).sqrt()
}

/// Fields that differ between two records of one cell: settings, and origins that can change a result.
fn fields(a: &Record, b: &Record) -> Vec<(String, String, String)> {
    const NONE: &str = "(none)";
    let mut found = Vec::new();
    for (group, x, y) in [
        ("settings", &a.settings, &b.settings),
        ("suite_settings", &a.suite_settings, &b.suite_settings),
    ] {
        let names: BTreeSet<&String> = x.keys().chain(y.keys()).collect();
        for name in names {
            let text = |of: &BTreeMap<String, serde_json::Value>| {
                of.get(name).map_or(NONE.to_owned(), ToString::to_string)
            };
            found.push((format!("{group}.{name}"), text(x), text(y)));
        }
    }
    let origin = |r: &Record| {
        let p = &r.provenance;
        [
            ("algorithm", r.algorithm.clone()),
            ("suite_hash", r.suite_hash.clone()),
            ("provenance.version", p.version.clone()),
            ("provenance.commit", p.commit.clone()),
            ("provenance.backbone", p.backbone.clone()),
            (
                "provenance.backbone_fingerprint",
                p.backbone_fingerprint.clone(),
            ),
            ("provenance.processor", p.processor.clone()),
            (
                "provenance.device",
                ran::kind(p.device.as_deref(), p.arithmetic.as_deref()),
            ),
        ]
    };
    for ((name, x), (_, y)) in origin(a).into_iter().zip(origin(b)) {
        found.push((name.to_owned(), x, y));
    }
    // Every dataset and seed has hashes of its own: what they are says less than that they differ.
    for (name, x, y) in [
        ("split", &a.provenance.split_hash, &b.provenance.split_hash),
        ("picks", &a.provenance.picks_hash, &b.provenance.picks_hash),
    ] {
        if x != y {
            let value = |which: &str| format!("({which} {name})");
            found.push((
                format!("provenance.{name}_hash"),
                value("one"),
                value("another"),
            ));
        }
    }
    found.retain(|(_, x, y)| x != y);
    found
}

/// Differences named before the rest is only counted.
const NAMED: usize = 20;

impl Comparison {
    /// Whether anything but origins differs.
    pub fn is_clean(&self) -> bool {
        self.only_first.is_empty() && self.only_second.is_empty() && self.changes.is_empty()
    }

    /// Everything as text, for two folders of these names.
    pub fn text(&self, first: &str, second: &str) -> String {
        let mut out = String::new();
        for (name, notes) in [(first, &self.notes.0), (second, &self.notes.1)] {
            for note in notes {
                out += &format!("{name}: {note}\n");
            }
        }
        for (name, trials) in [(first, &self.only_first), (second, &self.only_second)] {
            if !trials.is_empty() {
                out += &format!("Only in {name}: {} trials\n", trials.len());
                out += &listed(trials.iter().map(String::clone));
            }
        }
        let (moved, noise): (Vec<&Change>, Vec<&Change>) = self
            .changes
            .iter()
            .partition(|c| c.verdict == Verdict::Moved);
        out += &format!(
            "Accuracies: {} the same to the last image, {} differ within noise, {} beyond it (95 %)\n",
            self.same,
            noise.len(),
            moved.len()
        );
        for (title, changes) in [("Beyond noise", moved), ("Within noise", noise)] {
            if changes.is_empty() {
                continue;
            }
            out += &format!("{title}:\n");
            out += &listed(changes.iter().map(|c| {
                let (dataset, class_set, stage) = &c.tested;
                let on = if *dataset == c.cell.trained_on {
                    String::new()
                } else {
                    format!(" on {dataset}")
                };
                let after = match stage {
                    0 => String::new(),
                    n => format!(" after stage {}", n + 1),
                };
                format!(
                    "{}{on}, {class_set}{after}: {:.2} -> {:.2} ({:+.2}; noise ±{:.2}; {} and {} seeds)",
                    c.cell,
                    c.means.0,
                    c.means.1,
                    c.means.1 - c.means.0,
                    c.noise,
                    c.seeds.0,
                    c.seeds.1
                )
            }));
        }
        if !self.differences.is_empty() {
            out += "Settings and origins that differ:\n";
            out += &listed(self.differences.iter().map(|d| {
                let cells = match d.cells.as_slice() {
                    [one] => one.to_string(),
                    many => format!("{} cells", many.len()),
                };
                format!(
                    "{}: {} -> {} ({cells})",
                    d.field,
                    short(&d.first),
                    short(&d.second)
                )
            }));
        }
        if self.is_clean() && self.differences.is_empty() {
            out += "Nothing differs.\n";
        }
        out
    }
}

fn listed(lines: impl ExactSizeIterator<Item = String>) -> String {
    let more = lines.len().saturating_sub(NAMED);
    let mut out: String = lines
        .take(NAMED)
        .map(|line| format!("  {line}\n"))
        .collect();
    if more > 0 {
        out += &format!("  and {more} more\n");
    }
    out
}

/// Hashes cut to what tells them apart.
fn short(value: &str) -> &str {
    let is_hash = value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit());
    match value {
        "" => "(unknown)",
        hash if is_hash => &hash[..12],
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::summary::sample::trial;

    fn loaded(accuracies: &[f64]) -> Loaded {
        let seeds = 1..=accuracies.len() as u64;
        let records = seeds
            .zip(accuracies)
            .map(|(seed, a)| trial("coop", "dtd", 16, seed, &[("base", *a)]));
        Loaded {
            records: records.collect(),
            ..Loaded::default()
        }
    }

    #[test]
    fn a_folder_does_not_differ_from_itself() {
        let one = loaded(&[80.0, 81.0, 82.0]);
        let found = compare(&one, &one);
        assert_eq!((found.same, found.is_clean()), (1, true));
        assert!(found.text("a", "b").ends_with("Nothing differs.\n"));
    }

    #[test]
    fn only_differences_beyond_the_spread_of_seeds_have_moved() {
        let one = loaded(&[80.0, 81.0, 82.0]);
        let near = compare(&one, &loaded(&[81.0, 81.5, 83.0]));
        assert_eq!(near.changes[0].verdict, Verdict::Noise);
        let far = compare(&one, &loaded(&[90.0, 91.0, 92.0]));
        assert_eq!(far.changes[0].verdict, Verdict::Moved);
        assert_eq!(far.changes[0].means, (81.0, 91.0));
        // Welch with equal spreads: t(0.975, 4) * sqrt(2/3).
        let want = 2.7764451051977934 * (2.0f64 / 3.0).sqrt();
        assert!(
            (far.changes[0].noise - want).abs() < 1e-9,
            "{}",
            far.changes[0].noise
        );
    }

    #[test]
    fn a_single_seed_is_held_against_the_number_of_pictures() {
        // 2000 pictures at 50 %: 1.96 * sqrt(2 * 0.25 / 2000) = 3.1 points.
        assert_eq!(
            compare(&loaded(&[50.0]), &loaded(&[52.0])).changes[0].verdict,
            Verdict::Noise
        );
        assert_eq!(
            compare(&loaded(&[50.0]), &loaded(&[54.0])).changes[0].verdict,
            Verdict::Moved
        );
    }

    #[test]
    fn missing_trials_and_other_settings_are_named() {
        let one = loaded(&[80.0, 81.0, 82.0]);
        let mut other = loaded(&[80.0, 81.0]);
        for record in &mut other.records {
            record.settings.insert("lr".to_owned(), 0.5.into());
            record.provenance.backbone_fingerprint = "beef".repeat(16);
            record.provenance.picks_hash = format!("{:064}", record.seed);
        }
        let found = compare(&one, &other);
        assert_eq!(found.only_first, ["base-to-novel coop dtd 16 shots seed 3"]);
        assert!(found.only_second.is_empty());
        let fields: Vec<&str> = found.differences.iter().map(|d| d.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "provenance.backbone_fingerprint",
                "provenance.picks_hash",
                "settings.lr"
            ]
        );
        let text = found.text("a", "b");
        assert!(text.contains("settings.lr: (none) -> 0.5"), "{text}");
        assert!(text.contains("feedfeedfeed -> beefbeefbeef"), "{text}");
    }
}
