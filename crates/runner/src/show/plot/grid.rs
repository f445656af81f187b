//! Panels: where they stand, their scales, ticks and frames.

use super::Style;
use super::canvas::{Align, BLACK_INK, Drawing, GREY_INK, GRID_INK, text_width};
use crate::show::looks::Dash;

/// A linear scale with round ticks.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Distance of ticks.
    pub step: f64,
}

impl Scale {
    /// A scale over `values`, with a margin, cut at `limits`, and about `ticks` ticks. At least one point wide.
    pub fn over(values: impl IntoIterator<Item = f64>, limits: (f64, f64), ticks: f64) -> Self {
        let finite = values.into_iter().filter(|v| v.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
        let (low, high) = if low > high {
            (0.0, 100.0)
        } else {
            (low, high)
        };
        let margin = (0.07 * (high - low)).max(0.5);
        // A margin past a limit would promise accuracies over 100 %; a sliver keeps a point there whole.
        let sliver = 0.03 * (high - low);
        let (low, high) = (
            (low - margin).max(limits.0 - sliver),
            (high + margin).min(limits.1 + sliver),
        );
        let rough = (high - low) / ticks;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .iter()
            .map(|m| m * power)
            .find(|s| *s >= 0.9 * rough)
            .unwrap_or(10.0 * power);
        Self { low, high, step }
    }

    /// Round numbers inside the scale.
    pub fn ticks(&self) -> Vec<f64> {
        let first = (self.low / self.step - 1e-9).ceil() as i64;
        let last = (self.high / self.step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * self.step).collect()
    }

    /// A tick's text: no more decimals than its step needs, a real minus sign.
    pub fn label(&self, tick: f64) -> String {
        let decimals = (-self.step.log10().floor()).max(0.0) as usize;
        let text = format!("{tick:.decimals$}");
        let text = if text.trim_start_matches(['-', '0', '.']).is_empty() {
            "0".to_owned()
        } else {
            text
        };
        text.replace('-', "−")
    }

    /// Share of the way up the scale.
    pub fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

/// One panel's inside.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Right edge.
    pub right: f64,
    /// Lower edge.
    pub bottom: f64,
}

impl Frame {
    /// Height of `value` on a vertical scale.
    pub fn y(&self, scale: &Scale, value: f64) -> f64 {
        self.bottom - scale.share(value) * (self.bottom - self.top)
    }

    /// Place of `value` on a horizontal scale.
    pub fn x(&self, scale: &Scale, value: f64) -> f64 {
        self.left + scale.share(value) * (self.right - self.left)
    }

    /// Horizontal grid lines with their figures on the left.
    pub fn rule_y(&self, drawing: &mut Drawing, style: &Style, scale: &Scale) {
        for tick in scale.ticks() {
            let y = self.y(scale, tick);
            drawing.line(
                &[(self.left, y), (self.right, y)],
                GRID_INK,
                0.5 * style.line,
                Dash::Solid,
            );
            let at = (self.left - 0.45 * style.text, y + 0.33 * SMALL * style.text);
            drawing.text(
                &scale.label(tick),
                at,
                SMALL * style.text,
                GREY_INK,
                Align::End,
            );
        }
    }

    /// Vertical grid lines with their figures below.
    pub fn rule_x(&self, drawing: &mut Drawing, style: &Style, scale: &Scale) {
        for tick in scale.ticks() {
            let x = self.x(scale, tick);
            drawing.line(
                &[(x, self.top), (x, self.bottom)],
                GRID_INK,
                0.5 * style.line,
                Dash::Solid,
            );
            self.tick_x(drawing, style, x, &scale.label(tick));
        }
    }

    /// One figure below the panel.
    pub fn tick_x(&self, drawing: &mut Drawing, style: &Style, x: f64, text: &str) {
        drawing.text(
            text,
            (x, self.bottom + 1.2 * style.text),
            SMALL * style.text,
            GREY_INK,
            Align::Middle,
        );
    }

    /// Left and lower edge, and a bold heading above, if any.
    pub fn finish(&self, drawing: &mut Drawing, style: &Style, title: &str) {
        let corner = [
            (self.left, self.top),
            (self.left, self.bottom),
            (self.right, self.bottom),
        ];
        drawing.line(&corner, GREY_INK, 0.6 * style.line, Dash::Solid);
        if title.is_empty() {
            return;
        }
        let room = self.right - self.left + 0.8 * style.text;
        let title = shorten(title, style.text, room);
        let at = (
            f64::midpoint(self.left, self.right),
            self.top - 0.6 * style.text,
        );
        drawing.bold(&title, at, style.text, BLACK_INK, Align::Middle);
    }
}

/// Size of figures on axes, to that of lettering.
pub const SMALL: f64 = 0.88;

/// Cuts a text to a width in units, with an ellipsis.
pub fn shorten(text: &str, size: f64, room: f64) -> String {
    if text_width(text, size, true) <= room {
        return text.to_owned();
    }
    let mut short: String = text.to_owned();
    while short.pop().is_some() {
        let candidate = format!("{}…", short.trim_end());
        if text_width(&candidate, size, true) <= room {
            return candidate;
        }
    }
    "…".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let scale = Scale::over([61.3, 84.9], (0.0, 100.0), 5.0);
        assert_eq!(scale.ticks(), [60.0, 65.0, 70.0, 75.0, 80.0, 85.0]);
        let narrow = Scale::over([80.0, 80.4], (0.0, 100.0), 4.0);
        assert_eq!(narrow.step, 0.5);
        assert_eq!(narrow.label(79.5), "79.5");
        let signed = Scale::over([-12.0, 7.0], (f64::NEG_INFINITY, f64::INFINITY), 5.0);
        assert_eq!(
            signed
                .ticks()
                .iter()
                .map(|t| signed.label(*t))
                .collect::<Vec<_>>(),
            ["−10", "−5", "0", "5"]
        );
    }

    #[test]
    fn accuracies_never_get_a_tick_beyond_their_limits() {
        let scale = Scale::over([0.0, 100.0], (0.0, 100.0), 5.0);
        assert_eq!(scale.ticks(), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        let one = Scale::over([100.0], (0.0, 100.0), 5.0);
        assert!(one.high > one.low && one.ticks().len() >= 2, "{one:?}");
        assert_eq!(
            Scale::over([], (0.0, 100.0), 5.0).ticks().first(),
            Some(&0.0)
        );
    }

    #[test]
    fn long_headings_are_cut_to_their_room() {
        let short = shorten("describable-textures-dataset", 12.0, 100.0);
        assert!(
            short.ends_with('…') && text_width(&short, 12.0, true) <= 100.0,
            "{short}"
        );
        assert_eq!(shorten("dtd", 12.0, 100.0), "dtd");
    }
}
