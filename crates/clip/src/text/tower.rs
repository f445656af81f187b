//! The text tower over packed rows.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Add;
use std::sync::{Arc, OnceLock};

use candle_core::{Result, Tensor, TensorId, Var, bail};

use super::family::{Family, Head};
use super::tree::{Packed, Sharing};
use super::{Pooling, Slot};
use crate::changes::{BlockChange, Norm};
use crate::device::{CardPart, CardText};
use crate::ops::{Block, Put, Work, layer_norm_by, put_rows};
use crate::prompts::{At, TextPrompt};
use crate::wording::Wording;

/// Sequences laid out for the tower; made once for a set of classes, used every step.
#[derive(Clone, Debug)]
pub struct TextPlan {
    /// The sequences, sorted where they share their starts, in pieces of bounded size.
    pub(super) pieces: Arc<Vec<Part>>,
    /// Which of the pieces' features each sequence's is, `[sequences]`; `None` where they come as they were given.
    order: Option<Tensor>,
}

/// Packed sequences and what the frozen tower puts into their rows.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) packed: Packed,
    /// Embeddings and positions `[R, W]`, context rows holding their position only; kept while both are frozen.
    pub(crate) base: Option<Tensor>,
    /// The embeddings that `base` is made of: another tower makes its own.
    embeddings: Vec<TensorId>,
    /// What it is on the card; made there at its first use.
    pub(crate) card: OnceLock<Arc<CardPart>>,
}

impl Part {
    /// Whether `base` is what `tower` puts into its rows.
    pub(crate) fn is_of(&self, tower: &TextTower) -> bool {
        let ids = tower.embeddings().into_iter().map(|t| t.id());
        ids.eq(self.embeddings.iter().copied())
    }
}

impl TextPlan {
    /// Number of sequences, which is the number of features that come out.
    pub fn sequences(&self) -> usize {
        let of = |p: &Part| p.packed.layout.sequences();
        self.pieces.iter().map(of).sum()
    }

    /// Packed rows the tower computes.
    pub fn rows(&self) -> usize {
        self.pieces.iter().map(|p| p.packed.rows.len()).sum()
    }

    /// Whether packed rows are the sequences one after the other, as they were given.
    pub(super) fn is_apart(&self) -> bool {
        self.order.is_none() && self.pieces.iter().all(|p| p.packed.is_apart())
    }

    /// The pieces' features in the order in which the sequences were given.
    pub(super) fn in_order(&self, features: &Tensor) -> Result<Tensor> {
        match &self.order {
            Some(order) => features.index_select(order, 0),
            None => Ok(features.clone()),
        }
    }
}

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

    fn embedding_row(&self, token: u32) -> Result<u32> {
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

    /// Lays out sequences. What they have in common at their start is computed once, in every piece of them.
    ///
    /// # Errors
    /// A sequence that is empty or longer than the positions, or a token without an embedding.
    pub fn plan(&self, sequences: &[Vec<Slot>]) -> Result<TextPlan> {
        let sharing = match self.is_causal() {
            true => Sharing::Starts,
            false => Sharing::Nothing { causal: false },
        };
        self.plan_in(sequences, sharing, self.rows_of_a_piece())
    }

    /// As [`TextTower::plan`], with nothing shared: packed rows are the sequences one after the other, each with all its
    /// slots. For [`crate::changes::Dropout`], which tells equal rows of different sequences apart.
    ///
    /// # Errors
    /// As [`TextTower::plan`].
    pub fn plan_apart(&self, sequences: &[Vec<Slot>]) -> Result<TextPlan> {
        let sharing = Sharing::Nothing {
            causal: self.is_causal(),
        };
        self.plan_in(sequences, sharing, self.rows_of_a_piece())
    }

    /// In pieces of at most `most` rows, unless one sequence alone has more.
    pub(super) fn plan_in(
        &self,
        sequences: &[Vec<Slot>],
        sharing: Sharing,
        most: usize,
    ) -> Result<TextPlan> {
        let longest = self.positional_embedding.dim(0)?;
        let fits = |s: &&Vec<Slot>| (1..=longest).contains(&s.len());
        if let Some(other) = sequences.iter().find(|s| !fits(s)) {
            let length = other.len();
            bail!("a text of {length} tokens does not fit into 1..={longest}");
        }
        let mut sorted: Vec<usize> = (0..sequences.len()).collect();
        if sharing == Sharing::Starts {
            sorted.sort_by_key(|&i| &sequences[i]);
        }
        let order = match sorted.is_sorted() {
            true => None,
            false => {
                let mut places = vec![0u32; sorted.len()];
                for (place, &i) in (0..).zip(&sorted) {
                    places[i] = place;
                }
                Some(Tensor::new(places, self.token_embedding.device())?)
            }
        };
        let sorted: Vec<&[Slot]> = sorted.iter().map(|&i| &sequences[i][..]).collect();
        let pieces = sharing.cut(&sorted, most).into_iter();
        let pieces = pieces.map(|piece| self.part(Packed::new(&sorted[piece], sharing)));
        Ok(TextPlan {
            pieces: Arc::new(pieces.collect::<Result<_>>()?),
            order,
        })
    }

    fn part(&self, packed: Packed) -> Result<Part> {
        let base = if self.embeddings().iter().any(|t| t.track_op()) {
            None
        } else {
            Some(self.base(&packed)?)
        };
        Ok(Part {
            packed,
            base,
            embeddings: self.embeddings().iter().map(|t| t.id()).collect(),
            card: OnceLock::new(),
        })
    }

    fn embeddings(&self) -> Vec<&Tensor> {
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

    /// Embeddings plus positions `[R, W]`; context rows have their position only.
    pub(crate) fn base(&self, packed: &Packed) -> Result<Tensor> {
        let device = self.token_embedding.device();
        let n = packed.rows.len();
        let positions: Vec<u32> = packed.rows.iter().map(|r| r.position as u32).collect();
        let positions = Tensor::from_vec(positions, n, device)?;
        let mut positions = self.positional_embedding.index_select(&positions, 0)?;
        if let Some(types) = &self.type_embedding {
            positions = positions.broadcast_add(&types.narrow(0, 0, 1)?)?;
        }
        let rows = packed.rows.iter().map(|r| match r.slot {
            Some(Slot::Token(token)) => self.embedding_row(token),
            _ => Ok(0),
        });
        let rows = Tensor::from_vec(rows.collect::<Result<Vec<u32>>>()?, n, device)?;
        let tokens = self.token_embedding.index_select(&rows, 0)?;
        if packed.context.is_empty() {
            return tokens + positions;
        }
        let keep = packed.rows.iter().map(|r| match r.slot {
            Some(Slot::Token(_)) => 1f32,
            _ => 0.0,
        });
        let keep = Tensor::from_vec(keep.collect(), (n, 1), device)?;
        tokens.broadcast_mul(&keep)? + positions
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
        let mut x = match &part.base {
            Some(base) if part.is_of(self) => base.clone(),
            _ => self.base(&packed)?,
        };
        if let Some(context) = &prompt.context
            && !packed.context.is_empty()
        {
            x = put_rows(&x, context, &packed.context, Put::OnTop)?;
        }
        let norms = self
            .blocks
            .first()
            .map(|b| b.shape.norms)
            .unwrap_or_default();
        if let Some((gain, bias)) = &self.norm_before {
            let (gain, bias) = match &prompt.changes.norm_before {
                Some(norm) => (&norm.gain, &norm.bias),
                None => (gain, bias),
            };
            x = layer_norm_by(&x, gain, bias, norms.epsilon())?;
        }
        let plain = BlockChange::default();
        for (i, block) in self.blocks.iter().enumerate() {
            for deep in prompt.deep.iter().filter(|d| d.block == i) {
                let count = deep.rows.dim(0)?;
                let put = match (deep.how.put(), deep.at) {
                    (None, At::Position(position)) => {
                        let (grown, from) = packed.grown(position, count)?;
                        x = x.index_select(&Tensor::new(from, x.device())?, 0)?;
                        packed = Cow::Owned(grown);
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
            let ends = last.then(|| self.read_at(&packed)).flatten();
            let select = ends.as_deref();
            let change = prompt.changes.blocks.get(&i).unwrap_or(&plain);
            x = block.forward_with(&x, &packed.layout, select, change)?;
        }
        if let Some((gain, bias)) = &self.norm {
            let (gain, bias) = match &prompt.changes.norm_after {
                Some(norm) => (&norm.gain, &norm.bias),
                None => (gain, bias),
            };
            x = layer_norm_by(&x, gain, bias, norms.epsilon())?;
        }
        if self.family.pooling() == Pooling::Mean {
            x = Self::means(&x, &packed)?;
        }
        self.head.forward(&x)
    }
}
