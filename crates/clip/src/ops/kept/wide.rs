//! Numbers as they are kept, sixteen at a time, with AVX-512.

use std::arch::x86_64::{
    __m256i, __m512, __mmask16, _mm256_loadu_si256, _mm512_castsi512_ps, _mm512_cvtepu16_epi32,
    _mm512_cvtph_ps, _mm512_maskz_loadu_ps, _mm512_slli_epi32,
};

use half::{bf16, f16};

/// Numbers as they are kept.
pub(in crate::ops) trait Number: Copy {
    /// The first `count` of them, at most 16, then zeros.
    ///
    /// # Safety
    /// They must be there, and the processor must have AVX-512.
    unsafe fn read(from: *const Self, count: usize) -> __m512;
}

impl Number for f32 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn read(from: *const Self, count: usize) -> __m512 {
        // SAFETY: masked to the numbers that there are.
        unsafe { _mm512_maskz_loadu_ps(((1u32 << count) - 1) as __mmask16, from) }
    }
}

impl Number for f16 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn read(from: *const Self, count: usize) -> __m512 {
        // SAFETY: the caller's promise.
        _mm512_cvtph_ps(unsafe { sixteen(from.cast(), count) })
    }
}

impl Number for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn read(from: *const Self, count: usize) -> __m512 {
        // SAFETY: the caller's promise.
        let words = _mm512_cvtepu16_epi32(unsafe { sixteen(from.cast(), count) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
    }
}

/// The first `count` of 16 numbers of 16 bits, then zeros.
///
/// # Safety
/// They must be there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn sixteen(from: *const u16, count: usize) -> __m256i {
    let mut last = [0u16; 16];
    // SAFETY: the caller's promise.
    unsafe {
        if count == 16 {
            return _mm256_loadu_si256(from.cast());
        }
        std::ptr::copy_nonoverlapping(from, last.as_mut_ptr(), count);
        _mm256_loadu_si256(last.as_ptr().cast())
    }
}
