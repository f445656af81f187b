//! What a person sees: exit code, standard output and standard error, above all when something is wrong.
//!
//! `INSTA_UPDATE=always` writes the snapshots anew; read the difference before keeping it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]

mod bed;

use bed::{Answer, Bed};
use insta::assert_snapshot;

const SUITE: &str = r#"
version  = 1
protocol = "few-shot"
datasets = ["drawn-textures"]
shots    = [1]
seeds    = [1]

[[method]]
name = "zero-shot"
"#;

/// The whole answer, without what changes from run to run: lines about time.
fn shown(answer: &Answer) -> String {
    let lines: Vec<&str> = answer
        .stderr
        .lines()
        .filter(|l| !l.contains(" s elapsed"))
        .collect();
    let code = answer.code.map_or("none".to_owned(), |c| c.to_string());
    format!(
        "exit code {code}\n--- stdout\n{}--- stderr\n{}",
        answer.stdout,
        lines.join("\n")
    )
}

/// The answer of a command that must fail in one message before it does anything.
fn refused(bed: &Bed, arguments: &[&str]) -> String {
    let answer = bed.run(arguments);
    assert_eq!(answer.code, Some(2), "{}", shown(&answer));
    assert_eq!(
        answer.stdout, "",
        "the result goes to standard output, an error does not"
    );
    assert_eq!(
        answer.stderr.matches("error:").count(),
        1,
        "one message: {}",
        answer.stderr
    );
    assert!(!bed.path("results").exists(), "nothing is written");
    answer.stderr
}

#[test]
fn every_verb_explains_itself() {
    let bed = Bed::with_suite(SUITE);
    let help = bed.run(&["--help"]);
    assert_snapshot!("help", shown(&help));
    let listed = help
        .stdout
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| !l.is_empty());
    let verbs: Vec<&str> = listed
        .filter(|l| !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert!(
        verbs.contains(&"run") && verbs.contains(&"verify"),
        "{verbs:?}"
    );
    for verb in verbs.into_iter().filter(|v| *v != "help") {
        assert_snapshot!(format!("help-{verb}"), shown(&bed.run(&[verb, "--help"])));
    }
}

#[test]
fn a_misused_command_line_is_explained() {
    let bed = Bed::with_suite(SUITE);
    assert_snapshot!("unknown-verb", refused(&bed, &["rum", "suite.toml"]));
    assert_snapshot!("no-suite", refused(&bed, &["run"]));
    assert_snapshot!(
        "no-jobs",
        refused(&bed, &["run", "suite.toml", "--jobs", "0"])
    );
    assert_snapshot!(
        "unknown-option",
        refused(&bed, &["run", "suite.toml", "--seed", "1"])
    );
    assert_snapshot!("unknown-method", refused(&bed, &["methods", "cop"]));
    assert_snapshot!("no-such-results", refused(&bed, &["table", "nowhere"]));
    assert_snapshot!("no-such-traces", refused(&bed, &["verify", "nowhere"]));
    assert_snapshot!("no-such-suite", refused(&bed, &["run", "nowhere.toml"]));
}

#[test]
fn every_mistake_of_a_suite_is_told_at_once_and_before_weights_are_read() {
    let bed = Bed::with_suite(
        r#"version  = 1
protocol = "few-shot"
datasets = ["drawn-textures"]
shots    = [0]

[[method]]
name = "cop"

[[method]]
name    = "coop"
epochss = 3
config  = { n_ctx = 96 }
"#,
    );
    let told = refused(&bed, &["run", "suite.toml", "--model", "no/such/weights"]);
    for (line, field) in [
        (4, "shots"),
        (7, "method[0].name"),
        (11, "method[1].epochss"),
        (12, "method[1].config.n_ctx"),
    ] {
        assert!(
            told.contains(&format!("suite.toml:{line}: {field}: ")),
            "{line}, {field}: {told}"
        );
    }
    assert!(!told.contains("weights"), "{told}");
    assert_snapshot!("mistakes", told);
}

#[test]
fn mistakes_of_other_kinds_are_told_with_their_line() {
    let told = |text: &str| refused(&Bed::with_suite(text), &["run", "suite.toml"]);
    assert_snapshot!("not-toml", told("version = 1\nprotocol = \"few"));
    assert_snapshot!("empty-suite", told(""));
    assert_snapshot!(
        "label-of-a-path",
        told(&format!("{SUITE}label = \"../zero\"\n"))
    );
    assert_snapshot!(
        "label-twice",
        told(&format!("{SUITE}[[method]]\nname = \"zero-shot\"\n"))
    );
    assert_snapshot!("not-trained", told(&format!("{SUITE}epochs = 3\n")));
    assert_snapshot!(
        "newer-suite",
        told(&SUITE.replace("version  = 1", "version = 2"))
    );
    assert_snapshot!(
        "no-such-dataset",
        told(&SUITE.replace("drawn-textures", "drawn-texture"))
    );
    assert_snapshot!(
        "test-time-training",
        told(
            &SUITE
                .replace("few-shot", "test-time")
                .replace("zero-shot", "coop")
        )
    );
    assert_snapshot!(
        "no-source",
        told(&SUITE.replace("few-shot", "cross-dataset"))
    );
    assert_snapshot!(
        "no-such-protocol",
        told(&SUITE.replace("few-shot", "many-shot"))
    );
}

#[test]
fn weights_that_are_no_clip_are_named_with_what_is_wrong() {
    let bed = Bed::with_suite(SUITE);
    let noise: Vec<u8> = (0u32..4096)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 | 1)
        .collect();
    std::fs::write(bed.path("noise.safetensors"), &noise).expect("the folder is ours");
    std::fs::write(bed.path("empty.pt"), b"").expect("the folder is ours");
    let other =
        candle_core::Tensor::zeros((2, 3), candle_core::DType::F32, &candle_core::Device::Cpu);
    let other =
        std::collections::HashMap::from([("decoder.weight", other.expect("a small tensor"))]);
    candle_core::safetensors::save(&other, bed.path("other.safetensors"))
        .expect("the folder is ours");
    let told = |model: &str| refused(&bed, &["run", "suite.toml", "--model", model]);
    assert_snapshot!("random-weights", told("noise.safetensors"));
    assert_snapshot!("empty-weights", told("empty.pt"));
    assert_snapshot!("other-weights", told("other.safetensors"));
    assert_snapshot!("no-weights", told("nowhere.pt"));
    let elsewhere = Bed::with_suite(&format!("backbone = \"clip-vit-b16\"{SUITE}"));
    assert_snapshot!(
        "weights-not-given",
        refused(&elsewhere, &["run", "suite.toml"])
    );
}

/// A suite, a catalogue and twelve pictures of three colours.
fn colours() -> Bed {
    let bed = Bed::with_suite(
        r#"
version  = 1
protocol = "few-shot"
datasets = ["colours"]
shots    = [1]
seeds    = [1]

[[method]]
name   = "coop"
epochs = 1
"#,
    );
    let row = r#"
[colours]
title  = "Colours"
images = "colours/images"
reader = "split-json"
split  = "colours/split.json"
prompt = "a plain {} picture."
"#;
    std::fs::write(bed.path("mine.toml"), row).expect("the folder is ours");
    std::fs::create_dir_all(bed.path("data/colours/images")).expect("the folder is ours");
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (label, (name, colour)) in [
        ("red", [200, 0, 0]),
        ("green", [0, 200, 0]),
        ("blue", [0, 0, 200]),
    ]
    .iter()
    .enumerate()
    {
        for number in 0..4u8 {
            let file = format!("{name}-{number}.png");
            let pixel = image::Rgb(colour.map(|c: u8| c.saturating_add(10 * number)));
            image::RgbImage::from_pixel(40, 30, pixel)
                .save(bed.path("data/colours/images").join(&file))
                .expect("the folder is ours");
            let list = if number < 2 { &mut train } else { &mut test };
            list.push(serde_json::json!([file, label, name]));
        }
    }
    let split = serde_json::json!({ "train": train, "test": test });
    std::fs::write(bed.path("data/colours/split.json"), split.to_string())
        .expect("the folder is ours");
    bed
}

const RUN: [&str; 10] = [
    "run",
    "suite.toml",
    "--catalogue",
    "mine.toml",
    "--data",
    "data",
    "--out",
    "results",
    "--jobs",
    "1",
];

fn change_split(bed: &Bed, from: &str, to: &str) {
    let path = bed.path("data/colours/split.json");
    let text = std::fs::read_to_string(&path).expect("it was written");
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).expect("the folder is ours");
}

/// A grey baseline JPEG of `side` by `side` pixels (a multiple of 8), written by hand: flat blocks, one bit a symbol.
fn grey_jpeg(side: u16) -> Vec<u8> {
    let [high, low] = side.to_be_bytes();
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xdb, 0, 67, 0];
    bytes.extend([16; 64]);
    bytes.extend([0xff, 0xc0, 0, 11, 8, high, low, high, low, 1, 1, 0x11, 0]);
    for table in [0x00, 0x10] {
        bytes.extend([0xff, 0xc4, 0, 20, table, 1]);
        bytes.extend([0; 16]); // fifteen lengths without a code, then the one symbol: 0
    }
    bytes.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0]);
    bytes.extend(vec![0; usize::from(side / 8).pow(2) / 4]); // two bits a block
    bytes.extend([0xff, 0xd9]);
    bytes
}

#[test]
fn a_dataset_of_ones_own_needs_a_catalogue_row_and_no_code() {
    let bed = colours();
    change_split(&bed, "green-3.png", "green-3.jpg");
    std::fs::write(bed.path("data/colours/images/green-3.jpg"), grey_jpeg(64))
        .expect("the folder is ours");
    let answer = bed.run(&RUN);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let records = bed.records("results");
    let tests: Vec<_> = records
        .values()
        .map(|r| r["tests"][0]["total"].clone())
        .collect();
    assert_eq!(tests, [6], "one trial, tested on six pictures");
}

/// Writes a JPEG cut short in the place of the picture `name`.
fn cut_short(bed: &Bed, name: &str) {
    change_split(bed, &format!("{name}.png"), &format!("{name}.jpg"));
    let whole = grey_jpeg(64);
    let path = bed.path(format!("data/colours/images/{name}.jpg"));
    std::fs::write(path, &whole[..whole.len() - 10]).expect("the folder is ours");
}

#[test]
fn a_test_picture_cut_short_fails_its_trials_and_is_named() {
    let bed = colours();
    cut_short(&bed, "green-3");
    let answer = bed.run(&RUN);
    let key = bed
        .records("results")
        .into_keys()
        .next()
        .expect("a failed trial leaves a record");
    let hash = key
        .trim_end_matches(".json")
        .rsplit('-')
        .next()
        .expect("keys end in a hash");
    assert_snapshot!("cut-picture", shown(&answer).replace(hash, "[hash]"));
}

#[test]
fn a_training_picture_cut_short_fails_its_trials_and_is_named() {
    let bed = colours();
    cut_short(&bed, "green-1");
    change_split(&bed, "[\"green-0.png\",1,\"green\"],", ""); // the one that is left is the one picked
    let answer = bed.run(&RUN);
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    let records = bed.records("results");
    let reasons: Vec<String> = records
        .values()
        .map(|r| r["outcome"]["reason"].to_string())
        .collect();
    assert!(
        reasons.len() == 1 && reasons[0].contains("data/colours/images/green-1.jpg"),
        "{reasons:?}"
    );
}

#[test]
fn wrong_entries_of_a_split_are_all_told_before_anything_runs() {
    let missing = colours();
    std::fs::remove_file(missing.path("data/colours/images/red-1.png")).expect("it was written");
    assert_snapshot!("missing-picture", refused(&missing, &RUN));

    let outside = colours();
    change_split(&outside, "red-2.png", "../../../../etc/passwd");
    change_split(&outside, "blue-3.png", "/etc/passwd");
    assert_snapshot!("outside-picture", refused(&outside, &RUN));

    let renamed = colours();
    change_split(
        &renamed,
        "\"blue-0.png\",2,\"blue\"",
        "\"blue-0.png\",1,\"blue\"",
    );
    assert_snapshot!("two-names", refused(&renamed, &RUN));

    let broken = colours();
    change_split(&broken, "\"test\"", "test");
    assert_snapshot!("split-not-json", refused(&broken, &RUN));
}

#[test]
fn data_that_is_not_there_is_told_with_where_it_was_looked_for() {
    let bed = colours();
    let without = [
        "run",
        "suite.toml",
        "--catalogue",
        "mine.toml",
        "--out",
        "results",
    ];
    assert_snapshot!("no-data-root", refused(&bed, &without));
    let mut elsewhere = RUN;
    elsewhere[5] = "nowhere";
    assert_snapshot!("wrong-data-root", refused(&bed, &elsewhere));
    std::fs::create_dir(bed.path("empty")).expect("the folder is ours");
    elsewhere[5] = "empty";
    assert_snapshot!("empty-data-root", refused(&bed, &elsewhere));
    std::fs::write(
        bed.path("mine.toml"),
        "[colours]\nimages = \"colours\"\nreeder = \"split-json\"\n",
    )
    .expect("ours");
    assert_snapshot!("wrong-catalogue", refused(&bed, &RUN));
    std::fs::remove_file(bed.path("mine.toml")).expect("it was written");
    assert_snapshot!("no-catalogue", refused(&bed, &RUN));
}
