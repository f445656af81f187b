//! The catalogue: one row a dataset, as data.

mod archive;
mod groups;
mod row;
mod written;

use std::collections::BTreeMap;
use std::path::Path;

use crate::Error;
use crate::error::{Problem, ProblemKind};
use written::{Written, checked};

pub use archive::{Archive, Gives, Source, Sum};
pub use groups::{Fold, GroupBy, Groups};
pub use row::{Counts, DEFAULT_TEMPLATE, Parts, Reader, Row, Unsplit};

/// Ids of BiomedCoOp's datasets (arXiv 2411.15232), in its order; its base-to-novel tables leave BUSI out.
pub const BIOMED: [&str; 11] = [
    "btmri",
    "busi",
    "chmnist",
    "covid-19",
    "ctkidney",
    "dermamnist",
    "kneexray",
    "kvasir",
    "lungcolon",
    "octmnist",
    "retina",
];

const BUILT_IN: &str = concat!(
    include_str!("../../catalogue.toml"),
    "\n",
    include_str!("../../sources.toml")
);

/// All known datasets, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    rows: Vec<Row>,
}

impl Catalogue {
    /// The eleven datasets of the CoOp family, the four ImageNet variants, and those of its applications: medicine, remote
    /// sensing, driving.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN, Path::new("catalogue.toml"))
            .expect("the built-in catalogue is checked by a test")
    }

    /// Reads a catalogue file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Syntax`], or [`Error::Entries`] with every wrong field of every row.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::parse(&crate::readers::read_text(path)?, path)
    }

    /// Reads a catalogue from text; `path` is for messages.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let table: toml::Table = toml::from_str(text).map_err(|error: toml::de::Error| {
            let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
            Error::Syntax {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before.chars().rev().take_while(|&c| c != '\n').count() + 1,
                message: error.message().to_owned(),
            }
        })?;
        let mut rows: Vec<(usize, Row)> = Vec::new();
        let mut problems = Vec::new();
        for (id, value) in table {
            let rule = |message: String| Problem {
                field: format!("[{id}]"),
                kind: ProblemKind::Rule(message),
            };
            // toml keeps no order of tables; their place in the text does.
            let place = text.find(&format!("[{id}]")).unwrap_or(text.len());
            match value.try_into::<Written>() {
                Ok(written) => rows.push((place, checked(&id, written, &mut problems))),
                Err(error) => problems.push(rule(error.message().trim().to_owned())),
            }
        }
        rows.sort_by_key(|(place, _)| *place);
        let catalogue = Self {
            rows: rows.into_iter().map(|(_, row)| row).collect(),
        };
        problems.extend(catalogue.shared_names());
        if problems.is_empty() {
            Ok(catalogue)
        } else {
            Err(Error::Entries {
                path: path.to_owned(),
                problems,
            })
        }
    }

    /// Adds the rows of another catalogue; a row of the same id replaces the old one.
    ///
    /// # Errors
    /// [`Error::Entries`] when an alias then stands for two rows; `path` names the added file.
    pub fn merge(&mut self, added: Self, path: &Path) -> Result<(), Error> {
        for row in added.rows {
            match self.rows.iter_mut().find(|old| old.id == row.id) {
                Some(old) => *old = row,
                None => self.rows.push(row),
            }
        }
        let problems = self.shared_names();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Error::Entries {
                path: path.to_owned(),
                problems,
            })
        }
    }

    /// All rows, in file order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The row of an id, title or alias, whatever its case and dashes.
    pub fn get(&self, name: &str) -> Option<&Row> {
        let wanted = plain(name);
        self.rows
            .iter()
            .find(|row| row.all_names().any(|known| plain(known) == wanted))
    }

    /// As [`get`](Self::get).
    ///
    /// # Errors
    /// [`Error::UnknownDataset`] with the nearest name.
    pub fn find(&self, name: &str) -> Result<&Row, Error> {
        self.get(name).ok_or_else(|| Error::UnknownDataset {
            name: name.to_owned(),
            closest: closest(name, self.rows.iter().flat_map(Row::all_names)),
            known: self.rows.iter().map(|row| row.id.clone()).collect(),
        })
    }

    fn shared_names(&self) -> Vec<Problem> {
        let mut owner: BTreeMap<String, &str> = BTreeMap::new();
        let mut problems = Vec::new();
        for row in &self.rows {
            for name in row.all_names() {
                match owner.insert(plain(name), &row.id) {
                    Some(other) if other != row.id => problems.push(Problem {
                        field: format!("[{}] aliases", row.id),
                        kind: ProblemKind::Rule(format!("{name:?} already stands for [{other}]")),
                    }),
                    _ => {}
                }
            }
        }
        problems
    }
}

/// A name without what people write differently: case, dashes, underscores and spaces.
fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| !matches!(c, '-' | '_' | ' '))
        .flat_map(char::to_lowercase)
        .collect()
}

/// The known name within the fewest edits, when that is at most a third of its letters.
pub fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let wanted = plain(name);
    let (edits, best) = known
        .map(|known| (strsim::levenshtein(&wanted, &plain(known)), known))
        .min_by_key(|(edits, _)| *edits)?;
    (edits <= plain(best).chars().count().div_ceil(3)).then(|| best.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Catalogue, Error> {
        Catalogue::parse(text, Path::new("my.toml"))
    }

    #[test]
    fn the_built_in_rows_are_those_of_the_papers_then_of_the_applications() {
        let catalogue = Catalogue::built_in();
        let ids: Vec<&str> = catalogue.rows().iter().map(|row| row.id.as_str()).collect();
        assert_eq!(
            ids,
            [
                "imagenet",
                "caltech101",
                "oxford-pets",
                "stanford-cars",
                "flowers102",
                "food101",
                "fgvc-aircraft",
                "sun397",
                "dtd",
                "eurosat",
                "ucf101",
                "imagenet-v2",
                "imagenet-sketch",
                "imagenet-a",
                "imagenet-r",
                "btmri",
                "busi",
                "chmnist",
                "covid-19",
                "ctkidney",
                "dermamnist",
                "kneexray",
                "kvasir",
                "lungcolon",
                "octmnist",
                "retina",
                "medmnist-path",
                "medmnist-derma",
                "medmnist-oct",
                "medmnist-pneumonia",
                "medmnist-retina",
                "medmnist-breast",
                "medmnist-blood",
                "medmnist-tissue",
                "medmnist-organa",
                "medmnist-organc",
                "medmnist-organs",
                "aid",
                "rs-eurosat",
                "mlrsnet",
                "optimal31",
                "patternnet",
                "resisc45",
                "rsc11",
                "rsicb128",
                "rsicb256",
                "whurs19",
                "statefarm",
                "dmd",
                "syndd1"
            ]
        );
        let named = |row: &&Row| !row.labels.is_empty();
        for row in catalogue.rows().iter().filter(named) {
            assert_eq!(Some(row.labels.len()), row.classes, "{}", row.id);
        }
        assert_eq!(catalogue.get("dtd").unwrap().template, "{} texture.");
    }

    #[test]
    fn names_are_found_whatever_their_case_and_dashes() {
        let catalogue = Catalogue::built_in();
        for (name, id) in [
            ("OxfordFlowers", "flowers102"),
            ("oxford_flowers", "flowers102"),
            ("DescribableTextures", "dtd"),
            ("imagenetv2", "imagenet-v2"),
            ("ImageNet_Sketch", "imagenet-sketch"),
            ("FGVCAircraft", "fgvc-aircraft"),
            ("caltech-101", "caltech101"),
            ("COVID_19", "covid-19"),
            ("PathMNIST", "medmnist-path"),
        ] {
            assert_eq!(
                catalogue.get(name).map(|row| row.id.as_str()),
                Some(id),
                "{name}"
            );
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let catalogue = Catalogue::built_in();
        let error = catalogue.find("calteh101").unwrap_err().to_string();
        assert!(error.starts_with("no dataset is called \"calteh101\" (did you mean \"caltech101\"?); known: imagenet, "), "{error}");
        let error = catalogue.find("zebra").unwrap_err().to_string();
        assert!(
            error.starts_with("no dataset is called \"zebra\"; known: "),
            "{error}"
        );
    }

    #[test]
    fn every_bad_field_of_every_row_is_reported() {
        let error = parse(
            r#"
[one]
images = "../one"
reader = "split-json"
prompt = "a photo"
rename = { a = "b" }
[Two]
images = "two"
reader = "numbered-folders"
[three]
images = "three"
reader = "class-folders"
promt = "x"
[four]
images = "four"
reader = "magic"
"#,
        )
        .unwrap_err()
        .to_string();
        for expected in [
            "my.toml: [one] prompt: \"a photo\" has 0 places for the class name; write {} exactly once",
            "my.toml: [one] images: \"../one\" must be relative to the data folder and without `..`",
            "my.toml: [one] split: the reader \"split-json\" needs it",
            "my.toml: [one] rename: the reader \"split-json\" does not use it",
            "my.toml: [Two] id: \"Two\" must be made of a-z, 0-9 and -",
            "my.toml: [Two] names: the reader \"numbered-folders\" needs it",
            "my.toml: [three]: unknown field `promt`",
            "my.toml: [four]: unknown variant `magic`",
        ] {
            assert!(error.contains(expected), "{expected}\nnot in\n{error}");
        }
    }

    #[test]
    fn groups_and_labels_are_held_to_their_rules() {
        let error = parse(
            r#"
[five]
images = "five.npz"
reader = "array-file"
groups = { list = "who.csv" }
[six]
images = "six"
reader = "class-folders"
groups = { folds = "../folds.json" }
labels = ["a"]
"#,
        )
        .unwrap_err()
        .to_string();
        for expected in [
            "my.toml: [five] labels: the reader \"array-file\" needs it",
            "my.toml: [five] groups: the reader \"array-file\" does not use it",
            "my.toml: [six] groups: \"../folds.json\" must be relative to the data folder and without `..`",
            "my.toml: [six] groups: exactly one of `list` and `in_name` is needed",
            "my.toml: [six] groups: `fold` is needed where `folds` is given",
            "my.toml: [six] labels: the reader \"class-folders\" does not use it",
        ] {
            assert!(error.contains(expected), "{expected}\nnot in\n{error}");
        }
    }

    #[test]
    fn broken_toml_is_reported_with_its_line() {
        let error = parse("[one]\nimages = \"a\nreader = 3\n")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("my.toml:2:"), "{error}");
    }

    #[test]
    fn a_merged_row_replaces_and_adds_but_never_takes_a_name() {
        let mut catalogue = Catalogue::built_in();
        let before = catalogue.rows().len();
        let mine = parse("[mine]\nimages = \"mine\"\nreader = \"class-folders\"\n[dtd]\nimages = \"other\"\nreader = \"class-folders\"\n").unwrap();
        catalogue.merge(mine, Path::new("my.toml")).unwrap();
        assert_eq!(catalogue.rows().len(), before + 1);
        assert_eq!(catalogue.get("dtd").unwrap().images, Path::new("other"));
        let thief = parse(
            "[mine2]\naliases = [\"EuroSAT\"]\nimages = \"mine\"\nreader = \"class-folders\"\n",
        )
        .unwrap();
        let error = catalogue
            .merge(thief, Path::new("my.toml"))
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "my.toml: [mine2] aliases: \"EuroSAT\" already stands for [eurosat]"
        );
    }

    proptest! {
        #[test]
        fn any_text_gives_a_catalogue_or_an_error(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn mangled_rows_give_a_catalogue_or_an_error(
            cut in 0usize..BUILT_IN.len(),
            length in 0usize..40,
            garbage in "[\\[\\]{}=\"'a-z0-9.,\n-]{0,20}",
        ) {
            let bytes = BUILT_IN.as_bytes();
            let end = (cut + length).min(bytes.len());
            let mangled = [&bytes[..cut], garbage.as_bytes(), &bytes[end..]].concat();
            let _ = parse(&String::from_utf8_lossy(&mangled));
        }
    }
}
