//! `promptbed data check`: is what is on disk what the papers used?

use std::path::PathBuf;

use anyhow::{Result, bail};
use datasets::check::{self, State};
use datasets::{Part, Row};
use indicatif::ProgressBar;

use super::print;
use crate::cli::Done;
use crate::cli::setup::catalogue;

/// Check the datasets below a folder: present, different from what the papers used, partial or missing.
///
/// Exit code 1 if any that was asked for cannot be used; without --dataset, any of which something is there.
///
/// Example: promptbed data check --data /data --deep
#[derive(clap::Args)]
pub struct Check {
    /// Folder that holds the datasets.
    #[arg(long)]
    data: PathBuf,
    /// Only these datasets [default: all of the catalogue].
    #[arg(long)]
    dataset: Vec<String>,
    /// Decode every picture.
    #[arg(long)]
    deep: bool,
    /// More dataset rows, a TOML file.
    #[arg(long)]
    catalogue: Option<PathBuf>,
}

impl Check {
    pub fn run(self) -> Result<Done> {
        if !self.data.is_dir() {
            bail!("{}: there is no such folder (--data)", self.data.display());
        }
        let catalogue = catalogue(self.catalogue.as_deref())?;
        let rows: Vec<&Row> = if self.dataset.is_empty() {
            catalogue.rows().iter().collect()
        } else {
            let found = self.dataset.iter().map(|id| catalogue.find(id));
            found.collect::<Result<_, _>>()?
        };
        let titles = [
            "DATASET", "STATE", "CLASSES", "TRAIN", "VAL", "TEST", "MISSING", "BROKEN",
        ];
        let mut table = vec![titles.map(str::to_owned).to_vec()];
        let (mut bad, mut absent, mut usable) = (0, 0, 0);
        for row in rows {
            let bar = ProgressBar::no_length();
            bar.set_message(row.id.clone());
            let report = check::check(row, &self.data, self.deep, |n| bar.inc(n as u64));
            bar.finish_and_clear();
            let is_absent = report.state == State::Absent;
            absent += usize::from(is_absent);
            usable += usize::from(report.state.is_usable());
            // What nobody asked for by name may be absent; it is counted.
            let is_excused = is_absent && self.dataset.is_empty();
            let is_bad = !report.state.is_usable() && !is_excused;
            bad += usize::from(is_bad);
            if !is_excused {
                tell(&report);
            }
            let of = |found: Option<usize>, published: Option<usize>| match (found, published) {
                (Some(f), Some(p)) => format!("{f} of {p}"),
                (Some(f), None) => f.to_string(),
                (None, _) => "-".to_owned(),
            };
            let part = |part: Part, found: fn(&check::Found) -> usize| {
                of(
                    report.counts.as_ref().map(found),
                    row.pictures.map(|c| c.part(part)),
                )
            };
            table.push(vec![
                report.id.clone(),
                report.state.name().to_owned(),
                of(report.counts.as_ref().map(|c| c.classes), row.classes),
                part(Part::Train, |c| c.train),
                part(Part::Val, |c| c.val),
                part(Part::Test, |c| c.test),
                report.missing_count.to_string(),
                if self.deep {
                    format!("{} of {}", report.broken.len(), report.decoded)
                } else {
                    "-".to_owned()
                },
            ]);
        }
        print(&table, 2..8);
        crate::say!(
            "{} datasets looked at: {usable} usable, {} present but not usable, {absent} not there",
            table.len() - 1,
            table.len() - 1 - usable - absent
        );
        Ok(if bad == 0 { Done::All } else { Done::NotAll })
    }
}

/// Everything that is wrong with, or to be known of, one dataset.
fn tell(report: &check::Report) {
    let id = &report.id;
    for note in &report.notes {
        crate::out!("{id}: {note}");
    }
    if let Some(error) = &report.error {
        crate::out!("{id}: {error}");
    }
    for problem in &report.missing {
        crate::out!("{id}: {}: {}", problem.field, problem.kind);
    }
    if report.missing_count > report.missing.len() {
        crate::out!(
            "{id}: and {} more pictures are missing",
            report.missing_count - report.missing.len()
        );
    }
    for (path, error) in &report.broken {
        crate::out!("{id}: {}: {error}", path.display());
    }
}
