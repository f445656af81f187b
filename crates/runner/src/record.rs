//! What a trial leaves behind: one typed, versioned record. Tables, charts and reports read only these.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::protocols::Protocol;

mod migrate;
mod settings;
mod test_set;

pub(crate) use migrate::from_1;
pub use settings::{Settings, Shared};
pub use test_set::TestSet;

/// Version of the record's shape. A reader refuses a newer one and migrates an older one. From 3 on, a file ends in a
/// checksum.
pub const SCHEMA: u32 = 3;

/// One finished or failed trial.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// Readable name plus a short hash of everything that can change the result.
    pub key: String,
    /// Name of the suite (its file stem).
    pub suite: String,
    /// SHA-256 of the suite file's bytes, hex.
    pub suite_hash: String,
    /// How accuracy was measured.
    pub protocol: &'static Protocol,
    /// Label of the method in this suite (unique in the suite, e.g. `coop` or `coop-m4`).
    pub method: String,
    /// Name of the algorithm in the registry (e.g. `coop`).
    pub algorithm: String,
    /// Every resolved setting of the method and of its training.
    pub settings: Settings,
    /// Settings of the suite that the trial ran with: `views` (where it trained), `precision`, `memory` (where bounded),
    /// `arithmetic` (where the suite says it).
    pub suite_settings: Settings,
    /// What it starts from, as [`start`](crate::start) has it: trained on, or tested on where nothing is trained.
    pub dataset: String,
    /// Labelled training pictures a class. 0 where nothing is trained (zero-shot, TPT).
    pub shots: usize,
    /// Seed of every random stream of the trial.
    pub seed: u64,
    /// Finished, or failed with the reason.
    pub outcome: Outcome,
    /// One entry for each class set the trained prompt was tested on.
    pub tests: Vec<Test>,
    /// Mean training loss of each epoch; smallest loss so far behind each round of a search.
    pub losses: Vec<f64>,
    /// Learning rate of each epoch.
    pub learning_rates: Vec<f64>,
    /// What the method tells that it found, where it tells anything: names with texts or numbers.
    #[serde(default, skip_serializing_if = "Found::is_empty")]
    pub found: Found,
    /// What must be said of its datasets: counts that are not the published ones, a split that is not.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What tables call its datasets, by id; ids that stand for themselves are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub titles: BTreeMap<String, String>,
    /// What it took.
    pub cost: Cost,
    /// Where it comes from.
    pub provenance: Provenance,
}

impl Record {
    /// Its tests after the last stage: what tables show of a trial of several.
    pub fn last_tests(&self) -> impl Iterator<Item = &Test> + Clone {
        let last = self.tests.iter().map(|t| t.stage).max();
        let is_last = move |t: &&Test| Some(t.stage) == last;
        self.tests.iter().filter(is_last)
    }
}

/// What a method found, for people to read.
pub type Found = BTreeMap<String, serde_json::Value>;

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Outcome {
    /// It ran to the end; its tests count.
    Finished,
    /// It did not; it has no tests, and tables show a gap.
    Failed {
        /// One sentence a user can act on.
        reason: String,
        /// Optimizer step at which it failed, if it got that far.
        step: Option<u64>,
        /// Last finite loss.
        last_loss: Option<f64>,
    },
}

/// Accuracy on one class set of one dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Test {
    /// Dataset tested on.
    pub dataset: String,
    /// Which pictures, told apart among which classes.
    pub class_set: TestSet,
    /// Stage of the protocol after which it was tested, from 0; not written where there is one stage.
    #[serde(default, skip_serializing_if = "is_first")]
    pub stage: usize,
    /// Correctly classified pictures.
    pub correct: u64,
    /// Pictures tested.
    pub total: u64,
    /// Per class, in label order of the class set.
    pub classes: Vec<ClassTally>,
    /// Mean of the classes' recall, where their tallies were let go to save memory; [`Test::macro_accuracy`] asks for it.
    #[serde(skip)]
    pub recall: Option<f64>,
    /// Expected calibration error, 15 bins, in percent.
    pub ece: f64,
    /// Wall seconds of this test.
    pub seconds: f64,
}

fn is_nothing(count: &u64) -> bool {
    *count == 0
}

fn is_first(stage: &usize) -> bool {
    *stage == 0
}

impl Test {
    /// Top-1 accuracy in percent.
    pub fn accuracy(&self) -> f64 {
        if self.total == 0 {
            f64::NAN
        } else {
            100.0 * self.correct as f64 / self.total as f64
        }
    }

    /// Macro accuracy in percent: the mean of the classes' recall, each class counting alike however many pictures it
    /// has. `None` where no class was tallied.
    pub fn macro_accuracy(&self) -> Option<f64> {
        let recalls: Vec<f64> = self.classes.iter().filter_map(ClassTally::recall).collect();
        self.recall.or_else(|| crate::stats::mean(&recalls))
    }

    /// Lets the tallies of classes go, and keeps what they come to.
    pub fn drop_tallies(&mut self) {
        self.recall = self.macro_accuracy();
        self.classes = Vec::new();
    }
}

/// Tally of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassTally {
    /// Name as the text tower saw it.
    pub name: String,
    /// Correct pictures.
    pub correct: u64,
    /// Pictures of the class.
    pub total: u64,
}

impl ClassTally {
    /// Correct pictures of the class over its pictures, in percent; `None` of a class without any.
    pub fn recall(&self) -> Option<f64> {
        (self.total > 0).then(|| 100.0 * self.correct as f64 / self.total as f64)
    }
}

/// What a trial took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Wall seconds, training only.
    pub train_seconds: f64,
    /// Wall seconds, testing only.
    pub test_seconds: f64,
    /// Optimizer steps.
    pub steps: u64,
    /// Candidates that a search scored on the shots; not written where nothing was searched.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub scored: u64,
    /// Trained numbers.
    pub parameters: u64,
    /// Peak resident memory of the process in bytes (shared by the trials running beside it).
    pub peak_memory: u64,
    /// Floating-point operations that training cannot do without, cached views included; 0 where nothing is trained or
    /// an older program did not count.
    #[serde(default)]
    pub operations: f64,
}

/// Where a record comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of promptbed.
    pub version: String,
    /// Git commit it was built from, with `-dirty` where the tree was; empty when unknown.
    pub commit: String,
    /// Backbone as the user named it.
    pub backbone: String,
    /// SHA-256 over the backbone's tensors, hex.
    pub backbone_fingerprint: String,
    /// SHA-256 over the split (paths, labels, names), hex; of several datasets over theirs.
    pub split_hash: String,
    /// SHA-256 over the picked training paths, hex; empty where nothing is picked; of several datasets over theirs.
    pub picks_hash: String,
    /// Processor name.
    pub processor: String,
    /// The card that towers ran on, its number and name; of a trial that went on elsewhere, all in turn. The processor where
    /// it is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What the processor multiplied by: `portable`, `amx` or `emulated`; of a trial that went on by another, all in turn. Not
    /// written where all ran on cards, nor by programs that knew the portable one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arithmetic: Option<String>,
    /// Threads this trial could use.
    pub threads: usize,
    /// Unix seconds when the trial started.
    pub started: u64,
}
