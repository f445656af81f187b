//! What tensors do not say of a CLIP, settled: told by a configuration, given by the user, said by the file, or assumed.

use super::architecture::{Architecture, ImageTower};
use super::config;
use super::settings::{Assumed, Given, Look};
use crate::error::{Error, Fault};
use crate::ops::Activation;
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

/// Activation, heads (into `architecture`) and pictures: of the configuration, else of what is given or the file says,
/// else assumed.
pub(super) fn settled(
    path: &Path,
    architecture: &mut Architecture,
    config: Option<&Beside>,
    hint: Option<Hint>,
    given: &Given,
) -> Result<(Activation, Look, Assumed), Error> {
    let told = match config {
        Some(Beside::OpenClip(file)) => Some((file, config::open_clip(file, architecture)?)),
        Some(Beside::HuggingFace(file)) => Some((file, config::hugging_face(file, architecture)?)),
        None => None,
    };
    let [(image, image_width), (text, text_width)] = architecture.heads();
    let image_told = told.as_ref().and_then(|(_, t)| t.image_heads);
    let text_told = told.as_ref().map(|(_, t)| t.text_heads);
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
            shown(told.activation),
            given.activation.map(shown),
        );
        let heads = |n: usize| format!("{n} heads");
        let image = image_told.unwrap_or(image);
        differs("image heads", heads(image), given.image_heads.map(heads));
        differs(
            "text heads",
            heads(told.text_heads),
            given.text_heads.map(heads),
        );
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
    if let ImageTower::Transformer { blocks, .. } = &mut architecture.image {
        blocks.heads = image;
    }

    let mut assumed = Assumed::default();
    let is_known = matches!(hint, Some(Hint::Known(Activation::QuickGelu)));
    let activation = match (&told, given.activation, hint) {
        (Some((_, told)), ..) => told.activation,
        (None, Some(given), _) => given,
        (None, None, Some(Hint::Known(activation))) => activation,
        (None, None, Some(Hint::Trained(activation, run))) => {
            let name = match activation {
                Activation::Gelu => "GELU",
                Activation::QuickGelu => "QuickGELU",
            };
            let said = format!("{name} assumed, as open_clip trained it in a run called {run:?}");
            assumed.activation = Some(said);
            activation
        }
        (None, None, None) => {
            assumed.activation = Some("QuickGELU assumed, as in OpenAI's weights".to_owned());
            Activation::QuickGelu
        }
    };
    // OpenAI's own archives say by what they call that they are.
    let is_told = told.is_some() || is_known;
    let is_given = given.image_heads.is_some() && given.text_heads.is_some();
    if !is_told && !is_given {
        assumed.heads = Some(match (image_width / image, text_width / text) {
            (image, text) if image == text => format!("attention heads of {image} assumed"),
            (image, text) => format!(
                "attention heads of {image} in the image tower and of {text} in the text tower assumed"
            ),
        });
    }
    Ok((activation, look, assumed))
}
