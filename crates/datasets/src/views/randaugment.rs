//! RandAugment as CoPrompt trains with it: two of sixteen operations, one after the other, all of the same strength.
//!
//! Cubuk et al., <https://arxiv.org/abs/1909.13719>, as `dassl/data/transforms/randaugment.py` of Dassl (c61a1b5) has it with
//! its defaults `n = 2` and `m = 10`; pixels are Pillow's, bit for bit.
//!
//! Differs: the random numbers come from a named stream, not from the generators of Python and numpy. Lengths in pixels
//! are those of the published 224 and follow the view's size. With NumPy from 1.24 on the released code stops at the
//! first `SolarizeAdd`.

use super::pillow::{self, Sampling};
use crate::Rgb;
use crate::stream::Stream;
use crate::transform::{Filter, Region, resize};

/// Operations that a view goes through, `n`.
const COUNT: usize = 2;
/// Where in its range an operation's value lies, `m` of 30.
const STRENGTH: f64 = 10.0 / 30.0;
/// Side of the view that lengths are published for.
const PUBLISHED_SIZE: f64 = 224.0;

/// One of the sixteen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Stretches each channel to all values; its own value is not used.
    AutoContrast,
    /// Makes the values of each channel equally frequent; its own value is not used.
    Equalize,
    /// The negative; its own value is not used.
    Invert,
    /// Degrees, counter-clockwise.
    Rotate,
    /// Bits that are kept.
    Posterize,
    /// What is as bright is inverted.
    Solarize,
    /// What is added before everything from 128 on is inverted.
    SolarizeAdd,
    /// Share of the colour, beside grey.
    Color,
    /// Share of the contrast, beside the mean grey.
    Contrast,
    /// Share of the brightness.
    Brightness,
    /// Share of the sharpness, beside the smoothed picture.
    Sharpness,
    /// Columns to the left, for each row.
    ShearX,
    /// Rows up, for each column.
    ShearY,
    /// Side of the grey square, in pixels.
    Cutout,
    /// Pixels to the left.
    TranslateX,
    /// Pixels up.
    TranslateY,
}

use Operation::*;

/// All, in the order that they are drawn in: with the name in the released code, and the range of values.
pub const OPERATIONS: [(Operation, &str, (f64, f64)); 16] = [
    (AutoContrast, "AutoContrast", (0.0, 1.0)),
    (Equalize, "Equalize", (0.0, 1.0)),
    (Invert, "Invert", (0.0, 1.0)),
    (Rotate, "Rotate", (0.0, 30.0)),
    (Posterize, "Posterize", (4.0, 8.0)),
    (Solarize, "Solarize", (0.0, 256.0)),
    (SolarizeAdd, "SolarizeAdd", (0.0, 110.0)),
    (Color, "Color", (0.1, 1.9)),
    (Contrast, "Contrast", (0.1, 1.9)),
    (Brightness, "Brightness", (0.1, 1.9)),
    (Sharpness, "Sharpness", (0.1, 1.9)),
    (ShearX, "ShearX", (0.0, 0.3)),
    (ShearY, "ShearY", (0.0, 0.3)),
    (Cutout, "CutoutAbs", (0.0, 40.0)),
    (TranslateX, "TranslateXabs", (0.0, 100.0)),
    (TranslateY, "TranslateYabs", (0.0, 100.0)),
];

/// What is cut out.
const GREY: [u8; 3] = [125, 123, 114];

/// The place in [`OPERATIONS`] that a number in `[0, 1)` draws, as Python's `random.choices` does.
pub fn place(uniform: f64) -> usize {
    (uniform * OPERATIONS.len() as f64) as usize
}

impl Operation {
    /// What it makes of a picture. `centre` is used by [`Operation::Cutout`] only: column and row.
    pub fn apply(self, picture: &Rgb, value: f64, centre: (f64, f64)) -> Rgb {
        let moved = |matrix| pillow::affine(picture, matrix, Sampling::Nearest);
        match self {
            AutoContrast => pillow::autocontrast(picture),
            Equalize => pillow::equalize(picture),
            Invert => pillow::invert(picture),
            Rotate => pillow::rotate(picture, value, Sampling::Nearest),
            Posterize => pillow::posterize(picture, value as u32),
            Solarize => pillow::solarize(picture, value),
            SolarizeAdd => pillow::solarize(&pillow::brighter_by(picture, value), 128.0),
            Color => pillow::color(picture, value),
            Contrast => pillow::contrast(picture, value),
            Brightness => pillow::brightness(picture, value),
            Sharpness => pillow::sharpness(picture, value),
            ShearX => moved([1.0, value, 0.0, 0.0, 1.0, 0.0]),
            ShearY => moved([1.0, 0.0, 0.0, value, 1.0, 0.0]),
            Cutout => {
                let (width, height) = (picture.width as f64, picture.height as f64);
                let corner = |centre: f64| (centre - value / 2.0).max(0.0).trunc();
                let (left, top) = (corner(centre.0), corner(centre.1));
                let (right, bottom) = ((left + value).min(width), (top + value).min(height));
                pillow::rectangle(
                    picture,
                    (left as usize, top as usize),
                    (right as usize, bottom as usize),
                    GREY,
                )
            }
            TranslateX => moved([1.0, 0.0, value, 0.0, 1.0, 0.0]),
            TranslateY => moved([1.0, 0.0, 0.0, 0.0, 1.0, value]),
        }
    }

    /// Whether its value is as often negative.
    fn has_a_sign(self) -> bool {
        matches!(self, Rotate | ShearX | ShearY | TranslateX | TranslateY)
    }

    /// Whether its value is a length in pixels.
    fn is_a_length(self) -> bool {
        matches!(self, Cutout | TranslateX | TranslateY)
    }

    /// At the published strength, sign and centre drawn.
    fn drawn(self, picture: &Rgb, (low, high): (f64, f64), stream: &mut Stream) -> Rgb {
        let mut value = STRENGTH * (high - low) + low;
        if self.is_a_length() {
            value *= picture.width as f64 / PUBLISHED_SIZE;
        }
        if self.has_a_sign() && stream.uniform() > 0.5 {
            value = -value;
        }
        let centre = match self {
            // numpy's `uniform(side)` lies between the side and its second default, 1.
            Cutout => (
                stream.between(picture.width as f64, 1.0),
                stream.between(picture.height as f64, 1.0),
            ),
            _ => (0.0, 0.0),
        };
        self.apply(picture, value, centre)
    }
}

/// A training view of `picture`, `size` x `size`: the whole picture, both sides resized (bicubic), and two operations.
///
/// # Panics
/// When the picture is empty or `size` is 0.
pub fn view(picture: &Rgb, size: usize, stream: &mut Stream) -> Rgb {
    let whole = resize(picture, Region::whole(picture), size, size, Filter::Bicubic);
    let chosen: [usize; COUNT] = std::array::from_fn(|_| place(stream.uniform()));
    chosen.into_iter().fold(whole, |picture, place| {
        let (operation, _, range) = OPERATIONS[place];
        operation.drawn(&picture, range, stream)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use safetensors::SafeTensors;

    use super::*;
    use crate::cpython::Random;

    const TENSORS: &[u8] = include_bytes!("../../tests/fixtures/randaugment/trace.safetensors");
    const RECORD: &str = include_str!("../../tests/fixtures/randaugment/trace.json");

    fn recorded(name: &str) -> Rgb {
        let tensors = SafeTensors::deserialize(TENSORS).unwrap();
        let view = tensors.tensor(name).unwrap();
        Rgb::from_raw(view.shape()[1], view.shape()[0], view.data().to_vec())
    }

    #[test]
    fn every_operation_is_the_released_codes_pixel_for_pixel() {
        let record: serde_json::Value = serde_json::from_str(RECORD).unwrap();
        let source = recorded("image");
        let mut seen = BTreeSet::new();
        for case in record["cases"].as_array().unwrap() {
            let name = case["name"].as_str().unwrap();
            let number = |v: &serde_json::Value| v.as_f64().unwrap();
            let centre = case.get("cutout_centre");
            let centre = centre.map_or((0.0, 0.0), |c| (number(&c[0]), number(&c[1])));
            let mut got = source.clone();
            for op in case["ops"].as_array().unwrap() {
                let named = op[0].as_str().unwrap();
                let (operation, _, (low, high)) = *OPERATIONS
                    .iter()
                    .find(|(_, name, _)| *name == named)
                    .unwrap();
                let value = number(&op[1]);
                assert!(
                    (value - (STRENGTH * (high - low) + low)).abs() < 1e-12,
                    "{name}"
                );
                let is_negated = op[2].as_bool().unwrap();
                assert!(!is_negated || operation.has_a_sign(), "{name}");
                let value = if is_negated { -value } else { value };
                got = operation.apply(&got, value, centre);
                seen.insert(operation);
            }
            assert!(got == recorded(name), "{name}: {}", case["ops"]);
        }
        assert_eq!(seen.len(), OPERATIONS.len());
    }

    #[test]
    fn operations_are_drawn_from_the_released_list_as_python_draws() {
        let record: serde_json::Value = serde_json::from_str(RECORD).unwrap();
        let mut random = Random::seed(record["seed"].as_u64().unwrap());
        for pair in record["choices"].as_array().unwrap() {
            for want in pair.as_array().unwrap() {
                assert_eq!(OPERATIONS[place(random.random())].1, want.as_str().unwrap());
            }
        }
        let listed = record["operations"].as_array().unwrap();
        assert_eq!(listed.len(), OPERATIONS.len());
        for ((_, name, (low, high)), want) in OPERATIONS.iter().zip(listed) {
            assert_eq!(*want, serde_json::json!([name, want[1], want[2]]));
            assert_eq!(
                (Some(*low), Some(*high)),
                (want[1].as_f64(), want[2].as_f64())
            );
        }
    }

    #[test]
    fn a_square_of_half_the_width_is_cut_out_around_its_centre() {
        let picture = Rgb::from_raw(8, 8, vec![0; 192]);
        let out = Cutout.apply(&picture, 4.0, (3.5, 7.9));
        let is_cut = |x, y| out.pixel(x, y) == GREY;
        // Columns from 1 to 5, rows from 5 to the last.
        for (x, y) in (0..8).flat_map(|y| (0..8).map(move |x| (x, y))) {
            assert_eq!(is_cut(x, y), (1..=5).contains(&x) && y >= 5, "{x} {y}");
        }
    }

    fn picture() -> Rgb {
        let mut stream = Stream::named(11, "picture", 0);
        let data = (0..70 * 50 * 3).map(|_| stream.below(256) as u8);
        Rgb::from_raw(70, 50, data.collect())
    }

    #[test]
    fn a_view_is_the_whole_picture_squashed_and_its_stream_decides_the_rest() {
        let picture = picture();
        let of = |index| view(&picture, 32, &mut Stream::named(1, "views", index));
        assert_eq!((of(0).width, of(0).height), (32, 32));
        assert_eq!(of(3), of(3));
        let all: BTreeSet<Vec<u8>> = (0..40).map(|index| of(index).data).collect();
        assert!(all.len() > 35, "{}", all.len());
        // Inverted twice it is the picture itself again.
        let draws = |index| {
            let mut stream = Stream::named(1, "views", index);
            [(); COUNT].map(|()| OPERATIONS[place(stream.uniform())].0)
        };
        let twice = (0..)
            .find(|index| draws(*index) == [Invert; COUNT])
            .unwrap();
        let region = Region::whole(&picture);
        assert_eq!(of(twice), resize(&picture, region, 32, 32, Filter::Bicubic));
    }

    #[test]
    fn lengths_follow_the_size_of_the_view_and_signs_are_drawn() {
        let white = Rgb::from_raw(56, 56, vec![255; 56 * 56 * 3]);
        let black = |seed| {
            let mut stream = Stream::named(seed, "shift", 0);
            let out = TranslateX.drawn(&white, (0.0, 100.0), &mut stream);
            [0, 55].map(|x| out.pixel(x, 0) == [0; 3])
        };
        let out = TranslateX.drawn(&white, (0.0, 100.0), &mut Stream::named(1, "shift", 0));
        // A third of 100 pixels of 224 is 8.3 of 56.
        let left = (0..56).filter(|x| out.pixel(*x, 9) == [0; 3]).count();
        assert_eq!(left, 8);
        let sides: BTreeSet<[bool; 2]> = (0..20).map(black).collect();
        let want = [[false, true], [true, false]];
        assert_eq!(sides.into_iter().collect::<Vec<_>>(), want);
    }
}
