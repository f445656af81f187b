//! From an archive to folders, without trusting it.
//!
//! Only files and folders are unpacked, below a staging folder that is empty before. A path that is absolute or has a
//! `..`, a link of any kind, a device, an encrypted or sparse entry refuses the whole archive, wherever in it it stands.
//! Numbers are bounded by [`Limits`]. Nothing is written to its place before everything has been unpacked.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use super::error::EntryProblem;
use super::{Event, FetchError};
use crate::split::hex;

/// The most entries of an archive: ImageNet's training set has 1.3 million.
pub const MAX_ENTRIES: u64 = 2_000_000;
/// The most bytes that come out of an archive.
pub const MAX_UNPACKED: u64 = 1 << 38;
/// How much larger than itself an archive may become: photos gain nothing by compression, lists of names ten times.
const MAX_RATIO: u64 = 100;
/// What any archive may hold whatever its own size.
const FREE: u64 = 64 << 20;
/// The longest name of an entry, in bytes.
const MAX_NAME: u64 = 4096;

/// What an archive may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub entries: u64,
    pub bytes: u64,
}

impl Limits {
    /// For an archive of `length` bytes.
    pub(super) fn of(length: u64) -> Self {
        Self {
            entries: MAX_ENTRIES,
            bytes: length
                .saturating_mul(MAX_RATIO)
                .saturating_add(FREE)
                .min(MAX_UNPACKED),
        }
    }
}

/// Unpacks what is below `parts` of the archive at `path` into `staging`, under the paths it has in the archive.
pub(super) fn unpack(
    path: &Path,
    parts: &[&str],
    staging: &Path,
    limits: Limits,
    tell: &dyn Fn(Event),
) -> Result<(), FetchError> {
    let mut sink = Sink {
        path,
        parts,
        staging,
        limits,
        entries: 0,
        bytes: 0,
        tell,
    };
    let mut start = [0; 512];
    let mut file = File::open(path).map_err(FetchError::io(path))?;
    let mut read = 0;
    while read < start.len() {
        match file
            .read(&mut start[read..])
            .map_err(FetchError::io(path))?
        {
            0 => break,
            more => read += more,
        }
    }
    let file = File::open(path).map_err(FetchError::io(path))?;
    let file = BufReader::with_capacity(1 << 18, file);
    match &start[..read] {
        [b'P', b'K', 3 | 5, 4 | 6, ..] => zip(file, &mut sink),
        [0x1f, 0x8b, ..] => tar(flate2::bufread::MultiGzDecoder::new(file), &mut sink),
        // Old tars have no magic; their header's checksum does as well.
        header if header.len() == 512 && is_tar(header) => tar(file, &mut sink),
        other => Err(FetchError::Format {
            path: path.to_owned(),
            start: hex(&other[..other.len().min(8)]),
        }),
    }
}

/// Whether a header's checksum, its own field taken as spaces, is the sum of its bytes.
fn is_tar(header: &[u8]) -> bool {
    let field = String::from_utf8_lossy(&header[148..156]);
    let told = u32::from_str_radix(field.trim_matches(['\0', ' ']), 8);
    let sum: u32 = header
        .iter()
        .enumerate()
        .map(|(i, &byte)| {
            if (148..156).contains(&i) {
                32
            } else {
                u32::from(byte)
            }
        })
        .sum();
    told == Ok(sum)
}

/// Where entries go, and what they have cost so far.
struct Sink<'a> {
    path: &'a Path,
    parts: &'a [&'a str],
    staging: &'a Path,
    limits: Limits,
    entries: u64,
    bytes: u64,
    tell: &'a dyn Fn(Event<'_>),
}

impl Sink<'_> {
    fn refuse(&self, entry: &str, reason: EntryProblem) -> FetchError {
        FetchError::Entry {
            path: self.path.to_owned(),
            entry: entry.to_owned(),
            reason,
        }
    }

    fn damaged(&self, reason: impl ToString) -> FetchError {
        FetchError::Damaged {
            path: self.path.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// Counts an entry of `bytes` bytes as its header tells.
    fn count(&mut self, entry: &str, bytes: u64) -> Result<(), FetchError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(self.refuse(entry, EntryProblem::TooMany(self.limits.entries)));
        }
        if self.bytes.saturating_add(bytes) > self.limits.bytes {
            return Err(self.refuse(entry, EntryProblem::TooLarge(self.limits.bytes)));
        }
        Ok(())
    }

    /// The entry's path below the staging folder; nothing for one that is not asked for.
    fn place(&self, entry: &str) -> Result<Option<PathBuf>, FetchError> {
        let name = entry.trim_end_matches('/');
        // `.` itself is the folder that everything is in.
        if !name.is_empty() && !crate::split::stays_inside(Path::new(name)) {
            return Err(self.refuse(entry, EntryProblem::Outside));
        }
        let plain: PathBuf = Path::new(name)
            .components()
            .filter(|part| *part != std::path::Component::CurDir)
            .collect();
        let wanted = self.parts.iter().any(|part| plain.starts_with(part));
        Ok(wanted.then(|| self.staging.join(plain)))
    }

    /// Writes a file; what it holds is counted as it comes, whatever its header told.
    fn file(&mut self, entry: &str, to: &Path, from: &mut dyn Read) -> Result<(), FetchError> {
        let folder = to.parent().unwrap_or(self.staging);
        let clash = |error: &std::io::Error| {
            use std::io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory};
            matches!(error.kind(), AlreadyExists | IsADirectory | NotADirectory)
        };
        let made = fs::create_dir_all(folder).and_then(|()| File::create(to));
        let mut file = match made {
            Ok(file) => file,
            Err(error) if clash(&error) => return Err(self.refuse(entry, EntryProblem::Clash)),
            Err(error) => return Err(FetchError::io(to)(error)),
        };
        let mut block = [0; 1 << 16];
        loop {
            let read = match from.read(&mut block) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(self.damaged(format!("{entry}: {error}"))),
            };
            self.bytes += read as u64;
            if self.bytes > self.limits.bytes {
                return Err(self.refuse(entry, EntryProblem::TooLarge(self.limits.bytes)));
            }
            file.write_all(&block[..read]).map_err(FetchError::io(to))?;
        }
        (self.tell)(Event::Unpacking {
            entries: self.entries,
            bytes: self.bytes,
        });
        Ok(())
    }
}

fn tar(reader: impl Read, sink: &mut Sink) -> Result<(), FetchError> {
    use tar::EntryType;
    let mut archive = tar::Archive::new(reader);
    // Raw: long names and extended headers are read here, with a limit; the reader would hold them whole in memory.
    let entries = archive
        .entries()
        .map_err(|error| sink.damaged(error))?
        .raw(true);
    let (mut long, mut told): (Option<String>, Option<u64>) = (None, None);
    for entry in entries {
        let mut entry = entry.map_err(|error| sink.damaged(error))?;
        let header = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        let size = entry.size();
        if matches!(kind, EntryType::GNULongName | EntryType::XHeader) {
            sink.count(&header, size)?;
            if size > MAX_NAME * 4 {
                return Err(sink.refuse(&header, EntryProblem::LongName(MAX_NAME)));
            }
            let mut text = Vec::new();
            entry
                .read_to_end(&mut text)
                .map_err(|error| sink.damaged(error))?;
            if kind == EntryType::GNULongName {
                let end = text
                    .iter()
                    .position(|&byte| byte == 0)
                    .unwrap_or(text.len());
                long = Some(String::from_utf8_lossy(&text[..end]).into_owned());
            } else {
                let records =
                    extended(&text).ok_or_else(|| sink.damaged("a broken extended header"))?;
                for (key, value) in records {
                    match key.as_str() {
                        "path" => long = Some(value),
                        "size" => told = value.parse().ok(),
                        _ => {}
                    }
                }
            }
            continue;
        }
        let name = long.take().unwrap_or(header);
        if name.len() as u64 > MAX_NAME {
            return Err(sink.refuse(
                &name[..name.floor_char_boundary(64)],
                EntryProblem::LongName(MAX_NAME),
            ));
        }
        sink.count(&name, size)?;
        if told.take().is_some_and(|told| told != size) {
            return Err(sink.refuse(&name, EntryProblem::TwoLengths));
        }
        match kind {
            // Headers for the whole archive: comments and the like.
            EntryType::XGlobalHeader => sink.bytes += size,
            EntryType::Directory => drop(sink.place(&name)?),
            EntryType::Regular | EntryType::Continuous => match sink.place(&name)? {
                // Old tars mark folders by a slash only.
                Some(_) if name.ends_with('/') => {}
                Some(to) => sink.file(&name, &to, &mut entry)?,
                None => sink.bytes += size,
            },
            EntryType::Symlink | EntryType::Link | EntryType::GNULongLink => {
                return Err(sink.refuse(&name, EntryProblem::Link));
            }
            other => {
                let kind = char::from(other.as_byte());
                return Err(sink.refuse(&name, EntryProblem::Special(kind)));
            }
        }
    }
    Ok(())
}

/// The records `<length> <key>=<value>\n` of an extended header.
fn extended(mut text: &[u8]) -> Option<Vec<(String, String)>> {
    let mut records = Vec::new();
    while !text.is_empty() && text[0] != 0 {
        let space = text.iter().position(|&byte| byte == b' ')?;
        let length: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
        let record = text.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        records.push((words(&record[..equals]), words(&record[equals + 1..])));
        text = &text[length..];
    }
    Some(records)
}

fn zip(reader: BufReader<File>, sink: &mut Sink) -> Result<(), FetchError> {
    let mut archive = zip::ZipArchive::new(reader).map_err(|error| sink.damaged(error))?;
    for index in 0..archive.len() {
        let raw = archive
            .by_index_raw(index)
            .map_err(|error| sink.damaged(error))?;
        let name = String::from_utf8_lossy(raw.name_raw()).into_owned();
        let (size, mode) = (raw.size(), raw.unix_mode().unwrap_or(0));
        let (encrypted, folder) = (raw.encrypted(), raw.is_dir());
        drop(raw);
        if name.len() as u64 > MAX_NAME {
            return Err(sink.refuse(
                &name[..name.floor_char_boundary(64)],
                EntryProblem::LongName(MAX_NAME),
            ));
        }
        sink.count(&name, size)?;
        // The upper bits of the mode are the kind of file; 0 where the archive was not made on Unix.
        match mode & 0o170_000 {
            0 | 0o100_000 | 0o040_000 => {}
            0o120_000 => return Err(sink.refuse(&name, EntryProblem::Link)),
            _ => return Err(sink.refuse(&name, EntryProblem::Special('?'))),
        }
        if encrypted {
            return Err(sink.refuse(&name, EntryProblem::Encrypted));
        }
        let Some(to) = sink.place(&name)? else {
            continue;
        };
        if folder {
            continue;
        }
        let mut entry = archive
            .by_index(index)
            .map_err(|error| sink.damaged(error))?;
        sink.file(&name, &to, &mut entry)?;
    }
    Ok(())
}
