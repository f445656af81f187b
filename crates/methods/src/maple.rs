//! MaPLe: deep text prompts, and image prompts that are made from them.
//!
//! Khattak et al., *MaPLe: Multi-modal Prompt Learning*, <https://arxiv.org/abs/2210.03117>.
//! Follows the authors' `trainers/maple.py` at 69bce21.

use crate::parts::coupled::CoupledConfig;
use crate::{Checkpoint, Entry, Group, Replay, Training};

/// Registry entry. Cross-dataset: depth 3, lr 0.0026, 2 epochs.
pub const ENTRY: Entry = Entry {
    name: "maple",
    title: "MaPLe",
    source: "https://arxiv.org/abs/2210.03117",
    group: Group::BothTowers,
    training: Some(Training::sgd(5, 4, 0.0035)),
    read: |s| Box::new(CoupledConfig::read(s)),
    checkpoint: Some(Checkpoint {
        folder: "MultiModalPromptLearner",
        module: None,
    }),
    replay: Replay::Steps(&["maple"], |r| {
        let mut table = r.settings(&[("n_ctx", "n_ctx"), ("depth", "depth")])?;
        table.insert("init".into(), r.words("ctx_init").into());
        Ok(table)
    }),
};
