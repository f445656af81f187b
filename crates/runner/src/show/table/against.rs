//! Published numbers beside ours: paper, ours, the difference, and whether the seeds explain it.

use crate::record::TestSet;
use crate::show::looks::look;
use crate::show::published::{Kind, Measure, Published};
use crate::show::summary::{Entry, Figure, Metric, Place, Section, Summary};

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
                        let numbers = published.lookup(
                            section.protocol,
                            &method.algorithm,
                            dataset,
                            &section.backbone,
                            shots,
                            measure,
                        );
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
    text += "| Protocol | Method | Dataset | Shots | Measure | Published | Ours | Difference | Source | Ran by |\n";
    text += "|---|---|---|---:|---|---:|---:|---:|---|---|\n";
    for pair in pairs {
        let [published, ours, difference] = figures(pair);
        text += &format!(
            "| {} | {} | {} | {} | {} | {published} | {ours} | {difference} | {} | {} |\n",
            pair.section,
            pair.method,
            pair.dataset,
            pair.shots,
            pair.measure,
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
            "Source",
        ]
        .map(String::from)
        .to_vec(),
    ];
    let mut text = String::new();
    let mut section = "";
    let flush = |rows: &mut Vec<Vec<String>>, text: &mut String| {
        let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..8).map(width).collect();
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
                        Student-t interval of our seeds.";

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
