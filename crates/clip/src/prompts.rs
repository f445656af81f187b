//! What a method hands to a tower: rows that enter it, and changes of its weights. All of it is data, and the towers are
//! differentiable in every tensor of it; nothing is trained inside of a tower.
//!
//! `L` blocks, `W` width of the tower. A block's input is what a row "before block `i`" means; block 0 comes after the
//! embeddings (and, in the image tower, after `ln_pre`).
//!
//! | wanted | said as |
//! |---|---|
//! | words around a class name (CoOp) | [`crate::Slot::Context`] in the sequences, [`TextPrompt::context`] |
//! | a context for each class, image or task | a context row of its own for each place: `Slot::Context(k * n + i)` |
//! | deep text prompts (MaPLe, IVLP) | [`DeepText`] with [`At::Position`], [`How::Instead`] |
//! | class-aware rows before block 8 (TCP) | contexts for each class, and [`DeepText`] with [`At::Context`] |
//! | rows that enter at a block (MMRL) | [`DeepText`], [`DeepImage`] with [`How::Insert`], later blocks [`How::Instead`] |
//! | the same, mixed with what comes out (MMRL++) | later blocks [`How::Mixed`] |
//! | image tokens after the class token (MVLPT) | [`DeepImage`] at position 1: block 0 [`How::Insert`], later [`How::Instead`] |
//! | image tokens before `ln_pre` (VPT, BPT-VLM) | [`ImagePrompt::tokens`], [`ImagePrompt::deep`] |
//! | LayerNorms, LoRA, adapters beside blocks | [`Changes`], in either prompt |
//!
//! Image tokens have no order of their own, so that "between class token and patches, before `ln_pre`, without positions"
//! (S-Prompts) is [`ImagePrompt::tokens`] but for rounding.

use candle_core::{Result, Tensor, bail};

use crate::changes::{Changes, Visit};
use crate::ops::Put;

/// How rows enter at a block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum How {
    /// In place of the rows that are there, which are lost.
    #[default]
    Instead,
    /// `share * rows + (1 - share) * what is there`.
    Mixed(f64),
    /// As rows more, the first at the given position; what is there from it on moves back. They stay for all later
    /// blocks, have no positional embedding, and move nobody's.
    Insert,
}

impl How {
    /// `None` for rows more.
    pub(crate) fn put(self) -> Option<Put> {
        match self {
            Self::Instead => Some(Put::Instead),
            Self::Mixed(share) => Some(Put::Mixed(share)),
            Self::Insert => None,
        }
    }
}

/// Which rows of the text tower are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The positions from this on, in every sequence; 0 is the start token. Rows that entered before are counted.
    Position(usize),
    /// The places of the context: row `i` goes wherever [`crate::Slot::Context`]`(i)` stands. Rows beyond the highest
    /// are not looked at.
    Context,
}

/// Hidden rows put in before one block of the text tower. No positional embedding is added.
#[derive(Clone, Debug)]
pub struct DeepText {
    /// Block (0-based) whose input is changed.
    pub block: usize,
    /// Where they go.
    pub at: At,
    /// `[n, W]`: shared by all sequences at a position, or a row for each context slot.
    pub rows: Tensor,
    /// What happens there.
    pub how: How,
}

impl DeepText {
    /// Rows in place of those from `position` on, in every sequence.
    pub fn instead(block: usize, position: usize, rows: Tensor) -> Self {
        Self {
            block,
            at: At::Position(position),
            rows,
            how: How::Instead,
        }
    }
}

/// What a method puts into the text tower. `N` context rows.
#[derive(Clone, Debug, Default)]
pub struct TextPrompt {
    /// `[N, W]`: the rows that [`crate::Slot::Context`] names, to which positions are added. A row may stand in as many
    /// sequences as wanted; sequences whose rows differ have rows of their own to compute from there on.
    pub context: Option<Tensor>,
    /// Rows that enter before blocks; those of one block in this order.
    pub deep: Vec<DeepText>,
    /// Changes of the tower's weights.
    pub changes: Changes,
}

impl TextPrompt {
    /// Everything that can be trained, in an order of its own.
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        let mut all = Vec::new();
        let visited = self.map(&mut |t| {
            all.push(t.clone());
            Ok(t.clone())
        });
        debug_assert!(visited.is_ok(), "the visitor makes no error");
        all
    }

    /// Whether a gradient could be asked for.
    pub fn is_tracked(&self) -> bool {
        self.tensors().iter().any(Tensor::track_op)
    }

    /// The same with other tensors in the place of [`TextPrompt::tensors`].
    pub(crate) fn map(&self, f: &mut Visit) -> Result<Self> {
        let context = self.context.as_ref().map(&mut *f).transpose()?;
        let deep = self.deep.iter().map(|d| {
            Ok(DeepText {
                rows: f(&d.rows)?,
                ..d.clone()
            })
        });
        Ok(Self {
            context,
            deep: deep.collect::<Result<_>>()?,
            changes: self.changes.map(f)?,
        })
    }

    /// The first block that its rows enter at or that it changes; `None` where it has none. `named`: whether a sequence
    /// names context rows.
    pub(crate) fn begins(&self, named: bool) -> Option<usize> {
        if named && self.context.is_some() || self.changes.norm_before.is_some() {
            return Some(0);
        }
        let deep = self.deep.iter().map(|d| d.block);
        deep.chain(self.changes.blocks.keys().copied()).min()
    }

    /// Whether rows are inserted.
    pub(crate) fn grows(&self) -> bool {
        self.deep.iter().any(|d| d.how == How::Insert)
    }

    /// That it fits a tower of `depth` blocks, with a norm before them and behind them where the two say so.
    pub(crate) fn check(&self, depth: usize, [before, behind]: [bool; 2]) -> Result<()> {
        for deep in &self.deep {
            if deep.block >= depth {
                bail!(
                    "deep prompt for block {}, the text tower has {depth}",
                    deep.block
                );
            }
            if deep.at == At::Context && deep.how == How::Insert {
                bail!("rows enter a text at a position, not at the places of the context");
            }
        }
        if self.changes.norm_before.is_some() && !before {
            bail!("the text tower has no norm before its blocks");
        }
        if self.changes.norm_after.is_some() && !behind {
            bail!("this text tower (BERT) has no norm of its own behind its blocks");
        }
        self.changes.check(depth)
    }
}

/// Hidden rows put in before one block of the image tower, the same for all pictures.
#[derive(Clone, Debug)]
pub struct DeepImage {
    /// Block (0-based) whose input is changed.
    pub block: usize,
    /// Position of the first row: 0 is the class token, patches follow; tokens that entered before are counted.
    pub position: usize,
    /// `[n, W]`.
    pub rows: Tensor,
    /// What happens there.
    pub how: How,
}

/// What a method puts into the image tower. `n` prompt tokens.
#[derive(Clone, Debug, Default)]
pub struct ImagePrompt {
    /// `[n, W]`, behind the patch tokens, after positions are added and before the first norm.
    pub tokens: Option<Tensor>,
    /// `deep[i]` `[n, W]` replaces them before block `i + 1`.
    pub deep: Vec<Tensor>,
    /// Rows that enter before blocks, after `deep`; those of one block in this order.
    pub rows: Vec<DeepImage>,
    /// Changes of the tower's weights.
    pub changes: Changes,
}

impl ImagePrompt {
    /// Whether nothing is handed over.
    pub fn is_empty(&self) -> bool {
        !self.has_tokens()
            && self.deep.is_empty()
            && self.rows.is_empty()
            && self.changes.is_empty()
    }

    fn has_tokens(&self) -> bool {
        let tokens = self.tokens.as_ref();
        tokens.is_some_and(|t| t.dim(0).unwrap_or(0) > 0)
    }

    /// `n`.
    pub(crate) fn count(&self) -> Result<usize> {
        self.tokens.as_ref().map_or(Ok(0), |t| t.dim(0))
    }

    /// The first block that its rows enter at or that it changes; `None` where it has none. Tokens enter before the first.
    pub(crate) fn begins(&self) -> Option<usize> {
        if self.has_tokens() || self.changes.norm_before.is_some() {
            return Some(0);
        }
        let deep = (!self.deep.is_empty()).then_some(1);
        let rows = self.rows.iter().map(|r| r.block).chain(deep);
        rows.chain(self.changes.blocks.keys().copied()).min()
    }

    /// Everything that can be trained, in an order of its own.
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        let mut all = Vec::new();
        let visited = self.map(&mut |t| {
            all.push(t.clone());
            Ok(t.clone())
        });
        debug_assert!(visited.is_ok(), "the visitor makes no error");
        all
    }

    /// The same with other tensors in the place of [`ImagePrompt::tensors`].
    pub(crate) fn map(&self, f: &mut Visit) -> Result<Self> {
        let tokens = self.tokens.as_ref().map(&mut *f).transpose()?;
        let deep = self.deep.iter().map(&mut *f).collect::<Result<_>>()?;
        let rows = self.rows.iter().map(|r| {
            Ok(DeepImage {
                rows: f(&r.rows)?,
                ..r.clone()
            })
        });
        Ok(Self {
            tokens,
            deep,
            rows: rows.collect::<Result<_>>()?,
            changes: self.changes.map(f)?,
        })
    }

    /// Whether a gradient could be asked for.
    pub fn is_tracked(&self) -> bool {
        self.tensors().iter().any(Tensor::track_op)
    }

    /// That it fits a tower of `depth` blocks and width `width`.
    pub(crate) fn check(&self, depth: usize, width: usize) -> Result<()> {
        if self.deep.len() >= depth {
            bail!(
                "{} deep image prompts for a tower of {depth} blocks",
                self.deep.len()
            );
        }
        let count = self.count()?;
        if let Some(deep) = self.deep.iter().find(|d| d.dims() != [count, width]) {
            bail!(
                "a deep image prompt is {:?}, the first layer's is [{count}, {width}]",
                deep.dims()
            );
        }
        if let Some(rows) = self.rows.iter().find(|r| r.block >= depth) {
            bail!("rows for block {}, the image tower has {depth}", rows.block);
        }
        self.changes.check(depth)
    }
}
