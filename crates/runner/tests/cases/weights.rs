//! Weights: files, folders, names, and what nothing beside them says.

use super::*;

/// A checkpoint of the bare CLIP with `args = argparse.Namespace(lr=1)` beside its `state_dict`.
fn checkpoint_with_namespace(bed: &Bed, name: &str) {
    let bare = bed.path("bare.safetensors");
    std::fs::write(&bare, BARE).unwrap();
    let tensors = candle_core::safetensors::load(&bare, &Device::Cpu).unwrap();
    let state = tensors.into_iter().map(|(n, t)| (format!("module.{n}"), t));
    let mut state: Vec<(String, Tensor)> = state.collect();
    state.sort_by(|a, b| a.0.cmp(&b.0));
    let plain = bed.path("plain.pt");
    let checkpoint = Value::Dict(vec![
        ("epoch".into(), Value::Int(5)),
        ("state_dict".into(), Value::State(state)),
    ]);
    pickle::write(&plain, &checkpoint).unwrap();
    let mut from = zip::ZipArchive::new(std::fs::File::open(&plain).unwrap()).unwrap();
    let mut to = zip::ZipWriter::new(std::fs::File::create(bed.path(name)).unwrap());
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for i in 0..from.len() {
        let mut record = from.by_index(i).unwrap();
        let mut bytes = Vec::new();
        record.read_to_end(&mut bytes).unwrap();
        let name = record.name().unwrap().into_owned();
        if name.ends_with("data.pkl") {
            // Before the items of the outermost dictionary are set: one more.
            let more =
                b"X\x04\x00\x00\x00argscargparse\nNamespace\n)\x81}(X\x02\x00\x00\x00lrK\x01ub";
            let end = bytes.len() - 2;
            assert_eq!(&bytes[end..], b"u.");
            bytes.splice(end..end, more.iter().copied());
        }
        to.start_file(name, stored).unwrap();
        to.write_all(&bytes).unwrap();
    }
    to.finish().unwrap();
}

// jtabox/safetensors-converter#2
#[test]
fn classes_beside_the_weights_are_skipped_and_named() {
    let bed = Bed::with_suite("");
    checkpoint_with_namespace(&bed, "checkpoint_best.pt");
    write(&bed, "texts.json", "[\"a photo of a cat.\"]");
    let encode = |model: &str, out: &str| {
        ends(
            &bed,
            0,
            &[
                "encode",
                "--model",
                model,
                "--texts",
                "texts.json",
                "--out",
                out,
            ],
        )
    };
    let answer = encode("checkpoint_best.pt", "f");
    assert!(
        answer
            .stderr
            .contains("argparse.Namespace; skipped as data, not executed"),
        "{}",
        answer.stderr
    );
    encode("drawn", "g");
    let [read, expected] = ["f", "g"].map(|f| features(&bed, f)["text_features"].clone());
    assert_eq!(difference(&read, &expected), 0.0);
}

// mlfoundations/open_clip#771; RAIVNLab/sugar-crepe#7: weights without a configuration
#[test]
fn what_is_assumed_of_bare_weights_is_said_and_can_be_given() {
    let bed = Bed::with_suite(ZERO_SHOT);
    write(&bed, "bare.safetensors", BARE);
    let assumed = "QuickGELU assumed, as in OpenAI's weights; attention heads of";
    let check = |more: &[&str]| {
        let arguments = [&["model", "check", "bare.safetensors"][..], more].concat();
        ends(&bed, 0, &arguments)
    };
    let answer = check(&[]);
    assert!(answer.stderr.contains(assumed), "{}", answer.stderr);
    assert!(
        answer.stdout.contains("QuickGelu (assumed)"),
        "{}",
        answer.stdout
    );
    let run = |out: &str, more: &[&str]| {
        let model = [
            "run",
            "suite.toml",
            "--model",
            "bare.safetensors",
            "--out",
            out,
        ];
        ends(&bed, 0, &[&model[..], more].concat())
    };
    assert!(run("out", &[]).stderr.contains(assumed));

    let given = ["--activation", "gelu", "--heads", "1,1"];
    let answer = check(&given);
    assert!(!answer.stderr.contains("assumed"), "{}", answer.stderr);
    let line = answer
        .stdout
        .lines()
        .find(|l| l.starts_with("fingerprint"))
        .unwrap()
        .to_owned();
    assert!(line.contains("-gelu-heads1x1"), "{line}");
    // The same weights run otherwise are another trial, not the one that is finished.
    assert!(
        run("out", &given)
            .stderr
            .contains("1 trials finished, 0 were before")
    );
    assert_eq!(bed.records("out").len(), 2);

    // The same in a file beside them.
    write(
        &bed,
        "bare.safetensors.toml",
        "activation = \"gelu\"\nimage_heads = 1\ntext_heads = 1\n",
    );
    assert!(check(&[]).stdout.contains(&line));
    write(&bed, "bare.safetensors.toml", "activaton = \"gelu\"\n");
    let answer = ends(&bed, 2, &["model", "check", "bare.safetensors"]);
    assert!(
        answer
            .stderr
            .contains("bare.safetensors.toml: unknown field `activaton`"),
        "{}",
        answer.stderr
    );
    let answer = ends(
        &bed,
        2,
        &["model", "check", "drawn", "--activation", "gelu"],
    );
    assert!(answer.stderr.contains("drawn has one"), "{}", answer.stderr);
    let answer = ends(
        &bed,
        2,
        &["model", "check", "drawn", "--activation", "relu"],
    );
    assert!(
        answer.stderr.contains("quick-gelu, gelu or gelu-tanh"),
        "{}",
        answer.stderr
    );
}

// mlfoundations/open_clip#204; SigLIP's, CLIPA's and DFN's folders
#[test]
fn pictures_are_made_ready_as_the_configuration_says() {
    let bed = Bed::with_suite("");
    write(&bed, "m/open_clip_model.safetensors", BARE);
    picture(&bed, "p.png", 90, 50);
    let weights = clip::weights::open(&bed.path("m/open_clip_model.safetensors")).unwrap();
    let size = weights.architecture.image.image_size();
    let [(image_heads, width), (text_heads, _)] = weights.architecture.heads();
    let config = |preprocess: serde_json::Value| {
        let config = json!({
            "model_cfg": {"quick_gelu": true, "vision_cfg": {"head_width": width / image_heads},
                "text_cfg": {"heads": text_heads}},
            "preprocess_cfg": preprocess,
        });
        write(&bed, "m/open_clip_config.json", config.to_string());
    };
    let photo = datasets::open_picture(&bed.path("p.png")).unwrap();
    let expected = |view: &datasets::Rgb, mean: [f32; 3], std: [f32; 3]| {
        let mut pixels = vec![0.0; 3 * size * size];
        datasets::transform::normalise_by(view, mean, std, &mut pixels);
        let pixels = Tensor::from_vec(pixels, (1, 3, size, size), &Device::Cpu).unwrap();
        let bytes = safetensors::serialize([("pixels", &pixels)], None).unwrap();
        write(&bed, "pixels", bytes);
        ends(
            &bed,
            0,
            &["encode", "--model", "m", "--pixels", "pixels", "--out", "e"],
        );
        features(&bed, "e")["image_features"].clone()
    };
    let found = || {
        ends(
            &bed,
            0,
            &["encode", "--model", "m", "--images", "p.png", "--out", "f"],
        );
        features(&bed, "f")["image_features"].clone()
    };
    use datasets::transform::{CLIP_MEAN, CLIP_STD, Filter, Region, resize, test_view};
    let whole = Region::whole(&photo);
    config(json!({}));
    let usual = found();
    assert_eq!(
        difference(
            &usual,
            &expected(&test_view(&photo, size), CLIP_MEAN, CLIP_STD)
        ),
        0.0
    );
    config(json!({"mean": [0.5, 0.5, 0.5], "std": 0.5}));
    let other = found();
    assert!(difference(&other, &usual) > 1e-3);
    assert_eq!(
        difference(
            &other,
            &expected(&test_view(&photo, size), [0.5; 3], [0.5; 3])
        ),
        0.0
    );
    config(json!({"resize_mode": "squash"}));
    let squashed = resize(&photo, whole, size, size, Filter::Bicubic);
    assert_eq!(
        difference(&found(), &expected(&squashed, CLIP_MEAN, CLIP_STD)),
        0.0
    );
    config(json!({"resize_mode": "squash", "interpolation": "bilinear"}));
    let squashed = resize(&photo, whole, size, size, Filter::Bilinear);
    assert_eq!(
        difference(&found(), &expected(&squashed, CLIP_MEAN, CLIP_STD)),
        0.0
    );
    config(json!({"resize_mode": "longest"}));
    let answer = ends(
        &bed,
        2,
        &["encode", "--model", "m", "--images", "p.png", "--out", "f"],
    );
    assert!(
        answer.stderr.contains("preprocess_cfg.resize_mode"),
        "{}",
        answer.stderr
    );
}

// huggingface/transformers#8497; microsoft/OmniParser#34
#[test]
fn files_that_are_no_weights_are_called_what_they_are() {
    let bed = Bed::with_suite("");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 605247071\n";
    for (name, bytes, told) in [
        ("model.safetensors", pointer.as_bytes(), "Git LFS pointer"),
        ("model.bin", b"<!DOCTYPE html><html>", "web page"),
        ("empty.pt", b"", "is empty"),
        ("packed.pt", b"\x1f\x8b\x08\x00", "gzip"),
    ] {
        write(&bed, name, bytes);
        let answer = ends(&bed, 2, &["model", "check", name]);
        assert!(answer.stderr.contains(told), "{name}: {}", answer.stderr);
        assert_eq!(answer.stderr.lines().count(), 1, "{}", answer.stderr);
    }
    // A folder of another model, and one whose files are of another framework.
    write(&bed, "siglip/model.safetensors", BARE);
    write(&bed, "siglip/config.json", "{\"model_type\": \"siglip2\"}");
    let answer = ends(&bed, 2, &["model", "check", "siglip"]);
    assert!(
        answer.stderr.contains("\"siglip2\", SigLIP"),
        "{}",
        answer.stderr
    );
    write(&bed, "flax/flax_model.msgpack", b"x");
    let answer = ends(&bed, 2, &["model", "check", "flax"]);
    assert!(
        answer.stderr.contains("weights of Flax"),
        "{}",
        answer.stderr
    );
    write(&bed, "cache/ViT-B-16.pt", b"x");
    let answer = ends(&bed, 2, &["model", "check", "cache"]);
    assert!(
        answer.stderr.contains("if ViT-B-16.pt is meant"),
        "{}",
        answer.stderr
    );
}

#[test]
fn backbones_go_by_the_names_people_type() {
    let bed = Bed::with_suite(&ZERO_SHOT.replace("\"drawn\"", "\"ViT-B/16\""));
    let absent = |model: &str| ends(&bed, 2, &["model", "check", model]).stderr;
    for name in [
        "ViT-B/16",
        "ViT-B-16",
        "openai/clip-vit-base-patch16",
        "clip-vit-b16",
    ] {
        let told = absent(name);
        assert!(
            told.contains("`promptbed model fetch clip-vit-b16`"),
            "{name}: {told}"
        );
    }
    let told = absent("ViT-B/17");
    assert!(told.contains("did you mean `clip-vit-b16`?"), "{told}");
    let told = ends(&bed, 2, &["run", "suite.toml"]).stderr;
    assert!(
        told.contains("`promptbed model fetch clip-vit-b16`"),
        "{told}"
    );
    ends(&bed, 0, &["run", "suite.toml", "--dry-run"]);

    // A repository's folder in the hub's cache, by its path and by its name.
    let commit = "57c216476eefef5ab752ec549e440a49ae4ae5f3";
    let folder = "home/hub/models--some--repo";
    write(
        &bed,
        &format!("{folder}/snapshots/{commit}/open_clip_model.safetensors"),
        BARE,
    );
    ends(&bed, 0, &["model", "check", folder]);
    ends(&bed, 0, &["model", "check", "some/repo"]);
    write(
        &bed,
        &format!("{folder}/snapshots/{}/x", "0".repeat(40)),
        b"",
    );
    let told = absent(folder);
    assert!(told.contains("holds 2 commits"), "{told}");
    write(&bed, &format!("{folder}/refs/main"), commit);
    ends(&bed, 0, &["model", "check", folder]);
}
