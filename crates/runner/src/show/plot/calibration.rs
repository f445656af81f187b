//! Reliability diagrams: accuracy against confidence, a line a method.

use super::canvas::{Align, BLACK_INK, Drawing, GREY_INK, Ink};
use super::grid::{Frame, Scale};
use super::marks::{Key, Legend, point};
use super::{Chart, Draw, Drawn, Painter};
use crate::show::analysis::Analysis;
use crate::show::looks::{Dash, look};

/// Bins with a smaller share of the predictions are left out: their accuracy is noise.
const FEWEST: f64 = 0.002;

/// Stands beside the report's table of calibration errors.
pub(super) const CHART: Chart = Chart {
    slug: "reliability",
    draw: Draw::Analysis(|painter, analysis| painter.reliability(analysis).into_iter().collect()),
};

impl Painter<'_> {
    /// Accuracy against confidence over all datasets at the largest number of shots, a panel a class set; `None` where
    /// no predictions were kept.
    fn reliability(&self, analysis: &Analysis) -> Option<Drawn> {
        (!analysis.reliability.is_empty()).then(|| Drawn {
            slug: format!("{}-reliability", self.section.slug()),
            title: format!("{}: accuracy against confidence", self.section.title()),
            drawing: self.diagrams(analysis),
        })
    }

    fn diagrams(&self, analysis: &Analysis) -> Drawing {
        let (section, style) = (self.section, self.style);
        let keys = section
            .methods
            .iter()
            .map(|m| Key {
                look: look(m),
                has_line: true,
            })
            .collect();
        let legend = Legend::new(keys, &style);
        let panels = section.class_sets.len();
        let (left, gap, head) = (4.8 * style.text, 4.6 * style.text, 2.2 * style.text);
        let side =
            ((style.width - left - style.text + gap) / panels as f64 - gap).min(0.36 * style.width);
        let offset = (style.width - left - style.text - (side + gap) * panels as f64 + gap) / 2.0;
        let below = head + side + 4.2 * style.text;
        let mut drawing = Drawing::new(style.width, below + legend.height() + 0.8 * style.text);
        let scale = Scale {
            low: 0.0,
            high: 100.0,
            step: 20.0,
        };
        for (i, class_set) in section.class_sets.iter().enumerate() {
            let x = offset + left + (side + gap) * i as f64;
            let frame = Frame {
                left: x,
                top: head,
                right: x + side,
                bottom: head + side,
            };
            frame.rule_x(&mut drawing, &style, &scale);
            frame.rule_y(&mut drawing, &style, &scale);
            frame.finish(&mut drawing, &style, &class_set.title());
            let diagonal = [(frame.left, frame.bottom), (frame.right, frame.top)];
            drawing.line(&diagonal, GREY_INK, 0.7 * style.line, Dash::Dashed);
            for method in section.drawn() {
                let of = analysis
                    .reliability
                    .iter()
                    .find(|r| r.method == method.label && r.class_set == *class_set);
                let Some(reliability) = of else { continue };
                let total: usize = reliability.bins.iter().map(|b| b.count).sum();
                let points: Vec<(f64, f64)> = reliability
                    .bins
                    .iter()
                    .filter(|b| b.count as f64 > FEWEST * total as f64)
                    .map(|b| {
                        (
                            frame.x(&scale, 100.0 * b.confidence),
                            frame.y(&scale, 100.0 * b.accuracy),
                        )
                    })
                    .collect();
                let look = look(method);
                if points.len() > 1 {
                    drawing.line(&points, Ink(look.colour, 0.9), style.line, look.dash);
                }
                for at in points {
                    point(&mut drawing, &look, at, 0.7 * style.marker, 1.0);
                }
            }
            let at = (
                f64::midpoint(frame.left, frame.right),
                frame.bottom + 2.9 * style.text,
            );
            drawing.text("Confidence (%)", at, style.text, BLACK_INK, Align::Middle);
            if i == 0 {
                let at = (
                    frame.left - 3.4 * style.text,
                    f64::midpoint(frame.top, frame.bottom),
                );
                drawing.upright("Accuracy (%)", at, style.text, BLACK_INK, Align::Middle);
            }
        }
        legend.draw(&mut drawing, &style, below);
        drawing
    }
}
