//! `promptbed pretrain`: trains a small CLIP on the drawings.

use std::path::PathBuf;

use anyhow::Result;

use super::Done;
use crate::pretrain::{self, Recipe};

/// Train a small CLIP on drawings: reads a recipe, writes weights (OpenAI names, float16 safetensors).
///
/// Example: promptbed pretrain suites/pretrain-drawn.toml --out drawn-clip.safetensors
#[derive(clap::Args)]
pub struct Pretrain {
    /// Recipe file.
    recipe: PathBuf,
    /// Weights to write.
    #[arg(long)]
    out: PathBuf,
    /// Steps between reports.
    #[arg(long, default_value_t = 100)]
    every: usize,
}

impl Pretrain {
    pub fn run(self) -> Result<Done> {
        let recipe = Recipe::read(&self.recipe)?;
        let (clip, ids) = pretrain::pretrain(&recipe, self.every.max(1), |p, _| {
            let left = p.seconds / p.step as f64 * (recipe.steps - p.step) as f64;
            crate::say!(
                "step {}/{}  loss {:.4}  {:.0} s elapsed, about {left:.0} s left",
                p.step,
                recipe.steps,
                p.loss,
                p.seconds
            );
        })?;
        pretrain::save(&clip, &ids, &self.out)?;
        crate::out!("zero-shot accuracy in percent on the drawn suite: all, base, novel classes");
        for (id, [all, base, novel]) in pretrain::zero_shot(&clip)? {
            crate::out!("{id:<24} {all:>6.1} {base:>6.1} {novel:>6.1}");
        }
        crate::say!("{} ({} token rows)", self.out.display(), ids.len());
        Ok(Done::All)
    }
}
