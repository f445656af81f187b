//! What tensors do not say of a CLIP, settled: told by a configuration, given by the user, said by the file, or assumed.

use super::architecture::{Architecture, ImageTower};
use super::config;
use super::settings::{Assumed, Given, Look};
use crate::error::{Error, Fault};
use crate::ops::Activation;
use crate::text::Family;
use std::path::{Path, PathBuf};

/// A configuration that belongs to the tensors.
pub(super) enum Beside {
    HuggingFace(PathBuf),
    OpenClip(PathBuf),
}

/// What a file itself says of the activation.
pub(super) enum Hint {
    /// It is so.
    Known(Activation),
    /// open_clip trained it in a run of this name, which makes it likely.
    Trained(Activation, String),
}

/// What is settled beside the heads and the text tower's ways, which go into the architecture.
pub(super) struct Settled {
    /// Of the image and the text tower.
    pub(super) activations: [Activation; 2],
    pub(super) look: Look,
    pub(super) assumed: Assumed,
}

/// Activations, heads (into `architecture`) and pictures: of the configuration, else of what is given or the file says,
/// else assumed.
pub(super) fn settled(
    path: &Path,
    architecture: &mut Architecture,
    config: Option<&Beside>,
    hint: Option<Hint>,
    given: &Given,
) -> Result<Settled, Error> {
    let told = match config {
        Some(Beside::OpenClip(file)) => Some((file, config::open_clip(file, architecture)?)),
        Some(Beside::HuggingFace(file)) => Some((file, config::hugging_face(file, architecture)?)),
        None => None,
    };
    if told.is_none() && architecture.family != Family::Clip {
        let problem = "is missing: nothing else says how this text tower (BERT's or SigLIP's) reads texts; it lies in the \
                       repository of the weights";
        return Err(Error::weights(
            path,
            "open_clip_config.json or config.json",
            problem,
        ));
    }
    let [(image, image_width), (text, text_width)] = architecture.heads();
    let image_told = told.as_ref().and_then(|(_, t)| t.image_heads);
    let text_told = told.as_ref().and_then(|(_, t)| t.text_heads);
    let mut faults = Vec::new();
    if let Some((file, told)) = &told {
        let mut differs = |what: &str, says: String, given: Option<String>| {
            if let Some(given) = given.filter(|g| *g != says) {
                let file = file.display();
                faults.push(Fault::new(
                    what,
                    format!("{given} is given, but {file} says {says}"),
                ));
            }
        };
        let shown = |a: Activation| format!("{a:?}");
        differs(
            "activation",
            shown(told.activations[0]),
            given.activation.map(shown),
        );
        let heads = |n: usize| format!("{n} heads");
        let image = image_told.unwrap_or(image);
        differs("image heads", heads(image), given.image_heads.map(heads));
        if let Some(text) = told.text_heads {
            differs("text heads", heads(text), given.text_heads.map(heads));
        }
        let look = given.look(told.look);
        differs("pictures", told.look.to_string(), Some(look.to_string()));
    }
    for (what, heads, width) in [
        ("image heads", given.image_heads, image_width),
        ("text heads", given.text_heads, text_width),
    ] {
        if let Some(heads) = heads.filter(|&n| n == 0 || !width.is_multiple_of(n)) {
            let problem = format!("{heads} is given; heads have to divide the width {width}");
            faults.push(Fault::new(what, problem));
        }
    }
    let is_resnet = matches!(architecture.image, ImageTower::ResNet { .. });
    if let Some(heads) = given.image_heads.filter(|&n| is_resnet && n != image) {
        let problem = format!("{heads} is given; the pool of a ResNet has heads of 64 here");
        faults.push(Fault::new("image heads", problem));
    }
    let look = given.look(told.as_ref().map_or_else(Look::default, |(_, t)| t.look));
    if look.deviation.contains(&0.0) {
        faults.push(Fault::new("deviation", "nothing can be divided by 0"));
    }
    if !faults.is_empty() {
        return Err(Error::Weights {
            path: path.to_owned(),
            faults,
        });
    }
    let image = given.image_heads.or(image_told).unwrap_or(image);
    let text = given.text_heads.or(text_told).unwrap_or(text);
    architecture.text.heads = text;
    if let ImageTower::Transformer { blocks, .. } | ImageTower::Pooled { blocks, .. } =
        &mut architecture.image
    {
        blocks.heads = image;
    }
    if let Some((_, told)) = &told {
        architecture.context = told.context.unwrap_or(architecture.context);
        if let (Family::Bert(pooling), Some(said)) = (&mut architecture.family, told.pooling) {
            *pooling = said;
        }
    }

    let mut assumed = Assumed::default();
    let is_known = matches!(hint, Some(Hint::Known(Activation::QuickGelu)));
    let activations = match (&told, given.activation, hint) {
        (Some((_, told)), ..) => told.activations,
        (None, Some(given), _) => [given; 2],
        (None, None, Some(Hint::Known(activation))) => [activation; 2],
        (None, None, Some(Hint::Trained(activation, run))) => {
            let name = match activation {
                Activation::Gelu => "GELU",
                Activation::GeluTanh => "GELU by tanh",
                Activation::QuickGelu => "QuickGELU",
            };
            let said = format!("{name} assumed, as open_clip trained it in a run called {run:?}");
            assumed.activation = Some(said);
            [activation; 2]
        }
        (None, None, None) => {
            assumed.activation = Some("QuickGELU assumed, as in OpenAI's weights".to_owned());
            [Activation::QuickGelu; 2]
        }
    };
    // OpenAI's own archives say by what they call that they are.
    let is_told = told.as_ref().is_some_and(|(_, t)| t.text_heads.is_some()) || is_known;
    let is_given =
        given.text_heads.is_some() && (given.image_heads.is_some() || image_told.is_some());
    if !is_told && !is_given {
        assumed.heads = Some(match (image_width / image, text_width / text) {
            (image, text) if image == text => format!("attention heads of {image} assumed"),
            (image, text) => format!(
                "attention heads of {image} in the image tower and of {text} in the text tower assumed"
            ),
        });
    }
    Ok(Settled {
        activations,
        look,
        assumed,
    })
}
