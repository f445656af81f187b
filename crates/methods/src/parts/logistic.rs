//! Logistic regression as scikit-learn's `LogisticRegression` fits it by L-BFGS, in float64.
//!
//! `n` pictures, `K` classes, `E` joint width.

use candle_core::{DType, Device, Result, Tensor};
use clip::Clip;

use super::lbfgs::{self, Stop};
use super::shots;
use crate::Labelled;

/// Features `[n, E]` of float64 with their labels.
pub(crate) struct Seen {
    pub(crate) features: Tensor,
    pub(crate) labels: Vec<u32>,
}

impl Seen {
    pub(crate) fn of(clip: &Clip, pictures: &Labelled) -> Result<Self> {
        Ok(Self {
            features: shots::features(clip, pictures)?
                .to_device(&Device::Cpu)?
                .to_dtype(DType::F64)?,
            labels: pictures.labels.clone(),
        })
    }
}

/// A logistic regression where it stopped.
#[derive(Clone, Debug)]
pub(crate) struct Fit {
    /// `[K, E]`, float64. Of two classes only the second has a row; the first's is 0.
    pub(crate) coef: Tensor,
    /// `[K]`, float64.
    pub(crate) intercept: Tensor,
    /// `C sum of cross entropies + |W|^2 / 2`.
    pub(crate) objective: f64,
    pub(crate) iterations: usize,
}

impl Fit {
    /// `[n, K]` of `[n, E]`, both float64.
    pub(crate) fn scores(&self, features: &Tensor) -> Result<Tensor> {
        features
            .matmul(&self.coef.t()?)?
            .broadcast_add(&self.intercept)
    }

    pub(crate) fn hits(&self, seen: &Seen) -> Result<usize> {
        shots::hits(&self.scores(&seen.features)?, &seen.labels)
    }
}

/// Logistic regression over `K` classes.
pub(crate) struct Problem<'a> {
    pub(crate) seen: &'a Seen,
    pub(crate) classes: usize,
}

impl Problem<'_> {
    /// Rows that are free: of two classes, one.
    fn rows(&self) -> usize {
        if self.classes == 2 { 1 } else { self.classes }
    }

    /// Mean cross entropy and `penalty |W|^2 / 2` of weights `[rows, E]` followed by intercepts `[rows]`, with its
    /// gradient.
    fn at(&self, x: &[f64], penalty: f64) -> Result<(f64, Vec<f64>)> {
        let (n, width) = self.seen.features.dims2()?;
        let rows = self.rows();
        let (weight, intercept) = x.split_at(rows * width);
        let w = Tensor::from_slice(weight, (rows, width), &Device::Cpu)?;
        let mut slopes: Vec<f64> = self
            .seen
            .features
            .matmul(&w.t()?)?
            .flatten_all()?
            .to_vec1()?;
        let (mut loss, mut of_intercept) = (0.0, vec![0.0; rows]);
        for (z, label) in slopes.chunks_mut(rows).zip(&self.seen.labels) {
            z.iter_mut().zip(intercept).for_each(|(z, b)| *z += b);
            // Of two classes the first has the score 0; the row is the second's.
            let own = (*label as usize).checked_sub(self.classes - rows);
            let base = if rows == 1 { 0.0 } else { f64::NEG_INFINITY };
            let most = z.iter().copied().fold(base, f64::max);
            let sum = z.iter().map(|z| (z - most).exp()).sum::<f64>() + (base - most).exp();
            loss += most + sum.ln() - own.map_or(0.0, |own| z[own]);
            for (k, z) in z.iter_mut().enumerate() {
                *z = (*z - most).exp() / sum - f64::from(u8::from(own == Some(k)));
                *z /= n as f64;
                of_intercept[k] += *z;
            }
        }
        let slopes = Tensor::from_vec(slopes, (n, rows), &Device::Cpu)?;
        let of_weight = slopes.t()?.matmul(&self.seen.features)?;
        let of_weight = (of_weight + (w * penalty)?)?;
        let mut gradient: Vec<f64> = of_weight.flatten_all()?.to_vec1()?;
        gradient.extend(of_intercept);
        let squares: f64 = weight.iter().map(|w| w * w).sum();
        Ok((loss / n as f64 + 0.5 * penalty * squares, gradient))
    }

    /// From zeros, with the data's weight `c`.
    pub(crate) fn fit(&self, c: f64, stop: Stop) -> Result<Fit> {
        let (n, width) = self.seen.features.dims2()?;
        let (rows, data) = (self.rows(), c * n as f64);
        let start = vec![0.0; rows * (width + 1)];
        let found = lbfgs::minimize(start, stop, |x| self.at(x, 1.0 / data))?;
        let (weight, intercept) = found.x.split_at(rows * width);
        let fixed = self.classes - rows;
        let padded = |free: &[f64], width: usize| {
            let zeros = vec![0.0; fixed * width];
            Tensor::from_vec([&zeros, free].concat(), (self.classes, width), &Device::Cpu)
        };
        Ok(Fit {
            coef: padded(weight, width)?,
            intercept: padded(intercept, 1)?.flatten_all()?,
            objective: found.value * data,
            iterations: found.iterations,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Stop = Stop {
        iterations: 10_000,
        gradient: 1e-10,
        decrease: 0.0,
    };

    fn seen(rows: &[[f64; 2]], labels: &[u32]) -> Seen {
        let features = Tensor::from_vec(rows.concat(), (rows.len(), 2), &Device::Cpu).unwrap();
        Seen {
            features,
            labels: labels.to_vec(),
        }
    }

    #[test]
    fn two_classes_share_one_row_as_scikit_learn_has_it() {
        // One picture of each at -1 and 1: 2 ln(1 + e^-w) + w^2 / 2 is least where w (1 + e^w) = 2.
        let seen = seen(&[[-1.0, 0.0], [1.0, 0.0]], &[0, 1]);
        let problem = Problem {
            seen: &seen,
            classes: 2,
        };
        let fit = problem.fit(1.0, FAR).unwrap();
        let coef: Vec<Vec<f64>> = fit.coef.to_vec2().unwrap();
        let w = coef[1][0];
        assert!((w * (1.0 + w.exp()) - 2.0).abs() < 1e-8, "{coef:?}");
        assert_eq!((&coef[0][..], coef[1][1]), (&[0.0, 0.0][..], 0.0));
        let want = 2.0 * (1.0 + (-w).exp()).ln() + w * w / 2.0;
        assert!((fit.objective - want).abs() < 1e-12);
        assert_eq!(fit.hits(&seen).unwrap(), 2);
    }

    #[test]
    fn the_gradient_of_three_classes_is_that_of_the_mean_loss_and_the_penalty() {
        let seen = seen(
            &[[0.3, -1.0], [2.0, 0.5], [-0.7, 0.1], [1.0, 1.0]],
            &[0, 2, 1, 2],
        );
        let problem = Problem {
            seen: &seen,
            classes: 3,
        };
        let x = [0.4, -0.2, 0.1, 0.9, -0.5, 0.3, 0.05, -0.1, 0.2];
        let (value, gradient) = problem.at(&x, 0.3).unwrap();
        // The loss itself, by its definition.
        let mut want = 0.15 * x[..6].iter().map(|w| w * w).sum::<f64>();
        let features: Vec<Vec<f64>> = seen.features.to_vec2().unwrap();
        for (f, label) in features.iter().zip(&seen.labels) {
            let z = |k: usize| x[2 * k] * f[0] + x[2 * k + 1] * f[1] + x[6 + k];
            let sum: f64 = (0..3).map(|k| z(k).exp()).sum();
            want -= (z(*label as usize).exp() / sum).ln() / 4.0;
        }
        assert!((value - want).abs() < 1e-12, "{value} {want}");
        for (i, slope) in gradient.iter().enumerate() {
            let at = |by: f64| {
                let mut x = x;
                x[i] += by;
                problem.at(&x, 0.3).unwrap().0
            };
            let measured = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - measured).abs() < 1e-9, "{i}: {slope} {measured}");
        }
    }
}
