//! What learning several datasets at once takes, against each by itself.

use super::{Contents, Fold, Part};
use crate::show::report::view::{Cell, Head, TableView};
use crate::show::summary::tasks::HEADS;

/// Of sections whose protocol learns several datasets at once.
pub(super) const PART: Part = Part {
    title: "What a task takes",
    charts: &[],
    fold: Fold::Plain,
    fill: |pages| {
        let costs = pages.section.task_costs().into_iter();
        let heads = HEADS.iter().enumerate().map(|(i, head)| match i {
            0 | 1 => Head::text(head),
            _ => Head::number(head),
        });
        let cell = |(i, text): (usize, String)| match text.parse::<f64>() {
            Ok(value) if i > 1 => Cell::number(text, value),
            _ => Cell::text(text),
        };
        let rows = costs.map(|cost| cost.row().into_iter().enumerate().map(cell).collect());
        let table = TableView::flat("What a task takes", heads, rows);
        Contents::of_tables(vec![MEANING.to_owned()], [table])
    },
};

const MEANING: &str = "Trained numbers and optimizer steps, in the mean over trials. Learned each by itself, tasks are as many \
                       trainings, whose numbers add up; learned at once, they share one.";
