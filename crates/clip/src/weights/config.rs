//! Configurations beside weights: what they claim is compared with the tensors, and they choose the activation.

use super::architecture::{Architecture, ImageTower, Transformer};
use crate::error::{Error, Fault};
use crate::ops::Activation;
use crate::tokenizer::{CONTEXT, EOT, SOT, VOCABULARY};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Configurations are a few kilobytes.
const LARGEST: u64 = 16 << 20;
const MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// A JSON file.
pub(super) fn read(path: &Path) -> Result<Value, Error> {
    let mut text = String::new();
    let file = File::open(path).map_err(Error::file(path))?;
    file.take(LARGEST)
        .read_to_string(&mut text)
        .map_err(Error::file(path))?;
    serde_json::from_str(&text).map_err(|e| Error::weights(path, "JSON", e.to_string()))
}

/// Collects where a configuration and the tensors disagree.
struct Comparison<'a> {
    config: &'a Value,
    faults: Vec<Fault>,
}

impl Comparison<'_> {
    fn find(&self, field: &str) -> Option<&Value> {
        let pointer = format!("/{}", field.replace('.', "/"));
        self.config.pointer(&pointer).filter(|v| !v.is_null())
    }

    fn disagree(&mut self, field: &str, problem: String) {
        self.faults.push(Fault::new(field, problem));
    }

    /// A field that says how large something is.
    fn size(&mut self, field: &str, tensors: impl Into<Value>) {
        let tensors = tensors.into();
        if let Some(claimed) = self.find(field).filter(|v| **v != tensors) {
            let problem = format!("is {claimed}, but the tensors make it {tensors}");
            self.disagree(field, problem);
        }
    }

    /// A field that changes what is computed, with the one value that is computed here.
    fn only(&mut self, field: &str, value: impl Into<Value>) {
        let value = value.into();
        if let Some(claimed) = self.find(field).filter(|v| **v != value) {
            let problem = format!("is {claimed}; only {value} can be run here");
            self.disagree(field, problem);
        }
    }

    fn numbers(&mut self, field: &str, values: [f64; 3]) {
        let Some(claimed) = self.find(field) else {
            return;
        };
        let is_same = claimed.as_array().is_some_and(|c| {
            c.len() == 3
                && c.iter()
                    .zip(values)
                    .all(|(c, v)| c.as_f64().is_some_and(|c| (c - v).abs() < 1e-6))
        });
        if !is_same {
            let problem = format!("is {claimed}; images are normalised with CLIP's {values:?}");
            self.disagree(field, problem);
        }
    }

    fn heads(&mut self, field: &str, tower: &Transformer) {
        if let Some(claimed) = self.find(field).filter(|v| **v != json!(tower.heads)) {
            let problem = format!(
                "is {claimed}; at width {} it is {}: heads are 64 wide here",
                tower.width, tower.heads
            );
            self.disagree(field, problem);
        }
    }

    fn finish(self, path: &Path) -> Result<(), Error> {
        if self.faults.is_empty() {
            Ok(())
        } else {
            Err(Error::Weights {
                path: path.to_owned(),
                faults: self.faults,
            })
        }
    }
}

/// Compares a Hugging Face `config.json` (`CLIPConfig`) with the tensors and gives its activation.
pub(super) fn hugging_face(path: &Path, found: &Architecture) -> Result<Activation, Error> {
    let config = read(path)?;
    let mut c = Comparison {
        config: &config,
        faults: Vec::new(),
    };
    c.only("model_type", "clip");
    c.size("projection_dim", found.embedding);
    let mut towers = vec![("text_config", &found.text)];
    c.size("text_config.max_position_embeddings", CONTEXT);
    c.size("text_config.vocab_size", VOCABULARY);
    // 0 and 2 are what configurations said before the fields were used for anything, those of OpenAI's own
    // repositories among them; features were and are read at the largest id, which is 49407 (`modeling_clip.py`,
    // CLIPTextTransformer.forward).
    if c.find("text_config.eos_token_id") != Some(&json!(2)) {
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
        } => {
            towers.push(("vision_config", blocks));
            c.size("vision_config.patch_size", *patch);
            c.size("vision_config.image_size", *image);
            c.only("vision_config.num_channels", 3);
        }
        ImageTower::ResNet { .. } => c.disagree(
            "vision_config",
            "describes a transformer, the tensors are a ResNet".to_owned(),
        ),
    }
    let mut activations = Vec::new();
    for (tower, sizes) in towers {
        c.size(&format!("{tower}.hidden_size"), sizes.width);
        c.size(&format!("{tower}.intermediate_size"), sizes.hidden);
        c.size(&format!("{tower}.num_hidden_layers"), sizes.layers);
        c.heads(&format!("{tower}.num_attention_heads"), sizes);
        c.only(&format!("{tower}.layer_norm_eps"), 1e-5);
        let field = format!("{tower}.hidden_act");
        match c.find(&field).map_or(Some("quick_gelu"), Value::as_str) {
            Some("quick_gelu") => activations.push(Activation::QuickGelu),
            Some("gelu") => activations.push(Activation::Gelu),
            other => {
                let problem = format!("is {other:?}; quick_gelu and gelu can be run here");
                c.disagree(&field, problem);
            }
        }
    }
    if activations.len() == 2 && activations[0] != activations[1] {
        c.disagree(
            "hidden_act",
            "differs between text_config and vision_config".to_owned(),
        );
    }
    c.finish(path)?;
    Ok(activations.first().copied().unwrap_or_default())
}

/// Compares an `open_clip_config.json` with the tensors and gives its activation.
pub(super) fn open_clip(path: &Path, found: &Architecture) -> Result<Activation, Error> {
    let config = read(path)?;
    let mut c = Comparison {
        config: &config,
        faults: Vec::new(),
    };
    c.size("model_cfg.embed_dim", found.embedding);
    c.size("model_cfg.text_cfg.context_length", CONTEXT);
    c.size("model_cfg.text_cfg.vocab_size", VOCABULARY);
    c.size("model_cfg.text_cfg.width", found.text.width);
    c.size("model_cfg.text_cfg.layers", found.text.layers);
    c.heads("model_cfg.text_cfg.heads", &found.text);
    match &found.image {
        ImageTower::Transformer {
            blocks,
            patch,
            image,
        } => {
            c.size("model_cfg.vision_cfg.width", blocks.width);
            c.size("model_cfg.vision_cfg.layers", blocks.layers);
            c.size("model_cfg.vision_cfg.patch_size", *patch);
            c.size("model_cfg.vision_cfg.image_size", *image);
            if blocks.width >= 64 {
                c.only("model_cfg.vision_cfg.head_width", 64);
            }
        }
        ImageTower::ResNet {
            width,
            layers,
            image,
            ..
        } => {
            c.size("model_cfg.vision_cfg.width", *width);
            c.size("model_cfg.vision_cfg.layers", layers.to_vec());
            c.size("model_cfg.vision_cfg.image_size", *image);
        }
    }
    for (field, value) in [
        ("vision_cfg.timm_model_name", Value::Null),
        ("vision_cfg.attentional_pool", json!(false)),
        ("vision_cfg.global_average_pool", json!(false)),
        ("vision_cfg.no_ln_pre", json!(false)),
        ("vision_cfg.final_ln_after_pool", json!(false)),
        ("vision_cfg.pool_type", json!("tok")),
        ("text_cfg.hf_model_name", Value::Null),
        ("text_cfg.embed_cls", json!(false)),
        ("text_cfg.no_causal_mask", json!(false)),
        ("text_cfg.pool_type", json!("argmax")),
    ] {
        c.only(&format!("model_cfg.{field}"), value);
    }
    c.numbers("preprocess_cfg.mean", MEAN);
    c.numbers("preprocess_cfg.std", DEVIATION);
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
    c.finish(path)?;
    Ok(activation)
}
