//! Which tables a protocol has, and what stands in them.

mod continual;
mod tasks;

use super::{Contest, Group, Row, Table};
use crate::protocols::Shows;
use crate::record::TestSet;
use crate::show::looks::look;
use crate::show::summary::{Entry, Method, Metric, Place, Score, Section, Spread, Summary};

/// Every table of every section.
pub fn tables(summary: &Summary) -> Vec<Table> {
    summary.sections.iter().flat_map(section_tables).collect()
}

/// Every table of one section, the most telling first.
pub fn section_tables(section: &Section) -> Vec<Table> {
    let mut tables = Vec::new();
    let view = View { section };
    match section.protocol.shows {
        Shows::Halves { base, novel } => {
            let halves = Halves { base, novel };
            tables.push(view.average(halves));
            for shots in view.shots() {
                tables.push(view.base_to_novel(halves, shots));
                tables.push(view.halves(halves, shots, Contest::Rows));
            }
        }
        Shows::Tasks => {
            tables.push(view.tasks_average());
            tables.extend(view.shots().into_iter().map(|shots| view.tasks(shots)));
        }
        Shows::Sessions => {
            let places = view.places();
            tables.extend([view.measures(&places), view.by_session(&places)]);
        }
        Shows::Datasets => {
            tables.push(view.measures(&[Place::Average]));
            let shots = view.shots().into_iter();
            tables.extend(shots.map(|shots| view.measures_by_dataset(shots)));
            tables.push(view.by_session(&[Place::Average]));
        }
        Shows::Sets => {
            for &class_set in &section.class_sets {
                if section.shots.len() > 1 {
                    tables.push(view.learning(class_set, &view.places()));
                }
                tables.push(view.datasets(class_set, &view.shots()));
            }
        }
    }
    tables
}

/// The few tables worth a terminal: averages, then every dataset at the largest number of shots.
pub(super) fn at_a_glance(summary: &Summary) -> Vec<Table> {
    let mut tables = Vec::new();
    for section in &summary.sections {
        let view = View { section };
        let most = view.shots().last().copied().unwrap_or(0);
        match section.protocol.shows {
            Shows::Halves { base, novel } => {
                let halves = Halves { base, novel };
                tables.push(view.average(halves));
                // A single dataset is its own average.
                if section.datasets.len() > 1 {
                    tables.push(view.halves(halves, most, Contest::Columns));
                }
            }
            Shows::Tasks => tables.push(view.tasks_average()),
            // The average of one dataset is its own.
            Shows::Sessions => tables.push(view.measures(&view.places()[..1])),
            Shows::Datasets => tables.push(view.measures(&[Place::Average])),
            Shows::Sets => {
                for &class_set in &section.class_sets {
                    if section.shots.len() > 1 && section.datasets.len() > 1 {
                        tables.push(view.learning(class_set, &[Place::Average]));
                    }
                    tables.push(view.methods_across(class_set, most));
                }
            }
        }
    }
    tables
}

struct View<'a> {
    section: &'a Section,
}

impl<'a> View<'a> {
    /// Numbers of shots; 0 alone where nothing is trained.
    fn shots(&self) -> Vec<usize> {
        if self.section.shots.is_empty() {
            vec![0]
        } else {
            self.section.shots.clone()
        }
    }

    /// The average first, as the papers print it, then each dataset.
    fn places(&self) -> Vec<Place<'a>> {
        let averages = [Place::Average, Place::Unseen].into_iter();
        let averages = averages.filter(|p| self.section.averaged(*p).len() > 1);
        averages
            .chain(self.section.datasets.iter().map(|d| Place::Dataset(d)))
            .collect()
    }

    /// Datasets, then their average, as columns; then those that were not trained on, and theirs.
    fn across(&self) -> Vec<Place<'a>> {
        let (averages, datasets): (Vec<_>, Vec<_>) = self
            .places()
            .into_iter()
            .partition(|p| !matches!(p, Place::Dataset(_)));
        let is_unseen = |p: &Place<'_>| match p {
            Place::Dataset(d) => self.section.is_unseen(d),
            Place::Average => false,
            Place::Unseen => true,
        };
        let (unseen, learned): (Vec<_>, Vec<_>) =
            datasets.into_iter().chain(averages).partition(is_unseen);
        learned.into_iter().chain(unseen).collect()
    }

    fn place_name(&self, place: Place<'_>) -> String {
        match place {
            Place::Average => "Average".to_owned(),
            Place::Unseen => "Average unseen".to_owned(),
            Place::Dataset(d) if self.section.is_unseen(d) => {
                format!("{} (unseen)", self.section.called(d))
            }
            Place::Dataset(d) if self.section.is_source(d) => {
                format!("{} (source)", self.section.called(d))
            }
            Place::Dataset(d) => self.section.called(d).to_owned(),
        }
    }

    fn methods(&self) -> impl Iterator<Item = (&'a Method, String)> {
        self.section
            .methods
            .iter()
            .map(|method| (method, look(method).name))
    }

    fn caption(&self, has_harmonic: bool) -> String {
        let section = self.section;
        let mut text = match section.score() {
            Score::Pictures => "Top-1 accuracy in percent",
            Score::Classes => "Macro accuracy (mean of the classes' recall) in percent",
        }
        .to_owned();
        text += match section.spread() {
            Spread::Sample => ": mean ± sample standard deviation (n − 1) over ",
            Spread::AsPublished => {
                " as the published scripts print it: each seed rounded to one decimal, mean ± population standard \
                 deviation (n) over "
            }
        };
        let seeds: Vec<String> = section.seeds.iter().map(u64::to_string).collect();
        match seeds.len() {
            0 => text += "seeds",
            1 => text += &format!("seed {}", seeds[0]),
            _ => text += &format!("seeds {}", seeds.join(", ")),
        }
        if section.methods.iter().any(|m| !m.is_trained) && !seeds.is_empty() {
            text += " (methods without training stand once, beside every number of shots)";
        }
        text += &format!(". Backbone: {}.", section.backbone);
        if has_harmonic {
            text += " H = 2bn/(b+n) of the seed-averaged base and novel accuracy; the average's H is that of the \
                     averaged base and novel columns, not an average of H.";
        }
        if section.methods.iter().any(|m| m.peeks) {
            text += " \u{2020}: chose by test pictures or by a whole validation split, as its released code does.";
        }
        if section.protocol.has_source() {
            text += " The average leaves the source out.";
        }
        text + " Best in bold, second underlined."
    }

    /// What every gap among these lacks, each trial once.
    fn notes(&self, places: &[Place<'_>], shots: &[usize], class_sets: &[TestSet]) -> Vec<String> {
        let mut notes: Vec<String> = Vec::new();
        // An average's gap is a dataset's gap.
        let named = places.iter().filter_map(|p| {
            if let Place::Dataset(d) = p {
                Some(*d)
            } else {
                None
            }
        });
        let mut datasets: Vec<&str> = named.collect();
        if datasets.is_empty() {
            datasets = self.section.targets().collect();
        }
        for (method, name) in self.methods() {
            for &dataset in &datasets {
                for &shots in shots {
                    for &class_set in class_sets {
                        let Some(cell) = self.section.cell(method, dataset, class_set, shots)
                        else {
                            continue;
                        };
                        let is_asked = !cell.expected.is_empty() || !cell.values.is_empty();
                        if cell.is_whole() || !is_asked {
                            continue;
                        }
                        let mut note = format!("{name}, {}", self.section.called(dataset));
                        if method.is_trained {
                            note += &format!(", {}", shots_name(shots));
                        }
                        note +=
                            &format!(": {} of {} seeds", cell.values.len(), cell.expected.len());
                        if !cell.failed.is_empty() {
                            note += &format!(" ({} failed)", cell.failed.len());
                        }
                        if !notes.contains(&note) {
                            notes.push(note);
                        }
                    }
                }
            }
        }
        notes
    }

    /// Rows of methods: one entry for each place, metric and number of shots.
    fn rows(&self, columns: &[(Place<'_>, Metric, usize)]) -> Vec<Row> {
        self.methods()
            .map(|(method, label)| {
                let entry =
                    |c: &(Place<'_>, Metric, usize)| self.section.entry(method, c.0, c.1, c.2);
                Row {
                    label,
                    entries: columns.iter().map(entry).collect(),
                }
            })
            .collect()
    }

    /// Base, novel, H and the mean of H, averaged; a group a number of shots.
    fn average(&self, halves: Halves) -> Table {
        let shots = self.shots();
        // With a single dataset, it is its own average.
        let place = self.places()[0];
        let mut columns = halves.columns().to_vec();
        let mut caption = self.caption(true);
        if place == Place::Average {
            columns.push(("Mean of H", Metric::MeanOfHarmonics));
            caption += " Mean of H is the mean of the datasets' H.";
        }
        let group = |&shots: &usize| {
            let cells: Vec<_> = columns
                .iter()
                .map(|(_, metric)| (place, *metric, shots))
                .collect();
            let label = if self.shots().len() > 1 {
                shots_name(shots)
            } else {
                String::new()
            };
            Group {
                label,
                rows: self.rows(&cells),
            }
        };
        Table {
            slug: format!("{}-average", self.section.slug()),
            title: format!("{}: {}", self.section.title(), self.mean_of(&shots)),
            caption,
            group_head: if shots.len() > 1 {
                "Shots".to_owned()
            } else {
                String::new()
            },
            row_head: "Method".to_owned(),
            columns: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
            groups: shots.iter().map(group).collect(),
            contest: Contest::Rows,
            falling: Vec::new(),
            notes: self.notes(&[place], &shots, &[halves.base, halves.novel]),
        }
    }

    fn mean_of(&self, shots: &[usize]) -> String {
        let of = match self.section.targets().count() {
            1 => {
                let only = self.section.targets().next().unwrap_or_default();
                self.section.called(only).to_owned()
            }
            n => format!("average of {n} datasets"),
        };
        match shots {
            [0] | [] => of,
            [one] => format!("{of}, {}", shots_name(*one)),
            _ => of,
        }
    }

    /// Base, novel and H, a group a dataset.
    fn base_to_novel(&self, halves: Halves, shots: usize) -> Table {
        let places = self.places();
        let group = |place: &Place<'_>| Group {
            label: self.place_name(*place),
            rows: self.rows(&halves.columns().map(|(_, metric)| (*place, metric, shots))),
        };
        Table {
            slug: with_shots(&self.section.slug(), shots),
            title: title_with_shots(&self.section.title(), shots),
            caption: self.caption(true),
            group_head: "Dataset".to_owned(),
            row_head: "Method".to_owned(),
            columns: halves.columns().map(|(name, _)| name.to_owned()).to_vec(),
            groups: places.iter().map(group).collect(),
            contest: Contest::Rows,
            falling: Vec::new(),
            notes: self.notes(&places, &[shots], &[halves.base, halves.novel]),
        }
    }

    /// The same figures the other way: a group each for base, novel and H; methods against datasets.
    fn halves(&self, halves: Halves, shots: usize, contest: Contest) -> Table {
        let places = self.across();
        let names: Vec<String> = places.iter().map(|p| self.place_name(*p)).collect();
        let mut groups = Vec::new();
        for (name, metric) in halves.columns() {
            let columns: Vec<_> = places.iter().map(|p| (*p, metric, shots)).collect();
            let rows = self.rows(&columns);
            let rows = if contest == Contest::Rows {
                rows
            } else {
                transpose(&rows, &names)
            };
            groups.push(Group {
                label: name.to_owned(),
                rows,
            });
        }
        let is_turned = contest == Contest::Columns;
        Table {
            slug: with_shots(&format!("{}-by-dataset", self.section.slug()), shots),
            title: title_with_shots(&format!("{} by dataset", self.section.title()), shots),
            caption: self.caption(true),
            group_head: "Classes".to_owned(),
            row_head: if is_turned { "Dataset" } else { "Method" }.to_owned(),
            columns: if is_turned {
                self.methods().map(|m| m.1).collect()
            } else {
                names
            },
            groups,
            contest,
            falling: Vec::new(),
            notes: self.notes(&places, &[shots], &[halves.base, halves.novel]),
        }
    }

    /// Accuracy against shots, a group a place. Untrained methods stand once, under 0.
    fn learning(&self, class_set: TestSet, places: &[Place<'_>]) -> Table {
        let section = self.section;
        let has_untrained = section.methods.iter().any(|m| !m.is_trained);
        let columns: Vec<usize> = has_untrained
            .then_some(0)
            .into_iter()
            .chain(section.shots.clone())
            .collect();
        let metric = Metric::Accuracy(class_set);
        let group = |place: &Place<'_>| Group {
            label: if places.len() > 1 {
                self.place_name(*place)
            } else {
                String::new()
            },
            rows: self
                .methods()
                .map(|(method, label)| {
                    let entry = |&shots: &usize| {
                        if (shots == 0) == method.is_trained {
                            Entry::Blank
                        } else {
                            section.entry(method, *place, metric, shots)
                        }
                    };
                    Row {
                        label,
                        entries: columns.iter().map(entry).collect(),
                    }
                })
                .collect(),
        };
        let mut title = format!("{} by number of shots", section.title());
        if places.len() == 1 {
            title += &format!(": {}", self.mean_of(&[]));
        }
        Table {
            slug: format!("{}{}-by-shots", section.slug(), self.suffix(class_set)),
            title,
            caption: self.caption(false),
            group_head: if places.len() > 1 {
                "Dataset".to_owned()
            } else {
                String::new()
            },
            row_head: "Method".to_owned(),
            columns: columns.iter().map(|&k| shots_name(k)).collect(),
            groups: places.iter().map(group).collect(),
            contest: Contest::Rows,
            falling: Vec::new(),
            notes: self.notes(places, &section.shots, &[class_set]),
        }
    }

    /// Methods against datasets, a group a number of shots.
    fn datasets(&self, class_set: TestSet, shots: &[usize]) -> Table {
        let places = self.across();
        let group = |&shots_here: &usize| {
            let columns: Vec<_> = places
                .iter()
                .map(|p| (*p, Metric::Accuracy(class_set), shots_here))
                .collect();
            let label = if shots.len() > 1 {
                shots_name(shots_here)
            } else {
                String::new()
            };
            Group {
                label,
                rows: self.rows(&columns),
            }
        };
        let title = format!("{} by dataset", self.section.title());
        Table {
            slug: format!(
                "{}{}-by-dataset",
                self.section.slug(),
                self.suffix(class_set)
            ),
            title: if let [one] = shots {
                title_with_shots(&title, *one)
            } else {
                title
            },
            caption: self.caption(false),
            group_head: if shots.len() > 1 {
                "Shots".to_owned()
            } else {
                String::new()
            },
            row_head: "Method".to_owned(),
            columns: places.iter().map(|p| self.place_name(*p)).collect(),
            groups: shots.iter().map(group).collect(),
            contest: Contest::Rows,
            falling: Vec::new(),
            notes: self.notes(&places, shots, &[class_set]),
        }
    }

    /// Datasets against methods at one number of shots: methods have the shorter names.
    fn methods_across(&self, class_set: TestSet, shots: usize) -> Table {
        let mut table = self.datasets(class_set, &[shots]);
        let rows = transpose(&table.groups[0].rows, &table.columns);
        table.columns = self.methods().map(|m| m.1).collect();
        table.groups[0].rows = rows;
        table.row_head = "Dataset".to_owned();
        table.contest = Contest::Columns;
        table
    }

    /// Tells tables of several class sets apart.
    fn suffix(&self, class_set: TestSet) -> String {
        if self.section.class_sets.len() > 1 {
            format!("-{class_set}")
        } else {
            String::new()
        }
    }
}

/// The two class sets of a protocol that shows their H.
#[derive(Clone, Copy)]
struct Halves {
    base: TestSet,
    novel: TestSet,
}

impl Halves {
    fn columns(self) -> [(&'static str, Metric); 3] {
        [
            ("Base", Metric::Accuracy(self.base)),
            ("Novel", Metric::Accuracy(self.novel)),
            ("H", Metric::Harmonic),
        ]
    }
}

fn transpose(rows: &[Row], labels: &[String]) -> Vec<Row> {
    let turned = labels.iter().enumerate().map(|(i, label)| Row {
        label: label.clone(),
        entries: rows.iter().map(|row| row.entries[i]).collect(),
    });
    turned.collect()
}

fn shots_name(shots: usize) -> String {
    if shots == 1 {
        "1 shot".to_owned()
    } else {
        format!("{shots} shots")
    }
}

fn with_shots(slug: &str, shots: usize) -> String {
    if shots == 0 {
        slug.to_owned()
    } else {
        format!("{slug}-{shots}-shots")
    }
}

fn title_with_shots(title: &str, shots: usize) -> String {
    if shots == 0 {
        title.to_owned()
    } else {
        format!("{title}, {}", shots_name(shots))
    }
}
