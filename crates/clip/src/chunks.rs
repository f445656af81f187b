//! Text features in pieces, so that the graph that waits for its gradient has a bound.
//!
//! Sequences are cut into the same pieces whatever the bound, and their gradients are added up in the same order. The
//! bound only decides how many pieces keep their graph between forward and backward; the others are encoded again for
//! their gradient, one at a time: the same numbers, bit for bit, for one more forward pass. Sequences do not see each
//! other, so that a piece's features are those of the whole.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout as Strides, Result, Shape, Tensor, Var, bail};

use crate::ops::{values, with_values};
use crate::text::{DeepText, Part, Slot, TextPlan, TextPrompt, TextTower};

/// Rows of a piece, unless one sequence alone has more: enough for products to run at their full rate, and few enough
/// that what a piece computes once more than the whole (the shared prefix) does not matter.
const ROWS: usize = 1024;

impl TextTower {
    /// Bytes of graph that one packed row leaves: in each block its queries, keys, values, attention output, middle and
    /// output rows and the MLP's hidden values.
    fn bytes_a_row(&self) -> usize {
        let floats = |shape: &crate::ops::BlockShape| 6 * shape.width + shape.hidden;
        let all: usize = self.blocks.iter().map(|b| floats(&b.shape)).sum();
        4 * all
    }

    /// Bytes of graph that one piece takes: a smaller [`TextTower::memory`] is not kept to.
    pub fn least_memory(&self) -> usize {
        ROWS * self.bytes_a_row()
    }

    /// The pieces of a plan, in the order of its sequences.
    pub(crate) fn pieces(&self, plan: &TextPlan) -> Result<Arc<Vec<Part>>> {
        if let Some(made) = plan.pieces.get() {
            return Ok(made.clone());
        }
        let made = if plan.rows() <= ROWS {
            vec![plan.whole.clone()]
        } else {
            let pieces = cut(&plan.groups);
            let parts = pieces.iter().map(|piece| self.part(piece));
            parts.collect::<Result<Vec<_>>>()?
        };
        Ok(plan.pieces.get_or_init(|| Arc::new(made)).clone())
    }

    /// As [`TextTower::encode`], piece by piece.
    pub(crate) fn encode_pieces(
        &self,
        pieces: Arc<Vec<Part>>,
        prompt: &TextPrompt,
    ) -> Result<Tensor> {
        let rows = prompt
            .context
            .iter()
            .chain(prompt.deep.iter().map(|d| &d.rows));
        let rows: Vec<&Tensor> = rows.collect();
        let sizes = rows.iter().map(|t| t.dim(0)).collect::<Result<Vec<_>>>()?;
        let op = Pieces {
            tower: self.clone(),
            kept: self.kept(&pieces),
            pieces,
            sizes,
            has_context: prompt.context.is_some(),
            deep: prompt.deep.iter().map(|d| (d.block, d.position)).collect(),
            graphs: Mutex::default(),
        };
        Tensor::cat(&rows, 0)?.contiguous()?.apply_op1(op)
    }

    /// How many of the first pieces keep their graph.
    fn kept(&self, pieces: &[Part]) -> usize {
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

/// Cuts groups of sequences into runs of at most [`ROWS`] rows, counting what all of a group start with once.
fn cut(groups: &[Vec<Vec<Slot>>]) -> Vec<Vec<Vec<&[Slot]>>> {
    let mut pieces: Vec<Vec<Vec<&[Slot]>>> = Vec::new();
    let mut taken = usize::MAX;
    for group in groups {
        let prefix = shared_start(group);
        let mut open = false;
        for sequence in group {
            let own = sequence.len() - prefix;
            let more = own + if open { 0 } else { prefix };
            if taken.saturating_add(more) > ROWS {
                pieces.push(Vec::new());
                (taken, open) = (0, false);
            }
            let piece = pieces.last_mut().expect("the first sequence opens one");
            if !open {
                piece.push(Vec::new());
                taken += prefix;
                open = true;
            }
            taken += own;
            if let Some(group) = piece.last_mut() {
                group.push(sequence);
            }
        }
    }
    pieces
}

/// How many slots all sequences start with; at least one is left to each.
fn shared_start(group: &[Vec<Slot>]) -> usize {
    let [first, rest @ ..] = group else { return 0 };
    let shortest = group.iter().map(Vec::len).min().unwrap_or(0);
    rest.iter().fold(shortest.saturating_sub(1), |n, s| {
        first[..n].iter().zip(s).take_while(|(a, b)| a == b).count()
    })
}

/// The graph of a piece: the prompt's rows in it, and its features.
type Graph = (Var, Tensor);

struct Pieces {
    tower: TextTower,
    pieces: Arc<Vec<Part>>,
    /// How many of the first pieces keep their graph.
    kept: usize,
    /// Rows of the context, if there is one, and of each deep prompt: how they lie one after the other.
    sizes: Vec<usize>,
    has_context: bool,
    /// Block and position of each deep prompt.
    deep: Vec<(usize, usize)>,
    /// Of the pieces that keep theirs, in order.
    graphs: Mutex<Vec<Option<Graph>>>,
}

impl Pieces {
    fn prompt(&self, rows: &Tensor) -> Result<TextPrompt> {
        let mut at = 0;
        let mut parts = Vec::with_capacity(self.sizes.len());
        for size in &self.sizes {
            parts.push(rows.narrow(0, at, *size)?);
            at += size;
        }
        let mut parts = parts.into_iter();
        let context = if self.has_context { parts.next() } else { None };
        let deep = self.deep.iter().zip(parts);
        let deep = deep.map(|(&(block, position), rows)| DeepText {
            block,
            position,
            rows,
        });
        Ok(TextPrompt {
            context,
            deep: deep.collect(),
        })
    }

    fn graph(&self, piece: &Part, rows: &Tensor) -> Result<Graph> {
        let own = Var::from_tensor(rows)?;
        let features = self
            .tower
            .encode_part(piece, &self.prompt(own.as_tensor())?)?;
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
        let plain = self.prompt(&rows)?;
        let (mut out, mut sequences, mut graphs) = (Vec::new(), 0, Vec::new());
        for (i, piece) in self.pieces.iter().enumerate() {
            let features = if i < self.kept {
                let (own, features) = self.graph(piece, &rows)?;
                graphs.push(Some((own, features.clone())));
                features
            } else {
                self.tower.encode_part(piece, &plain)?
            };
            with_values(&features, |v| {
                out.extend_from_slice(v);
                Ok(())
            })?;
            sequences += piece.packed.ends.len();
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
                None => self.graph(piece, &rows)?,
            };
            let count = piece.packed.ends.len();
            let upstream = grad.narrow(0, at, count)?.detach();
            at += count;
            let gradients = (features * upstream)?.sum_all()?.backward()?;
            if let Some(part) = gradients.get(own.as_tensor()) {
                sum = (sum + part)?;
            }
        }
        Ok(Some(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Activation, Block, BlockShape};
    use candle_core::Device;

    fn noise(shape: &[usize], seed: u32) -> Tensor {
        let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (s >> 8) as f32 / (1u32 << 24) as f32 * 0.4 - 0.2
            })
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn tower() -> TextTower {
        let shape = BlockShape {
            width: 16,
            heads: 2,
            hidden: 32,
            activation: Activation::QuickGelu,
        };
        TextTower {
            token_embedding: noise(&[20, 16], 1),
            token_rows: None,
            positional_embedding: noise(&[12, 16], 2),
            blocks: (0..3)
                .map(|i| Block {
                    shape,
                    theta: noise(&[shape.len()], 10 + i),
                })
                .collect(),
            norm: (noise(&[16], 3), noise(&[16], 4)),
            projection: noise(&[16, 8], 5),
            memory: None,
        }
    }

    /// `count` sequences: start, two context rows, a drawn name, end.
    fn names(group: usize, count: u32) -> Vec<Vec<Slot>> {
        (0..count)
            .map(|n| {
                let context = [Slot::Context(2 * group), Slot::Context(2 * group + 1)];
                let words = (0..=n % 3).map(|i| Slot::Token(1 + (n * 5 + i * 3) % 17));
                let start = [Slot::Token(0)].into_iter().chain(context);
                start.chain(words).chain([Slot::Token(19)]).collect()
            })
            .collect()
    }

    /// Features, and gradients of context and of a deep prompt.
    fn run(tower: &TextTower, groups: &[Vec<Vec<Slot>>], whole: bool) -> [Vec<f32>; 3] {
        let context = Var::from_tensor(&noise(&[4, 16], 6)).unwrap();
        let deep = Var::from_tensor(&noise(&[2, 16], 7)).unwrap();
        let plan = tower.plan(groups).unwrap();
        let prompt = TextPrompt {
            context: Some(context.as_tensor().clone()),
            deep: vec![DeepText {
                block: 1,
                position: 1,
                rows: deep.as_tensor().clone(),
            }],
        };
        let features = if whole {
            tower.encode_part(&plan.whole, &prompt).unwrap()
        } else {
            tower.encode(&plan, &prompt).unwrap()
        };
        let weights = noise(&[plan.sequences(), 8], 8);
        let loss = (&features * &weights).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        [
            flat(&features),
            flat(gradients.get(context.as_tensor()).unwrap()),
            flat(gradients.get(deep.as_tensor()).unwrap()),
        ]
    }

    #[test]
    fn no_bound_changes_a_bit() {
        let mut tower = tower();
        let groups = [names(0, 700), names(1, 900)];
        let plan = tower.plan(&groups).unwrap();
        let pieces = tower.pieces(&plan).unwrap();
        assert!(pieces.len() > 3, "{}", pieces.len());
        let unbounded = run(&tower, &groups, false);
        let largest = pieces.iter().map(|p| p.packed.rows.len()).max().unwrap();
        let some = (pieces[0].packed.rows.len() + largest) * tower.bytes_a_row();
        for (most, kept) in [(1, 0), (some, 1), (usize::MAX, pieces.len())] {
            tower.memory = Some(most);
            assert_eq!(tower.kept(&pieces), kept);
            assert_eq!(run(&tower, &groups, false), unbounded, "{most}");
        }
    }

    #[test]
    fn pieces_have_the_features_and_gradients_of_the_whole() {
        let (tower, groups) = (tower(), [names(0, 700), names(1, 900)]);
        let pieces = run(&tower, &groups, false);
        for (a, b) in pieces.iter().zip(&run(&tower, &groups, true)) {
            let largest = b.iter().fold(1f32, |m, v| m.max(v.abs()));
            let gaps = a.iter().zip(b).map(|(a, b)| (a - b).abs() / largest);
            let worst = gaps.fold(0f32, f32::max);
            assert!(worst < 1e-5, "{worst}");
        }
    }

    #[test]
    fn pieces_hold_every_sequence_once_in_order_and_few_rows() {
        let groups = [names(0, 700), names(1, 3), Vec::new(), names(1, 900)];
        let pieces = cut(&groups);
        let flat: Vec<&[Slot]> = pieces.iter().flatten().flatten().copied().collect();
        let all: Vec<&[Slot]> = groups.iter().flatten().map(Vec::as_slice).collect();
        assert_eq!(flat, all);
        for piece in &pieces {
            assert!(tower().part(piece).unwrap().packed.rows.len() <= ROWS);
        }
        assert_eq!(shared_start(&groups[0]), 3);
        assert_eq!(shared_start(&groups[0][..1]), groups[0][0].len() - 1);
    }
}
