//! The instructions themselves.

use std::arch::x86_64::{
    __m512, __m512bh, __mmask16, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_castpd_ps,
    _mm512_castps_pd, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cvtne2ps_pbh,
    _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_permutexvar_epi16, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
    _mm512_unpacklo_ps,
};

use super::{Begin, COLUMNS, Place, ROWS, Source, Words};
use crate::ops::kept::{Kept, Number};

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
    values: Place,
    weights: &[f32],
    [height, width]: [usize; 2],
    out: *mut f32,
    stride: usize,
    begin: Begin,
) {
    let steps = weights.len() / COLUMNS;
    assert!(
        (1..=ROWS).contains(&height) && width <= COLUMNS,
        "a tile is as large as the kernel"
    );
    let input = Tile {
        values: values.first,
        apart: values.apart.unwrap_or(0),
        weights: weights.as_ptr(),
        steps,
        width,
        out,
        stride,
        begin,
    };
    macro_rules! of_height {
        ($($n:literal)*) => {
            match (words, values.apart.is_some(), height) {
                // SAFETY: the inputs are long enough, the output is the caller's promise.
                $((Words::Float32, true, $n) => unsafe { float32::<$n, true>(&input) },)*
                // SAFETY: as above.
                $((Words::Float32, false, $n) => unsafe { float32::<$n, false>(&input) },)*
                // SAFETY: as above.
                $((Words::Bfloat16, false, $n) => unsafe { bfloat16::<$n>(&input) },)*
                _ => unreachable!("pairs lie in panels"),
            }
        };
    }
    of_height!(1 2 3 4 5 6 7 8 9 10 11 12);
}

struct Tile {
    values: *const f32,
    /// From a row's numbers to the next row's, where they lie in rows.
    apart: usize,
    weights: *const f32,
    steps: usize,
    width: usize,
    out: *mut f32,
    stride: usize,
    begin: Begin,
}

/// `M` rows and 32 columns: 24 sums stay in registers while the weights stream past. The values lie in rows, or in a panel.
#[target_feature(enable = "avx512f")]
unsafe fn float32<const M: usize, const IN_ROWS: bool>(t: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        ask_for::<M>(t);
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; M];
        // Three rows are reached from one pointer; a pointer for each row would not fit the registers.
        let mut rows: [*const f32; ROWS.div_ceil(3)] =
            std::array::from_fn(|g| t.values.wrapping_add(3 * g * t.apart));
        for step in 0..t.steps {
            let weights = t.weights.add(step * COLUMNS);
            let weights: [__m512; VECTORS] =
                std::array::from_fn(|v| _mm512_loadu_ps(weights.add(16 * v)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let value = if IN_ROWS {
                    *rows[i / 3].add(i % 3 * t.apart)
                } else {
                    *t.values.add(step * ROWS + i)
                };
                let value = _mm512_set1_ps(value);
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_fmadd_ps(value, weight, *sum);
                }
            }
            if IN_ROWS {
                for row in &mut rows {
                    *row = row.wrapping_add(1);
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

/// Brings what sums are added to near while they are made.
#[inline]
#[target_feature(enable = "avx512f")]
fn ask_for<const M: usize>(t: &Tile) {
    let rows = match t.begin {
        Begin::Zero | Begin::Bias(_) => return,
        Begin::Output => t.out.cast_const(),
        Begin::Onto(_, base) => base,
    };
    for i in 0..M {
        let row = rows.wrapping_add(i * t.stride);
        _mm_prefetch::<_MM_HINT_T0>(row.cast());
        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(16).cast());
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const M: usize>(t: &Tile, sums: &[[__m512; VECTORS]; M]) {
    for (i, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            // SAFETY: masked to the columns there are, of which the caller promises that they may be written, and that
            // what sums begin with has as many.
            unsafe {
                let mask = first(t.width.saturating_sub(16 * v));
                let at = i * t.stride + 16 * v;
                let to = t.out.wrapping_add(at);
                let there = |from: *const f32| _mm512_maskz_loadu_ps(mask, from);
                let sum = match t.begin {
                    Begin::Zero => *sum,
                    Begin::Output => _mm512_add_ps(there(to), *sum),
                    Begin::Bias(bias) => _mm512_add_ps(there(bias.wrapping_add(16 * v)), *sum),
                    Begin::Onto(bias, base) => {
                        let bias = there(bias.wrapping_add(16 * v));
                        let begin = _mm512_add_ps(there(base.wrapping_add(at)), bias);
                        _mm512_add_ps(begin, *sum)
                    }
                };
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

/// The first `count` of 16 lanes.
pub(in super::super) fn first(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as __mmask16
}

/// As [`super::lay_out`].
///
/// # Safety
/// As there.
pub(super) unsafe fn lay_out(words: Words, source: &Source, width: usize, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        match source.numbers {
            Kept::Float32(n) => lay_out_of(words, n.as_ptr(), source, width, out),
            Kept::Half(n) => lay_out_of(words, n.as_ptr(), source, width, out),
            Kept::Bfloat16(n) => lay_out_of(words, n.as_ptr(), source, width, out),
        }
    }
}

/// As [`lay_out`], of numbers of one kind; `from` is where the source begins.
///
/// # Safety
/// As there.
unsafe fn lay_out_of<N: Number>(
    words: Words,
    from: *const N,
    source: &Source,
    width: usize,
    out: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match (words, source.inner_stride == 1) {
            (Words::Float32, true) => transpose(from, source, width, out),
            (Words::Float32, false) => copy(from, source, width, out),
            (Words::Bfloat16, true) => transpose_pairs(from, source, width, out),
            (Words::Bfloat16, false) => copy_pairs(from, source, width, out),
        }
    }
}

/// Thirty-two numbers as sixteen words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn rounded(low: __m512, high: __m512) -> __m512 {
    // SAFETY: every pattern of bits is a vector of float32, which nobody computes with.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Panels of a source whose numbers follow one another along the inner dimension: 16 lanes by 16 steps at a time. A
/// vector of steps is what `load` makes of a pointer and how many numbers are there.
macro_rules! transposes {
    ($($name:ident, $features:literal, $each:literal, $load:expr;)*) => {$(
        /// # Safety
        /// As [`lay_out_of`].
        #[target_feature(enable = $features)]
        unsafe fn $name<N: Number>(from: *const N, source: &Source, width: usize, out: *mut f32) {
            let steps = source.inner.div_ceil($each);
            for lane in (0..width).step_by(16) {
                let lanes = source.lanes.saturating_sub(lane).min(16);
                let kept = first(width - lane);
                for step in (0..steps).step_by(16) {
                    let there = (source.inner - step * $each).min(16 * $each);
                    // SAFETY: masked to the numbers and lanes that there are.
                    unsafe {
                        let rows: [__m512; 16] = std::array::from_fn(|i| {
                            if i < lanes {
                                let at = (lane + i) * source.lane_stride + step * $each;
                                $load(from.add(at), there)
                            } else {
                                _mm512_setzero_ps()
                            }
                        });
                        let columns = transposed(rows);
                        for (i, column) in columns.iter().take(steps - step).enumerate() {
                            let to = out.add((step + i) * width + lane);
                            _mm512_mask_storeu_ps(to, kept, *column);
                        }
                    }
                }
            }
        }
    )*};
}

transposes! {
    transpose, "avx512f", 1, |at, count| N::read(at, count);
    transpose_pairs, "avx512f,avx512bw,avx512bf16", 2, |at: *const N, count: usize| {
        let behind = N::read(at.wrapping_add(16), count.saturating_sub(16));
        rounded(N::read(at, count.min(16)), behind)
    };
}

/// Panels of a source whose lanes follow one another. A vector of lanes is what `load` makes of a pointer, how far away the
/// same lanes' next number is, how many numbers of a lane are there, and how many lanes.
macro_rules! copies {
    ($($name:ident, $features:literal, $each:literal, $load:expr;)*) => {$(
        /// # Safety
        /// As [`lay_out_of`].
        #[target_feature(enable = $features)]
        unsafe fn $name<N: Number>(from: *const N, source: &Source, width: usize, out: *mut f32) {
            let stride = source.inner_stride;
            for step in 0..source.inner.div_ceil($each) {
                // Steps are far apart, often a page or more: the processor does not guess the next.
                let ahead = from.wrapping_add((step + AHEAD) * $each * stride);
                for lane in (0..width).step_by(16) {
                    for row in 0..$each {
                        let near = ahead.wrapping_add(row * stride + lane);
                        _mm_prefetch::<_MM_HINT_T0>(near.cast());
                    }
                    let lanes = source.lanes.saturating_sub(lane).min(16);
                    let at = from.wrapping_add(step * $each * stride + lane);
                    // SAFETY: masked to the numbers and lanes that there are.
                    unsafe {
                        let words = $load(at, stride, source.inner - step * $each, lanes);
                        let to = out.add(step * width + lane);
                        _mm512_mask_storeu_ps(to, first(width - lane), words);
                    }
                }
            }
        }
    )*};
}

copies! {
    copy, "avx512f", 1, |at, _, _, lanes| N::read(at, lanes);
    copy_pairs, "avx512f,avx512bw,avx512bf16", 2, |at: *const N, stride, there, lanes| {
        let behind = if there > 1 { lanes } else { 0 };
        interleaved(N::read(at, lanes), N::read(at.wrapping_add(stride), behind))
    };
}

/// Sixteen words, each of a number of `even` and one of `odd`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn interleaved(even: __m512, odd: __m512) -> __m512 {
    const ORDER: [i16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + 16 * (i % 2)) as i16;
            i += 1;
        }
        order
    };
    // SAFETY: the order has thirty-two entries.
    let order = unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) };
    let words = _mm512_castps_si512(rounded(even, odd));
    _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, words))
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
