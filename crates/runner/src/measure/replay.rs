//! Replaying recorded training runs of the published implementations, step for step.
//!
//! A trace folder holds `trace.json` (method, classes, layout, learning rates) and `trace.safetensors` (pictures, initial
//! values, and what the published code made of them). A replay starts from the recorded values and must arrive where the
//! recording did.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use candle_core::{DType, Device, Tensor};
use clip::Clip;
use methods::{Batch, Classes, Images, Init, Method, Rule, Settings, optimizer::Optimizer};
use serde::{Deserialize, Serialize};

/// Largest deviation allowed of each kind; see [`Deviations`].
pub const TOLERANCE: Deviations = Deviations {
    loss: 1e-4,
    gradient: 1e-3,
    values: 1e-3,
    logits: 1e-3,
};

/// How far a replay is from its recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Deviations {
    /// Of any loss or part of one: absolute or relative, the smaller.
    pub loss: f64,
    /// Of any first gradient, as a share of the tensor's largest magnitude.
    pub gradient: f64,
    /// Of any final or aggregated tensor, as a share of its largest magnitude.
    pub values: f64,
    /// Of any logit, absolute.
    pub logits: f64,
}

/// One replayed trace.
#[derive(Clone, Debug, Serialize)]
pub struct Replay {
    /// Folder name.
    pub trace: String,
    /// Algorithm.
    pub method: String,
    /// Steps replayed (pictures, for test-time methods).
    pub steps: usize,
    /// How far it is off.
    pub deviation: Deviations,
    /// Whether the same views were kept, where views are kept.
    pub same_views: bool,
    /// Whether all is within [`TOLERANCE`].
    pub pass: bool,
}

#[derive(Debug, Deserialize)]
struct Trace {
    model: String,
    method: String,
    classnames: Vec<String>,
    #[serde(default)]
    dataset: String,
    #[serde(default)]
    params: toml::Table,
    lr: Vec<f64>,
    #[serde(default)]
    views: usize,
    #[serde(default)]
    selection_p: f64,
    #[serde(default = "one")]
    tta_steps: usize,
    #[serde(default)]
    teacher_templates: Vec<String>,
}

fn one() -> usize {
    1
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

/// Catalogue id of a dataset as the published code calls it.
fn dataset_id(published: &str) -> String {
    let known = [
        ("OxfordPets", "oxford-pets"),
        ("OxfordFlowers", "flowers102"),
        ("Flowers102", "flowers102"),
        ("FGVCAircraft", "fgvc-aircraft"),
        ("DescribableTextures", "dtd"),
        ("EuroSAT", "eurosat"),
        ("StanfordCars", "stanford-cars"),
        ("Food101", "food101"),
        ("SUN397", "sun397"),
        ("Caltech101", "caltech101"),
        ("UCF101", "ucf101"),
        ("ImageNet", "imagenet"),
        ("ImageNetV2", "imagenet-v2"),
        ("ImageNetSketch", "imagenet-sketch"),
        ("ImageNetA", "imagenet-a"),
        ("ImageNetR", "imagenet-r"),
    ];
    known
        .iter()
        .find(|(name, _)| *name == published)
        .map_or(published.to_owned(), |(_, id)| (*id).to_owned())
}

fn text(params: &toml::Table, key: &str) -> String {
    params
        .get(key)
        .and_then(toml::Value::as_str)
        .unwrap_or_default()
        .replace('_', " ")
}

/// The trace's parameters under this program's setting names.
fn config(trace: &Trace, tensors: &HashMap<String, Tensor>) -> Result<toml::Table> {
    let p = &trace.params;
    let mut out = toml::Table::new();
    let mut put = |key: &str, value: Option<toml::Value>| {
        if let Some(v) = value {
            out.insert(key.to_owned(), v);
        }
    };
    let get = |key: &str| p.get(key).cloned();
    let init = Some(toml::Value::String(text(p, "ctx_init")));
    let vision = get("n_ctx_vision");
    match trace.method.as_str() {
        "coop" => {
            put("n_ctx", get("n_ctx"));
            put("init", init);
            put("position", get("position"));
            put("per_class", get("csc"));
        }
        "cocoop" | "prograd" => {
            put("n_ctx", get("n_ctx"));
            put("init", init);
        }
        "kgcoop" => {
            put("n_ctx", get("n_ctx"));
            put("init", init);
            put("weight", get("w"));
        }
        "maple" => {
            put("n_ctx", get("n_ctx"));
            put("init", init);
            put("depth", get("depth"));
        }
        "vpt" => {
            put("n_ctx", vision);
            put("depth", get("depth"));
        }
        "ivlp" | "promptsrc" => {
            put("n_ctx_text", get("n_ctx"));
            put("n_ctx_vision", vision);
            put("init", init);
            put("depth_text", get("depth"));
            put("depth_vision", get("depth"));
            if trace.method == "promptsrc" {
                let texts = trace.teacher_templates.iter();
                let texts = texts.map(|t| toml::Value::String(t.clone())).collect();
                put("teacher_templates", Some(toml::Value::Array(texts)));
            }
            if let Some(w) = tensors.get("gpa.weights") {
                let w: Vec<f64> = w.to_dtype(DType::F64)?.to_vec1()?;
                put(
                    "gpa_weights",
                    Some(toml::Value::Array(
                        w.into_iter().map(toml::Value::Float).collect(),
                    )),
                );
            }
        }
        "tpt" => {
            put("n_ctx", get("n_ctx"));
            put("init", init);
            put("views", Some(toml::Value::Integer(trace.views as i64)));
            put("keep", Some(toml::Value::Float(trace.selection_p)));
            put("steps", Some(toml::Value::Integer(trace.tta_steps as i64)));
            put("lr", trace.lr.first().map(|lr| toml::Value::Float(*lr)));
        }
        other => bail!("method: {other:?} is not one of those that can be replayed"),
    }
    Ok(out)
}

struct Recording {
    dir: PathBuf,
    tensors: HashMap<String, Tensor>,
}

impl Recording {
    fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| {
            anyhow!(
                "{}: tensor {name} is missing",
                self.dir.join("trace.safetensors").display()
            )
        })
    }

    fn named(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let own =
            |(k, v): (&String, &Tensor)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone()));
        self.tensors
            .iter()
            .filter_map(own)
            .filter(|(k, _)| k != "weights")
            .collect()
    }
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

/// Largest difference as a share of the recording's largest magnitude.
fn share(ours: &Tensor, theirs: &Tensor) -> Result<f64> {
    if ours.dims() != theirs.dims() {
        bail!(
            "a tensor is {:?}, recorded as {:?}",
            ours.dims(),
            theirs.dims()
        );
    }
    let difference = largest(&(ours.to_dtype(DType::F32)? - theirs.to_dtype(DType::F32)?)?)?;
    Ok(difference / largest(theirs)?.max(f64::MIN_POSITIVE))
}

fn apart(ours: &Tensor, theirs: &Tensor) -> Result<f64> {
    largest(&(ours - theirs)?)
}

fn worst(into: &mut f64, value: f64) {
    // Not a number is worse than any number.
    if value.is_nan() || value > *into {
        *into = value;
    }
}

fn loss_gap(ours: f64, theirs: f64) -> f64 {
    let gap = (ours - theirs).abs();
    gap.min(gap / theirs.abs())
}

/// Replays the trace in `dir`.
///
/// # Errors
/// A folder that is not a trace, naming what is wrong with it.
pub fn replay(dir: &Path) -> Result<Replay> {
    let json = dir.join("trace.json");
    let text = std::fs::read_to_string(&json)
        .with_context(|| format!("{}: cannot be read", json.display()))?;
    let trace: Trace =
        serde_json::from_str(&text).with_context(|| format!("{}", json.display()))?;
    let file = dir.join("trace.safetensors");
    let tensors = candle_core::safetensors::load(&file, &Device::Cpu)
        .with_context(|| format!("{}", file.display()))?;
    let recording = Recording {
        dir: dir.to_owned(),
        tensors,
    };
    let model = dir.parent().unwrap_or(dir).join(&trace.model);
    let model = if model.exists() {
        model
    } else {
        dir.join(&trace.model)
    };
    let clip = Arc::new(Clip::load(&model)?);
    let name = dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let row = catalogue_template(&dataset_id(&trace.dataset));
    let classes = Classes::new(&trace.classnames, &dataset_id(&trace.dataset), &row);
    let config =
        config(&trace, &recording.tensors).with_context(|| format!("{}", json.display()))?;
    let mut replay = Replay {
        trace: name,
        method: trace.method.clone(),
        steps: 0,
        deviation: Deviations::default(),
        same_views: true,
        pass: false,
    };
    if trace.method == "tpt" {
        test_time(&clip, &classes, &config, &recording, &mut replay)?;
    } else {
        training(&clip, &classes, &trace, config, &recording, &mut replay)?;
    }
    let d = replay.deviation;
    replay.pass = replay.same_views
        && d.loss <= TOLERANCE.loss
        && d.gradient <= TOLERANCE.gradient
        && d.values <= TOLERANCE.values
        && d.logits <= TOLERANCE.logits;
    Ok(replay)
}

fn catalogue_template(id: &str) -> String {
    datasets::catalogue::Catalogue::built_in()
        .get(id)
        .map_or_else(
            || methods::templates::PHOTO.to_owned(),
            |row| row.template.clone(),
        )
}

fn training(
    clip: &Arc<Clip>,
    classes: &Classes,
    trace: &Trace,
    config: toml::Table,
    recording: &Recording,
    replay: &mut Replay,
) -> Result<()> {
    let entry = methods::find(&trace.method)
        .ok_or_else(|| anyhow!("method: {:?} is unknown", trace.method))?;
    let mut settings = Settings::new(config);
    let config = (entry.read)(&mut settings);
    if let Some(p) = settings.finish().problems.first() {
        bail!(
            "{}: params.{}: {}",
            recording.dir.join("trace.json").display(),
            p.field,
            p.message
        );
    }
    let mut method = config.build(clip, classes, &mut Init::seeded(0))?;
    methods::load_parameters(method.as_ref(), &recording.named("init."))?;
    let images = recording.get("images")?;
    let labels = recording.get("labels")?.to_dtype(DType::U32)?;
    let losses: Vec<f64> = recording.get("loss")?.to_dtype(DType::F64)?.to_vec1()?;
    let parts: Option<Vec<Vec<f64>>> = match recording.tensors.get("loss.parts") {
        Some(t) => Some(t.to_dtype(DType::F64)?.to_vec2()?),
        None => None,
    };
    let guide: Option<Vec<f64>> = match recording.tensors.get("kl") {
        Some(t) => Some(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?),
        None => None,
    };
    let test = Images::Pixels(recording.get("test_images")?.clone());
    let d = &mut replay.deviation;
    worst(
        &mut d.logits,
        apart(
            &method.predictor()?.logits(&test)?,
            recording.get("logits.before")?,
        )?,
    );
    let mut optimizer = Optimizer::new(Rule::Sgd, 0.9, 5e-4);
    let steps = losses.len();
    for (step, want) in losses.iter().enumerate() {
        let batch = Batch {
            images: Images::Pixels(images.get(step)?),
            labels: labels.get(step)?,
        };
        let loss = method.loss(&batch)?;
        worst(
            &mut d.loss,
            loss_gap(f64::from(loss.total.to_scalar::<f32>()?), *want),
        );
        if let Some(parts) = &parts {
            for ((_, part), want) in loss.parts.iter().zip(&parts[step]) {
                worst(
                    &mut d.loss,
                    loss_gap(f64::from(part.to_scalar::<f32>()?), *want),
                );
            }
        }
        if let (Some(guide), Some((_, kl))) = (&guide, loss.parts.iter().find(|(n, _)| *n == "kl"))
        {
            worst(
                &mut d.loss,
                loss_gap(f64::from(kl.to_scalar::<f32>()?), guide[step]),
            );
        }
        let gradients = method.gradients(&loss)?;
        if step == 0 {
            for (name, want) in recording.named("grad0.") {
                let var = method.parameters().into_iter().find(|(n, _)| *n == name);
                let ours = var.and_then(|(_, v)| gradients.get(v.as_tensor()).cloned());
                let ours = ours.ok_or_else(|| anyhow!("no gradient for {name}"))?;
                worst(&mut d.gradient, share(&ours, &want)?);
            }
        }
        let lr = *trace
            .lr
            .get(step)
            .or(trace.lr.last())
            .ok_or_else(|| anyhow!("lr: is empty"))?;
        optimizer.step(&method.parameters(), &gradients, lr)?;
        method.end_epoch(step, steps)?;
    }
    replay.steps = steps;
    compare_values(method.as_ref(), &recording.named("final."), d)?;
    worst(
        &mut d.logits,
        apart(
            &method.predictor()?.logits(&test)?,
            recording.get("logits.after")?,
        )?,
    );
    let aggregated = recording.named("gpa.");
    if !aggregated.is_empty() {
        method.finish()?;
        compare_values(method.as_ref(), &aggregated, d)?;
        worst(
            &mut d.logits,
            apart(
                &method.predictor()?.logits(&test)?,
                recording.get("logits.gpa")?,
            )?,
        );
    }
    Ok(())
}

fn compare_values(
    method: &dyn Method,
    want: &BTreeMap<String, Tensor>,
    d: &mut Deviations,
) -> Result<()> {
    let ours: BTreeMap<String, Tensor> = method
        .parameters()
        .into_iter()
        .map(|(n, v)| (n, v.as_detached_tensor()))
        .collect();
    if ours.len() != want.len() {
        bail!(
            "{} tensors are trained, {} are recorded",
            ours.len(),
            want.len()
        );
    }
    for (name, want) in want {
        let ours = ours
            .get(name)
            .ok_or_else(|| anyhow!("{name} is recorded but not trained"))?;
        worst(&mut d.values, share(ours, want)?);
    }
    Ok(())
}

fn test_time(
    clip: &Arc<Clip>,
    classes: &Classes,
    config: &toml::Table,
    recording: &Recording,
    replay: &mut Replay,
) -> Result<()> {
    let views = recording.get("views")?;
    let (before, after) = (
        recording.get("logits.before")?,
        recording.get("logits.after")?,
    );
    let losses: Vec<f64> = recording
        .get("loss")?
        .to_dtype(DType::F64)?
        .flatten_all()?
        .to_vec1()?;
    let kept: Vec<Vec<i64>> = recording.get("selected")?.to_dtype(DType::I64)?.to_vec2()?;
    let start = recording
        .named("init.")
        .into_values()
        .next()
        .ok_or_else(|| anyhow!("tensor init.* is missing"))?;
    let finals = recording.named("final.").into_values().next();
    let gradient = recording.named("grad0.").into_values().next();
    let d = &mut replay.deviation;
    for picture in 0..views.dim(0)? {
        let tuned = methods::tpt::tune_once(
            config,
            clip,
            classes,
            &start,
            &Images::Pixels(views.get(picture)?),
        )?;
        worst(&mut d.loss, loss_gap(tuned.loss, losses[picture]));
        worst(&mut d.logits, apart(&tuned.before, &before.get(picture)?)?);
        worst(&mut d.logits, apart(&tuned.logits, &after.get(picture)?)?);
        replay.same_views &= tuned
            .kept
            .iter()
            .map(|i| *i as i64)
            .eq(kept[picture].iter().copied());
        if let Some(want) = &finals {
            let want = if want.rank() == 3 {
                want.get(picture)?
            } else {
                want.clone()
            };
            worst(&mut d.values, share(&tuned.context, &want)?);
        }
        if let (Some(want), Some(ours)) = (&gradient, &tuned.gradient) {
            if want.rank() == 3 {
                worst(&mut d.gradient, share(ours, &want.get(picture)?)?);
            } else if picture == 0 {
                worst(&mut d.gradient, share(ours, want)?);
            }
        }
        replay.steps += 1;
    }
    Ok(())
}
