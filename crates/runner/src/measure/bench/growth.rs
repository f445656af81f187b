//! How a training step grows with classes and an evaluation with pictures: a table and a chart of measured lines.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::show::looks::Dash;
use crate::show::plot::Drawing;
use crate::show::plot::canvas::{Align, BLACK_INK, GREY_INK, GRID_INK, Ink};
use crate::store::replace;

/// What is read of a line that `promptbed bench --json` wrote.
#[derive(Clone, Debug, Deserialize)]
struct Line {
    method: String,
    backbone: String,
    views: String,
    classes: usize,
    images: usize,
    memory: usize,
    seconds_per_step: f64,
    peak_rss_mb: u64,
    processor: String,
    threads: usize,
}

impl Line {
    /// What it grows with.
    fn size(&self) -> usize {
        if self.is_evaluation() {
            self.images
        } else {
            self.classes
        }
    }

    fn is_evaluation(&self) -> bool {
        self.method.ends_with("-eval")
    }

    /// What it belongs with.
    fn title(&self) -> String {
        let bound = match self.memory {
            0 => String::new(),
            bytes => format!(", memory = {} MB", bytes / 1_000_000),
        };
        if self.is_evaluation() {
            let method = self.method.trim_end_matches("-eval");
            return format!("{}, evaluation of {method}{bound}", self.backbone);
        }
        format!(
            "{}, {} step, {} views{bound}",
            self.backbone, self.method, self.views
        )
    }
}

/// Lines that belong together, in order of size.
struct Series {
    title: String,
    lines: Vec<Line>,
}

/// Reads `lines`, draws them beside it, and returns the table in Markdown.
///
/// # Errors
/// A file that cannot be read or holds something else; what cannot be written.
pub fn draw(lines: &Path) -> Result<String> {
    let text = std::fs::read_to_string(lines)
        .with_context(|| format!("{}: cannot be read (--growth)", lines.display()))?;
    let mut all: Vec<Series> = Vec::new();
    for (number, line) in text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty())
    {
        let line: Line = serde_json::from_str(line).with_context(|| {
            let file = lines.display();
            format!(
                "{file}:{}: is no line of `promptbed bench --json`",
                number + 1
            )
        })?;
        let title = line.title();
        match all.iter_mut().find(|s| s.title == title) {
            Some(series) => series.lines.push(line),
            None => all.push(Series {
                title,
                lines: vec![line],
            }),
        }
    }
    if all.is_empty() {
        bail!("{}: holds no line (--growth)", lines.display());
    }
    for series in &mut all {
        series.lines.sort_by_key(Line::size);
    }
    let drawing = chart(&all);
    let wrong = |what: String| anyhow::anyhow!("{}: cannot be drawn: {what}", lines.display());
    let svg = drawing.svg("Time and memory against size").map_err(wrong)?;
    replace(&lines.with_extension("svg"), svg.as_bytes())?;
    replace(
        &lines.with_extension("png"),
        &drawing.png(2).map_err(wrong)?,
    )?;
    Ok(table(&all))
}

fn table(all: &[Series]) -> String {
    let mut out = String::new();
    if let Some(line) = all.iter().find_map(|s| s.lines.first()) {
        let _ = writeln!(out, "{}, {} threads.\n", line.processor, line.threads);
    }
    out.push_str("| what | classes | pictures | s | ms a class or picture | peak MB |\n");
    out.push_str("|---|--:|--:|--:|--:|--:|\n");
    for series in all {
        for l in &series.lines {
            let each = 1000.0 * l.seconds_per_step / l.size() as f64;
            let _ = writeln!(
                out,
                "| {} | {} | {} | {:.3} | {each:.3} | {} |",
                series.title, l.classes, l.images, l.seconds_per_step, l.peak_rss_mb
            );
        }
    }
    out
}

const COLOURS: [(u8, u8, u8); 4] = [
    (0x00, 0x72, 0xB2),
    (0xD5, 0x5E, 0x00),
    (0x00, 0x9E, 0x73),
    (0x88, 0x55, 0x99),
];
/// Sides of a panel, and the room around it.
const PANEL: (f64, f64) = (300.0, 190.0);
const LEFT: f64 = 62.0;
const ABOVE: f64 = 34.0;
const BELOW: f64 = 46.0;
const TEXT: f64 = 11.0;

/// Steps against classes above, evaluations against pictures below; seconds left, memory right.
fn chart(all: &[Series]) -> Drawing {
    let kinds = [false, true].map(|is_evaluation| -> Vec<&Series> {
        let belongs = |s: &&Series| s.lines.iter().all(|l| l.is_evaluation() == is_evaluation);
        all.iter().filter(belongs).collect()
    });
    let rows: Vec<&Vec<&Series>> = kinds.iter().filter(|k| !k.is_empty()).collect();
    let (width, height) = (LEFT + PANEL.0 + 16.0, ABOVE + PANEL.1 + BELOW);
    let legends: usize = rows.iter().map(|k| k.len()).sum();
    let bottom = height * rows.len() as f64;
    let mut drawing = Drawing::new(2.0 * width, bottom + 18.0 * legends as f64 + 8.0);
    let mut number = 0;
    for (row, series) in rows.iter().enumerate() {
        let across = if series[0].lines[0].is_evaluation() {
            "Pictures"
        } else {
            "Classes"
        };
        let first = number;
        for (column, title) in ["Seconds", "Peak memory (MB)"].into_iter().enumerate() {
            let value = |l: &Line| {
                if column == 0 {
                    l.seconds_per_step
                } else {
                    l.peak_rss_mb as f64
                }
            };
            let corner = (column as f64 * width + LEFT, row as f64 * height + ABOVE);
            panel(
                &mut drawing,
                corner,
                [across, title],
                column == 0,
                series,
                first,
                value,
            );
        }
        for s in series.iter() {
            let y = bottom + 18.0 * number as f64 + 8.0;
            let ink = Ink(COLOURS[number % COLOURS.len()], 1.0);
            drawing.line(
                &[(LEFT, y - 4.0), (LEFT + 24.0, y - 4.0)],
                ink,
                2.0,
                Dash::Solid,
            );
            drawing.text(&s.title, (LEFT + 32.0, y), TEXT, BLACK_INK, Align::Start);
            number += 1;
        }
    }
    drawing
}

/// One panel: sizes on a logarithmic axis; values on one, too, or else from zero.
fn panel(
    drawing: &mut Drawing,
    (left, top): (f64, f64),
    [across, title]: [&str; 2],
    is_logarithmic: bool,
    series: &[&Series],
    first: usize,
    value: impl Fn(&Line) -> f64,
) {
    let lines = || series.iter().flat_map(|s| &s.lines);
    let sizes = decades(lines().map(|l| l.size() as f64));
    let (low, high, ticks) = if is_logarithmic {
        let values = decades(lines().map(&value));
        let whole = values.0 as i32..=values.1 as i32;
        (
            values.0,
            values.1,
            whole
                .map(|p| (f64::from(p), number(10f64.powi(p))))
                .collect(),
        )
    } else {
        let most = lines().map(&value).fold(0.0, f64::max);
        let step = [250.0, 500.0, 1000.0, 2000.0, 5000.0, 1e9]
            .into_iter()
            .find(|s| most / s <= 6.0)
            .unwrap_or(1e9);
        let count = (most * 1.05 / step).ceil() as usize;
        let ticks: Vec<(f64, String)> = (0..=count)
            .map(|i| (step * i as f64, number(step * i as f64)))
            .collect();
        (0.0, step * count as f64, ticks)
    };
    let x = |size: usize| {
        let share = ((size as f64).log10() - sizes.0) / (sizes.1 - sizes.0);
        left + PANEL.0 * share
    };
    let y = |v: f64| {
        let v = if is_logarithmic { v.log10() } else { v };
        top + PANEL.1 * (1.0 - (v - low) / (high - low))
    };
    let (right, bottom) = (left + PANEL.0, top + PANEL.1);
    for (tick, label) in &ticks {
        let at = top + PANEL.1 * (1.0 - (tick - low) / (high - low));
        drawing.line(&[(left, at), (right, at)], GRID_INK, 1.0, Dash::Solid);
        drawing.text(label, (left - 6.0, at + 4.0), TEXT, GREY_INK, Align::End);
    }
    let mut marked: Vec<usize> = lines().map(Line::size).collect();
    marked.sort_unstable();
    marked.dedup();
    for size in marked {
        drawing.line(
            &[(x(size), top), (x(size), bottom)],
            GRID_INK,
            1.0,
            Dash::Solid,
        );
        let label = number(size as f64);
        drawing.text(
            &label,
            (x(size), bottom + 16.0),
            TEXT,
            GREY_INK,
            Align::Middle,
        );
    }
    for (i, s) in series.iter().enumerate() {
        let ink = Ink(COLOURS[(first + i) % COLOURS.len()], 1.0);
        let points: Vec<(f64, f64)> = s.lines.iter().map(|l| (x(l.size()), y(value(l)))).collect();
        drawing.line(&points, ink, 2.0, Dash::Solid);
        for (x, y) in points {
            drawing.rectangle((x - 3.0, y - 3.0), (x + 3.0, y + 3.0), ink);
        }
    }
    drawing.bold(
        title,
        (left, top - 12.0),
        TEXT + 1.0,
        BLACK_INK,
        Align::Start,
    );
    let middle = f64::midpoint(left, right);
    drawing.text(
        across,
        (middle, bottom + 34.0),
        TEXT,
        BLACK_INK,
        Align::Middle,
    );
}

/// Whole powers of ten around values, never the same one twice.
fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, 0f64), |(l, h), v| (l.min(v), h.max(v)));
    let low = low.max(1e-6).log10().floor();
    (low, high.max(1e-6).log10().ceil().max(low + 1.0))
}

/// A round number without needless digits, thousands as `k`.
fn number(value: f64) -> String {
    if value >= 10_000.0 && value % 1000.0 == 0.0 {
        format!("{}k", value / 1000.0)
    } else {
        format!("{value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"method":"coop","backbone":"vit-b16","views":"cached","classes":100,"images":32,"memory":0,"seconds_per_step":0.9,"peak_rss_mb":900,"processor":"P","threads":2,"share":0.7}
{"method":"coop","backbone":"vit-b16","views":"cached","classes":10,"images":32,"memory":0,"seconds_per_step":0.1,"peak_rss_mb":800,"processor":"P","threads":2}

{"method":"coop-eval","backbone":"drawn","views":"fresh","classes":50,"images":10000,"memory":0,"seconds_per_step":4.5,"peak_rss_mb":90,"processor":"P","threads":2}
"#;

    #[test]
    fn lines_become_a_table_in_order_of_size_and_two_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("growth.jsonl");
        std::fs::write(&path, LINES).unwrap();
        let table = draw(&path).unwrap();
        let rows: Vec<&str> = table.lines().filter(|l| l.starts_with("| ")).collect();
        assert_eq!(
            rows[1..],
            [
                "| vit-b16, coop step, cached views | 10 | 32 | 0.100 | 10.000 | 800 |",
                "| vit-b16, coop step, cached views | 100 | 32 | 0.900 | 9.000 | 900 |",
                "| drawn, evaluation of coop | 50 | 10000 | 4.500 | 0.450 | 90 |",
            ]
        );
        let svg = std::fs::read_to_string(folder.path().join("growth.svg")).unwrap();
        for text in ["Classes", "Pictures", "Seconds", "10k"] {
            assert!(svg.contains(text), "{text}");
        }
        let png = std::fs::read(folder.path().join("growth.png")).unwrap();
        assert_eq!(png[1..4], *b"PNG");
    }

    #[test]
    fn a_line_of_something_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("growth.jsonl");
        std::fs::write(&path, "\n{\"method\": 3}\n").unwrap();
        let told = draw(&path).unwrap_err().to_string();
        assert!(
            told.ends_with("growth.jsonl:2: is no line of `promptbed bench --json`"),
            "{told}"
        );
        std::fs::write(&path, "").unwrap();
        assert!(
            draw(&path)
                .unwrap_err()
                .to_string()
                .contains("holds no line")
        );
    }
}
