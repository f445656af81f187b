//! Accuracy by dataset at one number of shots: a row a dataset, a line of its own for each method.

use super::Painter;
use super::canvas::{Align, BLACK_INK, Drawing, Ink, text_width};
use super::grid::{Frame, Scale, shorten};
use super::marks::{Key, Legend, error_bar, point};
use crate::show::looks::{Dash, Look, look};
use crate::show::summary::{Figure, Method, Metric, Place};

impl Painter<'_> {
    /// Panels side by side that share their rows.
    pub(super) fn dots(
        &self,
        panels: &[(String, Metric)],
        places: &[Place<'_>],
        shots: usize,
    ) -> Drawing {
        let (section, style) = (self.section, self.style);
        let looks: Vec<(&Method, Look)> = section.drawn().map(|m| (m, look(m))).collect();
        let keys = looks
            .iter()
            .map(|(_, look)| Key {
                look: look.clone(),
                has_line: false,
            })
            .collect();
        let legend = Legend::new(keys, &style);
        let names: Vec<String> = places
            .iter()
            .map(|p| shorten(&self.place_name(*p), style.text, 16.0 * style.text))
            .collect();
        let labels = names
            .iter()
            .map(|n| text_width(n, style.text, true))
            .fold(0.0, f64::max);
        let (left, gap, head) = (
            labels + 1.8 * style.text,
            1.6 * style.text,
            2.2 * style.text,
        );
        let column = (style.width - left - style.text + gap) / panels.len() as f64;
        let row =
            (looks.len() as f64 * 1.3 * style.marker + 0.9 * style.text).max(2.0 * style.text);
        let bottom = head + row * places.len() as f64;
        let below = bottom + 3.9 * style.text;
        let mut drawing = Drawing::new(style.width, below + legend.height() + 0.8 * style.text);

        // Every other row is shaded across all panels.
        for i in (0..places.len()).step_by(2) {
            let top = head + row * i as f64;
            let ends = (style.width - style.text, top + row);
            drawing.rectangle((0.4 * style.text, top), ends, Ink((0xF4, 0xF4, 0xF4), 1.0));
        }
        for (i, (name, place)) in names.iter().zip(places).enumerate() {
            let at = (
                left - 0.8 * style.text,
                head + row * (i as f64 + 0.5) + 0.36 * style.text,
            );
            if !matches!(place, Place::Dataset(_)) {
                drawing.bold(name, at, style.text, BLACK_INK, Align::End);
            } else {
                drawing.text(name, at, style.text, BLACK_INK, Align::End);
            }
        }
        for (p, (title, metric)) in panels.iter().enumerate() {
            let x = left + column * p as f64;
            let frame = Frame {
                left: x,
                top: head,
                right: x + column - gap,
                bottom,
            };
            let figure =
                |method: &Method, place| section.entry(method, place, *metric, shots).figure();
            let reach = |f: Figure| {
                [
                    f.mean - f.deviation.unwrap_or(0.0),
                    f.mean + f.deviation.unwrap_or(0.0),
                ]
            };
            let all = looks
                .iter()
                .flat_map(|(m, _)| places.iter().filter_map(move |place| figure(m, *place)));
            let ticks = ((frame.right - frame.left) / (3.4 * style.text)).min(8.0);
            let scale = Scale::over(all.flat_map(reach), (0.0, 100.0), ticks);
            frame.rule_x(&mut drawing, &style, &scale);
            frame.finish(&mut drawing, &style, title);
            let accuracy = if *metric == Metric::Harmonic {
                "H (%)"
            } else {
                "Accuracy (%)"
            };
            let at = (
                f64::midpoint(frame.left, frame.right),
                bottom + 2.9 * style.text,
            );
            drawing.text(accuracy, at, style.text, BLACK_INK, Align::Middle);
            for (i, place) in places.iter().enumerate() {
                let middle = head + row * (i as f64 + 0.5);
                for (m, (method, look)) in looks.iter().enumerate() {
                    let Some(f) = figure(method, *place) else {
                        continue;
                    };
                    let y =
                        middle + 1.3 * style.marker * (m as f64 - (looks.len() as f64 - 1.0) / 2.0);
                    let x = frame.x(&scale, f.mean);
                    if f.deviation.is_some_and(|d| d > 0.0) {
                        let [low, high] = reach(f);
                        let end =
                            |value| (frame.x(&scale, value).clamp(frame.left, frame.right), y);
                        error_bar(&mut drawing, look, end(low), end(high), style.line);
                    }
                    point(&mut drawing, look, (x, y), 0.9 * style.marker, 1.0);
                }
            }
            let averages = places.iter().filter(|p| !matches!(p, Place::Dataset(_)));
            let averages = averages.count();
            if averages > 0 {
                let y = head + row * averages as f64;
                let line = [(frame.left, y), (frame.right, y)];
                drawing.line(&line, BLACK_INK, 0.4 * style.line, Dash::Solid);
            }
        }
        legend.draw(&mut drawing, &style, below);
        drawing
    }
}
