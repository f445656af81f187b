//! Tables of what is kept of what was learned one after the other.

use super::{Contest, Group, Table, View, shots_name, title_with_shots, with_shots};
use crate::protocols::Shows;
use crate::show::summary::{Metric, Place};
use crate::stats::continual::Measure;

type Column = (&'static str, Measure);

const SESSIONS: &[Column] = &[
    ("Average", Measure::Average),
    ("Last", Measure::Last),
    ("Forgetting", Measure::Forgetting),
    ("BWT", Measure::Backward),
];

const DATASETS: &[Column] = &[
    ("Transfer", Measure::Transfer),
    ("Average", Measure::Average),
    ("Last", Measure::Last),
    ("Forgetting", Measure::Forgetting),
];

/// What the measures are.
fn meaning(shows: Shows) -> &'static str {
    if shows == Shows::Sessions {
        " Average: mean over sessions of the accuracy on all classes seen so far; Last: that after the last session; \
         Forgetting: mean over earlier sessions of the best accuracy on their images before the last session less that after \
         it, lower being better; BWT: that after it less that when they were learned."
    } else {
        " Transfer: mean accuracy on datasets before they were learned, the first left out; Average: mean of all accuracies; \
         Last: mean after the last dataset; Forgetting: mean over earlier datasets of their best accuracy since they were \
         learned less that at the end, lower being better."
    }
}

impl View<'_> {
    fn measures_shown(&self) -> &'static [Column] {
        if self.section.protocol.shows == Shows::Sessions {
            SESSIONS
        } else {
            DATASETS
        }
    }

    /// The measures as columns, a group a place and number of shots.
    pub(super) fn measures(&self, places: &[Place<'_>]) -> Table {
        let columns = self.measures_shown();
        let mut table = self.kept(
            places,
            columns
                .iter()
                .map(|(name, measure)| ((*name).to_owned(), *measure)),
        );
        let falling = |(_, (_, measure)): &(usize, &Column)| *measure == Measure::Forgetting;
        table.falling = columns
            .iter()
            .enumerate()
            .filter(falling)
            .map(|c| c.0)
            .collect();
        table.slug += "-measures";
        table
    }

    /// Accuracy after each was learned, a group a place and number of shots.
    pub(super) fn by_session(&self, places: &[Place<'_>]) -> Table {
        let names = self.learned_names();
        let columns = names.into_iter().enumerate();
        let mut table = self.kept(
            places,
            columns.map(|(i, name)| (name, Measure::After(i + 1))),
        );
        let (slug, title) = if self.section.protocol.shows == Shows::Sessions {
            ("-by-session", " by session")
        } else {
            ("-by-step", " after each dataset")
        };
        table.slug += slug;
        table.title += title;
        table
    }

    /// What columns by session are called.
    fn learned_names(&self) -> Vec<String> {
        match &self.section.source {
            Some(start) => {
                let ids = crate::start::datasets(start);
                ids.map(|id| format!("after {}", self.section.called(id)))
                    .collect()
            }
            None => (1..=self.section.learned())
                .map(|n| n.to_string())
                .collect(),
        }
    }

    fn kept(
        &self,
        places: &[Place<'_>],
        columns: impl Iterator<Item = (String, Measure)>,
    ) -> Table {
        let (shots, section) = (self.shots(), self.section);
        let (names, measures): (Vec<String>, Vec<Measure>) = columns.unzip();
        let mut groups = Vec::new();
        for place in places {
            for &shots in &shots {
                let columns = measures
                    .iter()
                    .map(|m| (*place, Metric::Continual(*m), shots));
                let mut label = vec![self.place_name(*place)];
                if self.shots().len() > 1 {
                    label.push(shots_name(shots));
                }
                groups.push(Group {
                    label: label.join(", "),
                    rows: self.rows(&columns.collect::<Vec<_>>()),
                });
            }
        }
        let mut title = match places {
            [Place::Dataset(only)] => format!("{}: {}", section.title(), section.called(only)),
            _ => section.title(),
        };
        if let [one] = shots[..] {
            title = title_with_shots(&title, one);
        }
        Table {
            slug: section.slug(),
            title,
            caption: self.caption(false) + meaning(section.protocol.shows),
            group_head: if groups.len() > 1 { "Place" } else { "" }.to_owned(),
            row_head: "Method".to_owned(),
            columns: names,
            groups,
            contest: Contest::Rows,
            falling: Vec::new(),
            notes: self.notes(places, &shots, &section.class_sets),
        }
    }

    /// Of datasets in a row: a group a measure, a column a dataset, as ZSCL prints them.
    pub(super) fn measures_by_dataset(&self, shots: usize) -> Table {
        let places = self.across();
        let group = |(name, measure): &Column| {
            let columns = places
                .iter()
                .map(|p| (*p, Metric::Continual(*measure), shots));
            Group {
                label: (*name).to_owned(),
                rows: self.rows(&columns.collect::<Vec<_>>()),
            }
        };
        let groups = DATASETS.iter().filter(|c| c.1 != Measure::Forgetting);
        let slug = format!("{}-by-dataset", self.section.slug());
        Table {
            slug: with_shots(&slug, shots),
            title: title_with_shots(&format!("{} by dataset", self.section.title()), shots),
            group_head: "Measure".to_owned(),
            columns: places.iter().map(|p| self.place_name(*p)).collect(),
            groups: groups.map(group).collect(),
            notes: self.notes(&places, &[shots], &self.section.class_sets),
            ..self.kept(&[], std::iter::empty())
        }
    }
}
