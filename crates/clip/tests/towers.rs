//! The towers against what the published code and candle-transformers compute from the same files.

#![expect(clippy::unwrap_used, reason = "tests fail by panic")]

mod shared;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::clip as theirs;
use clip::ops::Arithmetic;
use clip::{Clip, ImageTower, Tokenizer};
use shared::shared;

/// A CLIP that ships, and what OpenAI's code computes from it.
fn published() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/published")
}

fn largest_gap(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b)
        .unwrap()
        .abs()
        .unwrap()
        .flatten_all()
        .unwrap()
        .max(0)
        .unwrap()
        .to_scalar()
        .unwrap()
}

fn expected(folder: &Path) -> (HashMap<String, Tensor>, Vec<String>) {
    let tensors =
        candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu).unwrap();
    let texts = std::fs::read_to_string(folder.join("texts.json")).unwrap();
    (tensors, serde_json::from_str(&texts).unwrap())
}

/// Compares features and logits of the CLIP in `folder/file` with the published ones in `folder`.
fn compare(folder: &Path, file: &str) {
    let (want, texts) = expected(folder);
    let clip = Clip::load(&folder.join(file)).unwrap();
    let images = clip.encode_image(&want["pixels"]).unwrap();
    let words = clip.encode_texts(&texts).unwrap();
    let gaps = [
        largest_gap(&images, &want["image_features"]),
        largest_gap(&words, &want["text_features"]),
    ];
    assert!(
        gaps.iter().all(|g| *g < 1e-4),
        "{file}: image and text features are off by {gaps:?}"
    );
    let (i, t) = (
        clip::model::unit(&images).unwrap(),
        clip::model::unit(&words).unwrap(),
    );
    let gap = largest_gap(&clip.logits(&i, &t).unwrap(), &want["logits"]);
    assert!(gap < 1e-4, "{file}: logits are off by {gap}");
}

#[test]
fn the_clip_that_ships_gives_the_published_features_and_logits() {
    compare(&published(), "openai.safetensors");
}

/// What pictures and texts become, and what names of kept pictures end in, with settings made in this order.
fn with(clip: &Clip, settings: &[&dyn Fn(&mut Clip)]) -> ([Vec<f32>; 2], String) {
    let mut clip = clip.clone();
    settings.iter().for_each(|set| set(&mut clip));
    let (want, texts) = expected(&published());
    let images = clip.encode_image(&want["pixels"]).unwrap();
    let words = clip.encode_texts(&texts).unwrap();
    let features = [images, words].map(|f| f.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    let name = clip.image_fingerprint();
    let suffix = name.strip_prefix(&clip.identity()).unwrap();
    (features, suffix.to_owned())
}

#[test]
fn arithmetics_and_bfloat16_have_names_of_their_own_and_their_order_changes_nothing() {
    let clip = Clip::load(&published().join("openai.safetensors")).unwrap();
    let emulated = |clip: &mut Clip| clip.use_arithmetic(Arithmetic::Emulated).unwrap();
    let rounded = |clip: &mut Clip| {
        let ImageTower::Transformer(tower) = &mut clip.image else {
            unreachable!("the CLIP that ships has a vision transformer")
        };
        tower.use_bfloat16().unwrap();
    };
    let portable = |clip: &mut Clip| clip.use_arithmetic(Arithmetic::Portable).unwrap();
    let halves = |clip: &mut Clip| clip.use_bfloat16x3().unwrap();
    let plain = with(&clip, &[]);
    let six = with(&clip, &[&emulated]);
    let split = with(&clip, &[&emulated, &halves]);
    let both = with(&clip, &[&emulated, &rounded]);
    assert_eq!(
        [&plain.1, &six.1, &split.1, &both.1],
        ["", "-amx", "-bfloat16x3-amx", "-bfloat16-amx"],
        "names of kept features"
    );
    let gap = |a: &[f32], b: &[f32]| {
        let gaps = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        gaps.fold(0f32, f32::max)
    };
    let size = plain.0[0].iter().fold(0f32, |m, v| m.max(v.abs()));
    // Both towers multiply in tiles; only pictures are rounded.
    for i in [0, 1] {
        assert_ne!(plain.0[i], six.0[i]);
        assert_ne!(six.0[i], split.0[i]);
        let off = [&six, &split].map(|other| gap(&plain.0[i], &other.0[i]));
        eprintln!(
            "six products are off by {:e}, three by {:e}",
            off[0], off[1]
        );
        assert!(off[0] < off[1] && off[1] < 1e-4);
    }
    assert_eq!(six.0[1], both.0[1]);
    let three = with(&clip, &[&emulated, &halves, &rounded]);
    assert_eq!(with(&clip, &[&emulated, &rounded, &halves]), three);
    assert_eq!((&three.0[0], &three.0[1]), (&both.0[0], &split.0[1]));
    assert_eq!(with(&clip, &[&emulated, &halves, &emulated]), split);
    let mut refused = clip.clone();
    let told = refused.use_bfloat16x3().unwrap_err().to_string();
    assert!(
        told.contains("bfloat16x3 needs arithmetic \"amx\" or \"emulated\""),
        "{told}"
    );
    emulated(&mut refused);
    halves(&mut refused);
    assert!(refused.use_arithmetic(Arithmetic::Portable).is_err());
    let off = gap(&plain.0[0], &both.0[0]) / size;
    assert!(off > 1e-4 && off < 5e-2, "bfloat16 is off by {off}");
    assert_eq!(with(&clip, &[&emulated, &portable]), plain);
    if clip::ops::bfloat::is_supported() {
        assert_eq!(with(&clip, &[&rounded, &emulated]), both);
        let pairs = with(&clip, &[&rounded]);
        assert_eq!(pairs.1, "-bfloat16");
        assert_eq!(with(&clip, &[&emulated, &rounded, &portable]), pairs);
        assert_ne!(pairs.0[0], both.0[0]);
    }
}

#[test]
fn every_shared_format_gives_the_published_features_and_logits() {
    let Some(folder) = shared("models/formats") else {
        return;
    };
    for file in [
        "openai.safetensors",
        "openai_torchscript.pt",
        "openai_state_dict.pt",
        "hf",
        "hf/pytorch_model.bin",
        "open_clip",
    ] {
        compare(&folder, file);
    }
}

#[test]
fn candle_transformers_agrees_on_the_same_file() {
    let Some(folder) = shared("models/formats") else {
        return;
    };
    let (want, texts) = expected(&folder);
    let mut config = theirs::ClipConfig::vit_base_patch32();
    let t = &mut config.text_config;
    (
        t.embed_dim,
        t.intermediate_size,
        t.num_hidden_layers,
        t.num_attention_heads,
    ) = (64, 256, 2, 1);
    let v = &mut config.vision_config;
    (
        v.embed_dim,
        v.intermediate_size,
        v.num_hidden_layers,
        v.num_attention_heads,
    ) = (128, 512, 2, 2);
    (v.image_size, v.patch_size, config.image_size) = (32, 8, 32);
    (
        config.text_config.projection_dim,
        config.vision_config.projection_dim,
    ) = (48, 48);
    let weights =
        candle_core::safetensors::load(folder.join("hf/model.safetensors"), &Device::Cpu).unwrap();
    let builder = candle_nn::VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    let model = theirs::ClipModel::new(builder, &config).unwrap();
    let ours = Clip::load(&folder.join("hf")).unwrap();
    let images = model.get_image_features(&want["pixels"]).unwrap();
    assert!(largest_gap(&ours.encode_image(&want["pixels"]).unwrap(), &images) < 1e-4);
    let ids: Vec<u32> = texts
        .iter()
        .flat_map(|t| Tokenizer::shared().padded(t).unwrap())
        .collect();
    let ids = Tensor::from_vec(ids, (texts.len(), 77), &Device::Cpu).unwrap();
    let words = model.get_text_features(&ids).unwrap();
    assert!(largest_gap(&ours.encode_texts(&texts).unwrap(), &words) < 1e-4);
}
