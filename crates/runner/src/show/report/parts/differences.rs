//! Tests of whether one method beats another, over datasets and on the same images.

use super::{Contents, Fold, Part};
use crate::show::report::section::{Pages, shots_name};
use crate::show::report::view::{self, Cell, Head, TableView};

/// Where two methods can be compared.
pub(super) const PART: Part = Part {
    title: "Are the differences real?",
    charts: &[],
    fold: Fold::Closed,
    fill: |pages| {
        let prose = format!(
            "Wilcoxon's signed-rank test asks whether one method beats another over datasets; McNemar's whether it does on \
             the images of one dataset. An image counts once, for the method that gets it right in the larger share of \
             its seeds. Holm's correction covers all tests of a table. All at {}.",
            shots_name(pages.analysis.shots)
        );
        Contents::of_tables(vec![prose], [pages.over_datasets(), pages.over_pictures()])
    },
};

impl Pages<'_> {
    fn over_datasets(&self) -> TableView {
        let heads = [
            Head::text("First"),
            Head::text("Second"),
            Head::text("Measure"),
            Head::number("Second − first"),
            Head::number("Wins"),
            Head::number("Losses"),
            Head::number("W"),
            Head::number("p"),
            Head::number("p (Holm)"),
        ];
        let rows = self.analysis.datasets.iter().map(|test| {
            vec![
                Cell::text(self.name_of(&test.methods.0)),
                Cell::text(self.name_of(&test.methods.1)),
                Cell::text(&test.metric),
                Cell::number(format!("{:+.2}", test.difference), test.difference),
                Cell::number(test.wins.0.to_string(), test.wins.0 as f64),
                Cell::number(test.wins.1.to_string(), test.wins.1 as f64),
                Cell::number(test.result.statistic.to_string(), test.result.statistic),
                view::p_value(test.result.p),
                view::p_value(test.holm),
            ]
        });
        TableView::flat("Over datasets: Wilcoxon's signed-rank test", heads, rows).with_caption(
            "Pairs of means over seeds, one a dataset. Exact up to 25 datasets. With fewer than six datasets no result \
             can reach p < 0.05. Holm's correction is over all pairs of one measure.",
        )
    }

    fn over_pictures(&self) -> TableView {
        let heads = [
            Head::text("First"),
            Head::text("Second"),
            Head::text("Dataset"),
            Head::text("Classes"),
            Head::number("Only first right"),
            Head::number("Only second right"),
            Head::number("p"),
            Head::number("p (Holm)"),
        ];
        let rows = self.analysis.pictures.iter().map(|test| {
            let count = |n: u64| Cell::number(n.to_string(), n as f64);
            vec![
                Cell::text(self.name_of(&test.methods.0)),
                Cell::text(self.name_of(&test.methods.1)),
                Cell::text(&test.dataset),
                Cell::text(test.class_set.to_string()),
                count(test.result.only_first),
                count(test.result.only_second),
                view::p_value(test.result.exact),
                view::p_value(test.holm),
            ]
        });
        TableView::flat("On the same images: McNemar's exact test", heads, rows)
            .with_caption("Holm's correction is over every row of this table.")
    }
}
