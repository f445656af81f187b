//! The section's tables of accuracies, the first one open.

use super::{Contents, Fold, Part};
use crate::show::report::view::TableView;
use crate::show::table;

/// Of every section.
pub(super) const PART: Part = Part {
    title: "Tables",
    charts: &[],
    fold: Fold::First,
    fill: |pages| {
        let tables = table::section_tables(pages.section);
        Some(Contents {
            prose: Vec::new(),
            tables: tables.iter().map(TableView::of).collect(),
        })
    },
};
