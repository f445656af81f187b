//! Every tensor under the name OpenAI's `state_dict` gives it, and what OpenAI's CLIPs have not under one like theirs.
//!
//! | ours | what it is |
//! |---|---|
//! | `type_embedding`, `ln_embedding.*` | BERT's token types, and its norm before the blocks |
//! | `text_projection.0`, `text_projection.2`, `text_projection.bias` | a text tower that ends in two matrices, or in one and a bias |
//! | `visual.conv1.bias` | of patches (timm, SigLIP) |
//! | `visual.attn_pool.*` | what pools SigLIP's pictures |
//! | `logit_bias` | of SigLIP's sigmoid |

mod open_clip;

use super::stored::Stored;
use std::collections::BTreeMap;

/// Tensors under OpenAI's names, each made of parts that follow each other along their first axis, and whether the
/// file used Hugging Face's names.
pub(super) struct Named {
    pub(super) tensors: BTreeMap<String, Vec<Stored>>,
    pub(super) is_hugging_face: bool,
}

const OPENAI: &str = "token_embedding.weight";
/// Of open_clip's text towers of transformers.
const BERT: &str = "text.transformer.embeddings.word_embeddings.weight";
const HUGGING_FACE: &str = "text_model.embeddings.token_embedding.weight";

/// Buffers that hold no weights: masks, counters, and sizes that the tensors tell by themselves.
fn is_buffer(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(
        last,
        "attn_mask"
            | "position_ids"
            | "num_batches_tracked"
            | "input_resolution"
            | "context_length"
            | "vocab_size"
            | "token_type_ids"
    )
}

/// Finds the CLIP in `found`, below whatever prefix wrappers gave it (`state_dict.`, `module.`, `model.`), and
/// translates its names. `None` when there is no token embedding, the one tensor every CLIP has under its own name.
pub(super) fn openai(found: BTreeMap<String, Stored>) -> Option<Named> {
    // The shortest, so that copies in an optimizer or an average do not count.
    let anchor = found
        .keys()
        .filter(|n| *n == OPENAI || n.ends_with(&format!(".{OPENAI}")) || n.ends_with(BERT))
        .min_by_key(|n| n.len())?;
    let (prefix, is_hugging_face) = match anchor.strip_suffix(HUGGING_FACE) {
        Some(prefix) => (prefix, true),
        None => match anchor.strip_suffix(&BERT["text.".len()..]) {
            Some(prefix) => (prefix, false),
            None => (anchor.strip_suffix(OPENAI)?, false),
        },
    };
    // open_clip's CustomTextCLIP keeps the text tower one level down.
    let text = if is_hugging_face {
        None
    } else {
        prefix.strip_suffix("text.").map(|outer| (outer, "text."))
    };
    let (prefix, text) = text.map_or((prefix, ""), |(outer, text)| (outer, text));
    let (prefix, text) = (prefix.to_owned(), text.to_owned());

    let mut parts: BTreeMap<String, BTreeMap<usize, Stored>> = BTreeMap::new();
    for (name, stored) in found {
        let Some(name) = name.strip_prefix(&prefix) else {
            continue;
        };
        if is_buffer(name) || open_clip::is_unused(name) {
            continue;
        }
        let (name, part, stored) = if is_hugging_face {
            hugging_face(name, stored)
        } else {
            open_clip::named(name.strip_prefix(&text).unwrap_or(name), stored)
        };
        parts.entry(name).or_default().insert(part, stored);
    }
    let tensors = parts
        .into_iter()
        .map(|(name, parts)| (name, parts.into_values().collect()))
        .collect();
    Some(Named {
        tensors,
        is_hugging_face,
    })
}

/// OpenAI's name, the place within a fused tensor, and the tensor the way OpenAI stores it. Names it does not know
/// stay, and are reported later.
fn hugging_face(name: &str, stored: Stored) -> (String, usize, Stored) {
    // A Linear keeps `[out, in]`; OpenAI multiplies with `[in, out]`.
    match name {
        "text_projection.weight" => return ("text_projection".to_owned(), 0, stored.transposed()),
        "visual_projection.weight" => return ("visual.proj".to_owned(), 0, stored.transposed()),
        // SigLIP's, and what pools its pictures.
        "text_model.head.weight" => return ("text_projection".to_owned(), 0, stored.transposed()),
        "text_model.head.bias" => return ("text_projection.bias".to_owned(), 0, stored),
        "vision_model.head.probe" => {
            return ("visual.attn_pool.probe".to_owned(), 0, stored.squeezed(1));
        }
        _ => {}
    }
    if let Some(part) = name.strip_prefix("vision_model.head.") {
        let part = match part.split_once('.') {
            Some(("attention", rest)) => rest.to_owned(),
            Some(("layernorm", kind)) => format!("norm.{kind}"),
            _ => part
                .replace("mlp.fc1", "mlp.c_fc")
                .replace("mlp.fc2", "mlp.c_proj"),
        };
        return (format!("visual.attn_pool.{part}"), 0, stored);
    }
    let (tower, rest) = match (
        name.strip_prefix("vision_model."),
        name.strip_prefix("text_model."),
    ) {
        (Some(rest), _) => ("visual.", rest),
        (_, Some(rest)) => ("", rest),
        _ => return (name.to_owned(), 0, stored),
    };
    let fixed = match (tower, rest) {
        ("visual.", "embeddings.class_embedding") => "class_embedding",
        ("visual.", "embeddings.patch_embedding.weight") => "conv1.weight",
        ("visual.", "embeddings.patch_embedding.bias") => "conv1.bias",
        ("", "embeddings.token_embedding.weight") => "token_embedding.weight",
        ("", "embeddings.token_embedding.ids") => "token_embedding.ids",
        (_, "embeddings.position_embedding.weight") => "positional_embedding",
        // Sic: the misspelling is Hugging Face's.
        ("visual.", "pre_layrnorm.weight") => "ln_pre.weight",
        ("visual.", "pre_layrnorm.bias") => "ln_pre.bias",
        ("visual.", "post_layernorm.weight") => "ln_post.weight",
        ("visual.", "post_layernorm.bias") => "ln_post.bias",
        ("", "final_layer_norm.weight") => "ln_final.weight",
        ("", "final_layer_norm.bias") => "ln_final.bias",
        _ => "",
    };
    if !fixed.is_empty() {
        return (format!("{tower}{fixed}"), 0, stored);
    }
    let block = rest
        .strip_prefix("encoder.layers.")
        .and_then(|r| r.split_once('.'));
    let Some((index, (part, kind))) = block.and_then(|(i, r)| Some((i, r.rsplit_once('.')?)))
    else {
        return (name.to_owned(), 0, stored);
    };
    let (part, place) = match part {
        "layer_norm1" => ("ln_1.", 0),
        "layer_norm2" => ("ln_2.", 0),
        "mlp.fc1" => ("mlp.c_fc.", 0),
        "mlp.fc2" => ("mlp.c_proj.", 0),
        "self_attn.out_proj" => ("attn.out_proj.", 0),
        "self_attn.q_proj" => ("attn.in_proj_", 0),
        "self_attn.k_proj" => ("attn.in_proj_", 1),
        "self_attn.v_proj" => ("attn.in_proj_", 2),
        _ => return (name.to_owned(), 0, stored),
    };
    (
        format!("{tower}transformer.resblocks.{index}.{part}{kind}"),
        place,
        stored,
    )
}
