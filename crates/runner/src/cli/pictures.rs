//! Pictures that a user names: files and folders, of which some are no pictures and some are broken.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use clip::Clip;
use datasets::is_picture_name;
use rayon::prelude::*;

use crate::backbone;

/// What was named, and what has become of it so far.
pub(super) struct Named {
    /// Files as given, folders as the pictures below them, sorted.
    pub(super) files: Vec<PathBuf>,
    /// Pictures that could not be read.
    pub(super) broken: usize,
}

impl Named {
    /// Looks into the folders. What is no picture by its name is counted and said, as `data check` and `run` do.
    ///
    /// # Errors
    /// A folder that cannot be read, or that holds no picture.
    pub(super) fn find(given: &[PathBuf]) -> Result<Self> {
        let (mut files, mut others) = (Vec::new(), Vec::new());
        for path in given {
            if !path.is_dir() {
                files.push(path.clone());
                continue;
            }
            let (below, passed) = below(path)?;
            if below.is_empty() {
                bail!(
                    "{}: holds no jpg, jpeg, png, webp, gif, bmp or tif",
                    path.display()
                );
            }
            files.extend(below);
            others.extend(passed);
        }
        if let Some(first) = others.first() {
            crate::say!(
                "note: {} files that are no pictures were passed over, first {}",
                others.len(),
                first.display()
            );
        }
        Ok(Self { files, broken: 0 })
    }

    /// Pictures `at_once` at a time.
    pub(super) fn pieces(&self, at_once: usize) -> Vec<Vec<PathBuf>> {
        self.files.chunks(at_once).map(<[_]>::to_vec).collect()
    }

    /// Normalised pixels `[n, 3, R, R]` of those pictures that can be read, and their paths; nothing where none can.
    /// The others are named.
    ///
    /// # Errors
    /// Those of candle.
    pub(super) fn view(
        &mut self,
        clip: &Clip,
        paths: &[PathBuf],
    ) -> Result<Option<(Vec<PathBuf>, Tensor)>> {
        let (size, look) = (clip.image_size(), backbone::look(clip));
        let views: Vec<Result<Vec<f32>, datasets::Error>> = paths
            .par_iter()
            .map(|path| {
                let picture = datasets::open_picture(path)?;
                Ok(look.normalised(&look.test_view(&picture, size)))
            })
            .collect();
        let (mut read, mut data) = (Vec::new(), Vec::new());
        for (path, view) in paths.iter().zip(views) {
            match view {
                Ok(view) => {
                    read.push(path.clone());
                    data.extend(view);
                }
                Err(error) => {
                    self.broken += 1;
                    crate::say!("{error}");
                }
            }
        }
        if read.is_empty() {
            return Ok(None);
        }
        let shape = (read.len(), 3, size, size);
        Ok(Some((read, Tensor::from_vec(data, shape, &Device::Cpu)?)))
    }

    /// Whether all could be read; says how many could not.
    ///
    /// # Errors
    /// None could.
    pub(super) fn all_read(&self) -> Result<bool> {
        if self.broken > 0 && self.broken == self.files.len() {
            bail!("none of the pictures could be read");
        }
        if self.broken > 0 {
            crate::say!(
                "{} of {} pictures could not be read",
                self.broken,
                self.files.len()
            );
        }
        Ok(self.broken == 0)
    }
}

/// Pictures below a folder, and what is none, both sorted. Hidden folders are left out.
fn below(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut pictures, mut others, mut open) = (Vec::new(), Vec::new(), vec![folder.to_owned()]);
    let mut seen = BTreeSet::new();
    while let Some(folder) = open.pop() {
        // A link may lead back to where it lies.
        let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        if !seen.insert(real) {
            continue;
        }
        let entries = std::fs::read_dir(&folder)
            .with_context(|| format!("{}: cannot be read", folder.display()))?;
        for entry in entries {
            let path = entry
                .with_context(|| format!("{}", folder.display()))?
                .path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if !name.starts_with('.') {
                    open.push(path);
                }
            } else if is_picture_name(&name) {
                pictures.push(path);
            } else {
                others.push(path);
            }
        }
    }
    pictures.sort();
    others.sort();
    Ok((pictures, others))
}
