//! Few-shot pictures as a trial's steps see them: random views, their pixels and their features.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use candle_core::{Device, Tensor};
use datasets::transform::train_view_of;
use datasets::{Item, Rgb, Stream, views::randaugment};
use methods::{Needs, Sees, View};
use rayon::prelude::*;

use super::{Feed, Kept};
use crate::run::suite::Views;

/// Streams of random views, of first and of second ones.
const VIEWS: &str = "views";
const SECOND: &str = "second-views";

/// Which random view of which picture: its stream, the picture's index, the turn.
pub(super) type ViewOf = (&'static str, usize, u64);

/// Few-shot pictures as a trial's batches see them.
pub struct Training<'a> {
    pub(super) feed: &'a Feed,
    pub(super) items: &'a [Item],
    /// Hash of the items: what tells one trial's pictures from another's.
    pub(super) picks: String,
    pub(super) views: Views,
    pub(super) view: View,
    pub(super) crop: (f64, f64),
    pub(super) seed: u64,
    pub(super) stop: &'a AtomicBool,
    pub(super) decoded: Kept<usize>,
    /// Views that were made before their step.
    pub(super) ahead: Mutex<HashMap<ViewOf, Arc<Rgb>>>,
}

impl Training<'_> {
    fn picture(&self, index: usize) -> Result<Arc<Rgb>, datasets::Error> {
        if let Some(picture) = self.decoded.get(&index) {
            return Ok(picture);
        }
        let picture = Arc::new(self.feed.dataset.source.rgb(&self.items[index])?);
        self.decoded.keep(index, &picture);
        Ok(picture)
    }

    /// A view drawn from the seed's own stream for this picture and turn: no method's draws move another's.
    fn view(
        &self,
        view: View,
        stream: &'static str,
        index: usize,
        turn: u64,
    ) -> Result<Arc<Rgb>, datasets::Error> {
        let mut ahead = self.ahead.lock().expect("no panic while held");
        if let Some(made) = ahead.remove(&(stream, index, turn)) {
            return Ok(made);
        }
        drop(ahead);
        let picture = self.picture(index)?;
        let place = turn * self.items.len() as u64 + index as u64;
        let (size, mut stream) = (self.feed.size, Stream::named(self.seed, stream, place));
        Ok(Arc::new(match view {
            View::Crop => {
                let may_flip = self.feed.dataset.flip;
                train_view_of(&picture, size, self.crop, may_flip, &mut stream)
            }
            View::RandAugment => randaugment::view(&picture, size, &mut stream),
        }))
    }

    /// Makes the views of the pictures at `indices` in epoch `epoch` that a step will ask for, and forgets those that none
    /// did. A picture that cannot be read is left to that step.
    pub fn prepare(&self, needs: &Needs, indices: &[usize], epoch: usize) {
        let turn = match (self.views, needs.sees) {
            (Views::Fresh, _) => Some(epoch),
            (Views::Cached(n), Sees::Pixels) => Some(epoch % n),
            // Features that are at hand, pictures that are kept.
            _ => None,
        };
        let first = turn.map(|turn| (self.view, VIEWS, turn));
        let second = needs.second_view.map(|view| (view, SECOND, epoch));
        let mut made = HashMap::new();
        for (view, stream, turn) in first.into_iter().chain(second) {
            let turn = turn as u64;
            let views = indices.par_iter().filter_map(|&index| {
                let view = self.view(view, stream, index, turn).ok()?;
                Some(((stream, index, turn), view))
            });
            made.par_extend(views);
        }
        *self.ahead.lock().expect("no panic while held") = made;
    }

    fn views_of(
        &self,
        view: View,
        stream: &'static str,
        indices: &[usize],
        turn: usize,
    ) -> Result<Tensor> {
        let views = indices
            .par_iter()
            .map(|i| self.view(view, stream, *i, turn as u64))
            .collect::<Result<Vec<_>, _>>()?;
        self.feed.tensor(&views)
    }

    /// Second views `[n, 3, R, R]` of the pictures at `indices` in epoch `epoch`, drawn for themselves.
    ///
    /// # Errors
    /// As [`Training::pixels`].
    pub fn second(&self, view: View, indices: &[usize], epoch: usize) -> Result<Tensor> {
        self.views_of(view, SECOND, indices, epoch)
    }

    /// Whether later epochs see the same views again, so that features are kept.
    pub fn come_again(&self) -> bool {
        self.views != Views::Fresh
    }

    /// Pixels `[n, 3, R, R]` of the pictures at `indices` in epoch `epoch`.
    ///
    /// # Errors
    /// A picture that is missing or broken, with its path.
    pub fn pixels(&self, indices: &[usize], epoch: usize) -> Result<Tensor> {
        let turn = match self.views {
            Views::None => {
                let items: Vec<Item> = indices.iter().map(|i| self.items[*i].clone()).collect();
                return self.feed.test_pixels(&items);
            }
            Views::Fresh => epoch,
            Views::Cached(n) => epoch % n,
        };
        self.views_of(self.view, VIEWS, indices, turn)
    }

    /// Un-normalised features `[n, E]` of the same.
    ///
    /// # Errors
    /// As [`Training::pixels`]; [`Interrupted`].
    pub fn features(&self, indices: &[usize], epoch: usize) -> Result<Tensor> {
        let turn = match self.views {
            Views::Fresh => {
                return Ok(self.feed.clip.encode_image(&self.pixels(indices, epoch)?)?);
            }
            Views::Cached(n) => epoch % n,
            Views::None => usize::MAX,
        };
        let mut cache = self.feed.views.lock().expect("no panic while held");
        let key = (self.seed, self.picks.clone(), turn);
        if !cache.contains_key(&key) {
            let all: Vec<usize> = (0..self.items.len()).collect();
            let features = self.feed.encode(all.len(), self.stop, |range| {
                self.pixels(&all[range], epoch)
            })?;
            cache.insert(key.clone(), features);
        }
        let rows: Vec<u32> = indices.iter().map(|i| *i as u32).collect();
        Ok(cache[&key].index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?)
    }
}
