//! A frozen transformer block whose four products are in bfloat16.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use pulp::Arch;

use super::{Packed, Rows};
use crate::ops::attention::{self, Plan};
use crate::ops::block::{Activation, Block, BlockShape, gather};
use crate::ops::{Layout, on_pool, rows, scratch, with_values};

/// As [`Block`], for a forward pass only. Norms and biases are those of the block, in float32.
#[derive(Debug)]
pub struct BfloatBlock {
    shape: BlockShape,
    /// The parts that are not weights of products, the others empty.
    kept: [Vec<f32>; 12],
    query: Packed,
    key_value: Packed,
    output: Packed,
    expand: Packed,
    contract: Packed,
}

impl BfloatBlock {
    /// With the weights of `block`, rounded.
    ///
    /// # Errors
    /// Off the CPU.
    pub fn new(block: &Block) -> Result<Self> {
        let shape = block.shape;
        let (w, h) = (shape.width, shape.hidden);
        with_values(&block.theta, |theta| {
            let parts = shape.split(theta);
            let [_, _, w_in, _, w_out, _, _, _, w_fc, _, w_proj, _] = parts;
            Ok(Self {
                shape,
                kept: std::array::from_fn(|i| match i {
                    2 | 4 | 8 | 10 => Vec::new(),
                    _ => parts[i].to_vec(),
                }),
                query: Packed::new(&w_in[..w * w], w, w),
                key_value: Packed::new(&w_in[w * w..], 2 * w, w),
                output: Packed::new(w_out, w, w),
                expand: Packed::new(w_fc, h, w),
                contract: Packed::new(w_proj, w, h),
            })
        })
    }

    /// As [`Block::forward`], without a graph.
    ///
    /// # Errors
    /// Off the CPU.
    pub fn forward(
        &self,
        x: &Tensor,
        layout: &Arc<Layout>,
        select: Option<&[usize]>,
    ) -> Result<Tensor> {
        let plan = match select {
            None => Plan::all(layout),
            Some(positions) => Plan::one_a_sequence(layout, positions),
        };
        let selected = select.map(|positions| layout.chosen(positions));
        let out = with_values(x, |x| {
            Ok(on_pool(|| self.rows(x, &plan, selected.as_deref())))
        })?;
        let w = self.shape.width;
        Tensor::from_vec(out, ((), w), x.device())
    }

    fn rows(&self, x: &[f32], plan: &Plan, selected: Option<&[usize]>) -> Vec<f32> {
        let (w, h) = (self.shape.width, self.shape.hidden);
        let [g1, b1, _, b_in, _, b_out, g2, b2, _, b_fc, _, b_proj] = &self.kept;
        let (arch, epsilon) = (Arch::new(), self.shape.norms.epsilon());
        let r = x.len() / w;
        let rs = selected.map_or(r, <[usize]>::len);

        let normed = Rows::new(r, w, |i, out| {
            rows::norm_row(arch, &x[i * w..(i + 1) * w], (g1, b1), epsilon, out);
        });
        let mut kv = scratch::take(r * 2 * w);
        rows::fill_rows(&mut kv, &b_in[w..], None);
        self.key_value.product(&mut kv, &normed);
        let mut q = scratch::take(rs * w);
        rows::fill_rows(&mut q, &b_in[..w], None);
        match selected {
            None => self.query.product(&mut q, &normed),
            Some(selected) => {
                let asking = Rows::new(rs, w, |i, out| {
                    let at = selected[i] * w;
                    rows::norm_row(arch, &x[at..at + w], (g1, b1), epsilon, out);
                });
                self.query.product(&mut q, &asking);
            }
        }
        drop(normed);

        let mut attended = scratch::take(rs * w);
        let mut logsum = scratch::take(rs * self.shape.heads);
        attention::forward(
            plan,
            self.shape.heads(),
            &q,
            &kv,
            &mut attended,
            &mut logsum,
        );
        drop((q, kv));

        let mut middle = scratch::take(rs * w);
        match selected {
            None => rows::fill_rows(&mut middle, b_out, Some(x)),
            Some(selected) => rows::fill_rows(&mut middle, b_out, Some(&gather(x, selected, w))),
        }
        let rounded = Rows::new(rs, w, |i, out| {
            out.copy_from_slice(&attended[i * w..(i + 1) * w])
        });
        self.output.product(&mut middle, &rounded);
        drop((rounded, attended));

        let normed = Rows::new(rs, w, |i, out| {
            rows::norm_row(arch, &middle[i * w..(i + 1) * w], (g2, b2), epsilon, out);
        });
        let mut hidden = scratch::take(rs * h);
        rows::fill_rows(&mut hidden, b_fc, None);
        self.expand.product(&mut hidden, &normed);
        drop(normed);
        let active = Rows::new(rs, h, |i, out| {
            let hidden = &hidden[i * h..(i + 1) * h];
            match self.shape.activation {
                Activation::QuickGelu => rows::quick_gelu_row(arch, hidden, out),
                Activation::Gelu => rows::erf_gelu_row(hidden, out),
                Activation::GeluTanh => rows::tanh_gelu_row(hidden, out),
            }
        });
        drop(hidden);
        let mut out = vec![0f32; rs * w];
        rows::fill_rows(&mut out, b_proj, Some(&middle));
        self.contract.product(&mut out, &active);
        out
    }
}
