//! TIFF through the `tiff` crate, then Pillow's rules for what becomes RGB: the first picture of a file; grey of 1 to 16
//! bits, palettes, RGB and CMYK; uncompressed, PackBits, LZW or deflate. What microscopes and scanners write beyond that
//! (floats, planes apart, JPEG inside) is refused in the decoder's words.

use std::io::{Cursor, ErrorKind};

use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use super::{DecodeError, Format, MAX_PIXELS, check_size};
use crate::Rgb;

/// Decodes the first picture of a TIFF to RGB.
pub(super) fn decode(bytes: &[u8]) -> Result<Rgb, DecodeError> {
    let mut limits = Limits::default();
    // 16-bit RGBA is 8 bytes a pixel; one chunk may be the whole picture.
    limits.decoding_buffer_size = MAX_PIXELS * 8;
    limits.intermediate_buffer_size = MAX_PIXELS * 8;
    let as_indices = indices(bytes);
    let mut file = Decoder::new(Cursor::new(as_indices.as_deref().unwrap_or(bytes)))
        .map_err(failure)?
        .with_limits(limits);
    let (width, height) = file.dimensions().map_err(failure)?;
    let (width, height) = (width as usize, height as usize);
    check_size(width, height, Format::Tiff)?;
    all_there(&mut file, bytes.len() as u64)?;
    let (colour, palette) = match (file.colortype().map_err(failure)?, &as_indices) {
        (ColorType::Gray(bits), Some(_)) => {
            let palette = file.get_tag_u16_vec(Tag::ColorMap).map_err(failure)?;
            (ColorType::Palette(bits), palette)
        }
        (colour, _) => (colour, Vec::new()),
    };
    let samples = samples(file.read_image().map_err(failure)?, colour, width)?;
    let data = rgb(&samples, colour, &palette)?;
    if data.len() != width * height * 3 {
        return Err(broken(format!(
            "{} pixels where {width} x {height} are claimed",
            data.len() / 3
        )));
    }
    Ok(Rgb {
        width,
        height,
        data,
    })
}

/// A file with a palette as one of grey levels, which are then its indices; `None` for any other file. The `tiff` crate
/// knows palettes and refuses to read them.
fn indices(bytes: &[u8]) -> Option<Vec<u8>> {
    const PHOTOMETRIC: u16 = 262;
    const PALETTE: u16 = 3;
    const GREY: u16 = 1;
    let is_little = bytes.starts_with(b"II");
    let short = |at: usize| -> Option<u16> {
        let two = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        let order = [u16::from_be_bytes, u16::from_le_bytes][usize::from(is_little)];
        Some(order(two))
    };
    let (high, low) = if is_little { (6, 4) } else { (4, 6) };
    let directory = usize::from(short(high)?) << 16 | usize::from(short(low)?);
    let entries = usize::from(short(directory)?);
    let entry = (0..entries)
        .map(|entry| directory + 2 + 12 * entry)
        .find(|&at| short(at) == Some(PHOTOMETRIC))?;
    let value = entry + 8;
    if short(value)? != PALETTE {
        return None;
    }
    let mut copy = bytes.to_vec();
    let grey = if is_little {
        GREY.to_le_bytes()
    } else {
        GREY.to_be_bytes()
    };
    copy[value..value + 2].copy_from_slice(&grey);
    Some(copy)
}

/// Strips and tiles must lie in the file: a cut file would otherwise be called corrupt by the decompressor, or worse,
/// end in grey.
fn all_there(file: &mut Decoder<Cursor<&[u8]>>, length: u64) -> Result<(), DecodeError> {
    for (offsets, counts) in [
        (Tag::StripOffsets, Tag::StripByteCounts),
        (Tag::TileOffsets, Tag::TileByteCounts),
    ] {
        let mut numbers = |tag| file.find_tag_unsigned_vec::<u64>(tag).map_err(failure);
        let (Some(offsets), Some(counts)) = (numbers(offsets)?, numbers(counts)?) else {
            continue;
        };
        let ends = offsets.iter().zip(&counts);
        if ends
            .map(|(offset, count)| offset.saturating_add(*count))
            .any(|end| end > length)
        {
            return Err(DecodeError::Truncated(Format::Tiff));
        }
    }
    Ok(())
}

/// One number a sample, `[height, width, samples]`. Samples of fewer than 8 bits are packed, rows begin with a byte.
fn samples(
    decoded: DecodingResult,
    colour: ColorType,
    width: usize,
) -> Result<Vec<u16>, DecodeError> {
    let bits = usize::from(colour.bit_depth());
    match decoded {
        DecodingResult::U8(bytes) if bits == 8 => Ok(bytes.into_iter().map(u16::from).collect()),
        DecodingResult::U16(words) if bits == 16 => Ok(words),
        DecodingResult::U8(bytes) if matches!(bits, 1 | 2 | 4) => {
            let per_row = width * usize::from(colour.num_samples());
            let unpack = |row: &[u8], at: usize| {
                let bit = at * bits;
                let low = 8 - bits - bit % 8;
                u16::from(row[bit / 8] >> low & ((1 << bits) - 1))
            };
            let rows = bytes.chunks_exact((per_row * bits).div_ceil(8));
            Ok(rows
                .flat_map(|row| (0..per_row).map(move |at| unpack(row, at)))
                .collect())
        }
        _ => Err(broken(format!(
            "{colour:?} of this kind of number is not read; 1 to 16 bits without a sign are"
        ))),
    }
}

/// As Pillow: alpha and further bands are dropped, grey of few bits is stretched, 16-bit grey is clipped, 16-bit colour
/// keeps its high byte, and a palette is its high bytes.
fn rgb(samples: &[u16], colour: ColorType, palette: &[u16]) -> Result<Vec<u8>, DecodeError> {
    let bits = colour.bit_depth();
    let most = (1u32 << bits.min(16)) - 1;
    let grey = |value: u16| match bits {
        16 => value.min(255) as u8,
        8 => value as u8,
        _ => (u32::from(value) * 255 / most) as u8,
    };
    let level = |value: u16| {
        if bits == 16 {
            (value >> 8) as u8
        } else {
            value as u8
        }
    };
    let each = |count: usize, pixel: &dyn Fn(&[u16]) -> [u8; 3]| -> Vec<u8> {
        samples.chunks_exact(count).flat_map(pixel).collect()
    };
    let unread = || {
        broken(format!(
            "{colour:?} is not read; grey, palette, RGB and CMYK are"
        ))
    };
    let count = usize::from(colour.num_samples());
    match colour {
        ColorType::Gray(_) | ColorType::GrayA(_) => Ok(each(count, &|p| [grey(p[0]); 3])),
        // Grey and alpha come as two bands of nothing in particular.
        ColorType::Multiband { num_samples: 2, .. } if bits == 8 => {
            Ok(each(count, &|p| [grey(p[0]); 3]))
        }
        ColorType::RGB(8 | 16) | ColorType::RGBA(8 | 16) => {
            Ok(each(count, &|p| [level(p[0]), level(p[1]), level(p[2])]))
        }
        ColorType::CMYK(8) => Ok(each(count, &|p| {
            super::jpeg::cmyk([0, 1, 2, 3].map(|layer| p[layer] as u8))
        })),
        ColorType::Palette(1 | 2 | 4 | 8) => {
            let colours = palette.len() / 3;
            let channel = |index: usize, k: usize| {
                let entry = (index < colours).then(|| palette[k * colours + index]);
                entry.map_or(0, |value| (value >> 8) as u8)
            };
            Ok(each(1, &|p| {
                [0, 1, 2].map(|k| channel(usize::from(p[0]), k))
            }))
        }
        _ => Err(unread()),
    }
}

fn broken(message: String) -> DecodeError {
    DecodeError::Broken {
        format: Format::Tiff,
        message,
    }
}

fn failure(error: TiffError) -> DecodeError {
    match &error {
        TiffError::IoError(inner) if inner.kind() == ErrorKind::UnexpectedEof => {
            DecodeError::Truncated(Format::Tiff)
        }
        _ => broken(error.to_string()),
    }
}
