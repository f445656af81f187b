//! Published numbers beside ours: paper, ours, the difference, and whether the seeds explain it.

use crate::record::TestSet;
use crate::show::looks::look;
use crate::show::published::{Kind, Measure, Number, Published, TOLERANCE};
use crate::show::summary::{Entry, Figure, Method, Metric, Place, Section, Summary};

/// How ours stands to what is published in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The published value lies in the 95 % Student-t interval of our seeds.
    Inside,
    /// It does not.
    Outside,
    /// The sources print different values for the same thing, so no single one can be met; they are told apart by
    /// more than rounding.
    Disputed,
    /// Ours is missing, or has no interval (one seed, or an H).
    Unknown,
}

impl Verdict {
    /// As tables print it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Inside => "inside",
            Self::Outside => "outside the seeds' spread",
            Self::Disputed => "differs between sources",
            Self::Unknown => "-",
        }
    }
}

/// One published number and ours in the same place.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Heading of the section.
    pub section: String,
    /// Name of the method.
    pub method: String,
    /// Dataset, or `average`.
    pub dataset: String,
    /// `all`, `base`, `novel` or `harmonic`.
    pub measure: &'static str,
    /// Labelled training pictures a class.
    pub shots: usize,
    /// Our figure; `None` where seeds are missing.
    pub ours: Option<Figure>,
    /// The published value in percent.
    pub published: f64,
    /// Where it stands: the source's id, and its row's variant if there are several.
    pub source: String,
    /// What sort of place that is.
    pub kind: Kind,
    /// Who ran it.
    pub ran_by: String,
    /// Whether another source prints another value for the same thing.
    pub is_disputed: bool,
}

impl Pair {
    /// Ours less the published value, in points.
    pub fn difference(&self) -> Option<f64> {
        self.ours.map(|f| f.mean - self.published)
    }

    /// Whether the published value lies outside the 95 % Student-t interval of our seeds; `None` where there is no
    /// interval (one seed, or an H).
    pub fn is_outside(&self) -> Option<bool> {
        let half = self.ours?.half_interval(0.95)?;
        Some(self.difference()?.abs() > half)
    }

    /// What to say of ours beside this value.
    pub fn verdict(&self) -> Verdict {
        match self.is_outside() {
            _ if self.ours.is_none() => Verdict::Unknown,
            _ if self.is_disputed => Verdict::Disputed,
            Some(true) => Verdict::Outside,
            Some(false) => Verdict::Inside,
            None => Verdict::Unknown,
        }
    }
}

/// Published numbers of one place. A plug-in is published under its host (`coop+dept`), which is the label that a suite
/// gives it; and an average counts only if it runs over the very datasets that ours does.
fn numbers<'a>(
    published: &'a Published,
    section: &Section,
    method: &Method,
    place: Place,
    shots: usize,
    measure: Measure,
) -> Vec<Number<'a>> {
    let columns: &[&str] = match place {
        Place::Average => &["average", "average-shifted"],
        Place::Unseen => &[],
        Place::Dataset(dataset) => &[dataset],
    };
    let plug_in = (method.label.contains('+') && method.label != method.algorithm)
        .then_some(method.label.as_str());
    let mut targets: Vec<&str> = section.targets().collect();
    targets.sort_unstable();
    let mut found = Vec::new();
    for name in [method.algorithm.as_str()].into_iter().chain(plug_in) {
        for column in columns {
            let numbers = published.lookup(
                section.protocol,
                name,
                column,
                &section.backbone,
                shots,
                measure,
            );
            found.extend(numbers.into_iter().filter(|n| {
                let mut over = n.over.clone();
                over.sort_unstable();
                place != Place::Average || over == targets
            }));
        }
    }
    found
}

/// Whether sources print different values. Rows that name other settings or a single seed (a variant) are no dispute.
fn disagree(numbers: &[Number]) -> bool {
    let values = || {
        numbers
            .iter()
            .filter(|n| n.variant.is_none())
            .map(|n| n.value)
    };
    let highest = values().fold(f64::MIN, f64::max);
    let lowest = values().fold(f64::MAX, f64::min);
    highest - lowest > TOLERANCE
}

/// Every published number that has a place in the summary; of one source only, if asked.
pub fn against(summary: &Summary, published: &Published, source: Option<&str>) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for section in &summary.sections {
        for method in &section.methods {
            let shots = if method.is_trained {
                section.shots.clone()
            } else {
                vec![0]
            };
            for shots in shots {
                for (measure, metric) in measures(section) {
                    let average =
                        (section.targets().count() > 1).then_some((Place::Average, "average"));
                    let places = section
                        .datasets
                        .iter()
                        .map(|d| (Place::Dataset(d), d.as_str()));
                    for (place, dataset) in average.into_iter().chain(places) {
                        let numbers = numbers(published, section, method, place, shots, measure);
                        // Of all sources, whichever is asked for.
                        let are_disputed = disagree(&numbers);
                        let entry = section.entry(method, place, metric, shots);
                        for number in numbers
                            .iter()
                            .filter(|n| source.is_none_or(|s| n.source.id == s))
                        {
                            if entry == Entry::Blank {
                                continue;
                            }
                            pairs.push(Pair {
                                section: section.title(),
                                method: look(method).name,
                                dataset: dataset.to_owned(),
                                measure: measure.name(),
                                shots,
                                ours: entry.figure(),
                                published: number.value,
                                source: match number.variant {
                                    Some(variant) => format!("{} ({variant})", number.source.id),
                                    None => number.source.id.clone(),
                                },
                                kind: number.source.kind,
                                ran_by: number.ran_by.to_owned(),
                                is_disputed: are_disputed && number.variant.is_none(),
                            });
                        }
                    }
                }
            }
        }
    }
    pairs
}

/// The published files' measures that a section has.
fn measures(section: &Section) -> Vec<(Measure, Metric)> {
    let Some([base, novel]) = section.protocol.halves() else {
        let all = section.class_sets.contains(&TestSet::ALL);
        return all
            .then_some((Measure::All, Metric::Accuracy(TestSet::ALL)))
            .into_iter()
            .collect();
    };
    let has = |set| section.class_sets.contains(&set);
    let measures = [
        (has(base), Measure::Base, Metric::Accuracy(base)),
        (has(novel), Measure::Novel, Metric::Accuracy(novel)),
        (has(base) && has(novel), Measure::Harmonic, Metric::Harmonic),
    ];
    let had = measures.into_iter().filter(|m| m.0);
    had.map(|(_, measure, metric)| (measure, metric)).collect()
}

/// Pairs as Markdown.
pub fn markdown(pairs: &[Pair]) -> String {
    let mut text = "### Published numbers beside ours\n\n".to_owned();
    text += "| Protocol | Method | Dataset | Shots | Measure | Published | Ours | Difference | Verdict | Source | Ran by |\n";
    text += "|---|---|---|---:|---|---:|---:|---:|---|---|---|\n";
    for pair in pairs {
        let [published, ours, difference] = figures(pair);
        text += &format!(
            "| {} | {} | {} | {} | {} | {published} | {ours} | {difference} | {} | {} | {} |\n",
            pair.section,
            pair.method,
            pair.dataset,
            pair.shots,
            pair.measure,
            pair.verdict().words(),
            pair.source,
            pair.ran_by
        );
    }
    text + &format!("\n{NOTE}\n")
}

/// Pairs as aligned text.
pub fn terminal(pairs: &[Pair]) -> String {
    let mut rows: Vec<Vec<String>> = vec![
        [
            "Method",
            "Dataset",
            "Shots",
            "Measure",
            "Published",
            "Ours",
            "Difference",
            "Verdict",
            "Source",
        ]
        .map(String::from)
        .to_vec(),
    ];
    let mut text = String::new();
    let mut section = "";
    let flush = |rows: &mut Vec<Vec<String>>, text: &mut String| {
        let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..9).map(width).collect();
        for row in rows.iter() {
            let cell = |(c, (cell, width)): (usize, (&String, &usize))| match c {
                2 | 4..=6 => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            };
            let line = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(cell)
                .collect::<Vec<_>>()
                .join("  ");
            *text += line.trim_end();
            text.push('\n');
        }
        text.push('\n');
        rows.truncate(1);
    };
    for pair in pairs {
        if pair.section != section {
            if rows.len() > 1 {
                flush(&mut rows, &mut text);
            }
            section = &pair.section;
            text += &format!("{section}: published numbers beside ours\n");
        }
        let [published, ours, difference] = figures(pair);
        let (shots, measure) = (pair.shots.to_string(), pair.measure.to_owned());
        let (method, dataset) = (pair.method.clone(), pair.dataset.clone());
        rows.push(vec![
            method,
            dataset,
            shots,
            measure,
            published,
            ours,
            difference,
            pair.verdict().words().to_owned(),
            pair.source.clone(),
        ]);
    }
    if rows.len() > 1 {
        flush(&mut rows, &mut text);
    }
    if text.is_empty() {
        "No published number fits these results.\n".to_owned()
    } else {
        text + NOTE + "\n"
    }
}

/// Published value, our mean with its spread, and their difference, `!` where the seeds do not explain it.
pub fn figures(pair: &Pair) -> [String; 3] {
    let ours = pair.ours.map_or("-".to_owned(), |f| match f.deviation {
        Some(deviation) => format!("{:.2} ± {deviation:.2}", f.mean),
        None => format!("{:.2}", f.mean),
    });
    let mark = if pair.is_outside() == Some(true) {
        "!"
    } else {
        ""
    };
    let difference = pair
        .difference()
        .map_or(String::new(), |d| format!("{d:+.2}{mark}"));
    [format!("{:.2}", pair.published), ours, difference]
}

/// What the columns mean.
pub const NOTE: &str = "Difference: ours less published, in points; ! marks a published value outside the 95 % \
                        Student-t interval of our seeds. \
                        Verdict: inside or outside that interval, or that the sources differ among themselves.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::base_to_novel;
    use crate::show::summary::sample;
    use crate::store::Loaded;

    /// CoOp's base-to-novel sweep on all eleven datasets as if run on ViT-B/16.
    fn sweep() -> Loaded {
        let mut loaded = sample::sweep(
            &base_to_novel::PROTOCOL,
            &["zero-shot", "coop"],
            &sample::DATASETS,
            &[16],
        );
        for record in &mut loaded.records {
            record.provenance.backbone = "clip-vit-b16".to_owned();
        }
        loaded
    }

    #[test]
    fn published_numbers_stand_beside_ours() {
        let published = Published::built_in().unwrap();
        let summary = Summary::new(&sweep());
        let pairs = against(&summary, &published, None);
        let coop: Vec<&Pair> = pairs
            .iter()
            .filter(|p| p.method == "CoOp" && p.dataset == "average" && p.measure == "base")
            .collect();
        // 82.69, as the MaPLe and CoCoOp papers print it.
        let pair = coop.iter().find(|p| p.published == 82.69).unwrap();
        let section = &summary.sections[0];
        let ours = section
            .entry(
                &section.methods[1],
                Place::Average,
                Metric::Accuracy(TestSet::BASE),
                16,
            )
            .figure();
        assert_eq!(pair.ours, ours);
        let difference = pair.difference().unwrap();
        assert!((difference - (ours.unwrap().mean - 82.69)).abs() < 1e-12);
        assert_eq!(
            pair.is_outside(),
            Some(difference.abs() > ours.unwrap().half_interval(0.95).unwrap())
        );
        assert!(terminal(&pairs).contains("82.69"));
        assert!(markdown(&pairs).contains("| 82.69 |"));
        let one = against(&summary, &published, Some(&pair.source));
        assert!(!one.is_empty() && one.iter().all(|p| p.source.starts_with(&pair.source)));
    }

    #[test]
    fn sources_that_differ_are_said_to() {
        let published = Published::built_in().unwrap();
        let summary = Summary::new(&sweep());
        let pairs = against(&summary, &published, None);
        let of = |dataset: &str, measure: &str| {
            let fits =
                |p: &&Pair| p.method == "CoOp" && p.dataset == dataset && p.measure == measure;
            pairs.iter().filter(fits).collect::<Vec<_>>()
        };
        // 82.69 of the paper, 82.63 of KgCoOp's authors, 81.50 of DePT's.
        let average = of("average", "base");
        assert!(average.len() > 2);
        for pair in &average {
            let expected = if pair.source.contains('(') {
                pair.verdict()
            } else {
                Verdict::Disputed
            };
            assert_eq!(pair.verdict(), expected, "{pair:?}");
        }
        // Asking for one source hides the others' values, not that they differ.
        let one = against(&summary, &published, Some("cocoop-paper-base-to-novel"));
        let average = one
            .iter()
            .find(|p| p.method == "CoOp" && p.dataset == "average" && p.measure == "base");
        assert_eq!(average.unwrap().verdict(), Verdict::Disputed);
        assert!(terminal(&pairs).contains("differs between sources"));
    }

    #[test]
    fn a_verdict_is_inside_or_outside_only_where_there_is_a_spread() {
        let pair = |mean, deviation, is_disputed| Pair {
            section: String::new(),
            method: String::new(),
            dataset: String::new(),
            measure: "all",
            shots: 16,
            ours: Some(Figure {
                mean,
                deviation,
                seeds: 3,
            }),
            published: 80.0,
            source: String::new(),
            kind: Kind::Paper,
            ran_by: String::new(),
            is_disputed,
        };
        // Half the interval of three seeds is 4.303 / sqrt(3) = 2.48 deviations.
        assert_eq!(pair(82.4, Some(1.0), false).verdict(), Verdict::Inside);
        assert_eq!(pair(82.6, Some(1.0), false).verdict(), Verdict::Outside);
        assert_eq!(pair(82.6, None, false).verdict(), Verdict::Unknown);
        assert_eq!(pair(82.6, Some(1.0), true).verdict(), Verdict::Disputed);
    }

    #[test]
    fn an_average_over_other_datasets_is_no_published_number_of_ours() {
        let ten: Vec<&str> = sample::DATASETS
            .into_iter()
            .filter(|d| *d != "dtd")
            .collect();
        let mut loaded = sample::sweep(&base_to_novel::PROTOCOL, &["coop"], &ten, &[16]);
        for record in &mut loaded.records {
            record.provenance.backbone = "clip-vit-b16".to_owned();
        }
        let pairs = against(
            &Summary::new(&loaded),
            &Published::built_in().unwrap(),
            None,
        );
        assert!(!pairs.is_empty() && pairs.iter().all(|p| p.dataset != "average"));
    }

    #[test]
    fn another_backbone_has_no_published_numbers() {
        let loaded = sample::sweep(
            &base_to_novel::PROTOCOL,
            &["coop"],
            &sample::DATASETS,
            &[16],
        );
        let pairs = against(
            &Summary::new(&loaded),
            &Published::built_in().unwrap(),
            None,
        );
        assert!(pairs.is_empty());
        assert!(terminal(&pairs).starts_with("No published number"));
    }

    #[test]
    fn a_gap_of_ours_is_a_dash() {
        let mut loaded = sweep();
        loaded
            .records
            .retain(|r| (r.dataset.as_str(), r.seed) != ("dtd", 3));
        let pairs = against(
            &Summary::new(&loaded),
            &Published::built_in().unwrap(),
            None,
        );
        let gap = pairs
            .iter()
            .find(|p| p.dataset == "dtd" && p.method == "CoOp")
            .unwrap();
        assert_eq!(
            (gap.ours, gap.difference(), gap.is_outside()),
            (None, None, None)
        );
    }
}
