//! MTA: the answer of the mode of a test picture's views, found by mean shift with a weight for each view.
//!
//! Zanella and Ben Ayed, *On the test-time zero-shot generalization of vision-language models: Do we really need prompt
//! learning?*, <https://arxiv.org/abs/2405.02266>. Follows the authors' `mta.py` at 4d9d4b8, iteration counts included.
//!
//! No recorded run of it is known: it is checked against numbers worked out by hand and against the fixed points that its
//! two equations must have, below.
//!
//! Differs: no autocast. A bandwidth is at least what rounding makes of equal views; the authors' would divide 0 by 0 where
//! the near views are copies.
//!
//! `V` views, the first of them the test view; `K` classes, `E` joint width.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use clip::{Clip, model::unit};

use crate::parts::losses::softmax;
use crate::parts::views;
use crate::parts::wording::Wording;
use crate::{
    Backbones, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Method, Needs,
    Predict, Replay, Settings, TextCost,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "mta",
    title: "MTA",
    source: "https://arxiv.org/abs/2405.02266",
    group: Group::TestTime,
    training: None,
    read: |s| Box::new(MtaConfig::read(s)),
    checkpoint: None,
    replay: Replay::None,
};

/// Share of the other views, the nearest, that a view's bandwidth is measured by.
const NEAREST: f64 = 0.3;
/// Rounds of either equation, and of both together, at most.
const ROUNDS: usize = 5;
/// A round that moves less is the last.
const THRESHOLD: f32 = 1e-6;
/// Squared distance of unit vectors that rounding alone can make, with room to spare.
const ROUNDING: f32 = 1e-9;

#[derive(Clone, Debug)]
struct MtaConfig {
    wording: Wording,
    views: usize,
    augmix: bool,
    balance: Balance,
}

/// What weighs the terms of the inlierness scores.
#[derive(Clone, Copy, Debug)]
struct Balance {
    /// Of the affinity between views.
    affinity: f32,
    /// Of the scores' entropy: the temperature they are softened with.
    entropy: f32,
}

impl MtaConfig {
    fn read(s: &mut Settings) -> Self {
        let help = "\"a photo of a {}.\", the seven of CLIP's authors, or the dataset's own prompt";
        let balance = Balance {
            affinity: s.number(
                "lambda_q",
                4.0,
                0.0..=1e6,
                "weight of the affinity between the views' predictions",
            ) as f32,
            entropy: s.number(
                "lambda_y",
                0.2,
                1e-6..=1e6,
                "weight of the scores' entropy: what softens them",
            ) as f32,
        };
        Self {
            balance,
            wording: Wording::read(s, &["photo", "seven", "dataset"], help),
            views: views::read_count(s, 64),
            augmix: s.flag(
                "augmix",
                false,
                "AugMix on the views of fine-grained datasets",
            ),
        }
    }
}

impl Config for MtaConfig {
    fn needs(&self) -> Needs {
        Needs::views(self.views, self.augmix)
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, _: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(Mta {
            clip: on.clip.clone(),
            texts: self.wording.texts(&on.clip, classes)?,
            config: self.clone(),
        }))
    }
}

struct Mta {
    clip: Arc<Clip>,
    config: MtaConfig,
    /// `[K, E]`, unit length.
    texts: Tensor,
}

/// Squared distance of each row of `[n, E]` to `[1, E]`, as `[n]`.
fn squared_distances(features: &Tensor, to: &Tensor) -> Result<Vec<f32>> {
    features.broadcast_sub(to)?.sqr()?.sum(1)?.to_vec1()
}

/// Twice the squared bandwidth of each view: the mean squared distance of the nearest others.
fn bandwidths(features: &Tensor) -> Result<Vec<f32>> {
    let count = features.dim(0)?;
    let near = ((NEAREST * (count as f64 - 1.0)) as usize).max(1);
    (0..count)
        .map(|view| {
            let mut squared = squared_distances(features, &features.narrow(0, view, 1)?)?;
            squared.sort_by(f32::total_cmp);
            // The first is the distance to itself.
            let near = &squared[1..squared.len().min(near + 1)];
            Ok((near.iter().sum::<f32>() / near.len().max(1) as f32).max(ROUNDING))
        })
        .collect()
}

/// Density of each view at a mode, of its squared distance and twice its squared bandwidth.
fn densities(squared: &[f32], bandwidths: &[f32]) -> Vec<f32> {
    let density = |(squared, bandwidth): (&f32, &f32)| (-squared / bandwidth).exp();
    squared.iter().zip(bandwidths).map(density).collect()
}

/// Scores that sum to 1 and weigh density, affinity to the views that count, and evenness, from `scores` on.
fn inlierness(
    mut scores: Vec<f32>,
    density: &[f32],
    affinity: &[Vec<f32>],
    balance: Balance,
) -> Vec<f32> {
    for _ in 0..ROUNDS {
        let raw: Vec<f32> = density
            .iter()
            .zip(affinity)
            .map(|(density, row)| {
                let support: f32 = row.iter().zip(&scores).map(|(a, y)| a * y).sum();
                (density + balance.affinity * support) / balance.entropy
            })
            .collect();
        let top = raw.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let grown: Vec<f32> = raw.iter().map(|x| (x - top).exp()).collect();
        let sum: f32 = grown.iter().sum();
        let new: Vec<f32> = grown.iter().map(|x| x / sum).collect();
        let moved: f32 = new.iter().zip(&scores).map(|(a, b)| (a - b).powi(2)).sum();
        scores = new;
        if moved.sqrt() < THRESHOLD {
            break;
        }
    }
    scores
}

/// The mode `[1, E]` of unit-length views `[V, E]` with their logits `[V, K]`, and the views' scores.
fn mode(features: &Tensor, logits: &Tensor, balance: Balance) -> Result<(Tensor, Vec<f32>)> {
    let count = features.dim(0)?;
    let bandwidths = bandwidths(features)?;
    let p = softmax(logits)?;
    let affinity: Vec<Vec<f32>> = p.matmul(&p.t()?)?.to_vec2()?;
    let mut scores = vec![1.0 / count as f32; count];
    let mut mode = features.narrow(0, 0, 1)?;
    for _ in 0..ROUNDS {
        let density = densities(&squared_distances(features, &mode)?, &bandwidths);
        scores = inlierness(scores, &density, &affinity, balance);
        for _ in 0..ROUNDS {
            let density = densities(&squared_distances(features, &mode)?, &bandwidths);
            let weights: Vec<f32> = density.iter().zip(&scores).map(|(d, y)| d * y).collect();
            // Its length does not matter: what follows makes it 1.
            let pull = Tensor::new(weights, features.device())?.unsqueeze(0)?;
            let moved = unit(&pull.matmul(features)?)?;
            let distance = squared_distances(&moved, &mode)?[0].sqrt();
            mode = moved;
            if distance < THRESHOLD {
                break;
            }
        }
    }
    Ok((mode, scores))
}

impl Method for Mta {
    fn parameters(&self) -> Vec<(String, Var)> {
        Vec::new()
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.texts = self.config.wording.texts(&self.clip, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(TestTime(self)))
    }
}

struct TestTime<'a>(&'a Mta);

impl Predict for TestTime<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let Mta {
            clip,
            config,
            texts,
        } = self.0;
        let features = images.unit_features(clip)?; // [V, E]
        let logits = clip.logits(&features, texts)?; // [V, K]
        clip.logits(&mode(&features, &logits, config.balance)?.0, texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    const PUBLISHED: Balance = Balance {
        affinity: 4.0,
        entropy: 0.2,
    };

    /// Unit vectors of the plane at these degrees.
    fn at(degrees: &[f32]) -> Tensor {
        let rows: Vec<Vec<f32>> = degrees
            .iter()
            .map(|d| vec![d.to_radians().cos(), d.to_radians().sin()])
            .collect();
        Tensor::new(rows, &Device::Cpu).unwrap()
    }

    fn degrees_of(mode: &Tensor) -> f32 {
        let m: Vec<f32> = mode.flatten_all().unwrap().to_vec1().unwrap();
        m[1].atan2(m[0]).to_degrees()
    }

    #[test]
    fn a_bandwidth_is_the_mean_squared_distance_of_the_nearest_three_tenths() {
        // Of eight views two others count (0.3 of 7, rounded down). On a square's corners and their copies: from (1, 0)
        // its copy at 0 and a neighbour at squared distance 2.
        let got = bandwidths(&at(&[0.0, 0.0, 90.0, 90.0, 180.0, 180.0, 270.0, 270.0])).unwrap();
        assert!(got.iter().all(|b| (b - 1.0).abs() < 1e-5), "{got:?}");
    }

    #[test]
    fn one_round_of_scores_is_a_softmax_of_density_and_affinity() {
        // Two views that agree with themselves only: density 1 and 0.5, even scores. After one round the logits are
        // (1 + 2) / 1 and (0.5 + 2) / 1, further apart in each of the five.
        let balance = Balance {
            affinity: 4.0,
            entropy: 1.0,
        };
        let affinity = [vec![1.0, 0.0], vec![0.0, 1.0]];
        let mut want = [0.5f32, 0.5];
        for _ in 0..ROUNDS {
            let apart = 0.5 + 4.0 * (want[0] - want[1]);
            let first = 1.0 / (1.0 + (-apart).exp());
            want = [first, 1.0 - first];
        }
        let got = inlierness(vec![0.5, 0.5], &[1.0, 0.5], &affinity, balance);
        assert!((got[0] - want[0]).abs() < 1e-5 && (got[1] - want[1]).abs() < 1e-5);
        assert!(want[0] > 0.9);
        // Without affinity one round is the end: softmax of the densities.
        let balance = Balance {
            affinity: 0.0,
            ..balance
        };
        let got = inlierness(vec![0.5, 0.5], &[1.0, 0.5], &affinity, balance);
        let first = 1.0 / (1.0 + (-0.5f32).exp());
        assert!((got[0] - first).abs() < 1e-6, "{got:?}");
    }

    #[test]
    fn views_that_disagree_with_the_rest_lose_their_weight() {
        let features = at(&[10.0, 0.0, 5.0, -5.0, 3.0, -3.0, 2.0, 100.0, 130.0, 160.0]);
        let mut rows = vec![vec![5f32, 0.0]; 7];
        rows.extend(vec![vec![0f32, 5.0]; 3]);
        let logits = Tensor::new(rows, &Device::Cpu).unwrap();
        let (mode, scores) = mode(&features, &logits, PUBLISHED).unwrap();
        let outliers: f32 = scores[7..].iter().sum();
        assert!(outliers < 1e-3, "{scores:?}");
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        // Where it ended, density and scores pull it nowhere else.
        let squared = squared_distances(&features, &mode).unwrap();
        let density = densities(&squared, &bandwidths(&features).unwrap());
        let pull: Vec<f32> = density.iter().zip(&scores).map(|(d, y)| d * y).collect();
        let pull = Tensor::new(vec![pull], &Device::Cpu).unwrap();
        let pulled = degrees_of(&pull.matmul(&features).unwrap());
        let angle = degrees_of(&mode);
        assert!((angle - pulled).abs() < 1e-2, "{angle} {pulled}");
        assert!((-5.0..10.0).contains(&angle), "{angle}");
    }

    #[test]
    fn the_mode_stays_where_the_weighted_mean_of_the_views_is() {
        // Mirror images about 20 degrees, started from the view that lies there.
        let features = at(&[20.0, 10.0, 30.0, 0.0, 40.0, 15.0, 25.0]);
        let logits = Tensor::zeros((7, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let (mode, scores) = mode(&features, &logits, PUBLISHED).unwrap();
        assert!((degrees_of(&mode) - 20.0).abs() < 1e-3);
        for (a, b) in [(1, 2), (3, 4), (5, 6)] {
            assert!((scores[a] - scores[b]).abs() < 1e-5, "{scores:?}");
        }
    }

    #[test]
    fn copies_of_one_view_have_it_as_their_mode() {
        let features = at(&[30.0; 5]);
        let logits = Tensor::zeros((5, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let (mode, _) = mode(&features, &logits, PUBLISHED).unwrap();
        assert!((degrees_of(&mode) - 30.0).abs() < 1e-3);
    }
}
