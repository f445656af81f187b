//! `promptbed data`: what is known of datasets, what is on disk, and what a model sees of it. One file a verb.

mod check;
mod draw;
mod fetch;
mod list;
mod picks;
mod pixels;
mod show;

use anyhow::Result;
use datasets::ClassSet;

use super::Done;

/// List, fetch, check and look at datasets.
#[derive(clap::Args)]
pub struct Data {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    List(list::List),
    Fetch(fetch::Fetch),
    Check(check::Check),
    Draw(draw::Draw),
    Picks(picks::Picks),
    Pixels(pixels::Pixels),
    Show(show::Show),
}

impl Data {
    pub fn run(self) -> Result<Done> {
        match self.verb {
            Verb::List(verb) => verb.run(),
            Verb::Fetch(verb) => verb.run(),
            Verb::Check(verb) => verb.run(),
            Verb::Draw(verb) => verb.run(),
            Verb::Picks(verb) => verb.run(),
            Verb::Pixels(verb) => verb.run(),
            Verb::Show(verb) => verb.run(),
        }
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
