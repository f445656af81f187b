//! TCP: class-aware context tokens, generated from frozen class features, enter the text tower before its ninth block.
//!
//! Yao et al., *TCP: Textual-based Class-aware Prompt Tuning for Visual-Language Model*,
//! <https://arxiv.org/abs/2311.18231>. Follows the authors' `trainers/tcp.py` at bd97bec.
//!
//! `B` images, `K` classes, `E` joint width.

use crate::parts::class_tokens::{ClassTokensConfig, compare};
use crate::{Checkpoint, Entry, Group, Replay, Rule, Training};

/// Registry entry. 25 epochs on ImageNet and SUN397. Adam's epsilon is part of the method: the authors have it edited.
pub const ENTRY: Entry = Entry {
    name: "tcp",
    title: "TCP",
    source: "https://arxiv.org/abs/2311.18231",
    group: Group::TextPrompts,
    training: Some(Training {
        optimizer: Rule::Adam,
        epsilon: 1e-3,
        ..Training::sgd(50, 32, 0.002)
    }),
    read: |s| Box::new(ClassTokensConfig::read(s, None)),
    checkpoint: Some(Checkpoint::PROMPT_LEARNER),
    replay: Replay::Own(&["tcp"], |stage, c| compare(stage, c, None)),
};
