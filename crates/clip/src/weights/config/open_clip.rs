//! Folders of open_clip: `open_clip_config.json`.

use super::others::{TIMM_FIELDS, own_fields};
use super::{Comparison, Told, read};
use crate::error::Error;
use crate::ops::Activation;
use crate::text::Family;
use crate::tokenizer::{CONTEXT, VOCABULARY};
use crate::weights::architecture::{Architecture, ImageTower, Transformer};
use crate::weights::settings::{Fit, Interpolation, Look};
use serde_json::{Value, json};
use std::path::Path;

/// Fields of open_clip's `vision_cfg` and `text_cfg` that have to be off, or left out.
const OPEN_CLIP_OFF: [&str; 18] = [
    "vision_cfg.timm_model_name",
    "vision_cfg.attentional_pool",
    "vision_cfg.global_average_pool",
    "vision_cfg.input_patchnorm",
    "vision_cfg.no_ln_pre",
    "vision_cfg.final_ln_after_pool",
    "vision_cfg.ls_init_value",
    "text_cfg.hf_model_name",
    "text_cfg.hf_tokenizer_name",
    "text_cfg.tokenizer_mode",
    "text_cfg.tokenizer_kwargs",
    "text_cfg.embed_cls",
    "text_cfg.no_causal_mask",
    "text_cfg.final_ln_after_pool",
    "text_cfg.proj_bias",
    "text_cfg.ls_init_value",
    "multimodal_cfg",
    "init_logit_bias",
];
/// The same of both towers' blocks.
const BLOCKS_OFF: [&str; 6] = [
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
];
/// Fields that say nothing new: of training, of what an option that is off would do, or what tensors hold by themselves.
const OPEN_CLIP_INERT: [&str; 25] = [
    "vision_cfg.patch_dropout",
    "vision_cfg.attn_pooler_queries",
    "vision_cfg.attn_pooler_heads",
    "vision_cfg.n_queries",
    "vision_cfg.pos_embed_type",
    "vision_cfg.output_tokens",
    "vision_cfg.timm_model_pretrained",
    "vision_cfg.timm_pool",
    "vision_cfg.timm_proj",
    "vision_cfg.timm_proj_bias",
    "vision_cfg.timm_drop",
    "vision_cfg.timm_drop_path",
    "text_cfg.hf_model_pretrained",
    "text_cfg.hf_proj_type",
    "text_cfg.hf_pooler_type",
    "text_cfg.proj",
    "text_cfg.pooler_type",
    "text_cfg.pad_id",
    "text_cfg.eos_id",
    "text_cfg.output_tokens",
    "custom_text",
    "init_logit_scale",
    "nonscalar_logit_scale",
    "output_dict",
    "cast_dtype",
];
/// Fields that are looked at one by one.
const OPEN_CLIP_READ: [&str; 25] = [
    "embed_dim",
    "quick_gelu",
    "vision_cfg",
    "text_cfg",
    "vision_cfg.layers",
    "vision_cfg.width",
    "vision_cfg.head_width",
    "vision_cfg.mlp_ratio",
    "vision_cfg.patch_size",
    "vision_cfg.image_size",
    "vision_cfg.pool_type",
    "vision_cfg.act_kwargs",
    "vision_cfg.norm_kwargs",
    "vision_cfg.block_type",
    "text_cfg.context_length",
    "text_cfg.vocab_size",
    "text_cfg.width",
    "text_cfg.heads",
    "text_cfg.layers",
    "text_cfg.mlp_ratio",
    "text_cfg.pool_type",
    "text_cfg.proj_type",
    "text_cfg.act_kwargs",
    "text_cfg.norm_kwargs",
    "text_cfg.block_type",
];

/// Compares an `open_clip_config.json` with the tensors.
pub(in crate::weights) fn open_clip(path: &Path, found: &Architecture) -> Result<Told, Error> {
    let config = read(path)?;
    let mut c = Comparison {
        config: &config,
        faults: Vec::new(),
    };
    c.size("model_cfg.embed_dim", found.embedding);
    let timm = c.timm(found);
    let text_heads = match found.family {
        // Sizes of a tower of transformers stand in its own repository.
        Family::Bert(_) => c.bert_heads(path, found)?,
        family => {
            if family == Family::Clip {
                c.size("model_cfg.text_cfg.context_length", CONTEXT);
                c.size("model_cfg.text_cfg.vocab_size", VOCABULARY);
            } else {
                c.size("model_cfg.text_cfg.context_length", found.context);
            }
            c.size("model_cfg.text_cfg.width", found.text.width);
            c.size("model_cfg.text_cfg.layers", found.text.layers);
            c.hidden("model_cfg.text_cfg.mlp_ratio", &found.text);
            Some(c.heads("model_cfg.text_cfg.heads", &found.text, 8))
        }
    };
    let mut image_heads = None;
    match &found.image {
        _ if timm.is_some() => image_heads = timm.map(|t| t.heads),
        ImageTower::Transformer {
            blocks,
            patch,
            image,
        } => {
            c.size("model_cfg.vision_cfg.width", blocks.width);
            c.size("model_cfg.vision_cfg.layers", blocks.layers);
            c.size("model_cfg.vision_cfg.patch_size", *patch);
            c.size("model_cfg.vision_cfg.image_size", *image);
            c.hidden("model_cfg.vision_cfg.mlp_ratio", blocks);
            image_heads = Some(c.head_width(blocks));
        }
        // What names none has been said.
        ImageTower::Pooled { .. } => {}
        ImageTower::ResNet {
            width,
            layers,
            image,
            ..
        } => {
            c.size("model_cfg.vision_cfg.width", *width);
            c.size("model_cfg.vision_cfg.layers", layers.to_vec());
            c.size("model_cfg.vision_cfg.image_size", *image);
            c.only("model_cfg.vision_cfg.head_width", 64);
        }
    }
    // What names a tower of timm has been looked at.
    let spoken = [own_fields(found.family), &TIMM_FIELDS];
    for field in OPEN_CLIP_OFF {
        if !spoken.iter().any(|own| own.contains(&field)) {
            c.off(&format!("model_cfg.{field}"));
        }
    }
    for tower in ["model_cfg.vision_cfg", "model_cfg.text_cfg"] {
        for field in BLOCKS_OFF {
            c.off(&format!("{tower}.{field}"));
        }
        c.only(&format!("{tower}.block_type"), "default");
        let is_siglips = tower.ends_with("text_cfg") && found.family == Family::Siglip;
        if is_siglips {
            continue;
        }
        c.keywords(&format!("{tower}.norm_kwargs"), "eps", &json!(1e-5));
        c.keywords(
            &format!("{tower}.act_kwargs"),
            "approximate",
            &json!("none"),
        );
    }
    c.only("model_cfg.vision_cfg.pool_type", "tok");
    if found.family == Family::Clip {
        c.only("model_cfg.text_cfg.pool_type", "argmax");
    }
    c.only("model_cfg.text_cfg.proj_type", "linear");
    let (mut context, mut pooling) = (None, None);
    match found.family {
        Family::Clip => {}
        Family::Siglip => c.siglip_text(),
        Family::Bert(_) => (context, pooling) = c.bert_text(found),
    }
    c.unknown();
    let activation = match c
        .find("model_cfg.quick_gelu")
        .map_or(Some(false), Value::as_bool)
    {
        Some(true) => Activation::QuickGelu,
        Some(false) => Activation::Gelu,
        None => {
            c.disagree(
                "model_cfg.quick_gelu",
                "is neither true nor false".to_owned(),
            );
            Activation::Gelu
        }
    };
    let activations = [
        timm.map_or(activation, |t| t.activation),
        match found.family {
            Family::Clip => activation,
            Family::Bert(_) => Activation::Gelu,
            Family::Siglip => c.siglip_activation(activation),
        },
    ];
    let look = c.preprocess();
    c.finish(path)?;
    Ok(Told {
        activations,
        text_heads,
        image_heads,
        look,
        context,
        pooling,
    })
}

impl Comparison<'_> {
    /// The MLP's width over the tower's, truncated as Python's `int` does.
    fn hidden(&mut self, field: &str, tower: &Transformer) {
        let Some(claimed) = self.find(field) else {
            return;
        };
        let hidden = claimed.as_f64().map(|r| (tower.width as f64 * r) as usize);
        if hidden != Some(tower.hidden) {
            let problem = format!(
                "is {claimed}, but the tensors make the MLP {} wide in a tower of {}",
                tower.hidden, tower.width
            );
            self.disagree(field, problem);
        }
    }

    /// open_clip has as many heads in the image tower as whole ones fit into its width.
    fn head_width(&mut self, tower: &Transformer) -> usize {
        let field = "model_cfg.vision_cfg.head_width";
        let claimed = self.find(field);
        let width = claimed
            .map_or(Some(64), Value::as_u64)
            .and_then(|w| usize::try_from(w).ok());
        // A tower narrower than a head is what the smallest models of tests are; it has one.
        let heads = match width {
            Some(w) if w > 0 => (tower.width / w).max(1),
            _ => 0,
        };
        if heads == 0 || !tower.width.is_multiple_of(heads) {
            let said = claimed.map_or_else(|| "64".to_owned(), ToString::to_string);
            let problem = format!("is {said}, which does not divide the width {}", tower.width);
            self.disagree(field, problem);
            return 1;
        }
        heads
    }

    /// Keywords that open_clip hands on to a layer: one is known, with the value that is computed here.
    fn keywords(&mut self, field: &str, known: &str, value: &Value) {
        for keyword in self.fields(field) {
            let field = format!("{field}.{keyword}");
            if keyword == known {
                self.only(&field, value.clone());
            } else {
                let claimed = self.find(&field).cloned().unwrap_or_default();
                self.disagree(&field, format!("is {claimed}; only {known} is known here"));
            }
        }
        let is_object = self.find(field).is_none_or(Value::is_object);
        if !is_object {
            self.disagree(field, "is not an object of keywords".to_owned());
        }
    }

    /// open_clip refuses fields that it does not know, and so does this.
    fn unknown(&mut self) {
        let of_blocks = |field: &str| {
            let last = field.split_once('.').map(|(_, last)| last);
            last.is_some_and(|l| BLOCKS_OFF.contains(&l))
        };
        let all = self.fields("model_cfg").into_iter().chain(
            ["vision_cfg", "text_cfg"].into_iter().flat_map(|tower| {
                let fields = self.fields(&format!("model_cfg.{tower}"));
                fields.into_iter().map(move |f| format!("{tower}.{f}"))
            }),
        );
        let unknown: Vec<String> = all
            .filter(|field| {
                let lists: [&[&str]; 3] = [&OPEN_CLIP_OFF, &OPEN_CLIP_INERT, &OPEN_CLIP_READ];
                !lists.iter().any(|list| list.contains(&field.as_str())) && !of_blocks(field)
            })
            .collect();
        for field in unknown {
            let field = format!("model_cfg.{field}");
            if self.find(&field).is_some() {
                let problem = "is no field of open_clip 3.3, so what it changes is not known here";
                self.disagree(&field, problem.to_owned());
            }
        }
    }

    /// open_clip's `PreprocessCfg`. Its `size` is what the model makes it, whatever stands there, and `fill_color` is for
    /// a resize mode that is not run here.
    fn preprocess(&mut self) -> Look {
        let usual = Look::default();
        self.only("preprocess_cfg.mode", "RGB");
        let mean = self.triple("preprocess_cfg.mean", usual.mean);
        let deviation = self.deviation("preprocess_cfg.std", usual.deviation);
        let named = |c: &Self, field: &str, usual: &str| {
            let found = c.find(field).map(|v| v.as_str().map(str::to_owned));
            found
                .unwrap_or_else(|| Some(usual.to_owned()))
                .unwrap_or_default()
        };
        let field = "preprocess_cfg.interpolation";
        let interpolation = match named(self, field, "bicubic").as_str() {
            // "random" is for training; tests are bicubic then.
            "bicubic" | "random" => Interpolation::Bicubic,
            "bilinear" => Interpolation::Bilinear,
            other => {
                let problem = format!("is {other:?}; bicubic and bilinear can be run here");
                self.disagree(field, problem);
                Interpolation::Bicubic
            }
        };
        let field = "preprocess_cfg.resize_mode";
        let fit = match named(self, field, "shortest").as_str() {
            "shortest" => Fit::Shortest,
            "squash" => Fit::Squash,
            other => {
                let problem = format!("is {other:?}; shortest and squash can be run here");
                self.disagree(field, problem);
                Fit::Shortest
            }
        };
        let look = Look {
            fit,
            interpolation,
            ..usual
        };
        look.normalised_by(mean, deviation)
    }
}
