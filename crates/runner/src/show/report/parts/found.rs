//! What methods told that they found.

use std::collections::BTreeSet;

use super::{Contents, Fold, Part};
use crate::show::looks::look;
use crate::show::report::section::Pages;
use crate::show::report::view::{Cell, Head, TableView};

/// Of sections in which anything was found.
pub(super) const PART: Part = Part {
    title: "Found",
    charts: &[],
    fold: Fold::Plain,
    fill: |pages| {
        let prose = "What searches found. What is best of many on a few pictures looks better than it is: accuracy on the \
                     shots beside that on pictures the search never saw, and on the test.";
        Contents::of_tables(vec![prose.to_owned()], [pages.found()])
    },
};

impl Pages<'_> {
    fn found(&self) -> TableView {
        let all = &self.section.found;
        let names: BTreeSet<&String> = all.iter().flat_map(|f| f.found.keys()).collect();
        let numbers = |name: &str| {
            all.iter()
                .all(|f| f.found.get(name).is_none_or(|v| v.is_number()))
        };
        let mut heads = vec![
            Head::text("Dataset"),
            Head::text("Method"),
            Head::number("Shots"),
            Head::number("Seed"),
        ];
        heads.extend(names.iter().map(|name| match numbers(name) {
            true => Head::number(name),
            false => Head::text(name),
        }));
        heads.push(Head::number("accuracy tested"));
        let mut rows = Vec::new();
        for found in all {
            let method = self
                .section
                .methods
                .iter()
                .find(|m| m.label == found.method);
            let mut row = vec![
                Cell::text(self.section.called(&found.dataset)),
                Cell::text(method.map_or(found.method.clone(), |m| look(m).name)),
                Cell::number(found.shots.to_string(), found.shots as f64),
                Cell::number(found.seed.to_string(), found.seed as f64),
            ];
            let figure = |n: f64| match n.fract() == 0.0 {
                true => Cell::number(format!("{n}"), n),
                false => Cell::number(format!("{n:.2}"), n),
            };
            row.extend(names.iter().map(|name| match found.found.get(*name) {
                None => Cell::gap(),
                Some(value) => match (value.as_f64(), value.as_str()) {
                    (Some(n), _) => figure(n),
                    (_, Some(text)) => Cell::text(text),
                    _ => Cell::text(value.to_string()),
                },
            }));
            let tested = found.tested.filter(|t| t.is_finite());
            row.push(tested.map_or_else(Cell::gap, |t| Cell::number(format!("{t:.2}"), t)));
            rows.push(row);
        }
        TableView::flat("Found", heads, rows)
            .with_caption("One row a finished trial; percentages are of pictures told right.")
    }
}
