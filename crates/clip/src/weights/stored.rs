//! Numbers where they lie in a file: mapped, described, converted to float32 only when asked for.

use super::convert::{convert, each};
use crate::error::Error;
use candle_core::{Device, Tensor};
use memmap2::Mmap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A file mapped into memory, or bytes that are part of the program.
#[derive(Debug)]
pub(crate) struct Mapped {
    pub(crate) path: PathBuf,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Map(Mmap),
    Program(&'static [u8]),
}

impl Mapped {
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, Error> {
        let file = File::open(path).map_err(Error::file(path))?;
        let metadata = file.metadata().map_err(Error::file(path))?;
        if !metadata.is_file() {
            return Err(Error::weights(path, "file", "is not a regular file"));
        }
        // SAFETY: the map is read-only and private. As with every mapped weight file, the promise that nobody
        // shortens the file meanwhile is the user's; the documentation of `weights::open` says so.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::file(path))?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            held: Held::Map(map),
        }))
    }

    pub(crate) fn program(name: &str, bytes: &'static [u8]) -> Arc<Self> {
        Arc::new(Self {
            path: PathBuf::from(name),
            held: Held::Program(bytes),
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.held {
            Held::Map(map) => map,
            Held::Program(bytes) => bytes,
        }
    }

    /// Lets the system drop these pages, so that a model is not in memory twice while it is loaded.
    fn release(&self, from: usize, length: usize) {
        #[cfg(unix)]
        if let Held::Map(map) = &self.held {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the mapping is of a file and never written to; dropped pages are read again from it.
            let _ = unsafe { map.unchecked_advise_range(advice, from, length) };
        }
        #[cfg(not(unix))]
        let _ = (from, length);
    }
}

/// Type of the stored numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    F16,
    BF16,
    F32,
    F64,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Kind {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Half, bfloat16, single or double precision.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32 | Self::F64)
    }
}

/// Bytes read before their pages are given back.
const AT_ONCE: usize = 4 << 20;

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F16 => "half precision",
            Self::BF16 => "bfloat16",
            Self::F32 => "float32",
            Self::F64 => "double precision",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::I16 => "int16",
            Self::I8 => "int8",
            Self::U8 => "uint8",
            Self::Bool => "bool",
        })
    }
}

/// A run of bytes in a file, with its checksum if the format keeps one.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) file: Arc<Mapped>,
    pub(crate) start: usize,
    pub(crate) length: usize,
    /// CRC-32 of the whole record; zero where the writer left it out.
    pub(crate) checksum: u32,
    pub(crate) is_intact: OnceLock<bool>,
}

impl Record {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.start..self.start + self.length]
    }

    /// Compares the checksum, once.
    pub(crate) fn verify(&self, field: &str) -> Result<(), Error> {
        if self.checksum == 0 {
            return Ok(());
        }
        let is_intact = *self.is_intact.get_or_init(|| {
            let mut crc = flate2::Crc::new();
            for (i, piece) in self.bytes().chunks(AT_ONCE).enumerate() {
                crc.update(piece);
                self.file.release(self.start + i * AT_ONCE, piece.len());
            }
            crc.sum() == self.checksum
        });
        if is_intact {
            return Ok(());
        }
        let problem = format!(
            "{} bytes do not have the checksum the archive records: the file is damaged",
            self.length
        );
        Err(Error::weights(&self.file.path, field, problem))
    }
}

/// A tensor in a file, not read yet.
#[derive(Clone, Debug)]
pub struct Stored {
    record: Arc<Record>,
    /// Bytes from the start of the record to the first number.
    offset: usize,
    kind: Kind,
    shape: Vec<usize>,
    /// In numbers; `None` when row-major.
    strides: Option<Vec<usize>>,
}

/// Product of a shape, if it is a number of things that can exist.
fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// Strides of a packed row-major tensor.
pub(super) fn packed(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i].max(1));
    }
    strides
}

impl Stored {
    /// Checks that every number lies inside the record, and that there are no more of them than the record holds:
    /// what can be asked for later is bounded by the size of the file.
    pub(crate) fn new(
        record: Arc<Record>,
        offset: usize,
        kind: Kind,
        shape: Vec<usize>,
        strides: Option<Vec<usize>>,
    ) -> Result<Self, String> {
        let held = record.length.saturating_sub(offset) / kind.size();
        let numbers = count(&shape).filter(|&n| n <= held);
        let strides = strides.filter(|s| *s != packed(&shape));
        let last = match &strides {
            Some(s) if s.len() != shape.len() => {
                return Err(format!("shape {shape:?} has strides {s:?}"));
            }
            Some(s) => shape.iter().zip(s).try_fold(0usize, |at, (&d, &step)| {
                at.checked_add(step.checked_mul(d.saturating_sub(1))?)
            }),
            None => numbers.map(|n| n.saturating_sub(1)),
        };
        match (numbers, last) {
            (Some(n), Some(last)) if n == 0 || last < held => Ok(Self {
                record,
                offset,
                kind,
                shape,
                strides,
            }),
            _ => Err(format!(
                "shape {shape:?} does not fit into the {held} numbers stored for it"
            )),
        }
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Type of its numbers in the file.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many numbers.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The same numbers with two axes exchanged, of a matrix; anything else is left as it is.
    pub(crate) fn transposed(mut self) -> Self {
        if self.shape.len() == 2 {
            let mut strides = self.strides.take().unwrap_or_else(|| packed(&self.shape));
            self.shape.swap(0, 1);
            strides.swap(0, 1);
            self.strides = Some(strides).filter(|s| *s != packed(&self.shape));
        }
        self
    }

    /// The same numbers without leading axes of one, down to `rank` axes.
    pub(crate) fn squeezed(mut self, rank: usize) -> Self {
        while self.shape.len() > rank && self.shape[0] == 1 {
            self.shape.remove(0);
            if let Some(strides) = &mut self.strides {
                strides.remove(0);
            }
        }
        self
    }

    fn bytes(&self) -> &[u8] {
        &self.record.bytes()[self.offset..]
    }

    /// The file this is in, and the bytes of it.
    pub(super) fn file(&self) -> (&Path, usize) {
        (&self.record.file.path, self.record.file.bytes().len())
    }

    /// Writes all numbers to `target`, row-major, as float32.
    ///
    /// # Errors
    /// When the bytes do not have the checksum of their archive; `field` names the tensor.
    ///
    /// # Panics
    /// When `target` has not [`count`](Self::count) numbers.
    pub fn fill(&self, field: &str, target: &mut [f32]) -> Result<(), Error> {
        assert_eq!(
            target.len(),
            self.count(),
            "{field}: a number for each place"
        );
        self.record.verify(field)?;
        match &self.strides {
            None => {
                let bytes = &self.bytes()[..self.count() * self.kind.size()];
                let numbers = AT_ONCE / self.kind.size();
                let pieces = bytes.chunks(AT_ONCE).zip(target.chunks_mut(numbers));
                let mut at = self.record.start + self.offset;
                for (bytes, target) in pieces {
                    convert(self.kind, bytes, target);
                    self.record.file.release(at, bytes.len());
                    at += bytes.len();
                }
            }
            Some(strides) => self.gather(strides, target),
        }
        Ok(())
    }

    fn gather(&self, strides: &[usize], target: &mut [f32]) {
        let (bytes, size) = (self.bytes(), self.kind.size());
        let mut index = vec![0usize; self.shape.len()];
        for value in target {
            let at: usize = index.iter().zip(strides).map(|(i, s)| i * s).sum();
            convert(
                self.kind,
                &bytes[at * size..(at + 1) * size],
                std::slice::from_mut(value),
            );
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
    }

    /// The tensor as float32, on the CPU.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub fn load(&self, field: &str) -> Result<Tensor, Error> {
        let mut values = vec![0f32; self.count()];
        self.fill(field, &mut values)?;
        Ok(Tensor::from_vec(
            values,
            self.shape.as_slice(),
            &Device::Cpu,
        )?)
    }

    /// All numbers of a packed integer tensor; `None` for floats.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub fn integers(&self, field: &str) -> Result<Option<Vec<i64>>, Error> {
        self.record.verify(field)?;
        if self.strides.is_some() {
            return Ok(None);
        }
        let bytes = &self.bytes()[..self.count() * self.kind.size()];
        Ok(match self.kind {
            Kind::I64 => Some(each(bytes, i64::from_le_bytes).collect()),
            Kind::I32 => Some(each(bytes, i32::from_le_bytes).map(i64::from).collect()),
            Kind::I16 => Some(each(bytes, i16::from_le_bytes).map(i64::from).collect()),
            Kind::I8 => Some(each(bytes, i8::from_le_bytes).map(i64::from).collect()),
            Kind::U8 | Kind::Bool => Some(bytes.iter().map(|&b| i64::from(b)).collect()),
            Kind::F16 | Kind::BF16 | Kind::F32 | Kind::F64 => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use std::io::Write;

    fn record(bytes: &[u8], checksum: u32) -> Arc<Record> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let file = Mapped::open(file.path()).unwrap();
        let length = bytes.len();
        Arc::new(Record {
            file,
            start: 0,
            length,
            checksum,
            is_intact: OnceLock::new(),
        })
    }

    fn values(stored: &Stored) -> Vec<f32> {
        let mut out = vec![0.0; stored.count()];
        stored.fill("x", &mut out).unwrap();
        out
    }

    #[test]
    fn every_kind_becomes_float32() {
        let bytes: Vec<u8> = [1.5f32, -2.0]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        assert_eq!(
            values(&Stored::new(record(&bytes, 0), 0, Kind::F32, vec![2], None).unwrap()),
            [1.5, -2.0]
        );
        let halves: Vec<u8> = (0..5000)
            .flat_map(|x| f16::from_f32((x % 2048) as f32 / 8.0).to_le_bytes())
            .collect();
        let stored = Stored::new(record(&halves, 0), 2, Kind::F16, vec![4999], None).unwrap();
        assert!(
            values(&stored)
                .iter()
                .zip(1..)
                .all(|(v, x)| *v == (x % 2048) as f32 / 8.0)
        );
        let brains: Vec<u8> = [3.0f32, -0.5]
            .iter()
            .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
            .collect();
        assert_eq!(
            values(&Stored::new(record(&brains, 0), 0, Kind::BF16, vec![2], None).unwrap()),
            [3.0, -0.5]
        );
        let doubles: Vec<u8> = [0.25f64].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(
            values(&Stored::new(record(&doubles, 0), 0, Kind::F64, vec![], None).unwrap()),
            [0.25]
        );
    }

    #[test]
    fn a_transposed_matrix_is_gathered() {
        let bytes: Vec<u8> = (0..6u8).collect();
        let stored = Stored::new(record(&bytes, 0), 0, Kind::U8, vec![2, 3], None)
            .unwrap()
            .transposed();
        assert_eq!(
            (stored.shape(), values(&stored)),
            ([3, 2].as_slice(), vec![0., 3., 1., 4., 2., 5.])
        );
        assert_eq!(values(&stored.transposed()), [0., 1., 2., 3., 4., 5.]);
    }

    #[test]
    fn what_does_not_fit_is_refused_before_memory_is_asked_for() {
        let r = record(&[0; 16], 0);
        let refused = |offset, shape: &[usize], strides: Option<&[usize]>| {
            Stored::new(
                r.clone(),
                offset,
                Kind::F32,
                shape.to_vec(),
                strides.map(<[usize]>::to_vec),
            )
            .is_err()
        };
        assert!(
            !refused(0, &[2, 2], None)
                && !refused(0, &[2, 2], Some(&[1, 2]))
                && !refused(16, &[0], None)
        );
        assert!(refused(4, &[2, 2], None));
        assert!(refused(0, &[2, 2], Some(&[3, 2])));
        assert!(
            refused(0, &[1 << 40], Some(&[0])),
            "a repeated number is not more numbers"
        );
        assert!(refused(0, &[usize::MAX, usize::MAX], None));
        assert!(refused(0, &[2, 2], Some(&[usize::MAX, usize::MAX])));
        assert!(refused(0, &[2, 2], Some(&[1])));
        assert!(refused(usize::MAX, &[1], None));
    }

    #[test]
    fn damaged_bytes_are_noticed() {
        let mut crc = flate2::Crc::new();
        crc.update(&[1, 2, 3, 4]);
        let intact =
            Stored::new(record(&[1, 2, 3, 4], crc.sum()), 0, Kind::U8, vec![4], None).unwrap();
        assert!(intact.load("x").is_ok());
        let damaged =
            Stored::new(record(&[1, 2, 3, 5], crc.sum()), 0, Kind::U8, vec![4], None).unwrap();
        let error = damaged.load("visual.proj").unwrap_err().to_string();
        assert!(
            error.contains("visual.proj") && error.contains("checksum"),
            "{error}"
        );
    }
}
