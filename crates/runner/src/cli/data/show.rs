//! `promptbed data show`: a contact sheet.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use datasets::Part;
use datasets::sheet::{Layout, sheet};
use image::ImageEncoder;

use crate::cli::Done;
use crate::cli::setup::catalogue;

/// Write a contact sheet (PNG): the first pictures of each class as a model sees them, a row a class.
///
/// Example: promptbed data show drawn-pets --out pets.png
#[derive(clap::Args)]
pub struct Show {
    /// Dataset, of the catalogue or drawn.
    dataset: String,
    /// Folder that holds the datasets.
    #[arg(long)]
    data: Option<PathBuf>,
    /// More dataset rows, a TOML file.
    #[arg(long)]
    catalogue: Option<PathBuf>,
    /// train, val or test.
    #[arg(long, default_value = "test")]
    part: String,
    /// Pictures a class.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=100))]
    per_class: u16,
    /// Pixels a side of each.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    size: u16,
    /// PNG to write.
    #[arg(long)]
    out: PathBuf,
}

impl Show {
    pub fn run(self) -> Result<Done> {
        let Some(part) = Part::ALL.into_iter().find(|p| p.name() == self.part) else {
            bail!("--part {}: must be train, val or test", self.part);
        };
        let catalogue = catalogue(self.catalogue.as_deref())?;
        let dataset = crate::run::feed::open(&self.dataset, &catalogue, self.data.as_deref())?;
        let items = dataset.split.part(part);
        if items.is_empty() {
            bail!("dataset {}: its {} list is empty", dataset.id, part.name());
        }
        let layout = Layout {
            per_class: usize::from(self.per_class),
            cell: usize::from(self.size),
            margin: 0,
        };
        let sheet = sheet(&*dataset.source, items, layout)?;
        png(&sheet.picture, &self.out)?;
        for (row, (name, _)) in sheet.rows.iter().enumerate() {
            crate::out!("row {:>3}  {name}", row + 1);
        }
        crate::say!("{}", self.out.display());
        Ok(Done::All)
    }
}

fn png(picture: &datasets::Rgb, path: &Path) -> Result<()> {
    let (width, height) = (
        u32::try_from(picture.width)?,
        u32::try_from(picture.height)?,
    );
    let mut bytes = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    encoder.write_image(&picture.data, width, height, image::ExtendedColorType::Rgb8)?;
    crate::store::replace(path, &bytes).with_context(|| format!("{}", path.display()))?;
    Ok(())
}
