//! A drawn dataset as any other: lists of items, and pictures that are drawn when they are asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DrawnDataset, SIZE, TEST, TRAIN, VAL, datasets, render};
use crate::{Dataset, Error, Item, Origin, Pictures, Rgb, Split};

/// Raised whenever a drawing of the suite can come out differently, so that nothing computed from old ones is used.
pub const DRAWING_VERSION: u32 = 1;

/// The drawn dataset called `id`, if there is one.
pub fn open(id: &str) -> Option<Dataset> {
    let Some(drawn) = datasets().iter().find(|d| d.id == id) else {
        return super::applications::open(id);
    };
    Some(Dataset::from_parts(
        &drawn.id,
        &drawn.title,
        &drawn.template,
        split(drawn),
        Arc::new(Drawings(drawn)),
    ))
}

/// Its lists: 32 pictures a class to pick from, 8 to validate on, 20 to test on.
pub fn split(drawn: &DrawnDataset) -> Split {
    let list = |indices: std::ops::Range<u64>| -> Vec<Item> {
        let classes = drawn.classes.iter().enumerate();
        classes
            .flat_map(|(label, class)| {
                indices.clone().map(move |index| Item {
                    path: path(&class.name, index),
                    label: label as u32,
                    class_name: class.name.clone(),
                })
            })
            .collect()
    };
    Split {
        train: list(TRAIN),
        val: list(VAL),
        test: list(TEST),
        origin: Origin::Drawn,
    }
}

/// Class and index stand in the path, so that an item of a class set, whose labels start from 0 again, still names its
/// drawing.
fn path(class: &str, index: u64) -> PathBuf {
    PathBuf::from(format!("{}/{index:04}.png", class.replace(' ', "_")))
}

/// Draws the pictures of one dataset.
pub struct Drawings(&'static DrawnDataset);

impl Drawings {
    /// Label in the whole dataset, and index in the class, of a path of the split.
    fn place(&self, path: &Path) -> Option<(usize, u64)> {
        let (folder, file) = path.to_str()?.split_once('/')?;
        let label = self
            .0
            .classes
            .iter()
            .position(|c| c.name.replace(' ', "_") == folder)?;
        let index = file.strip_suffix(".png")?.parse().ok()?;
        (index < TEST.end).then_some((label, index))
    }
}

impl Pictures for Drawings {
    fn rgb(&self, item: &Item) -> Result<Rgb, Error> {
        let (label, index) = self.place(&item.path).ok_or_else(|| Error::Missing {
            path: item.path.clone(),
            what: "the drawing",
            hint: format!(
                "drawings of {} are called like {}, up to {:04}.png",
                self.0.id,
                path(&self.0.classes[0].name, 0).display(),
                TEST.end - 1
            ),
        })?;
        Ok(render(self.0, label, index, SIZE))
    }

    fn content_key(&self, item: &Item) -> Result<String, Error> {
        Ok(format!(
            "drawing {DRAWING_VERSION} {}/{}",
            self.0.id,
            item.path.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClassSet;
    use std::collections::HashSet;

    #[test]
    fn no_picture_is_in_two_splits() {
        for drawn in datasets() {
            let split = split(drawn);
            let n = drawn.classes.len();
            assert_eq!(
                (split.train.len(), split.val.len(), split.test.len()),
                (32 * n, 8 * n, 20 * n)
            );
            let all = split.train.iter().chain(&split.val).chain(&split.test);
            let paths: HashSet<_> = all.map(|item| &item.path).collect();
            assert_eq!(paths.len(), 60 * n, "{}", drawn.id);
        }
    }

    #[test]
    fn an_item_of_a_class_set_is_still_its_own_drawing() {
        let dataset = open("drawn-pets").unwrap();
        let drawn = datasets().iter().find(|d| d.id == "drawn-pets").unwrap();
        let (novel, names) = dataset.split.subset(ClassSet::Novel).unwrap();
        let first = &novel.test[0];
        assert_eq!((first.label, &first.class_name), (0, &names[0]));
        assert_eq!(
            dataset.source.rgb(first).unwrap(),
            render(drawn, drawn.novel().start, TEST.start, SIZE)
        );
    }

    #[test]
    fn a_path_that_is_not_of_the_split_is_an_error_that_says_so() {
        let dataset = open("drawn-broad").unwrap();
        for path in [
            "nothing/0001.png",
            "green_key/0060.png",
            "green_key/one.png",
            "0001.png",
        ] {
            let item = Item {
                path: path.into(),
                label: 0,
                class_name: String::new(),
            };
            let error = dataset.source.rgb(&item).unwrap_err().to_string();
            assert!(
                error.contains(path) && error.contains("0059.png"),
                "{error}"
            );
        }
    }
}
