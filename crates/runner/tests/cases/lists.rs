//! Pictures and lists as people keep them.

use super::*;

// OpenNeuroOrg/openneuro#2520: folders copied from a Mac
#[test]
fn what_is_no_picture_is_counted_and_said_by_every_verb() {
    let bed = Bed::with_suite(&suite_on("mine"));
    for class in ["cat", "dog"] {
        for i in 0..4 {
            picture(&bed, &format!("data/pics/{class}/{i}.png"), 40, 30);
        }
    }
    write(
        &bed,
        "data/pics/cat/._0.png",
        b"\0\x05\x16\x07\0\x02\0\0Mac OS X",
    );
    write(&bed, "data/pics/cat/notes.txt", b"x");
    write(
        &bed,
        "cat.toml",
        "[mine]\nimages = \"pics\"\nreader = \"class-folders\"\n",
    );
    let said = "2 files that are no pictures were passed over, first";
    let answer = ends(&bed, 0, &["predict", "data/pics", "--classes", "cat,dog"]);
    assert_eq!(answer.stdout.lines().count(), 8, "{}", answer.stdout);
    assert!(answer.stderr.contains(said), "{}", answer.stderr);
    let answer = ends(&bed, 0, &["encode", "--images", "data/pics", "--out", "f"]);
    assert!(answer.stderr.contains(said), "{}", answer.stderr);
    let of = ["--data", "data", "--catalogue", "cat.toml"];
    let check = [&["data", "check", "--dataset", "mine", "--deep"][..], &of].concat();
    let answer = ends(&bed, 0, &check);
    assert!(answer.stdout.contains(said), "{}", answer.stdout);
    let run = [&["run", "suite.toml", "--out", "out"][..], &of].concat();
    let answer = ends(&bed, 0, &run);
    assert!(answer.stderr.contains(said), "{}", answer.stderr);
    // It changes no number, so no table warns of it.
    assert!(!answer.stdout.contains("passed over"), "{}", answer.stdout);
}

#[test]
fn a_broken_picture_is_named_and_the_others_are_answered() {
    let bed = Bed::with_suite("");
    for i in 0..3 {
        picture(&bed, &format!("pics/{i}.png"), 40, 30);
    }
    write(&bed, "pics/1.png", b"no picture");
    let answer = ends(
        &bed,
        1,
        &["predict", "pics", "absent.png", "--classes", "cat,dog"],
    );
    let told: Vec<&str> = answer
        .stdout
        .lines()
        .map(|l| l.split(':').next().unwrap())
        .collect();
    assert_eq!(told, ["pics/0.png", "pics/2.png"]);
    for part in [
        "pics/1.png: not a",
        "absent.png: ",
        "2 of 4 pictures could not be read",
    ] {
        assert!(answer.stderr.contains(part), "{part}: {}", answer.stderr);
    }
    let answer = ends(&bed, 1, &["encode", "--images", "pics", "--out", "f"]);
    assert!(
        answer.stderr.contains("pics/1.png: not a"),
        "{}",
        answer.stderr
    );
    assert_eq!(features(&bed, "f")["image_features"].dim(0).unwrap(), 2);
    ends(&bed, 2, &["predict", "pics/1.png", "--classes", "cat,dog"]);
    ends(&bed, 2, &["encode", "--images", "pics/1.png", "--out", "g"]);
    assert!(!bed.path("g").exists());
}

// pytorch/vision#80: ImageFolder counts them, the published code does not
#[test]
fn pictures_in_subfolders_of_class_folders_are_said_to_be_passed_over() {
    let bed = Bed::with_suite("");
    for class in ["cat", "dog"] {
        for i in 0..4 {
            picture(&bed, &format!("data/pics/{class}/{i}.png"), 40, 30);
        }
    }
    for i in 4..7 {
        picture(&bed, &format!("data/pics/dog/more/{i}.png"), 40, 30);
    }
    write(
        &bed,
        "cat.toml",
        "[mine]\nimages = \"pics\"\nreader = \"class-folders\"\n",
    );
    let check = [
        "data",
        "check",
        "--data",
        "data",
        "--catalogue",
        "cat.toml",
        "--dataset",
        "mine",
    ];
    let answer = ends(&bed, 0, &check);
    let said = "3 more pictures lie in subfolders of class folders and were passed over, first data/pics/dog/more/4.png";
    assert!(answer.stdout.contains(said), "{}", answer.stdout);
    std::fs::remove_dir_all(bed.path("data/pics/cat")).unwrap();
    for i in 0..4 {
        picture(&bed, &format!("data/pics/cat/all/{i}.png"), 40, 30);
    }
    let answer = ends(&bed, 1, &check);
    let said = "holds no picture itself, but 4 in folders inside it";
    assert!(answer.stdout.contains(said), "{}", answer.stdout);
}

// huggingface/datasets#4015; pandas-dev/pandas#61296
#[test]
fn names_of_class_folders_and_titles_of_datasets_are_used() {
    let bed = Bed::with_suite(&suite_on("my-set"));
    for class in ["w01", "w02"] {
        for i in 0..4 {
            picture(&bed, &format!("data/pics/{class}/{i}.png"), 40, 30);
        }
    }
    write(&bed, "data/names.txt", "w01 cat\nw02 dog\n");
    let row = "[my-set]\ntitle = \"Pets at home\"\nimages = \"pics\"\nreader = \"class-folders\"\nnames = \"names.txt\"\n";
    write(&bed, "cat.toml", row);
    let run = [
        "run",
        "suite.toml",
        "--data",
        "data",
        "--catalogue",
        "cat.toml",
        "--out",
        "out",
    ];
    let answer = ends(&bed, 0, &run);
    let records = bed.records("out");
    let record = records.values().next().unwrap();
    let names: Vec<&str> = record["tests"][0]["classes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["cat", "dog"]);
    assert!(answer.stdout.contains("Pets at home"), "{}", answer.stdout);
    for (name, bytes) in bed.files("out/tables") {
        // What methods used names no dataset.
        let is_of_datasets = !name.contains("-methods.");
        if is_of_datasets && (name.ends_with(".md") || name.ends_with(".tex")) {
            let text = String::from_utf8(bytes).unwrap();
            assert!(
                text.contains("Pets at home") && !text.contains("my-set"),
                "{name}: {text}"
            );
        }
    }
    ends(&bed, 0, &["report", "out", "--out", "r.html"]);
    let page = std::fs::read_to_string(bed.path("r.html")).unwrap();
    assert!(page.contains("Pets at home"));
    // A folder that the file does not name is an error, as under `parts`.
    write(&bed, "data/names.txt", "w01 cat\n");
    let answer = ends(&bed, 2, &run);
    assert!(
        answer.stderr.contains("\"w02\" is not in names.txt"),
        "{}",
        answer.stderr
    );
}

// bubbliiiing/clip-pytorch#14
#[test]
fn a_split_file_of_windows_is_that_of_any_machine() {
    let bed = Bed::with_suite("");
    let split = |slash: &str| {
        let list = |range: std::ops::Range<u32>| -> Vec<_> {
            (0..2)
                .flat_map(|c| {
                    let name = ["cat", "dog"][c as usize];
                    range
                        .clone()
                        .map(move |i| json!([format!("c{c}{slash}{i}.png"), c, name]))
                })
                .collect()
        };
        json!({"train": list(0..2), "val": [], "test": list(2..4)}).to_string()
    };
    for class in 0..2 {
        for i in 0..4 {
            picture(&bed, &format!("pics/c{class}/{i}.png"), 40, 30);
        }
    }
    let row = "[mine]\nimages = \"pics\"\nreader = \"split-json\"\nsplit = \"split.json\"\n";
    write(&bed, "cat.toml", row);
    let check = [
        "data",
        "check",
        "--data",
        ".",
        "--catalogue",
        "cat.toml",
        "--dataset",
        "mine",
    ];
    let picks = [
        "data",
        "picks",
        "--split-file",
        "split.json",
        "--shots",
        "1",
        "--seed",
        "1",
    ];
    write(&bed, "split.json", split("/"));
    let drawn = ends(&bed, 0, &picks).stdout;
    write(&bed, "split.json", split("\\"));
    let answer = ends(&bed, 0, &check);
    assert!(
        answer.stdout.contains("mine     present"),
        "{}",
        answer.stdout
    );
    assert_eq!(ends(&bed, 0, &picks).stdout, drawn);
    // It leads out of the folder all the same.
    write(&bed, "split.json", split("\\..\\..\\"));
    let answer = ends(&bed, 1, &check);
    assert!(answer.stdout.contains("leads outside"), "{}", answer.stdout);
}

// tmlr-group/SCT, classnames.txt
#[test]
fn ids_in_front_of_class_names_are_no_part_of_them() {
    let bed = Bed::with_suite("");
    picture(&bed, "p.png", 40, 30);
    let predict = ["predict", "p.png", "--classes-file", "names.txt"];
    write(&bed, "names.txt", "cat\ndog\n");
    let plain = ends(&bed, 0, &predict).stdout;
    write(&bed, "names.txt", "n02123045 cat\r\nn02084071\tdog\r\n");
    let answer = ends(&bed, 0, &predict);
    assert_eq!(answer.stdout, plain);
    assert!(
        answer.stderr.contains("WordNet ids stand in front"),
        "{}",
        answer.stderr
    );
    write(&bed, "names.txt", "[\"cat\", \"dog\"]");
    assert_eq!(ends(&bed, 0, &predict).stdout, plain);
}
