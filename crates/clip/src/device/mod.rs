//! Towers whose insides live on a card.
//!
//! A tower is one operation on tensors of the processor: the prompt goes to the card, rows go through all blocks there,
//! features come back, and so do the prompt's gradients. Frozen weights go up once, in the precision of products. What
//! candle keeps is small: losses, optimizers, and the graph between prompts and towers.
//!
//! A tower whose own weights are trained stays on the processor, whose blocks give their gradients.

mod block;
mod image;
mod pass;
mod text;

use std::collections::HashMap;

use candle_core::{Error, Result, Tensor, TensorId};
use gpu::Value;

pub use gpu::{Gpu, Precision};

pub(crate) use image::{CardImage, Read};
pub(crate) use text::{CardPart, CardText};

use std::sync::Arc;

use crate::ops::{Block, with_values};
use crate::text::Pooling;
use crate::{Clip, ImageTower};

impl Clip {
    /// Brings both towers to a card, with products in `precision`: from now on rows go through their blocks there. Gives
    /// what stays on the processor, in words: a tower of a kind that does not run on a card.
    ///
    /// # Errors
    /// When the kernels do not compile, or the card's memory is used up.
    pub fn use_gpu(&mut self, gpu: &Gpu, precision: Precision) -> Result<Vec<String>> {
        gpu.prepare(precision).map_err(wrap)?;
        self.forget();
        let mut stays = Vec::new();
        let mut stay = |tower: &str, why: &str| {
            stays.push(format!("the {tower} tower stays on the processor: {why}"));
        };
        if self.text.family.pooling() == Pooling::Mean {
            stay("text", "it pools texts by their mean");
        } else if let Some(why) = unfit(&self.text.blocks) {
            stay("text", &why);
        } else {
            let card = CardText::new(&self.text, gpu, precision)?;
            self.text.card = Some(Arc::new(card));
        }
        match &mut self.image {
            ImageTower::Transformer(tower) => match unfit(&tower.blocks) {
                Some(why) => stay("image", &why),
                None => {
                    let card = CardImage::new(tower, gpu, precision)?;
                    tower.card = Some(Arc::new(card));
                }
            },
            ImageTower::ResNet(_) => stay(
                "image",
                "it is a ResNet, whose convolutions have no kernels here",
            ),
            ImageTower::Pooled(_) => stay(
                "image",
                "SigLIP's pooling of all patches has no kernels here",
            ),
        }
        Ok(stays)
    }
}

/// Why blocks do not run on a card, if they do not.
fn unfit(blocks: &[Block]) -> Option<String> {
    let mut sizes = blocks.iter().map(|b| b.shape.width / b.shape.heads);
    let size = sizes.find(|size| !size.is_multiple_of(8) || *size > 128)?;
    Some(format!(
        "its heads are {size} wide, and kernels take multiples of 8 up to 128"
    ))
}

/// What features of a card in `precision` are told apart by: the order of its sums differs from the processor's.
pub(crate) fn arithmetic(precision: Precision) -> &'static str {
    match precision {
        Precision::Float32 => "-cuda",
        Precision::Tf32 => "-cuda-tf32",
        Precision::Half => "-cuda-half",
    }
}

/// A card's error as candle's.
fn wrap(error: gpu::Error) -> Error {
    Error::wrap(error)
}

/// A tensor's numbers, in a row.
fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    with_values(&tensor.detach(), |v| Ok(v.to_vec()))
}

/// A tensor as rows: vectors are one.
fn rows(tensor: &Tensor) -> Result<(usize, usize)> {
    match *tensor.dims() {
        [width] => Ok((1, width)),
        _ => tensor.dims2(),
    }
}

/// Where the tensors of a prompt are on the card.
struct Placed(HashMap<TensorId, Value>);

impl Placed {
    fn of(&self, tensor: &Tensor) -> Result<&Value> {
        match self.0.get(&tensor.id()) {
            Some(value) => Ok(value),
            None => candle_core::bail!("a tensor of the prompt that its list does not have"),
        }
    }
}
