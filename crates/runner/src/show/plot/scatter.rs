//! What a method gains on base classes against what it loses on novel ones, a point a dataset.

use super::canvas::{Align, BLACK_INK, Drawing, GREY_INK, Ink};
use super::grid::{Frame, SMALL, Scale};
use super::marks::{Key, Legend, framed_point, point};
use super::{Chart, Draw, Drawn, Painter};
use crate::show::looks::{Dash, look};
use crate::show::summary::{Method, Metric, Place};

/// For protocols that show two class sets and their H.
pub(super) const CHART: Chart = Chart {
    slug: "gains",
    draw: Draw::Summary(|painter| painter.gains().into_iter().collect()),
};

impl Painter<'_> {
    /// Novel minus zero-shot against base minus zero-shot at the largest number of shots; `None` where the
    /// protocol has no such halves, there is no zero-shot method, or nothing to hold against it.
    fn gains(&self) -> Option<Drawn> {
        let (section, style) = (self.section, self.style);
        let [base, novel] = section.protocol.halves()?;
        let reference = section.methods.iter().find(|m| !m.is_trained)?;
        let shots = *section.shots.last()?;
        let gain = |method: &Method, place: Place<'_>| -> Option<(f64, f64)> {
            let of = |class_set| {
                let mean = |m| {
                    section
                        .entry(m, place, Metric::Accuracy(class_set), shots)
                        .figure()
                        .map(|f| f.mean)
                };
                Some(mean(method)? - mean(reference)?)
            };
            Some((of(base)?, of(novel)?))
        };
        let methods: Vec<&Method> = section.drawn().filter(|m| *m != reference).collect();
        let mut points = Vec::new();
        let mut averages = Vec::new();
        for method in &methods {
            let own = section
                .targets()
                .filter_map(|d| gain(method, Place::Dataset(d)));
            points.extend(own.map(|g| (look(method), g)));
            if section.targets().count() > 1 {
                averages.extend(gain(method, Place::Average).map(|g| (look(method), g)));
            }
        }
        if points.is_empty() {
            return None;
        }

        let keys = methods
            .iter()
            .map(|m| Key {
                look: look(m),
                has_line: false,
            })
            .collect();
        let legend = Legend::new(keys, &style);
        let side = 0.56 * style.width;
        let (left, top) = ((style.width - side) / 2.0 + style.text, 1.2 * style.text);
        let frame = Frame {
            left,
            top,
            right: left + side,
            bottom: top + 0.82 * side,
        };
        let below = frame.bottom + 5.4 * style.text;
        let mut drawing = Drawing::new(style.width, below + legend.height() + 0.8 * style.text);

        let free = (f64::NEG_INFINITY, f64::INFINITY);
        // Zero is always in sight: it is what everything is held against.
        let scale = |axis: fn(&(f64, f64)) -> f64| {
            Scale::over(
                points
                    .iter()
                    .chain(&averages)
                    .map(|p| axis(&p.1))
                    .chain([0.0]),
                free,
                7.0,
            )
        };
        let (across, up) = (scale(|g| g.0), scale(|g| g.1));
        // The quadrant where nothing was lost.
        let zero = (frame.x(&across, 0.0), frame.y(&up, 0.0));
        drawing.rectangle(
            (zero.0, frame.top),
            (frame.right, zero.1),
            Ink((0xF1, 0xF6, 0xF1), 1.0),
        );
        frame.rule_x(&mut drawing, &style, &across);
        frame.rule_y(&mut drawing, &style, &up);
        frame.finish(&mut drawing, &style, "");
        drawing.line(
            &[(frame.left, zero.1), (frame.right, zero.1)],
            BLACK_INK,
            0.7 * style.line,
            Dash::Solid,
        );
        drawing.line(
            &[(zero.0, frame.top), (zero.0, frame.bottom)],
            BLACK_INK,
            0.7 * style.line,
            Dash::Solid,
        );
        for (look, (base, novel)) in &points {
            let at = (frame.x(&across, *base), frame.y(&up, *novel));
            point(&mut drawing, look, at, 0.85 * style.marker, 0.6);
        }
        for (look, (base, novel)) in &averages {
            framed_point(
                &mut drawing,
                look,
                (frame.x(&across, *base), frame.y(&up, *novel)),
                1.45 * style.marker,
            );
        }
        let name = look(reference).name;
        let middle = f64::midpoint(frame.left, frame.right);
        let x_title = format!("Base accuracy − {name} (points)");
        drawing.text(
            &x_title,
            (middle, frame.bottom + 2.9 * style.text),
            style.text,
            BLACK_INK,
            Align::Middle,
        );
        let y_title = format!("Novel accuracy − {name} (points)");
        let at = (
            frame.left - 3.4 * style.text,
            f64::midpoint(frame.top, frame.bottom),
        );
        drawing.upright(&y_title, at, style.text, BLACK_INK, Align::Middle);
        let mut note = format!(
            "One point a dataset, {shots} {}",
            if shots == 1 { "shot" } else { "shots" }
        );
        if !averages.is_empty() {
            note += "; framed: average; shaded: better than zero-shot on both";
        }
        drawing.text(
            &note,
            (middle, frame.bottom + 4.5 * style.text),
            SMALL * style.text,
            GREY_INK,
            Align::Middle,
        );
        legend.draw(&mut drawing, &style, below);
        Some(Drawn {
            slug: format!("{}-novel-against-base", section.slug()),
            title: format!(
                "{}: novel against base accuracy, less zero-shot",
                section.title()
            ),
            drawing,
        })
    }
}
