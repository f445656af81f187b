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
    /// `T`; left out of what is recorded where `steps` says how long.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub epochs: usize,
    /// Optimizer steps for each shot of a class, in place of `epochs`; 0: epochs count. As a suite says it; what it comes
    /// to is `steps`.
    #[serde(skip)]
    pub steps_per_shot: usize,
    /// Optimizer steps in all, in place of `epochs`; 0: epochs count.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub steps: usize,
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
    /// Share of the steps after which all starts anew, for methods of two stages: the schedule over the steps that are
    /// left, warm-up and update rule included; 0: never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restart: f64,
    /// Of Adam and AdamW. Left out of what is recorded where it is PyTorch's, as records before it existed have it.
    #[serde(default = "epsilon", skip_serializing_if = "is_epsilon")]
    pub epsilon: f64,
    /// Whether a last short batch of an epoch is left out, unless it is the only one, as Dassl's loader does.
    #[serde(default = "dropped", skip_serializing_if = "is_dropped")]
    pub drop_last: bool,
    /// How many updates are made on the gradient of a batch, all at its learning rate; the schedule moves as often where
    /// it would move once. Dassl does both once for every name that the one optimizer is registered under.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub steps_per_batch: usize,
}

/// How long a training is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Epochs, the last maybe not whole.
    pub epochs: usize,
    /// Steps of a whole epoch.
    pub per_epoch: usize,
    /// Steps of all.
    pub steps: usize,
}

/// Steps of the first of two stages that has `share` of them.
pub fn first_steps(share: f64, steps: usize) -> usize {
    // A hair more, so that a product just below a whole number counts as it.
    ((share * steps as f64 + 1e-9) as usize).min(steps)
}

fn is_nothing(value: &usize) -> bool {
    *value == 0
}

fn dropped() -> bool {
    true
}

fn is_dropped(value: &bool) -> bool {
    *value
}

fn once() -> usize {
    1
}

fn is_once(value: &usize) -> bool {
    *value == 1
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
            steps_per_shot: 0,
            steps: 0,
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
            drop_last: true,
            steps_per_batch: 1,
        }
    }

    /// As long as `steps` steps for each shot of a class, every picture of an epoch among them.
    #[must_use]
    pub const fn for_shots(self, steps: usize) -> Self {
        Self {
            epochs: 0,
            steps_per_shot: steps,
            drop_last: false,
            ..self
        }
    }

    /// Names of the settings, for a suite reader to tell them from others.
    pub const KEYS: [&'static str; 15] = [
        "epochs",
        "steps_per_shot",
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
        "drop_last",
        "steps_per_batch",
    ];

    /// Reads a suite's values over these defaults, for `shots` labelled pictures of a class.
    pub fn read(&self, s: &mut Settings, shots: usize) -> Self {
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
        // What is said in epochs takes the place of what is known in steps, and the other way round.
        let said = ["epochs", "steps_per_shot"].map(|key| s.is_given(key));
        if said == [true, true] {
            s.refuse(
                "steps_per_shot",
                "says how long to train, as `epochs` does: leave one out",
            );
        }
        let steps_per_shot = s.count(
            "steps_per_shot",
            if said[0] { 0 } else { self.steps_per_shot },
            0..=1_000_000,
            "optimizer steps for each shot of a class, in place of epochs; 0: epochs count",
        );
        let epochs = s.count(
            "epochs",
            if steps_per_shot > 0 { 0 } else { self.epochs },
            usize::from(steps_per_shot == 0)..=100_000,
            "passes over the few-shot set",
        );
        Self {
            epochs,
            steps_per_shot,
            steps: steps_per_shot * shots,
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
                "share of the steps after which schedule, warm-up and update rule start anew; 0: never",
            ),
            epsilon: s.number("epsilon", self.epsilon, 1e-12..=1.0, "of Adam and AdamW"),
            drop_last: s.flag(
                "drop_last",
                self.drop_last,
                "leave out a last short batch of an epoch, unless it is the only one",
            ),
            steps_per_batch: s.count(
                "steps_per_batch",
                self.steps_per_batch,
                1..=1000,
                "updates on the gradient of a batch; the schedule moves as often",
            ),
        }
    }

    /// The stage that 0-based `step` is in: its first step, and how many it has.
    fn stage(&self, step: usize, length: &Length) -> (usize, usize) {
        let first = first_steps(self.restart, length.steps);
        match self.restart {
            0.0 => (0, length.steps),
            _ if step < first => (0, first),
            _ => (first, length.steps - first),
        }
    }

    /// Whether 0-based `step` is the first of a second stage.
    pub fn starts_anew(&self, step: usize, length: &Length) -> bool {
        step > 0 && self.stage(step, length).0 == step
    }

    /// Learning rate of 0-based `epoch` of `epochs`.
    fn lr(&self, epoch: usize, epochs: usize) -> f64 {
        let place = epoch * self.steps_per_batch;
        if place < self.warmup_epochs {
            return self.warmup_lr;
        }
        let e = (place - self.warmup_epochs) as f64;
        let factor = 0.5 * (1.0 + (std::f64::consts::PI * e / epochs as f64).cos());
        match self.schedule {
            Schedule::Cosine => self.lr * factor,
            Schedule::CosineSquared => self.lr * factor * factor,
            Schedule::Constant => self.lr,
            Schedule::CosineSteps => self.floor + (self.lr - self.floor) * factor,
        }
    }

    /// Learning rate of 0-based `step` of a training of some length.
    pub fn lr_at(&self, step: usize, length: &Length) -> f64 {
        let per_epoch = length.per_epoch.max(1);
        let (first, all) = self.stage(step, length);
        if self.schedule != Schedule::CosineSteps || self.is_warm_up(step, length) {
            return self.lr((step - first) / per_epoch, all.div_ceil(per_epoch));
        }
        // Warm-up steps count inside the stage, the cosine starts from its own zero.
        let done = (step - first) * self.steps_per_batch - self.warmup_epochs * per_epoch;
        let factor = 0.5 * (1.0 + (std::f64::consts::PI * done as f64 / all as f64).cos());
        self.floor + (self.lr - self.floor) * factor
    }

    /// Whether 0-based `step` warms up: every parameter then has the same learning rate.
    pub fn is_warm_up(&self, step: usize, length: &Length) -> bool {
        let (first, _) = self.stage(step, length);
        (step - first) / length.per_epoch.max(1) * self.steps_per_batch < self.warmup_epochs
    }

    /// A fresh optimizer.
    pub fn optimizer(&self) -> Optimizer {
        Optimizer::new(self.optimizer, self.momentum, self.weight_decay)
            .with_epsilon(self.epsilon)
            .repeating(self.steps_per_batch)
    }

    /// How long it is over `pictures`.
    pub fn length(&self, pictures: usize) -> Length {
        let per_epoch = if self.drop_last && pictures >= self.batch {
            pictures / self.batch
        } else {
            pictures.div_ceil(self.batch)
        };
        if self.steps == 0 {
            return Length {
                epochs: self.epochs,
                per_epoch,
                steps: self.epochs * per_epoch,
            };
        }
        Length {
            epochs: self.steps.div_ceil(per_epoch.max(1)),
            per_epoch,
            steps: self.steps,
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
            assert!((maple.lr(e, 5) - w).abs() / w < 5e-4, "{e}");
        }
        let cocoop = Training::sgd(10, 1, 0.002);
        assert!((cocoop.lr(9, 10) - 1.91e-4).abs() < 1e-6);
        let squared = Training {
            schedule: Schedule::CosineSquared,
            ..Training::sgd(100, 128, 0.002)
        };
        assert!(
            (squared.lr(51, 100) - 5.0e-4).abs() < 1e-9,
            "mid-training of KgCoOp's log"
        );
    }

    #[test]
    fn three_steps_a_batch_go_through_the_schedule_three_times_as_fast() {
        // As simulated with Dassl's scheduler for SoftCPT's 50 epochs: nothing at epoch 17, all again at 34, nothing at the end.
        let three = Training {
            steps_per_batch: 3,
            ..Training::sgd(50, 32, 0.002)
        };
        assert_eq!(three.lr(0, 50), 1e-5);
        assert!(three.lr(17, 50) < 1e-12);
        assert!((three.lr(33, 50) - 0.002).abs() < 1e-5 && (three.lr(34, 50) - 0.002).abs() < 1e-5);
        assert!(three.lr(49, 50) < 5e-5);
        let (length, once) = (three.length(64), Training::sgd(50, 32, 0.002));
        assert_eq!(three.lr_at(2, &length), once.lr(3, 50));
        let warm = |t: &Training| (0..6).filter(|s| t.is_warm_up(*s, &length)).count();
        assert_eq!([warm(&three), warm(&once)], [2, 2]);
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
            assert!((lora.lr_at(t, &lora.length(4)) - w).abs() < 1e-9, "{t}");
        }
        let maple = Training::sgd(5, 4, 0.0035);
        let three = maple.length(12);
        assert_eq!(maple.lr_at(7, &three), maple.lr(2, 5));
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
            assert!((two.lr_at(t, &two.length(4)) - w).abs() < 1e-9, "{t}");
        }
        assert_eq!(
            [(0.6, 5), (0.6, 4800), (1.0, 3), (0.0, 3)].map(|(s, n)| first_steps(s, n)),
            [3, 2880, 3, 0]
        );
    }

    #[test]
    fn a_second_stage_warms_up_and_falls_as_if_it_were_alone() {
        let alone = Training::sgd(5, 4, 0.02);
        let two = Training {
            epochs: 10,
            restart: 0.5,
            ..alone.clone()
        };
        // Three steps an epoch.
        let (one, both) = (alone.length(12), two.length(12));
        for step in 0..15 {
            let want = [alone.lr_at(step, &one); 2];
            let got = [two.lr_at(step, &both), two.lr_at(15 + step, &both)];
            assert_eq!(got, want, "{step}");
            assert_eq!(two.is_warm_up(15 + step, &both), step < 3);
        }
        let anew = |t: &Training| {
            let steps = (0..30).filter(|step| t.starts_anew(*step, &both));
            steps.collect::<Vec<_>>()
        };
        assert_eq!(anew(&two), [15]);
        assert_eq!(
            anew(&Training {
                restart: 0.0,
                ..two
            }),
            [0; 0]
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
        let per_epoch = |t: &Training| [10, 32, 63, 64].map(|n| t.length(n).per_epoch);
        assert_eq!(per_epoch(&t), [1, 1, 1, 2]);
        let kept = Training {
            drop_last: false,
            ..t
        };
        assert_eq!(per_epoch(&kept), [1, 1, 2, 2]);
    }

    fn read(of: &Training, given: &str, shots: usize) -> (Training, Vec<String>) {
        let mut s = Settings::new(given.parse().unwrap());
        let read = of.read(&mut s, shots);
        let problems = s.finish().problems.into_iter();
        (read, problems.map(|p| p.field).collect())
    }

    #[test]
    fn steps_for_each_shot_take_the_place_of_epochs_and_epochs_that_are_said_that_of_steps() {
        let lora = Training::sgd(0, 32, 2e-4).for_shots(500);
        let (sixteen, wrong) = read(&lora, "", 16);
        assert_eq!((sixteen.steps, wrong.len()), (8000, 0));
        // 37 classes of 16 shots: 18 whole batches and a short one.
        let length = sixteen.length(37 * 16);
        assert_eq!(
            (length.per_epoch, length.epochs, length.steps),
            (19, 422, 8000)
        );
        assert!(!sixteen.resolved().contains_key("epochs"));
        let (ten, wrong) = read(&lora, "epochs = 10", 16);
        assert_eq!((ten.steps, ten.length(64).steps, wrong.len()), (0, 20, 0));
        let (_, wrong) = read(&lora, "epochs = 10\nsteps_per_shot = 5", 16);
        assert_eq!(wrong, ["steps_per_shot"]);
        let (coop, _) = read(&Training::sgd(200, 32, 0.002), "steps_per_shot = 3", 2);
        assert_eq!(coop.length(64).steps, 6);
        let (_, wrong) = read(&coop, "epochs = 0", 2);
        assert_eq!(wrong, ["epochs"]);
    }
}
