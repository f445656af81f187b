//! Initial values, drawn as PyTorch's CPU generator draws them after `torch.manual_seed(seed)`.
//!
//! The published code seeds torch and then builds CLIP, which draws too, so whole runs of it start elsewhere in the
//! stream; what is the same is the distribution and, for a tensor drawn right after seeding, every value (to float
//! rounding of `log`, `cos` and `sin`).

use candle_core::{Device, Result, Tensor};
use rand_mt::Mt;

/// A seeded stream of initial values.
#[derive(Debug)]
pub struct Init(Mt);

impl Init {
    /// As after `torch.manual_seed(seed)`: the generator takes the seed's low 32 bits.
    pub fn seeded(seed: u64) -> Self {
        Self(Mt::new(seed as u32))
    }

    /// A number in [0, 1) with 24 random bits, as torch draws float32.
    fn unit(&mut self) -> f32 {
        (self.0.next_u32() & 0x00ff_ffff) as f32 / (1u32 << 24) as f32
    }

    /// `torch.empty(shape).uniform_(-bound, bound)`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn uniform(&mut self, shape: &[usize], bound: f64) -> Result<Tensor> {
        let n = shape.iter().product();
        let bound = bound as f32;
        let data: Vec<f32> = (0..n).map(|_| self.unit() * (2.0 * bound) - bound).collect();
        Tensor::from_vec(data, shape, &Device::Cpu)
    }

    /// `torch.empty(shape).normal_(0, deviation)`: 16 values at a time by Box-Muller; fewer than 16 one pair at a time.
    ///
    /// # Errors
    /// Those of candle.
    pub fn normal(&mut self, shape: &[usize], deviation: f64) -> Result<Tensor> {
        let n: usize = shape.iter().product();
        let mut data = vec![0f32; n];
        if n < 16 {
            self.few(&mut data, deviation);
        } else {
            data.iter_mut().for_each(|v| *v = self.unit());
            for block in data.chunks_exact_mut(16) {
                box_muller(block, deviation as f32);
            }
            if n % 16 != 0 {
                let last = &mut data[n - 16..];
                last.iter_mut().for_each(|v| *v = self.unit());
                box_muller(last, deviation as f32);
            }
        }
        Tensor::from_vec(data, shape, &Device::Cpu)
    }

    /// Small tensors: double precision pairs of 53-bit numbers, the second of each pair kept for the next value.
    fn few(&mut self, data: &mut [f32], deviation: f64) {
        let mut kept: Option<f64> = None;
        for v in data {
            let z = kept.take().unwrap_or_else(|| {
                let mut next = || {
                    let high = u64::from(self.0.next_u32());
                    let low = u64::from(self.0.next_u32());
                    (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
                };
                let (u1, u2) = (next(), next());
                let radius = (-2.0 * (-u2).ln_1p()).sqrt();
                let angle = 2.0 * std::f64::consts::PI * u1;
                kept = Some(radius * angle.sin());
                radius * angle.cos()
            });
            *v = (z * deviation) as f32;
        }
    }

    /// Weight `[out, inner]` and bias `[out]` of a fresh `torch.nn.Linear`: both uniform within `1 / sqrt(inner)`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn linear(&mut self, out: usize, inner: usize) -> Result<(Tensor, Tensor)> {
        let bound = 1.0 / (inner as f64).sqrt();
        Ok((self.uniform(&[out, inner], bound)?, self.uniform(&[out], bound)?))
    }
}

fn box_muller(block: &mut [f32], deviation: f32) {
    for j in 0..8 {
        let (u1, u2) = (1.0 - block[j], block[j + 8]);
        let radius = (-2.0 * u1.ln()).sqrt();
        let angle = 2.0 * std::f32::consts::PI * u2;
        block[j] = radius * angle.cos() * deviation;
        block[j + 8] = radius * angle.sin() * deviation;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_asked_deviation() {
        let t = Init::seeded(1).normal(&[64, 128], 0.02).unwrap();
        let v = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mean = v.iter().sum::<f32>() / v.len() as f32;
        let sd = (v.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / v.len() as f32).sqrt();
        assert!(mean.abs() < 1e-3 && (sd - 0.02).abs() < 1e-3, "{mean} {sd}");
    }
}
