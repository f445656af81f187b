//! Accuracy after each session, or after each of several datasets: a line a method, a panel a place.

use super::canvas::{Align, BLACK_INK, Drawing, Ink};
use super::grid::{Frame, SMALL, Scale};
use super::marks::{Legend, error_bar, point};
use super::{Chart, Draw, Drawn, Painter};
use crate::protocols::Shows;
use crate::show::looks::look;
use crate::show::summary::{Figure, Method, Metric, Place};
use crate::stats::continual::Measure;

/// For protocols that learn one thing after the other.
pub(super) const CHART: Chart = Chart {
    slug: "sessions",
    draw: Draw::Summary(|painter| painter.sessions().into_iter().collect()),
};

/// Up to this many methods the panels have error bars.
const BARS: usize = 5;

/// A place at a number of shots, with its heading.
type Panel<'a> = (String, Place<'a>, usize);

impl Painter<'_> {
    fn sessions(&self) -> Option<Drawn> {
        let section = self.section;
        if !section.protocol.shows.is_continual() || section.learned() == 0 {
            return None;
        }
        let panels = self.session_panels();
        Some(Drawn {
            slug: format!("{}-by-session", section.slug()),
            title: format!("{}: accuracy after each", section.title()),
            drawing: self.session_curves(&panels),
        })
    }

    /// Each place at the largest number of shots; a single place at every one.
    fn session_panels(&self) -> Vec<Panel<'_>> {
        let (section, places) = (self.section, self.places());
        let shots = match &section.shots[..] {
            [] => &[0],
            shots => shots,
        };
        if let ([only], true) = (&places[..], shots.len() > 1) {
            let title = |shots| format!("{}, {shots} shots", self.place_name(*only));
            return shots.iter().map(|s| (title(*s), *only, *s)).collect();
        }
        let most = shots[shots.len() - 1];
        let panel = |place| (self.place_name(place), place, most);
        places.into_iter().map(panel).collect()
    }

    fn session_curves(&self, panels: &[Panel<'_>]) -> Drawing {
        let style = self.style;
        let columns = panels.len().min(3);
        let legend = Legend::new(self.keys(), &style);
        let rows = panels.len().div_ceil(columns);
        let (left, gap, head) = (4.6 * style.text, 3.4 * style.text, 2.2 * style.text);
        // A panel alone is no wider than it reads well.
        let room = style.width - left - style.text;
        let column = (room + gap) / columns as f64;
        let width = (column - gap).min(0.66 * style.width);
        let aside = (room + gap - columns as f64 * (width + gap)) / 2.0;
        let height = (0.62 * width).max(10.0 * style.text);
        let (row, below) = (head + height + 2.2 * style.text, 2.2 * style.text);
        let foot = rows as f64 * row;
        let mut drawing = Drawing::new(
            style.width,
            foot + below + legend.height() + 0.8 * style.text,
        );
        for (i, panel) in panels.iter().enumerate() {
            let x = left + aside + (width + gap) * (i % columns) as f64;
            let y = head + row * (i / columns) as f64;
            let frame = Frame {
                left: x,
                top: y,
                right: x + width,
                bottom: y + height,
            };
            self.session_panel(&mut drawing, frame, panel);
        }
        let what = if self.section.protocol.shows == Shows::Sessions {
            "Session"
        } else {
            "Datasets learned"
        };
        let middle = f64::midpoint(left, style.width - style.text);
        let at = (middle, foot + 0.9 * style.text);
        drawing.text(what, at, style.text, BLACK_INK, Align::Middle);
        let at = (
            aside + 1.3 * style.text,
            f64::midpoint(head, foot - 2.2 * style.text),
        );
        drawing.upright("Accuracy (%)", at, style.text, BLACK_INK, Align::Middle);
        legend.draw(&mut drawing, &style, foot + below);
        drawing
    }

    fn session_panel(
        &self,
        drawing: &mut Drawing,
        frame: Frame,
        (title, place, shots): &Panel<'_>,
    ) {
        let (section, style) = (self.section, self.style);
        let count = section.learned();
        let figure = |method: &Method, number| {
            let metric = Metric::Continual(Measure::After(number));
            section.entry(method, *place, metric, *shots).figure()
        };
        let reach = |f: &Figure| {
            let deviation = f.deviation.unwrap_or(0.0);
            [f.mean - deviation, f.mean + deviation]
        };
        let methods: Vec<&Method> = section.drawn().collect();
        let all: Vec<Figure> = methods
            .iter()
            .flat_map(|m| (1..=count).filter_map(|number| figure(m, number)))
            .collect();
        let has_bars = methods.len() <= BARS;
        let values = all.iter().flat_map(|f| {
            if has_bars {
                reach(f).to_vec()
            } else {
                vec![f.mean]
            }
        });
        let ticks = ((frame.bottom - frame.top) / (2.2 * style.text)).min(6.0);
        let scale = Scale::over(values, (0.0, 100.0), ticks);
        frame.rule_y(drawing, &style, &scale);
        let slot = (frame.right - frame.left) / count as f64;
        let x = |number: usize| frame.left + slot * (number as f64 - 0.5);
        // As many numbers as have room; the last one always.
        let every = (2.2 * style.text / slot).ceil().max(1.0) as usize;
        for number in (1..=count).filter(|n| (count - n).is_multiple_of(every)) {
            frame.tick_x(drawing, &style, x(number), &number.to_string());
        }
        frame.finish(drawing, &style, title);
        if all.is_empty() {
            let at = (
                f64::midpoint(frame.left, frame.right),
                f64::midpoint(frame.top, frame.bottom),
            );
            let text = "no complete result";
            drawing.text(text, at, SMALL * style.text, BLACK_INK, Align::Middle);
            return;
        }
        let mut points = Vec::new();
        for method in methods {
            let look = look(method);
            let known = (1..=count).filter_map(|n| Some((n, figure(method, n)?)));
            let known: Vec<(usize, Figure)> = known.collect();
            let at = |n: usize, value: f64| {
                (x(n), frame.y(&scale, value).clamp(frame.top, frame.bottom))
            };
            for (n, f) in known
                .iter()
                .filter(|(_, f)| has_bars && f.deviation.is_some_and(|d| d > 0.0))
            {
                let [low, high] = reach(f);
                error_bar(drawing, &look, at(*n, low), at(*n, high), 0.8 * style.line);
            }
            let line: Vec<(f64, f64)> = known.iter().map(|(n, f)| at(*n, f.mean)).collect();
            if line.len() > 1 {
                drawing.line(&line, Ink(look.colour, 0.9), style.line, look.dash);
            }
            points.extend(line.into_iter().map(|at| (look.clone(), at)));
        }
        for (look, at) in &points {
            point(drawing, look, *at, 0.82 * style.marker, 1.0);
        }
    }
}
