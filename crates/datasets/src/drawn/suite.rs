//! The datasets of the suite, read from `drawn.toml`.

use std::fmt;
use std::sync::LazyLock;

use serde::Deserialize;

use super::family::{FAMILIES, Family, MOST_SLOTS, Parts};
use super::style::Style;

/// A dataset of the suite.
#[derive(Clone, Debug)]
pub struct DrawnDataset {
    /// As in suites and records: `drawn-pets`.
    pub id: String,
    /// As in tables: `DrawnPets`.
    pub title: String,
    /// The dataset of the CoOp protocol whose part it plays.
    pub stands_for: String,
    /// Zero-shot template, with `{}` where the class name goes.
    pub template: String,
    /// By label.
    pub classes: Vec<DrawnClass>,
    /// Its domain.
    pub style: Style,
    /// For a shift of another dataset (same classes, other pictures): that dataset's id.
    pub shift_of: Option<String>,
}

impl DrawnDataset {
    /// Labels of the novel half: `ceil(n/2)..n`.
    pub fn novel(&self) -> std::ops::Range<usize> {
        self.classes.len().div_ceil(2)..self.classes.len()
    }
}

/// A class: what its name says, and nothing more, is the same in all its pictures.
#[derive(Clone)]
pub struct DrawnClass {
    /// As it stands in a prompt: "crimson cup".
    pub name: String,
    pub(super) family: &'static Family,
    pub(super) fixed: [Option<u8>; MOST_SLOTS],
}

impl DrawnClass {
    /// Name of the family that draws it.
    pub fn family(&self) -> &'static str {
        self.family.id
    }

    /// What is fixed, as (slot, value) in the order the name says it: ("colour", "red"), ("kind", "cup").
    pub fn attributes(&self) -> Vec<(&'static str, &'static str)> {
        let slots = self.family.slots.iter().zip(self.fixed);
        slots
            .filter_map(|(slot, value)| Some((slot.name, slot.words[usize::from(value?)].id)))
            .collect()
    }

    /// Reads a name in the words of a family. The error says which words it did not know.
    pub(super) fn read(family: &'static Family, name: &str) -> Result<Self, String> {
        let mut fixed = [None; MOST_SLOTS];
        let mut rest = name;
        for (i, slot) in family.slots.iter().enumerate() {
            let sayings = slot
                .words
                .iter()
                .enumerate()
                .flat_map(|(v, w)| w.sayings().map(move |s| (v, s)));
            // The longest saying that fits, for one may begin with another.
            let fits = |s: &str| {
                rest.strip_prefix(s)
                    .filter(|r| r.is_empty() || r.starts_with(' '))
                    .map(str::len)
            };
            let found = sayings.filter_map(|(v, s)| Some((fits(s)?, v))).min();
            if let Some((left, value)) = found {
                fixed[i] = Some(value as u8);
                rest = rest[rest.len() - left..].trim_start();
            }
        }
        if !rest.is_empty() {
            return Err(format!(
                "`{rest}` is not said in the words of `{}`, or not in its order",
                family.id
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            family,
            fixed,
        })
    }
}

impl fmt::Debug for DrawnClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({} {:?})",
            self.name,
            self.family.id,
            self.attributes()
        )
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    dataset: Vec<DatasetRow>,
    shift: Vec<ShiftRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DatasetRow {
    id: String,
    title: String,
    stands_for: String,
    template: String,
    style: Style,
    classes: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShiftRow {
    id: String,
    title: String,
    of: String,
    stands_for: String,
    style: Style,
}

/// The eleven datasets, then the shifts of the broad one.
pub fn datasets() -> &'static [DrawnDataset] {
    static DATASETS: LazyLock<Vec<DrawnDataset>> = LazyLock::new(|| {
        read(include_str!("drawn.toml"))
            .unwrap_or_else(|errors| panic!("drawn.toml, which is part of the program: {errors}"))
    });
    &DATASETS
}

fn read(text: &str) -> Result<Vec<DrawnDataset>, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    let mut errors = Vec::new();
    let mut all: Vec<DrawnDataset> = Vec::new();
    for row in file.dataset {
        let mut classes = Vec::new();
        for (family, name) in &row.classes {
            let read = Family::named(family).ok_or_else(|| {
                let known: Vec<&str> = FAMILIES.iter().map(|f| f.id).collect();
                format!("no family `{family}`; there are {}", known.join(", "))
            });
            match read.and_then(|family| DrawnClass::read(family, name)) {
                Ok(class) => classes.push(class),
                Err(error) => errors.push(format!("{}: class `{name}`: {error}", row.id)),
            }
        }
        let DatasetRow {
            id,
            title,
            stands_for,
            template,
            style,
            ..
        } = row;
        all.push(DrawnDataset {
            id,
            title,
            stands_for,
            template,
            classes,
            style,
            shift_of: None,
        });
    }
    for row in file.shift {
        let ShiftRow {
            id,
            title,
            of,
            stands_for,
            style,
        } = row;
        match all.iter().find(|d| d.id == of).cloned() {
            Some(d) => all.push(DrawnDataset {
                id,
                title,
                stands_for,
                style,
                shift_of: Some(of),
                ..d
            }),
            None => errors.push(format!("{id}: of: there is no dataset `{of}`")),
        }
    }
    for dataset in &all {
        errors.extend(
            dataset
                .style
                .complaints()
                .iter()
                .map(|c| format!("{}: style.{c}", dataset.id)),
        );
    }
    if errors.is_empty() {
        Ok(all)
    } else {
        Err(errors.join("\n"))
    }
}

/// Whether pre-training must not draw these parts: they show a novel class of some dataset.
pub(super) fn is_held_out(parts: &Parts) -> bool {
    struct Novel(&'static Family, [Option<u8>; MOST_SLOTS]);
    static NOVEL: LazyLock<Vec<Novel>> = LazyLock::new(|| {
        let of = |d: &'static DrawnDataset| {
            d.classes[d.novel()]
                .iter()
                .map(|c| Novel(c.family, c.fixed))
        };
        datasets()
            .iter()
            .filter(|d| d.shift_of.is_none())
            .flat_map(of)
            .collect()
    });
    NOVEL
        .iter()
        .any(|n| std::ptr::eq(n.0, parts.family) && parts.answers(&n.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn there_are_eleven_datasets_of_8_to_26_classes_and_four_shifts() {
        let (shifts, eleven): (Vec<_>, Vec<_>) =
            datasets().iter().partition(|d| d.shift_of.is_some());
        assert_eq!((eleven.len(), shifts.len()), (11, 4));
        for d in eleven {
            assert!(
                (8..=26).contains(&d.classes.len()),
                "{}: {}",
                d.id,
                d.classes.len()
            );
            assert!(d.classes.len() % 2 == 0, "{}: halves of unequal size", d.id);
            assert_eq!(d.template.matches("{}").count(), 1, "{}", d.id);
        }
    }

    #[test]
    fn ids_and_class_names_are_their_own() {
        let ids: HashSet<_> = datasets().iter().map(|d| &d.id).collect();
        assert_eq!(ids.len(), datasets().len());
        for d in datasets() {
            let names: HashSet<_> = d.classes.iter().map(|c| &c.name).collect();
            assert_eq!(names.len(), d.classes.len(), "{}", d.id);
        }
    }

    #[test]
    fn no_two_classes_of_a_dataset_can_show_the_same_composition() {
        for d in datasets() {
            for (i, a) in d.classes.iter().enumerate() {
                for b in &d.classes[..i] {
                    let differ = a
                        .fixed
                        .iter()
                        .zip(b.fixed)
                        .any(|(x, y)| matches!((x, y), (Some(x), Some(y)) if *x != y));
                    assert!(
                        differ || !std::ptr::eq(a.family, b.family),
                        "{}: {a:?} and {b:?}",
                        d.id
                    );
                }
            }
        }
    }

    #[test]
    fn the_broad_set_has_every_family_in_both_halves() {
        let broad = datasets().iter().find(|d| d.id == "drawn-broad").unwrap();
        for half in [0..broad.novel().start, broad.novel()] {
            let drawn: HashSet<_> = broad.classes[half].iter().map(DrawnClass::family).collect();
            assert_eq!(drawn.len(), FAMILIES.len());
        }
    }

    #[test]
    fn a_shift_has_the_classes_of_its_dataset_and_a_style_of_its_own() {
        for shift in datasets().iter().filter(|d| d.shift_of.is_some()) {
            let of = datasets()
                .iter()
                .find(|d| Some(&d.id) == shift.shift_of.as_ref())
                .unwrap();
            let names =
                |d: &DrawnDataset| d.classes.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
            assert_eq!(names(shift), names(of));
            assert_ne!(shift.style, of.style);
        }
    }

    #[test]
    fn a_name_is_read_in_its_familys_words() {
        let class = DrawnClass::read(
            Family::named("scenes").unwrap(),
            "wintry forest at midnight",
        )
        .unwrap();
        assert_eq!(
            class.attributes(),
            [
                ("weather", "snowy"),
                ("place", "forest"),
                ("hour", "at night")
            ]
        );
        let error = DrawnClass::read(Family::named("cars").unwrap(), "red vann").unwrap_err();
        assert!(error.contains("`vann`"), "{error}");
    }

    #[test]
    fn every_mistake_of_the_file_is_reported_at_once() {
        let text = r#"
            [[dataset]]
            id = "d"
            title = "D"
            stands_for = "X"
            template = "{}"
            style = { noise = 7.0 }
            classes = [["cars", "red vann"], ["boats", "red boat"]]
            [[shift]]
            id = "s"
            title = "S"
            of = "e"
            stands_for = "Y"
            style = {}
        "#;
        let errors = read(text).unwrap_err();
        for part in ["`vann`", "no family `boats`", "noise: 7", "no dataset `e`"] {
            assert!(errors.contains(part), "{part} in {errors}");
        }
    }
}
