//! Begins and ends of trials, a line each, of all workers that are given the same file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::store::Process;

/// What happened to a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is this worker's, and begins.
    Begin,
    /// Its record is there; it is this worker's for a moment longer.
    End,
    /// It is free again, unfinished: the worker was stopped.
    Left,
    /// Another worker has taken it over.
    Lost,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::End => "end",
            Self::Left => "left",
            Self::Lost => "lost",
        }
    }
}

/// A file that lines are appended to, JSON each: `{"at": Unix seconds, "host", "pid", "what", "key"}`.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self {
            file: file.with_context(|| format!("{}: cannot be opened (--log)", path.display()))?,
            path: path.to_owned(),
        })
    }

    /// Appends a line. Lines of several processes on one machine do not mix, and stand in the order of what happened.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, what: What, key: &str) -> Result<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let this = Process::this();
        let line = serde_json::json!({
            "at": since.map_or(0.0, |d| d.as_secs_f64()),
            "host": this.host,
            "pid": this.pid,
            "what": what.name(),
            "key": key,
        });
        // One write a line: that is what keeps lines whole.
        let written = (&self.file).write_all(format!("{line}\n").as_bytes());
        written.with_context(|| format!("{}: cannot be written (--log)", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_who_did_what() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        Log::open(&path).unwrap().write(What::Begin, "k").unwrap();
        Log::open(&path).unwrap().write(What::End, "k").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let told: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let what: Vec<&str> = told.iter().map(|l| l["what"].as_str().unwrap()).collect();
        assert_eq!(what, ["begin", "end"]);
        assert_eq!(
            (&told[0]["key"], &told[0]["pid"]),
            (&"k".into(), &std::process::id().into())
        );
    }
}
