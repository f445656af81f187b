//! The causal text tower, which takes prompts as data.
//!
//! Sequences are cut after their end token, lie packed without padding, and what some of them share at their start (start
//! token, shared context, shared deep prompts, first words of class names) is computed once for them. All three are
//! exact: the tower is causal, and its output is read at the end token (arXiv 2103.00020, section 2.4).

use std::collections::HashMap;
use std::ops::Add;
use std::sync::{Arc, OnceLock};

use candle_core::{Result, Tensor, bail};

use crate::ops::{Block, Put, Work, layer_norm, put_rows};
use crate::packed::Packed;

/// Longest sequence CLIP's positions allow, start and end tokens included.
pub const CONTEXT_LENGTH: usize = 77;

/// One position of a text sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// A vocabulary word, by its token id.
    Token(u32),
    /// A learned vector: a row of [`TextPrompt::context`].
    Context(usize),
}

/// What a method puts into the text tower. `N` context rows, `W` text width.
#[derive(Clone, Debug, Default)]
pub struct TextPrompt {
    /// `[N, W]`: the rows that [`Slot::Context`] names.
    pub context: Option<Tensor>,
    /// Rows that overwrite hidden states before later blocks.
    pub deep: Vec<DeepText>,
}

/// Hidden rows shared by all sequences, put in before one block. No positional embedding is added.
#[derive(Clone, Debug)]
pub struct DeepText {
    /// Block (0-based) whose input is changed.
    pub block: usize,
    /// Position (0 is the start token) of the first row.
    pub position: usize,
    /// `[n, W]`.
    pub rows: Tensor,
}

/// Sequences laid out for the tower; made once for a set of classes, used every step.
#[derive(Clone, Debug)]
pub struct TextPlan {
    pub(crate) whole: Part,
    /// What it was made of, for the pieces of it.
    pub(crate) groups: Arc<Vec<Vec<Vec<Slot>>>>,
    /// Made when a gradient is first asked for.
    pub(crate) pieces: OnceLock<Arc<Vec<Part>>>,
}

/// Packed sequences and what the frozen tower puts into their rows.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) packed: Packed,
    /// Embeddings and positions `[R, W]`, context rows holding their position only; kept while both are frozen.
    base: Option<Tensor>,
}

impl TextPlan {
    /// Number of sequences, which is the number of features that come out.
    pub fn sequences(&self) -> usize {
        self.whole.packed.ends.len()
    }

    /// Packed rows the tower computes.
    pub fn rows(&self) -> usize {
        self.whole.packed.rows.len()
    }
}

/// The tower. `L` blocks, `W` width, `E` joint width.
#[derive(Clone, Debug)]
pub struct TextTower {
    pub(crate) token_embedding: Tensor,
    /// Row of each token id, when the table is cut down.
    pub(crate) token_rows: Option<HashMap<u32, u32>>,
    pub(crate) positional_embedding: Tensor,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: (Tensor, Tensor),
    pub(crate) projection: Tensor,
    /// Most bytes that the graph of one [`TextTower::encode`] may hold, but for what one piece of it takes (see
    /// [`TextTower::least_memory`]); `None`: as many as it takes. Changes no bit of any result.
    pub memory: Option<usize>,
}

impl TextTower {
    /// `W`.
    pub fn width(&self) -> usize {
        self.blocks.first().map_or(0, |b| b.shape.width)
    }

    /// `L`.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    fn embedding_row(&self, token: u32) -> Result<u32> {
        let Some(rows) = &self.token_rows else {
            return Ok(token);
        };
        match rows.get(&token) {
            Some(row) => Ok(*row),
            None => bail!(
                "this backbone's cut-down vocabulary has no embedding for {:?} (token {token}); it knows {} tokens",
                crate::Tokenizer::shared().word(token),
                rows.len()
            ),
        }
    }

    /// Token embeddings `[n, W]` of `tokens`, detached.
    ///
    /// # Errors
    /// When a cut-down table lacks a token.
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let rows = tokens
            .iter()
            .map(|t| self.embedding_row(*t))
            .collect::<Result<Vec<_>>>()?;
        let rows = Tensor::new(rows, self.token_embedding.device())?;
        Ok(self
            .token_embedding
            .detach()
            .index_select(&rows, 0)?
            .detach())
    }

    /// The whole embedding table `[V, W]` with the token id of each row; for nearest-word look-ups.
    pub fn vocabulary(&self) -> (Tensor, Vec<u32>) {
        let rows = self.token_embedding.dim(0).unwrap_or(0) as u32;
        let mut ids: Vec<u32> = (0..rows).collect();
        if let Some(map) = &self.token_rows {
            map.iter().for_each(|(id, row)| ids[*row as usize] = *id);
        }
        (self.token_embedding.detach(), ids)
    }

    /// Lays out sequences. Within a group, what sequences have in common at their start is computed once.
    ///
    /// # Errors
    /// A sequence that is empty or longer than the positions, or a token without an embedding.
    pub fn plan(&self, groups: &[Vec<Vec<Slot>>]) -> Result<TextPlan> {
        Ok(TextPlan {
            whole: self.part(groups)?,
            groups: Arc::new(groups.to_vec()),
            pieces: OnceLock::new(),
        })
    }

    pub(crate) fn part<S: AsRef<[Slot]>>(&self, groups: &[Vec<S>]) -> Result<Part> {
        let packed = Packed::new(groups, self.positional_embedding.dim(0)?)?;
        let frozen = !self.token_embedding.track_op() && !self.positional_embedding.track_op();
        let base = if frozen {
            Some(self.base(&packed)?)
        } else {
            None
        };
        Ok(Part { packed, base })
    }

    /// Embeddings plus positions `[R, W]`; context rows have their position only.
    fn base(&self, packed: &Packed) -> Result<Tensor> {
        let device = self.token_embedding.device();
        let n = packed.rows.len();
        let positions: Vec<u32> = packed.rows.iter().map(|r| r.position as u32).collect();
        let positions = Tensor::from_vec(positions, n, device)?;
        let positions = self.positional_embedding.index_select(&positions, 0)?;
        let rows = packed.rows.iter().map(|r| match r.slot {
            Slot::Token(token) => self.embedding_row(token),
            Slot::Context(_) => Ok(0),
        });
        let rows = Tensor::from_vec(rows.collect::<Result<Vec<u32>>>()?, n, device)?;
        let tokens = self.token_embedding.index_select(&rows, 0)?;
        if packed.context.is_empty() {
            return tokens + positions;
        }
        let keep = packed.rows.iter().map(|r| match r.slot {
            Slot::Token(_) => 1f32,
            Slot::Context(_) => 0.0,
        });
        let keep = Tensor::from_vec(keep.collect(), (n, 1), device)?;
        tokens.broadcast_mul(&keep)? + positions
    }

    /// What [`TextTower::encode`] and its gradient cannot do without.
    pub fn work(&self, plan: &TextPlan) -> Work {
        let last = self.blocks.len().saturating_sub(1);
        let packed = &plan.whole.packed;
        let blocks = self.blocks.iter().enumerate().map(|(i, b)| {
            b.shape
                .work(&packed.layout, (i == last).then_some(&packed.ends[..]))
        });
        let projection = 2.0 * (packed.ends.len() * self.projection.elem_count()) as f64;
        blocks.fold(
            Work {
                forward: projection,
                backward: projection,
            },
            Work::add,
        )
    }

    /// Features `[sequences, E]`, not normalised, in the order of the plan. Differentiable in the prompt.
    ///
    /// # Errors
    /// A context row the prompt does not have, or a deep prompt for a block that does not exist.
    pub fn encode(&self, plan: &TextPlan, prompt: &TextPrompt) -> Result<Tensor> {
        if prompt.context.is_none() && !plan.whole.packed.context.is_empty() {
            bail!("the sequences name context rows, the prompt has none");
        }
        if let Some(deep) = prompt.deep.iter().find(|d| d.block >= self.depth()) {
            bail!(
                "deep prompt for block {}, the text tower has {}",
                deep.block,
                self.depth()
            );
        }
        let tracked = prompt
            .context
            .iter()
            .chain(prompt.deep.iter().map(|d| &d.rows))
            .any(Tensor::track_op);
        let frozen = plan.whole.base.is_some() && !self.projection.track_op();
        if tracked && frozen && self.projection.device().is_cpu() {
            let pieces = self.pieces(plan)?;
            if pieces.len() > 1 {
                return self.encode_pieces(pieces, prompt);
            }
        }
        self.encode_part(&plan.whole, prompt)
    }

    /// As [`TextTower::encode`], all at once.
    pub(crate) fn encode_part(&self, part: &Part, prompt: &TextPrompt) -> Result<Tensor> {
        let packed = &part.packed;
        let mut x = match &part.base {
            Some(base) => base.clone(),
            None => self.base(packed)?,
        };
        if let Some(context) = &prompt.context
            && !packed.context.is_empty()
        {
            x = put_rows(&x, context, &packed.context, Put::OnTop)?;
        }
        for (i, block) in self.blocks.iter().enumerate() {
            for deep in prompt.deep.iter().filter(|d| d.block == i) {
                let rows = packed.rows_at(deep.position, deep.rows.dim(0)?);
                x = put_rows(&x, &deep.rows, &rows, Put::Instead)?;
            }
            let last = i + 1 == self.blocks.len();
            x = block.forward(&x, &packed.layout, last.then_some(&packed.ends[..]))?;
        }
        layer_norm(&x, &self.norm.0, &self.norm.1)?.matmul(&self.projection)
    }
}
