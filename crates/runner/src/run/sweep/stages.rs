//! The stages of a trial with their datasets: which pictures it learns from, and where it is tested.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use datasets::{ClassSet, picks};
use methods::Validation;

use super::{Sweep, Trial};
use crate::record::TestSet;
use crate::run::feed::Feed;
use crate::run::lesson::{Learned, Lesson};
use crate::run::plan;
use crate::run::suite::{Line, Suite};
use crate::run::trial::{Stage, Target};
use crate::store::Planned;

impl Sweep {
    fn target(&self, line: &Line, (id, set): (String, TestSet)) -> Target {
        Target {
            feed: self.feeds[&id].clone(),
            set,
            descriptions: self.described(line, &id).cloned(),
        }
    }

    pub(super) fn targets(&self, planned: &Planned, line: &Line) -> Vec<Target> {
        let targets = plan::targets(&self.suite, planned.protocol, &planned.dataset);
        targets.into_iter().map(|t| self.target(line, t)).collect()
    }

    /// The stages of a trial with their pictures.
    pub(super) fn stages(&self, trial: &Trial) -> Result<Vec<Stage>> {
        let (planned, line) = (&trial.planned, self.line_of(trial));
        let stages = plan::stages(&self.suite, planned.protocol, &planned.dataset);
        let stages = stages.into_iter().map(|stage| {
            let lessons = stage.taught().into_iter().map(|(id, set)| {
                let feed = &self.feeds[&id];
                Ok(Lesson {
                    feed: feed.clone(),
                    set,
                    descriptions: self.described(line, &id).cloned(),
                    learned: self.learned(trial, feed, set)?,
                })
            });
            Ok(Stage {
                lessons: lessons.collect::<Result<_>>()?,
                targets: stage
                    .tests
                    .into_iter()
                    .map(|t| self.target(line, t))
                    .collect(),
            })
        });
        stages.collect()
    }

    /// The pictures a trial learns from.
    fn learned(&self, trial: &Trial, feed: &Feed, set: ClassSet) -> Result<Learned> {
        let (needs, split) = (trial.method.config.needs(), &feed.dataset.split);
        if needs.unlabelled {
            // Every class, whatever the set: that is what the pictures' owner would have.
            return Ok(Learned {
                train: split.train.clone(),
                ..Learned::default()
            });
        }
        let Some(picks) = self.picks(trial, &feed.dataset.id)? else {
            return Ok(Learned::default());
        };
        let picked = split.with_picks(&picks).subset(set)?.0;
        let (shots, seed) = (trial.planned.shots, trial.planned.seed);
        Ok(Learned {
            validation: match needs.validation {
                Validation::None => Vec::new(),
                Validation::Few => picked.val,
                Validation::AsShots => {
                    let drawn = picks::draw_both(split, shots, shots, seed);
                    split.with_picks(&drawn).subset(set)?.0.val
                }
                Validation::Whole => split.subset(set)?.0.val,
            },
            test: if needs.peeks { picked.test } else { Vec::new() },
            train: picked.train,
        })
    }
}

/// What is wrong with datasets that have no class for a session, each told once.
pub(super) fn empty_sessions(suite: &Suite, feeds: &BTreeMap<String, Arc<Feed>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (protocol, cut) in suite
        .protocols
        .iter()
        .filter_map(|p| Some((p, suite.sessions?)))
    {
        let starts = protocol.starts(&suite.wanted()).into_iter();
        let stages = starts.flat_map(|start| plan::stages(suite, protocol, &start));
        for (id, set) in stages.flat_map(|stage| stage.train) {
            let is_cut = matches!(set, ClassSet::Sessions { cut: own, .. } if own == cut);
            let Some(feed) = feeds.get(&id).filter(|_| is_cut) else {
                continue;
            };
            if let Err(e) = feed.dataset.split.names_of(set)
                && !wrong
                    .iter()
                    .any(|told: &String| told.starts_with(&format!("dataset {id}:")))
            {
                wrong.push(format!("dataset {id}: {e} (sessions)"));
            }
        }
    }
    wrong
}
