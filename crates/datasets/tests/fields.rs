//! Every field that a row may have, under every reader: it changes what is read, or it is refused by name. None is read
//! past (huggingface/datasets#4015 is about one that was).

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

use std::fs;
use std::path::Path;

use datasets::{Catalogue, Dataset};
use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// Fields of a row.
const FIELDS: [&str; 18] = [
    "title", "aliases", "images", "reader", "split", "names", "labels", "parts", "groups",
    "ignore", "rename", "unsplit", "prompt", "classes", "pictures", "augmix", "flip", "archives",
];

/// A reader: its row without any field that can be left out, and what each field could be set to, with whether the
/// reader uses it.
struct Reader {
    name: &'static str,
    needs: &'static [(&'static str, &'static str)],
    fields: &'static [(&'static str, &'static str, bool)],
}

/// What every reader uses alike.
const ALIKE: [(&str, &str, bool); 8] = [
    ("title", "\"Pets at home\"", true),
    ("aliases", "[\"other\"]", true),
    ("prompt", "\"{} on a table.\"", true),
    ("classes", "5", true),
    ("pictures", "{ train = 9, val = 9, test = 9 }", true),
    ("augmix", "false", true),
    ("flip", "false", true),
    (
        "archives",
        "[{ file = \"a.zip\", url = \"https://example.org/a.zip\", gives = { x = \"i\" } }]",
        true,
    ),
];

const READERS: [Reader; 7] = [
    Reader {
        name: "split-json",
        needs: &[("images", "\"a\""), ("split", "\"split.json\"")],
        fields: &[
            ("images", "\"b\"", true),
            ("split", "\"other.json\"", true),
            ("names", "\"names.txt\"", false),
            ("parts", "{ test = \"x\" }", false),
            ("ignore", "[\"cat\"]", false),
            ("rename", "{ cat = \"tiger\" }", false),
            ("groups", "{ list = \"apart.csv\" }", true),
            ("groups", "{ list = \"shared.csv\" }", false),
            ("labels", "[\"x\"]", false),
        ],
    },
    // Its split file is not there, so that `unsplit` counts.
    Reader {
        name: "split-json",
        needs: &[
            ("images", "\"a\""),
            ("split", "\"absent.json\""),
            ("unsplit", "{ from = \"class-folders\" }"),
        ],
        fields: &[
            (
                "unsplit",
                "{ from = \"class-folders\", ignore = [\"emu\"] }",
                true,
            ),
            (
                "unsplit",
                "{ from = \"class-folders\", rename = { cat = \"tiger\" } }",
                true,
            ),
        ],
    },
    Reader {
        name: "class-folders",
        needs: &[("images", "\"a\"")],
        fields: &[
            ("images", "\"b\"", true),
            ("split", "\"split.json\"", false),
            ("names", "\"names.txt\"", true),
            ("ignore", "[\"emu\"]", true),
            ("rename", "{ cat = \"tiger\" }", true),
            ("rename", "{ cta = \"tiger\" }", false),
            ("unsplit", "{ from = \"class-folders\" }", false),
            ("groups", "{ list = \"numbered.csv\" }", true),
            (
                "groups",
                "{ list = \"numbered.csv\", folds = \"folds.json\", fold = \"one\" }",
                true,
            ),
            ("groups", "{ list = \"shared.csv\" }", false),
            ("labels", "[\"x\"]", false),
        ],
    },
    Reader {
        name: "class-folders",
        needs: &[
            ("images", "\".\""),
            ("parts", "{ train = \"a\", test = \"a\" }"),
        ],
        fields: &[
            ("parts", "{ train = \"a\", test = \"b\" }", true),
            (
                "parts",
                "{ train = \"a\", val = \"b\", test = \"a\" }",
                true,
            ),
            ("parts", "{ train = \"a\", test = \"../a\" }", false),
            ("parts", "{ train = \"a\" }", false),
            ("names", "\"names.txt\"", true),
            ("ignore", "[\"emu\"]", true),
            ("rename", "{ cat = \"tiger\" }", true),
            ("rename", "{ cta = \"tiger\" }", false),
        ],
    },
    Reader {
        name: "numbered-folders",
        needs: &[("images", "\"n\""), ("names", "\"lines.txt\"")],
        fields: &[
            ("images", "\"m\"", true),
            ("names", "\"ids.txt\"", true),
            ("groups", "{ list = \"numbers.csv\" }", true),
            ("labels", "[\"x\"]", false),
            ("split", "\"split.json\"", false),
            ("parts", "{ test = \"x\" }", false),
            ("ignore", "[\"0\"]", false),
            ("rename", "{ 0 = \"tiger\" }", false),
            ("unsplit", "{ from = \"class-folders\" }", false),
        ],
    },
    Reader {
        name: "picture-lists",
        needs: &[
            ("images", "\"a/cat\""),
            ("names", "\"plain.txt\""),
            ("parts", "{ test = \"test.txt\" }"),
        ],
        fields: &[
            ("images", "\"a/dog\"", true),
            ("names", "\"turned.txt\"", true),
            ("groups", "{ list = \"flat.csv\" }", true),
            ("groups", "{ list = \"shared.csv\" }", false),
            ("labels", "[\"x\"]", false),
            (
                "parts",
                "{ train = \"test.txt\", test = \"test.txt\" }",
                true,
            ),
            ("parts", "{ val = \"test.txt\", test = \"test.txt\" }", true),
            ("split", "\"split.json\"", false),
            ("ignore", "[\"cat\"]", false),
            ("rename", "{ cat = \"tiger\" }", false),
            ("unsplit", "{ from = \"class-folders\" }", false),
        ],
    },
    Reader {
        name: "array-file",
        needs: &[("images", "\"one.npz\""), ("labels", "[\"cat\", \"dog\"]")],
        fields: &[
            ("images", "\"two.npz\"", true),
            ("labels", "[\"tiger\", \"wolf\"]", true),
            ("labels", "[\"tiger\"]", false),
            ("names", "\"plain.txt\"", false),
            ("split", "\"split.json\"", false),
            ("parts", "{ test = \"x\" }", false),
            ("groups", "{ list = \"flat.csv\" }", false),
            ("ignore", "[\"cat\"]", false),
            ("rename", "{ cat = \"tiger\" }", false),
            ("unsplit", "{ from = \"class-folders\" }", false),
        ],
    },
];

/// A folder that every reader finds something in: two of each kind, that differ.
fn data() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: String, bytes: &[u8]| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let jpeg = fs::read(Path::new(FIXTURES).join("pillow/ycc420.jpg")).unwrap();
    for i in 0..4 {
        for class in ["cat", "dog", "emu"] {
            write(format!("a/{class}/{i}.jpg"), &jpeg);
        }
        for class in ["cat", "dog"] {
            write(format!("b/{class}/{i}.jpg"), &jpeg);
        }
    }
    for (images, numbers) in [("n", 0..2), ("m", 0..1)] {
        for number in numbers {
            write(format!("{images}/{number}/p.jpg"), &jpeg);
        }
    }
    let split = |names: [&str; 2]| {
        let list = |i: usize| {
            let of = |(c, name): (usize, &str)| {
                serde_json::json!([format!("{}/{i}.jpg", ["cat", "dog"][c]), c, name])
            };
            names.into_iter().enumerate().map(of).collect::<Vec<_>>()
        };
        serde_json::json!({"train": list(0), "val": list(1), "test": list(2)}).to_string()
    };
    let texts = [
        ("split.json", split(["cat", "dog"])),
        ("other.json", split(["tiger", "wolf"])),
        (
            "names.txt",
            "cat tiger\ndog wolf\nemu big bird\n".to_owned(),
        ),
        ("lines.txt", "tiger\nbig wolf\n".to_owned()),
        ("ids.txt", "n01 cat\nn02 dog\n".to_owned()),
        ("plain.txt", "cat\ndog\n".to_owned()),
        ("turned.txt", "dog\ncat\n".to_owned()),
        ("test.txt", "0 cat\n1 dog\n".to_owned()),
        (
            "apart.csv",
            listed("path,group", |class, i| {
                format!("{class}/{i}.jpg,{}", ["a", "b", "c", "d"][i])
            }),
        ),
        (
            "shared.csv",
            listed("path,group", |class, i| format!("{class}/{i}.jpg,one")),
        ),
        (
            "numbered.csv",
            listed("subject,classname,img", |class, i| {
                format!("p{i},{class},{i}.jpg")
            }),
        ),
        (
            "folds.json",
            r#"{"one": {"train": ["p0", "p2"], "test": ["p1"]}}"#.to_owned(),
        ),
        (
            "numbers.csv",
            "path,group\n0/p.jpg,1\n1/p.jpg,2\n".to_owned(),
        ),
        ("flat.csv", "path,group\n0.jpg,1\n1.jpg,2\n".to_owned()),
    ];
    for (name, text) in texts {
        write(name.to_owned(), text.as_bytes());
    }
    for (name, labels) in [("one.npz", [0, 1]), ("two.npz", [1, 0])] {
        write(name.to_owned(), &npz(labels));
    }
    folder
}

/// Lines of all pictures of the class folders, under a head.
fn listed(head: &str, line: impl Fn(&str, usize) -> String) -> String {
    let all = ["cat", "dog", "emu"]
        .into_iter()
        .flat_map(|class| (0..4).map(move |i| (class, i)));
    let lines: Vec<String> = all.map(|(class, i)| line(class, i)).collect();
    format!("{head}\n{}\n", lines.join("\n"))
}

/// A file of arrays as MedMNIST's, two pictures of one pixel to train and to test on.
fn npz(labels: [u8; 2]) -> Vec<u8> {
    use std::io::Write;
    let npy = |shape: &str, data: [u8; 2]| {
        let text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n");
        let length = (text.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], text.as_bytes(), &data].concat()
    };
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for part in ["train", "test"] {
        for (what, bytes) in [
            ("images", npy("(2, 1, 1)", [7, 9])),
            ("labels", npy("(2, 1)", labels)),
        ] {
            zip.start_file(
                format!("{part}_{what}.npy"),
                zip::write::SimpleFileOptions::default(),
            )
            .unwrap();
            zip.write_all(&bytes).unwrap();
        }
    }
    zip.finish().unwrap().into_inner()
}

fn row(reader: &Reader, changed: Option<(&str, &str)>) -> String {
    let mut text = format!("[mine]\nreader = \"{}\"\n", reader.name);
    let changed_field = changed.map_or("", |(field, _)| field);
    for (field, value) in reader.needs.iter().filter(|(f, _)| *f != changed_field) {
        text += &format!("{field} = {value}\n");
    }
    if let Some((field, value)) = changed {
        text += &format!("{field} = {value}\n");
    }
    text
}

/// All that can be told of a dataset of a row.
fn told(text: &str, root: &Path) -> Result<String, String> {
    let error = |e: datasets::Error| e.to_string();
    let catalogue = Catalogue::parse(text, Path::new("mine.toml")).map_err(error)?;
    let row = catalogue.get("mine").unwrap();
    let dataset = Dataset::open(row, root).map_err(error)?;
    let split = &dataset.split;
    Ok(format!(
        "{} {} {} {} {:?} {:?} {:?} {} {:?} {:?}",
        dataset.title,
        dataset.template,
        dataset.augmix,
        dataset.flip,
        split.train,
        split.val,
        split.test,
        catalogue.get("other").is_some(),
        row.archives,
        // Where pictures are looked for shows in nothing else.
        (dataset.notes, row.images.clone()),
    ))
}

#[test]
fn every_field_of_a_row_is_used_or_refused_under_every_reader() {
    let data = data();
    for reader in &READERS {
        let plain = told(&row(reader, None), data.path()).unwrap();
        for (field, value, is_used) in reader.fields.iter().chain(&ALIKE) {
            let what = format!("{}: {field} = {value}", reader.name);
            let found = told(&row(reader, Some((field, value))), data.path());
            match (is_used, found) {
                (true, Ok(found)) => assert_ne!(found, plain, "{what}: is read past"),
                (true, Err(error)) => panic!("{what}: {error}"),
                (false, Ok(_)) => panic!("{what}: is read past"),
                (false, Err(error)) => assert!(error.contains(field), "{what}: {error}"),
            }
        }
    }
}

#[test]
fn the_walk_leaves_no_field_out() {
    let text = "[mine]\nimages = \"a\"\nreader = \"class-folders\"\nno-such-field = 1\n";
    let error = Catalogue::parse(text, Path::new("mine.toml"))
        .unwrap_err()
        .to_string();
    let known: Vec<&str> = error
        .split("expected one of ")
        .nth(1)
        .unwrap_or_default()
        .split('`')
        .skip(1)
        .step_by(2)
        .collect();
    let mut expected = FIELDS.to_vec();
    expected.sort_unstable();
    let mut known_sorted = known.clone();
    known_sorted.sort_unstable();
    if !known.is_empty() {
        assert_eq!(known_sorted, expected, "{error}");
    }
    let readers = [
        "split-json",
        "class-folders",
        "numbered-folders",
        "picture-lists",
        "array-file",
    ];
    for name in readers {
        let own = READERS.iter().filter(|r| r.name == name);
        let walked: Vec<&str> = own
            .flat_map(|r| {
                r.fields
                    .iter()
                    .map(|f| f.0)
                    .chain(r.needs.iter().map(|n| n.0))
            })
            .chain(ALIKE.iter().map(|f| f.0))
            .chain(["reader"])
            .collect();
        for field in FIELDS {
            assert!(
                walked.contains(&field),
                "{name}: {field} is not walked over"
            );
        }
    }
    // What the documentation names is what there is.
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/datasets.md");
    let docs = fs::read_to_string(docs).unwrap();
    for field in FIELDS {
        let is_named = [
            format!("`{field}`"),
            format!("`{field} "),
            format!("{field} ="),
            format!(".{field}]]"),
        ];
        assert!(
            is_named.iter().any(|n| docs.contains(n.as_str())),
            "{field}"
        );
    }
}
