//! Text features in pieces whose graph is made, used and dropped one at a time, so that memory has a bound.
//!
//! Forward, every piece is encoded without a graph. Backward, each is encoded again with one, and its gradient is taken
//! of `features . upstream`: the same numbers for one more forward pass. Sequences do not see each other, so that a
//! piece's features are those of the whole; only sums over sequences are added up in another order.

use candle_core::{CpuStorage, CustomOp1, Layout as Strides, Result, Shape, Tensor, Var, bail};

use crate::ops::{values, with_values};
use crate::text::{DeepText, Slot, TextPlan, TextPrompt, TextTower, shared_start};

impl TextTower {
    /// Bytes of graph that one packed row leaves: in each block its queries, keys, values, attention output, middle and
    /// output rows and the MLP's hidden values.
    fn bytes_a_row(&self) -> usize {
        let floats = |shape: &crate::ops::BlockShape| 6 * shape.width + shape.hidden;
        let all: usize = self.blocks.iter().map(|b| floats(&b.shape)).sum();
        4 * all
    }

    /// Pieces of `groups` whose graphs stay under `most` bytes; `None` where the whole does. A piece has at least one
    /// sequence.
    pub(crate) fn pieces(
        &self,
        groups: &[Vec<Vec<Slot>>],
        rows: usize,
        most: usize,
    ) -> Result<Option<Vec<TextPlan>>> {
        let most_rows = (most / self.bytes_a_row().max(1)).max(1);
        if rows <= most_rows {
            return Ok(None);
        }
        let (mut plans, mut piece, mut taken) = (Vec::new(), Vec::<Vec<Vec<Slot>>>::new(), 0);
        for group in groups {
            let prefix = shared_start(group);
            let mut open = false;
            for sequence in group {
                let own = sequence.len() - prefix;
                if taken > 0 && taken + own + if open { 0 } else { prefix } > most_rows {
                    plans.push(self.plan(&piece)?);
                    (piece, taken, open) = (Vec::new(), 0, false);
                }
                if !open {
                    piece.push(Vec::new());
                    taken += prefix;
                    open = true;
                }
                taken += own;
                if let Some(last) = piece.last_mut() {
                    last.push(sequence.clone());
                }
            }
        }
        if !piece.is_empty() {
            plans.push(self.plan(&piece)?);
        }
        Ok(Some(plans))
    }

    /// As [`TextTower::encode`], piece by piece.
    pub(crate) fn encode_pieces(
        &self,
        pieces: Vec<TextPlan>,
        prompt: &TextPrompt,
    ) -> Result<Tensor> {
        let rows = prompt
            .context
            .iter()
            .chain(prompt.deep.iter().map(|d| &d.rows));
        let rows: Vec<&Tensor> = rows.collect();
        let sizes = rows.iter().map(|t| t.dim(0)).collect::<Result<Vec<_>>>()?;
        let op = Pieces {
            tower: Self {
                memory: None,
                ..self.clone()
            },
            pieces,
            sizes,
            has_context: prompt.context.is_some(),
            deep: prompt.deep.iter().map(|d| (d.block, d.position)).collect(),
        };
        Tensor::cat(&rows, 0)?.contiguous()?.apply_op1(op)
    }
}

struct Pieces {
    tower: TextTower,
    pieces: Vec<TextPlan>,
    /// Rows of the context, if there is one, and of each deep prompt: how they lie one after the other.
    sizes: Vec<usize>,
    has_context: bool,
    /// Block and position of each deep prompt.
    deep: Vec<(usize, usize)>,
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
        let prompt = self.prompt(&rows)?;
        let (mut out, mut sequences) = (Vec::new(), 0);
        for plan in &self.pieces {
            let features = self.tower.encode(plan, &prompt)?;
            with_values(&features, |v| {
                out.extend_from_slice(v);
                Ok(())
            })?;
            sequences += plan.sequences();
        }
        if sequences == 0 {
            bail!("there is nothing to encode");
        }
        let shape = Shape::from((sequences, out.len() / sequences));
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, rows: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (mut at, mut sum) = (0, rows.detach().zeros_like()?);
        for plan in &self.pieces {
            let own = Var::from_tensor(&rows.detach())?;
            let features = self.tower.encode(plan, &self.prompt(own.as_tensor())?)?;
            let upstream = grad.narrow(0, at, plan.sequences())?.detach();
            at += plan.sequences();
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

    #[test]
    fn features_and_gradients_are_those_of_the_whole_at_every_bound() {
        let mut tower = tower();
        let token = |i: u32| Slot::Token(i);
        let groups: Vec<Vec<Vec<Slot>>> = (0..2)
            .map(|g| {
                let sequence = |n: u32| {
                    let mut s = vec![token(0), Slot::Context(2 * g), Slot::Context(2 * g + 1)];
                    s.extend((0..=n % 3).map(|i| token(1 + n + i)));
                    s.push(token(19));
                    s
                };
                (0..5).map(sequence).collect()
            })
            .collect();
        let context = Var::from_tensor(&noise(&[4, 16], 6)).unwrap();
        let deep = Var::from_tensor(&noise(&[2, 16], 7)).unwrap();
        let weights = noise(&[10, 8], 8);
        let run = |tower: &TextTower| {
            let plan = tower.plan(&groups).unwrap();
            let prompt = TextPrompt {
                context: Some(context.as_tensor().clone()),
                deep: vec![DeepText {
                    block: 1,
                    position: 1,
                    rows: deep.as_tensor().clone(),
                }],
            };
            let features = tower.encode(&plan, &prompt).unwrap();
            let loss = (&features * &weights).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            [
                flat(&features),
                flat(gradients.get(context.as_tensor()).unwrap()),
                flat(gradients.get(deep.as_tensor()).unwrap()),
            ]
        };
        let whole = run(&tower);
        for (most, count) in [(1, 10), (20_000, 4), (30_000, 2)] {
            tower.memory = Some(most);
            let plan = tower.plan(&groups).unwrap();
            let pieces = tower.pieces(&groups, plan.rows(), most).unwrap().unwrap();
            assert!(
                pieces.len() >= 2 && pieces.len() <= count,
                "{most}: {}",
                pieces.len()
            );
            for (a, b) in run(&tower).iter().zip(&whole) {
                let worst = a
                    .iter()
                    .zip(b)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0f32, f32::max);
                assert!(worst < 1e-5, "{most}: {worst}");
            }
        }
        tower.memory = Some(1 << 30);
        assert!(tower.pieces(&groups, 40, 1 << 30).unwrap().is_none());
    }
}
