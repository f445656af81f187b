//! Optimal transport between the local features of a picture and several texts of a class, as PLOT scores them.
//!
//! `P` pairs of picture and class, `M` features of a picture, `N` texts of a class, `B` images, `K` classes.

use candle_core::{Device, Result, Tensor, bail};
use clip::model::unit;

use crate::replay::{Comparison, Recording};
use crate::{Loss, Settings};

/// How transport is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transport {
    /// Weight of the plan's entropy.
    pub(crate) epsilon: f64,
    pub(crate) rounds: usize,
    /// Mean change of the row factors, over all pairs together, below which it stops.
    pub(crate) threshold: f64,
}

/// A plan, and how it was reached.
pub(crate) struct Plan {
    /// `[P, M, N]`, total mass 1 each.
    pub(crate) mass: Tensor,
    pub(crate) rounds: usize,
    /// Last mean change.
    pub(crate) change: f64,
}

impl Plan {
    /// Its rounds and last change, to be told beside a loss.
    pub(crate) fn told(&self, device: &Device) -> Result<Vec<(&'static str, Tensor)>> {
        Ok(vec![
            ("rounds", Tensor::new(self.rounds as f32, device)?),
            ("change", Tensor::new(self.change as f32, device)?),
        ])
    }

    /// Compares the rounds that a loss tells with recorded ones, which must be equal. The last change is not compared: a
    /// difference of row factors far above 1, it is mostly their rounding, and recordings have it for diagnosis only.
    pub(crate) fn compare(
        loss: &Loss,
        recorded: f64,
        step: usize,
        c: &mut Comparison,
    ) -> Result<()> {
        let Some((_, rounds)) = loss.beside.iter().find(|(name, _)| *name == "rounds") else {
            bail!("the loss does not tell its rounds");
        };
        let ours = f64::from(rounds.to_scalar::<f32>()?);
        c.choice(&format!("step {step}: rounds"), ours, recorded);
        Ok(())
    }
}

impl Transport {
    pub(crate) fn read(s: &mut Settings) -> Self {
        Self {
            epsilon: s.number("entropy", 0.1, 1e-3..=1e6, "weight of the plan's entropy"),
            rounds: s.count(
                "rounds",
                100,
                1..=10_000,
                "most rounds of Sinkhorn's algorithm",
            ),
            threshold: s.number(
                "threshold",
                0.01,
                0.0..=1.0,
                "mean change of a batch's row factors below which the rounds end",
            ),
        }
    }

    /// The settings of a recorded run, put into `table`.
    pub(crate) fn recorded(r: &Recording, table: &mut toml::Table) -> Result<()> {
        let of = |key| r.field("sinkhorn").and_then(|s| s.get(key)?.as_f64());
        let (Some(epsilon), Some(rounds), Some(threshold)) =
            (of("eps"), of("max_iter"), of("thresh"))
        else {
            bail!("sinkhorn: eps, max_iter and thresh must be numbers");
        };
        table.insert("entropy".into(), epsilon.into());
        table.insert("rounds".into(), (rounds as i64).into());
        table.insert("threshold".into(), threshold.into());
        Ok(())
    }

    /// Sinkhorn's algorithm with uniform marginals between rows of `similarity` `[P, M, N]`, whose cost is one less it.
    /// All pairs take as many rounds as their mean needs. No gradient.
    ///
    /// # Errors
    /// A plan that is not finite.
    pub(crate) fn plan(&self, similarity: &Tensor) -> Result<Plan> {
        let (p, m, n) = similarity.dims3()?;
        let kernel = similarity
            .detach()
            .affine(1.0, -1.0)?
            .affine(1.0 / self.epsilon, 0.0)?
            .exp()?;
        let (u, v) = (1.0 / m as f64, 1.0 / n as f64);
        let mut rows = Tensor::ones((p, m, 1), kernel.dtype(), kernel.device())?;
        let mut columns = Tensor::ones((p, 1, n), kernel.dtype(), kernel.device())?;
        let (mut done, mut change) = (0, f64::INFINITY);
        while done < self.rounds && change >= self.threshold {
            let sums = kernel.broadcast_mul(&columns)?.sum_keepdim(2)?;
            let next = (sums.recip()? * u)?; // [P, M, 1]
            let sums = kernel.broadcast_mul(&next)?.sum_keepdim(1)?;
            columns = (sums.recip()? * v)?; // [P, 1, N]
            change = f64::from((&next - &rows)?.abs()?.mean_all()?.to_scalar::<f32>()?);
            rows = next;
            done += 1;
        }
        if !change.is_finite() {
            bail!("the transport plan is not finite; use a larger `entropy`");
        }
        Ok(Plan {
            mass: kernel.broadcast_mul(&rows)?.broadcast_mul(&columns)?,
            rounds: done,
            change,
        })
    }

    /// Similarities `[B, K]` of pictures `[B, M, E]` and texts `[N, K, E]`, both of unit length, under the best plan of
    /// each pair. The gradient goes through the similarities only, not through the plan.
    ///
    /// # Errors
    /// As [`Transport::plan`].
    pub(crate) fn score(&self, images: &Tensor, texts: &Tensor) -> Result<(Tensor, Plan)> {
        let ((b, m, e), (n, k, _)) = (images.dims3()?, texts.dims3()?);
        let images = images.contiguous()?.reshape((b * m, e))?;
        let texts = texts.contiguous()?.reshape((n * k, e))?;
        let all = images.matmul(&texts.t()?)?.reshape((b, m, n, k))?;
        let pairs = all
            .permute((0, 3, 1, 2))?
            .contiguous()?
            .reshape((b * k, m, n))?;
        let plan = self.plan(&pairs)?;
        let moved = (pairs * &plan.mass)?.flatten_from(1)?.sum(1)?;
        Ok((moved.reshape((b, k))?, plan))
    }
}

/// Unit length of the mean over dimension `dim`.
pub(crate) fn pooled(x: &Tensor, dim: usize) -> Result<Tensor> {
    unit(&x.mean(dim)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: Transport = Transport {
        epsilon: 0.1,
        rounds: 100,
        threshold: 0.01,
    };

    #[test]
    fn a_plan_has_uniform_marginals_and_prefers_what_is_alike() {
        let similarity = Tensor::new(&[[[0.5f32, 0.1], [0.1, 0.5]]], &Device::Cpu).unwrap();
        let plan = PUBLISHED.plan(&similarity).unwrap();
        // Symmetric: rows and columns sum to a half at once, and the share on the diagonal is 1 / (1 + e^-4).
        let mass: Vec<f32> = plan.mass.flatten_all().unwrap().to_vec1().unwrap();
        let diagonal = 0.5 / (1.0 + (-4f32).exp());
        let want = [diagonal, 0.5 - diagonal, 0.5 - diagonal, diagonal];
        for (got, want) in mass.iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{mass:?}");
        }
        assert_eq!(plan.rounds, 2);
    }

    #[test]
    fn with_much_entropy_the_score_is_the_mean_similarity() {
        let flat = Transport {
            epsilon: 1e6,
            ..PUBLISHED
        };
        let images = Tensor::new(&[[[1f32, 0.0], [0.0, 1.0]]], &Device::Cpu).unwrap();
        let texts = Tensor::new(&[[[1f32, 0.0]], [[0.6, 0.8]]], &Device::Cpu).unwrap();
        let (score, _) = flat.score(&images, &texts).unwrap();
        let got = score.to_vec2::<f32>().unwrap()[0][0];
        assert!((got - (1.0 + 0.6 + 0.0 + 0.8) / 4.0).abs() < 1e-5, "{got}");
    }
}
