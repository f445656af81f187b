//! Training settings and the learning-rate schedule of the published code.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::optimizer::{EPSILON, Optimizer, Rule};
use crate::settings::Settings;

/// Shape of the learning rate after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// `0.5 base (1 + cos(pi (e - W) / T))`: warm-up epochs count inside `T`, the cosine starts from its own zero.
    Cosine,
    /// The square of the cosine's factor: two schedulers on one optimizer, as KgCoOp's numbers were made.
    CosineSquared,
    /// `base`.
    Constant,
    /// As [`Schedule::Cosine`], but over steps: `floor + 0.5 (base - floor) (1 + cos(pi t / T))` of step `t` of all `T`.
    CosineSteps,
}

impl Schedule {
    const ALL: [(Self, &str); 4] = [
        (Self::Cosine, "cosine"),
        (Self::CosineSquared, "cosine-squared"),
        (Self::Constant, "constant"),
        (Self::CosineSteps, "cosine-steps"),
    ];

    fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(s, _)| *s == self)
            .map_or("", |(_, name)| name)
    }
}

/// How a method is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// `T`.
    pub epochs: usize,
    /// Pictures a step.
    pub batch: usize,
    /// Base learning rate.
    pub lr: f64,
    /// Update rule.
    pub optimizer: Rule,
    /// Of SGD.
    pub momentum: f64,
    /// Of every trained tensor.
    pub weight_decay: f64,
    /// `W`.
    pub warmup_epochs: usize,
    /// Constant learning rate while warming up.
    pub warmup_lr: f64,
    /// After warm-up.
    pub schedule: Schedule,
    /// What [`Schedule::CosineSteps`] ends at.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub floor: f64,
    /// Share of the epochs after which [`Schedule::CosineSteps`] starts anew, for methods of two stages; 0: never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restart: f64,
    /// Of Adam and AdamW. Left out of what is recorded where it is PyTorch's, as records before it existed have it.
    #[serde(default = "epsilon", skip_serializing_if = "is_epsilon")]
    pub epsilon: f64,
}

/// Epochs of the first of two stages that has `share` of them.
pub fn first_epochs(share: f64, epochs: usize) -> usize {
    // A hair more, so that a product just below a whole number counts as it.
    ((share * epochs as f64 + 1e-9) as usize).min(epochs)
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

fn epsilon() -> f64 {
    EPSILON
}

fn is_epsilon(value: &f64) -> bool {
    *value == EPSILON
}

impl Training {
    /// The family's defaults: SGD, momentum 0.9, weight decay 5e-4, one warm-up epoch at 1e-5, cosine.
    pub const fn sgd(epochs: usize, batch: usize, lr: f64) -> Self {
        Self {
            epochs,
            batch,
            lr,
            optimizer: Rule::Sgd,
            momentum: 0.9,
            weight_decay: 5e-4,
            warmup_epochs: 1,
            warmup_lr: 1e-5,
            schedule: Schedule::Cosine,
            floor: 0.0,
            restart: 0.0,
            epsilon: EPSILON,
        }
    }

    /// Names of the settings, for a suite reader to tell them from others.
    pub const KEYS: [&'static str; 12] = [
        "epochs",
        "batch",
        "lr",
        "optimizer",
        "momentum",
        "weight_decay",
        "warmup_epochs",
        "warmup_lr",
        "schedule",
        "floor",
        "restart",
        "epsilon",
    ];

    /// Reads a suite's values over these defaults.
    pub fn read(&self, s: &mut Settings) -> Self {
        let name = |rule: Rule| match rule {
            Rule::Sgd => "sgd",
            Rule::Adam => "adam",
            Rule::AdamW => "adamw",
        };
        let mut rules = vec![name(self.optimizer)];
        rules.extend(
            ["sgd", "adam", "adamw"]
                .iter()
                .filter(|r| **r != name(self.optimizer)),
        );
        let mut shapes = vec![self.schedule.name()];
        shapes.extend(
            Schedule::ALL
                .iter()
                .map(|(_, name)| *name)
                .filter(|name| *name != self.schedule.name()),
        );
        Self {
            epochs: s.count(
                "epochs",
                self.epochs,
                1..=100_000,
                "passes over the few-shot set",
            ),
            batch: s.count("batch", self.batch, 1..=65_536, "pictures a step"),
            lr: s.number("lr", self.lr, 0.0..=100.0, "base learning rate"),
            optimizer: match s.choice("optimizer", &rules, "update rule") {
                "adam" => Rule::Adam,
                "adamw" => Rule::AdamW,
                _ => Rule::Sgd,
            },
            momentum: s.number("momentum", self.momentum, 0.0..=1.0, "of SGD"),
            weight_decay: s.number(
                "weight_decay",
                self.weight_decay,
                0.0..=10.0,
                "of every trained tensor",
            ),
            warmup_epochs: s.count(
                "warmup_epochs",
                self.warmup_epochs,
                0..=1000,
                "epochs at warmup_lr, inside epochs",
            ),
            warmup_lr: s.number(
                "warmup_lr",
                self.warmup_lr,
                0.0..=100.0,
                "constant learning rate of warm-up",
            ),
            schedule: {
                let name = s.choice(
                    "schedule",
                    &shapes,
                    "learning rate after warm-up, stepped once an epoch; cosine-steps: once a step",
                );
                Schedule::ALL
                    .iter()
                    .find(|(_, n)| *n == name)
                    .map_or(self.schedule, |(s, _)| *s)
            },
            floor: s.number(
                "floor",
                self.floor,
                0.0..=100.0,
                "learning rate that cosine-steps ends at",
            ),
            restart: s.number(
                "restart",
                self.restart,
                0.0..=1.0,
                "share of the epochs after which cosine-steps starts anew; 0: never",
            ),
            epsilon: s.number("epsilon", self.epsilon, 1e-12..=1.0, "of Adam and AdamW"),
        }
    }

    /// Learning rate of 0-based `epoch`.
    pub fn lr(&self, epoch: usize) -> f64 {
        if epoch < self.warmup_epochs {
            return self.warmup_lr;
        }
        let e = (epoch - self.warmup_epochs) as f64;
        let factor = 0.5 * (1.0 + (std::f64::consts::PI * e / self.epochs as f64).cos());
        match self.schedule {
            Schedule::Cosine => self.lr * factor,
            Schedule::CosineSquared => self.lr * factor * factor,
            Schedule::Constant => self.lr,
            Schedule::CosineSteps => self.floor + (self.lr - self.floor) * factor,
        }
    }

    /// Learning rate of 0-based `step` of epochs of `per_epoch` steps.
    pub fn lr_at(&self, step: usize, per_epoch: usize) -> f64 {
        let epoch = step / per_epoch.max(1);
        if self.schedule != Schedule::CosineSteps || self.is_warm_up(epoch) {
            return self.lr(epoch);
        }
        let first = match self.restart {
            0.0 => self.epochs,
            share => first_epochs(share, self.epochs),
        };
        let (start, epochs) = if epoch < first {
            (self.warmup_epochs, first)
        } else {
            (first, self.epochs - first)
        };
        let done = (step - start * per_epoch) as f64;
        let all = (epochs * per_epoch) as f64;
        let factor = 0.5 * (1.0 + (std::f64::consts::PI * done / all).cos());
        self.floor + (self.lr - self.floor) * factor
    }

    /// Whether 0-based `epoch` warms up: every parameter then has the same learning rate.
    pub fn is_warm_up(&self, epoch: usize) -> bool {
        epoch < self.warmup_epochs
    }

    /// A fresh optimizer.
    pub fn optimizer(&self) -> Optimizer {
        Optimizer::new(self.optimizer, self.momentum, self.weight_decay).with_epsilon(self.epsilon)
    }

    /// Steps of an epoch over `pictures`: a last short batch is dropped, unless it is the only one.
    pub fn steps_per_epoch(&self, pictures: usize) -> usize {
        if pictures >= self.batch {
            pictures / self.batch
        } else {
            usize::from(pictures > 0)
        }
    }

    /// Every setting by name.
    pub fn resolved(&self) -> BTreeMap<String, serde_json::Value> {
        match serde_json::to_value(self).expect("plain values serialise") {
            serde_json::Value::Object(map) => map.into_iter().collect(),
            _ => BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_follow_the_published_sequences() {
        let maple = Training::sgd(5, 4, 0.0035);
        let want = [1e-5, 3.5e-3, 3.166e-3, 2.291e-3, 1.209e-3];
        for (e, w) in want.iter().enumerate() {
            assert!((maple.lr(e) - w).abs() / w < 5e-4, "{e}");
        }
        let cocoop = Training::sgd(10, 1, 0.002);
        assert!((cocoop.lr(9) - 1.91e-4).abs() < 1e-6);
        let squared = Training {
            schedule: Schedule::CosineSquared,
            ..Training::sgd(100, 128, 0.002)
        };
        assert!(
            (squared.lr(51) - 5.0e-4).abs() < 1e-9,
            "mid-training of KgCoOp's log"
        );
    }

    #[test]
    fn a_cosine_over_steps_starts_at_the_full_rate_and_follows_clip_loras_recorded_rates() {
        let lora = Training {
            schedule: Schedule::CosineSteps,
            warmup_epochs: 0,
            floor: 1e-6,
            ..Training::sgd(6, 4, 0.002)
        };
        let want = [0.002, 0.001_866_092_391, 0.001_500_25, 0.001_000_5];
        for (t, w) in want.iter().enumerate() {
            assert!((lora.lr_at(t, 1) - w).abs() < 1e-9, "{t}");
        }
        let maple = Training::sgd(5, 4, 0.0035);
        assert_eq!(maple.lr_at(7, 3), maple.lr(2));
    }

    #[test]
    fn a_second_stage_starts_at_the_full_rate_again_as_2sfs_recorded() {
        let two = Training {
            schedule: Schedule::CosineSteps,
            warmup_epochs: 0,
            floor: 1e-6,
            restart: 0.67,
            ..Training::sgd(6, 4, 0.002)
        };
        let want = [
            0.002,
            0.001_707_253,
            0.001_000_5,
            0.000_293_747,
            0.002,
            0.001_000_5,
        ];
        for (t, w) in want.iter().enumerate() {
            assert!((two.lr_at(t, 1) - w).abs() < 1e-9, "{t}");
        }
        assert_eq!(
            [(0.6, 5), (0.6, 48), (1.0, 3), (0.0, 3)].map(|(s, n)| first_epochs(s, n)),
            [3, 28, 3, 0]
        );
    }

    #[test]
    fn what_older_records_do_not_know_is_left_out_where_it_is_the_default() {
        let keys = |t: &Training| t.resolved().into_keys().collect::<Vec<_>>();
        assert_eq!(keys(&Training::sgd(1, 1, 1.0)).len(), 9);
        let tcp = Training {
            epsilon: 1e-3,
            ..Training::sgd(1, 1, 1.0)
        };
        assert!(keys(&tcp).contains(&"epsilon".to_owned()));
    }

    #[test]
    fn a_short_batch_is_dropped_unless_it_is_the_only_one() {
        let t = Training::sgd(1, 32, 0.002);
        assert_eq!([10, 32, 63, 64].map(|n| t.steps_per_epoch(n)), [1, 1, 1, 2]);
    }
}
