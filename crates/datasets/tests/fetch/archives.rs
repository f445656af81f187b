//! Archives: every kind is unpacked, and harm is refused whole.

use super::*;

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
