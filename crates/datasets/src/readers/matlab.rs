//! MATLAB level-5 files, as far as Stanford Cars and Oxford Flowers need them: numbers, text, cells and structures.
//!
//! Format: MathWorks, *MAT-File Format*, level 5 (little-endian, elements compressed with zlib or not).

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::ZlibDecoder;

use crate::Error;
use crate::error::{Problem, ProblemKind};

const HEADER: usize = 128;
/// No list file of a dataset is larger, even unpacked.
const MAX_BYTES: u64 = 1 << 28;
const MAX_DEPTH: usize = 8;

const TYPE_UTF8: u32 = 16;
const TYPE_MATRIX: u32 = 14;
const TYPE_COMPRESSED: u32 = 15;

/// An array of a file.
#[derive(Debug)]
enum Array {
    Numbers(Vec<f64>),
    Text(String),
    Cells(Vec<Array>),
    /// Field names, and their values element by element.
    Structures(Vec<String>, Vec<Array>),
}

/// A read file: its named arrays.
pub(super) struct Matlab {
    path: PathBuf,
    arrays: Vec<(String, Array)>,
}

impl Matlab {
    /// Reads a file.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        super::found(
            path,
            "a MATLAB file of the dataset",
            "it is needed because the split file is missing too",
        )?;
        let bytes = super::read_bytes(path, MAX_BYTES)?;
        let arrays = parse(&bytes).map_err(|message| Error::Syntax {
            path: path.to_owned(),
            line: 0,
            column: 0,
            message: format!("not a readable MATLAB 5 file: {message}"),
        })?;
        Ok(Self {
            path: path.to_owned(),
            arrays,
        })
    }

    fn wrong(&self, field: String, expected: &'static str) -> Error {
        let kind = ProblemKind::Form {
            found: "something else".to_owned(),
            expected,
        };
        Error::Entries {
            path: self.path.clone(),
            problems: vec![Problem { field, kind }],
        }
    }

    fn array(&self, name: &str) -> Option<&Array> {
        self.arrays
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, array)| array)
    }

    /// The numbers of an array, column by column.
    pub(super) fn numbers(&self, name: &str) -> Result<Vec<f64>, Error> {
        match self.array(name) {
            Some(Array::Numbers(numbers)) => Ok(numbers.clone()),
            _ => Err(self.wrong(name.to_owned(), "an array of numbers")),
        }
    }

    /// The texts of a cell array.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>, Error> {
        let wrong = || self.wrong(name.to_owned(), "a cell array of texts");
        let Some(Array::Cells(cells)) = self.array(name) else {
            return Err(wrong());
        };
        let text = |cell: &Array| {
            if let Array::Text(text) = cell {
                Some(text.clone())
            } else {
                None
            }
        };
        cells
            .iter()
            .map(text)
            .collect::<Option<_>>()
            .ok_or_else(wrong)
    }

    fn field(&self, name: &str, field: &str) -> Result<Vec<&Array>, Error> {
        let wrong = || {
            self.wrong(
                format!("{name}.{field}"),
                "a structure array with this field",
            )
        };
        let Some(Array::Structures(fields, values)) = self.array(name) else {
            return Err(wrong());
        };
        let index = fields
            .iter()
            .position(|known| known == field)
            .ok_or_else(wrong)?;
        Ok(values.iter().skip(index).step_by(fields.len()).collect())
    }

    /// The texts of one field of a structure array.
    pub(super) fn field_texts(&self, name: &str, field: &str) -> Result<Vec<String>, Error> {
        let text = |value: &Array| {
            if let Array::Text(text) = value {
                Some(text.clone())
            } else {
                None
            }
        };
        let values = self
            .field(name, field)?
            .into_iter()
            .map(text)
            .collect::<Option<_>>();
        values.ok_or_else(|| self.wrong(format!("{name}.{field}"), "texts"))
    }

    /// The numbers of one field of a structure array.
    pub(super) fn field_numbers(&self, name: &str, field: &str) -> Result<Vec<f64>, Error> {
        let number = |value: &Array| match value {
            Array::Numbers(numbers) => numbers.first().copied(),
            _ => None,
        };
        let values = self
            .field(name, field)?
            .into_iter()
            .map(number)
            .collect::<Option<_>>();
        values.ok_or_else(|| self.wrong(format!("{name}.{field}"), "numbers"))
    }
}

type Parsed<T> = Result<T, &'static str>;

fn parse(bytes: &[u8]) -> Parsed<Vec<(String, Array)>> {
    if bytes.get(126..HEADER) != Some(b"IM") {
        return Err("it does not have the header of a little-endian level-5 file");
    }
    let mut rest = &bytes[HEADER..];
    let mut arrays = Vec::new();
    let mut room = MAX_BYTES;
    while !rest.is_empty() {
        let (kind, data, after) = element(rest)?;
        rest = after;
        if kind == TYPE_COMPRESSED {
            let mut unpacked = Vec::new();
            ZlibDecoder::new(data)
                .take(room + 1)
                .read_to_end(&mut unpacked)
                .map_err(|_| "broken compression")?;
            room = room
                .checked_sub(unpacked.len() as u64)
                .ok_or("it unpacks to more than 256 MB")?;
            let (kind, data, _) = element(&unpacked)?;
            if kind == TYPE_MATRIX {
                arrays.push(matrix(data, 0)?);
            }
        } else if kind == TYPE_MATRIX {
            arrays.push(matrix(data, 0)?);
        }
    }
    Ok(arrays)
}

fn word(bytes: &[u8], at: usize) -> Parsed<u32> {
    let four = bytes.get(at..at + 4).ok_or("it ends early")?;
    Ok(u32::from_le_bytes(four.try_into().expect("4 bytes")))
}

/// Type and data of the first element, and what follows it.
fn element(bytes: &[u8]) -> Parsed<(u32, &[u8], &[u8])> {
    let tag = word(bytes, 0)?;
    // A small element has its size in the upper half of the type, and its data in the tag.
    if tag >> 16 != 0 {
        let size = (tag >> 16) as usize;
        let data = bytes
            .get(4..4 + size)
            .filter(|_| size <= 4)
            .ok_or("a small element of more than 4 bytes")?;
        return Ok((tag & 0xffff, data, bytes.get(8..).unwrap_or(&[])));
    }
    let size = word(bytes, 4)? as usize;
    let data = bytes
        .get(8..8 + size)
        .ok_or("an element is longer than the file")?;
    let padded = if tag == TYPE_COMPRESSED {
        size
    } else {
        size.next_multiple_of(8)
    };
    Ok((tag, data, bytes.get(8 + padded..).unwrap_or(&[])))
}

/// Name and contents of a matrix element.
fn matrix(bytes: &[u8], depth: usize) -> Parsed<(String, Array)> {
    if depth > MAX_DEPTH {
        return Err("cells are nested too deeply");
    }
    // An empty cell may be an element without contents.
    if bytes.is_empty() {
        return Ok((String::new(), Array::Numbers(Vec::new())));
    }
    let (_, flags, rest) = element(bytes)?;
    let class = word(flags, 0)? & 0xff;
    let (_, dimensions, rest) = element(rest)?;
    let mut count = 1usize;
    for size in dimensions.chunks_exact(4) {
        let size = u32::from_le_bytes(size.try_into().expect("4 bytes")) as usize;
        count = count
            .checked_mul(size)
            .ok_or("an array too large for memory")?;
    }
    let (_, name, mut rest) = element(rest)?;
    let name = String::from_utf8_lossy(name).into_owned();
    let array = match class {
        1 => {
            let mut cells = Vec::new();
            for _ in 0..count {
                let (_, data, after) = element(rest)?;
                rest = after;
                cells.push(matrix(data, depth + 1)?.1);
            }
            Array::Cells(cells)
        }
        2 => {
            let (_, width, after) = element(rest)?;
            let width = word(width, 0)? as usize;
            let (_, names, after) = element(after)?;
            rest = after;
            if width == 0 {
                return Err("a structure with field names of no letters");
            }
            let text = |name: &[u8]| {
                let end = name
                    .iter()
                    .position(|&byte| byte == 0)
                    .unwrap_or(name.len());
                String::from_utf8_lossy(&name[..end]).into_owned()
            };
            let fields: Vec<String> = names.chunks_exact(width).map(text).collect();
            let mut values = Vec::new();
            for _ in 0..count
                .checked_mul(fields.len())
                .ok_or("an array too large for memory")?
            {
                let (_, data, after) = element(rest)?;
                rest = after;
                values.push(matrix(data, depth + 1)?.1);
            }
            Array::Structures(fields, values)
        }
        4 => {
            let (kind, data, _) = element(rest)?;
            if matches!(kind, 1 | 2 | TYPE_UTF8) {
                Array::Text(String::from_utf8_lossy(data).into_owned())
            } else {
                let units: Vec<u16> = data
                    .chunks_exact(2)
                    .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
                    .collect();
                Array::Text(String::from_utf16_lossy(&units))
            }
        }
        6..=15 => {
            let (kind, data, _) = element(rest)?;
            Array::Numbers(numbers(kind, data)?)
        }
        _ => return Err("an array of a class other than numbers, text, cells and structures"),
    };
    Ok((name, array))
}

fn numbers(kind: u32, data: &[u8]) -> Parsed<Vec<f64>> {
    fn all<const N: usize>(data: &[u8], one: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        data.chunks_exact(N)
            .map(|bytes| one(bytes.try_into().expect("N bytes")))
            .collect()
    }
    Ok(match kind {
        1 => all(data, |b: [u8; 1]| f64::from(b[0] as i8)),
        2 => all(data, |b: [u8; 1]| f64::from(b[0])),
        3 => all(data, |b| f64::from(i16::from_le_bytes(b))),
        4 => all(data, |b| f64::from(u16::from_le_bytes(b))),
        5 => all(data, |b| f64::from(i32::from_le_bytes(b))),
        6 => all(data, |b| f64::from(u32::from_le_bytes(b))),
        7 => all(data, |b| f64::from(f32::from_le_bytes(b))),
        9 => all(data, f64::from_le_bytes),
        12 => all(data, |b| i64::from_le_bytes(b) as f64),
        13 => all(data, |b| u64::from_le_bytes(b) as f64),
        _ => return Err("numbers of an unknown type"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_give_arrays_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if bytes.len() >= HEADER {
                bytes[126..HEADER].copy_from_slice(b"IM");
            }
            let _ = parse(&bytes);
        }
    }
}
