//! The backward pass of a fused block.

use std::ops::Range;

use pulp::Arch;

use super::{BlockShape, Fused, Weights, gather, row};
use crate::ops::gemm::{Mat, Threads, product};
use crate::ops::products::{Left, Start};
use crate::ops::{Kept, attention, rows, scratch};

impl Fused {
    /// Gradients of the rows and, when training, of the flat weights.
    pub(super) fn backward(
        &self,
        x: &[f32],
        theta: Kept,
        grad: &[f32],
    ) -> (Vec<f32>, Option<Vec<f32>>) {
        let (by, w, h) = (self.by, self.shape.width, self.shape.hidden);
        let (arch, epsilon) = (Arch::new(), self.shape.norms.epsilon());
        let (r, rs) = (x.len() / w, grad.len() / w);
        let weights = Weights::new(&self.shape, theta, self.laid.as_deref());
        let guard = self
            .saved
            .lock()
            .expect("no thread panics while it holds this");
        let s = guard
            .as_ref()
            .expect("backward runs after forward, which kept this because the graph is tracked");
        let mut trained = self.train.then(|| WeightGradients::new(&self.shape));

        let mut d_active = scratch::take(rs * h);
        let upstream = Left::of(by, [rs, w], h, grad);
        upstream.product(&mut d_active, weights.contract.backward(), Start::Zero);
        drop(upstream);
        let activation = self.shape.activation;
        let d_hidden = |i: usize, out: &mut [f32]| {
            activation.backward_row(arch, row(&s.hidden, i, h), row(&d_active, i, h), out);
        };
        let mut d_normed = scratch::take(rs * w);
        let d_hidden_left = Left::written(by, [rs, h], w, d_hidden);
        d_hidden_left.product(&mut d_normed, weights.expand.backward(), Start::Zero);
        drop(d_hidden_left);
        if let Some(trained) = &mut trained {
            let mut active = scratch::take(rs * h);
            activation.forward(&s.hidden, &mut active);
            trained.linear(10, grad, w, &active, h);
            activation.backward(&s.hidden, &mut d_active);
            let (mut normed, norm) = (scratch::take(rs * w), &weights.norm_2);
            rows::norm_forward(&s.middle, &norm.gain, &norm.bias, epsilon, &mut normed);
            trained.linear(8, &d_active, h, &normed, w);
            trained.norm(6, &s.middle, &d_normed);
        }
        drop(d_active);

        // Where all rows go on, this becomes the gradient of the input.
        let mut d_middle = vec![0f32; rs * w];
        let gain = &weights.norm_2.gain;
        rows::norm_backward_onto(&s.middle, gain, &d_normed, epsilon, grad, &mut d_middle);
        let mut d_attended = d_normed; // same size, written anew
        let d_middle_left = Left::of(by, [rs, w], w, &d_middle);
        d_middle_left.product(&mut d_attended, weights.out.backward(), Start::Zero);
        drop(d_middle_left);
        if let Some(trained) = &mut trained {
            trained.linear(4, &d_middle, w, &s.attended, w);
        }
        let mut dq = scratch::zeros(rs * w);
        let mut dkv = scratch::zeros(r * 2 * w);
        let saved = attention::Saved {
            q: &s.q,
            kv: &s.kv,
            out: &s.attended,
            logsum: &s.logsum,
        };
        let heads = self.shape.heads();
        attention::backward(
            by.arithmetic(),
            &self.plan,
            heads,
            &saved,
            &d_attended,
            &mut dq,
            &mut dkv,
        );
        drop(d_attended);

        let mut d_first = scratch::take(r * w);
        let of_kv = Left::of(by, [r, 2 * w], w, &dkv);
        of_kv.product(&mut d_first, weights.key_value.backward(), Start::Zero);
        drop(of_kv);
        let of_queries = Left::of(by, [rs, w], w, &dq);
        let mut dx = match &self.selected {
            None => {
                of_queries.product(&mut d_first, weights.query.backward(), Start::Output);
                d_middle
            }
            Some(selected) => {
                let mut from_queries = scratch::take(rs * w);
                of_queries.product(&mut from_queries, weights.query.backward(), Start::Zero);
                let mut dx = vec![0f32; r * w];
                for (i, &at) in selected.iter().enumerate() {
                    for j in 0..w {
                        d_first[at * w + j] += from_queries[i * w + j];
                        dx[at * w + j] = d_middle[i * w + j];
                    }
                }
                dx
            }
        };
        drop(of_queries);
        if let Some(trained) = &mut trained {
            let mut normed = scratch::take(r * w);
            let norm = &weights.norm_1;
            rows::norm_forward(x, &norm.gain, &norm.bias, epsilon, &mut normed);
            match &self.selected {
                None => trained.attention_inputs(&dq, &normed, &dkv, &normed),
                Some(selected) => {
                    let asking = gather(&normed, selected, w);
                    trained.attention_inputs(&dq, &asking, &dkv, &normed);
                }
            }
            trained.norm(0, x, &d_first);
        }
        rows::norm_backward(x, &weights.norm_1.gain, &d_first, epsilon, &mut dx);
        (dx, trained.map(|t| t.flat))
    }
}

struct WeightGradients {
    flat: Vec<f32>,
    parts: [Range<usize>; 12],
    width: usize,
    epsilon: f32,
}

impl WeightGradients {
    fn new(shape: &BlockShape) -> Self {
        Self {
            flat: vec![0.0; shape.len()],
            parts: shape.ranges(),
            width: shape.width,
            epsilon: shape.norms.epsilon(),
        }
    }

    /// Part `index` and the one after it.
    fn two(&mut self, index: usize) -> &mut [f32] {
        &mut self.flat[self.parts[index].start..self.parts[index + 1].end]
    }

    /// Part `index` is a weight `[out, inner]`, the part after it its bias.
    fn linear(&mut self, index: usize, grad: &[f32], out: usize, input: &[f32], inner: usize) {
        let n = grad.len() / out;
        let (weight, bias) = self.two(index).split_at_mut(out * inner);
        product(
            weight,
            inner,
            Mat::new(grad, n, out, out).t(),
            Mat::new(input, n, inner, inner),
            false,
            Threads::Pool,
        );
        rows::column_sums(grad, bias);
    }

    fn attention_inputs(&mut self, dq: &[f32], asking: &[f32], dkv: &[f32], normed: &[f32]) {
        let w = self.width;
        let (weight, bias) = self.two(2).split_at_mut(3 * w * w);
        let (wq, wkv) = weight.split_at_mut(w * w);
        let (rs, r) = (dq.len() / w, normed.len() / w);
        product(
            wq,
            w,
            Mat::new(dq, rs, w, w).t(),
            Mat::new(asking, rs, w, w),
            false,
            Threads::Pool,
        );
        product(
            wkv,
            w,
            Mat::new(dkv, r, 2 * w, 2 * w).t(),
            Mat::new(normed, r, w, w),
            false,
            Threads::Pool,
        );
        rows::column_sums(dq, &mut bias[..w]);
        rows::column_sums(dkv, &mut bias[w..]);
    }

    fn norm(&mut self, index: usize, x: &[f32], grad: &[f32]) {
        let (width, epsilon) = (self.width, self.epsilon);
        let (gain, bias) = self.two(index).split_at_mut(width);
        rows::norm_weights_backward(x, grad, epsilon, gain, bias);
    }
}
