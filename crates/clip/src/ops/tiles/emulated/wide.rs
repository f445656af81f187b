//! The quick way with vectors of 16.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_add_ps, _mm512_and_si512, _mm512_castsi512_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_min_epu32, _mm512_reduce_min_epu32,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
    _mm512_sub_epi32,
};

use super::{Columns, Rows, TILE};

/// Rows at once: 16 sums stay in registers.
const ROWS: usize = 4;

/// Whether this processor has the instructions.
#[inline(always)]
pub(super) fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// As [`super::quickly`].
///
/// # Safety
/// The processor must have AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn quickly(rows: &Rows, columns: &Columns, sums: &mut [f32]) {
    let sums = &mut sums[..2 * TILE];
    for first in (0..16).step_by(ROWS) {
        // [row][even and odd][tile of columns]
        let mut parts = [[[_mm512_setzero_ps(); 2]; 2]; ROWS];
        for k in 0..16 {
            for odd in 0..2 {
                let columns = load(&columns[k][odd]);
                for (i, parts) in parts.iter_mut().enumerate() {
                    let value = _mm512_set1_ps(rows[first + i][odd][k]);
                    for tile in 0..2 {
                        parts[odd][tile] = _mm512_fmadd_ps(value, columns[tile], parts[odd][tile]);
                    }
                }
            }
        }
        for (i, parts) in parts.iter().enumerate() {
            for tile in 0..2 {
                let sums = &mut sums[tile * TILE + 16 * (first + i)..][..16];
                let part = _mm512_add_ps(parts[0][tile], parts[1][tile]);
                // SAFETY: sixteen values.
                unsafe {
                    let sum = _mm512_add_ps(_mm512_loadu_ps(sums.as_ptr()), part);
                    _mm512_storeu_ps(sums.as_mut_ptr(), sum);
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(values: &[f32; 32]) -> [__m512; 2] {
    // SAFETY: twice sixteen values.
    unsafe {
        [
            _mm512_loadu_ps(values.as_ptr()),
            _mm512_loadu_ps(values.as_ptr().add(16)),
        ]
    }
}

/// As [`super::spread`].
///
/// # Safety
/// The processor must have AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn spread(words: &[u32], out: &mut [f32], [stride, odd]: [usize; 2]) -> u32 {
    let upper = _mm512_set1_epi32(0xffff_0000u32 as i32);
    let (unsigned, one) = (_mm512_set1_epi32(i32::MAX), _mm512_set1_epi32(1));
    let mut least = _mm512_set1_epi32(-1);
    let mut write = |bits: __m512i, out: &mut [f32]| {
        // SAFETY: sixteen values.
        unsafe { _mm512_storeu_ps(out[..16].as_mut_ptr(), _mm512_castsi512_ps(bits)) };
        let size = _mm512_sub_epi32(_mm512_and_si512(bits, unsigned), one);
        least = _mm512_min_epu32(least, size);
    };
    for (words, out) in words.chunks_exact(16).zip(out.chunks_mut(stride)) {
        // SAFETY: sixteen words.
        let words = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        write(_mm512_slli_epi32::<16>(words), out);
        write(_mm512_and_si512(words, upper), &mut out[odd..]);
    }
    _mm512_reduce_min_epu32(least)
}
