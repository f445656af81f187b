//! Replaying recorded training runs of released code: reads trace folders, and judges how far a replay is off.
//!
//! A trace folder holds `trace.json` (method, classes, layout, learning rates) and `trace.safetensors` (pictures, initial
//! values, and what the released code made of them); see [`methods::replay`] for what is done with them. A recording of
//! picture operations holds pictures only. What several traces have alike may lie beside them, once.

mod pictures;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use clip::Clip;
use clip::ops::Arithmetic;
use methods::replay::{Comparison, Recording};
use serde::Serialize;

use crate::device::Place;

/// Largest deviation allowed of each kind; see [`Comparison`].
pub struct Tolerance {
    /// Of losses and their parts.
    pub loss: f64,
    /// Of first gradients.
    pub gradient: f64,
    /// Of learned values.
    pub values: f64,
    /// Of logits.
    pub logits: f64,
}

/// What every replay in float32 must hold.
pub const TOLERANCE: Tolerance = Tolerance {
    loss: 2e-5,
    gradient: 1e-3,
    values: 1.5e-4,
    logits: 1e-4,
};

/// One replayed trace.
#[derive(Clone, Debug, Serialize)]
pub struct Replay {
    /// Folder name.
    pub trace: String,
    /// Method, as the recording calls it.
    pub method: String,
    /// What the processor multiplied by, where towers ran on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arithmetic: Option<&'static str>,
    /// How far it is off.
    #[serde(flatten)]
    pub deviation: Comparison,
    /// Whether all is within [`TOLERANCE`] and every choice is the recorded one; where inputs are rounded, for which there
    /// is no bound yet, whether all deviations are numbers.
    pub pass: bool,
}

/// Trace folders under `dir`: itself, or its direct children, in name order.
///
/// # Errors
/// When there are none.
pub fn traces_in(dir: &Path) -> Result<Vec<PathBuf>> {
    if dir.join("trace.json").is_file() {
        return Ok(vec![dir.to_owned()]);
    }
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("{}: cannot be read", dir.display()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.join("trace.json").is_file())
        .collect();
    found.sort();
    if found.is_empty() {
        bail!(
            "{}: holds no trace.json, nor does a folder in it",
            dir.display()
        );
    }
    Ok(found)
}

/// Recordings that ship with the source.
const SHIPPED: [&str; 3] = ["traces", "published", "recorded"];

/// The folders of traces that ship: of the checkout that the program is run in, or was built from.
///
/// # Errors
/// Where there is none any more.
pub fn shipped() -> Result<Vec<PathBuf>> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [Path::new("crates/runner"), built];
    let fixtures = places.map(|place| place.join("tests/fixtures"));
    let found = fixtures.iter().find(|f| f.join(SHIPPED[0]).is_dir());
    let found = found.context(
        "the recorded runs are in promptbed's source, crates/runner/tests/fixtures; pass folders of traces, or run this in \
         a checkout",
    )?;
    Ok(SHIPPED.iter().map(|name| found.join(name)).collect())
}

/// Recordings of what pictures go through, which run no model.
type OfPictures = fn(&Recording) -> Result<Comparison>;
const OF_PICTURES: [(&str, OfPictures); 1] = [("randaugment", pictures::randaugment)];

/// Replays the trace in `dir` on the processor.
///
/// # Errors
/// A folder that is not a trace, naming what is wrong with it.
pub fn replay(dir: &Path) -> Result<Replay> {
    replay_at(dir, &Place::default())
}

/// As [`replay`], with towers at `place`.
///
/// # Errors
/// As [`replay`], and what goes wrong on a card.
pub fn replay_at(dir: &Path, place: &Place) -> Result<Replay> {
    let json = dir.join("trace.json");
    let text = std::fs::read_to_string(&json)
        .with_context(|| format!("{}: cannot be read", json.display()))?;
    let fields: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{}", json.display()))?;
    let named = |key: &str| fields.get(key).and_then(|v| v.as_str()).unwrap_or_default();
    let (method, model) = (named("method").to_owned(), named("model").to_owned());
    let of_pictures = OF_PICTURES.iter().find(|(name, _)| *name == method);
    if of_pictures.is_none() && methods::replay::recorded_as(&method).is_none() {
        bail!(
            "{}: method: {method:?} is not one of those that can be replayed",
            json.display()
        );
    }
    let file = dir.join("trace.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu)
        .with_context(|| format!("{}", file.display()))?;
    tensors.extend(common(dir, &fields)?);
    let catalogue = datasets::Catalogue::built_in();
    // By the names that the released code has for datasets; what the catalogue does not know has no prompt of its own.
    let row = catalogue.find(named("dataset")).ok();
    let recording = Recording {
        dataset: row.map_or(named("dataset"), |r| &r.id).to_owned(),
        template: row
            .map_or(methods::parts::templates::PHOTO, |r| &r.template)
            .to_owned(),
        json: fields,
        tensors,
    };
    let deviation = match of_pictures {
        Some((_, compare)) => compare(&recording),
        None => Ok(methods::replay::replay(
            recorded_on(dir, &model, place)?,
            &recording,
        )?),
    }
    .with_context(|| format!("{}", dir.display()))?;
    let d = &deviation;
    let all = [d.loss, d.gradient, d.values, d.logits];
    let allowed = [
        TOLERANCE.loss,
        TOLERANCE.gradient,
        TOLERANCE.values,
        TOLERANCE.logits,
    ];
    let pass = if place.is_rounded() {
        all.iter().all(|deviation| deviation.is_finite())
    } else {
        let mut pairs = all.iter().zip(allowed);
        d.choices.is_empty() && pairs.all(|(deviation, most)| *deviation <= most)
    };
    Ok(Replay {
        trace: dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        method,
        arithmetic: place.arithmetic().map(Arithmetic::name),
        deviation,
        pass,
    })
}

/// Tensors that several traces have alike, kept once in `common.safetensors` beside their folders: the trace's `common`
/// says by which names.
fn common(dir: &Path, fields: &serde_json::Value) -> Result<Vec<(String, Tensor)>> {
    let Some(named) = fields.get("common").and_then(|v| v.as_object()) else {
        return Ok(Vec::new());
    };
    let file = dir.join("..").join("common.safetensors");
    let tensors = candle_core::safetensors::load(&file, &Device::Cpu)
        .with_context(|| format!("{}", file.display()))?;
    let find = |(name, kept): (&String, &serde_json::Value)| {
        let tensor = kept.as_str().and_then(|kept| tensors.get(kept));
        let tensor = tensor.with_context(|| format!("{}: has no {kept}", file.display()))?;
        Ok((name.clone(), tensor.clone()))
    };
    named.iter().map(find).collect()
}

/// The CLIP of a trace, whose file lies beside the folder or in it, at `place`.
fn recorded_on(dir: &Path, model: &str, place: &Place) -> Result<Arc<Clip>> {
    let beside = dir.parent().unwrap_or(dir).join(model);
    let model = if beside.exists() {
        beside
    } else {
        dir.join(model)
    };
    let mut clip = Clip::load(&model)?;
    place.take(&mut clip)?;
    Ok(Arc::new(clip))
}
