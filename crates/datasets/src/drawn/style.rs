//! Styles: everything about a picture that its class name does not say.
//!
//! A style is data. Each dataset of the suite has one of its own (`drawn.toml`), which is the domain
//! shift; pre-training draws a mild one at random, or the one a caption speaks of (`looks.toml`: "a
//! sketch of a {}.").

use serde::Deserialize;
use tiny_skia::Transform;

use super::canvas::{Canvas, Ink};
use super::colour::{hsv, quiet};
use super::dice::Dice;
use super::family::Family;

/// How pictures are drawn and treated. The default changes nothing.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Style {
    /// Share of colour inside shapes, 0..=1: 1 filled, 0 paper (a sketch).
    pub fill: f32,
    /// Width of dark contours, in half sides of the picture; 0 draws none.
    pub contour: f32,
    /// Turn of the hue, in degrees.
    pub hue: f32,
    /// Factor on saturation; 0 is black and white.
    pub saturation: f32,
    /// Factor on every channel.
    pub brightness: f32,
    /// Factor on the distance from mid grey.
    pub contrast: f32,
    /// Colour laid over the picture, as hue in degrees (see `tint_strength`).
    pub tint: f32,
    /// Share of the picture that the tint replaces, 0..=1.
    pub tint_strength: f32,
    /// Half width of the noise, in 0..=1 of the channel range.
    pub noise: f32,
    /// Share of each pixel that its neighbours replace, 0..=0.66 (at 32 px; more passes at larger sizes).
    pub blur: f32,
    /// Blocks a side when the picture is made of coarse pixels; 0 is off.
    pub blocks: usize,
    /// Strength of a random fall of light across the picture, 0..=1.
    pub light: f32,
    /// Largest number of stray shapes behind the subject.
    pub clutter: usize,
    /// Largest number of stray shapes in front of the subject.
    pub cover: usize,
    /// Saturation of stray shapes, 0..=1.
    pub clutter_colour: f32,
    /// Smallest and largest size of the subject.
    pub zoom: (f32, f32),
    /// Largest distance of the subject from the middle, in half sides.
    pub shift: f32,
    /// Largest turn of the subject, in degrees.
    pub tilt: f32,
    /// Turn of every subject, in degrees, before the random one.
    pub lean: f32,
    /// Largest stretch of the subject's width against its height.
    pub stretch: f32,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            fill: 1.0,
            contour: 0.0,
            hue: 0.0,
            saturation: 1.0,
            brightness: 1.0,
            contrast: 1.0,
            tint: 0.0,
            tint_strength: 0.0,
            noise: 0.0,
            blur: 0.0,
            blocks: 0,
            light: 0.0,
            clutter: 0,
            cover: 0,
            clutter_colour: 0.2,
            zoom: (0.7, 0.95),
            shift: 0.12,
            tilt: 8.0,
            lean: 0.0,
            stretch: 0.08,
        }
    }
}

impl Style {
    /// A mild style of the kind pre-training sees everywhere.
    pub(super) fn everyday(dice: &mut Dice) -> Self {
        let contour = if dice.chance(0.3) {
            dice.within(0.02, 0.08)
        } else {
            0.0
        };
        Self {
            contour,
            hue: dice.about(6.0),
            saturation: dice.within(0.8, 1.1),
            brightness: dice.within(0.85, 1.08),
            contrast: dice.within(0.85, 1.1),
            tint: dice.within(0.0, 360.0),
            tint_strength: dice.within(0.0, 0.08),
            noise: dice.within(0.0, 0.05),
            blur: if dice.chance(0.3) {
                dice.within(0.0, 0.4)
            } else {
                0.0
            },
            light: dice.within(0.0, 0.15),
            clutter: dice.below(3),
            ..Self::default()
        }
    }

    /// This style seen through another: factors multiply, the stronger of two effects stays.
    pub(super) fn through(self, look: &Style) -> Self {
        let tinted = look.tint_strength > self.tint_strength;
        let plain = Self::default();
        Self {
            fill: self.fill * look.fill,
            contour: self.contour.max(look.contour),
            hue: self.hue + look.hue,
            saturation: self.saturation * look.saturation,
            brightness: self.brightness * look.brightness,
            contrast: self.contrast * look.contrast,
            tint: if tinted { look.tint } else { self.tint },
            tint_strength: self.tint_strength.max(look.tint_strength),
            noise: self.noise.max(look.noise),
            blur: self.blur.max(look.blur),
            blocks: if look.blocks > 0 {
                look.blocks
            } else {
                self.blocks
            },
            light: self.light.max(look.light),
            clutter: self.clutter.max(look.clutter),
            cover: self.cover.max(look.cover),
            clutter_colour: self.clutter_colour.max(look.clutter_colour),
            zoom: if look.zoom == plain.zoom {
                self.zoom
            } else {
                look.zoom
            },
            shift: self.shift.max(look.shift),
            tilt: self.tilt.max(look.tilt),
            lean: self.lean + look.lean,
            stretch: self.stretch.max(look.stretch),
        }
    }

    /// The fields that are out of range, each with what would be right.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut within = |field: &str, value: f32, low: f32, high: f32| {
            if !(low..=high).contains(&value) {
                found.push(format!("{field}: {value} is outside {low}..={high}"));
            }
        };
        within("fill", self.fill, 0.0, 1.0);
        within("contour", self.contour, 0.0, 0.5);
        within("hue", self.hue, -180.0, 180.0);
        within("saturation", self.saturation, 0.0, 3.0);
        within("brightness", self.brightness, 0.1, 3.0);
        within("contrast", self.contrast, 0.1, 3.0);
        within("tint", self.tint, 0.0, 360.0);
        within("tint_strength", self.tint_strength, 0.0, 1.0);
        within("noise", self.noise, 0.0, 1.0);
        within("blur", self.blur, 0.0, 0.66);
        within("light", self.light, 0.0, 1.0);
        within("clutter_colour", self.clutter_colour, 0.0, 1.0);
        within("zoom[0]", self.zoom.0, 0.2, self.zoom.1);
        within("zoom[1]", self.zoom.1, self.zoom.0, 2.0);
        within("shift", self.shift, 0.0, 1.0);
        within("tilt", self.tilt, 0.0, 180.0);
        within("lean", self.lean, -180.0, 180.0);
        within("stretch", self.stretch, 0.0, 0.5);
        found
    }

    pub(super) fn ink(&self) -> Ink {
        Ink {
            fill: self.fill,
            contour: self.contour,
        }
    }

    /// Where the subject stands: size, place, turn, stretch; mirrored half the time when it flips.
    pub(super) fn pose(&self, family: &Family, dice: &mut Dice) -> Transform {
        // What fills the sheet still does when it is small: its box is then as large as the sheet.
        let rim = if family.fills {
            1.0 / self.zoom.0.min(1.0)
        } else {
            1.0
        };
        let zoom = rim * dice.within(self.zoom.0, self.zoom.1);
        let stretch = 1.0 + dice.about(self.stretch);
        let room = self.shift.min((1.15 - zoom).max(0.05));
        let (x, y) = (dice.about(room), dice.about(room));
        let turn = self.lean + dice.about(self.tilt);
        let mirror = if family.flips { dice.sign() } else { 1.0 };
        Transform::from_translate(x, y)
            .pre_rotate(turn)
            .pre_scale(mirror * zoom * stretch, zoom / stretch)
    }

    /// Strays: discs, bars and wedges that belong to nothing, near the edges.
    pub(super) fn scatter(&self, canvas: &mut Canvas, most: usize, dice: &mut Dice) {
        if most == 0 {
            return;
        }
        canvas.whole_sheet();
        for _ in 0..dice.below(most + 1) {
            let colour = if self.clutter_colour <= 0.2 {
                quiet(dice)
            } else {
                hsv(
                    dice.within(0.0, 360.0),
                    dice.within(0.1, self.clutter_colour),
                    dice.within(0.35, 0.95),
                )
            };
            let angle = dice.within(0.0, std::f32::consts::TAU);
            let far = dice.within(0.6, 1.05);
            let (x, y, r) = (
                angle.cos() * far,
                angle.sin() * far,
                dice.within(0.12, 0.32),
            );
            match dice.below(3) {
                0 => canvas.disc(x, y, r, colour),
                1 => {
                    let (dx, dy) = (dice.about(0.6), dice.about(0.6));
                    canvas.line(&[(x - dx, y - dy), (x + dx, y + dy)], r * 0.5, colour);
                }
                _ => {
                    let mut corner = || (x + dice.about(r * 1.6), y + dice.about(r * 1.6));
                    canvas.polygon(&[corner(), corner(), corner()], colour);
                }
            }
        }
    }

    /// Treats the drawn bytes (three a pixel, `size` squared): palette, light, blur, blocks, noise.
    pub(super) fn treat(&self, bytes: &mut [u8], size: usize, dice: &mut Dice) {
        let (matrix, offset) = self.palette();
        let angle = dice.within(0.0, std::f32::consts::TAU);
        let (lx, ly) = (angle.cos() * self.light, angle.sin() * self.light);
        let step = 2.0 / size as f32;
        let mut pixels: Vec<[f32; 3]> = bytes
            .chunks_exact(3)
            .enumerate()
            .map(|(i, p)| {
                let (x, y) = (
                    (i % size) as f32 * step - 1.0,
                    (i / size) as f32 * step - 1.0,
                );
                let glow = 1.0 + lx * x + ly * y;
                let p = [f32::from(p[0]), f32::from(p[1]), f32::from(p[2])];
                matrix
                    .map(|row| row[0] * p[0] + row[1] * p[1] + row[2] * p[2])
                    .map(|v| v * glow)
            })
            .collect();
        if self.blur > 0.0 {
            let scale = size as f32 / 32.0;
            for _ in 0..(scale * scale).round().max(1.0) as usize {
                soften(&mut pixels, size, self.blur);
            }
        }
        if self.blocks > 0 && self.blocks < size {
            coarsen(&mut pixels, size, self.blocks);
        }
        let reach = self.noise * 255.0;
        let unit = reach / 32768.0;
        for (out, pixel) in bytes.chunks_exact_mut(3).zip(&pixels) {
            // Three 16-bit draws a pixel from one 64-bit word.
            let bits = if reach > 0.0 {
                dice.bits()
            } else {
                0x8000_8000_8000
            };
            for k in 0..3 {
                let draw = ((bits >> (16 * k)) & 0xFFFF) as f32 - 32768.0;
                out[k] = (pixel[k] + offset[k] + draw * unit + 0.5).clamp(0.0, 255.0) as u8;
            }
        }
    }

    /// Rows of the colour matrix and what is added after it (in 0..=255).
    fn palette(&self) -> ([[f32; 3]; 3], [f32; 3]) {
        // Turn about the grey axis and scale away from it, weights as in the SVG filter `hueRotate`.
        const LUMA: [f32; 3] = [0.213, 0.715, 0.072];
        let (sin, cos) = self.hue.to_radians().sin_cos();
        let across = [
            [0.787, -0.715, -0.072],
            [-0.213, 0.285, -0.072],
            [-0.213, -0.715, 0.928],
        ];
        let around = [
            [-0.213, -0.715, 0.928],
            [0.143, 0.140, -0.283],
            [-0.787, 0.715, 0.072],
        ];
        let gain = self.brightness * self.contrast;
        let lift = 127.5 * self.brightness * (1.0 - self.contrast);
        let tint = hsv(self.tint, 0.7, 0.8);
        let keep = 1.0 - self.tint_strength;
        let matrix = std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                let turned = cos * across[i][j] + sin * around[i][j];
                keep * gain * (LUMA[j] + self.saturation * turned)
            })
        });
        (
            matrix,
            std::array::from_fn(|i| keep * lift + self.tint_strength * 255.0 * tint[i]),
        )
    }
}

/// One pass of a binomial blur: `amount` of each pixel comes from its two neighbours, across then down.
fn soften(pixels: &mut [[f32; 3]], size: usize, amount: f32) {
    let side = amount / 2.0;
    let mut line = vec![[0.0; 3]; size];
    let mut pass = |first: usize, stride: usize| {
        for i in 0..size {
            line[i] = pixels[first + i * stride];
        }
        for i in 0..size {
            let (before, after) = (line[i.saturating_sub(1)], line[(i + 1).min(size - 1)]);
            pixels[first + i * stride] = std::array::from_fn(|k| {
                (1.0 - amount) * line[i][k] + side * (before[k] + after[k])
            });
        }
    };
    (0..size).for_each(|row| pass(row * size, 1));
    (0..size).for_each(|column| pass(column, size));
}

/// Replaces each of `blocks` x `blocks` tiles by its mean.
fn coarsen(pixels: &mut [[f32; 3]], size: usize, blocks: usize) {
    let edge = |i: usize| i * size / blocks;
    for by in 0..blocks {
        for bx in 0..blocks {
            let mut sum = [0.0; 3];
            let tile = || {
                (edge(by)..edge(by + 1))
                    .flat_map(move |y| (edge(bx)..edge(bx + 1)).map(move |x| y * size + x))
            };
            let mut count = 0.0;
            for i in tile() {
                (0..3).for_each(|k| sum[k] += pixels[i][k]);
                count += 1.0;
            }
            for i in tile() {
                pixels[i] = sum.map(|v| v / count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(size: usize) -> Vec<u8> {
        (0..size * size)
            .flat_map(|i| [(i * 7 % 256) as u8, (i * 3 % 256) as u8, (i % 256) as u8])
            .collect()
    }

    #[test]
    fn the_default_style_changes_nothing() {
        let mut bytes = gradient(32);
        Style::default().treat(&mut bytes, 32, &mut Dice::new("style", 0, 0));
        let most = bytes
            .iter()
            .zip(gradient(32))
            .map(|(&a, b)| a.abs_diff(b))
            .max();
        assert!(most <= Some(1), "{most:?}"); // the matrix rounds
    }

    #[test]
    fn no_saturation_is_grey() {
        let mut bytes = gradient(16);
        let style = Style {
            saturation: 0.0,
            ..Style::default()
        };
        style.treat(&mut bytes, 16, &mut Dice::new("style", 0, 0));
        assert!(
            bytes
                .chunks_exact(3)
                .all(|p| p[0].abs_diff(p[1]) <= 1 && p[1].abs_diff(p[2]) <= 1)
        );
    }

    #[test]
    fn blur_and_blocks_keep_the_mean() {
        for style in [
            Style {
                blur: 0.6,
                ..Style::default()
            },
            Style {
                blocks: 5,
                ..Style::default()
            },
        ] {
            let mut bytes = gradient(32);
            style.treat(&mut bytes, 32, &mut Dice::new("style", 0, 0));
            let mean = |b: &[u8]| b.iter().map(|&v| f64::from(v)).sum::<f64>() / b.len() as f64;
            assert!(
                (mean(&bytes) - mean(&gradient(32))).abs() < 1.5,
                "{style:?}"
            );
            assert_ne!(bytes, gradient(32));
        }
    }

    #[test]
    fn every_field_out_of_range_is_named_at_once() {
        let style = Style {
            fill: 2.0,
            noise: -1.0,
            zoom: (0.9, 0.5),
            ..Style::default()
        };
        let found = style.complaints().join("\n");
        for field in ["fill: 2", "noise: -1", "zoom[0]: 0.9"] {
            assert!(found.contains(field), "{found}");
        }
        assert!(Style::default().complaints().is_empty());
    }
}
