//! What a second backbone learned before it teaches: prompts that a user brings, one file or one for each dataset.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use candle_core::{DType, Tensor};

use crate::run::prompts;

/// Prompts of a teacher.
#[derive(Clone, Debug)]
pub struct Taught {
    /// By published name.
    pub prompts: Arc<BTreeMap<String, Tensor>>,
    /// Of names, shapes and values.
    pub hash: String,
}

/// Ends of names of files that can hold them: ours, and the published code's.
const ENDS: [&str; 4] = ["safetensors", "pth.tar", "pth", "pt"];

fn file(path: &Path, dataset: &str) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let names = ENDS.map(|end| path.join(format!("{dataset}.{end}")));
    match names.iter().find(|file| file.exists()) {
        Some(file) => Ok(file.clone()),
        None => bail!(
            "{}: does not exist (teacher_prompts); nor does it with {} in the place of {}",
            names[0].display(),
            ENDS[1..].join(", "),
            ENDS[0]
        ),
    }
}

/// Prompts that the CLIP with `fingerprint` learned for `dataset`: the file `path`, or where that is a folder
/// `<dataset>.safetensors` (ours) or `<dataset>.pth.tar`, `.pth`, `.pt` (the published code's) in it.
///
/// # Errors
/// A file that is not there, holds no prompts, or holds another CLIP's.
pub fn read(path: &Path, dataset: &str, fingerprint: &str) -> Result<Taught> {
    let prompts = prompts::learned_on(fingerprint, &file(path, dataset)?)?;
    let mut bytes = Vec::new();
    for (name, tensor) in &prompts {
        bytes.extend(format!("{name} {:?} ", tensor.dims()).into_bytes());
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?;
        bytes.extend(
            values
                .to_vec1::<f32>()?
                .into_iter()
                .flat_map(f32::to_le_bytes),
        );
    }
    Ok(Taught {
        hash: crate::hash::hex(&bytes),
        prompts: Arc::new(prompts),
    })
}
