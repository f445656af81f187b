//! `promptbed data draw`: a drawn dataset as a folder of pictures, as anybody's own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use datasets::{Dataset, Part, drawn};
use rayon::prelude::*;

use crate::cli::Done;

/// Write a drawn dataset as a folder of PNG files, with the row that reads it: a folder to try things on.
///
/// A set with drivers gets a list of who is in which picture and is split by it; any other a split file.
///
/// Example: promptbed data draw drawn-scans --out mine
#[derive(clap::Args)]
pub struct Draw {
    /// Drawn dataset (promptbed data list names them).
    dataset: String,
    /// Data folder to write to: pictures go to DIR/NAME/images, the row to DIR/NAME.toml, NAME being the dataset's without
    /// `drawn-`.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Draw {
    pub fn run(self) -> Result<Done> {
        let Some(dataset) = drawn::open(&self.dataset) else {
            let known: Vec<&str> = drawn::ids().collect();
            match datasets::catalogue::closest(&self.dataset, known.iter().copied()) {
                Some(near) => bail!(
                    "{}: is no drawn dataset; did you mean {near}?",
                    self.dataset
                ),
                None => bail!(
                    "{}: is no drawn dataset; there are {}",
                    self.dataset,
                    known.join(", ")
                ),
            }
        };
        let name = self.dataset.trim_start_matches("drawn-");
        let folder = self.out.join(name);
        if folder.exists() {
            bail!("{}: is there already", folder.display());
        }
        let count = pictures(&dataset, &folder.join("images"))?;
        let stand_in = drawn::stand_ins().iter().find(|s| s.drawn.id == dataset.id);
        let groups = stand_in.map(|s| s.groups()).unwrap_or_default();
        let reads = if groups.is_empty() {
            write(&folder.join("split.json"), &split(&dataset))?;
            format!("reader = \"split-json\"\nsplit  = \"{name}/split.json\"\n")
        } else {
            let lines = groups
                .iter()
                .map(|(path, group)| format!("{},{group}\n", path.display()));
            let text = "path,group\n".to_owned() + &lines.collect::<String>();
            write(&folder.join("groups.csv"), &text)?;
            format!("reader = \"class-folders\"\ngroups = {{ list = \"{name}/groups.csv\" }}\n")
        };
        let row = self.out.join(format!("{name}.toml"));
        write(
            &row,
            &format!(
                "[{name}]\nimages = \"{name}/images\"\n{reads}prompt = \"{}\"\n",
                dataset.template
            ),
        )?;
        crate::say!(
            "{count} pictures below {}, read by {}",
            folder.display(),
            row.display()
        );
        Ok(Done::All)
    }
}

/// Writes every picture of the lists where its item says; returns how many there are.
fn pictures(dataset: &Dataset, folder: &Path) -> Result<usize> {
    let items: Vec<_> = Part::ALL
        .into_iter()
        .flat_map(|part| dataset.split.part(part))
        .collect();
    items.par_iter().try_for_each(|item| {
        let path = folder.join(&item.path);
        let below = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(below).with_context(|| below.display().to_string())?;
        let picture = dataset.source.rgb(item)?;
        std::fs::write(&path, picture.png()).with_context(|| path.display().to_string())
    })?;
    Ok(items.len())
}

/// The lists as a split file, an entry a line.
fn split(dataset: &Dataset) -> String {
    let lists = Part::ALL.map(|part| {
        let items = dataset.split.part(part).iter();
        let lines = items.map(|item| serde_json::to_string(item).expect("strings and numbers"));
        let lines: Vec<String> = lines.collect();
        format!("\"{}\": [\n{}\n]", part.name(), lines.join(",\n"))
    });
    format!("{{\n{}\n}}\n", lists.join(",\n"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
