//! `promptbed encode`: features of texts and pictures.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use clip::model::unit;
use indicatif::ProgressBar;

use super::Done;
use super::pictures::Named;
use crate::backbone;
use crate::device::InPrecision;

/// Texts or pictures through a tower at once: memory is bounded by this, not by their number.
pub(super) const AT_ONCE: usize = 64;

/// Encode texts and pictures: writes `tokens` i64 [n, 77], `text_features` and `image_features` f32 [n, E].
///
/// Features are as CLIP returns them, not of unit length, unless --normalize is given. Names of pictures stand, in
/// order, in the file's metadata under `images`. A picture that cannot be read is named and left out, and the exit code
/// is 1 then.
///
/// Example: promptbed encode --model ViT-B-16.pt --images photos --out features.safetensors
#[derive(clap::Args)]
pub struct Encode {
    /// CLIP weights: a file or folder of any known format, or a name of `model list` [default: the CLIP that ships].
    #[arg(long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    told: backbone::Told,
    #[command(flatten)]
    kept: backbone::Kept,
    #[command(flatten)]
    on: InPrecision,
    /// JSON list of strings.
    #[arg(long)]
    texts: Option<PathBuf>,
    /// Pictures, or folders of them (every jpg, jpeg, png, webp, gif, bmp and tif below, sorted).
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
        let mut images = Named::find(&self.images)?;
        let place = self.on.open()?;
        let weights = backbone::weights(backbone::SHIPPED, self.model.as_deref(), &self.told)?;
        let clip = self.kept.load_at(&weights, &place)?;
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
                    let padded = clip.text.wording().padded(t);
                    let padded =
                        padded.with_context(|| format!("{}: entry {i}", path.display()))?;
                    Ok(padded.into_iter().map(i64::from).collect::<Vec<_>>())
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
        if !images.files.is_empty() {
            let bar = bar(images.files.len(), "pictures");
            let (mut pieces, mut names) = (Vec::new(), Vec::new());
            for chunk in images.pieces(AT_ONCE) {
                if let Some((read, pixels)) = images.view(&clip, &chunk)? {
                    pieces.push(clip.encode_image(&pixels)?.detach());
                    names.extend(read.iter().map(|p| p.display().to_string()));
                }
                bar.inc(chunk.len() as u64);
            }
            bar.finish_and_clear();
            if pieces.is_empty() {
                images.all_read()?;
            }
            out.push(("image_features", finish(pieces)?));
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
        Ok(if images.all_read()? {
            Done::All
        } else {
            Done::NotAll
        })
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
