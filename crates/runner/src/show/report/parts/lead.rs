//! What the protocol is, how figures are to be read, and every chart that no other part asks for.

use super::{Contents, Fold, Part};
use crate::show::looks::look;
use crate::show::report::section::{Pages, shots_name};
use crate::show::summary::{Method, Metric, Place};

/// Of every section.
pub(super) const PART: Part = Part {
    title: "",
    // Every chart that no other part asks for.
    charts: &[],
    fold: Fold::Closed,
    fill: |pages| {
        let mut prose = vec![pages.section.protocol.explain.to_owned()];
        if pages.section.protocol.halves().is_some() {
            prose.push(format!(
                "H = 2·b·n / (b + n), where b and n are base and novel accuracy, each averaged over seeds first. The \
                 average row's H is computed from the averaged base and novel columns; it is not the average of the \
                 datasets' H, which is {}.",
                pages.mean_of_harmonics()
            ));
        }
        prose.push(FIGURES.to_owned());
        Some(Contents {
            prose,
            tables: Vec::new(),
        })
    },
};

const FIGURES: &str = "Accuracy is top-1 over all test images, in percent. ± is the sample standard deviation over seeds \
                       (n − 1); point at a figure for its 95 % Student-t interval and number of seeds.";

impl Pages<'_> {
    /// The other average people print: the mean of the datasets' H, of every method that has one.
    fn mean_of_harmonics(&self) -> String {
        let (section, shots) = (self.section, self.analysis.shots);
        let mean = |method: &Method| {
            let entry = section.entry(method, Place::Average, Metric::MeanOfHarmonics, shots);
            entry.figure().map(|f| f.mean)
        };
        let listed: Vec<String> = section
            .methods
            .iter()
            .filter_map(|m| Some(format!("{:.2} for {}", mean(m)?, look(m).name)))
            .collect();
        if listed.is_empty() {
            "not there yet".to_owned()
        } else {
            format!("{} at {}", listed.join(", "), shots_name(shots))
        }
    }
}
