//! Dishes: a dish and what is on it.

use super::canvas::Canvas;
use super::colour::{Colour, INK, WHITE, darker, hsv, lighter, quiet};
use super::dice::Dice;
use super::family::{Family, Parts, Slot, Word};

pub(super) static FAMILY: Family = Family {
    id: "food",
    slots: &[
        Slot {
            name: "dish",
            words: DISHES,
            said: 1.0,
        },
        Slot {
            name: "topping",
            words: TOPPINGS,
            said: 0.85,
        },
    ],
    ground,
    subject,
    flips: true,
    fills: false,
};

const DISHES: &[Word] = &[
    Word::new("pizza", &[]),
    Word::new("burger", &["hamburger"]),
    Word::new("soup", &["broth"]),
    Word::new("cake", &[]),
    Word::new("salad", &[]),
    Word::new("noodles", &["spaghetti"]),
    Word::new("pancakes", &[]),
    Word::new("pie", &["tart"]),
];

const TOPPINGS: &[Word] = &[
    Word::new("with tomatoes", &[]),
    Word::new("with olives", &[]),
    Word::new("with peas", &[]),
    Word::new("with berries", &["with blueberries"]),
    Word::new("with carrots", &[]),
    Word::new("with eggs", &[]),
    Word::new("with mushrooms", &[]),
    Word::new("with cheese", &[]),
];

/// A table top, plain, wooden or chequered.
fn ground(c: &mut Canvas, _: &Parts, dice: &mut Dice) {
    let top = quiet(dice);
    c.flood(top);
    let line = darker(top, 0.15);
    match dice.below(3) {
        0 => c.plainly(|c| {
            (-3..4).for_each(|i| {
                c.line(
                    &[(-1.0, i as f32 * 0.34), (1.0, i as f32 * 0.34)],
                    0.04,
                    line,
                )
            })
        }),
        1 => c.plainly(|c| {
            for i in -2..3 {
                let at = i as f32 * 0.5;
                c.veil(-1.0, at - 0.1, 2.0, 0.2, line, 0.5);
                c.veil(at - 0.1, -1.0, 0.2, 2.0, line, 0.5);
            }
        }),
        _ => {}
    }
}

/// Where the topping goes: centre, radii of the oval, and size of a piece.
struct Bed(f32, f32, f32, f32, f32);

fn subject(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let crust = hsv(30.0 + dice.about(4.0), 0.55, 0.72);
    let bed = match parts.get("dish") {
        "pizza" => {
            c.disc(0.0, 0.0, 0.95, crust);
            c.disc(0.0, 0.0, 0.8, hsv(44.0, 0.55, 0.95));
            for i in 0..4 {
                let (sin, cos) = (i as f32 * 0.785 + 0.4).sin_cos();
                c.line(
                    &[(-0.9 * cos, -0.9 * sin), (0.9 * cos, 0.9 * sin)],
                    0.04,
                    darker(crust, 0.2),
                );
            }
            Bed(0.0, 0.0, 0.62, 0.62, 0.17)
        }
        "burger" => {
            c.outline(crust, |b| {
                b.move_to(-0.85, 0.4);
                b.line_to(0.85, 0.4);
                b.quad_to(0.85, 0.85, 0.5, 0.85);
                b.line_to(-0.5, 0.85);
                b.quad_to(-0.85, 0.85, -0.85, 0.4);
            });
            c.bar(-0.9, 0.22, 1.8, 0.24, hsv(18.0, 0.6, 0.32));
            c.line(
                &[
                    (-0.88, 0.12),
                    (-0.45, 0.2),
                    (0.0, 0.1),
                    (0.45, 0.2),
                    (0.88, 0.12),
                ],
                0.13,
                hsv(100.0, 0.65, 0.65),
            );
            c.outline(crust, |b| {
                b.move_to(-0.88, 0.04);
                b.cubic_to(-0.85, -0.55, 0.85, -0.55, 0.88, 0.04);
            });
            Bed(0.0, -0.36, 0.58, 0.2, 0.16)
        }
        "soup" => {
            let bowl = hsv(dice.within(190.0, 240.0), 0.35, 0.75);
            c.outline(bowl, |b| {
                b.move_to(-0.95, -0.1);
                b.cubic_to(-0.85, 0.95, 0.85, 0.95, 0.95, -0.1);
            });
            c.oval(0.0, -0.12, 0.95, 0.42, lighter(bowl, 0.6));
            c.oval(0.0, -0.1, 0.8, 0.32, hsv(32.0, 0.62, 0.9));
            Bed(0.0, -0.1, 0.55, 0.18, 0.14)
        }
        "cake" => {
            c.bar(-0.8, -0.2, 1.6, 0.95, hsv(32.0, 0.45, 0.82));
            c.bar(-0.8, 0.2, 1.6, 0.16, hsv(345.0, 0.45, 0.9));
            c.oval(0.0, -0.2, 0.8, 0.32, WHITE);
            for (x, drop) in [(-0.62, 0.24), (-0.2, 0.14), (0.2, 0.26), (0.6, 0.16)] {
                c.line(&[(x, -0.05), (x, drop - 0.05)], 0.22, WHITE);
            }
            Bed(0.0, -0.3, 0.56, 0.2, 0.16)
        }
        "salad" => {
            c.oval(0.0, 0.25, 0.98, 0.66, hsv(30.0, 0.5, 0.5));
            for i in 0..9 {
                let angle = i as f32 * 0.7 + dice.about(0.2);
                let green = hsv(dice.within(85.0, 120.0), 0.65, dice.within(0.5, 0.8));
                c.leaf(
                    0.58 * angle.cos(),
                    0.12 + 0.36 * angle.sin(),
                    0.36,
                    0.22,
                    angle.to_degrees(),
                    green,
                );
            }
            c.disc(0.0, 0.1, 0.42, hsv(95.0, 0.55, 0.75));
            Bed(0.0, 0.08, 0.52, 0.36, 0.16)
        }
        "noodles" => {
            c.oval(0.0, 0.2, 0.98, 0.72, WHITE);
            c.oval(0.0, 0.18, 0.72, 0.52, hsv(45.0, 0.5, 0.86));
            for i in 0..6 {
                let y = -0.18 + i as f32 * 0.15;
                let shade = hsv(40.0, 0.6, if i % 2 == 0 { 0.7 } else { 0.97 });
                c.course(0.07, shade, |b| {
                    b.move_to(-0.62, y);
                    b.cubic_to(-0.2, y - 0.34, 0.2, y + 0.34, 0.62, y - 0.05);
                });
            }
            Bed(0.0, 0.1, 0.48, 0.32, 0.16)
        }
        "pancakes" => {
            c.oval(0.0, 0.68, 0.98, 0.28, WHITE);
            for i in 0..4 {
                let y = 0.55 - 0.24 * i as f32;
                c.oval(dice.about(0.05), y, 0.78, 0.27, hsv(28.0, 0.65, 0.6));
                c.oval(0.0, y - 0.07, 0.76, 0.24, hsv(36.0, 0.6, 0.88));
            }
            Bed(0.0, -0.22, 0.5, 0.14, 0.15)
        }
        _ => {
            c.disc(0.0, 0.0, 0.95, TIN);
            c.disc(0.0, 0.0, 0.86, crust);
            for i in 0..12 {
                let (sin, cos) = (i as f32 * 0.5236).sin_cos();
                c.disc(0.76 * cos, 0.76 * sin, 0.15, lighter(crust, 0.25));
            }
            for i in [-0.36, 0.0, 0.36] {
                c.line(&[(i, -0.62), (i, 0.62)], 0.12, lighter(crust, 0.45));
                c.line(&[(-0.62, i), (0.62, i)], 0.12, lighter(crust, 0.45));
            }
            Bed(0.0, 0.0, 0.55, 0.55, 0.16)
        }
    };
    top(c, &bed, parts.get("topping"), dice);
}

const TIN: Colour = [0.62, 0.62, 0.66];

fn top(c: &mut Canvas, &Bed(x, y, rx, ry, size): &Bed, topping: &str, dice: &mut Dice) {
    // Around the bed with one in the middle, so that pieces seldom hide each other.
    let count = if topping == "with eggs" { 3 } else { 6 };
    let turn = dice.within(0.0, 6.28);
    for i in 0..count {
        let angle = turn + std::f32::consts::TAU * i as f32 / (count - 1).max(1) as f32;
        let far = if i == 0 { 0.0 } else { 0.82 + dice.about(0.15) };
        let (px, py) = (x + rx * far * angle.cos(), y + ry * far * angle.sin());
        let s = size * dice.within(0.85, 1.15);
        match topping {
            "with tomatoes" => {
                c.disc(px, py, s, hsv(3.0, 0.85, 0.82));
                c.disc(px, py, s * 0.45, hsv(12.0, 0.6, 0.95));
            }
            "with olives" => c.ring(px, py, s * 0.72, s * 0.75, INK),
            "with peas" => {
                c.disc(px, py, s * 0.68, hsv(112.0, 0.8, 0.62));
                c.disc(px + s * 1.1, py + s * 0.5, s * 0.6, hsv(118.0, 0.8, 0.5));
            }
            "with berries" => {
                c.disc(px, py, s * 0.9, hsv(245.0, 0.65, 0.52));
                c.disc(px - s * 0.25, py - s * 0.3, s * 0.3, hsv(240.0, 0.3, 0.8));
            }
            "with carrots" => {
                let (sin, cos) = dice.within(0.0, 3.14).sin_cos();
                c.line(
                    &[(px - s * cos, py - s * sin), (px + s * cos, py + s * sin)],
                    s * 0.75,
                    hsv(22.0, 0.95, 0.98),
                );
            }
            "with eggs" => {
                c.oval(px, py, s * 1.8, s * 1.45, WHITE);
                c.disc(px, py, s * 0.8, hsv(45.0, 0.95, 1.0));
            }
            "with mushrooms" => {
                c.line(
                    &[(px, py), (px, py + s * 1.1)],
                    s * 0.7,
                    hsv(40.0, 0.15, 0.9),
                );
                c.outline(hsv(25.0, 0.35, 0.48), |b| {
                    b.move_to(px - s * 1.2, py + s * 0.1);
                    b.cubic_to(
                        px - s,
                        py - s * 1.5,
                        px + s,
                        py - s * 1.5,
                        px + s * 1.2,
                        py + s * 0.1,
                    );
                });
            }
            _ => {
                let (h, w) = (s * 1.3, s * 1.5);
                c.polygon(
                    &[
                        (px - w, py + h * 0.6),
                        (px + w, py + h * 0.6),
                        (px + w, py - h * 0.7),
                    ],
                    hsv(54.0, 0.95, 1.0),
                );
                c.disc(px + w * 0.45, py + h * 0.1, s * 0.3, hsv(38.0, 0.95, 0.7));
            }
        }
    }
}
