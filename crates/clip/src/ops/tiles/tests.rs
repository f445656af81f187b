use super::*;
use crate::ops::noise;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn pool(threads: usize) -> rayon::ThreadPool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().unwrap()
}

fn left(grade: Grade, values: &[f32], inner: usize) -> Left {
    Left::new(grade, values.len() / inner, inner, |i, row| {
        row.copy_from_slice(&values[i * inner..(i + 1) * inner]);
    })
}

/// The largest error of `out = start + a b` as a share of the sum of `|a b|` and `|start|`.
fn error(
    out: &[f32],
    [m, k, n]: [usize; 3],
    a: &[f32],
    b: &[f32],
    start: impl Fn(usize, usize) -> f64,
) -> f64 {
    let mut worst = 0f64;
    for i in 0..m {
        for j in 0..n {
            let (mut sum, mut size) = (start(i, j), start(i, j).abs());
            for l in 0..k {
                let part = f64::from(a[i * k + l]) * f64::from(b[l * n + j]);
                sum += part;
                size += part.abs();
            }
            worst = worst.max((f64::from(out[i * n + j]) - sum).abs() / size.max(1e-30));
        }
    }
    worst
}

/// The most that a product may be off, as a share of the sum of `|a b|`: what six products round, and three products of
/// halves leave out, and the order of sums; what rounding to 8 bits does.
fn bound(grade: Grade) -> f64 {
    match grade {
        Grade::Six => 4e-7,
        Grade::Split => 3.2e-5,
        Grade::Rounded => 8e-3,
    }
}

#[test]
fn products_of_every_tail_are_right() {
    let pool = pool(2);
    for grade in Grade::ALL {
        let sizes = (1..=40)
            .map(|m| [m, 1 + m * 7 % 100, 1 + m * 13 % 70])
            .chain((1..=70).map(|n| [1 + n * 11 % 40, 1 + n * 17 % 100, n]))
            .chain((1..=100).map(|k| [1 + k * 3 % 40, k, 1 + k * 5 % 70]))
            .chain([[33, 513, 260], [70, 1030, 40], [1030, 40, 70]]);
        for [m, k, n] in sizes {
            let (a, b) = (noise(m * k, 1), noise(k * n, 2));
            let mut out = vec![f32::NAN; m * n];
            pool.install(|| {
                let left = left(grade, &a, k);
                product(
                    Unit::Emulated,
                    &mut out,
                    &left,
                    Mat::new(&b, k, n, n),
                    Start::Zero,
                );
            });
            let worst = error(&out, [m, k, n], &a, &b, |_, _| 0.0);
            assert!(worst < bound(grade), "{m}x{k}x{n} {grade:?}: {worst}");
        }
    }
}

/// Ranges of draws: ordinary values, with a few that are far smaller, where sums come near subnormal numbers.
fn far_apart(n: usize, seed: u32) -> Vec<f32> {
    let mut values = noise(n, seed);
    for (i, value) in values.iter_mut().enumerate() {
        *value *= 2f32.powi(-(((i as u32 * 2_654_435_761) >> 20) as i32 % 90));
    }
    values
}

/// The same shapes and values for both units.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn the_processors_instructions_give_the_bits_of_the_emulation() {
    let by = signals::install();
    eprintln!("the unit's instructions are carried out by: {by:?}");
    let pool = pool(2);
    for grade in Grade::ALL {
        for [m, k, n] in [
            [1, 1, 1],
            [16, 32, 32],
            [17, 33, 31],
            [32, 64, 64],
            [33, 100, 70],
            [50, 31, 33],
            [64, 257, 40],
            [5, 600, 300],
        ] {
            for draw in [noise, far_apart] {
                let (a, b) = (draw(m * k, 3), draw(k * n, 4));
                let mut out = [vec![0f32; m * n], vec![0f32; m * n]];
                pool.install(|| {
                    let left = left(grade, &a, k);
                    let [amx, emulated] = &mut out;
                    for (unit, out) in [(Unit::Amx, amx), (Unit::Emulated, emulated)] {
                        product(unit, out, &left, Mat::new(&b, k, n, n), Start::Zero);
                    }
                });
                assert_eq!(bits(&out[0]), bits(&out[1]), "{m}x{k}x{n} {grade:?}");
            }
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn the_check_before_the_first_product_passes_where_instructions_do_as_the_manual_says() {
    signals::install();
    // SAFETY: the instructions were made to work.
    assert!(unsafe { gives_the_manuals_bits() });
}

#[test]
fn a_processor_without_the_unit_says_so() {
    match Unit::lack() {
        None => eprintln!("this machine has the unit"),
        Some(lack) => {
            eprintln!("{lack}");
            assert!(!Unit::is_there());
        }
    }
    if cfg!(not(target_arch = "x86_64")) {
        assert!(!Unit::is_there());
    }
}

/// The shapes that towers multiply, of a few rows each: `[inner, columns]`.
const WIDE: [[usize; 2]; 6] = [
    [768, 3072],
    [768, 768],
    [3072, 768],
    [512, 2048],
    [512, 512],
    [2048, 512],
];

#[test]
fn six_products_are_off_by_no_more_than_a_loop_in_float32_and_fewer_by_their_grade() {
    let (m, pool) = (37, pool(2));
    for [k, n] in WIDE {
        let (a, b) = (noise(m * k, 5), noise(k * n, 6));
        let mut looped = vec![0f32; m * n];
        for (row, a) in looped.chunks_mut(n).zip(a.chunks(k)) {
            for (a, b) in a.iter().zip(b.chunks(n)) {
                for (sum, b) in row.iter_mut().zip(b) {
                    *sum = a.mul_add(*b, *sum);
                }
            }
        }
        let of_loop = error(&looped, [m, k, n], &a, &b, |_, _| 0.0);
        for (grade, most) in [
            (Grade::Six, of_loop.min(2e-7)),
            (Grade::Split, 1e-6),
            (Grade::Rounded, 8e-4),
        ] {
            let mut out = vec![0f32; m * n];
            pool.install(|| {
                let left = left(grade, &a, k);
                product(
                    Unit::Emulated,
                    &mut out,
                    &left,
                    Mat::new(&b, k, n, n),
                    Start::Zero,
                );
            });
            let worst = error(&out, [m, k, n], &a, &b, |_, _| 0.0);
            eprintln!("{k}x{n} {grade:?}: {worst:.1e}, a loop in float32 {of_loop:.1e}");
            assert!(worst < most, "{k}x{n} {grade:?}: {worst}");
        }
    }
}

#[test]
fn sums_begin_with_what_they_are_told_to() {
    for [m, k, n] in [[33, 100, 70], [3, 0, 5], [16, 520, 32]] {
        let (a, b, bias, base) = (
            noise(m * k, 7),
            noise(k * n, 8),
            noise(n, 9),
            noise(m * n, 10),
        );
        let left = Left::new(Grade::Six, m, k, |i, row| {
            row.copy_from_slice(&a[i * k..(i + 1) * k])
        });
        let before = noise(m * n, 11);
        let of = |start| {
            let mut out = before.clone();
            product(
                Unit::Emulated,
                &mut out,
                &left,
                Mat::new(&b, k, n, n),
                start,
            );
            out
        };
        let zero = of(Start::Zero);
        let output = of(Start::Output);
        let on_bias = of(Start::Bias(&bias));
        let onto = of(Start::Onto(&bias, &base));
        for i in 0..m * n {
            assert_eq!(output[i], before[i] + zero[i]);
            assert_eq!(on_bias[i], bias[i % n] + zero[i]);
            assert_eq!(onto[i], base[i] + bias[i % n] + zero[i]);
        }
    }
}

#[test]
fn orientation_threads_and_laying_out_before_change_no_bit() {
    for [m, k, n] in [[70, 100, 520], [33, 1100, 100], [1030, 64, 129]] {
        let (a, b, bias) = (noise(m * k, 12), far_apart(k * n, 13), noise(n, 14));
        let mut turned = vec![0f32; k * n];
        for (at, value) in b.iter().enumerate() {
            turned[at % n * k + at / n] = *value;
        }
        for grade in Grade::ALL {
            let mut first = Vec::new();
            for threads in [1, 2, 7] {
                pool(threads).install(|| {
                    let left = left(grade, &a, k);
                    for right in [Mat::new(&b, k, n, n), Mat::new(&turned, n, k, k).t()] {
                        let mut out = vec![0f32; m * n];
                        product(Unit::Emulated, &mut out, &left, right, Start::Bias(&bias));
                        let mut before = vec![0f32; m * n];
                        let right = Right::new(grade, right);
                        product_with(
                            Unit::Emulated,
                            &mut before,
                            &left,
                            &right,
                            Start::Bias(&bias),
                        );
                        if first.is_empty() {
                            first = bits(&out);
                        }
                        assert_eq!(
                            bits(&out),
                            first,
                            "{m}x{k}x{n} {grade:?}, {threads} threads"
                        );
                        assert_eq!(
                            bits(&before),
                            first,
                            "{m}x{k}x{n} {grade:?}, laid out before"
                        );
                    }
                });
            }
        }
    }
}

#[test]
fn a_row_depends_on_no_other() {
    let [m, k, n] = [70, 130, 67];
    let (a, b) = (noise(m * k, 15), noise(k * n, 16));
    for grade in Grade::ALL {
        let of = |values: &[f32]| {
            let mut out = vec![0f32; values.len() / k * n];
            let right = Mat::new(&b, k, n, n);
            product(
                Unit::Emulated,
                &mut out,
                &left(grade, values, k),
                right,
                Start::Zero,
            );
            bits(&out)
        };
        let all = of(&a);
        for (first, rows) in [(0, 1), (5, 16), (31, 20), (69, 1)] {
            let alone = of(&a[first * k..(first + rows) * k]);
            assert_eq!(
                alone,
                all[first * n..(first + rows) * n],
                "rows from {first}"
            );
        }
        // Nor on values of others that the emulation takes another way for, or that are no numbers.
        let mut others = a.clone();
        for (i, row) in others.chunks_mut(k).enumerate() {
            match i % 3 {
                0 => row.fill(f32::NAN),
                1 => row.fill(1e-37),
                _ => {}
            }
        }
        for (i, (now, before)) in of(&others).chunks(n).zip(all.chunks(n)).enumerate() {
            assert!(i % 3 < 2 || now == before, "row {i}");
        }
    }
}

#[test]
fn what_is_not_finite_never_becomes_a_number() {
    let [m, k, n] = [5, 70, 40];
    for grade in Grade::ALL {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let (mut a, mut b) = (noise(m * k, 17), noise(k * n, 18));
            a[2 * k + 65] = odd;
            b[33 * n + 7] = odd;
            let mut out = vec![0f32; m * n];
            let right = Mat::new(&b, k, n, n);
            product(
                Unit::Emulated,
                &mut out,
                &left(grade, &a, k),
                right,
                Start::Zero,
            );
            for (i, value) in out.iter().enumerate() {
                let finite = i / n != 2 && i % n != 7;
                assert_eq!(value.is_finite(), finite, "{grade:?} {odd}: {value} at {i}");
                assert!(value.is_nan() || !odd.is_nan() || finite, "NaN stays NaN");
            }
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let left = left(Grade::Split, &[1.0; 12], 4);
    for (rows, out, bias) in [(5, 6, 2), (4, 7, 2), (4, 6, 3)] {
        let (right, bias) = (vec![1f32; rows * 2], vec![0f32; bias]);
        let product = std::panic::AssertUnwindSafe(|| {
            let right = Mat::new(&right, rows, 2, 2);
            product(
                Unit::Emulated,
                &mut vec![0f32; out],
                &left,
                right,
                Start::Bias(&bias),
            );
        });
        assert!(
            std::panic::catch_unwind(product).is_err(),
            "{rows} {out} {}",
            bias.len()
        );
    }
}

#[test]
fn one_thread_alone_gives_the_bits_of_many_into_rows_apart() {
    for [m, k, n] in [[1, 1, 1], [33, 64, 50], [197, 64, 197], [64, 197, 197]] {
        let (a, b) = (noise(m * k, 11), noise(k * n, 12));
        let at: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
        let right = Mat::new(&b, k, n, n);
        let mut many = vec![0f32; m * n];
        let rows = left(Grade::Six, &a, k);
        product(Unit::Emulated, &mut many, &rows, right, Start::Zero);
        let stride = n + 5;
        for rows in [Mat::new(&a, m, k, k), Mat::new(&at, k, m, m).t()] {
            let mut alone = vec![7f32; m * stride];
            // SAFETY: as large as the product.
            unsafe {
                let out = alone.as_mut_ptr();
                product_alone(Unit::Emulated, Grade::Six, out, stride, rows, right);
            }
            for (row, want) in alone.chunks(stride).zip(many.chunks(n)) {
                assert_eq!(bits(&row[..n]), bits(want), "{m}x{k}x{n}");
                assert!(
                    row[n..].iter().all(|v| *v == 7.0),
                    "nothing is written between"
                );
            }
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn a_block_on_the_processors_instructions_gives_the_bits_of_the_emulation() {
    use super::super::block::tests::{block, layouts, noise};
    use super::super::products::Products;
    use super::super::{Activation, Arithmetic};
    use candle_core::Var;

    let by = signals::install();
    eprintln!("the unit's instructions are carried out by: {by:?}");
    let layout = std::sync::Arc::new(layouts().swap_remove(0));
    let x = Var::from_tensor(&noise(&[layout.rows(), 32], 3, 1.0)).unwrap();
    for grade in Grade::ALL {
        let [amx, emulated] = [Arithmetic::Amx, Arithmetic::Emulated].map(|arithmetic| {
            let mut block = block(Activation::QuickGelu, false);
            let unit = arithmetic.unit().unwrap();
            block.use_products(Products::Tiles(unit, grade));
            let y = block.forward(x.as_tensor(), &layout, None).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            [&y, grads.get(&x).unwrap()].map(|t| {
                let flat = t.flatten_all().unwrap();
                bits(&flat.to_vec1::<f32>().unwrap())
            })
        });
        assert!(amx == emulated, "{grade:?}");
    }
}
