#[cfg(target_arch = "x86_64")]
use super::super::super::kept::Number;
use super::*;
use crate::ops::noise;

fn value(word: u32, odd: usize) -> f32 {
    f32::from_bits((word >> (16 * odd)) << 16)
}

#[test]
fn rounding_is_to_nearest_and_ties_go_to_even() {
    for (x, want) in [
        (0x3f80_0000, 0x3f80),
        (0x3f80_8000, 0x3f80),
        (0x3f81_8000, 0x3f82),
        (0x3f80_8001, 0x3f81),
        (0x7f7f_ffff, 0x7f80),
        (0xff80_0000, 0xff80),
        (0x0000_0000, 0x0000),
        (0x8000_0000, 0x8000),
        // Subnormal: zero of the same sign, though the largest of them would round to a normal number.
        (0x007f_ffff, 0x0000),
        (0x8000_0001, 0x8000),
        (0x0080_0000, 0x0080),
        // NaN of any payload.
        (0x7f80_0001, 0x7fc0),
        (0xffff_ffff, 0xffff),
    ] {
        assert_eq!(rounded(f32::from_bits(x)), want, "{x:08x}");
    }
    for bits in (0..=u32::MAX).step_by(65_521) {
        let x = f32::from_bits(bits);
        if !x.is_subnormal() && !x.is_nan() {
            assert_eq!(
                rounded(x),
                u32::from(half::bf16::from_f32(x).to_bits()),
                "{bits:08x}"
            );
        }
    }
}

#[test]
fn halves_leave_less_than_a_part_in_2_to_the_17() {
    for x in noise(10_000, 3) {
        let [high, low, _] = split([x, -x]);
        for (odd, x) in [(0, x), (1, -x)] {
            let rest = f64::from(x) - f64::from(value(high, odd)) - f64::from(value(low, odd));
            assert!(
                rest.abs() <= f64::from(x.abs()) / f64::from(1 << 17),
                "{x}: {rest}"
            );
        }
    }
    // All that half precision holds is exact.
    for bits in 0..=u16::MAX {
        let x = half::f16::from_bits(bits).to_f32();
        if x.is_finite() {
            let [high, low, last] = split([x, 0.0]);
            assert_eq!(value(high, 0) + value(low, 0), x);
            assert_eq!(value(last, 0), 0.0);
        }
    }
}

#[test]
fn three_parts_leave_nothing_but_of_the_smallest_numbers() {
    let sum = |words: [u32; 3], odd: usize| -> f64 {
        words.iter().map(|word| f64::from(value(*word, odd))).sum()
    };
    let mut bits = 0u32;
    while let Some(next) = bits.checked_add(30_011) {
        bits = next;
        let x = f32::from_bits(bits);
        let words = split([x, -x]);
        if x.is_nan() {
            assert!(value(words[0], 0).is_nan());
        } else if x.abs() >= f32::from_bits(0x7f7f_8000) {
            assert!(value(words[0], 0).is_infinite() && !value(words[1], 0).is_finite());
            assert!(!value(words[2], 0).is_finite());
        } else {
            for (odd, x) in [(0, x), (1, -x)] {
                let rest = (f64::from(x) - sum(words, odd)).abs();
                assert!(rest < f64::from(f32::MIN_POSITIVE), "{x:e}: {rest:e}");
                assert!(rest == 0.0 || x.abs() < 2f32.powi(-103), "{x:e}: {rest:e}");
            }
        }
    }
}

/// Ordinary values and every kind of odd one.
fn odd_values(n: usize, seed: u32) -> Vec<f32> {
    let mut values = noise(n, seed);
    for (i, value) in values.iter_mut().enumerate() {
        let bits = (i as u32).wrapping_mul(2_654_435_761) ^ seed.rotate_left(9);
        match i % 7 {
            0 => *value = f32::from_bits(bits),
            1 => *value = f32::from_bits(bits & 0x80ff_ffff),
            2 => *value = f32::from_bits(bits | 0x7f00_0000),
            _ => {}
        }
    }
    values
}

#[test]
fn wide_instructions_lay_out_the_same_bits() {
    #[cfg(target_arch = "x86_64")]
    if wide::is_supported() {
        for (inner, columns) in [
            (1, 1),
            (2, 31),
            (33, 32),
            (63, 33),
            (64, 65),
            (100, 17),
            (3, 70),
        ] {
            let data = odd_values(inner * columns, (inner + columns) as u32);
            for right in [
                Mat::new(&data, inner, columns, columns),
                Mat::new(&data, columns, inner, inner).t(),
            ] {
                let values = Values::of(right);
                for grade in Grade::ALL {
                    let steps = inner.div_ceil(STEP);
                    for column in (0..columns).step_by(SIDE) {
                        for range in [0..steps, steps - 1..steps] {
                            let len = range.len() * step_words(grade);
                            let (mut ours, mut plain) = (vec![1; len], vec![2; len]);
                            values.lay_out(grade, column, range.clone(), &mut ours);
                            values.lay_out_plainly(grade, column, range, &mut plain);
                            assert_eq!(ours, plain, "{inner}x{columns}, {column}, {grade:?}");
                        }
                    }
                }
            }
        }
        let row = odd_values(64 * STEP, 9);
        for grade in Grade::ALL {
            let len = 64 * step_words(grade);
            let (mut ours, mut plain) = (vec![1; len], vec![1; len]);
            // SAFETY: as long as the row's steps.
            unsafe {
                split_row(grade, &row, ours.as_mut_ptr());
                split_row_plainly(grade, &row, plain.as_mut_ptr());
            }
            assert_eq!(ours, plain);
        }
        return;
    }
    eprintln!("SKIPPED: this processor has no AVX512-BF16");
}

#[test]
fn what_is_missing_to_whole_tiles_is_zero() {
    // Buffers come back with what was in them.
    let mut dirty = scratch::take(1 << 16);
    dirty.fill(f32::NAN);
    drop(dirty);
    for (lanes, inner) in [(1, 1), (17, 33), (33, 31), (40, 100)] {
        let ones = vec![1f32; lanes * inner];
        let count = |tiles: &Tiles, groups: usize, whole: bool| -> usize {
            (0..groups)
                .flat_map(|group| tiles.words(group, 0..tiles.steps()))
                .enumerate()
                // The second tile of the last rows may be left as it was, when no row reaches it.
                .filter(|(i, _)| {
                    let last = i / (tiles.steps() * 1024) == groups - 1;
                    whole || !last || i % 512 < TILE
                })
                .map(|(_, word)| (0..2).filter(|odd| value(*word, *odd) != 0.0).count())
                .sum()
        };
        let groups = lanes.div_ceil(SIDE);
        let rows = Tiles::of_rows(Grade::Split, lanes, inner, |_, row| row.fill(1.0));
        let whole = (lanes - 1) % SIDE >= SIDE / 2;
        assert_eq!(count(&rows, groups, whole), lanes * inner);
        let columns = Tiles::of_columns(Grade::Split, Mat::new(&ones, inner, lanes, lanes));
        assert_eq!(count(&columns, groups, true), lanes * inner);
    }
}

#[test]
fn numbers_kept_in_sixteen_bits_are_laid_out_as_when_they_are_widened() {
    #[cfg(target_arch = "x86_64")]
    if wide::is_supported() {
        fn check<N: Number>(kept: &[N], widened: &[f32], [inner, columns]: [usize; 2]) {
            for right in [
                Mat::new(widened, inner, columns, columns),
                Mat::new(widened, columns, inner, inner).t(),
            ] {
                let (values, steps) = (Values::of(right), inner.div_ceil(STEP));
                for (grade, column) in [(Grade::Six, 0), (Grade::Split, 0), (Grade::Rounded, SIDE)]
                {
                    let len = steps * step_words(grade);
                    let (mut ours, mut plain) = (vec![1; len], vec![2; len]);
                    // SAFETY: the processor has the instructions.
                    unsafe { wide::lay_out(&values, kept, grade, column, 0..steps, &mut ours) };
                    values.lay_out_plainly(grade, column, 0..steps, &mut plain);
                    assert_eq!(ours, plain, "{inner}x{columns}, {grade:?}");
                }
            }
        }
        for size in [[100, 70], [31, 45], [64, 64]] {
            let values = noise(size[0] * size[1], 19);
            let halves: Vec<_> = values.iter().map(|v| half::f16::from_f32(*v)).collect();
            let widened: Vec<_> = halves.iter().map(|v| v.to_f32()).collect();
            check(&halves, &widened, size);
            let bfloats: Vec<_> = values.iter().map(|v| half::bf16::from_f32(*v)).collect();
            let widened: Vec<_> = bfloats.iter().map(|v| v.to_f32()).collect();
            check(&bfloats, &widened, size);
        }
        return;
    }
    eprintln!("SKIPPED: this processor has no AVX512-BF16");
}
