//! Lists for a dataset whose split file is missing, as the published dataset classes build them (CoOp `datasets/` at
//! ff61507): CPython's generator, seed 1, the same order of calls. Where they list a folder in the file system's
//! order, names are sorted here, so these are not the published lists, and [`Origin::Built`] says so.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::folders::{Passed, folder_names, pictures};
use super::matlab::Matlab;
use super::{Lists, PassedOver, joined, json_error, read_named, written};
use crate::catalogue::{Row, Unsplit};
use crate::cpython::Random;
use crate::error::{Problem, ProblemKind};
use crate::split::Origin;
use crate::{Error, Item, Split};

/// The seed of the split; the published scripts run seed 1 first, and its run writes the split file.
const SEED: u64 = 1;

/// Builds the lists of a row whose split file is not there.
pub(super) fn read(row: &Row, unsplit: &Unsplit, root: &Path) -> Result<Lists, Error> {
    let images = row.images_folder(root);
    let mut listed = None;
    let (split, from) = match unsplit {
        Unsplit::ClassFolders { ignore, rename } => {
            let named = |folder: &str| Ok(rename.get(folder).cloned());
            let (split, passed) = class_folders(&images, ignore, named)?;
            listed = Some(passed);
            (split, images)
        }
        Unsplit::BreedLists { train, test } => (
            of_lists(breeds(&root.join(train))?, breeds(&root.join(test))?),
            root.join(train),
        ),
        Unsplit::PathLists { train, test, names } => {
            let text = named(&root.join(names))?;
            let labels = text
                .lines()
                .map(|line| line.trim().get(1..).unwrap_or(""))
                .zip(0..)
                .collect();
            let read = |list: &Path| scenes(&root.join(list), &labels);
            (of_lists(read(train)?, read(test)?), root.join(train))
        }
        Unsplit::VideoLists { train, test, names } => {
            let text = named(&root.join(names))?;
            let labels = video_labels(&text, &root.join(names))?;
            let read = |list: &Path| videos(&root.join(list), &labels);
            (of_lists(read(train)?, read(test)?), root.join(train))
        }
        Unsplit::MatlabAnnotations {
            train,
            test,
            names,
            train_folder,
            test_folder,
        } => {
            let names = Matlab::open(&root.join(names))?.texts("class_names")?;
            let read = |file: &Path, folder: &Path| annotations(&root.join(file), folder, &names);
            (
                of_lists(read(train, train_folder)?, read(test, test_folder)?),
                root.join(train),
            )
        }
        Unsplit::MatlabLabels { labels, names } => (
            labelled(&root.join(labels), &root.join(names))?,
            root.join(labels),
        ),
    };
    let (listed, passed) = listed.map_or((false, PassedOver::default()), |passed| (true, passed));
    Ok(Lists {
        split,
        from,
        listed,
        passed,
        source: None,
        shared_out: None,
    })
}

/// `DTD.read_and_split_data`: classes are the sorted folders, each shuffled and cut 50/20/30. `named` gives the name of
/// a folder where it is another than the folder's own, or what is wrong with the folder.
pub(super) fn class_folders(
    images: &Path,
    ignore: &[String],
    named: impl Fn(&str) -> Result<Option<String>, ProblemKind>,
) -> Result<(Split, PassedOver), Error> {
    let mut problems = Vec::new();
    let mut passed = Passed::default();
    let mut groups = Vec::new();
    let folders = folder_names(images)?
        .into_iter()
        .filter(|folder| !ignore.contains(folder));
    for (folder, label) in folders.zip(0..) {
        let before = problems.len();
        let names = pictures(&images.join(&folder), &folder, &mut passed, &mut problems)?;
        let name = match named(&folder) {
            Ok(name) => name.unwrap_or_else(|| folder.clone()),
            Err(kind) => {
                problems.push(Problem {
                    field: folder,
                    kind,
                });
                continue;
            }
        };
        let paths: Vec<PathBuf> = names
            .iter()
            .map(|picture| joined(&folder, picture))
            .collect();
        if problems.len() == before {
            too_few(&folder, paths.len(), &mut problems);
        }
        groups.push((label, name, paths));
    }
    if groups.is_empty() {
        problems.push(Problem {
            field: "class folders".to_owned(),
            kind: ProblemKind::Empty,
        });
    }
    if !problems.is_empty() {
        return Err(Error::Entries {
            path: images.to_owned(),
            problems,
        });
    }
    Ok((fifty_twenty_thirty(groups), passed.found()))
}

/// Half of 3 pictures is 2, a fifth is 1: nothing is left for test. 4 is the fewest that fill all three lists.
fn too_few(field: &str, found: usize, problems: &mut Vec<Problem>) {
    if found < 4 {
        problems.push(Problem {
            field: field.to_owned(),
            kind: ProblemKind::TooFew { found, least: 4 },
        });
    }
}

/// Python's `round(count * share)`.
fn share(count: usize, share: f64) -> usize {
    (count as f64 * share).round_ties_even() as usize
}

fn fifty_twenty_thirty(groups: Vec<(u32, String, Vec<PathBuf>)>) -> Split {
    let mut random = Random::seed(SEED);
    let mut split = Split {
        train: vec![],
        val: vec![],
        test: vec![],
        origin: Origin::Built,
    };
    for (label, class_name, mut paths) in groups {
        random.shuffle(&mut paths);
        let (train, val) = (share(paths.len(), 0.5), share(paths.len(), 0.2));
        for (index, path) in paths.into_iter().enumerate() {
            let list = match index {
                _ if index < train => &mut split.train,
                _ if index < train + val => &mut split.val,
                _ => &mut split.test,
            };
            list.push(Item {
                path,
                label,
                class_name: class_name.clone(),
            });
        }
    }
    split
}

/// `OxfordPets.split_trainval`: of every class, in order of appearance, a shuffled fifth is val.
fn of_lists(trainval: Vec<Item>, test: Vec<Item>) -> Split {
    let mut random = Random::seed(SEED);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut group_of: HashMap<u32, usize> = HashMap::new();
    for (index, item) in trainval.iter().enumerate() {
        let group = *group_of.entry(item.label).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(index);
    }
    let mut split = Split {
        train: vec![],
        val: vec![],
        test,
        origin: Origin::Built,
    };
    for mut group in groups {
        let val = share(group.len(), 0.2);
        random.shuffle(&mut group);
        for (place, &index) in group.iter().enumerate() {
            let list = if place < val {
                &mut split.val
            } else {
                &mut split.train
            };
            list.push(trainval[index].clone());
        }
    }
    split
}

fn named(path: &Path) -> Result<String, Error> {
    read_named(
        path,
        "a list of the dataset",
        "it is needed because the split file is missing too",
    )
}

/// Reads a list line by line; every line that does not parse is reported.
fn lines(
    path: &Path,
    expected: &'static str,
    parse: impl Fn(&str) -> Option<Item>,
) -> Result<Vec<Item>, Error> {
    let text = named(path)?;
    let mut problems = Vec::new();
    let mut items = Vec::new();
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        match parse(line.trim()) {
            Some(item) => items.push(item),
            None => problems.push(Problem {
                field: format!("line {}", index + 1),
                kind: ProblemKind::Form {
                    found: format!("{line:?}"),
                    expected,
                },
            }),
        }
    }
    if problems.is_empty() {
        Ok(items)
    } else {
        Err(Error::Entries {
            path: path.to_owned(),
            problems,
        })
    }
}

/// `Abyssinian_100 1 1 1`: picture, label from 1, species, breed number.
fn breeds(path: &Path) -> Result<Vec<Item>, Error> {
    lines(
        path,
        "\"<breed>_<number> <label from 1> <species> <number>\"",
        |line| {
            let mut words = line.split(' ');
            let (picture, label) = (words.next()?, words.next()?.parse::<u32>().ok()?);
            let (breed, _) = picture.rsplit_once('_')?;
            Some(Item {
                path: written(&format!("{picture}.jpg")),
                label: label.checked_sub(1)?,
                class_name: breed.to_lowercase(),
            })
        },
    )
}

/// `/a/abbey/sun_aaa.jpg`: the first letter's folder is dropped and the rest of the folders reversed.
fn scenes(path: &Path, labels: &HashMap<&str, u32>) -> Result<Vec<Item>, Error> {
    lines(
        path,
        "\"/<letter>/<class>/<picture>\" with a class of the class list",
        |line| {
            let picture = line.get(1..)?;
            let (folder, _) = picture.rsplit_once('/')?;
            let mut words: Vec<&str> = folder.split('/').skip(1).collect();
            words.reverse();
            Some(Item {
                path: picture.into(),
                label: *labels.get(folder)?,
                class_name: words.join(" "),
            })
        },
    )
}

fn video_labels<'a>(text: &'a str, path: &Path) -> Result<HashMap<&'a str, u32>, Error> {
    let mut labels = HashMap::new();
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let pair = line
            .trim()
            .split_once(' ')
            .and_then(|(label, action)| Some((label.parse::<u32>().ok()?.checked_sub(1)?, action)));
        let (label, action) = pair.ok_or_else(|| Error::Entries {
            path: path.to_owned(),
            problems: vec![Problem {
                field: format!("line {}", index + 1),
                kind: ProblemKind::Form {
                    found: format!("{line:?}"),
                    expected: "\"<label from 1> <action>\"",
                },
            }],
        })?;
        labels.insert(action, label);
    }
    Ok(labels)
}

/// `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`: the action's words are parted with `_`, and the middle frame is a
/// `.jpg` of the video's name in the folder of that name.
fn videos(path: &Path, labels: &HashMap<&str, u32>) -> Result<Vec<Item>, Error> {
    lines(
        path,
        "\"<Action>/<video>.avi\" with an action of the class list",
        |line| {
            let (action, video) = line.split(' ').next()?.split_once('/')?;
            let class_name = parted(action);
            let picture = video.replace(".avi", ".jpg");
            Some(Item {
                path: joined(&class_name, &picture),
                label: *labels.get(action)?,
                class_name,
            })
        },
    )
}

/// `"_".join(re.findall("[A-Z][^A-Z]*", action))`.
fn parted(action: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for letter in action.chars() {
        if letter.is_ascii_uppercase() {
            words.push(letter.to_string());
        } else if let Some(word) = words.last_mut() {
            word.push(letter);
        }
    }
    words.join("_")
}

/// Stanford Cars: a structure array with `fname` and `class`; the last word of a name, the year, moves to the front.
fn annotations(path: &Path, folder: &Path, names: &[String]) -> Result<Vec<Item>, Error> {
    let file = Matlab::open(path)?;
    let pictures = file.field_texts("annotations", "fname")?;
    let classes = file.field_numbers("annotations", "class")?;
    let folder = folder.to_string_lossy();
    let mut problems = Vec::new();
    let mut items = Vec::new();
    for (index, (picture, class)) in pictures.iter().zip(classes).enumerate() {
        let label = (class as usize)
            .checked_sub(1)
            .filter(|label| *label < names.len());
        let Some(label) = label else {
            let kind = ProblemKind::Form {
                found: class.to_string(),
                expected: "a label from 1 that has a name",
            };
            problems.push(Problem {
                field: format!("annotations[{index}].class"),
                kind,
            });
            continue;
        };
        let mut words: Vec<&str> = names[label].split(' ').collect();
        words.rotate_right(1);
        items.push(Item {
            path: joined(&folder, picture),
            label: label as u32,
            class_name: words.join(" "),
        });
    }
    if problems.is_empty() {
        Ok(items)
    } else {
        Err(Error::Entries {
            path: path.to_owned(),
            problems,
        })
    }
}

/// Oxford Flowers: the i-th label is that of `image_0000i.jpg`; classes in order of appearance, cut 50/20/30.
fn labelled(labels: &Path, names: &Path) -> Result<Split, Error> {
    let text = named(names)?;
    let table: BTreeMap<String, Value> =
        serde_json::from_str(&text).map_err(|error| json_error(names, &error))?;
    let mut groups: Vec<(u32, String, Vec<PathBuf>)> = Vec::new();
    let mut problems = Vec::new();
    for (index, label) in Matlab::open(labels)?
        .numbers("labels")?
        .into_iter()
        .enumerate()
    {
        let label = label as u32;
        let path = PathBuf::from(format!("image_{:05}.jpg", index + 1));
        if let Some((_, _, paths)) = groups.iter_mut().find(|(known, _, _)| known + 1 == label) {
            paths.push(path);
            continue;
        }
        let name = table.get(&label.to_string()).and_then(Value::as_str);
        match (label.checked_sub(1), name) {
            (Some(label), Some(name)) => groups.push((label, name.to_owned(), vec![path])),
            _ => problems.push(Problem {
                field: format!("labels[{index}]"),
                kind: ProblemKind::UnknownName {
                    name: label.to_string(),
                    file: names.display().to_string(),
                },
            }),
        }
    }
    for (label, name, paths) in &groups {
        too_few(
            &format!("label {} ({name})", label + 1),
            paths.len(),
            &mut problems,
        );
    }
    if !problems.is_empty() {
        return Err(Error::Entries {
            path: labels.to_owned(),
            problems,
        });
    }
    Ok(fifty_twenty_thirty(groups))
}
