//! What accuracy costs: average against training time, or against another measure of what was spent.

use std::collections::BTreeMap;

use super::canvas::{Align, BLACK_INK, Drawing, Ink};
use super::grid::{Frame, Scale, shorten};
use super::marks::{Key, Legend, error_bar, point};
use super::{Chart, Draw, Drawn, Painter};
use crate::show::looks::{Dash, Look, look};
use crate::show::summary::{Figure, Method, Metric, Place, Spending};

/// Stands beside the report's table of costs.
pub(super) const CHART: Chart = Chart {
    slug: "cost",
    draw: Draw::Summary(|painter| painter.cost().into_iter().collect()),
};

impl Painter<'_> {
    /// H (where the protocol shows it) or accuracy, averaged over datasets, against training seconds of a trial, at the
    /// largest number of shots; `None` where nothing was trained or no average is whole.
    fn cost(&self) -> Option<Drawn> {
        Some(Drawn {
            slug: format!("{}-cost", self.section.slug()),
            title: format!("{}: average against training time", self.section.title()),
            drawing: self.spent(&Measure {
                of: |spending| spending.train_seconds,
                name: "Training time of a trial",
                written: duration,
                is_joined: false,
            })?,
        })
    }

    /// The headline against `measure`, on a scale of powers of ten; what spends nothing is a line across.
    pub(super) fn spent(&self, measure: &Measure) -> Option<Drawing> {
        let (section, style) = (self.section, self.style);
        let shots = *section.shots.last()?;
        let metric = section.headline()?;
        let place = self.places()[0];
        let value = |method: &Method| section.entry(method, place, metric, shots).figure();
        let mut points: Vec<(Look, f64, Figure)> = Vec::new();
        let mut references: Vec<(Look, Figure)> = Vec::new();
        // Points of one algorithm, which differ in what they may spend.
        let mut lines: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for method in section.drawn() {
            let Some(figure) = value(method) else {
                continue;
            };
            let spending = section.spending.get(&(method.label.clone(), shots));
            let spent = spending.map(measure.of);
            match spent.filter(|spent| method.is_trained && *spent > 0.0) {
                Some(spent) => {
                    points.push((look(method), spent.log10(), figure));
                    lines
                        .entry(&method.algorithm)
                        .or_default()
                        .push(points.len() - 1);
                }
                None => references.push((look(method), figure)),
            }
        }
        if points.is_empty() {
            return None;
        }

        let keys = section.drawn().filter(|m| value(m).is_some());
        let keys = keys
            .map(|m| Key {
                look: look(m),
                has_line: !m.is_trained,
            })
            .collect();
        let legend = Legend::new(keys, &style);
        let side = 0.6 * style.width;
        let left = (style.width - side) / 2.0 + style.text;
        let frame = Frame {
            left,
            top: 1.2 * style.text,
            right: left + side,
            bottom: 1.2 * style.text + 0.6 * side,
        };
        let below = frame.bottom + 4.2 * style.text;
        let mut drawing = Drawing::new(style.width, below + legend.height() + 0.8 * style.text);

        let reach = |f: &Figure| {
            [
                f.mean - f.deviation.unwrap_or(0.0),
                f.mean + f.deviation.unwrap_or(0.0),
            ]
        };
        let values = points
            .iter()
            .map(|p| &p.2)
            .chain(references.iter().map(|r| &r.1))
            .flat_map(reach);
        let up = Scale::over(values, (0.0, 100.0), 6.0);
        let seconds = || points.iter().map(|p| p.1);
        let low = seconds().fold(f64::INFINITY, f64::min) - 0.25;
        let high = seconds().fold(f64::NEG_INFINITY, f64::max) + 0.25;
        let across = Scale {
            low,
            high,
            step: 1.0,
        };
        frame.rule_y(&mut drawing, &style, &up);
        for (tick, label) in ticks(low, high, measure.written) {
            let x = frame.x(&across, tick);
            let grid = Ink((0xE3, 0xE3, 0xE3), 1.0);
            drawing.line(
                &[(x, frame.top), (x, frame.bottom)],
                grid,
                0.5 * style.line,
                Dash::Solid,
            );
            frame.tick_x(&mut drawing, &style, x, &label);
        }
        frame.finish(&mut drawing, &style, "");
        for (look, figure) in &references {
            let y = frame.y(&up, figure.mean);
            drawing.line(
                &[(frame.left, y), (frame.right, y)],
                Ink(look.colour, 0.8),
                style.line,
                Dash::Dotted,
            );
            point(
                &mut drawing,
                look,
                (frame.left + 1.2 * style.text, y),
                style.marker,
                1.0,
            );
        }
        for line in lines
            .values_mut()
            .filter(|line| measure.is_joined && line.len() > 1)
        {
            line.sort_by(|a, b| points[*a].1.total_cmp(&points[*b].1));
            let places = line.iter().map(|i| &points[*i]);
            let places = places.map(|p| (frame.x(&across, p.1), frame.y(&up, p.2.mean)));
            let places: Vec<(f64, f64)> = places.collect();
            let ink = Ink(points[line[0]].0.colour, 0.7);
            drawing.line(&places, ink, style.line, Dash::Solid);
        }
        for (look, seconds, figure) in &points {
            let at = (frame.x(&across, *seconds), frame.y(&up, figure.mean));
            if figure.deviation.is_some_and(|d| d > 0.0) {
                let [low, high] = reach(figure).map(|v| frame.y(&up, v));
                error_bar(&mut drawing, look, (at.0, low), (at.0, high), style.line);
            }
            point(&mut drawing, look, at, 1.25 * style.marker, 1.0);
        }
        let middle = f64::midpoint(frame.left, frame.right);
        let title = format!(
            "{}, {shots} {}",
            measure.name,
            if shots == 1 { "shot" } else { "shots" }
        );
        drawing.text(
            &title,
            (middle, frame.bottom + 2.9 * style.text),
            style.text,
            BLACK_INK,
            Align::Middle,
        );
        let what = if metric == Metric::Harmonic {
            "H (%)"
        } else {
            "Accuracy (%)"
        };
        let on = match place {
            Place::Average | Place::Unseen => self.place_name(place).to_lowercase(),
            Place::Dataset(_) => self.place_name(place),
        };
        let title = format!("{what}, {on}");
        let title = shorten(&title, style.text, frame.bottom - frame.top);
        let at = (
            frame.left - 3.6 * style.text,
            f64::midpoint(frame.top, frame.bottom),
        );
        drawing.upright(&title, at, style.text, BLACK_INK, Align::Middle);
        legend.draw(&mut drawing, &style, below);
        Some(drawing)
    }
}

/// What is spent, and how it is written.
pub(super) struct Measure {
    /// Of a method's trials; 0 where nothing is spent.
    pub(super) of: fn(&Spending) -> f64,
    /// Title of the axis.
    pub(super) name: &'static str,
    /// A tick's text.
    pub(super) written: fn(f64) -> String,
    /// Whether a line joins the methods of one algorithm.
    pub(super) is_joined: bool,
}

/// Ticks the axis has room for.
const TICKS: usize = 9;
/// Share of the axis that a label of a tick takes, with a gap, in the largest lettering.
const LABEL: f64 = 0.1;

/// Round numbers between two powers of ten: the finest steps that are not crowded.
fn ticks(low: f64, high: f64, written: fn(f64) -> String) -> Vec<(f64, String)> {
    let decades = (low.floor() as i32)..=(high.ceil() as i32);
    let at = |steps: &[f64]| -> Vec<(f64, String)> {
        let times = decades
            .clone()
            .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
        let inside = times.filter(|seconds| (low..=high).contains(&seconds.log10()));
        inside
            .map(|seconds| (seconds.log10(), written(seconds)))
            .collect()
    };
    let fine = [
        &[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0][..],
        &[1.0, 1.5, 2.0, 3.0, 4.0, 6.0],
        &[1.0, 1.5, 2.0, 3.0, 5.0],
        &[1.0, 2.0, 5.0],
        &[1.0, 3.0],
    ]
    .into_iter()
    .map(at)
    .find(|ticks| {
        let is_apart = |pair: &[(f64, String)]| pair[1].0 - pair[0].0 >= LABEL * (high - low);
        ticks.len() <= TICKS && ticks.windows(2).all(is_apart)
    });
    fine.unwrap_or_else(|| {
        let whole = at(&[1.0]);
        let every = whole.len().div_ceil(TICKS);
        whole.into_iter().step_by(every).collect()
    })
}

/// Seconds in the unit that reads best, without rounding a round number.
fn duration(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{} ms", (seconds * 1000.0 * 1000.0).round() / 1000.0)
    } else {
        format!("{seconds} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_few_and_inside() {
        for (low, high) in [(-0.3, 0.4), (-2.0, 3.7), (0.0, 2.2), (-3.0, 6.0)] {
            let found = ticks(low, high, duration);
            assert!((1..=9).contains(&found.len()), "{low} to {high}: {found:?}");
            assert!(found.iter().all(|t| (low..=high).contains(&t.0)));
        }
        assert_eq!(
            ticks(0.0, 1.0, duration)
                .iter()
                .map(|t| t.1.as_str())
                .collect::<Vec<_>>(),
            ["1 s", "1.5 s", "2 s", "3 s", "4 s", "6 s", "10 s"]
        );
        assert_eq!(duration(0.05), "50 ms");
    }

    #[test]
    fn labels_of_neighbouring_ticks_have_room() {
        // 150 ms to 1.3 s: finer steps would write 250 ms over 300 ms.
        let found = ticks(-0.83, 0.12, duration);
        let labels: Vec<&str> = found.iter().map(|t| t.1.as_str()).collect();
        assert_eq!(
            labels,
            ["150 ms", "200 ms", "300 ms", "400 ms", "600 ms", "1 s"]
        );
    }
}
