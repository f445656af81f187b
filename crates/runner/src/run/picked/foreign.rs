//! Few-shot lists of other tools, put in the form of this program's own: `{"train": [[path, label, name], ...], "val": [...]}`.
//!
//! Their paths are those of somebody else's machine. The longest end of a path that the split has is the picture.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clip::weights::pickle::{self, Tree};
use datasets::Split;
use serde_json::{Map, Value, json};

/// Dassl's pickle at c61a1b5: `{"train": [Datum, ...], "val": [Datum, ...]}`, each with `_impath`, `_label`, `_domain` and
/// `_classname`. Read as data; nothing in it is executed.
///
/// # Errors
/// A file that is no such pickle, with the entry.
pub(super) fn pickled(path: &Path, split: &Split) -> Result<Value> {
    let tree = pickle::read_plain(path)?;
    let Some(train) = tree.get("train") else {
        bail!(
            "{}: has no \"train\"; a few-shot list of Dassl holds \"train\" and \"val\"",
            path.display()
        )
    };
    let list = |part: &str, list: &Tree, known: &HashSet<&Path>| -> Result<Vec<Value>> {
        let entry = |(index, datum): (usize, &Tree)| {
            entry_of(datum, known).with_context(|| format!("{}: {part}[{index}]", path.display()))
        };
        list.items().iter().enumerate().map(entry).collect()
    };
    let train = list("train", &train, &paths(&split.train))?;
    let val = match tree.get("val") {
        Some(val) => list("val", &val, &paths(&split.val))?,
        None => Vec::new(),
    };
    Ok(json!({ "train": train, "val": val }))
}

fn entry_of(datum: &Tree, known: &HashSet<&Path>) -> Result<Value> {
    let attribute = |name: &str| datum.get(&format!("_{name}")).or_else(|| datum.get(name));
    let path = attribute("impath");
    let Some(path) = path.as_ref().and_then(Tree::text) else {
        let class = datum.class().unwrap_or("no object");
        bail!("{class} without a text _impath; expected a Datum")
    };
    let path = known_end(path, known);
    let label = attribute("label").and_then(|l| l.integer());
    let name = attribute("classname");
    let name = name.as_ref().and_then(Tree::text);
    Ok(match (label, name) {
        (Some(label), Some(name)) if !name.is_empty() => json!([path, label, name]),
        _ => json!(path),
    })
}

/// One JSON object a line with `impath` (or `path`), `label` and `classname`, or a line that is an entry of this program's
/// own lists. A line whose `split` is `val` is a validation picture; all others are training pictures.
///
/// # Errors
/// A line that does not parse or names no picture, with its number.
pub(super) fn lines(path: &Path, split: &Split) -> Result<Value> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("{} (picks)", path.display()))?;
    let (train_paths, val_paths) = (paths(&split.train), paths(&split.val));
    let (mut train, mut val) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let at = || format!("{}:{}", path.display(), number + 1);
        let value: Value = serde_json::from_str(line).with_context(at)?;
        let Value::Object(object) = value else {
            train.push(value);
            continue;
        };
        let is_val = object.get("split").and_then(Value::as_str) == Some("val");
        let known = if is_val { &val_paths } else { &train_paths };
        let Some(entry) = line_entry(&object, known) else {
            bail!(
                "{}: found {line}, expected an object with impath, label and classname",
                at()
            )
        };
        if is_val { &mut val } else { &mut train }.push(entry);
    }
    Ok(json!({ "train": train, "val": val }))
}

fn line_entry(object: &Map<String, Value>, known: &HashSet<&Path>) -> Option<Value> {
    let field = |names: [&str; 2]| names.into_iter().find_map(|n| object.get(n));
    let path = known_end(field(["impath", "path"])?.as_str()?, known);
    let (label, name) = (
        field(["label", "_label"]),
        field(["classname", "class_name"]),
    );
    Some(match (label, name) {
        (Some(label), Some(name)) => json!([path, label, name]),
        _ => json!(path),
    })
}

fn paths(items: &[datasets::Item]) -> HashSet<&Path> {
    items.iter().map(|i| i.path.as_path()).collect()
}

/// The longest end of `path` that is known, in whole names; `path` itself where none is, so that the error shows it.
fn known_end<'a>(path: &'a str, known: &HashSet<&Path>) -> &'a str {
    let mut end = path;
    while !known.contains(Path::new(end)) {
        match end.split_once('/') {
            Some((_, rest)) => end = rest,
            None => return path,
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::picked::picks;
    use crate::run::suite::PicksFrom;
    use datasets::{Item, Origin};

    // Written by CPython 3 from two training pictures and one for validation, with a class that is named like Dassl's.
    const PROTOCOL_2: &[u8] = b"\
        \x80\x02}q\x00(X\x05\x00\x00\x00trainq\x01]q\x02(cdassl.data.datasets.base_dataset\x0aDatum\
        \x0aq\x03)\x81q\x04}q\x05(X\x07\x00\x00\x00_impathq\x06X%\x00\x00\x00/home/me/DATA/pets/imag\
        es/train/3.jpgq\x07X\x06\x00\x00\x00_labelq\x08K\x01X\x07\x00\x00\x00_domainq\x09K\x00X\x0a\
        \x00\x00\x00_classnameq\x0aX\x03\x00\x00\x00dogq\x0bubh\x03)\x81q\x0c}q\x0d(h\x06X%\x00\x00\
        \x00/home/me/DATA/pets/images/train/0.jpgq\x0eh\x08K\x00h\x09K\x00h\x0aX\x03\x00\x00\x00catq\
        \x0fubeX\x03\x00\x00\x00valq\x10]q\x11h\x03)\x81q\x12}q\x13(h\x06X#\x00\x00\x00/home/me/DATA\
        /pets/images/val/1.jpgq\x14h\x08K\x01h\x09K\x00h\x0ah\x0bubau.";
    const PROTOCOL_4: &[u8] = b"\
        \x80\x04\x95-\x01\x00\x00\x00\x00\x00\x00}\x94(\x8c\x05train\x94]\x94(\x8c dassl.data.datase\
        ts.base_dataset\x94\x8c\x05Datum\x94\x93\x94)\x81\x94}\x94(\x8c\x07_impath\x94\x8c%/home/me/\
        DATA/pets/images/train/3.jpg\x94\x8c\x06_label\x94K\x01\x8c\x07_domain\x94K\x00\x8c\x0a_clas\
        sname\x94\x8c\x03dog\x94ubh\x05)\x81\x94}\x94(h\x08\x8c%/home/me/DATA/pets/images/train/0.jp\
        g\x94h\x0aK\x00h\x0bK\x00h\x0c\x8c\x03cat\x94ube\x8c\x03val\x94]\x94h\x05)\x81\x94}\x94(h\
        \x08\x8c#/home/me/DATA/pets/images/val/1.jpg\x94h\x0aK\x01h\x0bK\x00h\x0ch\x0dubau.";

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

    /// Train and val paths of a list of one shot, or the error without its folder.
    fn read(name: &str, bytes: &[u8]) -> Result<[Vec<String>; 2], String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let from = PicksFrom::Folder(folder.path().to_owned());
        let names = |items: &[Item]| {
            let path = |i: &Item| i.path.display().to_string();
            items.iter().map(path).collect::<Vec<_>>()
        };
        picks(&from, "pets", &split(), 1, 1)
            .map(|p| [names(&p.train), names(&p.val)])
            .map_err(|e| format!("{e:#}").replace(&folder.path().display().to_string(), "DIR"))
    }

    #[test]
    fn dassls_pickles_are_picks_whoever_wrote_them() {
        for bytes in [PROTOCOL_2, PROTOCOL_4] {
            for name in [
                "pets/shot_1-seed_1.pkl",
                "pets/split_fewshot/shot_1-seed_1.pkl",
            ] {
                let [train, val] = read(name, bytes).unwrap();
                assert_eq!(train, ["train/3.jpg", "train/0.jpg"]);
                assert_eq!(val, ["val/1.jpg"]);
            }
        }
    }

    #[test]
    fn a_pickle_of_other_pictures_or_of_code_is_refused() {
        let at = "pets/shot_1-seed_1.pkl";
        let moved: Vec<u8> = String::from_utf8_lossy(PROTOCOL_2)
            .contains("train/3.jpg")
            .then(|| {
                let mut bytes = PROTOCOL_2.to_vec();
                let found = bytes.windows(11).position(|w| w == b"train/3.jpg").unwrap();
                bytes[found + 6] = b'x';
                bytes
            })
            .unwrap();
        let error = read(at, &moved).unwrap_err();
        assert!(
            error.ends_with("train[0]: \"/home/me/DATA/pets/images/train/x.jpg\" is not in this list of the split"),
            "{error}"
        );
        let error = read(at, b"cos\nsystem\n(S'true'\ntR.").unwrap_err();
        assert!(error.contains("os.system"), "{error}");
        let error = read(at, &PROTOCOL_4[..PROTOCOL_4.len() - 3]).unwrap_err();
        assert!(error.contains("shot_1-seed_1.pkl"), "{error}");
        let error = read(at, b"(dp0\n.").unwrap_err();
        assert!(error.contains("has no \"train\""), "{error}");
    }

    #[test]
    fn lines_of_json_are_picks() {
        let at = "pets/shot_1-seed_1.jsonl";
        let good = r#"{"impath": "/data/pets/train/0.jpg", "label": 0, "classname": "cat"}
{"impath": "train/3.jpg", "label": 1, "classname": "dog"}
{"impath": "val/1.jpg", "label": 1, "classname": "dog", "split": "val"}
"#;
        let [train, val] = read(at, good.as_bytes()).unwrap();
        assert_eq!(train, ["train/0.jpg", "train/3.jpg"]);
        assert_eq!(val, ["val/1.jpg"]);
        let error = read(at, good.replace("\"label\": 0", "\"label\": 1").as_bytes()).unwrap_err();
        assert!(
            error.contains(
                "train[0]: \"train/0.jpg\" is [1, \"cat\"] here but [0, \"cat\"] in the split"
            ),
            "{error}"
        );
        let error = read(at, b"{\"label\": 0}\n").unwrap_err();
        assert!(
            error.starts_with("DIR/pets/shot_1-seed_1.jsonl:1: found {"),
            "{error}"
        );
        let error = read(at, b"{\n").unwrap_err();
        assert!(
            error.starts_with("DIR/pets/shot_1-seed_1.jsonl:1: "),
            "{error}"
        );
    }
}
