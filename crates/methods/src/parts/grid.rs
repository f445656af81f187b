//! The search of cache methods for how sharp (beta) and how strong (alpha) their cache is, by validation accuracy.
//!
//! The scores of a picture are `z + alpha sum_j exp(-beta (1 - a_j)) exp(gamma d_j) v_j`: `z` zero-shot scores, `a_j` its
//! affinity to key `j`, `v_j` the key's one-hot class and `d_j` a number of the key. For a given beta and gamma they are lines
//! in alpha, so the alphas at which the label wins are an interval. `V` pictures, `N` keys, `K` classes.

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use crate::Settings;

/// Evenly spaced values from 0.1 (of gamma: 0) up to but without `most`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    /// First value.
    pub first: f64,
    /// Upper end, excluded.
    pub most: f64,
    /// How many.
    pub count: usize,
}

impl Axis {
    /// From 0.1, as of alpha and beta.
    pub fn new(most: f64, count: usize) -> Self {
        Self {
            first: 0.1,
            most,
            count,
        }
    }

    /// Value `i`, with the released code's order of operations.
    pub fn at(&self, i: usize) -> f64 {
        i as f64 * (self.most - self.first) / self.count as f64 + self.first
    }

    /// All values.
    pub fn values(&self) -> Vec<f64> {
        (0..self.count).map(|i| self.at(i)).collect()
    }
}

/// What is searched over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Of the affinity.
    pub beta: Axis,
    /// Of the cache's scores.
    pub alpha: Axis,
    /// Of the keys' own numbers.
    pub gamma: Axis,
}

/// The point of a grid that is best.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Sharpness.
    pub beta: f64,
    /// Strength.
    pub alpha: f64,
    /// Weight of the keys' own numbers.
    pub gamma: f64,
}

impl Grid {
    /// Reads how far alpha and beta are searched, with ImageNet's published scale as default.
    pub fn read(s: &mut Settings, most_beta: f64, most_alpha: f64) -> Self {
        let mut axis = |names: [&'static str; 2], most, count, helps: [&'static str; 2]| {
            let most = s.number(names[0], most, 0.1..=1000.0, helps[0]);
            Axis::new(most, s.count(names[1], count, 1..=10_000, helps[1]))
        };
        let beta = axis(
            ["most_beta", "betas"],
            most_beta,
            200,
            [
                "upper end of the search for beta (published by dataset; this is ImageNet's)",
                "betas that are tried",
            ],
        );
        let alpha = axis(
            ["most_alpha", "alphas"],
            most_alpha,
            20,
            [
                "upper end of the search for alpha (published by dataset; this is ImageNet's)",
                "alphas that are tried",
            ],
        );
        let gamma = Axis {
            first: 0.0,
            most: 0.0,
            count: 1,
        };
        Self { beta, alpha, gamma }
    }

    /// Points there are.
    pub fn len(&self) -> usize {
        self.beta.count * self.alpha.count * self.gamma.count
    }

    fn point(&self, index: usize) -> Point {
        let (rest, gamma) = (index / self.gamma.count, index % self.gamma.count);
        Point {
            beta: self.beta.at(rest / self.alpha.count),
            alpha: self.alpha.at(rest % self.alpha.count),
            gamma: self.gamma.at(gamma),
        }
    }

    /// The first of the points with most hits, betas outermost and gammas innermost; zeros where no point has any, as published.
    pub fn best(&self, hits: &[u32]) -> Point {
        let most = hits.iter().copied().max().unwrap_or(0);
        match hits.iter().position(|h| *h == most) {
            Some(index) if most > 0 => self.point(index),
            _ => Point::default(),
        }
    }
}

/// What a grid is searched with.
pub struct Search<'a> {
    /// `[V, K]`.
    pub zero_shot: &'a Tensor,
    /// `[V, N]`.
    pub affinity: &'a Tensor,
    /// Of the `V` pictures.
    pub labels: &'a [u32],
    /// Of the `N` keys.
    pub keys: &'a [u32],
    /// `d` of each key; `None`: zeros.
    pub own: Option<&'a [f64]>,
}

fn rows(t: &Tensor) -> Result<Vec<Vec<f64>>> {
    t.to_dtype(DType::F64)?.to_vec2()
}

impl Search<'_> {
    /// Pictures whose label wins at each point `[betas, alphas, gammas]`, flat.
    ///
    /// # Errors
    /// Those of candle.
    pub fn hits(&self, grid: &Grid) -> Result<Vec<u32>> {
        let (zero_shot, affinity) = (rows(self.zero_shot)?, rows(self.affinity)?);
        let alphas = grid.alpha.values();
        let weights: Vec<Vec<f64>> = grid
            .gamma
            .values()
            .iter()
            .map(|gamma| {
                let own = |j: usize| self.own.map_or(0.0, |own| own[j]);
                (0..self.keys.len())
                    .map(|j| (gamma * own(j)).exp())
                    .collect()
            })
            .collect();
        let pictures = zero_shot.par_iter().zip(&affinity).zip(self.labels);
        let none = || vec![0u32; grid.len()];
        let counted = pictures.fold(none, |mut hits, ((zero_shot, affinity), label)| {
            self.picture(
                grid,
                &alphas,
                &weights,
                (zero_shot, affinity),
                *label as usize,
                &mut hits,
            );
            hits
        });
        Ok(counted.reduce(none, |mut a, b| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            a
        }))
    }

    /// Adds a picture to the points at which its label wins.
    fn picture(
        &self,
        grid: &Grid,
        alphas: &[f64],
        weights: &[Vec<f64>],
        (zero_shot, affinity): (&[f64], &[f64]),
        label: usize,
        hits: &mut [u32],
    ) {
        let step = (grid.beta.most - grid.beta.first) / grid.beta.count as f64;
        // Betas are evenly spaced, so each exponential is the last one times a ratio.
        let mut powers: Vec<f64> = affinity
            .iter()
            .map(|a| (-grid.beta.first * (1.0 - a)).exp())
            .collect();
        let ratios: Vec<f64> = affinity.iter().map(|a| (-step * (1.0 - a)).exp()).collect();
        let mut cache = vec![0f64; zero_shot.len()];
        for b in 0..grid.beta.count {
            for (g, weights) in weights.iter().enumerate() {
                cache.fill(0.0);
                for ((power, weight), class) in powers.iter().zip(weights).zip(self.keys) {
                    cache[*class as usize] += power * weight;
                }
                let Some((least, most)) = winning(zero_shot, &cache, label) else {
                    continue;
                };
                for (a, alpha) in alphas.iter().enumerate() {
                    let wins = (least..=most).contains(alpha);
                    hits[(b * alphas.len() + a) * grid.gamma.count + g] += u32::from(wins);
                }
            }
            for (power, ratio) in powers.iter_mut().zip(&ratios) {
                *power *= ratio;
            }
        }
    }
}

/// The interval of alphas at which `label` is largest in `zero_shot + alpha cache`; of equals at every alpha the first wins.
fn winning(zero_shot: &[f64], cache: &[f64], label: usize) -> Option<(f64, f64)> {
    let (mut least, mut most) = (f64::NEG_INFINITY, f64::INFINITY);
    for (class, (z, c)) in zero_shot.iter().zip(cache).enumerate() {
        if class == label {
            continue;
        }
        let (lead, slope) = (z - zero_shot[label], c - cache[label]);
        if slope > 0.0 {
            most = most.min(-lead / slope);
        } else if slope < 0.0 {
            least = least.max(-lead / slope);
        } else if lead > 0.0 || (lead == 0.0 && class < label) {
            return None;
        }
    }
    (least <= most).then_some((least, most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn hits_are_those_of_scoring_every_point() {
        let values = |n: usize, seed: u64, scale: f64| -> Vec<f64> {
            let mut s = seed;
            (0..n)
                .map(|_| {
                    s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                    (s >> 33) as f64 / (1u64 << 31) as f64 * scale
                })
                .collect()
        };
        let tensor = |v: &[f64], shape| Tensor::from_slice(v, shape, &Device::Cpu).unwrap();
        let (zero, near) = (values(7 * 3, 1, 4.0), values(7 * 5, 2, 1.0));
        let (labels, keys, own) = ([0, 1, 2, 0, 1, 2, 2], [0, 0, 1, 2, 1], values(5, 3, 2.0));
        let grid = Grid {
            beta: Axis::new(9.0, 4),
            alpha: Axis::new(6.0, 5),
            gamma: Axis {
                first: 0.0,
                most: 1.0,
                count: 3,
            },
        };
        let search = Search {
            zero_shot: &tensor(&zero, (7, 3)),
            affinity: &tensor(&near, (7, 5)),
            labels: &labels,
            keys: &keys,
            own: Some(&own),
        };
        let got = search.hits(&grid).unwrap();
        let want: Vec<u32> = (0..grid.len())
            .map(|index| {
                let p = grid.point(index);
                let right = |v: usize| {
                    let mut scores = zero[v * 3..v * 3 + 3].to_vec();
                    for j in 0..5 {
                        let cache = (-p.beta * (1.0 - near[v * 5 + j])).exp();
                        scores[keys[j] as usize] += p.alpha * cache * (p.gamma * own[j]).exp();
                    }
                    let best = (0..3)
                        .max_by(|a, b| scores[*a].total_cmp(&scores[*b]))
                        .unwrap();
                    best == labels[v] as usize
                };
                (0..7).filter(|v| right(*v)).count() as u32
            })
            .collect();
        assert_eq!(got, want);
        assert!(want.iter().any(|h| *h != want[0]), "the grid is not flat");
        // The first of the best, and nothing where nothing is right.
        let two = Grid {
            beta: Axis::new(2.1, 2),
            alpha: Axis::new(1.1, 2),
            gamma: Axis {
                first: 0.0,
                most: 0.0,
                count: 1,
            },
        };
        let best = two.best(&[1, 3, 3, 2]);
        assert_eq!((best.beta, best.alpha), (0.1, 0.6));
        assert_eq!(two.best(&[0; 4]), Point::default());
    }
}
