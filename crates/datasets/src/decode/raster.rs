//! PNG, WebP and BMP through the `image` crate, then Pillow's rules for what becomes RGB.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};

use super::{DecodeError, Format, MAX_PIXELS, check_size};
use crate::Rgb;

/// Decodes a PNG, WebP or BMP to RGB.
pub(super) fn decode(bytes: &[u8], format: Format) -> Result<Rgb, DecodeError> {
    let kind = match format {
        Format::Png => image::ImageFormat::Png,
        Format::WebP => image::ImageFormat::WebP,
        _ => image::ImageFormat::Bmp,
    };
    let mut limits = Limits::default();
    // 16-bit RGBA is 8 bytes a pixel; the decoder may hold one more copy of its own.
    limits.max_alloc = Some(MAX_PIXELS as u64 * 16);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), kind);
    reader.limits(limits);
    let decoder = reader
        .into_decoder()
        .map_err(|error| failure(error, format))?;
    let (width, height) = decoder.dimensions();
    check_size(width as usize, height as usize, format)?;
    let picture = DynamicImage::from_decoder(decoder).map_err(|error| failure(error, format))?;
    Ok(Rgb {
        width: width as usize,
        height: height as usize,
        data: rgb(picture),
    })
}

/// As Pillow: alpha is dropped, grey is repeated, 16-bit colour keeps its high byte (`RGB;16B`, `LA;16B`), and
/// 16-bit grey is clipped (`I;16` to RGB).
fn rgb(picture: DynamicImage) -> Vec<u8> {
    let grey = |value: u8| [value; 3];
    let high = |value: u16| (value >> 8) as u8;
    match picture {
        DynamicImage::ImageRgb8(pixels) => pixels.into_raw(),
        DynamicImage::ImageRgba8(pixels) => pixels
            .pixels()
            .flat_map(|p| [p.0[0], p.0[1], p.0[2]])
            .collect(),
        DynamicImage::ImageLuma8(pixels) => pixels.pixels().flat_map(|p| grey(p.0[0])).collect(),
        DynamicImage::ImageLumaA8(pixels) => pixels.pixels().flat_map(|p| grey(p.0[0])).collect(),
        DynamicImage::ImageLuma16(pixels) => pixels
            .pixels()
            .flat_map(|p| grey(p.0[0].min(255) as u8))
            .collect(),
        DynamicImage::ImageLumaA16(pixels) => {
            pixels.pixels().flat_map(|p| grey(high(p.0[0]))).collect()
        }
        DynamicImage::ImageRgb16(pixels) => pixels.pixels().flat_map(|p| p.0.map(high)).collect(),
        DynamicImage::ImageRgba16(pixels) => pixels
            .pixels()
            .flat_map(|p| [high(p.0[0]), high(p.0[1]), high(p.0[2])])
            .collect(),
        other => other.to_rgb8().into_raw(),
    }
}

fn failure(error: ImageError, format: Format) -> DecodeError {
    if let ImageError::IoError(error) = &error
        && error.kind() == std::io::ErrorKind::UnexpectedEof
    {
        return DecodeError::Truncated(format);
    }
    DecodeError::Broken {
        format,
        message: error.to_string(),
    }
}
