//! Tables as CSV: one row a method, every figure with its deviation and number of seeds, rounded to four digits.

use std::borrow::Cow;

use super::Table;
use crate::show::summary::{Entry, Figure};

/// The table, with a line of names first. Gaps and blanks are empty.
pub(super) fn render(table: &Table) -> String {
    let is_grouped = table.groups.len() > 1;
    let mut out = String::new();
    let mut head = Vec::new();
    if is_grouped {
        head.push(table.group_head.to_lowercase());
    }
    head.push(table.row_head.to_lowercase());
    for name in &table.columns {
        head.extend([name.clone(), format!("{name} sd"), format!("{name} seeds")]);
    }
    line(&mut out, &head);
    for group in &table.groups {
        for row in &group.rows {
            let mut cells = Vec::new();
            if is_grouped {
                cells.push(group.label.clone());
            }
            cells.push(row.label.clone());
            for figure in row.entries.iter().map(Entry::figure) {
                cells.extend(figure.map_or([const { String::new() }; 3], figures));
            }
            line(&mut out, &cells);
        }
    }
    out
}

/// Mean, deviation and number of seeds.
fn figures(figure: Figure) -> [String; 3] {
    let digits = |value: f64| format!("{value:.4}");
    [
        digits(figure.mean),
        figure.deviation.map_or_else(String::new, digits),
        figure.seeds.to_string(),
    ]
}

pub(super) fn line(out: &mut String, cells: &[String]) {
    let cells: Vec<_> = cells.iter().map(|cell| quoted(cell)).collect();
    *out += &cells.join(",");
    out.push('\n');
}

/// A value as RFC 4180 wants it: in quotes only where it must be.
fn quoted(cell: &str) -> Cow<'_, str> {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\"")).into()
    } else {
        cell.into()
    }
}
