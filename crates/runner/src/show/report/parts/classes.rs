//! The classes that methods gained and lost, and those they confuse.

use super::{Contents, Fold, Part};
use crate::show::report::section::Pages;
use crate::show::report::view::{Cell, Head, TableView};

/// Where predictions were kept.
pub(super) const PART: Part = Part {
    title: "Classes",
    charts: &[],
    fold: Fold::Closed,
    fill: |pages| Contents::of_tables(Vec::new(), [pages.classes(), pages.confusions()]),
};

impl Pages<'_> {
    fn classes(&self) -> TableView {
        let heads = [
            Head::text("Method"),
            Head::text("Dataset"),
            Head::text("Classes"),
            Head::text("Class"),
            Head::number("Images"),
            Head::number("Before (%)"),
            Head::number("After (%)"),
            Head::number("Change"),
        ];
        let rows = self.analysis.classes.iter().map(|c| {
            let (before, after) = c.accuracy;
            vec![
                Cell::text(self.name_of(&c.method)),
                Cell::text(&c.place.0),
                Cell::text(c.place.1.to_string()),
                Cell::text(self.class_name(&c.place, c.class)),
                Cell::number(c.pictures.to_string(), c.pictures as f64),
                Cell::number(format!("{before:.1}"), before),
                Cell::number(format!("{after:.1}"), after),
                Cell::number(format!("{:+.1}", after - before), after - before),
            ]
        });
        let reference = self
            .analysis
            .reference
            .as_deref()
            .map_or_else(String::new, |label| self.name_of(label));
        TableView::flat("Classes that gained or lost most", heads, rows).with_caption(&format!(
            "Before is {reference}. Five each way a method; classes of at least five images."
        ))
    }

    fn confusions(&self) -> TableView {
        let heads = [
            Head::text("Method"),
            Head::text("Dataset"),
            Head::text("Classes"),
            Head::text("Class"),
            Head::text("Taken for"),
            Head::number("Share (%)"),
        ];
        let rows = self.analysis.confusions.iter().map(|c| {
            vec![
                Cell::text(self.name_of(&c.method)),
                Cell::text(&c.place.0),
                Cell::text(c.place.1.to_string()),
                Cell::text(self.class_name(&c.place, c.labels.0)),
                Cell::text(self.class_name(&c.place, c.labels.1)),
                Cell::number(format!("{:.1}", c.share), c.share),
            ]
        });
        TableView::flat("Most frequent confusions", heads, rows).with_caption(
            "Share of the class's predictions over all seeds; the five highest of each method.",
        )
    }
}
