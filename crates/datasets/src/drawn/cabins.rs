//! Drivers seen from the side: what they do, and who they are. Never drawn in pre-training.

use super::canvas::Canvas;
use super::colour::{INK, darker, hsv, lighter};
use super::dice::Dice;
use super::family::{Family, Parts, Slot, Word};

pub(super) static FAMILY: Family = Family {
    id: "cabins",
    slots: &[
        Slot {
            name: "action",
            words: ACTIONS,
            said: 1.0,
        },
        Slot {
            name: "driver",
            words: DRIVERS,
            said: 0.0,
        },
    ],
    ground,
    subject,
    flips: false,
    fills: false,
};

/// In words that the shipped CLIP knows.
const ACTIONS: &[Word] = &[
    Word::new("sitting", &[]),
    Word::new("waving", &[]),
    Word::new("bending", &[]),
    Word::new("sleeping", &[]),
    Word::new("lifting a bottle", &[]),
    Word::new("lifting a box", &[]),
];

/// Who drives: the group of a picture, never said.
pub(super) const DRIVERS: &[Word] = &[
    Word::new("driver 0", &[]),
    Word::new("driver 1", &[]),
    Word::new("driver 2", &[]),
    Word::new("driver 3", &[]),
    Word::new("driver 4", &[]),
    Word::new("driver 5", &[]),
    Word::new("driver 6", &[]),
    Word::new("driver 7", &[]),
    Word::new("driver 8", &[]),
    Word::new("driver 9", &[]),
];

/// What is the same in all pictures of a driver: the car and the clothes.
fn of_driver(parts: &Parts) -> Dice {
    let driver = DRIVERS.iter().position(|d| d.id == parts.get("driver"));
    Dice::new("driver", driver.unwrap_or(0) as u64, 0)
}

/// The cabin: wall, window, seat.
fn ground(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let mut own = of_driver(parts);
    let hue = own.within(0.0, 360.0);
    let wall = hsv(hue, own.within(0.05, 0.3), own.within(0.25, 0.6));
    let seat = hsv(
        hue + own.about(60.0),
        own.within(0.2, 0.6),
        own.within(0.2, 0.55),
    );
    c.flood(wall);
    let day = dice.within(0.6, 0.98);
    c.plainly(|c| {
        c.bar(-0.9, -0.95, 1.8, 0.7, hsv(205.0, 0.25, day));
        c.bar(-1.0, 0.72, 2.0, 0.3, darker(wall, 0.5));
        c.bar(-0.78, -0.42, 0.3, 1.2, seat);
        c.bar(-0.78, 0.42, 0.72, 0.34, darker(seat, 0.2));
    });
}

fn subject(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let mut own = of_driver(parts);
    // What the ground drew of the driver's stream is drawn again, so that clothes do not repeat the cabin's colours.
    let _ = own.fork();
    let skin = hsv(
        own.within(18.0, 30.0),
        own.within(0.25, 0.6),
        own.within(0.35, 0.95),
    );
    let shirt = hsv(
        own.within(0.0, 360.0),
        own.within(0.4, 0.9),
        own.within(0.4, 0.95),
    );
    let hair = hsv(
        own.within(10.0, 50.0),
        own.within(0.2, 0.7),
        own.within(0.08, 0.6),
    );
    let build = own.within(0.24, 0.36);
    let mut sway = || dice.about(0.05);
    let action = parts.get("action");
    let (head, neck) = match action {
        "bending" => ((-0.02 + sway(), -0.14 + sway()), (-0.16, 0.0)),
        "sleeping" => ((-0.46 + sway(), -0.36 + sway()), (-0.36, -0.16)),
        _ => ((-0.28 + sway(), -0.46 + sway()), (-0.3, -0.16)),
    };
    let hip = (-0.3, 0.46);
    let wheel = (0.5, 0.12);
    // The far arm holds the wheel unless both hang.
    let far = match action {
        "sleeping" => [(-0.2, 0.16), (-0.02, 0.44)],
        _ => [(0.1, 0.0), (wheel.0 - 0.08, wheel.1 - 0.14)],
    };
    let near = match action {
        "waving" => [(0.06, -0.3), (0.2 + sway(), -0.74 + sway())],
        "bending" => [(0.16, 0.3), (0.3 + sway(), 0.62 + sway())],
        "sleeping" => [(-0.12, 0.2), (0.06 + sway(), 0.5 + sway())],
        "lifting a bottle" | "lifting a box" => [(0.08, -0.02), (0.02 + sway(), -0.34 + sway())],
        _ => [
            (0.02, 0.12),
            (wheel.0 - 0.1 + sway(), wheel.1 + 0.08 + sway()),
        ],
    };
    let arm = |c: &mut Canvas, joints: [(f32, f32); 2], sleeve| {
        c.line(&[neck, joints[0], joints[1]], 0.13, sleeve);
        c.disc(joints[1].0, joints[1].1, 0.085, skin);
    };
    arm(c, far, darker(shirt, 0.35));
    c.line(&[hip, (0.14, 0.5), (0.3, 0.84)], 0.2, darker(shirt, 0.6));
    c.line(&[neck, hip], build, shirt);
    c.disc(head.0, head.1, 0.19, skin);
    c.leaf(head.0 - 0.04, head.1 - 0.11, 0.19, 0.1, -15.0, hair);
    c.ring(wheel.0, wheel.1, 0.3, 0.07, INK);
    arm(c, near, darker(shirt, 0.12));
    let (x, y) = near[1];
    match action {
        "lifting a bottle" => {
            let glass = hsv(own.within(90.0, 220.0), 0.5, 0.6);
            c.bar(x - 0.07, y - 0.3, 0.14, 0.3, glass);
            c.bar(x - 0.035, y - 0.42, 0.07, 0.14, lighter(glass, 0.4));
        }
        "lifting a box" => c.bar(x - 0.16, y - 0.26, 0.32, 0.26, hsv(32.0, 0.5, 0.7)),
        _ => {}
    }
}
