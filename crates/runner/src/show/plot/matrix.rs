//! What is kept of what was learned one after the other, as heat maps: a panel a method, a row for what was learned last, a
//! column for what is asked about.

use super::canvas::{Align, BLACK_INK, Drawing, Ink, WHITE_INK, text_width};
use super::grid::{Frame, SMALL, shorten};
use super::marks::point;
use super::{Chart, Draw, Drawn, Painter};
use crate::protocols::Shows;
use crate::show::looks::{Dash, look};
use crate::show::summary::{Method, Spot};
use crate::start;

/// For protocols that learn one thing after the other.
pub(super) const CHART: Chart = Chart {
    slug: "matrix",
    draw: Draw::Summary(|painter| painter.matrices()),
};

/// From low to high: pale yellow over teal to dark blue, darker the higher, also where colours are not seen.
const COLOURS: [(u8, u8, u8); 5] = [
    (0xFF, 0xFF, 0xD9),
    (0xC7, 0xE9, 0xB4),
    (0x41, 0xB6, 0xC4),
    (0x22, 0x5E, 0xA8),
    (0x08, 0x1D, 0x58),
];

/// Share of the scale from which figures are white.
const DARK: f64 = 0.55;

fn colour(share: f64) -> Ink {
    let place = share.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let low = (place.floor() as usize).min(COLOURS.len() - 2);
    let part = place - low as f64;
    let mix = |a: u8, b: u8| (f64::from(a) + part * (f64::from(b) - f64::from(a))).round() as u8;
    let (a, b) = (COLOURS[low], COLOURS[low + 1]);
    Ink((mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2)), 1.0)
}

/// One method's matrix.
type Map<'a> = (&'a Method, Vec<Spot>);

impl Painter<'_> {
    /// At the largest number of shots: one chart for each dataset that comes in sessions, or one for all in a row.
    fn matrices(&self) -> Vec<Drawn> {
        let section = self.section;
        if !section.protocol.shows.is_continual() {
            return Vec::new();
        }
        let datasets = match &section.source {
            Some(start) => vec![start.as_str()],
            None => section.datasets.iter().map(String::as_str).collect(),
        };
        let shots = section.shots.last().copied().unwrap_or(0);
        let of = |dataset: &str| {
            let map = |m| (m, section.mean_matrix(m, dataset, shots));
            let maps: Vec<Map<'_>> = section.methods.iter().map(map).collect();
            let maps: Vec<Map<'_>> = maps.into_iter().filter(|m| !m.1.is_empty()).collect();
            let names = match section.protocol.shows {
                Shows::Datasets => start::datasets(dataset)
                    .map(|id| {
                        shorten(
                            section.called(id),
                            SMALL * self.style.text,
                            9.0 * self.style.text,
                        )
                    })
                    .collect(),
                _ => (1..=section.learned())
                    .map(|n| n.to_string())
                    .collect::<Vec<_>>(),
            };
            let (mut slug, mut title) = (section.slug(), section.title());
            if datasets.len() > 1 {
                slug += &format!("-{dataset}");
                title += &format!(": {}", section.called(dataset));
            }
            (!maps.is_empty()).then(|| Drawn {
                slug: format!("{slug}-matrix"),
                title: format!("{title}: what is kept"),
                drawing: self.maps(&maps, &names),
            })
        };
        datasets.iter().filter_map(|d| of(d)).collect()
    }

    fn maps(&self, maps: &[Map<'_>], names: &[String]) -> Drawing {
        let style = self.style;
        let small = SMALL * style.text;
        let columns = maps.len().min(4);
        let rows = maps.len().div_ceil(columns);
        let longest = names
            .iter()
            .map(|n| text_width(n, small, false))
            .fold(0.0, f64::max);
        // Names of datasets stand upright below the panels, numbers of sessions level.
        let is_named = self.section.protocol.shows == Shows::Datasets;
        let foot = if is_named { longest } else { small } + 0.8 * style.text;
        let (left, head) = (longest + 2.9 * style.text, 2.2 * style.text);
        let gap = 1.6 * style.text;
        let room = style.width - left - style.text;
        let side = ((room + gap) / columns as f64 - gap).min(0.42 * style.width);
        let aside = (room + gap - columns as f64 * (side + gap)) / 2.0;
        let row = head + side + foot;
        let bar = rows as f64 * row + 2.4 * style.text;
        let mut drawing = Drawing::new(style.width, bar + 2.8 * style.text);

        let values = || maps.iter().flat_map(|m| &m.1).map(|spot| spot.2);
        let low = (values().fold(f64::INFINITY, f64::min) / 10.0).floor() * 10.0;
        let high = (values().fold(f64::NEG_INFINITY, f64::max) / 10.0).ceil() * 10.0;
        let share = |value: f64| (value - low) / (high - low).max(1.0);
        for (i, (method, spots)) in maps.iter().enumerate() {
            let x = left + aside + (side + gap) * (i % columns) as f64;
            let y = head + row * (i / columns) as f64;
            let frame = Frame {
                left: x,
                top: y,
                right: x + side,
                bottom: y + side,
            };
            self.map(&mut drawing, frame, spots, names.len(), &share);
            self.heading(&mut drawing, frame, method);
            let cell = side / names.len() as f64;
            let room = if is_named {
                1.15 * small
            } else {
                longest + 0.4 * small
            };
            let every = (room / cell).ceil().max(1.0) as usize;
            let shown = names.iter().enumerate();
            for (n, name) in shown.filter(|(n, _)| (names.len() - 1 - n).is_multiple_of(every)) {
                let middle = (n as f64 + 0.5) * cell;
                if i % columns == 0 {
                    let at = (
                        frame.left - 0.5 * style.text,
                        frame.top + middle + 0.36 * small,
                    );
                    drawing.text(name, at, small, BLACK_INK, Align::End);
                }
                let x = frame.left + middle;
                if is_named {
                    let at = (x + 0.36 * small, frame.bottom + 0.4 * style.text);
                    drawing.upright(name, at, small, BLACK_INK, Align::End);
                } else {
                    let at = (x, frame.bottom + 1.2 * small);
                    drawing.text(name, at, small, BLACK_INK, Align::Middle);
                }
            }
        }
        let (after, on) = if is_named {
            ("After learning", "Accuracy on")
        } else {
            ("After session", "Accuracy on session")
        };
        let middle = f64::midpoint(head, rows as f64 * row - foot);
        let at = (aside + 1.3 * style.text, middle);
        drawing.upright(after, at, style.text, BLACK_INK, Align::Middle);
        let at = (style.width / 2.0, rows as f64 * row + 1.0 * style.text);
        drawing.text(on, at, style.text, BLACK_INK, Align::Middle);
        self.bar(&mut drawing, bar, (low, high));
        drawing
    }

    /// The method's mark and name over its panel.
    fn heading(&self, drawing: &mut Drawing, frame: Frame, method: &Method) {
        let (style, look) = (self.style, look(method));
        let mark = 1.6 * style.text;
        let title = shorten(&look.name, style.text, frame.right - frame.left - mark);
        let width = mark + text_width(&title, style.text, true);
        let left = f64::midpoint(frame.left, frame.right) - width / 2.0;
        let baseline = frame.top - 0.6 * style.text;
        let at = (left + mark / 3.0, baseline - 0.36 * style.text);
        point(drawing, &look, at, style.marker, 1.0);
        drawing.bold(
            &title,
            (left + mark, baseline),
            style.text,
            BLACK_INK,
            Align::Start,
        );
    }

    /// The cells of one panel, with their figures where these have room.
    fn map(
        &self,
        drawing: &mut Drawing,
        frame: Frame,
        spots: &[Spot],
        count: usize,
        share: &impl Fn(f64) -> f64,
    ) {
        let style = self.style;
        let cell = (frame.right - frame.left) / count as f64;
        let size = (0.5 * cell).min(0.8 * style.text);
        let has_figures = text_width("100", size, false) < 0.92 * cell && size > 0.45 * style.text;
        for (t, j, value) in spots {
            let (x, y) = (frame.left + cell * *j as f64, frame.top + cell * *t as f64);
            let part = share(*value);
            drawing.rectangle((x, y), (x + cell, y + cell), colour(part));
            if has_figures {
                let ink = if part > DARK { WHITE_INK } else { BLACK_INK };
                let at = (x + cell / 2.0, y + cell / 2.0 + 0.36 * size);
                drawing.text(&format!("{value:.0}"), at, size, ink, Align::Middle);
            }
        }
        // What is learned lies on the diagonal: left of it is what may be forgotten.
        let edge = |n: usize| (frame.left + cell * n as f64, frame.top + cell * n as f64);
        for n in 0..count {
            let ((x0, y0), (x1, y1)) = (edge(n), edge(n + 1));
            let square = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)];
            drawing.line(&square, BLACK_INK, 0.5 * style.line, Dash::Solid);
        }
    }

    /// The scale of colours.
    fn bar(&self, drawing: &mut Drawing, top: f64, (low, high): (f64, f64)) {
        const STEPS: usize = 48;
        let style = self.style;
        let (width, height) = (16.0 * style.text, 0.9 * style.text);
        let left = (style.width - width) / 2.0;
        for step in 0..STEPS {
            let x = |step: usize| left + width * step as f64 / STEPS as f64;
            let ink = colour((step as f64 + 0.5) / STEPS as f64);
            // A little over the next, so that no seam shows.
            let right = x(step + 1) + if step + 1 < STEPS { 0.4 } else { 0.0 };
            drawing.rectangle((x(step), top), (right, top + height), ink);
        }
        let baseline = top + 0.82 * height;
        for (text, x, align) in [
            (format!("{low:.0} %"), left - 0.6 * style.text, Align::End),
            (
                format!("{high:.0} %"),
                left + width + 0.6 * style.text,
                Align::Start,
            ),
        ] {
            drawing.text(&text, (x, baseline), SMALL * style.text, BLACK_INK, align);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_is_darker() {
        let light = |share| {
            let Ink((r, g, b), _) = colour(share);
            0.2126 * f64::from(r) + 0.7152 * f64::from(g) + 0.0722 * f64::from(b)
        };
        for step in 0..20 {
            let (low, high) = (f64::from(step) / 20.0, f64::from(step + 1) / 20.0);
            assert!(light(high) < light(low), "{low}");
        }
        assert_eq!((colour(-1.0), colour(2.0)), (colour(0.0), colour(1.0)));
    }
}
