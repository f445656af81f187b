//! What a search costs beside training: average against operations, for methods that score candidates and for those that step.

use super::cost::Measure;
use super::{Chart, Draw, Drawn, Painter};

/// Stands beside the report's table of costs, where anything was searched.
pub(super) const CHART: Chart = Chart {
    slug: "budget",
    draw: Draw::Summary(|painter| painter.budget().into_iter().collect()),
};

impl Painter<'_> {
    /// H (where the protocol shows it) or accuracy, averaged over datasets, against the operations of both towers that
    /// learning a trial takes: what a scored candidate and an optimizer step have in common. Methods of one algorithm are
    /// joined. `None` where nothing was searched, or no average is whole.
    fn budget(&self) -> Option<Drawn> {
        if self.section.spending.values().all(|s| s.scored == 0.0) {
            return None;
        }
        Some(Drawn {
            slug: format!("{}-budget", self.section.slug()),
            title: format!("{}: average against budget", self.section.title()),
            drawing: self.spent(&Measure {
                of: |spending| spending.operations,
                name: "Operations of learning a trial (candidates scored, or steps)",
                written: operations,
                is_joined: true,
            })?,
        })
    }
}

/// Operations in the unit that reads best.
fn operations(count: f64) -> String {
    let units = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1.0, "")];
    let fits = |unit: &&(f64, &str)| count >= unit.0 * (1.0 - 1e-9);
    let (unit, name) = units.iter().find(fits).unwrap_or(&units[4]);
    format!(
        "{}\u{a0}{name}FLOP",
        (count / unit * 1000.0).round() / 1000.0
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Size, charts};
    use super::*;
    use crate::protocols::few_shot;
    use crate::show::plot::canvas::Shape;
    use crate::show::summary::{Summary, sample};

    #[test]
    fn operations_are_written_in_round_units() {
        let told = [1e9, 1.5e12, 2e6, 3e17, 10.0].map(operations);
        let want = ["1 GFLOP", "1.5 TFLOP", "2 MFLOP", "300 PFLOP", "10 FLOP"];
        assert_eq!(told.map(|t| t.replace('\u{a0}', " ")), want);
    }

    #[test]
    fn budgets_of_one_algorithm_are_joined_where_something_was_searched() {
        let methods = ["zero-shot", "coop", "coop-m2", "coop-m3"];
        let mut loaded = sample::sweep(&few_shot::PROTOCOL, &methods, &["dtd"], &[16]);
        let of = |loaded: &_| {
            let summary = Summary::new(loaded);
            let drawn = charts(&summary, &|_, _, _| Ok(None), Size::Screen);
            drawn
                .into_iter()
                .find(|chart| chart.slug.ends_with("-budget"))
        };
        assert!(
            of(&loaded).is_none(),
            "steps alone are in the chart of costs"
        );
        for record in &mut loaded.records {
            let many = 1 + record.method.len() as u64;
            record.cost.operations *= many as f64;
            record.cost.scored = if record.method == "coop-m3" { 100 } else { 0 };
        }
        let chart = of(&loaded).unwrap();
        // In CoOp's colour: the frame is a line of three corners, too.
        let joined = |shape: &&Shape| match shape {
            Shape::Line { points, ink, .. } => points.len() == 3 && ink.0 == (0x00, 0x72, 0xB2),
            _ => false,
        };
        let lines: Vec<&Shape> = chart.drawing.shapes.iter().filter(joined).collect();
        assert_eq!(lines.len(), 1);
        if let Shape::Line { points, .. } = lines[0] {
            assert!(points.is_sorted_by(|a, b| a.0 <= b.0), "{points:?}");
        }
    }
}
