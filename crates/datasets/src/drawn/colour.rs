//! Colours: what a colour word looks like, and the mixes the drawings use.

use super::dice::Dice;
use super::family::Word;

/// Red, green and blue in 0..=1, as stored in the picture (sRGB, no linear light).
pub(super) type Colour = [f32; 3];

/// The colour words of every coloured family. After the first: rarer ways to say it.
pub(super) const COLOURS: &[Word] = &[
    Word::new("red", &["crimson", "scarlet"]),
    Word::new("orange", &["tangerine"]),
    Word::new("yellow", &["golden"]),
    Word::new("green", &["emerald"]),
    Word::new("blue", &["azure", "navy"]),
    Word::new("purple", &["violet"]),
    Word::new("pink", &["rosy"]),
    Word::new("brown", &["chestnut"]),
    Word::new("black", &["ebony"]),
    Word::new("white", &["ivory"]),
    Word::new("grey", &["silver"]),
];

pub(super) const INK: Colour = [0.10, 0.10, 0.13];
pub(super) const PAPER: Colour = [0.96, 0.95, 0.92];
pub(super) const WHITE: Colour = [0.97, 0.97, 0.96];
pub(super) const GREY: Colour = [0.55, 0.55, 0.57];

/// Hue in degrees; saturation and value in 0..=1.
pub(super) fn hsv(hue: f32, saturation: f32, value: f32) -> Colour {
    let h = hue.rem_euclid(360.0) / 60.0;
    let channel = |shift: f32| {
        let k = (shift + h).rem_euclid(6.0);
        value * (1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0))
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

/// One sample of a colour word: two red cups are not the same red.
pub(super) fn paint(word: &str, dice: &mut Dice) -> Colour {
    let (h, s, v) = match word {
        "red" => (357.0, 0.86, 0.84),
        "orange" => (26.0, 0.90, 0.97),
        "yellow" => (52.0, 0.88, 0.97),
        "green" => (125.0, 0.72, 0.60),
        "blue" => (220.0, 0.80, 0.84),
        "purple" => (276.0, 0.66, 0.66),
        "pink" => (334.0, 0.45, 0.98),
        "brown" => (24.0, 0.64, 0.46),
        "black" => (230.0, 0.10, 0.13),
        "white" => (50.0, 0.03, 0.98),
        "grey" => (220.0, 0.05, 0.55),
        _ => unreachable!("{word} is not one of COLOURS"),
    };
    let s = s + dice.about(0.08) * s;
    hsv(
        h + dice.about(6.0),
        s.clamp(0.0, 1.0),
        (v + dice.about(0.06)).clamp(0.0, 1.0),
    )
}

/// A quiet colour for what is not named: grounds, walls, distractors.
pub(super) fn quiet(dice: &mut Dice) -> Colour {
    hsv(
        dice.within(0.0, 360.0),
        dice.within(0.05, 0.30),
        dice.within(0.45, 0.92),
    )
}

/// A random loud colour: shirts, tablecloths.
pub(super) fn loud(dice: &mut Dice) -> Colour {
    hsv(
        dice.within(0.0, 360.0),
        dice.within(0.55, 0.9),
        dice.within(0.5, 0.95),
    )
}

/// `amount` 0 is `a`, 1 is `b`.
pub(super) fn mix(a: Colour, b: Colour, amount: f32) -> Colour {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * amount)
}

/// Towards black.
pub(super) fn darker(colour: Colour, amount: f32) -> Colour {
    mix(colour, [0.02, 0.02, 0.05], amount)
}

/// Towards white.
pub(super) fn lighter(colour: Colour, amount: f32) -> Colour {
    mix(colour, [1.0, 1.0, 0.98], amount)
}

/// Perceived lightness, 0..=1.
pub(super) fn lightness(c: Colour) -> f32 {
    0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2]
}

/// The same hue where it can be told from the surface: dark marks on light, light marks on dark.
pub(super) fn marking(surface: Colour) -> Colour {
    if lightness(surface) > 0.38 {
        darker(surface, 0.72)
    } else {
        lighter(surface, 0.75)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hsv_hits_the_six_corners() {
        for (hue, want) in [
            (0.0, [1.0, 0.0, 0.0]),
            (60.0, [1.0, 1.0, 0.0]),
            (120.0, [0.0, 1.0, 0.0]),
            (180.0, [0.0, 1.0, 1.0]),
            (240.0, [0.0, 0.0, 1.0]),
            (300.0, [1.0, 0.0, 1.0]),
        ] {
            assert_eq!(hsv(hue, 1.0, 1.0), want, "hue {hue}");
        }
    }

    #[test]
    fn every_colour_word_has_a_paint_of_its_own() {
        // Between two samples of different words there is more distance than a sample's own jitter.
        let mut dice = Dice::new("paint", 0, 0);
        let middle = |word: &str, dice: &mut Dice| {
            let mut sum = [0.0; 3];
            for _ in 0..64 {
                let c = paint(word, dice);
                (0..3).for_each(|i| sum[i] += c[i] / 64.0);
            }
            sum
        };
        let middles: Vec<Colour> = COLOURS.iter().map(|w| middle(w.id, &mut dice)).collect();
        for (i, a) in middles.iter().enumerate() {
            for (j, b) in middles[..i].iter().enumerate() {
                let apart: f32 = (0..3).map(|k| (a[k] - b[k]).powi(2)).sum::<f32>().sqrt();
                assert!(
                    apart > 0.25,
                    "{} and {}: {apart}",
                    COLOURS[i].id,
                    COLOURS[j].id
                );
            }
        }
    }
}
