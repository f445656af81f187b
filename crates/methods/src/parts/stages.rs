//! Training in two stages, the first of which has a share of the steps.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, bail};

use crate::training::first_steps;

/// Which stage a method is in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stages {
    /// Of the steps, that the first has.
    share: f64,
    /// Whether the second has begun.
    second: bool,
}

impl Stages {
    /// Before any step; a first stage without a share does not take place.
    pub(crate) fn new(share: f64) -> Self {
        Self {
            share,
            second: share == 0.0,
        }
    }

    pub(crate) fn is_second(&self) -> bool {
        self.second
    }

    /// Whether the second has yet to begin when `done` steps of `all` are done, and there are steps for it.
    pub(crate) fn turns_after(&self, done: usize, all: usize) -> bool {
        !self.second && (first_steps(self.share, all)..all).contains(&done)
    }

    pub(crate) fn begin_second(&mut self) {
        self.second = true;
    }

    /// As a method's state.
    pub(crate) fn state(&self, device: &Device) -> Vec<(String, Tensor)> {
        let second = Tensor::full(u32::from(self.second), 1, device);
        second
            .map(|t| vec![("second_stage".to_owned(), t)])
            .unwrap_or_default()
    }

    /// Puts back what [`Stages::state`] gave.
    pub(crate) fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        match state.get("second_stage") {
            Some(second) if state.len() == 1 => {
                self.second = second.flatten_all()?.to_vec1::<u32>()? == [1];
                Ok(())
            }
            _ => bail!("the state of a method of two stages is `second_stage`, one number"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_stage_begins_once_and_only_where_steps_are_left() {
        let turns = |share, all| -> Vec<usize> {
            let mut stages = Stages::new(share);
            let mut turned = Vec::new();
            for done in 1..=all {
                if stages.turns_after(done, all) {
                    stages.begin_second();
                    turned.push(done);
                }
            }
            turned
        };
        assert_eq!(turns(0.5, 4), [2]);
        assert_eq!(turns(0.6, 5), [3]);
        assert_eq!((turns(1.0, 3), turns(0.0, 3)), (vec![], vec![]));
        assert!(Stages::new(0.0).is_second() && !Stages::new(1.0).is_second());
    }

    #[test]
    fn the_stage_is_state_and_nothing_else_is() {
        let mut stages = Stages::new(0.5);
        stages.begin_second();
        let state: BTreeMap<_, _> = stages.state(&Device::Cpu).into_iter().collect();
        let mut other = Stages::new(0.5);
        other.restore(&state).unwrap();
        assert!(other.is_second());
        let message = other.restore(&BTreeMap::new()).unwrap_err().to_string();
        assert!(message.contains("second_stage"), "{message}");
    }
}
