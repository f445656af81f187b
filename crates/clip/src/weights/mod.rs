//! CLIP weights from every format the field uses, under one set of names.
//!
//! [`open`] takes a file or a folder and tells the format by its content. Pickles are data ([`pickle`]): nothing in
//! one is executed. Sizes come from the tensors; a configuration that says otherwise is an error.

mod architecture;
mod config;
mod names;
pub mod pickle;
mod safetensors;
mod stored;
mod zip;

pub use crate::error::{Error, Fault};
pub use crate::ops::Activation;
pub use architecture::{Architecture, ImageTower, Transformer};
pub use stored::{Kind, Stored};

use crate::tokenizer::VOCABULARY;
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use stored::Mapped;

const TOKENS: &str = "token_embedding.weight";
const TOKEN_IDS: &str = "token_embedding.ids";

/// How the weights were stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Safetensors with OpenAI's names.
    Safetensors,
    /// The archives OpenAI released.
    TorchScript,
    /// A PyTorch `state_dict` with OpenAI's names, by itself or inside a checkpoint.
    StateDict,
    /// Hugging Face's names, in safetensors or pickles, one file or several.
    HuggingFace,
    /// An open_clip folder.
    OpenClip,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "OpenAI safetensors",
            Self::TorchScript => "OpenAI TorchScript archive",
            Self::StateDict => "PyTorch state dict",
            Self::HuggingFace => "Hugging Face",
            Self::OpenClip => "open_clip",
        })
    }
}

/// A CLIP's tensors, float32 on the CPU.
#[derive(Clone, Debug)]
pub struct Weights {
    /// By OpenAI's names: fused `attn.in_proj_weight [3W, W]`, `text_projection [W, E]`, `visual.proj [V, E]`.
    pub tensors: BTreeMap<String, Tensor>,
    /// Where they came from.
    pub format: Format,
    /// The MLPs' non-linearity: the configuration's, else OpenAI's.
    pub activation: Activation,
    /// Token ids of the rows of `token_embedding.weight`, where the file keeps only some; all are there if `None`.
    pub token_rows: Option<Vec<u32>>,
    /// Sizes.
    pub architecture: Architecture,
}

/// Reads a CLIP from a file or folder, telling the format by its content.
///
/// Files are memory-mapped while they are read and must not be shortened meanwhile.
///
/// # Errors
/// When the path cannot be read, holds no CLIP, is damaged, or disagrees with its configuration: every fault found,
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

/// Shape of parts laid one after the other along their first axis.
fn joined(parts: &[Stored]) -> Option<Vec<usize>> {
    let (first, rest) = parts.split_first()?;
    let mut shape = first.shape().to_vec();
    for part in rest {
        if part.shape().get(1..) != shape.get(1..) {
            return None;
        }
        shape[0] = shape.first()?.checked_add(*part.shape().first()?)?;
    }
    Some(shape)
}

impl Weights {
    fn load(
        path: &Path,
        mut named: BTreeMap<String, Vec<Stored>>,
        format: Format,
        config: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let fail = |faults| Error::Weights {
            path: path.to_owned(),
            faults,
        };
        let mut faults = Vec::new();
        let mut shapes = BTreeMap::new();
        for (name, parts) in &named {
            match joined(parts) {
                Some(shape) => drop(shapes.insert(name.clone(), shape)),
                None => faults.push(Fault::new(
                    name,
                    "is made of parts whose shapes do not fit together",
                )),
            }
            if let Some(part) = parts
                .iter()
                .find(|p| !p.kind().is_float() && name != TOKEN_IDS)
            {
                faults.push(Fault::new(
                    name,
                    format!("holds {:?}; weights are floats", part.kind()),
                ));
            }
        }
        if !faults.is_empty() {
            return Err(fail(faults));
        }
        let architecture = architecture::of(&shapes).map_err(fail)?;
        let ids = named.remove(TOKEN_IDS);
        let token_rows = token_rows(ids.as_deref().and_then(<[_]>::first), shapes[TOKENS][0])
            .map_err(|problem| Error::weights(path, TOKEN_IDS, problem))?;
        let activation = match (&config, format) {
            (None, _) => Activation::default(),
            (Some(config), Format::OpenClip) => config::open_clip(config, &architecture)?,
            (Some(config), _) => config::hugging_face(config, &architecture)?,
        };

        let read = |(name, parts): (String, Vec<Stored>)| {
            let mut values = Vec::with_capacity(parts.iter().map(Stored::count).sum());
            for part in &parts {
                part.append(&name, &mut values)?;
            }
            let strange = values.iter().filter(|v| !v.is_finite()).count();
            if strange > 0 {
                let problem = format!("{strange} of {} numbers are not finite", values.len());
                return Err(Error::weights(path, name, problem));
            }
            // One temperature, whichever way it is written.
            let shape = if name == "logit_scale" {
                Vec::new()
            } else {
                shapes[&name].clone()
            };
            Ok((name, Tensor::from_vec(values, shape, &Device::Cpu)?))
        };
        let read: Vec<Result<_, Error>> = named.into_par_iter().map(read).collect();
        let mut tensors = BTreeMap::new();
        let mut faults = Vec::new();
        for result in read {
            match result {
                Ok((name, tensor)) => drop(tensors.insert(name, tensor)),
                Err(Error::Weights { faults: more, .. }) => faults.extend(more),
                Err(other) => return Err(other),
            }
        }
        if !faults.is_empty() {
            return Err(fail(faults));
        }
        Ok(Self {
            tensors,
            format,
            activation,
            token_rows,
            architecture,
        })
    }

    /// SHA-256, hex, over names, shapes and values of all tensors and the token ids of the rows: the same CLIP has the
    /// same fingerprint in every format.
    pub fn fingerprint(&self) -> String {
        fn hex(digest: &[u8]) -> String {
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        }
        let digest = |(name, tensor): (&String, &Tensor)| {
            let mut hash = Sha256::new();
            hash.update(format!("{name} {:?}\n", tensor.dims()));
            let values = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>());
            for block in values.expect("weights are float32 on the CPU").chunks(4096) {
                let bytes: Vec<u8> = block.iter().flat_map(|v| v.to_le_bytes()).collect();
                hash.update(&bytes);
            }
            hash.finalize()
        };
        let digests: Vec<_> = self.tensors.par_iter().map(digest).collect();
        let mut hash = Sha256::new();
        digests.iter().for_each(|d| hash.update(d));
        if let Some(rows) = &self.token_rows {
            hash.update(format!("{rows:?}"));
        }
        hex(&hash.finalize())
    }
}

/// The token ids of an embedding's rows: every id once if they are listed, else one row an id.
fn token_rows(ids: Option<&Stored>, rows: usize) -> Result<Option<Vec<u32>>, String> {
    let Some(ids) = ids else {
        return match rows {
            VOCABULARY => Ok(None),
            _ => Err(format!(
                "is missing, and {TOKENS} has {rows} rows where the vocabulary has {VOCABULARY}"
            )),
        };
    };
    if ids.shape() != [rows] {
        return Err(format!(
            "has shape {:?}, but {TOKENS} has {rows} rows",
            ids.shape()
        ));
    }
    let listed = ids
        .integers(TOKEN_IDS)
        .map_err(|e| e.to_string())?
        .ok_or("holds no integers")?;
    let mut seen = vec![false; VOCABULARY];
    listed
        .into_iter()
        .map(
            |id| match usize::try_from(id).ok().and_then(|id| seen.get_mut(id)) {
                Some(true) => Err(format!("lists {id} twice")),
                Some(seen) => {
                    *seen = true;
                    Ok(id as u32)
                }
                None => Err(format!("lists {id}; ids are 0 to {}", VOCABULARY - 1)),
            },
        )
        .collect::<Result<_, _>>()
        .map(Some)
}
