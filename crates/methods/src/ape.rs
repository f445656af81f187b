//! APE: a cache on the channels that tell classes apart, its values weighted by how far each key is from its class's text;
//! nothing is trained.
//!
//! Zhu et al., *Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior Refinement*,
//! <https://arxiv.org/abs/2304.01195>. Follows `APE` of the authors' `main.py` at 70460de.
//!
//! `B` images, `K` classes, `N` shots, `E` joint width, `Q` channels kept.
//!
//! Differs: texts are of templates alone, the authors average sentences of a language model in. They search on the whole
//! validation split (`paper_compat`), and on ImageNet's test pictures; here on the few validation shots.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor, Var, bail};
use clip::{Clip, model::unit};

use crate::parts::cache::{COMPAT, CROP, Recorded, SCALE, validation};
use crate::parts::grid::{Axis, Grid, Point, Search};
use crate::parts::losses::softmax;
use crate::parts::rows::Rows;
use crate::parts::{shots, templates, texts};
use crate::replay::{Comparison, Stage};
use crate::{
    Backbones, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Method, Needs,
    Predict, Replay, Settings, Shots, Support, TextCost,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "ape",
    title: "APE",
    source: "https://arxiv.org/abs/2304.01195",
    group: Group::TrainingFree,
    training: None,
    read: |s| Box::new(ApeConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["ape"], replay),
};

/// Defaults are ImageNet's of the authors' `configs/`, for ResNet-50; the others belong into suites.
#[derive(Clone, Debug)]
struct ApeConfig {
    first: Point,
    channels: f64,
    similarity: f64,
    variance: f64,
    search: bool,
    grid: Grid,
    passes: usize,
    paper_compat: bool,
}

impl ApeConfig {
    fn read(s: &mut Settings) -> Self {
        let weight = 0.0..=1000.0;
        let first = Point {
            beta: s.number(
                "beta",
                1.0,
                weight.clone(),
                "sharpness of the cache, where it is not searched",
            ),
            alpha: s.number(
                "alpha",
                2.0,
                weight.clone(),
                "strength of the cache, where it is not searched",
            ),
            gamma: s.number(
                "gamma",
                0.1,
                weight.clone(),
                "weight of a key's divergence, where it is not searched",
            ),
        };
        let channels = "share of the channels that are kept (published by dataset: 400 to 800 of 1024; ImageNet 500)";
        let gammas = "gammas that are tried";
        let most_gamma =
            "upper end of the search for gamma (published by dataset; this is ImageNet's)";
        Self {
            first,
            channels: s.number("channels", 0.488_281_25, 0.0..=1.0, channels),
            similarity: s.number(
                "similarity",
                0.7,
                weight.clone(),
                "weight of similarity between classes in a channel",
            ),
            variance: s.number(
                "variance",
                0.3,
                weight.clone(),
                "weight of a channel's variance over the texts",
            ),
            search: s.flag(
                "search",
                true,
                "search alpha, beta and gamma on validation pictures",
            ),
            grid: Grid {
                gamma: Axis {
                    first: 0.0,
                    most: s.number("most_gamma", 0.5, weight, most_gamma),
                    count: s.count("gammas", 5, 1..=10_000, gammas),
                },
                ..Grid::read(s, 7.0, 7.0)
            },
            passes: s.count("passes", 10, 1..=1000, "views a key is averaged over"),
            paper_compat: s.flag("paper_compat", false, COMPAT),
        }
    }

    fn kept(&self, width: usize) -> usize {
        ((self.channels * width as f64).round() as usize).clamp(1, width)
    }
}

impl Config for ApeConfig {
    fn needs(&self) -> Needs {
        Needs {
            support: Some(Support::Passes(self.passes)),
            validation: validation(self.search, self.paper_compat),
            crop: CROP,
            ..Needs::features()
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, _: &mut Init) -> Result<Box<dyn Method>> {
        let used = templates::on_features(classes);
        Ok(Box::new(Ape::new(&on.clip, self, classes, &used)?))
    }
}

struct Ape {
    clip: Arc<Clip>,
    config: ApeConfig,
    rows: Rows,
    /// `[K, E]`, unit length.
    texts: Tensor,
    filled: Option<Filled>,
    point: Point,
}

/// What is made of the shots.
struct Filled {
    /// `[Q]`, ascending.
    channels: Vec<u32>,
    /// `[N, Q]`, unit length.
    keys: Tensor,
    labels: Vec<u32>,
    /// Of each key from its class's text.
    divergence: Vec<f64>,
}

/// Unit features `[n, E]` on `channels` alone, of unit length again.
fn reduced(features: &Tensor, channels: &[u32]) -> Result<Tensor> {
    unit(&features.index_select(&Tensor::new(channels, features.device())?, 1)?)
}

/// `[E]`: the variance of a channel over the texts `[K, E]`, weighted, less the mean product in it of two vectors of
/// different classes, which are its keys `[N, E]` and its text.
fn criterion(texts: &Tensor, keys: &Tensor, labels: &[u32], config: &ApeConfig) -> Result<Tensor> {
    let classes = texts.dim(0)?;
    let own = shots::one_hot(labels, classes, keys)?; // [N, K]
    let sums = (texts + own.t()?.matmul(keys)?)?; // [K, E]
    let mut counts = vec![1f64; classes];
    labels.iter().for_each(|l| counts[*l as usize] += 1.0);
    let all: f64 = counts.iter().sum();
    let pairs = all * all - counts.iter().map(|n| n * n).sum::<f64>();
    let products = (sums.sum(0)?.sqr()? - sums.sqr()?.sum(0)?)?;
    let variance = texts.var(0)?;
    (products * (-config.similarity / pairs))? + (variance * config.variance)?
}

/// The `keep` largest, ascending.
fn largest(values: &Tensor, keep: usize) -> Result<Vec<u32>> {
    let values: Vec<f32> = values.to_vec1()?;
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    order.sort_by(|a, b| values[*b as usize].total_cmp(&values[*a as usize]));
    order.truncate(keep);
    order.sort_unstable();
    Ok(order)
}

/// Of each key `[N, Q]` the divergence of its one-hot label from its cosines to the texts `[K, Q]`, in bits.
fn divergence(keys: &Tensor, texts: &Tensor, labels: &[u32]) -> Result<Vec<f64>> {
    let p: Vec<Vec<f32>> = softmax(&keys.matmul(&texts.t()?)?)?.to_vec2()?;
    let of = |(p, label): (Vec<f32>, &u32)| {
        let own = f64::from(p[*label as usize]);
        ((1.0 + 1e-6) / (own + 1e-6)).log2() // every other class adds 0
    };
    Ok(p.into_iter().zip(labels).map(of).collect())
}

impl Ape {
    fn new(clip: &Arc<Clip>, config: &ApeConfig, classes: &Classes, used: &[&str]) -> Result<Self> {
        if classes.len() < 2 {
            bail!("channels that tell classes apart need at least two classes");
        }
        Ok(Self {
            clip: clip.clone(),
            config: config.clone(),
            rows: Rows::new(classes)?,
            texts: texts::averaged(clip, &classes.names, used)?,
            filled: None,
            point: config.first,
        })
    }

    fn filled(&self) -> Result<&Filled> {
        match &self.filled {
            Some(filled) => Ok(filled),
            None => bail!("{}", shots::NOT_YET),
        }
    }

    /// `[B, K]` of all channels of unit features, without the cache.
    fn zero_shot(&self, features: &Tensor) -> Result<Tensor> {
        features.matmul(&self.texts.t()?)? * SCALE
    }

    /// `[B, K]` of unit features.
    fn scores(&self, features: &Tensor, at: Point) -> Result<Tensor> {
        let filled = self.filled()?;
        let affinity = reduced(features, &filled.channels)?.matmul(&filled.keys.t()?)?; // [B, N]
        let near = ((affinity - 1.0)? * at.beta)?.exp()?;
        let weights = filled
            .divergence
            .iter()
            .map(|d| (at.gamma * d).exp() as f32);
        let weights: Vec<f32> = weights.collect();
        let near = near.broadcast_mul(&Tensor::new(weights, near.device())?)?;
        let values = shots::one_hot(&filled.labels, self.texts.dim(0)?, &near)?; // [N, K]
        self.zero_shot(features)? + (near.matmul(&values)? * at.alpha)?
    }

    fn fill(&mut self, given: &Shots) -> Result<()> {
        let labels = given.train.labels.clone();
        shots::of_each_class(&labels, self.rows.trained())?;
        let keys = shots::unit_features(&self.clip, &given.train)?;
        let keep = self.config.kept(keys.dim(1)?);
        let channels = largest(&criterion(&self.texts, &keys, &labels, &self.config)?, keep)?;
        let keys = reduced(&keys, &channels)?;
        let divergence = divergence(&keys, &reduced(&self.texts, &channels)?, &labels)?;
        self.filled = Some(Filled {
            divergence: divergence.into_iter().map(shots::as_kept).collect(),
            channels,
            keys,
            labels,
        });
        Ok(())
    }

    /// Validation pictures that are right at each point of the grid.
    fn searched(&self, given: &Shots) -> Result<Vec<u32>> {
        let (filled, pictures) = (self.filled()?, shots::validation(given)?);
        let features = shots::unit_features(&self.clip, pictures)?;
        let search = Search {
            zero_shot: &self.zero_shot(&features)?,
            affinity: &reduced(&features, &filled.channels)?.matmul(&filled.keys.t()?)?,
            labels: &pictures.labels,
            keys: &filled.labels,
            own: Some(&filled.divergence),
        };
        search.hits(&self.config.grid)
    }
}

impl Method for Ape {
    fn parameters(&self) -> Vec<(String, Var)> {
        Vec::new()
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let Some(filled) = &self.filled else {
            return Vec::new();
        };
        let kept = |name: &str, t: Result<Tensor>| {
            (name.to_owned(), t.expect("a list of numbers is a tensor"))
        };
        let floats: Vec<f32> = filled.divergence.iter().map(|d| *d as f32).collect();
        vec![
            ("cache_keys".to_owned(), filled.keys.clone()),
            kept("cache_labels", shots::labels_kept(&filled.labels)),
            kept("channels", shots::labels_kept(&filled.channels)),
            kept("divergence", Tensor::new(floats, filled.keys.device())),
            kept("beta", shots::number(self.point.beta)),
            kept("alpha", shots::number(self.point.alpha)),
            kept("gamma", shots::number(self.point.gamma)),
        ]
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let get = |name: &str| match state.get(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("the state of the cache has no {name}"),
        };
        let labels = shots::labels_of(get("cache_labels")?, self.texts.dim(0)?)?;
        let channels = shots::labels_of(get("channels")?, self.texts.dim(1)?)?;
        let own: Vec<f32> = get("divergence")?.to_dtype(DType::F32)?.to_vec1()?;
        let keys = get("cache_keys")?.clone();
        if keys.dims() != [labels.len(), channels.len()] || own.len() != labels.len() {
            bail!(
                "the keys are {:?}, there are {} labels and {} channels",
                keys.dims(),
                labels.len(),
                channels.len()
            );
        }
        self.point = Point {
            beta: shots::number_of(get("beta")?)?,
            alpha: shots::number_of(get("alpha")?)?,
            gamma: shots::number_of(get("gamma")?)?,
        };
        self.filled = Some(Filled {
            channels,
            keys,
            labels,
            divergence: own.into_iter().map(f64::from).collect(),
        });
        Ok(())
    }

    fn fit(&mut self, given: &Shots) -> Result<()> {
        self.fill(given)?;
        let best = match self.config.search {
            true => self.config.grid.best(&self.searched(given)?),
            false => self.config.first,
        };
        self.point = Point {
            beta: shots::as_kept(best.beta),
            alpha: shots::as_kept(best.alpha),
            gamma: shots::as_kept(best.gamma),
        };
        Ok(())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.rows.bind(classes)
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        self.filled()?;
        Ok(Box::new(Refined { ape: self }))
    }
}

struct Refined<'a> {
    ape: &'a Ape,
}

impl Predict for Refined<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let features = images.unit_features(&self.ape.clip)?;
        self.ape
            .rows
            .of(&self.ape.scores(&features, self.ape.point)?)
    }
}

/// Texts, keys, the criterion and what it selects, the grid and what it chooses, scores before and after.
fn replay(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let recorded = Recorded::of(r)?;
    let mut config = ApeConfig::read(&mut Settings::default());
    let axis = |i: usize, first: f64| -> Result<Axis> {
        let at = |key: &str| r.at(&format!("/params/{key}/{i}"));
        match (at("search_scale"), at("search_step")) {
            (Some(most), Some(count)) => Ok(Axis {
                first,
                most,
                count: count as usize,
            }),
            _ => bail!("params.search_scale and search_step: must be three numbers"),
        }
    };
    config.grid = Grid {
        beta: axis(0, 0.1)?,
        alpha: axis(1, 0.1)?,
        gamma: axis(2, 0.0)?,
    };
    config.first = Point {
        beta: r.number("init_beta")?,
        alpha: r.number("init_alpha")?,
        gamma: r.number("init_gamma")?,
    };
    let weight = |i: usize| r.at(&format!("/params/w_training_free/{i}")).unwrap_or(0.0);
    (config.similarity, config.variance) = (weight(0), weight(1));
    config.channels = r.number("training_free_feat_num")? / stage.clip.embedding_size() as f64;
    let mut ape = Ape::new(&stage.clip, &config, &r.classes()?, &recorded.templates())?;
    c.values("text_weights", &ape.texts.t()?, r.get("text_weights")?)?;
    let labels = recorded.shots.train.labels.clone();
    let keys = shots::unit_features(&stage.clip, &recorded.shots.train)?;
    c.values("cache_keys", &keys.t()?, r.get("cache_keys")?)?;
    let ours = criterion(&ape.texts, &keys, &labels, &config)?;
    c.values("criterion", &ours, r.get("criterion")?)?;
    ape.fill(&recorded.shots)?;
    let theirs: Vec<u32> = r.get("selected")?.to_dtype(DType::U32)?.to_vec1()?;
    c.choice("selected", &ape.filled()?.channels, &theirs);

    let features = Images::Pixels(r.get("test_images")?.clone()).unit_features(&stage.clip)?;
    let zero_shot = ape.zero_shot(&features)?;
    c.logits(&zero_shot, r.get("logits.zero_shot")?)?;
    let first = ape.scores(&features, config.first)?;
    c.logits(&first, r.get("logits.ape")?)?;
    let hits = ape.searched(&recorded.shots)?;
    let val = &shots::validation(&recorded.shots)?.labels;
    c.hits("grid", &hits, val.len(), r.get("grid")?)?;
    let best = config.grid.best(&hits);
    c.chosen("beta", best.beta, r.at("/searched/beta"));
    c.chosen("alpha", best.alpha, r.at("/searched/alpha"));
    c.chosen("gamma", best.gamma, r.at("/searched/gamma"));
    ape.fit(&recorded.shots)?;
    let images = Images::Pixels(r.get("test_images")?.clone());
    let last = ape.predictor()?.logits(&images)?;
    c.logits(&last, r.get("logits.ape_searched")?)?;
    let test = &recorded.test_labels;
    c.accuracy("zero_shot_acc", &zero_shot, test, r.at("/zero_shot_acc"))?;
    c.accuracy("init_test_acc", &first, test, r.at("/init_test_acc"))?;
    c.accuracy("test_acc", &last, test, r.at("/searched/test_acc"))?;
    let features = shots::unit_features(&stage.clip, shots::validation(&recorded.shots)?)?;
    let chosen = ape.scores(&features, best)?;
    c.accuracy("val_acc", &chosen, val, r.at("/searched/val_acc"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_criterion_is_variance_less_the_mean_product_of_pairs_of_different_classes() {
        // Channel 0: texts 1 and 0, keys 2 (class 0), 3 and 1 (class 1). Channel 1: all 1.
        let of = |v: &[[f32; 2]]| Tensor::from_vec(v.concat(), (v.len(), 2), &Device::Cpu).unwrap();
        let texts = of(&[[1.0, 1.0], [0.0, 1.0]]);
        let keys = of(&[[2.0, 1.0], [3.0, 1.0], [1.0, 1.0]]);
        let mut config = ApeConfig::read(&mut Settings::default());
        (config.similarity, config.variance) = (0.5, 0.25);
        let got: Vec<f32> = criterion(&texts, &keys, &[0, 1, 1], &config)
            .unwrap()
            .to_vec1()
            .unwrap();
        // (1 + 2)(0 + 3 + 1) / 6 = 2 of 6 pairs; unbiased variance of 1 and 0: 0.5.
        let want = [-0.5 * 2.0 + 0.25 * 0.5, -0.5];
        assert!(
            got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6),
            "{got:?}"
        );
        assert_eq!(
            largest(
                &Tensor::new(&[1f32, 4.0, 2.0, 3.0], &Device::Cpu).unwrap(),
                2
            )
            .unwrap(),
            [1, 3]
        );
    }
}
