//! Weights that come without a configuration: what is assumed, what can be given, and that it is obeyed.

use super::*;
use clip::changes::BlockChange;
use clip::ops::{Block, Layout, composed};
use clip::weights::Given;
use std::sync::Arc;

fn bare() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("bare.safetensors");
    save(&tiny(), &path);
    (folder, path)
}

#[test]
fn what_is_assumed_of_bare_weights_is_said() {
    let (folder, path) = bare();
    let said = open(&path).assumed.sentence().unwrap();
    assert!(
        said.contains("QuickGELU assumed") && said.contains("heads of 64 assumed"),
        "{said}"
    );

    // Of a checkpoint of open_clip's trainer, its own default is.
    let state: Vec<(String, Tensor)> = tiny()
        .into_iter()
        .map(|(n, t)| (format!("module.{n}"), t))
        .collect();
    let trained = |name: &str| {
        let path = folder.path().join("epoch_32.pt");
        let checkpoint = Value::Dict(vec![
            ("epoch".into(), Value::Int(32)),
            ("name".into(), Value::Text(name.to_owned())),
            ("state_dict".into(), Value::State(state.clone())),
        ]);
        pickle::write(&path, &checkpoint).unwrap();
        let weights = open(&path);
        (weights.activation, weights.assumed.sentence().unwrap())
    };
    let (activation, said) = trained("my-run");
    assert_eq!(activation, Activation::Gelu);
    assert!(
        said.contains("GELU assumed") && said.contains("my-run"),
        "{said}"
    );
    let (activation, said) = trained("2024-model_ViT-B-32-quickgelu-lr_0.001");
    assert_eq!(activation, Activation::QuickGelu);
    assert!(said.contains("QuickGELU assumed"), "{said}");
}

#[test]
fn the_program_of_an_archive_says_its_activation_or_nothing_does() {
    // The fixture's MLP has an identity for its activation: nothing in it says which it was.
    let scripted = open(&fixture("tiny-torchscript.pt"));
    assert!(scripted.assumed.activation.is_some());
    let Some(folder) = shared("models/formats") else {
        return;
    };
    let published = open(&folder.join("openai_torchscript.pt"));
    assert_eq!(published.activation, Activation::QuickGelu);
    assert_eq!(published.assumed.sentence(), None);
}

#[test]
fn what_is_given_is_obeyed_and_told_apart() {
    let (_folder, path) = bare();
    let plain = open(&path);
    assert_eq!(plain.identity().unwrap(), print_of(&plain));
    let given = Given {
        activation: Some(Activation::Gelu),
        image_heads: Some(4),
        text_heads: Some(2),
        mean: Some([0.5; 3]),
        ..Given::default()
    };
    let weights = weights::open_as(&path, &given).unwrap();
    assert_eq!(weights.activation, Activation::Gelu);
    assert_eq!(weights.architecture.heads(), [(4, 64), (2, 64)]);
    assert_eq!(weights.look.mean, [0.5; 3]);
    assert_eq!(weights.assumed.sentence(), None);
    // The tensors are the same, what they compute is not.
    assert_eq!(print_of(&weights), print_of(&plain));
    let identity = weights.identity().unwrap();
    assert!(identity.contains("-gelu-heads4x2-pictures"), "{identity}");
    let clip = Clip::from_weights(&weights).unwrap();
    assert_eq!(clip.identity(), identity);
    assert!(clip.image_fingerprint().starts_with(&identity));
    let heads = clip.transformer().unwrap().work(1, 0);
    assert!(heads.forward > 0.0);

    let refused = |given: Given| weights::open_as(&path, &given).unwrap_err().to_string();
    let error = refused(Given {
        image_heads: Some(5),
        text_heads: Some(0),
        ..Given::default()
    });
    assert!(
        error.contains("image heads: 5 is given") && error.lines().count() == 2,
        "{error}"
    );
    let error = refused(Given {
        deviation: Some([0.5, 0.0, 0.5]),
        ..Given::default()
    });
    assert!(error.contains("divided by 0"), "{error}");

    // A configuration that says otherwise is named.
    let folder = TempDir::new().unwrap();
    save(&tiny(), &folder.path().join("open_clip_model.safetensors"));
    std::fs::write(folder.path().join("open_clip_config.json"), OPEN_CLIP).unwrap();
    let given = Given {
        activation: Some(Activation::QuickGelu),
        text_heads: Some(2),
        ..Given::default()
    };
    let error = weights::open_as(folder.path(), &given)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("QuickGelu is given, but") && error.contains("says Gelu"),
        "{error}"
    );
    assert!(error.contains("2 heads is given, but"), "{error}");
}

/// Weights of a CLIP whose towers are `width` wide.
fn of_width(width: usize) -> Tensors {
    let shapes = published_names::shapes(&Sizes {
        width,
        joint: 8,
        layers: 1,
        tokens: 5,
        places: 5,
        patch: 4,
    });
    let small = |(seed, (name, shape)): (usize, (String, Vec<usize>))| {
        (name, (tensor(seed, &shape) * 0.2).unwrap())
    };
    let mut tensors: Tensors = shapes.into_iter().enumerate().map(small).collect();
    let ids = Tensor::new(&[0i64, 320, 343, 49406, 49407], &Device::Cpu).unwrap();
    tensors.insert("token_embedding.ids".to_owned(), ids);
    tensors
}

#[test]
fn heads_of_any_width_run_as_candles_own_operations_have_them() {
    let folder = TempDir::new().unwrap();
    for (width, heads) in [(160, 2), (176, 2), (208, 2), (224, 2), (96, 12), (60, 3)] {
        let path = folder.path().join("x.safetensors");
        save(&of_width(width), &path);
        let given = Given {
            image_heads: Some(heads),
            text_heads: Some(heads),
            ..Given::default()
        };
        let weights = weights::open_as(&path, &given).unwrap();
        let clip = Clip::from_weights(&weights).unwrap();
        let shape = clip::ops::BlockShape {
            width,
            heads,
            hidden: 4 * width,
            activation: Activation::QuickGelu,
            norms: clip::ops::Norms::Clip,
        };
        let tensors = clip.tensors().unwrap();
        let theta: Vec<Tensor> = clip::ops::block::PARTS
            .iter()
            .map(|part| {
                let name = format!("visual.transformer.resblocks.0.{part}");
                tensors[&name].flatten_all().unwrap()
            })
            .collect();
        let block = Block::new(shape, Tensor::cat(&theta, 0).unwrap());
        let layout = Arc::new(Layout::full(2, 5));
        let x = tensor(3, &[10, width]);
        let fast = block.forward(&x, &layout, None).unwrap();
        let slow = composed::block(&block, &x, &layout, None, &BlockChange::default()).unwrap();
        let most = |t: Tensor| {
            t.abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
        };
        let difference = most((&fast - &slow).unwrap()) / most(slow);
        assert!(difference < 1e-5, "{width}/{heads}: {difference}");
    }
}

#[test]
fn widths_of_released_models_have_their_heads() {
    let heads = |width: usize| clip_heads(width);
    for (width, image, text) in [
        (1280, 16, 20),
        (1408, 16, 22),
        (1664, 16, 26),
        (1024, 16, 16),
    ] {
        assert_eq!(heads(width), [(image, width), (text, width)]);
    }
}

/// Heads assumed of towers of a width.
fn clip_heads(width: usize) -> [(usize, usize); 2] {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let shapes = published_names::shapes(&Sizes {
        width,
        joint: 8,
        layers: 1,
        tokens: 5,
        places: 5,
        patch: 4,
    });
    let zeros = |(name, shape): (String, Vec<usize>)| {
        (
            name,
            Tensor::zeros(shape, DType::F16, &Device::Cpu).unwrap(),
        )
    };
    let mut tensors: Tensors = shapes.into_iter().map(zeros).collect();
    let ids = Tensor::new(&[0i64, 320, 343, 49406, 49407], &Device::Cpu).unwrap();
    tensors.insert("token_embedding.ids".to_owned(), ids);
    save(&tensors, &path);
    open(&path).architecture.heads()
}
