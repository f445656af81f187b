//! Fetching from a server that cuts, lies and refuses, and unpacking archives that mean harm.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

mod server;

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use datasets::Catalogue;
use datasets::catalogue::{Archive, Gives, Source, Sum};
use datasets::fetch::{Event, FetchError, Fetcher, Options, Outcome, Patience};
use md5::Md5;
use server::{Served, Server};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sums(bytes: &[u8]) -> Vec<Sum> {
    vec![
        Sum::Md5(hex(&Md5::digest(bytes))),
        Sum::Sha256(hex(&Sha256::digest(bytes))),
    ]
}

/// Bytes that no two places share.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A plain file of the dataset `mine` at `server`, of this content as published.
fn file(server: &Server, bytes: &[u8]) -> Archive {
    Archive {
        file: "list.bin".to_owned(),
        from: Source::Url(format!("{}/list.bin", server.url)),
        bytes: None,
        sums: sums(bytes),
        gives: Gives::File("mine/list.bin".into()),
    }
}

fn archive(server: &Server, name: &str, bytes: &[u8], parts: &[(&str, &str)]) -> Archive {
    let served = Served {
        bytes: bytes.to_vec(),
        ..Served::default()
    };
    server.serve(name, served);
    Archive {
        file: name.to_owned(),
        from: Source::Url(format!("{}/{name}", server.url)),
        bytes: Some(bytes.len() as u64),
        sums: sums(bytes),
        gives: Gives::Parts {
            inner: None,
            parts: parts
                .iter()
                .map(|(part, to)| ((*part).to_owned(), PathBuf::from(to)))
                .collect(),
        },
    }
}

fn hurried() -> Options {
    Options {
        patience: Patience {
            attempts: 3,
            wait: Duration::from_millis(1),
            connect: Duration::from_secs(5),
            silence: Duration::from_secs(5),
        },
        ..Options::default()
    }
}

fn fetch(root: &Path, archive: &Archive) -> Result<Outcome, FetchError> {
    Fetcher::new(root, hurried())
        .unwrap()
        .fetch("mine", archive, &|_| ())
}

/// Every file and folder below the data folder, without the lock.
fn left(root: &TempDir) -> Vec<String> {
    let mut all = Vec::new();
    let mut folders = vec![root.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(root.path())
                .unwrap()
                .display()
                .to_string();
            if path.is_dir() {
                folders.push(path);
            } else if name != "downloads/.lock" {
                all.push(name);
            }
        }
    }
    all.sort();
    all
}

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
            "{}/list.bin: the server answers 503 No; gave up after 3 attempts without progress. \
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
        format!("{}/list.bin: the server answers 404 No", server.url)
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

fn header(name: &[u8], kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

/// A tar with these files, as they are named.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let header = header(name.as_bytes(), tar::EntryType::Regular, bytes.len() as u64);
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        writer
            .start_file(*name, zip::write::SimpleFileOptions::default())
            .unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn tar_gzip_and_zip_are_told_by_their_bytes_and_give_their_parts() {
    let files: [(&str, &[u8]); 4] = [
        ("data/images/a b/é 1.jpg", b"one"),
        ("./data/images/2.jpg", b"two"),
        ("data/list.txt", b"list"),
        ("readme.txt", b"not asked for"),
    ];
    let plain = tar_of(&files);
    for (name, bytes) in [
        ("mine.tar.gz", gzipped(&plain)),
        ("called.tar.gz", plain),
        ("mine.zip", zip_of(&files)),
    ] {
        let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
        let parts = [
            ("data/images", "mine/photos"),
            ("data/list.txt", "mine/list.txt"),
        ];
        let asked = archive(&server, name, &bytes, &parts);
        assert_eq!(
            fetch(root.path(), &asked).unwrap(),
            Outcome::Fetched,
            "{name}"
        );
        assert_eq!(
            left(&root),
            [
                "mine/list.txt",
                "mine/photos/2.jpg",
                "mine/photos/a b/é 1.jpg"
            ],
            "{name}"
        );
        assert_eq!(fetch(root.path(), &asked).unwrap(), Outcome::There);
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn what_is_in_place_is_left_and_what_is_missing_is_added() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let bytes = tar_of(&[("images/1.jpg", b"theirs"), ("labels/1.txt", b"label")]);
    let parts = [("images", "mine/images"), ("labels", "mine/labels")];
    fs::create_dir_all(root.path().join("mine/images")).unwrap();
    fs::write(root.path().join("mine/images/1.jpg"), "ours").unwrap();
    fetch(root.path(), &archive(&server, "mine.tar", &bytes, &parts)).unwrap();
    assert_eq!(
        fs::read(root.path().join("mine/images/1.jpg")).unwrap(),
        b"ours"
    );
    assert_eq!(left(&root), ["mine/images/1.jpg", "mine/labels/1.txt"]);
}

#[test]
fn an_archive_in_an_archive_is_opened() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let inner = gzipped(&tar_of(&[("photos/1.jpg", b"one")]));
    let bytes = zip_of(&[("outer/inner.tar.gz", &inner), ("outer/other", b"x")]);
    let mut asked = archive(&server, "outer.zip", &bytes, &[("photos", "mine/photos")]);
    let Gives::Parts { inner, .. } = &mut asked.gives else {
        unreachable!()
    };
    *inner = Some("outer/inner.tar.gz".to_owned());
    fetch(root.path(), &asked).unwrap();
    assert_eq!(left(&root), ["mine/photos/1.jpg"]);
}

#[test]
fn long_names_are_read_and_endless_ones_refused() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let long = format!("images/{}/{}.jpg", "f".repeat(200), "n".repeat(200));
    let mut gnu = tar::Builder::new(Vec::new());
    let mut about = tar::Header::new_gnu();
    about.set_size(3);
    gnu.append_data(&mut about, &long, &b"one"[..]).unwrap();
    let record = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        let length = (1..9)
            .map(|n| rest.len() + n)
            .find(|l| l.to_string().len() + rest.len() == *l);
        format!("{}{rest}", length.unwrap())
    };
    let extended = record("path", "images/päx.jpg") + &record("size", "3");
    let x = header(b"x", tar::EntryType::XHeader, extended.len() as u64);
    gnu.append(&x, extended.as_bytes()).unwrap();
    gnu.append(&header(b"short", tar::EntryType::Regular, 3), &b"two"[..])
        .unwrap();
    let bytes = gnu.into_inner().unwrap();
    fetch(
        root.path(),
        &archive(&server, "long.tar", &bytes, &[("images", "mine/images")]),
    )
    .unwrap();
    assert_eq!(
        left(&root),
        [format!("mine/{long}"), "mine/images/päx.jpg".to_owned()]
    );

    // A name of 40 MB of zeros would be 40 kB in the archive, and 40 MB in a careless reader's memory.
    let mut bomb = tar::Builder::new(Vec::new());
    let zeros = vec![0; 40 << 20];
    let name = header(b"x", tar::EntryType::GNULongName, zeros.len() as u64);
    bomb.append(&name, &zeros[..]).unwrap();
    let bytes = gzipped(&bomb.into_inner().unwrap());
    refused(
        &bytes,
        "bomb.tgz",
        "entry \"x\": its name has more than 4096 bytes",
    );
}

/// The archive is refused with this message, and leaves nothing.
fn refused(bytes: &[u8], name: &str, reason: &str) {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let outside = root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let data = root.path().join("data");
    fs::create_dir(&data).unwrap();
    let asked = archive(&server, name, bytes, &[("images", "mine/images")]);
    let error = fetch(&data, &asked).unwrap_err().to_string();
    assert!(error.contains(reason), "{name}: {error}\nnot: {reason}");
    assert!(error.contains(name), "{error}");
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(root.path()), ["data", "outside"], "{name}");
    assert_eq!(names(&data), ["downloads"], "{name}");
    assert_eq!(names(&data.join("downloads/mine")), [name], "{name}");
    assert!(names(&outside).is_empty());
}

#[test]
fn hostile_paths_refuse_the_whole_archive() {
    let escape =
        "leads outside its folder; paths must be relative and without `..`; nothing was unpacked";
    for path in [
        "../escaped",
        "images/../../escaped",
        "/escaped",
        "images/../../../../../../../../tmp/escaped",
        "images\\..\\..\\escaped",
        "not-asked-for/../../escaped",
    ] {
        let bytes = tar_of(&[("images/1.jpg", b"one"), (path, b"evil")]);
        refused(&bytes, "evil.tar", escape);
        refused(&gzipped(&bytes), "evil.tgz", escape);
    }
    for (written, path) in [
        ("aa/escaped", "../escaped"),
        ("a/escaped", "//escaped"),
        ("aescaped", "/escaped"),
    ] {
        let mut bytes = zip_of(&[("images/1.jpg", b"one"), (written, b"evil")]);
        let written = written.as_bytes();
        for at in 0..bytes.len() - written.len() {
            if bytes[at..].starts_with(written) {
                bytes[at..at + written.len()].copy_from_slice(path.as_bytes());
            }
        }
        refused(&bytes, "evil.zip", escape);
    }
}

#[test]
fn links_and_devices_refuse_the_whole_archive() {
    use tar::EntryType;
    for (kind, reason) in [
        (
            EntryType::Symlink,
            "is a link; archives may hold files and folders only",
        ),
        (
            EntryType::Link,
            "is a link; archives may hold files and folders only",
        ),
        (EntryType::Char, "is neither a file nor a folder (type '3')"),
        (EntryType::Fifo, "is neither a file nor a folder (type '6')"),
    ] {
        let mut builder = tar::Builder::new(Vec::new());
        let mut link = header(b"images/link", kind, 0);
        link.as_old_mut().linkname[..13].copy_from_slice(b"../../outside");
        link.set_cksum();
        builder.append(&link, &[][..]).unwrap();
        // Through the link, were it there, this would be written outside.
        let through = header(b"images/link/file", EntryType::Regular, 4);
        builder.append(&through, &b"evil"[..]).unwrap();
        refused(&builder.into_inner().unwrap(), "links.tar", reason);
    }
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    writer
        .add_symlink("images/link", "../../outside", options)
        .unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    refused(
        &bytes,
        "links.zip",
        "is a link; archives may hold files and folders only",
    );
}

#[test]
fn bombs_are_refused_by_the_stated_limit() {
    let zeros = vec![0; 80 << 20];
    let tar = gzipped(&tar_of(&[("images/zeros", &zeros)]));
    let limit = |archive: &[u8]| (64 << 20) + 100 * archive.len() as u64;
    let reason = |bytes: &[u8]| {
        format!(
            "entry \"images/zeros\": more bytes than the limit of {}",
            limit(bytes)
        )
    };
    assert!(limit(&tar) < 80 << 20, "{} bytes", tar.len());
    refused(&tar, "bomb.tgz", &reason(&tar));
    let mut zip = zip_of(&[("images/zeros", &zeros)]);
    refused(&zip, "bomb.zip", &reason(&zip));
    // A header that says the file is small: what comes out is counted, not what is said.
    for at in 0..zip.len() - 4 {
        if zip[at..at + 4] == (80u32 << 20).to_le_bytes() {
            zip[at..at + 4].copy_from_slice(&10u32.to_le_bytes());
        }
    }
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let asked = archive(&server, "liar.zip", &zip, &[("images", "mine/images")]);
    fetch(root.path(), &asked).unwrap_err();
    assert!(!root.path().join("mine").exists());
}

#[test]
fn damaged_archives_leave_no_half_folder() {
    let files: Vec<(String, Vec<u8>)> = (0..50)
        .map(|i| (format!("images/{i}.jpg"), noise(5_000)))
        .collect();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(n, b)| (n.as_str(), b.as_slice()))
        .collect();
    let (tar, zip) = (tar_of(&files), zip_of(&files));
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    refused(&half(&tar), "half.tar", "the archive is damaged: ");
    refused(
        &half(&gzipped(&tar)),
        "half.tgz",
        "the archive is damaged: ",
    );
    refused(&half(&zip), "half.zip", "the archive is damaged: ");
    refused(
        b"<html>Please log in</html>",
        "page.zip",
        "is neither a tar (plain or gzip) nor a zip archive; it starts with 3c68746d6c3e506c",
    );
    refused(
        &tar_of(&[("photos/1.jpg", b"one")]),
        "other.tar",
        "holds no \"images\"",
    );
    refused(
        &tar_of(&[("images/a", b"file"), ("images/a/b", b"below a file")]),
        "clash.tar",
        "stands where the archive has a file and a folder of the same name",
    );
}

#[test]
fn an_interrupted_unpacking_begins_anew_without_a_download() {
    let (server, root) = (Server::start(), tempfile::tempdir().unwrap());
    let bytes = tar_of(&[("images/1.jpg", b"one")]);
    let asked = archive(&server, "mine.tar", &bytes, &[("images", "mine/images")]);
    let folder = root.path().join("downloads/mine");
    fs::create_dir_all(folder.join("mine.tar.unpacking/images")).unwrap();
    fs::write(
        folder.join("mine.tar.unpacking/images/0.jpg"),
        "of another time",
    )
    .unwrap();
    fs::write(folder.join("mine.tar"), &bytes).unwrap();
    assert_eq!(fetch(root.path(), &asked).unwrap(), Outcome::Fetched);
    assert_eq!(left(&root), ["mine/images/1.jpg"]);
    assert!(server.requests().is_empty());
}

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
