//! Vehicles seen from the side: a colour and a body.

use super::canvas::Canvas;
use super::colour::{COLOURS, Colour, GREY, INK, darker, hsv, lighter, paint, quiet};
use super::dice::Dice;
use super::family::{Family, Parts, Slot, Word};

pub(super) static FAMILY: Family = Family {
    id: "cars",
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
    Word::new("sedan", &["saloon"]),
    Word::new("van", &[]),
    Word::new("bus", &["coach"]),
    Word::new("convertible", &["cabriolet"]),
    Word::new("pickup", &[]),
    Word::new("truck", &["lorry"]),
    Word::new("racer", &[]),
    Word::new("tractor", &[]),
];

/// A street: sky or wall, kerb, asphalt.
fn ground(c: &mut Canvas, _: &Parts, dice: &mut Dice) {
    c.flood(if dice.chance(0.5) {
        hsv(
            dice.within(195.0, 225.0),
            dice.within(0.1, 0.35),
            dice.within(0.8, 0.98),
        )
    } else {
        quiet(dice)
    });
    let road = hsv(220.0, 0.05, dice.within(0.35, 0.62));
    let top = dice.within(0.3, 0.5);
    c.plainly(|c| {
        c.bar(-1.0, top, 2.0, 1.0 - top + 0.01, road);
        if dice.chance(0.5) {
            c.line(&[(-1.0, 0.9), (1.0, 0.9)], 0.07, lighter(road, 0.6));
        }
    });
}

fn wheels(c: &mut Canvas, places: &[(f32, f32)]) {
    for &(x, radius) in places {
        c.disc(x, 0.72 - radius, radius, INK);
        c.disc(x, 0.72 - radius, radius * 0.45, GREY);
    }
}

fn subject(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let colour = paint(parts.get("colour"), dice);
    let dark = darker(colour, 0.35);
    let glass: Colour = hsv(205.0, dice.within(0.2, 0.4), dice.within(0.75, 0.95));
    let lamp = hsv(52.0, 0.6, 1.0);
    match parts.get("kind") {
        "sedan" => {
            c.polygon(
                &[(-0.6, 0.1), (-0.36, -0.36), (0.3, -0.36), (0.58, 0.1)],
                colour,
            );
            c.polygon(
                &[(-0.42, 0.06), (-0.28, -0.24), (-0.04, -0.24), (-0.04, 0.06)],
                glass,
            );
            c.polygon(
                &[(0.06, 0.06), (0.06, -0.24), (0.24, -0.24), (0.4, 0.06)],
                glass,
            );
            c.polygon(
                &[(-0.98, 0.12), (0.9, 0.06), (0.98, 0.5), (-0.98, 0.5)],
                colour,
            );
            c.disc(-0.9, 0.24, 0.09, lamp);
            wheels(c, &[(-0.55, 0.24), (0.55, 0.24)]);
        }
        "van" => {
            c.polygon(
                &[
                    (-0.95, 0.05),
                    (-0.68, -0.58),
                    (0.92, -0.58),
                    (0.92, 0.5),
                    (-0.95, 0.5),
                ],
                colour,
            );
            c.polygon(
                &[(-0.78, 0.02), (-0.58, -0.44), (-0.28, -0.44), (-0.28, 0.02)],
                glass,
            );
            c.bar(0.3, -0.44, 0.45, 0.4, glass);
            c.line(&[(0.02, -0.5), (0.02, 0.42)], 0.06, dark);
            c.disc(-0.88, 0.24, 0.09, lamp);
            wheels(c, &[(-0.52, 0.24), (0.55, 0.24)]);
        }
        "bus" => {
            c.bar(-0.98, -0.72, 1.96, 1.24, colour);
            for x in [-0.86, -0.42, 0.02, 0.46] {
                c.bar(x, -0.52, 0.34, 0.4, glass);
            }
            c.bar(-0.98, 0.16, 1.96, 0.1, dark);
            wheels(c, &[(-0.58, 0.21), (0.58, 0.21)]);
        }
        "convertible" => {
            c.polygon(
                &[
                    (-0.98, 0.14),
                    (-0.3, 0.02),
                    (0.9, 0.02),
                    (0.98, 0.48),
                    (-0.98, 0.48),
                ],
                colour,
            );
            c.line(&[(-0.3, 0.02), (-0.05, -0.38)], 0.1, glass);
            c.disc(0.14, -0.3, 0.15, hsv(25.0, 0.45, 0.8));
            c.bar(0.02, -0.16, 0.26, 0.2, dark);
            c.line(&[(0.42, 0.02), (0.5, -0.14)], 0.16, dark);
            c.disc(-0.9, 0.24, 0.09, lamp);
            wheels(c, &[(-0.55, 0.25), (0.55, 0.25)]);
        }
        "pickup" => {
            c.polygon(
                &[(-0.5, 0.05), (-0.34, -0.46), (0.12, -0.46), (0.12, 0.05)],
                colour,
            );
            c.polygon(
                &[(-0.38, 0.0), (-0.26, -0.34), (0.02, -0.34), (0.02, 0.0)],
                glass,
            );
            c.bar(-0.98, 0.02, 1.1, 0.46, colour);
            c.bar(0.12, 0.2, 0.86, 0.28, colour);
            c.bar(0.14, 0.02, 0.84, 0.1, dark);
            c.bar(0.86, 0.02, 0.12, 0.3, dark);
            c.disc(-0.9, 0.2, 0.09, lamp);
            wheels(c, &[(-0.58, 0.25), (0.56, 0.25)]);
        }
        "truck" => {
            c.bar(-0.3, -0.82, 1.28, 1.2, lighter(GREY, 0.6));
            c.bar(-0.3, -0.82, 1.28, 0.14, GREY);
            c.polygon(
                &[
                    (-0.98, -0.05),
                    (-0.8, -0.42),
                    (-0.38, -0.42),
                    (-0.38, 0.5),
                    (-0.98, 0.5),
                ],
                colour,
            );
            c.polygon(
                &[(-0.88, -0.04), (-0.74, -0.3), (-0.48, -0.3), (-0.48, -0.04)],
                glass,
            );
            c.bar(-0.98, 0.36, 1.96, 0.16, dark);
            wheels(c, &[(-0.66, 0.21), (0.28, 0.21), (0.72, 0.21)]);
        }
        "racer" => {
            c.polygon(
                &[
                    (-1.0, 0.42),
                    (-0.2, 0.1),
                    (0.75, 0.12),
                    (0.95, 0.48),
                    (-1.0, 0.52),
                ],
                colour,
            );
            c.line(&[(0.85, 0.1), (0.85, -0.26)], 0.1, dark);
            c.line(&[(0.62, -0.28), (1.0, -0.28)], 0.14, colour);
            c.disc(0.06, 0.02, 0.17, lighter(GREY, 0.5));
            c.line(&[(-0.08, 0.05), (0.05, 0.05)], 0.08, INK);
            wheels(c, &[(-0.6, 0.25), (0.6, 0.32)]);
        }
        _ => {
            c.bar(-0.9, -0.02, 0.98, 0.42, colour);
            c.line(&[(-0.62, 0.0), (-0.62, -0.5)], 0.11, INK);
            c.bar(0.05, -0.72, 0.72, 0.8, colour);
            c.bar(0.16, -0.58, 0.5, 0.42, glass);
            c.bar(-0.02, -0.8, 0.88, 0.12, dark);
            wheels(c, &[(-0.62, 0.26), (0.42, 0.48)]);
        }
    }
}
