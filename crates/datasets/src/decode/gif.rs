//! The first frame of a GIF, its palette looked up and its transparency ignored, as Pillow does for a `P` picture.

use std::num::NonZeroU64;

use super::{DecodeError, Format, MAX_PIXELS, check_size};
use crate::Rgb;

/// One byte a pixel of a frame.
const MAX_BYTES: NonZeroU64 = NonZeroU64::new(MAX_PIXELS as u64).expect("not 0");

/// Decodes the first frame of a GIF to RGB.
pub(super) fn decode(bytes: &[u8]) -> Result<Rgb, DecodeError> {
    let broken = |message: String| DecodeError::Broken {
        format: Format::Gif,
        message,
    };
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    options.check_frame_consistency(false);
    options.set_memory_limit(gif::MemoryLimit::Bytes(MAX_BYTES));
    let mut decoder = options.read_info(bytes).map_err(failure)?;
    let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    check_size(width, height, Format::Gif)?;
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let background = decoder.bg_color().unwrap_or(0);
    let frame = decoder
        .read_next_frame()
        .map_err(failure)?
        .ok_or_else(|| broken("no frame".to_owned()))?;
    // Pillow's own order: a frame's palette before the file's; without either, grey levels.
    let palette = frame.palette.as_deref().or(global.as_deref());
    let colour = |index: usize| match palette {
        Some(palette) => palette
            .get(index * 3..index * 3 + 3)
            .map_or([0; 3], |c| [c[0], c[1], c[2]]),
        None => [index as u8; 3],
    };
    let mut data: Vec<u8> = colour(background).repeat(width * height);
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (frame_width, frame_height) = (usize::from(frame.width), usize::from(frame.height));
    for y in 0..frame_height.min(height.saturating_sub(top)) {
        for x in 0..frame_width.min(width.saturating_sub(left)) {
            let index = frame.buffer.get(y * frame_width + x).copied().unwrap_or(0);
            let at = ((y + top) * width + x + left) * 3;
            data[at..at + 3].copy_from_slice(&colour(usize::from(index)));
        }
    }
    Ok(Rgb {
        width,
        height,
        data,
    })
}

fn failure(error: gif::DecodingError) -> DecodeError {
    match &error {
        gif::DecodingError::Io(inner) if inner.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated(Format::Gif)
        }
        _ => DecodeError::Broken {
            format: Format::Gif,
            message: error.to_string(),
        },
    }
}
