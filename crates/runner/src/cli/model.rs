//! `promptbed model`: which weights there are, getting them, and what they hold.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clip::text::{Family, Pooling};
use clip::weights::{ImageTower, Transformer, Weights};

use super::Done;
use crate::{backbone, hub};

/// List, fetch and look at CLIP weights.
#[derive(clap::Args)]
pub struct Model {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// List the backbones that have a name, for --model and suites, and whether they are here.
    List,
    Fetch(Fetch),
    Check(Check),
}

impl Model {
    pub fn run(self) -> Result<Done> {
        match self.verb {
            Verb::List => Ok(list()),
            Verb::Fetch(verb) => verb.run(),
            Verb::Check(verb) => verb.run(),
        }
    }
}

/// A line for each backbone with a name: whether it is here, what it is, where it comes from.
fn list() -> Done {
    let mut lines = vec![(
        backbone::SHIPPED.to_owned(),
        "ships",
        "a small CLIP pre-trained on drawings; part of the program".to_owned(),
    )];
    for (name, known) in hub::known() {
        let state = if known.cached().is_some() {
            "here"
        } else {
            "-"
        };
        let size = 4e-9 * known.parameters as f64;
        let about = format!("{} ({}, at most {size:.1} GB)", known.about, known.repo);
        lines.push((name, state, about));
    }
    let width = lines.iter().map(|(n, ..)| n.len()).max().unwrap_or(0);
    for (name, state, about) in lines {
        crate::out!("{name:<width$}  {state:<5}  {about}");
    }
    Done::All
}

/// Get a backbone's weights from the Hugging Face hub into its cache.
///
/// Files are compared with the hub's checksums; a transfer that broke off goes on where it ended. HF_HOME says where
/// the cache is, HF_ENDPOINT which server is asked, HF_HUB_OFFLINE=1 that none is.
///
/// Example: promptbed model fetch clip-vit-b16
#[derive(clap::Args)]
struct Fetch {
    /// Name in `promptbed model list`.
    name: String,
}

impl Fetch {
    fn run(self) -> Result<Done> {
        let (_, known) = hub::find(&self.name).with_context(|| {
            let names: Vec<String> = hub::known().into_keys().collect();
            format!(
                "{}: is no backbone that can be fetched{}; there are {}",
                self.name,
                backbone::nearest(&self.name),
                names.join(", ")
            )
        })?;
        for file in known.fetch()? {
            let checksum = match file.sha256 {
                Some(hash) => format!("SHA-256 {hash}, as the hub has it"),
                None => "no checksum to compare".to_owned(),
            };
            let before = if file.was_there { ", was there" } else { "" };
            crate::out!(
                "{} ({} bytes{before}; {checksum})",
                file.path.display(),
                file.bytes
            );
        }
        Ok(Done::All)
    }
}

/// Read weights as a run would: format, sizes, parameter counts, precision, and the fingerprint that records hold.
///
/// Example: promptbed model check ViT-B-16.pt
#[derive(clap::Args)]
struct Check {
    /// File or folder of any known format, or a name of `model list`.
    model: PathBuf,
    #[command(flatten)]
    told: backbone::Told,
}

impl Check {
    fn run(self) -> Result<Done> {
        let weights = backbone::weights(backbone::SHIPPED, Some(&self.model), &self.told)?;
        let described = describe(&weights)?;
        crate::out!("model         {}", self.model.display());
        for (name, value) in described {
            crate::out!("{name:<13} {value}");
        }
        Ok(Done::All)
    }
}

fn blocks(t: &Transformer) -> String {
    format!(
        "{} blocks, width {}, {} heads, MLP {}",
        t.layers, t.width, t.heads, t.hidden
    )
}

fn of_assumed(value: String, assumed: &Option<String>) -> String {
    match assumed {
        Some(_) => format!("{value} (assumed)"),
        None => value,
    }
}

/// How wide the heads are.
fn heads(weights: &Weights) -> String {
    let [image, text] = weights
        .architecture
        .heads()
        .map(|(n, width)| width / n.max(1));
    let widths = format!("{image} wide in the image tower, {text} in the text tower");
    of_assumed(widths, &weights.assumed.heads)
}

fn describe(weights: &Weights) -> Result<Vec<(&'static str, String)>> {
    let a = &weights.architecture;
    let image = match &a.image {
        ImageTower::Transformer {
            blocks: t,
            patch,
            image,
        } => format!("ViT, {image} px, patches of {patch}, {}", blocks(t)),
        ImageTower::Pooled {
            blocks: t,
            patch,
            image,
        } => format!(
            "ViT with attention pool (SigLIP), {image} px, patches of {patch}, {}",
            blocks(t)
        ),
        ImageTower::ResNet {
            width,
            layers,
            heads,
            image,
        } => format!(
            "ModifiedResNet, {image} px, {layers:?} bottlenecks, width {width}, attention pool of {heads} heads"
        ),
    };
    let (mut of_image, mut of_text) = (0, 0);
    for (name, shape) in weights.shapes() {
        let count: usize = shape.iter().product();
        if name.starts_with("visual.") {
            of_image += count;
        } else {
            of_text += count;
        }
    }
    let kinds: Vec<String> = weights
        .kinds()
        .iter()
        .map(|(kind, count)| format!("{kind} ({count} values)"))
        .collect();
    let rows = match &weights.token_rows {
        Some(rows) => format!("CLIP byte pairs, {} of 49408 token rows", rows.len()),
        None if weights.wording.is_clips() => "CLIP byte pairs, all 49408 token rows".to_owned(),
        None => weights.wording.about(),
    };
    Ok(vec![
        ("format", weights.format.to_string()),
        ("image tower", image),
        ("text tower", {
            let kind = match a.family {
                Family::Clip => "",
                Family::Bert(Pooling::Mean) => "BERT, mean of all tokens read, ",
                Family::Bert(_) => "BERT, [CLS] read, ",
                Family::Siglip => "SigLIP, last token read, ",
            };
            format!("{kind}{}", blocks(&a.text))
        }),
        ("heads", heads(weights)),
        ("joint width", a.embedding.to_string()),
        (
            "activation",
            of_assumed(
                match (weights.activation, weights.text_activation) {
                    (image, text) if image == text => format!("{image:?}"),
                    (image, text) => {
                        format!("{image:?} in the image tower, {text:?} in the text tower")
                    }
                },
                &weights.assumed.activation,
            ),
        ),
        ("pictures", weights.look.to_string()),
        ("tokenizer", rows),
        (
            "parameters",
            format!("{} ({of_image} image, {of_text} text)", of_image + of_text),
        ),
        ("stored in", kinds.join(", ")),
        ("computes in", "float32".to_owned()),
        ("fingerprint", weights.identity()?),
    ])
}
