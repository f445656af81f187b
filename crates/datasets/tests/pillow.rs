//! Against what Pillow 13.0.0 makes of small pictures (`fixtures/make_pillow.py`), to the last bit.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]

use std::path::Path;

use datasets::transform::{Filter, Region, resize};
use datasets::{Rgb, decode};
use safetensors::SafeTensors;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

fn picture(tensors: &SafeTensors<'_>, name: &str) -> Option<Rgb> {
    let view = tensors.tensor(name).ok()?;
    Some(Rgb::from_raw(
        view.shape()[1],
        view.shape()[0],
        view.data().to_vec(),
    ))
}

#[test]
fn resizing_is_pillows_with_either_filter_and_either_pass_first() {
    let bytes = std::fs::read(Path::new(FIXTURES).join("pillow.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let source = picture(&tensors, "source").unwrap();
    let mut compared = 0;
    for name in tensors.names() {
        let Some((filter, size)) = name
            .strip_prefix("resize.")
            .and_then(|rest| rest.split_once('.'))
        else {
            continue;
        };
        let filter = if filter == "bicubic" {
            Filter::Bicubic
        } else {
            Filter::Bilinear
        };
        let (width, height) = size.split_once('x').unwrap();
        let (width, height) = (width.parse().unwrap(), height.parse().unwrap());
        let resized = resize(&source, Region::whole(&source), width, height, filter);
        assert!(resized == picture(&tensors, name).unwrap(), "{name}");
        compared += 1;
    }
    assert_eq!(compared, 14);
}

/// What of the files in `folder` differs from Pillow's pixels in `folder.safetensors`, and how many files there are. A file
/// that Pillow refuses has none there.
fn differences(folder: &str) -> (Vec<String>, usize) {
    let tensors = std::fs::read(Path::new(FIXTURES).join(format!("{folder}.safetensors"))).unwrap();
    let tensors = SafeTensors::deserialize(&tensors).unwrap();
    let mut wrong = Vec::new();
    let mut files = 0;
    for entry in std::fs::read_dir(Path::new(FIXTURES).join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        files += 1;
        let ours = decode(&std::fs::read(&path).unwrap());
        match (ours, picture(&tensors, &format!("decoded.{name}"))) {
            (Ok(ours), Some(pillow)) if ours == pillow => {}
            (Ok(ours), Some(pillow)) => {
                let apart = ours
                    .data
                    .iter()
                    .zip(&pillow.data)
                    .map(|(a, b)| a.abs_diff(*b));
                let count = apart.clone().filter(|&apart| apart > 0).count();
                wrong.push(format!(
                    "{name}: {count} values differ, by at most {:?}",
                    apart.max()
                ));
            }
            (Err(error), Some(_)) => wrong.push(format!("{name}: Pillow reads it, we say {error}")),
            (Ok(_), None) => wrong.push(format!("{name}: Pillow refuses it, we read it")),
            (Err(_), None) => {}
        }
    }
    wrong.sort();
    (wrong, files)
}

#[test]
fn every_encoding_decodes_to_pillows_pixels_and_cut_files_are_refused_as_pillow_refuses_them() {
    let (wrong, files) = differences("pillow");
    assert_eq!(files, 50);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_kind_of_tiff_decodes_to_pillows_pixels_and_cut_files_are_refused() {
    let (wrong, files) = differences("tiff");
    assert_eq!(files, 40);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_tiff_that_ends_before_its_pixels_do_is_said_to_be_truncated() {
    for (name, expected) in [
        (
            "cut_pixels_rgb16.tif",
            "truncated TIFF: the file ends before the picture does",
        ),
        (
            "cut_pixels_grey4.tif",
            "truncated TIFF: the file ends before the picture does",
        ),
        (
            "cut_half_rgb_lzw.tif",
            "truncated TIFF: the file ends before the picture does",
        ),
    ] {
        let bytes = std::fs::read(Path::new(FIXTURES).join("tiff").join(name)).unwrap();
        assert_eq!(decode(&bytes).unwrap_err().to_string(), expected, "{name}");
    }
}
