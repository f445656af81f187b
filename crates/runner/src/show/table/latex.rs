//! Tables as LaTeX, as the papers print them: booktabs, best bold, second underlined.

use super::{Rank, Table};
use crate::show::summary::Entry;

/// Beyond this many columns the table spans both columns of a paper, in smaller type.
const NARROW: usize = 6;

pub(super) fn render(table: &Table) -> String {
    let is_wide = table.columns.len() > NARROW;
    let environment = if is_wide { "table*" } else { "table" };
    let span = table.columns.len() + 1;
    let mut text = format!(
        "% {}\n% Needs \\usepackage{{booktabs}}.\n",
        table.title.replace('\n', " ")
    );
    text += &format!("\\begin{{{environment}}}[t]\n  \\centering\n");
    text += if is_wide {
        "  \\scriptsize\n  \\setlength{\\tabcolsep}{3pt}\n"
    } else {
        "  \\small\n"
    };
    text += &format!(
        "  \\caption{{{}. {}",
        escape(&table.title),
        escape(&table.caption)
    );
    if !table.notes.is_empty() {
        text += &escape(&format!(
            " A dash marks {}: {}.",
            super::markdown::gaps(table.notes.len()),
            table.notes.join("; ")
        ));
    }
    text += &format!("}}\n  \\label{{tab:{}}}\n", table.slug);
    text += &format!(
        "  \\begin{{tabular}}{{l{}}}\n    \\toprule\n",
        "c".repeat(table.columns.len())
    );
    let heads: Vec<String> = std::iter::once(&table.row_head)
        .chain(&table.columns)
        .map(|head| escape(head))
        .collect();
    text += &format!("    {} \\\\\n", heads.join(" & "));
    for (g, group) in table.groups.iter().enumerate() {
        text += "    \\midrule\n";
        if table.groups.len() > 1 {
            text += &format!(
                "    \\multicolumn{{{span}}}{{l}}{{\\textit{{{}}}}} \\\\\n",
                escape(&group.label)
            );
        }
        for (r, row) in group.rows.iter().enumerate() {
            let mut cells = vec![escape(&row.label)];
            let entry =
                |(c, entry): (usize, &Entry)| entry_text(entry, table.rank(g, r, c), is_wide);
            cells.extend(row.entries.iter().enumerate().map(entry));
            text += &format!("    {} \\\\\n", cells.join(" & "));
        }
    }
    text + &format!("    \\bottomrule\n  \\end{{tabular}}\n\\end{{{environment}}}\n")
}

fn entry_text(entry: &Entry, rank: Rank, is_wide: bool) -> String {
    let Entry::Whole(figure) = entry else {
        return if *entry == Entry::Gap {
            "--".to_owned()
        } else {
            String::new()
        };
    };
    let mean = format!("{:.2}", figure.mean);
    let mean = match rank {
        Rank::Best => format!("\\textbf{{{mean}}}"),
        Rank::Second => format!("\\underline{{{mean}}}"),
        Rank::Other => mean,
    };
    match figure.deviation {
        // Twelve columns fit a page only when the spread is set small and below.
        Some(deviation) if is_wide => format!("{mean}$_{{\\pm {deviation:.2}}}$"),
        Some(deviation) => format!("{mean} {{\\scriptsize$\\pm$ {deviation:.2}}}"),
        None => mean,
    }
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            '\\' => out += "\\textbackslash{}",
            '~' => out += "\\textasciitilde{}",
            '^' => out += "\\textasciicircum{}",
            '±' => out += "$\\pm$",
            '−' => out += "$-$",
            '<' => out += "$<$",
            '>' => out += "$>$",
            _ => out.push(c),
        }
    }
    out
}
