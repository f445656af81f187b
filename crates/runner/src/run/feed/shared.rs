//! Features of the views of test pictures, encoded once for all trials of a run that see the same views.
//!
//! A picture's views follow from the seed, their number, whether they are mixed and the picture's place in the test: no
//! method's draws move another's. So methods that agree on these see the same pixels, and one encoding is theirs all. It
//! is kept in memory as long as other trials of the run wait for it and the budget has room, and on disk where there is a
//! cache, for other processes and runs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use candle_core::{Device, Tensor};
use datasets::{Item, Rgb, Stream};
use methods::{Needs, Sees};

use super::{Budget, Feed};
use crate::run::sweep::RESULTS;

/// Bytes of features that the process keeps for trials to come: 4,096 pictures with 64 views of 512 numbers. Beyond,
/// they are encoded again. Changes no result.
const LIMIT: usize = 512 << 20;
pub(super) static HELD: Budget = Budget::new(LIMIT);

/// How the views of a dataset's test pictures are drawn: trials of one series see the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Series {
    seed: u64,
    /// Of each picture, the test view included.
    count: usize,
    /// Whether AugMix follows crop and flip.
    mix: bool,
    /// Whether pictures come in an order that the seed draws, so that places are others.
    shuffled: bool,
}

impl Series {
    /// What a method that asks for `needs` sees of a dataset whose row wants AugMix or not; `None` where it sees no views.
    pub fn of(needs: &Needs, augmix: bool, seed: u64) -> Option<Self> {
        match needs.sees {
            Sees::Features | Sees::Pixels => None,
            Sees::Views { count, augmix: own } => Some(Self {
                seed,
                count,
                // Only where the published code has it, too: the dataset's row says where not.
                mix: own && augmix,
                shuffled: needs.stream,
            }),
        }
    }

    /// How many test pictures' features, `width` numbers a view, the process keeps for trials to come.
    pub fn pictures_kept(&self, width: usize) -> usize {
        LIMIT / self.bytes(width)
    }

    /// Of one picture's features.
    fn bytes(&self, width: usize) -> usize {
        (self.count * width * size_of::<f32>()).max(1)
    }
}

/// A picture's features `[V, E]` once they are there; locked while they are encoded, so that whoever else needs them waits.
type Slot = Arc<Mutex<Option<Tensor>>>;

/// What is kept of one series.
struct Held {
    /// Trials of the run that see it and are not over.
    trials: usize,
    /// By path and place in the test.
    features: HashMap<(PathBuf, usize), Slot>,
    /// That these take of the budget.
    bytes: usize,
    budget: &'static Budget,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}

/// Features of views of one dataset's test pictures.
pub(super) struct Shared {
    budget: &'static Budget,
    held: Mutex<HashMap<Series, Held>>,
}

impl Shared {
    pub(super) fn new(budget: &'static Budget) -> Self {
        Self {
            budget,
            held: Mutex::default(),
        }
    }

    /// Where a picture's features are kept or, if another trial waits for them and there is room, will be.
    fn slot(&self, series: &Series, at: (PathBuf, usize), bytes: usize) -> Option<Slot> {
        let mut held = self.held.lock().expect("no panic while held");
        let held = held.get_mut(series)?;
        if let Some(slot) = held.features.get(&at) {
            return Some(slot.clone());
        }
        if held.trials < 2 || !self.budget.take(bytes) {
            return None;
        }
        held.bytes += bytes;
        Some(held.features.entry(at).or_default().clone())
    }
}

impl Feed {
    /// Says that one more trial of the run sees `series`.
    pub fn expect(&self, series: Series) {
        let mut held = self.shared.held.lock().expect("no panic while held");
        let new = || Held {
            trials: 0,
            features: HashMap::new(),
            bytes: 0,
            budget: self.shared.budget,
        };
        held.entry(series).or_insert_with(new).trials += 1;
    }

    /// Says that one of them is over; behind the last one nothing of the series is kept.
    pub fn release(&self, series: &Series) {
        let mut all = self.shared.held.lock().expect("no panic while held");
        if let Some(held) = all.get_mut(series) {
            held.trials = held.trials.saturating_sub(1);
            if held.trials == 0 {
                all.remove(series);
            }
        }
    }

    /// Un-normalised features `[V, E]` of the views of one test picture, the `number`-th of its test; the test view's first.
    ///
    /// # Errors
    /// As [`Feed::test_pixels`]; those of the cache.
    pub fn view_features(&self, item: &Item, series: &Series, number: usize) -> Result<Tensor> {
        let at = (item.path.clone(), number);
        let bytes = series.bytes(self.clip.embedding_size());
        let Some(slot) = self.shared.slot(series, at, bytes) else {
            return self.encoded_views(item, series, number);
        };
        let mut kept = slot.lock().expect("no panic while held");
        if let Some(features) = &*kept {
            return Ok(features.clone());
        }
        let features = self.encoded_views(item, series, number)?;
        *kept = Some(features.clone());
        Ok(features)
    }

    /// As [`Feed::view_features`], from the cache on disk or the tower.
    fn encoded_views(&self, item: &Item, series: &Series, number: usize) -> Result<Tensor> {
        let picture = self.dataset.source.rgb(item)?;
        let encode = || {
            let views = self.tuning_views(&picture, series, number)?;
            Ok(self.clip.encode_image(&views)?)
        };
        let Some(cache) = &self.cache else {
            return encode();
        };
        // All that the views follow from, so that they need not be made to know whether their features are there.
        let made_of = format!(
            "views of a test picture; results {RESULTS}, {:?}, {}, {series:?}, {number}, {}x{} {}",
            self.look,
            self.size,
            picture.width,
            picture.height,
            crate::hash::hex(&picture.data)
        );
        let fingerprint = self.clip.image_fingerprint();
        cache.views(&fingerprint, &made_of, series.count, encode)
    }

    /// TPT's views `[V, 3, R, R]` of one picture, the test view first.
    fn tuning_views(&self, picture: &Rgb, series: &Series, number: usize) -> Result<Tensor> {
        let &Series {
            seed, count, mix, ..
        } = series;
        let mut stream = Stream::named(seed, "tuning-views", number as u64);
        let (look, size) = (&self.look, self.size);
        let views = datasets::views::tpt_views_as(look, picture, size, count, mix, &mut stream);
        let shape = (count, 3, size, size);
        Ok(Tensor::from_vec(views.concat(), shape, &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::cache::Cache;
    use crate::run::feed::open;
    use datasets::Catalogue;
    use std::sync::atomic::Ordering;

    fn feed() -> Feed {
        let clip = crate::backbone::shipped().unwrap();
        let dataset = open("drawn-pets", &Catalogue::built_in(), None).unwrap();
        Feed::new(dataset, clip)
    }

    fn series(seed: u64, count: usize, own: bool, augmix: bool) -> Series {
        Series::of(&Needs::views(count, own), augmix, seed).unwrap()
    }

    fn values(t: &Tensor) -> Vec<Vec<f32>> {
        t.to_vec2().unwrap()
    }

    #[test]
    fn only_what_agrees_on_seed_number_mixing_and_order_is_one_series() {
        let one = series(1, 8, true, true);
        assert_eq!(series(1, 8, true, true), one);
        for other in [
            series(2, 8, true, true),
            series(1, 9, true, true),
            series(1, 8, false, true),
        ] {
            assert_ne!(other, one);
        }
        // Where the row leaves AugMix out, those that mix see what the others see.
        assert_eq!(series(1, 8, true, false), series(1, 8, false, true));
        let stream = Needs {
            stream: true,
            ..Needs::views(8, true)
        };
        assert_ne!(Series::of(&stream, true, 1).unwrap(), one);
        assert!(Series::of(&Needs::features(), true, 1).is_none());
    }

    #[test]
    fn what_another_trial_waits_for_is_encoded_once_and_forgotten_behind_the_last() {
        static BUDGET: Budget = Budget::new(1 << 20);
        let (mut feed, of) = (feed(), series(1, 4, true, true));
        feed.shared = Shared::new(&BUDGET);
        let item = feed.dataset.split.test[3].clone();
        let get = |number| feed.view_features(&item, &of, number).unwrap();
        let used = || BUDGET.used.load(Ordering::Relaxed);
        let alone = get(3);
        feed.expect(of);
        assert_eq!(values(&get(3)), values(&alone));
        assert_eq!(used(), 0, "nobody else wants it");
        feed.expect(of);
        let (first, second) = (get(3), get(3));
        assert_eq!(first.id(), second.id(), "the very same");
        assert_eq!(values(&first), values(&alone));
        assert_ne!(values(&get(4)), values(&alone), "another place");
        assert_eq!(used(), 2 * of.bytes(feed.clip.embedding_size()));
        feed.release(&of);
        assert_eq!(get(3).id(), first.id(), "the last one still finds it");
        feed.release(&of);
        assert_eq!(used(), 0);
        assert_eq!(values(&get(3)), values(&alone));
    }

    #[test]
    fn beyond_the_budget_features_are_encoded_again_and_are_the_same() {
        static BUDGET: Budget = Budget::new(4 * 128 * 4 + 5);
        let (mut feed, of) = (feed(), series(1, 4, false, true));
        assert_eq!(of.bytes(feed.clip.embedding_size()), 4 * 128 * 4);
        feed.shared = Shared::new(&BUDGET);
        feed.expect(of);
        feed.expect(of);
        let item = feed.dataset.split.test[0].clone();
        let get = |number| feed.view_features(&item, &of, number).unwrap();
        assert_eq!(get(0).id(), get(0).id());
        let (one, other) = (get(1), get(1));
        assert_ne!(one.id(), other.id(), "there is room for one picture");
        assert_eq!(values(&one), values(&other));
    }

    #[test]
    fn jobs_that_need_the_same_picture_at_once_get_one_encoding() {
        let (feed, of) = (feed(), series(1, 4, true, true));
        feed.expect(of);
        feed.expect(of);
        let item = feed.dataset.split.test[0].clone();
        let get = || feed.view_features(&item, &of, 0).unwrap().id();
        let ids = std::thread::scope(|scope| {
            let jobs = [(); 4].map(|()| scope.spawn(get));
            jobs.map(|job| job.join().unwrap())
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
    }

    #[test]
    fn on_disk_they_are_found_by_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let with = || feed().with_cache(Some(Cache::open(dir.path()).unwrap()));
        let files = || {
            let held = crate::run::cache::list(dir.path()).unwrap();
            held.iter()
                .map(|h| (h.files, h.pictures))
                .collect::<Vec<_>>()
        };
        let (feed, again) = (with(), with());
        let [one, other] = [0, 1].map(|i| feed.dataset.split.test[i].clone());
        let of = series(1, 4, true, true);
        let first = feed.view_features(&one, &of, 0).unwrap();
        assert_eq!(files(), [(1, 4)]);
        let read = again.view_features(&one, &of, 0).unwrap();
        assert_eq!((values(&read), files()), (values(&first), vec![(1, 4)]));
        for (item, series, number) in [
            (&other, of, 0),
            (&one, of, 1),
            (&one, series(2, 4, true, true), 0),
            (&one, series(1, 4, false, true), 0),
        ] {
            let before = files()[0].0;
            feed.view_features(item, &series, number).unwrap();
            assert_eq!(files()[0].0, before + 1);
        }
    }
}
