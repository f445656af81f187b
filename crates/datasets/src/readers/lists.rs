//! Text files of pictures and classes, one a part: FGVC-Aircraft's own lists.

use std::collections::HashMap;
use std::path::Path;

use super::{Lists, PassedOver, read_named, written};
use crate::catalogue::Row;
use crate::error::{Problem, ProblemKind};
use crate::split::{Origin, Part};
use crate::{Error, Item, Split};

/// Lines `<picture without its ending> <class name>`; the label is the line of the name in the names file
/// (`FGVCAircraft.read_data`). Names may hold spaces and `/`.
pub(super) fn read(row: &Row, root: &Path) -> Result<Lists, Error> {
    let names_path = root.join(row.names.as_deref().unwrap_or(Path::new("")));
    let text = read_named(
        &names_path,
        "the file of class names",
        "one class name a line, in order of label",
    )?;
    let names: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let labels: HashMap<&str, u32> = names.iter().copied().zip(0..).collect();
    let mut split = Split {
        train: vec![],
        val: vec![],
        test: vec![],
        origin: Origin::Published,
    };
    let mut from = names_path.clone();
    let mut problems = Vec::new();
    for part in Part::ALL {
        let Some(list) = row.parts.as_ref().and_then(|parts| parts.part(part)) else {
            continue;
        };
        from = root.join(list);
        let text = read_named(
            &from,
            "a list of pictures",
            "lines of a picture, a space, and its class",
        )?;
        let mut items = Vec::new();
        for (index, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            let field = || format!("line {} of {}", index + 1, list.display());
            let Some((picture, name)) = line.trim().split_once(' ') else {
                let found = format!("{line:?}");
                let kind = ProblemKind::Form {
                    found,
                    expected: "a picture, a space, and its class",
                };
                problems.push(Problem {
                    field: field(),
                    kind,
                });
                continue;
            };
            match labels.get(name) {
                Some(&label) => items.push(Item {
                    path: written(&format!("{picture}.jpg")),
                    label,
                    class_name: name.to_owned(),
                }),
                None => {
                    let file = names_path.display().to_string();
                    let kind = ProblemKind::UnknownName {
                        name: name.to_owned(),
                        file,
                    };
                    problems.push(Problem {
                        field: field(),
                        kind,
                    });
                }
            }
        }
        match part {
            Part::Train => split.train = items,
            Part::Val => split.val = items,
            Part::Test => split.test = items,
        }
    }
    if !problems.is_empty() {
        return Err(Error::Entries {
            path: root.to_owned(),
            problems,
        });
    }
    Ok(Lists {
        split,
        from,
        listed: false,
        passed: PassedOver::default(),
        source: None,
        shared_out: None,
    })
}
