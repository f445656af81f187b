//! People: what they do and what they do it with.

use tiny_skia::Transform;

use super::canvas::Canvas;
use super::colour::{Colour, INK, darker, hsv, loud, quiet};
use super::dice::Dice;
use super::family::{Family, Parts, Slot, Word};
use super::objects::umbrella;

pub(super) static FAMILY: Family = Family {
    id: "actions",
    slots: &[
        Slot {
            name: "action",
            words: ACTIONS,
            said: 1.0,
        },
        Slot {
            name: "thing",
            words: THINGS,
            said: 0.85,
        },
    ],
    ground,
    subject,
    flips: true,
    fills: false,
};

const ACTIONS: &[Word] = &[
    Word::new("running", &["sprinting"]),
    Word::new("jumping", &["leaping"]),
    Word::new("kicking", &[]),
    Word::new("sitting", &["resting"]),
    Word::new("waving", &["greeting"]),
    Word::new("lifting", &["raising"]),
    Word::new("kneeling", &[]),
    Word::new("bowing", &["bending"]),
    Word::new("lying", &["sleeping"]),
];

const THINGS: &[Word] = &[
    Word::new("with a ball", &[]),
    Word::new("with a flag", &[]),
    Word::new("with an umbrella", &["with a parasol"]),
    Word::new("with a hoop", &["with a ring"]),
    Word::new("with a box", &["with a crate"]),
    Word::new("with a balloon", &[]),
];

/// Where the joints are: head; neck and hip; elbow and hand of both arms; knee and foot of both legs.
struct Figure {
    head: (f32, f32),
    trunk: [(f32, f32); 2],
    arms: [[(f32, f32); 2]; 2],
    legs: [[(f32, f32); 2]; 2],
}

/// The second arm holds the thing.
fn figure(action: &str) -> Figure {
    let (head, trunk, arms, legs) = match action {
        "running" => (
            (0.18, -0.72),
            [(0.10, -0.42), (-0.06, 0.12)],
            [
                [(-0.28, -0.22), (-0.50, -0.02)],
                [(0.38, -0.16), (0.62, -0.36)],
            ],
            [[(0.36, 0.26), (0.30, 0.72)], [(-0.32, 0.46), (-0.78, 0.42)]],
        ),
        "jumping" => (
            (0.0, -0.76),
            [(0.0, -0.48), (0.0, 0.0)],
            [
                [(-0.36, -0.58), (-0.62, -0.86)],
                [(0.36, -0.58), (0.60, -0.80)],
            ],
            [[(-0.44, 0.10), (-0.62, 0.50)], [(0.44, 0.10), (0.62, 0.50)]],
        ),
        "kicking" => (
            (-0.36, -0.74),
            [(-0.28, -0.44), (-0.14, 0.12)],
            [
                [(-0.60, -0.30), (-0.88, -0.46)],
                [(0.08, -0.34), (0.40, -0.50)],
            ],
            [
                [(-0.16, 0.50), (-0.22, 0.90)],
                [(0.34, 0.06), (0.84, -0.02)],
            ],
        ),
        "sitting" => (
            (-0.22, -0.56),
            [(-0.22, -0.26), (-0.22, 0.30)],
            [
                [(-0.06, 0.02), (0.18, 0.14)],
                [(0.10, -0.10), (0.44, -0.16)],
            ],
            [[(0.34, 0.30), (0.36, 0.86)], [(0.26, 0.38), (0.22, 0.88)]],
        ),
        "waving" => (
            (0.0, -0.70),
            [(0.0, -0.40), (0.0, 0.16)],
            [
                [(-0.34, -0.52), (-0.40, -0.96)],
                [(0.26, -0.10), (0.40, 0.14)],
            ],
            [[(-0.12, 0.52), (-0.16, 0.92)], [(0.12, 0.52), (0.16, 0.92)]],
        ),
        "lifting" => (
            (0.0, -0.42),
            [(0.0, -0.16), (0.0, 0.30)],
            [
                [(-0.38, -0.42), (-0.26, -0.74)],
                [(0.38, -0.42), (0.26, -0.74)],
            ],
            [[(-0.42, 0.42), (-0.36, 0.90)], [(0.42, 0.42), (0.36, 0.90)]],
        ),
        "kneeling" => (
            (-0.04, -0.46),
            [(-0.04, -0.16), (-0.08, 0.38)],
            [[(-0.28, 0.06), (-0.34, 0.32)], [(0.24, 0.06), (0.56, 0.02)]],
            [[(-0.20, 0.88), (-0.72, 0.88)], [(0.40, 0.40), (0.40, 0.90)]],
        ),
        "bowing" => (
            (0.62, -0.16),
            [(0.38, -0.30), (-0.20, -0.02)],
            [[(0.24, 0.06), (0.14, 0.30)], [(0.50, 0.14), (0.66, 0.46)]],
            [
                [(-0.22, 0.44), (-0.24, 0.90)],
                [(-0.10, 0.44), (-0.02, 0.90)],
            ],
        ),
        _ => (
            (-0.78, 0.56),
            [(-0.48, 0.66), (0.14, 0.70)],
            [
                [(-0.60, 0.84), (-0.86, 0.86)],
                [(-0.20, 0.40), (0.06, 0.26)],
            ],
            [[(0.48, 0.46), (0.66, 0.84)], [(0.56, 0.74), (0.98, 0.80)]],
        ),
    };
    Figure {
        head,
        trunk,
        arms,
        legs,
    }
}

/// A pitch, a hall or a street.
fn ground(c: &mut Canvas, _: &Parts, dice: &mut Dice) {
    c.flood(quiet(dice));
    let floor = if dice.chance(0.4) {
        hsv(dice.within(80.0, 130.0), 0.4, 0.62)
    } else {
        quiet(dice)
    };
    let top = dice.within(0.45, 0.75);
    c.plainly(|c| c.bar(-1.0, top, 2.0, 1.0 - top + 0.01, floor));
}

fn subject(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let mut f = figure(parts.get("action"));
    for joint in f.arms.iter_mut().chain(&mut f.legs).flatten() {
        joint.0 += dice.about(0.04);
        joint.1 += dice.about(0.04);
    }
    let skin = hsv(
        dice.within(18.0, 30.0),
        dice.within(0.3, 0.55),
        dice.within(0.4, 0.92),
    );
    let shirt = loud(dice);
    let trousers = darker(loud(dice), 0.3);
    if parts.get("action") == "sitting" {
        c.bar(-0.52, 0.42, 0.62, 0.5, hsv(28.0, 0.4, 0.42));
    }
    let [neck, hip] = f.trunk;
    limb(c, neck, &f.arms[0], darker(shirt, 0.25), skin);
    for leg in &f.legs {
        c.line(&[hip, leg[0], leg[1]], 0.19, trousers);
        c.disc(leg[1].0, leg[1].1, 0.1, INK);
    }
    c.line(&[neck, hip], 0.3, shirt);
    c.disc(f.head.0, f.head.1, 0.2, skin);
    c.leaf(
        f.head.0,
        f.head.1 - 0.1,
        0.2,
        0.12,
        0.0,
        hsv(25.0, 0.5, dice.within(0.1, 0.5)),
    );
    limb(c, neck, &f.arms[1], darker(shirt, 0.1), skin);
    hold(c, f.arms[1][1], parts, dice);
}

fn limb(c: &mut Canvas, from: (f32, f32), arm: &[(f32, f32); 2], sleeve: Colour, skin: Colour) {
    c.line(&[from, arm[0], arm[1]], 0.15, sleeve);
    c.disc(arm[1].0, arm[1].1, 0.09, skin);
}

fn hold(c: &mut Canvas, (x, y): (f32, f32), parts: &Parts, dice: &mut Dice) {
    let colour = loud(dice);
    // A ball is where it is kicked; anything else stays in the hand.
    let kicked = parts.get("action") == "kicking";
    match parts.get("thing") {
        "with a ball" => {
            let (bx, by) = if kicked {
                (0.86, -0.28)
            } else {
                (x + 0.1, y - 0.14)
            };
            c.disc(bx, by, 0.22, colour);
            c.line(&[(bx - 0.16, by + 0.1), (bx + 0.16, by - 0.1)], 0.07, INK);
        }
        "with a flag" => {
            c.line(&[(x, y + 0.25), (x, y - 0.68)], 0.08, INK);
            c.polygon(&[(x, y - 0.7), (x + 0.56, y - 0.5), (x, y - 0.28)], colour);
        }
        "with an umbrella" => {
            let dark = darker(colour, 0.3);
            c.inside(Transform::from_row(0.48, 0.0, 0.0, 0.48, x, y - 0.3), |c| {
                umbrella(c, colour, dark)
            });
        }
        "with a hoop" => c.ring(x + 0.12, y - 0.12, 0.3, 0.11, colour),
        "with a box" => {
            c.bar(x - 0.18, y - 0.36, 0.46, 0.4, hsv(32.0, 0.5, 0.7));
            c.line(
                &[(x - 0.18, y - 0.16), (x + 0.28, y - 0.16)],
                0.08,
                hsv(30.0, 0.5, 0.45),
            );
            c.line(
                &[(x + 0.05, y - 0.36), (x + 0.05, y + 0.04)],
                0.08,
                hsv(30.0, 0.5, 0.45),
            );
        }
        _ => {
            c.line(&[(x, y), (x + 0.06, y - 0.4)], 0.05, INK);
            c.oval(x + 0.08, y - 0.58, 0.21, 0.27, colour);
            c.disc(x + 0.02, y - 0.66, 0.06, [0.98, 0.98, 0.98]);
        }
    }
}
