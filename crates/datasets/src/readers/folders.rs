//! One folder a class: ImageNet and its variants, and anybody's own pictures.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::names::{of_lines, pair};
use super::{Lists, PassedOver, joined, json_error, read_named};
use crate::catalogue::Row;
use crate::error::{Problem, ProblemKind};
use crate::split::{Origin, Part};
use crate::{Error, Item, Split};

/// Endings of picture files, in lower case: the one list of the program.
pub const ENDINGS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// Class folders. With `parts`, the folders of train, val and test stand below the images folder and labels are the
/// ranks of the sorted class folders (as `ImageNet.read_data` does); without, the pictures are split as the
/// published code splits folders.
///
/// The published code takes pictures in the file system's order; here they are sorted, so that picks repeat.
pub(super) fn read(row: &Row, root: &Path) -> Result<Lists, Error> {
    let images = row.images_folder(root);
    let names = match &row.names {
        Some(names) => Some((names, read_folder_names(&root.join(names))?)),
        None => None,
    };
    // The row's own word goes before the file's.
    let named = |folder: &str| match (row.rename.get(folder), &names) {
        (Some(name), _) => Ok(Some(name.clone())),
        (None, None) => Ok(None),
        (None, Some((file, names))) => match names.get(folder) {
            Some(name) => Ok(Some(name.clone())),
            None => Err(ProblemKind::UnknownName {
                name: folder.to_owned(),
                file: file.display().to_string(),
            }),
        },
    };
    let Some(parts) = &row.parts else {
        let (split, passed) = super::built::class_folders(&images, &row.ignore, named)?;
        renames_name_folders(row, &images, std::slice::from_ref(&images))?;
        return Ok(Lists {
            split,
            from: images,
            listed: true,
            passed,
            source: None,
            shared_out: None,
        });
    };
    let mut problems = Vec::new();
    let mut passed = Passed::default();
    let mut searched = Vec::new();
    let mut labels: Option<HashMap<String, u32>> = None;
    let mut split = Split {
        train: vec![],
        val: vec![],
        test: vec![],
        origin: Origin::Published,
    };
    for part in Part::ALL {
        let Some(folder) = parts.part(part) else {
            continue;
        };
        let below = prefix(folder);
        let folder = if below.is_empty() {
            images.clone()
        } else {
            images.join(folder)
        };
        searched.push(folder.clone());
        let classes: Vec<String> = folder_names(&folder)?
            .into_iter()
            .filter(|name| !row.ignore.contains(name))
            .collect();
        if classes.is_empty() {
            problems.push(Problem {
                field: folder.display().to_string(),
                kind: ProblemKind::Empty,
            });
        }
        // The first part there is (train, or test for datasets that are only tested on) says what the labels are.
        let ranks = || classes.iter().cloned().zip(0..).collect();
        let labels = labels.get_or_insert_with(ranks);
        let items = match part {
            Part::Train => &mut split.train,
            Part::Val => &mut split.val,
            Part::Test => &mut split.test,
        };
        for class in classes {
            let Some(&label) = labels.get(&class) else {
                let kind = ProblemKind::UnknownName {
                    name: class,
                    file: "the training folders".to_owned(),
                };
                problems.push(Problem {
                    field: folder.display().to_string(),
                    kind,
                });
                continue;
            };
            let name = match named(&class) {
                Ok(name) => name.unwrap_or_else(|| class.clone()),
                Err(kind) => {
                    problems.push(Problem {
                        field: folder.display().to_string(),
                        kind,
                    });
                    continue;
                }
            };
            let on_disk = folder.join(&class);
            let class = if below.is_empty() {
                class
            } else {
                format!("{below}/{class}")
            };
            let pictures = pictures(&on_disk, &class, &mut passed, &mut problems)?;
            items.extend(pictures.iter().map(|picture| Item {
                path: joined(&class, picture),
                label,
                class_name: name.clone(),
            }));
        }
    }
    if !problems.is_empty() {
        return Err(Error::Entries {
            path: images,
            problems,
        });
    }
    renames_name_folders(row, &images, &searched)?;
    Ok(Lists {
        split,
        from: images,
        listed: true,
        passed: passed.found(),
        source: None,
        shared_out: None,
    })
}

/// A `rename` of a folder that is not there would do nothing: a slip of the pen.
fn renames_name_folders(row: &Row, images: &Path, folders: &[PathBuf]) -> Result<(), Error> {
    let is_there = |name: &String| folders.iter().any(|folder| folder.join(name).is_dir());
    let absent = row.rename.keys().filter(|name| !is_there(name));
    let problems: Vec<Problem> = absent
        .map(|name| Problem {
            field: format!("[{}] rename", row.id),
            kind: ProblemKind::Rule(format!("{name:?} is no class folder")),
        })
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Entries {
        path: images.to_owned(),
        problems,
    })
}

/// Folders called `0`, `1`, ...: the number is the label (ImageNetV2), the name is that line of the names file.
pub(super) fn read_numbered(row: &Row, root: &Path) -> Result<Lists, Error> {
    let images = row.images_folder(root);
    let names_path = root.join(row.names.as_deref().unwrap_or(Path::new("")));
    let hint = "a class name a line, alone or behind its WordNet id";
    // Of ids of any length: they are no words.
    let names = of_lines(
        &read_named(&names_path, "the file of class names", hint)?,
        2,
    )
    .names;
    let mut problems = Vec::new();
    let mut passed = Passed::default();
    let mut classes: BTreeMap<u32, String> = BTreeMap::new();
    for folder in folder_names(&images)? {
        match folder.parse::<u32>() {
            Ok(label) if (label as usize) < names.len() => {
                classes.insert(label, folder);
            }
            Ok(_) => {
                let file = format!("{} ({} lines)", names_path.display(), names.len());
                problems.push(Problem {
                    field: folder.clone(),
                    kind: ProblemKind::UnknownName { name: folder, file },
                });
            }
            Err(_) => problems.push(Problem {
                field: folder.clone(),
                kind: ProblemKind::Form {
                    found: format!("{folder:?}"),
                    expected: "a folder called by its label",
                },
            }),
        }
    }
    let mut test = Vec::new();
    for (label, folder) in classes {
        let pictures = pictures(&images.join(&folder), &folder, &mut passed, &mut problems)?;
        test.extend(pictures.iter().map(|picture| Item {
            path: joined(&folder, picture),
            label,
            class_name: names[label as usize].clone(),
        }));
    }
    if !problems.is_empty() {
        return Err(Error::Entries {
            path: images,
            problems,
        });
    }
    let split = Split {
        train: vec![],
        val: vec![],
        test,
        origin: Origin::Published,
    };
    Ok(Lists {
        split,
        from: images,
        listed: true,
        passed: passed.found(),
        source: None,
        shared_out: None,
    })
}

/// `"."` and `"./"` are the images folder itself.
fn prefix(folder: &Path) -> String {
    let parts: Vec<_> = folder
        .components()
        .filter(|part| !matches!(part, std::path::Component::CurDir))
        .collect();
    parts
        .iter()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect::<Vec<_>>()
        .join("/")
}

/// Lines `<folder> <class name>` (ImageNet's `classnames.txt`) or a JSON object of names by folder, by folder.
fn read_folder_names(path: &Path) -> Result<HashMap<String, String>, Error> {
    Ok(read_pairs(path)?.into_iter().collect())
}

fn read_pairs(path: &Path) -> Result<Vec<(String, String)>, Error> {
    let hint = "lines of a folder's name, a space, and the name of the class; ImageNet's is in DATASETS.md of github.com/KaiyangZhou/CoOp";
    let text = read_named(path, "the file of class names", hint)?;
    if text.trim_start().starts_with('{') {
        let names: BTreeMap<String, String> =
            serde_json::from_str(&text).map_err(|error| json_error(path, &error))?;
        return Ok(names.into_iter().collect());
    }
    let mut problems = Vec::new();
    let mut pairs = Vec::new();
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        match pair(line) {
            Some((folder, name)) => pairs.push((folder.to_owned(), name.to_owned())),
            None => problems.push(Problem {
                field: format!("line {}", index + 1),
                kind: ProblemKind::Form {
                    found: format!("{line:?}"),
                    expected: "a folder, a space, a class name",
                },
            }),
        }
    }
    if problems.is_empty() {
        Ok(pairs)
    } else {
        Err(Error::Entries {
            path: path.to_owned(),
            problems,
        })
    }
}

/// What was passed over so far.
#[derive(Default)]
pub(super) struct Passed {
    files: Counted,
    below: Counted,
}

/// How many, and the first.
#[derive(Default)]
struct Counted {
    count: usize,
    first: Option<PathBuf>,
}

impl Counted {
    fn add(&mut self, folder: &Path, names: &[String]) {
        if let Some(first) = names.first() {
            self.count += names.len();
            self.first.get_or_insert_with(|| folder.join(first));
        }
    }

    fn found(self) -> Option<(usize, PathBuf)> {
        self.first.map(|first| (self.count, first))
    }
}

impl Passed {
    pub(super) fn found(self) -> PassedOver {
        PassedOver {
            files: self.files.found(),
            below: self.below.found(),
        }
    }
}

/// The picture files of a class folder, sorted; a folder without any is a problem under its name. The published code
/// does not look into folders inside it, so what lies there is counted and said.
pub(super) fn pictures(
    folder: &Path,
    name: &str,
    passed: &mut Passed,
    problems: &mut Vec<Problem>,
) -> Result<Vec<String>, Error> {
    let (pictures, others) = picture_names(folder)?;
    passed.files.add(folder, &others);
    let before = passed.below.count;
    let mut open = entries(folder, true)?;
    // Last in, first out: the first in order of names is looked at first.
    open.reverse();
    while let Some(below) = open.pop() {
        let inner = folder.join(&below);
        let (pictures, others) = picture_names(&inner)?;
        passed.below.add(&inner, &pictures);
        passed.files.add(&inner, &others);
        // A link may lead back to where it lies.
        if !inner.is_symlink() {
            let deeper = entries(&inner, true)?.into_iter().rev();
            open.extend(deeper.map(|name| format!("{below}/{name}")));
        }
    }
    if pictures.is_empty() {
        let kind = match passed.below.count - before {
            0 => ProblemKind::NoPictures,
            count => ProblemKind::OnlyBelow { count },
        };
        problems.push(Problem {
            field: name.to_owned(),
            kind,
        });
    }
    Ok(pictures)
}

/// Whether a file is a picture by its name: one of [`ENDINGS`], and not hidden, as `._a.jpg` is, which a Mac leaves beside
/// `a.jpg` and which holds no picture.
pub fn is_picture_name(name: &str) -> bool {
    let ending = Path::new(name).extension();
    let ending = ending.map(|ending| ending.to_ascii_lowercase());
    !name.starts_with('.')
        && ending.is_some_and(|ending| ENDINGS.iter().any(|&known| ending == known))
}

/// Names of picture files and of other files in a folder, both sorted; folders left out.
pub(crate) fn picture_names(folder: &Path) -> Result<(Vec<String>, Vec<String>), Error> {
    let all = entries(folder, false)?;
    Ok(all.into_iter().partition(|name| is_picture_name(name)))
}

/// Names of the folders in a folder, sorted; hidden ones left out.
pub(crate) fn folder_names(folder: &Path) -> Result<Vec<String>, Error> {
    entries(folder, true)
}

fn entries(folder: &Path, folders: bool) -> Result<Vec<String>, Error> {
    super::found(folder, "the folder", "")?;
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let kind = entry.file_type().map_err(Error::io(entry.path()))?;
        // A link counts as what it leads to: class folders are often links into a shared copy.
        let is_folder = if kind.is_symlink() {
            entry.path().is_dir()
        } else {
            kind.is_dir()
        };
        let name = entry
            .file_name()
            .into_string()
            .map_err(|name| Error::Entries {
                path: folder.to_owned(),
                problems: vec![Problem {
                    field: name.to_string_lossy().into_owned(),
                    kind: ProblemKind::Form {
                        found: "a name that is not UTF-8".to_owned(),
                        expected: "a UTF-8 name",
                    },
                }],
            })?;
        let is_hidden = is_folder && name.starts_with('.');
        if is_folder == folders && !is_hidden {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
