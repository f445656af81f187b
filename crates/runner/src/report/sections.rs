//! What the page shows of one section.

use std::collections::BTreeMap;

use serde::Serialize;

use super::view::{self, Cell, ChartView, Head, TableView};
use crate::analysis::{Analysis, Reader};
use crate::looks::look;
use crate::plot::{self, Chart, Size};
use crate::record::Protocol;
use crate::stats;
use crate::store::{Loaded, StoreError};
use crate::summary::{Method, Metric, Place, Section};
use crate::table;

/// Everything the template needs of a section.
#[derive(Serialize)]
pub(super) struct SectionView {
    id: String,
    title: String,
    headline: String,
    protocol: &'static str,
    shots_name: String,
    has_harmonic: bool,
    mean_of_harmonics: String,
    charts: Vec<ChartView>,
    tables: Vec<TableView>,
    tests: Vec<TableView>,
    calibration: Vec<TableView>,
    reliability: Vec<ChartView>,
    classes: Vec<TableView>,
    cost: TableView,
    cost_charts: Vec<ChartView>,
    problems: Vec<String>,
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
    let cost = plot::cost(section, Size::Screen);
    // The cost chart stands with the cost table.
    let charts = plot::section_charts(section, Size::Screen);
    let charts = charts
        .into_iter()
        .filter(|c| cost.as_ref().is_none_or(|cost| c.slug != cost.slug));
    Ok(SectionView {
        id: section.slug(),
        title: section.title(),
        headline: pages.headline(),
        protocol: explain(section.protocol),
        shots_name: shots_name(analysis.shots),
        has_harmonic: section.protocol == Protocol::BaseToNovel,
        mean_of_harmonics: pages.mean_of_harmonics(),
        charts: charts.map(draw).collect::<Result<_, _>>()?,
        tables: table::section_tables(section)
            .iter()
            .map(TableView::of)
            .collect(),
        tests: [pages.over_datasets(), pages.over_pictures()]
            .into_iter()
            .filter(|t| !t.is_empty())
            .collect(),
        calibration: vec![pages.calibration()],
        reliability: plot::reliability(section, &analysis, Size::Screen)
            .map(draw)
            .into_iter()
            .collect::<Result<_, _>>()?,
        classes: [pages.classes(), pages.confusions()]
            .into_iter()
            .filter(|t| !t.is_empty())
            .collect(),
        cost: pages.cost(),
        cost_charts: cost.map(draw).into_iter().collect::<Result<_, _>>()?,
        problems: analysis.problems.clone(),
    })
}

fn draw(chart: Chart) -> Result<ChartView, StoreError> {
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
type ClassNames = BTreeMap<(String, String), Vec<String>>;

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
            let place = (test.dataset.clone(), test.class_set.clone());
            names
                .entry(place)
                .or_insert_with(|| test.classes.iter().map(|c| c.name.clone()).collect());
        }
    }
    names
}

fn explain(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::FewShot => {
            "Each method is trained on K labelled images of every class of a dataset (K shots) and tested on the \
             dataset's whole test set, told apart among all its classes."
        }
        Protocol::BaseToNovel => {
            "A dataset's classes, sorted by label, are cut in half: the first half (rounded up) is the base classes, the \
             rest the novel ones. Each method is trained on K labelled images of every base class and tested twice: on \
             base test images among base classes, and on novel test images among novel classes, which it has never seen."
        }
        Protocol::CrossDataset => {
            "Each method is trained once, on K labelled images of every class of the source dataset, and tested as it is \
             on the whole test set of every other dataset, among all classes of that dataset."
        }
        Protocol::DomainGeneralization => {
            "Each method is trained once, on K labelled images of every class of the source dataset, and tested as it is \
             on shifted variants of the source: the same classes, other kinds of images."
        }
        Protocol::TestTime => {
            "Nothing is trained beforehand: a method sees one unlabelled test image at a time, may adapt to it, answers, \
             and starts afresh for the next."
        }
    }
}

fn shots_name(shots: usize) -> String {
    match shots {
        0 => "no training images".to_owned(),
        1 => "1 shot".to_owned(),
        n => format!("{n} shots"),
    }
}

struct Pages<'a> {
    section: &'a Section,
    analysis: &'a Analysis,
    names: ClassNames,
}

impl Pages<'_> {
    fn place(&self) -> Place<'_> {
        let mut targets = self.section.targets();
        match (targets.next(), targets.next()) {
            (Some(only), None) => Place::Dataset(only),
            _ => Place::Average,
        }
    }

    fn metric(&self) -> Option<(String, Metric<'_>)> {
        if self.section.protocol == Protocol::BaseToNovel {
            return Some(("H".to_owned(), Metric::Harmonic));
        }
        self.section
            .class_sets
            .first()
            .map(|set| ("accuracy".to_owned(), Metric::Accuracy(set)))
    }

    fn name_of(&self, label: &str) -> String {
        let method = self.section.methods.iter().find(|m| m.label == label);
        method.map_or_else(|| label.to_owned(), |m| look(m).name)
    }

    fn class_name(&self, place: &(String, String), class: u32) -> String {
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
            Place::Average => format!("averaged over {} datasets", section.targets().count()),
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

    /// The other average people print: the mean of the datasets' H, of every method that has one.
    fn mean_of_harmonics(&self) -> String {
        let (section, shots) = (self.section, self.analysis.shots);
        let mean = |method: &Method| {
            let entry = section.entry(method, Place::Average, Metric::MeanOfHarmonics, shots);
            entry.figure().map(|f| f.mean)
        };
        let listed: Vec<String> = section
            .methods
            .iter()
            .filter_map(|m| Some(format!("{:.2} for {}", mean(m)?, look(m).name)))
            .collect();
        if listed.is_empty() {
            "not there yet".to_owned()
        } else {
            format!("{} at {}", listed.join(", "), shots_name(shots))
        }
    }

    fn over_datasets(&self) -> TableView {
        let heads = [
            Head::text("First"),
            Head::text("Second"),
            Head::text("Measure"),
            Head::number("Second − first"),
            Head::number("Wins"),
            Head::number("Losses"),
            Head::number("W"),
            Head::number("p"),
            Head::number("p (Holm)"),
        ];
        let rows = self.analysis.datasets.iter().map(|test| {
            vec![
                Cell::text(self.name_of(&test.methods.0)),
                Cell::text(self.name_of(&test.methods.1)),
                Cell::text(&test.metric),
                Cell::number(format!("{:+.2}", test.difference), test.difference),
                Cell::number(test.wins.0.to_string(), test.wins.0 as f64),
                Cell::number(test.wins.1.to_string(), test.wins.1 as f64),
                Cell::number(test.result.statistic.to_string(), test.result.statistic),
                view::p_value(test.result.p),
                view::p_value(test.holm),
            ]
        });
        TableView::flat("Over datasets: Wilcoxon's signed-rank test", heads, rows).with_caption(
            "Pairs of means over seeds, one a dataset. Exact up to 25 datasets. With fewer than six datasets no result \
             can reach p < 0.05. Holm's correction is over all pairs of one measure.",
        )
    }

    fn over_pictures(&self) -> TableView {
        let heads = [
            Head::text("First"),
            Head::text("Second"),
            Head::text("Dataset"),
            Head::text("Classes"),
            Head::number("Only first right"),
            Head::number("Only second right"),
            Head::number("p"),
            Head::number("p (Holm)"),
        ];
        let rows = self.analysis.pictures.iter().map(|test| {
            let count = |n: u64| Cell::number(n.to_string(), n as f64);
            vec![
                Cell::text(self.name_of(&test.methods.0)),
                Cell::text(self.name_of(&test.methods.1)),
                Cell::text(&test.dataset),
                Cell::text(&test.class_set),
                count(test.result.only_first),
                count(test.result.only_second),
                view::p_value(test.result.exact),
                view::p_value(test.holm),
            ]
        });
        TableView::flat("On the same images: McNemar's exact test", heads, rows)
            .with_caption("Holm's correction is over every row of this table.")
    }

    /// Calibration error of each method, averaged over seeds and datasets.
    fn calibration(&self) -> TableView {
        let (section, shots) = (self.section, self.analysis.shots);
        let mut heads = vec![Head::text("Method")];
        heads.extend(
            section
                .class_sets
                .iter()
                .map(|set| Head::number(&format!("ECE, {set} (%)"))),
        );
        let rows = section.methods.iter().map(|method| {
            let mut row = vec![Cell::text(look(method).name)];
            for class_set in &section.class_sets {
                let of = |dataset| {
                    let cell = section
                        .cell(method, dataset, class_set, shots)
                        .filter(|cell| cell.is_whole())?;
                    stats::mean(&cell.calibration.iter().map(|c| c.1).collect::<Vec<_>>())
                };
                let mean = section
                    .targets()
                    .map(of)
                    .collect::<Option<Vec<_>>>()
                    .and_then(|all| stats::mean(&all));
                row.push(mean.map_or_else(Cell::gap, |ece| Cell::number(format!("{ece:.2}"), ece)));
            }
            row
        });
        TableView::flat(
            "Expected calibration error",
            heads,
            rows.collect::<Vec<_>>(),
        )
        .with_caption(&format!(
            "Mean over seeds, then datasets, at {}. Lower is better.",
            shots_name(shots)
        ))
    }

    fn classes(&self) -> TableView {
        let heads = [
            Head::text("Method"),
            Head::text("Dataset"),
            Head::text("Classes"),
            Head::text("Class"),
            Head::number("Images"),
            Head::number("Before (%)"),
            Head::number("After (%)"),
            Head::number("Change"),
        ];
        let rows = self.analysis.classes.iter().map(|c| {
            let (before, after) = c.accuracy;
            vec![
                Cell::text(self.name_of(&c.method)),
                Cell::text(&c.place.0),
                Cell::text(&c.place.1),
                Cell::text(self.class_name(&c.place, c.class)),
                Cell::number(c.pictures.to_string(), c.pictures as f64),
                Cell::number(format!("{before:.1}"), before),
                Cell::number(format!("{after:.1}"), after),
                Cell::number(format!("{:+.1}", after - before), after - before),
            ]
        });
        let reference = self
            .analysis
            .reference
            .as_deref()
            .map_or_else(String::new, |label| self.name_of(label));
        TableView::flat("Classes that gained or lost most", heads, rows).with_caption(&format!(
            "Before is {reference}. Five each way a method; classes of at least five images."
        ))
    }

    fn confusions(&self) -> TableView {
        let heads = [
            Head::text("Method"),
            Head::text("Dataset"),
            Head::text("Classes"),
            Head::text("Class"),
            Head::text("Taken for"),
            Head::number("Share (%)"),
        ];
        let rows = self.analysis.confusions.iter().map(|c| {
            vec![
                Cell::text(self.name_of(&c.method)),
                Cell::text(&c.place.0),
                Cell::text(&c.place.1),
                Cell::text(self.class_name(&c.place, c.labels.0)),
                Cell::text(self.class_name(&c.place, c.labels.1)),
                Cell::number(format!("{:.1}", c.share), c.share),
            ]
        });
        TableView::flat("Most frequent confusions", heads, rows).with_caption(
            "Share of the class's predictions over all seeds; the five highest of each method.",
        )
    }

    fn cost(&self) -> TableView {
        let heads = [
            Head::text("Method"),
            Head::number("Shots"),
            Head::number("Trials"),
            Head::number("Trained numbers"),
            Head::number("Training a trial"),
            Head::number("A step"),
            Head::number("Operations a step"),
            Head::number("A tested image"),
            Head::number("Peak memory"),
        ];
        let mut rows = Vec::new();
        for method in &self.section.methods {
            for ((label, shots), spending) in &self.section.spending {
                if *label != method.label {
                    continue;
                }
                let time = |seconds: f64| Cell::number(view::duration(seconds), seconds);
                let is_trained = spending.seconds_a_step.is_some();
                rows.push(vec![
                    Cell::text(look(method).name),
                    Cell::number(shots.to_string(), *shots as f64),
                    Cell::number(spending.trials.to_string(), spending.trials as f64),
                    Cell::number(
                        view::grouped(spending.parameters),
                        spending.parameters as f64,
                    ),
                    if is_trained {
                        time(spending.train_seconds)
                    } else {
                        Cell::gap()
                    },
                    spending.seconds_a_step.map_or_else(Cell::gap, time),
                    spending.operations_a_step.map_or_else(Cell::gap, |n| {
                        Cell::number(format!("{:.1} MFLOP", n / 1e6), n)
                    }),
                    time(spending.seconds_a_picture),
                    Cell::number(
                        view::bytes(spending.peak_memory),
                        spending.peak_memory as f64,
                    ),
                ]);
            }
        }
        TableView::flat("Cost", heads, rows).with_caption(
            "Wall time on the machine under Provenance, mean over finished trials; cached features are not counted twice. \
             Operations are those of both towers that a step cannot do without, cached views included. \
             Peak memory is the process's, shared by the trials beside it.",
        )
    }
}
