//! Textures: a grain, a colour and a pattern.
//!
//! Patterns are functions of the point, in units where one repeat is 1, that give a weight between the
//! two colours (0 the second, 1 the first); they are drawn pixel by pixel.

use std::f32::consts::TAU;

use super::canvas::Canvas;
use super::colour::{COLOURS, Colour, darker, hsv, lightness, mix, paint};
use super::dice::{Dice, cell};
use super::family::{Family, Parts, Slot, Word};

pub(super) static FAMILY: Family = Family {
    id: "textures",
    slots: &[
        Slot {
            name: "grain",
            words: GRAINS,
            said: 0.8,
        },
        Slot {
            name: "colour",
            words: COLOURS,
            said: 0.4,
        },
        Slot {
            name: "pattern",
            words: PATTERNS,
            said: 1.0,
        },
    ],
    ground,
    subject,
    flips: true,
    fills: true,
};

const GRAINS: &[Word] = &[
    Word::new("fine", &["delicate"]),
    Word::new("coarse", &["bold"]),
];

const PATTERNS: &[Word] = &[
    Word::new("striped", &["lined"]),
    Word::new("dotted", &["polka-dotted"]),
    Word::new("checkered", &["chequered"]),
    Word::new("zigzagged", &[]),
    Word::new("woven", &["interlaced"]),
    Word::new("cracked", &[]),
    Word::new("bubbly", &[]),
    Word::new("grid", &["meshed"]),
    Word::new("spiralled", &["swirly"]),
    Word::new("scaly", &[]),
    Word::new("wavy", &[]),
    Word::new("bricked", &[]),
    Word::new("blotchy", &["stained"]),
    Word::new("crosshatched", &[]),
];

/// The subject covers it.
fn ground(_: &mut Canvas, _: &Parts, _: &mut Dice) {}

fn subject(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let first = paint(parts.get("colour"), dice);
    let second = companion(first, dice);
    let repeats = if parts.get("grain") == "fine" {
        dice.within(3.1, 3.9)
    } else {
        dice.within(1.25, 1.7)
    };
    let soft = (2.0 * repeats / c.size() as f32).max(0.04); // one pixel, in repeats
    let (ox, oy) = (dice.within(0.0, 8.0), dice.within(0.0, 8.0));
    let seed = dice.bits();
    let (wander, depth) = (dice.about(0.6), dice.within(0.0, 0.12));
    let pattern = pattern(parts.get("pattern"));
    c.each_pixel(|x, y| {
        let bend = depth * (2.0 * x + wander * 5.0 * y).sin();
        let (u, v) = ((x + bend) * repeats + ox, y * repeats + oy);
        mix(second, first, pattern(u, v, soft, seed))
    });
}

/// A colour that the first can be told from: a light one for the dark, a dark one for the light.
fn companion(first: Colour, dice: &mut Dice) -> Colour {
    let hue = dice.within(0.0, 360.0);
    if lightness(first) > 0.5 {
        darker(hsv(hue, dice.within(0.0, 0.5), dice.within(0.2, 0.4)), 0.2)
    } else {
        hsv(hue, dice.within(0.0, 0.25), dice.within(0.85, 1.0))
    }
}

/// Weight of the first colour at a point; `soft` is the width of a pixel in the pattern's unit.
type Pattern = fn(u: f32, v: f32, soft: f32, seed: u64) -> f32;

fn pattern(word: &str) -> Pattern {
    match word {
        "striped" => |u, _, soft, _| within(wave(u), 0.5, soft),
        "dotted" => |u, v, soft, _| {
            let shift = if v.floor().rem_euclid(2.0) == 0.0 {
                0.0
            } else {
                0.5
            };
            below(radius(fold(u + shift), fold(v)), 0.33, soft)
        },
        "checkered" => |u, v, soft, _| {
            let (a, b) = (within(wave(u), 0.5, soft), within(wave(v), 0.5, soft));
            a + b - 2.0 * a * b
        },
        "zigzagged" => |u, v, soft, _| within(wave(v + 1.2 * wave(u * 0.8)), 0.5, soft),
        "woven" => woven,
        "cracked" => |u, v, soft, seed| {
            let (near, next) = closest(u, v, seed);
            1.0 - below(next - near, 0.13, soft)
        },
        "bubbly" => |u, v, soft, seed| {
            let (near, _) = closest(u * 0.9, v * 0.9, seed);
            below((near - 0.27).abs(), 0.1, soft)
        },
        "grid" => |u, v, soft, _| 1.0 - within(wave(u), 0.76, soft) * within(wave(v), 0.76, soft),
        "spiralled" => spiralled,
        "scaly" => scaly,
        "wavy" => |u, v, soft, _| within(wave(v + 0.32 * (TAU * u * 0.55).sin()), 0.5, soft),
        "bricked" => |u, v, soft, _| {
            let shift = if (v * 1.5).floor().rem_euclid(2.0) == 0.0 {
                0.0
            } else {
                0.5
            };
            within(wave(u * 0.75 + shift), 0.85, soft) * within(wave(v * 1.5), 0.74, soft * 1.5)
        },
        "blotchy" => |u, v, soft, seed| {
            let n = value(u * 1.1, v * 1.1, seed) + 0.35 * value(u * 2.7, v * 2.7, seed ^ 1);
            below(0.66 - n, 0.0, soft * 0.8)
        },
        _ => |u, v, soft, _| {
            let (a, b) = (wave((u + v) * 0.75), wave((u - v) * 0.75));
            1.0 - within(a, 0.72, soft) * within(b, 0.72, soft)
        },
    }
}

/// -0.5..0.5 within the repeat.
fn fold(x: f32) -> f32 {
    x - x.floor() - 0.5
}

/// Distance from the middle of the repeat, 0..=1.
fn wave(x: f32) -> f32 {
    2.0 * fold(x).abs()
}

fn radius(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

/// 1 where `x` is below `edge`, with a slope as wide as a pixel.
fn below(x: f32, edge: f32, soft: f32) -> f32 {
    ((edge - x) / soft + 0.5).clamp(0.0, 1.0)
}

/// As [`below`], for a [`wave`], which runs through its range twice as fast.
fn within(x: f32, edge: f32, soft: f32) -> f32 {
    below(x, edge, 2.0 * soft)
}

fn woven(u: f32, v: f32, soft: f32, _: u64) -> f32 {
    let (a, b) = (
        within(wave(u * 1.2), 0.72, soft),
        within(wave(v * 1.2), 0.72, soft),
    );
    let over = ((u * 1.2).floor() + (v * 1.2).floor()).rem_euclid(2.0) == 0.0;
    let (top, under) = if over { (a, b) } else { (b, a) };
    if top > 0.5 { 1.0 } else { 0.45 * under }
}

fn spiralled(u: f32, v: f32, soft: f32, _: u64) -> f32 {
    let (x, y) = (fold(u * 0.62), fold(v * 0.62));
    let r = radius(x, y);
    if r > 0.5 {
        0.0
    } else {
        within(wave(3.4 * r + y.atan2(x) / TAU), 0.55, soft * 2.0)
    }
}

fn scaly(u: f32, v: f32, soft: f32, _: u64) -> f32 {
    // Rows of discs from the bottom up: the lowest row that covers the point lies on top.
    let row = (v * 1.6).floor();
    for step in [1.0, 0.0, -1.0] {
        let r = row + step;
        let shift = if r.rem_euclid(2.0) == 0.0 { 0.0 } else { 0.5 };
        let d = radius(fold(u + shift), (v * 1.6 - r) / 1.6);
        if d < 0.56 {
            return 1.0 - below((d - 0.5).abs(), 0.07, soft);
        }
    }
    1.0
}

/// Distances to the nearest and the second nearest of one random point a cell.
fn closest(u: f32, v: f32, seed: u64) -> (f32, f32) {
    let (cu, cv) = (u.floor() as i32, v.floor() as i32);
    let (mut near, mut next) = (f32::MAX, f32::MAX);
    for y in cv - 1..=cv + 1 {
        for x in cu - 1..=cu + 1 {
            let place = cell(seed, x, y);
            let other = (place * 4096.0).fract();
            let d = radius(
                x as f32 + 0.15 + 0.7 * place - u,
                y as f32 + 0.15 + 0.7 * other - v,
            );
            if d < near {
                (near, next) = (d, near);
            } else if d < next {
                next = d;
            }
        }
    }
    (near, next)
}

/// Smooth noise in 0..=1.
pub(super) fn value(u: f32, v: f32, seed: u64) -> f32 {
    let (cu, cv) = (u.floor(), v.floor());
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let (fu, fv) = (ease(u - cu), ease(v - cv));
    let corner = |dx: i32, dy: i32| cell(seed, cu as i32 + dx, cv as i32 + dy);
    let top = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * fu;
    let low = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * fu;
    top + (low - top) * fv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_uses_both_colours_and_stays_between_them() {
        for word in PATTERNS {
            let pattern = pattern(word.id);
            let mut mean = 0.0;
            for i in 0..4096 {
                let w = pattern((i % 64) as f32 * 0.11, (i / 64) as f32 * 0.11, 0.1, 7);
                assert!((0.0..=1.0).contains(&w), "{}: {w}", word.id);
                mean += w / 4096.0;
            }
            assert!((0.12..0.88).contains(&mean), "{}: {mean}", word.id);
        }
    }
}
