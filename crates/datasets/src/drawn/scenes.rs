//! Places in a weather and at an hour.

use super::canvas::Canvas;
use super::colour::{Colour, WHITE, darker, hsv, lighter, mix};
use super::dice::Dice;
use super::family::{Family, Parts, Slot, Word};

pub(super) static FAMILY: Family = Family {
    id: "scenes",
    slots: &[
        Slot {
            name: "weather",
            words: WEATHERS,
            said: 0.8,
        },
        Slot {
            name: "place",
            words: PLACES,
            said: 1.0,
        },
        Slot {
            name: "hour",
            words: HOURS,
            said: 0.8,
        },
    ],
    ground,
    subject,
    flips: true,
    fills: true,
};

const WEATHERS: &[Word] = &[
    Word::new("clear", &["sunny"]),
    Word::new("snowy", &["wintry"]),
    Word::new("rainy", &["stormy"]),
    Word::new("foggy", &["misty"]),
];

const PLACES: &[Word] = &[
    Word::new("forest", &["woods"]),
    Word::new("beach", &["seashore"]),
    Word::new("mountain", &["summit"]),
    Word::new("city", &["skyline"]),
    Word::new("desert", &["dunes"]),
    Word::new("lake", &["pond"]),
    Word::new("village", &["hamlet"]),
    Word::new("bridge", &["viaduct"]),
];

const HOURS: &[Word] = &[
    Word::new("by day", &["at noon"]),
    Word::new("at sunset", &["at dusk"]),
    Word::new("at night", &["at midnight"]),
];

/// The light of the hour: what every colour of the scene is multiplied with.
struct Light {
    factor: Colour,
    snow: bool,
    night: bool,
}

impl Light {
    fn of(parts: &Parts) -> Self {
        let (factor, night) = match parts.get("hour") {
            "at night" => ([0.44, 0.47, 0.66], true),
            "at sunset" => ([0.92, 0.68, 0.62], false),
            _ => ([1.0, 1.0, 1.0], false),
        };
        Self {
            factor,
            snow: parts.get("weather") == "snowy",
            night,
        }
    }

    fn on(&self, colour: Colour) -> Colour {
        std::array::from_fn(|i| colour[i] * self.factor[i])
    }

    /// The ground's own colour, or the snow upon it.
    fn land(&self, colour: Colour) -> Colour {
        self.on(if self.snow {
            mix(colour, WHITE, 0.88)
        } else {
            colour
        })
    }

    fn window(&self, glass: Colour) -> Colour {
        if self.night {
            [1.0, 0.86, 0.4]
        } else {
            self.on(glass)
        }
    }
}

/// Sky with sun, moon and stars.
fn ground(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let dull = parts.get("weather") != "clear";
    let (mut high, mut low) = match parts.get("hour") {
        "at night" => (hsv(230.0, 0.72, 0.13), hsv(226.0, 0.6, 0.28)),
        "at sunset" => (
            hsv(275.0 + dice.about(15.0), 0.42, 0.60),
            hsv(24.0 + dice.about(8.0), 0.75, 0.98),
        ),
        _ => (
            hsv(210.0 + dice.about(8.0), 0.55, 0.92),
            hsv(200.0, 0.22, 0.97),
        ),
    };
    if dull {
        let veil = if parts.get("hour") == "at night" {
            [0.22, 0.23, 0.27]
        } else {
            [0.72, 0.73, 0.76]
        };
        high = mix(high, veil, 0.45);
        low = mix(low, veil, 0.35);
    }
    c.each_pixel(|_, y| mix(high, low, ((y + 1.0) / 1.3).clamp(0.0, 1.0)));
    let (x, y) = (dice.within(-0.8, 0.8), dice.within(-0.8, -0.5));
    match parts.get("hour") {
        "at night" => {
            if !dull {
                for _ in 0..7 {
                    let (sx, sy) = (dice.about(1.0), dice.within(-1.0, 0.0));
                    c.plainly(|c| c.disc(sx, sy, 0.045, WHITE));
                }
            }
            c.disc(x, y, 0.17, hsv(50.0, 0.12, if dull { 0.75 } else { 0.98 }));
        }
        "at sunset" => c.disc(x * 0.7, dice.within(-0.15, 0.05), 0.3, hsv(14.0, 0.85, 1.0)),
        _ if !dull => c.disc(x, y, 0.2, hsv(52.0, 0.7, 1.0)),
        _ => {}
    }
}

fn subject(c: &mut Canvas, parts: &Parts, dice: &mut Dice) {
    let light = Light::of(parts);
    match parts.get("place") {
        "forest" => forest(c, &light, dice),
        "beach" => beach(c, &light, dice),
        "mountain" => mountain(c, &light, dice),
        "city" => city(c, &light, dice),
        "desert" => desert(c, &light, dice),
        "lake" => lake(c, &light, dice),
        "village" => village(c, &light, dice),
        _ => bridge(c, &light, dice),
    }
    weather(c, parts, &light, dice);
}

/// A strip of land across the sheet, wider than any pose shows.
fn strip(c: &mut Canvas, top: f32, colour: Colour) {
    c.bar(-2.0, top, 4.0, 2.5, colour);
}

fn fir(c: &mut Canvas, light: &Light, x: f32, foot: f32, size: f32, green: Colour) {
    c.line(
        &[(x, foot), (x, foot - 0.3 * size)],
        0.14 * size,
        light.on(hsv(25.0, 0.6, 0.35)),
    );
    for (i, wide) in [0.42, 0.32, 0.22].into_iter().enumerate() {
        let y = foot - size * (0.25 + 0.32 * i as f32);
        let shade = if light.snow && i != 1 {
            mix(green, WHITE, 0.8)
        } else {
            green
        };
        c.polygon(
            &[
                (x - wide * size, y),
                (x + wide * size, y),
                (x, y - 0.55 * size),
            ],
            light.on(shade),
        );
    }
}

fn forest(c: &mut Canvas, light: &Light, dice: &mut Dice) {
    strip(c, 0.35, light.land(hsv(95.0, 0.5, 0.5)));
    for (foot, size) in [(0.5, 0.8), (0.75, 0.95), (1.0, 1.1)] {
        for i in -1..=1 {
            let x = i as f32 * 0.75 + dice.about(0.2) + if size > 0.9 { 0.3 } else { 0.0 };
            let green = hsv(dice.within(115.0, 150.0), 0.6, dice.within(0.28, 0.45));
            fir(c, light, x, foot + dice.about(0.08), size, green);
        }
    }
}

fn beach(c: &mut Canvas, light: &Light, dice: &mut Dice) {
    strip(c, dice.within(-0.05, 0.1), light.on(hsv(200.0, 0.65, 0.72)));
    let sand = light.land(hsv(45.0, 0.42, 0.92));
    c.outline(sand, |b| {
        b.move_to(-2.0, 0.75);
        b.cubic_to(-0.6, 0.15, 0.3, 0.75, 2.0, 0.35);
        b.line_to(2.0, 2.5);
        b.line_to(-2.0, 2.5);
    });
    let x = dice.within(0.35, 0.7);
    c.course(0.12, light.on(hsv(28.0, 0.55, 0.45)), |b| {
        b.move_to(x, 0.8);
        b.quad_to(x + 0.05, 0.1, x - 0.25, -0.4);
    });
    let green = light.land(hsv(110.0, 0.65, 0.45));
    for (dx, dy) in [
        (-0.55, 0.05),
        (-0.4, -0.32),
        (0.05, -0.4),
        (0.45, -0.2),
        (0.42, 0.15),
    ] {
        c.line(
            &[(x - 0.25, -0.42), (x - 0.25 + dx, -0.42 + dy)],
            0.16,
            green,
        );
    }
}

fn mountain(c: &mut Canvas, light: &Light, dice: &mut Dice) {
    let rock = light.on(hsv(225.0, 0.15, 0.5));
    for (x, top, wide) in [
        (0.6 + dice.about(0.15), -0.4, 1.1),
        (-0.3 + dice.about(0.15), -0.78, 1.2),
    ] {
        let foot = 0.75;
        c.polygon(&[(x - wide, foot), (x, top), (x + wide, foot)], rock);
        c.polygon(
            &[(x, top), (x + wide, foot), (x + 0.1, foot)],
            darker(rock, 0.25),
        );
        let cap = if light.snow { 0.75 } else { 0.35 };
        let (y, half) = (top + (foot - top) * cap, wide * cap);
        c.polygon(
            &[
                (x - half, y),
                (x, top),
                (x + half, y),
                (x + half * 0.3, y - 0.15),
                (x - half * 0.3, y + 0.08),
            ],
            light.on(WHITE),
        );
    }
    strip(c, 0.72, light.land(hsv(100.0, 0.4, 0.5)));
}

fn city(c: &mut Canvas, light: &Light, dice: &mut Dice) {
    let mut x = -1.6;
    while x < 1.6 {
        let wide = dice.within(0.36, 0.56);
        let top = dice.within(-0.75, 0.1);
        let wall = light.on(hsv(dice.within(200.0, 240.0), 0.15, dice.within(0.4, 0.65)));
        c.bar(x, top, wide, 3.0, wall);
        if light.snow {
            c.bar(x, top, wide, 0.1, light.on(WHITE));
        }
        for row in 0..5 {
            let y = top + 0.18 + row as f32 * 0.26;
            for column in [0.08, wide - 0.2] {
                if y < 0.65 && dice.chance(0.8) {
                    c.bar(
                        x + column,
                        y,
                        0.12,
                        0.12,
                        light.window(hsv(205.0, 0.25, 0.85)),
                    );
                }
            }
        }
        x += wide + 0.04;
    }
    strip(c, 0.72, light.land(hsv(220.0, 0.05, 0.4)));
}

fn desert(c: &mut Canvas, light: &Light, dice: &mut Dice) {
    let bend = dice.about(0.15);
    for (y, value) in [(0.05, 0.98), (0.4, 0.85)] {
        c.outline(light.land(hsv(35.0, 0.55, value)), |b| {
            b.move_to(-2.0, y + 0.2);
            b.cubic_to(-0.7, y - 0.55 + bend, 0.2, y + 0.55, 2.0, y - 0.1);
            b.line_to(2.0, 2.5);
            b.line_to(-2.0, 2.5);
        });
    }
    let x = dice.within(-0.7, 0.5);
    let green = light.on(hsv(125.0, 0.65, 0.34));
    c.line(&[(x, 0.85), (x, -0.15)], 0.22, green);
    c.line(&[(x, 0.5), (x - 0.32, 0.42), (x - 0.32, 0.12)], 0.14, green);
    c.line(&[(x, 0.4), (x + 0.3, 0.32), (x + 0.3, 0.02)], 0.14, green);
}

fn lake(c: &mut Canvas, light: &Light, dice: &mut Dice) {
    for (x, r) in [(-0.8, 0.7), (0.1, 0.5), (0.9, 0.75)] {
        c.oval(
            x + dice.about(0.15),
            0.2,
            r,
            r * 0.75,
            light.on(hsv(130.0, 0.4, if light.snow { 0.3 } else { 0.42 })),
        );
    }
    strip(c, 0.1, light.land(hsv(100.0, 0.5, 0.6)));
    let water = light.on(if light.snow {
        hsv(208.0, 0.6, 0.62)
    } else {
        hsv(205.0, 0.65, 0.82)
    });
    c.oval(dice.about(0.1), 0.55, 0.98, 0.36, water);
    for y in [0.45, 0.62] {
        let x = dice.about(0.3);
        c.line(&[(x - 0.3, y), (x + 0.3, y)], 0.06, lighter(water, 0.5));
    }
}

fn village(c: &mut Canvas, light: &Light, dice: &mut Dice) {
    strip(c, 0.3, light.land(hsv(100.0, 0.5, 0.58)));
    for (x, foot, size) in [
        (-0.55, 0.5, 0.8),
        (0.5, 0.45, 0.75),
        (0.0 + dice.about(0.2), 0.9, 1.0),
    ] {
        let wall = light.on(hsv(dice.within(25.0, 55.0), 0.22, 0.92));
        let roof = light.land(hsv(dice.within(5.0, 20.0), 0.7, 0.6));
        let half = 0.36 * size;
        c.bar(x - half, foot - 0.5 * size, 2.0 * half, 0.5 * size, wall);
        c.polygon(
            &[
                (x - half - 0.1, foot - 0.48 * size),
                (x, foot - 0.95 * size),
                (x + half + 0.1, foot - 0.48 * size),
            ],
            roof,
        );
        c.bar(
            x - 0.08 * size,
            foot - 0.36 * size,
            0.2 * size,
            0.2 * size,
            light.window(hsv(205.0, 0.3, 0.6)),
        );
    }
}

fn bridge(c: &mut Canvas, light: &Light, dice: &mut Dice) {
    strip(
        c,
        0.45,
        light.on(if light.snow {
            hsv(200.0, 0.15, 0.95)
        } else {
            hsv(205.0, 0.55, 0.65)
        }),
    );
    let steel = light.on(hsv(8.0 + dice.about(8.0), 0.7, 0.62));
    for x in [-0.55, 0.55] {
        c.bar(x - 0.08, -0.7, 0.17, 1.5, steel);
    }
    for (a, b) in [(-1.9, -0.55), (-0.55, 0.55), (0.55, 1.9)] {
        let middle = if a == -0.55 { 0.55 } else { 0.2 };
        c.course(0.07, steel, |p| {
            p.move_to(a, if a < -1.0 { 0.25 } else { -0.65 });
            p.quad_to((a + b) / 2.0, middle, b, if b > 1.0 { 0.25 } else { -0.65 });
        });
    }
    c.bar(-2.0, 0.2, 4.0, 0.17, light.land(darker(steel, 0.1)));
}

/// What falls or hangs in the air.
fn weather(c: &mut Canvas, parts: &Parts, light: &Light, dice: &mut Dice) {
    c.whole_sheet();
    match parts.get("weather") {
        "snowy" => {
            for _ in 0..11 {
                let (x, y) = (dice.about(1.0), dice.about(1.0));
                c.plainly(|c| c.disc(x, y, 0.055, mix(light.factor, WHITE, 0.75)));
            }
        }
        "rainy" => {
            let drop = mix(light.on([0.75, 0.82, 0.95]), WHITE, 0.25);
            c.veil(-1.0, -1.0, 2.0, 2.0, [0.35, 0.38, 0.45], 0.3);
            for _ in 0..13 {
                let (x, y) = (dice.about(1.1), dice.about(1.0));
                c.plainly(|c| c.line(&[(x, y), (x - 0.14, y + 0.36)], 0.05, drop));
            }
        }
        "foggy" => {
            let haze = mix(
                light.factor,
                [0.85, 0.86, 0.88],
                if light.night { 0.35 } else { 0.55 },
            );
            for (top, high, opacity) in [(-1.0, 2.0, 0.35), (-0.1, 0.45, 0.35), (0.5, 0.4, 0.35)] {
                c.veil(-1.0, top, 2.0, high, haze, opacity);
            }
        }
        _ => {}
    }
}
