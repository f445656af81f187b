//! Where files come from and go to: people, mirrors, copies, the catalogue.

use super::*;

#[test]
fn what_a_person_must_get_is_told_with_its_place_and_used_once_it_is_there() {
    let root = tempfile::tempdir().unwrap();
    let bytes = tar_of(&[("images/1.jpg", b"one")]);
    let server = Server::start();
    let mut asked = archive(&server, "mine.tar", &bytes, &[("images", "mine/images")]);
    asked.from = Source::ByHand("ask the owner".to_owned());
    let put = root.path().join("downloads/mine/mine.tar");
    assert_eq!(
        fetch(root.path(), &asked).unwrap(),
        Outcome::ByHand {
            how: "ask the owner".to_owned(),
            put: Some(put.clone()),
            places: vec![root.path().join("mine/images")],
        }
    );
    fs::create_dir_all(put.parent().unwrap()).unwrap();
    let mut wrong = bytes.clone();
    wrong[600] ^= 1;
    fs::write(&put, wrong).unwrap();
    let error = fetch(root.path(), &asked).unwrap_err().to_string();
    assert!(
        error.ends_with("remove the file or put the right one there"),
        "{error}"
    );
    assert!(put.exists(), "what a person brought is not removed");
    fs::write(&put, &bytes).unwrap();
    assert_eq!(fetch(root.path(), &asked).unwrap(), Outcome::Fetched);
    assert_eq!(
        left(&root),
        ["downloads/mine/mine.tar", "mine/images/1.jpg"]
    );
}

#[test]
fn a_mirror_has_every_file_by_id_and_name() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let served = Served {
        bytes: b"{}".to_vec(),
        ..Served::default()
    };
    server.serve("pub/mine/split.json", served);
    let asked = Archive {
        file: "split.json".to_owned(),
        from: Source::ByHand("click".to_owned()),
        bytes: None,
        sums: vec![],
        gives: Gives::File("mine/split.json".into()),
    };
    let options = Options {
        mirror: Some(format!("{}/pub/", server.url)),
        ..hurried()
    };
    let fetcher = Fetcher::new(root.path(), options).unwrap();
    assert_eq!(
        fetcher.fetch("mine", &asked, &|_| ()).unwrap(),
        Outcome::Fetched
    );
    assert_eq!(left(&root), ["mine/split.json"]);
}

#[test]
fn a_copy_waits_for_its_original() {
    let root = tempfile::tempdir().unwrap();
    let asked = Archive {
        file: "classnames.txt".to_owned(),
        from: Source::Copy("one/classnames.txt".into()),
        bytes: None,
        sums: vec![],
        gives: Gives::File("two/classnames.txt".into()),
    };
    let outcome = fetch(root.path(), &asked).unwrap();
    let Outcome::ByHand { how, .. } = outcome else {
        panic!("{outcome:?}")
    };
    assert!(
        how.ends_with("one/classnames.txt, which is not there yet"),
        "{how}"
    );
    fs::create_dir(root.path().join("one")).unwrap();
    fs::write(root.path().join("one/classnames.txt"), "n01440764 tench\n").unwrap();
    assert_eq!(fetch(root.path(), &asked).unwrap(), Outcome::Copied);
    assert_eq!(left(&root), ["one/classnames.txt", "two/classnames.txt"]);
}

#[test]
fn progress_never_runs_backwards_and_ends_at_the_whole() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let bytes = gzipped(&tar_of(&[("images/1.jpg", &noise(400_000))]));
    let asked = archive(&server, "mine.tgz", &bytes, &[("images", "mine/images")]);
    let all = bytes.len() as u64;
    let (arrived, verified) = (RefCell::new(vec![0]), Cell::new(0));
    let fetcher = Fetcher::new(root.path(), hurried()).unwrap();
    let outcome = fetcher.fetch("mine", &asked, &|event| match event {
        Event::Downloading { done, all: told } => {
            assert!(told == Some(all) && done >= *arrived.borrow().last().unwrap());
            arrived.borrow_mut().push(done);
        }
        Event::Verifying { done, all: told } => {
            assert!(told == all);
            verified.set(done);
        }
        Event::Unpacking { entries, bytes } => assert_eq!((entries, bytes), (1, 400_000)),
        Event::Waiting { reason, .. } => panic!("{reason}"),
    });
    outcome.unwrap();
    assert_eq!(
        (*arrived.borrow().last().unwrap(), verified.get()),
        (all, all)
    );
}

#[test]
fn every_built_in_dataset_says_where_it_comes_from_and_fills_what_its_reader_needs() {
    for row in Catalogue::built_in().rows() {
        let places: Vec<&Path> = row.archives.iter().flat_map(Archive::places).collect();
        let gives = |path: &Path| {
            places
                .iter()
                .any(|place| path.starts_with(place) || place.starts_with(path))
        };
        let mut needs: Vec<&Path> = vec![&row.images];
        needs.extend(row.split.as_deref());
        needs.extend(row.names.as_deref());
        for need in needs {
            assert!(
                gives(need),
                "[{}] {} comes from nowhere",
                row.id,
                need.display()
            );
        }
        let names: std::collections::HashSet<_> = row.archives.iter().map(|a| &a.file).collect();
        assert_eq!(
            names.len(),
            row.archives.len(),
            "[{}] a name stands twice",
            row.id
        );
        for archive in &row.archives {
            let summed = !matches!(archive.from, Source::Url(_)) || !archive.sums.is_empty();
            assert!(summed, "[{}] {} has no published sum", row.id, archive.file);
        }
    }
}

#[test]
fn a_row_with_wrong_archives_is_refused_with_every_field() {
    let text = r#"
[mine]
images = "mine"
reader = "class-folders"
[[mine.archives]]
file = "../a.zip"
url = "ftp://x/a.zip"
md5 = "12"
gives = { "../images" = "/mine" }
[[mine.archives]]
file = "b.zip"
url = "http://x/b.zip"
by_hand = "and by hand"
to = "mine/b"
done = "mine/c"
[[mine.archives]]
file = "c.zip"
copy = "x"
inner = "y"
done = "z"
"#;
    let error = Catalogue::parse(text, Path::new("my.toml"))
        .unwrap_err()
        .to_string();
    for expected in [
        "my.toml: [mine] archives[0].file: \"../a.zip\" must be a plain file name",
        "[mine] archives[0].md5: \"12\" must be 32 hexadecimal digits",
        "[mine] archives[0].url: \"ftp://x/a.zip\" must begin with https:// or http://",
        "[mine] archives[0].gives: \"../images\" must be relative and without `..`",
        "[mine] archives[0].gives: \"/mine\" must be relative and without `..`",
        "[mine] archives[1].url: exactly one of `url`, `by_hand` and `copy` is needed",
        "[mine] archives[1].gives: exactly one of `gives`, `to` and `done` is needed",
        "[mine] archives[2].done: belongs to `by_hand` only",
        "[mine] archives[2].inner: belongs to `gives` only",
    ] {
        assert!(error.contains(expected), "{expected}\nnot in\n{error}");
    }
}
