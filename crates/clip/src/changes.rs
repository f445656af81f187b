//! What a method changes in a tower's own weights, handed over as data beside the prompt.
//!
//! A tower stays frozen and shared; a method gives, with every call, what is to be used in place of or beside the
//! tower's tensors, and gradients go to what it gave:
//!
//! * **LayerNorms** (LASP, 2SFS): [`Norm`]s in [`BlockChange::norm_1`], [`BlockChange::norm_2`],
//!   [`Changes::norm_before`], [`Changes::norm_after`]. They start from [`crate::ops::Block::norms`] and the towers' own
//!   `norm_after`.
//! * **Low rank** (CLIP-LoRA): [`LowRank`] on the queries', keys', values' or output projection of a block, optionally
//!   with its own dropout on its input, which the frozen projection does not see.
//! * **A branch beside a block** (MMA): [`Beside`], `out = block(x) + f(ln_1(x))`.
//!
//! ```no_run
//! # use candle_core::{Result, Var};
//! # use clip::{Clip, TextPrompt, changes::*};
//! # fn encode(clip: &Clip, plan: &clip::TextPlan, down: &Var, up: &Var) -> Result<candle_core::Tensor> {
//! let mut changes = Changes::default();
//! changes.block(7).low_rank.push(LowRank {
//!     of: Projection::Value,
//!     down: down.as_tensor().clone(), // [r, W]
//!     up: up.as_tensor().clone(),     // [W, r]
//!     scale: 0.7,
//!     dropout: None,
//! });
//! clip.text.encode(plan, &TextPrompt { changes, ..TextPrompt::default() })
//! # }
//! ```
//!
//! A block without a change runs as it always does, to the bit; one with changed norms or low ranks runs in parts (see
//! [`crate::ops::parts`]), with gradients of what was given only and none of the frozen matrices.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

/// Gain and shift of a LayerNorm, `[W]` each.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Multiplies the normalised row.
    pub gain: Tensor,
    /// Is added after it.
    pub bias: Tensor,
}

/// The projections of a block's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// First `W` rows of `attn.in_proj_weight`.
    Query,
    /// The next `W`.
    Key,
    /// The last `W`.
    Value,
    /// `attn.out_proj.weight`.
    Out,
}

/// Dropout of a branch's input, drawn by the method.
#[derive(Clone, Debug)]
pub struct Dropout {
    /// `[R, W]`, 1 where a value is kept and 0 where it is dropped, of any type. `R` are the rows of the tower at that
    /// block: pictures one after the other with all their tokens, or the sequences of a plan made by
    /// [`crate::TextTower::plan_apart`] one after the other with all their slots. Also in the last block, where only
    /// some rows go on.
    pub kept: Tensor,
    /// Share of values that are kept in the mean; kept values are divided by it.
    pub share: f64,
}

/// `scale * up (down x)` on top of a projection of `x`. `r` rank, `W` width.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// The projection.
    pub of: Projection,
    /// `A`, `[r, W]`.
    pub down: Tensor,
    /// `B`, `[W, r]`.
    pub up: Tensor,
    /// Multiplies the product.
    pub scale: f64,
    /// On `x` before `down`.
    pub dropout: Option<Dropout>,
}

impl LowRank {
    /// Of `[n, W]`, the packed rows `rows` of all, or all of them.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub(crate) fn of_rows(&self, x: &Tensor, rows: Option<&Tensor>) -> Result<Tensor> {
        let x = match &self.dropout {
            None => x.clone(),
            Some(dropout) => {
                let kept = match rows {
                    Some(rows) => dropout.kept.index_select(rows, 0)?,
                    None => dropout.kept.clone(),
                };
                if kept.dims() != x.dims() {
                    bail!(
                        "dropout of {:?} on rows {:?}: it has one number for each value of the tower's rows",
                        kept.dims(),
                        x.dims()
                    );
                }
                (x * (kept.to_dtype(DType::F32)? * (1.0 / dropout.share))?)?
            }
        };
        x.matmul(&self.down.t()?)?.matmul(&self.up.t()?)? * self.scale
    }
}

/// What a branch computes: of its tensors and of rows `[n, W]`, rows `[n, W]`, each from its own row alone.
pub type Branch = dyn Fn(&[Tensor], &Tensor) -> Result<Tensor> + Send + Sync;

/// A branch beside a whole block: `out = block(x) + f(ln_1(x))`, with the `ln_1` that the block uses.
#[derive(Clone)]
pub struct Beside {
    /// Everything trained that `f` reads. What it captures instead gets no gradient where a text is encoded in pieces.
    pub tensors: Vec<Tensor>,
    /// The branch. It sees the rows that go on: in the last block those that are read.
    pub f: Arc<Branch>,
}

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beside")
            .field("tensors", &self.tensors)
            .finish_non_exhaustive()
    }
}

/// What changes in one block.
#[derive(Clone, Debug, Default)]
pub struct BlockChange {
    /// In place of `ln_1`.
    pub norm_1: Option<Norm>,
    /// In place of `ln_2`.
    pub norm_2: Option<Norm>,
    /// On top of projections; several of one projection add up.
    pub low_rank: Vec<LowRank>,
    /// Beside the block.
    pub beside: Option<Beside>,
}

impl BlockChange {
    /// Whether something inside of the block changes.
    pub(crate) fn is_inside(&self) -> bool {
        self.norm_1.is_some() || self.norm_2.is_some() || !self.low_rank.is_empty()
    }

    fn map(&self, f: &mut Visit) -> Result<Self> {
        let low_rank = self.low_rank.iter().map(|l| {
            Ok(LowRank {
                down: f(&l.down)?,
                up: f(&l.up)?,
                ..l.clone()
            })
        });
        let low_rank = low_rank.collect::<Result<_>>()?;
        let beside = match &self.beside {
            None => None,
            Some(b) => Some(Beside {
                tensors: b.tensors.iter().map(&mut *f).collect::<Result<_>>()?,
                f: b.f.clone(),
            }),
        };
        Ok(Self {
            norm_1: map_norm(self.norm_1.as_ref(), f)?,
            norm_2: map_norm(self.norm_2.as_ref(), f)?,
            low_rank,
            beside,
        })
    }
}

/// What changes in one tower.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// By block, 0-based.
    pub blocks: BTreeMap<usize, BlockChange>,
    /// In place of the image tower's `ln_pre`; the text tower has none.
    pub norm_before: Option<Norm>,
    /// In place of `ln_post` or `ln_final`.
    pub norm_after: Option<Norm>,
}

/// Called with every tensor in turn, gives what stands in its place.
pub(crate) type Visit<'a> = dyn FnMut(&Tensor) -> Result<Tensor> + 'a;

fn map_norm(norm: Option<&Norm>, f: &mut Visit) -> Result<Option<Norm>> {
    norm.map(|n| {
        Ok(Norm {
            gain: f(&n.gain)?,
            bias: f(&n.bias)?,
        })
    })
    .transpose()
}

impl Changes {
    /// The change of a block, made when there is none yet.
    pub fn block(&mut self, block: usize) -> &mut BlockChange {
        self.blocks.entry(block).or_default()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.norm_before.is_none() && self.norm_after.is_none()
    }

    /// The same with other tensors in the place of all that can be trained, visited in an order of their own.
    pub(crate) fn map(&self, f: &mut Visit) -> Result<Self> {
        let blocks = self.blocks.iter().map(|(i, b)| Ok((*i, b.map(f)?)));
        Ok(Self {
            blocks: blocks.collect::<Result<_>>()?,
            norm_before: map_norm(self.norm_before.as_ref(), f)?,
            norm_after: map_norm(self.norm_after.as_ref(), f)?,
        })
    }

    /// All dropout.
    fn dropout(&mut self) -> impl Iterator<Item = &mut Dropout> {
        let low_rank = self.blocks.values_mut().flat_map(|b| &mut b.low_rank);
        low_rank.filter_map(|l| l.dropout.as_mut())
    }

    /// Whether any branch drops values.
    pub(crate) fn drops(&self) -> bool {
        let mut low_rank = self.blocks.values().flat_map(|b| &b.low_rank);
        low_rank.any(|l| l.dropout.is_some())
    }

    /// With the dropout of rows `first..first + count` only.
    pub(crate) fn of_rows(mut self, first: usize, count: usize) -> Result<Self> {
        for dropout in self.dropout() {
            dropout.kept = dropout.kept.narrow(0, first, count)?;
        }
        Ok(self)
    }

    /// That every changed block is there.
    pub(crate) fn check(&self, depth: usize) -> Result<()> {
        match self.blocks.keys().find(|b| **b >= depth) {
            Some(block) => bail!("a change of block {block}, the tower has {depth}"),
            None => Ok(()),
        }
    }
}
