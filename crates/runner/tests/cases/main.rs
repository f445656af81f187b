//! Situations from public bug reports of this and neighbouring programs, each with the thread it comes from.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]

#[allow(dead_code, reason = "the bed does more than these tests need")]
#[path = "../bed/mod.rs"]
mod bed;
mod lists;
mod outputs;
mod weights;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

use bed::{Answer, Bed};
use candle_core::{Device, Tensor};
use clip::weights::pickle::{self, Value};
use serde_json::json;

/// A CLIP without a configuration: the shipped one as a file.
const BARE: &[u8] = include_bytes!("../../assets/drawn-clip.safetensors");

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
