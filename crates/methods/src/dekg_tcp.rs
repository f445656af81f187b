//! DeKg on TCP: class-aware tokens, and class features that are to depend less on the hand-written ones.
//!
//! Li et al., *Divergence-enhanced Knowledge-guided Context Optimization for Visual-Language Prompt Tuning* (ICLR 2025),
//! <https://openreview.net/forum?id=6wOmHdwCC4>. Follows the authors' code (cnunlp/DeKg) at b8f2f1c.
//!
//! Differs: the released step runs a profiler on a picture of noise before every batch; here it does not.

use crate::parts::class_tokens::{ClassTokensConfig, compare};
use crate::{Checkpoint, Entry, Group, Replay, Rule, Training};

/// Weight of the dependence in the released scripts.
const DEPENDENCE: f64 = 6.0;

/// Registry entry. As TCP's, but 100 epochs everywhere.
pub const ENTRY: Entry = Entry {
    name: "dekg-tcp",
    title: "DeKg-TCP",
    source: "https://openreview.net/forum?id=6wOmHdwCC4",
    group: Group::TextPrompts,
    training: Some(Training {
        optimizer: Rule::Adam,
        epsilon: 1e-3,
        ..Training::sgd(100, 32, 0.002)
    }),
    read: |s| Box::new(ClassTokensConfig::read(s, Some(DEPENDENCE))),
    checkpoint: Some(Checkpoint::PROMPT_LEARNER),
    replay: Replay::Own(&["dekg-tcp"], |stage, c| {
        compare(stage, c, Some(DEPENDENCE))
    }),
};
