//! The cache of Tip-Adapter: features of the few shots as keys, their labels as values, behind zero-shot scores.
//!
//! `B` images, `K` classes, `N` shots, `E` joint width.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use clip::Clip;

use crate::parts::described::Classifier;
use crate::parts::grid::{Axis, Grid, Point, Search};
use crate::parts::rows::Rows;
use crate::parts::{shots, texts};
use crate::replay::Recording;
use crate::{Classes, Images, Needs, Settings, Shots, Support, Validation};

/// What the released code multiplies cosines by, whatever the backbone's temperature.
pub const SCALE: f64 = 100.0;

/// Share of the picture that crops of the cache and of training cover in Tip-Adapter and in what follows it.
pub const CROP: (f64, f64) = (0.5, 1.0);

/// Settings of a cache. Defaults are ImageNet's of the authors' `configs/`; the others belong into suites.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    pub alpha: f64,
    pub beta: f64,
    /// Whether alpha and beta are searched on validation pictures.
    pub search: bool,
    pub grid: Grid,
    pub passes: usize,
    /// Whether to choose by pictures that a few-shot learner does not have, as the released code does.
    pub paper_compat: bool,
    /// What the cache stands behind.
    pub base: Classifier,
}

/// Help of `paper_compat`, the same wherever it is about the whole validation split alone.
pub const COMPAT: &str =
    "choose by the whole validation split as released; without it by the few validation shots";

impl CacheConfig {
    /// Reads them.
    pub fn read(s: &mut Settings, compat: &'static str) -> Self {
        let alpha = "strength of the cache, where it is not searched and while training";
        let beta = "sharpness of the cache, where it is not searched and while training";
        Self {
            alpha: s.number("alpha", 1.17, 0.0..=1000.0, alpha),
            beta: s.number("beta", 1.0, 0.0..=1000.0, beta),
            search: s.flag(
                "search",
                true,
                "search alpha and beta on validation pictures",
            ),
            grid: Grid::read(s, 7.0, 3.0),
            passes: s.count("passes", 10, 1..=1000, "views a key is averaged over"),
            paper_compat: s.flag("paper_compat", false, compat),
            base: Classifier::read(s),
        }
    }

    /// What it asks for.
    pub fn needs(&self) -> Needs {
        self.base.needs(Needs {
            support: Some(Support::Passes(self.passes)),
            validation: validation(self.search, self.paper_compat),
            crop: CROP,
            ..Needs::features()
        })
    }
}

/// Validation pictures of a method that may search, on few of them or as released on all.
pub fn validation(search: bool, paper_compat: bool) -> Validation {
    match (search, paper_compat) {
        (false, _) => Validation::None,
        (true, false) => Validation::Few,
        (true, true) => Validation::Whole,
    }
}

/// A cache with the texts it stands behind.
pub struct Cache {
    clip: Arc<Clip>,
    pub config: CacheConfig,
    pub rows: Rows,
    /// `[K, E]`, unit length.
    pub texts: Tensor,
    /// `[N, E]`, unit length, with their labels, once there are any.
    pub filled: Option<(Tensor, Vec<u32>)>,
    /// Strength and sharpness in use.
    pub point: Point,
    /// Unit features of the validation pictures, with their labels.
    chosen_by: Option<(Tensor, Vec<u32>)>,
}

impl Cache {
    /// An empty one, behind the average of `templates`, or behind descriptions.
    ///
    /// # Errors
    /// Those of the text tower; no classes.
    pub fn new(
        clip: &Arc<Clip>,
        config: &CacheConfig,
        classes: &Classes,
        templates: &[&str],
    ) -> Result<Self> {
        Ok(Self {
            rows: Rows::new(classes)?,
            texts: config.base.texts(clip, classes, || {
                texts::averaged(clip, &classes.names, templates)
            })?,
            clip: clip.clone(),
            config: config.clone(),
            filled: None,
            point: Point {
                beta: shots::as_kept(config.beta),
                alpha: shots::as_kept(config.alpha),
                gamma: 0.0,
            },
            chosen_by: None,
        })
    }

    /// Takes the shots as keys.
    ///
    /// # Errors
    /// A class without a shot; validation pictures that are missing.
    pub fn fill(&mut self, given: &Shots) -> Result<()> {
        shots::of_each_class(&given.train.labels, self.rows.trained())?;
        let keys = shots::unit_features(&self.clip, &given.train)?;
        self.filled = Some((keys, given.train.labels.clone()));
        if self.config.search {
            let pictures = shots::validation(given)?;
            let features = shots::unit_features(&self.clip, pictures)?;
            self.chosen_by = Some((features, pictures.labels.clone()));
        }
        Ok(())
    }

    /// `[B, E]`, unit length.
    ///
    /// # Errors
    /// Those of the image tower.
    pub fn features(&self, images: &Images) -> Result<Tensor> {
        images.unit_features(&self.clip)
    }

    /// `[B, K]` of unit features, without the cache.
    ///
    /// # Errors
    /// Those of candle.
    pub fn zero_shot(&self, features: &Tensor) -> Result<Tensor> {
        features.matmul(&self.texts.t()?)? * SCALE
    }

    /// `[N, K]`: the one-hot labels of the keys.
    ///
    /// # Errors
    /// When there are no keys yet.
    pub fn values(&self) -> Result<Tensor> {
        match &self.filled {
            None => bail!("{}", shots::NOT_YET),
            Some((keys, labels)) => shots::one_hot(labels, self.rows.trained().len(), keys),
        }
    }

    /// `[B, K]` of unit features, with `keys` `[N, E]` in the cache and `values` as [`Cache::values`].
    ///
    /// # Errors
    /// Those of candle.
    pub fn scores(
        &self,
        features: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        at: Point,
    ) -> Result<Tensor> {
        let affinity = features.matmul(&keys.t()?)?; // [B, N]
        let near = ((affinity - 1.0)? * at.beta)?.exp()?;
        self.zero_shot(features)? + (near.matmul(values)? * at.alpha)?
    }

    /// Validation pictures that are right at each point of the grid with `keys`; `None` where nothing is searched.
    ///
    /// # Errors
    /// Those of candle.
    pub fn searched(&self, keys: &Tensor) -> Result<Option<Vec<u32>>> {
        let (Some((features, labels)), Some((_, own))) = (&self.chosen_by, &self.filled) else {
            return Ok(None);
        };
        let search = Search {
            zero_shot: &self.zero_shot(features)?,
            affinity: &features.matmul(&keys.t()?)?,
            labels,
            keys: own,
            own: None,
        };
        search.hits(&self.config.grid).map(Some)
    }

    /// What the search will look at, as long as it is to come.
    pub fn searched_by(&self) -> Option<&(Tensor, Vec<u32>)> {
        self.chosen_by.as_ref()
    }

    /// Puts it back, or takes it away.
    pub fn search_by(&mut self, pictures: Option<(Tensor, Vec<u32>)>) {
        self.chosen_by = pictures;
    }

    /// Uses the best of the grid from now on, where it is searched.
    ///
    /// # Errors
    /// Those of candle.
    pub fn choose(&mut self, keys: &Tensor) -> Result<()> {
        if let Some(hits) = self.searched(keys)? {
            let best = self.config.grid.best(&hits);
            self.point.beta = shots::as_kept(best.beta);
            self.point.alpha = shots::as_kept(best.alpha);
        }
        Ok(())
    }

    /// Everything but the keys, to score again.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let Some((_, labels)) = &self.filled else {
            return Vec::new();
        };
        let kept = |name: &str, t: Result<Tensor>| {
            (name.to_owned(), t.expect("a list of numbers is a tensor"))
        };
        vec![
            kept("cache_labels", shots::labels_kept(labels)),
            kept("alpha", shots::number(self.point.alpha)),
            kept("beta", shots::number(self.point.beta)),
        ]
    }

    /// Puts back `keys` and what [`Cache::state`] gave.
    ///
    /// # Errors
    /// Names or shapes that are not its own.
    pub fn restore(&mut self, keys: &Tensor, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let get = |name: &str| match state.get(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("the state of the cache has no {name}"),
        };
        let labels = shots::labels_of(get("cache_labels")?, self.rows.trained().len())?;
        if keys.dims() != [labels.len(), self.texts.dim(1)?] {
            bail!(
                "the keys are {:?}, there are {} labels and features of {}",
                keys.dims(),
                labels.len(),
                self.texts.dim(1)?
            );
        }
        self.point.alpha = shots::number_of(get("alpha")?)?;
        self.point.beta = shots::number_of(get("beta")?)?;
        self.filled = Some((keys.clone(), labels));
        Ok(())
    }
}

/// What the recordings of cache methods have in common.
pub struct Recorded {
    /// Texts that are averaged.
    pub templates: Vec<String>,
    /// The few shots, validation and test pictures.
    pub shots: Shots,
    /// Of the test pictures.
    pub test_labels: Vec<u32>,
}

impl Recorded {
    /// Texts that a recording averages.
    ///
    /// # Errors
    /// When there are none.
    pub fn texts(r: &Recording) -> Result<Vec<String>> {
        match r.texts("templates") {
            Some(templates) => Ok(templates),
            None => bail!("templates: must be a list of texts"),
        }
    }

    /// Reads them; `cache_images` is one pass or several.
    ///
    /// # Errors
    /// What is missing.
    pub fn of(r: &Recording) -> Result<Self> {
        let images = r.get("cache_images")?;
        let passes = match images.rank() {
            5 => (0..images.dim(0)?)
                .map(|p| images.get(p))
                .collect::<Result<_>>()?,
            _ => vec![images.clone()],
        };
        let one = |which: &str| {
            let images = r.get(&format!("{which}_images"))?.clone();
            shots::labelled(vec![images], r.get(&format!("{which}_labels"))?)
        };
        let test = one("test")?;
        Ok(Self {
            templates: Self::texts(r)?,
            test_labels: test.labels.clone(),
            shots: Shots {
                train: shots::labelled(passes, r.get("cache_labels")?)?,
                validation: Some(one("val")?),
                test: Some(test),
                seed: 0,
            },
        })
    }

    /// The templates as they are filled.
    pub fn templates(&self) -> Vec<&str> {
        self.templates.iter().map(String::as_str).collect()
    }

    /// Settings of a recorded run of Tip-Adapter.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn settings(r: &Recording) -> Result<CacheConfig> {
        let pair = |key: &str| match (
            r.at(&format!("/params/{key}/0")),
            r.at(&format!("/params/{key}/1")),
        ) {
            (Some(beta), Some(alpha)) => Ok((beta, alpha)),
            _ => bail!("params.{key}: must be two numbers"),
        };
        let (most, steps) = (pair("search_scale")?, pair("search_step")?);
        let mut config = CacheConfig::read(&mut Settings::default(), COMPAT);
        config.alpha = r.number("alpha")?;
        config.beta = r.number("beta")?;
        config.grid.beta = Axis::new(most.0, steps.0 as usize);
        config.grid.alpha = Axis::new(most.1, steps.1 as usize);
        Ok(config)
    }
}
