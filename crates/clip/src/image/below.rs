//! Pictures that go through a tower more than once, with one prompt and with another: what lies below the first block that
//! a prompt has to do with is computed once.

use candle_core::{Result, Tensor, bail};

use super::VisionTransformer;
use crate::device::Read;
use crate::ops::gemm::FEW;
use crate::ops::times;
use crate::prompts::ImagePrompt;

/// How far pictures go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// To the rows that enter a block, `[B T, W]`.
    Block(usize),
    /// Through all blocks, with all tokens: `[B T, W]`.
    Tokens,
    /// Through all blocks, of which the last computes class tokens alone: `[B, W]`.
    Classes,
}

impl Until {
    /// The first block that they do not go through, if there is one.
    pub(super) fn block(self) -> Option<usize> {
        match self {
            Self::Block(block) => Some(block),
            Self::Tokens | Self::Classes => None,
        }
    }
}

/// `B` pictures before a block of a tower, from where they can go on with one prompt after another. The bits are those of
/// passes from the pixels.
///
/// ```no_run
/// # use candle_core::{Result, Tensor};
/// # use clip::{ImagePrompt, VisionTransformer};
/// # fn both(tower: &VisionTransformer, pixels: &Tensor, prompt: &ImagePrompt) -> Result<[Tensor; 2]> {
/// let below = tower.below(pixels, prompt)?;
/// Ok([below.encode(&ImagePrompt::default())?, below.encode(prompt)?])
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Below<'a> {
    tower: &'a VisionTransformer,
    /// `[B, 3, R, R]`.
    pixels: Tensor,
    /// The block and what enters it, `[B T, W]`, without a graph; `None` where everything is still to be done.
    entering: Option<(usize, Tensor)>,
}

impl VisionTransformer {
    /// Takes pictures `[B, 3, R, R]` to the first block that `prompt` enters at or changes, or to the last where it does
    /// neither; holds `B T W` numbers.
    ///
    /// Nothing is computed yet, and every pass begins at the pixels, where passes with the prompt and without have nothing in
    /// common: the prompt begins at the first block; pictures without a prompt go through in bfloat16; the tower's own
    /// weights, or the pixels, are trained. Nor on a card.
    ///
    /// # Errors
    /// As [`VisionTransformer::encode`].
    pub fn below(&self, pixels: &Tensor, prompt: &ImagePrompt) -> Result<Below<'_>> {
        prompt.check(self.depth(), self.width())?;
        let mut below = Below::nothing(self, pixels);
        let first = prompt.begins();
        let block = first.unwrap_or(self.depth().saturating_sub(1));
        if block > 0 && self.is_alike(pixels)? {
            let rows = self.rows(&below, &ImagePrompt::default(), Until::Block(block))?;
            below.entering = Some((block, rows));
        }
        Ok(below)
    }

    /// Whether rows below all prompts are the same in every pass.
    fn is_alike(&self, pixels: &Tensor) -> Result<bool> {
        let is_frozen = !self.is_tracked(pixels, &ImagePrompt::default());
        if self.card.is_some() || self.is_bfloat16 || !is_frozen {
            return Ok(false);
        }
        // A pass with a gradient takes all pictures at once, others take pieces. Bits of a row do not depend on how many
        // there are, but where a last piece is so small that products take it for few rows.
        let (batch, at_once) = (pixels.dim(0)?, self.at_once(0));
        let patches = batch % at_once * self.grid() * self.grid();
        Ok(batch <= at_once || patches == 0 || patches > FEW)
    }
}

impl<'a> Below<'a> {
    /// Pictures of which nothing is computed.
    pub(super) fn nothing(tower: &'a VisionTransformer, pixels: &Tensor) -> Self {
        Self {
            tower,
            pixels: pixels.clone(),
            entering: None,
        }
    }

    /// The block that they stand before; 0 where they begin at the pixels.
    pub fn block(&self) -> usize {
        self.entering.as_ref().map_or(0, |(block, _)| *block)
    }

    /// As [`VisionTransformer::encode`].
    ///
    /// # Errors
    /// As there, and when the prompt begins below [`Below::block`].
    pub fn encode(&self, prompt: &ImagePrompt) -> Result<Tensor> {
        self.check(prompt)?;
        let tower = self.tower;
        if let Some(card) = tower.on_card(&self.pixels) {
            return tower.encode_on_card(card, &self.pixels, prompt, Read::Feature);
        }
        let rows = tower.rows(self, prompt, Until::Classes)?;
        times(&tower.post(&rows, prompt)?, &tower.projection)
    }

    /// As [`VisionTransformer::hidden`].
    ///
    /// # Errors
    /// As [`Below::encode`].
    pub fn hidden(&self, prompt: &ImagePrompt) -> Result<Tensor> {
        self.check(prompt)?;
        let tower = self.tower;
        let rows = match tower.on_card(&self.pixels) {
            Some(card) => tower.encode_on_card(card, &self.pixels, prompt, Read::Hidden)?,
            None => tower.rows(self, prompt, Until::Tokens)?,
        };
        rows.reshape((self.count()?, (), tower.width()))
    }

    fn check(&self, prompt: &ImagePrompt) -> Result<()> {
        match prompt.begins() {
            Some(first) if first < self.block() => bail!(
                "this prompt begins at block {first}, and these pictures have gone up to block {}; take them there with \
                 the prompt that begins first",
                self.block()
            ),
            _ => Ok(()),
        }
    }

    pub(super) fn pixels(&self) -> &Tensor {
        &self.pixels
    }

    pub(super) fn entering(&self) -> Option<(usize, &Tensor)> {
        self.entering.as_ref().map(|(block, rows)| (*block, rows))
    }

    /// `B`.
    pub(super) fn count(&self) -> Result<usize> {
        self.pixels.dim(0)
    }

    /// `count` pictures from `first` on.
    pub(super) fn some(&self, first: usize, count: usize) -> Result<Self> {
        let entering = self.entering().map(|(block, rows)| {
            let length = rows.dim(0)? / self.count()?;
            let some = rows.narrow(0, first * length, count * length)?;
            Result::Ok((block, some))
        });
        Ok(Self {
            pixels: self.pixels.narrow(0, first, count)?,
            entering: entering.transpose()?,
            ..*self
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::Device;

    use crate::ops::{Activation, Arithmetic, Block, BlockShape, Layout, Norms};

    use super::*;

    #[test]
    fn rows_of_a_picture_have_the_same_bits_whatever_stands_beside_it() {
        // The inner side of the MLP's second product is longer than what is summed at once.
        let shape = BlockShape {
            width: 128,
            heads: 2,
            hidden: 1300,
            activation: Activation::QuickGelu,
            norms: Norms::Clip,
        };
        let length = 33;
        let numbers = |count: usize, step: usize| {
            let of = |i| ((i * step % 1009) as f32 - 504.0) / 5000.0;
            (0..count).map(of).collect::<Vec<f32>>()
        };
        let theta = Tensor::from_vec(numbers(shape.len(), 613), shape.len(), &Device::Cpu);
        let mut block = Block::new(shape, theta.unwrap());
        for (by, pictures) in [(Arithmetic::Portable, 40), (Arithmetic::Emulated, 5)] {
            block.use_arithmetic(by);
            let rows = numbers(pictures * length * shape.width, 757);
            let rows = Tensor::from_vec(rows, (pictures * length, shape.width), &Device::Cpu);
            let rows = rows.unwrap();
            let through = |first: usize, count: usize| {
                let some = rows.narrow(0, first * length, count * length).unwrap();
                let layout = Arc::new(Layout::full(count, length));
                let out = block.forward(&some, &layout, None).unwrap();
                out.to_vec2::<f32>().unwrap()
            };
            let all = through(0, pictures);
            // Two pictures have more rows than products take for few.
            assert!(2 * length > FEW);
            for first in [0, 1, pictures - 2] {
                let own = &all[first * length..(first + 2) * length];
                assert!(through(first, 2) == own, "{by:?}, from picture {first}");
            }
        }
    }
}
