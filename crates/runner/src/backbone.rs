//! Finding the CLIP a suite or a user names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clip::weights::{self, Activation, Given, Weights};
use clip::{Clip, ImageTower, Keep};
use datasets::transform::{Filter, Fit, Look};
use serde::{Deserialize, Serialize};

use crate::device::Place;
use crate::hub;

/// The CLIP that ships: made by `suites/pretrain-drawn.toml`.
const DRAWN: &[u8] = include_bytes!("../assets/drawn-clip.safetensors");
/// What it is called.
pub const SHIPPED: &str = "drawn";

/// What the user knows of weights that come without a configuration. A file FILE.toml beside FILE may say the same and
/// more.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub struct Told {
    /// Non-linearity of weights without a configuration: quick-gelu, as OpenAI's, or gelu, as open_clip's [default: as
    /// FILE.toml beside the weights says, else quick-gelu].
    #[arg(long, value_name = "NAME", value_parser = activation)]
    activation: Option<Activation>,
    /// Attention heads of weights without a configuration: the image tower's and, after a comma, the text tower's
    /// [default: as FILE.toml says, else as released models of their widths have].
    #[arg(long, value_name = "IMAGE[,TEXT]", value_parser = heads)]
    heads: Option<Heads>,
}

/// Heads of the image tower and of the text tower.
type Heads = (usize, Option<usize>);

fn activation(text: &str) -> Result<Activation, String> {
    match text {
        "quick-gelu" | "quick_gelu" | "quickgelu" => Ok(Activation::QuickGelu),
        "gelu" => Ok(Activation::Gelu),
        "gelu-tanh" | "gelu_tanh" => Ok(Activation::GeluTanh),
        _ => Err("must be quick-gelu, gelu or gelu-tanh".to_owned()),
    }
}

fn heads(text: &str) -> Result<Heads, String> {
    let number = |text: &str| match text.trim().parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("must be a number of heads, or two with a comma between them".to_owned()),
    };
    match text.split_once(',') {
        Some((image, text)) => Ok((number(image)?, Some(number(text)?))),
        None => Ok((number(text)?, None)),
    }
}

impl Told {
    /// What is said here and, where nothing is, in the TOML file beside `path`.
    fn of(&self, path: &Path) -> Result<Given> {
        let given = Given {
            activation: self.activation,
            image_heads: self.heads.map(|(image, _)| image),
            text_heads: self.heads.and_then(|(_, text)| text),
            ..Given::default()
        };
        let beside = beside(path);
        if !path.is_file() || !beside.is_file() {
            return Ok(given);
        }
        let text = std::fs::read_to_string(&beside)
            .with_context(|| format!("{}: cannot be read", beside.display()))?;
        let written = toml::from_str(&text)
            .map_err(|e| anyhow::anyhow!("{}: {}", beside.display(), e.message()))?;
        Ok(given.or(written))
    }

    fn is_empty(&self) -> bool {
        self.activation.is_none() && self.heads.is_none()
    }
}

/// `FILE.toml` for `FILE`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".toml");
    PathBuf::from(name)
}

/// Opens the weights of `given`, a path or a name, or of the backbone called `name` where nothing is given. Numbers
/// are not read yet. What had to be assumed of them, and what was passed over in their file, is said.
///
/// # Errors
/// A file that is not a CLIP; a name that only a file can stand for, or that is not fetched yet; something told of a
/// backbone that says it itself.
pub fn weights(name: &str, given: Option<&Path>, told: &Told) -> Result<Weights> {
    let Some(path) = given else {
        return match called(name, told)? {
            Some(weights) => Ok(weights),
            None => bail!(
                "backbone {name:?}: does not ship with promptbed and is not on the hub's list{}; pass its weights with \
                 --model FILE",
                nearest(name)
            ),
        };
    };
    if path.exists() {
        return open(path, told);
    }
    let name = path.to_str().unwrap_or_default();
    if let Some(weights) = called(name, told)? {
        return Ok(weights);
    }
    if let Some(snapshot) = hub::snapshot_of(name)? {
        return open(&snapshot, told);
    }
    bail!(
        "{}: there is no such file or folder, and no backbone of that name in `promptbed model list`{} (--model)",
        path.display(),
        nearest(name)
    )
}

/// `; did you mean ...?` with the known name nearest to `name`, if one is near.
pub fn nearest(name: &str) -> String {
    let all = hub::names();
    let known = all.iter().map(String::as_str).chain([SHIPPED]);
    let near = datasets::catalogue::closest(name, known);
    near.map_or_else(String::new, |near| {
        let canonical = hub::find(&near).map_or(near, |(canonical, _)| canonical);
        format!("; did you mean `{canonical}`?")
    })
}

/// The backbone called `name`, if any is.
fn called(name: &str, told: &Told) -> Result<Option<Weights>> {
    if name == SHIPPED {
        if !told.is_empty() {
            bail!(
                "--activation, --heads: are for weights that come without a configuration; {name} has one"
            );
        }
        let weights = weights::embedded("drawn-clip.safetensors", DRAWN);
        return weights.map(Some).context("the shipped CLIP");
    }
    let Some((canonical, known)) = hub::find(name) else {
        return Ok(None);
    };
    match known.cached() {
        Some(path) => {
            let told = Told {
                activation: told.activation.or(known.activation),
                ..told.clone()
            };
            open(&path, &told).map(Some)
        }
        None => bail!(
            "backbone {name:?}: is not here yet; get it with `promptbed model fetch {canonical}`, or pass its weights \
             with --model FILE"
        ),
    }
}

/// Opens a file, a folder, or a repository's folder in the hub's cache.
fn open(path: &Path, told: &Told) -> Result<Weights> {
    let snapshot = hub::snapshot(path)?;
    let path = snapshot.as_deref().unwrap_or(path);
    let weights = weights::open_as(path, &told.of(path)?)?;
    if let Some(assumed) = weights.assumed.sentence() {
        crate::say!(
            "note: {}: {assumed}; nothing beside the weights says so (--activation, --heads or {}.toml would)",
            path.display(),
            path.file_name().unwrap_or_default().to_string_lossy()
        );
    }
    say_skipped(path, &weights.skipped);
    Ok(weights)
}

/// Names the classes that a checkpoint has beside its tensors.
pub(crate) fn say_skipped(path: &Path, classes: &[String]) {
    if !classes.is_empty() {
        crate::say!(
            "note: {}: holds more than weights: {}; skipped as data, not executed",
            path.display(),
            classes.join(", ")
        );
    }
}

/// How this CLIP wants its pictures.
pub fn look(clip: &Clip) -> Look {
    let look = clip.look();
    Look {
        mean: look.mean,
        std: look.deviation,
        fit: match look.fit {
            weights::Fit::Shortest => Fit::Shortest,
            weights::Fit::Squash => Fit::Squash,
        },
        filter: match look.interpolation {
            weights::Interpolation::Bicubic => Filter::Bicubic,
            weights::Interpolation::Bilinear => Filter::Bilinear,
        },
    }
}

/// How a backbone is kept in memory.
#[derive(Clone, Copy, Debug, Default, clap::Args, Serialize, Deserialize)]
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

    /// Reads the numbers, and brings them to `place`.
    ///
    /// # Errors
    /// As [`Kept::load`]; a card whose memory is used up.
    pub fn load_at(self, weights: &Weights, place: &Place) -> Result<Arc<Clip>> {
        let mut clip = self.load(weights)?;
        place.take(Arc::make_mut(&mut clip))?;
        Ok(clip)
    }
}

/// Loads `given`, or the backbone called `name` where nothing is given.
///
/// # Errors
/// As [`weights`].
pub fn load(name: &str, given: Option<&Path>) -> Result<Arc<Clip>> {
    Kept::default().load(&weights(name, given, &Told::default())?)
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
        ImageTower::Pooled(_) => {
            bail!(
                "bfloat16 is for CLIP's vision transformers, this backbone's image tower is SigLIP's"
            )
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

/// Refuses methods whose prompts enter the image tower where that takes none (a ResNet, SigLIP's); known before any number
/// is read.
///
/// # Errors
/// Names the methods.
pub fn takes<'a>(
    weights: &Weights,
    methods: impl IntoIterator<Item = (&'a str, methods::Sees)>,
) -> Result<()> {
    let why = match weights.architecture.image {
        weights::ImageTower::Transformer { .. } => return Ok(()),
        weights::ImageTower::ResNet { .. } => "is a ResNet, which takes none; it needs a ViT",
        weights::ImageTower::Pooled { .. } => {
            "is SigLIP's, which has no class token and takes none; it needs the ViT of a CLIP"
        }
    };
    let wrong: Vec<String> = methods
        .into_iter()
        .filter(|(_, sees)| *sees == methods::Sees::Pixels)
        .map(|(name, _)| {
            format!(
                "method {name}: puts prompt tokens into the image tower, and this backbone's {why}"
            )
        })
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(wrong.join("\n"))
}
