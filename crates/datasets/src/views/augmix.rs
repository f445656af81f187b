//! AugMix as TPT uses it (`data/augmix_ops.py` and `data/datautils.py` of azshue/TPT at 63ecbac, severity 1):
//! the nine operations of Hendrycks et al., <https://arxiv.org/abs/1912.02781>, bit-equal to Pillow's.

use super::pillow::{self, Sampling};
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
            Self::Autocontrast => pillow::autocontrast(picture),
            Self::Equalize => pillow::equalize(picture),
            Self::Posterize(bits) => pillow::posterize(picture, bits),
            Self::Solarize(threshold) => pillow::solarize(picture, f64::from(threshold)),
            Self::Rotate(degrees) => pillow::rotate(picture, degrees, Sampling::Bilinear),
            Self::Affine(matrix) => pillow::affine(picture, matrix, Sampling::Bilinear),
        }
    }
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
