//! The parts of a section: each is a file here and a line of [`PARTS`]; the template shows all of them in one form.

use serde::Serialize;

use super::section::Pages;
use super::view::TableView;

mod calibration;
mod classes;
mod continual;
mod cost;
mod differences;
mod found;
mod lead;
mod tables;
mod tasks;
mod unequal;
mod uses;

/// Every part, in the order of a section.
pub(super) const PARTS: &[Part] = &[
    lead::PART,
    continual::PART,
    tables::PART,
    tasks::PART,
    unequal::PART,
    differences::PART,
    calibration::PART,
    classes::PART,
    found::PART,
    uses::PART,
    cost::PART,
];

/// A part of a section.
pub(super) struct Part {
    /// Heading; empty for what stands under the section's own.
    pub(super) title: &'static str,
    /// Slugs of the kinds of charts that stand here, of [`crate::show::plot::CHARTS`].
    pub(super) charts: &'static [&'static str],
    /// How its tables stand.
    pub(super) fold: Fold,
    /// What it says of a section; `None` where it has nothing to say.
    pub(super) fill: fn(&Pages<'_>) -> Option<Contents>,
}

/// How the tables of a part stand.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fold {
    /// Without a title, open.
    Plain,
    /// Each folded under its title, the first one unfolded.
    First,
    /// Each folded under its title.
    Closed,
}

/// What a part says.
pub(super) struct Contents {
    /// Paragraphs, before charts and tables.
    pub(super) prose: Vec<String>,
    /// Tables, after the charts.
    pub(super) tables: Vec<TableView>,
}

impl Contents {
    /// Those of the tables that have rows, under `prose`; `None` where none has.
    fn of_tables(prose: Vec<String>, tables: impl IntoIterator<Item = TableView>) -> Option<Self> {
        let tables: Vec<TableView> = tables.into_iter().filter(|t| !t.is_empty()).collect();
        (!tables.is_empty()).then_some(Self { prose, tables })
    }
}

impl Part {
    /// Whether charts of this kind stand here: those it names; under the section's own heading, those no part names.
    pub(super) fn shows(&self, slug: &str) -> bool {
        let names = |part: &Part| part.charts.contains(&slug);
        names(self) || self.title.is_empty() && !PARTS.iter().any(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::plot::CHARTS;

    #[test]
    fn every_chart_stands_in_one_part() {
        for chart in CHARTS {
            let parts = PARTS.iter().filter(|p| p.shows(chart.slug)).count();
            assert_eq!(parts, 1, "{}", chart.slug);
        }
        for slug in PARTS.iter().flat_map(|p| p.charts) {
            assert!(CHARTS.iter().any(|c| c.slug == *slug), "no chart is {slug}");
        }
    }
}
