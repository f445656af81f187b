//! `promptbed encode`: features of texts and pictures.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use clip::model::unit;
use clip::{Clip, Tokenizer};
use datasets::transform::{normalise, test_view};
use indicatif::ProgressBar;
use rayon::prelude::*;

use super::Done;
use crate::backbone;

/// Texts or pictures through a tower at once: memory is bounded by this, not by their number.
pub(super) const AT_ONCE: usize = 64;
/// File endings of pictures in a folder.
const PICTURES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Encode texts and pictures: writes `tokens` i64 [n, 77], `text_features` and `image_features` f32 [n, E].
///
/// Features are as CLIP returns them, not of unit length, unless --normalize is given. Names of pictures stand, in
/// order, in the file's metadata under `images`.
///
/// Example: promptbed encode --model ViT-B-16.pt --images photos --out features.safetensors
#[derive(clap::Args)]
pub struct Encode {
    /// CLIP weights: a file or folder of any known format, or a name of `model list` [default: the CLIP that ships].
    #[arg(long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    kept: backbone::Kept,
    /// JSON list of strings.
    #[arg(long)]
    texts: Option<PathBuf>,
    /// Pictures, or folders of them (every jpg, jpeg, png and webp below, sorted).
    #[arg(long, num_args = 1..)]
    images: Vec<PathBuf>,
    /// Safetensors file with `pixels` f32 [n, 3, R, R], already normalised.
    #[arg(long, conflicts_with = "images")]
    pixels: Option<PathBuf>,
    /// Make every feature one unit long.
    #[arg(long)]
    normalize: bool,
    /// Safetensors file to write.
    #[arg(long)]
    out: PathBuf,
}

impl Encode {
    pub fn run(self) -> Result<Done> {
        if self.texts.is_none() && self.images.is_empty() && self.pixels.is_none() {
            bail!("nothing to encode: pass --texts, --images or --pixels");
        }
        let texts = self.texts.as_deref().map(texts).transpose()?;
        let images = pictures(&self.images)?;
        let weights = backbone::weights(backbone::SHIPPED, self.model.as_deref())?;
        let clip = self.kept.load(&weights)?;
        let mut out: Vec<(&str, Tensor)> = Vec::new();
        let mut metadata = HashMap::new();
        let finish = |pieces: Vec<Tensor>| -> Result<Tensor> {
            let all = Tensor::cat(&pieces, 0)?;
            Ok(if self.normalize { unit(&all)? } else { all })
        };
        if let Some(texts) = &texts {
            let path = self.texts.as_deref().unwrap_or(Path::new(""));
            let tokens = texts
                .iter()
                .enumerate()
                .map(|(i, t)| {
                    let padded = Tokenizer::shared().padded(t);
                    let padded =
                        padded.with_context(|| format!("{}: entry {i}", path.display()))?;
                    Ok(padded.map(i64::from).to_vec())
                })
                .collect::<Result<Vec<_>>>()?;
            out.push(("tokens", Tensor::new(tokens, &Device::Cpu)?));
            let bar = bar(texts.len(), "texts");
            let pieces = texts.chunks(AT_ONCE).map(|chunk| {
                let features = clip.encode_texts(chunk)?.detach();
                bar.inc(chunk.len() as u64);
                Ok(features)
            });
            out.push(("text_features", finish(pieces.collect::<Result<_>>()?)?));
            bar.finish_and_clear();
        }
        if !images.is_empty() {
            let bar = bar(images.len(), "pictures");
            let pieces = images.chunks(AT_ONCE).map(|chunk| {
                let features = clip.encode_image(&view(&clip, chunk)?)?.detach();
                bar.inc(chunk.len() as u64);
                Ok(features)
            });
            out.push(("image_features", finish(pieces.collect::<Result<_>>()?)?));
            bar.finish_and_clear();
            let names: Vec<String> = images.iter().map(|p| p.display().to_string()).collect();
            metadata.insert("images".to_owned(), serde_json::to_string(&names)?);
        }
        if let Some(path) = &self.pixels {
            let pixels = read_pixels(path, clip.image_size())?;
            let n = pixels.dim(0)?;
            let bar = bar(n, "pictures");
            let pieces = (0..n).step_by(AT_ONCE).map(|i| {
                let chunk = pixels.narrow(0, i, AT_ONCE.min(n - i))?;
                let features = clip.encode_image(&chunk)?.detach();
                bar.inc(chunk.dim(0)? as u64);
                Ok(features)
            });
            out.push(("image_features", finish(pieces.collect::<Result<_>>()?)?));
            bar.finish_and_clear();
        }
        let bytes = safetensors::serialize(
            out.iter().map(|(n, t)| (*n, t)),
            (!metadata.is_empty()).then_some(metadata),
        )?;
        crate::store::replace(&self.out, &bytes)?;
        for (name, tensor) in &out {
            crate::out!("{name} {:?}", tensor.dims());
        }
        crate::say!("{}", self.out.display());
        Ok(Done::All)
    }
}

fn bar(count: usize, what: &'static str) -> ProgressBar {
    ProgressBar::new(count as u64).with_message(what)
}

/// Reads a JSON list of strings.
fn texts(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    let texts: Vec<String> = serde_json::from_str(&text)
        .with_context(|| format!("{}: must be a JSON list of strings", path.display()))?;
    if texts.is_empty() {
        bail!("{}: the list is empty", path.display());
    }
    Ok(texts)
}

/// Files as given, folders as the pictures below them, sorted.
pub(super) fn pictures(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in given {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let (mut below, mut folders) = (Vec::new(), vec![path.clone()]);
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder)
                .with_context(|| format!("{}: cannot be read", folder.display()))?;
            for entry in entries {
                let entry = entry
                    .with_context(|| format!("{}", folder.display()))?
                    .path();
                let ending = entry
                    .extension()
                    .map(|e| e.to_string_lossy().to_lowercase());
                if entry.is_dir() {
                    folders.push(entry);
                } else if ending.is_some_and(|e| PICTURES.contains(&e.as_str())) {
                    below.push(entry);
                }
            }
        }
        if below.is_empty() {
            bail!("{}: holds no jpg, jpeg, png or webp", path.display());
        }
        below.sort();
        all.extend(below);
    }
    Ok(all)
}

/// Normalised pixels `[n, 3, R, R]` of picture files.
pub(super) fn view(clip: &Clip, paths: &[PathBuf]) -> Result<Tensor> {
    let size = clip.image_size();
    let each = 3 * size * size;
    let mut data = vec![0f32; paths.len() * each];
    data.par_chunks_mut(each)
        .zip(paths)
        .try_for_each(|(out, path)| -> Result<()> {
            normalise(&test_view(&datasets::open_picture(path)?, size), out);
            Ok(())
        })?;
    let shape = (paths.len(), 3, size, size);
    Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
}

/// Reads `pixels` of a safetensors file.
///
/// # Errors
/// A file that is none, has no such tensor, or one of another shape than `[n, 3, size, size]`.
pub fn read_pixels(path: &Path, size: usize) -> Result<Tensor> {
    let tensors = candle_core::safetensors::load(path, &Device::Cpu)
        .with_context(|| format!("{}: is no safetensors file", path.display()))?;
    let Some(pixels) = tensors.get("pixels") else {
        bail!("{}: has no tensor called `pixels`", path.display());
    };
    match pixels.dims() {
        [n, 3, h, w] if *n > 0 && *h == size && *w == size => Ok(pixels.to_dtype(DType::F32)?),
        other => bail!(
            "{}: pixels: is {other:?}, must be [n, 3, {size}, {size}] for this model",
            path.display()
        ),
    }
}
