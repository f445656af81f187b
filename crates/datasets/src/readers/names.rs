//! Class names in a file, in the forms the field keeps them.

use std::path::Path;

use serde_json::Value;

use super::{json_error, read_text};
use crate::Error;

/// Digits of a WordNet id: `n02123045`.
const WORDNET: usize = 8;

/// The class names of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassNames {
    /// In order of label.
    pub names: Vec<String>,
    /// What stands before every name and is no part of it, if anything does: "WordNet ids", "numbers".
    pub left_out: Option<&'static str>,
}

/// Reads class names: one a line, alone or behind a WordNet id (`n02123045 tabby cat`, CoOp's `classnames.txt`) or the
/// line's own number (UCF101's `classInd.txt`); or JSON, as a list of names or an object of them by number
/// (`cat_to_name.json`, `imagenet_class_index.json`). Empty lines are left out.
///
/// # Errors
/// A file that cannot be read, is not UTF-8, or begins as JSON and is none of these.
pub fn class_names_file(path: &Path) -> Result<ClassNames, Error> {
    let text = read_text(path)?;
    if text.trim_start().starts_with(['[', '{']) {
        return of_json(&text, path);
    }
    Ok(of_lines(&text, WORDNET))
}

/// Names a line, ids with at least so many digits and numbers left out where every line has one.
pub(super) fn of_lines(text: &str, digits: usize) -> ClassNames {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let pairs: Option<Vec<(&str, &str)>> = lines.iter().map(|line| pair(line)).collect();
    let pairs = pairs.unwrap_or_default();
    let is_id = |word: &str| {
        let number = word.strip_prefix('n').unwrap_or("");
        number.len() >= digits && number.bytes().all(|b| b.is_ascii_digit())
    };
    let counts_from = |first: usize| {
        let number = |(i, (word, _)): (usize, &(&str, &str))| word.parse() == Ok(first + i);
        pairs.len() > 1 && pairs.iter().enumerate().all(number)
    };
    let left_out = if !pairs.is_empty() && pairs.iter().all(|(word, _)| is_id(word)) {
        Some("WordNet ids")
    } else if counts_from(0) || counts_from(1) {
        Some("numbers")
    } else {
        None
    };
    let names = match left_out {
        Some(_) => pairs.iter().map(|(_, name)| (*name).to_owned()).collect(),
        None => lines.iter().map(|line| (*line).to_owned()).collect(),
    };
    ClassNames { names, left_out }
}

/// The first word of a line and the rest, parted by spaces or tabs.
pub(super) fn pair(line: &str) -> Option<(&str, &str)> {
    let (word, rest) = line.trim().split_once([' ', '\t'])?;
    Some((word, rest.trim()))
}

fn of_json(text: &str, path: &Path) -> Result<ClassNames, Error> {
    let value: Value = serde_json::from_str(text).map_err(|error| json_error(path, &error))?;
    let name = |value: &Value| match value {
        Value::String(name) => Some(name.clone()),
        // `"0": ["n01440764", "tench"]`
        Value::Array(both) => both.last()?.as_str().map(str::to_owned),
        _ => None,
    };
    let names: Option<Vec<String>> = match &value {
        Value::Array(all) => all.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        Value::Object(by_number) => {
            let numbered = by_number
                .iter()
                .map(|(key, v)| Some((key.parse::<u32>().ok()?, name(v)?)));
            let mut numbered: Option<Vec<(u32, String)>> = numbered.collect();
            if let Some(all) = &mut numbered {
                all.sort();
            }
            numbered.map(|all| all.into_iter().map(|(_, name)| name).collect())
        }
        _ => None,
    };
    names
        .map(|names| ClassNames {
            names,
            left_out: None,
        })
        .ok_or_else(|| Error::Syntax {
            path: path.to_owned(),
            line: 1,
            column: 1,
            message: "is JSON, but neither a list of class names nor an object of them by number"
                .to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ClassNames, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        class_names_file(file.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn names_are_read_in_every_form_they_are_kept_in() {
        for (text, names, left_out) in [
            ("cat\ngarden gnome\r\n\n", ["cat", "garden gnome"], None),
            ("\u{feff}cat\ndog\n", ["cat", "dog"], None),
            (
                "n02123045 tabby cat\nn02084071\tdog\n",
                ["tabby cat", "dog"],
                Some("WordNet ids"),
            ),
            ("1 Apply\n2 Bow\n", ["Apply", "Bow"], Some("numbers")),
            ("0 cat\n1 dog\n", ["cat", "dog"], Some("numbers")),
            ("[\"cat\", \"dog\"]", ["cat", "dog"], None),
            ("{\"10\": \"dog\", \"9\": \"cat\"}", ["cat", "dog"], None),
            (
                "{\"0\": [\"n1\", \"tench\"], \"1\": [\"n2\", \"eel\"]}",
                ["tench", "eel"],
                None,
            ),
            // Not every line has one, so it is part of the names.
            ("n02123045 cat\ndog\n", ["n02123045 cat", "dog"], None),
            ("707 jet\n3 series\n", ["707 jet", "3 series"], None),
        ] {
            let found = read(text).unwrap();
            assert_eq!(
                (found.names.as_slice(), found.left_out),
                (names.map(str::to_owned).as_slice(), left_out),
                "{text}"
            );
        }
        assert!(read("{\"a\": 1}").unwrap_err().contains("object of them"));
        assert!(read("[1]").unwrap_err().contains("list of class names"));
    }
}
