//! Features of frozen image towers, and decoded test pictures, kept on disk between runs.
//!
//! A feature file holds the features of the pictures that went through the tower together. Its name is a hash of the weights'
//! fingerprint and of the pixels that went in, so that another picture, transform, view or CLIP is another name; of views
//! of a test picture, of the picture and all that its views follow from. What comes out of the cache is what the tower
//! gave, bit for bit.
//!
//! ```text
//! <dir>/<fingerprint, 16 digits>/<hash>.features:  "PBFEAT01" · rows u32 · width u32 · SHA-256 of the values · values f32
//! <dir>/packs/<dataset>/<hash>.pack:  test views of a dataset, decoded and resized (`datasets::Pack`)
//! ```
//! All little-endian. Files are written aside and renamed, so that any number of processes may share a folder; a file
//! that is damaged counts as absent and is written again.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use datasets::Pack;
use sha2::{Digest, Sha256};

use crate::store::replace;

const MAGIC: &[u8; 8] = b"PBFEAT01";
const HEADER: usize = 8 + 4 + 4 + 32;
const EXTENSION: &str = "features";
/// The folder, below the cache, of packed test views.
const PACKS: &str = "packs";
/// What a process that died may have left of a pack goes after this long: no pack takes a day to build.
const DEAD: Duration = Duration::from_secs(86_400);

/// A folder of features.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

/// What a folder holds of one dataset's test pictures.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// The dataset.
    pub dataset: String,
    /// Packs: one a list of pictures and a size.
    pub files: usize,
    /// Pictures in them.
    pub pictures: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Packs that are damaged or of another version.
    pub damaged: usize,
}

/// What a folder holds of one CLIP.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// First digits of its fingerprint.
    pub fingerprint: String,
    /// Files.
    pub files: usize,
    /// Pictures in them.
    pub pictures: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Files that are damaged or of another version.
    pub damaged: usize,
}

impl Cache {
    /// The folder `dir`, made where it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("{}: cannot be made (--cache)", dir.display()))?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Features `[n, E]` of `pixels` `[n, 3, R, R]`, from the folder or else of `encode`.
    ///
    /// # Errors
    /// Those of `encode`; a folder that cannot be written.
    pub fn features(
        &self,
        fingerprint: &str,
        pixels: &Tensor,
        encode: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        if fingerprint.is_empty() {
            return encode(); // weights that nobody can tell from others
        }
        let path = self.path(fingerprint, &digest(fingerprint, pixels)?);
        kept_at(&path, pixels.dim(0)?, encode)
    }

    /// Features `[count, E]` of views that follow from what `made_of` says of them, from the folder or else of `encode`:
    /// for views that take long to make, of which nothing but their features is wanted.
    ///
    /// # Errors
    /// As [`Cache::features`].
    pub fn views(
        &self,
        fingerprint: &str,
        made_of: &str,
        count: usize,
        encode: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        if fingerprint.is_empty() {
            return encode(); // as above
        }
        let name = Sha256::digest(format!("{fingerprint}\n{made_of}"));
        kept_at(&self.path(fingerprint, &name), count, encode)
    }

    /// The folder for packed test views of `dataset`.
    pub fn packs(&self, dataset: &str) -> PathBuf {
        self.dir.join(PACKS).join(dataset)
    }

    fn path(&self, fingerprint: &str, digest: &[u8]) -> PathBuf {
        let name = crate::hash::written(digest);
        let folder: String = fingerprint.chars().take(16).collect();
        self.dir
            .join(folder)
            .join(format!("{}.{EXTENSION}", &name[..40]))
    }
}

/// The features of `rows` pictures in the file `path`; where it has them not, those of `encode`, which it has then.
fn kept_at(path: &Path, rows: usize, encode: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    if let Some(features) = read(path).filter(|f| f.dim(0).is_ok_and(|n| n == rows)) {
        return Ok(features);
    }
    let features = encode()?;
    let folder = path.parent().expect("entries lie in a CLIP's folder");
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{}: cannot be made (--cache)", folder.display()))?;
    replace(path, &bytes(&features)?)?;
    Ok(features)
}

/// Of weights and pixels.
fn digest(fingerprint: &str, pixels: &Tensor) -> Result<Vec<u8>> {
    let mut hash = Sha256::new();
    hash.update(fingerprint);
    hash.update(format!("{:?}", pixels.dims()));
    let values = pixels.flatten_all()?.to_vec1::<f32>()?;
    let mut block = Vec::with_capacity(4 << 12);
    for values in values.chunks(1 << 12) {
        block.clear();
        block.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        hash.update(&block);
    }
    Ok(hash.finalize().to_vec())
}

fn bytes(features: &Tensor) -> Result<Vec<u8>> {
    let (rows, width) = features.dims2()?;
    let values = features.flatten_all()?.to_vec1::<f32>()?;
    let payload: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut out = MAGIC.to_vec();
    out.extend((rows as u32).to_le_bytes());
    out.extend((width as u32).to_le_bytes());
    out.extend(Sha256::digest(&payload));
    out.extend(payload);
    Ok(out)
}

/// A file's features, or nothing where it is absent, damaged, or of another version.
fn read(path: &Path) -> Option<Tensor> {
    let data = std::fs::read(path).ok()?;
    let (header, payload) = data.split_at_checked(HEADER)?;
    let number = |at: usize| -> Option<usize> {
        let four: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(four)).ok()
    };
    let (rows, width) = (number(8)?, number(12)?);
    let whole = header.starts_with(MAGIC)
        && rows.checked_mul(width)?.checked_mul(4)? == payload.len()
        && Sha256::digest(payload)[..] == header[16..];
    if !whole {
        return None;
    }
    let values: Vec<f32> = payload
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    Tensor::from_vec(values, (rows, width), &Device::Cpu).ok()
}

/// The entries of a folder, in name order.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).and_then(|entries| {
        entries
            .map(|e| Ok(e?.path()))
            .collect::<Result<Vec<_>, _>>()
    });
    let mut paths = entries.with_context(|| format!("{}: cannot be read", dir.display()))?;
    paths.sort();
    Ok(paths)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e == extension)
}

/// Every file in the folders directly below `dir`, with its folder's name.
fn below(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut out = Vec::new();
    for folder in entries(dir)?.into_iter().filter(|p| p.is_dir()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        for path in entries(&folder)?.into_iter().filter(|p| p.is_file()) {
            out.push((name.clone().into_owned(), path));
        }
    }
    Ok(out)
}

/// Every feature file under `dir`, with the folder it is in.
fn files(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    if !dir.is_dir() {
        bail!("{}: there is no such folder", dir.display());
    }
    let mut all = below(dir)?;
    all.retain(|(_, path)| has_extension(path, EXTENSION));
    Ok(all)
}

/// Every file of packs under `dir`, also what a process that died has left, with its dataset.
fn pack_files(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let dir = dir.join(PACKS);
    if dir.is_dir() {
        below(&dir)
    } else {
        Ok(Vec::new())
    }
}

/// What `dir` holds of test pictures, a line a dataset. Every view is compared with its checksum.
///
/// # Errors
/// A folder that is not there or cannot be read.
pub fn list_packs(dir: &Path) -> Result<Vec<Packed>> {
    let mut out: Vec<Packed> = Vec::new();
    for (dataset, path) in pack_files(dir)? {
        if !has_extension(&path, datasets::pack::EXTENSION) {
            continue;
        }
        if out.last().is_none_or(|p| p.dataset != dataset) {
            out.push(Packed {
                dataset,
                ..Packed::default()
            });
        }
        let packed = out.last_mut().expect("just pushed");
        packed.files += 1;
        packed.bytes += path.metadata().map_or(0, |m| m.len());
        match Pack::whole(&path) {
            Some(views) => packed.pictures += views as u64,
            None => packed.damaged += 1,
        }
    }
    Ok(out)
}

/// What `dir` holds, a line a CLIP.
///
/// # Errors
/// A folder that is not there or cannot be read.
pub fn list(dir: &Path) -> Result<Vec<Holding>> {
    let mut out: Vec<Holding> = Vec::new();
    for (fingerprint, path) in files(dir)? {
        if out.last().is_none_or(|h| h.fingerprint != fingerprint) {
            out.push(Holding {
                fingerprint,
                ..Holding::default()
            });
        }
        let holding = out.last_mut().expect("just pushed");
        holding.files += 1;
        holding.bytes += path.metadata().map_or(0, |m| m.len());
        match read(&path).and_then(|f| f.dim(0).ok()) {
            Some(rows) => holding.pictures += rows as u64,
            None => holding.damaged += 1,
        }
    }
    Ok(out)
}

/// Removes what is damaged or was written at least `age` ago; gives how many files and bytes that was.
///
/// # Errors
/// A folder that cannot be read, a file that cannot be removed.
pub fn prune(dir: &Path, age: Duration) -> Result<(usize, u64)> {
    let (mut count, mut bytes) = (0, 0);
    let features = files(dir)?.into_iter().map(|(_, path)| path);
    let packs = pack_files(dir)?.into_iter().map(|(_, path)| path);
    for path in features.chain(packs) {
        let Ok(about) = path.metadata() else { continue };
        let written = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let since = |age: Duration| written.elapsed().is_ok_and(|since| since >= age);
        let useless = if has_extension(&path, EXTENSION) {
            since(age) || read(&path).is_none()
        } else if has_extension(&path, datasets::pack::EXTENSION) {
            since(age) || Pack::whole(&path).is_none()
        } else {
            // Parts and locks: in use, unless they are too old for that.
            since(age.max(DEAD))
        };
        if useless {
            std::fs::remove_file(&path)
                .with_context(|| format!("{}: cannot be removed", path.display()))?;
            count += 1;
            bytes += about.len();
        }
    }
    Ok((count, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(value: f32) -> Tensor {
        Tensor::from_vec(vec![value; 2 * 3 * 4 * 4], (2, 3, 4, 4), &Device::Cpu).unwrap()
    }

    fn features(value: f32) -> Tensor {
        Tensor::from_vec(vec![value; 2 * 5], (2, 5), &Device::Cpu).unwrap()
    }

    fn first(t: &Tensor) -> f32 {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
    }

    #[test]
    fn the_same_weights_and_pixels_are_encoded_once_and_others_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let get = |fingerprint: &str, p: f32, gives: f32| {
            let f = cache.features(fingerprint, &pixels(p), || Ok(features(gives)));
            first(&f.unwrap())
        };
        assert_eq!(get("a", 0.5, 1.0), 1.0);
        assert_eq!(get("a", 0.5, 2.0), 1.0, "kept");
        assert_eq!(get("b", 0.5, 3.0), 3.0, "another CLIP");
        assert_eq!(get("a", 0.25, 4.0), 4.0, "other pixels");
        assert_eq!(
            get("", 0.5, 5.0),
            5.0,
            "weights without a fingerprint are never kept"
        );
        let held = list(dir.path()).unwrap();
        assert_eq!((held[0].files, held[0].pictures, held[1].files), (2, 4, 1));
    }

    #[test]
    fn a_damaged_file_counts_as_absent_and_is_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let get = |gives: f32| {
            first(
                &cache
                    .features("a", &pixels(0.5), || Ok(features(gives)))
                    .unwrap(),
            )
        };
        get(1.0);
        let path = files(dir.path()).unwrap().remove(0).1;
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 7, HEADER, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(get(2.0), 2.0, "cut at {cut}");
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(list(dir.path()).unwrap()[0].damaged, 1);
        let day = Duration::from_secs(86_400);
        assert_eq!(prune(dir.path(), day).unwrap().0, 1);
        get(1.0);
        assert_eq!(prune(dir.path(), day).unwrap().0, 0, "whole and young");
        assert_eq!(prune(dir.path(), Duration::ZERO).unwrap().0, 1);
    }
}
