//! Replaying recorded runs of released code, step for step, on tensors that somebody else has read.
//!
//! A recording holds the pictures, the initial values and what the released code made of them. A replay starts from the
//! recorded values and must arrive where the recording did. Each method's entry says how: most are training steps, which
//! one engine replays; the rest compare what they do themselves.

use std::sync::Arc;

use candle_core::{DType, Result, bail};
use clip::Clip;

use crate::classes::Classes;
use crate::entry::Entry;
use crate::init::Init;
use crate::kept::load_parameters;
use crate::method::{Images, Method};
use crate::optimizer::Optimizer;
use crate::settings::Settings;
use crate::step::{Step, step};

mod comparison;
mod recording;

pub use comparison::Comparison;
use comparison::{largest, worst};
pub use recording::Recording;

/// How recorded runs of a method are replayed.
#[derive(Clone, Copy)]
pub enum Replay {
    /// No recorded run of released code is known.
    None,
    /// As training steps: the methods' names in recordings, and the settings of this program that a recording's parameters are.
    Steps(
        &'static [&'static str],
        fn(&Recording) -> Result<toml::Table>,
    ),
    /// By itself: the methods' names in recordings, and the comparison.
    Own(
        &'static [&'static str],
        fn(&Stage, &mut Comparison) -> Result<()>,
    ),
}

impl Replay {
    /// Names that recordings have for the method.
    pub fn names(&self) -> &'static [&'static str] {
        match self {
            Self::None => &[],
            Self::Steps(names, _) | Self::Own(names, _) => names,
        }
    }
}

/// The entry whose runs a recording calls `name`; the first, where it is a run of several methods.
pub fn recorded_as(name: &str) -> Option<&'static Entry> {
    crate::METHODS
        .iter()
        .find(|e| e.replay.names().contains(&name))
}

/// What a replay runs on.
pub struct Stage<'a> {
    /// The recorded backbone.
    pub clip: Arc<Clip>,
    /// The method.
    pub entry: &'static Entry,
    /// The run.
    pub recording: &'a Recording,
}

/// Replays `recording` on the backbone it was recorded with.
///
/// # Errors
/// A method that is not known, and what is wrong with the recording, by its field or tensor.
pub fn replay(clip: Arc<Clip>, recording: &Recording) -> Result<Comparison> {
    let name = recording.field("method").and_then(|m| m.as_str());
    let name = name.unwrap_or_default();
    if recorded_as(name).is_none() {
        bail!("method: {name:?} is not one of those that can be replayed");
    }
    let mut comparison = Comparison::default();
    // A recording may be of several methods, one of which goes on from another.
    let all = crate::METHODS.iter();
    for entry in all.filter(|e| e.replay.names().contains(&name)) {
        let stage = Stage {
            clip: clip.clone(),
            entry,
            recording,
        };
        match entry.replay {
            Replay::None => {}
            Replay::Steps(_, settings) => {
                let table = settings(recording)?;
                steps(&stage, table, &mut comparison)?;
            }
            Replay::Own(_, run) => run(&stage, &mut comparison)?,
        }
    }
    Ok(comparison)
}

impl Stage<'_> {
    /// The method with `table` as settings, with the recorded initial values.
    ///
    /// # Errors
    /// Settings that are wrong, by their names as parameters; values that do not fit.
    pub fn start(&self, table: toml::Table, classes: &Classes) -> Result<Box<dyn Method>> {
        let reading = self.entry.read(table);
        if let Some(p) = reading.problems.first() {
            bail!("params.{}: {}", p.field, p.message);
        }
        let on = self.clip.clone().into();
        let config = reading.config;
        let method = config.build(&on, classes, &mut Init::seeded(0))?;
        load_parameters(method.as_ref(), &self.recording.initial())?;
        Ok(method)
    }

    /// The settings `table` as `read` types them, for a replay that looks inside of a method.
    ///
    /// # Errors
    /// Settings that are wrong, by their names as parameters.
    pub fn typed<C>(&self, table: toml::Table, read: impl FnOnce(&mut Settings) -> C) -> Result<C> {
        let mut settings = Settings::new(table);
        let config = read(&mut settings);
        if let Some(p) = settings.finish().problems.first() {
            bail!("params.{}: {}", p.field, p.message);
        }
        Ok(config)
    }
}

/// Training steps: losses and their parts, first gradients, final values, logits before and after, and on other classes.
///
/// # Errors
/// As [`replay`].
pub fn steps(stage: &Stage, table: toml::Table, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let mut method = stage.start(table, &r.classes()?)?;
    follow(stage, method.as_mut(), &mut r.optimizer()?, c)
}

/// As [`steps`], of a method that is there and an update rule that the recording does not say.
///
/// # Errors
/// As [`replay`].
pub fn follow(
    stage: &Stage,
    method: &mut dyn Method,
    optimizer: &mut Optimizer,
    c: &mut Comparison,
) -> Result<()> {
    watched(stage, method, optimizer, c, &mut |_, _, _| Ok(()))
}

/// What a replay compares of each step besides, by its number.
pub type Seen<'a> = dyn FnMut(usize, &Step, &mut Comparison) -> Result<()> + 'a;

/// As [`follow`], with a look at each step.
///
/// # Errors
/// As [`replay`].
pub fn watched(
    stage: &Stage,
    method: &mut dyn Method,
    optimizer: &mut Optimizer,
    c: &mut Comparison,
    seen: &mut Seen,
) -> Result<()> {
    let r = stage.recording;
    let test = Images::Pixels(r.get("test_images")?.clone());
    if let Some(before) = r.tensors.get("logits.before") {
        c.logits(&method.predictor()?.logits(&test)?, before)?;
    }
    train_watched(stage, method, optimizer, c, seen)?;
    c.parameters(method, &r.last())?;
    c.logits(&method.predictor()?.logits(&test)?, r.get("logits.after")?)?;
    let aggregated = r.named("gpa.");
    if !aggregated.is_empty() {
        method.finish()?;
        c.parameters(method, &aggregated)?;
        c.logits(&method.predictor()?.logits(&test)?, r.get("logits.gpa")?)?;
    }
    if let (Some(names), Some(novel)) = (r.texts("novel_classnames"), r.tensors.get("logits.novel"))
    {
        method.bind(&r.classes_of(&names))?;
        c.logits(&method.predictor()?.logits(&test)?, novel)?;
    }
    Ok(())
}

/// The recorded batches, one step each.
///
/// # Errors
/// As [`replay`].
pub fn train(
    stage: &Stage,
    method: &mut dyn Method,
    optimizer: &mut Optimizer,
    c: &mut Comparison,
) -> Result<()> {
    train_watched(stage, method, optimizer, c, &mut |_, _, _| Ok(()))
}

fn train_watched(
    stage: &Stage,
    method: &mut dyn Method,
    optimizer: &mut Optimizer,
    c: &mut Comparison,
    seen: &mut Seen,
) -> Result<()> {
    let r = stage.recording;
    let Some(losses) = r.numbers("loss")? else {
        bail!("tensor loss is missing");
    };
    let parts = match r.tensors.get("loss.parts") {
        Some(t) => Some(t.to_dtype(DType::F64)?.to_vec2::<f64>()?),
        None => None,
    };
    let beside = r.numbers("kl")?;
    let rounding_only = r.texts("rounding_only").unwrap_or_default();
    for (number, want) in losses.iter().enumerate() {
        let done = step(method, optimizer, &r.batch(number)?, r.rate(number)?)?;
        c.loss(done.value, *want);
        if let Some(parts) = &parts {
            if done.loss.parts.len() != parts[number].len() {
                bail!(
                    "loss.parts: {} parts are recorded, {} computed",
                    parts[number].len(),
                    done.loss.parts.len()
                );
            }
            for ((_, part), want) in done.loss.parts.iter().zip(&parts[number]) {
                c.loss_of(part, *want)?;
            }
        }
        if let (Some(beside), Some((_, ours))) = (&beside, done.loss.beside.first()) {
            c.loss_of(ours, beside[number])?;
        }
        if let (0, Some(gradients)) = (number, &done.gradients) {
            for (name, want) in r.named("grad0.") {
                let var = method.parameters().into_iter().find(|(n, _)| *n == name);
                let ours = var.and_then(|(_, v)| gradients.get(v.as_tensor()).cloned());
                let Some(ours) = ours else {
                    bail!("no gradient for {name}");
                };
                if rounding_only.contains(&format!("grad0.{name}")) {
                    worst(&mut c.gradient, largest(&ours)?);
                } else {
                    c.gradient(&name, &ours, &want)?;
                }
            }
        }
        seen(number, &done, c)?;
        method.stepped(number + 1, losses.len())?;
        method.end_epoch(number, losses.len())?;
        c.steps += 1;
    }
    Ok(())
}
