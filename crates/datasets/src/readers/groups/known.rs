//! Who is in which picture: read from a list beside the pictures, or from their names.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Error;
use crate::catalogue::GroupBy;
use crate::error::{Problem, ProblemKind};
use crate::readers::{Lists, json_error, read_named, shown, written};
use crate::split::Part;

/// Columns that say the group, the picture's path below the images folder, or its folder and name.
const GROUP: [&str; 5] = ["group", "subject", "driver", "scene", "patient"];
const PATH: [&str; 1] = ["path"];
const FOLDER: [&str; 2] = ["classname", "class"];
const NAME: [&str; 3] = ["img", "image", "file"];

/// How the group of a picture is found.
pub(super) enum Known {
    /// By its path, read from a file.
    Listed(HashMap<PathBuf, String>, PathBuf),
    /// By the digits behind a text.
    Named(String),
}

pub(super) fn known(by: &GroupBy, root: &Path) -> Result<Known, Error> {
    match by {
        GroupBy::InName(text) => Ok(Known::Named(text.clone())),
        GroupBy::List(list) => {
            let path = root.join(list);
            let hint = "a CSV with a head of `path,group` or `subject,classname,img`, or a JSON object of groups by path";
            let text = read_named(&path, "the list of groups", hint)?;
            let groups = if text.trim_start().starts_with('{') {
                json(&text, &path)?
            } else {
                csv(&text, &path)?
            };
            Ok(Known::Listed(groups, path))
        }
    }
}

impl Known {
    /// The group of every picture by its path, and the file that says so.
    ///
    /// # Errors
    /// Every picture without one.
    pub(super) fn of_all(
        &self,
        lists: &Lists,
    ) -> Result<(HashMap<PathBuf, String>, PathBuf), Error> {
        let mut problems = Vec::new();
        let mut all = HashMap::new();
        for part in Part::ALL {
            for item in lists.split.part(part) {
                match self.of(&item.path) {
                    Some(group) => {
                        all.insert(item.path.clone(), group);
                    }
                    None => problems.push(Problem {
                        field: item.path.display().to_string(),
                        kind: ProblemKind::Rule(self.lacks()),
                    }),
                }
            }
        }
        let from = match self {
            Self::Listed(_, path) => path.clone(),
            Self::Named(_) => lists.from.clone(),
        };
        if problems.is_empty() {
            Ok((all, from))
        } else {
            Err(Error::Entries {
                path: from,
                problems,
            })
        }
    }

    fn of(&self, path: &Path) -> Option<String> {
        match self {
            Self::Listed(groups, _) => groups.get(path).cloned(),
            Self::Named(text) => {
                let name = path.file_name()?.to_str()?;
                let (_, rest) = name.split_once(text.as_str())?;
                let end = rest
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(rest.len());
                (end > 0).then(|| plain(&rest[..end]))
            }
        }
    }

    fn lacks(&self) -> String {
        match self {
            Self::Listed(..) => "is in none of the groups of this list".to_owned(),
            Self::Named(text) => {
                format!("is in none of the groups: no number stands behind {text:?} in its name")
            }
        }
    }
}

/// A group as it is compared: numbers without zeros in front, as JSON writes them.
pub(super) fn plain(group: &str) -> String {
    let is_number = !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit());
    match group.trim_start_matches('0') {
        "" if is_number => "0".to_owned(),
        digits if is_number => digits.to_owned(),
        _ => group.to_owned(),
    }
}

/// `{"c0/a.jpg": "p002", ...}` or `{"p002": ["c0/a.jpg", ...], ...}`.
fn json(text: &str, path: &Path) -> Result<HashMap<PathBuf, String>, Error> {
    let value: Value = serde_json::from_str(text).map_err(|error| json_error(path, &error))?;
    let mut groups = HashMap::new();
    let mut problems = Vec::new();
    let entries = value.as_object().into_iter().flatten();
    for (key, value) in entries {
        let pictures = value.as_array().map(|all| all.iter().map(Value::as_str));
        match (scalar(value), pictures) {
            (Some(group), _) => put(&mut groups, key, &group, key, &mut problems),
            (None, Some(pictures)) => {
                for (index, picture) in pictures.enumerate() {
                    let field = format!("{key}[{index}]");
                    match picture {
                        Some(picture) => put(&mut groups, picture, key, &field, &mut problems),
                        None => problems.push(form(field, value, "the path of a picture")),
                    }
                }
            }
            _ => problems.push(form(key.clone(), value, "a group, or a list of pictures")),
        }
    }
    ended(groups, problems, path)
}

pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn form(field: String, value: &Value, expected: &'static str) -> Problem {
    let found = shown(value);
    Problem {
        field,
        kind: ProblemKind::Form { found, expected },
    }
}

fn put(
    groups: &mut HashMap<PathBuf, String>,
    picture: &str,
    group: &str,
    field: &str,
    problems: &mut Vec<Problem>,
) {
    let group = plain(group.trim());
    if let Some(other) = groups.insert(written(picture), group.clone())
        && other != group
    {
        problems.push(Problem {
            field: field.to_owned(),
            kind: ProblemKind::Rule(format!(
                "{picture:?} is of group {other:?} and of {group:?}"
            )),
        });
    }
}

fn ended(
    groups: HashMap<PathBuf, String>,
    problems: Vec<Problem>,
    path: &Path,
) -> Result<HashMap<PathBuf, String>, Error> {
    if problems.is_empty() {
        return Ok(groups);
    }
    Err(Error::Entries {
        path: path.to_owned(),
        problems,
    })
}

/// Lines under a head that names the columns.
fn csv(text: &str, path: &Path) -> Result<HashMap<PathBuf, String>, Error> {
    let mut lines = text.lines().enumerate();
    let head = lines.next().map_or("", |(_, line)| line);
    let names: Vec<String> = cells(head).iter().map(|c| c.to_lowercase()).collect();
    let column = |known: &[&str]| names.iter().position(|n| known.contains(&n.as_str()));
    let (group, whole, folder, name) = (
        column(&GROUP),
        column(&PATH),
        column(&FOLDER),
        column(&NAME),
    );
    let picture: Vec<usize> = match (whole, folder, name) {
        (Some(path), _, _) => vec![path],
        (None, Some(folder), Some(name)) => vec![folder, name],
        _ => Vec::new(),
    };
    let (Some(group), false) = (group, picture.is_empty()) else {
        return Err(rules_at(
            path,
            "line 1",
            format!(
                "its head is {head:?}; it needs a column of groups ({}) and one of `path`, or two of folder ({}) and picture ({})",
                GROUP.join(", "),
                FOLDER.join(", "),
                NAME.join(", ")
            ),
        ));
    };
    let mut groups = HashMap::new();
    let mut problems = Vec::new();
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let field = format!("line {}", index + 1);
        let cells = cells(line);
        let of = |column: usize| cells.get(column).map(String::as_str).unwrap_or("");
        let parts: Vec<&str> = picture.iter().map(|&column| of(column)).collect();
        if of(group).is_empty() || parts.contains(&"") {
            let found = format!("{line:?}");
            let expected = "a value in every column that the head names";
            let kind = ProblemKind::Form { found, expected };
            problems.push(Problem { field, kind });
            continue;
        }
        put(
            &mut groups,
            &parts.join("/"),
            of(group),
            &field,
            &mut problems,
        );
    }
    ended(groups, problems, path)
}

/// The cells of a line as RFC 4180 parts them; a cell holds no line break here.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut is_quoted = false;
    let mut letters = line.trim_end_matches('\r').chars().peekable();
    while let Some(letter) = letters.next() {
        let cell = cells.last_mut().expect("there is always a cell");
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => {
                cell.push('"');
                letters.next();
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => cells.push(String::new()),
            _ => cell.push(letter),
        }
    }
    cells.iter().map(|cell| cell.trim().to_owned()).collect()
}
/// One thing that is wrong at one place of a file.
pub(super) fn rules_at(path: &Path, field: &str, message: String) -> Error {
    Error::Entries {
        path: path.to_owned(),
        problems: vec![Problem {
            field: field.to_owned(),
            kind: ProblemKind::Rule(message),
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_parted_as_spreadsheets_write_them() {
        assert_eq!(cells("a, b ,c"), ["a", "b", "c"]);
        assert_eq!(
            cells("\"a, (1)\",\"say \"\"b\"\"\"\r"),
            ["a, (1)", "say \"b\""]
        );
        assert_eq!(cells(""), [""]);
    }

    #[test]
    fn numbers_of_groups_are_compared_without_zeros_in_front() {
        for (group, expected) in [("004", "4"), ("0", "0"), ("p012", "p012"), ("", "")] {
            assert_eq!(plain(group), expected);
        }
    }

    #[test]
    fn the_group_of_a_name_is_the_number_behind_the_text() {
        let known = Known::Named("sub_".to_owned());
        let of = |name: &str| known.of(Path::new(name));
        assert_eq!(of("drinking/gA_sub_012_s1.jpg"), Some("12".to_owned()));
        assert_eq!(of("sub_3/frame.jpg"), None, "folders say nothing");
        assert_eq!(of("drinking/gA_sub_.jpg"), None);
    }

    #[test]
    fn lists_of_both_forms_give_the_same_groups() {
        let path = Path::new("list");
        let from_csv = csv(
            "subject,classname,img\np002,c0,a.jpg\np002,c1,b 1.jpg\n007,c0,c.jpg\n",
            path,
        );
        let by_picture = json(
            r#"{"c0/a.jpg": "p002", "c1/b 1.jpg": "p002", "c0\\c.jpg": 7}"#,
            path,
        );
        let by_group = json(
            r#"{"p002": ["c0/a.jpg", "c1/b 1.jpg"], "7": ["c0/c.jpg"]}"#,
            path,
        );
        let from_csv = from_csv.unwrap();
        assert_eq!(from_csv.len(), 3);
        assert_eq!(from_csv, by_picture.unwrap());
        assert_eq!(from_csv, by_group.unwrap());
        assert_eq!(
            from_csv,
            csv(
                "path,group\nc0/a.jpg,p002\nc1/b 1.jpg,p002\nc0/c.jpg,7\n",
                path
            )
            .unwrap()
        );
    }

    #[test]
    fn what_is_wrong_with_a_list_is_said_with_its_line() {
        let path = Path::new("list.csv");
        let error = csv("who,what\n", path).unwrap_err().to_string();
        assert!(error.starts_with("list.csv: line 1: its head is \"who,what\"; it needs a column of groups (group, subject,"), "{error}");
        let error = csv("path,group\na.jpg,1\nb.jpg\n,2\na.jpg,3\n", path)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error.lines().collect::<Vec<_>>(),
            [
                "list.csv: line 3: found \"b.jpg\", expected a value in every column that the head names",
                "list.csv: line 4: found \",2\", expected a value in every column that the head names",
                "list.csv: line 5: \"a.jpg\" is of group \"1\" and of \"3\"",
            ]
        );
        let error = json(r#"{"a.jpg": null, "p1": [3]}"#, path)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error.lines().collect::<Vec<_>>(),
            [
                "list.csv: a.jpg: found null, expected a group, or a list of pictures",
                "list.csv: p1[0]: found [3], expected the path of a picture",
            ]
        );
    }
}
