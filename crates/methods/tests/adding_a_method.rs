//! The example of `docs/adding-a-method.md` compiles, learns, and is word for word what is written there.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]

// A method's file says `crate::`; here this crate stands for the library.
use methods::parts::templates;
pub use methods::*;

#[path = "adding_a_method/task_residual.rs"]
mod task_residual;
#[path = "../src/tests/tiny_clip.rs"]
mod tiny_clip;

use candle_core::{Device, Tensor};
use task_residual::ENTRY;
use tiny_clip::{base, clip, novel, pixels};

const GUIDE: &str = include_str!("../../../docs/adding-a-method.md");
const FILE: &str = include_str!("adding_a_method/task_residual.rs");

/// Code blocks of the guide in `language`.
fn blocks(language: &str) -> Vec<&'static str> {
    let opening = format!("```{language}\n");
    GUIDE
        .split(&opening)
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

fn batch() -> Batch {
    let labels = Tensor::new(&[0u32, 2, 1, 1], &Device::Cpu).unwrap();
    Batch::new(Images::Pixels(pixels(4, 3)), labels)
}

fn build(config: toml::Table) -> Box<dyn Method> {
    let config = ENTRY.read(config).checked().unwrap();
    config
        .build(&clip().into(), &base(), &mut Init::seeded(1))
        .unwrap()
}

fn scores(method: &dyn Method) -> Vec<f32> {
    let logits = method.predictor().unwrap().logits(&batch().images).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_guide_shows_the_file_that_is_compiled_here() {
    let whole: Vec<&str> = blocks("rust")
        .into_iter()
        .filter(|b| b.starts_with("//!"))
        .collect();
    assert_eq!(whole.len(), 1, "one block is a whole file");
    assert!(
        whole[0] == FILE,
        "docs/adding-a-method.md and crates/methods/tests/adding_a_method/task_residual.rs differ"
    );
    assert!(
        blocks("rust")
            .iter()
            .any(|b| b.contains("    task_residual::ENTRY,")),
        "the line of the registry"
    );
}

#[test]
fn the_suite_entry_of_the_guide_is_read() {
    let blocks = blocks("toml");
    let suite: toml::Table = blocks
        .iter()
        .find(|b| b.contains(ENTRY.name))
        .unwrap()
        .parse()
        .unwrap();
    let mut entry = suite["method"][0].as_table().unwrap().clone();
    assert_eq!(entry.remove("name").unwrap().as_str(), Some(ENTRY.name));
    let toml::Value::Table(config) = entry.remove("config").unwrap() else {
        panic!("config is a table")
    };
    assert!(!config.is_empty());
    build(config);
    let mut settings = Settings::new(entry);
    let defaults = ENTRY.training.unwrap();
    let training = defaults.read(&mut settings, 16);
    assert_eq!(settings.finish().problems, []);
    assert_ne!(training, defaults, "the entry changes something");
}

#[test]
fn the_example_starts_at_zero_shot_and_learns() {
    let mut method = build(toml::Table::new());
    let zero_shot = find("zero-shot").unwrap().default_config();
    let zero_shot = zero_shot
        .build(&clip().into(), &base(), &mut Init::seeded(1))
        .unwrap();
    for (a, b) in scores(method.as_ref())
        .iter()
        .zip(scores(zero_shot.as_ref()))
    {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    let mut optimizer = ENTRY.training.unwrap().optimizer();
    let mut losses = Vec::new();
    for _ in 0..20 {
        let done = step(method.as_mut(), &mut optimizer, &batch(), 0.05).unwrap();
        losses.push(done.value);
    }
    assert!(losses[19] < 0.5 * losses[0], "{losses:?}");
    let trained = scores(method.as_ref());
    method.bind(&base()).unwrap();
    assert_eq!(trained, scores(method.as_ref()));
    let refused = method.bind(&novel()).unwrap_err().to_string();
    assert!(refused.contains("cannot be used with others"), "{refused}");
}
