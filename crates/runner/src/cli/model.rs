//! `promptbed model`: what a weight file holds.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clip::weights::{self, ImageTower, Transformer, Weights};

use super::Done;

/// Look at CLIP weights.
#[derive(clap::Args)]
pub struct Model {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    Check(Check),
}

impl Model {
    pub fn run(self) -> Result<Done> {
        let Verb::Check(verb) = self.verb;
        verb.run()
    }
}

/// Read weights as a run would: format, sizes, parameter counts, precision, and the fingerprint that records hold.
///
/// Example: promptbed model check ViT-B-16.pt
#[derive(clap::Args)]
struct Check {
    /// File or folder of any known format.
    model: PathBuf,
}

impl Check {
    fn run(self) -> Result<Done> {
        if !self.model.exists() {
            bail!("{}: there is no such file or folder", self.model.display());
        }
        let weights = weights::open(&self.model)?;
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

fn describe(weights: &Weights) -> Result<Vec<(&'static str, String)>> {
    let a = &weights.architecture;
    let image = match &a.image {
        ImageTower::Transformer {
            blocks: t,
            patch,
            image,
        } => format!("ViT, {image} px, patches of {patch}, {}", blocks(t)),
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
        None => "CLIP byte pairs, all 49408 token rows".to_owned(),
    };
    Ok(vec![
        ("format", weights.format.to_string()),
        ("image tower", image),
        ("text tower", blocks(&a.text)),
        ("joint width", a.embedding.to_string()),
        ("activation", format!("{:?}", weights.activation)),
        ("tokenizer", rows),
        (
            "parameters",
            format!("{} ({of_image} image, {of_text} text)", of_image + of_text),
        ),
        ("stored in", kinds.join(", ")),
        ("computes in", "float32".to_owned()),
        ("fingerprint", weights.fingerprint()?),
    ])
}
