//! The sheet a picture is drawn on: shapes in unit coordinates, put down in one of the line styles.
//!
//! A family draws in a box from -1 to 1 (x to the right, y down); the pose turns that box into pixels.

use tiny_skia::{
    Color, FillRule, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, Rect, Shader, Stroke,
    Transform,
};

use super::colour::{Colour, INK, PAPER, mix};

/// How shapes are put down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ink {
    /// Share of a shape's own colour that stays; the rest turns to paper. 1 is a filled drawing, 0 a sketch.
    pub(super) fill: f32,
    /// Width of the dark contour, in units of the box; 0 draws none.
    pub(super) contour: f32,
}

/// A square sheet of `size` pixels.
pub(super) struct Canvas {
    pixmap: Pixmap,
    size: usize,
    ink: Ink,
    frame: Transform,
    pose: Transform,
}

impl Canvas {
    pub(super) fn new(size: usize, ink: Ink) -> Self {
        let side = u32::try_from(size)
            .ok()
            .filter(|&s| s > 0)
            .expect("a picture has at least one pixel");
        let pixmap = Pixmap::new(side, side).expect("a square of a few pixels fits in memory");
        let half = size as f32 / 2.0;
        let frame = Transform::from_row(half, 0.0, 0.0, half, half, half);
        Self {
            pixmap,
            size,
            ink,
            frame,
            pose: frame,
        }
    }

    /// Pixels a side.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Draws in the box that covers the sheet.
    pub(super) fn whole_sheet(&mut self) {
        self.pose = self.frame;
    }

    /// Draws in a box placed on the sheet by `placement` (unit coordinates to unit coordinates).
    pub(super) fn place(&mut self, placement: Transform) {
        self.pose = self.frame.pre_concat(placement);
    }

    /// Draws in a smaller box inside the present one, then returns to the present one.
    pub(super) fn inside(&mut self, placement: Transform, draw: impl FnOnce(&mut Self)) {
        let before = self.pose;
        self.pose = before.pre_concat(placement);
        draw(self);
        self.pose = before;
    }

    /// Draws without contours and in full colour whatever the line style: grounds, lights.
    pub(super) fn plainly(&mut self, draw: impl FnOnce(&mut Self)) {
        let before = self.ink;
        self.ink = Ink {
            fill: before.fill.max(0.15),
            contour: 0.0,
        };
        draw(self);
        self.ink = before;
    }

    /// The whole sheet in one colour.
    pub(super) fn flood(&mut self, colour: Colour) {
        let [r, g, b] = self.inked(colour);
        self.pixmap
            .fill(Color::from_rgba(r, g, b, 1.0).expect("inked colours are in 0..=1"));
    }

    /// The whole sheet, pixel by pixel, from unit coordinates; follows the pose, knows no contour.
    pub(super) fn each_pixel(&mut self, mut colour: impl FnMut(f32, f32) -> Colour) {
        let back = self.pose.invert().expect("a pose never collapses the box");
        let size = self.size;
        let fill = self.ink.fill;
        for (i, pixel) in self.pixmap.data_mut().chunks_exact_mut(4).enumerate() {
            let (px, py) = ((i % size) as f32 + 0.5, (i / size) as f32 + 0.5);
            let x = back.sx * px + back.kx * py + back.tx;
            let y = back.ky * px + back.sy * py + back.ty;
            let c = mix(PAPER, colour(x, y), fill.max(0.6));
            for k in 0..3 {
                pixel[k] = (c[k] * 255.0 + 0.5) as u8;
            }
            pixel[3] = 255;
        }
    }

    fn inked(&self, colour: Colour) -> Colour {
        mix(PAPER, colour, self.ink.fill).map(|v| v.clamp(0.0, 1.0))
    }

    fn paint(colour: Colour, opacity: f32) -> Paint<'static> {
        let [r, g, b] = colour;
        let colour = Color::from_rgba(r, g, b, opacity).expect("inked colours are in 0..=1");
        Paint {
            shader: Shader::SolidColor(colour),
            ..Paint::default()
        }
    }

    fn shape(&mut self, path: &Path, colour: Colour) {
        let paint = Self::paint(self.inked(colour), 1.0);
        self.pixmap
            .fill_path(path, &paint, FillRule::Winding, self.pose, None);
        if self.ink.contour > 0.0 {
            let stroke = Stroke {
                width: self.ink.contour,
                line_join: LineJoin::Round,
                ..Stroke::default()
            };
            let dark = Self::paint(mix(colour, INK, 0.85).map(|v| v.clamp(0.0, 1.0)), 1.0);
            self.pixmap
                .stroke_path(path, &dark, &stroke, self.pose, None);
        }
    }

    /// A disc.
    pub(super) fn disc(&mut self, x: f32, y: f32, radius: f32, colour: Colour) {
        self.oval(x, y, radius, radius, colour);
    }

    /// An upright ellipse.
    pub(super) fn oval(&mut self, x: f32, y: f32, rx: f32, ry: f32, colour: Colour) {
        let bounds = Rect::from_ltrb(x - rx, y - ry, x + rx, y + ry).expect("radii are positive");
        if let Some(path) = PathBuilder::from_oval(bounds) {
            self.shape(&path, colour);
        }
    }

    /// An ellipse turned by `degrees`.
    pub(super) fn leaf(&mut self, x: f32, y: f32, rx: f32, ry: f32, degrees: f32, colour: Colour) {
        self.inside(Transform::from_rotate_at(degrees, x, y), |c| {
            c.oval(x, y, rx, ry, colour)
        });
    }

    /// An upright rectangle from its left top corner.
    pub(super) fn bar(&mut self, x: f32, y: f32, width: f32, height: f32, colour: Colour) {
        let bounds = Rect::from_xywh(x, y, width, height).expect("sides are positive");
        self.shape(&PathBuilder::from_rect(bounds), colour);
    }

    /// A closed polygon.
    pub(super) fn polygon(&mut self, points: &[(f32, f32)], colour: Colour) {
        if let Some(path) = through(points, true) {
            self.shape(&path, colour);
        }
    }

    /// Any closed shape.
    pub(super) fn outline(&mut self, colour: Colour, build: impl FnOnce(&mut PathBuilder)) {
        let mut builder = PathBuilder::new();
        build(&mut builder);
        builder.close();
        if let Some(path) = builder.finish() {
            self.shape(&path, colour);
        }
    }

    /// A line through points; `width` in units of the box.
    pub(super) fn line(&mut self, points: &[(f32, f32)], width: f32, colour: Colour) {
        if let Some(path) = through(points, false) {
            self.pull(&path, width, colour);
        }
    }

    /// A ring: a circle's line.
    pub(super) fn ring(&mut self, x: f32, y: f32, radius: f32, width: f32, colour: Colour) {
        if let Some(path) = PathBuilder::from_circle(x, y, radius) {
            self.pull(&path, width, colour);
        }
    }

    /// A line of any course.
    pub(super) fn course(
        &mut self,
        width: f32,
        colour: Colour,
        build: impl FnOnce(&mut PathBuilder),
    ) {
        let mut builder = PathBuilder::new();
        build(&mut builder);
        if let Some(path) = builder.finish() {
            self.pull(&path, width, colour);
        }
    }

    fn pull(&mut self, path: &Path, width: f32, colour: Colour) {
        let mut stroke = Stroke {
            width,
            line_cap: LineCap::Round,
            line_join: LineJoin::Round,
            ..Stroke::default()
        };
        if self.ink.contour > 0.0 {
            let dark = Self::paint(mix(colour, INK, 0.85).map(|v| v.clamp(0.0, 1.0)), 1.0);
            let under = Stroke {
                width: width + self.ink.contour,
                ..stroke.clone()
            };
            self.pixmap
                .stroke_path(path, &dark, &under, self.pose, None);
            stroke.width = (width - self.ink.contour * 0.5).max(width * 0.5);
        }
        let paint = Self::paint(self.inked(colour), 1.0);
        self.pixmap
            .stroke_path(path, &paint, &stroke, self.pose, None);
    }

    /// A see-through rectangle over what is there: fog, dusk, shadow.
    pub(super) fn veil(
        &mut self,
        x: f32,
        y: f32,
        width: f32,
        height: f32,
        colour: Colour,
        opacity: f32,
    ) {
        let bounds = Rect::from_xywh(x, y, width, height).expect("sides are positive");
        let paint = Self::paint(self.inked(colour), opacity.clamp(0.0, 1.0));
        self.pixmap.fill_path(
            &PathBuilder::from_rect(bounds),
            &paint,
            FillRule::Winding,
            self.pose,
            None,
        );
    }

    /// Three bytes a pixel, rows from the top.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; 3 * self.size * self.size];
        for (out, pixel) in bytes
            .chunks_exact_mut(3)
            .zip(self.pixmap.data().chunks_exact(4))
        {
            out.copy_from_slice(&pixel[..3]);
        }
        bytes
    }
}

fn through(points: &[(f32, f32)], closed: bool) -> Option<Path> {
    let mut builder = PathBuilder::with_capacity(points.len() + 1, points.len());
    for (i, &(x, y)) in points.iter().enumerate() {
        if i == 0 {
            builder.move_to(x, y)
        } else {
            builder.line_to(x, y)
        }
    }
    if closed {
        builder.close();
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILLED: Ink = Ink {
        fill: 1.0,
        contour: 0.0,
    };

    #[test]
    fn the_unit_box_covers_the_sheet() {
        let mut canvas = Canvas::new(8, FILLED);
        canvas.flood([0.0; 3]);
        canvas.bar(-1.0, -1.0, 1.0, 2.0, [1.0, 0.0, 0.0]);
        let bytes = canvas.into_bytes();
        for (i, pixel) in bytes.chunks_exact(3).enumerate() {
            let want = if i % 8 < 4 { [255, 0, 0] } else { [0, 0, 0] };
            assert_eq!(pixel, want, "pixel {i}");
        }
    }

    #[test]
    fn an_inner_box_ends_where_it_began() {
        let mut canvas = Canvas::new(4, FILLED);
        let before = canvas.pose;
        canvas.inside(Transform::from_scale(0.5, 0.5), |c| {
            c.disc(0.0, 0.0, 1.0, INK)
        });
        assert_eq!(canvas.pose, before);
    }

    #[test]
    fn a_sketch_keeps_the_contour_and_drops_the_colour() {
        let mut canvas = Canvas::new(
            32,
            Ink {
                fill: 0.0,
                contour: 0.15,
            },
        );
        canvas.flood([0.0, 0.0, 1.0]);
        canvas.disc(0.0, 0.0, 0.6, [1.0, 0.0, 0.0]);
        let bytes = canvas.into_bytes();
        let middle = &bytes[3 * (16 * 32 + 16)..][..3];
        assert!(middle.iter().all(|&v| v > 220), "{middle:?}");
        assert!(bytes.chunks_exact(3).any(|p| p[1] < 60), "no contour");
    }
}
