//! Slices of a body in grey: an organ in its shell, and what its tissue looks like. Never drawn in pre-training.

use super::canvas::Canvas;
use super::dice::{Dice, cell};
use super::family::{Family, Parts, Slot, Word};
use super::textures::value;

pub(super) static FAMILY: Family = Family {
    id: "scans",
    slots: &[
        Slot {
            name: "tissue",
            words: TISSUES,
            said: 1.0,
        },
        Slot {
            name: "kind",
            words: KINDS,
            said: 1.0,
        },
    ],
    ground,
    subject,
    flips: true,
    fills: true,
};

/// What the tissue is like: even, with bright spots, with bright clouds, with dark clefts.
const TISSUES: &[Word] = &[
    Word::new("plain", &[]),
    Word::new("dotted", &[]),
    Word::new("blotchy", &[]),
    Word::new("cracked", &[]),
];

/// There is one kind; its word is one that the shipped CLIP knows.
const KINDS: &[Word] = &[Word::new("texture", &[])];

/// The dark around a body.
fn ground(c: &mut Canvas, _: &Parts, dice: &mut Dice) {
    let dark = dice.within(0.02, 0.10);
    c.flood([dark; 3]);
}

fn subject(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let (rx, ry) = (dice.within(0.84, 1.02), dice.within(0.86, 1.06));
    let shell = dice.within(0.05, 0.09);
    let (bright, mid) = (dice.within(0.75, 0.95), dice.within(0.36, 0.5));
    let (ox, oy) = (dice.within(0.0, 40.0), dice.within(0.0, 40.0));
    let seed = dice.bits();
    let strength = dice.within(0.28, 0.42);
    let tissue = parts.get("tissue");
    let dark = dice.within(0.02, 0.10);
    c.each_pixel(|x, y| {
        let r = ((x / rx).powi(2) + (y / ry).powi(2)).sqrt();
        let level = if r > 1.0 {
            dark
        } else if r > 1.0 - shell {
            bright
        } else {
            let grain = 0.10 * (value(x * 3.0 + ox, y * 3.0 + oy, seed) - 0.5);
            mid + grain + strength * finding(tissue, x + ox, y + oy, seed)
        };
        [level.clamp(0.0, 1.0); 3]
    });
}

/// How much brighter (or darker) the tissue is at a point; within -1..=1.
fn finding(tissue: &str, x: f32, y: f32, seed: u64) -> f32 {
    match tissue {
        "dotted" => {
            let (u, v) = (x * 2.6, y * 2.6);
            let is_spot = cell(seed, u.floor() as i32, v.floor() as i32) > 0.25;
            let (du, dv) = (u - u.floor() - 0.5, v - v.floor() - 0.5);
            if is_spot && du * du + dv * dv < 0.12 {
                1.0
            } else {
                0.0
            }
        }
        "blotchy" => {
            let cloud = value(x * 1.6, y * 1.6, seed ^ 7) + 0.3 * value(x * 4.0, y * 4.0, seed ^ 5);
            if cloud > 0.66 { 1.0 } else { -0.15 }
        }
        "cracked" => {
            let bend = 0.5 * value(x * 1.3, y * 1.3, seed ^ 3);
            let (down, across) = (
                ((x + bend) * 4.4).sin().abs(),
                ((y - bend) * 3.4).sin().abs(),
            );
            if down.min(across) < 0.2 { -1.0 } else { 0.0 }
        }
        _ => 0.0,
    }
}
