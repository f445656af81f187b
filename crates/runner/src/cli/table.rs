//! `promptbed table`: the tables of a results folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Done;
use crate::show::published::Published;
use crate::show::summary::{Score, Spread, Summary};
use crate::show::table::{self, against};
use crate::store::{Store, replace};

/// Print and write tables: reads a results folder, writes its tables/ (Markdown, CSV, LaTeX) and trials.parquet.
///
/// Example: promptbed table results/quick
#[derive(clap::Args)]
pub struct Table {
    /// Results folder.
    dir: PathBuf,
    /// Sum seeds up as the published scripts do: each rounded to one decimal, population deviation.
    #[arg(long)]
    as_published: bool,
    /// Macro accuracy, the mean of the classes' recall, in place of accuracy; and the recall of each class as CSV.
    #[arg(long = "macro")]
    by_class: bool,
    /// Put published numbers beside ours: `published` for those that ship, or a folder of such TOML files.
    #[arg(long, value_name = "published|DIR", conflicts_with = "by_class")]
    against: Option<PathBuf>,
    /// Only published numbers of this source (a file name in results/published without its ending).
    #[arg(long, requires = "against")]
    source: Option<String>,
}

impl Table {
    pub fn run(self) -> Result<Done> {
        // What is wrong with the command line is told before anything is written.
        let published = self.against.as_deref().map(read).transpose()?;
        if let (Some(published), Some(source)) = (&published, &self.source) {
            known(published, source)?;
        }
        let store = Store::open(&self.dir)?;
        // The tallies of classes are most of what records hold; they are read for whoever asks for them.
        let (loaded, score) = if self.by_class {
            (store.read_all()?, Score::Classes)
        } else {
            (store.read_figures()?, Score::Pictures)
        };
        store.write_frame(&loaded)?;
        let spread = if self.as_published {
            Spread::AsPublished
        } else {
            Spread::Sample
        };
        for path in table::render_all_by(&loaded, &self.dir, spread, score)? {
            crate::say!("{}", path.display());
        }
        match &published {
            None => crate::out!("{}", table::terminal_by(&loaded, spread, score)),
            Some(published) => {
                let summary = Summary::new(&loaded).with_spread(spread);
                let pairs = against::against(&summary, published, self.source.as_deref());
                let path = self.dir.join("tables").join("against-published.md");
                replace(&path, against::markdown(&pairs).as_bytes())?;
                crate::say!("{}", path.display());
                crate::out!("{}", against::terminal(&pairs));
            }
        }
        Ok(if loaded.problems.is_empty() {
            Done::All
        } else {
            Done::NotAll
        })
    }
}

fn read(from: &Path) -> Result<Published> {
    if from == Path::new("published") {
        return Ok(Published::built_in()?);
    }
    if !from.is_dir() {
        bail!(
            "--against {}: must be `published` or a folder of TOML files like results/published",
            from.display()
        );
    }
    Published::load(from).with_context(|| format!("--against {}", from.display()))
}

fn known(published: &Published, source: &str) -> Result<()> {
    let ids: Vec<&str> = published.sources().map(|s| s.id.as_str()).collect();
    if ids.contains(&source) {
        return Ok(());
    }
    match methods::settings::nearest(source, ids.iter().copied()) {
        Some(near) => bail!("--source {source}: there is no such source; did you mean `{near}`?"),
        None => bail!(
            "--source {source}: there is no such source; there are {}",
            ids.join(", ")
        ),
    }
}
