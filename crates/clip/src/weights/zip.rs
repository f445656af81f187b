//! The part of the zip format that PyTorch writes: records stored as they are, found by name.
//!
//! APPNOTE 6.3.10 of PKWARE, sections 4.3.7, 4.3.12 to 4.3.16 and 4.5.3.

use super::stored::{Mapped, Record};
use crate::error::Error;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::{Arc, OnceLock};

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;

/// The method of compressed records that is inflated.
const DEFLATE: usize = 8;
/// Bytes of a text that are looked at, and how many texts: programs of TorchScript are a few kilobytes each.
const LONGEST_TEXT: u64 = 1 << 20;
const MOST_TEXTS: usize = 2048;

/// Reads little-endian fields; `None` past the end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn at(bytes: &'a [u8], offset: usize) -> Option<Self> {
        bytes.get(offset..).map(Self)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn number(&mut self, bytes: usize) -> Option<u64> {
        let little_endian = |n, b: &u8| n << 8 | u64::from(*b);
        Some(self.take(bytes)?.iter().rev().fold(0, little_endian))
    }

    fn short(&mut self) -> Option<usize> {
        usize::try_from(self.number(2)?).ok()
    }

    fn long(&mut self) -> Option<u64> {
        self.number(4)
    }
}

/// An archive: its records by name.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    pub(crate) records: BTreeMap<String, Arc<Record>>,
    /// Names of compressed records, which are not read. PyTorch compresses the code in TorchScript archives.
    pub(crate) compressed: BTreeSet<String>,
    /// Those of them that can be inflated, with where they lie: texts, never weights.
    deflated: Vec<(String, Arc<Record>)>,
}

impl Archive {
    /// Reads the directory at the end of the file.
    pub(crate) fn open(file: &Arc<Mapped>) -> Result<Self, Error> {
        let archive = match directory(file.bytes()) {
            Some((start, count)) => read_directory(file, start, count),
            None => {
                Err("has no directory at its end: it is cut short, or not a zip archive".to_owned())
            }
        };
        archive.map_err(|problem| Error::weights(&file.path, "zip archive", problem))
    }

    /// Which of `words` stand in the texts whose names end in `ending`.
    pub(crate) fn mentions<const N: usize>(&self, ending: &str, words: [&str; N]) -> [bool; N] {
        let mut found = [false; N];
        let plain = self.records.iter().map(|(name, r)| (name, r, false));
        let packed = self.deflated.iter().map(|(name, r)| (name, r, true));
        let texts = plain.chain(packed).filter(|(n, ..)| n.ends_with(ending));
        for (_, record, is_packed) in texts.take(MOST_TEXTS) {
            let mut text = Vec::new();
            let bytes = record.bytes();
            // What does not inflate is no text that says anything.
            let _ = if is_packed {
                let inflated = flate2::read::DeflateDecoder::new(bytes);
                inflated.take(LONGEST_TEXT).read_to_end(&mut text)
            } else {
                bytes.take(LONGEST_TEXT).read_to_end(&mut text)
            };
            let text = String::from_utf8_lossy(&text);
            for (found, word) in found.iter_mut().zip(words) {
                *found |= text.contains(word);
            }
        }
        found
    }

    /// The folder all records of a PyTorch file lie in, with its slash: where `data.pkl` is.
    pub(crate) fn folder(&self) -> Option<&str> {
        let name = self
            .records
            .keys()
            .find(|n| *n == "data.pkl" || n.ends_with("/data.pkl"))?;
        name.strip_suffix("data.pkl")
    }
}

/// Offset of the central directory and its number of entries.
fn directory(bytes: &[u8]) -> Option<(usize, usize)> {
    // The end record is 22 bytes and a comment of at most 65535.
    let earliest = bytes.len().saturating_sub(22 + 0xffff);
    let end = (earliest..=bytes.len().checked_sub(22)?)
        .rev()
        .find(|&at| bytes[at..at + 4] == END.to_le_bytes())?;
    let mut fields = Fields::at(bytes, end + 10)?;
    let (count, _size, start) = (fields.short()?, fields.long()?, fields.long()?);
    if count != 0xffff && start != 0xffff_ffff {
        return Some((usize::try_from(start).ok()?, count));
    }
    let mut locator = Fields::at(bytes, end.checked_sub(20)?)?;
    if locator.long()? != u64::from(LOCATOR_64) {
        return Some((usize::try_from(start).ok()?, count));
    }
    locator.take(4)?;
    let mut fields = Fields::at(bytes, usize::try_from(locator.number(8)?).ok()?)?;
    if fields.long()? != u64::from(END_64) {
        return None;
    }
    fields.take(28)?;
    let (count, _size, start) = (fields.number(8)?, fields.number(8)?, fields.number(8)?);
    Some((usize::try_from(start).ok()?, usize::try_from(count).ok()?))
}

fn read_directory(file: &Arc<Mapped>, start: usize, count: usize) -> Result<Archive, String> {
    let bytes = file.bytes();
    let mut archive = Archive::default();
    let mut fields = Fields::at(bytes, start).ok_or("has its directory after its end")?;
    for i in 0..count {
        let entry = entry(&mut fields)
            .ok_or_else(|| format!("entry {i} of {count} in its directory is damaged"))?;
        let Entry {
            name,
            method,
            size,
            packed,
            checksum,
            local,
        } = entry;
        if method != 0 {
            let start = data(bytes, local)
                .filter(|at| at.checked_add(packed).is_some_and(|end| end <= bytes.len()));
            if let Some(start) = start.filter(|_| method == DEFLATE) {
                let record = Record {
                    file: file.clone(),
                    start,
                    length: packed,
                    checksum: 0,
                    is_intact: OnceLock::new(),
                };
                archive.deflated.push((name.clone(), Arc::new(record)));
            }
            archive.compressed.insert(name);
            continue;
        }
        let data = data(bytes, local)
            .filter(|at| at.checked_add(size).is_some_and(|end| end <= bytes.len()));
        let start =
            data.ok_or_else(|| format!("{name} ({size} bytes) does not lie inside the file"))?;
        let record = Record {
            file: file.clone(),
            start,
            length: size,
            checksum,
            is_intact: OnceLock::new(),
        };
        archive.records.insert(name, Arc::new(record));
    }
    Ok(archive)
}

struct Entry {
    name: String,
    method: usize,
    size: usize,
    /// Bytes in the file.
    packed: usize,
    checksum: u32,
    /// Offset of the local header.
    local: usize,
}

fn entry(fields: &mut Fields) -> Option<Entry> {
    if fields.long()? != u64::from(CENTRAL) {
        return None;
    }
    fields.take(6)?;
    let method = fields.short()?;
    fields.take(4)?;
    let checksum = u32::try_from(fields.long()?).ok()?;
    let (mut packed, mut size) = (fields.long()?, fields.long()?);
    let (name, extra, comment) = (fields.short()?, fields.short()?, fields.short()?);
    fields.take(8)?;
    let mut local = fields.long()?;
    let name = String::from_utf8_lossy(fields.take(name)?).into_owned();
    let mut extra = Fields(fields.take(extra)?);
    fields.take(comment)?;
    // Sizes and offsets that did not fit are in the zip64 field, in this order, and only those.
    while let (Some(tag), Some(length)) = (extra.short(), extra.short()) {
        let mut body = Fields(extra.take(length)?);
        if tag == 1 {
            for value in [&mut size, &mut packed, &mut local] {
                if *value == 0xffff_ffff {
                    *value = body.number(8)?;
                }
            }
        }
    }
    let size = usize::try_from(size).ok()?;
    let packed = usize::try_from(packed).ok()?;
    Some(Entry {
        name,
        method,
        size,
        packed,
        checksum,
        local: usize::try_from(local).ok()?,
    })
}

/// Where the bytes of the record begin whose local header is at `local`.
fn data(bytes: &[u8], local: usize) -> Option<usize> {
    let mut fields = Fields::at(bytes, local)?;
    if fields.long()? != u64::from(LOCAL) {
        return None;
    }
    fields.take(22)?;
    let (name, extra) = (fields.short()?, fields.short()?);
    local.checked_add(30 + name + extra)
}

/// Writes records the way PyTorch does: stored, every one starting at a multiple of 64 bytes.
pub(crate) struct ArchiveWriter<W: Write> {
    out: W,
    at: u64,
    directory: Vec<u8>,
    count: u16,
}

impl<W: Write> ArchiveWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            at: 0,
            directory: Vec::new(),
            count: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Adds one record.
    pub(crate) fn record(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        const TOO_LARGE: &str = "an archive of 4 GiB or more";
        let too_large = |_| io::Error::other(TOO_LARGE);
        let local = u32::try_from(self.at).map_err(too_large)?;
        let size = u32::try_from(bytes.len()).map_err(too_large)?;
        let name_length = u16::try_from(name.len()).map_err(io::Error::other)?;
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        // An extra field "FB" whose only use is its length.
        let unpadded = self.at as usize + 30 + name.len() + 4;
        let padding = unpadded.next_multiple_of(64) - unpadded;
        let extra = [
            b"FB".as_slice(),
            &(padding as u16).to_le_bytes(),
            &vec![b'Z'; padding],
        ]
        .concat();

        // Version 2.0, no flags, stored, midnight of 1980-01-01: the same bytes on every run.
        let middle = |extra: u16| {
            let mut head = Vec::new();
            for short in [20u16, 0, 0, 0, 0x21] {
                head.extend(short.to_le_bytes());
            }
            for long in [crc.sum(), size, size] {
                head.extend(long.to_le_bytes());
            }
            head.extend(name_length.to_le_bytes());
            head.extend(extra.to_le_bytes());
            head
        };
        self.put(&LOCAL.to_le_bytes())?;
        self.put(&middle(extra.len() as u16))?;
        self.put(name.as_bytes())?;
        self.put(&extra)?;
        self.put(bytes)?;

        self.directory.extend(CENTRAL.to_le_bytes());
        self.directory.extend(20u16.to_le_bytes());
        self.directory.extend(middle(0));
        self.directory.extend([0; 10]);
        self.directory.extend(local.to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.count += 1;
        Ok(())
    }

    /// Writes the directory.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let start = u32::try_from(self.at).map_err(io::Error::other)?;
        let directory = std::mem::take(&mut self.directory);
        self.put(&directory)?;
        self.put(&END.to_le_bytes())?;
        self.put(&[0; 4])?;
        self.put(&self.count.to_le_bytes())?;
        self.put(&self.count.to_le_bytes())?;
        self.put(
            &u32::try_from(directory.len())
                .map_err(io::Error::other)?
                .to_le_bytes(),
        )?;
        self.put(&start.to_le_bytes())?;
        self.put(&[0; 2])?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(bytes: &[u8]) -> Result<Archive, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Archive::open(&Mapped::open(file.path())?)
    }

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = ArchiveWriter::new(&mut bytes);
        writer.record("archive/data.pkl", b"pickle").unwrap();
        writer.record("archive/data/0", &[7; 1000]).unwrap();
        writer.finish().unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_aligned() {
        let archive = archive(&written()).unwrap();
        assert_eq!(archive.folder(), Some("archive/"));
        let record = &archive.records["archive/data/0"];
        assert_eq!(
            (record.bytes(), record.start % 64),
            ([7u8; 1000].as_slice(), 0)
        );
        record.verify("data/0").unwrap();
    }

    #[test]
    fn every_shorter_file_is_refused() {
        let whole = written();
        for length in 0..whole.len() {
            assert!(
                archive(&whole[..length]).is_err(),
                "{length} of {} bytes",
                whole.len()
            );
        }
    }

    #[test]
    fn compressed_records_are_set_aside() {
        let mut bytes = written();
        let at = bytes
            .windows(4)
            .rposition(|w| w == CENTRAL.to_le_bytes())
            .unwrap();
        bytes[at + 10] = 8;
        let archive = archive(&bytes).unwrap();
        assert!(
            archive.compressed.contains("archive/data/0")
                && archive.records.contains_key("archive/data.pkl")
        );
    }
}
