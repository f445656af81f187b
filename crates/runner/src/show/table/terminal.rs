//! Tables as aligned text. The best figure wears a star; nothing depends on colour.

use super::{Rank, Table};
use crate::show::summary::Entry;

/// Columns of text a table may take; wider ones are cut into blocks.
pub(super) const WIDTH: usize = 100;

/// Letters of a word that a heading does not break.
const WHOLE: usize = 12;
/// Gaps named before the rest is only counted.
const NAMED: usize = 6;

pub(super) fn render(table: &Table, width: usize) -> String {
    let indent = if table.groups.len() > 1 { 2 } else { 0 };
    let label_width = 2
        + indent
        + table
            .groups
            .iter()
            .flat_map(|g| &g.rows)
            .map(|r| count(&r.label))
            .chain([count(&table.row_head)])
            .max()
            .unwrap_or(0);
    let heads: Vec<Vec<String>> = table.columns.iter().map(|name| wrap(name, 9)).collect();
    let entries = || {
        table
            .groups
            .iter()
            .flat_map(|g| &g.rows)
            .map(|r| &r.entries)
    };
    let deviates = |e: &Entry| e.figure().is_some_and(|f| f.deviation.is_some());
    let has_spread: Vec<bool> = (0..heads.len())
        .map(|c| entries().any(|row| deviates(&row[c])))
        .collect();
    let cells = |spread: bool| -> Vec<Vec<Vec<String>>> {
        let row = |g: usize, r: usize| {
            let entries = table.groups[g].rows[r].entries.iter().enumerate();
            entries
                .map(|(c, e)| entry_text(e, table.rank(g, r, c), spread && has_spread[c]))
                .collect()
        };
        let group = |g: usize| (0..table.groups[g].rows.len()).map(|r| row(g, r)).collect();
        (0..table.groups.len()).map(group).collect()
    };
    let widths = |cells: &[Vec<Vec<String>>]| -> Vec<usize> {
        let widest = |c: usize| {
            let texts = cells.iter().flatten().map(|row| count(&row[c]));
            texts
                .chain(heads[c].iter().map(|h| count(h)))
                .max()
                .unwrap_or(0)
        };
        (0..table.columns.len()).map(widest).collect()
    };
    // Spreads only where everything still stands side by side.
    let mut texts = cells(true);
    let mut columns = widths(&texts);
    if label_width + columns.iter().map(|w| w + 2).sum::<usize>() > width {
        texts = cells(false);
        columns = widths(&texts);
    }

    let is_loose = label_width + columns.iter().map(|w| w + 2).sum::<usize>() <= width;
    let gap = if is_loose { "  " } else { " " };

    let mut out = format!("{}\n", table.title);
    for block in blocks(&columns, width.saturating_sub(label_width), gap.len()) {
        let ruler = "-".repeat(
            label_width + block.clone().map(|c| columns[c] + gap.len()).sum::<usize>() - gap.len(),
        );
        let lines = block.clone().map(|c| heads[c].len()).max().unwrap_or(1);
        for line in 0..lines {
            let label = if line + 1 == lines {
                table.row_head.as_str()
            } else {
                ""
            };
            out += &format!("{label:<label_width$}");
            for c in block.clone() {
                // Short headings sit on the ruler.
                let skip = lines - heads[c].len();
                let head = line.checked_sub(skip).map_or("", |i| heads[c][i].as_str());
                out += &format!("{head:>width$}{gap}", width = columns[c]);
            }
            trim(&mut out);
        }
        out += &format!("{ruler}\n");
        for (group, rows) in table.groups.iter().zip(&texts) {
            if table.groups.len() > 1 {
                out += &format!("{}\n", group.label);
            }
            for (row, cells) in group.rows.iter().zip(rows) {
                out += &format!(
                    "{:indent$}{:<width$}",
                    "",
                    row.label,
                    width = label_width - indent
                );
                for c in block.clone() {
                    out += &format!("{:>width$}{gap}", cells[c], width = columns[c]);
                }
                trim(&mut out);
            }
        }
    }
    if !table.notes.is_empty() {
        out += &format!("-: {}\n", super::markdown::gaps(table.notes.len()));
        for note in table.notes.iter().take(NAMED) {
            out += &format!("   {note}\n");
        }
        if table.notes.len() > NAMED {
            out += &format!("   and {} more\n", table.notes.len() - NAMED);
        }
    }
    out
}

/// Runs of columns that fit beside the labels; always at least one column a run.
fn blocks(columns: &[usize], room: usize, gap: usize) -> Vec<std::ops::Range<usize>> {
    let mut blocks = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (i, width) in columns.iter().enumerate() {
        if i > start && used + width > room {
            blocks.push(start..i);
            (start, used) = (i, 0);
        }
        used += width + gap;
    }
    blocks.push(start..columns.len());
    blocks
}

fn trim(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

fn count(text: &str) -> usize {
    text.chars().count()
}

fn entry_text(entry: &Entry, rank: Rank, spread: bool) -> String {
    let Entry::Whole(figure) = entry else {
        return if *entry == Entry::Gap {
            "- ".to_owned()
        } else {
            String::new()
        };
    };
    // A space where there is no star keeps the points below each other.
    let star = if rank == Rank::Best { '*' } else { ' ' };
    let mean = format!("{:.2}{star}", figure.mean);
    match figure.deviation {
        Some(deviation) if spread => format!("{mean}±{deviation:5.2}"),
        None if spread => format!("{mean}      "),
        _ => mean,
    }
}

/// Breaks a heading at spaces and hyphens into lines of at most `width`, cutting a longer word.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_inclusive([' ', '-', '_']) {
        let line = lines.last_mut().expect("starts with one");
        let own = count(word.trim_end());
        if !line.is_empty() && count(line) + own > width {
            lines.push(String::new());
        }
        // A letter or two alone on a line read worse than a wider column.
        let room = if own <= WHOLE { width.max(own) } else { width };
        for c in word.chars() {
            if count(lines.last().expect("starts with one")) == room {
                lines.push(String::new());
            }
            lines.last_mut().expect("starts with one").push(c);
        }
    }
    lines
        .iter()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_wrap_at_words_first() {
        assert_eq!(wrap("Language prompting", 9), ["Language", "prompting"]);
        assert_eq!(wrap("Zero-shot CLIP", 9), ["Zero-shot", "CLIP"]);
        assert_eq!(wrap("BiomedCoOp", 9), ["BiomedCoOp"]);
        assert_eq!(wrap("incomprehensible", 9), ["incompreh", "ensible"]);
        assert_eq!(wrap("unbreakable-heading", 9), ["unbreakable-", "heading"]);
        assert_eq!(wrap("H", 9), ["H"]);
    }

    #[test]
    fn every_column_is_in_exactly_one_block() {
        assert_eq!(blocks(&[6, 6, 6, 6], 14, 1), [0..2, 2..4]);
        assert_eq!(blocks(&[30, 6], 14, 1), [0..1, 1..2]);
        assert_eq!(blocks(&[6, 6], 100, 2).first(), Some(&(0..2)));
    }
}
