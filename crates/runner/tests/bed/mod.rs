//! A temporary folder with suites in it, and the program run there as a user runs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// A folder of its own for one test.
pub struct Bed {
    folder: tempfile::TempDir,
}

/// What the program answered.
pub struct Answer {
    /// Exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Bed {
    /// An empty folder with `suite.toml` in it.
    pub fn with_suite(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("temporary folders can be made");
        std::fs::write(folder.path().join("suite.toml"), text)
            .expect("a new folder can be written");
        Self { folder }
    }

    /// A path in the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `promptbed ARGUMENTS` in the folder, without a terminal anywhere near.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_promptbed"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("COLUMNS")
            // Nothing of what this machine's user has fetched.
            .env("HF_HOME", self.folder.path().join("home"))
            .env_remove("HF_HUB_CACHE")
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Answer {
        let output = self
            .command(arguments)
            .output()
            .expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program prints UTF-8");
        Answer {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Every record of a results folder by key, without what differs between two runs of the same thing: times, memory,
    /// threads.
    pub fn records(&self, results: &str) -> BTreeMap<String, Value> {
        let files = self.files(&format!("{results}/trials"));
        let read = |(name, bytes): (String, Vec<u8>)| {
            let mut record: Value = serde_json::from_slice(&bytes).expect("records are JSON");
            for test in record["tests"].as_array_mut().expect("tests are a list") {
                forget(test, &["seconds"]);
            }
            forget(
                &mut record["cost"],
                &["train_seconds", "test_seconds", "peak_memory"],
            );
            forget(&mut record["provenance"], &["started", "threads"]);
            // It is over those as well; older records have none.
            record
                .as_object_mut()
                .expect("an object")
                .remove("checksum");
            (name, record)
        };
        files.into_iter().map(read).collect()
    }

    /// The files of a folder by name, hidden ones left out; none where there is no such folder.
    pub fn files(&self, folder: &str) -> BTreeMap<String, Vec<u8>> {
        let Ok(entries) = std::fs::read_dir(self.path(folder)) else {
            return BTreeMap::new();
        };
        let names = entries.map(|e| {
            e.expect("the folder can be listed")
                .file_name()
                .to_string_lossy()
                .into_owned()
        });
        let shown = names.filter(|name| !name.starts_with('.'));
        shown
            .map(|name| {
                (
                    name.clone(),
                    std::fs::read(self.path(folder).join(name)).expect("it was just listed"),
                )
            })
            .collect()
    }
}

/// Removes fields that must be there.
fn forget(value: &mut Value, fields: &[&str]) {
    let map = value.as_object_mut().expect("an object");
    for field in fields {
        assert!(map.remove(*field).is_some(), "{field} is recorded");
    }
}
