use half::{bf16, f16};

use super::*;
use crate::ops::Kept;
use crate::ops::noise;

/// The kinds that this machine has; says which it has not.
fn kinds() -> Vec<Products> {
    let all = [
        Products::Float32,
        Products::Pairs,
        Products::Tiles(Unit::Amx, Grade::Six),
        Products::Tiles(Unit::Amx, Grade::Split),
        Products::Tiles(Unit::Amx, Grade::Rounded),
        Products::Tiles(Unit::Emulated, Grade::Six),
        Products::Tiles(Unit::Emulated, Grade::Split),
        Products::Tiles(Unit::Emulated, Grade::Rounded),
    ];
    let (there, missing): (Vec<_>, Vec<_>) = all.into_iter().partition(|by| by.is_supported());
    if !missing.is_empty() {
        eprintln!("SKIPPED: this processor has no {missing:?}");
    }
    there
}

fn pairs() -> bool {
    kinds().contains(&Products::Pairs)
}

/// `base + a b^T`, where `b` is `[n, k]`.
fn product(
    by: Products,
    a: &[f32],
    b: &[f32],
    (m, k, n): (usize, usize, usize),
    base: f32,
) -> Vec<f32> {
    let mut out = vec![base; m * n];
    let left = Left::of(by, [m, k], n, a);
    left.product(&mut out, Mat::new(b, n, k, k).t(), Start::Output);
    out
}

const SHAPES: [(usize, usize, usize); 8] = [
    (1, 2, 1),
    (5, 7, 3),
    (12, 32, 32),
    (13, 33, 40),
    (100, 768, 96),
    (197, 2048, 100),
    (300, 770, 400),
    (1030, 129, 65),
];

#[test]
fn a_product_of_pairs_is_the_exact_one_of_rounded_inputs_but_for_the_rounding_of_sums() {
    if !pairs() {
        return;
    }
    for shape @ (m, k, n) in SHAPES {
        let (a, b) = (noise(m * k, 1), noise(n * k, 2));
        let out = product(Products::Pairs, &a, &b, shape, 0.25);
        let round = |x: f32| f64::from(bf16::from_f32(x).to_f32());
        for i in 0..m {
            for j in 0..n {
                let terms = (0..k).map(|l| round(a[i * k + l]) * round(b[j * k + l]));
                let want = 0.25 + terms.clone().sum::<f64>();
                let size = 0.25 + terms.map(f64::abs).sum::<f64>();
                let wrong = (f64::from(out[i * n + j]) - want).abs();
                assert!(
                    wrong <= size * 1e-6,
                    "{shape:?} at {i}, {j}: {wrong} of {size}"
                );
            }
        }
    }
}

#[test]
fn rounding_the_inputs_of_pairs_is_seen() {
    if !pairs() {
        return;
    }
    let one = |a: f32| product(Products::Pairs, &[a, 0.0], &[1.0, 0.0], (1, 2, 1), 0.0);
    // 1 + 2^-9 is not a bfloat16: it becomes 1, and ties go to even.
    assert_eq!(one(1.0 + 2f32.powi(-9)), [1.0]);
    assert_eq!(one(1.0 + 3.0 * 2f32.powi(-8)), [1.0 + 2f32.powi(-6)]);
}

#[test]
fn numbers_of_threads_change_no_bit_of_any_kind() {
    for by in kinds() {
        for shape @ (m, k, n) in [(301, 530, 500), (1040, 64, 130)] {
            let (a, b) = (noise(m * k, 3), noise(n * k, 4));
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                pool.install(|| product(by, &a, &b, shape, 0.0))
            };
            assert_eq!(on(1), on(3), "{by:?}");
        }
    }
}

#[test]
fn a_row_of_pairs_does_not_depend_on_its_neighbours() {
    if !pairs() {
        return;
    }
    let (m, k, n) = (40, 96, 64);
    let (a, b) = (noise(m * k, 5), noise(n * k, 6));
    let all = product(Products::Pairs, &a, &b, (m, k, n), 0.0);
    for i in [0, 11, 12, 39] {
        let row = &a[i * k..(i + 1) * k];
        let one = product(Products::Pairs, row, &b, (1, k, n), 0.0);
        assert_eq!(one, all[i * n..(i + 1) * n]);
    }
}

#[test]
fn sums_that_begin_with_something_have_the_bits_of_sums_added_to_it() {
    for by in kinds() {
        for (m, k, n) in SHAPES {
            let (a, b) = (noise(m * k, 7), noise(n * k, 8));
            let (bias, base) = (noise(n, 9), noise(m * n, 10));
            let left = Left::of(by, [m, k], n, &a);
            let weight = Mat::new(&b, n, k, k).t();
            let run = |start: Start| {
                let mut out = base.clone();
                left.product(&mut out, weight, start);
                out
            };
            let onto = |filled: Option<&[f32]>| {
                let mut out = vec![0f32; m * n];
                rows::fill_rows(&mut out, &bias, filled);
                left.product(&mut out, weight, Start::Output);
                out
            };
            assert_eq!(run(Start::Bias(&bias)), onto(None), "{by:?} {m}x{k}x{n}");
            let sums = run(Start::Onto(&bias, &base));
            assert_eq!(sums, onto(Some(&base)), "{by:?} {m}x{k}x{n}");
            let mut zeros = vec![0f32; m * n];
            left.product(&mut zeros, weight, Start::Output);
            assert_eq!(run(Start::Zero), zeros, "{by:?} {m}x{k}x{n}");
        }
    }
}

#[test]
fn weights_kept_in_halves_multiply_as_if_they_had_been_widened_before() {
    for by in kinds() {
        for (m, k, n) in SHAPES {
            let a = noise(m * k, 11);
            let half: Vec<f16> = noise(n * k, 12).into_iter().map(f16::from_f32).collect();
            let bfloat: Vec<bf16> = noise(n * k, 13).into_iter().map(bf16::from_f32).collect();
            let left = Left::of(by, [m, k], n, &a);
            for kept in [Kept::Half(&half), Kept::Bfloat16(&bfloat)] {
                let widened = kept.floats();
                let shapes = |kept| [Mat::kept(kept, n, k).t(), Mat::kept(kept, k, n)];
                let both = shapes(kept)
                    .into_iter()
                    .zip(shapes(Kept::Float32(&widened)));
                for (small, whole) in both {
                    let run = |weight| {
                        let mut out = vec![0f32; m * n];
                        left.product(&mut out, weight, Start::Zero);
                        out
                    };
                    assert_eq!(run(small), run(whole), "{by:?} {m}x{k}x{n}");
                }
            }
        }
    }
}

#[test]
fn a_weight_multiplies_the_same_from_either_side_of_its_memory() {
    for by in kinds() {
        for (m, k, n) in SHAPES {
            let (a, b) = (noise(m * k, 14), noise(n * k, 15));
            let turned: Vec<f32> = (0..k * n).map(|i| b[i % n * k + i / n]).collect();
            let left = Left::of(by, [m, k], n, &a);
            let (mut ours, mut theirs) = (vec![0f32; m * n], vec![0f32; m * n]);
            left.product(&mut ours, Mat::new(&b, n, k, k).t(), Start::Zero);
            left.product(&mut theirs, Mat::new(&turned, k, n, n), Start::Zero);
            // The `gemm` crate sums few rows otherwise when the weight lies otherwise.
            let gap = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
            let most = gap.fold(0f32, f32::max);
            let by_gemm = by == Products::Float32 && panels_take(m, k, n).is_none();
            assert!(
                most <= if by_gemm { 1e-5 } else { 0.0 },
                "{by:?} {m}x{k}x{n}: {most}"
            );
        }
    }
}

#[test]
fn written_rows_multiply_as_rows_that_are_there() {
    for by in kinds() {
        for (m, k, n) in SHAPES {
            let (a, b) = (noise(m * k, 16), noise(n * k, 17));
            let write = |i: usize, row: &mut [f32]| row.copy_from_slice(&a[i * k..(i + 1) * k]);
            let [ours, theirs] = [
                Left::written(by, [m, k], n, write),
                Left::of(by, [m, k], n, &a),
            ]
            .map(|left| {
                let mut out = vec![0f32; m * n];
                left.product(&mut out, Mat::new(&b, n, k, k).t(), Start::Zero);
                out
            });
            assert_eq!(ours, theirs, "{by:?} {m}x{k}x{n}");
        }
    }
}
