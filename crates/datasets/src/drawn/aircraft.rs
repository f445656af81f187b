//! Things that fly, seen from the side: a colour and a kind.

use tiny_skia::Transform;

use super::canvas::Canvas;
use super::colour::{COLOURS, GREY, INK, WHITE, darker, hsv, lighter, paint, quiet};
use super::dice::Dice;
use super::family::{Family, Parts, Slot, Word};

pub(super) static FAMILY: Family = Family {
    id: "aircraft",
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
    Word::new("biplane", &[]),
    Word::new("jet", &["fighter"]),
    Word::new("airliner", &[]),
    Word::new("glider", &["sailplane"]),
    Word::new("helicopter", &["chopper"]),
    Word::new("seaplane", &["floatplane"]),
    Word::new("airship", &["blimp"]),
    Word::new("rocket", &[]),
];

/// Sky of any hour, at times with clouds or a strip of land.
fn ground(c: &mut Canvas, _: &Parts, dice: &mut Dice) {
    let sky = if dice.chance(0.75) {
        hsv(
            dice.within(195.0, 225.0),
            dice.within(0.1, 0.45),
            dice.within(0.7, 0.98),
        )
    } else {
        quiet(dice)
    };
    c.flood(sky);
    let cloud = lighter(sky, 0.6);
    c.plainly(|c| {
        for _ in 0..dice.below(3) {
            let (x, y) = (dice.about(0.9), dice.about(0.9));
            for (dx, r) in [(-0.2, 0.13), (0.0, 0.2), (0.22, 0.14)] {
                c.disc(x + dx, y, r, cloud);
            }
        }
        if dice.chance(0.3) {
            let land = hsv(dice.within(60.0, 130.0), 0.3, 0.55);
            c.bar(-1.0, 0.85, 2.0, 0.16, land);
        }
    });
}

fn subject(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let colour = paint(parts.get("colour"), dice);
    let dark = darker(colour, 0.35);
    let pale = lighter(colour, 0.35);
    let glass = hsv(205.0, 0.45, 0.55);
    match parts.get("kind") {
        "biplane" => {
            c.polygon(
                &[
                    (-0.75, -0.14),
                    (0.2, -0.2),
                    (0.95, -0.05),
                    (0.95, 0.06),
                    (-0.2, 0.26),
                    (-0.75, 0.2),
                ],
                colour,
            );
            c.polygon(&[(0.68, -0.05), (0.98, -0.45), (0.98, 0.0)], dark);
            for x in [-0.5, 0.05] {
                c.line(&[(x, -0.55), (x, 0.3)], 0.06, INK);
            }
            c.line(&[(-0.68, -0.55), (0.28, -0.55)], 0.15, colour);
            c.line(&[(-0.68, 0.3), (0.28, 0.3)], 0.15, dark);
            c.line(&[(-0.86, -0.38), (-0.86, 0.42)], 0.08, INK);
            c.disc(-0.42, 0.6, 0.15, INK);
        }
        "jet" => {
            c.polygon(
                &[
                    (-1.0, 0.1),
                    (-0.35, -0.16),
                    (0.9, -0.14),
                    (0.9, 0.2),
                    (-0.4, 0.24),
                ],
                colour,
            );
            c.polygon(
                &[(0.4, -0.12), (0.82, -0.68), (1.0, -0.68), (0.92, -0.1)],
                dark,
            );
            c.polygon(&[(-0.15, 0.1), (0.6, 0.1), (0.95, 0.58), (0.6, 0.52)], dark);
            c.leaf(-0.42, -0.12, 0.22, 0.1, -14.0, glass);
            c.bar(0.88, -0.06, 0.14, 0.2, hsv(20.0, 0.9, 0.95));
        }
        "airliner" => {
            c.polygon(
                &[(0.62, -0.1), (0.85, -0.65), (1.0, -0.65), (0.97, -0.05)],
                colour,
            );
            c.outline(WHITE, |b| {
                b.move_to(-0.98, 0.08);
                b.quad_to(-0.85, -0.22, -0.5, -0.22);
                b.line_to(0.98, -0.14);
                b.line_to(0.6, 0.24);
                b.line_to(-0.7, 0.26);
                b.quad_to(-0.95, 0.22, -0.98, 0.08);
            });
            c.polygon(
                &[(-0.95, 0.12), (0.7, 0.12), (0.6, 0.26), (-0.7, 0.28)],
                colour,
            );
            for i in 0..6 {
                c.bar(-0.6 + i as f32 * 0.2, -0.12, 0.09, 0.12, glass);
            }
            c.polygon(
                &[(-0.2, 0.12), (0.18, 0.12), (0.48, 0.66), (0.28, 0.66)],
                dark,
            );
            c.oval(0.02, 0.46, 0.2, 0.11, GREY);
        }
        "glider" => {
            c.inside(Transform::from_rotate(-16.0), |c| {
                c.polygon(
                    &[(-1.05, -0.1), (1.05, -0.1), (0.85, 0.06), (-0.85, 0.06)],
                    colour,
                );
                c.line(&[(0.0, -0.5), (0.0, 0.85)], 0.14, WHITE);
                c.oval(0.0, -0.3, 0.13, 0.36, WHITE);
                c.oval(0.0, -0.42, 0.08, 0.13, glass);
                c.bar(-0.3, 0.74, 0.6, 0.14, colour);
            });
        }
        "helicopter" => {
            c.line(&[(0.1, 0.0), (0.95, -0.12)], 0.15, dark);
            c.line(&[(0.92, -0.36), (0.96, 0.12)], 0.1, INK);
            c.line(&[(-0.2, -0.3), (-0.2, -0.55)], 0.1, INK);
            c.line(&[(-0.98, -0.56), (0.6, -0.56)], 0.1, INK);
            c.oval(-0.25, 0.05, 0.55, 0.38, colour);
            c.oval(-0.5, 0.0, 0.27, 0.24, glass);
            for x in [-0.45, 0.0] {
                c.line(&[(x, 0.35), (x, 0.6)], 0.07, INK);
            }
            c.line(&[(-0.75, 0.62), (0.3, 0.62)], 0.09, INK);
        }
        "seaplane" => {
            c.polygon(
                &[
                    (-0.8, -0.2),
                    (-0.3, -0.32),
                    (0.95, -0.2),
                    (0.95, -0.08),
                    (-0.2, 0.1),
                    (-0.8, 0.06),
                ],
                colour,
            );
            c.polygon(&[(0.66, -0.18), (0.98, -0.58), (0.98, -0.14)], dark);
            c.line(&[(-0.55, -0.45), (0.35, -0.45)], 0.14, pale);
            for x in [-0.4, 0.15] {
                c.line(&[(x, -0.45), (x, 0.5)], 0.07, INK);
            }
            c.outline(dark, |b| {
                b.move_to(-0.95, 0.42);
                b.line_to(0.6, 0.42);
                b.line_to(0.4, 0.66);
                b.line_to(-0.6, 0.66);
            });
            c.line(&[(-0.9, -0.4), (-0.9, 0.25)], 0.07, INK);
        }
        "airship" => {
            c.polygon(
                &[(0.5, -0.2), (0.98, -0.62), (0.98, 0.36), (0.5, 0.0)],
                dark,
            );
            c.oval(-0.05, -0.12, 0.92, 0.42, colour);
            c.oval(-0.05, -0.24, 0.7, 0.14, pale);
            c.bar(-0.35, 0.28, 0.55, 0.22, INK);
            c.bar(-0.25, 0.34, 0.3, 0.1, WHITE);
        }
        _ => c.inside(Transform::from_rotate(28.0), |c| {
            c.polygon(
                &[(-0.16, 0.6), (0.16, 0.6), (0.0, 1.05)],
                hsv(35.0, 0.95, 1.0),
            );
            c.polygon(&[(-0.28, 0.1), (-0.6, 0.7), (-0.2, 0.55)], dark);
            c.polygon(&[(0.28, 0.1), (0.6, 0.7), (0.2, 0.55)], dark);
            c.outline(colour, |b| {
                b.move_to(0.0, -1.0);
                b.cubic_to(0.42, -0.5, 0.34, 0.2, 0.24, 0.62);
                b.line_to(-0.24, 0.62);
                b.cubic_to(-0.34, 0.2, -0.42, -0.5, 0.0, -1.0);
            });
            c.disc(0.0, -0.25, 0.15, WHITE);
        }),
    }
}
