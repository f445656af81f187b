//! A drawing as a list of shapes, and plotters' backends that put it into SVG and PNG.
//!
//! Both replay the same list, so the two never differ. Backends count whole pixels; shapes are in fractions of a unit
//! and drawn enlarged: an SVG in a large view box, a PNG at twice its size and then halved, which also smooths edges.

use std::sync::LazyLock;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, FontTransform, register_font};

use crate::show::looks::Dash;

/// Names for the font: the shipped one, and what a viewer of an SVG without it may take.
const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";

/// Units of an SVG's view box to one of the drawing's.
const FINE: f64 = 10.0;

/// Height of the font (ascent and descent) in ems, which the bitmap backend takes for its size: hhea of DejaVu Sans.
const HEIGHT: f64 = (1901.0 + 483.0) / 2048.0;

/// plotters' SVG backend divides a font's size by this to get ems.
const SVG_EM: f64 = 1.24;

static FONTS: LazyLock<()> = LazyLock::new(|| {
    let regular = include_bytes!("../../../assets/DejaVuSans.subset.ttf");
    let bold = include_bytes!("../../../assets/DejaVuSans-Bold.subset.ttf");
    for (style, bytes) in [
        (FontStyle::Normal, &regular[..]),
        (FontStyle::Bold, &bold[..]),
    ] {
        let is_registered = register_font(FAMILY, style, bytes).is_ok();
        assert!(is_registered, "the shipped fonts are whole");
    }
});

/// A colour with opacity in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ink(pub (u8, u8, u8), pub f64);

/// Lettering and axes.
pub const BLACK_INK: Ink = Ink((0x22, 0x22, 0x22), 1.0);
/// Lesser lettering.
pub const GREY_INK: Ink = Ink((0x66, 0x66, 0x66), 1.0);
/// Grid lines.
pub const GRID_INK: Ink = Ink((0xE3, 0xE3, 0xE3), 1.0);
/// Paper.
pub const WHITE_INK: Ink = Ink((0xFF, 0xFF, 0xFF), 1.0);

/// Which end of a text its point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Its start.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

/// One shape. Coordinates grow right and down from the top left corner.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// An open line.
    Line {
        points: Vec<(f64, f64)>,
        ink: Ink,
        width: f64,
    },
    /// A filled polygon.
    Polygon { points: Vec<(f64, f64)>, ink: Ink },
    /// Text on a baseline through `at`.
    Text {
        text: String,
        at: (f64, f64),
        size: f64,
        ink: Ink,
        align: Align,
        is_bold: bool,
        is_upright: bool,
    },
}

/// Shapes on a white ground.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// Width in units.
    pub width: f64,
    /// Height in units.
    pub height: f64,
    /// Shapes, the last on top.
    pub(super) shapes: Vec<Shape>,
}

/// Width in units of a text at a height of `size` units (em).
pub fn text_width(text: &str, size: f64, is_bold: bool) -> f64 {
    LazyLock::force(&FONTS);
    // Measured large, since plotters rounds to whole pixels.
    const LARGE: f64 = 1000.0;
    let style = if is_bold {
        FontStyle::Bold
    } else {
        FontStyle::Normal
    };
    let font = FontDesc::new(FontFamily::Name(FAMILY), LARGE * HEIGHT, style);
    let ((left, _), (right, _)) = font.layout_box(text).expect("the font is registered");
    f64::from(right - left) / LARGE * size
}

impl Drawing {
    /// An empty drawing.
    pub fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            shapes: Vec::new(),
        }
    }

    /// Adds a line; a dashed one as its strokes.
    pub fn line(&mut self, points: &[(f64, f64)], ink: Ink, width: f64, dash: Dash) {
        let pattern = match dash {
            Dash::Solid => {
                self.shapes.push(Shape::Line {
                    points: points.to_vec(),
                    ink,
                    width,
                });
                return;
            }
            Dash::Dashed => [5.0 * width, 2.5 * width],
            Dash::Dotted => [1.6 * width, 2.0 * width],
        };
        for points in strokes(points, pattern) {
            self.shapes.push(Shape::Line { points, ink, width });
        }
    }

    /// Adds a filled polygon.
    pub fn polygon(&mut self, points: Vec<(f64, f64)>, ink: Ink) {
        self.shapes.push(Shape::Polygon { points, ink });
    }

    /// Adds a filled rectangle between two corners.
    pub fn rectangle(&mut self, (x0, y0): (f64, f64), (x1, y1): (f64, f64), ink: Ink) {
        self.polygon(vec![(x0, y0), (x1, y0), (x1, y1), (x0, y1)], ink);
    }

    /// Adds level text on a baseline.
    pub fn text(&mut self, text: &str, at: (f64, f64), size: f64, ink: Ink, align: Align) {
        self.letter(text, at, size, ink, align, false, false);
    }

    /// Adds bold text on a baseline.
    pub fn bold(&mut self, text: &str, at: (f64, f64), size: f64, ink: Ink, align: Align) {
        self.letter(text, at, size, ink, align, true, false);
    }

    /// Adds text that reads upwards; `at` is on its baseline, which is a vertical line.
    pub fn upright(&mut self, text: &str, at: (f64, f64), size: f64, ink: Ink, align: Align) {
        self.letter(text, at, size, ink, align, false, true);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one private funnel for the three kinds of text"
    )]
    fn letter(
        &mut self,
        text: &str,
        at: (f64, f64),
        size: f64,
        ink: Ink,
        align: Align,
        is_bold: bool,
        is_upright: bool,
    ) {
        let text = text.to_owned();
        self.shapes.push(Shape::Text {
            text,
            at,
            size,
            ink,
            align,
            is_bold,
            is_upright,
        });
    }

    /// The drawing as an SVG document called `title`.
    ///
    /// Every text carries its length, so that it takes the same room whatever font a viewer substitutes.
    ///
    /// # Errors
    /// What plotters says.
    pub fn svg(&self, title: &str) -> Result<String, String> {
        let mut raw = String::new();
        self.replay(
            SVGBackend::with_string(&mut raw, self.pixels(FINE)),
            FINE,
            SVG_EM,
            true,
        )?;

        let escaped = escape(title);
        let (width, height) = self.pixels(FINE);
        let body = raw.split_once('>').ok_or("plotters wrote no <svg>")?.1;
        let mut out = format!(
            "<svg width=\"{}\" height=\"{}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{escaped}\" \
             xmlns=\"http://www.w3.org/2000/svg\">\n<title>{escaped}</title>",
            self.width.round(),
            self.height.round(),
        );
        let mut texts = self.shapes.iter().filter_map(|shape| match shape {
            Shape::Text {
                text,
                size,
                is_bold,
                ..
            } => Some(text_width(text, *size, *is_bold)),
            _ => None,
        });
        let mut parts = body.split("<text ");
        out += parts.next().unwrap_or_default();
        for part in parts {
            let length = texts
                .next()
                .ok_or("plotters wrote a text nobody asked for")?
                * FINE;
            // The point is on the baseline; plotters' shift for the top of a text is not wanted.
            let part = part.replacen(" dy=\"0.76em\"", "", 1);
            out += &format!(
                "<text textLength=\"{length:.0}\" lengthAdjust=\"spacingAndGlyphs\" {part}"
            );
        }
        Ok(out)
    }

    /// The drawing as a PNG file, `scale` pixels a unit.
    ///
    /// # Errors
    /// What plotters or the encoder says.
    pub fn png(&self, scale: u32) -> Result<Vec<u8>, String> {
        let double = f64::from(2 * scale);
        let (width, height) = self.pixels(double);
        let (width, height) = (width.next_multiple_of(2), height.next_multiple_of(2));
        let mut pixels = vec![255u8; width as usize * height as usize * 3];
        self.replay(
            BitMapBackend::with_buffer(&mut pixels, (width, height)),
            double,
            HEIGHT,
            false,
        )?;

        let large = image::RgbImage::from_raw(width, height, pixels)
            .ok_or("the buffer has the wrong size")?;
        let half = image::RgbImage::from_fn(width / 2, height / 2, |x, y| {
            let mut mean = [0; 3];
            for (channel, value) in mean.iter_mut().enumerate() {
                let at = |dx, dy| u16::from(large.get_pixel(2 * x + dx, 2 * y + dy)[channel]);
                *value = ((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1) + 2) / 4) as u8;
            }
            image::Rgb(mean)
        });
        let mut bytes = Vec::new();
        let encoder =
            PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::Adaptive);
        half.write_with_encoder(encoder)
            .map_err(|e| e.to_string())?;
        Ok(bytes)
    }

    fn pixels(&self, scale: f64) -> (u32, u32) {
        (
            (self.width * scale).round() as u32,
            (self.height * scale).round() as u32,
        )
    }

    /// Puts every shape onto a plotters backend, `scale` pixels a unit; `em` is what it calls the size of a font of
    /// one em.
    fn replay<DB: DrawingBackend>(
        &self,
        backend: DB,
        scale: f64,
        em: f64,
        is_vector: bool,
    ) -> Result<(), String> {
        LazyLock::force(&FONTS);
        let fail = |e: DrawingAreaErrorKind<DB::ErrorType>| e.to_string();
        let area = backend.into_drawing_area();
        area.fill(&WHITE).map_err(fail)?;
        let at = |(x, y): (f64, f64)| ((x * scale).round() as i32, (y * scale).round() as i32);
        let colour = |Ink((r, g, b), opacity): Ink| RGBColor(r, g, b).mix(opacity);
        for shape in &self.shapes {
            match shape {
                Shape::Line { points, ink, width } => {
                    let stroke = ((width * scale).round() as u32).max(1);
                    let points: Vec<_> = points.iter().copied().map(at).collect();
                    area.draw(&PathElement::new(points, colour(*ink).stroke_width(stroke)))
                        .map_err(fail)?;
                }
                Shape::Polygon { points, ink } => {
                    let points: Vec<_> = points.iter().copied().map(at).collect();
                    area.draw(&Polygon::new(points, colour(*ink).filled()))
                        .map_err(fail)?;
                }
                Shape::Text {
                    text,
                    at: point,
                    size,
                    ink,
                    align,
                    is_bold,
                    is_upright,
                } => {
                    let weight = if *is_bold {
                        FontStyle::Bold
                    } else {
                        FontStyle::Normal
                    };
                    let turn = if *is_upright {
                        FontTransform::Rotate270
                    } else {
                        FontTransform::None
                    };
                    let font = FontDesc::new(FontFamily::Name(FAMILY), size * em * scale, weight)
                        .transform(turn);
                    let (mut x, mut y) = *point;
                    let anchor = if is_vector {
                        match align {
                            Align::Start => HPos::Left,
                            Align::Middle => HPos::Center,
                            Align::End => HPos::Right,
                        }
                    } else {
                        // The bitmap backend draws from the left end, with the baseline half a font size below.
                        let back = text_width(text, *size, *is_bold)
                            * match align {
                                Align::Start => 0.0,
                                Align::Middle => 0.5,
                                Align::End => 1.0,
                            };
                        let rise = size * em / 2.0;
                        (x, y) = if *is_upright {
                            (x - rise, y + back)
                        } else {
                            (x - back, y - rise)
                        };
                        HPos::Left
                    };
                    let style = font.color(&colour(*ink)).pos(Pos::new(anchor, VPos::Top));
                    area.draw(&Text::new(text.as_str(), at((x, y)), style))
                        .map_err(fail)?;
                }
            }
        }
        area.present().map_err(fail)
    }
}

/// Strokes of a dashed line: `pattern` is the length of a stroke and of the gap behind it.
fn strokes(points: &[(f64, f64)], pattern: [f64; 2]) -> Vec<Vec<(f64, f64)>> {
    let mut all = Vec::new();
    let mut stroke: Vec<(f64, f64)> = points.first().copied().into_iter().collect();
    let (mut phase, mut left) = (0, pattern[0]);
    for pair in points.windows(2) {
        let ((mut x, mut y), (to_x, to_y)) = (pair[0], pair[1]);
        loop {
            let rest = (to_x - x).hypot(to_y - y);
            if rest <= left {
                left -= rest;
                if phase == 0 {
                    stroke.push((to_x, to_y));
                }
                break;
            }
            x += (to_x - x) * left / rest;
            y += (to_y - y) * left / rest;
            if phase == 0 {
                stroke.push((x, y));
                all.push(std::mem::take(&mut stroke));
            } else {
                stroke = vec![(x, y)];
            }
            phase = 1 - phase;
            left = pattern[phase];
        }
    }
    if stroke.len() > 1 {
        all.push(stroke);
    }
    all
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strokes_cover_their_share_of_a_line() {
        let length = |all: &[Vec<(f64, f64)>]| -> f64 {
            let legs = all.iter().flat_map(|s| s.windows(2));
            legs.map(|p| (p[1].0 - p[0].0).hypot(p[1].1 - p[0].1)).sum()
        };
        let all = strokes(&[(0.0, 0.0), (3.0, 4.0), (3.0, 104.0)], [4.0, 3.0]);
        assert_eq!(all.len(), 15);
        assert!((length(&all) - 60.0).abs() < 1e-9, "{}", length(&all));
        // Round the corner in one stroke.
        assert_eq!(all[0], [(0.0, 0.0), (2.4, 3.2)]);
    }

    #[test]
    fn texts_are_as_wide_as_the_font_says() {
        // DejaVu Sans: every digit is 1303 of 2048 units wide.
        assert!(
            (text_width("0123456789", 12.0, false) - 12.0 * 10.0 * 1303.0 / 2048.0).abs() < 0.05
        );
        assert!(text_width("Average", 12.0, true) > text_width("Average", 12.0, false));
    }

    #[test]
    fn svg_texts_carry_their_length() {
        let mut drawing = Drawing::new(100.0, 50.0);
        drawing.text("a < b", (10.0, 20.0), 10.0, BLACK_INK, Align::Start);
        drawing.upright("c", (30.0, 20.0), 10.0, BLACK_INK, Align::Middle);
        let svg = drawing.svg("\"x\" & y").unwrap();
        assert!(
            svg.starts_with("<svg width=\"100\" height=\"50\" viewBox=\"0 0 1000 500\""),
            "{svg}"
        );
        assert!(
            svg.contains("<title>&quot;x&quot; &amp; y</title>"),
            "{svg}"
        );
        assert_eq!(svg.matches("textLength=").count(), 2);
        assert!(svg.contains("a &lt; b"), "{svg}");
        assert!(!svg.contains("dy="), "{svg}");
    }

    #[test]
    fn png_is_drawn_with_the_shipped_font() {
        let mut drawing = Drawing::new(60.0, 30.0);
        drawing.text("Mm", (5.0, 20.0), 16.0, BLACK_INK, Align::Start);
        let image = image::load_from_memory(&drawing.png(2).unwrap())
            .unwrap()
            .to_rgb8();
        assert_eq!(image.dimensions(), (120, 60));
        let dark: Vec<(u32, u32)> = image
            .enumerate_pixels()
            .filter(|(_, _, p)| p[0] < 100)
            .map(|(x, y, _)| (x, y))
            .collect();
        assert!(dark.len() > 100);
        // Nothing below the baseline (20 units), capitals 0.73 em high.
        let (top, bottom) = (
            dark.iter().map(|p| p.1).min().unwrap(),
            dark.iter().map(|p| p.1).max().unwrap(),
        );
        assert!(
            (15..=18).contains(&top) && (38..=41).contains(&bottom),
            "{top} to {bottom}"
        );
    }
}
