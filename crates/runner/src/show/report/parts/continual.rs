//! What is kept of what was learned one after the other.

use super::{Contents, Fold, Part};
use crate::protocols::Shows;

/// Of sections whose protocol learns one thing after the other.
pub(super) const PART: Part = Part {
    title: "What is kept and what is lost",
    charts: &["sessions", "matrix"],
    fold: Fold::Plain,
    fill: |pages| {
        let meaning = match pages.section.protocol.shows {
            Shows::Sessions => SESSIONS,
            Shows::Datasets => DATASETS,
            Shows::Sets | Shows::Halves { .. } | Shows::Tasks => return None,
        };
        Some(Contents {
            prose: vec![meaning.to_owned()],
            tables: Vec::new(),
        })
    },
};

const SESSIONS: &str = "The first chart is the accuracy on all classes seen so far, over all their images, after each session: \
                        its mean is the Average, its end is Last. In the heat maps a row is a session after which was tested \
                        and a column the session whose images are asked about, always among all classes seen so far; framed \
                        is what was learned just then. A column that pales downwards is being forgotten: Forgetting is how \
                        far each earlier session's images fell from their best, BWT how far from when they were learned.";

const DATASETS: &str = "The first chart is the accuracy after each dataset was learned, averaged and of each. In the heat maps \
                        a row is the dataset learned last and a column the one asked about; framed is what was learned just \
                        then. Right of the frames is what the method could before it learned that dataset: its mean is \
                        Transfer. Left of them a column that pales downwards is being forgotten.";
