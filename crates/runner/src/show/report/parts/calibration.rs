//! How far confidence is from accuracy.

use super::{Contents, Fold, Part};
use crate::show::looks::look;
use crate::show::report::section::{Pages, shots_name};
use crate::show::report::view::{Cell, Head, TableView};
use crate::stats;

/// Of every section.
pub(super) const PART: Part = Part {
    title: "Calibration",
    charts: &["reliability"],
    fold: Fold::First,
    fill: |pages| {
        let prose = "Expected calibration error over 15 bins: the mean gap between confidence and accuracy. Points above \
                     the diagonal are under-confident.";
        Some(Contents {
            prose: vec![prose.to_owned()],
            tables: vec![pages.calibration()],
        })
    },
};

impl Pages<'_> {
    /// Calibration error of each method, averaged over seeds and datasets.
    fn calibration(&self) -> TableView {
        let (section, shots) = (self.section, self.analysis.shots);
        let mut heads = vec![Head::text("Method")];
        heads.extend(
            section
                .class_sets
                .iter()
                .map(|set| Head::number(&format!("ECE, {set} (%)"))),
        );
        let rows = section.methods.iter().map(|method| {
            let mut row = vec![Cell::text(look(method).name)];
            for &class_set in &section.class_sets {
                let of = |dataset| {
                    let cell = section
                        .cell(method, dataset, class_set, shots)
                        .filter(|cell| cell.is_whole())?;
                    stats::mean(&cell.calibration.iter().map(|c| c.1).collect::<Vec<_>>())
                };
                let mean = section
                    .targets()
                    .map(of)
                    .collect::<Option<Vec<_>>>()
                    .and_then(|all| stats::mean(&all));
                row.push(mean.map_or_else(Cell::gap, |ece| Cell::number(format!("{ece:.2}"), ece)));
            }
            row
        });
        TableView::flat(
            "Expected calibration error",
            heads,
            rows.collect::<Vec<_>>(),
        )
        .with_caption(&format!(
            "Mean over seeds, then datasets, at {}. Lower is better.",
            shots_name(shots)
        ))
    }
}
