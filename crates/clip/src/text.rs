//! The causal text tower, which takes prompts as data.
//!
//! Sequences are cut after their end token, lie packed without padding, and what they share at their start (start
//! token, shared context, shared deep prompts) is computed once for all of them. All three are exact: the tower is
//! causal, and its output is read at the end token (arXiv 2103.00020, section 2.4).

use std::collections::HashMap;
use std::ops::Add;
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use crate::ops::{Block, Group, Layout, Put, Work, layer_norm, put_rows};

/// Longest sequence CLIP's positions allow, start and end tokens included.
pub const CONTEXT_LENGTH: usize = 77;

/// One position of a text sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    layout: Arc<Layout>,
    embeddings: Vec<u32>,
    positions: Vec<u32>,
    /// Embeddings and positions `[R, W]`, context rows holding their position only; kept while both are frozen.
    base: Option<Tensor>,
    context: Arc<Vec<(usize, usize)>>,
    ends: Vec<usize>,
    /// What it was made of, for pieces of it.
    groups: Arc<Vec<Vec<Vec<Slot>>>>,
}

impl TextPlan {
    /// Number of sequences, which is the number of features that come out.
    pub fn sequences(&self) -> usize {
        self.ends.len()
    }

    /// Packed rows the tower computes.
    pub fn rows(&self) -> usize {
        self.layout.rows()
    }

    /// Packed rows that hold positions `first..first + count`, with the position's index as source.
    fn rows_at(&self, first: usize, count: usize) -> Arc<Vec<(usize, usize)>> {
        let mut rows = Vec::new();
        let mut shared = None;
        for span in self.layout.spans() {
            let group = span.prefix_start;
            for i in 0..count {
                let position = first + i;
                if position >= span.prefix + span.length
                    || (position < span.prefix && shared == Some(group))
                {
                    continue;
                }
                rows.push((span.row(position), i));
            }
            shared = (span.prefix > 0).then_some(group);
        }
        Arc::new(rows)
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
    /// Most bytes that the graph of one [`TextTower::encode`] may hold; `None`: as many as it takes.
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

    /// Lays out sequences. Within a group, what all sequences have in common at their start is computed once.
    ///
    /// # Errors
    /// A sequence that is empty or longer than the positions, or a token without an embedding.
    pub fn plan(&self, groups: &[Vec<Vec<Slot>>]) -> Result<TextPlan> {
        let longest = self.positional_embedding.dim(0)?;
        let (mut embeddings, mut positions, mut context, mut ends) =
            (vec![], vec![], vec![], vec![]);
        let mut laid = Vec::with_capacity(groups.len());
        for group in groups {
            let prefix = shared_start(group);
            let mut put = |slot: Slot, position: usize| -> Result<()> {
                match slot {
                    Slot::Token(token) => embeddings.push(self.embedding_row(token)?),
                    Slot::Context(source) => {
                        context.push((embeddings.len(), source));
                        embeddings.push(u32::MAX);
                    }
                }
                positions.push(position as u32);
                Ok(())
            };
            if let Some(first) = group.first() {
                for (position, slot) in first[..prefix].iter().enumerate() {
                    put(*slot, position)?;
                }
            }
            for sequence in group {
                if sequence.is_empty() || sequence.len() > longest {
                    bail!(
                        "a text of {} tokens does not fit into 1..={longest}",
                        sequence.len()
                    );
                }
                for (position, slot) in sequence.iter().enumerate().skip(prefix) {
                    put(*slot, position)?;
                }
                ends.push(sequence.len() - prefix - 1);
            }
            laid.push(Group {
                prefix,
                segments: group.iter().map(|s| s.len() - prefix).collect(),
            });
        }
        let mut plan = TextPlan {
            layout: Arc::new(Layout::causal(laid)),
            embeddings,
            positions,
            base: None,
            context: Arc::new(context),
            ends,
            groups: Arc::new(groups.to_vec()),
        };
        if !self.token_embedding.track_op() && !self.positional_embedding.track_op() {
            plan.base = Some(self.base(&plan)?);
        }
        Ok(plan)
    }

    /// Embeddings plus positions `[R, W]`; context rows have their position only.
    fn base(&self, plan: &TextPlan) -> Result<Tensor> {
        let device = self.token_embedding.device();
        let n = plan.embeddings.len();
        let positions = Tensor::from_vec(plan.positions.clone(), n, device)?;
        let positions = self.positional_embedding.index_select(&positions, 0)?;
        let rows: Vec<u32> = plan
            .embeddings
            .iter()
            .map(|&r| if r == u32::MAX { 0 } else { r })
            .collect();
        let tokens = self
            .token_embedding
            .index_select(&Tensor::from_vec(rows, n, device)?, 0)?;
        if plan.context.is_empty() {
            return tokens + positions;
        }
        let keep: Vec<f32> = plan
            .embeddings
            .iter()
            .map(|&r| if r == u32::MAX { 0.0 } else { 1.0 })
            .collect();
        tokens.broadcast_mul(&Tensor::from_vec(keep, (n, 1), device)?)? + positions
    }

    /// What [`TextTower::encode`] and its gradient cannot do without.
    pub fn work(&self, plan: &TextPlan) -> Work {
        let last = self.blocks.len().saturating_sub(1);
        let blocks = self.blocks.iter().enumerate().map(|(i, b)| {
            b.shape
                .work(&plan.layout, (i == last).then_some(&plan.ends[..]))
        });
        let projection = 2.0 * (plan.ends.len() * self.projection.elem_count()) as f64;
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
        let tracked = prompt
            .context
            .iter()
            .chain(prompt.deep.iter().map(|d| &d.rows))
            .any(Tensor::track_op);
        let frozen = plan.base.is_some() && !self.projection.track_op();
        if let Some(most) = self.memory
            && tracked
            && frozen
            && self.projection.device().is_cpu()
            && let Some(pieces) = self.pieces(&plan.groups, plan.rows(), most)?
        {
            return self.encode_pieces(pieces, prompt);
        }
        let mut x = match &plan.base {
            Some(base) => base.clone(),
            None => self.base(plan)?,
        };
        match (&prompt.context, plan.context.is_empty()) {
            (Some(context), false) => x = put_rows(&x, context, &plan.context, Put::OnTop)?,
            (None, false) => bail!("the sequences name context rows, the prompt has none"),
            (_, true) => {}
        }
        if let Some(deep) = prompt.deep.iter().find(|d| d.block >= self.depth()) {
            bail!(
                "deep prompt for block {}, the text tower has {}",
                deep.block,
                self.depth()
            );
        }
        for (i, block) in self.blocks.iter().enumerate() {
            for deep in prompt.deep.iter().filter(|d| d.block == i) {
                x = put_rows(
                    &x,
                    &deep.rows,
                    &plan.rows_at(deep.position, deep.rows.dim(0)?),
                    Put::Instead,
                )?;
            }
            let last = i + 1 == self.blocks.len();
            x = block.forward(&x, &plan.layout, last.then_some(&plan.ends[..]))?;
        }
        layer_norm(&x, &self.norm.0, &self.norm.1)?.matmul(&self.projection)
    }
}

/// How many slots all sequences start with; at least one row is left to each, for its end token.
pub(crate) fn shared_start(group: &[Vec<Slot>]) -> usize {
    let [first, rest @ ..] = group else { return 0 };
    if rest.is_empty() {
        return 0;
    }
    let shortest = group
        .iter()
        .map(Vec::len)
        .min()
        .unwrap_or(0)
        .saturating_sub(1);
    rest.iter().fold(shortest, |n, s| {
        first[..n].iter().zip(s).take_while(|(a, b)| a == b).count()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_start_leaves_the_end_token_to_each() {
        let s = |ids: &[u32]| ids.iter().map(|i| Slot::Token(*i)).collect::<Vec<_>>();
        assert_eq!(shared_start(&[s(&[1, 2, 9]), s(&[1, 2, 3, 9])]), 2);
        assert_eq!(shared_start(&[s(&[1, 2, 9]), s(&[1, 2, 9])]), 2);
        assert_eq!(shared_start(&[s(&[1, 2, 9])]), 0);
        assert_eq!(shared_start(&[s(&[9]), s(&[9])]), 0);
        let own = |row| vec![Slot::Token(1), Slot::Context(row), Slot::Token(9)];
        assert_eq!(
            shared_start(&[own(0), own(1)]),
            1,
            "contexts of their own are not shared"
        );
    }
}
