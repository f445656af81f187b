//! The field's split file: `{"train": [[path, label, class name], ...], "val": [...], "test": [...]}`.

use std::path::Path;

use serde_json::Value;

use super::{Lists, PassedOver, json_error, problem, read_named, shown, written};
use crate::error::{Problem, ProblemKind};
use crate::split::{Origin, Part};
use crate::{Error, Item, Split};

/// Reads a split file. `val` may be left out.
pub(super) fn read(path: &Path) -> Result<Lists, Error> {
    let hint = "the published ones are linked from DATASETS.md of github.com/KaiyangZhou/CoOp";
    let text = read_named(path, "the split file", hint)?;
    let split = parse(&text, path)?;
    Ok(Lists {
        split,
        from: path.to_owned(),
        listed: false,
        passed: PassedOver::default(),
        source: None,
        shared_out: None,
    })
}

/// Parses a split file; `path` is for messages.
pub(crate) fn parse(text: &str, path: &Path) -> Result<Split, Error> {
    let value: Value = serde_json::from_str(text).map_err(|error| json_error(path, &error))?;
    let mut problems = Vec::new();
    let mut list = |part: Part| match value.get(part.name()) {
        Some(Value::Array(entries)) => {
            let mut items = Vec::with_capacity(entries.len());
            for (index, entry) in entries.iter().enumerate() {
                match item(entry) {
                    Ok(item) => items.push(item),
                    Err((field, kind)) => problems.push(problem(part, index, field, kind)),
                }
            }
            items
        }
        None if part == Part::Val => Vec::new(),
        other => {
            let found = other.map_or("nothing".to_owned(), shown);
            let kind = ProblemKind::Form {
                found,
                expected: "a list of [path, label, class name]",
            };
            problems.push(Problem {
                field: part.name().to_owned(),
                kind,
            });
            Vec::new()
        }
    };
    let split = Split {
        train: list(Part::Train),
        val: list(Part::Val),
        test: list(Part::Test),
        origin: Origin::Published,
    };
    if problems.is_empty() {
        Ok(split)
    } else {
        Err(Error::Entries {
            path: path.to_owned(),
            problems,
        })
    }
}

fn item(entry: &Value) -> Result<Item, (&'static str, ProblemKind)> {
    let form = |field, value: &Value, expected| {
        (
            field,
            ProblemKind::Form {
                found: shown(value),
                expected,
            },
        )
    };
    let Some([path, label, name]) = entry.as_array().map(Vec::as_slice) else {
        return Err(form("", entry, "a triple [path, label, class name]"));
    };
    let text = path.as_str().filter(|path| !path.is_empty());
    let number = label.as_u64().and_then(|label| u32::try_from(label).ok());
    Ok(Item {
        path: written(text.ok_or_else(|| form(".path", path, "a path"))?),
        label: number.ok_or_else(|| form(".label", label, "a whole number from 0"))?,
        class_name: name
            .as_str()
            .ok_or_else(|| form(".name", name, "a class name"))?
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Split, String> {
        super::parse(text, Path::new("split.json")).map_err(|error| error.to_string())
    }

    #[test]
    fn every_bad_entry_is_reported_with_its_place() {
        let error = parse(
            r#"{"train": [["a.jpg", 0, "a"], ["b.jpg", -1, "b"], ["c.jpg", 1.5, "c"], "d.jpg", [5, 0, "e"]],
                "val": {}, "test": [["f.jpg", 0, null], ["g.jpg", 4294967296, "g"], ["", 0, "a"]]}"#,
        )
        .unwrap_err();
        assert_eq!(
            error.lines().collect::<Vec<_>>(),
            [
                "split.json: train[1].label: found -1, expected a whole number from 0",
                "split.json: train[2].label: found 1.5, expected a whole number from 0",
                "split.json: train[3]: found \"d.jpg\", expected a triple [path, label, class name]",
                "split.json: train[4].path: found 5, expected a path",
                "split.json: val: found {}, expected a list of [path, label, class name]",
                "split.json: test[0].name: found null, expected a class name",
                "split.json: test[1].label: found 4294967296, expected a whole number from 0",
                "split.json: test[2].path: found \"\", expected a path",
            ]
        );
    }

    #[test]
    fn broken_json_is_reported_with_line_and_column() {
        assert_eq!(
            parse("{\"train\": [],\n \"val\": [}").unwrap_err(),
            "split.json:2:10: expected value"
        );
    }

    #[test]
    fn a_missing_test_list_is_an_error_and_a_missing_val_list_is_not() {
        assert_eq!(
            parse(r#"{"train": []}"#).unwrap_err(),
            "split.json: test: found nothing, expected a list of [path, label, class name]"
        );
        assert!(parse(r#"{"train": [], "test": []}"#).is_ok());
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            (0u32..4).prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec(("(train|val|test|[a-z]{0,4})", inner), 0..6)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_gives_a_split_or_an_error(value in json()) {
            if let Ok(split) = parse(&value.to_string()) {
                let _ = (split.problems(), split.hash(), split.repeated(), split.class_names());
            }
        }

        #[test]
        fn any_triples_give_a_split_or_problems(
            entries in proptest::collection::vec(("(\\.\\./|/)?\\PC{0,9}", any::<u32>(), "\\PC{0,300}"), 0..40),
            shots in 0usize..20,
            seed in any::<u64>(),
        ) {
            let text = serde_json::json!({"train": entries, "val": entries, "test": entries}).to_string();
            if let Ok(split) = parse(&text) {
                let _ = split.problems();
                let picks = crate::picks::draw(&split, shots, seed);
                let _ = split.with_picks(&picks).subset(crate::ClassSet::Novel);
            }
        }

        #[test]
        fn any_text_gives_a_split_or_an_error(text in "[\\[\\]{}\",:0-9a-z\\\\ ]{0,200}") {
            let _ = parse(&text);
        }
    }
}
