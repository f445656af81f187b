//! What the page shows of one section.

use std::collections::BTreeMap;

use serde::Serialize;

use super::parts::{Fold, PARTS};
use super::view::{ChartView, TableView};
use crate::record::TestSet;
use crate::show::analysis::{Analysis, Reader};
use crate::show::looks::look;
use crate::show::plot::{CHARTS, Drawn, Size};
use crate::show::summary::{Method, Metric, Place, Section};
use crate::store::{Loaded, StoreError};

/// Everything the template needs of a section.
#[derive(Serialize)]
pub(super) struct SectionView {
    id: String,
    title: String,
    headline: String,
    parts: Vec<PartView>,
    problems: Vec<String>,
}

/// Everything the template needs of a part of a section, all in one form.
#[derive(Serialize)]
struct PartView {
    title: &'static str,
    prose: Vec<String>,
    charts: Vec<ChartView>,
    tables: Vec<TableView>,
    fold: Fold,
}

pub(super) fn view(
    section: &Section,
    loaded: &Loaded,
    read: &Reader<'_>,
) -> Result<SectionView, StoreError> {
    let analysis = Analysis::new(section, read);
    let pages = Pages {
        section,
        analysis: &analysis,
        names: class_names(section, loaded),
    };
    let mut parts = Vec::new();
    for part in PARTS {
        let Some(contents) = (part.fill)(&pages) else {
            continue;
        };
        let charts = CHARTS.iter().filter(|chart| part.shows(chart.slug));
        let drawn = charts.flat_map(|chart| chart.of(section, &analysis, Size::Screen));
        parts.push(PartView {
            title: part.title,
            prose: contents.prose,
            charts: drawn.map(draw).collect::<Result<_, _>>()?,
            tables: contents.tables,
            fold: part.fold,
        });
    }
    Ok(SectionView {
        id: section.slug(),
        title: section.title(),
        headline: pages.headline(),
        parts,
        problems: analysis.problems.clone(),
    })
}

fn draw(chart: Drawn) -> Result<ChartView, StoreError> {
    let fail = |problem| StoreError::Chart {
        path: format!("{}.svg", chart.slug).into(),
        problem,
    };
    let svg = chart.drawing.svg(&chart.title).map_err(fail)?;
    Ok(ChartView {
        title: chart.title,
        svg,
    })
}

/// Names of the classes of a dataset and class set, in label order.
type ClassNames = BTreeMap<(String, TestSet), Vec<String>>;

fn class_names(section: &Section, loaded: &Loaded) -> ClassNames {
    let mut names = ClassNames::new();
    let keys: std::collections::BTreeSet<&str> = section
        .cells()
        .flat_map(|(.., cell)| cell.keys.iter().map(|k| k.1.as_str()))
        .collect();
    for record in loaded
        .records
        .iter()
        .filter(|r| keys.contains(r.key.as_str()))
    {
        for test in &record.tests {
            let place = (test.dataset.clone(), test.class_set);
            names
                .entry(place)
                .or_insert_with(|| test.classes.iter().map(|c| c.name.clone()).collect());
        }
    }
    names
}

/// What parts are filled from: a section, its analysis, and names for both.
pub(super) struct Pages<'a> {
    pub(super) section: &'a Section,
    pub(super) analysis: &'a Analysis,
    names: ClassNames,
}

pub(super) fn shots_name(shots: usize) -> String {
    match shots {
        0 => "no training images".to_owned(),
        1 => "1 shot".to_owned(),
        n => format!("{n} shots"),
    }
}

impl Pages<'_> {
    fn place(&self) -> Place<'_> {
        let mut targets = self.section.targets();
        match (targets.next(), targets.next()) {
            (Some(only), None) => Place::Dataset(only),
            _ => Place::Average,
        }
    }

    fn metric(&self) -> Option<(&'static str, Metric)> {
        let metric = self.section.headline()?;
        let name = match metric {
            Metric::Harmonic => "H",
            Metric::Continual(_) => "average accuracy of its course",
            _ => "accuracy",
        };
        Some((name, metric))
    }

    pub(super) fn name_of(&self, label: &str) -> String {
        let method = self.section.methods.iter().find(|m| m.label == label);
        method.map_or_else(|| label.to_owned(), |m| look(m).name)
    }

    pub(super) fn class_name(&self, place: &(String, TestSet), class: u32) -> String {
        let name = self
            .names
            .get(place)
            .and_then(|names| names.get(class as usize));
        name.cloned().unwrap_or_else(|| format!("class {class}"))
    }

    /// The best method's figure, and how far it is from the untrained one.
    fn headline(&self) -> String {
        let (section, shots) = (self.section, self.analysis.shots);
        let place = self.place();
        let Some((what, metric)) = self.metric() else {
            return "nothing is finished yet.".to_owned();
        };
        let mean = |m: &Method| {
            section
                .entry(m, place, metric, shots)
                .figure()
                .map(|f| f.mean)
        };
        let mut figures: Vec<(&Method, f64)> = section
            .methods
            .iter()
            .filter_map(|m| Some((m, mean(m)?)))
            .collect();
        figures.sort_by(|a, b| b.1.total_cmp(&a.1));
        let Some((best, highest)) = figures.first() else {
            return "no method has every result of its average yet.".to_owned();
        };
        let on = match place {
            Place::Dataset(dataset) => format!("on {}", section.called(dataset)),
            Place::Average | Place::Unseen => {
                format!("averaged over {} datasets", section.targets().count())
            }
        };
        let mut text = format!(
            "{} has the highest {what} at {}, {highest:.2} {on}",
            look(best).name,
            shots_name(shots)
        );
        let reference = figures
            .iter()
            .find(|(m, _)| Some(&m.label) == self.analysis.reference.as_ref());
        if let Some((method, value)) = reference.filter(|(m, _)| m.label != best.label) {
            text += &format!(
                " ({:+.2} against {}, {value:.2})",
                highest - value,
                look(method).name
            );
        }
        if figures.len() < section.methods.len() {
            text += &format!(
                "; {} of {} methods have gaps",
                section.methods.len() - figures.len(),
                section.methods.len()
            );
        }
        text + "."
    }
}
