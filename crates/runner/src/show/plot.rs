//! Charts, drawn once and written as SVG and PNG, with the font that ships here.

mod budget;
mod calibration;
pub(crate) mod canvas;
mod cost;
mod curves;
mod dots;
mod grid;
mod halves;
mod marks;
mod matrix;
mod scatter;
mod sessions;
mod sets;

use std::path::{Path, PathBuf};

pub use canvas::Drawing;

use crate::show::analysis::{Analysis, Reader};
use crate::show::summary::{Place, Section, Summary};
use crate::store::{Loaded, StoreError, replace};

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

/// Every kind of chart, in the order a section shows them: a file of this folder and a line here.
pub const CHARTS: &[Chart] = &[
    halves::CHART,
    sets::CHART,
    sessions::CHART,
    matrix::CHART,
    scatter::CHART,
    cost::CHART,
    budget::CHART,
    calibration::CHART,
];

/// A kind of chart.
pub struct Chart {
    /// What parts of the report ask for it by; unique.
    pub slug: &'static str,
    /// How a section's charts of this kind are drawn; none where there is nothing to show.
    pub draw: Draw,
}

/// What a chart is drawn from.
pub enum Draw {
    /// The summary alone.
    Summary(fn(&Painter<'_>) -> Vec<Drawn>),
    /// What the predictions say, too.
    Analysis(fn(&Painter<'_>, &Analysis) -> Vec<Drawn>),
}

/// A chart as it is drawn, and the name of its files.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// File name without extension.
    pub slug: String,
    /// What it shows, in one sentence.
    pub title: String,
    /// What is drawn.
    pub drawing: Drawing,
}

impl Chart {
    /// Draws a section's charts of this kind.
    pub fn of(&self, section: &Section, analysis: &Analysis, size: Size) -> Vec<Drawn> {
        let painter = Painter {
            section,
            style: size.style(),
        };
        match self.draw {
            Draw::Summary(draw) => draw(&painter),
            Draw::Analysis(draw) => draw(&painter, analysis),
        }
    }
}

/// Every chart of every section.
pub fn charts(summary: &Summary, read: &Reader<'_>, size: Size) -> Vec<Drawn> {
    let of = |section: &Section| {
        let analysis = Analysis::new(section, read);
        let drawn = CHARTS.iter().map(|c| c.of(section, &analysis, size));
        drawn.flatten().collect::<Vec<_>>()
    };
    summary.sections.iter().flat_map(of).collect()
}

/// Writes every chart into `dir/charts` as `.svg` and `.png`; returns the files. Charts for paper have `-paper` at the
/// end of their names. `read` finds predictions; charts that need those which are not kept are left out.
///
/// # Errors
/// When a chart cannot be drawn or a file not written.
pub fn render_all(
    loaded: &Loaded,
    read: &Reader<'_>,
    dir: &Path,
    size: Size,
) -> Result<Vec<PathBuf>, StoreError> {
    let folder = dir.join("charts");
    std::fs::create_dir_all(&folder).map_err(|source| StoreError::Io {
        path: folder.clone(),
        source,
    })?;
    let mut written = Vec::new();
    for chart in charts(&Summary::new(loaded), read, size) {
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

/// Draws the charts of one section at one size.
pub struct Painter<'a> {
    section: &'a Section,
    style: Style,
}

impl<'a> Painter<'a> {
    /// The average first, then each dataset; a single dataset alone.
    fn places(&self) -> Vec<Place<'a>> {
        let averages = [Place::Average, Place::Unseen].into_iter();
        averages
            .filter(|p| self.section.averaged(*p).len() > 1)
            .chain(self.section.datasets.iter().map(|d| Place::Dataset(d)))
            .collect()
    }

    fn place_name(&self, place: Place<'_>) -> String {
        match place {
            Place::Average => format!("Average over {}", self.section.targets().count()),
            Place::Unseen => {
                format!("Average over {} unseen", self.section.averaged(place).len())
            }
            Place::Dataset(d) if self.section.is_unseen(d) => {
                format!("{} (unseen)", self.section.called(d))
            }
            Place::Dataset(d) if self.section.is_source(d) => {
                format!("{} (source)", self.section.called(d))
            }
            Place::Dataset(d) => self.section.called(d).to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
