//! Tables of what is learned of several datasets at once, against what is learned of each by itself.

use super::{Contest, Group, Row, Table, View, shots_name, title_with_shots, with_shots};
use crate::record::TestSet;
use crate::show::looks::look;
use crate::show::summary::{Entry, Metric, Place, Section};

const METRIC: Metric = Metric::Accuracy(TestSet::ALL);

/// Says what the groups are.
const CAPTION: &str = " All at once: one training on all datasets; each by itself: a training for each, as few-shot learning \
                       has it. The first average is over the datasets trained on, the other over those that were not.";

impl View<'_> {
    /// The averages, a group for each number of shots.
    pub(super) fn tasks_average(&self) -> Table {
        let places = self.averages();
        let shots = self.shots();
        let groups = shots.iter().flat_map(|&shots| {
            let groups = self.learned(&places, shots).into_iter();
            groups.map(move |group| match self.shots().len() {
                1 => group,
                _ => Group {
                    label: format!("{}, {}", group.label, shots_name(shots)),
                    ..group
                },
            })
        });
        let mut title = format!("{}: averages", self.section.title());
        if let [one] = shots[..] {
            title = title_with_shots(&title, one);
        }
        Table {
            slug: format!("{}-average", self.section.slug()),
            title,
            groups: groups.collect(),
            notes: self.notes(&[], &shots, &[TestSet::ALL]),
            ..self.tasks_of(&places)
        }
    }

    /// Every dataset, with the averages.
    pub(super) fn tasks(&self, shots: usize) -> Table {
        let places = self.across();
        let slug = format!("{}-by-dataset", self.section.slug());
        let title = format!("{} by dataset", self.section.title());
        Table {
            slug: with_shots(&slug, shots),
            title: title_with_shots(&title, shots),
            groups: self.learned(&places, shots),
            notes: self.notes(&places, &[shots], &[TestSet::ALL]),
            ..self.tasks_of(&places)
        }
    }

    fn tasks_of(&self, places: &[Place<'_>]) -> Table {
        Table {
            slug: String::new(),
            title: String::new(),
            caption: self.caption(false) + CAPTION,
            group_head: "Learned".to_owned(),
            row_head: "Method".to_owned(),
            columns: places.iter().map(|p| self.place_name(*p)).collect(),
            groups: Vec::new(),
            contest: Contest::Rows,
            falling: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The average over what was trained on, and over what was not; a single dataset is its own average.
    fn averages(&self) -> Vec<Place<'_>> {
        let average = |place, over: Vec<&'_ str>| match over[..] {
            [] => None,
            [_] => self
                .section
                .averaged(place)
                .first()
                .map(|d| Place::Dataset(d)),
            _ => Some(place),
        };
        let of = |place| average(place, self.section.averaged(place));
        [Place::Average, Place::Unseen]
            .into_iter()
            .filter_map(of)
            .collect()
    }

    /// Methods that learned all at once and those that learned each by itself, where any did.
    fn learned(&self, places: &[Place<'_>], shots: usize) -> Vec<Group> {
        let columns: Vec<_> = places.iter().map(|p| (*p, METRIC, shots)).collect();
        let mut groups = vec![Group {
            label: "All at once".to_owned(),
            rows: self.rows(&columns),
        }];
        let rows = self
            .section
            .beside
            .as_deref()
            .map(|b| self.apart(b, places, shots));
        groups.extend(rows.filter(|rows| !rows.is_empty()).map(|rows| Group {
            label: "Each by itself".to_owned(),
            rows,
        }));
        groups
    }

    fn apart(&self, beside: &Section, places: &[Place<'_>], shots: usize) -> Vec<Row> {
        let targets: Vec<&str> = self.section.targets().collect();
        // Untrained methods are the same whatever is learned.
        let trained = beside.methods.iter().filter(|m| m.is_trained);
        let row = |method| Row {
            label: look(method).name,
            entries: places
                .iter()
                .map(|place| match place {
                    Place::Average => beside.average(method, METRIC, shots, &targets),
                    Place::Unseen => Entry::Blank,
                    // There it would have been learned.
                    Place::Dataset(d) if self.section.is_unseen(d) => Entry::Blank,
                    Place::Dataset(_) => beside.entry(method, *place, METRIC, shots),
                })
                .collect(),
        };
        let rows = trained.map(row);
        rows.filter(|row| row.entries.iter().any(|e| *e != Entry::Blank))
            .collect()
    }
}
