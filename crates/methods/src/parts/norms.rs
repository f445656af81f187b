//! Trained LayerNorms inside the blocks of a tower. `W` width.

use candle_core::{Result, Tensor, Var};
use clip::changes::Norm;
use clip::{Changes, ops::Block};

use super::layout::variable;

/// Gain and shift `[W]` of one LayerNorm.
pub(crate) struct TrainedNorm {
    name: String,
    gain: Var,
    bias: Var,
}

/// `ln_1` and `ln_2` of every block.
pub(crate) struct BlockNorms(Vec<[TrainedNorm; 2]>);

impl BlockNorms {
    /// From the values of `blocks`, named as theirs behind `prefix`.
    pub(crate) fn new(prefix: &str, blocks: &[Block]) -> Result<Self> {
        let of_block = |(i, block): (usize, &Block)| {
            let trained = |number: usize, norm: &Norm| -> Result<TrainedNorm> {
                Ok(TrainedNorm {
                    name: format!("{prefix}transformer.resblocks.{i}.ln_{number}"),
                    gain: variable(&norm.gain)?,
                    bias: variable(&norm.bias)?,
                })
            };
            let [first, second] = block.norms()?;
            Ok([trained(1, &first)?, trained(2, &second)?])
        };
        let all = blocks.iter().enumerate().map(of_block);
        Ok(Self(all.collect::<Result<_>>()?))
    }

    /// Under the published names.
    pub(crate) fn named(&self) -> impl Iterator<Item = (String, Var)> + '_ {
        self.0.iter().flatten().flat_map(|n| {
            [
                (format!("{}.weight", n.name), n.gain.clone()),
                (format!("{}.bias", n.name), n.bias.clone()),
            ]
        })
    }

    /// In place of the tower's own.
    pub(crate) fn changes(&self, of: impl Fn(&Var) -> Tensor) -> Changes {
        let mut changes = Changes::default();
        let norm = |n: &TrainedNorm| Norm {
            gain: of(&n.gain),
            bias: of(&n.bias),
        };
        for (i, [first, second]) in self.0.iter().enumerate() {
            changes.block(i).norm_1 = Some(norm(first));
            changes.block(i).norm_2 = Some(norm(second));
        }
        changes
    }
}
