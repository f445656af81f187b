//! Slices of a body in grey: an organ in its shell, and what its tissue looks like. Never drawn in pre-training.

use super::canvas::Canvas;
use super::colour::{Colour, mix};
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

/// What is found: nothing, small bright spots, a bright cloud, dark clefts.
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
    let (rx, ry) = (dice.within(0.68, 0.86), dice.within(0.72, 0.92));
    let shell = dice.within(0.06, 0.12);
    let (bright, mid) = (dice.within(0.7, 0.95), dice.within(0.34, 0.52));
    let (ox, oy) = (dice.within(0.0, 40.0), dice.within(0.0, 40.0));
    let seed = dice.bits();
    // Where the finding lies, away from the middle, and how strong it is.
    let (angle, far) = (dice.within(0.0, 6.28), dice.within(0.1, 0.4));
    let (fx, fy) = (angle.cos() * far, angle.sin() * far);
    let strength = dice.within(0.20, 0.36);
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
            mid + grain + strength * finding(tissue, x - fx, y - fy, seed)
        };
        [level.clamp(0.0, 1.0); 3]
    });
    // Two chambers, as a brain or a chest has, so that a finding is not the only thing inside.
    let chamber: Colour = mix([0.0; 3], [mid; 3], 0.45);
    let (width, height) = (dice.within(0.07, 0.12), dice.within(0.16, 0.26));
    let gap = dice.within(0.13, 0.2);
    c.plainly(|c| {
        c.leaf(-gap, dice.about(0.06), width, height, 12.0, chamber);
        c.leaf(gap, dice.about(0.06), width, height, -12.0, chamber);
    });
}

/// How much brighter (or darker) the tissue is at a point, seen from the middle of the finding; within -1..=1.
fn finding(tissue: &str, x: f32, y: f32, seed: u64) -> f32 {
    let near = (1.0 - (x * x + y * y).sqrt() / 0.5).clamp(0.0, 1.0);
    match tissue {
        "dotted" => {
            let (u, v) = (x * 5.0, y * 5.0);
            let is_spot = cell(seed, u.floor() as i32, v.floor() as i32) > 0.62;
            let (du, dv) = (u - u.floor() - 0.5, v - v.floor() - 0.5);
            if is_spot && du * du + dv * dv < 0.13 && near > 0.0 {
                1.0
            } else {
                0.0
            }
        }
        "blotchy" => {
            let cloud = value(x * 2.6, y * 2.6, seed ^ 7);
            near.sqrt() * (0.45 + 0.9 * cloud).min(1.0)
        }
        "cracked" => {
            let cleft = ((x + 0.35 * value(y * 2.5, 0.3, seed ^ 3) - 0.17) * 9.0)
                .sin()
                .abs();
            if cleft < 0.3 && near > 0.0 { -1.0 } else { 0.0 }
        }
        _ => 0.0,
    }
}
