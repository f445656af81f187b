//! One CLIP in every format is one CLIP; anything else is one clear error.

#![expect(clippy::unwrap_used, reason = "a test")]

mod fields;
mod given;
#[path = "../published_names/mod.rs"]
mod published_names;
mod refusals;
#[path = "../shared/mod.rs"]
mod shared;

use candle_core::{DType, Device, Tensor};
use clip::Clip;
use clip::weights::pickle::{self, Value};
use clip::weights::{self, Activation, Format, Weights};
use published_names::Sizes;
use shared::shared;
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
    let shapes = published_names::shapes(&Sizes {
        width: WIDTH,
        joint: 32,
        layers: 1,
        tokens: 5,
        places: 5,
        patch: 4,
    });
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
                let renamed = published_names::hugging_face_name(rest);
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
    "vision_config": {"hidden_size": 64, "image_size": 8, "patch_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
        "hidden_act": "gelu"}}"#;
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
    let Some(folder) = shared("models/formats") else {
        return;
    };
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

/// Largest difference between the features of the ModifiedResNet in `file` and those that OpenAI's code computes.
fn gap_of_resnet(file: &Path, pixels: &Tensor, published: &Tensor) -> f32 {
    let tower = match Clip::from_weights(&open(file)).unwrap().image {
        clip::ImageTower::ResNet(tower) => tower,
        _ => panic!("a ResNet became a transformer"),
    };
    assert_eq!(tower.image_size(), 64);
    let difference = (tower.forward(pixels).unwrap() - published).unwrap();
    let largest = difference.abs().unwrap().max_all().unwrap();
    largest.to_scalar().unwrap()
}

#[test]
fn the_resnet_that_ships_gives_the_published_features() {
    let read = |name: &str| candle_core::safetensors::load(fixture(name), &Device::Cpu).unwrap();
    let expected = read("published/resnet-expected.safetensors");
    let file = fixture("published/resnet.safetensors");
    let gap = gap_of_resnet(&file, &expected["pixels"], &expected["image_features"]);
    assert!(gap < 1e-4, "{gap}");
    let texts = std::fs::read_to_string(fixture("published/texts.json")).unwrap();
    let texts: Vec<String> = serde_json::from_str(&texts).unwrap();
    let ours = Clip::load(&file).unwrap().encode_texts(&texts).unwrap();
    let difference = (ours - &expected["text_features"]).unwrap();
    let gap = difference.abs().unwrap().max_all().unwrap();
    assert!(gap.to_scalar::<f32>().unwrap() < 1e-4, "{gap}");
}

#[test]
fn the_shared_resnet_gives_the_published_features() {
    let Some(folder) = shared("models/formats") else {
        return;
    };
    let expected =
        candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu).unwrap();
    let gap = gap_of_resnet(
        &folder.join("openai_resnet.safetensors"),
        &expected["resnet.pixels"],
        &expected["resnet.image_features"],
    );
    assert!(gap < 1e-4, "{gap}");
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
            ..clip::ImagePrompt::default()
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
