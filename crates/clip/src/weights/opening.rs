//! From a path to tensors in a file: which format it is, and which files belong to it.

use super::stored::{Mapped, Stored};
use super::{Format, TOKENS, Weights, architecture, config, names, pickle, safetensors};
use crate::error::{Error, Fault};
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
    let Source {
        tensors,
        format,
        config,
    } = if path.is_dir() {
        folder(path)?
    } else {
        file(path)?
    };
    let Some(named) = names::openai(tensors.clone()) else {
        let fault = architecture::not_a_clip(&[TOKENS.to_owned()], tensors.keys());
        return Err(Error::Weights {
            path: path.to_owned(),
            faults: vec![fault],
        });
    };
    drop(tensors);
    let config = match (named.is_hugging_face, config) {
        (true, None) => {
            Some(path.with_file_name("config.json")).filter(|c| path.is_file() && c.is_file())
        }
        (_, config) => config,
    };
    let format = if named.is_hugging_face {
        Format::HuggingFace
    } else {
        format
    };
    Weights::load(path, named.tensors, format, config)
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
    Weights::load(Path::new(name), named.tensors, Format::Safetensors, None)
}

/// Tensors as a file names them.
struct Source {
    tensors: BTreeMap<String, Stored>,
    format: Format,
    config: Option<PathBuf>,
}

fn file(path: &Path) -> Result<Source, Error> {
    let mapped = Mapped::open(path)?;
    let (tensors, format) = if safetensors::is_likely(mapped.bytes()) {
        (safetensors::read(&mapped)?, Format::Safetensors)
    } else if mapped.bytes().starts_with(b"PK") || mapped.bytes().starts_with(pickle::LEGACY_MAGIC)
    {
        let tree = pickle::read_mapped(mapped)?;
        let format = if tree.is_torchscript() {
            Format::TorchScript
        } else {
            Format::StateDict
        };
        (tree.tensors()?, format)
    } else {
        let head = &mapped.bytes()[..mapped.bytes().len().min(8)];
        let problem = format!(
            "begins with {head:02x?}, which is neither safetensors nor a file of torch.save"
        );
        return Err(Error::weights(path, "file", problem));
    };
    // Beside weights that carry open_clip's own file name.
    let is_open_clip = path
        .file_name()
        .is_some_and(|n| n.to_string_lossy().starts_with("open_clip_"));
    let config =
        Some(path.with_file_name(OPEN_CLIP_CONFIG)).filter(|c| is_open_clip && c.is_file());
    let format = if config.is_some() {
        Format::OpenClip
    } else {
        format
    };
    Ok(Source {
        tensors,
        format,
        config,
    })
}

const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";
/// Weight files of a folder, the first that exists is read: its name, its configuration, whether it is an index.
const IN_FOLDERS: [(&str, &str, bool); 6] = [
    ("model.safetensors", "config.json", false),
    ("model.safetensors.index.json", "config.json", true),
    ("pytorch_model.bin", "config.json", false),
    ("pytorch_model.bin.index.json", "config.json", true),
    ("open_clip_model.safetensors", OPEN_CLIP_CONFIG, false),
    ("open_clip_pytorch_model.bin", OPEN_CLIP_CONFIG, false),
];

fn folder(path: &Path) -> Result<Source, Error> {
    let Some((name, config, is_index)) = IN_FOLDERS
        .iter()
        .find(|(name, ..)| path.join(name).is_file())
    else {
        let names: Vec<&str> = IN_FOLDERS.iter().map(|(name, ..)| *name).collect();
        return Err(Error::weights(
            path,
            "folder",
            format!("holds none of {}", names.join(", ")),
        ));
    };
    let mut source = if *is_index {
        shards(path, name)?
    } else {
        file(&path.join(name))?
    };
    source.config = Some(path.join(config)).filter(|c| c.is_file());
    if *config == OPEN_CLIP_CONFIG {
        source.format = Format::OpenClip;
    }
    Ok(source)
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
    let mut tensors = BTreeMap::new();
    for (name, wanted) in files {
        let mut shard = file(&path.join(name))?.tensors;
        for tensor in wanted {
            match shard.remove(tensor) {
                Some(stored) => drop(tensors.insert(tensor.to_owned(), stored)),
                None => faults.push(Fault::new(
                    format!("weight_map.{tensor}"),
                    format!("is not in {name}"),
                )),
            }
        }
    }
    if faults.is_empty() {
        return Ok(Source {
            tensors,
            format: Format::HuggingFace,
            config: None,
        });
    }
    Err(Error::Weights {
        path: index_path,
        faults,
    })
}
