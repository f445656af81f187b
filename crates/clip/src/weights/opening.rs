//! From a path to tensors in a file: which format it is, and which files belong to it.

use super::pickle::{self, Program, Tree};
use super::settings::Given;
use super::settled::{Beside, Hint};
use super::stored::{Mapped, Stored};
use super::{Format, TOKENS, Weights, architecture, config, foreign, names, safetensors};
use crate::error::{Error, Fault};
use crate::ops::Activation;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Opens a CLIP of a file or folder, telling the format by its content. Numbers are read later, by
/// [`Clip::from_weights`](crate::Clip::from_weights) or [`Weights::fingerprint`], which is when damage among them shows.
///
/// Files are memory-mapped as long as the result lives and must not be shortened meanwhile.
///
/// # Errors
/// When the path cannot be read, holds no CLIP, is cut short, or disagrees with its configuration: every fault found,
/// with the tensor or field and what would be right.
pub fn open(path: &Path) -> Result<Weights, Error> {
    open_as(path, &Given::default())
}

/// As [`open`], with what somebody knows of weights that have no configuration beside them.
///
/// # Errors
/// As [`open`]; when what is given disagrees with the configuration or does not fit the sizes.
pub fn open_as(path: &Path, given: &Given) -> Result<Weights, Error> {
    let Source {
        tensors,
        format,
        hint,
        configs,
        skipped,
        strangers,
    } = if path.is_dir() {
        folder(path)?
    } else {
        file(path)?
    };
    // The folder of another model is called by its name before its tensors are found wanting.
    if let Some(config) = &configs.hugging_face {
        config::is_of_a_clip(config)?;
    }
    // What weights do not need is named only where something is missing: it may be what stands in its place.
    let with_strangers = |error: Error| match error {
        Error::Weights { path, mut faults } => {
            let named = strangers.iter().take(4);
            faults.extend(named.map(|(field, class)| {
                let field = if field.is_empty() { "pickle" } else { field };
                Fault::new(field, pickle::not_needed(class))
            }));
            Error::Weights { path, faults }
        }
        other => other,
    };
    let Some(named) = names::openai(tensors.clone()) else {
        let fault = architecture::not_a_clip(&[TOKENS.to_owned()], tensors.keys());
        return Err(with_strangers(Error::Weights {
            path: path.to_owned(),
            faults: vec![fault],
        }));
    };
    drop(tensors);
    let (format, config) = match (named.is_hugging_face, configs) {
        (true, configs) => (
            Format::HuggingFace,
            configs.hugging_face.map(Beside::HuggingFace),
        ),
        (
            false,
            Configs {
                open_clip: Some(config),
                ..
            },
        ) => (Format::OpenClip, Some(Beside::OpenClip(config))),
        (false, _) => (format, None),
    };
    let mut weights =
        Weights::load(path, named.tensors, format, config, hint, given).map_err(with_strangers)?;
    weights.skipped = skipped;
    Ok(weights)
}

/// Reads safetensors with OpenAI's names that are part of the program; `name` stands for them in errors.
///
/// # Errors
/// As [`open`].
pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Weights, Error> {
    let tensors = safetensors::read(&Mapped::program(name, bytes))?;
    let Some(named) = names::openai(tensors) else {
        return Err(Error::weights(Path::new(name), TOKENS, "is missing"));
    };
    let (path, format) = (Path::new(name), Format::Safetensors);
    let hint = Some(Hint::Known(Activation::QuickGelu));
    Weights::load(path, named.tensors, format, None, hint, &Given::default())
}

/// Configurations that may belong to tensors, which depends on how those are called.
#[derive(Default)]
struct Configs {
    hugging_face: Option<PathBuf>,
    open_clip: Option<PathBuf>,
}

/// Tensors as a file names them.
struct Source {
    tensors: BTreeMap<String, Stored>,
    format: Format,
    /// What the file says of the activation.
    hint: Option<Hint>,
    configs: Configs,
    /// Classes of a pickle that weights do not need.
    skipped: Vec<String>,
    /// Where they stand.
    strangers: BTreeMap<String, String>,
}

/// Names of open_clip's own weight files, and those that any folder on the hub may have.
const CONVENTIONAL: [&str; 3] = ["open_clip_", "model.safetensors", "pytorch_model.bin"];

fn file(path: &Path) -> Result<Source, Error> {
    let mut source = alone(path)?;
    let beside = |name: &str| Some(path.with_file_name(name)).filter(|c| c.is_file());
    source.configs.hugging_face = beside(CONFIG).filter(|_| is_hugging_face(&source.tensors));
    let is_conventional = path.file_name().is_some_and(|n| {
        let name = n.to_string_lossy();
        CONVENTIONAL.iter().any(|c| name.starts_with(c))
    });
    source.configs.open_clip = beside(OPEN_CLIP_CONFIG).filter(|_| is_conventional);
    Ok(source)
}

fn is_hugging_face(tensors: &BTreeMap<String, Stored>) -> bool {
    tensors
        .keys()
        .any(|n| n.contains("text_model.") || n.contains("vision_model."))
}

/// What a file holds, whatever lies beside it.
fn alone(path: &Path) -> Result<Source, Error> {
    let mapped = Mapped::open(path)?;
    let bytes = mapped.bytes();
    let mut source = Source {
        tensors: BTreeMap::new(),
        format: Format::Safetensors,
        hint: None,
        configs: Configs::default(),
        skipped: Vec::new(),
        strangers: BTreeMap::new(),
    };
    if safetensors::is_likely(bytes) && !foreign::is_text(bytes) {
        source.tensors = safetensors::read(&mapped)?;
    } else if bytes.starts_with(b"PK") || bytes.starts_with(pickle::LEGACY_MAGIC) {
        let tree = pickle::read_mapped(mapped)?;
        source.format = if tree.is_torchscript() {
            Format::TorchScript
        } else {
            Format::StateDict
        };
        source.hint = hint(&tree);
        source.tensors = tree.tensors()?;
        source.skipped = tree.skipped();
        if !source.skipped.is_empty() {
            source.strangers = tree.strangers();
        }
    } else {
        let neither = "neither safetensors nor a file of torch.save";
        let problem = match foreign::file(bytes) {
            Some(what) => format!("is {neither}; it {what}"),
            None => {
                let head = &bytes[..bytes.len().min(8)];
                format!("begins with {head:02x?}, which is {neither}")
            }
        };
        return Err(Error::weights(path, "file", problem));
    }
    Ok(source)
}

/// What a pickle says of the activation besides its tensors.
fn hint(tree: &Tree) -> Option<Hint> {
    match tree.program() {
        Some(Program { gelu: true, .. }) => return Some(Hint::Known(Activation::Gelu)),
        Some(Program { sigmoid: true, .. }) => return Some(Hint::Known(Activation::QuickGelu)),
        _ => {}
    }
    // What open_clip's trainer saves (`open_clip_train/main.py`, checkpoint_dict): the run's name, which says the model's
    // unless somebody chose another.
    let name = tree.get("name")?.text()?.to_owned();
    tree.get("epoch")?.integer()?;
    tree.get("state_dict")?;
    let lower = name.to_lowercase();
    let is_quick = lower.contains("quickgelu") || lower.contains("openai");
    Some(if is_quick {
        Hint::Trained(Activation::QuickGelu, name)
    } else {
        Hint::Trained(Activation::Gelu, name)
    })
}

const CONFIG: &str = "config.json";
const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";
/// Weight files of a folder, the first that exists is read: its name, and whether it is an index.
const IN_FOLDERS: [(&str, bool); 6] = [
    ("model.safetensors", false),
    ("model.safetensors.index.json", true),
    ("pytorch_model.bin", false),
    ("pytorch_model.bin.index.json", true),
    ("open_clip_model.safetensors", false),
    ("open_clip_pytorch_model.bin", false),
];

fn folder(path: &Path) -> Result<Source, Error> {
    let Some((name, is_index)) = IN_FOLDERS
        .iter()
        .find(|(name, _)| path.join(name).is_file())
    else {
        return Err(Error::weights(path, "folder", no_weights(path)));
    };
    let mut source = if *is_index {
        shards(path, name)?
    } else {
        alone(&path.join(name))?
    };
    let there = |name: &str| Some(path.join(name)).filter(|c| c.is_file());
    source.configs = Configs {
        hugging_face: there(CONFIG).filter(|_| !name.starts_with("open_clip_")),
        open_clip: there(OPEN_CLIP_CONFIG),
    };
    if name.starts_with("open_clip_") {
        source.format = Format::OpenClip;
    }
    Ok(source)
}

/// What a folder without weights of a known name holds instead.
fn no_weights(path: &Path) -> String {
    let names: Vec<&str> = IN_FOLDERS.iter().map(|(name, _)| *name).collect();
    let mut problem = format!("holds none of {}", names.join(", "));
    let held = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut held: Vec<String> = held
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    held.sort();
    let endings = [".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".tar"];
    let other = foreign::OTHER_FRAMEWORKS
        .iter()
        .find(|(name, _)| held.iter().any(|h| h == name));
    let is_weights = |h: &&String| endings.iter().any(|e| h.to_lowercase().ends_with(e));
    if let Some((name, what)) = other {
        problem += &format!("; {name} is {what}");
    } else if let Some(name) = held.iter().find(is_weights) {
        problem += &format!("; if {name} is meant, give that file");
    }
    problem
}

/// `{"weight_map": {tensor: file}}`: every tensor from the file the index says.
fn shards(path: &Path, index: &str) -> Result<Source, Error> {
    let index_path = path.join(index);
    let index = config::read(&index_path)?;
    let map = index
        .get("weight_map")
        .and_then(serde_json::Value::as_object);
    let map = map.ok_or_else(|| {
        Error::weights(
            &index_path,
            "weight_map",
            "is missing; it maps tensors to files",
        )
    })?;
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut faults = Vec::new();
    for (tensor, name) in map {
        // Nothing but a file beside the index.
        match name
            .as_str()
            .filter(|n| Path::new(n).file_name() == Some(n.as_ref()))
        {
            Some(name) => files.entry(name).or_default().push(tensor),
            None => faults.push(Fault::new(
                format!("weight_map.{tensor}"),
                format!("is {name}, not a file of this folder"),
            )),
        }
    }
    let mut whole = Source {
        tensors: BTreeMap::new(),
        format: Format::HuggingFace,
        hint: None,
        configs: Configs::default(),
        skipped: Vec::new(),
        strangers: BTreeMap::new(),
    };
    for (name, wanted) in files {
        let mut shard = alone(&path.join(name))?;
        whole.skipped.append(&mut shard.skipped);
        whole.strangers.append(&mut shard.strangers);
        for tensor in wanted {
            match shard.tensors.remove(tensor) {
                Some(stored) => drop(whole.tensors.insert(tensor.to_owned(), stored)),
                None => faults.push(Fault::new(
                    format!("weight_map.{tensor}"),
                    format!("is not in {name}"),
                )),
            }
        }
    }
    if faults.is_empty() {
        return Ok(whole);
    }
    Err(Error::Weights {
        path: index_path,
        faults,
    })
}
