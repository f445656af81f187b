//! `promptbed verify`: replays recorded runs of the published implementations.

use std::path::PathBuf;

use anyhow::Result;

use super::Done;
use crate::measure::replay::{self, TOLERANCE};

/// Replay recorded training runs step for step: reads trace folders, exits 1 if any deviates too far.
///
/// Example: promptbed verify traces/
#[derive(clap::Args)]
pub struct Verify {
    /// Trace folders, or folders of them.
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub fn run(self) -> Result<Done> {
        let mut folders = Vec::new();
        for dir in &self.dirs {
            folders.extend(replay::traces_in(dir)?);
        }
        let t = TOLERANCE;
        if !self.json {
            crate::out!(
                "{:<24} {:<10} {:>5} {:>9} {:>9} {:>9} {:>9}  verdict",
                "trace",
                "method",
                "steps",
                "loss",
                "gradient",
                "values",
                "logits"
            );
            crate::out!(
                "{:<24} {:<10} {:>5} {:>9.0e} {:>9.0e} {:>9.0e} {:>9.0e}",
                "(allowed)",
                "",
                "",
                t.loss,
                t.gradient,
                t.values,
                t.logits
            );
        }
        let (mut rows, mut failed) = (Vec::new(), 0);
        for folder in &folders {
            match replay::replay(folder) {
                Ok(r) => {
                    failed += usize::from(!r.pass);
                    let d = &r.deviation;
                    if !self.json {
                        let verdict = match d.choices.first() {
                            None if r.pass => "pass".to_owned(),
                            None => "FAIL".to_owned(),
                            Some(other) => format!("FAIL: {other}"),
                        };
                        crate::out!(
                            "{:<24} {:<10} {:>5} {:>9.1e} {:>9.1e} {:>9.1e} {:>9.1e}  {verdict}",
                            r.trace,
                            r.method,
                            d.steps,
                            d.loss,
                            d.gradient,
                            d.values,
                            d.logits
                        );
                    }
                    rows.push(serde_json::to_value(r)?);
                }
                Err(e) => {
                    failed += 1;
                    let message = format!("{e:#}");
                    if !self.json {
                        crate::out!(
                            "{:<24} FAIL: {message}",
                            folder.file_name().unwrap_or_default().to_string_lossy()
                        );
                    }
                    rows.push(serde_json::json!({ "trace": folder.file_name().unwrap_or_default().to_string_lossy(), "pass": false, "error": message }));
                }
            }
        }
        if self.json {
            crate::out!("{}", serde_json::to_string_pretty(&rows)?);
        } else {
            crate::out!("{} of {} pass", folders.len() - failed, folders.len());
        }
        Ok(if failed == 0 { Done::All } else { Done::NotAll })
    }
}
