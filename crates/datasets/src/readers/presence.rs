//! Are the pictures of a split there, under exactly these names?

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::problem;
use crate::Split;
use crate::error::{Problem, ProblemKind};
use crate::split::Part;

/// The names in the folders below an images folder, each folder read once: much faster than asking for every picture
/// on a network disk, and it sees upper and lower case even where the file system does not.
pub(crate) struct Listing<'a> {
    images: &'a Path,
    folders: HashMap<PathBuf, Option<HashSet<String>>>,
}

/// How a path of a split stands on disk.
pub(crate) enum Presence {
    /// There.
    Present,
    /// Not there.
    Absent,
    /// There under this path, which differs in upper and lower case only.
    CaseOnly(PathBuf),
}

impl<'a> Listing<'a> {
    pub(crate) fn new(images: &'a Path) -> Self {
        Self {
            images,
            folders: HashMap::new(),
        }
    }

    fn names(&mut self, folder: &Path) -> Option<&HashSet<String>> {
        if !self.folders.contains_key(folder) {
            let names = fs::read_dir(self.images.join(folder)).ok().map(|entries| {
                entries
                    .flatten()
                    .filter_map(|entry| entry.file_name().into_string().ok())
                    .collect()
            });
            self.folders.insert(folder.to_owned(), names);
        }
        self.folders[folder].as_ref()
    }

    /// Looks for a path relative to the images folder.
    pub(crate) fn look(&mut self, path: &Path) -> Presence {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Presence::Absent;
        };
        if self
            .names(&folder)
            .is_some_and(|names| names.contains(name))
        {
            // A name in a listing may still be a link to nothing.
            let there = self.images.join(path).exists();
            return if there {
                Presence::Present
            } else {
                Presence::Absent
            };
        }
        let mut on_disk = PathBuf::new();
        for part in path.components() {
            let wanted = part.as_os_str().to_string_lossy();
            let lower = wanted.to_lowercase();
            let Some(names) = self.names(&on_disk.clone()) else {
                return Presence::Absent;
            };
            let same = |name: &&String| name.to_lowercase() == lower;
            let found = if names.contains(&*wanted) {
                Some(wanted.into_owned())
            } else {
                names.iter().filter(same).min().cloned()
            };
            match found {
                Some(name) => on_disk.push(name),
                None => return Presence::Absent,
            }
        }
        Presence::CaseOnly(on_disk)
    }
}

/// Every picture of a split that is not there under its exact name.
pub(crate) fn missing(split: &Split, images: &Path) -> Vec<Problem> {
    let mut listing = Listing::new(images);
    let mut problems = Vec::new();
    for part in Part::ALL {
        for (index, item) in split.part(part).iter().enumerate() {
            let path = || item.path.to_string_lossy().into_owned();
            let folder = || images.display().to_string();
            let kind = match listing.look(&item.path) {
                Presence::Present => continue,
                Presence::Absent => ProblemKind::NoPicture {
                    path: path(),
                    folder: folder(),
                },
                Presence::CaseOnly(on_disk) => ProblemKind::CaseOnly {
                    path: path(),
                    on_disk: on_disk.to_string_lossy().into_owned(),
                    folder: folder(),
                },
            };
            problems.push(problem(part, index, ".path", kind));
        }
    }
    problems
}
