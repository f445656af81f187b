//! Which picture belongs to which class, and to train, val or test.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Problem, ProblemKind};
use crate::{ClassSet, Error};

/// One picture of a dataset. Written as the field's triple `[path, label, class name]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(PathBuf, u32, String)", into = "(PathBuf, u32, String)")]
pub struct Item {
    /// Path of the picture, relative to the images folder, with `/`.
    pub path: PathBuf,
    /// Label, from 0.
    pub label: u32,
    /// Name of the class, `_` kept (methods put spaces).
    pub class_name: String,
}

impl From<(PathBuf, u32, String)> for Item {
    fn from((path, label, class_name): (PathBuf, u32, String)) -> Self {
        Self {
            path,
            label,
            class_name,
        }
    }
}

impl From<Item> for (PathBuf, u32, String) {
    fn from(item: Item) -> Self {
        (item.path, item.label, item.class_name)
    }
}

/// A part of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// What few-shot pictures are picked from.
    Train,
    /// What validation pictures are picked from; empty for ImageNet, where the test list serves as val.
    Val,
    /// What accuracy is measured on.
    Test,
}

impl Part {
    /// All three, in the order of a split file.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    /// `train`, `val` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

/// Where a split comes from: only a published one makes numbers comparable with the papers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Read from a split file, or from the lists the dataset itself publishes.
    Published,
    /// Built here as the published code builds one when the split file is missing: same generator, seed 1, but over
    /// sorted names (theirs depends on the file system's order), so it is **not** the published split.
    Built,
    /// Drawn by a program.
    Drawn,
}

/// All pictures of a dataset in three lists whose order is part of the protocol (picks depend on it).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Training pictures.
    pub train: Vec<Item>,
    /// Validation pictures.
    pub val: Vec<Item>,
    /// Test pictures.
    pub test: Vec<Item>,
    /// Where the lists come from.
    pub origin: Origin,
}

/// The class names of a list, in ascending order of label.
pub fn class_names(items: &[Item]) -> Vec<String> {
    let names: BTreeMap<u32, &str> = items
        .iter()
        .rev()
        .map(|item| (item.label, item.class_name.as_str()))
        .collect();
    names.into_values().map(str::to_owned).collect()
}

impl Split {
    /// True when the lists are the published ones.
    pub fn published(&self) -> bool {
        self.origin == Origin::Published
    }

    /// One of the three lists.
    pub fn part(&self, part: Part) -> &[Item] {
        match part {
            Part::Train => &self.train,
            Part::Val => &self.val,
            Part::Test => &self.test,
        }
    }

    /// The list that says which classes there are: train, or test for datasets that are only tested on.
    fn reference(&self) -> &[Item] {
        if self.train.is_empty() {
            &self.test
        } else {
            &self.train
        }
    }

    /// The class names in ascending order of label, from train (from test when there is no train).
    pub fn class_names(&self) -> Vec<String> {
        class_names(self.reference())
    }

    /// SHA-256 over paths, labels and names of all three lists, in order; hex.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for part in Part::ALL {
            hash_items(&mut hasher, part.name(), self.part(part));
        }
        hex(&hasher.finalize())
    }

    /// The same test list with picked train and val lists. Take a [`subset`](Self::subset) only afterwards: the
    /// published code picks before it halves the classes.
    pub fn with_picks(&self, picks: &crate::picks::Picks) -> Self {
        Self {
            train: picks.train.clone(),
            val: picks.val.clone(),
            test: self.test.clone(),
            origin: self.origin.clone(),
        }
    }

    /// Labels of a class set, in the order of [`ClassSet::places`]: of ascending labels, the first half are the base classes.
    ///
    /// # Errors
    /// As [`Split::subset`].
    fn labels_of(&self, set: ClassSet) -> Result<Vec<u32>, Error> {
        let labels: BTreeSet<u32> = self.reference().iter().map(|item| item.label).collect();
        let labels: Vec<u32> = labels.into_iter().collect();
        let kept = set.places(labels.len());
        let kept: Vec<u32> = kept.into_iter().map(|place| labels[place]).collect();
        if kept.is_empty() {
            return Err(Error::EmptyClassSet {
                set: set.name(),
                classes: labels.len(),
            });
        }
        Ok(kept)
    }

    /// Names of a class set in its order, without a copy of the lists.
    ///
    /// # Errors
    /// As [`Split::subset`].
    pub fn names_of(&self, set: ClassSet) -> Result<Vec<String>, Error> {
        let kept = self.labels_of(set)?;
        let mut names: HashMap<u32, &str> = HashMap::new();
        for item in self.reference() {
            names.entry(item.label).or_insert(&item.class_name);
        }
        Ok(kept.iter().map(|l| names[l].to_owned()).collect())
    }

    /// Training and test pictures of a class set, counted.
    ///
    /// # Errors
    /// As [`Split::subset`].
    pub fn counts(&self, set: ClassSet) -> Result<(usize, usize), Error> {
        let kept: BTreeSet<u32> = self.labels_of(set)?.into_iter().collect();
        let count = |items: &[Item]| items.iter().filter(|i| kept.contains(&i.label)).count();
        Ok((count(&self.train), count(&self.test)))
    }

    /// Test pictures of each class, in label order, counted.
    pub fn tests_by_class(&self) -> Vec<usize> {
        let labels = self.reference().iter().map(|item| item.label);
        let mut counts: BTreeMap<u32, usize> = labels.map(|label| (label, 0)).collect();
        for item in &self.test {
            if let Some(count) = counts.get_mut(&item.label) {
                *count += 1;
            }
        }
        counts.into_values().collect()
    }

    /// The pictures of some classes, re-labelled from 0 in the order of the set, and the names of those classes.
    ///
    /// Labels of train, sorted, n of them: base is the first ceil(n/2), novel the rest (Dassl `subsample_classes`).
    ///
    /// # Errors
    /// [`Error::EmptyClassSet`] when no class is left.
    pub fn subset(&self, set: ClassSet) -> Result<(Self, Vec<String>), Error> {
        let kept = self.labels_of(set)?;
        let new: HashMap<u32, u32> = kept.iter().zip(0..).map(|(&old, new)| (old, new)).collect();
        let relabelled = |items: &[Item]| {
            items
                .iter()
                .filter_map(|item| {
                    new.get(&item.label).map(|&label| Item {
                        label,
                        ..item.clone()
                    })
                })
                .collect::<Vec<_>>()
        };
        let split = Self {
            train: relabelled(&self.train),
            val: relabelled(&self.val),
            test: relabelled(&self.test),
            origin: self.origin.clone(),
        };
        let names = split.class_names();
        Ok((split, names))
    }

    /// Pictures that stand in the lists more than once: how many entries repeat one, and the first such path. Not an
    /// error, since published lists are taken as they are, but a picture in train and test would flatter a method.
    pub fn repeated(&self) -> Option<(usize, PathBuf)> {
        let mut seen = HashSet::new();
        let mut again = Part::ALL
            .iter()
            .flat_map(|&part| self.part(part))
            .filter(|item| !seen.insert(&item.path));
        let first = again.next()?.path.clone();
        Some((1 + again.count(), first))
    }

    /// Everything wrong with the lists themselves (not with the files): an empty test or overall list, a path that
    /// leaves its folder, label gaps, a class with two names, a class train does not have.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut names: BTreeMap<u32, (&str, String)> = BTreeMap::new();
        let mut conflicts = BTreeSet::new();
        let field = |part: Part, index: usize| format!("{}[{index}]", part.name());
        if self.train.is_empty() && self.test.is_empty() {
            problems.push(Problem {
                field: "train".to_owned(),
                kind: ProblemKind::Empty,
            });
        }
        if self.test.is_empty() {
            problems.push(Problem {
                field: "test".to_owned(),
                kind: ProblemKind::Empty,
            });
        }
        let in_train: BTreeSet<u32> = self.train.iter().map(|item| item.label).collect();
        let mut reported = BTreeSet::new();
        for part in Part::ALL {
            for (index, item) in self.part(part).iter().enumerate() {
                if !stays_inside(&item.path) {
                    let path = item.path.to_string_lossy().into_owned();
                    problems.push(Problem {
                        field: field(part, index) + ".path",
                        kind: ProblemKind::Outside { path },
                    });
                }
                let (first, first_field) = names
                    .entry(item.label)
                    .or_insert_with(|| (&item.class_name, field(part, index)));
                if *first != item.class_name
                    && conflicts.insert((item.label, item.class_name.as_str()))
                {
                    problems.push(Problem {
                        field: field(part, index) + ".name",
                        kind: ProblemKind::TwoNames {
                            label: item.label,
                            first: (*first).to_owned(),
                            first_field: first_field.clone(),
                            second: item.class_name.clone(),
                        },
                    });
                }
                if !in_train.is_empty()
                    && !in_train.contains(&item.label)
                    && reported.insert(item.label)
                {
                    problems.push(Problem {
                        field: field(part, index) + ".label",
                        kind: ProblemKind::NotInTrain {
                            label: item.label,
                            name: item.class_name.clone(),
                        },
                    });
                }
            }
        }
        problems.extend(gaps(names.keys().copied()));
        problems
    }
}

/// The numbers below the largest label that are no label; only the first few, for a label of a billion.
fn gaps(labels: impl DoubleEndedIterator<Item = u32> + Clone) -> Vec<Problem> {
    const SHOWN: usize = 20;
    let Some(largest) = labels.clone().next_back() else {
        return Vec::new();
    };
    let mut gaps = Vec::new();
    let mut expected = 0;
    for label in labels {
        while expected < label && gaps.len() < SHOWN {
            gaps.push(Problem {
                field: "labels".to_owned(),
                kind: ProblemKind::LabelGap {
                    label: expected,
                    largest,
                },
            });
            expected += 1;
        }
        expected = label.saturating_add(1);
    }
    gaps
}

/// True for a relative path of plain names: nothing that could lead out of the folder it is joined to.
pub(crate) fn stays_inside(path: &Path) -> bool {
    let text = path.to_string_lossy();
    !text.is_empty()
        && !text.contains('\0')
        && !text.contains('\\')
        && !is_on_a_drive(&text)
        && path
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// `C:/pictures/a.jpg`: absolute on Windows, and nothing that is meant elsewhere.
fn is_on_a_drive(text: &str) -> bool {
    matches!(text.as_bytes(), [letter, b':', b'/', ..] if letter.is_ascii_alphabetic())
}

/// Feeds a list of items to a hash so that no two lists give the same bytes.
pub(crate) fn hash_items(hasher: &mut Sha256, name: &str, items: &[Item]) {
    let mut text = |text: &str| {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    };
    text(name);
    text(&items.len().to_string());
    for item in items {
        text(&item.path.to_string_lossy());
        text(&item.label.to_string());
        text(&item.class_name);
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(path: &str, label: u32, name: &str) -> Item {
        Item {
            path: path.into(),
            label,
            class_name: name.to_owned(),
        }
    }

    fn split(train: &[(u32, &str)]) -> Split {
        let list = |part: &str| {
            train
                .iter()
                .enumerate()
                .map(|(i, (label, name))| item(&format!("{part}/{i}.jpg"), *label, name))
                .collect()
        };
        Split {
            train: list("train"),
            val: list("val"),
            test: list("test"),
            origin: Origin::Published,
        }
    }

    fn kinds(split: &Split) -> Vec<String> {
        split
            .problems()
            .iter()
            .map(|problem| format!("{}: {}", problem.field, problem.kind))
            .collect()
    }

    #[test]
    fn odd_counts_give_base_the_extra_class() {
        let split = split(&[(4, "e"), (0, "a"), (2, "c"), (1, "b"), (3, "d")]);
        let (base, names) = split.subset(ClassSet::Base).unwrap();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(
            base.train.iter().map(|item| item.label).collect::<Vec<_>>(),
            [0, 2, 1]
        );
        let (novel, names) = split.subset(ClassSet::Novel).unwrap();
        assert_eq!(names, ["d", "e"]);
        assert_eq!(
            novel.test.iter().map(|item| item.label).collect::<Vec<_>>(),
            [1, 0]
        );
    }

    #[test]
    fn one_class_has_no_novel_half() {
        let error = split(&[(0, "a")])
            .subset(ClassSet::Novel)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "the novel half of 1 class(es) is empty; base and novel need at least 2 classes"
        );
    }

    #[test]
    fn two_classes_may_share_a_name() {
        let split = split(&[(0, "missile"), (1, "rose"), (2, "missile")]);
        assert!(split.problems().is_empty());
        assert_eq!(split.class_names(), ["missile", "rose", "missile"]);
    }

    #[test]
    fn every_problem_of_the_lists_is_reported_with_its_entry() {
        let mut split = split(&[(0, "a"), (3, "d"), (0, "A")]);
        split.test[1].path = "../test/1.jpg".into();
        split.val[2].path = "/etc/passwd".into();
        split.val.push(item("val/0.jpg", 9, "z"));
        let found = kinds(&split);
        for expected in [
            "train[2].name: label 0 is called \"A\" here but \"a\" at train[0]",
            "test[1].path: \"../test/1.jpg\" leads outside the images folder; paths must be relative and without `..`",
            "val[2].path: \"/etc/passwd\" leads outside the images folder; paths must be relative and without `..`",
            "val[3].label: label 9 (\"z\") never occurs in train",
            "labels: label 1 has no entry although labels go up to 9; labels must be 0, 1, 2, ... without a gap",
            "labels: label 2 has no entry although labels go up to 9; labels must be 0, 1, 2, ... without a gap",
        ] {
            assert!(
                found.iter().any(|line| line == expected),
                "{expected}\nnot in {found:#?}"
            );
        }
    }

    #[test]
    fn a_label_of_four_billion_is_reported_quickly() {
        let split = split(&[(0, "a"), (u32::MAX, "z")]);
        assert_eq!(split.problems().len(), 20);
    }

    #[test]
    fn items_are_written_as_triples() {
        let text = serde_json::to_string(&item("a/ü.jpg", 3, "ü")).unwrap();
        assert_eq!(text, r#"["a/ü.jpg",3,"ü"]"#);
        assert_eq!(
            serde_json::from_str::<Item>(&text).unwrap(),
            item("a/ü.jpg", 3, "ü")
        );
    }

    #[test]
    fn the_hash_sees_paths_labels_names_and_parts() {
        let one = split(&[(0, "a"), (1, "b")]);
        let hash = one.hash();
        assert_eq!(hash.len(), 64);
        let mut other = one.clone();
        other.train.swap(0, 1);
        assert_ne!(other.hash(), hash);
        let mut other = one.clone();
        other.test[0].class_name = "c".to_owned();
        assert_ne!(other.hash(), hash);
        let mut other = one.clone();
        let moved = other.train.pop().unwrap();
        other.val.insert(0, moved);
        assert_ne!(other.hash(), hash);
    }

    proptest! {
        #[test]
        fn halves_share_no_class_and_lose_no_picture(
            labels in proptest::collection::vec(0u32..40, 1..120),
        ) {
            let names: Vec<String> = labels.iter().map(|label| format!("class {label} ü{}", "x".repeat(300))).collect();
            let pairs: Vec<(u32, &str)> = labels.iter().copied().zip(names.iter().map(String::as_str)).collect();
            let split = split(&pairs);
            let (base, base_names) = split.subset(ClassSet::Base).unwrap();
            let novel = split.subset(ClassSet::Novel);
            let classes = split.class_names().len();
            prop_assert_eq!(base_names.len(), classes.div_ceil(2));
            let (novel_count, novel_names) = novel.map_or((0, Vec::new()), |(n, names)| (n.test.len(), names));
            prop_assert_eq!(base.test.len() + novel_count, split.test.len());
            prop_assert_eq!(base_names.len() + novel_names.len(), classes);
            prop_assert!(base_names.iter().all(|name| !novel_names.contains(name)));
            let largest = base.train.iter().map(|item| item.label).max().unwrap();
            prop_assert_eq!(largest as usize + 1, base_names.len());
        }
    }
}
