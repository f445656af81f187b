//! Of open_clip's configurations, the towers that are not its own: image towers of timm, text towers of transformers, and the
//! text tower of SigLIP.

use super::{Comparison, read};
use crate::error::Error;
use crate::ops::Activation;
use crate::text::{Family, Pooling};
use crate::weights::architecture::{Architecture, ImageTower};
use serde_json::json;
use std::path::Path;

/// An image tower of timm, by its name: what its tensors do not say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timm {
    name: &'static str,
    pub(super) activation: Activation,
    pub(super) heads: usize,
}

const fn timm(name: &'static str, activation: Activation, heads: usize) -> Timm {
    Timm {
        name,
        activation,
        heads,
    }
}

/// Plain vision transformers and SigLIP's, as timm 1.0 has them (`models/vision_transformer.py`). All have norms of 1e-6.
#[rustfmt::skip]
const TIMM: [Timm; 29] = [
    timm("vit_tiny_patch16_224", Activation::Gelu, 3),
    timm("vit_small_patch32_224", Activation::Gelu, 6),
    timm("vit_small_patch16_224", Activation::Gelu, 6),
    timm("vit_base_patch32_224", Activation::Gelu, 12),
    timm("vit_base_patch32_384", Activation::Gelu, 12),
    timm("vit_base_patch16_224", Activation::Gelu, 12),
    timm("vit_base_patch16_384", Activation::Gelu, 12),
    timm("vit_base_patch8_224", Activation::Gelu, 12),
    timm("vit_large_patch32_224", Activation::Gelu, 16),
    timm("vit_large_patch16_224", Activation::Gelu, 16),
    timm("vit_large_patch16_384", Activation::Gelu, 16),
    timm("vit_base_patch32_siglip_256", Activation::GeluTanh, 12),
    timm("vit_base_patch16_siglip_224", Activation::Gelu, 12),
    timm("vit_base_patch16_siglip_256", Activation::Gelu, 12),
    timm("vit_base_patch16_siglip_384", Activation::Gelu, 12),
    timm("vit_base_patch16_siglip_512", Activation::Gelu, 12),
    timm("vit_large_patch16_siglip_256", Activation::Gelu, 16),
    timm("vit_large_patch16_siglip_384", Activation::Gelu, 16),
    timm("vit_large_patch16_siglip_512", Activation::GeluTanh, 16),
    timm("vit_so400m_patch14_siglip_224", Activation::Gelu, 16),
    timm("vit_so400m_patch14_siglip_378", Activation::Gelu, 16),
    timm("vit_so400m_patch14_siglip_384", Activation::Gelu, 16),
    timm("vit_so400m_patch16_siglip_256", Activation::GeluTanh, 16),
    timm("vit_so400m_patch16_siglip_384", Activation::GeluTanh, 16),
    timm("vit_so400m_patch16_siglip_512", Activation::GeluTanh, 16),
    timm("vit_giantopt_patch16_siglip_256", Activation::GeluTanh, 16),
    timm("vit_giantopt_patch16_siglip_384", Activation::GeluTanh, 16),
    // Of timm's own tests.
    timm("test_vit", Activation::Gelu, 2),
    timm("test_vit2", Activation::Gelu, 2),
];

/// Fields that towers of timm say something by.
pub(super) const TIMM_FIELDS: [&str; 1] = ["vision_cfg.timm_model_name"];

/// Fields that this text tower says something by, which have to be off in CLIP's.
pub(super) fn own_fields(family: Family) -> &'static [&'static str] {
    match family {
        Family::Clip => &[],
        Family::Bert(_) => &["text_cfg.hf_model_name", "text_cfg.hf_tokenizer_name"],
        Family::Siglip => &[
            "text_cfg.hf_tokenizer_name",
            "text_cfg.tokenizer_kwargs",
            "text_cfg.no_causal_mask",
            "text_cfg.proj_bias",
            "init_logit_bias",
        ],
    }
}

impl Comparison<'_> {
    /// What the image tower of timm that the configuration names is; `None` where it names none.
    pub(super) fn timm(&mut self, found: &Architecture) -> Option<Timm> {
        let field = "model_cfg.vision_cfg.timm_model_name";
        let named = self.find(field).filter(|v| v.as_str() != Some("")).cloned();
        let Some(name) = named else {
            if found.is_timm {
                let problem = "is left out, but the tensors are an image tower of timm";
                self.disagree(field, problem.to_owned());
            }
            return None;
        };
        if !found.is_timm {
            let problem = format!("is {name}, but the tensors are no image tower of timm");
            self.disagree(field, problem);
            return None;
        }
        let (pools, projections): (&[&str], &[&str]) = match &found.image {
            ImageTower::Pooled { .. } => (&["map"], &["none"]),
            _ => (&["", "token"], &["linear"]),
        };
        for (field, known) in [("timm_pool", pools), ("timm_proj", projections)] {
            let field = format!("model_cfg.vision_cfg.{field}");
            let claimed = self.find(&field).cloned();
            if let Some(claimed) =
                claimed.filter(|v| v.as_str().is_none_or(|v| !known.contains(&v)))
            {
                let problem =
                    format!("is {claimed}; with these tensors only {known:?} can be run here");
                self.disagree(&field, problem);
            }
        }
        self.off("model_cfg.vision_cfg.timm_proj_bias");
        self.size("model_cfg.vision_cfg.image_size", found.image.image_size());
        let known = TIMM.iter().find(|t| name.as_str() == Some(t.name));
        let Some(blocks) = found
            .image
            .blocks()
            .filter(|b| known.is_none_or(|t| b.width.is_multiple_of(t.heads)))
        else {
            self.disagree(field, format!("is {name}, whose tensors are others"));
            return None;
        };
        if known.is_none() {
            let problem = format!(
                "is {name}; of timm's towers the plain ViTs and SigLIP's can be run here, and this is none that is known \
                 ({} wide, {} blocks)",
                blocks.width, blocks.layers
            );
            self.disagree(field, problem);
        }
        // Something to go on with, for what else is wrong.
        Some(known.copied().unwrap_or(timm("", Activation::Gelu, 1)))
    }

    /// BERT's heads, where its own `config.json` lies beside.
    pub(super) fn bert_heads(
        &mut self,
        path: &Path,
        found: &Architecture,
    ) -> Result<Option<usize>, Error> {
        let beside = path.with_file_name("config.json");
        if !beside.is_file() {
            return Ok(None);
        }
        let config = read(&beside)?;
        if config.get("model_type") != Some(&json!("bert")) {
            return Ok(None);
        }
        let mut c = Comparison {
            config: &config,
            faults: Vec::new(),
        };
        c.size("hidden_size", found.text.width);
        c.size("num_hidden_layers", found.text.layers);
        c.size("intermediate_size", found.text.hidden);
        c.only("hidden_act", "gelu");
        c.only("layer_norm_eps", 1e-12);
        c.only("position_embedding_type", "absolute");
        c.off("is_decoder");
        let heads = c.heads("num_attention_heads", &found.text, 12);
        c.finish(&beside)?;
        Ok(Some(heads))
    }

    /// How long BERT's texts are, and where they are read.
    pub(super) fn bert_text(&mut self, found: &Architecture) -> (Option<usize>, Option<Pooling>) {
        // open_clip before 2.24 called them `pooler_type` and `proj`.
        let either = |c: &Self, new: &str, old: &str| {
            let fields = [new, old].map(|f| format!("model_cfg.text_cfg.{f}"));
            let there = fields.into_iter().find(|f| c.find(f).is_some());
            there.map(|f| (c.find(&f).cloned().unwrap_or_default(), f))
        };
        let pooling = match either(self, "hf_pooler_type", "pooler_type") {
            None => Pooling::Mean,
            Some((claimed, field)) => match claimed.as_str() {
                Some("cls_last_hidden_state_pooler") => Pooling::First,
                Some("mean_pooler") => Pooling::Mean,
                _ => {
                    let problem = format!(
                        "is {claimed}; cls_last_hidden_state_pooler and mean_pooler can be run here"
                    );
                    self.disagree(&field, problem);
                    Pooling::First
                }
            },
        };
        // What the tensors end in shows by itself; a name that says otherwise is another file's.
        if let Some((claimed, field)) = either(self, "hf_proj_type", "proj")
            && !["mlp", "linear", "none"].contains(&claimed.as_str().unwrap_or_default())
        {
            let problem = format!("is {claimed}; mlp, linear and none can be run here");
            self.disagree(&field, problem);
        }
        let field = "model_cfg.text_cfg.context_length";
        let claimed = self.find(field).map_or(Some(77), |v| v.as_u64());
        let context = claimed.and_then(|n| usize::try_from(n).ok());
        let fits = context.filter(|n| (3..=found.context).contains(n));
        if fits.is_none() {
            let said = claimed.map_or("no number".to_owned(), |n| n.to_string());
            let problem = format!("is {said}; the tensors have {} positions", found.context);
            self.disagree(field, problem);
        }
        (fits, Some(pooling))
    }

    /// That the text tower is SigLIP's throughout.
    pub(super) fn siglip_text(&mut self) {
        let needed = [
            ("model_cfg.text_cfg.no_causal_mask", json!(true)),
            ("model_cfg.text_cfg.proj_bias", json!(true)),
            ("model_cfg.text_cfg.pool_type", json!("last")),
            ("model_cfg.text_cfg.norm_kwargs", json!({"eps": 1e-6})),
            (
                "model_cfg.text_cfg.tokenizer_kwargs",
                json!({"clean": "canonicalize"}),
            ),
        ];
        for (field, value) in needed {
            let claimed = self.find(field).cloned();
            if claimed.as_ref() != Some(&value) {
                let said = claimed.map_or("is left out".to_owned(), |v| format!("is {v}"));
                let problem = format!(
                    "{said}; a text projection with a bias is SigLIP's, where it is {value}"
                );
                self.disagree(field, problem);
            }
        }
    }

    /// The text tower's activation: open_clip's, by the hyperbolic tangent where its keywords say so.
    pub(super) fn siglip_activation(&mut self, usual: Activation) -> Activation {
        let field = "model_cfg.text_cfg.act_kwargs.approximate";
        match self
            .find(field)
            .map(|v| v.as_str().unwrap_or_default().to_owned())
            .as_deref()
        {
            None | Some("none") => usual,
            Some("tanh") => Activation::GeluTanh,
            Some(other) => {
                let problem = format!("is {other:?}; none and tanh can be run here");
                self.disagree(field, problem);
                usual
            }
        }
    }
}
