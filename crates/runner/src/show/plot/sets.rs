//! Accuracy on each class set by itself: against shots, or by dataset at one number of shots.

use super::{Chart, Draw, Drawn, Painter};
use crate::protocols::Shows;
use crate::show::summary::Metric;

/// For protocols that show each class set by itself.
pub(super) const CHART: Chart = Chart {
    slug: "sets",
    draw: Draw::Summary(|painter| painter.sets()),
};

impl Painter<'_> {
    fn sets(&self) -> Vec<Drawn> {
        let section = self.section;
        let mut charts = Vec::new();
        if !matches!(section.protocol.shows, Shows::Sets | Shows::Tasks) {
            return charts;
        }
        let places = self.places();
        for &class_set in &section.class_sets {
            let metric = Metric::Accuracy(class_set);
            let suffix = if section.class_sets.len() > 1 {
                format!("-{class_set}")
            } else {
                String::new()
            };
            if section.shots.len() > 1 {
                let panels: Vec<_> = places
                    .iter()
                    .map(|p| (self.place_name(*p), *p, metric))
                    .collect();
                charts.push(Drawn {
                    slug: format!("{}{suffix}-by-shots", section.slug()),
                    title: format!("{}: accuracy against shots", section.title()),
                    drawing: self.curves(&panels, panels.len().min(4)),
                });
            } else {
                let shots = section.shots.first().copied().unwrap_or(0);
                charts.push(Drawn {
                    slug: format!("{}{suffix}-datasets", section.slug()),
                    title: format!("{} by dataset", section.title()),
                    drawing: self.dots(&[("Accuracy".to_owned(), metric)], &places, shots),
                });
            }
        }
        charts
    }
}
