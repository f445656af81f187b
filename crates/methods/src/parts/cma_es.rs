//! CMA-ES: minimises a function of `n` numbers by its values alone, from a normal distribution that follows what was best.
//!
//! Hansen, *The CMA Evolution Strategy: A Tutorial*, <https://arxiv.org/abs/1604.00772>, with the constants and the order of
//! updates of pycma 4.5.0's defaults: negative weights, cumulative step sizes, a covariance that is taken apart only as often
//! as it changes. No crate was found that has these, and replays of recorded runs depend on every one.
//!
//! `n` dimensions, `P` candidates a generation, at least six: of fewer pycma makes some by mirrors.
//!
//! Differs: the step size always follows the length of the path; pycma 4 follows two points in high dimensions, which the
//! releases that the authors of BPT-VLM could use did not. Of equal losses the first is better. A loss that is no number is
//! the worst. Nothing stops the search but its end.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::symmetric::eigen;

/// Numbers that follow from `n` and `P`.
#[derive(Clone, Debug)]
pub(crate) struct Constants {
    /// `P`, best first; those that are positive add up to 1.
    pub(crate) weights: Vec<f64>,
    /// How many are positive.
    pub(crate) mu: usize,
    pub(crate) mueff: f64,
    /// Of the path's outer product.
    pub(crate) c1: f64,
    /// Of the candidates' outer products.
    pub(crate) cmu: f64,
    /// Of the covariance's path.
    pub(crate) cc: f64,
    /// Of the step size's path.
    pub(crate) cs: f64,
    pub(crate) damps: f64,
    /// Generations between two times that the covariance is taken apart.
    gap: f64,
    /// Mean length of `n` standard normal numbers.
    chi: f64,
}

impl Constants {
    pub(crate) fn new(n: usize, candidates: usize) -> Self {
        let (size, lambda) = (n as f64, candidates as f64);
        let mut weights: Vec<f64> = (1..=candidates)
            .map(|i| (lambda.midpoint(1.0)).ln() - (i as f64).ln())
            .collect();
        let mu = weights.iter().filter(|w| **w > 0.0).count();
        let positive: f64 = weights[..mu].iter().sum();
        weights.iter_mut().for_each(|w| *w /= positive);
        let effective = |w: &[f64]| {
            let sum: f64 = w.iter().sum();
            match w.iter().map(|w| w * w).sum::<f64>() {
                0.0 => 0.0,
                squares => sum * sum / squares,
            }
        };
        let (mueff, negative) = (effective(&weights[..mu]), effective(&weights[mu..]));
        let c1 = (lambda / 6.0).min(1.0) * 2.0 / ((size + 1.3).powi(2) + mueff);
        let cmu = 2.0 * (0.25 + mueff - 2.0 + 1.0 / mueff) / ((size + 2.0).powi(2) + mueff);
        let cmu = cmu.min(1.0 - c1);
        // No decay, a matrix that stays positive, and no more trust than the effective number deserves.
        let most = (1.0 + c1 / cmu)
            .min((1.0 - c1 - cmu) / cmu / size)
            .min(1.0 + 2.0 * negative / (mueff + 2.0));
        let sum: f64 = weights[mu..].iter().sum();
        if sum < 0.0 {
            weights[mu..].iter_mut().for_each(|w| *w *= -most / sum);
        }
        let cs = ((mueff + 2.0) / (size + mueff + 3.0)).min(0.5);
        let crowd = (3.0 * (1.0 - 0.5f64.powf(size / 9.0))).max(1.0);
        let crowd = crowd * ((mueff - 1.0) / (size + 1.0)).sqrt() - 1.0;
        Self {
            weights,
            mu,
            mueff,
            c1,
            cmu,
            cc: (4.0 + mueff / size) / (size + 4.0 + 2.0 * mueff / size),
            cs,
            damps: 1.0 + 2.0 * crowd.max(0.0) + cs,
            gap: 1.0 / (c1 + cmu) / size / 10.0,
            chi: mean_length(n),
        }
    }
}

/// Mean length of `n` standard normal numbers: those of `n` and of `n + 1` multiply to `n`.
fn mean_length(n: usize) -> f64 {
    let one = (2.0 / std::f64::consts::PI).sqrt();
    (1..n).fold(one, |mean, n| n as f64 / mean)
}

/// A search on its way.
#[derive(Clone, Debug)]
pub(crate) struct CmaEs {
    pub(crate) constants: Constants,
    pub(crate) mean: Vec<f64>,
    pub(crate) sigma: f64,
    /// `n` by `n`.
    pub(crate) covariance: Vec<f64>,
    /// Path of the mean, for the covariance.
    pub(crate) path: Vec<f64>,
    /// The same as the covariance sees it, for the step size.
    pub(crate) step_path: Vec<f64>,
    /// Directions `n` by `n`, one after the other, of the covariance as it was when it was last taken apart.
    axes: Vec<f64>,
    /// Lengths of these.
    lengths: Vec<f64>,
    /// Generations told, and how many had been when it was last taken apart.
    told: usize,
    apart: usize,
}

/// Of a vector.
fn square(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum()
}

impl CmaEs {
    /// Around nothing, as far as `sigma`.
    pub(crate) fn new(n: usize, candidates: usize, sigma: f64) -> Self {
        // Values that differ by a hair have directions of their own.
        let variance = |i: usize| (1e-4 / n as f64 * i as f64).exp();
        let (mut covariance, mut axes) = (vec![0.0; n * n], vec![0.0; n * n]);
        for i in 0..n {
            covariance[i * n + i] = variance(i);
            axes[i * n + i] = 1.0;
        }
        Self {
            constants: Constants::new(n, candidates),
            mean: vec![0.0; n],
            sigma,
            covariance,
            path: vec![0.0; n],
            step_path: vec![0.0; n],
            axes,
            lengths: (0..n).map(|i| variance(i).sqrt()).collect(),
            told: 0,
            apart: 0,
        }
    }

    fn size(&self) -> usize {
        self.mean.len()
    }

    /// Takes the covariance apart, where it is time.
    ///
    /// # Errors
    /// A covariance that no distribution has.
    pub(crate) fn renew(&mut self) -> Result<()> {
        if self.told == self.apart || (self.told as f64) < self.apart as f64 + self.constants.gap {
            return Ok(());
        }
        let found = eigen(&self.covariance, self.size())?;
        if found.values.iter().any(|v| *v <= 0.0) {
            bail!("the covariance of the search is no longer positive");
        }
        self.lengths = found.values.iter().map(|v| v.sqrt()).collect();
        self.axes = found.vectors;
        self.apart = self.told;
        Ok(())
    }

    /// The next generation, from `P` times `n` standard normal numbers.
    ///
    /// # Errors
    /// As [`CmaEs::renew`].
    pub(crate) fn ask(&mut self, draws: &[f64]) -> Result<Vec<Vec<f64>>> {
        self.renew()?;
        let n = self.size();
        let one = |draws: &[f64]| {
            let mut x = self.mean.clone();
            let parts = draws.iter().zip(&self.lengths);
            for ((z, length), axis) in parts.zip(self.axes.chunks(n)) {
                let far = self.sigma * length * z;
                x.iter_mut().zip(axis).for_each(|(x, a)| *x += far * a);
            }
            x
        };
        Ok(draws.chunks(n).map(one).collect())
    }

    /// `C^(-1/2) x`, of the covariance as it was taken apart.
    fn whitened(&self, x: &[f64]) -> Vec<f64> {
        let mut all = vec![0.0; x.len()];
        for (axis, length) in self.axes.chunks(x.len()).zip(&self.lengths) {
            let along: f64 = axis.iter().zip(x).map(|(a, x)| a * x).sum();
            let along = along / length;
            all.iter_mut().zip(axis).for_each(|(y, a)| *y += along * a);
        }
        all
    }

    /// Places of `losses` from the best to the worst.
    pub(crate) fn order(losses: &[f64]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..losses.len()).collect();
        // Not a number is worse than any.
        let key = |i: usize| {
            if losses[i].is_nan() {
                f64::INFINITY
            } else {
                losses[i]
            }
        };
        order.sort_by(|a, b| key(*a).total_cmp(&key(*b)));
        order
    }

    /// Learns what the candidates that were asked came to.
    pub(crate) fn tell(&mut self, candidates: &[Vec<f64>], losses: &[f64]) {
        let (n, k) = (self.size(), self.constants.clone());
        let order = Self::order(losses);
        self.told += 1;
        let before = std::mem::replace(&mut self.mean, vec![0.0; n]);
        for (place, weight) in order.iter().zip(&k.weights[..k.mu]) {
            let best = &candidates[*place];
            self.mean
                .iter_mut()
                .zip(best)
                .for_each(|(m, x)| *m += weight * x);
        }
        let step: Vec<f64> = self.mean.iter().zip(&before).map(|(m, b)| m - b).collect();
        let scale = (k.cs * (2.0 - k.cs) * k.mueff).sqrt() / self.sigma;
        let seen = self.whitened(&step);
        for (path, seen) in self.step_path.iter_mut().zip(seen) {
            *path = (1.0 - k.cs) * *path + scale * seen;
        }
        let length = square(&self.step_path);
        let settled = 1.0 - (1.0 - k.cs).powi(2 * self.told as i32);
        let goes_on = length / settled / (n as f64) - 1.0 < 1.0 + 4.0 / (n as f64 + 1.0);
        let goes_on = f64::from(u8::from(goes_on));

        let scale = goes_on * (k.cc * (2.0 - k.cc) * k.mueff).sqrt() / self.sigma;
        for (path, step) in self.path.iter_mut().zip(&step) {
            *path = (1.0 - k.cc) * *path + scale * step;
        }
        // What a path that stands still would take from the covariance stays there.
        let kept = k.c1 * (1.0 - (1.0 - goes_on) * k.cc * (2.0 - k.cc));
        let parts: Vec<(f64, Vec<f64>)> = order
            .iter()
            .zip(&k.weights)
            .map(|(place, weight)| {
                let y: Vec<f64> = (candidates[*place].iter().zip(&before))
                    .map(|(x, b)| (x - b) / self.sigma)
                    .collect();
                let weight = k.cmu * weight;
                let weight = match weight < 0.0 {
                    // However far the worst are, they take away as much as one of usual length.
                    true => {
                        let far = square(&self.whitened(&y)).sqrt() + 1e-9;
                        weight * n as f64 / (far * far)
                    }
                    false => weight,
                };
                (weight, y)
            })
            .collect();
        let decay = 1.0 - kept - k.cmu * k.weights.iter().sum::<f64>();
        self.covariance.iter_mut().for_each(|c| *c *= decay);
        let path = std::iter::once((k.c1, &self.path));
        for (weight, y) in path.chain(parts.iter().map(|(w, y)| (*w, y))) {
            for (row, a) in self.covariance.chunks_mut(n).zip(y) {
                let a = weight * a;
                row.iter_mut().zip(y).for_each(|(c, b)| *c += a * b);
            }
        }
        let faster = (length.sqrt() / k.chi - 1.0) * k.cs / k.damps;
        self.sigma *= faster.min(1.0).exp();
    }

    /// Everything that a later generation depends on, by name, exactly.
    ///
    /// # Errors
    /// Those of candle.
    pub(crate) fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let n = self.size();
        let whole = [self.sigma, self.told as f64, self.apart as f64];
        let parts: [(&str, &[f64]); 7] = [
            ("mean", &self.mean),
            ("sigma", &whole),
            ("C", &self.covariance),
            ("pc", &self.path),
            ("ps", &self.step_path),
            ("axes", &self.axes),
            ("lengths", &self.lengths),
        ];
        let kept = |(name, values): (&str, &[f64])| {
            let values = Tensor::new(values, &Device::Cpu)?;
            let values = match values.elem_count() == n * n && n > 1 {
                true => values.reshape((n, n))?,
                false => values,
            };
            Ok((format!("search.{name}"), values))
        };
        parts.into_iter().map(kept).collect()
    }

    /// Goes on from what [`CmaEs::state`] gave; nothing where there is none of it.
    ///
    /// # Errors
    /// Tensors that are missing or of another size.
    pub(crate) fn restored(mut self, state: &BTreeMap<String, Tensor>) -> Result<Option<Self>> {
        if !state.keys().any(|name| name.starts_with("search.")) {
            return Ok(None);
        }
        let read = |name: &str, count: usize| -> Result<Vec<f64>> {
            let name = format!("search.{name}");
            match state.get(&name) {
                Some(t) if t.elem_count() == count => {
                    t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
                }
                Some(t) => bail!("{name} is {:?}, this search has {count} numbers", t.dims()),
                None => bail!("{name} is missing"),
            }
        };
        let n = self.size();
        self.mean = read("mean", n)?;
        self.covariance = read("C", n * n)?;
        self.path = read("pc", n)?;
        self.step_path = read("ps", n)?;
        self.axes = read("axes", n * n)?;
        self.lengths = read("lengths", n)?;
        let whole = read("sigma", 3)?;
        self.sigma = whole[0];
        (self.told, self.apart) = (whole[1] as usize, whole[2] as usize);
        Ok(Some(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Init;

    /// Values that pycma 4.5.0 prints.
    #[test]
    fn constants_are_pycmas() {
        let check = |n, candidates, want: [f64; 8]| {
            let k = Constants::new(n, candidates);
            let negative: f64 = k.weights[k.mu..].iter().sum();
            let got = [k.mueff, k.c1, k.cmu, k.cc, k.cs, k.damps, negative, k.gap];
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-12 * want.abs(), "{n}: {got} {want}");
            }
        };
        check(
            14,
            6,
            [
                2.028_611_464_610_061_7,
                0.008_470_319_165_415_572,
                0.005_980_418_046_279_515,
                0.226_623_607_023_381_83,
                0.211_713_370_263_646_67,
                1.211_713_370_263_646_7,
                -2.207_323_654_840_602,
                0.494_290_155_458_392_55,
            ],
        );
        check(
            8,
            30,
            [
                8.643_080_471_708_736,
                0.021_023_181_316_984_392,
                0.129_023_954_972_123_35,
                0.358_764_743_488_911_7,
                0.5,
                2.043_278_045_057_956_4,
                -0.823_444_824_542_980_4,
                0.083_307_154_732_465_25,
            ],
        );
    }

    #[test]
    fn mean_lengths_are_pycmas() {
        let want = [
            (3, 1.595_769_121_605_731),
            (100, 9.975_031_639_551_05),
            (1000, 31.614_871_896_980_08),
        ];
        for (n, want) in want {
            assert!((mean_length(n) - want).abs() < 1e-12 * want, "{n}");
        }
    }

    fn searched(n: usize, generations: u64, f: fn(&[f64]) -> f64) -> CmaEs {
        let mut es = CmaEs::new(n, 10, 0.5);
        for generation in 0..generations {
            let draws = Init::seeded(generation).normal(&[10, n], 1.0).unwrap();
            let draws: Vec<f64> = (draws.to_dtype(DType::F64).unwrap().flatten_all().unwrap())
                .to_vec1()
                .unwrap();
            let candidates = es.ask(&draws).unwrap();
            let losses: Vec<f64> = candidates.iter().map(|x| f(x)).collect();
            es.tell(&candidates, &losses);
        }
        es
    }

    #[test]
    fn it_finds_the_bottom_of_a_bowl_and_of_a_bent_valley() {
        let bowl = |x: &[f64]| x.iter().map(|x| (x - 1.5).powi(2)).sum::<f64>();
        let es = searched(8, 150, bowl);
        assert!(bowl(&es.mean) < 1e-10, "{}", bowl(&es.mean));
        assert!(es.sigma < 1e-4, "{}", es.sigma);
        let valley = |x: &[f64]| -> f64 {
            let steps = x.windows(2);
            steps
                .map(|w| 100.0 * (w[1] - w[0] * w[0]).powi(2) + (1.0 - w[0]).powi(2))
                .sum()
        };
        let es = searched(5, 350, valley);
        assert!(valley(&es.mean) < 1e-8, "{}", valley(&es.mean));
        // The valley is narrow: the distribution has learned which way it goes.
        let longest = es.lengths.iter().fold(0.0f64, |a, b| a.max(*b));
        let shortest = es.lengths.iter().fold(f64::INFINITY, |a, b| a.min(*b));
        assert!(longest > 10.0 * shortest, "{longest} {shortest}");
    }

    #[test]
    fn losses_that_are_no_numbers_are_the_worst_and_equal_ones_keep_their_order() {
        assert_eq!(CmaEs::order(&[f64::NAN, 1.0, 0.5, 1.0]), [2, 1, 3, 0]);
    }

    #[test]
    fn a_search_goes_on_from_its_state() {
        let es = searched(6, 7, |x| x.iter().map(|x| x.abs()).sum());
        let state = es.state().unwrap().into_iter().collect();
        let again = CmaEs::new(6, 10, 9.0).restored(&state).unwrap().unwrap();
        assert_eq!(format!("{es:?}"), format!("{again:?}"));
        assert!(CmaEs::new(5, 10, 9.0).restored(&state).is_err());
        assert!(
            CmaEs::new(6, 10, 9.0)
                .restored(&BTreeMap::new())
                .unwrap()
                .is_none()
        );
    }
}
