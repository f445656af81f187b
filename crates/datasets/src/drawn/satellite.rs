//! Land seen from above: what lies there and in what surroundings.

use super::canvas::Canvas;
use super::colour::{Colour, INK, WHITE, darker, hsv, mix};
use super::dice::{Dice, cell};
use super::family::{Family, Parts, Slot, Word};
use super::textures::value;

pub(super) static FAMILY: Family = Family {
    id: "satellite",
    slots: &[
        Slot {
            name: "feature",
            words: FEATURES,
            said: 1.0,
        },
        Slot {
            name: "surroundings",
            words: SURROUNDINGS,
            said: 0.85,
        },
    ],
    ground,
    subject,
    flips: true,
    fills: true,
};

const FEATURES: &[Word] = &[
    Word::new("river", &["stream"]),
    Word::new("highway", &["motorway"]),
    Word::new("railway", &[]),
    Word::new("lake", &["reservoir"]),
    Word::new("houses", &["residential area"]),
    Word::new("factory", &["industrial area"]),
    Word::new("airport", &["runway"]),
    Word::new("orchard", &["plantation"]),
];

const SURROUNDINGS: &[Word] = &[
    Word::new("in forest", &["in woodland"]),
    Word::new("in pasture", &["in grassland"]),
    Word::new("in desert", &["in sand"]),
    Word::new("in snow", &["in ice"]),
    Word::new("in farmland", &["in crops"]),
];

fn ground(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let seed = dice.bits();
    let (ox, oy) = (dice.within(0.0, 50.0), dice.within(0.0, 50.0));
    let sway = dice.about(0.04);
    match parts.get("surroundings") {
        "in forest" => {
            let (a, b) = (
                hsv(130.0 + dice.about(8.0), 0.6, 0.2),
                hsv(118.0, 0.55, 0.42),
            );
            c.each_pixel(|x, y| mix(a, b, value(x * 6.0 + ox, y * 6.0 + oy, seed)));
        }
        "in pasture" => {
            let (a, b) = (hsv(88.0 + dice.about(6.0), 0.5, 0.66), hsv(78.0, 0.5, 0.78));
            c.each_pixel(|x, y| mix(a, b, value(x * 1.5 + ox, y * 1.5 + oy, seed)));
        }
        "in desert" => {
            let (a, b) = (hsv(33.0 + dice.about(4.0), 0.5, 0.72), hsv(38.0, 0.42, 0.9));
            c.each_pixel(|x, y| {
                let ripple = 0.5
                    + 0.5
                        * (9.0 * (x + 0.5 * y) + 3.0 * value(x * 1.5 + ox, y * 1.5 + oy, seed))
                            .sin();
                mix(a, b, ripple)
            });
        }
        "in snow" => {
            let (a, b) = (hsv(205.0, 0.14, 0.86), hsv(200.0, 0.02, 0.99));
            c.each_pixel(|x, y| mix(a, b, value(x * 2.2 + ox, y * 2.2 + oy, seed)));
        }
        _ => {
            const CROPS: [(f32, f32, f32); 5] = [
                (52.0, 0.6, 0.85),
                (95.0, 0.6, 0.5),
                (30.0, 0.45, 0.5),
                (75.0, 0.6, 0.68),
                (115.0, 0.5, 0.36),
            ];
            let crops = CROPS.map(|(h, s, v)| hsv(h, s, v));
            c.each_pixel(|x, y| {
                let (u, v) = ((x + sway * y) * 1.9 + ox, (y - sway * x) * 2.3 + oy);
                let which = (cell(seed, u.floor() as i32, v.floor() as i32) * 5.0) as usize;
                let edge = (u - u.floor()).min(v - v.floor());
                darker(crops[which.min(4)], if edge < 0.09 { 0.3 } else { 0.0 })
            });
        }
    }
}

/// A course across the sheet from edge to edge, bent by `bend`.
fn across(c: &mut Canvas, width: f32, colour: Colour, lean: f32, bend: f32) {
    c.course(width, colour, |b| {
        // Straight beyond the sheet, so that the bend lies where it is seen.
        b.move_to(-2.5, -2.5 * lean);
        b.line_to(-1.3, -1.3 * lean);
        b.cubic_to(
            -0.4,
            -0.4 * lean - bend,
            0.4,
            0.4 * lean + bend,
            1.3,
            1.3 * lean,
        );
        b.line_to(2.5, 2.5 * lean);
    });
}

fn subject(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let lean = dice.within(-0.9, 0.9);
    match parts.get("feature") {
        "river" => {
            let bend = dice.within(1.1, 1.8) * dice.sign();
            across(c, 0.40, hsv(200.0, 0.3, 0.55), lean * 0.6, bend);
            across(
                c,
                0.30,
                hsv(208.0 + dice.about(6.0), 0.75, 0.62),
                lean * 0.6,
                bend,
            );
        }
        "highway" => {
            let bend = dice.about(0.2);
            across(c, 0.52, hsv(220.0, 0.04, 0.78), lean, bend);
            across(c, 0.4, hsv(220.0, 0.06, 0.42), lean, bend);
            across(c, 0.08, WHITE, lean, bend);
        }
        "railway" => {
            let length = (1.0 + lean * lean).sqrt();
            let (dx, dy) = (1.0 / length, lean / length);
            c.line(
                &[(-2.0 * dx, -2.0 * dy), (2.0 * dx, 2.0 * dy)],
                0.34,
                hsv(30.0, 0.12, 0.66),
            );
            for i in -7..=7 {
                let t = i as f32 * 0.24;
                let (x, y) = (t * dx, t * dy);
                c.line(
                    &[
                        (x - 0.17 * dy, y + 0.17 * dx),
                        (x + 0.17 * dy, y - 0.17 * dx),
                    ],
                    0.09,
                    INK,
                );
            }
        }
        "lake" => {
            let water = hsv(210.0 + dice.about(6.0), 0.75, 0.5);
            let (x, y) = (dice.about(0.15), dice.about(0.15));
            c.leaf(x, y, 0.74, 0.5, lean * 50.0, hsv(45.0, 0.25, 0.75));
            c.leaf(x, y, 0.66, 0.42, lean * 50.0, water);
            c.leaf(x + 0.2, y - 0.22, 0.36, 0.3, 0.0, water);
        }
        "houses" => {
            let street = hsv(220.0, 0.03, 0.7);
            for at in [-0.68, 0.0, 0.68] {
                c.line(&[(-1.4, at), (1.4, at)], 0.12, street);
            }
            c.line(&[(0.0, -1.4), (0.0, 1.4)], 0.12, street);
            for y in [-0.86, -0.5, -0.18, 0.18, 0.5, 0.86] {
                for x in [-0.8, -0.4, 0.4, 0.8] {
                    let roof = hsv(
                        dice.within(0.0, 22.0),
                        dice.within(0.5, 0.75),
                        dice.within(0.55, 0.8),
                    );
                    c.bar(x - 0.12 + dice.about(0.05), y - 0.09, 0.24, 0.18, roof);
                }
            }
        }
        "factory" => {
            c.bar(-0.85, -0.75, 1.7, 1.5, hsv(220.0, 0.03, 0.6));
            let roof = hsv(210.0, dice.within(0.02, 0.15), 0.9);
            for (x, y, w, h) in [
                (-0.75, -0.65, 0.9, 0.55),
                (-0.75, 0.05, 0.6, 0.6),
                (0.02, 0.1, 0.75, 0.32),
            ] {
                c.bar(x, y, w, h, roof);
                c.line(
                    &[(x + w * 0.5, y), (x + w * 0.5, y + h)],
                    0.06,
                    darker(roof, 0.4),
                );
            }
            for y in [-0.42, -0.05] {
                c.disc(0.52, y, 0.16, WHITE);
                c.disc(0.52, y, 0.08, darker(roof, 0.5));
            }
        }
        "airport" => {
            let tarmac = hsv(220.0, 0.05, 0.34);
            let (x, y) = (1.4, 1.4 * lean);
            c.line(&[(-x, -y), (x, y)], 0.44, tarmac);
            c.line(
                &[(0.25 * y - 0.3, -0.35), (0.3 - 0.4 * lean, 0.9)],
                0.26,
                tarmac,
            );
            for i in -4..=4 {
                let t = i as f32 * 0.28;
                c.line(&[(t, t * lean), (t + 0.12, (t + 0.12) * lean)], 0.08, WHITE);
            }
            c.bar(0.35, 0.45, 0.42, 0.3, WHITE);
        }
        _ => {
            let soil = hsv(32.0, 0.42, 0.58);
            c.bar(-0.82, -0.82, 1.64, 1.64, soil);
            for row in 0..5 {
                for column in 0..5 {
                    let (x, y) = (-0.66 + column as f32 * 0.33, -0.66 + row as f32 * 0.33);
                    let green = hsv(120.0 + dice.about(10.0), 0.7, dice.within(0.3, 0.45));
                    c.disc(x, y, 0.125, green);
                }
            }
        }
    }
}
