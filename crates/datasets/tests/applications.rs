//! What pictures of medicine and of drivers are kept in: odd file names, `.tif`, and lists of who is who.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use datasets::check::{State, check};
use datasets::{Catalogue, Dataset, Item, Note, Part, picks};
use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

fn write(root: &Path, path: &str, bytes: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(FIXTURES).join(name)).unwrap()
}

fn open(rows: &str, root: &Path) -> Result<Dataset, String> {
    let catalogue = Catalogue::parse(rows, Path::new("mine.toml")).unwrap();
    Dataset::open(catalogue.get("mine").unwrap(), root).map_err(|error| {
        error
            .to_string()
            .replace(&root.display().to_string(), "DATA")
    })
}

#[test]
fn a_biomedcoop_folder_is_read_with_its_odd_names_and_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = [
        ("benign_tumor/benign (1).png", "pillow/grey.png"),
        ("benign_tumor/benign (2).png", "pillow/grey16.png"),
        ("malignant_tumor/malignant (1).tif", "tiff/grey_lzw.tif"),
        ("malignant_tumor/malignant [2].tif", "tiff/palette.tif"),
        ("normal_scan/normal (1)_mask, left.jpeg", "pillow/grey.jpg"),
        ("normal_scan/normal (2).tif", "tiff/grey16.tif"),
    ];
    let mut lists = [Vec::new(), Vec::new()];
    for (index, (path, from)) in pictures.into_iter().enumerate() {
        write(folder.path(), &format!("BUSI/BUSI/{path}"), fixture(from));
        let class = path.split('/').next().unwrap().replace('_', " ");
        lists[index % 2].push(serde_json::json!([path, index / 2, class]));
    }
    let split = serde_json::json!({"train": lists[0], "val": [], "test": lists[1]});
    write(folder.path(), "BUSI/split_BUSI.json", split.to_string());

    let catalogue = Catalogue::built_in();
    let row = catalogue.get("BUSI").unwrap();
    let dataset = Dataset::open(row, folder.path()).unwrap();
    assert_eq!(
        dataset.class_names(),
        ["benign tumor", "malignant tumor", "normal scan"]
    );
    for part in Part::ALL {
        for item in dataset.split.part(part) {
            let picture = dataset.source.rgb(item).unwrap();
            assert!(picture.width > 10, "{}", item.path.display());
        }
    }
    // Usable, and said to be another number of pictures than the papers'.
    let report = check(row, folder.path(), true, |_| {});
    assert_eq!((report.state, report.decoded), (State::Differs, 6));
    assert!(report.notes.iter().any(|note| matches!(
        note,
        Note::Pictures {
            part: Part::Train,
            found: 3,
            published: 389
        }
    )));
}

/// `drivers` of 4 pictures of each of two actions, in StateFarm's folders with its list.
fn statefarm(drivers: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut list = "subject,classname,img\n".to_owned();
    for driver in 0..drivers {
        for class in ["c0", "c1"] {
            for picture in 0..4 {
                let name = format!("img_{driver}{picture}.jpg");
                let path = format!("statefarm/imgs/train/{class}/{name}");
                write(folder.path(), &path, fixture("pillow/ycc420.jpg"));
                list += &format!("p{driver:03},{class},{name}\n");
            }
        }
    }
    write(folder.path(), "statefarm/driver_imgs_list.csv", list);
    folder
}

const STATEFARM: &str = r#"
[mine]
images = "statefarm/imgs/train"
reader = "class-folders"
rename = { c0 = "driving safely", c1 = "drinking" }
groups = { list = "statefarm/driver_imgs_list.csv" }
"#;

/// The second letter behind `img_` is the driver.
fn drivers(items: &[Item]) -> BTreeSet<String> {
    let names = items.iter().map(|item| item.path.file_name().unwrap());
    names
        .map(|name| name.to_str().unwrap()[4..5].to_owned())
        .collect()
}

#[test]
fn no_driver_is_in_two_lists_and_every_picture_is_in_one() {
    let folder = statefarm(7);
    let dataset = open(STATEFARM, folder.path()).unwrap();
    let split = &dataset.split;
    let lists = Part::ALL.map(|part| drivers(split.part(part)));
    assert_eq!(lists.each_ref().map(BTreeSet::len), [4, 1, 2]);
    assert_eq!(lists.iter().flatten().collect::<BTreeSet<_>>().len(), 7);
    let counts = Part::ALL.map(|part| split.part(part).len());
    assert_eq!(counts, [32, 8, 16]);
    assert_eq!(dataset.class_names(), ["driving safely", "drinking"]);
    assert!(!split.published());
    let note = dataset
        .notes
        .iter()
        .map(Note::to_string)
        .collect::<Vec<_>>();
    assert_eq!(
        note,
        [
            "no published split: 7 groups were cut 50/20/30 with seed 1 over sorted names, 4 to train, 1 to val, 2 to test; no group is in two lists"
        ]
    );
    // Few shots are drawn from train, so whoever is tested on is never among them.
    let picked = picks::draw(split, 8, 3);
    assert!(drivers(&picked.train).is_disjoint(&lists[2]));
    // The same every time.
    assert_eq!(open(STATEFARM, folder.path()).unwrap().split, *split);
}

#[test]
fn too_few_groups_and_pictures_without_one_are_refused() {
    let two = statefarm(2);
    assert_eq!(
        open(STATEFARM, two.path()).unwrap_err(),
        "DATA/statefarm/imgs/train: groups: there are 2 (p000, p001); train, val and test need one each"
    );
    let folder = statefarm(4);
    write(
        folder.path(),
        "statefarm/imgs/train/c1/stray.jpg",
        fixture("pillow/ycc420.jpg"),
    );
    assert_eq!(
        open(STATEFARM, folder.path()).unwrap_err(),
        "DATA/statefarm/driver_imgs_list.csv: c1/stray.jpg: is in none of the groups of this list"
    );
    fs::remove_file(folder.path().join("statefarm/driver_imgs_list.csv")).unwrap();
    let error = open(STATEFARM, folder.path()).unwrap_err();
    assert!(
        error.starts_with("DATA/statefarm/driver_imgs_list.csv: the list of groups is missing; a CSV with a head of"),
        "{error}"
    );
}

#[test]
fn a_given_split_with_a_driver_on_both_sides_is_refused() {
    let folder = statefarm(3);
    let list = |names: &[&str]| {
        let of = |name: &&str| serde_json::json!([format!("c0/{name}.jpg"), 0, "safe"]);
        names.iter().map(of).collect::<Vec<_>>()
    };
    let split = |train: &[&str], test: &[&str]| {
        serde_json::json!({"train": list(train), "val": [], "test": list(test)}).to_string()
    };
    let row = r#"
[mine]
images = "statefarm/imgs/train"
reader = "split-json"
split  = "split.json"
groups = { list = "statefarm/driver_imgs_list.csv" }
"#;
    write(
        folder.path(),
        "split.json",
        split(&["img_00", "img_10"], &["img_20", "img_21"]),
    );
    let dataset = open(row, folder.path()).unwrap();
    assert_eq!(dataset.notes, [Note::Grouped { groups: [2, 0, 1] }]);
    write(
        folder.path(),
        "split.json",
        split(&["img_00", "img_10", "img_11"], &["img_12", "img_20"]),
    );
    assert_eq!(
        open(row, folder.path()).unwrap_err(),
        "DATA/statefarm/driver_imgs_list.csv: groups: group \"p001\" is in train (2 pictures, first c0/img_10.jpg) and in test (1 pictures, first c0/img_12.jpg)"
    );
}

/// DMD's frames: the driver is a number in the name.
fn dmd(folds: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for driver in 1..=5 {
        for class in ["drinking", "safe_drive"] {
            let path = format!("dmd/driver_actions/{class}/gA_sub_{driver}_s1_f7.jpg");
            write(folder.path(), &path, fixture("pillow/ycc420.jpg"));
        }
    }
    write(folder.path(), "dmd/folds.json", folds);
    folder
}

const DMD: &str = r#"
[mine]
images = "dmd/driver_actions"
reader = "class-folders"
groups = { in_name = "sub_", folds = "dmd/folds.json", fold = "fold1" }
"#;

#[test]
fn a_published_fold_shares_the_drivers_out() {
    let folder =
        dmd(r#"{"fold0": {}, "fold1": {"train_sub_id": [3, 1, 9], "test_sub_id": [4, 5]}}"#);
    let dataset = open(DMD, folder.path()).unwrap();
    let split = &dataset.split;
    let of = |items: &[Item]| -> Vec<String> {
        items
            .iter()
            .map(|item| item.path.display().to_string())
            .collect()
    };
    assert_eq!(
        of(&split.train),
        [
            "drinking/gA_sub_1_s1_f7.jpg",
            "drinking/gA_sub_3_s1_f7.jpg",
            "safe_drive/gA_sub_1_s1_f7.jpg",
            "safe_drive/gA_sub_3_s1_f7.jpg",
        ]
    );
    assert_eq!((split.val.len(), split.test.len()), (0, 4));
    assert!(split.published());
    assert_eq!(
        dataset.notes,
        [
            Note::Grouped { groups: [2, 0, 2] },
            Note::OutsideFold {
                groups: 1,
                pictures: 2
            }
        ]
    );
}

#[test]
fn what_is_wrong_with_a_fold_is_said() {
    for (folds, expected) in [
        (
            r#"{"fold0": {}}"#,
            "DATA/dmd/folds.json: fold1: is not there; there are fold0",
        ),
        (
            r#"{"fold1": {"train": [1, 2]}}"#,
            "DATA/dmd/folds.json: fold1: has no list \"test\"",
        ),
        (
            r#"{"fold1": {"train": ["1", 2], "val": [3], "test": [3, 4, 2]}}"#,
            "DATA/dmd/folds.json: fold1.test: group \"3\" is in val too\n\
             DATA/dmd/folds.json: fold1.test: group \"2\" is in train too",
        ),
        (
            r#"{"fold1": {"train": [1, 2], "test": [99]}}"#,
            "DATA/dmd/driver_actions: groups: class \"drinking\" has no test picture: none of the groups there () shows it\n\
             DATA/dmd/driver_actions: groups: class \"safe_drive\" has no test picture: none of the groups there () shows it",
        ),
    ] {
        assert_eq!(open(DMD, dmd(folds).path()).unwrap_err(), expected);
    }
}
