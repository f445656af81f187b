//! Training settings and the learning-rate schedule of the published code.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::optimizer::{Optimizer, Rule};
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
        }
    }

    /// Names of the settings, for a suite reader to tell them from others.
    pub const KEYS: [&'static str; 9] = [
        "epochs",
        "batch",
        "lr",
        "optimizer",
        "momentum",
        "weight_decay",
        "warmup_epochs",
        "warmup_lr",
        "schedule",
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
        let shape = |schedule: Schedule| match schedule {
            Schedule::Cosine => "cosine",
            Schedule::CosineSquared => "cosine-squared",
            Schedule::Constant => "constant",
        };
        let mut shapes = vec![shape(self.schedule)];
        shapes.extend(
            ["cosine", "cosine-squared", "constant"]
                .iter()
                .filter(|r| **r != shape(self.schedule)),
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
            schedule: match s.choice(
                "schedule",
                &shapes,
                "learning rate after warm-up, stepped once an epoch",
            ) {
                "cosine-squared" => Schedule::CosineSquared,
                "constant" => Schedule::Constant,
                _ => Schedule::Cosine,
            },
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
        }
    }

    /// A fresh optimizer.
    pub fn optimizer(&self) -> Optimizer {
        Optimizer::new(self.optimizer, self.momentum, self.weight_decay)
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
    fn a_short_batch_is_dropped_unless_it_is_the_only_one() {
        let t = Training::sgd(1, 32, 0.002);
        assert_eq!([10, 32, 63, 64].map(|n| t.steps_per_epoch(n)), [1, 1, 1, 2]);
    }
}
