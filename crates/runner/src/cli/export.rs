//! `promptbed export`: learned prompts for the published code.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clip::weights::pickle::{self, Value};
use methods::Checkpoint;

use super::Done;
use crate::run::prompts;

/// Layouts of other code bases.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// `<learner>/model.pth.tar-<epochs>`, as the trainers of the CoOp family load them.
    Dassl,
}

/// Write learned prompts where the published code looks for them: `OUT/prompt_learner/model.pth.tar-50` and the like.
///
/// Example: promptbed export --prompts results/quick/prompts/coop-....safetensors --format dassl --out checkpoints
#[derive(clap::Args)]
pub struct Export {
    /// Prompts written by promptbed.
    #[arg(long)]
    prompts: PathBuf,
    /// Layout.
    #[arg(long, value_enum, default_value = "dassl")]
    format: Format,
    /// Folder to write into.
    #[arg(long)]
    out: PathBuf,
}

impl Export {
    pub fn run(self) -> Result<Done> {
        let Format::Dassl = self.format;
        let (description, tensors) = prompts::read(&self.prompts)?;
        let entry = methods::find(&description.algorithm);
        let Some(Checkpoint { folder, module }) = entry.and_then(|e| e.checkpoint) else {
            bail!(
                "{}: the published code of {} keeps no checkpoints",
                self.prompts.display(),
                description.algorithm
            );
        };
        let epochs = description
            .settings
            .get("epochs")
            .and_then(serde_json::Value::as_i64);
        let epochs = epochs
            .with_context(|| format!("{}: settings.epochs is missing", self.prompts.display()))?;
        let state: Vec<_> = tensors
            .into_iter()
            .map(|(name, tensor)| {
                let short = module.and_then(|m| name.strip_prefix(m)).map(str::to_owned);
                (short.unwrap_or(name), tensor)
            })
            .collect();
        let folder = self.out.join(folder);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
        let path = folder.join(format!("model.pth.tar-{epochs}"));
        let checkpoint = Value::Dict(vec![
            ("state_dict".to_owned(), Value::State(state)),
            ("epoch".to_owned(), Value::Int(epochs)),
            ("optimizer".to_owned(), Value::Nothing),
            ("scheduler".to_owned(), Value::Nothing),
            ("val_result".to_owned(), Value::Nothing),
        ]);
        pickle::write(&path, &checkpoint)?;
        crate::out!("{}", path.display());
        Ok(Done::All)
    }
}
