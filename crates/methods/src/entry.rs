//! What the registry holds of a method: everything that anybody asks of one, so that nobody else keeps a list of methods.

use std::collections::BTreeMap;

use crate::method::Config;
use crate::replay::Replay;
use crate::settings::{Declared, Problem, Settings};
use crate::training::Training;

/// One line of the registry. No field has a default: a method that leaves one out does not compile.
pub struct Entry {
    /// Name in suites.
    pub name: &'static str,
    /// Name in tables and legends.
    pub title: &'static str,
    /// Paper.
    pub source: &'static str,
    /// Which kind of method it is: groups of tables and charts.
    pub group: Group,
    /// How it is trained, step by step, unless a suite says otherwise; `None` where no optimizer runs before testing.
    pub training: Option<Training>,
    /// Reads its `config`.
    pub read: fn(&mut Settings) -> Box<dyn Config>,
    /// How the authors' code keeps what was learned; `None` where it keeps nothing.
    pub checkpoint: Option<Checkpoint>,
    /// How recorded runs of the released code are replayed.
    pub replay: Replay,
}

/// Kinds of methods, by what they change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Nothing is trained: hand-written or found texts, caches of features.
    TrainingFree,
    /// Heads, adapters and caches that are trained on features behind the towers.
    Features,
    /// Prompts of the text tower.
    TextPrompts,
    /// Prompts of the image tower, or of both.
    BothTowers,
    /// Weights inside the towers.
    Weights,
    /// Adapted to test pictures.
    TestTime,
}

impl Group {
    /// All, in the order of tables.
    pub const ALL: [Self; 6] = [
        Self::TrainingFree,
        Self::Features,
        Self::TextPrompts,
        Self::BothTowers,
        Self::Weights,
        Self::TestTime,
    ];

    /// Name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::TrainingFree => "training-free",
            Self::Features => "on features",
            Self::TextPrompts => "text prompts",
            Self::BothTowers => "both towers",
            Self::Weights => "weights",
            Self::TestTime => "test time",
        }
    }
}

/// A checkpoint of the authors' code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Folder that their trainer keeps it in: the name it registers the module under.
    pub folder: &'static str,
    /// Leading part of the tensors' names that their file leaves out.
    pub module: Option<&'static str>,
}

impl Checkpoint {
    /// As the CoOp family registers its learner.
    pub const PROMPT_LEARNER: Self = Self {
        folder: "prompt_learner",
        module: Some("prompt_learner."),
    };
    /// As MaPLe's code base registers the whole prompted model of IVLP and its kin.
    pub const WHOLE_MODEL: Self = Self {
        folder: "VLPromptLearner",
        module: None,
    };
}

/// A method's settings, read.
pub struct Reading {
    /// The settings, typed.
    pub config: Box<dyn Config>,
    /// Every setting with its value, defaults included.
    pub resolved: BTreeMap<String, serde_json::Value>,
    /// Every problem; with any, `config` must not be used.
    pub problems: Vec<Problem>,
    /// Every setting that exists.
    pub declared: Vec<Declared>,
}

impl Entry {
    /// Reads a `config` table.
    pub fn read(&self, table: toml::Table) -> Reading {
        let mut settings = Settings::new(table);
        let config = (self.read)(&mut settings);
        let read = settings.finish();
        Reading {
            config,
            resolved: read.resolved,
            problems: read.problems,
            declared: read.declared,
        }
    }

    /// The method with its default settings.
    pub fn default_config(&self) -> Box<dyn Config> {
        self.read(toml::Table::new()).config
    }
}

impl Reading {
    /// The settings, if they can be used.
    ///
    /// # Errors
    /// Every problem, each with its field, one a line.
    pub fn checked(self) -> candle_core::Result<Box<dyn Config>> {
        if self.problems.is_empty() {
            return Ok(self.config);
        }
        let told: Vec<String> = self
            .problems
            .iter()
            .map(|p| format!("{}: {}", p.field, p.message))
            .collect();
        candle_core::bail!("{}", told.join("\n"))
    }
}
