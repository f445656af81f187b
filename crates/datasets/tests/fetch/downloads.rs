//! Downloads that break, change, lie about their length, or are not alone.

use super::*;

#[test]
fn a_cut_connection_is_continued_where_it_broke() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let bytes = noise(500_000);
    let served = Served {
        bytes: bytes.clone(),
        etag: Some("\"v1\""),
        cuts: (3, 100_000),
        ..Served::default()
    };
    server.serve("list.bin", served);
    let waits = Cell::new(0);
    let fetcher = Fetcher::new(root.path(), hurried()).unwrap();
    let outcome = fetcher.fetch("mine", &file(&server, &bytes), &|event| {
        if let Event::Waiting { .. } = event {
            waits.set(waits.get() + 1);
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Fetched);
    assert_eq!(fs::read(root.path().join("mine/list.bin")).unwrap(), bytes);
    assert_eq!(
        server.requests(),
        [
            "list.bin -",
            "list.bin bytes=100000-",
            "list.bin bytes=200000-",
            "list.bin bytes=300000-"
        ]
    );
    assert_eq!(waits.get(), 3);
    assert_eq!(left(&root), ["mine/list.bin"]);
}

#[test]
fn a_download_that_was_given_up_is_continued_by_the_next_call() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let bytes = noise(300_000);
    let mut served = Served {
        bytes: bytes.clone(),
        etag: Some("\"v1\""),
        cuts: (1, 120_000),
        refusals: vec![],
        ..Served::default()
    };
    server.serve("list.bin", served.clone());
    // The first connection brings a part; then the server is ill until patience ends.
    let fetcher = Fetcher::new(root.path(), hurried()).unwrap();
    let seen = Cell::new(false);
    let error = fetcher
        .fetch("mine", &file(&server, &bytes), &|event| {
            if let Event::Waiting { .. } = event
                && !seen.replace(true)
            {
                served_ill(&server, &bytes);
            }
        })
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}/list.bin: the server answers 503 Service Unavailable; gave up after 3 attempts without progress. \
             120000 bytes are kept, the same command continues there",
            server.url
        )
    );
    drop(fetcher);
    assert_eq!(
        left(&root),
        [
            "downloads/mine/list.bin.part",
            "downloads/mine/list.bin.part.json"
        ]
    );
    (served.cuts, served.refusals) = ((0, 0), vec![]);
    server.serve("list.bin", served);
    assert_eq!(
        fetch(root.path(), &file(&server, &bytes)).unwrap(),
        Outcome::Fetched
    );
    assert_eq!(server.requests().last().unwrap(), "list.bin bytes=120000-");
    assert_eq!(fs::read(root.path().join("mine/list.bin")).unwrap(), bytes);
    assert_eq!(left(&root), ["mine/list.bin"]);
}

fn served_ill(server: &Server, bytes: &[u8]) {
    let served = Served {
        bytes: bytes.to_vec(),
        etag: Some("\"v1\""),
        refusals: vec![503; 9],
        ..Served::default()
    };
    server.serve("list.bin", served);
}

#[test]
fn a_file_that_changed_meanwhile_is_downloaded_from_its_start() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let (old, new) = (noise(200_000), noise(250_001)[1..].to_vec());
    let old = Served {
        bytes: old,
        etag: Some("\"v1\""),
        cuts: (9, 50_000),
        refusals: vec![],
        ..Served::default()
    };
    server.serve("list.bin", old);
    let fetcher = Fetcher::new(root.path(), hurried()).unwrap();
    let changed = Served {
        bytes: new.clone(),
        etag: Some("\"v2\""),
        ..Served::default()
    };
    let outcome = fetcher.fetch("mine", &file(&server, &new), &|event| {
        if let Event::Waiting { .. } = event {
            server.serve("list.bin", changed.clone());
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Fetched);
    assert_eq!(fs::read(root.path().join("mine/list.bin")).unwrap(), new);
}

#[test]
fn a_server_without_ranges_sends_the_whole_again() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let bytes = noise(200_000);
    let served = Served {
        bytes: bytes.clone(),
        refuses_ranges: true,
        cuts: (1, 70_000),
        ..Served::default()
    };
    server.serve("list.bin", served);
    assert_eq!(
        fetch(root.path(), &file(&server, &bytes)).unwrap(),
        Outcome::Fetched
    );
    assert_eq!(server.requests(), ["list.bin -", "list.bin bytes=70000-"]);
    assert_eq!(fs::read(root.path().join("mine/list.bin")).unwrap(), bytes);
}

#[test]
fn wrong_bytes_are_removed_and_named_with_both_sums() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let bytes = noise(10_000);
    let mut wrong = bytes.clone();
    wrong[5_000] ^= 1;
    let served = Served {
        bytes: wrong.clone(),
        ..Served::default()
    };
    server.serve("list.bin", served);
    let error = fetch(root.path(), &file(&server, &bytes))
        .unwrap_err()
        .to_string();
    let expected = format!(
        "{}: MD5 is {}, published is {}; the file was removed, the same command downloads it again",
        root.path().join("downloads/mine/list.bin").display(),
        hex(&Md5::digest(&wrong)),
        hex(&Md5::digest(&bytes))
    );
    assert_eq!(error, expected);
    assert_eq!(left(&root), [""; 0]);
}

#[test]
fn a_sum_that_only_sha256_tells_is_looked_at_too() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let bytes = noise(1_000);
    let served = Served {
        bytes: bytes.clone(),
        ..Served::default()
    };
    server.serve("list.bin", served);
    let mut asked = file(&server, &bytes);
    asked.sums[1] = Sum::Sha256("0".repeat(64));
    let error = fetch(root.path(), &asked).unwrap_err().to_string();
    assert!(error.contains("SHA-256 is "), "{error}");
}

#[test]
fn a_published_length_refuses_another_before_a_byte_is_read() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let bytes = noise(10_000);
    let served = Served {
        bytes: bytes.clone(),
        ..Served::default()
    };
    server.serve("list.bin", served);
    let mut asked = file(&server, &bytes);
    asked.bytes = Some(9_999);
    assert_eq!(
        fetch(root.path(), &asked).unwrap_err().to_string(),
        format!(
            "{}/list.bin: the server offers 10000 bytes; the published file has 9999",
            server.url
        )
    );
    assert_eq!(left(&root), [""; 0]);
}

#[test]
fn a_length_that_is_too_large_ends_as_a_broken_connection_and_one_too_small_as_a_wrong_sum() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let bytes = noise(10_000);
    let mut served = Served {
        bytes: bytes.clone(),
        refuses_ranges: true,
        claims: Some(20_000),
        ..Served::default()
    };
    server.serve("list.bin", served.clone());
    let error = fetch(root.path(), &file(&server, &bytes))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("gave up after 3 attempts without progress"),
        "{error}"
    );
    served.claims = Some(4_000);
    server.serve("list.bin", served);
    let error = fetch(root.path(), &file(&server, &bytes))
        .unwrap_err()
        .to_string();
    assert!(error.contains(": MD5 is "), "{error}");
    assert!(!root.path().join("mine").exists());
}

#[test]
fn a_file_without_a_length_is_whole_when_its_sum_is_and_bounded_by_the_published_length() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let bytes = noise(50_000);
    let served = Served {
        bytes: bytes.clone(),
        is_chunked: true,
        ..Served::default()
    };
    server.serve("list.bin", served);
    let mut asked = file(&server, &bytes);
    asked.bytes = Some(49_999);
    let error = fetch(root.path(), &asked).unwrap_err().to_string();
    assert!(
        error.ends_with("the server sends more than 49999 bytes; it was stopped there"),
        "{error}"
    );
    assert_eq!(left(&root), [""; 0]);
    asked.bytes = None;
    assert_eq!(fetch(root.path(), &asked).unwrap(), Outcome::Fetched);
}

#[test]
fn a_file_that_is_not_there_is_no_matter_of_patience() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let error = fetch(root.path(), &file(&server, b"x"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        format!("{}/list.bin: the server answers 404 Not Found", server.url)
    );
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_second_fetch_into_the_same_folder_is_told_so() {
    let root = tempfile::tempdir().unwrap();
    let first = Fetcher::new(root.path(), hurried()).unwrap();
    let error = Fetcher::new(root.path(), hurried())
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.ends_with("downloads: another fetch is at work in this folder"),
        "{error}"
    );
    drop(first);
    Fetcher::new(root.path(), hurried()).unwrap();
}
