//! Names and shapes of a CLIP's tensors, for tests that make one up.

#![allow(
    dead_code,
    reason = "each test file that includes this uses a part of it"
)]

/// Sizes of a made-up CLIP, both towers alike.
pub struct Sizes {
    /// Of both towers.
    pub width: usize,
    /// Joint width.
    pub joint: usize,
    /// Blocks a tower.
    pub layers: usize,
    /// Rows of the token table.
    pub tokens: usize,
    /// Positions of the image tower: the class token and the patches.
    pub places: usize,
    /// Pixels a side of a patch.
    pub patch: usize,
}

/// OpenAI's names of all tensors, with their shapes.
pub fn shapes(sizes: &Sizes) -> Vec<(String, Vec<usize>)> {
    let (w, e, patch) = (sizes.width, sizes.joint, sizes.patch);
    let mut shapes: Vec<(String, Vec<usize>)> = [
        ("positional_embedding", vec![77, w]),
        ("token_embedding.weight", vec![sizes.tokens, w]),
        ("text_projection", vec![w, e]),
        ("ln_final.weight", vec![w]),
        ("ln_final.bias", vec![w]),
        ("logit_scale", vec![]),
        ("visual.class_embedding", vec![w]),
        ("visual.positional_embedding", vec![sizes.places, w]),
        ("visual.conv1.weight", vec![w, 3, patch, patch]),
        ("visual.proj", vec![w, e]),
        ("visual.ln_pre.weight", vec![w]),
        ("visual.ln_pre.bias", vec![w]),
        ("visual.ln_post.weight", vec![w]),
        ("visual.ln_post.bias", vec![w]),
    ]
    .map(|(name, shape)| (name.to_owned(), shape))
    .into();
    for tower in ["", "visual."] {
        for i in 0..sizes.layers {
            for (name, shape) in [
                ("attn.in_proj_weight", vec![3 * w, w]),
                ("attn.in_proj_bias", vec![3 * w]),
                ("attn.out_proj.weight", vec![w, w]),
                ("attn.out_proj.bias", vec![w]),
                ("ln_1.weight", vec![w]),
                ("ln_1.bias", vec![w]),
                ("ln_2.weight", vec![w]),
                ("ln_2.bias", vec![w]),
                ("mlp.c_fc.weight", vec![4 * w, w]),
                ("mlp.c_fc.bias", vec![4 * w]),
                ("mlp.c_proj.weight", vec![w, 4 * w]),
                ("mlp.c_proj.bias", vec![w]),
            ] {
                shapes.push((format!("{tower}transformer.resblocks.{i}.{name}"), shape));
            }
        }
    }
    shapes
}

/// Hugging Face's name of what is left of OpenAI's without its tower, where the tensor is the same.
pub fn hugging_face_name(rest: &str) -> String {
    rest.replace("transformer.resblocks", "encoder.layers")
        .replace("attn.out_proj", "self_attn.out_proj")
        .replace("ln_1", "layer_norm1")
        .replace("ln_2", "layer_norm2")
        .replace("c_fc", "fc1")
        .replace("c_proj", "fc2")
        .replace(
            "positional_embedding",
            "embeddings.position_embedding.weight",
        )
        .replace("token_embedding", "embeddings.token_embedding")
        .replace("class_embedding", "embeddings.class_embedding")
        .replace("conv1", "embeddings.patch_embedding")
        .replace("ln_pre", "pre_layrnorm")
        .replace("ln_post", "post_layernorm")
        .replace("ln_final", "final_layer_norm")
}
