//! Against the published lists and Pillow's pixels, where the development data lie beside the repository.
//! What always runs is smaller: `pillow.rs`, and the picks that CPython draws in the unit tests of `picks` and `cpython`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and tell what they measured"
)]

#[path = "../../clip/tests/shared/mod.rs"]
mod shared;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use datasets::transform::{Filter, Region, resize, test_view};
use datasets::{Catalogue, ClassSet, Dataset, Pack, Rgb, check, picks};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use shared::shared;

/// The folder of the development data, if it has `what`.
fn data(what: &str) -> Option<PathBuf> {
    let path = shared(&format!("data/{what}"))?;
    path.parent().map(Path::to_owned)
}

fn open(id: &str, root: &Path) -> Dataset {
    datasets::open(&Catalogue::built_in(), id, root).unwrap()
}

#[test]
fn every_published_pick_of_caltech_is_drawn() {
    let Some(root) = data("fewshot-golden-caltech101.json") else {
        return;
    };
    let golden: BTreeMap<String, BTreeMap<String, Vec<String>>> = serde_json::from_slice(
        &std::fs::read(root.join("fewshot-golden-caltech101.json")).unwrap(),
    )
    .unwrap();
    let split = open("caltech101", &root).split;
    assert_eq!(golden.len(), 15);
    for (key, lists) in &golden {
        let (shots, seed) = key
            .strip_prefix("shots")
            .unwrap()
            .split_once("-seed")
            .unwrap();
        let picks = picks::draw(&split, shots.parse().unwrap(), seed.parse().unwrap());
        for (name, drawn) in [("train", &picks.train), ("val", &picks.val)] {
            let drawn: Vec<&str> = drawn
                .iter()
                .map(|item| item.path.to_str().unwrap())
                .collect();
            assert_eq!(drawn, lists[name], "{key} {name}");
        }
    }
}

#[test]
fn the_hashes_of_caltechs_sixteen_shots_are_the_published_ones() {
    let Some(root) = data("caltech-101") else {
        return;
    };
    let picks = picks::draw(&open("caltech101", &root).split, 16, 1);
    let hash = |items: &[datasets::Item]| {
        let paths: Vec<&str> = items
            .iter()
            .map(|item| item.path.to_str().unwrap())
            .collect();
        let digest = Sha256::digest(paths.join("\n"));
        digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    assert_eq!((picks.train.len(), picks.val.len()), (1600, 400));
    assert_eq!(hash(&picks.train), "e60a836bd33cbba3");
    assert_eq!(hash(&picks.val), "53555d3fce94587d");
}

#[test]
fn caltechs_halves_have_the_published_test_counts() {
    let Some(root) = data("caltech-101") else {
        return;
    };
    let split = open("caltech101", &root).split;
    let (base, names) = split.subset(ClassSet::Base).unwrap();
    assert_eq!(
        (base.test.len(), names.len(), names[0].as_str()),
        (1549, 50, "face")
    );
    let (novel, names) = split.subset(ClassSet::Novel).unwrap();
    assert_eq!((novel.test.len(), names.len()), (916, 50));
    let picks = picks::draw(&split, 16, 1);
    let (base, _) = split.with_picks(&picks).subset(ClassSet::Base).unwrap();
    assert_eq!(
        (base.train.len(), base.val.len(), base.test.len()),
        (800, 200, 1549)
    );
}

#[test]
fn the_three_photo_folders_are_recognised_and_every_photo_decodes() {
    let Some(root) = data("caltech-101") else {
        return;
    };
    let catalogue = Catalogue::built_in();
    for (id, state, photos, notes) in [
        ("caltech101", check::State::Present, 8242, vec![]),
        (
            "dtd",
            check::State::Differs,
            1200,
            vec![
                "10 classes; the papers used 47",
                "600 train pictures; the papers used 2820",
                "240 val pictures; the papers used 1128",
                "360 test pictures; the papers used 1692",
            ],
        ),
        (
            "eurosat",
            check::State::Differs,
            1500,
            vec![
                "5 classes; the papers used 10",
                "750 train pictures; the papers used 13500",
                "250 val pictures; the papers used 5400",
                "500 test pictures; the papers used 8100",
            ],
        ),
        ("food101", check::State::Absent, 0, vec![]),
    ] {
        let start = Instant::now();
        let report = check::check(catalogue.get(id).unwrap(), &root, true, |_| ());
        assert!(report.broken.is_empty(), "{:?}", report.broken);
        assert_eq!((report.missing_count, report.decoded), (0, photos), "{id}");
        assert_eq!(report.state, state, "{id}");
        assert_eq!(
            report
                .notes
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            notes
        );
        eprintln!("{id}: {photos} photos decoded in {:.2?}", start.elapsed());
    }
}

#[test]
fn a_second_pass_over_caltechs_test_pictures_is_five_times_faster_than_decoding() {
    use rayon::prelude::*;
    let Some(root) = data("caltech-101") else {
        return;
    };
    let dataset = open("caltech101", &root);
    let (items, size) = (&dataset.split.test, 224);
    let folder = tempfile::tempdir().unwrap();
    let packed = || Pack::open_or_build(folder.path(), &*dataset.source, items, size).unwrap();
    let start = Instant::now();
    let decoded =
        datasets::load::all(&*dataset.source, items, |_, rgb| test_view(&rgb, size)).unwrap();
    let decoding = start.elapsed();
    let start = Instant::now();
    drop(packed());
    let building = start.elapsed();
    // The second pass: looks at every file's length and time, opens the pack, takes and checks every view.
    let start = Instant::now();
    let pack = packed();
    let bytes: usize = (0..items.len())
        .into_par_iter()
        .map(|index| pack.view(index).unwrap().data.len())
        .sum();
    let second = start.elapsed();
    eprintln!(
        "{} pictures of {size} pixels ({} MB): decoded in {decoding:.2?}, packed in {building:.2?}, read in {second:.2?}, {:.1} times faster",
        items.len(),
        bytes / 1_000_000,
        decoding.as_secs_f64() / second.as_secs_f64()
    );
    assert!((0..items.len()).all(|index| pack.view(index).unwrap() == decoded[index]));
    assert!(second * 5 <= decoding);
}

struct Parity {
    folder: PathBuf,
    bytes: Vec<u8>,
}

impl Parity {
    fn new() -> Option<Self> {
        let folder = data("pillow-parity")?.join("pillow-parity");
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        Some(Self { folder, bytes })
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    fn picture(&self, name: &str) -> Rgb {
        let tensors = self.tensors();
        let view = tensors.tensor(name).unwrap();
        Rgb::from_raw(view.shape()[1], view.shape()[0], view.data().to_vec())
    }
}

#[test]
fn resize_and_crop_of_known_pixels_are_pillows_bit_for_bit() {
    let Some(parity) = Parity::new() else { return };
    for i in 0..5 {
        let raw = parity.picture(&format!("raw.{i}"));
        assert!(
            test_view(&raw, 224) == parity.picture(&format!("rawclip224.{i}")),
            "rawclip224.{i}"
        );
        let (width, height) = (raw.width, raw.height);
        let region = Region {
            left: width / 9,
            top: height / 7,
            width: width / 3,
            height: height / 2,
        };
        let crop = resize(&raw, region, 224, 224, Filter::Bicubic);
        assert!(
            crop == parity.picture(&format!("rawcrop.{i}")),
            "rawcrop.{i}"
        );
    }
}

/// How far two pictures are apart: the largest difference, and how many values differ by more than 1, and at all.
fn apart(a: &Rgb, b: &Rgb) -> (u8, usize, usize) {
    assert_eq!((a.width, a.height), (b.width, b.height));
    let differences = || a.data.iter().zip(&b.data).map(|(a, b)| a.abs_diff(*b));
    let more_than = |least: u8| {
        differences()
            .filter(|&difference| difference > least)
            .count()
    };
    (differences().max().unwrap(), more_than(1), more_than(0))
}

#[test]
fn every_encoding_is_seen_as_pillow_sees_it() {
    let Some(parity) = Parity::new() else { return };
    let mut names: Vec<String> = std::fs::read_dir(parity.folder.join("images"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 24);
    let mut wrong = Vec::new();
    for name in names {
        let picture = datasets::open_picture(&parity.folder.join("images").join(&name)).unwrap();
        let sum: i64 = picture.data.iter().map(|&value| i64::from(value)).sum();
        let tensors = parity.tensors();
        let expected = tensors.tensor(&format!("decoded_sum.{name}")).unwrap();
        let expected = i64::from_le_bytes(expected.data().try_into().unwrap());
        let mut line = format!("{name:18} sum of bytes off by {:4}", sum - expected);
        let lossless = name.ends_with(".png");
        if lossless && sum != expected {
            wrong.push(name.clone());
        }
        for size in [224, 64] {
            let view = test_view(&picture, size);
            let (largest, above_one, any) =
                apart(&view, &parity.picture(&format!("clip{size}.{name}")));
            let values = view.data.len();
            line += &format!(
                " | {size}: largest {largest}, {any} of {values} differ, {above_one} by more than 1"
            );
            let good = if lossless {
                largest == 0
            } else {
                largest <= 4 && above_one * 1000 <= values
            };
            if !good {
                wrong.push(format!("{name} at {size}"));
            }
        }
        eprintln!("{line}");
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
