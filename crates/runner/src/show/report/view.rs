//! What the template shows: plain values, every text still to be escaped.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::record::{Outcome, Record};
use crate::show::summary::{Entry, Figure};
use crate::show::table::{Rank, Table};
use crate::start;
use crate::store::Loaded;

/// A column's heading.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Head {
    text: String,
    is_number: bool,
}

impl Head {
    pub(super) fn text(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            is_number: false,
        }
    }

    pub(super) fn number(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            is_number: true,
        }
    }
}

/// One cell; `sort` is what its column is sorted by, empty for gaps.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Cell {
    text: String,
    spread: Option<String>,
    class: Option<&'static str>,
    sort: Option<String>,
    title: Option<String>,
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// Long text that may wrap.
    pub(super) fn long(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            class: Some("wide"),
            ..Self::default()
        }
    }

    pub(super) fn number(text: impl Into<String>, value: f64) -> Self {
        Self {
            text: text.into(),
            class: Some("n"),
            sort: Some(value.to_string()),
            ..Self::default()
        }
    }

    pub(super) fn gap() -> Self {
        Self {
            text: "-".to_owned(),
            class: Some("n"),
            sort: Some(String::new()),
            ..Self::default()
        }
    }

    pub(super) fn figure(figure: &Figure, rank: Rank) -> Self {
        let seeds = if figure.seeds == 1 {
            "1 seed".to_owned()
        } else {
            format!("{} seeds", figure.seeds)
        };
        let title = match figure.half_interval(0.95) {
            Some(half) => {
                format!(
                    "95 % interval {:.2} to {:.2}, {seeds}",
                    figure.mean - half,
                    figure.mean + half
                )
            }
            None => seeds,
        };
        Self {
            text: format!("{:.2}", figure.mean),
            spread: figure.deviation.map(|d| format!("{d:.2}")),
            class: Some(match rank {
                Rank::Best => "n best",
                Rank::Second => "n second",
                Rank::Other => "n",
            }),
            sort: Some(figure.mean.to_string()),
            title: Some(title),
        }
    }
}

/// Rows that are sorted among themselves.
#[derive(Clone, Debug, Serialize)]
pub(super) struct GroupView {
    label: String,
    rows: Vec<Vec<Cell>>,
}

/// A table.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TableView {
    title: String,
    caption: String,
    notes: Vec<String>,
    heads: Vec<Head>,
    groups: Vec<GroupView>,
}

impl TableView {
    /// A table without groups.
    pub(super) fn flat(
        title: &str,
        heads: impl IntoIterator<Item = Head>,
        rows: impl IntoIterator<Item = Vec<Cell>>,
    ) -> Self {
        let rows = rows.into_iter().collect();
        Self {
            title: title.to_owned(),
            caption: String::new(),
            notes: Vec::new(),
            heads: heads.into_iter().collect(),
            groups: vec![GroupView {
                label: String::new(),
                rows,
            }],
        }
    }

    pub(super) fn with_caption(mut self, caption: &str) -> Self {
        caption.clone_into(&mut self.caption);
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.iter().all(|g| g.rows.is_empty())
    }

    /// A table of accuracies.
    pub(super) fn of(table: &Table) -> Self {
        let group =
            |(g, group): (usize, &crate::show::table::Group)| {
                let row =
                    |(r, row): (usize, &crate::show::table::Row)| {
                        let mut cells = vec![Cell::text(&row.label)];
                        cells.extend(row.entries.iter().enumerate().map(
                            |(c, entry)| match entry {
                                Entry::Whole(figure) => Cell::figure(figure, table.rank(g, r, c)),
                                Entry::Gap => Cell::gap(),
                                Entry::Blank => Cell {
                                    text: String::new(),
                                    ..Cell::gap()
                                },
                            },
                        ));
                        cells
                    };
                let label = if table.groups.len() > 1 {
                    group.label.clone()
                } else {
                    String::new()
                };
                GroupView {
                    label,
                    rows: group.rows.iter().enumerate().map(row).collect(),
                }
            };
        let numbers = table.columns.iter().map(|c| Head::number(c));
        Self {
            title: table.title.clone(),
            caption: table.caption.clone(),
            notes: table
                .notes
                .iter()
                .map(|note| format!("Gap: {note}."))
                .collect(),
            heads: std::iter::once(Head::text(&table.row_head))
                .chain(numbers)
                .collect(),
            groups: table.groups.iter().enumerate().map(group).collect(),
        }
    }
}

/// A chart, as SVG to be put into the page.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ChartView {
    pub(super) title: String,
    pub(super) svg: String,
}

/// A suite file.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Suite {
    pub(super) name: String,
    pub(super) text: String,
}

/// Something to know, and its particulars.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Note {
    text: String,
    details: Vec<String>,
}

/// Health's lines: indented ones belong to the one before.
pub(super) fn notes(lines: &[String]) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    for line in lines {
        match (line.strip_prefix("  "), notes.last_mut()) {
            (Some(detail), Some(note)) => note.details.push(detail.to_owned()),
            _ => notes.push(Note {
                text: line.clone(),
                details: Vec::new(),
            }),
        }
    }
    notes
}

/// Every value of every origin, and how many records have it: one value a row means that all agree.
pub(super) fn provenance(loaded: &Loaded) -> TableView {
    type Field = (&'static str, fn(&Record) -> String);
    const FIELDS: [Field; 13] = [
        ("promptbed", |r| r.provenance.version.clone()),
        ("commit", |r| r.provenance.commit.clone()),
        ("record schema", |r| r.schema.to_string()),
        ("suite", |r| r.suite.clone()),
        ("suite SHA-256", |r| r.suite_hash.clone()),
        ("backbone", |r| r.provenance.backbone.clone()),
        ("backbone SHA-256", |r| {
            r.provenance.backbone_fingerprint.clone()
        }),
        ("split SHA-256", |r| {
            let start = start::called(&r.dataset, |id| id);
            format!("{start}: {}", r.provenance.split_hash)
        }),
        ("picks SHA-256", |r| {
            if r.provenance.picks_hash.is_empty() {
                return String::new();
            }
            let start = start::called(&r.dataset, |id| id);
            format!(
                "{start}, {} shots, seed {}: {}",
                r.shots, r.seed, r.provenance.picks_hash
            )
        }),
        ("processor", |r| r.provenance.processor.clone()),
        ("device", |r| {
            r.provenance.device.clone().unwrap_or_default()
        }),
        ("arithmetic", |r| {
            r.provenance.arithmetic.clone().unwrap_or_default()
        }),
        ("threads a trial", |r| r.provenance.threads.to_string()),
    ];
    let mut rows = Vec::new();
    for (name, field) in FIELDS {
        let mut values: BTreeMap<String, usize> = BTreeMap::new();
        for record in &loaded.records {
            *values.entry(field(record)).or_default() += 1;
        }
        for (value, count) in values.into_iter().filter(|(value, _)| !value.is_empty()) {
            rows.push(vec![
                Cell::text(name),
                Cell::long(value),
                Cell::number(count.to_string(), count as f64),
            ]);
        }
    }
    let heads = [
        Head::text("Origin"),
        Head::text("Value"),
        Head::number("Records"),
    ];
    TableView::flat("Provenance", heads, rows)
}

/// Every record, one row each.
pub(super) fn trials(loaded: &Loaded) -> TableView {
    let heads = [
        Head::text("Record"),
        Head::text("Protocol"),
        Head::text("Method"),
        Head::text("Dataset"),
        Head::number("Shots"),
        Head::number("Seed"),
        Head::text("Outcome"),
        Head::text("Accuracy"),
        Head::number("Final loss"),
    ];
    let row = |r: &Record| {
        let tests = r.last_tests().map(|t| {
            let on = if t.dataset == r.dataset {
                t.class_set.to_string()
            } else {
                t.dataset.clone()
            };
            format!("{on} {:.2}", t.accuracy())
        });
        let outcome = match &r.outcome {
            Outcome::Finished => "finished".to_owned(),
            Outcome::Failed { reason, .. } => format!("failed: {reason}"),
        };
        vec![
            Cell::text(&r.key),
            Cell::text(r.protocol.name),
            Cell::text(&r.method),
            Cell::text(start::called(&r.dataset, |id| id)),
            Cell::number(r.shots.to_string(), r.shots as f64),
            Cell::number(r.seed.to_string(), r.seed as f64),
            Cell::long(outcome),
            Cell::long(tests.collect::<Vec<_>>().join(", ")),
            r.losses
                .last()
                .map_or_else(Cell::gap, |loss| Cell::number(format!("{loss:.4}"), *loss)),
        ]
    };
    TableView::flat("Every trial", heads, loaded.records.iter().map(row))
}

/// Seconds as a person says them.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-4 => format!("{:.1} µs", s * 1e6),
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1000.0),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Bytes as a person says them.
pub(super) fn bytes(n: u64) -> String {
    match n as f64 {
        n if n < 1e6 => format!("{:.0} kB", n / 1e3),
        n if n < 1e9 => format!("{:.0} MB", n / 1e6),
        n => format!("{:.2} GB", n / 1e9),
    }
}

/// A whole number with thin spaces between thousands.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{2009}');
        }
        out.push(digit);
    }
    out
}

/// A p-value.
pub(super) fn p_value(p: f64) -> Cell {
    let text = if p < 0.001 {
        "< 0.001".to_owned()
    } else {
        format!("{p:.3}")
    };
    Cell::number(text, p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        assert_eq!(grouped(3_555_072), "3\u{2009}555\u{2009}072");
        assert_eq!(grouped(35), "35");
        assert_eq!(duration(0.0031), "3.1 ms");
        assert_eq!(duration(5400.0), "90.0 min");
        assert_eq!(bytes(1_536_000_000), "1.54 GB");
    }

    #[test]
    fn indented_notes_belong_to_the_one_before() {
        let lines = ["2 trials failed.", "  a: x", "  b: y", "1 file."].map(String::from);
        let notes = notes(&lines);
        assert_eq!((notes.len(), notes[0].details.len()), (2, 2));
    }
}
