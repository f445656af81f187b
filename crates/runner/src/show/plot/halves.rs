//! Base and novel accuracy beside each other with their H: against shots, or by dataset at one number of shots.

use super::{Chart, Draw, Drawn, Painter};
use crate::show::summary::Metric;

/// For protocols that show two class sets and their H.
pub(super) const CHART: Chart = Chart {
    slug: "halves",
    draw: Draw::Summary(|painter| painter.halves()),
};

impl Painter<'_> {
    fn halves(&self) -> Vec<Drawn> {
        let section = self.section;
        let Some([base, novel]) = section.protocol.halves() else {
            return Vec::new();
        };
        let mut charts = Vec::new();
        let halves = [
            ("Base classes", "base", Metric::Accuracy(base)),
            ("Novel classes", "novel", Metric::Accuracy(novel)),
            ("Harmonic mean H", "harmonic", Metric::Harmonic),
        ];
        let places = self.places();
        if section.shots.len() > 1 {
            let panels: Vec<_> = halves
                .iter()
                .map(|(name, _, metric)| ((*name).to_owned(), places[0], *metric))
                .collect();
            charts.push(Drawn {
                slug: format!("{}-average", section.slug()),
                title: format!(
                    "{}: {}, against shots",
                    section.title(),
                    self.place_name(places[0])
                ),
                drawing: self.curves(&panels, 3),
            });
            for (name, slug, metric) in halves.iter().filter(|_| places.len() > 1) {
                let panels: Vec<_> = places
                    .iter()
                    .map(|p| (self.place_name(*p), *p, *metric))
                    .collect();
                charts.push(Drawn {
                    slug: format!("{}-{slug}-datasets", section.slug()),
                    title: format!("{}: {name}, by dataset, against shots", section.title()),
                    drawing: self.curves(&panels, 4),
                });
            }
        } else {
            let panels: Vec<_> = halves
                .iter()
                .map(|(name, _, metric)| ((*name).to_owned(), *metric))
                .collect();
            let shots = section.shots.first().copied().unwrap_or(0);
            charts.push(Drawn {
                slug: format!("{}-datasets", section.slug()),
                title: format!("{} by dataset, {shots} shots", section.title()),
                drawing: self.dots(&panels, &places, shots),
            });
        }
        charts
    }
}
