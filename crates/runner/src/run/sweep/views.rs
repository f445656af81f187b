//! Views of test pictures that trials of a sweep share.

use std::sync::Arc;

use super::{Sweep, Trial};
use crate::run::feed::{Feed, Series};
use crate::run::plan;

impl Sweep {
    /// The views that a trial sees of test pictures, by dataset; none where it sees the pictures themselves.
    fn views_of(&self, trial: &Trial) -> Vec<(&Arc<Feed>, Series)> {
        let (needs, planned) = (trial.method.config.needs(), &trial.planned);
        if Series::of(&needs, false, planned.seed).is_none() {
            return Vec::new();
        }
        let targets = plan::targets(&self.suite, planned.protocol, &planned.dataset);
        let mut all: Vec<(&Arc<Feed>, Series)> = Vec::new();
        for (id, _) in targets {
            let feed = &self.feeds[&id];
            let is_new = all.iter().all(|(other, _)| !Arc::ptr_eq(other, feed));
            if let Some(series) = Series::of(&needs, feed.dataset.augmix, planned.seed)
                && is_new
            {
                all.push((feed, series));
            }
        }
        all
    }

    /// Says that a trial will see its views, so that they are kept for it.
    pub(super) fn expect_views(&self, trial: &Trial) {
        for (feed, series) in self.views_of(trial) {
            feed.expect(series);
        }
    }

    /// Says that it has seen them, or that it never will.
    pub(super) fn release_views(&self, trial: &Trial) {
        for (feed, series) in self.views_of(trial) {
            feed.release(&series);
        }
    }

    /// The first of `others` that sees views which `trial` saw.
    pub(super) fn sees_same<'a>(
        &self,
        trial: &Trial,
        others: impl IntoIterator<Item = &'a Trial>,
    ) -> Option<usize> {
        let seen = self.views_of(trial);
        if seen.is_empty() {
            return None;
        }
        let is_same = |other: &Trial| {
            other.planned.seed == trial.planned.seed
                && self.views_of(other).iter().any(|(feed, series)| {
                    let mut seen = seen.iter();
                    seen.any(|(own, of)| Arc::ptr_eq(own, feed) && of == series)
                })
        };
        others.into_iter().position(is_same)
    }
}
