//! `promptbed predict`: what pictures show, among classes that the user names.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use methods::parts::losses::softmax;
use methods::{Classes, Images, Init, Needs, Predict as Scores, Sees};
use serde_json::json;

use super::Done;
use super::encode::AT_ONCE;
use super::pictures::Named;
use crate::backbone;
use crate::device::InPrecision;
use crate::run::prompts::{Given, Saved};

/// Name what pictures show: prints the likeliest of the given classes and their probabilities.
///
/// Without --prompts it is zero-shot CLIP. No dataset and no folder layout is needed; `_` in class names is read as a
/// space. A picture that cannot be read is named, the others are answered, and the exit code is 1 then.
///
/// Example: promptbed predict photos/ --classes "cat,dog,garden gnome" --model ViT-B-16.pt
#[derive(clap::Args)]
pub struct Predict {
    /// Pictures, or folders of them (every jpg, jpeg, png, webp, gif, bmp and tif below, sorted).
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// Class names, separated by commas.
    #[arg(long, value_delimiter = ',', required_unless_present = "classes_file")]
    classes: Vec<String>,
    /// File of class names: one a line, WordNet ids or numbers in front of all of them left out; or a JSON list.
    #[arg(long, conflicts_with = "classes")]
    classes_file: Option<PathBuf>,
    /// Learned prompts: of a results folder, or a checkpoint of the published code.
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Hand-written prompt of zero-shot CLIP, `{}` standing for the name.
    #[arg(long, default_value = methods::parts::templates::PHOTO, conflicts_with = "prompts")]
    template: String,
    /// CLIP weights: a file or folder of any known format, or a name of `promptbed model list` [default: the CLIP that
    /// ships].
    #[arg(long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    told: backbone::Told,
    #[command(flatten)]
    kept: backbone::Kept,
    #[command(flatten)]
    on: InPrecision,
    #[command(flatten)]
    given: Given,
    /// Classes to show of each picture.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,
    /// One JSON object a picture and line, with the probability of every class.
    #[arg(long)]
    json: bool,
}

impl Predict {
    pub fn run(self) -> Result<Done> {
        let names = self.names()?;
        if !self.template.contains("{}") {
            bail!("--template: {:?} has no {{}} for the name", self.template);
        }
        let classes = Classes::new(&names, "", &self.template);
        let mut pictures = Named::find(&self.pictures)?;
        let saved = match &self.prompts {
            Some(path) => Some(Saved::read(path, &self.given)?),
            None if self.given.method.is_some() || !self.given.set.is_empty() => {
                bail!("--method, --set: say what a checkpoint is; pass it with --prompts")
            }
            None => None,
        };
        let needs = saved
            .as_ref()
            .map_or(Needs::features(), |s| s.config.needs());
        let sees = needs.sees;
        if matches!(sees, Sees::Views { .. }) {
            bail!("--prompts: a method that tunes on views of each picture runs in a suite only");
        }
        let place = self.on.open()?;
        let weights = backbone::weights(backbone::SHIPPED, self.model.as_deref(), &self.told)?;
        if let Some(saved) = &saved {
            saved.check_alone()?;
            backbone::takes(&weights, [(saved.algorithm.as_str(), sees)])?;
        }
        let clip = self.kept.load_at(&weights, &place)?;
        let method = match (&saved, &self.prompts) {
            (Some(saved), Some(path)) => {
                saved.check_backbone(&clip.identity())?;
                saved
                    .method(&clip, &classes)
                    .with_context(|| format!("{}", path.display()))?
            }
            _ => {
                let zero_shot = methods::find("zero-shot").expect("the registry has it");
                let on = clip.clone().into();
                zero_shot
                    .default_config()
                    .build(&on, &classes, &mut Init::seeded(0))?
            }
        };
        let scores = method.predictor()?;
        let at_once = if needs.one_at_a_time() { 1 } else { AT_ONCE };
        for chunk in pictures.pieces(at_once) {
            let Some((read, pixels)) = pictures.view(&clip, &chunk)? else {
                continue;
            };
            let images = match sees {
                Sees::Pixels => Images::Pixels(pixels),
                _ => Images::Features(clip.encode_image(&pixels)?),
            };
            for (path, row) in read.iter().zip(probabilities(scores.as_ref(), &images)?) {
                self.show(&path.display().to_string(), &names, &row);
            }
        }
        Ok(if pictures.all_read()? {
            Done::All
        } else {
            Done::NotAll
        })
    }

    /// The class names, each once.
    fn names(&self) -> Result<Vec<String>> {
        let (given, field) = match &self.classes_file {
            None => (self.classes.clone(), "--classes".to_owned()),
            Some(path) => {
                let read = datasets::class_names_file(path)?;
                if let Some(what) = read.left_out {
                    crate::say!(
                        "note: {}: {what} stand in front of the names and are left out",
                        path.display()
                    );
                }
                (read.names, path.display().to_string())
            }
        };
        let names: Vec<String> = given
            .iter()
            .map(|n| n.trim().to_owned())
            .filter(|n| !n.is_empty())
            .collect();
        if names.len() < 2 {
            bail!(
                "{field}: {} class names; give two or more to choose from",
                names.len()
            );
        }
        if let Some(twice) = (1..names.len()).find(|&i| names[..i].contains(&names[i])) {
            bail!("{field}: {:?} is named twice", names[twice]);
        }
        Ok(names)
    }

    fn show(&self, picture: &str, names: &[String], row: &[f32]) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        if self.json {
            let all: serde_json::Map<_, _> = order
                .iter()
                .map(|&i| (names[i].clone(), row[i].into()))
                .collect();
            crate::out!("{}", json!({ "picture": picture, "probabilities": all }));
            return;
        }
        let told: Vec<String> = order
            .iter()
            .take(self.top.into())
            .map(|&i| format!("{} {:.1} %", names[i], 100.0 * row[i]))
            .collect();
        crate::out!("{picture}: {}", told.join(", "));
    }
}

/// Softmax of the logits `[B, K]`, a row a picture.
fn probabilities(scores: &dyn Scores, images: &Images) -> Result<Vec<Vec<f32>>> {
    let logits: Tensor = scores.logits(images)?.to_dtype(DType::F32)?;
    Ok(softmax(&logits.to_device(&Device::Cpu)?)?.to_vec2()?)
}
