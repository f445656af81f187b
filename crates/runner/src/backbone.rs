//! Finding the CLIP a suite or a user names.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clip::weights::Weights;
use clip::{Clip, ImageTower, Keep};

use crate::hub;

/// The CLIP that ships: made by `suites/pretrain-drawn.toml`.
const DRAWN: &[u8] = include_bytes!("../assets/drawn-clip.safetensors");
/// What it is called.
pub const SHIPPED: &str = "drawn";

/// Opens the weights of `given`, a path or a name, or of the backbone called `name` where nothing is given. Numbers
/// are not read yet.
///
/// # Errors
/// A file that is not a CLIP; a name that only a file can stand for, or that is not fetched yet.
pub fn weights(name: &str, given: Option<&Path>) -> Result<Weights> {
    let Some(path) = given else {
        return match called(name)? {
            Some(weights) => Ok(weights),
            None => bail!(
                "backbone {name:?}: does not ship with promptbed and is not on the hub's list; pass its weights with \
                 --model FILE"
            ),
        };
    };
    if path.exists() {
        return Ok(clip::weights::open(path)?);
    }
    if let Some(weights) = path.to_str().map(called).transpose()?.flatten() {
        return Ok(weights);
    }
    bail!(
        "{}: there is no such file or folder, and no backbone of that name in `promptbed model list` (--model)",
        path.display()
    )
}

/// The backbone called `name`, if any is.
fn called(name: &str) -> Result<Option<Weights>> {
    if name == SHIPPED {
        let weights = clip::weights::embedded("drawn-clip.safetensors", DRAWN);
        return weights.map(Some).context("the shipped CLIP");
    }
    let Some(known) = hub::known().remove(name) else {
        return Ok(None);
    };
    match known.cached() {
        Some(path) => Ok(Some(clip::weights::open(&path)?)),
        None => bail!(
            "backbone {name:?}: is not here yet; get it with `promptbed model fetch {name}`, or pass its weights with \
             --model FILE"
        ),
    }
}

/// How a backbone is kept in memory.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Kept {
    /// Keep the blocks' weights in half precision or bfloat16 where that changes no number, as with all of OpenAI's: about
    /// half the memory, a little slower. Computing is in float32 either way. Changes no result.
    #[arg(long)]
    compact: bool,
}

impl Kept {
    /// Reads the numbers.
    ///
    /// # Errors
    /// What is damaged among them.
    pub fn load(self, weights: &Weights) -> Result<Arc<Clip>> {
        let keep = if self.compact {
            Keep::Compact
        } else {
            Keep::Float32
        };
        Ok(Arc::new(Clip::from_weights_in(weights, keep)?))
    }
}

/// Loads `given`, or the backbone called `name` where nothing is given.
///
/// # Errors
/// As [`weights`].
pub fn load(name: &str, given: Option<&Path>) -> Result<Arc<Clip>> {
    Kept::default().load(&weights(name, given)?)
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
    load(SHIPPED, None)
}

/// Refuses methods whose prompts enter the image tower where that is a ResNet; known before any number is read.
///
/// # Errors
/// Names the methods.
pub fn takes<'a>(
    weights: &Weights,
    methods: impl IntoIterator<Item = (&'a str, methods::Sees)>,
) -> Result<()> {
    if matches!(
        weights.architecture.image,
        clip::weights::ImageTower::Transformer { .. }
    ) {
        return Ok(());
    }
    let wrong: Vec<String> = methods
        .into_iter()
        .filter(|(_, sees)| *sees == methods::Sees::Pixels)
        .map(|(name, _)| {
            format!(
                "method {name}: puts prompt tokens into the image tower, and this backbone's is a ResNet, which takes \
                 none; it needs a ViT"
            )
        })
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(wrong.join("\n"))
}
