//! What methods used beside their few shots.

use super::{Contents, Fold, Part};
use crate::show::looks::look;
use crate::show::report::section::Pages;
use crate::show::report::view::{Cell, Head, TableView};
use crate::show::summary::uses::HEADS;

/// Of every section.
pub(super) const PART: Part = Part {
    title: "What the methods used",
    charts: &[],
    fold: Fold::Plain,
    fill: |pages| {
        let prose = "Methods that use more than labelled shots of the classes they are trained on are not on equal terms \
                     with those that do not. Read from the methods' own entries and the settings they ran with.";
        Contents::of_tables(vec![prose.to_owned()], [pages.uses()])
    },
};

impl Pages<'_> {
    fn uses(&self) -> TableView {
        let heads = HEADS.map(Head::text);
        let rows = self.section.methods.iter().filter_map(|method| {
            let uses = self.section.uses.get(&method.label)?;
            let row = uses.row(look(method).name);
            Some(row.map(Cell::text).to_vec())
        });
        TableView::flat("What the methods used", heads, rows.collect::<Vec<_>>())
    }
}
