//! The few-shot pictures of a trial: drawn as published, or read from a list that somebody has published.
//!
//! Lists are of this program's own form (`.json`), Dassl's pickles (`split_fewshot/shot_16-seed_1.pkl`) or one JSON
//! object a line (`.jsonl`), as 2SFS ships them; the two latter are read by `foreign`.

mod foreign;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use datasets::{Item, Picks, Split, picks as drawing};

use crate::run::suite::PicksFrom;

/// The name of a list, as a run writes it to `picks/` of its results.
pub fn name(dataset: &str, shots: usize, seed: u64) -> String {
    format!("{dataset}-{shots}shot-seed{seed}.json")
}

/// The pictures of a dataset, shots and seed. A folder has them as a run writes them, or as
/// `<dataset>/shot_<shots>-seed_<seed>` with `.json`, `.pkl` or `.jsonl`, in a `split_fewshot` below the dataset too, after
/// the published code's `split_fewshot/shot_16-seed_1.pkl`.
///
/// # Errors
/// A list that is not there, does not parse, names a picture the split does not have or has twice, has more pictures of a
/// class than `shots`, or none of a class.
pub fn picks(
    from: &PicksFrom,
    dataset: &str,
    split: &Split,
    shots: usize,
    seed: u64,
) -> Result<Picks> {
    let path = match from {
        PicksFrom::Drawn => return Ok(drawing::draw(split, shots, seed)),
        PicksFrom::File(path) if !path.exists() => {
            bail!("{}: there is no such pick list (picks)", path.display())
        }
        PicksFrom::File(path) => path.clone(),
        PicksFrom::Folder(folder) => {
            let names = names(dataset, shots, seed);
            let Some(path) = names.iter().map(|n| folder.join(n)).find(|p| p.exists()) else {
                bail!(
                    "{}: holds none of {} (picks)",
                    folder.display(),
                    names.join(", ")
                )
            };
            path
        }
    };
    let picks = match path.extension().and_then(|e| e.to_str()) {
        Some("pkl") => Picks::from_value(&foreign::pickled(&path, split)?, &path, split)?,
        Some("jsonl") => Picks::from_value(&foreign::lines(&path, split)?, &path, split)?,
        _ => Picks::read(&path, split)?,
    };
    check(&path, &picks, split, shots)?;
    Ok(picks)
}

/// Where a folder may have the list, in the order they are tried.
fn names(dataset: &str, shots: usize, seed: u64) -> Vec<String> {
    let shot = format!("shot_{shots}-seed_{seed}");
    let mut names = vec![name(dataset, shots, seed)];
    for extension in ["json", "pkl", "jsonl"] {
        names.push(format!("{dataset}/{shot}.{extension}"));
    }
    names.push(format!("{dataset}/split_fewshot/{shot}.pkl"));
    names
}

/// A list of the right pictures may still be another list than the one that was meant.
fn check(path: &Path, picks: &Picks, split: &Split, shots: usize) -> Result<()> {
    let mut problems = Vec::new();
    let lists: [(&str, &[Item], usize); 2] = [
        ("train", &picks.train, shots),
        ("val", &picks.val, shots.min(drawing::VAL_SHOTS)),
    ];
    for (part, items, most) in lists {
        let mut counts: BTreeMap<u32, (usize, &str)> = BTreeMap::new();
        let mut seen = std::collections::HashSet::new();
        for (index, item) in items.iter().enumerate() {
            counts.entry(item.label).or_insert((0, &item.class_name)).0 += 1;
            if !seen.insert(&item.path) {
                let path = item.path.display();
                problems.push(format!("{part}[{index}]: {path} stands twice"));
            }
        }
        for (label, (count, class)) in &counts {
            if *count > most {
                problems.push(format!(
                    "{part}: {count} pictures of class {label} ({class}); {shots} shots are {most} at most"
                ));
            }
        }
        if part == "train" {
            // Without one, the class would be missing from the classifier.
            let missing = split
                .train
                .iter()
                .filter(|i| !counts.contains_key(&i.label));
            let missing: BTreeMap<u32, &str> =
                missing.map(|i| (i.label, i.class_name.as_str())).collect();
            for (label, class) in missing {
                problems.push(format!("train: no picture of class {label} ({class})"));
            }
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    const SHOWN: usize = 10;
    let more = problems.len().saturating_sub(SHOWN);
    let mut lines: Vec<String> = problems
        .iter()
        .take(SHOWN)
        .map(|problem| format!("{}: {problem}", path.display()))
        .collect();
    if more > 0 {
        lines.push(format!("{}: and {more} more problems", path.display()));
    }
    bail!(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasets::Origin;

    fn split() -> Split {
        let list = |part: &str, n: usize| {
            (0..n)
                .map(|i| Item {
                    path: format!("{part}/{i}.jpg").into(),
                    label: (i % 2) as u32,
                    class_name: ["cat", "dog"][i % 2].to_owned(),
                })
                .collect()
        };
        Split {
            train: list("train", 10),
            val: list("val", 4),
            test: list("test", 4),
            origin: Origin::Published,
        }
    }

    fn read(text: &str, shots: usize) -> Result<Picks> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picks.json");
        std::fs::write(&path, text).unwrap();
        picks(&PicksFrom::File(path), "pets", &split(), shots, 1).map_err(|e| {
            anyhow::anyhow!(
                e.to_string()
                    .replace(&folder.path().display().to_string(), "DIR")
            )
        })
    }

    #[test]
    fn what_a_run_wrote_is_read_back_whichever_name_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let drawn = picks(&PicksFrom::Drawn, "pets", &split(), 2, 7).unwrap();
        let from = PicksFrom::Folder(folder.path().to_owned());
        for name in [name("pets", 2, 7), "pets/shot_2-seed_7.json".to_owned()] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            drawn.write(&path).unwrap();
            assert_eq!(picks(&from, "pets", &split(), 2, 7).unwrap(), drawn);
            std::fs::remove_file(path).unwrap();
        }
        let error = picks(&from, "pets", &split(), 2, 7)
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with(
                "holds none of pets-2shot-seed7.json, pets/shot_2-seed_7.json, pets/shot_2-seed_7.pkl, \
                 pets/shot_2-seed_7.jsonl, pets/split_fewshot/shot_2-seed_7.pkl (picks)"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_list_that_is_not_the_one_that_was_meant_is_refused() {
        let good = r#"{"train": ["train/0.jpg", "train/1.jpg"]}"#;
        assert_eq!(read(good, 1).unwrap().train.len(), 2);
        for (text, shots, expected) in [
            (
                r#"{"train": ["train/0.jpg", "train/2.jpg"]}"#,
                1,
                "DIR/picks.json: train: 2 pictures of class 0 (cat); 1 shots are 1 at most\n\
                 DIR/picks.json: train: no picture of class 1 (dog)",
            ),
            (
                r#"{"train": ["train/0.jpg", "train/0.jpg", "train/1.jpg"]}"#,
                4,
                "DIR/picks.json: train[1]: train/0.jpg stands twice",
            ),
            (
                r#"{"train": ["train/0.jpg", "test/1.jpg"]}"#,
                1,
                "DIR/picks.json: train[1]: \"test/1.jpg\" is not in this list of the split",
            ),
        ] {
            assert_eq!(read(text, shots).unwrap_err().to_string(), expected);
        }
    }
}
