//! Animals seen from the side or front: a coat, a colour and a kind.

use super::canvas::Canvas;
use super::colour::{Colour, INK, WHITE, darker, hsv, lighter, marking, mix, paint, quiet};
use super::dice::Dice;
use super::family::{Family, Parts, Slot, Word};

pub(super) static FAMILY: Family = Family {
    id: "pets",
    slots: &[
        Slot {
            name: "coat",
            words: COATS,
            said: 0.85,
        },
        Slot {
            name: "colour",
            words: COLOURS,
            said: 0.4,
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

const COATS: &[Word] = &[
    Word::new("plain", &["solid"]),
    Word::new("striped", &["tabby", "banded"]),
    Word::new("spotted", &["speckled"]),
    Word::new("patched", &["piebald"]),
];

const COLOURS: &[Word] = &[
    Word::new("ginger", &[]),
    Word::new("brown", &[]),
    Word::new("white", &[]),
    Word::new("black", &[]),
    Word::new("grey", &[]),
];

const KINDS: &[Word] = &[
    Word::new("cat", &["kitten"]),
    Word::new("dog", &["hound"]),
    Word::new("rabbit", &["bunny"]),
    Word::new("bird", &["parrot"]),
    Word::new("turtle", &["tortoise"]),
    Word::new("fish", &[]),
];

/// A lawn or a room.
fn ground(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    if parts.get("kind") == "fish" && dice.chance(0.5) {
        let water = hsv(
            dice.within(185.0, 215.0),
            dice.within(0.2, 0.45),
            dice.within(0.7, 0.95),
        );
        return c.flood(water);
    }
    c.flood(lighter(quiet(dice), 0.35));
    let floor = if dice.chance(0.5) {
        hsv(
            dice.within(85.0, 125.0),
            dice.within(0.25, 0.5),
            dice.within(0.55, 0.8),
        )
    } else {
        quiet(dice)
    };
    let top = dice.within(0.3, 0.6);
    c.plainly(|c| c.bar(-1.0, top, 2.0, 1.0 - top + 0.01, floor));
}

/// An oval of the body on which marks may lie: centre and radii.
type Flank = (f32, f32, f32, f32);

fn subject(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let fur = match parts.get("colour") {
        "ginger" => hsv(28.0 + dice.about(5.0), 0.72, 0.9 + dice.about(0.06)),
        word => paint(word, dice),
    };
    let coat = parts.get("coat");
    let mark = marking(fur);
    let legs = darker(fur, 0.18);
    match parts.get("kind") {
        "cat" => {
            c.course(0.17, fur, |b| {
                b.move_to(0.6, 0.45);
                b.cubic_to(1.15, 0.35, 0.7, -0.25, 0.98, -0.55);
            });
            for x in [-0.3, -0.02, 0.38, 0.62] {
                c.line(&[(x, 0.45), (x, 0.88)], 0.19, legs);
            }
            let flank = (0.2, 0.3, 0.56, 0.36);
            body(c, flank, fur, mark, coat, dice);
            c.polygon(&[(-0.92, -0.42), (-0.86, -0.98), (-0.5, -0.62)], fur);
            c.polygon(&[(-0.08, -0.42), (-0.14, -0.98), (-0.5, -0.62)], fur);
            head(c, (-0.5, -0.3, 0.46, 0.4), fur, mark, coat);
            eyes(c, -0.5, -0.32, 0.2, hsv(95.0, 0.7, 0.75));
            c.polygon(
                &[(-0.6, -0.16), (-0.4, -0.16), (-0.5, -0.06)],
                hsv(345.0, 0.5, 0.8),
            );
        }
        "dog" => {
            c.line(&[(0.68, 0.05), (0.95, -0.4)], 0.16, fur);
            for x in [-0.25, 0.0, 0.45, 0.68] {
                c.line(&[(x, 0.3), (x, 0.9)], 0.21, legs);
            }
            let flank = (0.2, 0.15, 0.62, 0.34);
            body(c, flank, fur, mark, coat, dice);
            head(c, (-0.48, -0.35, 0.38, 0.38), fur, mark, "plain");
            c.oval(-0.78, -0.2, 0.26, 0.2, lighter(fur, 0.25));
            c.disc(-0.98, -0.26, 0.1, INK);
            c.disc(-0.55, -0.42, 0.085, INK);
            c.leaf(-0.18, -0.2, 0.17, 0.4, -14.0, darker(fur, 0.45));
        }
        "rabbit" => {
            c.disc(0.72, 0.55, 0.18, lighter(fur, 0.6));
            let flank = (0.2, 0.42, 0.58, 0.46);
            c.leaf(-0.62, -0.62, 0.14, 0.42, -12.0, fur);
            c.leaf(-0.28, -0.64, 0.14, 0.42, 12.0, fur);
            c.leaf(-0.28, -0.6, 0.06, 0.28, 12.0, hsv(345.0, 0.35, 0.92));
            body(c, flank, fur, mark, coat, dice);
            c.oval(0.4, 0.8, 0.36, 0.15, legs);
            c.oval(-0.3, 0.82, 0.25, 0.13, legs);
            head(c, (-0.46, -0.02, 0.36, 0.32), fur, mark, "plain");
            c.disc(-0.55, -0.08, 0.085, INK);
            c.disc(-0.8, 0.02, 0.06, hsv(345.0, 0.5, 0.8));
        }
        "bird" => {
            for x in [-0.08, 0.2] {
                c.line(&[(x, 0.45), (x - 0.05, 0.92)], 0.09, hsv(35.0, 0.8, 0.8));
            }
            c.polygon(
                &[(0.3, 0.05), (1.0, 0.3), (0.9, 0.55), (0.25, 0.45)],
                darker(fur, 0.3),
            );
            let flank = (0.05, 0.12, 0.58, 0.46);
            body(c, flank, fur, mark, coat, dice);
            c.leaf(0.22, 0.12, 0.4, 0.2, 22.0, darker(fur, 0.35));
            head(c, (-0.42, -0.45, 0.34, 0.33), fur, mark, "plain");
            c.polygon(
                &[(-0.7, -0.58), (-0.7, -0.28), (-1.05, -0.38)],
                hsv(38.0, 0.9, 0.95),
            );
            c.disc(-0.48, -0.5, 0.09, INK);
        }
        "turtle" => {
            let skin = hsv(95.0, 0.45, 0.5);
            c.oval(-0.82, 0.2, 0.22, 0.18, skin);
            c.disc(-0.88, 0.15, 0.06, INK);
            for x in [-0.45, 0.45] {
                c.oval(x, 0.6, 0.17, 0.2, skin);
            }
            c.polygon(&[(0.6, 0.4), (0.98, 0.55), (0.6, 0.55)], skin);
            let flank = (0.0, 0.1, 0.72, 0.5);
            body(c, flank, fur, mark, coat, dice);
            c.bar(-0.76, 0.42, 1.52, 0.13, mix(fur, skin, 0.5));
        }
        _ => {
            c.polygon(
                &[(0.45, 0.0), (0.98, -0.48), (0.85, 0.0), (0.98, 0.48)],
                darker(fur, 0.25),
            );
            c.polygon(
                &[(-0.2, -0.4), (0.3, -0.75), (0.3, -0.3)],
                darker(fur, 0.25),
            );
            c.polygon(&[(-0.1, 0.4), (0.2, 0.68), (0.25, 0.3)], darker(fur, 0.25));
            let flank = (-0.15, 0.0, 0.75, 0.45);
            body(c, flank, fur, mark, coat, dice);
            c.disc(-0.62, -0.12, 0.13, WHITE);
            c.disc(-0.64, -0.12, 0.07, INK);
        }
    }
}

fn body(c: &mut Canvas, flank: Flank, fur: Colour, mark: Colour, coat: &str, dice: &mut Dice) {
    let (x, y, rx, ry) = flank;
    c.oval(x, y, rx, ry, fur);
    match coat {
        "striped" => {
            let turn = dice.within(-0.12, 0.12);
            for i in [-0.62f32, -0.2, 0.22, 0.64] {
                let reach = (1.0 - i * i).sqrt() * 0.88;
                let (sx, lean) = (x + i * rx, turn * rx);
                c.line(
                    &[(sx - lean, y - reach * ry), (sx + lean, y + reach * ry)],
                    rx * 0.2,
                    mark,
                );
            }
        }
        "spotted" => {
            for (i, j) in [
                (-0.62, -0.12),
                (-0.28, 0.48),
                (-0.2, -0.5),
                (0.1, 0.0),
                (0.42, -0.45),
                (0.4, 0.5),
                (0.68, 0.02),
            ] {
                let (dx, dy) = (dice.about(0.06), dice.about(0.06));
                c.disc(x + (i + dx) * rx, y + (j + dy) * ry, 0.085, mark);
            }
        }
        "patched" => {
            c.oval(x - 0.42 * rx, y - 0.1 * ry, 0.36 * rx, 0.62 * ry, mark);
            c.oval(x + 0.52 * rx, y + 0.12 * ry, 0.34 * rx, 0.55 * ry, mark);
        }
        _ => {}
    }
}

fn head(c: &mut Canvas, at: Flank, fur: Colour, mark: Colour, coat: &str) {
    let (x, y, rx, ry) = at;
    c.oval(x, y, rx, ry, fur);
    if coat == "striped" {
        for i in [-0.35, 0.0, 0.35] {
            c.line(
                &[(x + i * rx, y - 0.9 * ry), (x + i * rx, y - 0.45 * ry)],
                0.09,
                mark,
            );
        }
    }
}

fn eyes(c: &mut Canvas, x: f32, y: f32, apart: f32, colour: Colour) {
    for side in [-apart, apart] {
        c.disc(x + side, y, 0.11, colour);
        c.disc(x + side, y, 0.055, INK);
    }
}
