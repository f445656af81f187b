//! `promptbed data fetch`: from official addresses to the folders the readers expect.

use std::cell::{Cell, RefCell};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use datasets::Row;
use datasets::catalogue::Archive;
use datasets::fetch::{Event, Fetcher, Options, Outcome};
use indicatif::{ProgressBar, ProgressStyle};

use super::print;
use crate::cli::Done;
use crate::cli::setup::catalogue;

/// Time between two plain lines where there is no terminal.
const QUIET: Duration = Duration::from_secs(10);

/// Download datasets from their official addresses, compare with the published sums, unpack, put in place.
///
/// What is there is left alone; what was interrupted is continued. Downloads are kept in DATA/downloads until they are
/// unpacked. What needs a licence or a click is not fetched: how to get it, and where to put it, is printed. Exit code 1
/// if anything that was asked for is not there at the end.
///
/// Example: promptbed data fetch --data /data --dataset dtd --dataset eurosat
#[derive(clap::Args)]
pub struct Fetch {
    /// Folder that holds the datasets, or will.
    #[arg(long)]
    data: PathBuf,
    /// Dataset to fetch; repeat it for several.
    #[arg(long, required = true)]
    dataset: Vec<String>,
    /// Address of a mirror that has every file as URL/<dataset>/<file>.
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Keep archives after they have been unpacked.
    #[arg(long)]
    keep: bool,
    /// More dataset rows, a TOML file.
    #[arg(long)]
    catalogue: Option<PathBuf>,
}

impl Fetch {
    pub fn run(self) -> Result<Done> {
        if let Some(url) = &self.mirror
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            bail!("--mirror {url}: must begin with http:// or https://");
        }
        let catalogue = catalogue(self.catalogue.as_deref())?;
        let mut rows: Vec<&Row> = Vec::new();
        for name in &self.dataset {
            let row = catalogue.find(name)?;
            if row.archives.is_empty() {
                bail!(
                    "dataset {}: the catalogue does not say where it comes from ([[{}.archives]])",
                    row.id,
                    row.id
                );
            }
            if !rows.iter().any(|known| known.id == row.id) {
                rows.push(row);
            }
        }
        let options = Options {
            mirror: self.mirror,
            keep: self.keep,
            ..Options::default()
        };
        let fetcher = Fetcher::new(&self.data, options)?;
        let mut table = vec![["DATASET", "FILE", "OUTCOME"].map(str::to_owned).to_vec()];
        let (mut failed, mut by_hand) = (0, 0);
        for row in rows {
            for archive in &row.archives {
                let view = View::new(&row.id, archive);
                let outcome = fetcher.fetch(&row.id, archive, &|event| view.tell(event));
                view.finish();
                let word = match outcome {
                    Ok(Outcome::There) => "there already",
                    Ok(Outcome::Fetched) => "fetched",
                    Ok(Outcome::Copied) => "copied",
                    Ok(Outcome::ByHand { how, put, places }) => {
                        by_hand += 1;
                        crate::out!("{}: {}: to be got by hand: {how}", row.id, archive.file);
                        if let Some(put) = put {
                            let put = put.display();
                            crate::out!("  put it at {put} and run the same command again");
                        }
                        for place in places {
                            crate::out!("  missing until then: {}", place.display());
                        }
                        "by hand"
                    }
                    Err(error) => {
                        failed += 1;
                        crate::out!("{}: {}: {error}", row.id, archive.file);
                        "failed"
                    }
                };
                table.push(vec![row.id.clone(), archive.file.clone(), word.to_owned()]);
            }
        }
        print(&table, 0..0);
        crate::say!(
            "files: {} asked for, {failed} failed, {by_hand} to be got by hand; `promptbed data check --data {} --deep` looks at what is there",
            table.len() - 1,
            self.data.display()
        );
        Ok(if failed + by_hand == 0 {
            Done::All
        } else {
            Done::NotAll
        })
    }
}

/// What a person sees of one file: a bar on a terminal, a line now and then elsewhere.
struct View {
    name: String,
    bar: Option<ProgressBar>,
    spoken: Cell<Option<Instant>>,
    phase: RefCell<&'static str>,
}

impl View {
    fn new(id: &str, archive: &Archive) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::no_length();
            let style = "{msg}  {bar:30.cyan} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left";
            bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
            bar
        });
        Self {
            name: format!("{id}: {}", archive.file),
            bar,
            spoken: Cell::new(None),
            phase: RefCell::new(""),
        }
    }

    fn tell(&self, event: Event) {
        let (phase, done, all) = match event {
            Event::Waiting { reason, wait } => {
                let line = format!(
                    "{}: {reason}; trying again in {:.0} s",
                    self.name,
                    wait.as_secs_f64()
                );
                match &self.bar {
                    Some(bar) => bar.suspend(|| crate::say!("{line}")),
                    None => crate::say!("{line}"),
                }
                return;
            }
            Event::Downloading { done, all } => ("downloading", done, all),
            Event::Verifying { done, all } => ("comparing sums", done, Some(all)),
            Event::Unpacking { bytes, .. } => ("unpacking", bytes, None),
        };
        let is_new = self.phase.replace(phase) != phase;
        if let Some(bar) = &self.bar {
            if is_new {
                bar.reset();
                bar.set_message(format!("{} {phase}", self.name));
            }
            match all {
                Some(all) => bar.set_length(all),
                None => bar.unset_length(),
            }
            bar.set_position(done);
            return;
        }
        // A phase that is over at once is not worth a line.
        let spoken = self.spoken.get().unwrap_or_else(|| {
            let now = Instant::now();
            self.spoken.set(Some(now));
            now
        });
        if spoken.elapsed() < QUIET {
            return;
        }
        self.spoken.set(Some(Instant::now()));
        let of = all.map_or(String::new(), |all| format!(" of {}", megabytes(all)));
        crate::say!("{}: {phase}, {}{of} MB", self.name, megabytes(done));
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}
