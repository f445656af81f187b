//! Every field that the configurations of open_clip and of transformers know, and what becomes of it here.
//!
//! The lists are those of open_clip 3.3.0 (`CLIPVisionCfg`, `CLIPTextCfg`, `CLIP.__init__` in `model.py`, `PreprocessCfg` in
//! `transform.py`) and of transformers 5.24.0 (`CLIPConfig`, `CLIPTextConfig`, `CLIPVisionConfig`, `PreTrainedConfig`,
//! `ImagesKwargs`), with those that older versions wrote into the configurations that are on the hub.

use super::*;
use clip::weights::{Fit, Interpolation, Look};
use serde_json::{Value, json};

/// What becomes of a field that has another value than usual.
enum Fate {
    /// It is obeyed.
    Honoured(Value),
    /// It is an error that names it: sizes that the tensors deny, and what is not computed here.
    Refused(Value),
    /// It changes no number of a frozen CLIP.
    Inert(Value),
}
use Fate::{Honoured, Inert, Refused};

fn open_clip_fields() -> Vec<(&'static str, Fate)> {
    let off = |names: &[&'static str]| -> Vec<(&'static str, Fate)> {
        names.iter().map(|n| (*n, Refused(json!(true)))).collect()
    };
    let mut all = vec![
        ("model_cfg.embed_dim", Refused(json!(64))),
        ("model_cfg.quick_gelu", Honoured(json!(true))),
        ("model_cfg.init_logit_scale", Inert(json!(1.0))),
        ("model_cfg.init_logit_bias", Refused(json!(-10))),
        ("model_cfg.nonscalar_logit_scale", Inert(json!(true))),
        ("model_cfg.cast_dtype", Inert(json!("fp16"))),
        ("model_cfg.output_dict", Inert(json!(true))),
        ("model_cfg.custom_text", Inert(json!(true))),
        ("model_cfg.multimodal_cfg", Refused(json!({"width": 64}))),
        ("model_cfg.vision_cfg.layers", Refused(json!(2))),
        ("model_cfg.vision_cfg.width", Refused(json!(128))),
        ("model_cfg.vision_cfg.head_width", Honoured(json!(16))),
        ("model_cfg.vision_cfg.mlp_ratio", Refused(json!(2.0))),
        ("model_cfg.vision_cfg.patch_size", Refused(json!(8))),
        ("model_cfg.vision_cfg.image_size", Refused(json!(16))),
        ("model_cfg.vision_cfg.ls_init_value", Refused(json!(1e-4))),
        ("model_cfg.vision_cfg.patch_dropout", Inert(json!(0.5))),
        ("model_cfg.vision_cfg.attn_pooler_queries", Inert(json!(2))),
        ("model_cfg.vision_cfg.attn_pooler_heads", Inert(json!(2))),
        (
            "model_cfg.vision_cfg.pos_embed_type",
            Inert(json!("sin_cos_2d")),
        ),
        ("model_cfg.vision_cfg.pool_type", Refused(json!("avg"))),
        ("model_cfg.vision_cfg.output_tokens", Inert(json!(true))),
        (
            "model_cfg.vision_cfg.act_kwargs",
            Refused(json!({"approximate": "tanh"})),
        ),
        (
            "model_cfg.vision_cfg.norm_kwargs",
            Refused(json!({"eps": 1e-6})),
        ),
        ("model_cfg.vision_cfg.block_type", Refused(json!("custom"))),
        (
            "model_cfg.vision_cfg.timm_model_name",
            Refused(json!("convnext_base")),
        ),
        (
            "model_cfg.vision_cfg.timm_model_pretrained",
            Inert(json!(true)),
        ),
        ("model_cfg.vision_cfg.timm_pool", Inert(json!("map"))),
        ("model_cfg.vision_cfg.timm_proj", Inert(json!("mlp"))),
        ("model_cfg.vision_cfg.timm_proj_bias", Inert(json!(true))),
        ("model_cfg.vision_cfg.timm_drop", Inert(json!(0.1))),
        ("model_cfg.vision_cfg.timm_drop_path", Inert(json!(0.1))),
        // Of older versions.
        ("model_cfg.vision_cfg.n_queries", Inert(json!(2))),
        ("model_cfg.text_cfg.context_length", Refused(json!(64))),
        ("model_cfg.text_cfg.vocab_size", Refused(json!(32000))),
        (
            "model_cfg.text_cfg.hf_tokenizer_name",
            Refused(json!("roberta-base")),
        ),
        ("model_cfg.text_cfg.tokenizer_mode", Refused(json!("x"))),
        (
            "model_cfg.text_cfg.tokenizer_kwargs",
            Refused(json!({"clean": "canonicalize"})),
        ),
        ("model_cfg.text_cfg.width", Refused(json!(128))),
        ("model_cfg.text_cfg.heads", Honoured(json!(4))),
        ("model_cfg.text_cfg.layers", Refused(json!(2))),
        ("model_cfg.text_cfg.mlp_ratio", Refused(json!(2.0))),
        ("model_cfg.text_cfg.ls_init_value", Refused(json!(1e-4))),
        ("model_cfg.text_cfg.pad_id", Inert(json!(1))),
        ("model_cfg.text_cfg.eos_id", Inert(json!(1))),
        ("model_cfg.text_cfg.pool_type", Refused(json!("last"))),
        ("model_cfg.text_cfg.proj_type", Refused(json!("none"))),
        ("model_cfg.text_cfg.output_tokens", Inert(json!(true))),
        (
            "model_cfg.text_cfg.act_kwargs",
            Refused(json!({"approximate": "tanh"})),
        ),
        (
            "model_cfg.text_cfg.norm_kwargs",
            Refused(json!({"eps": 1e-6})),
        ),
        ("model_cfg.text_cfg.block_type", Refused(json!("custom"))),
        (
            "model_cfg.text_cfg.hf_model_name",
            Refused(json!("roberta-base")),
        ),
        (
            "model_cfg.text_cfg.hf_model_pretrained",
            Inert(json!(false)),
        ),
        ("model_cfg.text_cfg.hf_proj_type", Inert(json!("linear"))),
        (
            "model_cfg.text_cfg.hf_pooler_type",
            Inert(json!("cls_pooler")),
        ),
        ("model_cfg.text_cfg.proj", Inert(json!("mlp"))),
        ("model_cfg.text_cfg.pooler_type", Inert(json!("cls_pooler"))),
        ("preprocess_cfg.size", Inert(json!(384))),
        ("preprocess_cfg.mode", Refused(json!("L"))),
        ("preprocess_cfg.mean", Honoured(json!([0.5, 0.5, 0.5]))),
        ("preprocess_cfg.std", Honoured(json!(0.5))),
        ("preprocess_cfg.interpolation", Honoured(json!("bilinear"))),
        ("preprocess_cfg.resize_mode", Honoured(json!("squash"))),
        ("preprocess_cfg.fill_color", Inert(json!(255))),
        // What open_clip itself does not know, it refuses.
        ("model_cfg.vision_cfg.no_such_field", Refused(json!(1))),
        ("model_cfg.no_such_field", Refused(json!(1))),
    ];
    all.extend(off(&[
        "model_cfg.vision_cfg.attentional_pool",
        "model_cfg.vision_cfg.no_ln_pre",
        "model_cfg.vision_cfg.final_ln_after_pool",
        "model_cfg.vision_cfg.global_average_pool",
        "model_cfg.vision_cfg.input_patchnorm",
        "model_cfg.text_cfg.embed_cls",
        "model_cfg.text_cfg.no_causal_mask",
        "model_cfg.text_cfg.final_ln_after_pool",
        "model_cfg.text_cfg.proj_bias",
        "model_cfg.vision_cfg.qk_norm",
        "model_cfg.vision_cfg.scaled_cosine_attn",
        "model_cfg.vision_cfg.scale_heads",
        "model_cfg.vision_cfg.scale_attn_inner",
        "model_cfg.vision_cfg.scale_attn",
        "model_cfg.vision_cfg.scale_fc",
        "model_cfg.text_cfg.qk_norm",
        "model_cfg.text_cfg.scaled_cosine_attn",
        "model_cfg.text_cfg.scale_heads",
        "model_cfg.text_cfg.scale_attn_inner",
        "model_cfg.text_cfg.scale_attn",
        "model_cfg.text_cfg.scale_fc",
    ]));
    all
}

fn transformers_fields() -> Vec<(String, Fate)> {
    let mut all: Vec<(String, Fate)> = [
        ("model_type", Refused(json!("siglip"))),
        ("projection_dim", Refused(json!(64))),
        ("logit_scale_init_value", Inert(json!(1.0))),
        ("initializer_factor", Inert(json!(0.5))),
        (
            "text_config_dict",
            Honoured(
                json!({"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1,
            "num_attention_heads": 2, "hidden_act": "gelu"}),
            ),
        ),
        (
            "vision_config_dict",
            Honoured(
                json!({"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1,
            "num_attention_heads": 2, "hidden_act": "gelu", "image_size": 8, "patch_size": 4}),
            ),
        ),
        ("text_config.vocab_size", Refused(json!(32000))),
        ("text_config.max_position_embeddings", Refused(json!(64))),
        ("text_config.bos_token_id", Refused(json!(5))),
        ("text_config.eos_token_id", Refused(json!(3))),
        ("text_config.pad_token_id", Inert(json!(5))),
        ("vision_config.num_channels", Refused(json!(1))),
        ("vision_config.image_size", Refused(json!(16))),
        ("vision_config.patch_size", Refused(json!(8))),
    ]
    .map(|(name, fate)| (name.to_owned(), fate))
    .into();
    for tower in ["text_config", "vision_config"] {
        for (name, fate) in [
            ("model_type", Refused(json!("siglip_text_model"))),
            ("hidden_size", Refused(json!(128))),
            ("intermediate_size", Refused(json!(128))),
            ("num_hidden_layers", Refused(json!(2))),
            ("num_attention_heads", Honoured(json!(4))),
            ("hidden_act", Refused(json!("gelu_new"))),
            ("layer_norm_eps", Refused(json!(1e-6))),
            ("attention_dropout", Inert(json!(0.1))),
            ("dropout", Inert(json!(0.1))),
            ("initializer_range", Inert(json!(0.1))),
            ("initializer_factor", Inert(json!(0.5))),
            ("projection_dim", Inert(json!(5))),
        ] {
            all.push((format!("{tower}.{name}"), fate));
        }
    }
    // Of every configuration of transformers, at the top and in both towers.
    for place in ["", "text_config.", "vision_config."] {
        for (name, fate) in [
            ("pruned_heads", Refused(json!({"0": [1]}))),
            ("is_decoder", Refused(json!(true))),
            ("add_cross_attention", Refused(json!(true))),
            (
                "per_layer_config",
                Refused(json!({"0": {"hidden_size": 5}})),
            ),
            ("quantization_config", Refused(json!({"bits": 4}))),
            ("auto_map", Refused(json!({"AutoModel": "modeling.Model"}))),
            ("chunk_size_feed_forward", Inert(json!(2))),
            ("output_hidden_states", Inert(json!(true))),
            ("output_attentions", Inert(json!(true))),
            ("return_dict", Inert(json!(false))),
            ("tie_last_hidden_states", Inert(json!(true))),
            ("is_encoder_decoder", Inert(json!(true))),
            ("dtype", Inert(json!("float16"))),
            ("torch_dtype", Inert(json!("float16"))),
            ("use_bfloat16", Inert(json!(true))),
            ("torchscript", Inert(json!(true))),
            ("tie_word_embeddings", Inert(json!(false))),
            ("tie_encoder_decoder", Inert(json!(true))),
            ("architectures", Inert(json!(["CLIPModel"]))),
            ("id2label", Inert(json!({"0": "cat"}))),
            ("label2id", Inert(json!({"cat": 0}))),
            ("num_labels", Inert(json!(2))),
            ("problem_type", Inert(json!("regression"))),
            ("finetuning_task", Inert(json!("x"))),
            ("transformers_version", Inert(json!("4.0"))),
            ("_name_or_path", Inert(json!("x"))),
            ("_commit_hash", Inert(json!("x"))),
            ("attn_implementation", Inert(json!("eager"))),
            ("_attn_implementation_autoset", Inert(json!(true))),
            ("gradient_checkpointing", Inert(json!(true))),
            ("use_cache", Inert(json!(true))),
            // Of programs that write text, which older versions wrote into every configuration.
            ("max_length", Inert(json!(5))),
            ("min_length", Inert(json!(5))),
            ("do_sample", Inert(json!(true))),
            ("early_stopping", Inert(json!(true))),
            ("num_beams", Inert(json!(2))),
            ("num_beam_groups", Inert(json!(2))),
            ("diversity_penalty", Inert(json!(1.0))),
            ("temperature", Inert(json!(0.5))),
            ("top_k", Inert(json!(5))),
            ("top_p", Inert(json!(0.5))),
            ("typical_p", Inert(json!(0.5))),
            ("repetition_penalty", Inert(json!(2.0))),
            ("length_penalty", Inert(json!(2.0))),
            ("no_repeat_ngram_size", Inert(json!(2))),
            ("encoder_no_repeat_ngram_size", Inert(json!(2))),
            ("bad_words_ids", Inert(json!([[1]]))),
            ("num_return_sequences", Inert(json!(2))),
            ("output_scores", Inert(json!(true))),
            ("return_dict_in_generate", Inert(json!(true))),
            ("forced_bos_token_id", Inert(json!(2))),
            ("forced_eos_token_id", Inert(json!(2))),
            ("remove_invalid_values", Inert(json!(true))),
            ("exponential_decay_length_penalty", Inert(json!(2))),
            ("suppress_tokens", Inert(json!([2]))),
            ("begin_suppress_tokens", Inert(json!([2]))),
            ("tokenizer_class", Inert(json!("x"))),
            ("prefix", Inert(json!("x"))),
            ("sep_token_id", Inert(json!(2))),
            ("decoder_start_token_id", Inert(json!(2))),
            ("task_specific_params", Inert(json!({"a": 1}))),
            ("tf_legacy_loss", Inert(json!(true))),
            ("cross_attention_hidden_size", Inert(json!(2))),
        ] {
            all.push((format!("{place}{name}"), fate));
        }
    }
    all
}

fn processor_fields() -> Vec<(&'static str, Fate)> {
    vec![
        (
            "image_processor_type",
            Refused(json!("SiglipImageProcessor")),
        ),
        (
            "feature_extractor_type",
            Refused(json!("ViTFeatureExtractor")),
        ),
        ("processor_class", Inert(json!("CLIPProcessor"))),
        ("do_convert_rgb", Inert(json!(false))),
        ("do_resize", Refused(json!(false))),
        ("size", Honoured(json!({"height": 8, "width": 8}))),
        ("default_to_square", Inert(json!(true))), // the size is by name
        ("use_square_size", Refused(json!(true))),
        ("crop_size", Refused(json!({"height": 4, "width": 8}))),
        ("resample", Honoured(json!(2))),
        ("do_rescale", Refused(json!(false))),
        ("rescale_factor", Refused(json!(0.5))),
        ("do_normalize", Honoured(json!(false))),
        ("image_mean", Honoured(json!([0.5, 0.5, 0.5]))),
        ("image_std", Honoured(json!([0.5, 0.5, 0.5]))),
        ("do_pad", Refused(json!(true))),
        ("pad_size", Inert(json!({"height": 8, "width": 8}))),
        ("do_center_crop", Refused(json!(false))),
        ("data_format", Inert(json!("channels_last"))),
        ("input_data_format", Inert(json!("channels_last"))),
        ("device", Inert(json!("cpu"))),
        ("return_tensors", Inert(json!("pt"))),
        ("disable_grouping", Inert(json!(true))),
        ("image_seq_length", Inert(json!(5))),
        // Sizes that are not the model's.
        ("size", Refused(json!({"shortest_edge": 16}))),
        ("size", Refused(json!(16))),
        ("size", Refused(json!({"longest_edge": 8}))),
        ("resample", Refused(json!(1))),
    ]
}

/// Puts `value` at the dotted place `field`, making objects on the way.
fn put(config: &mut Value, field: &str, value: &Value) {
    let mut at = config;
    let mut parts: Vec<&str> = field.split('.').collect();
    let last = parts.pop().unwrap();
    for part in parts {
        at = &mut at[part];
    }
    at[last] = value.clone();
}

/// What a folder says besides its tensors.
type Says = (Activation, [(usize, usize); 2], Look);

fn says(folder: &Path) -> Result<Says, String> {
    let weights = weights::open(folder).map_err(|e| e.to_string())?;
    Ok((
        weights.activation,
        weights.architecture.heads(),
        weights.look,
    ))
}

/// Walks over the fields: each is set in a copy of `plain`, written to `file`.
fn walk(folder: &Path, file: &str, plain: &Value, fields: &[(String, Fate)]) {
    let write = |config: &Value| std::fs::write(folder.join(file), config.to_string()).unwrap();
    write(plain);
    let usual = says(folder).unwrap();
    for (field, fate) in fields {
        let (Honoured(value) | Refused(value) | Inert(value)) = fate;
        let mut config = plain.clone();
        put(&mut config, field, value);
        write(&config);
        let found = says(folder);
        match (fate, found) {
            (Honoured(_), Ok(found)) => assert_ne!(found, usual, "{field}: {value} is read past"),
            (Inert(_), Ok(found)) => assert_eq!(found, usual, "{field}: {value}"),
            (Refused(_), Err(error)) => {
                let name = field.rsplit('.').next().unwrap();
                assert!(
                    error.contains(name) && error.contains(file),
                    "{field}: {error}"
                );
            }
            (Refused(_), Ok(_)) => panic!("{field}: {value} is read past"),
            (_, Err(error)) => panic!("{field}: {value}: {error}"),
        }
    }
    write(plain);
}

fn owned(fields: Vec<(&'static str, Fate)>) -> Vec<(String, Fate)> {
    fields.into_iter().map(|(n, f)| (n.to_owned(), f)).collect()
}

#[test]
fn every_field_of_open_clip_is_honoured_refused_or_inert() {
    let folder = TempDir::new().unwrap();
    save(&tiny(), &folder.path().join("open_clip_model.safetensors"));
    let plain: Value = serde_json::from_str(OPEN_CLIP).unwrap();
    let fields = owned(open_clip_fields());
    assert!(fields.len() > 80, "{}", fields.len());
    walk(folder.path(), "open_clip_config.json", &plain, &fields);
}

#[test]
fn every_field_of_transformers_is_honoured_refused_or_inert() {
    let folder = TempDir::new().unwrap();
    save(
        &hugging_face(&tiny()),
        &folder.path().join("model.safetensors"),
    );
    let plain: Value = serde_json::from_str(HUGGING_FACE).unwrap();
    let fields = transformers_fields();
    assert!(fields.len() > 180, "{}", fields.len());
    walk(folder.path(), "config.json", &plain, &fields);
}

#[test]
fn every_field_of_the_image_processor_is_honoured_refused_or_inert() {
    let folder = TempDir::new().unwrap();
    save(
        &hugging_face(&tiny()),
        &folder.path().join("model.safetensors"),
    );
    std::fs::write(folder.path().join("config.json"), HUGGING_FACE).unwrap();
    let plain = json!({"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}});
    walk(
        folder.path(),
        "preprocessor_config.json",
        &plain,
        &owned(processor_fields()),
    );

    // Sizes as OpenAI's own repositories have them, and as a number that means a square.
    let look = |config: Value| {
        let file = folder.path().join("preprocessor_config.json");
        std::fs::write(file, config.to_string()).unwrap();
        says(folder.path()).unwrap().2
    };
    assert!(
        look(json!({"size": 8, "crop_size": 8, "resample": 3, "do_center_crop": true})).is_usual()
    );
    let square = json!({"size": 8, "default_to_square": true, "do_center_crop": false});
    assert_eq!(look(square).fit, Fit::Squash);
    // The newer file counts, and names its fields by their place.
    let newer = folder.path().join("processor_config.json");
    let inner = |value: Value| json!({"image_processor": value}).to_string();
    let config = json!({"size": {"shortest_edge": 8}, "crop_size": 8, "resample": 2});
    std::fs::write(&newer, inner(config)).unwrap();
    let found = says(folder.path()).unwrap().2;
    assert_eq!(
        (found.fit, found.interpolation),
        (Fit::Shortest, Interpolation::Bilinear)
    );
    std::fs::write(&newer, inner(json!({"size": 9, "crop_size": 8}))).unwrap();
    let error = says(folder.path()).unwrap_err();
    assert!(
        error.contains("processor_config.json: image_processor.size: is 9"),
        "{error}"
    );
}

#[test]
fn what_a_configuration_leaves_out_is_its_formats_default() {
    let folder = TempDir::new().unwrap();
    save(
        &hugging_face(&tiny()),
        &folder.path().join("model.safetensors"),
    );
    let config = HUGGING_FACE.replace("\"num_attention_heads\": 1,", "");
    std::fs::write(folder.path().join("config.json"), &config).unwrap();
    let error = refusal(folder.path());
    // 8 heads fit into a text tower of 64, 12 do not into an image tower of 64.
    assert!(
        error.contains("vision_config.num_attention_heads: is left out, which means 12"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
    let config = config.replace(
        "\"patch_size\": 4,",
        "\"patch_size\": 4, \"num_attention_heads\": 16,",
    );
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    assert_eq!(
        open(folder.path()).architecture.heads(),
        [(16, 64), (8, 64)]
    );

    let folder = TempDir::new().unwrap();
    save(&tiny(), &folder.path().join("open_clip_model.safetensors"));
    let config = OPEN_CLIP
        .replace("\"heads\": 1,", "")
        .replace("\"quick_gelu\": false,", "");
    std::fs::write(folder.path().join("open_clip_config.json"), config).unwrap();
    let found = open(folder.path());
    assert_eq!(found.architecture.heads(), [(1, 64), (8, 64)]);
    assert_eq!(
        (found.activation, found.assumed.sentence()),
        (Activation::Gelu, None)
    );
}
