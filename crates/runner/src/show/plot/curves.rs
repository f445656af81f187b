//! Accuracy against shots, a panel a place, as in figure 3 of the CoOp paper (<https://arxiv.org/abs/2109.01134>):
//! a line a method, zero-shot as a star at 0.

use super::canvas::{Align, BLACK_INK, Drawing, Ink};
use super::grid::{Frame, SMALL, Scale};
use super::marks::{Key, Legend, error_bar, point};
use super::{Painter, Style};
use crate::show::looks::{Dash, Look, look};
use crate::show::summary::{Figure, Method, Metric, Place};

/// Up to this many lines every panel has error bars; beyond, they would hide each other.
const BARS: usize = 5;

impl Painter<'_> {
    /// A grid of panels, `columns` wide. Numbers of shots stand at even distances: they double.
    pub(super) fn curves(&self, panels: &[(String, Place<'_>, Metric)], columns: usize) -> Drawing {
        let style = self.style;
        let keys = self.keys();
        let legend = Legend::new(keys, &style);
        let rows = panels.len().div_ceil(columns);
        let (left, gap, head) = (4.6 * style.text, 3.4 * style.text, 2.2 * style.text);
        let column = (style.width - left - style.text + gap) / columns as f64;
        let width = column - gap;
        let height = (0.74 * width).min(0.9 * width).max(10.0 * style.text);
        let row = head + height + 2.2 * style.text;
        let below = 2.2 * style.text;
        let mut drawing = Drawing::new(
            style.width,
            rows as f64 * row + below + legend.height() + 0.8 * style.text,
        );

        for (i, (title, place, metric)) in panels.iter().enumerate() {
            let x = left + column * (i % columns) as f64;
            let y = head + row * (i / columns) as f64;
            let frame = Frame {
                left: x,
                top: y,
                right: x + width,
                bottom: y + height,
            };
            self.panel(&mut drawing, frame, title, *place, *metric);
        }
        let middle = f64::midpoint(left, style.width - style.text);
        let foot = rows as f64 * row;
        let shots = "Labelled training images per class (shots)";
        drawing.text(
            shots,
            (middle, foot + 0.9 * style.text),
            style.text,
            BLACK_INK,
            Align::Middle,
        );
        let metric = if panels.iter().any(|p| p.2 != Metric::Harmonic) {
            "Accuracy (%)"
        } else {
            "H (%)"
        };
        let centre = f64::midpoint(head, foot - 2.2 * style.text);
        drawing.upright(
            metric,
            (1.3 * style.text, centre),
            style.text,
            BLACK_INK,
            Align::Middle,
        );
        legend.draw(&mut drawing, &style, foot + below);
        drawing
    }

    /// The legend: every method of the section; untrained ones have a reference line.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.section
            .methods
            .iter()
            .map(|method| Key {
                look: look(method),
                has_line: true,
            })
            .collect()
    }

    fn panel(
        &self,
        drawing: &mut Drawing,
        frame: Frame,
        title: &str,
        place: Place<'_>,
        metric: Metric,
    ) {
        let (section, style) = (self.section, self.style);
        let has_zero = section.methods.iter().any(|m| !m.is_trained);
        let mut slots: Vec<usize> = has_zero.then_some(0).into_iter().collect();
        slots.extend(&section.shots);
        let figure = |method: &Method, shots| section.entry(method, place, metric, shots).figure();
        let reach = |f: Figure| {
            [
                f.mean - f.deviation.unwrap_or(0.0),
                f.mean + f.deviation.unwrap_or(0.0),
            ]
        };
        let all: Vec<Figure> = section
            .methods
            .iter()
            .flat_map(|m| section.shots.iter().filter_map(move |&k| figure(m, k)))
            .collect();
        let has_bars =
            section.methods.len() <= BARS || frame.right - frame.left > 20.0 * style.text;
        let values = all.iter().flat_map(|f| {
            if has_bars {
                reach(*f).to_vec()
            } else {
                vec![f.mean]
            }
        });
        let scale = Scale::over(
            values,
            (0.0, 100.0),
            ((frame.bottom - frame.top) / (2.2 * style.text)).min(6.0),
        );

        frame.rule_y(drawing, &style, &scale);
        // Half a slot of margin on either side.
        let slot = (frame.right - frame.left) / slots.len() as f64;
        let x = |i: usize| frame.left + slot * (i as f64 + 0.5);
        for (i, shots) in slots.iter().enumerate() {
            frame.tick_x(drawing, &style, x(i), &shots.to_string());
        }
        frame.finish(drawing, &style, title);
        if all.is_empty() {
            let at = (
                f64::midpoint(frame.left, frame.right),
                f64::midpoint(frame.top, frame.bottom),
            );
            drawing.text(
                "no complete result",
                at,
                SMALL * style.text,
                BLACK_INK,
                Align::Middle,
            );
            return;
        }

        let looks: Vec<(&Method, Look)> = section.drawn().map(|m| (m, look(m))).collect();
        // References first, lines over them, points on top.
        for (method, look) in looks.iter().filter(|(m, _)| !m.is_trained) {
            if let Some(f) = figure(method, 0) {
                let y = frame.y(&scale, f.mean);
                let ends = [(x(0), y), (frame.right, y)];
                drawing.line(&ends, Ink(look.colour, 0.6), 0.7 * style.line, Dash::Dotted);
            }
        }
        let mut points = Vec::new();
        for (place, (method, look)) in looks.iter().enumerate() {
            if !method.is_trained {
                points.extend(figure(method, 0).map(|f| (look, (x(0), frame.y(&scale, f.mean)))));
                continue;
            }
            // Methods stand a little apart, so that their bars do not cover each other.
            let spread = (0.4 * style.marker).min(0.3 * slot / looks.len() as f64);
            let aside = spread * (place as f64 - (looks.len() as f64 - 1.0) / 2.0);
            let mut run: Vec<(f64, f64)> = Vec::new();
            for (i, &shots) in slots.iter().enumerate().filter(|(_, shots)| **shots > 0) {
                let Some(f) = figure(method, shots) else {
                    // A gap breaks the line: nothing is drawn across it.
                    draw_run(drawing, look, &mut run, &style);
                    continue;
                };
                let at = (x(i) + aside, frame.y(&scale, f.mean));
                if has_bars && f.deviation.is_some_and(|d| d > 0.0) {
                    let [low, high] = reach(f);
                    let end = |value| (at.0, frame.y(&scale, value).clamp(frame.top, frame.bottom));
                    error_bar(drawing, look, end(low), end(high), 0.8 * style.line);
                }
                run.push(at);
                points.push((look, at));
            }
            draw_run(drawing, look, &mut run, &style);
        }
        let radius = if has_bars && looks.len() <= BARS {
            style.marker
        } else {
            0.82 * style.marker
        };
        for (look, at) in points {
            point(drawing, look, at, radius, 1.0);
        }
    }
}

fn draw_run(drawing: &mut Drawing, look: &Look, run: &mut Vec<(f64, f64)>, style: &Style) {
    if run.len() > 1 {
        drawing.line(run, Ink(look.colour, 0.9), style.line, look.dash);
    }
    run.clear();
}
