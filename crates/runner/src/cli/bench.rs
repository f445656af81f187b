//! `promptbed bench`: how fast this machine trains and tests.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::Done;
use crate::device::{InPrecision, Place};
use crate::measure::bench::{self, Measured, Options};
use crate::run::suite::bytes;

/// Time training steps and evaluation on drawn weights: reads nothing (unless --backbone is a file), prints a table.
///
/// Peak memory is the whole process's: name one method for it. The share is of the matrix products of float32's grade that
/// the machine does per second in the arithmetic that ran (the first line names it), measured in the same run, over the
/// operations that the algorithm cannot do without. On a GPU there is no share: what its products could do is not
/// measured.
///
/// Example: promptbed bench --backbone vit-b16 --method coop --classes 50
#[derive(clap::Args)]
pub struct Bench {
    /// vit-b32, vit-b16, vit-l14 (drawn weights), drawn (the CLIP that ships), or a weight file.
    #[arg(long, default_value = "drawn")]
    backbone: String,
    /// What to time, one or more [default: all]: a method, coop-eval, cocoop-eval, encode or encode-bf16.
    #[arg(long, value_delimiter = ',')]
    method: Vec<String>,
    /// Classes.
    #[arg(long, default_value_t = 50)]
    classes: usize,
    /// Class names to time with, one a line: how long they are and how they begin decides the text tower's work
    /// [default: made up].
    #[arg(long, value_name = "FILE", conflicts_with = "classes")]
    names: Option<PathBuf>,
    /// Pictures a step; for tpt, views [default: as published].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    batch: Option<u16>,
    /// Timed steps, after one that is not.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    steps: u16,
    /// Pictures of one evaluation (coop-eval, cocoop-eval, encode), a batch at a time [default: one batch].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    images: Option<u32>,
    /// Whether each step encodes its pictures, or their features are at hand.
    #[arg(long, default_value = "fresh", value_parser = ["fresh", "cached"])]
    views: String,
    /// Most memory that the text tower's graph may take, for example 2GB [default: no bound].
    #[arg(long, value_parser = bytes)]
    memory: Option<usize>,
    #[command(flatten)]
    on: InPrecision,
    /// Print one JSON line each instead of a table.
    #[arg(long)]
    json: bool,
    /// Time nothing: read lines of --json from this file, print a table of time and memory against classes and
    /// pictures, and draw it beside the file as SVG and PNG.
    #[arg(long, value_name = "LINES", conflicts_with_all = ["method", "json"])]
    growth: Option<PathBuf>,
}

impl Bench {
    pub fn run(self) -> Result<Done> {
        if let Some(lines) = &self.growth {
            crate::out!("{}", bench::growth::draw(lines)?);
            return Ok(Done::All);
        }
        let place = self.on.open()?;
        let cases: Vec<_> = if self.method.is_empty() {
            let able = |case: &bench::Case| match case.refusal(&place) {
                None => true,
                Some(why) => {
                    crate::say!("note: {} is left out: {why}", case.name);
                    false
                }
            };
            bench::cases().into_iter().filter(able).collect()
        } else {
            let named = self.method.iter().map(|m| bench::find(m));
            let named = named.collect::<Result<Vec<_>>>()?;
            if let Some((case, why)) = named.iter().find_map(|c| Some((c, c.refusal(&place)?))) {
                bail!("--method {}: {why}", case.name);
            }
            named
        };
        let options = Options {
            names: match &self.names {
                Some(path) => bench::names_of(path)?,
                None => bench::class_names(self.classes, self.backbone == "drawn")?,
            },
            backbone: self.backbone,
            batch: self.batch.map(usize::from),
            steps: usize::from(self.steps),
            images: self.images.map(|n| n as usize),
            cached: self.views == "cached",
            memory: self.memory,
        };
        if !self.json {
            head(&place);
            crate::out!(
                "{:<20} {:>6} {:>5} {:>9} {:>9} {:>9} {:>8} {:>9} {:>9} {:>6}",
                "method",
                "views",
                "batch",
                "s/step",
                "images/s",
                "tested/s",
                "peak MB",
                "GFLOP",
                "GFLOP/s",
                "share"
            );
        }
        let mut clip = bench::load(&options.backbone)?;
        clip.text.memory = options.memory;
        place.take(&mut clip)?;
        for case in cases {
            let measured = bench::measure(&case, clip.clone(), &options, &place)?;
            if self.json {
                crate::out!("{}", serde_json::to_string(&measured)?);
            } else {
                line(&measured);
            }
        }
        Ok(Done::All)
    }
}

/// Where it runs, and what the processor's products can do there.
fn head(place: &Place) {
    match place.arithmetic() {
        Some(arithmetic) => {
            let rate = rayon::scope(|_| bench::machine_rate(arithmetic));
            crate::out!("{}: products at {rate:.1} GFLOP/s", place.in_words());
        }
        None => crate::out!("{}", place.in_words()),
    }
}

fn line(m: &Measured) {
    let tested = m
        .evaluated_per_second
        .map_or("-".to_owned(), |v| format!("{v:.1}"));
    let of_machine = match m.machine_gflops.zip(m.share) {
        None => format!("{:>9} {:>6}", "-", "-"),
        Some((rate, share)) => format!("{rate:>9.1} {:>5.0}%", 100.0 * share),
    };
    crate::out!(
        "{:<20} {:>6} {:>5} {:>9.4} {:>9.2} {:>9} {:>8} {:>9.1} {of_machine}",
        m.method,
        m.views,
        m.batch,
        m.seconds_per_step,
        m.images_per_second,
        tested,
        m.peak_rss_mb,
        m.gflop_needed
    );
}
