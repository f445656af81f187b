//! One CLIP in every format is one CLIP; anything else is one clear error.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use candle_core::{DType, Device, Tensor};
use clip::Clip;
use clip::weights::pickle::{self, Value};
use clip::weights::{self, Activation, Format, Weights};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

type Tensors = BTreeMap<String, Tensor>;

const WIDTH: usize = 64;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Models that do not ship with the repository.
fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/formats");
    if !path.exists() {
        eprintln!(
            "skipped: 1 comparison across formats, {} is not there",
            path.display()
        );
    }
    path.exists().then_some(path)
}

/// Numbers that half precision holds exactly and that differ everywhere.
fn tensor(seed: usize, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 2048.0 - 0.5;
    let values: Vec<f32> = (0..n)
        .map(|i| half::f16::from_f32(value(i)).to_f32())
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A CLIP of one block a tower under OpenAI's names, with five token rows.
fn tiny() -> Tensors {
    let (w, e) = (WIDTH, 32);
    let mut shapes: Vec<(String, Vec<usize>)> = [
        ("positional_embedding", vec![77, w]),
        ("token_embedding.weight", vec![5, w]),
        ("text_projection", vec![w, e]),
        ("ln_final.weight", vec![w]),
        ("ln_final.bias", vec![w]),
        ("logit_scale", vec![]),
        ("visual.class_embedding", vec![w]),
        ("visual.positional_embedding", vec![5, w]),
        ("visual.conv1.weight", vec![w, 3, 4, 4]),
        ("visual.proj", vec![w, e]),
        ("visual.ln_pre.weight", vec![w]),
        ("visual.ln_pre.bias", vec![w]),
        ("visual.ln_post.weight", vec![w]),
        ("visual.ln_post.bias", vec![w]),
    ]
    .map(|(name, shape)| (name.to_owned(), shape))
    .into();
    for tower in ["", "visual."] {
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
            shapes.push((format!("{tower}transformer.resblocks.0.{name}"), shape));
        }
    }
    let mut tensors: Tensors = shapes
        .into_iter()
        .enumerate()
        .map(|(seed, (name, shape))| (name, tensor(seed, &shape)))
        .collect();
    let ids = Tensor::new(&[0i64, 320, 343, 49406, 49407], &Device::Cpu).unwrap();
    tensors.insert("token_embedding.ids".to_owned(), ids);
    tensors
}

/// The same tensors as Hugging Face names, splits and transposes them.
fn hugging_face(tensors: &Tensors) -> Tensors {
    let mut out = Tensors::new();
    for (name, tensor) in tensors {
        let (tower, rest) = match name.strip_prefix("visual.") {
            Some(rest) => ("vision_model.", rest),
            None => ("text_model.", name.as_str()),
        };
        let mut put = |name: String, tensor: Tensor| out.insert(name, tensor);
        match rest {
            "logit_scale" => put(rest.to_owned(), tensor.clone()),
            "text_projection" => put(
                "text_projection.weight".to_owned(),
                tensor.t().unwrap().contiguous().unwrap(),
            ),
            "proj" => put(
                "visual_projection.weight".to_owned(),
                tensor.t().unwrap().contiguous().unwrap(),
            ),
            _ if rest.contains("in_proj_") => {
                let leaf = rest.rsplit('_').next().unwrap();
                for (i, part) in ["q", "k", "v"].into_iter().enumerate() {
                    let rows = tensor
                        .narrow(0, i * WIDTH, WIDTH)
                        .unwrap()
                        .contiguous()
                        .unwrap();
                    put(
                        format!("{tower}encoder.layers.0.self_attn.{part}_proj.{leaf}"),
                        rows,
                    );
                }
                None
            }
            _ => {
                let renamed = rest
                    .replace("transformer.resblocks", "encoder.layers")
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
                    .replace("ln_final", "final_layer_norm");
                put(format!("{tower}{renamed}"), tensor.clone())
            }
        };
    }
    out.insert(
        "text_model.embeddings.position_ids".to_owned(),
        Tensor::new(&[[0i64, 1]], &Device::Cpu).unwrap(),
    );
    out
}

fn save(tensors: &Tensors, path: &Path) {
    let map: HashMap<String, Tensor> = tensors.clone().into_iter().collect();
    candle_core::safetensors::save(&map, path).unwrap();
}

fn in_kind(tensors: &Tensors, kind: DType) -> Tensors {
    let cast = |t: &Tensor| {
        if t.dtype() == DType::F32 {
            t.to_dtype(kind).unwrap()
        } else {
            t.clone()
        }
    };
    tensors.iter().map(|(n, t)| (n.clone(), cast(t))).collect()
}

const HUGGING_FACE: &str = r#"{"model_type": "clip", "projection_dim": 32,
    "text_config": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 1,
        "vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
    "vision_config": {"hidden_size": 64, "image_size": 8, "patch_size": 4, "num_hidden_layers": 1, "hidden_act": "gelu"}}"#;
const OPEN_CLIP: &str = r#"{"model_cfg": {"embed_dim": 32, "quick_gelu": false,
    "vision_cfg": {"image_size": 8, "layers": 1, "width": 64, "patch_size": 4},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}},
    "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}}"#;

fn open(path: &Path) -> Weights {
    weights::open(path).unwrap_or_else(|e| panic!("{e}"))
}

fn print_of(weights: &Weights) -> String {
    weights.fingerprint().unwrap_or_else(|e| panic!("{e}"))
}

fn refusal(path: &Path) -> String {
    match Clip::load(path) {
        Ok(_) => panic!("{} was read", path.display()),
        Err(error) => error.to_string(),
    }
}

/// Saves the tensors after a change and gives the refusal.
fn refusal_of(change: impl FnOnce(&mut Tensors)) -> String {
    let folder = TempDir::new().unwrap();
    let mut tensors = tiny();
    change(&mut tensors);
    save(&tensors, &folder.path().join("x.safetensors"));
    refusal(&folder.path().join("x.safetensors"))
}

#[test]
fn every_format_gives_the_same_tensors() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let tensors = tiny();
    save(&tensors, &at("openai"));
    save(&in_kind(&tensors, DType::F16), &at("half"));
    let expected = open(&at("openai"));
    assert_eq!(
        (expected.format, expected.activation),
        (Format::Safetensors, Activation::QuickGelu)
    );
    assert_eq!(
        expected.token_rows.as_deref(),
        Some([0, 320, 343, 49406, 49407].as_slice())
    );
    for (name, _) in expected.shapes() {
        let difference = (expected.tensor(name).unwrap() - &tensors[name])
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap();
        assert_eq!(difference.to_scalar::<f32>().unwrap(), 0.0, "{name}");
    }
    let fingerprint = print_of(&expected);
    assert_eq!(print_of(&open(&at("half"))), fingerprint);

    let state: Vec<(String, Tensor)> = in_kind(&tensors, DType::F16).into_iter().collect();
    pickle::write(&at("state"), &Value::State(state.clone())).unwrap();
    let state = state
        .into_iter()
        .map(|(n, t)| (format!("module.{n}"), t))
        .collect();
    let nested = Value::Dict(vec![
        ("epoch".into(), Value::Int(1)),
        ("state_dict".into(), Value::State(state)),
    ]);
    pickle::write(&at("nested"), &nested).unwrap();
    for name in ["state", "nested"] {
        let weights = open(&at(name));
        assert_eq!(
            (weights.format, print_of(&weights)),
            (Format::StateDict, fingerprint.clone()),
            "{name}"
        );
    }

    let renamed = hugging_face(&tensors);
    std::fs::create_dir(at("hf")).unwrap();
    std::fs::write(at("hf/config.json"), HUGGING_FACE).unwrap();
    save(&renamed, &at("hf/model.safetensors"));
    std::fs::create_dir(at("bin")).unwrap();
    pickle::write(
        &at("bin/pytorch_model.bin"),
        &Value::State(renamed.clone().into_iter().collect()),
    )
    .unwrap();
    std::fs::create_dir(at("sharded")).unwrap();
    std::fs::write(at("sharded/config.json"), HUGGING_FACE).unwrap();
    let (first, second): (Tensors, Tensors) =
        renamed.into_iter().partition(|(n, _)| n.len() % 2 == 0);
    let mut map = serde_json::Map::new();
    for (name, part) in [("a.safetensors", first), ("b.safetensors", second)] {
        map.extend(part.keys().map(|k| (k.clone(), name.into())));
        save(&part, &at("sharded").join(name));
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    std::fs::write(
        at("sharded/model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    for (name, activation) in [
        ("hf", Activation::Gelu),
        ("hf/model.safetensors", Activation::Gelu),
        ("bin", Activation::QuickGelu), // no configuration
        ("sharded", Activation::Gelu),
    ] {
        let weights = open(&at(name));
        assert_eq!(
            (weights.format, weights.activation),
            (Format::HuggingFace, activation),
            "{name}"
        );
        assert_eq!(print_of(&weights), fingerprint, "{name}");
    }

    std::fs::create_dir(at("open_clip")).unwrap();
    std::fs::write(at("open_clip/open_clip_config.json"), OPEN_CLIP).unwrap();
    save(&tensors, &at("open_clip/open_clip_model.safetensors"));
    for name in ["open_clip", "open_clip/open_clip_model.safetensors"] {
        let weights = open(&at(name));
        assert_eq!(
            (weights.format, weights.activation),
            (Format::OpenClip, Activation::Gelu),
            "{name}"
        );
        assert_eq!(print_of(&weights), fingerprint, "{name}");
    }
}

#[test]
fn a_clip_inside_the_program_is_read_like_a_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    save(&tiny(), &path);
    let bytes: &'static [u8] = std::fs::read(&path).unwrap().leak();
    let inside = weights::embedded("shipped", bytes).unwrap();
    assert_eq!(print_of(&inside), print_of(&open(&path)));
    let error = weights::embedded("shipped", b"nothing")
        .unwrap_err()
        .to_string();
    assert!(error.contains("shipped"), "{error}");
}

#[test]
fn files_of_torch_give_the_same_tensors() {
    let scripted = open(&fixture("tiny-torchscript.pt"));
    assert_eq!(
        (scripted.format, scripted.architecture.image.image_size()),
        (Format::TorchScript, 8)
    );
    assert_eq!(
        scripted.token_rows.as_deref(),
        Some([0, 320, 343, 49406, 49407].as_slice())
    );
    for name in ["tiny-zip.pt", "tiny-legacy.pt"] {
        let weights = open(&fixture(name));
        assert_eq!(
            (weights.format, print_of(&weights)),
            (Format::StateDict, print_of(&scripted)),
            "{name}"
        );
    }
}

#[test]
fn shared_formats_give_the_same_tensors() {
    let Some(folder) = shared() else { return };
    let expected = open(&folder.join("openai.safetensors"));
    assert_eq!(expected.shapes().count(), 62);
    let mut compared = 0;
    for (name, format) in [
        ("openai_torchscript.pt", Format::TorchScript),
        ("openai_state_dict.pt", Format::StateDict),
        ("hf", Format::HuggingFace),
        ("hf/pytorch_model.bin", Format::HuggingFace),
        ("open_clip", Format::OpenClip),
    ] {
        let weights = open(&folder.join(name));
        assert_eq!(
            (weights.format, weights.activation),
            (format, Activation::QuickGelu),
            "{name}"
        );
        assert_eq!(weights.architecture, expected.architecture, "{name}");
        assert_eq!(print_of(&weights), print_of(&expected), "{name}");
        compared += 1;
    }
    assert_eq!(compared, 5);
}

#[test]
fn shared_resnet_gives_the_published_features() {
    let Some(folder) = shared() else { return };
    let weights = open(&folder.join("openai_resnet.safetensors"));
    let tower = match Clip::from_weights(&weights).unwrap().image {
        clip::ImageTower::ResNet(tower) => tower,
        clip::ImageTower::Transformer(_) => panic!("a ResNet became a transformer"),
    };
    let expected =
        candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(tower.image_size(), 64);
    let features = tower.forward(&expected["resnet.pixels"]).unwrap();
    let difference = (features - &expected["resnet.image_features"])
        .unwrap()
        .abs()
        .unwrap()
        .max_all()
        .unwrap();
    let difference = difference.to_scalar::<f32>().unwrap();
    eprintln!("largest difference of ResNet features: {difference:e}");
    assert!(difference < 1e-4, "{difference}");
}

#[test]
fn a_missing_tensor_is_named_with_what_is_there() {
    let error = refusal_of(|t| drop(t.remove("visual.transformer.resblocks.0.mlp.c_fc.bias")));
    assert!(
        error.contains("visual.transformer.resblocks.0.mlp.c_fc.bias") && error.contains("1 of 38"),
        "{error}"
    );
    let error = refusal_of(|t| drop(t.remove("visual.conv1.weight")));
    assert!(
        error.contains("visual.conv1.weight")
            && error.contains("not a CLIP")
            && error.contains("ln_final.bias"),
        "{error}"
    );
    let error =
        refusal_of(|t| *t = BTreeMap::from([("bert.embeddings".to_owned(), tensor(0, &[2]))]));
    assert!(
        error.contains("token_embedding.weight") && error.contains("bert.embeddings"),
        "{error}"
    );
    assert!(refusal_of(Tensors::clear).contains("every other tensor"));
}

#[test]
fn every_unfit_shape_is_reported_at_once() {
    let error = refusal_of(|t| {
        t.insert("visual.proj".into(), tensor(0, &[WIDTH, 31]));
        t.insert("ln_final.bias".into(), tensor(0, &[1]));
        t.insert("visual.trunk.layer".into(), tensor(0, &[1]));
    });
    for part in [
        "visual.proj",
        "[64, 31]",
        "[64, 32]",
        "ln_final.bias",
        "[1]",
        "visual.trunk.layer",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(error.lines().count(), 3, "{error}");
    for shape in [vec![], vec![0, 3, 4, 4], vec![WIDTH, 3, 4]] {
        assert!(
            refusal_of(|t| drop(t.insert("visual.conv1.weight".into(), tensor(0, &shape))))
                .contains("conv1")
        );
    }
    let error = refusal_of(|t| {
        drop(t.insert("visual.positional_embedding".into(), tensor(0, &[6, WIDTH])))
    });
    assert!(error.contains("s * s + 1"), "{error}");
}

#[test]
fn a_model_that_is_built_has_the_fingerprint_of_its_file() {
    for name in ["tiny-torchscript.pt", "tiny-zip.pt", "tiny-legacy.pt"] {
        let weights = open(&fixture(name));
        let clip = Clip::from_weights(&weights).unwrap();
        assert_eq!(clip.fingerprint(), print_of(&weights), "{name}");
        let again = Weights::made_of(
            clip.tensors().unwrap(),
            weights.activation,
            weights.token_rows,
        );
        assert_eq!(print_of(&again.unwrap()), clip.fingerprint(), "{name}");
    }
}

#[test]
fn keeping_blocks_in_half_precision_changes_no_number() {
    let weights = open(&fixture("tiny-torchscript.pt"));
    let whole = Clip::from_weights(&weights).unwrap();
    let small = Clip::from_weights_in(&weights, clip::Keep::Compact).unwrap();
    assert_eq!(small.fingerprint(), whole.fingerprint());
    let bits = |t: Tensor| -> Vec<u32> {
        let values: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    for (name, tensor) in whole.tensors().unwrap() {
        let other = small.tensors().unwrap().remove(&name).unwrap();
        assert_eq!(bits(other), bits(tensor), "{name}");
    }
    let pixels = tensor(5, &[2, 3, 8, 8]);
    let texts = ["a".to_owned()];
    let [expected, found] = [&whole, &small].map(|clip| {
        // The gradient with respect to a prompt in front of every image block, too.
        let prompt = candle_core::Var::from_tensor(&tensor(9, &[2, 8])).unwrap();
        let tokens = clip::ImagePrompt {
            tokens: Some(prompt.as_tensor().clone()),
            deep: Vec::new(),
        };
        let features = clip
            .transformer()
            .unwrap()
            .encode(&pixels, &tokens)
            .unwrap();
        let gradients = features
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        [
            bits(clip.encode_texts(&texts).unwrap()),
            bits(clip.encode_image(&pixels).unwrap()),
            bits(features),
            bits(gradients.get(&prompt).unwrap().clone()),
        ]
    });
    assert_eq!(found, expected);

    // Numbers that need single precision stay in it.
    let mut tensors = tiny();
    let odd = (&tensors["transformer.resblocks.0.ln_1.bias"] + 1e-6).unwrap();
    tensors.insert("transformer.resblocks.0.ln_1.bias".to_owned(), odd);
    tensors.remove("token_embedding.ids");
    let rows = Some(vec![0, 320, 343, 49406, 49407]);
    let weights = Weights::made_of(tensors, Activation::Gelu, rows).unwrap();
    let [expected, found] = [clip::Keep::Float32, clip::Keep::Compact].map(|keep| {
        let clip = Clip::from_weights_in(&weights, keep).unwrap();
        bits(clip.encode_texts(&texts).unwrap())
    });
    assert_eq!(found, expected);
}

#[test]
fn stored_types_are_counted() {
    let weights = open(&fixture("tiny-legacy.pt"));
    let count: usize = weights
        .shapes()
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    assert_eq!(
        weights.kinds().into_iter().collect::<Vec<_>>(),
        [(weights::Kind::F16, count)]
    );
}

#[test]
fn every_damaged_tensor_is_named_up_to_a_few() {
    let error = refusal_of(|t| {
        for tensor in t.values_mut().filter(|t| t.dtype() == DType::F32) {
            *tensor = (&*tensor * f64::NAN).unwrap();
        }
    });
    assert!(
        error.contains("ln_final.bias: 64 of 64 numbers are not finite")
            && error.contains("30 more tensors are damaged"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 9, "{error}");
}

#[test]
fn the_configuration_of_openais_own_repositories_is_read() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    save(&hugging_face(&tiny()), &at("model.safetensors"));
    let with = |start: u32, end: u32| {
        let config = HUGGING_FACE.replace(
            "\"eos_token_id\": 2",
            &format!("\"bos_token_id\": {start}, \"eos_token_id\": {end}"),
        );
        std::fs::write(at("config.json"), config).unwrap();
    };
    for (start, end) in [(0, 2), (49406, 2), (49406, 49407)] {
        with(start, end);
        assert_eq!(open(folder.path()).activation, Activation::Gelu);
    }
    with(0, 49407);
    assert!(refusal(folder.path()).contains("bos_token_id: is 0"));
}

#[test]
fn a_few_bytes_that_many_tensors_are_made_of_are_refused() {
    let error = refusal(&fixture("shared.pt"));
    assert!(
        error.contains("shared.pt: tensors: take") && error.contains("the same bytes"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn numbers_that_are_none_are_refused() {
    let error = refusal_of(|t| {
        let strange = Tensor::new(&[f32::NAN, f32::INFINITY], &Device::Cpu).unwrap();
        let rest = tensor(0, &[WIDTH - 2]);
        t.insert(
            "ln_final.weight".into(),
            Tensor::cat(&[strange, rest], 0).unwrap(),
        );
    });
    assert!(
        error.contains("ln_final.weight") && error.contains("2 of 64"),
        "{error}"
    );
    let whole = Tensor::zeros((WIDTH, 32), DType::I64, &Device::Cpu).unwrap();
    assert!(refusal_of(|t| drop(t.insert("visual.proj".into(), whole))).contains("floats"));
}

#[test]
fn token_rows_name_every_row_once() {
    let ids = |ids: &[i64]| {
        let ids = Tensor::new(ids, &Device::Cpu).unwrap();
        refusal_of(|t| drop(t.insert("token_embedding.ids".into(), ids)))
    };
    assert!(ids(&[1, 2, 3, 4, 4]).contains("4 twice"));
    assert!(ids(&[1, 2, 3, 4, 49408]).contains("49408"));
    assert!(ids(&[1, 2, 3, 4, -1]).contains("-1"));
    assert!(ids(&[1, 2, 3]).contains("5 rows"));
    let error = refusal_of(|t| drop(t.remove("token_embedding.ids")));
    assert!(
        error.contains("5 rows") && error.contains("49408"),
        "{error}"
    );
}

#[test]
fn a_configuration_that_disagrees_names_both() {
    let folder = TempDir::new().unwrap();
    save(
        &hugging_face(&tiny()),
        &folder.path().join("model.safetensors"),
    );
    let config = HUGGING_FACE
        .replace("\"projection_dim\": 32", "\"projection_dim\": 512")
        .replace("\"patch_size\": 4", "\"patch_size\": 16")
        .replace("\"eos_token_id\": 2", "\"eos_token_id\": 3")
        .replacen("\"gelu\"", "\"relu\"", 1);
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let error = refusal(folder.path());
    for part in [
        "projection_dim: is 512, but the tensors make it 32",
        "patch_size: is 16",
        "make it 4",
        "eos_token_id: is 3",
        "relu",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(error.lines().count(), 4, "{error}");
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    assert!(refusal(folder.path()).contains("config.json"));

    let folder = TempDir::new().unwrap();
    save(&tiny(), &folder.path().join("open_clip_model.safetensors"));
    let config = OPEN_CLIP
        .replace(
            "\"layers\": 1, \"width\": 64",
            "\"layers\": 12, \"pool_type\": \"avg\"",
        )
        .replace("0.4578275", "0.5");
    std::fs::write(folder.path().join("open_clip_config.json"), config).unwrap();
    let error = refusal(folder.path());
    for part in [
        "vision_cfg.layers: is 12, but the tensors make it 1",
        "pool_type",
        "preprocess_cfg.mean",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn what_is_no_weight_file_is_said_so() {
    let folder = TempDir::new().unwrap();
    let error = refusal(folder.path());
    assert!(
        error.contains("model.safetensors") && error.contains("pytorch_model.bin"),
        "{error}"
    );
    let file = folder.path().join("x");
    for bytes in [b"".as_slice(), b"hello world", b"\x80\x02}."] {
        std::fs::write(&file, bytes).unwrap();
        assert!(refusal(&file).contains("neither"), "{}", refusal(&file));
    }
    assert!(refusal(&folder.path().join("absent")).contains("absent"));
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(
        index,
        r#"{"weight_map": {"a": "../../etc/passwd", "b": 3}}"#,
    )
    .unwrap();
    let error = refusal(folder.path());
    assert!(
        error.contains("../../etc/passwd") && error.contains("weight_map.b"),
        "{error}"
    );
}
