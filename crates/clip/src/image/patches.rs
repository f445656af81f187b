//! Pictures as rows of patches.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::ops::with_values;

/// Pictures as patches, `G` a side of `P` pixels a side: with them the patch convolution is one product.
pub(crate) struct Patches {
    g: usize,
    p: usize,
}

impl Patches {
    /// Of `pixels` `[B, 3, G P, G P]`.
    pub(crate) fn new(pixels: &Tensor, g: usize, p: usize) -> Result<Self> {
        let (_, channels, height, width) = pixels.dims4()?;
        if (channels, height, width) != (3, g * p, g * p) {
            bail!(
                "this backbone takes pixels [B, 3, {r}, {r}], got {:?}",
                pixels.dims(),
                r = g * p
            );
        }
        Ok(Self { g, p })
    }

    /// Values of a patch.
    pub(super) fn len(&self) -> usize {
        3 * self.p * self.p
    }

    /// Patch `i` of the pixels of all pictures.
    pub(super) fn write(&self, pixels: &[f32], i: usize, row: &mut [f32]) {
        let (g, p) = (self.g, self.p);
        let side = g * p;
        let (b, gy, gx) = (i / (g * g), i / g % g, i % g);
        for c in 0..3 {
            for y in 0..p {
                let from = ((b * 3 + c) * side + gy * p + y) * side + gx * p;
                row[(c * p + y) * p..][..p].copy_from_slice(&pixels[from..from + p]);
            }
        }
    }

    /// All of them as rows `[B G G, 3 P P]`.
    pub(crate) fn rows(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, g, p, len) = (pixels.dim(0)?, self.g, self.p, self.len());
        if !pixels.device().is_cpu() {
            return pixels
                .reshape(&[batch, 3, g, p, g, p][..])?
                .permute([0, 2, 4, 1, 3, 5])?
                .reshape((batch * g * g, len));
        }
        with_values(pixels, |data| {
            let mut rows = vec![0f32; data.len()];
            rows.par_chunks_mut(len)
                .enumerate()
                .for_each(|(i, row)| self.write(data, i, row));
            Tensor::from_vec(rows, (batch * g * g, len), pixels.device())
        })
    }
}
