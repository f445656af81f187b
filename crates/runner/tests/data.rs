//! The data verbs on real files: fetching, checking, pick lists, packed pictures.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

mod bed;
#[path = "../../datasets/tests/server/mod.rs"]
mod server;

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use bed::{Answer, Bed};
use serde_json::Value;
use server::{Served, Server};
use sha2::{Digest, Sha256};

/// A PNG of one colour that no other number gives.
fn picture(number: usize) -> Vec<u8> {
    let colour = [
        (number * 37 % 256) as u8,
        (number * 91 % 256) as u8,
        (number % 256) as u8,
    ];
    let pixels = image::RgbImage::from_pixel(40, 30, image::Rgb(colour));
    let mut bytes = Cursor::new(Vec::new());
    pixels
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// `photos/<class>/<number>.png`, ten of each of four classes.
fn photos() -> Vec<(String, Vec<u8>)> {
    let classes = ["bell", "cup", "key", "lamp"].into_iter().zip(0..);
    let of = |(class, c): (&'static str, usize)| {
        (0..10).map(move |i| (format!("photos/{class}/{i}.png"), picture(c * 10 + i)))
    };
    classes.flat_map(of).collect()
}

fn zipped(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in files {
        writer.start_file(name.as_str(), stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A bed whose `mine.toml` fetches the dataset `things` as `zip` from the server.
fn bed(server: &Server, zip: &[u8]) -> Bed {
    let bed = Bed::with_suite("");
    let row = format!(
        "[things]\nimages = \"things/photos\"\nreader = \"class-folders\"\n\
         [[things.archives]]\nfile = \"things.zip\"\nurl = \"{}/things.zip\"\nbytes = {}\nsha256 = \"{}\"\n\
         gives = {{ \"photos\" = \"things/photos\" }}\n",
        server.url,
        zip.len(),
        sha256(zip)
    );
    fs::write(bed.path("mine.toml"), row).unwrap();
    bed
}

const FETCH: [&str; 8] = [
    "data",
    "fetch",
    "--data",
    "data",
    "--dataset",
    "things",
    "--catalogue",
    "mine.toml",
];

fn fine(answer: Answer) -> String {
    assert_eq!(answer.code, Some(0), "{}\n{}", answer.stdout, answer.stderr);
    answer.stdout
}

/// The four classes of things below `data/things/photos`, without a fetch.
fn placed() -> Bed {
    let server = Server::start();
    let bed = bed(&server, b"");
    for (name, bytes) in photos() {
        let path = bed.path(Path::new("data/things").join(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    bed
}

#[test]
fn a_fetched_dataset_passes_the_deep_check() {
    let (server, zip) = (Server::start(), zipped(&photos()));
    let served = Served {
        bytes: zip.clone(),
        ..Served::default()
    };
    server.serve("things.zip", served);
    let bed = bed(&server, &zip);
    let told = fine(bed.run(&FETCH));
    assert_eq!(
        told,
        "DATASET  FILE        OUTCOME\nthings   things.zip  fetched\n"
    );
    let check = [
        "data",
        "check",
        "--data",
        "data",
        "--dataset",
        "things",
        "--catalogue",
        "mine.toml",
        "--deep",
    ];
    let told = fine(bed.run(&check));
    assert!(told.contains("0 of 40"), "{told}");
    let told = fine(bed.run(&FETCH));
    assert!(told.contains("there already"), "{told}");
    assert_eq!(server.requests(), ["things.zip -"]);
    assert!(bed.files("data/downloads").is_empty());
}

#[test]
fn wrong_bytes_exit_1_name_both_sums_and_leave_nothing() {
    let (server, zip) = (Server::start(), zipped(&photos()));
    let mut wrong = zip.clone();
    wrong[1000] ^= 1;
    let served = Served {
        bytes: wrong.clone(),
        ..Served::default()
    };
    server.serve("things.zip", served);
    let bed = bed(&server, &zip);
    let answer = bed.run(&FETCH);
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    let expected = format!(
        "things: things.zip: data/downloads/things/things.zip: SHA-256 is {}, published is {}; the file was removed, the same command downloads it again\n",
        sha256(&wrong),
        sha256(&zip)
    );
    assert!(answer.stdout.starts_with(&expected), "{}", answer.stdout);
    assert!(
        answer.stdout.ends_with("things   things.zip  failed\n"),
        "{}",
        answer.stdout
    );
    assert!(answer.stderr.ends_with(
        "files: 1 asked for, 1 failed, 0 to be got by hand; `promptbed data check --data data --deep` looks at what is there\n"
    ));
    assert!(!bed.path("data/things").exists());
    assert!(bed.files("data/downloads/things").is_empty());
}

#[test]
fn a_killed_fetch_is_continued_by_the_same_command() {
    let (server, zip) = (Server::start(), zipped(&photos()));
    let half = zip.len() / 2;
    let mut served = Served {
        bytes: zip.clone(),
        etag: Some("\"v1\""),
        cuts: (1, half),
        ..Served::default()
    };
    server.serve("things.zip", served.clone());
    let bed = bed(&server, &zip);
    // Killed while it waits after the cut.
    let mut child = bed.command(&FETCH).spawn().unwrap();
    let part = bed.path("data/downloads/things/things.zip.part");
    let started = Instant::now();
    while fs::metadata(&part).map_or(0, |about| about.len()) < half as u64 {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "no part appeared"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!bed.path("data/things").exists());
    let before = server.requests().len();
    served.cuts = (0, 0);
    server.serve("things.zip", served);
    fine(bed.run(&FETCH));
    assert_eq!(
        server.requests()[before..],
        [format!("things.zip bytes={half}-")]
    );
    assert_eq!(
        fs::read_dir(bed.path("data/things/photos/lamp"))
            .unwrap()
            .count(),
        10
    );
}

#[test]
fn a_hostile_archive_exits_1_and_writes_nothing() {
    let server = Server::start();
    let mut zip = zipped(&[
        ("photos/bell/0.png".to_owned(), picture(0)),
        ("aa/out".to_owned(), vec![1]),
    ]);
    for at in 0..zip.len() - 6 {
        if zip[at..].starts_with(b"aa/out") {
            zip[at..at + 2].copy_from_slice(b"..");
        }
    }
    let served = Served {
        bytes: zip.clone(),
        ..Served::default()
    };
    server.serve("things.zip", served);
    let bed = bed(&server, &zip);
    let answer = bed.run(&FETCH);
    assert_eq!(answer.code, Some(1));
    let expected = "things.zip: entry \"../out\": leads outside its folder; paths must be relative and without `..`; nothing was unpacked";
    assert!(answer.stdout.contains(expected), "{}", answer.stdout);
    assert!(!bed.path("data/things").exists() && !bed.path("data/downloads/things/out").exists());
}

#[test]
fn what_needs_a_licence_is_told_with_its_place_and_a_mirror_replaces_the_click() {
    let server = Server::start();
    let bed = bed(&server, b"");
    let fetch = [
        "data",
        "fetch",
        "--data",
        "data",
        "--dataset",
        "imagenet",
        "--dataset",
        "ImageNetV2",
    ];
    let mirror = ["--mirror", server.url.as_str()];
    server.serve(
        "imagenet/classnames.txt",
        Served {
            bytes: b"n01440764 tench\n".to_vec(),
            ..Served::default()
        },
    );
    let answer = bed.run(&[&fetch[..], &mirror].concat());
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    for expected in [
        "imagenet: ILSVRC2012_img_val.tar: to be got by hand: ask for access at https://image-net.org/download.php",
        "  missing until then: data/imagenet/images/val\n",
        "imagenet     classnames.txt                       fetched\n",
        "imagenet-v2  imagenetv2-matched-frequency.tar.gz  failed\n",
        "imagenet-v2  classnames.txt                       copied\n",
    ] {
        assert!(
            answer.stdout.contains(expected),
            "{expected}\nnot in\n{}",
            answer.stdout
        );
    }
    let told = fs::read_to_string(bed.path("data/imagenetv2/classnames.txt")).unwrap();
    assert_eq!(told, "n01440764 tench\n");
    let answer = bed.run(&[
        "data",
        "fetch",
        "--data",
        "data",
        "--dataset",
        "ucf101",
        "--mirror",
        "file:///x",
    ]);
    assert_eq!(answer.code, Some(2));
    assert!(
        answer
            .stderr
            .contains("--mirror file:///x: must begin with http:// or https://"),
        "{}",
        answer.stderr
    );
}

#[test]
fn a_split_file_with_every_mistake_is_one_message_a_mistake_and_exit_1() {
    let bed = placed();
    let row = "[things]\nimages = \"things/photos\"\nreader = \"split-json\"\nsplit = \"things/split.json\"\n";
    fs::write(bed.path("mine.toml"), row).unwrap();
    let check = [
        "data",
        "check",
        "--data",
        "data",
        "--dataset",
        "things",
        "--catalogue",
        "mine.toml",
    ];
    let at = "things: data/things/split.json: ";
    for (split, expected) in [
        (
            r#"{"train": [["bell/0.png", 0, "bell"]], "test": [["../split.json", 0, "bell"]]}"#,
            "test[0].path: \"../split.json\" leads outside the images folder; paths must be relative and without `..`\n",
        ),
        (
            r#"{"train": [["bell/0.png", 0, "bell"], ["lamp/0.png", 2, "lamp"]], "test": [["bell/1.png", 0, "bell"]]}"#,
            "labels: label 1 has no entry although labels go up to 2; labels must be 0, 1, 2, ... without a gap\n",
        ),
        (
            r#"{"train": [["bell/0.png", 0, "bell"], ["lamp/0.png", 0, "lamp"]], "test": [["bell/1.png", 0, "bell"]]}"#,
            "train[1].name: label 0 is called \"lamp\" here but \"bell\" at train[0]\n",
        ),
        (
            r#"{"train": [["bell/0.png", 0, "bell"]], "test": []}"#,
            "test: is empty\n",
        ),
    ] {
        fs::write(bed.path("data/things/split.json"), split).unwrap();
        let answer = bed.run(&check);
        assert_eq!(answer.code, Some(1));
        let message = format!("{at}{expected}DATASET");
        assert!(
            answer.stdout.starts_with(&message),
            "{message}\nnot in\n{}",
            answer.stdout
        );
    }
    // Pictures that are not there have the entry, and the name on disk where only its case differs.
    let split = r#"{"train": [["bell/0.png", 0, "bell"]], "test": [["Bell/1.PNG", 0, "bell"]]}"#;
    fs::write(bed.path("data/things/split.json"), split).unwrap();
    let answer = bed.run(&check);
    assert_eq!(answer.code, Some(1));
    let expected = "things: test[0].path: \"Bell/1.PNG\" does not exist under data/things/photos, but \"bell/1.png\" does: the names differ in upper and lower case only; rename one of them\n";
    assert!(answer.stdout.starts_with(expected), "{}", answer.stdout);
}

const PICKED: &str = r#"
version  = 1
protocol = "base-to-novel"
datasets = ["drawn-textures", "drawn-pets"]
shots    = [1, 2]
seeds    = [1]
views    = "none"
picks    = PICKS

[[method]]
name   = "coop"
epochs = 1
config = { n_ctx = 4, init = "a photo of a" }
"#;

#[test]
fn a_runs_own_pick_lists_give_its_trials_again_and_others_other_trials() {
    let bed = Bed::with_suite(&PICKED.replace("PICKS", "\"drawn\""));
    fine(bed.run(&["run", "suite.toml", "--out", "out"]));
    let lists = bed.files("out/picks");
    assert_eq!(
        lists.keys().collect::<Vec<_>>(),
        [
            "drawn-pets-1shot-seed1.json",
            "drawn-pets-2shot-seed1.json",
            "drawn-textures-1shot-seed1.json",
            "drawn-textures-2shot-seed1.json"
        ]
    );
    fs::write(
        bed.path("again.toml"),
        PICKED.replace("PICKS", "{ folder = \"out/picks\" }"),
    )
    .unwrap();
    let keys = |suite: &str| {
        let told = fine(bed.run(&["run", suite, "--dry-run"]));
        // The trials; what follows are estimates of time.
        let trials = told.lines().take_while(|l| !l.is_empty());
        trials.map(str::to_owned).collect::<Vec<_>>()
    };
    let drawn = keys("suite.toml");
    assert_eq!(keys("again.toml"), drawn);
    // One other picture is another trial, and is what that trial was trained on.
    let name = "drawn-textures-1shot-seed1.json";
    let mut list: Value = serde_json::from_slice(&lists[name]).unwrap();
    let more: Value = serde_json::from_slice(&lists["drawn-textures-2shot-seed1.json"]).unwrap();
    let first = list["train"][0].clone();
    let other = more["train"].as_array().unwrap().iter();
    let other = other.filter(|item| item[1] == first[1] && item[0] != first[0]);
    list["train"][0] = other.clone().next().unwrap()[0].clone();
    fs::write(bed.path("out/picks").join(name), list.to_string()).unwrap();
    let again = keys("again.toml");
    let differ = drawn.iter().zip(&again).filter(|(a, b)| a != b).count();
    assert_eq!(differ, 1, "{drawn:?}\n{again:?}");
    fine(bed.run(&["run", "again.toml", "--out", "out2"]));
    let kept: Value = serde_json::from_slice(&bed.files("out2/picks")[name]).unwrap();
    assert_eq!(kept["train"][0][0], list["train"][0]);
}

#[test]
fn pick_lists_that_are_wrong_are_told_all_at_once_before_anything_runs() {
    let bed = Bed::with_suite(&PICKED.replace("PICKS", "{ folder = \"lists\" }"));
    fs::create_dir(bed.path("lists")).unwrap();
    fs::write(
        bed.path("lists/drawn-pets-1shot-seed1.json"),
        r#"{"train": ["no/such.png"]}"#,
    )
    .unwrap();
    let answer = bed.run(&["run", "suite.toml", "--out", "out"]);
    assert_eq!(answer.code, Some(2));
    for expected in [
        "lists/drawn-pets-1shot-seed1.json: train[0]: \"no/such.png\" is not in this list of the split\n",
        "lists: holds none of drawn-pets-2shot-seed1.json, drawn-pets/shot_2-seed_1.json, drawn-pets/shot_2-seed_1.pkl, \
         drawn-pets/shot_2-seed_1.jsonl, drawn-pets/split_fewshot/shot_2-seed_1.pkl (picks)\n",
        "lists: holds none of drawn-textures-1shot-seed1.json, drawn-textures/shot_1-seed_1.json, drawn-textures/shot_1-seed_1.pkl, \
         drawn-textures/shot_1-seed_1.jsonl, drawn-textures/split_fewshot/shot_1-seed_1.pkl (picks)\n",
    ] {
        assert!(
            answer.stderr.contains(expected),
            "{expected}\nnot in\n{}",
            answer.stderr
        );
    }
    assert!(!bed.path("out").exists());
    for (picks, expected) in [
        (
            "3",
            "suite.toml:8: picks: must be \"drawn\", { file = \"...\" } or { folder = \"...\" }",
        ),
        (
            "{ file = \"a.json\" }",
            "suite.toml:8: picks: one file is for one dataset, one number of shots and one seed; write { folder = \"...\" }",
        ),
    ] {
        fs::write(bed.path("suite.toml"), PICKED.replace("PICKS", picks)).unwrap();
        let answer = bed.run(&["run", "suite.toml", "--dry-run"]);
        assert_eq!(answer.code, Some(2));
        assert!(answer.stderr.contains(expected), "{}", answer.stderr);
    }
}

const THINGS: &str = r#"
version  = 1
protocol = "few-shot"
datasets = ["things"]
shots    = [1]
seeds    = [1]

[[method]]
name   = "maple"
epochs = 1
batch  = 4
"#;

#[test]
fn packed_pictures_change_no_prediction_and_are_listed_found_damaged_and_pruned() {
    let bed = placed();
    fs::write(bed.path("suite.toml"), THINGS).unwrap();
    let run = |out: &str, cache: &[&str]| {
        let arguments = [
            "run",
            "suite.toml",
            "--data",
            "data",
            "--catalogue",
            "mine.toml",
            "--out",
            out,
        ];
        bed.run(&[&arguments[..], cache].concat())
    };
    fine(run("plain", &[]));
    let cache = ["--cache", "cache"];
    fine(run("first", &cache));
    let packs = bed.files("cache/packs/things");
    assert_eq!(packs.len(), 1, "{:?}", packs.keys());
    fine(run("second", &cache));
    assert_eq!(bed.records("plain"), bed.records("first"));
    assert_eq!(bed.records("plain"), bed.records("second"));
    let list = ["cache", "list", "cache"];
    let told = fine(bed.run(&list));
    // 30 % of ten pictures of four classes are tested on.
    let line = told
        .lines()
        .find(|line| line.starts_with("things"))
        .unwrap();
    assert_eq!(
        line.split_whitespace().take(3).collect::<Vec<_>>(),
        ["things", "1", "12"]
    );
    let path = bed
        .path("cache/packs/things")
        .join(packs.keys().next().unwrap());
    let mut damaged = fs::read(&path).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&path, damaged).unwrap();
    let answer = bed.run(&list);
    assert_eq!(answer.code, Some(1));
    assert!(
        answer
            .stdout
            .contains("1 damaged; `promptbed cache prune` removes them"),
        "{}",
        answer.stdout
    );
    let answer = run("third", &cache);
    assert_eq!(answer.code, Some(1));
    assert!(
        answer
            .stderr
            .contains("view 11 is damaged; delete the file and it is built again"),
        "{}",
        answer.stderr
    );
    fine(bed.run(&["cache", "prune", "cache"]));
    assert!(!path.exists());
    fine(run("third", &cache));
    assert_eq!(bed.records("plain"), bed.records("third"));
}

#[test]
fn two_processes_that_pack_the_same_pictures_at_once_leave_one_pack_and_the_same_records() {
    let bed = placed();
    fs::write(bed.path("suite.toml"), THINGS).unwrap();
    let start = |out: &str| {
        let arguments = [
            "run",
            "suite.toml",
            "--data",
            "data",
            "--catalogue",
            "mine.toml",
            "--cache",
            "cache",
            "--out",
            out,
        ];
        bed.command(&arguments).spawn().unwrap()
    };
    let mut children = ["one", "two", "three"].map(start);
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(bed.records("one"), bed.records("two"));
    assert_eq!(bed.records("one"), bed.records("three"));
    let packs = bed.files("cache/packs/things");
    assert_eq!(packs.len(), 1, "{:?}", packs.keys());
}
