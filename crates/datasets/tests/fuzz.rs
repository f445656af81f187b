//! Mangled pictures, split files, catalogues and archives: a result or an error, never a panic, a hang or memory beyond
//! the stated limits.
//!
//! A few seconds by default; `PROPTEST_CASES=200000 cargo test --release -p datasets --test fuzz` for minutes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use datasets::catalogue::{Archive, Gives, Source};
use datasets::decode::MAX_PIXELS;
use datasets::fetch::{Fetcher, Options};
use datasets::{ClassSet, DecodeError, decode};
use proptest::prelude::*;

fn seeds() -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"));
        let mut paths: Vec<_> = ["pillow", "tiff"]
            .iter()
            .flat_map(|below| std::fs::read_dir(folder.join(below)).unwrap())
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        paths
            .iter()
            .map(|path| std::fs::read(path).unwrap())
            .collect()
    })
}

/// Decodes, and checks what must hold of any outcome.
fn survives(bytes: &[u8]) {
    let start = Instant::now();
    if let Ok(picture) = decode(bytes) {
        assert_eq!(picture.data.len(), picture.width * picture.height * 3);
        assert!(
            picture.width * picture.height <= MAX_PIXELS && picture.width > 0 && picture.height > 0
        );
    }
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?} for {} bytes",
        start.elapsed(),
        bytes.len()
    );
}

proptest! {
    #[test]
    fn flipped_bytes(which in any::<prop::sample::Index>(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut bytes = which.get(seeds()).clone();
        for (place, value) in flips {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        survives(&bytes);
    }

    #[test]
    fn flipped_headers(which in any::<prop::sample::Index>(), flips in prop::collection::vec((0usize..64, any::<u8>()), 1..4)) {
        let mut bytes = which.get(seeds()).clone();
        for (place, value) in flips {
            let place = place % bytes.len();
            bytes[place] = value;
        }
        survives(&bytes);
    }

    #[test]
    fn cut_and_spliced(which in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), from in any::<prop::sample::Index>()) {
        let (head, tail) = (which.get(seeds()), other.get(seeds()));
        let bytes = [&head[..at.index(head.len())], &tail[from.index(tail.len())..]].concat();
        survives(&bytes);
    }

    #[test]
    fn any_bytes_behind_a_known_start(start in prop::sample::select(vec![&b"\xff\xd8\xff"[..], b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8 ", b"RIFF\x40\0\0\0WEBPVP8L", b"GIF89a", b"BM", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]), rest in prop::collection::vec(any::<u8>(), 0..300)) {
        survives(&[start, &rest].concat());
    }
}

const SPLIT: &str = r#"{"train": [["a/1.jpg", 0, "tabby cat"], ["b/é 2.jpg", 1, "missile"], ["c/3.jpg", 2, "missile"]],
 "val": [["a/4.jpg", 0, "tabby cat"]], "test": [["b/5.jpg", 1, "missile"], ["a/6.jpg", 0, "tabby cat"]]}"#;

/// Anything JSON can say, up to some depth, with the words of split files more often than chance has them.
fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u32..5).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["a/1.jpg", "../x", "/etc/x", "a\\\\b", "", "."])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        let key = prop_oneof![
            prop::sample::select(vec!["train", "val", "test"]).prop_map(str::to_owned),
            "\\PC{0,6}"
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// A split whose lists are triples of about the right kind.
fn triples() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let label = prop_oneof![
        (0u32..4).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from)
    ];
    let triple = ("[a-c./\\\\é]{0,8}", label, "\\PC{0,3}")
        .prop_map(|(path, label, name)| Value::from(vec![path.into(), label, name.into()]));
    let list = || prop::collection::vec(triple.clone(), 0..12).prop_map(Value::from);
    (list(), list(), list()).prop_map(
        |(train, val, test)| serde_json::json!({"train": train, "val": val, "test": test}),
    )
}

/// Reads it as a split file; what is accepted keeps the rules of a split, and is drawn and halved.
fn split_survives(text: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, text).unwrap();
    let start = Instant::now();
    if let Ok(split) = datasets::split_file(file.path()) {
        assert!(split.problems().is_empty());
        let picks = datasets::picks::draw(&split, 2, 1);
        for set in [ClassSet::All, ClassSet::Base, ClassSet::Novel] {
            let _ = split.with_picks(&picks).subset(set);
        }
    }
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{} bytes",
        text.len()
    );
}

const CATALOGUE: &str = concat!(
    include_str!("../catalogue.toml"),
    "\n",
    include_str!("../sources.toml")
);

proptest! {
    #[test]
    fn split_files_of_any_json(value in json()) {
        split_survives(value.to_string().as_bytes());
    }

    #[test]
    fn split_files_of_any_triples(value in triples()) {
        split_survives(value.to_string().as_bytes());
    }

    #[test]
    fn split_files_with_flipped_cut_and_repeated_bytes(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        repeat in 1usize..4,
    ) {
        let mut bytes = SPLIT.as_bytes().to_vec();
        for (place, value) in flips {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        bytes.truncate(1 + cut.index(bytes.len() * 2));
        split_survives(&bytes.repeat(repeat));
    }

    #[test]
    fn split_files_nested_deeply(depth in 0usize..100_000, open in "[\\[{]") {
        split_survives(open.repeat(depth).as_bytes());
    }

    #[test]
    fn catalogues_of_spliced_rows(
        at in any::<prop::sample::Index>(),
        from in any::<prop::sample::Index>(),
        length in 0usize..400,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        // Whole rows are tens of lines; a window of them keeps a case short.
        let text = CATALOGUE.as_bytes();
        let start = at.index(text.len());
        let mut bytes = text[start..(start + 2_000).min(text.len())].to_vec();
        let other = from.index(text.len());
        bytes.extend(&text[other..(other + length).min(text.len())]);
        for (place, value) in flips {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let text = String::from_utf8_lossy(&bytes);
        let start = Instant::now();
        if let Ok(catalogue) = datasets::Catalogue::parse(&text, Path::new("my.toml")) {
            for row in catalogue.rows() {
                assert!(row.archives.iter().flat_map(|archive| archive.places()).all(Path::is_relative));
                assert!(row.images.is_relative());
            }
        }
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn catalogues_of_any_values(
        keys in prop::collection::vec(
            prop::sample::select(vec![
                "title", "aliases", "images", "reader", "split", "names", "labels", "parts", "groups", "ignore", "rename", "unsplit", "prompt",
                "classes", "pictures", "augmix", "flip", "archives", "file",
            ]),
            0..8,
        ),
        values in prop::collection::vec(
            prop_oneof![
                Just("\"class-folders\"".to_owned()),
                Just("\"split-json\"".to_owned()),
                Just("\"a/b\"".to_owned()),
                Just("\"../a\"".to_owned()),
                Just("{ train = \"x\", test = 3 }".to_owned()),
                Just("[{ file = \"a\", url = \"http://x\", to = \"/b\" }]".to_owned()),
                any::<i64>().prop_map(|n| n.to_string()),
                "\"[^\"\\\\\\pC]{0,9}\"",
                "\\PC{0,9}",
            ],
            8,
        ),
    ) {
        let lines: Vec<String> = keys.iter().zip(&values).map(|(key, value)| format!("{key} = {value}")).collect();
        let _ = datasets::Catalogue::parse(&format!("[mine]\n{}\n", lines.join("\n")), Path::new("my.toml"));
    }
}

/// A tar, the same in gzip, and a zip, each with files, a folder and a long name.
fn archives() -> &'static [Vec<u8>] {
    static ARCHIVES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    ARCHIVES.get_or_init(|| {
        let long = format!("images/{}.jpg", "n".repeat(180));
        let files: [(&str, &[u8]); 4] = [
            ("images/1.jpg", b"one"),
            ("images/b/2.jpg", b"two"),
            (&long, b"three"),
            ("other.txt", b"four"),
        ];
        let mut tar = tar::Builder::new(Vec::new());
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes).unwrap();
            zip.start_file(name, zip::write::SimpleFileOptions::default())
                .unwrap();
            std::io::Write::write_all(&mut zip, bytes).unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &tar).unwrap();
        vec![
            tar,
            gzip.finish().unwrap(),
            zip.finish().unwrap().into_inner(),
        ]
    })
}

proptest! {
    #[test]
    fn archives_with_flipped_bytes_write_nothing_outside(
        which in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        cut in any::<prop::sample::Index>(),
        is_cut in prop::bool::weighted(0.2),
    ) {
        let mut bytes = which.get(archives()).clone();
        for (place, value) in flips {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("data/downloads/mine");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("a.bin"), bytes).unwrap();
        let archive = Archive {
            file: "a.bin".to_owned(),
            from: Source::ByHand(String::new()),
            bytes: None,
            sums: vec![],
            gives: Gives::Parts { inner: None, parts: vec![("images".to_owned(), "mine/images".into())] },
        };
        let fetcher = Fetcher::new(&root.path().join("data"), Options::default()).unwrap();
        let fetched = fetcher.fetch("mine", &archive, &|_| ()).is_ok();
        assert_eq!(root.path().join("data/mine/images").exists(), fetched);
        assert!(!folder.join("a.bin.unpacking").exists());
        let names = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
        assert_eq!(names(root.path()), 1);
        assert_eq!(names(&root.path().join("data")), 1 + usize::from(fetched));
    }
}

#[test]
fn bombs_are_refused_by_the_stated_limit() {
    // A PNG header of 60,000 x 60,000 pixels.
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend([0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60, 8, 2, 0, 0, 0]);
    png.extend(crc32(&png[12..29]).to_be_bytes());
    png.extend(b"\0\0\0\x08IDAT\x78\x9c\x03\0\0\0\0\x01");
    png.extend(crc32(b"IDAT\x78\x9c\x03\0\0\0\0\x01").to_be_bytes());
    assert_eq!(
        decode(&png),
        Err(DecodeError::TooLarge {
            width: 60_000,
            height: 60_000
        })
    );
    // A JPEG that claims 65,000 x 65,000.
    let mut jpeg = include_bytes!("fixtures/pillow/grey.jpg").to_vec();
    let frame = jpeg
        .windows(2)
        .position(|pair| pair == [0xff, 0xc0])
        .unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xfd, 0xe8, 0xfd, 0xe8]);
    assert_eq!(
        decode(&jpeg),
        Err(DecodeError::TooLarge {
            width: 65_000,
            height: 65_000
        })
    );
    // One that is just below the limit and has no more data than before.
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x33, 0x00, 0x33, 0x00]);
    let start = Instant::now();
    survives(&jpeg);
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    // A progressive JPEG with a scan repeated a thousand times.
    let progressive = include_bytes!("fixtures/pillow/progressive.jpg");
    let scan = progressive
        .windows(2)
        .position(|pair| pair == [0xff, 0xda])
        .unwrap();
    let next = scan
        + 2
        + progressive[scan + 2..]
            .windows(2)
            .position(|pair| pair[0] == 0xff && pair[1] != 0)
            .unwrap();
    let mut scans = progressive[..scan].to_vec();
    (0..1000).for_each(|_| scans.extend(&progressive[scan..next]));
    scans.extend(&progressive[next..]);
    assert!(matches!(
        decode(&scans),
        Err(DecodeError::TooManyScans {
            scans: 1000..,
            pixels: 0
        })
    ));
    // A GIF of 65,535 x 65,535.
    let mut gif = include_bytes!("fixtures/pillow/grey.gif").to_vec();
    gif[6..10].fill(0xff);
    assert_eq!(
        decode(&gif),
        Err(DecodeError::TooLarge {
            width: 65_535,
            height: 65_535
        })
    );
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}
