//! Folders of transformers: `config.json`, and how its image processor makes pictures ready.

use super::{Comparison, Told, read, same};
use crate::error::Error;
use crate::ops::Activation;
use crate::text::Family;
use crate::tokenizer::{CONTEXT, EOT, SOT, VOCABULARY};
use crate::weights::architecture::{Architecture, ImageTower};
use crate::weights::foreign;
use crate::weights::settings::{Fit, Interpolation, Look};
use serde_json::{Value, json};
use std::path::Path;

/// What `CLIPConfig` of transformers asks for beyond sizes that is not computed here unless it is off.
const OFF: [&str; 6] = [
    "pruned_heads",
    "is_decoder",
    "add_cross_attention",
    "per_layer_config",
    "quantization_config",
    "auto_map",
];

/// Refuses the folder of another model family by its configuration, whatever its tensors are called.
pub(in crate::weights) fn is_of_a_clip(path: &Path) -> Result<(), Error> {
    let config = read(path)?;
    match config.get("model_type").and_then(Value::as_str) {
        None | Some("clip" | "siglip") => Ok(()),
        Some(other) => {
            let family = foreign::model_type(other);
            let problem =
                format!("is {other:?}, {family}; only \"clip\" and \"siglip\" can be run here");
            Err(Error::weights(path, "model_type", problem))
        }
    }
}

/// As transformers does, what an older `text_config_dict` says replaces all of `text_config`.
fn with_older_dictionaries(mut config: Value) -> Value {
    for tower in ["text_config", "vision_config"] {
        let older = config
            .get(format!("{tower}_dict"))
            .filter(|d| d.is_object());
        if let Some(older) = older.cloned() {
            config[tower] = older;
        }
    }
    config
}

/// Compares a Hugging Face `config.json` (`CLIPConfig`) with the tensors, and reads `preprocessor_config.json` or
/// `processor_config.json` beside it.
pub(in crate::weights) fn hugging_face(path: &Path, found: &Architecture) -> Result<Told, Error> {
    is_of_a_clip(path)?;
    let config = with_older_dictionaries(read(path)?);
    let mut c = Comparison {
        config: &config,
        faults: Vec::new(),
    };
    let is_siglip = found.family == Family::Siglip;
    let claims = config.get("model_type").and_then(Value::as_str);
    if let Some(claims) = claims.filter(|c| (*c == "siglip") != is_siglip) {
        let tensors = if is_siglip { "SigLIP" } else { "CLIP" };
        let problem = format!("is {claims:?}, but the tensors are those of a {tensors}");
        c.disagree("model_type", problem);
    }
    let [text_kind, image_kind] = match is_siglip {
        true => ["siglip_text_model", "siglip_vision_model"],
        false => ["clip_text_model", "clip_vision_model"],
    };
    // Heads, epsilon and activation that transformers takes where they are left out.
    let (heads, epsilon, activation) = match is_siglip {
        true => ([12, 12], 1e-6, "gelu_pytorch_tanh"),
        false => ([8, 12], 1e-5, "quick_gelu"),
    };
    let mut towers = vec![("text_config", text_kind, &found.text, heads[0])];
    if is_siglip {
        c.size("text_config.max_position_embeddings", found.context);
        c.size("text_config.projection_size", found.embedding);
        c.only("vision_config.vision_use_head", true);
    } else {
        c.size("projection_dim", found.embedding);
        c.size("text_config.max_position_embeddings", CONTEXT);
        c.size("text_config.vocab_size", VOCABULARY);
    }
    // 0 and 2 are what configurations said before the fields were used for anything, those of OpenAI's own
    // repositories among them; features were and are read at the largest id, which is 49407 (`modeling_clip.py`,
    // CLIPTextTransformer.forward).
    if is_siglip {
        // SigLIP's tokenizer says them, and the last place is read.
    } else if c.find("text_config.eos_token_id") != Some(&json!(2)) {
        c.only("text_config.eos_token_id", EOT);
        c.only("text_config.bos_token_id", SOT);
    } else if c.find("text_config.bos_token_id") != Some(&json!(0)) {
        c.only("text_config.bos_token_id", SOT);
    }
    match &found.image {
        ImageTower::Transformer {
            blocks,
            patch,
            image,
        }
        | ImageTower::Pooled {
            blocks,
            patch,
            image,
        } => {
            towers.push(("vision_config", image_kind, blocks, heads[1]));
            c.size("vision_config.patch_size", *patch);
            c.size("vision_config.image_size", *image);
            c.only("vision_config.num_channels", 3);
        }
        ImageTower::ResNet { .. } => c.disagree(
            "vision_config",
            "describes a transformer, the tensors are a ResNet".to_owned(),
        ),
    }
    for field in OFF {
        c.off(field);
    }
    let (mut activations, mut counts) = (Vec::new(), Vec::new());
    for (tower, kind, sizes, left_out) in towers {
        c.only(&format!("{tower}.model_type"), kind);
        c.size(&format!("{tower}.hidden_size"), sizes.width);
        c.size(&format!("{tower}.intermediate_size"), sizes.hidden);
        c.size(&format!("{tower}.num_hidden_layers"), sizes.layers);
        counts.push(c.heads(&format!("{tower}.num_attention_heads"), sizes, left_out));
        c.only(&format!("{tower}.layer_norm_eps"), epsilon);
        for field in OFF {
            c.off(&format!("{tower}.{field}"));
        }
        let field = format!("{tower}.hidden_act");
        match c.find(&field).map_or(Some(activation), Value::as_str) {
            Some("quick_gelu") => activations.push(Activation::QuickGelu),
            Some("gelu" | "gelu_python") => activations.push(Activation::Gelu),
            Some("gelu_pytorch_tanh") if is_siglip => activations.push(Activation::GeluTanh),
            other => {
                let problem = format!("is {other:?}; quick_gelu and gelu can be run here");
                c.disagree(&field, problem);
            }
        }
    }
    if !is_siglip && activations.len() == 2 && activations[0] != activations[1] {
        c.disagree(
            "hidden_act",
            "differs between text_config and vision_config".to_owned(),
        );
    }
    c.finish(path)?;
    Ok(Told {
        activations: match activations[..] {
            [text, image] => [image, text],
            _ => [activations.first().copied().unwrap_or_default(); 2],
        },
        text_heads: Some(counts[0]),
        image_heads: counts.get(1).copied(),
        look: processor(path, found.image.image_size(), is_siglip)?,
        context: None,
        pooling: None,
    })
}

/// The image processors whose steps are those of CLIP's.
const PROCESSORS: &[&str] = &[
    "CLIPImageProcessor",
    "CLIPImageProcessorFast",
    "CLIPImageProcessorPil",
    "CLIPFeatureExtractor",
];
/// Those of SigLIP's, which cut nothing out.
const SIGLIPS: &[&str] = &[
    "SiglipImageProcessor",
    "SiglipImageProcessorFast",
    "SiglipImageProcessorPil",
];

/// How pictures are made ready by the files beside a `config.json`; as OpenAI does where there are none.
fn processor(config: &Path, image: usize, is_siglip: bool) -> Result<Look, Error> {
    // The newer file counts where both are there, as in transformers.
    let newer = config.with_file_name("processor_config.json");
    if newer.is_file() {
        let inner = read(&newer)?;
        if let Some(inner) = inner.get("image_processor").filter(|v| v.is_object()) {
            return processed(&newer, "image_processor.", inner, (image, is_siglip));
        }
    }
    let older = config.with_file_name("preprocessor_config.json");
    if !older.is_file() {
        return Ok(usual(is_siglip));
    }
    processed(&older, "", &read(&older)?, (image, is_siglip))
}

/// A size of a picture: one number, or sides by name.
enum Size {
    Shorter(u64),
    Both(u64, u64),
    Other,
}

fn size_of(value: &Value) -> Size {
    let side = |name: &str| value.get(name).and_then(Value::as_u64);
    match (
        value.as_u64(),
        side("shortest_edge"),
        side("height"),
        side("width"),
    ) {
        (Some(n), ..) => Size::Shorter(n),
        (_, Some(n), None, None) if side("longest_edge").is_none() => Size::Shorter(n),
        (_, None, Some(height), Some(width)) => Size::Both(height, width),
        _ => Size::Other,
    }
}

/// The pictures of either family where nothing is said.
fn usual(is_siglip: bool) -> Look {
    match is_siglip {
        true => Look::siglip(),
        false => Look::default(),
    }
}

fn processed(
    path: &Path,
    below: &str,
    config: &Value,
    (image, is_siglip): (usize, bool),
) -> Result<Look, Error> {
    let mut c = Comparison {
        config,
        faults: Vec::new(),
    };
    for field in ["image_processor_type", "feature_extractor_type"] {
        let kind = c.find(field).and_then(Value::as_str).map(str::to_owned);
        let known = if is_siglip { SIGLIPS } else { PROCESSORS };
        if let Some(kind) = kind.filter(|k| !known.contains(&k.as_str())) {
            let problem = format!("is {kind:?}; {} can be run here", known[0]);
            c.disagree(field, problem);
        }
    }
    for field in ["do_resize", "do_rescale"] {
        c.only(field, true);
    }
    for field in ["do_pad", "use_square_size"] {
        c.off(field);
    }
    // Written with as many digits as somebody liked.
    let is_usual = |v: &Value| v.as_f64().is_some_and(|f| (f * 255.0 - 1.0).abs() < 1e-6);
    if let Some(factor) = c.find("rescale_factor").filter(|v| !is_usual(v)) {
        let problem = format!("is {factor}; only 1/255 can be run here");
        c.disagree("rescale_factor", problem);
    }
    let side = image as u64;
    let is_square = same(
        c.find("default_to_square").unwrap_or(&json!(false)),
        &json!(true),
    );
    let wrong = |c: &mut Comparison, field: &str| {
        let claimed = c.find(field).cloned().unwrap_or_default();
        let problem = format!(
            "is {claimed}, but the tensors make it {image}, and nothing else can be run here"
        );
        c.disagree(field, problem);
    };
    let size = c.find("size").map_or(Size::Shorter(224), size_of);
    let is_number = c.find("size").is_some_and(Value::is_number);
    let fit = match size {
        Size::Shorter(n) if is_number && is_square && n == side => Fit::Squash,
        Size::Shorter(n) if n == side => Fit::Shortest,
        Size::Both(height, width) if (height, width) == (side, side) => Fit::Squash,
        _ => {
            wrong(&mut c, "size");
            Fit::Shortest
        }
    };
    let left_out = !is_siglip;
    let crops = c
        .find("do_center_crop")
        .map_or(left_out, |v| *v != json!(false));
    if crops {
        match c.find("crop_size").map_or(Size::Shorter(224), size_of) {
            Size::Shorter(n) | Size::Both(n, _) if n != side => wrong(&mut c, "crop_size"),
            Size::Both(_, n) if n != side => wrong(&mut c, "crop_size"),
            Size::Other => wrong(&mut c, "crop_size"),
            _ => {}
        }
    } else if fit == Fit::Shortest {
        c.only("do_center_crop", true);
    }
    let interpolation = match c.find("resample").map_or(Some(3), Value::as_u64) {
        Some(3) => Interpolation::Bicubic,
        Some(2) => Interpolation::Bilinear,
        _ => {
            let claimed = c.find("resample").cloned().unwrap_or_default();
            let problem = format!("is {claimed}; 3 (bicubic) and 2 (bilinear) can be run here");
            c.disagree("resample", problem);
            Interpolation::Bicubic
        }
    };
    let usual = usual(is_siglip);
    let is_normalised = c.find("do_normalize").is_none_or(|v| *v != json!(false));
    let (mean, deviation) = if is_normalised {
        (
            c.triple("image_mean", usual.mean),
            c.deviation("image_std", usual.deviation),
        )
    } else {
        ([0.0; 3], [1.0; 3])
    };
    for fault in &mut c.faults {
        fault.field.insert_str(0, below);
    }
    c.finish(path)?;
    let look = Look {
        fit,
        interpolation,
        ..usual
    };
    Ok(look.normalised_by(mean, deviation))
}
