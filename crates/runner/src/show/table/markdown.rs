//! Tables as GitHub's Markdown.

use super::{Rank, Table};
use crate::show::summary::Entry;

pub(super) fn render(table: &Table) -> String {
    let has_groups = table.groups.len() > 1;
    let mut heads: Vec<String> = has_groups
        .then(|| escape(&table.group_head))
        .into_iter()
        .collect();
    heads.push(escape(&table.row_head));
    let texts = heads.len();
    heads.extend(table.columns.iter().map(|c| escape(c)));

    let mut lines: Vec<Vec<String>> = vec![heads];
    for (g, group) in table.groups.iter().enumerate() {
        for (r, row) in group.rows.iter().enumerate() {
            let mut line = Vec::new();
            if has_groups {
                line.push(if r == 0 {
                    format!("**{}**", escape(&group.label))
                } else {
                    String::new()
                });
            }
            line.push(escape(&row.label));
            let entry = |(c, entry): (usize, &Entry)| entry_text(entry, table.rank(g, r, c));
            line.extend(row.entries.iter().enumerate().map(entry));
            lines.push(line);
        }
    }

    // Padded, so that the file reads as a table before it is rendered.
    let width = |i: usize| {
        lines
            .iter()
            .map(|l| l[i].chars().count())
            .max()
            .unwrap_or(0)
            .max(3)
    };
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = format!("### {}\n\n", escape(&table.title));
    for (i, line) in lines.iter().enumerate() {
        for (c, (cell, width)) in line.iter().zip(&widths).enumerate() {
            text += &if c < texts {
                format!("| {cell:<width$} ")
            } else {
                format!("| {cell:>width$} ")
            };
        }
        text += "|\n";
        if i == 0 {
            for (c, width) in widths.iter().enumerate() {
                text += &if c < texts {
                    format!("|{} ", "-".repeat(width + 1))
                } else {
                    format!("|{}:", "-".repeat(width + 1))
                };
            }
            text += "|\n";
        }
    }
    text += &format!("\n{}\n", escape(&table.caption));
    if !table.notes.is_empty() {
        text += &format!("\n`-` marks {}:\n\n", gaps(table.notes.len()));
        for note in &table.notes {
            text += &format!("- {}\n", escape(note));
        }
    }
    text
}

/// How many gaps there are, and what an average makes of them.
pub(super) fn gaps(n: usize) -> String {
    let places = if n == 1 {
        "a place".to_owned()
    } else {
        format!("{n} places")
    };
    format!("{places} whose seeds are not all there (and every average over one)")
}

fn entry_text(entry: &Entry, rank: Rank) -> String {
    let Entry::Whole(figure) = entry else {
        return if *entry == Entry::Gap {
            "-".to_owned()
        } else {
            String::new()
        };
    };
    let mean = format!("{:.2}", figure.mean);
    let mean = match rank {
        Rank::Best => format!("**{mean}**"),
        Rank::Second => format!("<ins>{mean}</ins>"),
        Rank::Other => mean,
    };
    figure
        .deviation
        .map_or(mean.clone(), |d| format!("{mean} ± {d:.2}"))
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if matches!(c, '|' | '*' | '_' | '`' | '<' | '[' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
