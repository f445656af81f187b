//! `promptbed verify`: replays recorded runs of the published implementations.

use std::path::PathBuf;

use anyhow::Result;
use methods::replay::Comparison;

use super::Done;
use crate::device::{InPrecision, Place};
use crate::measure::replay::{self, Replay, TOLERANCE};
use crate::reason::reason;

/// Replay recorded training runs step for step: reads trace folders, exits 1 if any deviates too far.
///
/// With --device cuda towers run on a GPU: the check that a GPU computes what it should. What is rounded there (--precision
/// tf32, half) has no bound yet: deviations are shown, and only what does not run fails. With --arithmetic emulated they run
/// as on a machine with the matrix unit, on any.
///
/// Example: promptbed verify traces/
#[derive(clap::Args)]
pub struct Verify {
    /// Trace folders, or folders of them [default: those that ship with the source].
    dirs: Vec<PathBuf>,
    #[command(flatten)]
    on: InPrecision,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub fn run(self) -> Result<Done> {
        let place = self.on.open()?;
        let mut folders = Vec::new();
        let dirs = match &self.dirs[..] {
            [] => replay::shipped()?,
            dirs => dirs.to_vec(),
        };
        for dir in &dirs {
            folders.extend(replay::traces_in(dir)?);
        }
        if !self.json {
            head(&place);
        }
        let (mut rows, mut failed) = (Vec::new(), 0);
        let mut largest = [0f64; 4];
        for folder in &folders {
            match replay::replay_at(folder, &place) {
                Ok(r) => {
                    failed += usize::from(!r.pass);
                    for (largest, own) in largest.iter_mut().zip(columns(&r.deviation)) {
                        // What is no number is further off than any.
                        if own.is_nan() || own > *largest {
                            *largest = own;
                        }
                    }
                    if !self.json {
                        line(&r, &place);
                    }
                    rows.push(serde_json::to_value(r)?);
                }
                Err(e) => {
                    failed += 1;
                    let message = reason(&e);
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
            let [loss, gradient, values, logits] = largest;
            crate::out!(
                "{:<24} {:<10} {:>5} {loss:>9.1e} {gradient:>9.1e} {values:>9.1e} {logits:>9.1e}",
                "(largest)",
                "",
                ""
            );
            let verb = if place.is_rounded() { "ran" } else { "pass" };
            crate::out!("{} of {} {verb}", folders.len() - failed, folders.len());
        }
        Ok(if failed == 0 { Done::All } else { Done::NotAll })
    }
}

/// A deviation of each kind, as columns have them.
fn columns(d: &Comparison) -> [f64; 4] {
    [d.loss, d.gradient, d.values, d.logits]
}

/// Where it runs, what the columns are, and what is allowed.
fn head(place: &Place) {
    let t = TOLERANCE;
    crate::out!("{}", place.in_words());
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
    if place.is_rounded() {
        let precision = place.precision().name();
        crate::out!("(allowed)                no bound yet for {precision}");
        return;
    }
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

fn line(r: &Replay, place: &Place) {
    let d = &r.deviation;
    let verdict = match (r.pass, d.choices.first()) {
        (true, None) if place.is_rounded() => "ran".to_owned(),
        (true, Some(other)) => format!("ran; another choice: {other}"),
        (true, None) => "pass".to_owned(),
        (false, None) => "FAIL".to_owned(),
        (false, Some(other)) => format!("FAIL: {other}"),
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
