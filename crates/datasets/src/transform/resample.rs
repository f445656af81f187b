//! Pillow's resize, bit for bit: a port of the 8-bit path of `src/libImaging/Resample.c`.
//!
//! Weights are made in f64 and rounded to 22-bit integers, and the result of the first pass (usually the horizontal
//! one) is clipped to 8 bits before the second. Checked against Pillow 13.0.0. The filter widens with the factor of shrinking ("antialias").

use pulp::{Arch, Simd, WithSimd};

use crate::Rgb;

/// 32 bits less 8 of the pixel and 2 of head room.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// The kernel of a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Triangle; support 1.
    Bilinear,
    /// Keys' cubic with a = -0.5; support 2.
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// A rectangle of pixels: its left and top edge, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Region {
    /// All of a picture.
    pub fn whole(picture: &Rgb) -> Self {
        Self {
            left: 0,
            top: 0,
            width: picture.width,
            height: picture.height,
        }
    }
}

/// For every output position of one axis: the first input position it reads and its integer weights.
struct Weights {
    first: Vec<usize>,
    /// Where the weights of each output start in `taps`, and one more entry for the end.
    start: Vec<usize>,
    taps: Vec<i32>,
}

impl Weights {
    /// `precompute_coeffs` and `normalize_coeffs_8bpc` for the outputs `from..from + count` of a resize from
    /// `input` to `output` positions.
    fn new(input: usize, output: usize, from: usize, count: usize, filter: Filter) -> Self {
        let scale = input as f64 / output as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let inverse = 1.0 / stretch;
        let mut weights = Self {
            first: Vec::with_capacity(count),
            start: vec![0],
            taps: Vec::new(),
        };
        let mut row = Vec::new();
        for position in from..from + count {
            let center = (position as f64 + 0.5) * scale;
            // C's cast: towards zero, so a negative start becomes 0 here and there.
            let low = ((center - support + 0.5) as i64).max(0) as usize;
            let high = ((center + support + 0.5) as i64).min(input as i64) as usize;
            row.clear();
            row.extend((low..high).map(|x| filter.at((x as f64 - center + 0.5) * inverse)));
            let sum: f64 = row.iter().sum();
            weights.taps.extend(row.iter().map(|&weight| {
                let weight = if sum == 0.0 { weight } else { weight / sum };
                let half = if weight < 0.0 { -0.5 } else { 0.5 };
                (half + weight * f64::from(1u32 << PRECISION_BITS)) as i32
            }));
            weights.first.push(low);
            weights.start.push(weights.taps.len());
        }
        weights
    }

    fn of(&self, position: usize) -> (usize, &[i32]) {
        (
            self.first[position],
            &self.taps[self.start[position]..self.start[position + 1]],
        )
    }

    /// The half-open range of inputs that any output reads.
    fn reach(&self) -> (usize, usize) {
        let low = self.first.first().copied().unwrap_or(0);
        let high = (0..self.first.len())
            .map(|p| self.first[p] + self.of(p).1.len())
            .max()
            .unwrap_or(0);
        (low, high)
    }
}

const HALF: i32 = 1 << (PRECISION_BITS - 1);

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// `region` of `source` resized to `width` x `height`, as Pillow's `source.crop(region).resize((width, height))`.
///
/// # Panics
/// When the region is empty or leaves the picture, or when `width` or `height` is 0.
pub fn resize(source: &Rgb, region: Region, width: usize, height: usize, filter: Filter) -> Rgb {
    let window = Region {
        left: 0,
        top: 0,
        width,
        height,
    };
    resize_window(source, region, (width, height), window, filter)
}

/// The pixels `window` of `resize(source, region, size.0, size.1, filter)`, and no work for the others.
///
/// # Panics
/// As [`resize`], and when the window leaves `size`.
pub fn resize_window(
    source: &Rgb,
    region: Region,
    (width, height): (usize, usize),
    window: Region,
    filter: Filter,
) -> Rgb {
    assert!(
        region.width > 0 && region.height > 0 && width > 0 && height > 0,
        "no side is 0"
    );
    assert!(
        region.left + region.width <= source.width && region.top + region.height <= source.height
    );
    assert!(window.left + window.width <= width && window.top + window.height <= height);
    // Pillow leaves out a pass that would change nothing; the identity weights would give the same pixels.
    let columns = (region.width != width)
        .then(|| Weights::new(region.width, width, window.left, window.width, filter));
    let rows = (region.height != height)
        .then(|| Weights::new(region.height, height, window.top, window.height, filter));
    // Since version 13 Pillow starts with the vertical pass where the height shrinks more than twice as much as the
    // width; older ones always start with the horizontal pass. The clipping in between makes the two differ.
    let shrinks = |from: usize, to: usize| from as i64 - to as i64;
    let vertical_first =
        region.height > height && shrinks(region.height, height) > 2 * shrinks(region.width, width);
    // The part of the region that the window depends on.
    let (left, right) = columns
        .as_ref()
        .map_or((window.left, window.left + window.width), Weights::reach);
    let (top, bottom) = rows
        .as_ref()
        .map_or((window.top, window.top + window.height), Weights::reach);
    let needed = Region {
        left: region.left + left,
        top: region.top + top,
        width: right - left,
        height: bottom - top,
    };
    let pass_columns = |source: &Rgb, area| match &columns {
        Some(columns) => horizontal(source, area, left, columns),
        None => copied(source, area),
    };
    let pass_rows = |source: &Rgb, area| match &rows {
        Some(rows) => vertical(source, area, top, rows),
        None => copied(source, area),
    };
    if vertical_first {
        let between = pass_rows(source, needed);
        pass_columns(&between, Region::whole(&between))
    } else {
        let between = pass_columns(source, needed);
        pass_rows(&between, Region::whole(&between))
    }
}

fn copied(source: &Rgb, area: Region) -> Rgb {
    let mut data = Vec::with_capacity(area.width * area.height * 3);
    for y in area.top..area.top + area.height {
        data.extend_from_slice(row(source, area, y));
    }
    Rgb {
        width: area.width,
        height: area.height,
        data,
    }
}

/// The bytes of an area in row `y` of the picture.
fn row(source: &Rgb, area: Region, y: usize) -> &[u8] {
    let at = (y * source.width + area.left) * 3;
    &source.data[at..at + area.width * 3]
}

/// Values that are summed at once: three AVX-512 registers or six AVX2 ones, and 16 rows of pixels.
const LANES: usize = 48;
/// Rows that go through the horizontal pass side by side.
const ROWS: usize = LANES / 3;
/// Bytes from one turned column to the next; the ones beyond `LANES` are never read.
const TURNED: usize = 64;

/// The horizontal pass over an area whose first column is input `base` of the weights.
fn horizontal(source: &Rgb, area: Region, base: usize, columns: &Weights) -> Rgb {
    let mut out = Rgb::new(columns.first.len(), area.height);
    Arch::new().dispatch(Horizontal {
        source,
        area,
        base,
        columns,
        out: &mut out,
    });
    out
}

/// The vertical pass over an area whose first row is input `base` of the weights.
fn vertical(source: &Rgb, area: Region, base: usize, rows: &Weights) -> Rgb {
    let mut out = Rgb::new(area.width, rows.first.len());
    if !out.data.is_empty() {
        Arch::new().dispatch(Vertical {
            source,
            area,
            base,
            rows,
            out: &mut out,
        });
    }
    out
}

// The passes are structures because a closure of this length is not inlined into the functions that `dispatch`
// compiles for wide registers, and would run without them.
struct Horizontal<'a> {
    source: &'a Rgb,
    area: Region,
    base: usize,
    columns: &'a Weights,
    out: &'a mut Rgb,
}

impl WithSimd for Horizontal<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self {
            source,
            area,
            base,
            columns,
            out,
        } = self;
        // Column after column, `ROWS` pixels each, so that neighbours in memory have the same weight.
        let mut turned = vec![0u8; area.width * TURNED];
        for top in (0..area.height).step_by(ROWS) {
            let height = ROWS.min(area.height - top);
            let lines: [&[u8]; ROWS] =
                std::array::from_fn(|y| row(source, area, area.top + top + y.min(height - 1)));
            turn(&lines, &mut turned);
            for x in 0..out.width {
                let (first, taps) = columns.of(x);
                let mut sums = [0u8; LANES];
                weighted(&turned[(first - base) * TURNED..], TURNED, taps, &mut sums);
                for (y, pixel) in sums.chunks_exact(3).take(height).enumerate() {
                    let at = ((top + y) * out.width + x) * 3;
                    out.data[at..at + 3].copy_from_slice(pixel);
                }
            }
        }
    }
}

struct Vertical<'a> {
    source: &'a Rgb,
    area: Region,
    base: usize,
    rows: &'a Weights,
    out: &'a mut Rgb,
}

impl WithSimd for Vertical<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self {
            source,
            area,
            base,
            rows,
            out,
        } = self;
        let stride = source.width * 3;
        for (y, line) in out.data.chunks_exact_mut(area.width * 3).enumerate() {
            let (first, taps) = rows.of(y);
            let input = &source.data[(area.top + first - base) * stride + area.left * 3..];
            if line.len() < LANES {
                few_weighted(input, stride, taps, line);
                continue;
            }
            // The last window overlaps the one before rather than being narrower.
            let last = line.len() - LANES;
            for at in (0..last).step_by(LANES).chain([last]) {
                let window = (&mut line[at..at + LANES])
                    .try_into()
                    .expect("LANES values");
                weighted(&input[at..], stride, taps, window);
            }
        }
    }
}

/// Writes the pixels of rows of equal length column by column.
#[inline(always)]
fn turn(lines: &[&[u8]; ROWS], turned: &mut [u8]) {
    let Some(last) = (lines[0].len() / 3).checked_sub(1) else {
        return;
    };
    // Four bytes are moved faster than three; the fourth is overwritten by the next row, or never read.
    for (x, column) in turned.chunks_exact_mut(TURNED).take(last).enumerate() {
        for (y, line) in lines.iter().enumerate() {
            column[y * 3..y * 3 + 4].copy_from_slice(&line[x * 3..x * 3 + 4]);
        }
    }
    for (y, line) in lines.iter().enumerate() {
        let at = last * TURNED + y * 3;
        turned[at..at + 3].copy_from_slice(&line[last * 3..last * 3 + 3]);
    }
}

/// The clipped sums of `LANES` neighbouring values over lines that are `stride` apart.
#[inline(always)]
fn weighted(lines: &[u8], stride: usize, taps: &[i32], out: &mut [u8; LANES]) {
    // Three values rather than an array of three: only so do they stay in registers from line to line.
    let (mut left, mut middle, mut right) = ([HALF; THIRD], [HALF; THIRD], [HALF; THIRD]);
    for (line, &tap) in taps.iter().enumerate() {
        let values: &[u8; LANES] = lines[line * stride..line * stride + LANES]
            .try_into()
            .expect("LANES values");
        left = added::<0>(left, values, tap);
        middle = added::<THIRD>(middle, values, tap);
        right = added::<{ 2 * THIRD }>(right, values, tap);
    }
    for (out, sums) in out.chunks_exact_mut(THIRD).zip([left, middle, right]) {
        for (value, sum) in out.iter_mut().zip(sums) {
            *value = clip(sum);
        }
    }
}

const THIRD: usize = LANES / 3;

#[inline(always)]
fn added<const FROM: usize>(sums: [i32; THIRD], values: &[u8; LANES], tap: i32) -> [i32; THIRD] {
    std::array::from_fn(|at| sums[at] + i32::from(values[FROM + at]) * tap)
}

/// [`weighted`] for a picture narrower than that.
fn few_weighted(lines: &[u8], stride: usize, taps: &[i32], out: &mut [u8]) {
    for (column, value) in out.iter_mut().enumerate() {
        let products = taps
            .iter()
            .enumerate()
            .map(|(line, &tap)| i32::from(lines[line * stride + column]) * tap);
        *value = clip(HALF + products.sum::<i32>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Stream;

    fn noise(width: usize, height: usize) -> Rgb {
        let mut stream = Stream::named(5, "noise", (width * 10_000 + height) as u64);
        Rgb::from_raw(
            width,
            height,
            (0..width * height * 3)
                .map(|_| stream.below(256) as u8)
                .collect(),
        )
    }

    #[test]
    fn a_window_holds_the_pixels_of_the_whole_resize() {
        for (filter, from, to) in [
            (Filter::Bicubic, (61, 47), (30, 23)),
            (Filter::Bilinear, (20, 33), (45, 90)),
            (Filter::Bicubic, (40, 40), (40, 17)),
            (Filter::Bicubic, (40, 40), (17, 40)),
            (Filter::Bicubic, (30, 90), (40, 30)),
        ] {
            let source = noise(from.0, from.1);
            let region = Region {
                left: 3,
                top: 5,
                width: from.0 - 7,
                height: from.1 - 6,
            };
            let whole = resize(&source, region, to.0, to.1, filter);
            let window = Region {
                left: 4,
                top: 2,
                width: to.0 - 9,
                height: to.1 - 5,
            };
            let part = resize_window(&source, region, to, window, filter);
            assert_eq!(part, copied(&whole, window));
        }
    }

    /// The definition, a value at a time.
    fn plainly(source: &Rgb, columns: &Weights, rows: &Weights) -> Rgb {
        let mut across = Rgb::new(columns.first.len(), source.height);
        for y in 0..across.height {
            for x in 0..across.width {
                let (first, taps) = columns.of(x);
                for channel in 0..3 {
                    let input = |tap: usize| i32::from(source.pixel(first + tap, y)[channel]);
                    let sum: i32 = taps
                        .iter()
                        .enumerate()
                        .map(|(at, tap)| input(at) * tap)
                        .sum();
                    across.data[(y * across.width + x) * 3 + channel] = clip(HALF + sum);
                }
            }
        }
        let mut out = Rgb::new(across.width, rows.first.len());
        for y in 0..out.height {
            let (first, taps) = rows.of(y);
            for at in 0..out.width * 3 {
                let input = |tap: usize| i32::from(across.data[(first + tap) * out.width * 3 + at]);
                let sum: i32 = taps
                    .iter()
                    .enumerate()
                    .map(|(at, tap)| input(at) * tap)
                    .sum();
                out.data[y * out.width * 3 + at] = clip(HALF + sum);
            }
        }
        out
    }

    #[test]
    fn wide_registers_change_no_value() {
        for (from, to) in [
            ((37, 29), (16, 12)),
            ((5, 40), (3, 39)),
            ((90, 17), (47, 33)),
            ((16, 16), (15, 200)),
        ] {
            let source = noise(from.0, from.1);
            let columns = Weights::new(from.0, to.0, 0, to.0, Filter::Bicubic);
            let rows = Weights::new(from.1, to.1, 0, to.1, Filter::Bicubic);
            let whole = resize(&source, Region::whole(&source), to.0, to.1, Filter::Bicubic);
            assert!(
                whole == plainly(&source, &columns, &rows),
                "{from:?} to {to:?}"
            );
        }
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let source = noise(19, 7);
        assert_eq!(
            resize(&source, Region::whole(&source), 19, 7, Filter::Bicubic),
            source
        );
    }

    #[test]
    fn flat_colour_stays_flat() {
        let source = Rgb::from_raw(50, 30, [200, 3, 255].repeat(1500));
        for size in [1, 7, 64, 301] {
            let out = resize(&source, Region::whole(&source), size, size, Filter::Bicubic);
            assert!(
                out.data.chunks_exact(3).all(|pixel| pixel == [200, 3, 255]),
                "size {size}"
            );
        }
    }
}
