//! Replaying recorded runs of released code, step for step, on tensors that somebody else has read.
//!
//! A recording holds the pictures, the initial values and what the released code made of them. A replay starts from the
//! recorded values and must arrive where the recording did. Each method's entry says how: most are training steps, which
//! one engine replays; the rest compare what they do themselves.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};
use clip::Clip;

use crate::classes::Classes;
use crate::entry::Entry;
use crate::init::Init;
use crate::kept::load_parameters;
use crate::method::{Batch, Images, Method};
use crate::optimizer::{Optimizer, Rule};
use crate::settings::Settings;
use crate::step::{Step, step};

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

/// A recorded run.
pub struct Recording {
    /// `trace.json`.
    pub json: serde_json::Value,
    /// `trace.safetensors`.
    pub tensors: HashMap<String, Tensor>,
    /// Catalogue id of the dataset it names, or the name itself.
    pub dataset: String,
    /// That dataset's hand-written prompt.
    pub template: String,
}

fn toml_of(value: &serde_json::Value) -> Result<toml::Value> {
    toml::Value::try_from(value).map_err(candle_core::Error::wrap)
}

impl Recording {
    /// A top-level field.
    pub fn field(&self, key: &str) -> Option<&serde_json::Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    /// A parameter of the run.
    pub fn parameter(&self, key: &str) -> Option<&serde_json::Value> {
        self.json.get("params")?.get(key).filter(|v| !v.is_null())
    }

    /// A parameter that must be a number.
    ///
    /// # Errors
    /// When it is none.
    pub fn number(&self, key: &str) -> Result<f64> {
        match self.parameter(key).and_then(serde_json::Value::as_f64) {
            Some(number) => Ok(number),
            None => bail!("params.{key}: must be a number"),
        }
    }

    /// A parameter that must be a count.
    ///
    /// # Errors
    /// When it is none.
    pub fn count(&self, key: &str) -> Result<usize> {
        match self.parameter(key).and_then(serde_json::Value::as_u64) {
            Some(number) => Ok(number as usize),
            None => bail!("params.{key}: must be a whole number"),
        }
    }

    /// Words of a parameter, `_` for a space; none where it is not there.
    pub fn words(&self, key: &str) -> String {
        let text = self.parameter(key).and_then(serde_json::Value::as_str);
        text.unwrap_or_default().replace('_', " ")
    }

    /// A number anywhere in the record, by its JSON pointer.
    pub fn at(&self, pointer: &str) -> Option<f64> {
        self.json.pointer(pointer)?.as_f64()
    }

    /// A top-level list of texts.
    pub fn texts(&self, key: &str) -> Option<Vec<String>> {
        let list = self.field(key)?.as_array()?;
        list.iter().map(|v| v.as_str().map(str::to_owned)).collect()
    }

    /// A top-level list as a setting's value; nothing where it is empty or not there.
    pub fn list(&self, key: &str) -> Option<toml::Value> {
        let list = self.field(key)?;
        toml_of(list)
            .ok()
            .filter(|v| v.as_array().is_some_and(|a| !a.is_empty()))
    }

    /// A table of the parameters that are there, under this program's names: `(theirs, ours)`.
    ///
    /// # Errors
    /// A value that no setting can have.
    pub fn settings(&self, names: &[(&str, &str)]) -> Result<toml::Table> {
        let mut table = toml::Table::new();
        for (theirs, ours) in names {
            if let Some(value) = self.parameter(theirs) {
                table.insert((*ours).to_owned(), toml_of(value)?);
            }
        }
        Ok(table)
    }

    /// Learning rate of each step; a shorter list goes on with its last.
    ///
    /// # Errors
    /// When there is none.
    pub fn rate(&self, step: usize) -> Result<f64> {
        let rates = self.field("lr").and_then(serde_json::Value::as_array);
        let rate = rates.and_then(|r| r.get(step).or(r.last())?.as_f64());
        match rate {
            Some(rate) => Ok(rate),
            None => bail!("lr: must be a list of numbers, one a step"),
        }
    }

    /// A recorded tensor.
    ///
    /// # Errors
    /// When it is not there.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("tensor {name} is missing"),
        }
    }

    /// Values of a recorded tensor, flat; nothing where it is not there.
    ///
    /// # Errors
    /// Those of candle.
    pub fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>> {
        match self.tensors.get(name) {
            None => Ok(None),
            Some(t) => Ok(Some(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)),
        }
    }

    /// Recorded tensors whose names begin with `prefix`, which is taken off. `gpa.weights` is no parameter.
    pub fn named(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let own =
            |(k, v): (&String, &Tensor)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone()));
        let all = self.tensors.iter().filter_map(own);
        all.filter(|(name, _)| name != "weights").collect()
    }

    /// Recorded tensors that training starts from, those that it leaves alone included.
    pub fn initial(&self) -> BTreeMap<String, Tensor> {
        let mut all = self.named("init.");
        all.extend(self.named("frozen."));
        all
    }

    /// The same after training.
    pub fn last(&self) -> BTreeMap<String, Tensor> {
        let mut all = self.named("final.");
        all.extend(self.named("frozen."));
        all
    }

    /// The classes called `names`, of the recording's dataset.
    pub fn classes_of(&self, names: &[String]) -> Classes {
        Classes::new(names, &self.dataset, &self.template)
    }

    /// The classes of the run; of several tasks, each a dataset of that name.
    ///
    /// # Errors
    /// When they are not a list of names, or a list for each task.
    pub fn classes(&self) -> Result<Classes> {
        let Some(tasks) = self.texts("tasknames") else {
            return match self.texts("classnames") {
                Some(names) => Ok(self.classes_of(&names)),
                None => bail!("classnames: must be a list of names"),
            };
        };
        let lists = self.field("classnames").cloned().unwrap_or_default();
        let lists: Vec<Vec<String>> = serde_json::from_value(lists).unwrap_or_default();
        if lists.len() != tasks.len() {
            bail!("classnames: must be a list of names for each task");
        }
        let each = lists.iter().zip(&tasks);
        let each = each.map(|(names, task)| Classes::new(names, task, &self.template));
        Ok(Classes::joined(&each.collect::<Vec<_>>()))
    }

    /// The pictures of step `number` with their labels and tasks, and the second view where there is one.
    ///
    /// # Errors
    /// Pictures or labels that are not there.
    pub fn batch(&self, number: usize) -> Result<Batch> {
        let images = self.get("images")?.get(number)?;
        let labels = match self.tensors.get("labels") {
            Some(labels) => labels.get(number)?.to_dtype(DType::U32)?,
            None => Tensor::zeros(images.dim(0)?, DType::U32, images.device())?,
        };
        let second = self.tensors.get("images2").map(|s| s.get(number));
        let tasks = self.tensors.get("tasks").map(|t| t.get(number));
        let tasks = tasks.transpose()?.map(|t| t.to_dtype(DType::U32));
        Ok(Batch {
            second: second.transpose()?.map(Images::Pixels),
            tasks: tasks.transpose()?,
            seed: number as u64,
            ..Batch::new(Images::Pixels(images), labels)
        })
    }

    /// The update rule it says, or the family's SGD, with as many updates on one gradient as it says.
    ///
    /// # Errors
    /// A rule that is not known.
    pub fn optimizer(&self) -> Result<Optimizer> {
        let times = self.field("optimizer_steps").and_then(|v| v.as_u64());
        let times = times.unwrap_or(1) as usize;
        let Some(said) = self.field("optimizer") else {
            return Ok(Optimizer::new(Rule::Sgd, 0.9, 5e-4).repeating(times));
        };
        let number = |key: &str, or: f64| said.get(key).and_then(|v| v.as_f64()).unwrap_or(or);
        let rule = match said.get("name").and_then(|v| v.as_str()) {
            Some("adam") => Rule::Adam,
            Some("adamw") => Rule::AdamW,
            Some("sgd") => Rule::Sgd,
            _ => bail!("optimizer.name: must be sgd, adam or adamw"),
        };
        let optimizer = Optimizer::new(rule, number("momentum", 0.9), number("weight_decay", 0.0));
        Ok(optimizer.with_epsilon(number("eps", 1e-8)).repeating(times))
    }
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

/// How far a replay is from its recording.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Comparison {
    /// Steps replayed (pictures, for methods that adapt to test pictures).
    pub steps: usize,
    /// Of any loss or part of one: absolute or relative, the smaller.
    pub loss: f64,
    /// Of any first gradient, as a share of the tensor's largest magnitude.
    pub gradient: f64,
    /// Of any final or derived tensor, as a share of its largest magnitude.
    pub values: f64,
    /// Of any logit, absolute.
    pub logits: f64,
    /// Choices that are not the recorded ones: kept views, picks, search results, votes.
    pub choices: Vec<String>,
}

fn largest(t: &Tensor) -> Result<f64> {
    Ok(f64::from(
        t.abs()?
            .flatten_all()?
            .max(0)?
            .to_dtype(DType::F32)?
            .to_scalar::<f32>()?,
    ))
}

fn worst(into: &mut f64, value: f64) {
    // Not a number is worse than any number.
    if value.is_nan() || value > *into {
        *into = value;
    }
}

/// Largest difference as a share of the recording's largest magnitude.
fn share(name: &str, ours: &Tensor, theirs: &Tensor) -> Result<f64> {
    if ours.dims() != theirs.dims() {
        bail!(
            "{name} is {:?}, recorded as {:?}",
            ours.dims(),
            theirs.dims()
        );
    }
    let difference = largest(&(ours.to_dtype(DType::F32)? - theirs.to_dtype(DType::F32)?)?)?;
    Ok(difference / largest(theirs)?.max(f64::MIN_POSITIVE))
}

impl Comparison {
    /// Compares a loss, or a part of one.
    pub fn loss(&mut self, ours: f64, theirs: f64) {
        let gap = (ours - theirs).abs();
        worst(&mut self.loss, gap.min(gap / theirs.abs()));
    }

    /// As [`Comparison::loss`], of a scalar.
    ///
    /// # Errors
    /// Those of candle.
    pub fn loss_of(&mut self, ours: &Tensor, theirs: f64) -> Result<()> {
        self.loss(f64::from(ours.to_scalar::<f32>()?), theirs);
        Ok(())
    }

    /// Compares a first gradient.
    ///
    /// # Errors
    /// Another shape.
    pub fn gradient(&mut self, name: &str, ours: &Tensor, theirs: &Tensor) -> Result<()> {
        worst(&mut self.gradient, share(name, ours, theirs)?);
        Ok(())
    }

    /// Compares a learned or derived tensor.
    ///
    /// # Errors
    /// Another shape.
    pub fn values(&mut self, name: &str, ours: &Tensor, theirs: &Tensor) -> Result<()> {
        worst(&mut self.values, share(name, ours, theirs)?);
        Ok(())
    }

    /// Compares logits.
    ///
    /// # Errors
    /// Another shape.
    pub fn logits(&mut self, ours: &Tensor, theirs: &Tensor) -> Result<()> {
        if ours.dims() != theirs.dims() {
            bail!(
                "logits are {:?}, recorded as {:?}",
                ours.dims(),
                theirs.dims()
            );
        }
        let theirs = theirs.to_dtype(ours.dtype())?;
        worst(&mut self.logits, largest(&(ours - theirs)?)?);
        Ok(())
    }

    /// Compares a choice, which must be equal.
    pub fn choice<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, ours: T, theirs: T) {
        if ours != theirs {
            self.choices
                .push(format!("{name}: {ours:?}, recorded {theirs:?}"));
        }
    }

    /// Compares how many rows of `scores` are largest at their label with recorded percent.
    ///
    /// # Errors
    /// Another number of labels; nothing recorded.
    pub fn accuracy(
        &mut self,
        name: &str,
        scores: &Tensor,
        labels: &[u32],
        percent: Option<f64>,
    ) -> Result<()> {
        let Some(percent) = percent else {
            bail!("{name}: must be a number");
        };
        let ours = crate::parts::shots::hits(scores, labels)?;
        self.choice(name, ours, counted(percent, labels.len()));
        Ok(())
    }

    /// Compares counts of `of` pictures, in the recorded tensor's order, with recorded percent.
    ///
    /// # Errors
    /// Another number of counts.
    pub fn hits(&mut self, name: &str, ours: &[u32], of: usize, percent: &Tensor) -> Result<()> {
        let recorded: Vec<f64> = percent.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        if recorded.len() != ours.len() {
            bail!("{name}: {} points, recorded {}", ours.len(), recorded.len());
        }
        for (index, (ours, theirs)) in ours.iter().zip(recorded).enumerate() {
            self.choice(
                &format!("{name}[{index}]"),
                *ours as usize,
                counted(theirs, of),
            );
        }
        Ok(())
    }

    /// Compares a chosen number, which must be the recorded one; readers of JSON may lose its last bit.
    pub fn chosen(&mut self, name: &str, ours: f64, theirs: Option<f64>) {
        if theirs.is_none_or(|theirs| (ours - theirs).abs() > 1e-12 * theirs.abs()) {
            self.choices
                .push(format!("{name}: {ours}, recorded {theirs:?}"));
        }
    }

    /// Compares every trained tensor with the recorded ones, which must be the same by name; and what the recording has of
    /// the method's state.
    ///
    /// # Errors
    /// Tensors that only one of the two has.
    pub fn parameters(
        &mut self,
        method: &dyn Method,
        recorded: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        let trained = method.parameters().into_iter();
        let trained = trained.map(|(n, v)| (n, v.as_detached_tensor()));
        let state = method.state().into_iter();
        let state = state.filter(|(n, _)| recorded.contains_key(n));
        let ours: BTreeMap<String, Tensor> = trained.chain(state).collect();
        if ours.len() != recorded.len() {
            bail!(
                "{} tensors are trained, {} are recorded",
                ours.len(),
                recorded.len()
            );
        }
        for (name, want) in recorded {
            match ours.get(name) {
                Some(ours) => self.values(name, ours, want)?,
                None => bail!("{name} is recorded but not trained"),
            }
        }
        Ok(())
    }
}

/// How many of `of` pictures `percent` are.
fn counted(percent: f64, of: usize) -> usize {
    (percent * of as f64 / 100.0).round() as usize
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
