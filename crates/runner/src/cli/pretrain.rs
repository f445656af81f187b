//! `promptbed pretrain`: trains a small CLIP on the drawings.

use std::path::PathBuf;

use anyhow::Result;
use datasets::drawn;

use super::Done;
use crate::device::OnDevice;
use crate::pretrain::{self, Recipe};

/// Train a small CLIP on drawings: reads a recipe, writes weights (OpenAI names, float16 safetensors).
///
/// Towers that are trained whole run on the processor only.
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
    #[command(flatten)]
    on: OnDevice,
}

impl Pretrain {
    pub fn run(self) -> Result<Done> {
        self.on.refuse("pretrain, which trains whole towers,")?;
        let recipe = Recipe::read(&self.recipe)?;
        let (clip, ids) = pretrain::pretrain(&recipe, self.every.max(1), |p, _| {
            let left = p.seconds / p.step as f64 * (recipe.steps - p.step) as f64;
            crate::say!(
                "step {}/{}  loss {:.4}  {:.0} s elapsed, at most {left:.0} s left{}",
                p.step,
                recipe.steps,
                p.loss,
                p.seconds,
                p.within
                    .map_or_else(String::new, |n| format!("  {n} datasets within bounds"))
            );
        })?;
        pretrain::save(&clip, &ids, &self.out)?;
        for (name, numbers) in [("validation", drawn::VAL), ("test", drawn::TEST)] {
            crate::out!("zero-shot accuracy in percent, {name} drawings: all, base, novel classes");
            for z in pretrain::zero_shot(&clip, numbers)? {
                crate::out!(
                    "{:<24} {:>6.1} {:>6.1} {:>6.1}",
                    z.dataset,
                    z.all,
                    z.base,
                    z.novel
                );
            }
        }
        crate::say!("{} ({} token rows)", self.out.display(), ids.len());
        Ok(Done::All)
    }
}
