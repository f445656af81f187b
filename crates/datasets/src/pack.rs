//! A packed cache: the test views of a list of pictures, decoded and resized once, as one memory-mapped file.
//!
//! ```text
//! magic 8 | count u64 | size u64 | key 32 | checksum u64 x count | zeros to a multiple of 4096 | pixels u8 [count, size, size, 3]
//! ```
//! Integers are little-endian. The key covers the format, the size, and path and stamp (length and time of change) of
//! every picture, so a pack is never read for pictures that have changed since. It is written under another name and
//! renamed when complete, so a pack that exists is whole; every view's checksum is compared when it is read.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use crate::split::hex;
use crate::transform::Look;
use crate::{Error, Item, Pictures, Rgb, load};

/// Changes whenever the same picture could give other bytes: with the format, a decoder or the resize.
const MAGIC: &[u8; 8] = b"pbpack01";
/// The ending of a pack's name.
pub const EXTENSION: &str = "pack";
const HEADER: usize = 8 + 8 + 8 + 32;
const PAGE: usize = 4096;
/// Views that are decoded between two writes.
const BATCH: usize = 256;

/// Test views of a list of pictures, in list order.
pub struct Pack {
    path: PathBuf,
    map: Mmap,
    count: usize,
    size: usize,
}

impl Pack {
    /// The pack of these pictures in `folder`, which is built when it is not there. Two programs may ask at once: one
    /// builds, the other waits for it.
    ///
    /// # Errors
    /// [`Error::Io`] of the folder, or the first picture that does not decode.
    pub fn open_or_build(
        folder: &Path,
        pictures: &dyn Pictures,
        items: &[Item],
        size: usize,
    ) -> Result<Self, Error> {
        Self::open_or_build_as(&Look::default(), folder, pictures, items, size)
    }

    /// As [`open_or_build`](Self::open_or_build) for a model with a look of its own.
    ///
    /// # Errors
    /// As [`open_or_build`](Self::open_or_build).
    pub fn open_or_build_as(
        look: &Look,
        folder: &Path,
        pictures: &dyn Pictures,
        items: &[Item],
        size: usize,
    ) -> Result<Self, Error> {
        let key = key(look, pictures, items, size)?;
        let path = folder.join(format!("{}.{EXTENSION}", &hex(&key)[..32]));
        if let Some(pack) = Self::open(&path, &key, items.len(), size) {
            return Ok(pack);
        }
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let lock_path = path.with_extension("lock");
        let lock = File::create(&lock_path).map_err(Error::io(&lock_path))?;
        // Where locks are not supported (some network disks) both build; each renames a whole file into place.
        let locked = lock.lock().is_ok();
        let pack = match Self::open(&path, &key, items.len(), size) {
            Some(pack) => pack,
            None => {
                build(look, &path, &key, pictures, items, size)?;
                Self::open(&path, &key, items.len(), size).ok_or_else(|| Error::Pack {
                    path: path.clone(),
                    message: "it was written but does not read back".to_owned(),
                })?
            }
        };
        if locked {
            // Whoever waits for the lock has the file open; whoever comes later finds the pack first.
            let _ = fs::remove_file(&lock_path);
        }
        Ok(pack)
    }

    /// A pack file, if it is there, whole, and of this key.
    fn open(path: &Path, key: &[u8; 32], count: usize, size: usize) -> Option<Self> {
        let file = File::open(path).ok()?;
        // SAFETY: packs are only ever renamed into place and never written again, so the map does not change.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        let whole = map.len() == start(count) + count * size * size * 3;
        (whole && map[..HEADER] == header(key, count, size)).then(|| Self {
            path: path.to_owned(),
            map,
            count,
            size,
        })
    }

    /// How many views the pack at `path` has, when it is one of this version and none of them is damaged.
    pub fn whole(path: &Path) -> Option<usize> {
        let mut start = [0; HEADER];
        let mut file = File::open(path).ok()?;
        std::io::Read::read_exact(&mut file, &mut start).ok()?;
        let number = |at: usize| -> Option<usize> {
            let eight = start[at..at + 8].try_into().expect("8 bytes");
            usize::try_from(u64::from_le_bytes(eight)).ok()
        };
        let (count, size) = (number(8)?, number(16)?);
        // A size no picture has would overflow what follows; a count is bounded by the length of the file.
        let length = file.metadata().ok()?.len();
        if size > 1 << 14 || count as u64 > length {
            return None;
        }
        let key = start[24..].try_into().expect("32 bytes");
        let pack = Self::open(path, &key, count, size)?;
        (0..count)
            .all(|index| pack.view(index).is_ok())
            .then_some(count)
    }

    /// How many views there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The test view of the picture at `index` of the list, `[size, size, 3]`.
    ///
    /// # Errors
    /// [`Error::Pack`] when the bytes on disk have changed.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Self::len).
    pub fn view(&self, index: usize) -> Result<Rgb, Error> {
        assert!(index < self.count, "the pack has {} views", self.count);
        let length = self.size * self.size * 3;
        let at = start(self.count) + index * length;
        let data = self.map[at..at + length].to_vec();
        let place = HEADER + index * 8;
        let expected = self.map[place..place + 8].try_into().expect("8 bytes");
        if checksum(&data) != u64::from_le_bytes(expected) {
            let message = format!("view {index} is damaged; delete the file and it is built again");
            return Err(Error::Pack {
                path: self.path.clone(),
                message,
            });
        }
        Ok(Rgb {
            width: self.size,
            height: self.size,
            data,
        })
    }
}

fn header(key: &[u8; 32], count: usize, size: usize) -> Vec<u8> {
    [
        &MAGIC[..],
        &(count as u64).to_le_bytes(),
        &(size as u64).to_le_bytes(),
        key,
    ]
    .concat()
}

/// Where the pixels begin.
fn start(count: usize) -> usize {
    (HEADER + count * 8).next_multiple_of(PAGE)
}

fn key(
    look: &Look,
    pictures: &dyn Pictures,
    items: &[Item],
    size: usize,
) -> Result<[u8; 32], Error> {
    use rayon::prelude::*;
    let stamps: Vec<String> = items
        .par_iter()
        .map(|item| pictures.stamp(item))
        .collect::<Result<_, Error>>()?;
    let mut hasher = Sha256::new();
    hasher.update(MAGIC);
    hasher.update((size as u64).to_le_bytes());
    hasher.update(look.of_views());
    for (item, stamp) in items.iter().zip(&stamps) {
        for text in [&*item.path.to_string_lossy(), stamp] {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
    }
    Ok(hasher.finalize().into())
}

/// FNV-1a over 8-byte words, four lanes wide: finds damage, not malice, at the speed of memory.
fn checksum(data: &[u8]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut lanes = [0xcbf2_9ce4_8422_2325u64, 1, 2, 3];
    let mut chunks = data.chunks_exact(32);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().expect("8 bytes"));
            *lane = (*lane ^ word).wrapping_mul(PRIME).rotate_left(29);
        }
    }
    let rest = chunks.remainder().iter().map(|&byte| u64::from(byte));
    lanes.into_iter().chain(rest).fold(0, |sum, word| {
        (sum ^ word).wrapping_mul(PRIME).rotate_left(29)
    })
}

fn build(
    look: &Look,
    path: &Path,
    key: &[u8; 32],
    pictures: &dyn Pictures,
    items: &[Item],
    size: usize,
) -> Result<(), Error> {
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let outcome = write(look, &part, key, pictures, items, size)
        .and_then(|()| fs::rename(&part, path).map_err(Error::io(path)));
    if outcome.is_err() {
        let _ = fs::remove_file(&part);
    }
    outcome
}

fn write(
    look: &Look,
    part: &Path,
    key: &[u8; 32],
    pictures: &dyn Pictures,
    items: &[Item],
    size: usize,
) -> Result<(), Error> {
    let file = File::create(part).map_err(Error::io(part))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.seek(SeekFrom::Start(start(items.len()) as u64))
        .map_err(Error::io(part))?;
    let mut sums = Vec::with_capacity(items.len() * 8);
    let view = |_: usize, rgb: Rgb| {
        let view = look.test_view(&rgb, size);
        (checksum(&view.data), view.data)
    };
    load::batches(pictures, items, BATCH, view, |_, views| {
        for (sum, data) in views {
            sums.extend(sum.to_le_bytes());
            out.write_all(&data).map_err(Error::io(part))?;
        }
        Ok::<(), Error>(())
    })?;
    // The header last: until then the file has no magic, whatever happens.
    let finish = |out: &mut BufWriter<File>| {
        out.seek(SeekFrom::Start(0))?;
        out.write_all(&header(key, items.len(), size))?;
        out.write_all(&sums)?;
        out.flush()?;
        let length = start(items.len()) + items.len() * size * size * 3;
        out.get_ref().set_len(length as u64)?;
        out.get_ref().sync_all()
    };
    finish(&mut out).map_err(Error::io(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::test_view;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Coloured squares whose stamp can be changed, and which count how often they were decoded.
    #[derive(Default)]
    struct Squares {
        stamp: AtomicUsize,
        decoded: AtomicUsize,
    }

    impl Pictures for Squares {
        fn rgb(&self, item: &Item) -> Result<Rgb, Error> {
            self.decoded.fetch_add(1, Ordering::SeqCst);
            let number: u8 = item.path.to_string_lossy().parse().unwrap();
            Ok(Rgb::from_raw(
                9,
                8,
                (0..9 * 8 * 3).map(|i| i as u8 ^ number).collect(),
            ))
        }

        fn content_key(&self, item: &Item) -> Result<String, Error> {
            Ok(format!(
                "{}-{}",
                item.path.display(),
                self.stamp.load(Ordering::SeqCst)
            ))
        }
    }

    fn items(count: usize) -> Vec<Item> {
        (0..count)
            .map(|i| Item {
                path: i.to_string().into(),
                label: 0,
                class_name: String::new(),
            })
            .collect()
    }

    #[test]
    fn a_second_opening_decodes_nothing_and_gives_the_same_views() {
        let folder = tempfile::tempdir().unwrap();
        let squares = Squares::default();
        for _ in 0..2 {
            let pack = Pack::open_or_build(folder.path(), &squares, &items(21), 5).unwrap();
            assert_eq!(pack.len(), 21);
            assert_eq!(squares.decoded.load(Ordering::SeqCst), 21);
            for (index, item) in items(21).iter().enumerate() {
                assert_eq!(
                    pack.view(index).unwrap(),
                    test_view(&Squares::default().rgb(item).unwrap(), 5)
                );
            }
        }
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no lock and no part is left"
        );
    }

    #[test]
    fn changed_pictures_other_sizes_and_other_lists_get_packs_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let squares = Squares::default();
        let path = |count, size| {
            Pack::open_or_build(folder.path(), &squares, &items(count), size)
                .unwrap()
                .path()
                .to_owned()
        };
        let first = path(4, 5);
        assert_ne!(path(4, 6), first);
        assert_ne!(path(3, 5), first);
        squares.stamp.store(1, Ordering::SeqCst);
        assert_ne!(path(4, 5), first);
    }

    #[test]
    fn a_damaged_view_is_an_error_and_the_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let squares = Squares::default();
        let path = Pack::open_or_build(folder.path(), &squares, &items(4), 5)
            .unwrap()
            .path()
            .to_owned();
        let mut bytes = fs::read(&path).unwrap();
        bytes[start(4) + 2 * 75 + 7] ^= 1;
        fs::write(&path, bytes).unwrap();
        let pack = Pack::open_or_build(folder.path(), &squares, &items(4), 5).unwrap();
        assert!(pack.view(1).is_ok() && pack.view(3).is_ok());
        let error = pack.view(2).unwrap_err().to_string();
        assert!(
            error.ends_with(".pack: view 2 is damaged; delete the file and it is built again"),
            "{error}"
        );
    }

    #[test]
    fn a_pack_cut_short_is_built_again() {
        let folder = tempfile::tempdir().unwrap();
        let squares = Squares::default();
        let path = Pack::open_or_build(folder.path(), &squares, &items(4), 5)
            .unwrap()
            .path()
            .to_owned();
        for length in [0, 10, HEADER, 4096, 4396] {
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..length.min(bytes.len() - 1)]).unwrap();
            let pack = Pack::open_or_build(folder.path(), &squares, &items(4), 5).unwrap();
            assert_eq!(
                pack.view(3).unwrap(),
                test_view(&squares.rgb(&items(4)[3]).unwrap(), 5)
            );
        }
    }

    #[test]
    fn many_builders_at_once_agree() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let squares = Squares::default();
                    let pack =
                        Pack::open_or_build(folder.path(), &squares, &items(100), 5).unwrap();
                    for index in [0, 50, 99] {
                        let expected = test_view(&squares.rgb(&items(100)[index]).unwrap(), 5);
                        assert_eq!(pack.view(index).unwrap(), expected);
                    }
                });
            }
        });
        let packs = fs::read_dir(folder.path()).unwrap().filter(|entry| {
            entry
                .as_ref()
                .unwrap()
                .path()
                .extension()
                .is_some_and(|ending| ending == "pack")
        });
        assert_eq!(packs.count(), 1);
    }

    #[test]
    fn a_broken_picture_leaves_nothing_behind() {
        struct Broken;
        impl Pictures for Broken {
            fn rgb(&self, item: &Item) -> Result<Rgb, Error> {
                Err(Error::Picture {
                    path: item.path.clone(),
                    source: crate::DecodeError::Empty,
                })
            }
            fn content_key(&self, _: &Item) -> Result<String, Error> {
                Ok(String::new())
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let error = Pack::open_or_build(folder.path(), &Broken, &items(3), 5)
            .err()
            .unwrap();
        assert_eq!(error.to_string(), "0: the file is empty");
        let left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(
            left.iter()
                .all(|name| name.to_string_lossy().ends_with(".lock")),
            "{left:?}"
        );
    }
}
