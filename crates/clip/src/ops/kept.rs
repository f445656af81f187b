//! Numbers as they are kept: float32, or half precision and bfloat16, which are widened where they are read.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{CpuStorage, Layout as Strides, Result, bail};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
mod wide;

#[cfg(target_arch = "x86_64")]
pub(super) use wide::Number;

/// Numbers that one parallel task widens.
const PIECE: usize = 1 << 16;

/// Borrowed numbers of one kind.
#[derive(Clone, Copy, Debug)]
pub enum Kept<'a> {
    /// As they are computed with.
    Float32(&'a [f32]),
    /// Half precision.
    Half(&'a [f16]),
    /// bfloat16.
    Bfloat16(&'a [bf16]),
}

impl<'a> Kept<'a> {
    /// The contiguous numbers behind a custom op's argument.
    pub(crate) fn of(storage: &'a CpuStorage, layout: &Strides) -> Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("fused ops take contiguous rows; call `.contiguous()` first")
        };
        Ok(match storage {
            CpuStorage::F16(kept) => Self::Half(&kept[start..end]),
            CpuStorage::BF16(kept) => Self::Bfloat16(&kept[start..end]),
            _ => Self::Float32(&storage.as_slice::<f32>()?[start..end]),
        })
    }

    /// How many.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Float32(kept) => kept.len(),
            Self::Half(kept) => kept.len(),
            Self::Bfloat16(kept) => kept.len(),
        }
    }

    /// Some of them.
    pub(crate) fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::Float32(kept) => Self::Float32(&kept[range]),
            Self::Half(kept) => Self::Half(&kept[range]),
            Self::Bfloat16(kept) => Self::Bfloat16(&kept[range]),
        }
    }

    /// Number `index`.
    pub(crate) fn at(self, index: usize) -> f32 {
        match self {
            Self::Float32(kept) => kept[index],
            Self::Half(kept) => kept[index].to_f32(),
            Self::Bfloat16(kept) => kept[index].to_f32(),
        }
    }

    /// All of them in float32, for the few numbers that are read one by one (biases, norms).
    pub(crate) fn floats(self) -> Cow<'a, [f32]> {
        match self {
            Self::Float32(kept) => Cow::Borrowed(kept),
            Self::Half(kept) => Cow::Owned(kept.to_f32_vec()),
            Self::Bfloat16(kept) => Cow::Owned(kept.to_f32_vec()),
        }
    }

    /// Writes all of them in float32, on the threads of the current pool.
    ///
    /// # Panics
    /// When `out` has not as many.
    pub(crate) fn widen(self, out: &mut [f32]) {
        assert_eq!(out.len(), self.len(), "as many numbers");
        let out = out.par_chunks_mut(PIECE);
        match self {
            Self::Float32(kept) => out
                .zip(kept.par_chunks(PIECE))
                .for_each(|(out, kept)| out.copy_from_slice(kept)),
            Self::Half(kept) => out
                .zip(kept.par_chunks(PIECE))
                .for_each(|(out, kept)| kept.convert_to_f32_slice(out)),
            Self::Bfloat16(kept) => out
                .zip(kept.par_chunks(PIECE))
                .for_each(|(out, kept)| kept.convert_to_f32_slice(out)),
        }
    }
}
