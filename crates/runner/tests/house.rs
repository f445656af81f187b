//! What the house promises of itself: rooms that do not look into each other, and guides that quote what is there.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Files of a room of the runner that name another one, as `run/sweep.rs names measure`.
fn looks(room: &str, others: &[&str]) -> Vec<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for path in sources(&src.join(room)) {
        let text = std::fs::read_to_string(&path).unwrap();
        for other in others.iter().filter(|other| {
            // Words end here: `crate::run` is not `crate::runner`.
            let named = format!("crate::{other}");
            text.match_indices(&named).any(|(at, _)| {
                !text[at + named.len()..]
                    .starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            })
        }) {
            let file = path.strip_prefix(&src).unwrap().display();
            found.push(format!("{file} names {other}"));
        }
    }
    found
}

#[test]
fn what_shows_records_sees_nothing_of_what_makes_or_measures_them() {
    assert_eq!(looks("show", &["run", "measure", "cli"]), [""; 0]);
}

#[test]
fn what_makes_records_sees_nothing_of_what_shows_or_measures_them() {
    assert_eq!(looks("run", &["show", "measure", "cli"]), [""; 0]);
}

#[test]
fn what_all_rooms_share_sees_none_of_them() {
    for shared in ["protocols", "record", "stats"] {
        assert_eq!(
            looks(shared, &["run", "show", "measure", "cli", "store"]),
            [""; 0],
            "{shared}"
        );
    }
}

/// Rust blocks of a page, each with the file that the line before names in backquotes.
fn quotes(page: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut before = "";
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line.trim() == "```rust" {
            let block: Vec<&str> = lines.by_ref().take_while(|l| l.trim() != "```").collect();
            let named = before.rsplit('`').nth(1);
            let named = named.unwrap_or_else(|| panic!("no file is named before {block:?}"));
            found.push((root().join(named), block.join("\n")));
        } else if !line.trim().is_empty() {
            before = line;
        }
    }
    found
}

#[test]
fn guides_quote_code_as_it_is() {
    for guide in [
        "adding-a-protocol.md",
        "adding-a-chart.md",
        "adding-a-weights-format.md",
    ] {
        let page = std::fs::read_to_string(root().join("docs").join(guide)).unwrap();
        let quotes = quotes(&page);
        assert!(quotes.len() >= 2, "{guide} shows no code");
        for (path, block) in quotes {
            let file = std::fs::read_to_string(&path)
                .unwrap_or_else(|e| panic!("{guide}: {}: {e}", path.display()));
            // Ellipses leave out lines between those that are there.
            let mut rest = file.as_str();
            for piece in block.split("\n    ...\n") {
                let at = rest.find(piece);
                let at = at.unwrap_or_else(|| {
                    panic!("{guide}: {} does not hold\n{piece}", path.display())
                });
                rest = &rest[at + piece.len()..];
            }
        }
    }
}
