//! The instructions themselves.

use std::arch::x86_64::{
    __m512, __m512bh, __mmask16, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_castpd_ps,
    _mm512_castps_pd, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps,
    _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use super::{COLUMNS, ROWS, Source, Words};

/// Vectors of a panel's columns.
const VECTORS: usize = COLUMNS / 16;

/// Steps that [`copy`] asks for ahead of time.
const AHEAD: usize = 16;

/// As [`super::tile`].
///
/// # Safety
/// As there.
pub(super) unsafe fn tile(
    words: Words,
    values: &[f32],
    weights: &[f32],
    [height, width]: [usize; 2],
    out: *mut f32,
    stride: usize,
    keep: bool,
) {
    let steps = weights.len() / COLUMNS;
    assert!(
        values.len() >= steps * ROWS && (1..=ROWS).contains(&height) && width <= COLUMNS,
        "a tile reads past its inputs"
    );
    let input = Tile {
        values: values.as_ptr(),
        weights: weights.as_ptr(),
        steps,
        width,
        out,
        stride,
        keep,
    };
    macro_rules! of_height {
        ($($n:literal)*) => {
            match (words, height) {
                // SAFETY: the inputs are long enough, the output is the caller's promise.
                $((Words::Float32, $n) => unsafe { float32::<$n>(&input) },)*
                // SAFETY: as above.
                $((Words::Bfloat16, $n) => unsafe { bfloat16::<$n>(&input) },)*
                _ => {}
            }
        };
    }
    of_height!(1 2 3 4 5 6 7 8 9 10 11 12);
}

struct Tile {
    values: *const f32,
    weights: *const f32,
    steps: usize,
    width: usize,
    out: *mut f32,
    stride: usize,
    keep: bool,
}

/// `M` rows and 32 columns: 24 sums stay in registers while the weights stream past.
#[target_feature(enable = "avx512f")]
unsafe fn float32<const M: usize>(t: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        ask_for::<M>(t);
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; M];
        for step in 0..t.steps {
            let weights = t.weights.add(step * COLUMNS);
            let weights: [__m512; VECTORS] =
                std::array::from_fn(|v| _mm512_loadu_ps(weights.add(16 * v)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*t.values.add(step * ROWS + i));
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_fmadd_ps(value, weight, *sum);
                }
            }
        }
        store(t, &sums);
    }
}

/// As [`float32`], of pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn bfloat16<const M: usize>(t: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        ask_for::<M>(t);
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; M];
        for step in 0..t.steps {
            let weights = t.weights.add(step * COLUMNS);
            let weights: [__m512bh; VECTORS] =
                std::array::from_fn(|v| pairs(_mm512_loadu_ps(weights.add(16 * v))));
            for (i, sums) in sums.iter_mut().enumerate() {
                let value = pairs(_mm512_set1_ps(*t.values.add(step * ROWS + i)));
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_dpbf16_ps(*sum, value, weight);
                }
            }
        }
        store(t, &sums);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pairs(words: __m512) -> __m512bh {
    // SAFETY: every pattern of bits is a vector of bfloat16.
    unsafe { std::mem::transmute(words) }
}

/// Brings the output near while the sums are made.
#[inline]
#[target_feature(enable = "avx512f")]
fn ask_for<const M: usize>(t: &Tile) {
    if t.keep {
        for i in 0..M {
            let row = t.out.wrapping_add(i * t.stride);
            _mm_prefetch::<_MM_HINT_T0>(row.cast());
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(16).cast());
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const M: usize>(t: &Tile, sums: &[[__m512; VECTORS]; M]) {
    for (i, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            // SAFETY: masked to the columns there are, of which the caller promises that they may be written.
            unsafe {
                let mask = first(t.width.saturating_sub(16 * v));
                let to = t.out.wrapping_add(i * t.stride + 16 * v);
                let sum = if t.keep {
                    _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), *sum)
                } else {
                    *sum
                };
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

/// The first `count` of 16 lanes.
fn first(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as __mmask16
}

/// A panel of a source whose steps follow one another: 16 lanes by 16 steps at a time.
///
/// # Safety
/// As [`super::lay_out`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose(source: &Source, width: usize, out: *mut f32) {
    for lane in (0..width).step_by(16) {
        let lanes = source.lanes.saturating_sub(lane).min(16);
        let kept = first(width - lane);
        for step in (0..source.steps).step_by(16) {
            let steps = (source.steps - step).min(16);
            // SAFETY: masked to the steps and lanes that there are.
            unsafe {
                let from = source.words.as_ptr();
                let rows: [__m512; 16] = std::array::from_fn(|i| {
                    if i < lanes {
                        let at = from.add((lane + i) * source.lane_stride + step);
                        _mm512_maskz_loadu_ps(first(steps), at)
                    } else {
                        _mm512_setzero_ps()
                    }
                });
                let columns = transposed(rows);
                for (i, column) in columns.iter().take(steps).enumerate() {
                    _mm512_mask_storeu_ps(out.add((step + i) * width + lane), kept, *column);
                }
            }
        }
    }
}

/// A panel of a source whose lanes follow one another.
///
/// # Safety
/// As [`super::lay_out`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn copy(source: &Source, width: usize, out: *mut f32) {
    for step in 0..source.steps {
        // Steps are far apart, often a page or more: the processor does not guess the next.
        let ahead = source
            .words
            .as_ptr()
            .wrapping_add((step + AHEAD) * source.step_stride);
        for lane in (0..width).step_by(16) {
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(lane).cast());
            let there = first(source.lanes.saturating_sub(lane));
            // SAFETY: masked to the lanes that there are.
            unsafe {
                let from = source
                    .words
                    .as_ptr()
                    .wrapping_add(step * source.step_stride + lane);
                let words = _mm512_maskz_loadu_ps(there, from);
                _mm512_mask_storeu_ps(out.add(step * width + lane), first(width - lane), words);
            }
        }
    }
}

/// Rows to columns.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn transposed(r: [__m512; 16]) -> [__m512; 16] {
    let mut four = [_mm512_setzero_ps(); 16];
    for g in 0..4 {
        let [a, b, c, d] = [r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]];
        let (ab, cd) = (
            _mm512_castps_pd(_mm512_unpacklo_ps(a, b)),
            _mm512_castps_pd(_mm512_unpacklo_ps(c, d)),
        );
        let (ab_high, cd_high) = (
            _mm512_castps_pd(_mm512_unpackhi_ps(a, b)),
            _mm512_castps_pd(_mm512_unpackhi_ps(c, d)),
        );
        // Quarter `q` of `four[4 g + j]` now holds column `4 q + j` of rows `4 g..4 g + 4`.
        four[4 * g] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
        four[4 * g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
        four[4 * g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high));
        four[4 * g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high));
    }
    let mut out = [_mm512_setzero_ps(); 16];
    for j in 0..4 {
        let [a, b, c, d] = [four[j], four[4 + j], four[8 + j], four[12 + j]];
        // 0x88 takes quarters 0 and 2 of both, 0xdd quarters 1 and 3.
        let (even, odd) = (
            _mm512_shuffle_f32x4::<0x88>(a, b),
            _mm512_shuffle_f32x4::<0xdd>(a, b),
        );
        let (even_below, odd_below) = (
            _mm512_shuffle_f32x4::<0x88>(c, d),
            _mm512_shuffle_f32x4::<0xdd>(c, d),
        );
        out[j] = _mm512_shuffle_f32x4::<0x88>(even, even_below);
        out[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even, even_below);
        out[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd, odd_below);
        out[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_below);
    }
    out
}

/// As [`super::round`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn round(row: &[f32], out: &mut [f32]) {
    assert_eq!(row.len(), 2 * out.len(), "a word is two values");
    let whole = row.chunks_exact(32);
    let mut last = [0f32; 32];
    last[..whole.remainder().len()].copy_from_slice(whole.remainder());
    let mut words = out.chunks_exact_mut(16);
    for (chunk, words) in whole.zip(&mut words) {
        // SAFETY: both are whole vectors.
        unsafe { _mm512_storeu_ps(words.as_mut_ptr(), rounded(chunk.as_ptr())) };
    }
    let rest = words.into_remainder();
    // SAFETY: masked to the words that are left.
    unsafe {
        let value = rounded(last.as_ptr());
        _mm512_mask_storeu_ps(rest.as_mut_ptr(), first(rest.len()), value);
    }
}

/// Thirty-two values as sixteen words.
///
/// # Safety
/// They must be there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn rounded(values: *const f32) -> __m512 {
    // SAFETY: the caller's promise; every pattern of bits is a vector of float32, which nobody computes with.
    unsafe {
        let (low, high) = (_mm512_loadu_ps(values), _mm512_loadu_ps(values.add(16)));
        std::mem::transmute(_mm512_cvtne2ps_pbh(high, low))
    }
}
