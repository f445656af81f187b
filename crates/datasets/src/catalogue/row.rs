//! What a row of the catalogue says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::archive::Archive;
use super::groups::Groups;
use crate::split::Part;

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
    /// One `.npz` file of arrays, as MedMNIST publishes them.
    ArrayFile,
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
    /// The images folder, below the data folder; the file, where all pictures are in one.
    pub images: PathBuf,
    /// How its lists are read.
    pub reader: Reader,
    /// The split file, below the data folder.
    pub split: Option<PathBuf>,
    /// The names file, below the data folder.
    pub names: Option<PathBuf>,
    /// Class names in order of label, where the row has them itself.
    pub labels: Vec<String>,
    /// The folders or files of train, val and test.
    pub parts: Option<Parts>,
    /// Which pictures must stay together.
    pub groups: Option<Groups>,
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
    /// Whether views drawn at test time may be mixed with AugMix (TPT); the published code leaves it out on some.
    pub augmix: bool,
    /// Whether training views are mirrored half the time; not where the authors do not, or left and right tell classes apart.
    pub flip: bool,
    /// What it is downloaded as.
    pub archives: Vec<Archive>,
}

/// The template of a dataset that names none.
pub const DEFAULT_TEMPLATE: &str = "a photo of a {}.";

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
            labels: Vec::new(),
            parts: None,
            groups: None,
            ignore: Vec::new(),
            rename: BTreeMap::new(),
            unsplit: None,
            template: DEFAULT_TEMPLATE.to_owned(),
            classes: None,
            pictures: None,
            augmix: true,
            flip: true,
            archives: Vec::new(),
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

    /// Id, title and aliases.
    pub(super) fn all_names(&self) -> impl Iterator<Item = &str> {
        [self.id.as_str(), self.title.as_str()]
            .into_iter()
            .chain(self.aliases.iter().map(String::as_str))
    }
}
