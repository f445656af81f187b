//! What `tdpbf16ps` does, in software, bit for bit.
//!
//! After the pseudo-code of Intel's manual (Software Developer's Manual, volume 2, TDPBF16PS; volume 1, 18.3 on AMX). A
//! value of the result is given two sums, of even and of odd inputs along the inner side, both from zero, by fused
//! multiply-adds in order; then the sum of both is added to the value. Every step rounds to nearest, ties to even;
//! subnormal numbers count as zero wherever they go in (DAZ) and become zero where they come out (FTZ), whatever the
//! thread's own mode.
//!
//! Two ways to the same bits. Where every value is a multiple of a number large enough that no sum can be subnormal, and
//! that is nearly always so, sums are plain fused multiply-adds. Otherwise sums go by way of float64: a product of two
//! bfloat16 is exact there, and a sum of two float32 values, rounded to float64's 53 bits and then to 24, is what it is
//! when rounded once (Figueroa, *When is double rounding innocuous?*, 1995: 53 >= 2 * 24 + 2). A result is tiny, as with
//! SSE's FTZ, when it is below the smallest normal number after rounding to 24 bits of unbounded exponent.

use pulp::{Arch, NullaryFnOnce};

use super::{Grade, TILE, place, step_words};

#[cfg(target_arch = "x86_64")]
mod wide;

/// A tile of the left input as float32: for each row, the even and the odd values along the inner side.
type Rows = [[[f32; 16]; 2]; 16];
/// Two tiles of the right input as float32: for each pair along the inner side, the even and the odd one of 32 columns.
type Columns = [[[f32; 32]; 2]; 16];

/// Below, a sum of float64 is no normal number when rounded to 24 bits: half a unit in the last place under 2^-126.
const TINY: f64 = (1.0 - 1.0 / (1u64 << 25) as f64) * f32::MIN_POSITIVE as f64;

/// A number so large that multiples of it are never subnormal.
const NORMAL: i32 = -126;

/// As [`super::multiply`].
pub(super) fn multiply(
    grade: Grade,
    tall: bool,
    left: &[u32],
    right: &[u32],
    sums: &mut [f32],
    keep: bool,
) {
    let height = if tall { 2 } else { 1 };
    if !keep {
        sums[..height * 2 * TILE].fill(0.0);
    }
    let mut of_sums = [i32::MAX; 2];
    for (i, of_sums) in of_sums.iter_mut().enumerate().take(height) {
        *of_sums = unit_of_sums(&sums[place(i, 0)..place(i, 0) + 2 * TILE]);
    }
    let parts = grade.parts();
    let (mut lefts, mut rights) = ([[[[0f32; 16]; 2]; 16]; 3], [[[[0f32; 32]; 2]; 16]; 3]);
    let steps = left.chunks_exact(step_words(grade));
    for (left, right) in steps.zip(right.chunks_exact(step_words(grade))) {
        let mut of_rights = [i32::MAX; 3];
        for part in 0..parts {
            let words = &right[part * 2 * TILE..(part + 1) * 2 * TILE];
            of_rights[part] = spread_columns(words, &mut rights[part]);
        }
        for (tile, of_sums) in of_sums.iter_mut().enumerate().take(height) {
            let mut of_lefts = [i32::MAX; 3];
            for part in 0..parts {
                let at = (2 * part + tile) * TILE;
                of_lefts[part] = spread_rows(&left[at..at + TILE], &mut lefts[part]);
            }
            let to = place(tile, 0);
            let sums = &mut sums[to..to + 2 * TILE];
            for (l, r) in grade.order() {
                let of_products = of_lefts[*l].saturating_add(of_rights[*r]);
                *of_sums = (*of_sums).min(of_products);
                let (rows, columns) = (&lefts[*l], &rights[*r]);
                if *of_sums < NORMAL {
                    exactly(rows, columns, sums);
                } else {
                    quickly(rows, columns, sums);
                }
            }
        }
    }
}

/// The exponent of a power of two that all values are multiples of: of the least that is not zero, less the bits behind
/// its leading one. Rounded sums of multiples are multiples too. Subnormal values give a number so low that nobody
/// computes quickly. `least` is the least pattern of bits without signs, less one, so that zero is the largest.
fn unit(least: u32, behind: i32) -> i32 {
    match least.wrapping_add(1) >> 23 {
        0 if least == u32::MAX => i32::MAX,
        0 => i32::MIN,
        exponent => exponent as i32 - 127 - behind,
    }
}

/// [`unit`] of sums.
fn unit_of_sums(sums: &[f32]) -> i32 {
    let least = |bits: &f32| (bits.to_bits() & 0x7fff_ffff).wrapping_sub(1);
    unit(sums.iter().map(least).min().unwrap_or(u32::MAX), 23)
}

/// A tile's values, and [`unit`] of them.
fn spread_rows(words: &[u32], out: &mut Rows) -> i32 {
    let out = out.as_flattened_mut().as_flattened_mut();
    unit(spread(words, out, [32, 16]), 7)
}

/// Two tiles' values, and [`unit`] of them.
fn spread_columns(words: &[u32], out: &mut Columns) -> i32 {
    let out = out.as_flattened_mut().as_flattened_mut();
    let (first, second) = words.split_at(TILE);
    let least = spread(first, out, [64, 32]);
    unit(least.min(spread(second, &mut out[16..], [64, 32])), 7)
}

/// Writes the even and the odd values of rows of 16 words apart: those of row `i` from `i * stride` on, and from
/// `i * stride + odd` on. Returns the least of them, as [`unit`] takes it.
fn spread(words: &[u32], out: &mut [f32], [stride, odd]: [usize; 2]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if wide::is_supported() {
        // SAFETY: the processor has the instructions.
        return unsafe { wide::spread(words, out, [stride, odd]) };
    }
    spread_plainly(words, out, [stride, odd])
}

/// As [`spread`], on any processor.
fn spread_plainly(words: &[u32], out: &mut [f32], [stride, odd]: [usize; 2]) -> u32 {
    let mut least = u32::MAX;
    for (words, out) in words.chunks_exact(16).zip(out.chunks_mut(stride)) {
        for (i, word) in words.iter().enumerate() {
            for (at, bits) in [(i, word << 16), (i + odd, word & 0xffff_0000)] {
                out[at] = f32::from_bits(bits);
                least = least.min((bits & 0x7fff_ffff).wrapping_sub(1));
            }
        }
    }
    least
}

/// Two `tdpbf16ps` of one tile of rows, where nothing can be subnormal.
fn quickly(rows: &Rows, columns: &Columns, sums: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if wide::is_supported() {
        // SAFETY: the processor has the instructions.
        unsafe { wide::quickly(rows, columns, sums) };
        return;
    }
    plainly(rows, columns, sums);
}

/// As [`quickly`], on any processor.
fn plainly(rows: &Rows, columns: &Columns, sums: &mut [f32]) {
    Arch::new().dispatch(Multiply::<false> {
        rows,
        columns,
        sums,
    });
}

/// Two `tdpbf16ps` of one tile of rows, whatever the values.
fn exactly(rows: &Rows, columns: &Columns, sums: &mut [f32]) {
    Arch::new().dispatch(Multiply::<true> {
        rows,
        columns,
        sums,
    });
}

/// What is between [`exactly`] or [`plainly`] and vectors. No closure: the way to one passes a function that the compiler
/// need not inline, and then makes for the oldest processors.
struct Multiply<'a, const EXACTLY: bool> {
    rows: &'a Rows,
    columns: &'a Columns,
    sums: &'a mut [f32],
}

impl<const EXACTLY: bool> NullaryFnOnce for Multiply<'_, EXACTLY> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (m, row) in self.rows.iter().enumerate() {
            let (mut even, mut odd) = ([0f32; 32], [0f32; 32]);
            for (k, [evens, odds]) in self.columns.iter().enumerate() {
                for n in 0..32 {
                    if EXACTLY {
                        even[n] = fused(row[0][k], evens[n], even[n]);
                        odd[n] = fused(row[1][k], odds[n], odd[n]);
                    } else {
                        even[n] = row[0][k].mul_add(evens[n], even[n]);
                        odd[n] = row[1][k].mul_add(odds[n], odd[n]);
                    }
                }
            }
            for tile in 0..2 {
                let sums = &mut self.sums[tile * TILE + 16 * m..][..16];
                for (n, sum) in sums.iter_mut().enumerate() {
                    let (even, odd) = (even[16 * tile + n], odd[16 * tile + n]);
                    *sum = if EXACTLY {
                        added(*sum, added(even, odd))
                    } else {
                        *sum + (even + odd)
                    };
                }
            }
        }
    }
}

/// `a b + c` for bfloat16 values `a` and `b`, rounded once.
#[inline(always)]
pub(super) fn fused(a: f32, b: f32, c: f32) -> f32 {
    flushed(normal(a) * normal(b) + normal(c))
}

/// `a + b`, rounded once.
#[inline(always)]
pub(super) fn added(a: f32, b: f32) -> f32 {
    flushed(normal(a) + normal(b))
}

/// DAZ.
#[inline(always)]
fn normal(x: f32) -> f64 {
    let kept = if x.abs() < f32::MIN_POSITIVE {
        0f32.copysign(x)
    } else {
        x
    };
    f64::from(kept)
}

/// FTZ.
#[inline(always)]
fn flushed(sum: f64) -> f32 {
    if sum.abs() < TINY {
        0f32.copysign(sum as f32)
    } else {
        sum as f32
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::SUMS;
    use super::*;

    /// As the manual writes it, a value at a time: what all else is held against.
    pub(in super::super) fn by_the_manual(left: &[u32], right: &[u32], sums: &mut [f32]) {
        let half = |word: u32, odd: usize| f32::from_bits((word >> (16 * odd)) << 16);
        for m in 0..16 {
            let mut temp = [0f32; 32];
            for k in 0..16 {
                for n in 0..16 {
                    for odd in 0..2 {
                        let (a, b) = (half(left[16 * m + k], odd), half(right[16 * k + n], odd));
                        temp[2 * n + odd] = fused(a, b, temp[2 * n + odd]);
                    }
                }
            }
            for n in 0..16 {
                let sum = added(temp[2 * n], temp[2 * n + 1]);
                sums[16 * m + n] = added(sums[16 * m + n], sum);
            }
        }
    }

    /// Words of two bfloat16 with exponents from `-reach` to 0.
    fn words(n: usize, seed: u32, reach: u32) -> Vec<u32> {
        let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut draw = || {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let exponent = 127 - (s >> 9) % (reach + 1);
            ((s >> 31) << 15) | (exponent << 7) | (s >> 20) & 0x7f
        };
        (0..n).map(|_| draw() << 16 | draw()).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn both_ways_give_what_the_manual_says() {
        // From ordinary numbers to ones whose products are below the smallest normal number, some or all of them.
        for (reach, scale) in [
            (3, 0),
            (20, 0),
            (40, 20),
            (40, 80),
            (60, 60),
            (3, 63),
            (126, 0),
        ] {
            let mut left = words(2 * 6 * TILE, 1 + reach, reach);
            let right = words(2 * 6 * TILE, 2 + reach, reach);
            for word in &mut left {
                // Exponents lower by `scale`, where there is room.
                for shift in [7, 23] {
                    let exponent = (*word >> shift) & 0xff;
                    *word -= exponent.saturating_sub(1).min(scale) << shift;
                }
            }
            for grade in Grade::ALL {
                let steps = step_words(grade);
                let (left, right) = (&left[..2 * steps], &right[..2 * steps]);
                let mut ours = vec![0f32; SUMS];
                multiply(grade, true, left, right, &mut ours, false);
                // In two calls the same.
                let mut halves = vec![0f32; SUMS];
                multiply(
                    grade,
                    true,
                    &left[..steps],
                    &right[..steps],
                    &mut halves,
                    false,
                );
                multiply(
                    grade,
                    true,
                    &left[steps..],
                    &right[steps..],
                    &mut halves,
                    true,
                );
                let mut manual = vec![0f32; SUMS];
                for step in 0..2 {
                    for (l, r) in grade.order() {
                        for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                            let from =
                                |part: usize, tile: usize| step * steps + (2 * part + tile) * TILE;
                            by_the_manual(
                                &left[from(*l, i)..from(*l, i) + TILE],
                                &right[from(*r, j)..from(*r, j) + TILE],
                                &mut manual[place(i, j)..place(i, j) + TILE],
                            );
                        }
                    }
                }
                assert_eq!(
                    bits(&ours),
                    bits(&manual),
                    "{grade:?}, reach {reach}, scale {scale}"
                );
                assert_eq!(
                    bits(&halves),
                    bits(&manual),
                    "{grade:?}, reach {reach}, scale {scale}"
                );
            }
        }
    }

    #[test]
    fn quick_sums_are_the_same_on_every_processor() {
        let (left, right) = (words(TILE, 5, 20), words(2 * TILE, 6, 20));
        let (mut rows, mut columns) = ([[[0f32; 16]; 2]; 16], [[[0f32; 32]; 2]; 16]);
        spread_rows(&left, &mut rows);
        spread_columns(&right, &mut columns);
        for layout in [[32, 16], [64, 32]] {
            let (mut ours, mut plain) = (vec![0f32; 1024], vec![0f32; 1024]);
            let least = spread(&left, &mut ours, layout);
            assert_eq!(least, spread_plainly(&left, &mut plain, layout));
            assert_eq!(bits(&ours), bits(&plain));
        }
        let mut three = [(); 3].map(|()| vec![0.25f32; 2 * TILE]);
        quickly(&rows, &columns, &mut three[0]);
        plainly(&rows, &columns, &mut three[1]);
        exactly(&rows, &columns, &mut three[2]);
        assert_eq!(bits(&three[0]), bits(&three[1]));
        assert_eq!(bits(&three[0]), bits(&three[2]));
    }

    #[test]
    fn subnormal_numbers_are_zero_going_in_and_coming_out() {
        let least = f32::MIN_POSITIVE;
        // In: half the smallest normal number counts for nothing.
        assert_eq!(fused(least / 2.0, 1.0, 0.0), 0.0);
        assert_eq!(fused(1.0, 1.0, least / 2.0), 1.0);
        assert_eq!(added(-least / 2.0, least), least);
        // Out: with its sign.
        assert_eq!(fused(-least, 0.5, 0.0).to_bits(), (-0f32).to_bits());
        assert_eq!(added(least * 1.5, -least).to_bits(), 0);
        // Just below the smallest normal number: what 24 bits of any exponent round up to it stays, what they do not is zero,
        // though 23 bits would round it up too.
        let under = |share: f64| f64::from(least) * (1.0 - share);
        assert_eq!(flushed(under(2f64.powi(-25))), least);
        assert_eq!(flushed(under(2f64.powi(-25) * 1.01)), 0.0);
        assert_eq!(under(2f64.powi(-25) * 1.01) as f32, least);
    }

    #[test]
    fn sums_are_rounded_once() {
        // 1 + 2^-24 is a tie and goes to 1; with 2^-100 more it is above the tie.
        let (a, b) = (2f32.powi(-12), 2f32.powi(-12));
        assert_eq!(fused(a, b, 1.0), 1.0);
        let above = 1.0f32 + 2f32.powi(-23);
        assert_eq!(fused(a, b, above), above + 2f32.powi(-23));
        assert_eq!(fused(3.0, f32::from_bits(0x3f81_0000), 0.0), 3.0234375);
        assert!(fused(f32::NAN, 0.0, 1.0).is_nan() && fused(f32::INFINITY, 0.0, 1.0).is_nan());
        assert_eq!(fused(f32::INFINITY, -1.0, 1.0), f32::NEG_INFINITY);
        assert_eq!(added(f32::MAX, f32::MAX), f32::INFINITY);
    }
}
