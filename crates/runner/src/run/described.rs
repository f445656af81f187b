//! Descriptions of classes that a user brings: what language models wrote about them, in the layouts that are public.

use std::path::Path;

use anyhow::{Context, Result, bail};
use datasets::{ClassSet, Dataset};
use methods::Descriptions;

/// The descriptions of a dataset's classes: `{ "class": ["text", ...] }`, from the file `path`, or from
/// `<dataset>.json` where `path` is a folder. Classes go by their names with spaces, whatever the case; what describes
/// other classes is left alone.
///
/// # Errors
/// A file that is not there or not of this shape; every class that has no text.
pub fn read(path: &Path, dataset: &Dataset) -> Result<Descriptions> {
    let path = if path.is_dir() {
        path.join(format!("{}.json", dataset.id))
    } else {
        path.to_owned()
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{}: cannot be read (descriptions)", path.display()))?;
    let file: Descriptions = serde_json::from_str(&text).with_context(|| {
        format!(
            "{}: must be {{ \"class name\": [\"description\", ...], ... }}",
            path.display()
        )
    })?;
    let plain = |name: &str| name.replace('_', " ").to_lowercase();
    let file: Descriptions = file
        .into_iter()
        .map(|(name, texts)| (plain(&name), texts))
        .collect();
    let (mut found, mut without) = (Descriptions::new(), Vec::new());
    for name in dataset.split.names_of(ClassSet::All)? {
        let name = name.replace('_', " ");
        match file.get(&plain(&name)) {
            Some(texts) => {
                found.insert(name, texts.clone());
            }
            None => without.push(name),
        }
    }
    if !without.is_empty() {
        bail!(
            "{}: describes no class called {} of dataset {}",
            path.display(),
            without.join(", "),
            dataset.id
        );
    }
    Ok(found)
}
