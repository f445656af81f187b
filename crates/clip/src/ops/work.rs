//! How many floating-point operations a block, and with it a tower, cannot do without.
//!
//! A product of `[m, k]` and `[k, n]` is `2 m k n`. For `R` packed rows of width `W`, `R'` of which go on (all but in a
//! tower's last block), `H` hidden values and `P` pairs of a query and a key that it may see:
//!
//! ```text
//! forward  = 2 R W 2W (keys, values) + 2 R' W W (queries) + 4 P W (scores, sums) + 2 R' W W (output) + 4 R' W H (MLP)
//! backward = the same for frozen weights, with 8 P W for attention
//! ```
//!
//! Not counted, because another program could leave it out: scores computed again in backward, masked scores, padding,
//! anything a prefix shared by sequences would repeat. Nor what is linear in the rows: norms, activations, sums.

use std::ops::{Add, Mul};

use super::attention::Plan;
use super::{BlockShape, Layout};

/// Floating-point operations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Of the forward pass.
    pub forward: f64,
    /// Of the backward pass to the rows, weights frozen.
    pub backward: f64,
}

impl Work {
    /// Both passes.
    pub fn both(&self) -> f64 {
        self.forward + self.backward
    }
}

impl Add for Work {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            forward: self.forward + other.forward,
            backward: self.backward + other.backward,
        }
    }
}

impl Mul<f64> for Work {
    type Output = Self;
    fn mul(self, times: f64) -> Self {
        Self {
            forward: self.forward * times,
            backward: self.backward * times,
        }
    }
}

impl BlockShape {
    /// Of one block; `select` as in [`super::Block::forward`].
    pub fn work(&self, layout: &Layout, select: Option<&[usize]>) -> Work {
        let (w, h) = (self.width as f64, self.hidden as f64);
        let (plan, going_on) = match select {
            None => (Plan::all(layout), layout.rows()),
            Some(positions) => (Plan::one_a_sequence(layout, positions), positions.len()),
        };
        let (rows, on, pairs) = (layout.rows() as f64, going_on as f64, plan.pairs() as f64);
        let products = 4.0 * rows * w * w + 4.0 * on * w * w + 4.0 * on * w * h;
        Work {
            forward: products + 4.0 * pairs * w,
            backward: products + 8.0 * pairs * w,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Activation, Group, Norms};

    const SHAPE: BlockShape = BlockShape {
        width: 512,
        heads: 8,
        hidden: 2048,
        activation: Activation::QuickGelu,
        norms: Norms::Clip,
    };

    #[test]
    fn a_padded_text_costs_what_its_77_tokens_cost() {
        // 12 blocks of 77 tokens: the 5.96 GFLOP that the published text tower takes, which does not skip masked pairs.
        let work = SHAPE.work(&Layout::full(1, 77), None).forward * 12.0;
        assert!((work - 5.96e9).abs() < 0.02e9, "{work}");
    }

    #[test]
    fn a_shared_prefix_is_counted_once() {
        let group = |prefix, length| {
            Layout::causal(&[Group {
                prefix,
                own: vec![length; 10],
            }])
        };
        let (shared, own) = (
            SHAPE.work(&group(5, 7), None),
            SHAPE.work(&group(0, 12), None),
        );
        let ratio = own.forward / shared.forward;
        assert!((ratio - 120.0 / 75.0).abs() < 0.02, "{ratio}");
    }

    #[test]
    fn pairs_of_a_causal_sequence_are_a_triangle() {
        let layout = Layout::causal(&[Group {
            prefix: 2,
            own: vec![3, 1],
        }]);
        assert_eq!(Plan::all(&layout).pairs(), 3 + (3 + 4 + 5) + 3);
        assert_eq!(Plan::one_a_sequence(&layout, &[2, 0]).pairs(), 5 + 3);
    }
}
