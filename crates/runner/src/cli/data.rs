//! `promptbed data`: what is known of datasets, what is on disk, and what a model sees of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use datasets::check::{self, State};
use datasets::sheet::{Layout, sheet};
use datasets::transform::test_view;
use datasets::{ClassSet, Part, Row, picks};
use image::ImageEncoder;
use indicatif::ProgressBar;

use super::Done;
use super::run::catalogue;

/// List, check and look at datasets.
#[derive(clap::Args)]
pub struct Data {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    List(List),
    Check(Check),
    Picks(Picks),
    Pixels(Pixels),
    Show(Show),
}

impl Data {
    pub fn run(self) -> Result<Done> {
        match self.verb {
            Verb::List(verb) => verb.run(),
            Verb::Check(verb) => verb.run(),
            Verb::Picks(verb) => verb.run(),
            Verb::Pixels(verb) => verb.run(),
            Verb::Show(verb) => verb.run(),
        }
    }
}

/// List every dataset of the catalogue: classes, published counts, folder, split file.
#[derive(clap::Args)]
struct List {
    /// More dataset rows, a TOML file.
    #[arg(long)]
    catalogue: Option<PathBuf>,
}

impl List {
    fn run(self) -> Result<Done> {
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
            datasets::drawn::datasets().len(),
            datasets::drawn::datasets()
                .iter()
                .map(|d| d.id.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        );
        Ok(Done::All)
    }
}

/// Prints rows as aligned columns, those of `right` to the right.
fn print(rows: &[Vec<String>], right: std::ops::Range<usize>) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let line: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(c, cell)| {
                let width = widths[c];
                if right.contains(&c) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            })
            .collect();
        crate::out!("{}", line.join("  ").trim_end());
    }
}

/// Check the datasets below a folder: present, different from what the papers used, partial or missing.
///
/// Exit code 1 if any that was asked for cannot be used; without --dataset, any of which something is there.
///
/// Example: promptbed data check --data /data --deep
#[derive(clap::Args)]
struct Check {
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
    fn run(self) -> Result<Done> {
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

/// A part of a class list.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Half {
    /// The first half of the sorted labels, rounded up.
    Base,
    /// The rest.
    Novel,
    /// All classes.
    All,
}

impl Half {
    /// As the datasets crate calls it.
    pub fn set(self) -> ClassSet {
        match self {
            Self::Base => ClassSet::Base,
            Self::Novel => ClassSet::Novel,
            Self::All => ClassSet::All,
        }
    }
}

/// Print the few-shot picks of a split file as JSON, `train` and `val` paths in drawn order. No picture is read.
///
/// Example: promptbed data picks --split-file split_zhou_Caltech101.json --shots 16 --seed 1
#[derive(clap::Args)]
struct Picks {
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
    fn run(self) -> Result<Done> {
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

/// Show what a model would see of one picture: after resize (bicubic, antialiased) and centre crop, u8 [N, N, 3].
///
/// Example: promptbed data pixels photo.jpg --size 224 --out pixels.safetensors
#[derive(clap::Args)]
struct Pixels {
    /// Picture.
    file: PathBuf,
    /// Pixels a side, N.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    size: u32,
    /// Safetensors file to write, with `pixels`.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Pixels {
    fn run(self) -> Result<Done> {
        let n = self.size as usize;
        let picture = datasets::open_picture(&self.file)?;
        let (width, height) = (picture.width, picture.height);
        let view = test_view(&picture, n);
        let hash = crate::hash::hex(&view.data);
        if let Some(out) = &self.out {
            let tensor = Tensor::from_vec(view.data, (n, n, 3), &Device::Cpu)?;
            let bytes = safetensors::serialize([("pixels", &tensor)], None)?;
            crate::store::replace(out, &bytes)?;
        }
        crate::out!(
            "{}: {width} x {height} -> {n} x {n}, sha256 {hash}",
            self.file.display()
        );
        Ok(Done::All)
    }
}

/// Write a contact sheet (PNG): the first pictures of each class as a model sees them, a row a class.
///
/// Example: promptbed data show drawn-pets --out pets.png
#[derive(clap::Args)]
struct Show {
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
    fn run(self) -> Result<Done> {
        let Some(part) = Part::ALL.into_iter().find(|p| p.name() == self.part) else {
            bail!("--part {}: must be train, val or test", self.part);
        };
        let catalogue = catalogue(self.catalogue.as_deref())?;
        let dataset = crate::data::open(&self.dataset, &catalogue, self.data.as_deref())?;
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
