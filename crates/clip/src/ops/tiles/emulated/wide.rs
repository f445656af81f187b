//! Quick sums with vectors of 16.

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_storeu_ps,
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
