//! Things on a table or a wall: a kind and a colour.

use tiny_skia::Transform;

use super::canvas::Canvas;
use super::colour::{COLOURS, Colour, GREY, INK, WHITE, darker, hsv, lighter, paint, quiet};
use super::dice::Dice;
use super::family::{Family, Parts, Slot, Word};

pub(super) static FAMILY: Family = Family {
    id: "objects",
    slots: &[
        Slot {
            name: "colour",
            words: COLOURS,
            said: 0.85,
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
    fills: false,
};

const KINDS: &[Word] = &[
    Word::new("cup", &["mug"]),
    Word::new("lamp", &[]),
    Word::new("chair", &[]),
    Word::new("clock", &[]),
    Word::new("umbrella", &["parasol"]),
    Word::new("kite", &[]),
    Word::new("bottle", &[]),
    Word::new("hat", &[]),
    Word::new("guitar", &[]),
    Word::new("key", &[]),
    Word::new("bell", &[]),
    Word::new("sailboat", &["boat"]),
];

/// A wall, at times above a table.
pub(super) fn ground(c: &mut Canvas, _: &Parts, dice: &mut Dice) {
    c.flood(quiet(dice));
    if dice.chance(0.6) {
        let top = dice.within(0.2, 0.7);
        let colour = quiet(dice);
        c.plainly(|c| c.bar(-1.0, top, 2.0, 1.0 - top + 0.01, colour));
    }
}

fn subject(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let colour = paint(parts.get("colour"), dice);
    let dark = darker(colour, 0.4);
    let pale = lighter(colour, 0.4);
    let wood = hsv(28.0, 0.5, dice.within(0.4, 0.6));
    match parts.get("kind") {
        "cup" => cup(c, colour, dark),
        "lamp" => {
            c.line(&[(0.0, -0.1), (0.0, 0.8)], 0.12, wood);
            c.bar(-0.4, 0.75, 0.8, 0.18, wood);
            c.polygon(
                &[(-0.35, -0.9), (0.35, -0.9), (0.7, -0.05), (-0.7, -0.05)],
                colour,
            );
            c.polygon(
                &[(-0.1, -0.85), (0.1, -0.85), (0.2, -0.1), (-0.2, -0.1)],
                pale,
            );
        }
        "chair" => {
            for (top, foot) in [(-0.45, -0.55), (0.5, 0.6)] {
                c.line(&[(top, 0.2), (foot, 0.95)], 0.14, dark);
            }
            c.line(&[(-0.5, 0.2), (-0.6, -0.95)], 0.16, dark);
            c.bar(-0.62, -0.85, 0.24, 0.75, colour);
            c.bar(-0.58, 0.05, 1.2, 0.25, colour);
        }
        "clock" => {
            c.disc(0.0, 0.0, 0.88, colour);
            c.disc(0.0, 0.0, 0.62, WHITE);
            let minute = dice.within(0.0, 6.28);
            let hour = minute + dice.within(1.0, 5.0);
            c.line(
                &[(0.0, 0.0), (0.48 * minute.cos(), 0.48 * minute.sin())],
                0.11,
                INK,
            );
            c.line(
                &[(0.0, 0.0), (0.32 * hour.cos(), 0.32 * hour.sin())],
                0.13,
                INK,
            );
        }
        "umbrella" => umbrella(c, colour, dark),
        "kite" => {
            c.course(0.07, INK, |b| {
                b.move_to(0.0, 0.35);
                b.quad_to(0.5, 0.6, 0.1, 0.72);
                b.quad_to(-0.2, 0.85, 0.3, 1.0);
            });
            c.polygon(
                &[(0.0, -0.98), (0.62, -0.35), (0.0, 0.45), (-0.62, -0.35)],
                colour,
            );
            c.polygon(&[(0.0, -0.98), (0.0, -0.35), (-0.62, -0.35)], pale);
            c.polygon(&[(0.0, -0.35), (0.62, -0.35), (0.0, 0.45)], dark);
        }
        "bottle" => {
            c.bar(-0.14, -0.98, 0.28, 0.5, dark);
            c.outline(colour, |b| {
                b.move_to(-0.14, -0.6);
                b.line_to(0.14, -0.6);
                b.quad_to(0.4, -0.4, 0.4, -0.1);
                b.line_to(0.4, 0.95);
                b.line_to(-0.4, 0.95);
                b.line_to(-0.4, -0.1);
                b.quad_to(-0.4, -0.4, -0.14, -0.6);
            });
            c.bar(-0.4, 0.12, 0.8, 0.42, WHITE);
        }
        "hat" => {
            c.oval(0.0, 0.5, 0.98, 0.24, dark);
            c.outline(colour, |b| {
                b.move_to(-0.55, 0.5);
                b.line_to(-0.48, -0.35);
                b.quad_to(0.0, -0.75, 0.48, -0.35);
                b.line_to(0.55, 0.5);
                b.quad_to(0.0, 0.7, -0.55, 0.5);
            });
            c.line(
                &[(-0.53, 0.27), (0.0, 0.37), (0.53, 0.27)],
                0.17,
                if colour[0] > 0.5 { INK } else { WHITE },
            );
        }
        "guitar" => c.inside(Transform::from_rotate(38.0), |c| {
            c.line(&[(0.0, 0.0), (0.0, -0.95)], 0.17, wood);
            c.bar(-0.16, -1.12, 0.32, 0.26, dark);
            c.disc(0.0, 0.1, 0.38, colour);
            c.disc(0.0, 0.58, 0.52, colour);
            c.disc(0.0, 0.3, 0.17, INK);
            c.bar(-0.22, 0.66, 0.44, 0.1, INK);
        }),
        "key" => c.inside(Transform::from_rotate(-35.0), |c| {
            c.line(&[(-0.2, 0.0), (0.98, 0.0)], 0.2, colour);
            c.line(&[(0.62, 0.0), (0.62, 0.34)], 0.18, colour);
            c.line(&[(0.92, 0.0), (0.92, 0.4)], 0.18, colour);
            c.ring(-0.55, 0.0, 0.34, 0.25, colour);
        }),
        "bell" => {
            c.disc(0.0, 0.72, 0.2, INK);
            c.outline(colour, |b| {
                b.move_to(-0.85, 0.62);
                b.quad_to(-0.5, 0.35, -0.48, -0.1);
                b.quad_to(-0.42, -0.8, 0.0, -0.82);
                b.quad_to(0.42, -0.8, 0.48, -0.1);
                b.quad_to(0.5, 0.35, 0.85, 0.62);
            });
            c.ring(0.0, -0.88, 0.1, 0.09, dark);
            c.line(&[(-0.68, 0.46), (0.68, 0.46)], 0.12, pale);
        }
        _ => sailboat(c, colour, wood),
    }
}

fn cup(c: &mut Canvas, colour: Colour, dark: Colour) {
    c.course(0.17, dark, |b| {
        b.move_to(0.4, -0.25);
        b.cubic_to(1.05, -0.35, 1.0, 0.45, 0.35, 0.4);
    });
    c.polygon(
        &[(-0.72, -0.55), (0.5, -0.55), (0.38, 0.75), (-0.6, 0.75)],
        colour,
    );
    c.oval(-0.11, -0.55, 0.61, 0.17, dark);
    c.oval(-0.11, -0.52, 0.46, 0.1, hsv(25.0, 0.6, 0.3));
}

/// The open umbrella, also held by people.
pub(super) fn umbrella(c: &mut Canvas, colour: Colour, dark: Colour) {
    c.course(0.1, INK, |b| {
        b.move_to(0.0, -0.6);
        b.line_to(0.0, 0.7);
        b.cubic_to(0.0, 1.0, 0.35, 1.0, 0.33, 0.68);
    });
    c.outline(colour, |b| {
        b.move_to(-0.98, 0.08);
        b.cubic_to(-0.9, -1.2, 0.9, -1.2, 0.98, 0.08);
        b.quad_to(0.65, -0.18, 0.33, 0.08);
        b.quad_to(0.0, -0.18, -0.33, 0.08);
        b.quad_to(-0.65, -0.18, -0.98, 0.08);
    });
    c.outline(dark, |b| {
        b.move_to(0.0, -0.88);
        b.quad_to(-0.35, -0.4, -0.33, 0.08);
        b.quad_to(0.0, -0.18, 0.33, 0.08);
        b.quad_to(0.35, -0.4, 0.0, -0.88);
    });
}

fn sailboat(c: &mut Canvas, colour: Colour, wood: Colour) {
    c.line(&[(0.0, 0.4), (0.0, -0.95)], 0.1, wood);
    c.polygon(&[(0.08, -0.92), (0.08, 0.28), (0.8, 0.28)], WHITE);
    c.polygon(&[(-0.08, -0.75), (-0.08, 0.28), (-0.62, 0.28)], GREY);
    c.polygon(
        &[(-0.95, 0.4), (0.95, 0.4), (0.6, 0.88), (-0.6, 0.88)],
        colour,
    );
}
