//! Stand-ins for applications: a medical-like, an aerial-like and a driving-like dataset, which the shipped CLIP was not
//! trained on. They are apart from the suite's eleven, on whose list pre-training depends.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use serde::Deserialize;

use super::dice::Dice;
use super::family::{Family, Parts};
use super::style::Style;
use super::{DrawnClass, DrawnDataset, SIZE, cabins, draw, scans};
use crate::split::Part;
use crate::{Dataset, Error, Item, Origin, Pictures, Rgb, Split};

/// Raised whenever a drawing of a stand-in can come out differently.
const VERSION: u32 = 1;

/// Families that pre-training does not know.
static FAMILIES: [&Family; 2] = [&scans::FAMILY, &cabins::FAMILY];

/// The slot that says who is in the picture.
const DRIVER: &str = "driver";

/// Drivers of train, val and test.
const DRIVERS: [Range<u64>; 3] = [0..5, 5..7, 7..10];

/// A drawn dataset that stands for an application.
pub struct StandIn {
    /// Its classes, style and names.
    pub drawn: DrawnDataset,
    /// Pictures of each class in train, val and test.
    counts: Vec<[u64; 3]>,
    has_drivers: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    dataset: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: String,
    title: String,
    stands_for: String,
    template: String,
    #[serde(default)]
    drivers: bool,
    style: Style,
    classes: Vec<(String, String, [u64; 3])>,
}

/// The stand-ins, in file order.
pub fn stand_ins() -> &'static [StandIn] {
    static STAND_INS: LazyLock<Vec<StandIn>> = LazyLock::new(|| {
        read(include_str!("applications.toml")).unwrap_or_else(|errors| {
            panic!("applications.toml, which is part of the program: {errors}")
        })
    });
    &STAND_INS
}

fn read(text: &str) -> Result<Vec<StandIn>, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    file.dataset.into_iter().map(of_row).collect()
}

fn of_row(row: Row) -> Result<StandIn, String> {
    let mut classes = Vec::new();
    let mut counts = Vec::new();
    for (family, name, pictures) in &row.classes {
        let own = FAMILIES.into_iter().find(|f| f.id == family);
        let family = own
            .or_else(|| Family::named(family))
            .ok_or_else(|| format!("{}: no family `{family}`", row.id))?;
        if row.drivers && family.slot(DRIVER).is_none() {
            return Err(format!("{}: `{}` draws no drivers", row.id, family.id));
        }
        let class = DrawnClass::read(family, name);
        classes.push(class.map_err(|error| format!("{}: class `{name}`: {error}", row.id))?);
        counts.push(*pictures);
    }
    let complaints = row.style.complaints();
    if let Some(first) = complaints.first() {
        return Err(format!("{}: style.{first}", row.id));
    }
    Ok(StandIn {
        drawn: DrawnDataset {
            id: row.id,
            title: row.title,
            stands_for: row.stands_for,
            template: row.template,
            classes,
            style: row.style,
            shift_of: None,
        },
        counts,
        has_drivers: row.drivers,
    })
}

impl StandIn {
    /// Numbers of a class's pictures in each list: train's first.
    fn indices(&self, label: usize) -> [Range<u64>; 3] {
        let [train, val, test] = self.counts[label];
        [
            0..train,
            train..train + val,
            train + val..train + val + test,
        ]
    }

    /// Who is in a picture, in a set with drivers.
    fn driver(&self, label: usize, index: u64) -> Option<u64> {
        let place = self
            .indices(label)
            .iter()
            .position(|r| r.contains(&index))?;
        let drivers = &DRIVERS[place];
        let own = drivers.start + index % (drivers.end - drivers.start);
        self.has_drivers.then_some(own)
    }

    /// Its lists.
    pub fn split(&self) -> Split {
        let list = |part: usize| -> Vec<Item> {
            let classes = self.drawn.classes.iter().enumerate();
            classes
                .flat_map(|(label, class)| {
                    self.indices(label)[part].clone().map(move |index| Item {
                        path: self.path(label, index),
                        label: label as u32,
                        class_name: class.name.clone(),
                    })
                })
                .collect()
        };
        Split {
            train: list(0),
            val: list(1),
            test: list(2),
            origin: Origin::Drawn,
        }
    }

    fn path(&self, label: usize, index: u64) -> PathBuf {
        let class = self.drawn.classes[label].name.replace(' ', "_");
        PathBuf::from(match self.driver(label, index) {
            Some(driver) => format!("{class}/driver_{driver}_{index:04}.png"),
            None => format!("{class}/{index:04}.png"),
        })
    }

    /// Label and index of a path of the lists.
    fn place(&self, path: &Path) -> Option<(usize, u64)> {
        let (folder, file) = path.to_str()?.split_once('/')?;
        let classes = &self.drawn.classes;
        let label = classes
            .iter()
            .position(|c| c.name.replace(' ', "_") == folder)?;
        let stem = file.strip_suffix(".png")?;
        let index = stem.rsplit('_').next()?.parse().ok()?;
        (self.path(label, index) == path).then_some((label, index))
    }

    /// Who is in the picture of each path, in a set with drivers; empty in any other.
    pub fn groups(&self) -> BTreeMap<PathBuf, String> {
        let split = self.split();
        let items = Part::ALL
            .into_iter()
            .flat_map(|part| split.part(part).to_vec());
        items
            .filter_map(|item| {
                let (label, index) = self.place(&item.path)?;
                let driver = self.driver(label, index)?;
                Some((item.path, format!("driver {driver}")))
            })
            .collect()
    }

    /// A picture, `size` pixels a side.
    fn render(&self, label: usize, index: u64, size: usize) -> Rgb {
        let class = &self.drawn.classes[label];
        let mut dice = Dice::new(&self.drawn.id, label as u64, index);
        let mut fixed = class.fixed;
        if let (Some(driver), Some(slot)) = (self.driver(label, index), class.family.slot(DRIVER)) {
            fixed[slot] = Some(driver as u8);
        }
        let parts = Parts::complete(class.family, &fixed, &mut dice);
        draw(&parts, &self.drawn.style, size, dice)
    }
}

/// The stand-in called `id`, if there is one.
pub(super) fn open(id: &str) -> Option<Dataset> {
    let stand_in = stand_ins().iter().find(|s| s.drawn.id == id)?;
    let drawn = &stand_in.drawn;
    Some(Dataset::from_parts(
        &drawn.id,
        &drawn.title,
        &drawn.template,
        stand_in.split(),
        Arc::new(Drawings(stand_in)),
    ))
}

/// Draws the pictures of a stand-in.
struct Drawings(&'static StandIn);

impl Pictures for Drawings {
    fn rgb(&self, item: &Item) -> Result<Rgb, Error> {
        let (label, index) = self.0.place(&item.path).ok_or_else(|| Error::Missing {
            path: item.path.clone(),
            what: "the drawing",
            hint: format!(
                "drawings of {} are called like {}",
                self.0.drawn.id,
                self.0.path(0, 0).display()
            ),
        })?;
        Ok(self.0.render(label, index, SIZE))
    }

    fn content_key(&self, item: &Item) -> Result<String, Error> {
        let id = &self.0.drawn.id;
        Ok(format!("stand-in {VERSION} {id}/{}", item.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{datasets, vocabulary_texts};
    use super::*;
    use std::collections::{BTreeSet, HashSet};

    fn named(id: &str) -> &'static StandIn {
        stand_ins().iter().find(|s| s.drawn.id == id).unwrap()
    }

    #[test]
    fn there_are_three_and_none_is_of_the_suite() {
        let ids: Vec<&str> = stand_ins().iter().map(|s| s.drawn.id.as_str()).collect();
        assert_eq!(ids, ["drawn-scans", "drawn-aerial", "drawn-cabins"]);
        assert!(datasets().iter().all(|d| !ids.contains(&d.id.as_str())));
        let known: BTreeSet<&str> = datasets()
            .iter()
            .flat_map(|d| &d.classes)
            .map(|c| c.family.id)
            .collect();
        assert!(FAMILIES.iter().all(|f| !known.contains(f.id)));
    }

    #[test]
    fn every_word_is_one_that_the_shipped_clip_knows() {
        let words = |text: &str| -> Vec<String> {
            let letters = |c: char| c.is_whitespace() || ".,{}".contains(c);
            let words = text.split(letters).filter(|w| !w.is_empty());
            words.map(str::to_owned).collect()
        };
        let known: HashSet<String> = vocabulary_texts().iter().flat_map(|t| words(t)).collect();
        for stand_in in stand_ins() {
            let names = stand_in.drawn.classes.iter().map(|c| c.name.as_str());
            for text in names.chain([stand_in.drawn.template.as_str()]) {
                for word in words(text) {
                    assert!(known.contains(&word), "{}: {word}", stand_in.drawn.id);
                }
            }
        }
    }

    #[test]
    fn scans_are_grey_and_unequal_and_no_driver_is_on_both_sides() {
        let scans = open("drawn-scans").unwrap();
        assert_eq!(scans.split.tests_by_class(), [120, 60, 40, 20]);
        let picture = scans.source.rgb(&scans.split.test[0]).unwrap();
        let spread = picture.data.chunks_exact(3).map(|p| {
            let (low, high) = (p.iter().min().unwrap(), p.iter().max().unwrap());
            f64::from(high - low)
        });
        // Noise is drawn for each channel, so that grey is grey in the mean.
        let mean = spread.sum::<f64>() / 1024.0;
        assert!(mean < 20.0, "{mean}");
        let cabins = named("drawn-cabins");
        let groups = cabins.groups();
        let split = cabins.split();
        let of = |part: Part| -> BTreeSet<&String> {
            split
                .part(part)
                .iter()
                .map(|item| &groups[&item.path])
                .collect()
        };
        let [train, val, test] = Part::ALL.map(of);
        assert_eq!((train.len(), val.len(), test.len()), (5, 2, 3));
        assert!(train.is_disjoint(&test) && val.is_disjoint(&test) && train.is_disjoint(&val));
        assert!(named("drawn-scans").groups().is_empty());
    }

    #[test]
    fn every_picture_is_its_own_and_drawn_alike_by_all_threads() {
        for stand_in in stand_ins() {
            let dataset = open(&stand_in.drawn.id).unwrap();
            let items: Vec<Item> = Part::ALL
                .into_iter()
                .flat_map(|part| dataset.split.part(part).to_vec())
                .collect();
            let draw_all =
                || crate::load::all(&*dataset.source, &items, |_, rgb| rgb.data).unwrap();
            let drawn = draw_all();
            assert!(drawn == draw_all());
            assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), items.len());
            let absent = Item {
                path: "nothing/0001.png".into(),
                ..items[0].clone()
            };
            assert!(dataset.source.rgb(&absent).is_err());
        }
    }
}
