//! Learned prompts on disk: safetensors under the published names, with what is needed to rebuild them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use clip::weights::Stored;
use methods::Classes;
use serde::{Deserialize, Serialize};

use crate::record::{Found, Record, from_1};
use crate::run::trial::{Outcomes, built, joined};
use crate::store::replace;

/// Key of the description in the file's metadata.
const KEY: &str = "promptbed";

/// Version of [`Description`]. A reader refuses a newer one and migrates an older one.
const SCHEMA: u32 = 2;

/// What a prompt file says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Version of this description.
    pub schema: u32,
    /// Algorithm in the registry.
    pub algorithm: String,
    /// Every setting of the method and of its training.
    pub settings: BTreeMap<String, serde_json::Value>,
    /// Settings of the suite that it was trained with.
    pub suite_settings: BTreeMap<String, serde_json::Value>,
    /// What it was trained on, as [`start`](crate::start) has it.
    pub dataset: String,
    /// Shots.
    pub shots: usize,
    /// Seed.
    pub seed: u64,
    /// Names of the classes trained on, in label order; of several stages, in the last.
    pub classes: Vec<String>,
    /// What each stage taught, of each dataset, where there were several of either: a method is bound to them in turn before
    /// it takes what it learned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Vec<Taught>>,
    /// Fingerprint of the backbone.
    pub backbone_fingerprint: String,
    /// Optimizer steps.
    pub step: u64,
    /// What the method tells that it found.
    #[serde(default, skip_serializing_if = "Found::is_empty")]
    pub found: Found,
}

/// Classes of one dataset that a stage taught.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Taught {
    /// The dataset.
    pub dataset: String,
    /// Its hand-written prompt.
    pub template: String,
    /// Their names as they are written.
    pub classes: Vec<String>,
    /// Names of all of the dataset's classes, where these are not all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub among: Vec<String>,
}

impl Taught {
    fn of(classes: &Classes) -> Self {
        let is_whole = classes.names == classes.dataset_names;
        Self {
            dataset: classes.dataset.clone(),
            template: classes.template.clone(),
            classes: classes.written.clone(),
            among: if is_whole {
                Vec::new()
            } else {
                classes.dataset_names.clone()
            },
        }
    }

    fn classes(&self) -> Classes {
        let classes = Classes::new(&self.classes, &self.dataset, &self.template);
        if self.among.is_empty() {
            classes
        } else {
            classes.among(&self.among)
        }
    }
}

/// What the stages of a trial taught, where that is more than the classes of one dataset once.
fn stages(taught: &[Vec<Classes>]) -> Vec<Vec<Taught>> {
    let is_plain = matches!(taught, [] | [_]) && taught.iter().all(|stage| stage.len() == 1);
    let stages = taught.iter().filter(|_| !is_plain);
    stages
        .map(|stage| stage.iter().map(Taught::of).collect())
        .collect()
}

/// Writes the prompts of a finished trial, whole or not at all; nothing where nothing was trained.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, record: &Record, outcomes: &Outcomes) -> Result<()> {
    if outcomes.prompts.is_empty() {
        return Ok(());
    }
    let description = Description {
        schema: SCHEMA,
        algorithm: record.algorithm.clone(),
        settings: (*record.settings).clone(),
        suite_settings: (*record.suite_settings).clone(),
        dataset: record.dataset.clone(),
        shots: record.shots,
        seed: record.seed,
        classes: outcomes.classes.clone(),
        stages: stages(&outcomes.taught),
        backbone_fingerprint: record.provenance.backbone_fingerprint.clone(),
        step: outcomes.cost.steps,
        found: record.found.clone(),
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
    let description = describe(text).with_context(|| format!("{}: {KEY}", path.display()))?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .with_context(|| format!("{}", path.display()))?;
    Ok((description, tensors.into_iter().collect()))
}

/// Reads a description of any schema up to [`SCHEMA`].
fn describe(text: &str) -> Result<Description> {
    let mut value: serde_json::Value = serde_json::from_str(text)?;
    match value.get("schema").and_then(serde_json::Value::as_u64) {
        Some(newer) if newer > u64::from(SCHEMA) => bail!(
            "schema: {newer} is newer than {SCHEMA}, the newest this program reads; update it"
        ),
        Some(1) => {
            from_1(&mut value);
            Ok(serde_json::from_value(value)?)
        }
        _ => Ok(serde_json::from_str(text)?),
    }
}

/// What a checkpoint of the published code does not say of itself.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Given {
    /// Method of a published checkpoint; prompts written by promptbed say it themselves.
    #[arg(long)]
    pub method: Option<String>,
    /// A setting of it, as in suites: --set n_ctx=4 --set 'init="a photo of a"'.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// A tensor that is read when it is needed: published checkpoints carry whole CLIPs.
enum Held {
    Here(Tensor),
    Stored(Stored),
}

impl Held {
    /// The tensor, called `name` in the file `path`.
    ///
    /// # Errors
    /// When its bytes are damaged, or a number is not finite.
    fn tensor(&self, path: &Path, name: &str) -> Result<Tensor> {
        let tensor = match self {
            Self::Here(tensor) => tensor.clone(),
            Self::Stored(stored) => stored.load(name)?,
        };
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?;
        let values: Vec<f32> = values.to_vec1()?;
        let strange = values.iter().filter(|v| !v.is_finite()).count();
        if strange > 0 {
            bail!(
                "{}: {name}: {strange} of {} numbers are not finite",
                path.display(),
                values.len()
            );
        }
        Ok(tensor)
    }
}

/// Safetensors begin with a length and a brace; all else must be a pickle, whose reader says what is wrong.
fn is_safetensors(path: &Path) -> Result<bool> {
    let mut head = [0u8; 9];
    std::fs::File::open(path)
        .and_then(|mut f| std::io::Read::read(&mut f, &mut head))
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(head[8] == b'{')
}

/// What was learned on the CLIP with `fingerprint`, by published name, whatever the method: from prompts of ours or from
/// a published checkpoint, whose own towers are left out.
///
/// # Errors
/// A file that is neither; prompts of ours that were learned on another CLIP; numbers that are not finite.
pub fn learned_on(fingerprint: &str, path: &Path) -> Result<BTreeMap<String, Tensor>> {
    if is_safetensors(path)? {
        let (description, tensors) = read(path)?;
        if description.backbone_fingerprint != fingerprint {
            bail!(
                "{}: was learned on the CLIP with fingerprint {}, the teacher is {fingerprint}; name that one with \
                 `teacher`",
                path.display(),
                description.backbone_fingerprint
            );
        }
        return Ok(tensors);
    }
    let mut learned = BTreeMap::new();
    for (name, held) in checkpoint(path)? {
        if !is_of_a_tower(&name) {
            let tensor = held.tensor(path, &name)?.to_dtype(DType::F32)?;
            learned.insert(name, tensor);
        }
    }
    Ok(learned)
}

/// Prompts that can be bound to classes again.
pub struct Saved {
    /// Algorithm in the registry.
    pub algorithm: String,
    /// Its settings.
    pub config: Box<dyn methods::Config>,
    /// By published name; of a published checkpoint everything in it, the towers too.
    tensors: BTreeMap<String, Held>,
    /// Of the trial; 0 where unknown.
    pub seed: u64,
    description: Option<Description>,
    path: std::path::PathBuf,
}

impl Saved {
    /// Reads prompts of ours, or a published checkpoint that `given` describes.
    ///
    /// # Errors
    /// A file that is neither, a method that is not given or not known, settings that are wrong.
    pub fn read(path: &Path, given: &Given) -> Result<Self> {
        if is_safetensors(path)? {
            if given.method.is_some() || !given.set.is_empty() {
                bail!(
                    "--method, --set: {} says itself what it is; they are for published checkpoints",
                    path.display()
                );
            }
            let (description, tensors) = read(path)?;
            return Self::of_ours(path, description, tensors);
        }
        let Some(name) = &given.method else {
            bail!(
                "{}: is not written by promptbed; say with --method which method it is",
                path.display()
            );
        };
        let entry = methods::find(name).with_context(|| {
            let names: Vec<&str> = methods::METHODS.iter().map(|m| m.name).collect();
            format!(
                "--method {name}: there is no such method; there are {}",
                names.join(", ")
            )
        })?;
        let tensors = checkpoint(path)?;
        let mut config = toml::Table::new();
        for pair in &given.set {
            let table: toml::Table = toml::from_str(pair)
                .map_err(|e| anyhow::anyhow!("--set {pair}: {}", e.message()))?;
            config.extend(table);
        }
        let methods::Reading {
            config, problems, ..
        } = entry.read(config);
        if !problems.is_empty() {
            let told: Vec<String> = problems
                .iter()
                .map(|p| format!("--set {}: {}", p.field, p.message))
                .collect();
            bail!(told.join("\n"));
        }
        Ok(Self {
            algorithm: entry.name.to_owned(),
            config,
            tensors,
            seed: 0,
            description: None,
            path: path.to_owned(),
        })
    }

    fn of_ours(
        path: &Path,
        description: Description,
        tensors: BTreeMap<String, Tensor>,
    ) -> Result<Self> {
        let entry = methods::find(&description.algorithm).with_context(|| {
            format!(
                "{}: algorithm: this program has no method {:?}",
                path.display(),
                description.algorithm
            )
        })?;
        let mut config = toml::Table::new();
        let is_training = |key: &str| methods::Training::KEYS.contains(&key);
        for (key, value) in description.settings.iter().filter(|(k, _)| !is_training(k)) {
            if let Ok(value) = toml::Value::try_from(value) {
                config.insert(key.clone(), value);
            }
        }
        let methods::Reading {
            config, problems, ..
        } = entry.read(config);
        let wrong: Vec<String> = problems
            .iter()
            .map(|p| format!("{}: {}: {}", path.display(), p.field, p.message))
            .collect();
        if !wrong.is_empty() {
            bail!(wrong.join("\n"));
        }
        Ok(Self {
            algorithm: entry.name.to_owned(),
            config,
            tensors: tensors
                .into_iter()
                .map(|(n, t)| (n, Held::Here(t)))
                .collect(),
            seed: description.seed,
            description: Some(description),
            path: path.to_owned(),
        })
    }

    /// What the method told that it found, where it told anything.
    pub fn found(&self) -> Option<&Found> {
        let found = &self.description.as_ref()?.found;
        (!found.is_empty()).then_some(found)
    }

    /// Names and shapes of everything in the file.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, held)| {
            let shape = match held {
                Held::Here(tensor) => tensor.dims(),
                Held::Stored(stored) => stored.shape(),
            };
            (name.as_str(), shape)
        })
    }

    /// Reads a tensor of the file.
    ///
    /// # Errors
    /// When it is not there, its bytes are damaged, or a number is not finite.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        match self.tensors.get(name) {
            Some(held) => held.tensor(&self.path, name),
            None => bail!("{}: {name}: is missing", self.path.display()),
        }
    }

    /// That these weights are those the prompts were learned on, where that is known.
    ///
    /// # Errors
    /// Names both fingerprints.
    pub fn check_backbone(&self, fingerprint: &str) -> Result<()> {
        match &self.description {
            Some(d) if d.backbone_fingerprint != fingerprint => bail!(
                "{}: was learned on the CLIP with fingerprint {}, this one is {fingerprint}; pass the right --model, and \
                 with it what was said of it then (--activation, --heads)",
                self.path.display(),
                d.backbone_fingerprint
            ),
            _ => Ok(()),
        }
    }

    /// That they score with this CLIP alone.
    ///
    /// # Errors
    /// Names what else the method scores with.
    pub fn check_alone(&self) -> Result<()> {
        let needs = self.config.needs();
        for (needed, what) in [
            (needs.teacher, "a second backbone"),
            (needs.descriptions, "descriptions of the classes"),
        ] {
            if needed {
                bail!(
                    "{}: {} scores with {what} too; test it in a suite",
                    self.path.display(),
                    self.algorithm
                );
            }
        }
        Ok(())
    }

    /// The method with these prompts, bound to `classes`.
    ///
    /// # Errors
    /// Tensors that are missing or of another shape; classes the prompts cannot go to.
    pub fn method(
        &self,
        clip: &std::sync::Arc<clip::Clip>,
        classes: &Classes,
    ) -> Result<Box<dyn methods::Method>> {
        let mut init = methods::Init::seeded(self.seed);
        let on = methods::Backbones::from(clip.clone());
        let Some(description) = &self.description else {
            let method = self.config.build(&on, classes, &mut init)?;
            let mut values = BTreeMap::new();
            let mut used = BTreeSet::new();
            for (name, _) in method.parameters() {
                let whole = self.tensors.get_key_value(&name).map(|(key, _)| key);
                let found = whole.or_else(|| self.tensors.keys().find(|key| is_called(key, &name)));
                match found {
                    Some(key) => {
                        used.insert(key);
                        values.insert(name, self.tensor(key)?);
                    }
                    None => bail!("state_dict: has no {name}, which {} learns", self.algorithm),
                };
            }
            let left: Vec<&str> = self
                .tensors
                .keys()
                .filter(|key| !used.contains(key) && !is_of_a_tower(key))
                .map(String::as_str)
                .collect();
            if !left.is_empty() {
                bail!(
                    "state_dict: {} with these settings does not learn {}; give the settings of its training with \
                     --set",
                    self.algorithm,
                    left.join(", ")
                );
            }
            methods::load_parameters(method.as_ref(), &values)?;
            return Ok(method);
        };
        let stages: Vec<Vec<Classes>> = if !description.stages.is_empty() {
            let stage = |taught: &Vec<Taught>| taught.iter().map(Taught::classes).collect();
            description.stages.iter().map(stage).collect()
        } else if description.classes == classes.names {
            vec![vec![classes.clone()]]
        } else {
            let own = Classes::new(&description.classes, &classes.dataset, &classes.template)
                .among(&classes.dataset_names)
                .described(classes.descriptions.clone());
            vec![vec![own]]
        };
        let mut method = built(self.config.as_ref(), &on, &stages[0], &mut init)?;
        for stage in &stages[1..] {
            method.bind(&joined(stage))?;
        }
        let own = joined(&stages[stages.len() - 1]);
        let values = self.tensors.keys().map(|name| {
            let tensor = self.tensor(name)?;
            Ok((name.clone(), tensor))
        });
        let values = values.collect::<Result<BTreeMap<_, _>>>()?;
        methods::put_back(method.as_mut(), values)?;
        if own != *classes {
            method.bind(classes)?;
        }
        Ok(method)
    }
}

/// Whether a checkpoint's tensor is the parameter `name`: with or without the leading module, alone or in a whole model.
fn is_called(key: &str, name: &str) -> bool {
    key == name
        || key.ends_with(&format!(".{name}"))
        || name.strip_prefix("prompt_learner.") == Some(key)
}

/// Whether a tensor of a whole model is CLIP's own, not learned: a tower's (also of PromptSRC's frozen teacher), or the
/// temperature.
fn is_of_a_tower(key: &str) -> bool {
    let is_prompt = key.rsplit('.').next().is_some_and(|l| l.starts_with("VPT"));
    let is_tower = ["image_encoder.", "text_encoder.", "clip_model."]
        .iter()
        .any(|tower| key.contains(tower));
    (is_tower && !is_prompt) || key.rsplit('.').next() == Some("logit_scale")
}

/// Whether a tensor holds fixed vectors of the classes of training, which the published code drops too.
fn is_of_classes(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    ["token_prefix", "token_suffix", "class_text_features"]
        .iter()
        .any(|kind| name.starts_with(kind))
}

/// The tensors of a published checkpoint: its `state_dict`, or the dictionary itself.
fn checkpoint(path: &Path) -> Result<BTreeMap<String, Held>> {
    let tree = clip::weights::pickle::read(path)?;
    crate::backbone::say_skipped(path, &tree.skipped());
    let inner = tree.get("state_dict").unwrap_or(tree);
    let mut out = BTreeMap::new();
    for (name, stored) in inner.tensors()? {
        if is_of_classes(&name) {
            continue;
        }
        out.insert(name, Held::Stored(stored));
    }
    if out.is_empty() {
        bail!("{}: state_dict: holds no tensors", path.display());
    }
    Ok(out)
}
