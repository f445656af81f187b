//! What the methods of a section used, as files.

use crate::show::looks::look;
use crate::show::summary::Section;
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
    let rows = rows(section);
    if rows.is_empty() {
        return Vec::new();
    }
    let heads = HEADS.map(str::to_owned);
    let all = || std::iter::once(&heads).chain(&rows);
    let mut markdown = String::new();
    for (place, row) in all().enumerate() {
        markdown += &format!("| {} |\n", row.join(" | "));
        if place == 0 {
            markdown += &format!("|{}\n", " --- |".repeat(HEADS.len()));
        }
    }
    let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
    let csv = all().map(|row| row.each_ref().map(quoted).join(",") + "\n");
    let mut latex = format!(
        "\\begin{{tabular}}{{{}}}\n\\toprule\n",
        "l".repeat(HEADS.len())
    );
    for (place, row) in all().enumerate() {
        let cells = row.each_ref().map(|c| c.replace('\u{2020}', "$\\dagger$"));
        latex += &format!("{} \\\\\n", cells.join(" & "));
        if place == 0 {
            latex += "\\midrule\n";
        }
    }
    latex += "\\bottomrule\n\\end{tabular}\n";
    vec![("md", markdown), ("csv", csv.collect()), ("tex", latex)]
}
