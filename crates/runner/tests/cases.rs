//! Situations from public bug reports of this and neighbouring programs, each with the thread it comes from.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]

#[allow(dead_code, reason = "the bed does more than these tests need")]
mod bed;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

use bed::{Answer, Bed};
use candle_core::{Device, Tensor};
use clip::weights::pickle::{self, Value};
use serde_json::json;

/// A CLIP without a configuration: the shipped one as a file.
const BARE: &[u8] = include_bytes!("../assets/drawn-clip.safetensors");

const ZERO_SHOT: &str = "version = 1\nprotocol = \"few-shot\"\nbackbone = \"drawn\"\n\
    datasets = [\"drawn-textures\"]\nshots = [1]\nseeds = [1]\n[[method]]\nname = \"zero-shot\"\n";

/// A zero-shot suite on a dataset of the bed's own.
fn suite_on(dataset: &str) -> String {
    ZERO_SHOT.replace("drawn-textures", dataset)
}

fn write(bed: &Bed, path: &str, bytes: impl AsRef<[u8]>) {
    let path = bed.path(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A picture of stripes, `width` by `height`: no two columns or rows are alike.
fn picture(bed: &Bed, path: &str, width: u32, height: u32) {
    let at = bed.path(path);
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    let pixel = |x: u32, y: u32| image::Rgb([(x * 5) as u8, (y * 7) as u8, (x * y) as u8]);
    let file = std::fs::File::create(at).unwrap();
    image::RgbImage::from_fn(width, height, pixel)
        .write_to(&mut std::io::BufWriter::new(file), image::ImageFormat::Png)
        .unwrap();
}

/// `promptbed ARGUMENTS`, which must end with this code.
fn ends(bed: &Bed, code: i32, arguments: &[&str]) -> Answer {
    let answer = bed.run(arguments);
    let (out, err) = (&answer.stdout, &answer.stderr);
    assert_eq!(answer.code, Some(code), "{arguments:?}\n{out}\n{err}");
    answer
}

fn features(bed: &Bed, file: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(bed.path(file), &Device::Cpu).unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    let most = |t: Tensor| {
        t.abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap()
    };
    most((a - b).unwrap()) / most(b.clone())
}

// cockroachdb/cockroach#14435
#[test]
fn a_tilde_that_no_shell_expands_is_the_home_folder() {
    let bed = Bed::with_suite(ZERO_SHOT);
    std::fs::create_dir(bed.path("home")).unwrap();
    let run = |out: &str| {
        let mut command = bed.command(&["run", "suite.toml", out]);
        let output = command.env("HOME", bed.path("home")).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    let (code, told) = run("--out=~/results");
    assert_eq!(code, Some(0), "{told}");
    assert!(bed.path("home/results/trials").is_dir() && !bed.path("~").exists());
    let (code, told) = run("--out=~nobody/results");
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("another user's home"), "{told}");
    assert!(!bed.path("~nobody").exists());
}

// OpenNeuroOrg/openneuro#2520: folders copied from a Mac
#[test]
fn what_is_no_picture_is_counted_and_said_by_every_verb() {
    let bed = Bed::with_suite(&suite_on("mine"));
    for class in ["cat", "dog"] {
        for i in 0..4 {
            picture(&bed, &format!("data/pics/{class}/{i}.png"), 40, 30);
        }
    }
    write(
        &bed,
        "data/pics/cat/._0.png",
        b"\0\x05\x16\x07\0\x02\0\0Mac OS X",
    );
    write(&bed, "data/pics/cat/notes.txt", b"x");
    write(
        &bed,
        "cat.toml",
        "[mine]\nimages = \"pics\"\nreader = \"class-folders\"\n",
    );
    let said = "2 files that are no pictures were passed over, first";
    let answer = ends(&bed, 0, &["predict", "data/pics", "--classes", "cat,dog"]);
    assert_eq!(answer.stdout.lines().count(), 8, "{}", answer.stdout);
    assert!(answer.stderr.contains(said), "{}", answer.stderr);
    let answer = ends(&bed, 0, &["encode", "--images", "data/pics", "--out", "f"]);
    assert!(answer.stderr.contains(said), "{}", answer.stderr);
    let of = ["--data", "data", "--catalogue", "cat.toml"];
    let check = [&["data", "check", "--dataset", "mine", "--deep"][..], &of].concat();
    let answer = ends(&bed, 0, &check);
    assert!(answer.stdout.contains(said), "{}", answer.stdout);
    let run = [&["run", "suite.toml", "--out", "out"][..], &of].concat();
    let answer = ends(&bed, 0, &run);
    assert!(answer.stderr.contains(said), "{}", answer.stderr);
    // It changes no number, so no table warns of it.
    assert!(!answer.stdout.contains("passed over"), "{}", answer.stdout);
}

#[test]
fn a_broken_picture_is_named_and_the_others_are_answered() {
    let bed = Bed::with_suite("");
    for i in 0..3 {
        picture(&bed, &format!("pics/{i}.png"), 40, 30);
    }
    write(&bed, "pics/1.png", b"no picture");
    let answer = ends(
        &bed,
        1,
        &["predict", "pics", "absent.png", "--classes", "cat,dog"],
    );
    let told: Vec<&str> = answer
        .stdout
        .lines()
        .map(|l| l.split(':').next().unwrap())
        .collect();
    assert_eq!(told, ["pics/0.png", "pics/2.png"]);
    for part in [
        "pics/1.png: not a",
        "absent.png: ",
        "2 of 4 pictures could not be read",
    ] {
        assert!(answer.stderr.contains(part), "{part}: {}", answer.stderr);
    }
    let answer = ends(&bed, 1, &["encode", "--images", "pics", "--out", "f"]);
    assert!(
        answer.stderr.contains("pics/1.png: not a"),
        "{}",
        answer.stderr
    );
    assert_eq!(features(&bed, "f")["image_features"].dim(0).unwrap(), 2);
    ends(&bed, 2, &["predict", "pics/1.png", "--classes", "cat,dog"]);
    ends(&bed, 2, &["encode", "--images", "pics/1.png", "--out", "g"]);
    assert!(!bed.path("g").exists());
}

// pytorch/vision#80: ImageFolder counts them, the published code does not
#[test]
fn pictures_in_subfolders_of_class_folders_are_said_to_be_passed_over() {
    let bed = Bed::with_suite("");
    for class in ["cat", "dog"] {
        for i in 0..4 {
            picture(&bed, &format!("data/pics/{class}/{i}.png"), 40, 30);
        }
    }
    for i in 4..7 {
        picture(&bed, &format!("data/pics/dog/more/{i}.png"), 40, 30);
    }
    write(
        &bed,
        "cat.toml",
        "[mine]\nimages = \"pics\"\nreader = \"class-folders\"\n",
    );
    let check = [
        "data",
        "check",
        "--data",
        "data",
        "--catalogue",
        "cat.toml",
        "--dataset",
        "mine",
    ];
    let answer = ends(&bed, 0, &check);
    let said = "3 more pictures lie in subfolders of class folders and were passed over, first data/pics/dog/more/4.png";
    assert!(answer.stdout.contains(said), "{}", answer.stdout);
    std::fs::remove_dir_all(bed.path("data/pics/cat")).unwrap();
    for i in 0..4 {
        picture(&bed, &format!("data/pics/cat/all/{i}.png"), 40, 30);
    }
    let answer = ends(&bed, 1, &check);
    let said = "holds no picture itself, but 4 in folders inside it";
    assert!(answer.stdout.contains(said), "{}", answer.stdout);
}

// huggingface/datasets#4015; pandas-dev/pandas#61296
#[test]
fn names_of_class_folders_and_titles_of_datasets_are_used() {
    let bed = Bed::with_suite(&suite_on("my-set"));
    for class in ["w01", "w02"] {
        for i in 0..4 {
            picture(&bed, &format!("data/pics/{class}/{i}.png"), 40, 30);
        }
    }
    write(&bed, "data/names.txt", "w01 cat\nw02 dog\n");
    let row = "[my-set]\ntitle = \"Pets at home\"\nimages = \"pics\"\nreader = \"class-folders\"\nnames = \"names.txt\"\n";
    write(&bed, "cat.toml", row);
    let run = [
        "run",
        "suite.toml",
        "--data",
        "data",
        "--catalogue",
        "cat.toml",
        "--out",
        "out",
    ];
    let answer = ends(&bed, 0, &run);
    let records = bed.records("out");
    let record = records.values().next().unwrap();
    let names: Vec<&str> = record["tests"][0]["classes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["cat", "dog"]);
    assert!(answer.stdout.contains("Pets at home"), "{}", answer.stdout);
    for (name, bytes) in bed.files("out/tables") {
        // What methods used names no dataset.
        let is_of_datasets = !name.contains("-methods.");
        if is_of_datasets && (name.ends_with(".md") || name.ends_with(".tex")) {
            let text = String::from_utf8(bytes).unwrap();
            assert!(
                text.contains("Pets at home") && !text.contains("my-set"),
                "{name}: {text}"
            );
        }
    }
    ends(&bed, 0, &["report", "out", "--out", "r.html"]);
    let page = std::fs::read_to_string(bed.path("r.html")).unwrap();
    assert!(page.contains("Pets at home"));
    // A folder that the file does not name is an error, as under `parts`.
    write(&bed, "data/names.txt", "w01 cat\n");
    let answer = ends(&bed, 2, &run);
    assert!(
        answer.stderr.contains("\"w02\" is not in names.txt"),
        "{}",
        answer.stderr
    );
}

// bubbliiiing/clip-pytorch#14
#[test]
fn a_split_file_of_windows_is_that_of_any_machine() {
    let bed = Bed::with_suite("");
    let split = |slash: &str| {
        let list = |range: std::ops::Range<u32>| -> Vec<_> {
            (0..2)
                .flat_map(|c| {
                    let name = ["cat", "dog"][c as usize];
                    range
                        .clone()
                        .map(move |i| json!([format!("c{c}{slash}{i}.png"), c, name]))
                })
                .collect()
        };
        json!({"train": list(0..2), "val": [], "test": list(2..4)}).to_string()
    };
    for class in 0..2 {
        for i in 0..4 {
            picture(&bed, &format!("pics/c{class}/{i}.png"), 40, 30);
        }
    }
    let row = "[mine]\nimages = \"pics\"\nreader = \"split-json\"\nsplit = \"split.json\"\n";
    write(&bed, "cat.toml", row);
    let check = [
        "data",
        "check",
        "--data",
        ".",
        "--catalogue",
        "cat.toml",
        "--dataset",
        "mine",
    ];
    let picks = [
        "data",
        "picks",
        "--split-file",
        "split.json",
        "--shots",
        "1",
        "--seed",
        "1",
    ];
    write(&bed, "split.json", split("/"));
    let drawn = ends(&bed, 0, &picks).stdout;
    write(&bed, "split.json", split("\\"));
    let answer = ends(&bed, 0, &check);
    assert!(
        answer.stdout.contains("mine     present"),
        "{}",
        answer.stdout
    );
    assert_eq!(ends(&bed, 0, &picks).stdout, drawn);
    // It leads out of the folder all the same.
    write(&bed, "split.json", split("\\..\\..\\"));
    let answer = ends(&bed, 1, &check);
    assert!(answer.stdout.contains("leads outside"), "{}", answer.stdout);
}

// tmlr-group/SCT, classnames.txt
#[test]
fn ids_in_front_of_class_names_are_no_part_of_them() {
    let bed = Bed::with_suite("");
    picture(&bed, "p.png", 40, 30);
    let predict = ["predict", "p.png", "--classes-file", "names.txt"];
    write(&bed, "names.txt", "cat\ndog\n");
    let plain = ends(&bed, 0, &predict).stdout;
    write(&bed, "names.txt", "n02123045 cat\r\nn02084071\tdog\r\n");
    let answer = ends(&bed, 0, &predict);
    assert_eq!(answer.stdout, plain);
    assert!(
        answer.stderr.contains("WordNet ids stand in front"),
        "{}",
        answer.stderr
    );
    write(&bed, "names.txt", "[\"cat\", \"dog\"]");
    assert_eq!(ends(&bed, 0, &predict).stdout, plain);
}

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
        answer.stderr.contains("quick-gelu or gelu"),
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
    write(&bed, "siglip/config.json", "{\"model_type\": \"siglip\"}");
    let answer = ends(&bed, 2, &["model", "check", "siglip"]);
    assert!(
        answer.stderr.contains("\"siglip\", SigLIP"),
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

// sharkdp/fd#737; torognes/vsearch#243
#[test]
#[cfg(target_os = "linux")]
fn a_result_that_cannot_be_printed_is_an_error_said_once() {
    let bed = Bed::with_suite(ZERO_SHOT);
    picture(&bed, "p.png", 40, 30);
    let split = json!({"train": [["a", 0, "a"]], "val": [], "test": [["b", 0, "a"]]});
    write(&bed, "split.json", split.to_string());
    ends(&bed, 0, &["run", "suite.toml", "--out", "done"]);
    for arguments in [
        &["methods"][..],
        &["data", "list"],
        &[
            "data",
            "picks",
            "--split-file",
            "split.json",
            "--shots",
            "1",
            "--seed",
            "1",
        ],
        &["data", "check", "--data", "."],
        &["data", "pixels", "p.png", "--size", "8"],
        &["model", "list"],
        &["model", "check", "drawn"],
        &["predict", "p.png", "--classes", "cat,dog"],
        &["encode", "--images", "p.png", "--out", "f"],
        &["run", "suite.toml", "--out", "done"],
        &["run", "suite.toml", "--dry-run"],
        &["table", "done"],
        &["report", "done"],
        &["compare", "done", "done"],
        &["cache", "list", "."],
        &["run", "--help"],
        &["--help"],
        &["--version"],
    ] {
        let full = || {
            Stdio::from(
                std::fs::File::options()
                    .write(true)
                    .open("/dev/full")
                    .unwrap(),
            )
        };
        let output = bed.command(arguments).stdout(full()).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        let lines: Vec<&str> = told.lines().filter(|l| l.starts_with("error:")).collect();
        assert_eq!(lines.len(), 1, "{arguments:?}: {told}");
        assert!(
            lines[0].contains("standard output: cannot be written"),
            "{told}"
        );
    }
    // A reader that went away is no error.
    let mut child = bed
        .command(&["methods"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

#[test]
#[cfg(unix)]
fn outputs_that_are_no_plain_files_stay_what_they_are() {
    let bed = Bed::with_suite("");
    picture(&bed, "p.png", 40, 30);
    let encode = |out: &str| ["encode", "--images", "p.png", "--out", out].map(str::to_owned);
    let run = |code: i32, out: &str| {
        let arguments = encode(out);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        ends(&bed, code, &arguments)
    };
    run(0, "whole");
    let whole = std::fs::read(bed.path("whole")).unwrap();
    // A link is followed, over several links, and one that leads nowhere yet makes its file.
    std::fs::create_dir(bed.path("far")).unwrap();
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, bed.path(at)).unwrap();
    write(&bed, "far/file", b"old");
    link("far/file", "one");
    link("one", "two");
    run(0, "two");
    assert!(bed.path("one").is_symlink() && bed.path("two").is_symlink());
    assert_eq!(std::fs::read(bed.path("far/file")).unwrap(), whole);
    link("far/new", "dangling");
    run(0, "dangling");
    assert!(bed.path("dangling").is_symlink());
    assert_eq!(std::fs::read(bed.path("far/new")).unwrap(), whole);
    link("knot", "knot");
    assert!(run(2, "knot").stderr.contains("leads to itself"));
    // A folder is refused and kept.
    let answer = run(2, "far");
    assert!(
        answer.stderr.contains("far: is a folder"),
        "{}",
        answer.stderr
    );
    assert!(bed.path("far/file").is_file());
    // A device is written to.
    run(0, "/dev/null");
    let kind = std::fs::metadata("/dev/null").unwrap().file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&kind));
    // A pipe too: whoever reads it gets the bytes.
    let made = std::process::Command::new("mkfifo")
        .arg(bed.path("pipe"))
        .status();
    if made.is_ok_and(|s| s.success()) {
        let path = bed.path("pipe");
        let reader = std::thread::spawn(move || std::fs::read(path).unwrap());
        run(0, "pipe");
        assert_eq!(reader.join().unwrap(), whole);
        let kind = std::fs::symlink_metadata(bed.path("pipe"))
            .unwrap()
            .file_type();
        assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind));
    } else {
        eprintln!("skipped: a pipe, there is no mkfifo");
    }
    // Standard output is written through, before the lines that tell what was written.
    if Path::new("/dev/stdout").exists() {
        let output = bed
            .command(&["encode", "--images", "p.png", "--out", "/dev/stdout"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stdout.starts_with(&whole));
    }
    let names = std::fs::read_dir(bed.path(".")).unwrap();
    let names = names.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let left: Vec<String> = names.filter(|n| n.ends_with(".tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
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

#[test]
fn a_reason_that_many_trials_share_is_told_once() {
    let suite = suite_on("mine")
        .replace("zero-shot", "coop")
        .replace("seeds = [1]", "seeds = [1, 2, 3]");
    let bed = Bed::with_suite(&suite);
    let long = "very ".repeat(90);
    let list = |range: std::ops::Range<u32>| -> Vec<_> {
        let named = [(0, long.trim()), (1, "dog")];
        let of = |(c, name)| {
            range
                .clone()
                .map(move |i| json!([format!("c{c}/{i}.png"), c, name]))
        };
        named.into_iter().flat_map(of).collect()
    };
    let split = json!({"train": list(0..2), "val": [], "test": list(2..4)});
    for class in 0..2 {
        for i in 0..4 {
            picture(&bed, &format!("pics/c{class}/{i}.png"), 40, 30);
        }
    }
    write(&bed, "split.json", split.to_string());
    let row = "[mine]\nimages = \"pics\"\nreader = \"split-json\"\nsplit = \"split.json\"\n";
    write(&bed, "cat.toml", row);
    let run = [
        "run",
        "suite.toml",
        "--data",
        ".",
        "--catalogue",
        "cat.toml",
        "--out",
        "out",
    ];
    let answer = ends(&bed, 1, &run);
    for text in [&answer.stdout, &answer.stderr] {
        assert_eq!(
            text.matches("very very").count().min(1),
            text.matches("tokens").count().min(1)
        );
        assert!(text.matches("tokens").count() <= 1, "{text}");
        assert_eq!(text.matches(": as ").count(), 2, "{text}");
    }
}
