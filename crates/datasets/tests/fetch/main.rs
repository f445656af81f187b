//! Fetching from a server that cuts, lies and refuses, and unpacking archives that mean harm.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

mod archives;
mod downloads;
mod places;
#[path = "../server/mod.rs"]
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
