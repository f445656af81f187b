//! A block as one pass after the other.

use super::super::*;
use crate::ops::gemm::{Threads, product};

/// A block's forward pass and the gradient of its rows as a chain of whole passes, each of which reads and writes matrices:
/// what the fused one has to equal bit for bit in the portable arithmetic.
pub(super) struct Passes<'a> {
    pub(super) shape: BlockShape,
    pub(super) theta: &'a [f32],
    pub(super) layout: &'a Layout,
    pub(super) select: Option<&'a [usize]>,
}

impl Passes<'_> {
    fn part(&self, i: usize) -> &[f32] {
        &self.theta[self.shape.ranges()[i].clone()]
    }

    fn normed(&self, x: &[f32], part: usize) -> Vec<f32> {
        let mut out = vec![0f32; x.len()];
        let (gain, bias) = (self.part(part), self.part(part + 1));
        rows::norm_forward(x, gain, bias, self.shape.norms.epsilon(), &mut out);
        out
    }

    /// Rows times a weight `[out, inner]`, on top of a bias and perhaps of rows.
    fn onto(&self, x: &[f32], weight: &[f32], bias: &[f32], base: Option<&[f32]>) -> Vec<f32> {
        let (o, k) = (bias.len(), weight.len() / bias.len());
        let n = x.len() / k;
        let mut out = vec![0f32; n * o];
        rows::fill_rows(&mut out, bias, base);
        let (x, weight) = (Mat::new(x, n, k, k), Mat::new(weight, o, k, k));
        product(&mut out, o, x, weight.t(), true, Threads::Pool);
        out
    }

    /// Rows `[n, out]` times a weight `[out, inner]`, kept or not.
    fn back(&self, grad: &[f32], weight: &[f32], inner: usize, out: &mut [f32], keep: bool) {
        let (n, o) = (out.len() / inner, weight.len() / inner);
        let (grad, weight) = (Mat::new(grad, n, o, o), Mat::new(weight, o, inner, inner));
        product(out, inner, grad, weight, keep, Threads::Pool);
    }

    fn chosen(&self, x: &[f32]) -> Vec<f32> {
        match self.select {
            None => x.to_vec(),
            Some(positions) => gather(x, &self.layout.chosen(positions), self.shape.width).to_vec(),
        }
    }

    /// The output where nothing is kept (of QuickGELU), the output where it is, and the gradient of the rows for an upstream
    /// one.
    pub(super) fn run(&self, x: &[f32], upstream: &[f32]) -> [Vec<f32>; 3] {
        let (w, h, epsilon) = (
            self.shape.width,
            self.shape.hidden,
            self.shape.norms.epsilon(),
        );
        let plan = match self.select {
            None => Plan::all(self.layout),
            Some(positions) => Plan::one_a_sequence(self.layout, positions),
        };
        let (w_in, b_in) = (self.part(2), self.part(3));
        let normed = self.normed(x, 0);
        let kv = self.onto(&normed, &w_in[w * w..], &b_in[w..], None);
        let q = self.onto(&self.chosen(&normed), &w_in[..w * w], &b_in[..w], None);
        let (mut attended, rs) = (vec![0f32; q.len()], q.len() / w);
        let mut logsum = vec![0f32; rs * self.shape.heads];
        let heads = self.shape.heads();
        attention::forward(
            Arithmetic::Portable,
            &plan,
            heads,
            &q,
            &kv,
            &mut attended,
            &mut logsum,
        );
        let residual = self.chosen(x);
        let middle = self.onto(&attended, self.part(4), self.part(5), Some(&residual));
        let normed = self.normed(&middle, 6);
        let (w_fc, b_fc) = (self.part(8), self.part(9));
        let hidden = self.onto(&normed, w_fc, b_fc, None);
        let mut active = vec![0f32; rs * h];
        self.shape.activation.forward(&hidden, &mut active);
        let (w_proj, b_proj) = (self.part(10), self.part(11));
        let kept = self.onto(&active, w_proj, b_proj, Some(&middle));
        let mut sums = vec![0f32; rs * h];
        let rows = Mat::new(&normed, rs, w, w);
        product(
            &mut sums,
            h,
            rows,
            Mat::new(w_fc, h, w, w).t(),
            false,
            Threads::Pool,
        );
        for row in sums.chunks_mut(h) {
            row.iter_mut().zip(b_fc).for_each(|(v, b)| *v += b);
        }
        self.shape.activation.forward(&sums, &mut active);
        let plain = self.onto(&active, w_proj, b_proj, Some(&middle));

        let mut d_hidden = vec![0f32; rs * h];
        self.back(upstream, w_proj, h, &mut d_hidden, false);
        self.shape.activation.backward(&hidden, &mut d_hidden);
        let mut d_normed = vec![0f32; rs * w];
        self.back(&d_hidden, w_fc, w, &mut d_normed, false);
        let mut d_middle = upstream.to_vec();
        rows::norm_backward(&middle, self.part(6), &d_normed, epsilon, &mut d_middle);
        let mut d_attended = vec![0f32; rs * w];
        self.back(&d_middle, self.part(4), w, &mut d_attended, false);
        let (mut dq, mut dkv) = (vec![0f32; q.len()], vec![0f32; kv.len()]);
        let saved = attention::Saved {
            q: &q,
            kv: &kv,
            out: &attended,
            logsum: &logsum,
        };
        attention::backward(
            Arithmetic::Portable,
            &plan,
            heads,
            &saved,
            &d_attended,
            &mut dq,
            &mut dkv,
        );
        let mut d_first = vec![0f32; x.len()];
        self.back(&dkv, &w_in[w * w..], w, &mut d_first, false);
        let mut dx = vec![0f32; x.len()];
        match self.select {
            None => {
                self.back(&dq, &w_in[..w * w], w, &mut d_first, true);
                dx = d_middle;
            }
            Some(positions) => {
                let mut of_queries = vec![0f32; rs * w];
                self.back(&dq, &w_in[..w * w], w, &mut of_queries, false);
                for (i, at) in self.layout.chosen(positions).into_iter().enumerate() {
                    for j in 0..w {
                        d_first[at * w + j] += of_queries[i * w + j];
                        dx[at * w + j] = d_middle[i * w + j];
                    }
                }
            }
        }
        rows::norm_backward(x, self.part(0), &d_first, epsilon, &mut dx);
        [plain, kept, dx]
    }
}
