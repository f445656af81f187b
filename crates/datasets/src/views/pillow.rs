//! What Pillow makes of pictures, bit for bit (13.0): tables over values, enhancers, and pictures moved by a matrix.

use crate::Rgb;

type Table = [u8; 256];

fn looked_up(picture: &Rgb, tables: &[Table; 3]) -> Rgb {
    let mut out = picture.clone();
    for pixel in out.data.chunks_exact_mut(3) {
        for (value, table) in pixel.iter_mut().zip(tables) {
            *value = table[usize::from(*value)];
        }
    }
    out
}

fn by_value(picture: &Rgb, table: impl FnMut(usize) -> u8) -> Rgb {
    looked_up(picture, &[std::array::from_fn(table); 3])
}

fn by_channel(picture: &Rgb, table: fn(&[u64; 256]) -> Table) -> Rgb {
    let mut histograms = [[0u64; 256]; 3];
    for pixel in picture.data.chunks_exact(3) {
        for (histogram, &value) in histograms.iter_mut().zip(pixel) {
            histogram[usize::from(value)] += 1;
        }
    }
    looked_up(picture, &histograms.each_ref().map(table))
}

/// `ImageOps.autocontrast(picture)`.
pub(super) fn autocontrast(picture: &Rgb) -> Rgb {
    by_channel(picture, |histogram| {
        let low = histogram.iter().position(|&count| count > 0).unwrap_or(0);
        let high = histogram.iter().rposition(|&count| count > 0).unwrap_or(0);
        if high <= low {
            return std::array::from_fn(|value| value as u8);
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        std::array::from_fn(|value| ((value as f64 * scale + offset) as i64).clamp(0, 255) as u8)
    })
}

/// `ImageOps.equalize(picture)`.
pub(super) fn equalize(picture: &Rgb) -> Rgb {
    by_channel(picture, |histogram| {
        let filled: Vec<u64> = histogram
            .iter()
            .copied()
            .filter(|&count| count > 0)
            .collect();
        let last = filled.last().copied().unwrap_or(0);
        let step = (filled.iter().sum::<u64>() - last) / 255;
        if filled.len() <= 1 || step == 0 {
            return std::array::from_fn(|value| value as u8);
        }
        let mut sum = step / 2;
        std::array::from_fn(|value| {
            let level = (sum / step).min(255) as u8;
            sum += histogram[value];
            level
        })
    })
}

/// `ImageOps.posterize(picture, bits)` of 1 to 8 bits.
pub(super) fn posterize(picture: &Rgb, bits: u32) -> Rgb {
    let mask = !(((1u32 << (8 - bits)) - 1) as u8);
    by_value(picture, |value| value as u8 & mask)
}

/// `ImageOps.solarize(picture, threshold)`.
pub(super) fn solarize(picture: &Rgb, threshold: f64) -> Rgb {
    by_value(picture, |value| {
        if (value as f64) < threshold {
            value as u8
        } else {
            255 - value as u8
        }
    })
}

/// `ImageOps.invert(picture)`.
pub(super) fn invert(picture: &Rgb) -> Rgb {
    by_value(picture, |value| 255 - value as u8)
}

/// `addition` more of everything, up to 255 and truncated, as NumPy has it.
pub(super) fn brighter_by(picture: &Rgb, addition: f64) -> Rgb {
    by_value(picture, |value| {
        (value as f64 + addition).clamp(0.0, 255.0) as u8
    })
}

/// `Image.blend`: `share` of the way from `dull` to `picture`, or beyond.
fn blend(dull: &Rgb, picture: &Rgb, share: f64) -> Rgb {
    let share = share as f32;
    let mut out = picture.clone();
    for (value, &from) in out.data.iter_mut().zip(&dull.data) {
        let mixed = f32::from(from) + share * (f32::from(*value) - f32::from(from));
        *value = mixed.clamp(0.0, 255.0) as u8;
    }
    out
}

/// Of `convert("L")`.
fn lightness(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [0, 1, 2].map(|channel| u32::from(pixel[channel]));
    ((19_595 * red + 38_470 * green + 7_471 * blue + 32_768) >> 16) as u8
}

/// `ImageEnhance.Color(picture).enhance(share)`.
pub(super) fn color(picture: &Rgb, share: f64) -> Rgb {
    let mut grey = picture.clone();
    for pixel in grey.data.chunks_exact_mut(3) {
        pixel.fill(lightness(pixel));
    }
    blend(&grey, picture, share)
}

/// `ImageEnhance.Contrast(picture).enhance(share)`.
pub(super) fn contrast(picture: &Rgb, share: f64) -> Rgb {
    let pixels = picture.data.chunks_exact(3);
    let count = pixels.len().max(1) as f64;
    let sum: u64 = pixels.map(|pixel| u64::from(lightness(pixel))).sum();
    let mean = (sum as f64 / count + 0.5) as u8;
    blend(&by_value(picture, |_| mean), picture, share)
}

/// `ImageEnhance.Brightness(picture).enhance(share)`.
pub(super) fn brightness(picture: &Rgb, share: f64) -> Rgb {
    blend(&Rgb::new(picture.width, picture.height), picture, share)
}

/// `ImageEnhance.Sharpness(picture).enhance(share)`.
pub(super) fn sharpness(picture: &Rgb, share: f64) -> Rgb {
    blend(&smooth(picture), picture, share)
}

/// `ImageFilter.SMOOTH`: the mean of a pixel, five times, and its eight neighbours; the border stays.
fn smooth(picture: &Rgb) -> Rgb {
    let (width, height) = (picture.width, picture.height);
    let mut out = picture.clone();
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            for channel in 0..3 {
                let at = |x: usize, y: usize| (y * width + x) * 3 + channel;
                let value = |x, y| u32::from(picture.data[at(x, y)]);
                let rows = (y - 1..=y + 1).flat_map(|y| (x - 1..=x + 1).map(move |x| (x, y)));
                let sum = 4 * value(x, y) + rows.map(|(x, y)| value(x, y)).sum::<u32>();
                out.data[at(x, y)] = ((2 * sum + 13) / 26) as u8;
            }
        }
    }
    out
}

/// `ImageDraw.rectangle`: both corners, of columns and rows, belong to it.
pub(super) fn rectangle(
    picture: &Rgb,
    (left, top): (usize, usize),
    (right, bottom): (usize, usize),
    color: [u8; 3],
) -> Rgb {
    let mut out = picture.clone();
    for y in top..(bottom + 1).min(picture.height) {
        for x in left..(right + 1).min(picture.width) {
            let at = (y * picture.width + x) * 3;
            out.data[at..at + 3].copy_from_slice(&color);
        }
    }
    out
}

/// What a pixel between pixels is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sampling {
    Nearest,
    Bilinear,
}

/// `picture.rotate(degrees, resample)`, counter-clockwise about the middle.
pub(super) fn rotate(picture: &Rgb, degrees: f64, sampling: Sampling) -> Rgb {
    let degrees = degrees.rem_euclid(360.0);
    if degrees == 0.0 {
        return picture.clone();
    }
    let angle = -degrees.to_radians();
    // Pillow rounds to 15 places.
    let round = |value: f64| (value * 1e15).round_ties_even() / 1e15;
    let (cos, sin) = (round(angle.cos()), round(angle.sin()));
    let (x, y) = (picture.width as f64 / 2.0, picture.height as f64 / 2.0);
    let matrix = [
        cos,
        sin,
        cos * -x + sin * -y + x,
        -sin,
        cos,
        -sin * -x + cos * -y + y,
    ];
    affine(picture, matrix, sampling)
}

/// `picture.transform(picture.size, AFFINE, matrix, resample)`, the matrix from output to input coordinates
/// (`x' = a x + b y + c`, `y' = d x + e y + f`): pixels from outside are black.
pub(super) fn affine(picture: &Rgb, matrix: [f64; 6], sampling: Sampling) -> Rgb {
    match sampling {
        Sampling::Bilinear => bilinear(picture, matrix),
        // A matrix that turns nothing has a way of its own in Pillow, in floats.
        Sampling::Nearest if matrix[1] == 0.0 && matrix[3] == 0.0 => scaled(picture, matrix),
        Sampling::Nearest => fixed_point(picture, matrix),
    }
}

/// The picture whose pixel at `(x, y)` is that of `picture` where `from` says, if that is inside.
fn gathered(
    picture: &Rgb,
    mut from: impl FnMut(usize, usize) -> (Option<usize>, Option<usize>),
) -> Rgb {
    let (width, height) = (picture.width, picture.height);
    let mut out = Rgb::new(width, height);
    for y in 0..height {
        for x in 0..width {
            if let (Some(column), Some(row)) = from(x, y)
                && column < width
                && row < height
            {
                let (to, at) = ((y * width + x) * 3, (row * width + column) * 3);
                out.data[to..to + 3].copy_from_slice(&picture.data[at..at + 3]);
            }
        }
    }
    out
}

fn scaled(picture: &Rgb, [a, _, c, _, e, f]: [f64; 6]) -> Rgb {
    // Pillow adds up steps.
    let places = |start: f64, step: f64, count: usize| -> Vec<Option<usize>> {
        let sums = std::iter::successors(Some(start), |sum| Some(sum + step));
        let place = |at: f64| (at >= 0.0).then_some(at as usize);
        sums.take(count).map(place).collect()
    };
    let columns = places(c + a * 0.5, a, picture.width);
    let rows = places(f + e * 0.5, e, picture.height);
    gathered(picture, |x, y| (columns[x], rows[y]))
}

/// In 16.16 fixed point, as Pillow computes pictures of less than 32,768 pixels a side.
fn fixed_point(picture: &Rgb, [a, b, c, d, e, f]: [f64; 6]) -> Rgb {
    let fixed = |value: f64| (value * 65536.0 + 0.5).floor() as i64;
    let start = (fixed(c + a * 0.5 + b * 0.5), fixed(f + d * 0.5 + e * 0.5));
    let [a, b, d, e] = [a, b, d, e].map(fixed);
    gathered(picture, |x, y| {
        let (x, y) = (x as i64, y as i64);
        let column = (start.0 + a * x + b * y) >> 16;
        let row = (start.1 + d * x + e * y) >> 16;
        (usize::try_from(column).ok(), usize::try_from(row).ok())
    })
}

fn bilinear(picture: &Rgb, [a, b, c, d, e, f]: [f64; 6]) -> Rgb {
    let (width, height) = (picture.width, picture.height);
    let mut out = Rgb::new(width, height);
    for y in 0..height {
        for x in 0..width {
            let (column, row) = (x as f64 + 0.5, y as f64 + 0.5);
            let from_x = a * column + b * row + c;
            let from_y = d * column + e * row + f;
            if from_x < 0.0 || from_x >= width as f64 || from_y < 0.0 || from_y >= height as f64 {
                continue;
            }
            let (from_x, from_y) = (from_x - 0.5, from_y - 0.5);
            let (left, top) = (from_x.floor(), from_y.floor());
            let (dx, dy) = (from_x - left, from_y - top);
            let clip = |value: f64, size: usize| value.clamp(0.0, size as f64 - 1.0) as usize;
            let (x0, x1) = (clip(left, width), clip(left + 1.0, width));
            let y0 = clip(top, height);
            let below = top + 1.0;
            let y1 = if below >= 0.0 && below < height as f64 {
                below as usize
            } else {
                y0
            };
            let at = (y * width + x) * 3;
            for channel in 0..3 {
                let value =
                    |x: usize, y: usize| f64::from(picture.data[(y * width + x) * 3 + channel]);
                let mix = |from: f64, to: f64, share: f64| from + (to - from) * share;
                let upper = mix(value(x0, y0), value(x1, y0), dx);
                let lower = mix(value(x0, y1), value(x1, y1), dx);
                out.data[at + channel] = mix(upper, lower, dy) as u8;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_border_is_not_smoothed_and_the_middle_counts_five_times() {
        let mut picture = Rgb::new(3, 3);
        picture.data[4 * 3] = 130; // the middle, red
        picture.data[0] = 13; // a corner
        let out = smooth(&picture);
        assert_eq!(out.data[4 * 3], 51); // (5 * 130 + 13) / 13
        assert_eq!((out.data[0], out.data[3]), (13, 0));
        let strip = Rgb::from_raw(2, 1, vec![9; 6]);
        assert_eq!(smooth(&strip), strip);
    }

    #[test]
    fn a_rectangle_holds_both_corners_and_ends_with_the_picture() {
        let out = rectangle(&Rgb::new(4, 2), (2, 0), (3, 9), [1, 2, 3]);
        let of_row = [[0, 0, 0], [0, 0, 0], [1, 2, 3], [1, 2, 3]].concat();
        assert_eq!(out.data, [of_row.clone(), of_row].concat());
    }

    #[test]
    fn a_shift_moves_whole_pixels_and_leaves_black() {
        let picture = Rgb::from_raw(3, 1, (1..10).collect());
        let moved = |by| affine(&picture, [1.0, 0.0, by, 0.0, 1.0, 0.0], Sampling::Nearest).data;
        assert_eq!(moved(1.0), [4, 5, 6, 7, 8, 9, 0, 0, 0]);
        assert_eq!(moved(-0.6), [0, 0, 0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(moved(0.4), picture.data);
        assert_eq!(moved(7.0), [0; 9]);
    }
}
