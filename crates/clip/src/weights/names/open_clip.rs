//! open_clip's own names, where they are not OpenAI's: image towers of timm (`visual.trunk.`, `visual.head.`), text towers of
//! transformers (`text.transformer.`, `text.proj.`), and a text projection with a bias.

use crate::weights::stored::Stored;

/// What the towers do not use: the pooler of a BERT whose last hidden state is read.
pub(super) fn is_unused(name: &str) -> bool {
    name.starts_with("text.transformer.pooler.")
}

/// OpenAI's name, the place within a fused tensor, and the tensor the way OpenAI stores it. `name` is without the text
/// tower's `text.`; names it does not know stay, and are reported later.
pub(super) fn named(name: &str, stored: Stored) -> (String, usize, Stored) {
    let (same, whole) = (name.to_owned(), 0);
    match name {
        "text_projection.weight" => {
            return ("text_projection".to_owned(), whole, stored.transposed());
        }
        "proj.weight" => return ("text_projection".to_owned(), whole, stored.transposed()),
        "proj.0.weight" => return ("text_projection.0".to_owned(), whole, stored.transposed()),
        "proj.2.weight" => return ("text_projection.2".to_owned(), whole, stored.transposed()),
        "visual.head.proj.weight" => return ("visual.proj".to_owned(), whole, stored.transposed()),
        _ => {}
    }
    if let Some(rest) = name.strip_prefix("visual.trunk.") {
        return match trunk(rest) {
            Some((ours, place)) => {
                let rank = match rest {
                    "cls_token" | "attn_pool.latent" => 1,
                    "pos_embed" => 2,
                    _ => usize::MAX,
                };
                (format!("visual.{ours}"), place, stored.squeezed(rank))
            }
            None => (same, whole, stored),
        };
    }
    match name.strip_prefix("transformer.").and_then(bert) {
        Some((ours, place)) => (ours, place, stored),
        None => (same, whole, stored),
    }
}

/// A tensor of timm's `VisionTransformer`, and its place within a fused one.
fn trunk(name: &str) -> Option<(String, usize)> {
    let fixed = match name {
        "cls_token" => "class_embedding",
        "pos_embed" => "positional_embedding",
        "patch_embed.proj.weight" => "conv1.weight",
        "patch_embed.proj.bias" => "conv1.bias",
        "norm.weight" => "ln_post.weight",
        "norm.bias" => "ln_post.bias",
        "attn_pool.latent" => "attn_pool.probe",
        _ => "",
    };
    if !fixed.is_empty() {
        return Some((fixed.to_owned(), 0));
    }
    let (base, rest) = match name.strip_prefix("attn_pool.") {
        Some(rest) => ("attn_pool.".to_owned(), rest),
        None => {
            let (index, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
            (format!("transformer.resblocks.{index}."), rest)
        }
    };
    let is_pool = base == "attn_pool.";
    let (part, kind) = rest.rsplit_once('.')?;
    let (ours, place) = match (is_pool, part) {
        (false, "norm1") => ("ln_1.", 0),
        (false, "norm2") => ("ln_2.", 0),
        (false, "attn.qkv") => ("attn.in_proj_", 0),
        (false, "attn.proj") => ("attn.out_proj.", 0),
        (true, "q") => ("in_proj_", 0),
        (true, "kv") => ("in_proj_", 1),
        (true, "proj") => ("out_proj.", 0),
        (true, "norm") => ("norm.", 0),
        (_, "mlp.fc1") => ("mlp.c_fc.", 0),
        (_, "mlp.fc2") => ("mlp.c_proj.", 0),
        _ => return None,
    };
    Some((format!("{base}{ours}{kind}"), place))
}

/// A tensor of transformers' `BertModel`, and its place within a fused one.
fn bert(name: &str) -> Option<(String, usize)> {
    if let Some(part) = name.strip_prefix("embeddings.") {
        let ours = match part {
            "word_embeddings.weight" => "token_embedding.weight",
            "position_embeddings.weight" => "positional_embedding",
            "token_type_embeddings.weight" => "type_embedding",
            "LayerNorm.weight" => "ln_embedding.weight",
            "LayerNorm.bias" => "ln_embedding.bias",
            _ => return None,
        };
        return Some((ours.to_owned(), 0));
    }
    let (index, rest) = name.strip_prefix("encoder.layer.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (ours, place) = match part {
        "attention.self.query" => ("attn.in_proj_", 0),
        "attention.self.key" => ("attn.in_proj_", 1),
        "attention.self.value" => ("attn.in_proj_", 2),
        "attention.output.dense" => ("attn.out_proj.", 0),
        "attention.output.LayerNorm" => ("ln_1.", 0),
        "intermediate.dense" => ("mlp.c_fc.", 0),
        "output.dense" => ("mlp.c_proj.", 0),
        "output.LayerNorm" => ("ln_2.", 0),
        _ => return None,
    };
    Some((format!("transformer.resblocks.{index}.{ours}{kind}"), place))
}
