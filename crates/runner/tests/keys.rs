//! Trial keys do not move: what was run before counts as done, whatever is rebuilt around it.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

use std::process::Command;

/// Keys of a suite as a dry run lists them.
fn keys(suite: &str) -> Vec<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let out = Command::new(env!("CARGO_BIN_EXE_promptbed"))
        .current_dir(root)
        .args(["run", &format!("suites/{suite}.toml"), "--dry-run"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    let is_key = |line: &&str| {
        line.rsplit_once('-').is_some_and(|(_, hash)| {
            hash.len() == 10 && hash.chars().all(|c| c.is_ascii_hexdigit())
        })
    };
    text.lines().filter(is_key).map(str::to_owned).collect()
}

/// `fixtures/keys` holds what the program of results version 4 listed; all else that goes into a key is as in version 3.
#[test]
fn the_drawn_suites_have_the_keys_they_had() {
    for suite in [
        "quick",
        "drawn-all",
        "drawn-few-shot",
        "drawn-cross-dataset",
    ] {
        let path = format!(
            "{}/tests/fixtures/keys/{suite}.txt",
            env!("CARGO_MANIFEST_DIR")
        );
        let before = std::fs::read_to_string(path).unwrap();
        let before: Vec<&str> = before.lines().collect();
        let now = keys(suite);
        let other = now.iter().zip(&before).find(|(a, b)| a != b);
        assert_eq!(other, None, "{suite}");
        assert_eq!(now.len(), before.len(), "{suite}");
    }
}
