//! Text features in pieces, so that the graph that waits for its gradient has a bound.
//!
//! A plan has the same pieces whatever the bound, and their gradients are added up in the same order. The bound only
//! decides how many pieces keep their graph between forward and backward; the others are encoded again for
//! their gradient, one at a time: the same numbers, bit for bit, for one more forward pass. Sequences do not see each
//! other, so that a piece's features are those of the whole.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout as Strides, Result, Shape, Tensor, Var, bail};

use super::plan::{Part, TextPlan};
use super::tower::TextTower;
use crate::ops::{Norms, values, with_values};
use crate::prompts::TextPrompt;

/// Rows of a piece, unless one sequence alone has more: enough for products to run at their full rate, and few enough
/// that what a piece computes once more than the whole (the shared prefix) does not matter.
pub(super) const ROWS: usize = 1024;
/// The same on a card, where every launch costs its time and a piece's graph some 250 kB a row (ViT-B/16): 1,000 classes
/// of usual names are one piece of a gigabyte.
const ROWS_ON_CARD: usize = 4096;

impl TextTower {
    /// Features `[sequences, E]`, not normalised, in the order of the plan: each sequence is read at its last row, the end
    /// token. Differentiable in the prompt, and in the tower's own tensors where they are trained.
    ///
    /// # Errors
    /// A context row the prompt does not have, or what does not fit the tower.
    pub fn encode(&self, plan: &TextPlan, prompt: &TextPrompt) -> Result<Tensor> {
        let mut parts = plan.pieces.iter();
        if prompt.context.is_none() && parts.any(|p| !p.packed.context.is_empty()) {
            bail!("the sequences name context rows, the prompt has none");
        }
        let norms = [self.norm_before.is_some(), self.norm.is_some()];
        prompt.check(self.depth(), norms)?;
        if prompt.changes.drops() && (!plan.is_apart() || prompt.grows()) {
            bail!("dropout needs a plan made by `plan_apart`, and no rows that enter at a block");
        }
        plan.in_order(&self.sorted(&plan.pieces, prompt)?)
    }

    /// Features of pieces, one after the other.
    fn sorted(&self, pieces: &Arc<Vec<Part>>, prompt: &TextPrompt) -> Result<Tensor> {
        if pieces.is_empty() {
            bail!("there is nothing to encode");
        }
        if let Some(card) = self.card.as_ref().filter(|_| !self.is_tracked()) {
            return self.encode_on_card(card, pieces.clone(), prompt);
        }
        // Pieces that give up their graph hand over the gradient of the prompt alone.
        let bounded = pieces.len() > 1 && prompt.is_tracked() && !self.is_tracked();
        if bounded && self.token_embedding.device().is_cpu() {
            return self.encode_pieces(pieces.clone(), prompt);
        }
        let each =
            (0..pieces.len()).map(|i| self.encode_part(&pieces[i], &of_piece(prompt, pieces, i)?));
        Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0)
    }

    /// Bytes of graph that one packed row leaves: in each block its queries, keys, values, attention output, middle and
    /// output rows and the MLP's hidden values; of one in parts (BERT's) every part, once more.
    fn bytes_a_row(&self) -> usize {
        let floats = |shape: &crate::ops::BlockShape| match shape.norms {
            Norms::Bert => 2 * (6 * shape.width + shape.hidden),
            _ => 6 * shape.width + shape.hidden,
        };
        let all: usize = self.blocks.iter().map(|b| floats(&b.shape)).sum();
        4 * all
    }

    /// Bytes of graph that one piece takes: a smaller [`TextTower::memory`] is not kept to.
    pub fn least_memory(&self) -> usize {
        self.rows_of_a_piece() * self.bytes_a_row()
    }

    /// Most rows of a piece of the plans that are made for this tower.
    pub(super) fn rows_of_a_piece(&self) -> usize {
        match self.card {
            Some(_) => ROWS_ON_CARD,
            None => ROWS,
        }
    }

    /// As [`TextTower::encode`], piece by piece. Of a frozen tower: gradients go to the prompt alone.
    pub(crate) fn encode_pieces(
        &self,
        pieces: Arc<Vec<Part>>,
        prompt: &TextPrompt,
    ) -> Result<Tensor> {
        let tensors = prompt.tensors();
        let flat = tensors.iter().map(Tensor::flatten_all);
        let flat = flat.collect::<Result<Vec<_>>>()?;
        let op = Pieces {
            tower: self.clone(),
            kept: self.kept(&pieces),
            pieces,
            prompt: prompt.map(&mut |t| Ok(t.detach()))?,
            graphs: Mutex::default(),
        };
        Tensor::cat(&flat, 0)?.contiguous()?.apply_op1(op)
    }

    /// How many of the first pieces keep their graph.
    pub(crate) fn kept(&self, pieces: &[Part]) -> usize {
        let Some(most) = self.memory else {
            return pieces.len();
        };
        let sizes: Vec<usize> = pieces.iter().map(|p| p.packed.rows.len()).collect();
        let most = most / self.bytes_a_row().max(1);
        if sizes.iter().sum::<usize>() <= most {
            return pieces.len();
        }
        // One more than those kept has a graph while it is encoded again.
        let mut left = most.saturating_sub(sizes.iter().copied().max().unwrap_or(0));
        let fits = sizes.iter().take_while(|&&rows| {
            let fits = rows <= left;
            left = left.saturating_sub(rows);
            fits
        });
        fits.count()
    }
}

/// The prompt for one of `pieces`: with the dropout of its rows alone.
pub(crate) fn of_piece(prompt: &TextPrompt, pieces: &[Part], piece: usize) -> Result<TextPrompt> {
    let mut prompt = prompt.clone();
    if prompt.changes.drops() {
        let rows = |pieces: &[Part]| pieces.iter().map(|p| p.packed.rows.len()).sum::<usize>();
        let (first, own) = (rows(&pieces[..piece]), rows(&pieces[piece..=piece]));
        prompt.changes = prompt.changes.of_rows(first, own)?;
    }
    Ok(prompt)
}

/// The graph of a piece: the prompt's tensors in it, and its features.
type Graph = (Vec<Var>, Tensor);

/// One operation, whose only input is every tensor of the prompt, flat and one after the other.
struct Pieces {
    tower: TextTower,
    pieces: Arc<Vec<Part>>,
    /// How many of the first pieces keep their graph.
    kept: usize,
    /// The prompt, detached: where its tensors go, and their shapes.
    prompt: TextPrompt,
    /// Of the pieces that keep theirs, in order.
    graphs: Mutex<Vec<Option<Graph>>>,
}

impl Pieces {
    /// The prompt of `flat` values for a piece; with `own`, in variables that are put there.
    fn prompt(
        &self,
        flat: &Tensor,
        piece: usize,
        mut own: Option<&mut Vec<Var>>,
    ) -> Result<TextPrompt> {
        let mut at = 0;
        let prompt = self.prompt.map(&mut |t| {
            let part = flat.narrow(0, at, t.elem_count())?.reshape(t.shape())?;
            at += t.elem_count();
            let Some(own) = &mut own else {
                return Ok(part);
            };
            own.push(Var::from_tensor(&part)?);
            Ok(own[own.len() - 1].as_tensor().clone())
        })?;
        of_piece(&prompt, &self.pieces, piece)
    }

    fn graph(&self, piece: usize, flat: &Tensor) -> Result<Graph> {
        let mut own = Vec::new();
        let prompt = self.prompt(flat, piece, Some(&mut own))?;
        let features = self.tower.encode_part(&self.pieces[piece], &prompt)?;
        Ok((own, features))
    }

    /// A piece's graph, if it has kept one. Where not all have, it is given up, for another needs the room; else it stays
    /// for a second backward pass (ProGrad makes two).
    fn take(&self, piece: usize) -> Option<Graph> {
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        let graph = graphs.get_mut(piece)?;
        if self.kept == self.pieces.len() {
            graph.clone()
        } else {
            graph.take()
        }
    }
}

impl CustomOp1 for Pieces {
    fn name(&self) -> &'static str {
        "text-in-pieces"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Strides) -> Result<(CpuStorage, Shape)> {
        let rows = Tensor::from_slice(
            values(storage, layout)?,
            layout.shape(),
            &candle_core::Device::Cpu,
        )?;
        let (mut out, mut sequences, mut graphs) = (Vec::new(), 0, Vec::new());
        for (i, piece) in self.pieces.iter().enumerate() {
            let features = if i < self.kept {
                let (own, features) = self.graph(i, &rows)?;
                graphs.push(Some((own, features.clone())));
                features
            } else {
                let prompt = self.prompt(&rows, i, None)?;
                self.tower.encode_part(piece, &prompt)?
            };
            with_values(&features, |v| {
                out.extend_from_slice(v);
                Ok(())
            })?;
            sequences += piece.packed.layout.sequences();
        }
        if sequences == 0 {
            bail!("there is nothing to encode");
        }
        *self.graphs.lock().unwrap_or_else(PoisonError::into_inner) = graphs;
        let shape = Shape::from((sequences, out.len() / sequences));
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, rows: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let rows = rows.detach();
        let (mut at, mut sum) = (0, rows.zeros_like()?);
        for (i, piece) in self.pieces.iter().enumerate() {
            let (own, features) = match self.take(i) {
                Some(kept) => kept,
                None => self.graph(i, &rows)?,
            };
            let count = piece.packed.layout.sequences();
            let upstream = grad.narrow(0, at, count)?.detach();
            at += count;
            let gradients = (features * upstream)?.sum_all()?.backward()?;
            let parts = own.iter().map(|own| match gradients.get(own) {
                Some(part) => part.flatten_all(),
                None => own.as_tensor().zeros_like()?.flatten_all(),
            });
            sum = (sum + Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?)?;
        }
        Ok(Some(sum))
    }
}

#[cfg(test)]
mod tests;
