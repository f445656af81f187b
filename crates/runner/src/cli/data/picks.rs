//! `promptbed data picks`: the few-shot pictures of a split file.

use std::path::PathBuf;

use anyhow::Result;
use datasets::picks;

use super::Half;
use crate::cli::Done;

/// Print the few-shot picks of a split file as JSON, `train` and `val` paths in drawn order. No picture is read.
///
/// Example: promptbed data picks --split-file split_zhou_Caltech101.json --shots 16 --seed 1
#[derive(clap::Args)]
pub struct Picks {
    /// Split file of the CoOp family.
    #[arg(long)]
    split_file: PathBuf,
    /// Training pictures a class.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    shots: u32,
    /// Seed of the draw.
    #[arg(long)]
    seed: u64,
    /// Which classes.
    #[arg(long, value_enum, default_value = "all")]
    split: Half,
}

impl Picks {
    pub fn run(self) -> Result<Done> {
        let split = datasets::split_file(&self.split_file)?;
        let drawn = picks::draw(&split, self.shots as usize, self.seed);
        let (part, _) = split.with_picks(&drawn).subset(self.split.set())?;
        let paths = |items: &[datasets::Item]| -> Vec<String> {
            let path = |i: &datasets::Item| i.path.to_string_lossy().into_owned();
            items.iter().map(path).collect()
        };
        let json = serde_json::json!({ "train": paths(&part.train), "val": paths(&part.val) });
        crate::out!("{json}");
        Ok(Done::All)
    }
}
