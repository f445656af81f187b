//! CLIP weights from every format the field uses, under one set of names.
//!
//! [`open`] takes a file or a folder and tells the format by its content. Pickles are data ([`pickle`]): nothing in
//! one is executed. Sizes come from the tensors; a configuration that says otherwise is an error. What tensors do not
//! say (activation, heads, how pictures are made ready) comes from the configuration beside them, from whoever
//! [gives](open_as) it, or is [assumed](Weights::assumed).

mod architecture;
mod config;
mod container;
mod convert;
mod foreign;
mod names;
mod opening;
pub mod pickle;
mod safetensors;
mod settings;
mod settled;
mod stored;
mod zip;

pub use crate::error::{Error, Fault};
pub use crate::ops::Activation;
pub use architecture::{Architecture, ImageTower, Transformer};
pub(crate) use architecture::{family_of, heads};
pub use opening::{embedded, open, open_as};
pub use settings::{Assumed, Fit, Given, Interpolation, Look};
pub use stored::{Kind, Stored};

use crate::text::Family;
use crate::tokenizer::VOCABULARY;
use crate::wording::{self, Wording};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use settled::{Beside, Hint};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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

/// A CLIP's tensors, where they lie: names, sizes and configuration are checked, the numbers are not read yet. Each
/// is read when it is asked for, so that a model that is built is in memory once.
#[derive(Clone, Debug)]
pub struct Weights {
    /// By OpenAI's names: fused `attn.in_proj_weight [3W, W]`, `text_projection [W, E]`, `visual.proj [V, E]`.
    entries: BTreeMap<String, Entry>,
    path: PathBuf,
    /// Where they came from.
    pub format: Format,
    /// The image tower's MLPs' non-linearity: the configuration's, what was given, else OpenAI's.
    pub activation: Activation,
    /// The text tower's, which is another in a few SigLIPs only.
    pub text_activation: Activation,
    /// What texts are to the text tower.
    pub wording: Wording,
    /// How pictures are made ready: the configuration's, what was given, else OpenAI's.
    pub look: Look,
    /// What nothing says, and was taken as usual.
    pub assumed: Assumed,
    /// Classes that a pickle names beside its weights: not needed, not executed, not read.
    pub skipped: Vec<String>,
    /// Token ids of the rows of `token_embedding.weight`, where the file keeps only some; all are there if `None`.
    pub token_rows: Option<Vec<u32>>,
    /// Sizes.
    pub architecture: Architecture,
}

/// A tensor and where its numbers are.
#[derive(Clone, Debug)]
struct Entry {
    shape: Vec<usize>,
    numbers: Numbers,
}

#[derive(Clone, Debug)]
enum Numbers {
    /// In a file, as parts that follow each other along the first axis.
    Stored(Vec<Stored>),
    /// In memory.
    Made(Tensor),
}

/// What is hashed of a tensor.
type Digested = [u8; 32];

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
        config: Option<Beside>,
        hint: Option<Hint>,
        given: &Given,
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
        let mut architecture = architecture::of(&shapes).map_err(fail)?;
        no_larger_than_the_files(&named).map_err(|fault| fail(vec![fault]))?;
        let ids = named.remove(TOKEN_IDS);
        let token_rows = match architecture.family {
            Family::Clip => token_rows(ids.as_deref().and_then(<[_]>::first), shapes[TOKENS][0])
                .map_err(|problem| Error::weights(path, TOKEN_IDS, problem))?,
            _ => None,
        };
        let rows = shapes[TOKENS].first().copied().unwrap_or(0);
        let settled = settled::settled(path, &mut architecture, config.as_ref(), hint, given)?;
        let wording = wording(path, &architecture, rows)?;

        let entries = named
            .into_iter()
            .map(|(name, parts)| {
                let shape = entry_shape(&name, shapes.remove(&name).unwrap_or_default());
                let numbers = Numbers::Stored(parts);
                (name, Entry { shape, numbers })
            })
            .collect();
        Ok(Self {
            entries,
            path: path.to_owned(),
            format,
            activation: settled.activations[0],
            text_activation: settled.activations[1],
            wording,
            look: settled.look,
            assumed: settled.assumed,
            skipped: Vec::new(),
            token_rows,
            architecture,
        })
    }

    /// Weights of tensors that are in memory, under OpenAI's names.
    ///
    /// # Errors
    /// When they are not those of a CLIP, or are not floats.
    pub fn made_of(
        tensors: BTreeMap<String, Tensor>,
        activation: Activation,
        token_rows: Option<Vec<u32>>,
    ) -> Result<Self, Error> {
        let path = Path::new("tensors");
        let shapes = tensors
            .iter()
            .map(|(name, t)| (name.clone(), t.dims().to_vec()))
            .collect();
        let architecture = architecture::of(&shapes).map_err(|faults| Error::Weights {
            path: path.to_owned(),
            faults,
        })?;
        let entries = tensors.into_iter().map(|(name, tensor)| {
            let shape = entry_shape(&name, tensor.dims().to_vec());
            let tensor = tensor.to_dtype(DType::F32)?.contiguous()?;
            let numbers = Numbers::Made(tensor);
            Ok((name, Entry { shape, numbers }))
        });
        Ok(Self {
            entries: entries.collect::<Result<_, Error>>()?,
            path: path.to_owned(),
            format: Format::Safetensors,
            activation,
            text_activation: activation,
            wording: Wording::default(),
            look: Look::default(),
            assumed: Assumed::default(),
            skipped: Vec::new(),
            token_rows,
            architecture,
        })
    }

    /// Non-linearities of the image and the text tower.
    pub(crate) fn activations(&self) -> [Activation; 2] {
        [self.activation, self.text_activation]
    }

    /// Names and shapes, in order of the names.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.as_str(), entry.shape.as_slice()))
    }

    /// The shape of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// How many numbers there are of each type, as they are stored.
    pub fn kinds(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::new();
        for entry in self.entries.values() {
            match &entry.numbers {
                Numbers::Stored(parts) => {
                    for part in parts {
                        *counts.entry(part.kind()).or_default() += part.count();
                    }
                }
                Numbers::Made(tensor) => {
                    *counts.entry(Kind::F32).or_default() += tensor.elem_count();
                }
            }
        }
        counts
    }

    /// Reads a tensor as float32.
    ///
    /// # Errors
    /// When it is not there, its bytes are damaged, or a number is not finite.
    pub fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let entry = self.entry(name)?;
        if let Numbers::Made(tensor) = &entry.numbers {
            return Ok(tensor.reshape(entry.shape.as_slice())?);
        }
        let mut values = vec![0f32; entry.shape.iter().product()];
        self.fill(name, &mut values)?;
        Ok(Tensor::from_vec(
            values,
            entry.shape.as_slice(),
            &Device::Cpu,
        )?)
    }

    /// Reads a tensor into `out`, row-major, and gives the digest that [`fingerprint_of`](Self::fingerprint_of) takes.
    pub(crate) fn fill(&self, name: &str, out: &mut [f32]) -> Result<Digested, Error> {
        let entry = self.entry(name)?;
        match &entry.numbers {
            Numbers::Stored(parts) => {
                let mut rest = &mut *out;
                for part in parts {
                    let (target, after) =
                        rest.split_at_mut_checked(part.count()).ok_or_else(|| {
                            Error::weights(&self.path, name, "is larger than asked for")
                        })?;
                    part.fill(name, target)?;
                    rest = after;
                }
            }
            Numbers::Made(tensor) => crate::ops::with_values(tensor, |values| {
                out.copy_from_slice(values);
                Ok(())
            })?,
        }
        let strange = out.iter().filter(|v| !v.is_finite()).count();
        if strange > 0 {
            let problem = format!("{strange} of {} numbers are not finite", out.len());
            return Err(Error::weights(&self.path, name, problem));
        }
        Ok(digest(name, &entry.shape, out))
    }

    fn entry(&self, name: &str) -> Result<&Entry, Error> {
        self.entries
            .get(name)
            .ok_or_else(|| Error::weights(&self.path, name, "is missing"))
    }

    /// SHA-256, hex, over names, shapes and values of all tensors and the token ids of the rows: the same CLIP has the
    /// same fingerprint in every format. Reads everything, a tensor at a time on each thread.
    ///
    /// # Errors
    /// Every tensor whose bytes are damaged or whose numbers are not finite.
    pub fn fingerprint(&self) -> Result<String, Error> {
        self.fingerprint_of(BTreeMap::new())
    }

    /// What follows the fingerprint where the tensors are not run as OpenAI's are: `-gelu`, `-heads16x16`, `-pictures` and
    /// a digest. Records, prompts and caches hold both, so that numbers of one are never taken for the other's.
    pub fn manner(&self) -> String {
        let heads = self.architecture.heads();
        let usual = heads.map(|(_, width)| architecture::heads(width));
        let manner = settings::manner(self.activations(), heads, usual, &self.look);
        manner + &self.wording.manner()
    }

    /// The [fingerprint](Self::fingerprint) and the [manner](Self::manner): what two CLIPs that give the same numbers have
    /// in common.
    ///
    /// # Errors
    /// As [`fingerprint`](Self::fingerprint).
    pub fn identity(&self) -> Result<String, Error> {
        Ok(self.fingerprint()? + &self.manner())
    }

    /// The fingerprint, where the digests of some tensors are known.
    pub(crate) fn fingerprint_of(
        &self,
        known: BTreeMap<String, Digested>,
    ) -> Result<String, Error> {
        // In threads of their own buffers: what is read is dropped as soon as it is hashed.
        let digests: Vec<Result<Digested, Error>> = self
            .entries
            .par_iter()
            .map(|(name, entry)| match known.get(name) {
                Some(digest) => Ok(*digest),
                None => self.fill(name, &mut vec![0f32; entry.shape.iter().product()]),
            })
            .collect();
        let mut hash = Sha256::new();
        let mut faults = Vec::new();
        for result in digests {
            match result {
                Ok(digest) => hash.update(digest),
                Err(Error::Weights { faults: more, .. }) => faults.extend(more),
                Err(other) => return Err(other),
            }
        }
        if !faults.is_empty() {
            return Err(Error::Weights {
                path: self.path.clone(),
                faults: Fault::shortened(faults),
            });
        }
        if let Some(rows) = &self.token_rows {
            hash.update(format!("{rows:?}"));
        }
        let digest = hash.finalize();
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// What texts are to the tower: CLIP's own, or the tokenizer beside the weights.
fn wording(path: &Path, found: &Architecture, rows: usize) -> Result<Wording, Error> {
    if found.family == Family::Clip {
        return Ok(Wording::default());
    }
    let folder = match path.is_dir() {
        true => path,
        false => path.parent().unwrap_or(Path::new("")),
    };
    let form = wording::Form {
        longest: found.context,
        is_siglip: found.family == Family::Siglip,
    };
    wording::read(folder, form, rows)
}

/// A few bytes that many tensors point to would be as many times as large in memory.
fn no_larger_than_the_files(named: &BTreeMap<String, Vec<Stored>>) -> Result<(), Fault> {
    let mut files = BTreeMap::new();
    let mut bytes = 0u128;
    for part in named.values().flatten() {
        let (path, length) = part.file();
        files.insert(path, length as u128);
        bytes += part.count() as u128 * part.kind().size() as u128;
    }
    let held: u128 = files.values().sum();
    if bytes <= held {
        return Ok(());
    }
    let problem = format!(
        "take {bytes} bytes and lie in {held}: several of them are the same bytes, which is so in no CLIP"
    );
    Err(Fault::new("tensors", problem))
}

/// One temperature, whichever way it is written.
fn entry_shape(name: &str, shape: Vec<usize>) -> Vec<usize> {
    if matches!(name, "logit_scale" | "logit_bias") {
        Vec::new()
    } else {
        shape
    }
}

fn digest(name: &str, shape: &[usize], values: &[f32]) -> Digested {
    let mut hash = Sha256::new();
    hash.update(format!("{name} {shape:?}\n"));
    let mut bytes = [0u8; 4 * 4096];
    for block in values.chunks(4096) {
        for (to, value) in bytes.chunks_exact_mut(4).zip(block) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        hash.update(&bytes[..4 * block.len()]);
    }
    hash.finalize().into()
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
