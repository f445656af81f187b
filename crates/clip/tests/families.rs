//! Text towers and backbones beyond CLIP's own, against open_clip and transformers: folders, tokens and features that
//! `scripts/golden_features.py` wrote.

#![expect(clippy::unwrap_used, reason = "a test")]

use candle_core::{DType, Device, Tensor, Var};
use clip::device::Precision;
use clip::text::{Family, Pooling};
use clip::weights::{self, Activation, Given};
use clip::{Clip, DeepText, Slot, TextPrompt};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

#[path = "../../gpu/tests/null_driver.rs"]
mod null_driver;

const FAMILIES: [&str; 4] = ["biomedclip", "siglip", "siglip2", "siglip-transformers"];

fn folder(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fixtures.join(name)
}

/// On the null driver's card, where these tests are built by the name that says so.
fn load(name: &str) -> Clip {
    let mut clip = Clip::load(&folder(name)).unwrap_or_else(|e| panic!("{e}"));
    if env!("CARGO_CRATE_NAME").ends_with("on_card")
        && let Some(card) = null_driver::card()
    {
        clip.use_gpu(&card, Precision::Float32).unwrap();
    }
    clip
}

fn texts(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder(name).join("texts.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest gap beside the largest number.
fn gap(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (flat(a), flat(b));
    let most = b.iter().fold(0f32, |m, v| m.max(v.abs()));
    let gaps = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
    gaps.fold(0f32, f32::max) / most
}

#[test]
fn tokens_and_features_are_those_of_open_clip_and_transformers() {
    for name in FAMILIES {
        let (clip, texts) = (load(name), texts(name));
        let path = folder(name).join("expected.safetensors");
        let expected = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        let tokens: Vec<Vec<i64>> = expected["tokens"].to_vec2().unwrap();
        for (text, want) in texts.iter().zip(&tokens) {
            let got = clip.text.wording().padded(text).unwrap();
            let got: Vec<i64> = got.into_iter().map(i64::from).collect();
            assert_eq!(&got, want, "{name}: {text:?}");
        }
        let pixels = expected["pixels"].to_dtype(DType::F32).unwrap();
        for (what, got) in [
            ("text_features", clip.encode_texts(&texts).unwrap()),
            ("image_features", clip.encode_image(&pixels).unwrap()),
        ] {
            let gap = gap(&got, &expected[what]);
            assert!(gap < 1e-5, "{name}: {what}: {gap}");
        }
    }
}

/// The BiomedCLIP with nothing but `vocab.txt` as its tokenizer.
fn without_tokenizer_file() -> TempDir {
    let moved = TempDir::new().unwrap();
    for file in std::fs::read_dir(folder("biomedclip")).unwrap() {
        let file = file.unwrap();
        if file.file_name() != "tokenizer.json" {
            std::fs::copy(file.path(), moved.path().join(file.file_name())).unwrap();
        }
    }
    moved
}

#[test]
fn awkward_strings_have_the_tokens_of_transformers() {
    let bare = without_tokenizer_file();
    let both = [load("biomedclip"), Clip::load(bare.path()).unwrap()];
    let text = std::fs::read_to_string(folder("biomedclip").join("awkward.json")).unwrap();
    let cases: Vec<(String, Vec<u32>)> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 250, "{}", cases.len());
    // open_clip cleans texts before; these are as the tokenizer itself takes them.
    for clip in &both {
        for (text, want) in &cases {
            let got = clip.text.wording().raw(text);
            assert_eq!(&got, want, "{text:?}");
        }
    }
}

#[test]
fn a_vocabulary_alone_is_read_as_the_tokenizer_file_of_the_same_one() {
    let (clip, moved) = (load("biomedclip"), without_tokenizer_file());
    let bare = Clip::load(moved.path()).unwrap();
    assert_eq!(bare.identity(), clip.identity());
    std::fs::remove_file(moved.path().join("vocab.txt")).unwrap();
    let error = Clip::load(moved.path()).unwrap_err().to_string();
    assert!(
        error.contains("vocab.txt are missing") && error.contains("BERT"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn what_a_folder_is_is_told_by_it() {
    let about = |name: &str| {
        let weights = weights::open(&folder(name)).unwrap();
        let a = &weights.architecture;
        let activations = [weights.activation, weights.text_activation];
        (a.family, a.context, a.heads(), activations)
    };
    let (erf, tanh) = (Activation::Gelu, Activation::GeluTanh);
    let bert = Family::Bert(Pooling::First);
    assert_eq!(
        about("biomedclip"),
        (bert, 80, [(12, 24), (2, 32)], [erf, erf])
    );
    let siglip = |heads, acts| (Family::Siglip, 64, heads, acts);
    assert_eq!(about("siglip"), siglip([(12, 24), (4, 24)], [erf, erf]));
    assert_eq!(about("siglip2"), siglip([(12, 24), (4, 24)], [erf, tanh]));
    let of_transformers = siglip([(3, 24), (4, 24)], [tanh, tanh]);
    assert_eq!(about("siglip-transformers"), of_transformers);
    let clip = load("siglip");
    assert_eq!(
        (clip.logit_bias(), clip.look().mean),
        (Some(-10.0), [0.5; 3])
    );
    let identity = load("siglip2").identity();
    assert!(
        identity.contains("-gelux") && identity.contains("-words"),
        "{identity}"
    );
}

#[test]
fn a_text_does_not_depend_on_those_encoded_with_it() {
    for name in FAMILIES {
        let clip = load(name);
        let texts: Vec<String> = [
            "a cat",
            "a photo of a glioma tumor scan",
            "a cat",
            "",
            "x x",
        ]
        .map(str::to_owned)
        .into();
        let together = clip.encode_texts(&texts).unwrap();
        for (i, text) in texts.iter().enumerate() {
            let alone = clip.encode_texts(std::slice::from_ref(text)).unwrap();
            let gap = gap(&together.narrow(0, i, 1).unwrap(), &alone);
            assert!(gap < 1e-6, "{name}: {text:?}: {gap}");
        }
    }
}

/// Class texts with two context rows in front, of differing length; `own` rows for each.
fn prompted(clip: &Clip, own: bool) -> Vec<Vec<Slot>> {
    let (wording, mut out) = (clip.text.wording(), Vec::new());
    for (i, text) in ["x x cat.", "x x glioma tumor scan.", "x x river"]
        .iter()
        .enumerate()
    {
        let mut slots: Vec<Slot> = wording
            .sequence(text)
            .unwrap()
            .into_iter()
            .map(Slot::Token)
            .collect();
        for j in 0..2 {
            slots[wording.starts() + j] = Slot::Context(if own { 2 * i + j } else { j });
        }
        out.push(slots);
    }
    out
}

/// A number that depends on every feature.
fn score(features: &Tensor) -> Tensor {
    let (n, e) = features.dims2().unwrap();
    let weights: Vec<f32> = (0..n * e)
        .map(|i| ((i * 37 % 19) as f32 - 9.0) / 9.0)
        .collect();
    let weights = Tensor::from_vec(weights, (n, e), &Device::Cpu).unwrap();
    (features * weights).unwrap().sum_all().unwrap()
}

#[test]
fn gradients_of_learned_context_and_deep_rows_agree_with_finite_differences() {
    for name in FAMILIES {
        let clip = load(name);
        let w = clip.text.width();
        for own in [false, true] {
            let plan = clip.text.plan(&prompted(&clip, own)).unwrap();
            let rows = if own { 6 } else { 2 };
            let drawn = |seed: usize, n: usize| {
                let values =
                    (0..n * w).map(|i| ((i * 7919 + seed * 131) % 211) as f32 / 211.0 - 0.5);
                Var::from_tensor(
                    &Tensor::from_iter(values, &Device::Cpu)
                        .unwrap()
                        .reshape((n, w))
                        .unwrap(),
                )
                .unwrap()
            };
            let (context, deep) = (drawn(1, rows), drawn(2, 1));
            let value = || {
                let prompt = TextPrompt {
                    context: Some(context.as_tensor().clone()),
                    deep: vec![DeepText::instead(1, 1, deep.as_tensor().clone())],
                    ..TextPrompt::default()
                };
                score(&clip.text.encode(&plan, &prompt).unwrap())
            };
            let gradients = value().backward().unwrap();
            for var in [&context, &deep] {
                let gradient = flat(gradients.get(var.as_tensor()).unwrap());
                let start = var.as_detached_tensor().copy().unwrap();
                let length = gradient
                    .iter()
                    .map(|g| f64::from(g * g))
                    .sum::<f64>()
                    .sqrt();
                assert!(length > 1e-2, "{name}: {length}");
                let direction = (gradients.get(var.as_tensor()).unwrap() / length).unwrap();
                let at = |x: f64| {
                    var.set(&(&start + (&direction * x).unwrap()).unwrap())
                        .unwrap();
                    f64::from(value().to_scalar::<f32>().unwrap())
                };
                let h = 2e-2;
                let slope = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
                var.set(&start).unwrap();
                let off = (slope - length).abs() / length;
                assert!(off < 2e-3, "{name}: {slope} against {length}");
            }
        }
    }
}

#[test]
fn many_texts_in_pieces_have_the_features_and_gradients_of_all_at_once() {
    let clip = load("biomedclip");
    let one = prompted(&clip, false);
    let many: Vec<Vec<Slot>> = (0..600).map(|i| one[i % 3].clone()).collect();
    let context = Var::zeros((2, clip.text.width()), DType::F32, &Device::Cpu).unwrap();
    let prompt = TextPrompt {
        context: Some(context.as_tensor().clone()),
        ..TextPrompt::default()
    };
    let gradient = |sequences: Vec<Vec<Slot>>, memory| {
        let mut clip = clip.clone();
        clip.text.memory = memory;
        let plan = clip.text.plan(&sequences).unwrap();
        let features = clip.text.encode(&plan, &prompt).unwrap();
        let gradients = features
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        let rows = plan.rows();
        (
            rows,
            features,
            gradients.get(context.as_tensor()).unwrap().clone(),
        )
    };
    let (rows, features, whole) = gradient(many.clone(), None);
    assert!(rows > 2048, "{rows}");
    let (_, alone, of_three) = gradient(one, None);
    assert!(gap(&features.narrow(0, 597, 3).unwrap(), &alone) < 1e-6);
    assert!(gap(&whole, &(of_three * 200.0).unwrap()) < 1e-5);
    let (_, _, bounded) = gradient(many, Some(0));
    assert_eq!(flat(&bounded), flat(&whole));
}

#[test]
fn what_is_not_this_family_throughout_is_refused_by_its_name() {
    let refused = |name: &str, from: &str, to: &str, told: &[&str]| {
        let moved = TempDir::new().unwrap();
        for file in std::fs::read_dir(folder(name)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), moved.path().join(file.file_name())).unwrap();
        }
        let config = ["open_clip_config.json", "config.json"].map(|f| moved.path().join(f));
        let config = config.iter().find(|c| c.is_file()).unwrap();
        let text = std::fs::read_to_string(config).unwrap();
        let changed = text.replace(from, to);
        assert_ne!(text, changed, "{from}");
        std::fs::write(config, changed).unwrap();
        let error = Clip::load(moved.path()).unwrap_err().to_string();
        for told in told {
            assert!(error.contains(told), "{name}: {told}: {error}");
        }
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    let cls = "cls_last_hidden_state_pooler";
    refused(
        "biomedclip",
        cls,
        "max_pooler",
        &["hf_pooler_type", "max_pooler", cls],
    );
    refused(
        "biomedclip",
        "\"context_length\": 80",
        "\"context_length\": 300",
        &["300", "96 positions"],
    );
    let timm = "vit_base_patch16_224";
    refused(
        "biomedclip",
        timm,
        "convnext_base",
        &["timm_model_name", "convnext_base"],
    );
    refused(
        "siglip",
        "\"no_causal_mask\": true",
        "\"no_causal_mask\": false",
        &["no_causal_mask"],
    );
    refused(
        "siglip",
        "\"eps\": 1e-06",
        "\"eps\": 1e-05",
        &["norm_kwargs"],
    );
    refused(
        "siglip",
        "\"clean\": \"canonicalize\"",
        "\"clean\": \"lower\"",
        &["tokenizer_kwargs"],
    );
    refused(
        "siglip",
        "\"timm_pool\": \"map\"",
        "\"timm_pool\": \"avg\"",
        &["timm_pool"],
    );
    refused(
        "siglip-transformers",
        "\"model_type\": \"siglip\"",
        "\"model_type\": \"clip\"",
        &["model_type", "SigLIP"],
    );
    let bare = folder("siglip").join("open_clip_model.safetensors");
    let moved = TempDir::new().unwrap();
    let alone = moved.path().join("weights.safetensors");
    std::fs::copy(bare, &alone).unwrap();
    let error = weights::open_as(&alone, &Given::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("open_clip_config.json or config.json: is missing"),
        "{error}"
    );
}

#[test]
fn picture_prompts_and_local_features_of_a_pooled_tower_are_refused_by_one_message() {
    let clip = load("siglip");
    let error = clip.transformer().unwrap_err().to_string();
    assert!(error.contains("no class token (SigLIP)"), "{error}");
    let pixels = Tensor::zeros((1, 3, 16, 16), DType::F32, &Device::Cpu).unwrap();
    let error = clip.encode_image_tokens(&pixels).unwrap_err().to_string();
    assert!(error.contains("pooled"), "{error}");
}
