//! Points, error bars and the legend.

use super::Style;
use super::canvas::{Align, BLACK_INK, Drawing, Ink, WHITE_INK, text_width};
use crate::show::looks::{Dash, GREY, Look, Marker};

/// A regular polygon or star: `n` corners at `radius`, in between at `inner`, the first corner up, turned by `turn`.
fn corners(n: usize, radius: f64, inner: Option<f64>, turn: f64) -> Vec<(f64, f64)> {
    let steps = if inner.is_some() { 2 * n } else { n };
    let corner = |i: usize| {
        let angle = std::f64::consts::TAU * i as f64 / steps as f64 + turn;
        let length = if i % 2 == 1 {
            inner.unwrap_or(radius)
        } else {
            radius
        };
        (length * angle.sin(), -length * angle.cos())
    };
    (0..steps).map(corner).collect()
}

/// Outline of a marker of about the area of a disc of `radius`.
fn outline(marker: Marker, radius: f64) -> Vec<(f64, f64)> {
    use std::f64::consts::{FRAC_PI_4, PI};
    let cross = |turn: f64| {
        let (arm, half) = (1.28 * radius, 0.42 * radius);
        let quarter = [(-half, -arm), (half, -arm), (half, -half)];
        let mut points = Vec::new();
        for i in 0..4 {
            let (sin, cos) = (f64::from(i) * PI / 2.0 + turn).sin_cos();
            points.extend(
                quarter
                    .iter()
                    .map(|(x, y)| (x * cos - y * sin, x * sin + y * cos)),
            );
        }
        points
    };
    match marker {
        Marker::Circle => corners(28, radius, None, 0.0),
        Marker::Square => corners(4, 1.28 * radius, None, FRAC_PI_4),
        Marker::Diamond => corners(4, 1.38 * radius, None, 0.0),
        Marker::Triangle => corners(3, 1.4 * radius, None, 0.0),
        Marker::Down => corners(3, 1.4 * radius, None, PI),
        Marker::Pentagon => corners(5, 1.18 * radius, None, 0.0),
        Marker::Hexagon => corners(6, 1.15 * radius, None, PI / 6.0),
        Marker::Star => corners(5, 1.65 * radius, Some(0.68 * radius), 0.0),
        Marker::Plus => cross(0.0),
        Marker::Cross => cross(FRAC_PI_4),
    }
}

/// A point with a thin white rim, which keeps neighbours apart.
pub fn point(drawing: &mut Drawing, look: &Look, at: (f64, f64), radius: f64, opacity: f64) {
    drawing.line(
        &edge(look.marker, at, radius),
        Ink((255, 255, 255), opacity),
        0.36 * radius,
        Dash::Solid,
    );
    fill(drawing, look, at, radius, Ink(look.colour, opacity));
}

/// A point with a dark rim, for the one that sums the others up.
pub fn framed_point(drawing: &mut Drawing, look: &Look, at: (f64, f64), radius: f64) {
    let rim = edge(look.marker, at, radius);
    drawing.line(&rim, WHITE_INK, 0.62 * radius, Dash::Solid);
    drawing.line(&rim, BLACK_INK, 0.36 * radius, Dash::Solid);
    fill(drawing, look, at, radius, Ink(look.colour, 1.0));
}

/// The outline as a closed line, drawn a little past its start so that the last corner is joined too.
fn edge(marker: Marker, (x, y): (f64, f64), radius: f64) -> Vec<(f64, f64)> {
    let points = outline(marker, radius);
    let closed = points.iter().chain(points.iter().take(2));
    closed.map(|(dx, dy)| (x + dx, y + dy)).collect()
}

fn fill(drawing: &mut Drawing, look: &Look, (x, y): (f64, f64), radius: f64, ink: Ink) {
    let points = outline(look.marker, radius);
    drawing.polygon(
        points
            .into_iter()
            .map(|(dx, dy)| (x + dx, y + dy))
            .collect(),
        ink,
    );
}

/// A vertical or horizontal error bar without caps.
pub fn error_bar(drawing: &mut Drawing, look: &Look, from: (f64, f64), to: (f64, f64), width: f64) {
    drawing.line(&[from, to], Ink(look.colour, 0.55), width, Dash::Solid);
}

/// What stands for a method in the legend.
pub struct Key {
    /// The method's look.
    pub look: Look,
    /// Whether it has a line.
    pub has_line: bool,
}

/// A legend of several columns, centred below the panels.
pub struct Legend {
    keys: Vec<Key>,
    /// Width of each column, with the space behind it.
    columns: Vec<f64>,
    row: f64,
    sample: f64,
}

impl Legend {
    /// Lays the keys out: as few rows as fit, then columns evened out.
    pub fn new(mut keys: Vec<Key>, style: &Style) -> Self {
        // Grey methods are told apart by nobody, so they stand there once.
        let is_grey = |key: &Key| key.look.colour == GREY;
        let grey = keys.iter().filter(|k| is_grey(k)).count();
        if grey > 0 {
            let mut first = true;
            keys.retain(|k| !is_grey(k) || std::mem::take(&mut first));
            let place = keys.iter().position(is_grey).expect("one is kept");
            let mut others = keys.remove(place);
            others.look.name = format!("{grey} others");
            others.look.marker = Marker::Circle;
            others.look.dash = Dash::Solid;
            keys.push(others);
        }
        let sample = 2.6 * style.text;
        let widths: Vec<f64> = keys
            .iter()
            .map(|key| sample + text_width(&key.look.name, style.text, false) + 2.0 * style.text)
            .collect();
        let layout = |n: usize| -> Vec<f64> {
            (0..n)
                .map(|c| {
                    widths
                        .iter()
                        .skip(c)
                        .step_by(n)
                        .copied()
                        .fold(0.0, f64::max)
                })
                .collect()
        };
        let room = style.width - style.text;
        let fit = (1..=keys.len().max(1))
            .rev()
            .find(|n| layout(*n).iter().sum::<f64>() <= room)
            .unwrap_or(1);
        let rows = keys.len().div_ceil(fit).max(1);
        let even = keys.len().div_ceil(rows).max(1);
        // Fewer columns are not always narrower, since other names meet in one.
        let columns = if layout(even).iter().sum::<f64>() <= room {
            layout(even)
        } else {
            layout(fit)
        };
        Self {
            keys,
            columns,
            row: 1.75 * style.text,
            sample,
        }
    }

    /// Height it takes.
    pub fn height(&self) -> f64 {
        self.row * self.keys.len().div_ceil(self.columns.len()) as f64
    }

    /// Draws it with its upper edge at `top`.
    pub fn draw(&self, drawing: &mut Drawing, style: &Style, top: f64) {
        // The last column's space is no part of the block.
        let width = self.columns.iter().sum::<f64>() - 1.5 * style.text;
        let left = (drawing.width - width) / 2.0;
        for (i, key) in self.keys.iter().enumerate() {
            let (row, column) = (i / self.columns.len(), i % self.columns.len());
            let x = left + self.columns[..column].iter().sum::<f64>();
            let y = top + self.row * (row as f64 + 0.5);
            if key.has_line {
                let ink = Ink(key.look.colour, 1.0);
                drawing.line(
                    &[(x, y), (x + self.sample, y)],
                    ink,
                    style.line,
                    key.look.dash,
                );
            }
            point(
                drawing,
                &key.look,
                (x + self.sample / 2.0, y),
                style.marker,
                1.0,
            );
            let at = (x + self.sample + 0.5 * style.text, y + 0.36 * style.text);
            drawing.text(&key.look.name, at, style.text, BLACK_INK, Align::Start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_weigh_about_the_same() {
        let area = |marker| {
            let points = outline(marker, 1.0);
            let next = points.iter().cycle().skip(1);
            points
                .iter()
                .zip(next)
                .map(|(a, b)| a.0 * b.1 - b.0 * a.1)
                .sum::<f64>()
                .abs()
                / 2.0
        };
        for marker in [
            Marker::Circle,
            Marker::Square,
            Marker::Triangle,
            Marker::Diamond,
            Marker::Down,
            Marker::Cross,
            Marker::Plus,
            Marker::Star,
            Marker::Pentagon,
            Marker::Hexagon,
        ] {
            assert!(
                (2.2..4.0).contains(&area(marker)),
                "{marker:?}: {}",
                area(marker)
            );
        }
    }
}
