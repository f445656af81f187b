//! One self-contained HTML page about one or several results folders: no network, no server, everything escaped.

mod parts;
mod section;
mod view;

use std::path::{Path, PathBuf};

use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

use crate::record::TestSet;
use crate::show::looks;
use crate::show::published::Published;
use crate::show::summary::Summary;
use crate::show::table::against;
use crate::store::{Loaded, Planned, Prediction, Store, StoreError};
use section::SectionView;
use view::{Cell, Head, Note, Suite, TableView};

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A results folder could not be read, a chart not drawn, or the page not written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The shipped published numbers do not hold.
    #[error(transparent)]
    Published(#[from] crate::show::published::Error),
    /// The page's template failed.
    #[error("report.html: {0:#}")]
    Template(#[from] minijinja::Error),
}

/// Reads results folders and writes one report about all of them to `out`.
///
/// # Errors
/// When a folder cannot be read or the page not written.
pub fn write(dirs: &[PathBuf], out: &Path) -> Result<(), ReportError> {
    let stores = dirs
        .iter()
        .map(Store::open)
        .collect::<Result<Vec<_>, _>>()?;
    let page = render(&stores)?;
    crate::store::replace(out, page.as_bytes())?;
    Ok(())
}

/// The page about these folders, as HTML.
///
/// # Errors
/// When a folder cannot be listed or a chart not drawn. Broken records are no error: the page says so at its top.
pub fn render(stores: &[Store]) -> Result<String, ReportError> {
    let all = stores
        .iter()
        .map(Store::read_all)
        .collect::<Result<Vec<_>, _>>()?;
    let loaded = merge(all);
    let summary = Summary::new(&loaded);
    let published = Published::built_in()?;
    let read = |key: &str,
                dataset: &str,
                class_set: TestSet|
     -> Result<Option<Vec<Prediction>>, StoreError> {
        for store in stores {
            if let Some(found) = store.read_predictions_on(key, dataset, class_set)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    };
    let names: Vec<String> = stores.iter().map(folder_name).collect();
    let sections = summary
        .sections
        .iter()
        .map(|section| section::view(section, &loaded, &read))
        .collect::<Result<Vec<_>, _>>()?;
    let suites: Vec<Suite> = stores
        .iter()
        .zip(&names)
        .filter_map(|(store, name)| suite(store, name))
        .collect();
    let pairs = against::against(&summary, &published, None);

    let page = Page {
        title: format!("promptbed: {}", names.join(", ")),
        subtitle: subtitle(&loaded),
        notes: view::notes(&summary.health.notes()),
        groups: groups(&summary),
        sections,
        published: (!pairs.is_empty()).then(|| published_table(&pairs)),
        published_note: against::NOTE,
        provenance: view::provenance(&loaded),
        suites,
        trials: view::trials(&loaded),
    };
    let mut environment = Environment::new();
    environment.add_template("report.html", include_str!("../../assets/report.html"))?;
    Ok(environment
        .get_template("report.html")?
        .render(Serde(&page))?)
}

/// What the template is given.
#[derive(Serialize)]
struct Page {
    title: String,
    subtitle: String,
    notes: Vec<Note>,
    /// Kinds of methods, with the names that tables have for those that are there.
    groups: Vec<Group>,
    sections: Vec<SectionView>,
    published: Option<TableView>,
    published_note: &'static str,
    provenance: TableView,
    suites: Vec<Suite>,
    trials: TableView,
}

/// A kind of methods, to choose which to see.
#[derive(Serialize)]
struct Group {
    title: &'static str,
    names: Vec<String>,
    /// The names as the page's script reads them.
    json: String,
}

/// The kinds of methods that are there; none where there is nothing to choose.
fn groups(summary: &Summary) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for kind in methods::Group::ALL {
        let mut names: Vec<String> = Vec::new();
        for method in summary.sections.iter().flat_map(|s| &s.methods) {
            let is_of = methods::find(&method.algorithm).is_some_and(|e| e.group == kind);
            let name = looks::look(method).name;
            if is_of && !names.contains(&name) {
                names.push(name);
            }
        }
        if !names.is_empty() {
            groups.push(Group {
                title: kind.title(),
                json: serde_json::to_string(&names).expect("texts serialise"),
                names,
            });
        }
    }
    groups
}

/// What a folder is called; `.` by its real name.
fn folder_name(store: &Store) -> String {
    let path = store
        .dir()
        .canonicalize()
        .unwrap_or_else(|_| store.dir().to_owned());
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

fn suite(store: &Store, name: &str) -> Option<Suite> {
    let text = std::fs::read_to_string(store.dir().join("suite.toml")).ok()?;
    Some(Suite {
        name: name.to_owned(),
        text,
    })
}

fn subtitle(loaded: &Loaded) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let seconds: f64 = loaded
        .records
        .iter()
        .map(|r| r.cost.train_seconds + r.cost.test_seconds)
        .sum();
    format!(
        "{} records, {} of training and testing. Written by promptbed {version}.",
        loaded.records.len(),
        view::duration(seconds)
    )
}

/// Several folders as one. Where only some have a plan, the others' records are taken as theirs: otherwise they would
/// be set aside as trials nobody asked for.
fn merge(all: Vec<Loaded>) -> Loaded {
    let has_plan = all.iter().any(|one| !one.planned.is_empty());
    let mut merged = Loaded::default();
    for one in all {
        if has_plan && one.planned.is_empty() {
            merged.planned.extend(one.records.iter().map(Planned::of));
        }
        merged.planned.extend(one.planned);
        merged.records.extend(one.records);
        merged.problems.extend(one.problems);
    }
    merged
}

fn published_table(pairs: &[against::Pair]) -> TableView {
    let text = ["Protocol", "Method", "Dataset"].map(Head::text);
    let rest = [
        Head::number("Shots"),
        Head::text("Measure"),
        Head::number("Published"),
        Head::number("Ours"),
    ];
    let last = [
        Head::number("Difference"),
        Head::text("Source"),
        Head::text("Ran by"),
    ];
    let row = |pair: &against::Pair| {
        let [published, _, difference] = against::figures(pair);
        vec![
            Cell::text(&pair.section),
            Cell::text(&pair.method),
            Cell::text(&pair.dataset),
            Cell::number(pair.shots.to_string(), pair.shots as f64),
            Cell::text(pair.measure),
            Cell::number(published, pair.published),
            pair.ours.map_or_else(Cell::gap, |figure| {
                Cell::figure(&figure, crate::show::table::Rank::Other)
            }),
            pair.difference()
                .map_or_else(Cell::gap, |value| Cell::number(difference, value)),
            Cell::text(&pair.source),
            Cell::text(&pair.ran_by),
        ]
    };
    TableView::flat(
        "Published and ours",
        text.into_iter().chain(rest).chain(last),
        pairs.iter().map(row),
    )
}

#[cfg(test)]
mod tests;
