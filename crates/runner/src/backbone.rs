//! Finding the CLIP a suite names.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clip::weights::Weights;
use clip::{Clip, ImageTower};

/// The CLIP that ships: made by `suites/pretrain-drawn.toml`.
const DRAWN: &[u8] = include_bytes!("../assets/drawn-clip.safetensors");

/// Reads the weights of `file`, or of the backbone called `name` where no file is given.
///
/// # Errors
/// A file that is not a CLIP; a name that only a file can stand for.
pub fn weights(name: &str, file: Option<&Path>) -> Result<Weights> {
    if let Some(path) = file {
        if !path.exists() {
            bail!(
                "{}: there is no such file or folder (--model)",
                path.display()
            );
        }
        return Ok(clip::weights::open(path)?);
    }
    if name == "drawn" {
        return clip::weights::embedded("drawn-clip.safetensors", DRAWN)
            .context("the shipped CLIP");
    }
    bail!("backbone {name:?}: does not ship with promptbed; pass its weights with --model FILE")
}

/// Loads `file`, or the backbone called `name` where no file is given.
///
/// # Errors
/// As [`weights`].
pub fn load(name: &str, file: Option<&Path>) -> Result<Arc<Clip>> {
    Ok(Arc::new(Clip::from_weights(&weights(name, file)?)?))
}

/// Makes pictures go through the image tower in bfloat16 where no prompt is in it and no gradient asked for.
///
/// # Errors
/// An image tower that is a ResNet, a processor that cannot.
pub fn use_bfloat16(clip: &mut Clip) -> Result<()> {
    match &mut clip.image {
        ImageTower::Transformer(tower) => Ok(tower.use_bfloat16()?),
        ImageTower::ResNet(_) => {
            bail!("bfloat16 is for vision transformers, this backbone's image tower is a ResNet")
        }
    }
}

/// The CLIP inside the binary.
///
/// # Errors
/// None, unless the binary is broken.
pub fn shipped() -> Result<Arc<Clip>> {
    load("drawn", None)
}
