//! Tables: built once from a [`Summary`], written as Markdown, CSV, LaTeX and terminal text.

pub mod against;
mod build;
mod csv;
mod latex;
mod markdown;
mod matrix;
mod recall;
mod terminal;
mod uses;

use std::path::{Path, PathBuf};

pub use build::{section_tables, tables};

use crate::show::summary::{Entry, Score, Spread, Summary};
use crate::store::{Loaded, StoreError, replace};

/// Which entries compete for best and second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contest {
    /// Entries of one column within a group: rows are methods.
    Rows,
    /// Entries of one row: columns are methods.
    Columns,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Method or dataset.
    pub label: String,
    /// One entry a column.
    pub entries: Vec<Entry>,
}

/// Rows that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Dataset, number of shots or metric; empty where there is only one group.
    pub label: String,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// A table of accuracies in percent.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// File name without extension.
    pub slug: String,
    /// Heading.
    pub title: String,
    /// What the figures are, in full sentences.
    pub caption: String,
    /// What the groups are; empty where there is only one.
    pub group_head: String,
    /// What the rows are.
    pub row_head: String,
    /// Headings of the columns.
    pub columns: Vec<String>,
    /// Rows, in groups.
    pub groups: Vec<Group>,
    /// Which entries compete for best and second.
    pub contest: Contest,
    /// Columns in which the lowest figure is the best.
    pub falling: Vec<usize>,
    /// What each gap lacks.
    pub notes: Vec<String>,
}

/// Standing of an entry among its rivals, by the figure as printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// The highest (shared by ties), or the lowest where that is what counts.
    Best,
    /// The next figure (shared by ties).
    Second,
    /// Neither, or no rival.
    Other,
}

impl Table {
    /// Standing of the entry in this group, row and column.
    pub fn rank(&self, group: usize, row: usize, column: usize) -> Rank {
        let rows = &self.groups[group].rows;
        let rivals: Vec<Entry> = match self.contest {
            Contest::Rows => rows.iter().map(|r| r.entries[column]).collect(),
            Contest::Columns => rows[row].entries.clone(),
        };
        // Printed figures are compared, so that two that look the same are marked the same.
        let printed = |entry: &Entry| entry.figure().map(|f| (f.mean * 100.0).round() as i64);
        let mut figures: Vec<i64> = rivals.iter().filter_map(printed).collect();
        if figures.len() < 2 {
            return Rank::Other;
        }
        figures.sort_unstable_by(|a, b| b.cmp(a));
        figures.dedup();
        if self.contest == Contest::Rows && self.falling.contains(&column) {
            figures.reverse();
        }
        match printed(&rows[row].entries[column]) {
            Some(own) if own == figures[0] => Rank::Best,
            Some(own) if figures.get(1) == Some(&own) => Rank::Second,
            _ => Rank::Other,
        }
    }

    /// Whether any entry has a spread to print.
    pub fn has_deviations(&self) -> bool {
        let entries = self
            .groups
            .iter()
            .flat_map(|g| &g.rows)
            .flat_map(|r| &r.entries);
        entries
            .filter_map(Entry::figure)
            .any(|f| f.deviation.is_some())
    }
}

/// Writes every table into `dir/tables` as `.md`, `.csv` and `.tex`; returns the files.
///
/// # Errors
/// When a file cannot be written.
pub fn render_all(loaded: &Loaded, dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    render_all_as(loaded, dir, Spread::Sample)
}

/// [`render_all`] with seeds summed up another way: names of tables as published end in `-as-published`.
///
/// # Errors
/// When a file cannot be written.
pub fn render_all_as(
    loaded: &Loaded,
    dir: &Path,
    spread: Spread,
) -> Result<Vec<PathBuf>, StoreError> {
    render_all_by(loaded, dir, spread, Score::Pictures)
}

/// [`render_all_as`] of another accuracy: names of tables of macro accuracy end in `-macro`.
///
/// # Errors
/// When a file cannot be written.
pub fn render_all_by(
    loaded: &Loaded,
    dir: &Path,
    spread: Spread,
    score: Score,
) -> Result<Vec<PathBuf>, StoreError> {
    let folder = dir.join("tables");
    std::fs::create_dir_all(&folder).map_err(|source| StoreError::Io {
        path: folder.clone(),
        source,
    })?;
    let mut written = Vec::new();
    let summary = Summary::new(loaded).with_spread(spread).with_score(score);
    let sections = summary.sections.iter();
    // However seeds are summed up, a method used what it used.
    for section in sections.filter(|_| spread == Spread::Sample) {
        for (extension, text) in uses::render(section) {
            let path = folder.join(format!("{}-methods.{extension}", section.slug()));
            replace(&path, text.as_bytes())?;
            written.push(path);
        }
        for (extension, text) in uses::tasks(section) {
            let path = folder.join(format!("{}-tasks.{extension}", section.slug()));
            replace(&path, text.as_bytes())?;
            written.push(path);
        }
        if let Some(text) = matrix::render(section) {
            let path = folder.join(format!("{}-matrix.csv", section.slug()));
            replace(&path, text.as_bytes())?;
            written.push(path);
        }
        for (name, text) in recall::render(section, loaded) {
            let path = folder.join(name);
            replace(&path, text.as_bytes())?;
            written.push(path);
        }
    }
    for mut table in tables(&summary) {
        if score == Score::Classes {
            table.slug += "-macro";
        }
        if spread == Spread::AsPublished {
            table.slug += "-as-published";
        }
        for (extension, text) in [
            ("md", markdown::render(&table)),
            ("csv", csv::render(&table)),
            ("tex", latex::render(&table)),
        ] {
            let path = folder.join(format!("{}.{extension}", table.slug));
            replace(&path, text.as_bytes())?;
            written.push(path);
        }
    }
    Ok(written)
}

/// The tables a person wants to see at the end of a run, in 100 columns, and what is wrong with the folder.
pub fn terminal(loaded: &Loaded) -> String {
    terminal_as(loaded, Spread::Sample)
}

/// [`terminal`] with seeds summed up another way.
pub fn terminal_as(loaded: &Loaded, spread: Spread) -> String {
    terminal_by(loaded, spread, Score::Pictures)
}

/// [`terminal_as`] of another accuracy.
pub fn terminal_by(loaded: &Loaded, spread: Spread, score: Score) -> String {
    let summary = Summary::new(loaded).with_spread(spread).with_score(score);
    let mut text = String::new();
    if spread == Spread::AsPublished && !summary.sections.is_empty() {
        text += "As the published scripts print it: seeds rounded to one decimal, population deviation.\n\n";
    }
    if score == Score::Classes && !summary.sections.is_empty() {
        text += "Macro accuracy: the mean of the classes' recall, every class counting alike.\n\n";
    }
    for table in build::at_a_glance(&summary) {
        text += &terminal::render(&table, terminal::WIDTH);
        text.push('\n');
    }
    for note in summary.health.brief() {
        text += &note;
        text.push('\n');
    }
    if text.is_empty() {
        text += "No trial here yet.\n";
    }
    text
}

#[cfg(test)]
mod tests;
