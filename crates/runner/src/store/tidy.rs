//! Temporary files of processes that died while they wrote.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::file::{Owner, owner};
use super::{Store, StoreError, file};

/// Folders that processes write to, below a results folder.
const FOLDERS: [&str; 10] = [
    "trials",
    "predictions",
    "prompts",
    "picks",
    "checkpoints",
    "claims",
    "workers",
    "damaged",
    "tables",
    "charts",
];
/// Temporary files whose process cannot be asked (it was on another machine, or an older program's) go at this age; no
/// file takes a day to write.
const OLD: Duration = Duration::from_secs(86_400);

impl Store {
    /// Removes what processes that are dead were writing, and counts it. Files of the living stay.
    ///
    /// # Errors
    /// When a folder cannot be listed, or a file of the dead cannot be removed.
    pub fn tidy(&self) -> Result<usize, StoreError> {
        let mut folders: Vec<PathBuf> = FOLDERS.iter().map(|f| self.dir.join(f)).collect();
        folders.push(self.dir.clone());
        folders.extend(self.suites()?.iter().map(|name| self.suite_folder(name)));
        let mut count = 0;
        for folder in folders {
            count += tidy(&folder)?;
        }
        Ok(count)
    }
}

fn tidy(folder: &Path) -> Result<usize, StoreError> {
    let fail = |source| StoreError::Io {
        path: folder.to_owned(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(fail(error)),
    };
    let (mut count, mut now) = (0, None);
    for entry in entries {
        let entry = entry.map_err(fail)?;
        let Some(owner) = owner(&entry.file_name().to_string_lossy()) else {
            continue;
        };
        let lives = match owner {
            Owner::Process(process) => process.lives(),
            Owner::Unknown => None,
        };
        let is_left = lives.map_or_else(
            || {
                let now = now.get_or_insert_with(|| clock(folder));
                let written = entry.metadata().and_then(|data| data.modified());
                match (now, written) {
                    (Some(now), Ok(written)) => {
                        now.duration_since(written).is_ok_and(|age| age > OLD)
                    }
                    _ => false,
                }
            },
            |lives| !lives,
        );
        if is_left {
            match fs::remove_file(entry.path()) {
                Ok(()) => count += 1,
                // Somebody else tidies as well.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(StoreError::Io {
                        path: entry.path(),
                        source,
                    });
                }
            }
        }
    }
    Ok(count)
}

/// The time by the clock that dates the files of this folder, which need not be this machine's.
fn clock(folder: &Path) -> Option<SystemTime> {
    let probe = file::aside(&folder.join("clock"));
    let time = fs::write(&probe, b"").and_then(|()| fs::metadata(&probe)?.modified());
    let _ = fs::remove_file(&probe);
    time.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_dead_go_and_all_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let mut dead = super::super::Process::this().clone();
        dead.pid = child.id();
        child.wait().unwrap();
        let this = super::super::Process::this().id();
        let names = [
            (format!(".plan.json.{}-0.tmp", dead.id()), false),
            (format!(".plan.json.{this}-0.tmp"), true),
            (".plan.json.0123456789ab-1-1-0.tmp".to_owned(), true),
            (".plan.json.17-0.tmp".to_owned(), true),
            ("plan.json".to_owned(), true),
            (".hidden".to_owned(), true),
        ];
        for (name, _) in &names {
            fs::write(dir.path().join(name), "x").unwrap();
            fs::write(dir.path().join("trials").join(name), "x").unwrap();
        }
        assert_eq!(store.tidy().unwrap(), 2);
        for (name, stays) in &names {
            assert_eq!(dir.path().join(name).exists(), *stays, "{name}");
        }
        // A day later.
        let old = SystemTime::now() - 2 * OLD;
        let path = dir.path().join(".plan.json.17-0.tmp");
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(old).unwrap();
        assert_eq!(store.tidy().unwrap(), 1);
        assert!(!path.exists());
    }
}
