//! Learned prompts on disk: safetensors under the published names, with what is needed to rebuild them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::record::Record;
use crate::store::replace;
use crate::trial::Outcomes;

/// Key of the description in the file's metadata.
const KEY: &str = "promptbed";

/// What a prompt file says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Version of this description.
    pub schema: u32,
    /// Algorithm in the registry.
    pub algorithm: String,
    /// Every setting.
    pub settings: BTreeMap<String, serde_json::Value>,
    /// Dataset trained on.
    pub dataset: String,
    /// Shots.
    pub shots: usize,
    /// Seed.
    pub seed: u64,
    /// Names of the classes trained on, in label order.
    pub classes: Vec<String>,
    /// Fingerprint of the backbone.
    pub backbone_fingerprint: String,
    /// Optimizer steps.
    pub step: u64,
}

/// Writes the prompts of a finished trial, whole or not at all; nothing where nothing was trained.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, record: &Record, outcomes: &Outcomes) -> Result<()> {
    if outcomes.cost.steps == 0 {
        return Ok(());
    }
    let description = Description {
        schema: 1,
        algorithm: record.algorithm.clone(),
        settings: record.settings.clone(),
        dataset: record.dataset.clone(),
        shots: record.shots,
        seed: record.seed,
        classes: outcomes.classes.clone(),
        backbone_fingerprint: record.provenance.backbone_fingerprint.clone(),
        step: outcomes.cost.steps,
    };
    let metadata = HashMap::from([(KEY.to_owned(), serde_json::to_string(&description)?)]);
    let tensors: Vec<(&str, &Tensor)> = outcomes
        .prompts
        .iter()
        .map(|(n, t)| (n.as_str(), t))
        .collect();
    let bytes = safetensors::serialize(tensors, Some(metadata))?;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("{}: cannot be made", dir.display()))?;
    }
    Ok(replace(path, &bytes)?)
}

/// Reads a prompt file.
///
/// # Errors
/// A file that is not one, naming what is wrong.
pub fn read(path: &Path) -> Result<(Description, BTreeMap<String, Tensor>)> {
    let bytes =
        std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes)
        .with_context(|| format!("{}", path.display()))?;
    let Some(text) = metadata.metadata().as_ref().and_then(|m| m.get(KEY)) else {
        bail!(
            "{}: holds no `{KEY}` description; it was not written by promptbed",
            path.display()
        );
    };
    let description =
        serde_json::from_str(text).with_context(|| format!("{}: {KEY}", path.display()))?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .with_context(|| format!("{}", path.display()))?;
    Ok((description, tensors.into_iter().collect()))
}
