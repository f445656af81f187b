//! Charts, drawn once and written as SVG and PNG, with the font that ships here.

mod calibration;
pub(crate) mod canvas;
mod cost;
mod curves;
mod dots;
mod grid;
mod marks;
mod scatter;

use std::path::{Path, PathBuf};

pub use calibration::reliability;
pub use canvas::Drawing;
pub use cost::cost;

use crate::record::Protocol;
use crate::store::{Loaded, StoreError, replace};
use crate::summary::{Metric, Place, Section, Summary};

/// Where a chart will be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Size {
    /// A browser or a README.
    #[default]
    Screen,
    /// The text width of a two-column paper (7 inches); lettering of 7.5 points.
    Paper,
}

/// Measures of a chart, in its own units (pixels on screen, points on paper).
#[derive(Clone, Copy, Debug)]
struct Style {
    /// Width of the whole chart.
    width: f64,
    /// Height of lettering (em).
    text: f64,
    /// Width of a line.
    line: f64,
    /// Radius of a marker.
    marker: f64,
    /// Pixels a unit in the PNG.
    pixels: u32,
}

impl Size {
    fn style(self) -> Style {
        match self {
            Self::Screen => Style {
                width: 960.0,
                text: 12.5,
                line: 1.6,
                marker: 4.2,
                pixels: 2,
            },
            Self::Paper => Style {
                width: 504.0,
                text: 7.5,
                line: 0.9,
                marker: 2.4,
                pixels: 6,
            },
        }
    }
}

/// A chart and the name of its files.
#[derive(Clone, Debug)]
pub struct Chart {
    /// File name without extension.
    pub slug: String,
    /// What it shows, in one sentence.
    pub title: String,
    /// What is drawn.
    pub drawing: Drawing,
}

/// Every chart of every section.
pub fn charts(summary: &Summary, size: Size) -> Vec<Chart> {
    summary
        .sections
        .iter()
        .flat_map(|section| section_charts(section, size))
        .collect()
}

/// Every chart of one section.
pub fn section_charts(section: &Section, size: Size) -> Vec<Chart> {
    let mut charts = Vec::new();
    let painter = Painter {
        section,
        style: size.style(),
    };
    if section.protocol == Protocol::BaseToNovel {
        painter.base_to_novel(&mut charts);
    } else {
        painter.accuracy(&mut charts);
    }
    charts.extend(cost(section, size));
    charts
}

/// Writes every chart into `dir/charts` as `.svg` and `.png`; returns the files.
///
/// # Errors
/// When a chart cannot be drawn or a file not written.
pub fn render_all(loaded: &Loaded, dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    render_all_sized(loaded, dir, Size::Screen)
}

/// [`render_all`] for a reader's size: paper charts have `-paper` at the end of their names.
///
/// # Errors
/// When a chart cannot be drawn or a file not written.
pub fn render_all_sized(
    loaded: &Loaded,
    dir: &Path,
    size: Size,
) -> Result<Vec<PathBuf>, StoreError> {
    let folder = dir.join("charts");
    std::fs::create_dir_all(&folder).map_err(|source| StoreError::Io {
        path: folder.clone(),
        source,
    })?;
    let mut written = Vec::new();
    for chart in charts(&Summary::new(loaded), size) {
        let end = if size == Size::Paper { "-paper" } else { "" };
        let svg = folder.join(format!("{}{end}.svg", chart.slug));
        let fail = |problem: String| StoreError::Chart {
            path: svg.clone(),
            problem,
        };
        replace(
            &svg,
            chart.drawing.svg(&chart.title).map_err(fail)?.as_bytes(),
        )?;
        let png = folder.join(format!("{}{end}.png", chart.slug));
        let fail = |problem: String| StoreError::Chart {
            path: png.clone(),
            problem,
        };
        replace(&png, &chart.drawing.png(size.style().pixels).map_err(fail)?)?;
        written.extend([svg, png]);
    }
    Ok(written)
}

struct Painter<'a> {
    section: &'a Section,
    style: Style,
}

impl<'a> Painter<'a> {
    /// The average first, then each dataset; a single dataset alone.
    fn places(&self) -> Vec<Place<'a>> {
        let average = (self.section.targets().count() > 1).then_some(Place::Average);
        average
            .into_iter()
            .chain(self.section.datasets.iter().map(|d| Place::Dataset(d)))
            .collect()
    }

    fn place_name(&self, place: Place<'_>) -> String {
        match place {
            Place::Average => format!("Average over {}", self.section.targets().count()),
            Place::Dataset(d) if self.section.source.as_deref() == Some(d) => {
                format!("{} (source)", self.section.called(d))
            }
            Place::Dataset(d) => self.section.called(d).to_owned(),
        }
    }

    fn base_to_novel(&self, charts: &mut Vec<Chart>) {
        let section = self.section;
        let halves = [
            ("Base classes", "base", Metric::Accuracy("base")),
            ("Novel classes", "novel", Metric::Accuracy("novel")),
            ("Harmonic mean H", "harmonic", Metric::Harmonic),
        ];
        let places = self.places();
        if section.shots.len() > 1 {
            let panels: Vec<_> = halves
                .iter()
                .map(|(name, _, metric)| ((*name).to_owned(), places[0], *metric))
                .collect();
            charts.push(Chart {
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
                charts.push(Chart {
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
            charts.push(Chart {
                slug: format!("{}-datasets", section.slug()),
                title: format!("{} by dataset, {shots} shots", section.title()),
                drawing: self.dots(&panels, &places, shots),
            });
        }
        charts.extend(self.gains());
    }

    fn accuracy(&self, charts: &mut Vec<Chart>) {
        let section = self.section;
        let places = self.places();
        for class_set in &section.class_sets {
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
                charts.push(Chart {
                    slug: format!("{}{suffix}-by-shots", section.slug()),
                    title: format!("{}: accuracy against shots", section.title()),
                    drawing: self.curves(&panels, panels.len().min(4)),
                });
            } else {
                let shots = section.shots.first().copied().unwrap_or(0);
                charts.push(Chart {
                    slug: format!("{}{suffix}-datasets", section.slug()),
                    title: format!("{} by dataset", section.title()),
                    drawing: self.dots(&[("Accuracy".to_owned(), metric)], &places, shots),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
