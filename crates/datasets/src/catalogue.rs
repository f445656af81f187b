//! The catalogue: one row a dataset, as data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::error::{Problem, ProblemKind};
use crate::split::{Part, stays_inside};

const BUILT_IN: &str = include_str!("../catalogue.toml");

/// How the lists of a dataset are read: a behaviour, never a dataset's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reader {
    /// A split file of triples.
    SplitJson,
    /// One folder a class, labels in sorted order of the folders.
    ClassFolders,
    /// One folder a class called by its label.
    NumberedFolders,
    /// Text files of lines `<picture> <class name>`.
    PictureLists,
}

/// Folders below the images folder (class folders) or text files (picture lists) of the three lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// Where the training pictures are.
    pub train: Option<PathBuf>,
    /// Where the validation pictures are.
    pub val: Option<PathBuf>,
    /// Where the test pictures are.
    pub test: Option<PathBuf>,
}

impl Parts {
    /// The entry of one part.
    pub fn part(&self, part: Part) -> Option<&Path> {
        match part {
            Part::Train => self.train.as_deref(),
            Part::Val => self.val.as_deref(),
            Part::Test => self.test.as_deref(),
        }
    }
}

/// How many pictures each list of the published split has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Training pictures.
    #[serde(default)]
    pub train: usize,
    /// Validation pictures.
    #[serde(default)]
    pub val: usize,
    /// Test pictures.
    #[serde(default)]
    pub test: usize,
}

impl Counts {
    /// The count of one part.
    pub fn part(&self, part: Part) -> usize {
        match part {
            Part::Train => self.train,
            Part::Val => self.val,
            Part::Test => self.test,
        }
    }
}

/// What builds a split when the split file is missing, as the published dataset classes do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Unsplit {
    /// 50/20/30 of every class folder (`DTD.read_and_split_data`).
    ClassFolders {
        /// Folders that are no class.
        #[serde(default)]
        ignore: Vec<String>,
        /// Class names by folder, where they differ.
        #[serde(default)]
        rename: BTreeMap<String, String>,
    },
    /// Lines `<breed>_<number> <label from 1> ...`; 80/20 of the first list (`OxfordPets.read_data`).
    BreedLists {
        /// Training and validation.
        train: PathBuf,
        /// Test.
        test: PathBuf,
    },
    /// Paths whose folders, reversed, are the class name; 80/20 of the first list (`SUN397.read_data`).
    PathLists {
        /// Training and validation.
        train: PathBuf,
        /// Test.
        test: PathBuf,
        /// Class folders; the label is the line.
        names: PathBuf,
    },
    /// Lines `<Action>/<video>.avi`; 80/20 of the first list (`UCF101.read_data`).
    VideoLists {
        /// Training and validation.
        train: PathBuf,
        /// Test.
        test: PathBuf,
        /// Lines `<label from 1> <Action>`.
        names: PathBuf,
    },
    /// MATLAB `annotations` with `fname` and `class`; 80/20 of the first (`StanfordCars.read_data`).
    MatlabAnnotations {
        /// Training and validation.
        train: PathBuf,
        /// Test.
        test: PathBuf,
        /// MATLAB `class_names`, whose last word (the year) moves to the front.
        names: PathBuf,
        /// Folder of the training pictures.
        train_folder: PathBuf,
        /// Folder of the test pictures.
        test_folder: PathBuf,
    },
    /// MATLAB `labels` of `image_00001.jpg`, ...; 50/20/30 of every class (`OxfordFlowers.read_data`).
    MatlabLabels {
        /// The labels, from 1.
        labels: PathBuf,
        /// JSON object from label to class name.
        names: PathBuf,
    },
}

/// One dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its id, e.g. `oxford-pets`.
    pub id: String,
    /// What tables call it, e.g. `OxfordPets`.
    pub title: String,
    /// Other names it is known by.
    pub aliases: Vec<String>,
    /// The images folder, below the data folder.
    pub images: PathBuf,
    /// How its lists are read.
    pub reader: Reader,
    /// The split file, below the data folder.
    pub split: Option<PathBuf>,
    /// The names file, below the data folder.
    pub names: Option<PathBuf>,
    /// The folders or files of train, val and test.
    pub parts: Option<Parts>,
    /// Folders that are no class.
    pub ignore: Vec<String>,
    /// Class names by folder, where they differ.
    pub rename: BTreeMap<String, String>,
    /// What builds the lists when the split file is missing.
    pub unsplit: Option<Unsplit>,
    /// The hand-written prompt, with `{}` for the class name.
    pub template: String,
    /// How many classes the papers used.
    pub classes: Option<usize>,
    /// How many pictures the papers used.
    pub pictures: Option<Counts>,
}

/// A row as it is written, so that every field can be checked before any is used.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    title: Option<String>,
    #[serde(default)]
    aliases: Vec<String>,
    images: PathBuf,
    reader: Reader,
    split: Option<PathBuf>,
    names: Option<PathBuf>,
    parts: Option<Parts>,
    #[serde(default)]
    ignore: Vec<String>,
    #[serde(default)]
    rename: BTreeMap<String, String>,
    unsplit: Option<Unsplit>,
    prompt: Option<String>,
    classes: Option<usize>,
    pictures: Option<Counts>,
}

/// The template of a dataset that names none.
pub const DEFAULT_TEMPLATE: &str = "a photo of a {}.";

/// All known datasets, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    rows: Vec<Row>,
}

impl Catalogue {
    /// The eleven datasets of the CoOp family and the four ImageNet variants.
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

impl Row {
    /// A row for a folder of class folders, for a dataset that has no row: `Row::folder("flowers", "flowers/images")`.
    pub fn folder(id: &str, images: impl Into<PathBuf>) -> Self {
        Self {
            id: id.to_owned(),
            title: id.to_owned(),
            aliases: Vec::new(),
            images: images.into(),
            reader: Reader::ClassFolders,
            split: None,
            names: None,
            parts: None,
            ignore: Vec::new(),
            rename: BTreeMap::new(),
            unsplit: None,
            template: DEFAULT_TEMPLATE.to_owned(),
            classes: None,
            pictures: None,
        }
    }

    /// The images folder below a data folder.
    pub fn images_folder(&self, data_root: &Path) -> PathBuf {
        // Joining nothing would leave a slash at the end of every message.
        if self.images.as_os_str().is_empty() {
            data_root.to_owned()
        } else {
            data_root.join(&self.images)
        }
    }

    fn all_names(&self) -> impl Iterator<Item = &str> {
        [self.id.as_str(), self.title.as_str()]
            .into_iter()
            .chain(self.aliases.iter().map(String::as_str))
    }
}

/// Turns a written row into a row, noting every field that breaks a rule.
fn checked(id: &str, written: Written, problems: &mut Vec<Problem>) -> Row {
    let mut rule = |field: &str, message: String| {
        problems.push(Problem {
            field: format!("[{id}] {field}"),
            kind: ProblemKind::Rule(message),
        });
    };
    if id.is_empty()
        || !id
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    {
        rule("id", format!("{id:?} must be made of a-z, 0-9 and -"));
    }
    let template = written
        .prompt
        .unwrap_or_else(|| DEFAULT_TEMPLATE.to_owned());
    let holes = template.matches("{}").count();
    if holes != 1 {
        rule(
            "prompt",
            format!("{template:?} has {holes} places for the class name; write {{}} exactly once"),
        );
    }
    if written.classes == Some(0) {
        rule("classes", "0 is no number of classes".to_owned());
    }
    for (field, path) in written_paths(
        &written.images,
        &written.split,
        &written.names,
        &written.parts,
        &written.unsplit,
    ) {
        if !stays_inside(path) {
            rule(
                field,
                format!("{path:?} must be relative to the data folder and without `..`"),
            );
        }
    }
    let needs: &[(&str, bool)] = match written.reader {
        Reader::SplitJson => &[("split", written.split.is_some())],
        Reader::ClassFolders => &[],
        Reader::NumberedFolders => &[("names", written.names.is_some())],
        Reader::PictureLists => &[
            ("names", written.names.is_some()),
            (
                "parts.test",
                written
                    .parts
                    .as_ref()
                    .is_some_and(|parts| parts.test.is_some()),
            ),
        ],
    };
    let reader = reader_name(written.reader);
    for (field, there) in needs {
        if !there {
            rule(field, format!("the reader {reader:?} needs it"));
        }
    }
    if written.reader == Reader::ClassFolders
        && written
            .parts
            .as_ref()
            .is_some_and(|parts| parts.test.is_none())
    {
        rule(
            "parts.test",
            format!("the reader {reader:?} needs it when `parts` is given"),
        );
    }
    let uses: &[(&str, bool, bool)] = &[
        (
            "split",
            written.split.is_some(),
            written.reader == Reader::SplitJson,
        ),
        (
            "unsplit",
            written.unsplit.is_some(),
            written.reader == Reader::SplitJson,
        ),
        (
            "names",
            written.names.is_some(),
            written.reader != Reader::SplitJson,
        ),
        (
            "parts",
            written.parts.is_some(),
            matches!(written.reader, Reader::ClassFolders | Reader::PictureLists),
        ),
        (
            "ignore",
            !written.ignore.is_empty(),
            written.reader == Reader::ClassFolders,
        ),
        (
            "rename",
            !written.rename.is_empty(),
            written.reader == Reader::ClassFolders,
        ),
    ];
    for (field, there, used) in uses {
        if *there && !used {
            rule(field, format!("the reader {reader:?} does not use it"));
        }
    }
    Row {
        id: id.to_owned(),
        title: written.title.unwrap_or_else(|| id.to_owned()),
        aliases: written.aliases,
        images: written.images,
        reader: written.reader,
        split: written.split,
        names: written.names,
        parts: written.parts,
        ignore: written.ignore,
        rename: written.rename,
        unsplit: written.unsplit,
        template,
        classes: written.classes,
        pictures: written.pictures,
    }
}

fn written_paths<'a>(
    images: &'a Path,
    split: &'a Option<PathBuf>,
    names: &'a Option<PathBuf>,
    parts: &'a Option<Parts>,
    unsplit: &'a Option<Unsplit>,
) -> Vec<(&'static str, &'a Path)> {
    let mut paths: Vec<(&'static str, &Path)> = vec![("images", images)];
    paths.extend(split.as_deref().map(|path| ("split", path)));
    paths.extend(names.as_deref().map(|path| ("names", path)));
    if let Some(parts) = parts {
        let of = |part| parts.part(part).map(|path| ("parts", path));
        paths.extend(Part::ALL.into_iter().filter_map(of));
    }
    let unsplit: Vec<&Path> = match unsplit {
        None | Some(Unsplit::ClassFolders { .. }) => vec![],
        Some(Unsplit::BreedLists { train, test }) => vec![train, test],
        Some(
            Unsplit::PathLists { train, test, names } | Unsplit::VideoLists { train, test, names },
        ) => {
            vec![train, test, names]
        }
        Some(Unsplit::MatlabAnnotations {
            train,
            test,
            names,
            train_folder,
            test_folder,
        }) => {
            vec![train, test, names, train_folder, test_folder]
        }
        Some(Unsplit::MatlabLabels { labels, names }) => vec![labels, names],
    };
    paths.extend(unsplit.into_iter().map(|path| ("unsplit", path)));
    paths
}

fn reader_name(reader: Reader) -> &'static str {
    match reader {
        Reader::SplitJson => "split-json",
        Reader::ClassFolders => "class-folders",
        Reader::NumberedFolders => "numbered-folders",
        Reader::PictureLists => "picture-lists",
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
        .map(|known| (edits(&wanted, &plain(known)), known))
        .min_by_key(|(edits, _)| *edits)?;
    (edits <= plain(best).chars().count().div_ceil(3)).then(|| best.to_owned())
}

/// Levenshtein's distance.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Catalogue, Error> {
        Catalogue::parse(text, Path::new("my.toml"))
    }

    #[test]
    fn the_built_in_rows_are_the_fifteen_datasets() {
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
                "imagenet-r"
            ]
        );
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
        let error = catalogue.find("mnist").unwrap_err().to_string();
        assert!(
            error.starts_with("no dataset is called \"mnist\"; known: "),
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
    fn broken_toml_is_reported_with_its_line() {
        let error = parse("[one]\nimages = \"a\nreader = 3\n")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("my.toml:2:"), "{error}");
    }

    #[test]
    fn a_merged_row_replaces_and_adds_but_never_takes_a_name() {
        let mut catalogue = Catalogue::built_in();
        let mine = parse("[mine]\nimages = \"mine\"\nreader = \"class-folders\"\n[dtd]\nimages = \"other\"\nreader = \"class-folders\"\n").unwrap();
        catalogue.merge(mine, Path::new("my.toml")).unwrap();
        assert_eq!(catalogue.rows().len(), 16);
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
