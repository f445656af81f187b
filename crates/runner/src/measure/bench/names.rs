//! The class names that are timed.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clip::Tokenizer;

/// Most names that are made up.
const MOST: usize = 1000;

/// `count` class names of 5 or 6 tokens, so that "a photo of a {}." takes 12 or 13; the names the comparison with
/// PyTorch uses. No two begin with the same word: the names of most benchmarks do not either, so that nothing is gained
/// by what the text tower shares. The shipped CLIP's vocabulary is small: there, the names of its own datasets.
///
/// # Errors
/// More than there are.
pub fn class_names(count: usize, drawn: bool) -> Result<Vec<String>> {
    let all: Vec<String> = if drawn {
        let datasets = datasets::drawn::datasets();
        datasets
            .iter()
            .filter_map(|d| datasets::drawn::open(&d.id))
            .filter_map(|d| d.split.subset(datasets::ClassSet::All).ok())
            .flat_map(|(_, names)| names)
            .collect()
    } else {
        made_up()
    };
    if count == 0 || count > all.len() {
        bail!("--classes {count}: is outside 1..={}", all.len());
    }
    // A stride prime to their number visits all, and neighbours differ in every word.
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|i| i * 7919 % all.len());
    Ok(order[..count].iter().map(|i| all[*i].clone()).collect())
}

fn made_up() -> Vec<String> {
    let tokenizer = Tokenizer::shared();
    // Words that are one token each, in the vocabulary's order.
    let words = (1000..).map(|id| tokenizer.word(id));
    let words = words.filter_map(|w| w.strip_suffix("</w>"));
    let words = words.filter(|w| w.len() >= 4 && w.bytes().all(|b| b.is_ascii_lowercase()));
    let mut rest = Vec::new();
    for colour in ["red", "blue", "green", "black", "white"] {
        for thing in [
            "fishing boat",
            "sports car",
            "mountain dog",
            "kitchen chair",
            "city bus",
            "flower pot",
            "music box",
            "stone house",
        ] {
            for place in ["outdoors", "upstairs", "at night", "in winter", "by road"] {
                rest.push(format!("{colour} {thing} {place}"));
            }
        }
    }
    let names = words.zip(rest.iter().cycle()).take(MOST);
    names.map(|(word, rest)| format!("{word} {rest}")).collect()
}

/// The names in a file, one a line.
///
/// # Errors
/// A file that cannot be read, an empty line, a name that is there twice, or none.
pub fn names_of(path: &Path) -> Result<Vec<String>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("--names {}", path.display()))?;
    let read = datasets::class_names_file(path).context("--names")?;
    let is_plain = read.left_out.is_none() && !text.trim_start().starts_with(['[', '{']);
    let names: Vec<String> = if is_plain {
        let lines = text.trim_start_matches('\u{feff}').lines();
        lines.map(|l| l.trim().to_owned()).collect()
    } else {
        read.names
    };
    let mut seen = std::collections::BTreeMap::new();
    let mut problems = Vec::new();
    for (name, line) in names.iter().zip(1..) {
        if name.is_empty() {
            problems.push(format!("line {line}: is empty; write a class name"));
        } else if let Some(first) = seen.insert(name, line) {
            problems.push(format!(
                "line {line}: {name:?} is there already, in line {first}"
            ));
        }
    }
    if names.is_empty() {
        problems.push("has no line; write a class name in each".to_owned());
    }
    if !problems.is_empty() {
        bail!("--names {}: {}", path.display(), problems.join("\n  "));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_names_are_distinct_and_bounded() {
        let names = class_names(1000, false).unwrap();
        let first = |n: &String| n.split(' ').next().unwrap().to_owned();
        let distinct: std::collections::BTreeSet<String> = names.iter().map(first).collect();
        assert_eq!(distinct.len(), 1000, "first words");
        for name in &names {
            let tokens = Tokenizer::shared().encode(name).len();
            assert!((5..=6).contains(&tokens), "{name}: {tokens} tokens");
        }
        assert!(
            class_names(1001, false)
                .unwrap_err()
                .to_string()
                .contains("1..=1000")
        );
    }

    #[test]
    fn a_file_of_names_is_read_and_all_its_faults_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.txt");
        std::fs::write(&path, "sea horse\nsea lion\n").unwrap();
        assert_eq!(names_of(&path).unwrap(), ["sea horse", "sea lion"]);
        std::fs::write(&path, "cat\n\ncat\n").unwrap();
        let error = names_of(&path).unwrap_err().to_string();
        assert!(error.contains("line 2: is empty"), "{error}");
        assert!(
            error.contains("line 3: \"cat\" is there already, in line 1"),
            "{error}"
        );
        std::fs::write(&path, "").unwrap();
        assert!(names_of(&path).unwrap_err().to_string().contains("no line"));
    }
}
