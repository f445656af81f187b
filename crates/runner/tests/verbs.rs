//! What verbs besides `run` do on real files: prompts out and in again, features, picks, pixels, reports.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

mod bed;

use bed::{Answer, Bed};
use candle_core::{Device, Tensor};
use serde_json::Value;

const SUITE: &str = r#"
version  = 1
protocol = "base-to-novel"
datasets = ["drawn-textures"]
shots    = [1]
seeds    = [1]
views    = "none"

[[method]]
name   = "coop"
epochs = 2
config = { n_ctx = 4, init = "a photo of a" }

[[method]]
name   = "maple"
epochs = 1
batch  = 8
"#;

fn fine(answer: Answer) -> String {
    assert_eq!(answer.code, Some(0), "{}\n{}", answer.stdout, answer.stderr);
    answer.stdout
}

/// A finished run of [`SUITE`], in `out`.
fn run() -> Bed {
    let bed = Bed::with_suite(SUITE);
    fine(bed.run(&["run", "suite.toml", "--out", "out"]));
    bed
}

fn prompts(bed: &Bed, method: &str) -> String {
    let files = bed.files("out/prompts");
    let name = files.keys().find(|n| n.starts_with(method)).unwrap();
    format!("out/prompts/{name}")
}

/// Correct pictures of a class set, as the trial's record has it.
fn recorded(bed: &Bed, method: &str, class_set: &str) -> Value {
    let records = bed.records("out");
    let (_, record) = records.iter().find(|(n, _)| n.starts_with(method)).unwrap();
    let tests = record["tests"].as_array().unwrap();
    tests.iter().find(|t| t["class_set"] == class_set).unwrap()["correct"].clone()
}

fn evaluated(bed: &Bed, more: &[&str]) -> Value {
    let arguments = [&["eval", "--dataset", "drawn-textures", "--json"], more].concat();
    let told: Value = serde_json::from_str(&fine(bed.run(&arguments))).unwrap();
    told["correct"].clone()
}

#[test]
fn saved_and_exported_prompts_give_the_accuracy_of_their_trial() {
    let bed = run();
    for (method, checkpoint) in [
        ("coop", "ck/prompt_learner/model.pth.tar-2"),
        ("maple", "ck/MultiModalPromptLearner/model.pth.tar-1"),
    ] {
        let file = prompts(&bed, method);
        fine(bed.run(&[
            "export",
            "--prompts",
            &file,
            "--format",
            "dassl",
            "--out",
            "ck",
        ]));
        for half in ["base", "novel"] {
            let expected = recorded(&bed, method, half);
            assert_eq!(
                evaluated(&bed, &["--prompts", &file, "--split", half]),
                expected,
                "{method} {half}"
            );
            let mut more = vec!["--prompts", checkpoint, "--method", method, "--split", half];
            if method == "coop" {
                more.extend(["--set", "n_ctx=4"]);
            }
            assert_eq!(
                evaluated(&bed, &more),
                expected,
                "{method} {half}, exported"
            );
        }
    }
}

#[test]
fn prompts_of_another_size_or_unknown_kind_are_refused_by_name() {
    let bed = run();
    let file = prompts(&bed, "coop");
    fine(bed.run(&["export", "--prompts", &file, "--out", "ck"]));
    let checkpoint = "ck/prompt_learner/model.pth.tar-2";
    let eval = |more: &[&str]| {
        let answer = bed.run(&[&["eval", "--dataset", "drawn-textures"], more].concat());
        assert_eq!(answer.code, Some(2), "{}", answer.stderr);
        answer.stderr
    };
    let told = eval(&["--prompts", checkpoint]);
    assert!(told.contains("--method"), "{told}");
    let told = eval(&[
        "--prompts",
        checkpoint,
        "--method",
        "coop",
        "--set",
        "n_ctx=8",
    ]);
    assert!(told.contains("prompt_learner.ctx is [4, 128]"), "{told}");
    let told = eval(&[
        "--prompts",
        checkpoint,
        "--method",
        "coop",
        "--set",
        "n_cxt=4",
    ]);
    assert!(told.contains("n_ctx"), "{told}");
    let told = eval(&["--prompts", "suite.toml", "--method", "coop"]);
    assert!(told.contains("suite.toml"), "{told}");
}

#[test]
fn words_near_an_unmoved_context_are_the_words_it_started_from() {
    let bed = run();
    let table = fine(bed.run(&["words", "--prompts", &prompts(&bed, "coop"), "--top", "1"]));
    let rows: Vec<&str> = table.lines().skip(2).collect();
    assert_eq!(rows.len(), 4, "{table}");
    for (row, word) in rows.iter().zip(["a ", "photo ", "of ", "a "]) {
        let nearest = row.split('|').nth(3).unwrap().trim();
        assert!(nearest.starts_with(word), "{row}");
    }
}

#[test]
fn encode_writes_tokens_and_features_of_unit_length_when_asked() {
    let bed = Bed::with_suite("");
    std::fs::write(
        bed.path("texts.json"),
        r#"["a photo of a cat.", "a photo of a dog."]"#,
    )
    .unwrap();
    let arguments = [
        "encode",
        "--texts",
        "texts.json",
        "--normalize",
        "--out",
        "f.safetensors",
    ];
    fine(bed.run(&arguments));
    let out = candle_core::safetensors::load(bed.path("f.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(out["tokens"].dims(), [2, 77]);
    let first: Vec<i64> = out["tokens"].get(0).unwrap().to_vec1().unwrap();
    assert_eq!(first[..7], [49406, 320, 1125, 539, 320, 2368, 269]);
    let squares: Vec<f32> = Tensor::sum(&out["text_features"].sqr().unwrap(), 1)
        .unwrap()
        .to_vec1()
        .unwrap();
    assert!(
        squares.iter().all(|s| (s - 1.0).abs() < 1e-5),
        "{squares:?}"
    );
    let nothing = bed.run(&["encode", "--out", "f.safetensors"]);
    assert_eq!(nothing.code, Some(2));
    assert!(
        nothing.stderr.contains("nothing to encode"),
        "{}",
        nothing.stderr
    );
}

#[test]
fn picks_need_no_pictures_and_halve_like_the_papers() {
    let bed = Bed::with_suite("");
    let item = |label: usize, i: usize| {
        serde_json::json!([format!("c{label}/{i}.jpg"), label, format!("c{label}")])
    };
    let list: Vec<Value> = (0..3)
        .flat_map(|l| (0..5).map(move |i| item(l, i)))
        .collect();
    let split = serde_json::json!({ "train": list, "val": list, "test": list });
    std::fs::write(bed.path("split.json"), split.to_string()).unwrap();
    let picks = |set: &str| -> Vec<String> {
        let arguments = [
            "data",
            "picks",
            "--split-file",
            "split.json",
            "--shots",
            "2",
            "--seed",
            "1",
            "--split",
            set,
        ];
        let told: Value = serde_json::from_str(&fine(bed.run(&arguments))).unwrap();
        serde_json::from_value(told["train"].clone()).unwrap()
    };
    let (all, base, novel) = (picks("all"), picks("base"), picks("novel"));
    assert_eq!(all.len(), 6);
    assert_eq!(all[..4], base, "ceil(3 / 2) = 2 classes are base");
    assert_eq!(all[4..], novel);
}

#[test]
fn pixels_are_what_a_model_sees_and_a_broken_picture_is_named() {
    let bed = Bed::with_suite("");
    fine(bed.run(&[
        "data",
        "show",
        "drawn-pets",
        "--per-class",
        "1",
        "--size",
        "32",
        "--out",
        "pets.png",
    ]));
    fine(bed.run(&[
        "data",
        "pixels",
        "pets.png",
        "--size",
        "16",
        "--out",
        "p.safetensors",
    ]));
    let out = candle_core::safetensors::load(bed.path("p.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(out["pixels"].dims(), [16, 16, 3]);
    std::fs::write(bed.path("bad.jpg"), b"\xff\xd8\xff\xe0 no").unwrap();
    let answer = bed.run(&["data", "pixels", "bad.jpg", "--size", "16"]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.stderr.contains("bad.jpg"), "{}", answer.stderr);
}

#[test]
fn a_report_is_one_file_and_a_folder_equals_itself() {
    let bed = run();
    fine(bed.run(&["report", "out"]));
    let page = std::fs::read_to_string(bed.path("out/report.html")).unwrap();
    assert!(page.contains("</html>") && !page.contains("src=\"http"));
    assert!(fine(bed.run(&["compare", "out", "out"])).contains("Nothing differs"));
    let told = bed.run(&[
        "table",
        "out",
        "--against",
        "published",
        "--source",
        "maplee",
    ]);
    assert_eq!(told.code, Some(2));
    assert!(told.stderr.contains("--source maplee"), "{}", told.stderr);
}

#[test]
fn predict_gives_each_picture_a_distribution_over_the_named_classes() {
    let bed = run();
    let show = [
        "data",
        "show",
        "drawn-textures",
        "--per-class",
        "1",
        "--size",
        "64",
        "--out",
        "sheet.png",
    ];
    fine(bed.run(&show));
    let file = prompts(&bed, "maple");
    for more in [&[][..], &["--prompts", &file]] {
        let arguments = [
            &[
                "predict",
                "sheet.png",
                "--json",
                "--classes",
                "striped red,dotted blue,plain",
            ],
            more,
        ];
        let told: Value = serde_json::from_str(&fine(bed.run(&arguments.concat()))).unwrap();
        assert_eq!(told["picture"], "sheet.png");
        let all = told["probabilities"].as_object().unwrap();
        let values: Vec<f64> = all.values().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(values.len(), 3);
        assert!(
            (values.iter().sum::<f64>() - 1.0).abs() < 1e-5,
            "{values:?}"
        );
        assert!(
            values.is_sorted_by(|a, b| a >= b),
            "likeliest first: {values:?}"
        );
    }
    for (arguments, field) in [
        (
            &["predict", "sheet.png", "--classes", "red"][..],
            "--classes: 1 class names",
        ),
        (
            &["predict", "sheet.png", "--classes", "red,blue,red"],
            "--classes: \"red\" is named twice",
        ),
        (
            &["predict", "none.png", "--classes", "red,blue"],
            "none.png",
        ),
        (
            &[
                "predict",
                "sheet.png",
                "--classes",
                "red,blue",
                "--template",
                "a photo",
            ],
            "--template",
        ),
        (
            &[
                "predict",
                "sheet.png",
                "--classes",
                "red,blue",
                "--method",
                "coop",
            ],
            "--prompts",
        ),
    ] {
        let answer = bed.run(arguments);
        assert_eq!(answer.code, Some(2), "{arguments:?}");
        assert!(
            answer.stderr.contains(field),
            "{arguments:?}: {}",
            answer.stderr
        );
    }
}
