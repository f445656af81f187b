//! Sequences laid out for the text tower, and what a frozen tower makes of them whatever the prompt.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{Result, Tensor, TensorId, bail};

use super::Slot;
use super::pieces::ROWS;
use super::tower::TextTower;
use super::tree::{Packed, Sharing};
use crate::device::CardPart;
use crate::ops::Layout;
use crate::ops::products::Products;

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
    /// What enters the block at which a prompt begins, once one has; what leaves the last, where one changes none.
    entering: Mutex<Option<Entering>>,
    /// What it is on the card; made there at its first use.
    pub(crate) card: OnceLock<Arc<CardPart>>,
}

/// Tensors that nobody trains, each with how rows are multiplied by it: what tells rows made of them from others.
pub(crate) type Identity = Vec<(TensorId, Products)>;

/// Rows below which nothing changes.
#[derive(Debug)]
struct Entering {
    of: Identity,
    /// `[R, W]`; behind the last block `[sequences, W]`.
    rows: Tensor,
}

impl Part {
    /// Rows made of `of` and of this part: those that are kept if they are made of the same, or what `make` gives, which is
    /// kept from then on. Of two callers at once both may make them: the same, to the bit.
    pub(super) fn entering(
        &self,
        of: Identity,
        make: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let kept = || self.entering.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entering) = kept().as_ref().filter(|e| e.of == of) {
            return Ok(entering.rows.clone());
        }
        let rows = make()?.detach();
        *kept() = Some(Entering {
            of,
            rows: rows.clone(),
        });
        Ok(rows)
    }

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

/// How texts lie that start alike: the layouts of the pieces that [`TextTower::plan`] makes of these sequences for a causal
/// tower on the processor. For counting, without a tower.
pub fn layouts(sequences: &[Vec<Slot>]) -> Vec<Layout> {
    let mut sorted: Vec<&[Slot]> = sequences.iter().map(Vec::as_slice).collect();
    sorted.sort_unstable();
    let pieces = Sharing::Starts.cut(&sorted, ROWS).into_iter();
    let packed = pieces.map(|piece| Packed::new(&sorted[piece], Sharing::Starts));
    packed.map(|p| Arc::unwrap_or_clone(p.layout)).collect()
}

impl TextTower {
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
            entering: Mutex::default(),
            card: OnceLock::new(),
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
}
