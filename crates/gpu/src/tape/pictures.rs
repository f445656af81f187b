//! From pixels to rows.

use super::Tape;
use crate::error::{Error, Result};
use crate::parts::Value;

impl Tape {
    /// Patches of `pixels` `[B, 3, G P, G P]` as rows `[B G G, 3 P P]`, to be multiplied.
    ///
    /// # Errors
    /// When the card's memory is used up.
    pub fn patches(&mut self, pixels: &[f32], [batch, grid, patch]: [usize; 3]) -> Result<Value> {
        let width = 3 * patch * patch;
        if pixels.len() != batch * grid * grid * width {
            return Err(Error::Shape(format!(
                "{} pixels are not {batch} pictures of {grid} patches of {patch} a side",
                pixels.len()
            )));
        }
        let pixels = self.lane.upload(pixels)?;
        let half = self.is_half();
        let out = self.made(batch * grid * grid, width, half, false)?;
        self.lane
            .patches(half, pixels.address, out.address, (batch, grid, patch))?;
        Ok(out)
    }

    /// Rows `[B (classes + count + extra), W]`: the class row (where there is one), `count` patch rows and `extra` zeros
    /// of each picture, with positions `[classes + count, W]` on all but the zeros.
    ///
    /// # Errors
    /// When shapes do not fit, or the card's memory is used up.
    pub fn embed_pictures(
        &mut self,
        patches: &Value,
        classes: Option<&Value>,
        positions: &Value,
        batch: usize,
        extra: usize,
    ) -> Result<Value> {
        let (count, width) = (patches.rows / batch.max(1), patches.width);
        let length = usize::from(classes.is_some()) + count;
        if positions.shape() != (length, width) || patches.half {
            return Err(Error::Shape(format!(
                "positions {:?} for {length} rows of width {width}",
                positions.shape()
            )));
        }
        let out = self.made(batch * (length + extra), width, false, false)?;
        let class = classes.map(|c| c.address);
        let sizes = (batch, count, extra, width);
        let (from, to) = (patches.address, out.address);
        self.lane
            .embed_pictures(from, class, positions.address, to, sizes)?;
        Ok(out)
    }
}
