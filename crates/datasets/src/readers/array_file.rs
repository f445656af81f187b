//! One `.npz` file for a whole dataset, as MedMNIST publishes them: a zip of the arrays `train_images`, `train_labels`,
//! `val_*` and `test_*` (MedMNIST v2 and v3, <https://medmnist.com>). Pictures are `u8`, `[N, H, W]` or `[N, H, W, 3]`;
//! labels whole numbers, `[N]` or `[N, 1]`.
//!
//! Opening reads the labels and the headers of the pictures. An array that is stored as it is (`numpy.savez`) is read
//! picture by picture where it lies; one that is compressed (`numpy.savez_compressed`) is unpacked when its first picture
//! is wanted, and kept.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use sha2::{Digest, Sha256};
use zip::{CompressionMethod, ZipArchive};

use super::npy::Header;
use super::{Lists, PassedOver, class_names_file, found};
use crate::catalogue::Row;
use crate::decode::MAX_PIXELS;
use crate::error::{Problem, ProblemKind};
use crate::split::{Origin, Part, hex};
use crate::{Error, Item, Pictures, Rgb, Split};

/// The largest compressed array of pictures, unpacked: it is kept in memory. All of MedMNIST at 28 pixels is below.
const MAX_UNPACKED: u64 = 1 << 30;

/// The most labels of one list.
const MAX_LABELS: usize = 1 << 26;

type Zip = ZipArchive<BufReader<File>>;

/// Reads the lists; the paths are `train/000000` and so on, the number in the array.
pub(super) fn read(row: &Row, root: &Path) -> Result<Lists, Error> {
    let path = root.join(&row.images);
    found(
        &path,
        "the file of arrays",
        "for MedMNIST, `promptbed data fetch` gets it",
    )?;
    let names = match &row.names {
        Some(file) => {
            found(&root.join(file), "the file of class names", "a name a line")?;
            class_names_file(&root.join(file))?.names
        }
        None => row.labels.clone(),
    };
    let wrong = |problems: Vec<Problem>| Error::Entries {
        path: path.clone(),
        problems,
    };
    let file = File::open(&path).map_err(Error::io(&path))?;
    let mut zip = ZipArchive::new(BufReader::new(file))
        .map_err(|error| wrong(vec![rule("zip", format!("is no whole .npz file: {error}"))]))?;
    let mut problems = Vec::new();
    let mut arrays = HashMap::new();
    let mut split = Split {
        train: vec![],
        val: vec![],
        test: vec![],
        origin: Origin::Published,
    };
    for part in Part::ALL {
        let images = format!("{}_images", part.name());
        let labels = format!("{}_labels", part.name());
        let is_there = |name: &String| zip.index_for_name(&format!("{name}.npy")).is_some();
        if part == Part::Val && !is_there(&images) && !is_there(&labels) {
            continue;
        }
        let array = Array::open(&mut zip, &images).map_err(|message| rule(&images, message));
        let numbers = self::labels(&mut zip, &labels).map_err(|message| rule(&labels, message));
        match (array, numbers) {
            (Ok(array), Ok(numbers)) => {
                problems.extend(unnamed(&labels, &numbers, &names));
                if array.count != numbers.len() {
                    let message = format!(
                        "holds {} labels for {} pictures",
                        numbers.len(),
                        array.count
                    );
                    problems.push(rule(&labels, message));
                }
                if problems.is_empty() {
                    let items = items(part, &numbers, &names);
                    match part {
                        Part::Train => split.train = items,
                        Part::Val => split.val = items,
                        Part::Test => split.test = items,
                    }
                }
                arrays.insert(part, array);
            }
            (array, numbers) => problems.extend(array.err().into_iter().chain(numbers.err())),
        }
    }
    if !problems.is_empty() {
        return Err(wrong(problems));
    }
    Ok(Lists {
        split,
        from: path.clone(),
        listed: true,
        passed: PassedOver::default(),
        source: Some(Arc::new(ArrayFile {
            path,
            zip: Mutex::new(zip),
            arrays,
        })),
        shared_out: None,
    })
}

fn rule(field: &str, message: String) -> Problem {
    Problem {
        field: field.to_owned(),
        kind: ProblemKind::Rule(message),
    }
}

/// Labels without a name: the first few of each list.
fn unnamed(field: &str, labels: &[u32], names: &[String]) -> Vec<Problem> {
    const SHOWN: usize = 3;
    let beyond = labels.iter().enumerate();
    let beyond = beyond.filter(|(_, label)| **label as usize >= names.len());
    beyond
        .take(SHOWN)
        .map(|(index, label)| {
            let message = format!("label {label} has no name; there are {} names", names.len());
            rule(&format!("{field}[{index}]"), message)
        })
        .collect()
}

fn items(part: Part, labels: &[u32], names: &[String]) -> Vec<Item> {
    let items = labels.iter().enumerate().map(|(index, &label)| Item {
        path: PathBuf::from(format!("{}/{index:06}", part.name())),
        label,
        class_name: names[label as usize].clone(),
    });
    items.collect()
}

/// The labels of one list.
fn labels(zip: &mut Zip, name: &str) -> Result<Vec<u32>, String> {
    let mut member = zip
        .by_name(&format!("{name}.npy"))
        .map_err(|error| format!("cannot be read: {error}"))?;
    let size = member.size();
    let header = Header::read(&mut member)?;
    let count = match header.shape[..] {
        [n] | [n, 1] => n,
        [_, labels] => {
            return Err(format!(
                "holds {labels} labels a picture (multi-label, as ChestMNIST is); here a picture has one"
            ));
        }
        _ => {
            return Err(format!(
                "is of shape {:?}; [N] or [N, 1] is right",
                header.shape
            ));
        }
    };
    let (bytes, is_signed) = match header.kind.as_str() {
        "|u1" => (1, false),
        "|i1" => (1, true),
        "<u2" => (2, false),
        "<i2" => (2, true),
        "<u4" => (4, false),
        "<i4" => (4, true),
        "<u8" => (8, false),
        "<i8" => (8, true),
        kind => {
            return Err(format!(
                "holds {kind}; labels are whole numbers (|u1 or <i8)"
            ));
        }
    };
    if count > MAX_LABELS {
        return Err(format!("claims {count} labels; {MAX_LABELS} are the limit"));
    }
    let claimed = (header.length + count * bytes) as u64;
    if size != claimed {
        return Err(format!("is {size} bytes long, its header claims {claimed}"));
    }
    let raw = all_of(&mut member, count * bytes)?;
    let number = |bytes: &[u8]| {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(wide)
    };
    raw.chunks_exact(bytes)
        .enumerate()
        .map(|(index, raw)| {
            let is_negative = is_signed && raw[bytes - 1] & 0x80 != 0;
            u32::try_from(number(raw))
                .ok()
                .filter(|_| !is_negative)
                .ok_or_else(|| format!("entry {index} is no label: labels count from 0"))
        })
        .collect()
}

/// The rest of a member, which must be `length` bytes.
fn all_of(reader: &mut impl Read, length: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    // One more than there should be, so that more is noticed; and the end is where the sum of a member is compared.
    let mut rest = reader.take(length as u64 + 1);
    rest.read_to_end(&mut bytes)
        .map_err(|error| format!("is damaged: {error}"))?;
    if bytes.len() == length {
        Ok(bytes)
    } else {
        let found = bytes.len();
        Err(format!(
            "holds {found} bytes or more where its header claims {length}"
        ))
    }
}

/// The pictures of one list.
struct Array {
    /// Its name in the file.
    name: String,
    /// Pictures.
    count: usize,
    height: usize,
    width: usize,
    /// 1 or 3.
    channels: usize,
    /// Bytes before the first picture of the unpacked array.
    header: usize,
    /// Where the first picture is in the file, if the array is stored as it is.
    at: Option<u64>,
    /// The unpacked pictures, if it is not.
    unpacked: OnceLock<Result<Vec<u8>, String>>,
}

impl Array {
    fn open(zip: &mut Zip, name: &str) -> Result<Self, String> {
        let mut member = zip
            .by_name(&format!("{name}.npy"))
            .map_err(|error| format!("cannot be read: {error}"))?;
        let size = member.size();
        let header = Header::read(&mut member)?;
        if header.kind != "|u1" {
            return Err(format!("holds {}; pictures are bytes (|u1)", header.kind));
        }
        let (count, height, width, channels) = match header.shape[..] {
            [n, height, width] => (n, height, width, 1),
            [n, height, width, 3] => (n, height, width, 3),
            _ => {
                return Err(format!(
                    "is of shape {:?}; [N, H, W] or [N, H, W, 3] is right (volumes are no pictures)",
                    header.shape
                ));
            }
        };
        let pixels = height
            .checked_mul(width)
            .filter(|&p| p > 0 && p <= MAX_PIXELS);
        let Some(numbers) = pixels.and_then(|_| header.count()) else {
            return Err(format!("claims pictures of {height} x {width} pixels"));
        };
        let claimed = (numbers as u64).checked_add(header.length as u64);
        if claimed != Some(size) {
            let claimed = claimed.map_or("more than can be".to_owned(), |n| n.to_string());
            return Err(format!("is {size} bytes long, its header claims {claimed}"));
        }
        let is_stored = member.compression() == CompressionMethod::Stored;
        if !is_stored && size > MAX_UNPACKED {
            return Err(format!(
                "is compressed and {size} bytes long unpacked, more than the {MAX_UNPACKED} that are kept in memory; \
                 write the file again with numpy.savez, which does not compress, and it is read in place"
            ));
        }
        let at = member.data_start().filter(|_| is_stored);
        Ok(Self {
            name: name.to_owned(),
            count,
            height,
            width,
            channels,
            header: header.length,
            at: at.map(|start| start + header.length as u64),
            unpacked: OnceLock::new(),
        })
    }

    /// Bytes a picture.
    fn step(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// The pictures of an `.npz` file.
struct ArrayFile {
    path: PathBuf,
    zip: Mutex<Zip>,
    arrays: HashMap<Part, Array>,
}

impl ArrayFile {
    /// The array of an item, and its place there.
    fn place(&self, item: &Item) -> Result<(&Array, usize), Error> {
        let path = item.path.to_string_lossy();
        let place = path.split_once('/').and_then(|(part, index)| {
            let part = Part::ALL.into_iter().find(|p| p.name() == part)?;
            let array = self.arrays.get(&part)?;
            let index = index.parse().ok().filter(|&index| index < array.count)?;
            Some((array, index))
        });
        place.ok_or_else(|| Error::Missing {
            path: self.path.join(&item.path),
            what: "the picture",
            hint: "pictures are called train/000000, test/000012 and so on".to_owned(),
        })
    }

    /// The bytes of a picture, `[height, width, channels]`.
    fn bytes(&self, item: &Item) -> Result<(&Array, Vec<u8>), Error> {
        let (array, index) = self.place(item)?;
        let step = array.step();
        let wrong = |message: String| Error::Entries {
            path: self.path.clone(),
            problems: vec![rule(&format!("{}[{index}]", array.name), message)],
        };
        if let Some(first) = array.at {
            // A handle of its own: threads do not wait for each other.
            let mut file = File::open(&self.path).map_err(Error::io(&self.path))?;
            let at = first + (index * step) as u64;
            let mut bytes = vec![0; step];
            file.seek(SeekFrom::Start(at))
                .and_then(|_| file.read_exact(&mut bytes))
                .map_err(Error::io(&self.path))?;
            return Ok((array, bytes));
        }
        let unpacked = array.unpacked.get_or_init(|| {
            // Whoever panicked while holding it left the archive as it was: each reading begins anew.
            let mut zip = self.zip.lock().unwrap_or_else(|p| p.into_inner());
            let mut member = zip
                .by_name(&format!("{}.npy", array.name))
                .map_err(|error| format!("cannot be read: {error}"))?;
            all_of(&mut member, array.header + array.count * step)
        });
        let unpacked = unpacked
            .as_ref()
            .map_err(|message| wrong(message.clone()))?;
        let at = array.header + index * step;
        Ok((array, unpacked[at..at + step].to_vec()))
    }
}

impl Pictures for ArrayFile {
    fn rgb(&self, item: &Item) -> Result<Rgb, Error> {
        let (array, bytes) = self.bytes(item)?;
        let data = match array.channels {
            1 => bytes.into_iter().flat_map(|grey| [grey; 3]).collect(),
            _ => bytes,
        };
        Ok(Rgb::from_raw(array.width, array.height, data))
    }

    /// SHA-256 of the picture's bytes and size.
    fn content_key(&self, item: &Item) -> Result<String, Error> {
        let (array, bytes) = self.bytes(item)?;
        let mut hasher = Sha256::new();
        for side in [array.height, array.width, array.channels] {
            hasher.update((side as u64).to_le_bytes());
        }
        hasher.update(&bytes);
        Ok(hex(&hasher.finalize()))
    }

    /// Length and time of change of the file, and the place in it.
    fn stamp(&self, item: &Item) -> Result<String, Error> {
        self.place(item)?;
        let stamp = crate::dataset::file_stamp(&self.path)?;
        Ok(format!("{stamp} {}", item.path.display()))
    }
}

#[cfg(test)]
mod tests;
