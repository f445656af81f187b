//! Drivers in their cars: what they do, and who they are. Never drawn in pre-training, though people are.

use super::actions;
use super::canvas::Canvas;
use super::colour::{INK, darker, hsv};
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
    Word::new("kneeling", &[]),
    Word::new("lifting with a box", &[]),
];

/// Who drives: the group of a picture, never said.
const DRIVERS: &[Word] = &[
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

/// What is the same in all pictures of a driver: the car (0) and the clothes (1).
fn of_driver(parts: &Parts, what: u64) -> Dice {
    let driver = DRIVERS.iter().position(|d| d.id == parts.get("driver"));
    Dice::new("driver", driver.unwrap_or(0) as u64, what)
}

/// The cabin: wall, window, seat.
fn ground(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let mut own = of_driver(parts, 0);
    let hue = own.within(0.0, 360.0);
    let wall = hsv(hue, own.within(0.05, 0.3), own.within(0.4, 0.7));
    let seat = hsv(
        hue + own.about(60.0),
        own.within(0.2, 0.5),
        own.within(0.25, 0.5),
    );
    c.flood(wall);
    let day = dice.within(0.7, 0.98);
    c.plainly(|c| {
        c.bar(-0.9, -0.95, 1.8, 0.6, hsv(205.0, 0.2, day));
        c.bar(-1.0, 0.78, 2.0, 0.3, darker(wall, 0.4));
        c.bar(-0.95, -0.3, 0.24, 1.1, seat);
    });
}

/// A person as the suite draws them, in the driver's clothes, and the wheel.
fn subject(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let (action, thing) = match parts.get("action") {
        "bending" => ("bowing", None),
        "sleeping" => ("lying", None),
        "lifting with a box" => ("lifting", Some("with a box")),
        action => (action, None),
    };
    let family = &actions::FAMILY;
    let value = |slot: usize, id: &str| {
        let place = family.slots[slot].words.iter().position(|w| w.id == id);
        place.map(|place| place as u8)
    };
    let fixed = [value(0, action), thing.and_then(|thing| value(1, thing))];
    let acting = Parts::complete(family, &fixed, dice);
    (family.subject)(c, &acting, &mut of_driver(parts, 1));
    c.ring(0.86, 0.3, 0.26, 0.08, INK);
}
