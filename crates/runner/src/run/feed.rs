//! From items to what a method sees: views, pixels and cached features of a dataset's pictures.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use clip::Clip;
use datasets::transform::Look;
use datasets::{Catalogue, Dataset, Item, Pack, Rgb, drawn};
use methods::Needs;
use rayon::prelude::*;

use crate::run::cache::Cache;
use crate::run::suite::Views;
use crate::run::trial::Interrupted;

mod shared;

pub use shared::Series;

mod training;

pub use training::Training;

/// Bytes of decoded pictures that the process keeps because they may be needed again, whatever the number of datasets and
/// trials; beyond, they are decoded again. Changes no result.
static KEPT: Budget = Budget::new(256 << 20);
/// Pictures through the frozen image tower at once.
const ENCODED_AT_ONCE: usize = 64;

/// Bytes that may be kept, shared by whoever keeps any.
struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    const fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
        }
    }

    /// Takes `bytes`, if there are as many.
    fn take(&self, bytes: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        self.used.fetch_update(set, get, more).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Pictures that are kept as long as the budget has room; dropped, they give their bytes back.
struct Kept<K> {
    budget: &'static Budget,
    pictures: Mutex<HashMap<K, Arc<Rgb>>>,
}

impl<K: Eq + Hash> Kept<K> {
    fn new(budget: &'static Budget) -> Self {
        Self {
            budget,
            pictures: Mutex::default(),
        }
    }

    fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<Arc<Rgb>>
    where
        K: std::borrow::Borrow<Q>,
    {
        let pictures = self.pictures.lock().expect("no panic while held");
        pictures.get(key).cloned()
    }

    fn keep(&self, key: K, picture: &Arc<Rgb>) {
        let mut pictures = self.pictures.lock().expect("no panic while held");
        if !pictures.contains_key(&key) && self.budget.take(picture.data.len()) {
            pictures.insert(key, picture.clone());
        }
    }
}

impl<K> Drop for Kept<K> {
    fn drop(&mut self) {
        if let Ok(pictures) = self.pictures.get_mut() {
            let bytes = pictures.values().map(|p| p.data.len()).sum();
            self.budget.give(bytes);
        }
    }
}

/// Test views of a dataset on disk, and each path's place among them.
struct Packed {
    pack: Pack,
    places: HashMap<PathBuf, usize>,
}

/// Every dataset id there is.
pub fn known(catalogue: &Catalogue) -> Vec<String> {
    let drawn = drawn::ids().map(str::to_owned);
    drawn
        .chain(catalogue.rows().iter().map(|r| r.id.clone()))
        .collect()
}

/// Opens a drawn dataset, or one of the catalogue under `root`.
///
/// # Errors
/// An unknown id, no data root, or what is wrong with the folder.
pub fn open(id: &str, catalogue: &Catalogue, root: Option<&Path>) -> Result<Dataset> {
    if let Some(dataset) = drawn::open(id) {
        return Ok(dataset);
    }
    let row = catalogue.find(id)?;
    let Some(root) = root else {
        bail!(
            "dataset {id}: needs its pictures: pass --data DIR, the folder that holds {}",
            row.images.display()
        )
    };
    if !root.is_dir() {
        bail!("{}: there is no such folder (--data)", root.display());
    }
    Dataset::open(row, root).with_context(|| format!("dataset {id}"))
}

/// A dataset, a backbone, and what has been computed of both; shared by the trials of a process.
pub struct Feed {
    /// The dataset.
    pub dataset: Dataset,
    clip: Arc<Clip>,
    size: usize,
    /// How the backbone wants its pictures.
    look: Look,
    /// Features of all test pictures `[n, E]` and each path's row; encoded in list order, whoever asks first, so that
    /// no number depends on the order of trials.
    features: Mutex<Option<(Tensor, HashMap<PathBuf, u32>)>>,
    /// Features `[n, E]` of a trial's pictures, by seed, picks (with the kind of view) and turn.
    views: Mutex<HashMap<(u64, String, usize), Tensor>>,
    pixels: Kept<PathBuf>,
    shared: shared::Shared,
    /// The packed test views, once they were asked for and where there is a cache.
    packed: Mutex<Option<Arc<Packed>>>,
    cache: Option<Cache>,
    split_hash: OnceLock<String>,
}

impl Feed {
    /// Nothing is decoded yet.
    pub fn new(dataset: Dataset, clip: Arc<Clip>) -> Self {
        let (size, look) = (clip.image_size(), crate::backbone::look(&clip));
        Self {
            dataset,
            clip,
            size,
            look,
            features: Mutex::default(),
            views: Mutex::default(),
            pixels: Kept::new(&KEPT),
            shared: shared::Shared::new(&shared::HELD),
            packed: Mutex::default(),
            cache: None,
            split_hash: OnceLock::new(),
        }
    }

    /// Hash of the split, computed once: it is over every path.
    pub fn split_hash(&self) -> &str {
        self.split_hash.get_or_init(|| self.dataset.split.hash())
    }

    /// Keeps features and decoded test pictures in `cache`, too.
    pub fn with_cache(mut self, cache: Option<Cache>) -> Self {
        self.cache = cache;
        self
    }

    /// `[n, 3, R, R]` of pictures of the model's size.
    fn tensor(&self, pictures: &[Arc<Rgb>]) -> Result<Tensor> {
        let each = 3 * self.size * self.size;
        let mut data = vec![0f32; pictures.len() * each];
        data.par_chunks_mut(each)
            .zip(pictures)
            .for_each(|(out, p)| self.look.normalise(p, out));
        Ok(Tensor::from_vec(
            data,
            (pictures.len(), 3, self.size, self.size),
            &Device::Cpu,
        )?)
    }

    /// The packed test views; built now where they are not there. Nothing without a cache.
    fn packed(&self) -> Result<Option<Arc<Packed>>, datasets::Error> {
        let Some(cache) = &self.cache else {
            return Ok(None);
        };
        // Held while it is built: whoever else asks needs it as well.
        let mut packed = self.packed.lock().expect("no panic while held");
        if packed.is_none() {
            let items = &self.dataset.split.test;
            let folder = cache.packs(&self.dataset.id);
            let (look, source) = (&self.look, &*self.dataset.source);
            let pack = Pack::open_or_build_as(look, &folder, source, items, self.size)?;
            let places = items
                .iter()
                .zip(0..)
                .map(|(item, place)| (item.path.clone(), place));
            let places = places.collect();
            *packed = Some(Arc::new(Packed { pack, places }));
        }
        Ok(packed.clone())
    }

    fn test_pictures(&self, items: &[Item]) -> Result<Vec<Arc<Rgb>>> {
        let packed = self.packed()?;
        let pictures = items.par_iter().map(|item| {
            if let Some(packed) = &packed
                && let Some(&place) = packed.places.get(&item.path)
            {
                return Ok(Arc::new(packed.pack.view(place)?));
            }
            if let Some(picture) = self.pixels.get(&*item.path) {
                return Ok(picture);
            }
            let picture = self
                .look
                .test_view(&self.dataset.source.rgb(item)?, self.size);
            let picture = Arc::new(picture);
            self.pixels.keep(item.path.clone(), &picture);
            Ok(picture)
        });
        Ok(pictures.collect::<Result<Vec<_>, datasets::Error>>()?)
    }

    /// Test views as pixels `[n, 3, R, R]`.
    ///
    /// # Errors
    /// A picture that is missing or broken, with its path.
    pub fn test_pixels(&self, items: &[Item]) -> Result<Tensor> {
        self.tensor(&self.test_pictures(items)?)
    }

    fn encode(
        &self,
        count: usize,
        stop: &AtomicBool,
        pixels: impl Fn(std::ops::Range<usize>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let pieces = (0..count)
            .step_by(ENCODED_AT_ONCE)
            .map(|i| {
                if stop.load(Ordering::Relaxed) {
                    return Err(Interrupted.into());
                }
                let pixels = pixels(i..count.min(i + ENCODED_AT_ONCE))?;
                let encode = || Ok(self.clip.encode_image(&pixels)?);
                match &self.cache {
                    None => encode(),
                    Some(cache) => cache.features(&self.clip.image_fingerprint(), &pixels, encode),
                }
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&pieces, 0)?)
    }

    /// Un-normalised features `[n, E]` of test pictures; each is encoded once a process.
    ///
    /// # Errors
    /// As [`Feed::test_pixels`]; [`Interrupted`] where `stop` is set while they are encoded.
    pub fn test_features(&self, items: &[Item], stop: &AtomicBool) -> Result<Tensor> {
        let mut cache = self.features.lock().expect("no panic while held");
        if cache.is_none() {
            let all = &self.dataset.split.test;
            let features = self.encode(all.len(), stop, |range| self.test_pixels(&all[range]))?;
            *cache = Some((
                features,
                all.iter()
                    .zip(0..)
                    .map(|(item, row)| (item.path.clone(), row))
                    .collect(),
            ));
        }
        let (features, rows) = cache.as_ref().expect("just filled");
        let rows: Vec<u32> = items.iter().map(|i| rows[&i.path]).collect();
        Ok(features.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?)
    }

    /// The training pictures of one trial, in such views, which are what a method needs; `stop` breaks off the encoding of
    /// many.
    pub fn training<'a>(
        &'a self,
        items: &'a [Item],
        (views, needs): (Views, &Needs),
        seed: u64,
        stop: &'a AtomicBool,
    ) -> Training<'a> {
        let paths: Vec<String> = items
            .iter()
            .map(|i| i.path.to_string_lossy().into_owned())
            .collect();
        let mut told = format!("{:?} {:?}\n{}", needs.view, needs.crop, paths.join("\n"));
        // Told only where a row says so, so that no other picture is encoded again.
        if !self.dataset.flip {
            told.push_str("\nunmirrored");
        }
        Training {
            feed: self,
            items,
            picks: crate::hash::hex(told.as_bytes()),
            views,
            view: needs.view,
            crop: needs.crop,
            seed,
            stop,
            decoded: Kept::new(&KEPT),
            ahead: Mutex::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use methods::View;

    use super::*;

    #[test]
    fn pictures_are_kept_within_the_budget_whoever_keeps_them_and_given_back() {
        static BUDGET: Budget = Budget::new(10_000);
        let picture = Arc::new(Rgb::new(10, 10)); // 300 bytes
        let (one, other) = (Kept::new(&BUDGET), Kept::new(&BUDGET));
        std::thread::scope(|scope| {
            for kept in [&one, &other] {
                let picture = &picture;
                scope.spawn(move || (0..1000).for_each(|i| kept.keep(i, picture)));
            }
        });
        let count = |kept: &Kept<usize>| (0..1000).filter(|i| kept.get(i).is_some()).count();
        assert_eq!(count(&one) + count(&other), 33);
        assert_eq!(BUDGET.used.load(Ordering::Relaxed), 9_900);
        let freed = count(&one) * 300;
        drop(one);
        assert_eq!(BUDGET.used.load(Ordering::Relaxed), 9_900 - freed);
        (0..1000).for_each(|i| other.keep(i, &picture));
        assert_eq!(count(&other), 33, "what is given back can be kept again");
        drop(other);
        assert_eq!(BUDGET.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_view_follows_from_seed_epoch_and_picture_alone() {
        let clip = crate::backbone::shipped().unwrap();
        let dataset = open("drawn-pets", &Catalogue::built_in(), None).unwrap();
        let feed = Feed::new(dataset, clip);
        let items = &feed.dataset.split.train[..6];
        let needs = Needs {
            view: View::RandAugment,
            ..Needs::pixels()
        };
        let never = AtomicBool::new(false);
        let of = |seed| feed.training(items, (Views::Fresh, &needs), seed, &never);
        let values = |t: Tensor| t.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
        let (one, other) = (of(1), of(1));
        for second in [None, Some(View::Crop), Some(View::RandAugment)] {
            let drawn = |t: &Training, indices: &[usize], epoch| {
                values(match second {
                    None => t.pixels(indices, epoch).unwrap(),
                    Some(view) => t.second(view, indices, epoch).unwrap(),
                })
            };
            let first = drawn(&one, &[0, 1, 2, 3, 4, 5], 2);
            // In another batch, in another order, after other epochs.
            drawn(&other, &[5, 0], 7);
            let again = drawn(&other, &[4, 1], 2);
            assert!(again[0] == first[4] && again[1] == first[1], "{second:?}");
            assert!(drawn(&one, &[4], 3)[0] != first[4], "{second:?}");
            assert!(drawn(&of(2), &[4], 2)[0] != first[4], "{second:?}");
        }
        let twins = |t: &Training| (t.pixels(&[3], 2), t.second(View::RandAugment, &[3], 2));
        let (view, second) = twins(&one);
        assert!(values(view.unwrap()) != values(second.unwrap()));
    }

    #[test]
    fn views_made_ahead_are_those_that_their_step_would_make() {
        let clip = crate::backbone::shipped().unwrap();
        let dataset = open("drawn-pets", &Catalogue::built_in(), None).unwrap();
        let feed = Feed::new(dataset, clip);
        let items = &feed.dataset.split.train[..6];
        let needs = Needs {
            second_view: Some(View::Crop),
            ..Needs::pixels()
        };
        let never = AtomicBool::new(false);
        for views in [Views::Fresh, Views::Cached(2), Views::None] {
            let of = || feed.training(items, (views, &needs), 1, &never);
            let values = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let seen = |t: &Training, epoch| {
                let second = t.second(View::Crop, &[5, 0, 3], epoch).unwrap();
                let first = t.pixels(&[5, 0, 3], epoch).unwrap();
                (values(first), values(second))
            };
            let (plain, ahead) = (of(), of());
            // Of another step that never came, then of this one.
            ahead.prepare(&needs, &[1, 2], 2);
            ahead.prepare(&needs, &[0, 3, 5], 3);
            assert!(seen(&ahead, 3) == seen(&plain, 3), "{views:?}");
            assert!(seen(&ahead, 2) == seen(&plain, 2), "{views:?}");
            assert!(ahead.ahead.lock().unwrap().is_empty(), "{views:?}");
        }
    }

    #[test]
    fn a_picture_kept_twice_counts_once() {
        static BUDGET: Budget = Budget::new(10_000);
        let kept = Kept::new(&BUDGET);
        (0..9).for_each(|_| kept.keep(1, &Arc::new(Rgb::new(10, 10))));
        assert_eq!(BUDGET.used.load(Ordering::Relaxed), 300);
    }
}
