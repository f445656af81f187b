//! Laying out with vectors of 16, and `vcvtne2ps2bf16` for rounding.

use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_and_si512, _mm512_castps_si512,
    _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh,
    _mm512_extracti64x4_epi64, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_permutexvar_epi16,
    _mm512_set1_epi32, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_si512, _mm512_sub_ps,
};
use std::ops::Range;

use super::super::super::kept::Number;
use super::super::super::panels::kernel::transposed;
use super::{Grade, STEP, TILE, Values, step_words};

/// Rows of the inner side that are asked for ahead of time, where they are far apart.
const AHEAD: usize = 16;

/// Whether this processor has the instructions. Any with the matrix unit has.
#[inline(always)]
pub(super) fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// As [`super::split_row`].
///
/// # Safety
/// As there; the processor must have the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn split_row(grade: Grade, row: &[f32], out: *mut u32) {
    for (step, values) in row.chunks_exact(STEP).enumerate() {
        // SAFETY: the step has 32 values; the caller's promise.
        unsafe {
            let mut pair = [
                _mm512_loadu_ps(values.as_ptr()),
                _mm512_loadu_ps(values.as_ptr().add(16)),
            ];
            let out = out.add(step * step_words(grade));
            for part in 0..grade.parts() {
                let words = rounded(pair);
                _mm512_storeu_si512(out.add(2 * TILE * part).cast(), words);
                pair = rest(pair, words);
            }
        }
    }
}

/// As [`Values::lay_out`], of the numbers that `values` lie in, where one stride is 1.
///
/// # Safety
/// The processor must have the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn lay_out<N: Number>(
    values: &Values,
    from: &[N],
    grade: Grade,
    column: usize,
    steps: Range<usize>,
    out: &mut [u32],
) {
    match grade {
        Grade::Six => parts::<N, 3>(values, from, column, steps, out),
        Grade::Split => parts::<N, 2>(values, from, column, steps, out),
        Grade::Rounded => parts::<N, 1>(values, from, column, steps, out),
    }
}

/// So many parts.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn parts<N: Number, const PARTS: usize>(
    values: &Values,
    from: &[N],
    column: usize,
    steps: Range<usize>,
    out: &mut [u32],
) {
    let mut tile = |tile: usize, step: usize| {
        let words = PARTS * 2 * TILE;
        let out = &mut out[(step - steps.start) * words..][..words];
        let mut halves = out.chunks_exact_mut(TILE).skip(tile).step_by(2);
        let out: [_; PARTS] = std::array::from_fn(|_| halves.next().expect("two tiles a part"));
        let column = column + 16 * tile;
        if values.inner_stride == 1 {
            across(values, from, [column, step * STEP], out);
        } else {
            along(values, from, [column, step * STEP], out);
        }
    };
    if values.inner_stride == 1 {
        // All steps of 16 columns first: of twice as many, cache lines that are fetched ahead would drive each other out, as
        // columns of weights lie at the same place of a page, or of a quarter of it.
        (0..2).for_each(|i| steps.clone().for_each(|step| tile(i, step)));
    } else {
        steps
            .clone()
            .for_each(|step| (0..2).for_each(|i| tile(i, step)));
    }
}

/// A tile of every part whose columns lie in memory one by one, pairs side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn across<N: Number, const PARTS: usize>(
    values: &Values,
    from: &[N],
    [column, first]: [usize; 2],
    out: [&mut [u32]; PARTS],
) {
    let columns = values.columns.saturating_sub(column).min(16);
    let inner = (values.inner - first).min(STEP);
    let mut parts = [[_mm512_setzero_ps(); 16]; PARTS];
    for i in 0..columns {
        let from = &from[(column + i) * values.column_stride + first..][..inner];
        // More streams than a processor follows by itself.
        for line in [0, 16] {
            let ahead = from.as_ptr().wrapping_add(4 * STEP + line);
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
        }
        let (below, above) = from.split_at(inner.min(16));
        let mut pair = [read(below, below.len()), read(above, above.len())];
        for part in &mut parts {
            let words = rounded(pair);
            part[i] = _mm512_castsi512_ps(words);
            pair = rest(pair, words);
        }
    }
    for (part, out) in parts.into_iter().zip(out) {
        turn(part, out);
    }
}

/// Columns of words to rows of a tile.
#[inline]
#[target_feature(enable = "avx512f")]
fn turn(columns: [__m512; 16], out: &mut [u32]) {
    let rows = transposed(columns);
    for i in 0..16 {
        store(_mm512_castps_si512(rows[i]), &mut out[16 * i..16 * (i + 1)]);
    }
}

/// A tile of every part whose columns lie side by side in memory.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn along<N: Number, const PARTS: usize>(
    values: &Values,
    from: &[N],
    [column, first]: [usize; 2],
    mut out: [&mut [u32]; PARTS],
) {
    let columns = values.columns.saturating_sub(column).min(16);
    // Of two vectors that follow one another, a value of the first, then one of the second.
    let mut order = [0u16; 32];
    for (i, order) in order.iter_mut().enumerate() {
        *order = (i / 2 + i % 2 * 16) as u16;
    }
    // SAFETY: a whole vector.
    let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
    let lower = _mm512_set1_epi32(0xffff_0000u32 as i32);
    for k in 0..STEP / 2 {
        let row = |odd: usize| {
            let inner = first + 2 * k + odd;
            if inner >= values.inner || columns == 0 {
                return _mm512_setzero_ps();
            }
            let at = inner * values.inner_stride + column;
            // Rows are far apart, often a page or more: the processor does not guess the next.
            let ahead = from.as_ptr().wrapping_add(at + AHEAD * values.inner_stride);
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            read(&from[at..], columns)
        };
        let (mut even, mut odd) = (row(0), row(1));
        for out in &mut out {
            let words = _mm512_permutexvar_epi16(order, rounded([even, odd]));
            store(words, &mut out[16 * k..16 * (k + 1)]);
            even = _mm512_sub_ps(even, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)));
            odd = _mm512_sub_ps(odd, _mm512_castsi512_ps(_mm512_and_si512(words, lower)));
        }
    }
}

/// The first `count` values of `from`, at most 16, then zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn read<N: Number>(from: &[N], count: usize) -> __m512 {
    assert!(
        from.len() >= count && count <= 16,
        "a tile lies inside its input"
    );
    // SAFETY: as just asserted; callers have the instructions.
    unsafe { N::read(from.as_ptr(), count) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(words: __m512i, out: &mut [u32]) {
    assert!(out.len() >= 16, "a vector is sixteen words");
    // SAFETY: as just asserted.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), words) };
}

/// Thirty-two values as bfloat16, in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded([first, second]: [__m512; 2]) -> __m512i {
    // SAFETY: every pattern of bits is a vector of words.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(second, first)) }
}

/// What [`rounded`] took away from them.
#[inline]
#[target_feature(enable = "avx512f")]
fn rest([first, second]: [__m512; 2], words: __m512i) -> [__m512; 2] {
    let wide = |half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
    let (below, above) = (
        _mm512_castsi512_si256(words),
        _mm512_extracti64x4_epi64::<1>(words),
    );
    [
        _mm512_sub_ps(first, wide(below)),
        _mm512_sub_ps(second, wide(above)),
    ]
}
