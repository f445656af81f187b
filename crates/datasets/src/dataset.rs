//! A dataset that can be used: its lists checked, its pictures at hand.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::catalogue::{Catalogue, DEFAULT_TEMPLATE, Parts, Row};
use crate::decode::{self, DecodeError, MAX_FILE_BYTES};
use crate::split::{Origin, Part, hex};
use crate::{Error, Item, Pictures, Rgb, Split, readers};

/// A dataset that was opened.
#[derive(Clone)]
pub struct Dataset {
    /// Its id, e.g. `oxford-pets`.
    pub id: String,
    /// What tables call it, e.g. `OxfordPets`.
    pub title: String,
    /// The hand-written prompt, with `{}` for the class name.
    pub template: String,
    /// Whether views drawn at test time may be mixed with AugMix.
    pub augmix: bool,
    /// Whether training views are mirrored half the time.
    pub flip: bool,
    /// Its three lists.
    pub split: Split,
    /// Where its pictures come from.
    pub source: Arc<dyn Pictures>,
    /// What a reader of its numbers should know.
    pub notes: Vec<Note>,
}

/// Something about a dataset that is no error but must be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The lists were built here: numbers are not comparable with published ones.
    NotPublished {
        /// The split file that would have been read, when the catalogue names one.
        split_file: Option<PathBuf>,
    },
    /// Not the number of classes the papers used.
    Classes {
        /// Here.
        found: usize,
        /// In the papers.
        published: usize,
    },
    /// Not the number of pictures the papers used.
    Pictures {
        /// In which list.
        part: Part,
        /// Here.
        found: usize,
        /// In the papers.
        published: usize,
    },
    /// The lists were cut here, whole groups (drivers, scenes) at a time: numbers are not comparable with published ones.
    CutByGroup {
        /// Groups in train, val and test.
        groups: [usize; 3],
    },
    /// No group (driver, scene) is in two lists.
    Grouped {
        /// Groups in train, val and test.
        groups: [usize; 3],
    },
    /// Groups that no list of the published fold names; their pictures are in no list.
    OutsideFold {
        /// How many groups.
        groups: usize,
        /// How many pictures.
        pictures: usize,
    },
    /// Pictures that stand in the lists more than once.
    Repeated {
        /// How many entries repeat one.
        count: usize,
        /// The first.
        first: PathBuf,
    },
    /// Pictures in folders inside class folders: passed over, as the published code does.
    Below {
        /// How many.
        count: usize,
        /// The first.
        first: PathBuf,
    },
    /// Files in class folders that were passed over because their names are not those of pictures.
    Skipped {
        /// How many.
        count: usize,
        /// The first.
        first: PathBuf,
    },
}

impl Note {
    /// Whether numbers on this dataset are other ones than without what it says. What a desktop's programs leave beside
    /// pictures changes none.
    pub fn is_of_numbers(&self) -> bool {
        !matches!(self, Self::Skipped { .. } | Self::Grouped { .. })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPublished {
                split_file: Some(file),
            } => write!(
                f,
                "NOT the published split: {} is missing, so the lists were built with seed 1 over sorted names; numbers are not comparable with published ones",
                file.display()
            ),
            Self::NotPublished { split_file: None } => {
                write!(
                    f,
                    "no published split: the folders were cut 50/20/30 with seed 1 over sorted names"
                )
            }
            Self::CutByGroup {
                groups: [train, val, test],
            } => write!(
                f,
                "no published split: {} groups were cut 50/20/30 with seed 1 over sorted names, {train} to train, {val} to val, {test} to test; no group is in two lists",
                train + val + test
            ),
            Self::Grouped {
                groups: [train, val, test],
            } => write!(
                f,
                "no group is in two lists: {train} in train, {val} in val, {test} in test"
            ),
            Self::OutsideFold { groups, pictures } => write!(
                f,
                "{pictures} pictures of {groups} groups are in no list, for the fold names those groups nowhere"
            ),
            Self::Classes { found, published } => {
                write!(f, "{found} classes; the papers used {published}")
            }
            Self::Pictures {
                part,
                found,
                published,
            } => {
                write!(
                    f,
                    "{found} {} pictures; the papers used {published}",
                    part.name()
                )
            }
            Self::Repeated { count, first } => {
                write!(
                    f,
                    "{count} list entries repeat a picture, first {}",
                    first.display()
                )
            }
            Self::Below { count, first } => {
                write!(
                    f,
                    "{count} more pictures lie in subfolders of class folders and were passed over, first {}; move them up to have them counted",
                    first.display()
                )
            }
            Self::Skipped { count, first } => {
                write!(
                    f,
                    "{count} files that are no pictures were passed over, first {}",
                    first.display()
                )
            }
        }
    }
}

impl Dataset {
    /// Opens the dataset of a catalogue row below `data_root`; every picture of its lists must be there.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Io`], [`Error::Syntax`], or [`Error::Entries`] with every wrong entry or every
    /// missing picture.
    pub fn open(row: &Row, data_root: &Path) -> Result<Self, Error> {
        let images = row.images_folder(data_root);
        let lists = readers::read(row, data_root)?;
        let source = source(row, &lists, &images)?;
        if !lists.listed {
            let problems = readers::missing(&lists.split, &images);
            if !problems.is_empty() {
                return Err(Error::Entries {
                    path: lists.from,
                    problems,
                });
            }
        }
        let notes = notes(row, &lists, data_root);
        Ok(Self {
            id: row.id.clone(),
            title: row.title.clone(),
            template: row.template.clone(),
            augmix: row.augmix,
            flip: row.flip,
            split: lists.split,
            source,
            notes,
        })
    }

    /// Opens a folder of class folders that is in no catalogue. Folders called `train`, `test` (and `val`) in it are
    /// taken as the three lists; otherwise every class folder is cut 50/20/30. The id is the folder's name.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_folder(folder: &Path) -> Result<Self, Error> {
        Self::open(&folder_row(folder), folder)
    }

    /// A dataset whose pictures do not come from a folder.
    pub fn from_parts(
        id: &str,
        title: &str,
        template: &str,
        split: Split,
        source: Arc<dyn Pictures>,
    ) -> Self {
        Self {
            id: id.to_owned(),
            title: title.to_owned(),
            template: template.to_owned(),
            augmix: true,
            flip: true,
            split,
            source,
            notes: Vec::new(),
        }
    }

    /// The class names in ascending order of label.
    pub fn class_names(&self) -> Vec<String> {
        self.split.class_names()
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("id", &self.id)
            .field("train", &self.split.train.len())
            .field("val", &self.split.val.len())
            .field("test", &self.split.test.len())
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}

/// Where the pictures of lists come from.
///
/// # Errors
/// [`Error::Missing`] when that is a folder which is not there.
pub(crate) fn source(
    row: &Row,
    lists: &readers::Lists,
    images: &Path,
) -> Result<Arc<dyn Pictures>, Error> {
    if let Some(source) = &lists.source {
        return Ok(source.clone());
    }
    if images.is_dir() {
        return Ok(Arc::new(Folder::new(images.to_owned())));
    }
    let hint = format!("[{}] of the catalogue keeps its pictures there", row.id);
    Err(Error::Missing {
        path: images.to_owned(),
        what: "the images folder",
        hint,
    })
}

fn folder_row(folder: &Path) -> Row {
    let name = folder
        .canonicalize()
        .ok()
        .and_then(|path| path.file_name().map(|name| name.to_os_string()));
    let id = name.map_or("folder".to_owned(), |name| {
        name.to_string_lossy().into_owned()
    });
    let there = |part: &str| folder.join(part).is_dir().then(|| PathBuf::from(part));
    let parts = match (there("train"), there("test")) {
        (Some(train), Some(test)) => Some(Parts {
            train: Some(train),
            val: there("val"),
            test: Some(test),
        }),
        _ => None,
    };
    Row {
        parts,
        template: DEFAULT_TEMPLATE.to_owned(),
        ..Row::folder(&id, "")
    }
}

pub(crate) fn notes(row: &Row, lists: &readers::Lists, data_root: &Path) -> Vec<Note> {
    let split = &lists.split;
    let mut notes = Vec::new();
    if let Some(shared_out) = lists.shared_out {
        let (groups, (outside, pictures)) = (shared_out.groups, shared_out.outside);
        notes.push(match split.origin {
            Origin::Built => Note::CutByGroup { groups },
            _ => Note::Grouped { groups },
        });
        if outside > 0 {
            notes.push(Note::OutsideFold {
                groups: outside,
                pictures,
            });
        }
    } else if split.origin == Origin::Built {
        notes.push(Note::NotPublished {
            split_file: row.split.as_ref().map(|file| data_root.join(file)),
        });
    }
    let found = split.class_names().len();
    if let Some(published) = row.classes.filter(|&published| published != found) {
        notes.push(Note::Classes { found, published });
    }
    if let Some(counts) = &row.pictures {
        for part in Part::ALL {
            let (found, published) = (split.part(part).len(), counts.part(part));
            if found != published {
                notes.push(Note::Pictures {
                    part,
                    found,
                    published,
                });
            }
        }
    }
    notes.extend(
        split
            .repeated()
            .map(|(count, first)| Note::Repeated { count, first }),
    );
    notes.extend(
        lists
            .passed
            .below
            .clone()
            .map(|(count, first)| Note::Below { count, first }),
    );
    notes.extend(
        lists
            .passed
            .files
            .clone()
            .map(|(count, first)| Note::Skipped { count, first }),
    );
    notes
}

/// Picture files below an images folder.
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The pictures below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where a picture is on disk.
    pub fn path(&self, item: &Item) -> PathBuf {
        self.root.join(&item.path)
    }
}

impl Pictures for Folder {
    fn rgb(&self, item: &Item) -> Result<Rgb, Error> {
        let path = self.path(item);
        let bytes = picture_bytes(&path)?;
        decode::decode(&bytes).map_err(|source| Error::Picture { path, source })
    }

    /// SHA-256 of the file.
    fn content_key(&self, item: &Item) -> Result<String, Error> {
        Ok(hex(&Sha256::digest(picture_bytes(&self.path(item))?)))
    }

    /// Length and time of change.
    fn stamp(&self, item: &Item) -> Result<String, Error> {
        file_stamp(&self.path(item))
    }
}

/// Length and time of change of a file.
pub(crate) fn file_stamp(path: &Path) -> Result<String, Error> {
    let known = std::fs::metadata(path).and_then(|data| Ok((data.len(), data.modified()?)));
    let (length, changed) = known.map_err(Error::io(path))?;
    let since = changed
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(format!("{length} {}", since.as_nanos()))
}

/// The bytes of a picture file, unless there are too many.
pub(crate) fn picture_bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
    if size > MAX_FILE_BYTES {
        return Err(Error::Picture {
            path: path.to_owned(),
            source: DecodeError::TooManyBytes(size),
        });
    }
    std::fs::read(path).map_err(Error::io(path))
}

/// Decodes one picture file.
///
/// # Errors
/// [`Error::Io`] or [`Error::Picture`], with the path.
pub fn open_picture(path: &Path) -> Result<Rgb, Error> {
    let bytes = picture_bytes(path)?;
    decode::decode(&bytes).map_err(|source| Error::Picture {
        path: path.to_owned(),
        source,
    })
}

/// Opens the dataset called `name` in `catalogue`.
///
/// # Errors
/// [`Error::UnknownDataset`], and those of [`Dataset::open`].
pub fn open(catalogue: &Catalogue, name: &str, data_root: &Path) -> Result<Dataset, Error> {
    Dataset::open(catalogue.find(name)?, data_root)
}
