//! Headers of `.npy` files: what NumPy writes before the numbers of an array.
//!
//! Format versions 1 to 3 (numpy/lib/format.py of NumPy 2.4): a magic word, the version, the length of a Python dictionary
//! in text, the dictionary.

use std::io::Read;

/// The longest dictionary that is read: an array of pictures needs less than 128 bytes.
const MAX_HEADER: usize = 1 << 16;

/// What an array is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The kind of number, as NumPy writes it: `|u1`, `<i8`.
    pub kind: String,
    /// Numbers along each side, slowest first.
    pub shape: Vec<usize>,
    /// Bytes before the numbers.
    pub length: usize,
}

impl Header {
    /// Reads a header and leaves the reader at the first number. The message says what is wrong.
    pub(super) fn read(reader: &mut impl Read) -> Result<Self, String> {
        let mut start = [0; 8];
        exact(reader, &mut start)?;
        if start[..6] != *b"\x93NUMPY" {
            return Err("is no NumPy array: it does not start with \\x93NUMPY".to_owned());
        }
        let (dictionary, before) = match start[6] {
            1 => {
                let mut length = [0; 2];
                exact(reader, &mut length)?;
                (usize::from(u16::from_le_bytes(length)), 10)
            }
            2 | 3 => {
                let mut length = [0; 4];
                exact(reader, &mut length)?;
                (u32::from_le_bytes(length) as usize, 12)
            }
            version => {
                return Err(format!(
                    "is a NumPy array of version {version}; 1 to 3 are known"
                ));
            }
        };
        if dictionary > MAX_HEADER {
            return Err(format!(
                "claims a header of {dictionary} bytes; {MAX_HEADER} are the limit"
            ));
        }
        let mut text = vec![0; dictionary];
        exact(reader, &mut text)?;
        let text =
            String::from_utf8(text).map_err(|_| "has a header that is not text".to_owned())?;
        let odd = |what: &str| format!("has a header without {what}: {:?}", text.trim_end());
        let kind = value(&text, "descr")
            .and_then(quoted)
            .ok_or_else(|| odd("one kind of number (`descr`)"))?;
        let is_fortran = match value(&text, "fortran_order") {
            Some(rest) if rest.starts_with("False") => false,
            Some(rest) if rest.starts_with("True") => true,
            _ => return Err(odd("`fortran_order`")),
        };
        let shape = value(&text, "shape")
            .and_then(tuple)
            .ok_or_else(|| odd("a `shape` of whole numbers"))?;
        if is_fortran && shape.len() > 1 {
            return Err("is in Fortran order; write it with numpy.ascontiguousarray".to_owned());
        }
        Ok(Self {
            kind: kind.to_owned(),
            shape,
            length: before + dictionary,
        })
    }

    /// How many numbers there are, unless that is more than a machine can count.
    pub(super) fn count(&self) -> Option<usize> {
        let sides = self.shape.iter();
        sides.copied().try_fold(1usize, usize::checked_mul)
    }
}

fn exact(reader: &mut impl Read, bytes: &mut [u8]) -> Result<(), String> {
    reader
        .read_exact(bytes)
        .map_err(|error| format!("ends within its header ({error})"))
}

/// What stands behind a key of the dictionary.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("'{key}':"))?;
    Some(rest.trim_start())
}

fn quoted(text: &str) -> Option<&str> {
    Some(text.strip_prefix('\'')?.split_once('\'')?.0)
}

/// `(7007, 28, 28, 3)`, `(5,)`.
fn tuple(text: &str) -> Option<Vec<usize>> {
    let (inside, _) = text.strip_prefix('(')?.split_once(')')?;
    let sides = inside.split(',').map(str::trim);
    let sides: Vec<&str> = sides.filter(|side| !side.is_empty()).collect();
    sides.into_iter().map(|side| side.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: u8, dictionary: &str) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        if version == 1 {
            bytes.extend((dictionary.len() as u16).to_le_bytes());
        } else {
            bytes.extend((dictionary.len() as u32).to_le_bytes());
        }
        bytes.extend(dictionary.as_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Header, String> {
        Header::read(&mut { bytes })
    }

    #[test]
    fn headers_of_all_versions_are_read() {
        let dictionary =
            "{'descr': '|u1', 'fortran_order': False, 'shape': (7007, 28, 28, 3), }    \n";
        for (version, before) in [(1, 10), (2, 12), (3, 12)] {
            let found = read(&header(version, dictionary)).unwrap();
            assert_eq!(
                (&*found.kind, &*found.shape),
                ("|u1", &[7007, 28, 28, 3][..])
            );
            assert_eq!(found.length, before + dictionary.len());
            assert_eq!(found.count(), Some(7007 * 28 * 28 * 3));
        }
        let one = "{'descr': '<i8', 'fortran_order': True, 'shape': (5,), }\n";
        assert_eq!(read(&header(1, one)).unwrap().shape, [5]);
        let none = "{'shape': (), 'fortran_order': False, 'descr': '<f4'}";
        assert_eq!(read(&header(1, none)).unwrap().count(), Some(1));
        let many = format!(
            "{{'descr': '|u1', 'fortran_order': False, 'shape': ({0}, {0}), }}",
            u64::MAX
        );
        assert_eq!(read(&header(1, &many)).unwrap().count(), None);
    }

    #[test]
    fn what_is_wrong_with_a_header_is_said() {
        let good = header(
            1,
            "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }\n",
        );
        for length in 0..good.len() {
            let error = read(&good[..length]).unwrap_err();
            assert!(error.starts_with("ends within its header"), "{error}");
        }
        let mut huge = header(2, "");
        huge[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        for (bytes, expected) in [
            (b"not an array at all".to_vec(), "is no NumPy array"),
            (header(9, "{}"), "version 9; 1 to 3 are known"),
            (
                huge,
                "claims a header of 4294967295 bytes; 65536 are the limit",
            ),
            (
                header(
                    1,
                    "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }",
                ),
                "is in Fortran order",
            ),
            (
                header(
                    1,
                    "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (2,), }",
                ),
                "without one kind of number",
            ),
            (
                header(
                    1,
                    "{'descr': '|u1', 'fortran_order': False, 'shape': (-2, 3), }",
                ),
                "without a `shape` of whole numbers",
            ),
            (
                header(1, "{'descr': '|u1', 'shape': (2,), }"),
                "without `fortran_order`",
            ),
        ] {
            let error = read(&bytes).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
