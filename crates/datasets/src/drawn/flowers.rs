//! Flowers: a colour and a kind.

use tiny_skia::Transform;

use super::canvas::Canvas;
use super::colour::{Colour, darker, hsv, lighter, paint, quiet};
use super::dice::Dice;
use super::family::{Family, Parts, Slot, Word};

pub(super) static FAMILY: Family = Family {
    id: "flowers",
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

const COLOURS: &[Word] = &[
    Word::new("red", &["crimson", "scarlet"]),
    Word::new("orange", &["tangerine"]),
    Word::new("yellow", &["golden"]),
    Word::new("white", &["ivory"]),
    Word::new("pink", &["rosy"]),
    Word::new("purple", &["violet"]),
    Word::new("blue", &["azure"]),
];

const KINDS: &[Word] = &[
    Word::new("daisy", &["marguerite"]),
    Word::new("tulip", &[]),
    Word::new("rose", &[]),
    Word::new("lily", &[]),
    Word::new("bellflower", &["campanula"]),
    Word::new("lavender", &[]),
    Word::new("poppy", &[]),
    Word::new("thistle", &[]),
];

/// Foliage, sky or a wall, with blades of grass at times.
fn ground(c: &mut Canvas, _: &Parts, dice: &mut Dice) {
    let green = hsv(
        dice.within(85.0, 140.0),
        dice.within(0.2, 0.5),
        dice.within(0.35, 0.75),
    );
    let back = match dice.below(3) {
        0 => green,
        1 => hsv(205.0, dice.within(0.1, 0.35), dice.within(0.75, 0.95)),
        _ => quiet(dice),
    };
    c.flood(back);
    c.plainly(|c| {
        for _ in 0..dice.below(4) {
            let x = dice.about(1.0);
            let tip = x + dice.about(0.4);
            c.line(
                &[(x, 1.0), (tip, dice.within(0.0, 0.8))],
                0.1,
                darker(green, dice.within(0.0, 0.3)),
            );
        }
    });
}

fn stem(c: &mut Canvas, from: f32, dice: &mut Dice) {
    let green = hsv(dice.within(95.0, 130.0), 0.65, dice.within(0.35, 0.55));
    let bend = dice.about(0.2);
    c.course(0.12, green, |b| {
        b.move_to(0.0, from);
        b.quad_to(bend, 0.6, 0.0, 1.15);
    });
    c.leaf(0.3, 0.75, 0.32, 0.12, -32.0, green);
}

/// `count` petals around the middle, each an oval of half length `long` and half width `wide`.
fn corolla(c: &mut Canvas, count: usize, long: f32, wide: f32, turn: f32, colour: Colour) {
    for i in 0..count {
        let degrees = turn + 360.0 * i as f32 / count as f32;
        c.inside(Transform::from_rotate(degrees), |c| {
            c.oval(0.0, -long, wide, long, colour)
        });
    }
}

fn subject(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let colour = paint(parts.get("colour"), dice);
    let dark = darker(colour, 0.3);
    let deep = darker(colour, 0.5);
    let pale = lighter(colour, 0.35);
    let turn = dice.within(0.0, 360.0);
    let head = Transform::from_translate(0.0, -0.25);
    match parts.get("kind") {
        "daisy" => {
            stem(c, 0.0, dice);
            c.inside(head, |c| {
                corolla(c, 10, 0.36, 0.13, turn, colour);
                c.disc(0.0, 0.0, 0.26, hsv(45.0, 0.85, 0.85));
            });
        }
        "tulip" => {
            stem(c, 0.1, dice);
            c.outline(colour, |b| {
                b.move_to(-0.55, -0.9);
                b.line_to(-0.25, -0.55);
                b.line_to(0.0, -0.95);
                b.line_to(0.25, -0.55);
                b.line_to(0.55, -0.9);
                b.cubic_to(0.72, 0.0, 0.4, 0.3, 0.0, 0.3);
                b.cubic_to(-0.4, 0.3, -0.72, 0.0, -0.55, -0.9);
            });
            c.leaf(0.0, -0.25, 0.2, 0.5, 0.0, dark);
        }
        "rose" => {
            stem(c, 0.2, dice);
            c.inside(head, |c| {
                corolla(c, 5, 0.34, 0.42, turn, colour);
                c.disc(0.0, 0.0, 0.5, dark);
                c.disc(0.06, 0.04, 0.37, pale);
                c.disc(-0.03, 0.02, 0.24, dark);
                c.disc(0.02, 0.0, 0.11, pale);
            });
        }
        "lily" => {
            stem(c, 0.0, dice);
            c.inside(head, |c| {
                for i in 0..6 {
                    c.inside(Transform::from_rotate(turn + 60.0 * i as f32), |c| {
                        c.polygon(
                            &[(0.0, 0.0), (-0.2, -0.42), (0.0, -0.9), (0.2, -0.42)],
                            if i % 2 == 0 { colour } else { pale },
                        );
                        c.line(&[(0.0, -0.15), (0.0, -0.6)], 0.06, dark);
                    });
                }
                c.disc(0.0, 0.0, 0.13, hsv(55.0, 0.6, 0.95));
            });
        }
        "bellflower" => {
            let green = hsv(115.0, 0.6, 0.42);
            c.course(0.11, green, |b| {
                b.move_to(-0.5, 1.1);
                b.cubic_to(-0.7, -0.2, -0.5, -1.0, 0.2, -0.7);
            });
            for (x, y, size) in [(0.28, -0.25, 1.0), (-0.28, 0.3, 0.75)] {
                c.inside(Transform::from_row(size, 0.0, 0.0, size, x, y), |c| {
                    c.outline(colour, |b| {
                        b.move_to(0.0, -0.5);
                        b.cubic_to(0.45, -0.45, 0.3, 0.1, 0.55, 0.5);
                        b.line_to(0.25, 0.35);
                        b.line_to(0.0, 0.55);
                        b.line_to(-0.25, 0.35);
                        b.line_to(-0.55, 0.5);
                        b.cubic_to(-0.3, 0.1, -0.45, -0.45, 0.0, -0.5);
                    });
                    c.line(&[(0.0, -0.3), (0.0, 0.3)], 0.08, dark);
                });
            }
        }
        "lavender" => {
            for (x, lean) in [(-0.4, -0.25), (0.0, 0.0), (0.4, 0.25)] {
                let green = hsv(110.0, 0.45, 0.45);
                c.line(&[(x * 0.3, 1.1), (x + lean * 0.3, -0.1)], 0.09, green);
                for i in 0..5 {
                    let t = i as f32 / 4.0;
                    let wide = 0.19 - 0.09 * t;
                    c.oval(
                        x + lean * (0.3 + 0.6 * t),
                        0.1 - 0.95 * t,
                        wide,
                        0.14,
                        if i % 2 == 0 { colour } else { dark },
                    );
                }
            }
        }
        "poppy" => {
            stem(c, 0.1, dice);
            c.inside(head, |c| {
                corolla(c, 4, 0.36, 0.4, turn, colour);
                c.disc(0.0, 0.0, 0.24, hsv(270.0, 0.3, 0.14));
                c.disc(0.0, 0.0, 0.09, hsv(100.0, 0.4, 0.6));
            });
        }
        _ => {
            stem(c, 0.3, dice);
            for i in -4..=4 {
                c.inside(Transform::from_rotate_at(i as f32 * 15.0, 0.0, 0.05), |c| {
                    c.line(
                        &[(0.0, 0.05), (0.0, -0.85)],
                        0.1,
                        if i % 2 == 0 { colour } else { deep },
                    );
                });
            }
            c.oval(0.0, 0.15, 0.36, 0.32, hsv(110.0, 0.45, 0.38));
            c.line(&[(-0.24, 0.02), (0.24, 0.28)], 0.06, hsv(110.0, 0.3, 0.6));
            c.line(&[(0.24, 0.02), (-0.24, 0.28)], 0.06, hsv(110.0, 0.3, 0.6));
        }
    }
}
