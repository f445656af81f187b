//! What the methods of a section used, as files.

use crate::show::looks::look;
use crate::show::summary::Section;
use crate::show::summary::tasks;
use crate::show::summary::uses::HEADS;

/// Rows of text under [`HEADS`]; none where no method is known.
fn rows(section: &Section) -> Vec<[String; 7]> {
    let methods = section.methods.iter();
    methods
        .filter_map(|m| Some(section.uses.get(&m.label)?.row(look(m).name)))
        .collect()
}

/// The section's table as Markdown, CSV and LaTeX, by extension.
pub(super) fn render(section: &Section) -> Vec<(&'static str, String)> {
    let rows = rows(section).into_iter().map(Vec::from);
    words(&HEADS.map(str::to_owned), &rows.collect::<Vec<_>>())
}

/// What learning several datasets at once took, likewise.
pub(super) fn tasks(section: &Section) -> Vec<(&'static str, String)> {
    let rows = section.task_costs().into_iter();
    let rows: Vec<Vec<String>> = rows.map(|cost| cost.row().into()).collect();
    words(&tasks::HEADS.map(str::to_owned), &rows)
}

/// A table of words in every form; nothing where it has no rows.
fn words(heads: &[String], rows: &[Vec<String>]) -> Vec<(&'static str, String)> {
    if rows.is_empty() {
        return Vec::new();
    }
    let all = || std::iter::once(heads).chain(rows.iter().map(Vec::as_slice));
    let mut markdown = String::new();
    for (place, row) in all().enumerate() {
        markdown += &format!("| {} |\n", row.join(" | "));
        if place == 0 {
            markdown += &format!("|{}\n", " --- |".repeat(heads.len()));
        }
    }
    let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
    let csv = all().map(|row| row.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n");
    let mut latex = format!(
        "\\begin{{tabular}}{{{}}}\n\\toprule\n",
        "l".repeat(heads.len())
    );
    for (place, row) in all().enumerate() {
        let cells = row.iter().map(|c| c.replace('\u{2020}', "$\\dagger$"));
        latex += &format!("{} \\\\\n", cells.collect::<Vec<_>>().join(" & "));
        if place == 0 {
            latex += "\\midrule\n";
        }
    }
    latex += "\\bottomrule\n\\end{tabular}\n";
    vec![("md", markdown), ("csv", csv.collect()), ("tex", latex)]
}
