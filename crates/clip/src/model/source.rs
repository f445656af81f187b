//! Where the tensors of a CLIP come from while it is built: files, read straight into their places, or tensors in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, Var, bail};
use rayon::prelude::*;

use super::Keep;
use crate::ops::block::PARTS;
use crate::ops::{Activation, Block, BlockShape, Norms, with_values};
use crate::text::Family;
use crate::weights::{self, Weights};
use crate::wording::Wording;

/// The same numbers in half precision, else in bfloat16, where all of them are the same there; else as they are.
fn compact(theta: Tensor) -> Result<Tensor> {
    let is_same = |small: &Tensor| {
        let (storage, _) = small.storage_and_layout();
        with_values(&theta, |whole| {
            Ok(match &*storage {
                Storage::Cpu(CpuStorage::F16(kept)) => {
                    let mut pairs = kept.iter().zip(whole);
                    pairs.all(|(a, b)| a.to_f32().to_bits() == b.to_bits())
                }
                Storage::Cpu(CpuStorage::BF16(kept)) => {
                    let mut pairs = kept.iter().zip(whole);
                    pairs.all(|(a, b)| a.to_f32().to_bits() == b.to_bits())
                }
                _ => false,
            })
        })
    };
    for kind in [DType::F16, DType::BF16] {
        let small = theta.to_dtype(kind)?;
        if is_same(&small)? {
            return Ok(small);
        }
    }
    Ok(theta)
}

/// Where the tensors of a model come from.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    Tensors(&'a BTreeMap<String, Tensor>),
    /// With the digests of what was read.
    Weights(&'a Weights, &'a Mutex<BTreeMap<String, [u8; 32]>>),
}

impl Origin<'_> {
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        match self {
            Self::Tensors(tensors) => tensors.get(name).map(Tensor::dims),
            Self::Weights(weights, _) => weights.shape(name),
        }
    }

    /// Heads of the image and the text tower, where they are known.
    pub(super) fn heads(&self) -> [Option<usize>; 2] {
        match self {
            Self::Tensors(_) => [None, None],
            Self::Weights(weights, _) => weights.architecture.heads().map(|(n, _)| Some(n)),
        }
    }

    /// Whose text tower it is.
    pub(super) fn family(&self) -> Family {
        match self {
            Self::Weights(weights, _) => weights.architecture.family,
            Self::Tensors(_) => weights::family_of(|name| self.shape(name).is_some()),
        }
    }

    /// What texts are to it.
    pub(super) fn wording(&self) -> Wording {
        match self {
            Self::Weights(weights, _) => weights.wording.clone(),
            Self::Tensors(_) => Wording::default(),
        }
    }

    fn find(&self, name: &str) -> Result<&[usize]> {
        match self.shape(name) {
            Some(shape) => Ok(shape),
            None => bail!("tensor {name} is missing"),
        }
    }

    /// Writes a tensor's values where they belong.
    fn fill(&self, name: &str, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Tensors(tensors) => with_values(&tensors[name].to_dtype(DType::F32)?, |values| {
                out.copy_from_slice(values);
                Ok(())
            }),
            Self::Weights(weights, digests) => {
                let digest = weights.fill(name, out).map_err(candle_core::Error::wrap)?;
                let mut digests = digests.lock().expect("no panic while held");
                digests.insert(name.to_owned(), digest);
                Ok(())
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> Result<Tensor> {
        let shape = self.find(name)?;
        if let Self::Tensors(tensors) = self {
            return tensors[name].to_dtype(DType::F32)?.contiguous();
        }
        let mut values = vec![0f32; shape.iter().product()];
        self.fill(name, &mut values)?;
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    /// All weights of a block, flat, each part read into its place.
    fn block(&self, base: &str, shape: &BlockShape) -> Result<Tensor> {
        let mut theta = vec![0f32; shape.len()];
        let mut rest = theta.as_mut_slice();
        for (part, want) in PARTS.iter().zip(shape.parts()) {
            let name = format!("{base}.{part}");
            let found = self.find(&name)?;
            if found != want {
                bail!(
                    "{name} is {found:?}, a block of width {} has {want:?}",
                    shape.width
                );
            }
            let (place, after) = rest.split_at_mut(want.iter().product());
            self.fill(&name, place)?;
            rest = after;
        }
        Tensor::from_vec(theta, shape.len(), &Device::Cpu)
    }
}

pub(super) struct Source<'a> {
    pub(super) origin: Origin<'a>,
    pub(super) keep: Keep,
    pub(super) trained: BTreeMap<String, Var>,
    pub(super) train: bool,
}

impl Source<'_> {
    pub(super) fn get(&mut self, name: &str) -> Result<Tensor> {
        let t = self.origin.get(name)?;
        self.own(name, t)
    }

    pub(super) fn own(&mut self, name: &str, t: Tensor) -> Result<Tensor> {
        if !self.train {
            return Ok(t);
        }
        let var = Var::from_tensor(&t)?;
        self.trained.insert(name.to_owned(), var.clone());
        Ok(var.as_tensor().clone())
    }

    pub(super) fn norm(&mut self, base: &str) -> Result<(Tensor, Tensor)> {
        Ok((
            self.get(&format!("{base}.weight"))?,
            self.get(&format!("{base}.bias"))?,
        ))
    }

    /// A tensor that not every CLIP has.
    pub(super) fn maybe(&mut self, name: &str) -> Result<Option<Tensor>> {
        match self.origin.shape(name) {
            Some(_) => self.get(name).map(Some),
            None => Ok(None),
        }
    }

    /// A norm that not every CLIP has.
    pub(super) fn maybe_norm(&mut self, base: &str) -> Result<Option<(Tensor, Tensor)>> {
        match self.origin.shape(&format!("{base}.weight")) {
            Some(_) => self.norm(base).map(Some),
            None => Ok(None),
        }
    }

    /// `heads` where they are known, else those of OpenAI's towers of this width.
    pub(super) fn blocks(
        &mut self,
        base: &str,
        width: usize,
        heads: Option<usize>,
        (activation, norms): (Activation, Norms),
    ) -> Result<Vec<Block>> {
        let (origin, keep) = (self.origin, self.keep);
        let count = (0..)
            .take_while(|i| origin.shape(&format!("{base}.{i}.ln_1.weight")).is_some())
            .count();
        if count == 0 {
            bail!("tensor {base}.0.ln_1.weight is missing: the tower has no blocks");
        }
        let read = |i: usize| {
            let hidden = origin.find(&format!("{base}.{i}.mlp.c_fc.weight"))?;
            let shape = BlockShape {
                width,
                heads: heads.unwrap_or_else(|| weights::heads(width)),
                hidden: hidden.first().copied().unwrap_or(0),
                activation,
                norms,
            };
            let theta = origin.block(&format!("{base}.{i}"), &shape)?;
            let theta = match keep {
                Keep::Float32 => theta,
                Keep::Compact => compact(theta)?,
            };
            Ok((shape, theta))
        };
        // A block is whole for a moment before it is compact: few at a time then.
        let at_once = match keep {
            Keep::Float32 => count,
            Keep::Compact => 2,
        };
        let all: Vec<usize> = (0..count).collect();
        let read = all.chunks(at_once).flat_map(|some| {
            let blocks = some.par_iter().map(|&i| read(i));
            blocks.collect::<Vec<Result<(BlockShape, Tensor)>>>()
        });
        read.enumerate()
            .map(|(i, block)| {
                let (shape, theta) = block?;
                let theta = self.own(&format!("{base}.{i}"), theta)?;
                Ok(Block::new(shape, theta))
            })
            .collect()
    }
}
