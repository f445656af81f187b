use super::*;

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..n)
        .map(|_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1u32 << 24) as f32 - 0.5
        })
        .collect()
}

/// Says so, once for each test, where there is nothing to test with.
fn can_test() -> bool {
    if !is_supported() {
        eprintln!("SKIPPED: this processor has no AVX512-BF16");
    }
    is_supported()
}

fn product(a: &[f32], b: &[f32], (m, k, n): (usize, usize, usize), base: f32) -> Vec<f32> {
    let mut out = vec![base; m * n];
    let rows = Rows::new(m, k, |i, row| row.copy_from_slice(&a[i * k..(i + 1) * k]));
    Packed::new(b, n, k).product(&mut out, &rows);
    out
}

#[test]
fn a_product_is_the_exact_one_of_rounded_inputs_but_for_the_rounding_of_sums() {
    if !can_test() {
        return;
    }
    for shape @ (m, k, n) in [
        (1, 2, 1),
        (5, 7, 3),
        (12, 32, 32),
        (13, 33, 40),
        (100, 768, 96),
        (197, 2048, 100),
        (300, 770, 400),
    ] {
        let (a, b) = (noise(m * k, 1), noise(n * k, 2));
        let out = product(&a, &b, shape, 0.25);
        let round = |x: f32| f64::from(half::bf16::from_f32(x).to_f32());
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
fn rounding_the_inputs_is_seen() {
    if !can_test() {
        return;
    }
    // 1 + 2^-9 is not a bfloat16: it becomes 1, and ties go to even.
    assert_eq!(
        product(&[1.0 + 2f32.powi(-9), 0.0], &[1.0, 0.0], (1, 2, 1), 0.0),
        [1.0]
    );
    let tie = 1.0 + 3.0 * 2f32.powi(-8);
    assert_eq!(
        product(&[tie, 0.0], &[1.0, 0.0], (1, 2, 1), 0.0),
        [1.0 + 2f32.powi(-6)]
    );
}

#[test]
fn numbers_of_threads_change_no_bit() {
    if !can_test() {
        return;
    }
    let shape @ (m, k, n) = (301, 1030, 1000);
    let (a, b) = (noise(m * k, 3), noise(n * k, 4));
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| product(&a, &b, shape, 0.0))
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn a_rows_features_do_not_depend_on_its_neighbours() {
    if !can_test() {
        return;
    }
    let (m, k, n) = (40, 96, 64);
    let (a, b) = (noise(m * k, 5), noise(n * k, 6));
    let all = product(&a, &b, (m, k, n), 0.0);
    for i in [0, 11, 12, 39] {
        let one = product(&a[i * k..(i + 1) * k], &b, (1, k, n), 0.0);
        assert_eq!(one, all[i * n..(i + 1) * n]);
    }
}
