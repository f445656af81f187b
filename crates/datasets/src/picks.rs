//! Few-shot picks: the same pictures the published numbers were trained on.
//!
//! Dassl `generate_fewshot_dataset` at c61a1b5 as the CoOp datasets call it: CPython's generator, classes in the order
//! they first appear in the list, train first and then val from the same stream, before base and novel are parted.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::cpython::Random;
use crate::error::{Problem, ProblemKind};
use crate::split::{Part, hash_items, hex};
use crate::{Error, Item, Split};

/// The most validation pictures a class gets.
pub const VAL_SHOTS: usize = 4;

/// Picked training and validation pictures, in the order drawn, with the labels of the whole dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Picks {
    /// Training pictures, K a class.
    pub train: Vec<Item>,
    /// Validation pictures, min(K, 4) a class.
    pub val: Vec<Item>,
}

/// Draws `shots` training pictures a class and min(`shots`, 4) validation pictures.
///
/// A class with fewer pictures gives all of them once, in list order. No shots, no pictures.
pub fn draw(split: &Split, shots: usize, seed: u64) -> Picks {
    draw_both(split, shots, shots.min(VAL_SHOTS), seed)
}

/// As [`draw`], with `val_shots` validation pictures a class, drawn after the training pictures from the same generator.
pub fn draw_both(split: &Split, shots: usize, val_shots: usize, seed: u64) -> Picks {
    let mut random = Random::seed(seed);
    let train = few(&mut random, &split.train, shots);
    let val = few(&mut random, &split.val, val_shots);
    Picks { train, val }
}

fn few(random: &mut Random, items: &[Item], shots: usize) -> Vec<Item> {
    if shots == 0 {
        return Vec::new();
    }
    let mut groups: Vec<Vec<&Item>> = Vec::new();
    let mut group_of: HashMap<u32, usize> = HashMap::new();
    for item in items {
        let group = *group_of.entry(item.label).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(item);
    }
    let mut picked = Vec::with_capacity(groups.len() * shots);
    for group in groups {
        if group.len() >= shots {
            picked.extend(random.sample(&group, shots).into_iter().cloned());
        } else {
            picked.extend(group.into_iter().cloned());
        }
    }
    picked
}

impl Picks {
    /// SHA-256 over paths, labels and names in order; hex.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        hash_items(&mut hasher, Part::Train.name(), &self.train);
        hash_items(&mut hasher, Part::Val.name(), &self.val);
        hex(&hasher.finalize())
    }

    /// `{"train": [[path, label, name], ...], "val": [...]}`, one entry a line.
    pub fn to_json(&self) -> String {
        let list = |items: &[Item]| {
            let lines: Vec<String> = items
                .iter()
                .map(|item| {
                    "    ".to_owned() + &serde_json::to_string(item).expect("strings and numbers")
                })
                .collect();
            if lines.is_empty() {
                "[]".to_owned()
            } else {
                format!("[\n{}\n  ]", lines.join(",\n"))
            }
        };
        format!(
            "{{\n  \"train\": {},\n  \"val\": {}\n}}\n",
            list(&self.train),
            list(&self.val)
        )
    }

    /// Writes [`to_json`](Self::to_json) to a file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        std::fs::write(path, self.to_json()).map_err(Error::io(path))
    }

    /// Reads picks from a file: `{"train": [...], "val": [...]}` whose entries are triples or bare paths (published
    /// lists are bare paths). Every entry must stand in the same list of `split`, which gives label and name.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Syntax`], or [`Error::Entries`] with every entry that the split does not have.
    pub fn read(path: &Path, split: &Split) -> Result<Self, Error> {
        let text = crate::readers::read_text(path)?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| crate::readers::json_error(path, &error))?;
        Self::from_value(&value, path, split)
    }

    /// As [`read`](Self::read), of what was read from `path` already.
    ///
    /// # Errors
    /// [`Error::Entries`].
    pub fn from_value(value: &Value, path: &Path, split: &Split) -> Result<Self, Error> {
        let mut problems = Vec::new();
        let mut list = |part: Part| {
            let known: HashMap<&Path, &Item> = split
                .part(part)
                .iter()
                .map(|item| (item.path.as_path(), item))
                .collect();
            let empty = Vec::new();
            let entries = match value.get(part.name()) {
                Some(Value::Array(entries)) => entries,
                None if part == Part::Val => &empty,
                other => {
                    let found = other.map_or("nothing".to_owned(), crate::readers::shown);
                    let kind = ProblemKind::Form {
                        found,
                        expected: "a list of pictures",
                    };
                    problems.push(Problem {
                        field: part.name().to_owned(),
                        kind,
                    });
                    &empty
                }
            };
            let mut items = Vec::with_capacity(entries.len());
            for (index, entry) in entries.iter().enumerate() {
                let field = format!("{}[{index}]", part.name());
                match picked(entry, &known) {
                    Ok(item) => items.push(item.clone()),
                    Err(kind) => problems.push(Problem { field, kind }),
                }
            }
            items
        };
        let picks = Self {
            train: list(Part::Train),
            val: list(Part::Val),
        };
        if problems.is_empty() {
            Ok(picks)
        } else {
            Err(Error::Entries {
                path: path.to_owned(),
                problems,
            })
        }
    }
}

fn picked<'a>(entry: &Value, known: &HashMap<&Path, &'a Item>) -> Result<&'a Item, ProblemKind> {
    let form = || ProblemKind::Form {
        found: crate::readers::shown(entry),
        expected: "a path or a triple [path, label, class name]",
    };
    let (path, rest) = match entry {
        Value::String(path) => (path, None),
        Value::Array(triple) => match triple.as_slice() {
            [Value::String(path), label, name] => (path, Some((label, name))),
            _ => return Err(form()),
        },
        _ => return Err(form()),
    };
    let item = known
        .get(crate::readers::written(path).as_path())
        .ok_or_else(|| ProblemKind::Rule(format!("{path:?} is not in this list of the split")))?;
    if let Some((label, name)) = rest {
        let (label, name) = (
            label.as_u64().ok_or_else(form)?,
            name.as_str().ok_or_else(form)?,
        );
        if label != u64::from(item.label) || name != item.class_name {
            return Err(ProblemKind::Rule(format!(
                "{path:?} is [{label}, {name:?}] here but [{}, {:?}] in the split",
                item.label, item.class_name
            )));
        }
    }
    Ok(item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::Origin;
    use proptest::prelude::*;

    fn items(part: &str, labels: &[u32]) -> Vec<Item> {
        let item = |(i, &label): (usize, &u32)| Item {
            path: format!("{part}/{i}.jpg").into(),
            label,
            class_name: format!("class {label}"),
        };
        labels.iter().enumerate().map(item).collect()
    }

    fn split(train: &[u32], val: &[u32]) -> Split {
        Split {
            train: items("train", train),
            val: items("val", val),
            test: items("test", train),
            origin: Origin::Published,
        }
    }

    #[test]
    fn classes_are_visited_in_order_of_appearance() {
        let picks = draw(&split(&[5, 5, 2, 2, 9, 9, 2, 5], &[]), 2, 1);
        assert_eq!(
            picks
                .train
                .iter()
                .map(|item| item.label)
                .collect::<Vec<_>>(),
            [5, 5, 2, 2, 9, 9]
        );
    }

    #[test]
    fn a_short_class_gives_all_its_pictures_once() {
        let picks = draw(&split(&[0, 1, 1, 1], &[0]), 3, 1);
        assert_eq!(picks.train.iter().filter(|item| item.label == 0).count(), 1);
        assert_eq!(picks.train.len(), 4);
        assert_eq!(picks.val.len(), 1);
    }

    // CPython 3.11: r = random.Random(2); r.sample(range(6), 4), r.sample(range(7), 4), then val r.sample(range(5), 4)
    #[test]
    fn val_continues_the_stream_of_train() {
        let train = [vec![0; 6], vec![1; 7]].concat();
        let picks = draw(&split(&train, &[0; 5]), 4, 2);
        let paths = |items: &[Item]| {
            items
                .iter()
                .map(|i| i.path.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            paths(&picks.train),
            [0, 5, 4, 1, 12, 7, 8, 10].map(|i| format!("train/{i}.jpg"))
        );
        assert_eq!(
            paths(&picks.val),
            [4, 1, 2, 0].map(|i| format!("val/{i}.jpg"))
        );
    }

    #[test]
    fn written_picks_are_read_back_and_bare_paths_too() {
        let folder = tempfile::tempdir().unwrap();
        let split = split(&[0, 0, 1, 1, 1], &[0, 1, 1]);
        let picks = draw(&split, 2, 3);
        let file = folder.path().join("picks.json");
        picks.write(&file).unwrap();
        assert_eq!(Picks::read(&file, &split).unwrap(), picks);
        let paths = |items: &[Item]| {
            items
                .iter()
                .map(|item| item.path.clone())
                .collect::<Vec<_>>()
        };
        let bare = serde_json::json!({ "train": paths(&picks.train), "val": paths(&picks.val) });
        std::fs::write(&file, bare.to_string()).unwrap();
        assert_eq!(Picks::read(&file, &split).unwrap(), picks);
    }

    #[test]
    fn picks_of_another_split_are_refused_with_every_entry() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("picks.json");
        std::fs::write(
            &file,
            r#"{"train": ["train/0.jpg", "train/7.jpg", ["train/1.jpg", 4, "x"], 5]}"#,
        )
        .unwrap();
        let error = Picks::read(&file, &split(&[0, 0], &[]))
            .unwrap_err()
            .to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), 3, "{error}");
        assert!(
            lines[0].ends_with(
                r#"picks.json: train[1]: "train/7.jpg" is not in this list of the split"#
            )
        );
        assert!(lines[1].contains(
            r#"train[2]: "train/1.jpg" is [4, "x"] here but [0, "class 0"] in the split"#
        ));
        assert!(lines[2].contains("train[3]: found 5, expected a path or a triple"));
    }

    proptest! {
        #[test]
        fn picks_are_distinct_and_of_the_right_number(
            train in proptest::collection::vec(0u32..7, 0..200),
            val in proptest::collection::vec(0u32..7, 0..60),
            shots in 1usize..20,
            seed in any::<u64>(),
        ) {
            let split = split(&train, &val);
            let picks = draw(&split, shots, seed);
            for (picked, all, shots) in [(&picks.train, &split.train, shots), (&picks.val, &split.val, shots.min(4))] {
                for label in 0..7 {
                    let of = |items: &[Item]| items.iter().filter(|item| item.label == label).count();
                    prop_assert_eq!(of(picked), of(all).min(shots));
                }
                let distinct: std::collections::HashSet<_> = picked.iter().map(|item| &item.path).collect();
                prop_assert_eq!(distinct.len(), picked.len());
            }
            prop_assert_eq!(draw(&split, shots, seed), picks);
        }
    }
}
