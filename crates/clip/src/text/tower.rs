//! The text tower over packed rows.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::{Add, Range};
use std::sync::Arc;

use candle_core::{Result, Tensor, Var, bail};

use super::Pooling;
use super::family::{Family, Head};
use super::plan::{Identity, Part, TextPlan};
use super::tree::Packed;
use crate::changes::{BlockChange, Norm};
use crate::device::CardText;
use crate::ops::products::Products;
use crate::ops::{Block, Put, Work, layer_norm_by, put_rows};
use crate::prompts::{At, TextPrompt};
use crate::wording::Wording;

/// The tower. `L` blocks, `W` width, `E` joint width.
#[derive(Clone, Debug)]
pub struct TextTower {
    pub(crate) family: Family,
    pub(crate) wording: Wording,
    pub(crate) token_embedding: Tensor,
    /// Row of each token id, when the table is cut down.
    pub(crate) token_rows: Option<HashMap<u32, u32>>,
    pub(crate) positional_embedding: Tensor,
    /// `[n, W]`; the first row is added to every place (BERT).
    pub(crate) type_embedding: Option<Tensor>,
    /// Before the blocks (BERT).
    pub(crate) norm_before: Option<(Tensor, Tensor)>,
    pub(crate) blocks: Vec<Block>,
    /// Behind them (all but BERT).
    pub(crate) norm: Option<(Tensor, Tensor)>,
    pub(crate) head: Head,
    /// Most bytes that the graph of one [`TextTower::encode`] may hold, but for what one piece of it takes (see
    /// [`TextTower::least_memory`]); `None`: as many as it takes. Changes no bit of any result.
    pub memory: Option<usize>,
    /// Its insides on a card, where they run as long as nothing of the tower's own is trained.
    pub(crate) card: Option<Arc<CardText>>,
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

    /// What texts are to this tower.
    pub fn wording(&self) -> &Wording {
        &self.wording
    }

    /// That branches can stand beside its blocks ([`crate::changes::Beside`]).
    ///
    /// # Errors
    /// Of BERT's, whose norms stand behind.
    pub fn take_beside(&self) -> Result<()> {
        let mut blocks = self.blocks.iter();
        blocks.try_for_each(|b| b.shape.norms.take_beside())
    }

    /// Whether rows see only those before them, so that sequences share what they start with.
    pub fn is_causal(&self) -> bool {
        self.family == Family::Clip
    }

    pub(super) fn embedding_row(&self, token: u32) -> Result<u32> {
        let Some(rows) = &self.token_rows else {
            return Ok(token);
        };
        match rows.get(&token) {
            Some(row) => Ok(*row),
            None => bail!(
                "this backbone's cut-down vocabulary has no embedding for {:?} (token {token}); it knows {} tokens",
                self.wording.word(token),
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

    pub(super) fn embeddings(&self) -> Vec<&Tensor> {
        let all = [&self.token_embedding, &self.positional_embedding];
        all.into_iter().chain(&self.type_embedding).collect()
    }

    /// Whether a gradient of the tower's own tensors could be asked for.
    pub fn is_tracked(&self) -> bool {
        let blocks = self.blocks.iter().map(|b| &b.theta);
        let norms = self.norm.iter().chain(&self.norm_before);
        let ends = norms.flat_map(|(gain, bias)| [gain, bias]);
        let ends = ends.chain(self.head.tensors());
        let mut own = self.embeddings().into_iter().chain(blocks).chain(ends);
        own.any(Tensor::track_op)
    }

    /// Blocks, each with its weights.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// `ln_final`.
    ///
    /// # Errors
    /// BERT's has none.
    pub fn norm_after(&self) -> Result<Norm> {
        match self.norm.clone() {
            Some((gain, bias)) => Ok(Norm { gain, bias }),
            None => bail!("this text tower (BERT) has no norm of its own behind its blocks"),
        }
    }

    /// `text_projection`, `[W, E]`.
    ///
    /// # Errors
    /// A tower that ends in something else than one matrix.
    pub fn projection(&self) -> Result<&Tensor> {
        match &self.head {
            Head::Linear(matrix, None) => Ok(matrix),
            _ => bail!("this text tower does not end in one matrix, as CLIP's does"),
        }
    }

    /// `E`.
    pub(crate) fn joint_width(&self) -> usize {
        self.head.width().unwrap_or(self.width())
    }

    /// A tower of its own with the same values whose every tensor but the token embedding is trained, and its variables
    /// with OpenAI's names (`positional_embedding`, `transformer.resblocks.<i>`, `ln_final.weight`, `ln_final.bias`,
    /// `text_projection`; other towers' as [`crate::weights`] calls them), in this order. A block is one flat variable, in the order of [`crate::ops::block::PARTS`].
    /// Plans of any tower with the same vocabulary go. A trained tower encodes all at once, whatever its `memory`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn trainable(&self) -> Result<(Self, Vec<(String, Var)>)> {
        let mut variables = Vec::new();
        let tower = self.with(&mut |name, t| {
            let var = Var::from_tensor(&t.to_dtype(candle_core::DType::F32)?.copy()?)?;
            let tensor = var.as_tensor().clone();
            variables.push((name, var));
            Ok(tensor)
        })?;
        Ok((tower, variables))
    }

    /// A frozen tower with the values that this one has now.
    ///
    /// # Errors
    /// Those of candle.
    pub fn frozen(&self) -> Result<Self> {
        let mut tower = self.with(&mut |_, t| t.detach().copy())?;
        tower.token_embedding = self.token_embedding.detach();
        Ok(tower)
    }

    /// With other tensors in the place of all but the token embedding.
    fn with(&self, f: &mut dyn FnMut(String, &Tensor) -> Result<Tensor>) -> Result<Self> {
        let positional_embedding = f(
            "positional_embedding".to_owned(),
            &self.positional_embedding,
        )?;
        let blocks = self
            .blocks
            .iter()
            .enumerate()
            .map(|(i, b)| Ok(b.with(f(format!("transformer.resblocks.{i}"), &b.theta)?)));
        let blocks = blocks.collect::<Result<_>>()?;
        let mut both = |name: &str, norm: &Option<(Tensor, Tensor)>| -> Result<_> {
            let Some((gain, bias)) = norm else {
                return Ok(None);
            };
            let gain = f(format!("{name}.weight"), gain)?;
            Ok(Some((gain, f(format!("{name}.bias"), bias)?)))
        };
        let norm = both("ln_final", &self.norm)?;
        let norm_before = both("ln_embedding", &self.norm_before)?;
        let types = self.type_embedding.as_ref();
        let types = types
            .map(|t| f("type_embedding".to_owned(), t))
            .transpose()?;
        Ok(Self {
            positional_embedding,
            type_embedding: types,
            blocks,
            norm,
            norm_before,
            head: self.head.map(f)?,
            card: None,
            ..self.clone()
        })
    }

    /// What [`TextTower::encode`] and its gradient cannot do without. What pieces have in common counts in each.
    pub fn work(&self, plan: &TextPlan) -> Work {
        let last = self.blocks.len().saturating_sub(1);
        let of_piece = |part: &Part| {
            let ends = self.read_at(&part.packed);
            let blocks = self.blocks.iter().enumerate().map(|(i, b)| {
                let ends = ends.as_deref().filter(|_| i == last);
                b.shape.work(&part.packed.layout, ends)
            });
            blocks.fold(Work::default(), Work::add)
        };
        let head: usize = self.head.tensors().map(Tensor::elem_count).sum();
        let projection = 2.0 * (plan.sequences() * head) as f64;
        plan.pieces.iter().map(of_piece).fold(
            Work {
                forward: projection,
                backward: projection,
            },
            Work::add,
        )
    }

    /// Own position of the row that each sequence is read at; `None` where it is read at all.
    fn read_at(&self, packed: &Packed) -> Option<Vec<usize>> {
        match self.family.pooling() {
            Pooling::Last => Some(packed.layout.last_rows()),
            Pooling::First => Some(vec![0; packed.layout.sequences()]),
            Pooling::Mean => None,
        }
    }

    /// The mean of each sequence's rows, `[R, W]` to `[sequences, W]`.
    fn means(x: &Tensor, packed: &Packed) -> Result<Tensor> {
        let (sequences, rows) = (packed.layout.sequences(), packed.layout.rows());
        let mut share = vec![0f32; sequences * rows];
        for (end, share) in packed.layout.ends().zip(share.chunks_mut(rows)) {
            share[end.start..end.start + end.length].fill(1.0 / end.length as f32);
        }
        Tensor::from_vec(share, (sequences, rows), x.device())?.matmul(x)
    }

    /// As [`TextTower::encode`], of one piece.
    pub(super) fn encode_part(&self, part: &Part, prompt: &TextPrompt) -> Result<Tensor> {
        let mut packed = Cow::Borrowed(&part.packed);
        let first = self.fixed_below(part, prompt);
        let x = match first {
            0 => self.embedded(part, prompt)?,
            _ => part.entering(self.identity(first), || {
                let nothing = TextPrompt::default();
                let x = self.embedded(part, &nothing)?;
                self.through(0..first, x, &mut packed, &nothing)
            })?,
        };
        let mut x = self.through(first..self.depth(), x, &mut packed, prompt)?;
        if let Some((gain, bias)) = &self.norm {
            let (gain, bias) = match &prompt.changes.norm_after {
                Some(norm) => (&norm.gain, &norm.bias),
                None => (gain, bias),
            };
            x = layer_norm_by(&x, gain, bias, self.epsilon())?;
        }
        if self.family.pooling() == Pooling::Mean {
            x = Self::means(&x, &packed)?;
        }
        self.head.forward(&x)
    }

    fn epsilon(&self) -> f32 {
        let norms = self.blocks.first().map(|b| b.shape.norms);
        norms.unwrap_or_default().epsilon()
    }

    /// How many blocks give the same rows whatever the values in this prompt: nothing of it comes before or into them, and
    /// nothing of theirs is trained.
    pub(crate) fn fixed_below(&self, part: &Part, prompt: &TextPrompt) -> usize {
        let first = prompt.begins(!part.packed.context.is_empty());
        let first = first.unwrap_or(self.depth());
        match self.below(first).any(|(t, _)| t.track_op()) {
            true => 0,
            false => first,
        }
    }

    /// All that what enters block `first`, or leaves the last, is made of: tensors, and how blocks multiply by theirs.
    fn below(&self, first: usize) -> impl Iterator<Item = (&Tensor, Products)> {
        let norm = self
            .norm_before
            .iter()
            .flat_map(|(gain, bias)| [gain, bias]);
        let ends = self.embeddings().into_iter().chain(norm);
        let blocks = self.blocks[..first].iter();
        ends.map(|t| (t, Products::default()))
            .chain(blocks.map(|b| (&b.theta, b.products())))
    }

    /// What tells the rows that enter block `first` from those of another tower.
    pub(crate) fn identity(&self, first: usize) -> Identity {
        self.below(first).map(|(t, by)| (t.id(), by)).collect()
    }

    /// Rows that enter the first block, `[R, W]`.
    fn embedded(&self, part: &Part, prompt: &TextPrompt) -> Result<Tensor> {
        let packed = &part.packed;
        let mut x = match &part.base {
            Some(base) if part.is_of(self) => base.clone(),
            _ => self.base(packed)?,
        };
        if let Some(context) = &prompt.context
            && !packed.context.is_empty()
        {
            x = put_rows(&x, context, &packed.context, Put::OnTop)?;
        }
        let Some((gain, bias)) = &self.norm_before else {
            return Ok(x);
        };
        let (gain, bias) = match &prompt.changes.norm_before {
            Some(norm) => (&norm.gain, &norm.bias),
            None => (gain, bias),
        };
        layer_norm_by(&x, gain, bias, self.epsilon())
    }

    /// Rows `x` through some blocks, with what the prompt puts in before each; where rows enter, they are in `packed` then.
    fn through(
        &self,
        blocks: Range<usize>,
        mut x: Tensor,
        packed: &mut Cow<Packed>,
        prompt: &TextPrompt,
    ) -> Result<Tensor> {
        let plain = BlockChange::default();
        for i in blocks {
            for deep in prompt.deep.iter().filter(|d| d.block == i) {
                let count = deep.rows.dim(0)?;
                let put = match (deep.how.put(), deep.at) {
                    (None, At::Position(position)) => {
                        let (grown, from) = packed.grown(position, count)?;
                        x = x.index_select(&Tensor::new(from, x.device())?, 0)?;
                        *packed = Cow::Owned(grown);
                        Put::Instead
                    }
                    (put, _) => put.unwrap_or(Put::Instead),
                };
                let rows = match deep.at {
                    At::Position(position) => packed.rows_at(position, count),
                    At::Context => packed.context.clone(),
                };
                x = put_rows(&x, &deep.rows, &rows, put)?;
            }
            let last = i + 1 == self.blocks.len();
            let ends = last.then(|| self.read_at(packed)).flatten();
            let change = prompt.changes.blocks.get(&i).unwrap_or(&plain);
            x = self.blocks[i].forward_with(&x, &packed.layout, ends.as_deref(), change)?;
        }
        Ok(x)
    }
}
