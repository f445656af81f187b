//! `promptbed data list`: what the catalogue has.

use std::path::PathBuf;

use anyhow::Result;
use datasets::Part;

use super::print;
use crate::cli::Done;
use crate::cli::setup::catalogue;

/// List every dataset of the catalogue: classes, published counts, folder, split file.
#[derive(clap::Args)]
pub struct List {
    /// More dataset rows, a TOML file.
    #[arg(long)]
    catalogue: Option<PathBuf>,
}

impl List {
    pub fn run(self) -> Result<Done> {
        let mut rows = vec![
            [
                "DATASET", "CLASSES", "TRAIN", "VAL", "TEST", "PICTURES", "LISTS",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        for row in catalogue(self.catalogue.as_deref())?.rows() {
            let count = |part: Part| {
                row.pictures
                    .map_or("-".to_owned(), |c| c.part(part).to_string())
            };
            rows.push(vec![
                row.id.clone(),
                row.classes.map_or("-".to_owned(), |n| n.to_string()),
                count(Part::Train),
                count(Part::Val),
                count(Part::Test),
                row.images.display().to_string(),
                row.split.as_ref().map_or_else(
                    || "its own folders and lists".to_owned(),
                    |s| s.display().to_string(),
                ),
            ]);
        }
        print(&rows, 1..5);
        crate::say!(
            "and {} drawn datasets that need no files: {}",
            datasets::drawn::ids().count(),
            datasets::drawn::ids().collect::<Vec<_>>().join(", ")
        );
        Ok(Done::All)
    }
}
