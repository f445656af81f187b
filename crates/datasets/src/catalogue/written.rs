//! A row as it is written, and the rules it must keep.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::archive::WrittenArchive;
use super::groups::WrittenGroups;
use super::row::{Counts, DEFAULT_TEMPLATE, Parts, Reader, Row, Unsplit};
use crate::error::{Problem, ProblemKind};
use crate::split::{Part, stays_inside};

/// A row as it is written, so that every field can be checked before any is used.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    title: Option<String>,
    #[serde(default)]
    aliases: Vec<String>,
    images: PathBuf,
    reader: Reader,
    split: Option<PathBuf>,
    names: Option<PathBuf>,
    #[serde(default)]
    labels: Vec<String>,
    parts: Option<Parts>,
    groups: Option<WrittenGroups>,
    #[serde(default)]
    ignore: Vec<String>,
    #[serde(default)]
    rename: BTreeMap<String, String>,
    unsplit: Option<Unsplit>,
    prompt: Option<String>,
    classes: Option<usize>,
    pictures: Option<Counts>,
    #[serde(default = "yes")]
    augmix: bool,
    #[serde(default = "yes")]
    flip: bool,
    #[serde(default)]
    archives: Vec<WrittenArchive>,
}

fn yes() -> bool {
    true
}

/// Turns a written row into a row, noting every field that breaks a rule.
pub(super) fn checked(id: &str, written: Written, problems: &mut Vec<Problem>) -> Row {
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
    let mut paths = written_paths(
        &written.images,
        &written.split,
        &written.names,
        &written.parts,
        &written.unsplit,
    );
    let groups = written.groups.iter().flat_map(WrittenGroups::paths);
    paths.extend(groups.map(|path| ("groups", path)));
    for (field, path) in paths {
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
        Reader::ArrayFile => &[(
            "labels",
            written.names.is_some() || !written.labels.is_empty(),
        )],
    };
    let reader = reader_name(written.reader);
    for (field, there) in needs {
        if !there {
            rule(field, format!("the reader {reader:?} needs it"));
        }
    }
    if written.names.is_some() && !written.labels.is_empty() {
        let message = "the class names are in `names` already".to_owned();
        rule("labels", message);
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
            "labels",
            !written.labels.is_empty(),
            written.reader == Reader::ArrayFile,
        ),
        (
            "parts",
            written.parts.is_some(),
            matches!(written.reader, Reader::ClassFolders | Reader::PictureLists),
        ),
        (
            "groups",
            written.groups.is_some(),
            written.reader != Reader::ArrayFile,
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
    let groups = written.groups.and_then(|groups| groups.checked(&mut rule));
    let mut archives = Vec::new();
    for (index, archive) in written.archives.into_iter().enumerate() {
        archives.extend(archive.checked(&mut |field, message| {
            rule(&format!("archives[{index}].{field}"), message);
        }));
    }
    Row {
        id: id.to_owned(),
        title: written.title.unwrap_or_else(|| id.to_owned()),
        aliases: written.aliases,
        images: written.images,
        reader: written.reader,
        split: written.split,
        names: written.names,
        labels: written.labels,
        parts: written.parts,
        groups,
        ignore: written.ignore,
        rename: written.rename,
        unsplit: written.unsplit,
        template,
        classes: written.classes,
        pictures: written.pictures,
        augmix: written.augmix,
        flip: written.flip,
        archives,
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
        Reader::ArrayFile => "array-file",
    }
}
