//! Every reader on a small folder of its layout.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]

use std::fs;
use std::path::{Path, PathBuf};

use datasets::check::{State, check};
use datasets::{Catalogue, Dataset, Item, Note, Origin, Row};
use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// A data folder with the given pictures (any path, one small JPEG each) and text files.
fn data(pictures: &[String], texts: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, bytes: &[u8]| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let jpeg = fs::read(Path::new(FIXTURES).join("pillow/ycc420.jpg")).unwrap();
    pictures.iter().for_each(|path| write(path, &jpeg));
    texts
        .iter()
        .for_each(|(path, text)| write(path, text.as_bytes()));
    folder
}

fn row(id: &str) -> Row {
    Catalogue::built_in().get(id).unwrap().clone()
}

fn names(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

fn listed(items: &[Item]) -> Vec<(&str, u32, &str)> {
    items
        .iter()
        .map(|item| {
            (
                item.path.to_str().unwrap(),
                item.label,
                item.class_name.as_str(),
            )
        })
        .collect()
}

fn paths(items: &[Item]) -> Vec<&str> {
    items
        .iter()
        .map(|item| item.path.to_str().unwrap())
        .collect()
}

#[test]
fn imagenet_takes_labels_from_sorted_folders_and_names_from_its_file() {
    let images = |list: &[&str]| {
        list.iter()
            .map(|path| format!("imagenet/images/{path}"))
            .collect::<Vec<_>>()
    };
    let pictures = images(&[
        "train/n02/b.JPEG",
        "train/n02/a.JPEG",
        "train/n01/a.JPEG",
        "train/n10/a.JPEG",
        "val/n10/v.JPEG",
        "val/n01/v.JPEG",
        "val/n02/v.JPEG",
        "train/.hidden/x.JPEG",
    ]);
    let classnames = "n10 missile\nn01 great white shark\nn02 missile\nn99 unused\n";
    let data = data(
        &pictures,
        &[
            ("imagenet/classnames.txt", classnames),
            ("imagenet/images/train/notes.txt", ""),
        ],
    );
    let dataset = Dataset::open(&row("imagenet"), data.path()).unwrap();
    assert_eq!(
        listed(&dataset.split.train),
        [
            ("train/n01/a.JPEG", 0, "great white shark"),
            ("train/n02/a.JPEG", 1, "missile"),
            ("train/n02/b.JPEG", 1, "missile"),
            ("train/n10/a.JPEG", 2, "missile"),
        ]
    );
    assert_eq!(
        paths(&dataset.split.test),
        ["val/n01/v.JPEG", "val/n02/v.JPEG", "val/n10/v.JPEG"]
    );
    assert!(dataset.split.val.is_empty() && dataset.split.published());
    assert_eq!(
        dataset.class_names(),
        ["great white shark", "missile", "missile"]
    );
    assert_eq!(
        dataset.source.rgb(&dataset.split.test[0]).unwrap().width,
        21
    );
}

#[test]
fn a_class_folder_without_a_name_is_reported() {
    let pictures = names(&["imagenet-a/x"]);
    drop(pictures);
    let data = data(
        &names(&[
            "imagenet-adversarial/imagenet-a/n01/a.jpg",
            "imagenet-adversarial/imagenet-a/n02/a.jpg",
        ]),
        &[
            ("imagenet-adversarial/classnames.txt", "n01 tench\n"),
            ("imagenet-adversarial/imagenet-a/README.txt", "x"),
        ],
    );
    let error = Dataset::open(&row("imagenet-a"), data.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"n02\" is not in imagenet-adversarial/classnames.txt"),
        "{error}"
    );
}

#[test]
fn variants_are_test_only_and_rank_their_own_folders() {
    let data = data(
        &names(&[
            "imagenet-rendition/imagenet-r/n07/a.jpg",
            "imagenet-rendition/imagenet-r/n03/a.jpg",
        ]),
        &[
            (
                "imagenet-rendition/classnames.txt",
                "n01 a\nn03 goldfish\nn07 great grey owl\n",
            ),
            ("imagenet-rendition/imagenet-r/README.txt", "x"),
        ],
    );
    let dataset = Dataset::open(&row("imagenet-r"), data.path()).unwrap();
    assert!(dataset.split.train.is_empty() && dataset.split.val.is_empty());
    assert_eq!(
        listed(&dataset.split.test),
        [
            ("n03/a.jpg", 0, "goldfish"),
            ("n07/a.jpg", 1, "great grey owl")
        ]
    );
    assert_eq!(dataset.class_names(), ["goldfish", "great grey owl"]);
}

#[test]
fn numbered_folders_are_ordered_as_numbers() {
    let classnames: String = (0..12)
        .map(|label| format!("n{label:02} name {label}\n"))
        .collect();
    let pictures: Vec<String> = (0..12)
        .map(|label| format!("imagenetv2/imagenetv2-matched-frequency-format-val/{label}/p.jpeg"))
        .collect();
    let data = data(&pictures, &[("imagenetv2/classnames.txt", &classnames)]);
    let dataset = Dataset::open(&row("imagenet-v2"), data.path()).unwrap();
    let labels: Vec<u32> = dataset.split.test.iter().map(|item| item.label).collect();
    assert_eq!(labels, (0..12).collect::<Vec<_>>());
    assert_eq!(dataset.split.test[10].path, Path::new("10/p.jpeg"));
    assert_eq!(dataset.class_names()[10], "name 10");
}

#[test]
fn aircraft_lists_keep_spaces_and_slashes_in_names() {
    let data = data(
        &names(&[
            "fgvc_aircraft/images/001.jpg",
            "fgvc_aircraft/images/002.jpg",
            "fgvc_aircraft/images/003.jpg",
        ]),
        &[
            (
                "fgvc_aircraft/variants.txt",
                "707-320\nF/A-18\nDC-3 Super\n",
            ),
            (
                "fgvc_aircraft/images_variant_train.txt",
                "003 DC-3 Super\n001 707-320\n002 F/A-18\n",
            ),
            ("fgvc_aircraft/images_variant_val.txt", "002 F/A-18\n"),
            ("fgvc_aircraft/images_variant_test.txt", "001 707-320\n"),
        ],
    );
    let dataset = Dataset::open(&row("fgvc-aircraft"), data.path()).unwrap();
    assert_eq!(
        listed(&dataset.split.train),
        [
            ("003.jpg", 2, "DC-3 Super"),
            ("001.jpg", 0, "707-320"),
            ("002.jpg", 1, "F/A-18")
        ]
    );
    assert_eq!(dataset.class_names(), ["707-320", "F/A-18", "DC-3 Super"]);
}

// Orders as CPython 3.11 gives them for the published code (see the comments in `readers/built.rs`).
#[test]
fn a_missing_split_file_is_built_as_published_and_said_not_to_be() {
    let mut pictures: Vec<String> = (0..7)
        .map(|i| format!("caltech-101/101_ObjectCategories/Faces/{i}.jpg"))
        .collect();
    pictures.extend((0..4).map(|i| format!("caltech-101/101_ObjectCategories/ant/{i}.jpg")));
    pictures.extend((0..4).map(|i| format!("caltech-101/101_ObjectCategories/Faces_easy/{i}.jpg")));
    let data = data(&pictures, &[]);
    let dataset = Dataset::open(&row("caltech101"), data.path()).unwrap();
    let split = &dataset.split;
    assert_eq!(split.origin, Origin::Built);
    assert_eq!(
        paths(&split.train),
        [
            "Faces/3.jpg",
            "Faces/6.jpg",
            "Faces/5.jpg",
            "Faces/2.jpg",
            "ant/0.jpg",
            "ant/2.jpg"
        ]
    );
    assert_eq!(paths(&split.val), ["Faces/0.jpg", "ant/1.jpg"]);
    assert_eq!(
        paths(&split.test),
        ["Faces/4.jpg", "Faces/1.jpg", "ant/3.jpg"]
    );
    assert_eq!(dataset.class_names(), ["face", "ant"]);
    let file = data.path().join("caltech-101/split_zhou_Caltech101.json");
    assert_eq!(
        dataset.notes[0],
        Note::NotPublished {
            split_file: Some(file)
        }
    );
    assert!(
        dataset.notes[0]
            .to_string()
            .starts_with("NOT the published split: ")
    );
}

#[test]
fn cars_are_read_from_their_matlab_files() {
    let mut pictures: Vec<String> = (1..=16)
        .map(|i| format!("stanford_cars/cars_train/{i:05}.jpg"))
        .collect();
    pictures.extend((1..=3).map(|i| format!("stanford_cars/cars_test/{i:05}.jpg")));
    let data = data(&pictures, &[]);
    fs::create_dir_all(data.path().join("stanford_cars/devkit")).unwrap();
    for (from, to) in [
        ("cars_meta.mat", "devkit/cars_meta.mat"),
        ("cars_train.mat", "devkit/cars_train_annos.mat"),
        ("cars_test.mat", "cars_test_annos_withlabels.mat"),
    ] {
        fs::copy(
            Path::new(FIXTURES).join("matlab").join(from),
            data.path().join("stanford_cars").join(to),
        )
        .unwrap();
    }
    let dataset = Dataset::open(&row("stanford-cars"), data.path()).unwrap();
    let number = |item: &Item| item.path.to_str().unwrap()[11..16].parse::<u32>().unwrap();
    let split = &dataset.split;
    assert_eq!(
        split.train.iter().map(number).collect::<Vec<_>>(),
        [4, 6, 1, 5, 2, 9, 8, 11, 10, 15, 16, 12, 13]
    );
    assert_eq!(split.val.iter().map(number).collect::<Vec<_>>(), [3, 7, 14]);
    assert_eq!(
        listed(&split.test),
        [
            ("cars_test/00001.jpg", 2, "2012 Fisker Karma Sedan"),
            ("cars_test/00002.jpg", 0, "2000 AM General Hummer SUV"),
            ("cars_test/00003.jpg", 1, "2012 Acura RL Sedan"),
        ]
    );
}

#[test]
fn flowers_are_read_from_their_label_file() {
    let pictures: Vec<String> = (1..=11)
        .map(|i| format!("oxford_flowers/jpg/image_{i:05}.jpg"))
        .collect();
    let data = data(
        &pictures,
        &[(
            "oxford_flowers/cat_to_name.json",
            r#"{"1": "pink primrose", "2": "sweet pea"}"#,
        )],
    );
    let labels = Path::new(FIXTURES).join("matlab/imagelabels.mat");
    fs::copy(labels, data.path().join("oxford_flowers/imagelabels.mat")).unwrap();
    let dataset = Dataset::open(&row("flowers102"), data.path()).unwrap();
    let number = |item: &Item| item.path.to_str().unwrap()[6..11].parse::<u32>().unwrap();
    let split = &dataset.split;
    assert_eq!(
        split.train.iter().map(number).collect::<Vec<_>>(),
        [3, 6, 10, 4, 7]
    );
    assert_eq!(split.val.iter().map(number).collect::<Vec<_>>(), [1, 5]);
    assert_eq!(
        split.test.iter().map(number).collect::<Vec<_>>(),
        [9, 2, 11, 8]
    );
    assert_eq!(dataset.class_names(), ["pink primrose", "sweet pea"]);
    assert_eq!(split.train[0].label, 1);
}

#[test]
fn pets_scenes_and_videos_are_read_from_their_own_lists() {
    let breeds = |range: std::ops::Range<u32>| -> String {
        range
            .map(|i| format!("Egyptian_Mau_{i} 2 1 1\nAbyssinian_{i} 1 1 1\n"))
            .collect()
    };
    let pictures: Vec<String> = (0..7)
        .flat_map(|i| {
            ["Egyptian_Mau", "Abyssinian"]
                .map(|breed| format!("oxford_pets/images/{breed}_{i}.jpg"))
        })
        .collect();
    let pets = data(
        &pictures,
        &[
            ("oxford_pets/annotations/trainval.txt", &breeds(0..5)),
            ("oxford_pets/annotations/test.txt", &breeds(5..7)),
        ],
    );
    let dataset = Dataset::open(&row("oxford-pets"), pets.path()).unwrap();
    assert_eq!(dataset.class_names(), ["abyssinian", "egyptian_mau"]);
    assert_eq!(
        (
            dataset.split.train.len(),
            dataset.split.val.len(),
            dataset.split.test.len()
        ),
        (8, 2, 4)
    );
    assert_eq!(
        dataset.split.train[0].label, 1,
        "classes in order of appearance"
    );

    let scene = |folder: &str, i: u32| format!("/{folder}/sun_{i}.jpg");
    let list = |range: std::ops::Range<u32>| -> String {
        range
            .map(|i| scene("a/abbey", i) + "\n" + &scene("c/church/indoor", i) + "\n")
            .collect()
    };
    let pictures: Vec<String> = (0..6)
        .flat_map(|i| {
            ["a/abbey", "c/church/indoor"]
                .map(|folder| format!("sun397/SUN397{}", scene(folder, i)))
        })
        .collect();
    let scenes = data(
        &pictures,
        &[
            ("sun397/ClassName.txt", "/a/abbey\n/c/church/indoor\n"),
            ("sun397/Training_01.txt", &list(0..5)),
            ("sun397/Testing_01.txt", &list(5..6)),
        ],
    );
    let dataset = Dataset::open(&row("sun397"), scenes.path()).unwrap();
    assert_eq!(
        listed(&dataset.split.test),
        [
            ("a/abbey/sun_5.jpg", 0, "abbey"),
            ("c/church/indoor/sun_5.jpg", 1, "indoor church")
        ]
    );

    let pictures: Vec<String> = (0..6)
        .flat_map(|i| {
            ["Apply_Eye_Makeup/v_ApplyEyeMakeup", "Yo_Yo/v_YoYo"]
                .map(|video| format!("ucf101/UCF-101-midframes/{video}_g0{i}.jpg"))
        })
        .collect();
    let list = |range: std::ops::Range<u32>, mark: &str| -> String {
        range
            .map(|i| {
                format!(
                    "YoYo/v_YoYo_g0{i}.avi{mark}\nApplyEyeMakeup/v_ApplyEyeMakeup_g0{i}.avi{mark}\n"
                )
            })
            .collect()
    };
    let videos = data(
        &pictures,
        &[
            (
                "ucf101/ucfTrainTestlist/classInd.txt",
                "1 ApplyEyeMakeup\n2 YoYo\n",
            ),
            ("ucf101/ucfTrainTestlist/trainlist01.txt", &list(0..5, " 1")),
            ("ucf101/ucfTrainTestlist/testlist01.txt", &list(5..6, "")),
        ],
    );
    let dataset = Dataset::open(&row("ucf101"), videos.path()).unwrap();
    assert_eq!(dataset.class_names(), ["Apply_Eye_Makeup", "Yo_Yo"]);
    assert_eq!(
        paths(&dataset.split.test),
        [
            "Yo_Yo/v_YoYo_g05.jpg",
            "Apply_Eye_Makeup/v_ApplyEyeMakeup_g05.jpg"
        ]
    );
}

#[test]
fn a_folder_of_class_folders_needs_no_row() {
    let pictures: Vec<String> = (0..5)
        .flat_map(|i| ["blue tit", "größter specht"].map(|class| format!("birds/{class}/{i}.jpg")))
        .collect();
    let data = data(&pictures, &[("birds/blue tit/notes.md", "x")]);
    let dataset = Dataset::open_folder(&data.path().join("birds")).unwrap();
    assert_eq!(
        (dataset.id.as_str(), dataset.template.as_str()),
        ("birds", "a photo of a {}.")
    );
    assert_eq!(dataset.class_names(), ["blue tit", "größter specht"]);
    assert_eq!(
        (
            dataset.split.train.len(),
            dataset.split.val.len(),
            dataset.split.test.len()
        ),
        (4, 2, 4)
    );
    let skipped = data.path().join("birds").join("blue tit/notes.md");
    assert!(
        dataset.notes.contains(&Note::Skipped {
            count: 1,
            first: skipped
        }),
        "{:?}",
        dataset.notes
    );
}

#[test]
fn a_folder_with_train_and_test_is_not_cut() {
    let data = data(
        &names(&[
            "b/train/x/1.jpg",
            "b/train/y/1.jpg",
            "b/test/y/2.jpg",
            "b/test/x/2.jpg",
        ]),
        &[],
    );
    let dataset = Dataset::open_folder(&data.path().join("b")).unwrap();
    assert_eq!(
        listed(&dataset.split.test),
        [("test/x/2.jpg", 0, "x"), ("test/y/2.jpg", 1, "y")]
    );
    assert!(dataset.split.published());
}

#[test]
fn a_users_row_renames_and_ignores_folders() {
    let pictures: Vec<String> = (0..4)
        .flat_map(|i| ["a", "b", "junk"].map(|c| format!("mine/{c}/{i}.png")))
        .collect();
    let data = data(&pictures, &[]);
    let text = "[mine]\nimages = \"mine\"\nreader = \"class-folders\"\nignore = [\"junk\"]\nrename = { a = \"apple\" }\nprompt = \"a {} on a table.\"\nclasses = 2\n";
    let catalogue = Catalogue::parse(text, Path::new("mine.toml")).unwrap();
    let dataset = datasets::open(&catalogue, "Mine", data.path()).unwrap();
    assert_eq!(dataset.class_names(), ["apple", "b"]);
    assert_eq!(dataset.template, "a {} on a table.");
}

#[test]
fn a_check_tells_present_differing_partial_and_absent_apart() {
    let split = |list: &[&str]| {
        let triples: Vec<_> = list.iter().map(|path| (path, 0, "a")).collect();
        serde_json::json!({"train": triples, "val": [], "test": [["t.jpg", 0, "a"]]}).to_string()
    };
    let text = "[mine]\nimages = \"i\"\nreader = \"split-json\"\nsplit = \"s.json\"\nclasses = 1\npictures = { train = 2, test = 1 }\n";
    let row = Catalogue::parse(text, Path::new("m.toml"))
        .unwrap()
        .get("mine")
        .unwrap()
        .clone();
    let state = |pictures: &[&str], list: Option<&[&str]>| {
        let text = list.map(split);
        let texts: Vec<(&str, &str)> = text
            .as_deref()
            .map(|text| ("s.json", text))
            .into_iter()
            .collect();
        let data = data(
            &pictures
                .iter()
                .map(|name| format!("i/{name}"))
                .collect::<Vec<_>>(),
            &texts,
        );
        let report = check(&row, data.path(), true, |_| ());
        (
            report.state,
            report.missing_count,
            report.error.map(|error| error.to_string()),
        )
    };
    assert_eq!(
        state(&["a.jpg", "b.jpg", "t.jpg"], Some(&["a.jpg", "b.jpg"])),
        (State::Present, 0, None)
    );
    assert_eq!(
        state(&["a.jpg", "t.jpg"], Some(&["a.jpg"])),
        (State::Differs, 0, None)
    );
    assert_eq!(
        state(&["a.jpg"], Some(&["a.jpg", "b.jpg"])),
        (State::Partial, 2, None)
    );
    let (verdict, _, error) = state(&["a.jpg"], None);
    assert_eq!(verdict, State::Partial);
    assert!(
        error
            .unwrap()
            .contains("s.json: the split file is missing; the published ones are linked")
    );
    assert_eq!(state(&[], None).0, State::Absent);
}

#[test]
fn a_deep_check_lists_what_does_not_decode() {
    let data = data(
        &names(&["b/x/1.jpg", "b/x/2.jpg", "b/x/3.jpg", "b/x/4.jpg"]),
        &[],
    );
    fs::write(data.path().join("b/x/2.jpg"), b"GIF").unwrap();
    let jpeg = fs::read(data.path().join("b/x/3.jpg")).unwrap();
    fs::write(data.path().join("b/x/3.jpg"), &jpeg[..jpeg.len() - 40]).unwrap();
    let counted = std::sync::atomic::AtomicUsize::new(0);
    let report = check(&Row::folder("b", "b"), data.path(), true, |more| {
        counted.fetch_add(more, std::sync::atomic::Ordering::SeqCst);
    });
    assert_eq!((report.decoded, counted.into_inner()), (4, 4));
    let mut broken: Vec<(PathBuf, String)> = report
        .broken
        .iter()
        .map(|(path, error)| (path.clone(), error.to_string()))
        .collect();
    broken.sort();
    assert_eq!(broken.len(), 2, "{broken:?}");
    assert!(broken[0].1.ends_with(
        "2.jpg: not a JPEG, PNG, WebP, GIF, BMP or TIFF file (it starts with 47 49 46)"
    ));
    assert!(
        broken[1]
            .1
            .ends_with("3.jpg: truncated JPEG: the file ends before the picture does")
    );
    assert_eq!(report.state, State::Partial);
    assert_eq!(
        check(&Row::folder("b", "b"), data.path(), false, |_| ()).state,
        State::Differs
    );
}
