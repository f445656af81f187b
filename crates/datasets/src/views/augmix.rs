//! AugMix as TPT uses it (`data/augmix_ops.py` and `data/datautils.py` of azshue/TPT at 63ecbac, severity 1):
//! the nine operations of Hendrycks et al., <https://arxiv.org/abs/1912.02781>, bit-equal to Pillow's.

use crate::Rgb;
use crate::stream::Stream;
use crate::transform::Look;

const CHAINS: usize = 3;
const LONGEST_CHAIN: usize = 3;
const SEVERITY: f64 = 1.0;

/// One augmentation with its parameter drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Autocontrast,
    Equalize,
    /// Bits kept.
    Posterize(u32),
    /// Degrees, counter-clockwise.
    Rotate(f64),
    /// Values from here on are inverted.
    Solarize(i32),
    /// Output to input coordinates: `x' = a x + b y + c`, `y' = d x + e y + f`.
    Affine([f64; 6]),
}

/// Mixes three chains of operations into a view: `[3, n, n]`, normalised. The mixing is done on normalised pixels.
pub(super) fn augmix(view: &Rgb, look: &Look, stream: &mut Stream) -> Vec<f32> {
    let plain = look.normalised(view);
    let shares = stream.dirichlet(&[1.0; CHAINS]);
    let skip = stream.beta(1.0, 1.0) as f32;
    let mut mixed = vec![0f32; plain.len()];
    for share in shares {
        let mut chain = view.clone();
        for _ in 0..1 + stream.below(LONGEST_CHAIN) {
            chain = draw(view.width, stream).apply(&chain);
        }
        for (sum, value) in mixed.iter_mut().zip(look.normalised(&chain)) {
            *sum += share as f32 * value;
        }
    }
    plain
        .iter()
        .zip(&mixed)
        .map(|(plain, mixed)| skip * plain + (1.0 - skip) * mixed)
        .collect()
}

/// One of the nine operations, at a random strength. `size` is the side of the view (TPT writes 224).
fn draw(size: usize, stream: &mut Stream) -> Operation {
    let which = stream.below(9);
    if which < 2 {
        return if which == 0 {
            Operation::Autocontrast
        } else {
            Operation::Equalize
        };
    }
    let level = stream.between(0.1, SEVERITY);
    let whole = |largest: f64| (level * largest / 10.0).trunc();
    let part = |largest: f64| level * largest / 10.0;
    let signed = |value: f64, stream: &mut Stream| {
        if stream.uniform() > 0.5 {
            -value
        } else {
            value
        }
    };
    match which {
        2 => Operation::Posterize(4 - whole(4.0) as u32),
        3 => Operation::Rotate(signed(whole(30.0), stream)),
        4 => Operation::Solarize(256 - whole(256.0) as i32),
        5 => Operation::Affine([1.0, signed(part(0.3), stream), 0.0, 0.0, 1.0, 0.0]),
        6 => Operation::Affine([1.0, 0.0, 0.0, signed(part(0.3), stream), 1.0, 0.0]),
        7 => Operation::Affine([
            1.0,
            0.0,
            signed(whole(size as f64 / 3.0), stream),
            0.0,
            1.0,
            0.0,
        ]),
        _ => Operation::Affine([
            1.0,
            0.0,
            0.0,
            0.0,
            1.0,
            signed(whole(size as f64 / 3.0), stream),
        ]),
    }
}

impl Operation {
    fn apply(self, picture: &Rgb) -> Rgb {
        match self {
            Self::Autocontrast => by_channel(picture, autocontrast),
            Self::Equalize => by_channel(picture, equalize),
            Self::Posterize(bits) => {
                let mask = !(((1u32 << (8 - bits)) - 1) as u8);
                looked_up(
                    picture,
                    &[std::array::from_fn(|value| value as u8 & mask); 3],
                )
            }
            Self::Solarize(threshold) => {
                let table = |value: usize| {
                    if (value as i32) < threshold {
                        value as u8
                    } else {
                        255 - value as u8
                    }
                };
                looked_up(picture, &[std::array::from_fn(table); 3])
            }
            Self::Rotate(degrees) => rotate(picture, degrees),
            Self::Affine(matrix) => affine(picture, matrix),
        }
    }
}

type Table = [u8; 256];

fn looked_up(picture: &Rgb, tables: &[Table; 3]) -> Rgb {
    let mut out = picture.clone();
    for pixel in out.data.chunks_exact_mut(3) {
        for (value, table) in pixel.iter_mut().zip(tables) {
            *value = table[usize::from(*value)];
        }
    }
    out
}

fn by_channel(picture: &Rgb, table: fn(&[u64; 256]) -> Table) -> Rgb {
    let mut histograms = [[0u64; 256]; 3];
    for pixel in picture.data.chunks_exact(3) {
        for (histogram, &value) in histograms.iter_mut().zip(pixel) {
            histogram[usize::from(value)] += 1;
        }
    }
    looked_up(picture, &histograms.each_ref().map(table))
}

/// `ImageOps.autocontrast(picture)`.
fn autocontrast(histogram: &[u64; 256]) -> Table {
    let low = histogram.iter().position(|&count| count > 0).unwrap_or(0);
    let high = histogram.iter().rposition(|&count| count > 0).unwrap_or(0);
    if high <= low {
        return std::array::from_fn(|value| value as u8);
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    std::array::from_fn(|value| ((value as f64 * scale + offset) as i64).clamp(0, 255) as u8)
}

/// `ImageOps.equalize(picture)`.
fn equalize(histogram: &[u64; 256]) -> Table {
    let filled: Vec<u64> = histogram
        .iter()
        .copied()
        .filter(|&count| count > 0)
        .collect();
    let last = filled.last().copied().unwrap_or(0);
    let step = (filled.iter().sum::<u64>() - last) / 255;
    if filled.len() <= 1 || step == 0 {
        return std::array::from_fn(|value| value as u8);
    }
    let mut sum = step / 2;
    std::array::from_fn(|value| {
        let level = (sum / step).min(255) as u8;
        sum += histogram[value];
        level
    })
}

/// `picture.rotate(degrees, resample=BILINEAR)`.
fn rotate(picture: &Rgb, degrees: f64) -> Rgb {
    let degrees = degrees.rem_euclid(360.0);
    if degrees == 0.0 {
        return picture.clone();
    }
    let angle = -degrees.to_radians();
    // Pillow rounds to 15 places.
    let round = |value: f64| (value * 1e15).round_ties_even() / 1e15;
    let (cos, sin) = (round(angle.cos()), round(angle.sin()));
    let (x, y) = (picture.width as f64 / 2.0, picture.height as f64 / 2.0);
    affine(
        picture,
        [
            cos,
            sin,
            cos * -x + sin * -y + x,
            -sin,
            cos,
            -sin * -x + cos * -y + y,
        ],
    )
}

/// `picture.transform(picture.size, AFFINE, matrix, resample=BILINEAR)`: pixels from outside are black.
fn affine(picture: &Rgb, [a, b, c, d, e, f]: [f64; 6]) -> Rgb {
    let (width, height) = (picture.width, picture.height);
    let mut out = Rgb::new(width, height);
    for y in 0..height {
        for x in 0..width {
            let (column, row) = (x as f64 + 0.5, y as f64 + 0.5);
            let from_x = a * column + b * row + c;
            let from_y = d * column + e * row + f;
            if from_x < 0.0 || from_x >= width as f64 || from_y < 0.0 || from_y >= height as f64 {
                continue;
            }
            let (from_x, from_y) = (from_x - 0.5, from_y - 0.5);
            let (left, top) = (from_x.floor(), from_y.floor());
            let (dx, dy) = (from_x - left, from_y - top);
            let clip = |value: f64, size: usize| value.clamp(0.0, size as f64 - 1.0) as usize;
            let (x0, x1) = (clip(left, width), clip(left + 1.0, width));
            let y0 = clip(top, height);
            let below = top + 1.0;
            let y1 = if below >= 0.0 && below < height as f64 {
                below as usize
            } else {
                y0
            };
            let at = (y * width + x) * 3;
            for channel in 0..3 {
                let value =
                    |x: usize, y: usize| f64::from(picture.data[(y * width + x) * 3 + channel]);
                let mix = |from: f64, to: f64, share: f64| from + (to - from) * share;
                let upper = mix(value(x0, y0), value(x1, y0), dx);
                let lower = mix(value(x0, y1), value(x1, y1), dx);
                out.data[at + channel] = mix(upper, lower, dy) as u8;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    const PILLOW: &[u8] = include_bytes!("../../tests/fixtures/pillow.safetensors");

    fn pillow(name: &str) -> Rgb {
        let tensors = SafeTensors::deserialize(PILLOW).unwrap();
        let view = tensors.tensor(name).unwrap();
        Rgb::from_raw(view.shape()[1], view.shape()[0], view.data().to_vec())
    }

    #[test]
    fn every_operation_is_pillows_bit_for_bit() {
        let source = pillow("source");
        for (name, operation) in [
            ("autocontrast", Operation::Autocontrast),
            ("equalize", Operation::Equalize),
            ("posterize4", Operation::Posterize(4)),
            ("rotate2", Operation::Rotate(2.0)),
            ("rotate-17", Operation::Rotate(-17.0)),
            ("solarize200", Operation::Solarize(200)),
            ("solarize256", Operation::Solarize(256)),
            (
                "shear_x",
                Operation::Affine([1.0, 0.0273, 0.0, 0.0, 1.0, 0.0]),
            ),
            (
                "shear_y",
                Operation::Affine([1.0, 0.0, 0.0, -0.21, 1.0, 0.0]),
            ),
            (
                "translate_x",
                Operation::Affine([1.0, 0.0, 3.0, 0.0, 1.0, 0.0]),
            ),
            (
                "translate_y",
                Operation::Affine([1.0, 0.0, 0.0, 0.0, 1.0, -5.0]),
            ),
        ] {
            assert!(
                operation.apply(&source) == pillow(&format!("op.{name}")),
                "{name}"
            );
        }
    }

    #[test]
    fn all_nine_operations_are_drawn_at_severity_1() {
        let mut stream = Stream::named(1, "operations", 0);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let operation = draw(224, &mut stream);
            seen.insert(match operation {
                Operation::Affine(matrix) => {
                    assert!(matrix[1].abs() < 0.03 && matrix[3].abs() < 0.03);
                    assert!(matrix[2].abs() <= 7.0 && matrix[5].abs() <= 7.0);
                    let moved = matrix
                        .iter()
                        .zip([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
                        .position(|(a, b)| *a != b);
                    moved.map_or("still".to_owned(), |place| format!("affine {place}"))
                }
                Operation::Posterize(bits) => format!("posterize {bits}"),
                Operation::Rotate(degrees) => {
                    assert!(degrees.abs() <= 2.0);
                    "rotate".to_owned()
                }
                Operation::Solarize(threshold) => {
                    assert!((231..=256).contains(&threshold));
                    "solarize".to_owned()
                }
                other => format!("{other:?}"),
            });
        }
        let expected = [
            "Autocontrast",
            "Equalize",
            "affine 1",
            "affine 2",
            "affine 3",
            "affine 5",
            "posterize 4",
            "rotate",
            "solarize",
            "still",
        ];
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_flat_picture_survives_every_operation() {
        let flat = Rgb::from_raw(5, 4, vec![77; 60]);
        let mut stream = Stream::named(2, "flat", 0);
        for _ in 0..200 {
            draw(5, &mut stream).apply(&flat);
        }
        assert_eq!(Operation::Equalize.apply(&flat), flat);
        assert_eq!(Operation::Autocontrast.apply(&flat), flat);
    }
}
