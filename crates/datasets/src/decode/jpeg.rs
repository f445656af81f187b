//! JPEG through libjpeg-turbo's code (mozjpeg is a fork of it with the same decoder), which is what Pillow runs:
//! slow integer DCT, smooth chroma upsampling, whatever the file asks for.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::{ColorSpace, Decompress};

use super::{DecodeError, Format, MAX_SCANNED_PIXELS, MAX_SCANS, check_size};
use crate::Rgb;

/// Rows read between two looks at whether the file has run out.
const ROWS: usize = 16;

/// The file's bytes, which remember that the decoder asked for more than there are. libjpeg itself would carry on
/// with grey; Pillow calls such a file truncated, and so do we.
struct Bytes<'a> {
    rest: &'a [u8],
    ran_out: &'a Cell<bool>,
}

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.rest.read(buffer)
    }
}

impl BufRead for Bytes<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.ran_out.set(true);
        }
        Ok(self.rest)
    }

    fn consume(&mut self, count: usize) {
        self.rest = &self.rest[count.min(self.rest.len())..];
    }
}

/// Decodes a JPEG to RGB.
pub(super) fn decode(bytes: &[u8]) -> Result<Rgb, DecodeError> {
    let scans = bytes
        .windows(2)
        .filter(|pair| pair == &[0xff, 0xda])
        .count();
    if scans > MAX_SCANS {
        return Err(DecodeError::TooManyScans { scans, pixels: 0 });
    }
    let ran_out = Cell::new(false);
    // libjpeg reports errors by unwinding; `mozjpeg` frees its state on the way.
    let result = catch_unwind(AssertUnwindSafe(|| {
        let source = Bytes {
            rest: bytes,
            ran_out: &ran_out,
        };
        read(source, scans)
    }));
    match result {
        Ok(Ok(rgb)) => Ok(rgb),
        Ok(Err(error @ (DecodeError::TooLarge { .. } | DecodeError::TooManyScans { .. }))) => {
            Err(error)
        }
        _ if ran_out.get() => Err(DecodeError::Truncated(Format::Jpeg)),
        Ok(Err(error)) => Err(error),
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .map_or("libjpeg failed", String::as_str);
            let message = message
                .trim_start_matches("libjpeg fatal error: ")
                .to_owned();
            Err(DecodeError::Broken {
                format: Format::Jpeg,
                message,
            })
        }
    }
}

fn read(bytes: Bytes<'_>, scans: usize) -> Result<Rgb, DecodeError> {
    let ran_out = bytes.ran_out;
    let broken = |error: io::Error| DecodeError::Broken {
        format: Format::Jpeg,
        message: error.to_string(),
    };
    let file = Decompress::builder().from_reader(bytes).map_err(broken)?;
    let (width, height) = file.size();
    check_size(width, height, Format::Jpeg)?;
    if scans.saturating_mul(width * height) > MAX_SCANNED_PIXELS {
        return Err(DecodeError::TooManyScans {
            scans,
            pixels: width * height,
        });
    }
    let space = match file.components().len() {
        1 => ColorSpace::JCS_GRAYSCALE,
        3 => ColorSpace::JCS_RGB,
        4 => ColorSpace::JCS_CMYK,
        layers => {
            let message = format!("{layers} colour layers; 1, 3 or 4 are known");
            return Err(DecodeError::Broken {
                format: Format::Jpeg,
                message,
            });
        }
    };
    let channels = match space {
        ColorSpace::JCS_GRAYSCALE => 1,
        ColorSpace::JCS_RGB => 3,
        _ => 4,
    };
    let mut file = file.to_colorspace(space).map_err(broken)?;
    let mut data = vec![0u8; width * height * channels];
    for rows in data.chunks_mut(width * channels * ROWS) {
        if ran_out.get() {
            return Err(DecodeError::Truncated(Format::Jpeg));
        }
        file.read_scanlines_into::<u8>(rows).map_err(broken)?;
    }
    if ran_out.get() {
        return Err(DecodeError::Truncated(Format::Jpeg));
    }
    let data = match channels {
        1 => data.iter().flat_map(|&grey| [grey; 3]).collect(),
        3 => data,
        _ => data
            .chunks_exact(4)
            .flat_map(|ink| inverted_cmyk([ink[0], ink[1], ink[2], ink[3]]))
            .collect(),
    };
    Ok(Rgb {
        width,
        height,
        data,
    })
}

/// Pillow takes every four-layer JPEG to be Adobe's, whose inks are stored inverted, then prints them
/// (`cmyk2rgb` in `libImaging/Convert.c`).
fn inverted_cmyk(stored: [u8; 4]) -> [u8; 3] {
    cmyk(stored.map(|ink| 255 - ink))
}

/// Ink printed on paper (`cmyk2rgb` again).
pub(super) fn cmyk(ink: [u8; 4]) -> [u8; 3] {
    let paper = 255 - i32::from(ink[3]);
    [0, 1, 2].map(|layer| {
        let product = i32::from(ink[layer]) * paper + 128;
        (paper - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}
