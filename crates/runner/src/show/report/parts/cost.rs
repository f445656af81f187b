//! What methods took.

use super::{Contents, Fold, Part};
use crate::show::looks::look;
use crate::show::report::section::Pages;
use crate::show::report::view::{self, Cell, Head, TableView};

/// Of every section.
pub(super) const PART: Part = Part {
    title: "Cost",
    charts: &["cost", "budget"],
    fold: Fold::Plain,
    fill: |pages| {
        Some(Contents {
            prose: Vec::new(),
            tables: vec![pages.cost()],
        })
    },
};

impl Pages<'_> {
    fn cost(&self) -> TableView {
        let heads = [
            Head::text("Method"),
            Head::number("Shots"),
            Head::number("Trials"),
            Head::number("Trained numbers"),
            Head::number("Training a trial"),
            Head::number("A step"),
            Head::number("Operations a step"),
            Head::number("A tested image"),
            Head::number("Peak memory"),
        ];
        let mut rows = Vec::new();
        for method in &self.section.methods {
            for ((label, shots), spending) in &self.section.spending {
                if *label != method.label {
                    continue;
                }
                let time = |seconds: f64| Cell::number(view::duration(seconds), seconds);
                let is_trained = spending.seconds_a_step.is_some();
                rows.push(vec![
                    Cell::text(look(method).name),
                    Cell::number(shots.to_string(), *shots as f64),
                    Cell::number(spending.trials.to_string(), spending.trials as f64),
                    Cell::number(
                        view::grouped(spending.parameters),
                        spending.parameters as f64,
                    ),
                    if is_trained {
                        time(spending.train_seconds)
                    } else {
                        Cell::gap()
                    },
                    spending.seconds_a_step.map_or_else(Cell::gap, time),
                    spending.operations_a_step.map_or_else(Cell::gap, |n| {
                        Cell::number(format!("{:.1} MFLOP", n / 1e6), n)
                    }),
                    time(spending.seconds_a_picture),
                    Cell::number(
                        view::bytes(spending.peak_memory),
                        spending.peak_memory as f64,
                    ),
                ]);
            }
        }
        TableView::flat("Cost", heads, rows).with_caption(
            "Wall time on the machine under Provenance, mean over finished trials; cached features are not counted twice. \
             Operations are those of both towers that a step cannot do without, cached views included. \
             Peak memory is the process's, shared by the trials beside it.",
        )
    }
}
