//! From a decoded picture to the square a CLIP sees, as torchvision's transforms on Pillow pictures do it.
//!
//! Test: `Resize(n, bicubic)`, `CenterCrop(n)`. Training: `RandomResizedCrop(n, (0.08, 1), bicubic)`,
//! `RandomHorizontalFlip`. Then `ToTensor` and `Normalize` (Dassl `data/transforms/transforms.py` at c61a1b5).

mod resample;

pub use resample::{Filter, Region, resize, resize_window};

use crate::Rgb;
use crate::stream::Stream;

/// Mean of red, green and blue over CLIP's training pictures, of pixels in 0..1 (OpenAI `clip/clip.py`).
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Their standard deviation.
#[expect(clippy::excessive_precision, reason = "as published")]
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// The share of a picture's area that a training crop covers.
pub const CROP_SCALE: (f64, f64) = (0.08, 1.0);
/// Width over height of a training crop.
pub const CROP_RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

/// How a picture becomes a square at test time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fit {
    /// The shorter side is resized, then the middle is cut out.
    #[default]
    Shortest,
    /// Both sides are resized.
    Squash,
}

/// How one model wants its pictures. CLIP's, unless its own configuration says otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Taken off pixels in 0..1, of red, green and blue.
    pub mean: [f32; 3],
    /// What they are divided by then.
    pub std: [f32; 3],
    /// At test time.
    pub fit: Fit,
    /// Of the resize at test time. Training crops are bicubic whatever the model, as in open_clip.
    pub filter: Filter,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            mean: CLIP_MEAN,
            std: CLIP_STD,
            fit: Fit::Shortest,
            filter: Filter::Bicubic,
        }
    }
}

impl Look {
    /// What the model is shown of a picture at test time, `size` x `size`.
    ///
    /// # Panics
    /// When the picture is empty or `size` is 0.
    pub fn test_view(&self, picture: &Rgb, size: usize) -> Rgb {
        match self.fit {
            Fit::Shortest => cut_out(picture, size, self.filter),
            Fit::Squash => resize(picture, Region::whole(picture), size, size, self.filter),
        }
    }

    /// `ToTensor` and `Normalize`: `out` is `[3, height, width]`.
    ///
    /// # Panics
    /// When `out` does not have 3 x height x width places.
    pub fn normalise(&self, picture: &Rgb, out: &mut [f32]) {
        normalise_by(picture, self.mean, self.std, out);
    }

    /// [`normalise`](Self::normalise) into a new `[3, height, width]`.
    pub fn normalised(&self, picture: &Rgb) -> Vec<f32> {
        let mut out = vec![0.0; 3 * picture.width * picture.height];
        self.normalise(picture, &mut out);
        out
    }

    /// What tells test views of this look from those of CLIP's, before they are normalised; empty where they are equal.
    pub(crate) fn of_views(&self) -> String {
        match (self.fit, self.filter) {
            (Fit::Shortest, Filter::Bicubic) => String::new(),
            (fit, filter) => format!("{fit:?} {filter:?}"),
        }
    }
}

/// What CLIP is shown at test time: the shorter side resized to `size`, then the central `size` x `size`.
///
/// # Panics
/// When the picture is empty or `size` is 0.
pub fn test_view(picture: &Rgb, size: usize) -> Rgb {
    Look::default().test_view(picture, size)
}

fn cut_out(picture: &Rgb, size: usize, filter: Filter) -> Rgb {
    let (width, height) = resized(picture.width, picture.height, size);
    let window = Region {
        left: crop_offset(width, size),
        top: crop_offset(height, size),
        width: size,
        height: size,
    };
    resize_window(
        picture,
        Region::whole(picture),
        (width, height),
        window,
        filter,
    )
}

/// torchvision's `Resize(size)`: the longer side is truncated.
fn resized(width: usize, height: usize, size: usize) -> (usize, usize) {
    // Python divides exact integers, so truncation of the true quotient is what floats give for real sizes.
    if width <= height {
        (size, size * height / width)
    } else {
        (size * width / height, size)
    }
}

/// torchvision's `CenterCrop`: `int(round((side - size) / 2))`, and Python rounds halves to even.
fn crop_offset(side: usize, size: usize) -> usize {
    let twice = side - size;
    let half = twice / 2;
    if twice % 2 == 1 && half % 2 == 1 {
        half + 1
    } else {
        half
    }
}

/// A training view with the crop of the CoOp family: bicubic, area [`CROP_SCALE`], flipped half the time.
///
/// # Panics
/// When the picture is empty or `size` is 0.
pub fn train_view(picture: &Rgb, size: usize, stream: &mut Stream) -> Rgb {
    random_view(picture, size, Filter::Bicubic, stream)
}

/// As [`train_view`], with crops that cover `scale` of the picture, and mirrored only where it may be.
///
/// # Panics
/// When the picture is empty or `size` is 0.
pub fn train_view_of(
    picture: &Rgb,
    size: usize,
    scale: (f64, f64),
    may_flip: bool,
    stream: &mut Stream,
) -> Rgb {
    random_crop(picture, size, scale, may_flip, Filter::Bicubic, stream)
}

/// `RandomResizedCrop(size)` with the filter given, then `RandomHorizontalFlip(0.5)`.
///
/// # Panics
/// When the picture is empty or `size` is 0.
pub fn random_view(picture: &Rgb, size: usize, filter: Filter, stream: &mut Stream) -> Rgb {
    random_crop(picture, size, CROP_SCALE, true, filter, stream)
}

fn random_crop(
    picture: &Rgb,
    size: usize,
    scale: (f64, f64),
    may_flip: bool,
    filter: Filter,
    stream: &mut Stream,
) -> Rgb {
    let region = random_region(picture.width, picture.height, scale, CROP_RATIO, stream);
    let mut view = resize(picture, region, size, size, filter);
    if may_flip && stream.chance(0.5) {
        flip(&mut view);
    }
    view
}

/// Mirrors a picture left to right.
pub fn flip(picture: &mut Rgb) {
    if picture.width == 0 {
        return;
    }
    for row in picture.data.chunks_exact_mut(picture.width * 3) {
        let mut left = 0;
        let mut right = picture.width - 1;
        while left < right {
            for channel in 0..3 {
                row.swap(left * 3 + channel, right * 3 + channel);
            }
            left += 1;
            right -= 1;
        }
    }
}

/// torchvision's `RandomResizedCrop.get_params`: ten tries at a crop that fits, then the largest central one
/// whose ratio is allowed.
pub fn random_region(
    width: usize,
    height: usize,
    scale: (f64, f64),
    ratio: (f64, f64),
    stream: &mut Stream,
) -> Region {
    let area = (width * height) as f64;
    for _ in 0..10 {
        let target = area * stream.between(scale.0, scale.1);
        let aspect = stream.between(ratio.0.ln(), ratio.1.ln()).exp();
        let crop_width = (target * aspect).sqrt().round_ties_even() as usize;
        let crop_height = (target / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
            let top = stream.below(height - crop_height + 1);
            let left = stream.below(width - crop_width + 1);
            return Region {
                left,
                top,
                width: crop_width,
                height: crop_height,
            };
        }
    }
    let (w, h) = (width as f64, height as f64);
    let (crop_width, crop_height) = if w / h < ratio.0 {
        (
            width,
            ((w / ratio.0).round_ties_even() as usize).clamp(1, height),
        )
    } else if w / h > ratio.1 {
        (
            ((h * ratio.1).round_ties_even() as usize).clamp(1, width),
            height,
        )
    } else {
        (width, height)
    };
    Region {
        left: (width - crop_width) / 2,
        top: (height - crop_height) / 2,
        width: crop_width,
        height: crop_height,
    }
}

/// `ToTensor` and `Normalize` with CLIP's mean and deviation: `out` is `[3, height, width]`.
///
/// # Panics
/// When `out` does not have 3 x height x width places.
pub fn normalise(picture: &Rgb, out: &mut [f32]) {
    Look::default().normalise(picture, out);
}

/// As [`normalise`] with another mean and deviation. Bit-equal to PyTorch in float32.
///
/// # Panics
/// When `out` does not have 3 x height x width places.
pub fn normalise_by(picture: &Rgb, mean: [f32; 3], std: [f32; 3], out: &mut [f32]) {
    let pixels = picture.width * picture.height;
    assert_eq!(
        out.len(),
        3 * pixels,
        "3 x {} x {} numbers",
        picture.height,
        picture.width
    );
    if pixels == 0 {
        return;
    }
    for (channel, plane) in out.chunks_exact_mut(pixels).enumerate() {
        let table: [f32; 256] =
            std::array::from_fn(|v| (v as f32 / 255.0 - mean[channel]) / std[channel]);
        for (value, pixel) in plane.iter_mut().zip(picture.data.chunks_exact(3)) {
            *value = table[usize::from(pixel[channel])];
        }
    }
}

/// [`normalise`] into a new `[3, height, width]`.
pub fn normalised(picture: &Rgb) -> Vec<f32> {
    Look::default().normalised(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_sides_are_truncated() {
        assert_eq!(resized(300, 451, 224), (224, 336)); // 336.7
        assert_eq!(resized(500, 31, 224), (3612, 224)); // 3612.9
        assert_eq!(resized(224, 224, 224), (224, 224));
    }

    #[test]
    fn crop_offsets_round_halves_to_even() {
        let offsets: Vec<usize> = (224..233).map(|side| crop_offset(side, 224)).collect();
        assert_eq!(offsets, [0, 0, 1, 2, 2, 2, 3, 4, 4]);
    }

    #[test]
    fn regions_fit_and_keep_scale_and_ratio() {
        let mut stream = Stream::named(1, "regions", 0);
        for (width, height) in [(300, 200), (64, 64), (1, 1), (3, 500), (500, 3), (7, 11)] {
            for _ in 0..2000 {
                let region = random_region(width, height, CROP_SCALE, CROP_RATIO, &mut stream);
                assert!(region.width >= 1 && region.left + region.width <= width);
                assert!(region.height >= 1 && region.top + region.height <= height);
                if width == 300 {
                    let share = (region.width * region.height) as f64 / 60_000.0;
                    let ratio = region.width as f64 / region.height as f64;
                    assert!(
                        (0.078..=1.0).contains(&share) && (0.74..1.35).contains(&ratio),
                        "{region:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_strip_falls_back_to_the_central_crop() {
        let region = random_region(
            500,
            3,
            CROP_SCALE,
            CROP_RATIO,
            &mut Stream::named(1, "strip", 0),
        );
        assert_eq!(
            region,
            Region {
                left: 248,
                top: 0,
                width: 4,
                height: 3
            }
        );
    }

    #[test]
    fn views_that_may_not_be_mirrored_never_are() {
        // Brightness grows to the right, so a mirrored view falls.
        let ramp = Rgb::from_raw(16, 16, (0..768).map(|i| (i / 3 % 16 * 16) as u8).collect());
        let falls = |may_flip: bool, turn: u64| {
            let mut stream = Stream::named(1, "views", turn);
            let view = train_view_of(&ramp, 8, CROP_SCALE, may_flip, &mut stream);
            view.data[0] > view.data[21]
        };
        let count = |may_flip: bool| (0..64).filter(|turn| falls(may_flip, *turn)).count();
        assert_eq!(count(false), 0);
        assert!((16..48).contains(&count(true)), "{}", count(true));
    }

    #[test]
    fn flipping_twice_changes_nothing() {
        let picture = Rgb::from_raw(3, 2, (0..18).collect());
        let mut flipped = picture.clone();
        flip(&mut flipped);
        assert_eq!(flipped.data[..9], [6, 7, 8, 3, 4, 5, 0, 1, 2]);
        flip(&mut flipped);
        assert_eq!(flipped, picture);
    }

    #[test]
    fn normalised_pixels_stand_channel_first() {
        let picture = Rgb::from_raw(2, 1, vec![0, 128, 255, 255, 0, 1]);
        let out = normalised(&picture);
        let expected =
            |value: f32, channel: usize| (value / 255.0 - CLIP_MEAN[channel]) / CLIP_STD[channel];
        assert_eq!(
            out,
            [
                expected(0.0, 0),
                expected(255.0, 0),
                expected(128.0, 1),
                expected(0.0, 1),
                expected(255.0, 2),
                expected(1.0, 2)
            ]
        );
    }
}
