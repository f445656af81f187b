//! Augmented views of pictures: for test-time prompt tuning, and for training beside crops and flips.

mod augmix;
mod pillow;
pub mod randaugment;

use rayon::prelude::*;

use crate::Rgb;
use crate::stream::Stream;
use crate::transform::{Filter, Look, random_view};

/// The `count` views of TPT, each `[3, size, size]` and normalised: view 0 is the test view, the others random crops
/// (bilinear, torchvision's default, unlike training) flipped half the time and, with `mix`, put through AugMix.
///
/// TPT mixes on the ten fine-grained datasets and not on ImageNet and its variants (`AugMixAugmenter` of azshue/TPT at
/// 63ecbac). Differs: the random numbers come from a named stream, not from numpy's global generator.
///
/// # Panics
/// When the picture is empty or `size` is 0.
pub fn tpt_views(
    picture: &Rgb,
    size: usize,
    count: usize,
    mix: bool,
    stream: &mut Stream,
) -> Vec<Vec<f32>> {
    tpt_views_as(&Look::default(), picture, size, count, mix, stream)
}

/// As [`tpt_views`] for a model with a look of its own.
///
/// # Panics
/// As [`tpt_views`].
pub fn tpt_views_as(
    look: &Look,
    picture: &Rgb,
    size: usize,
    count: usize,
    mix: bool,
    stream: &mut Stream,
) -> Vec<Vec<f32>> {
    // Every view gets its own stream, so that they can be made on all cores.
    let seeds: Vec<u64> = (0..count).map(|_| stream.next_u64()).collect();
    let view = |(number, &seed): (usize, &u64)| {
        if number == 0 {
            return look.normalised(&look.test_view(picture, size));
        }
        let mut stream = Stream::named(seed, "tpt view", number as u64);
        let view = random_view(picture, size, Filter::Bilinear, &mut stream);
        if mix {
            augmix::augmix(&view, look, &mut stream)
        } else {
            look.normalised(&view)
        }
    };
    seeds.par_iter().enumerate().map(view).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::{normalised, test_view};

    fn picture() -> Rgb {
        let mut stream = Stream::named(11, "picture", 0);
        Rgb::from_raw(
            70,
            50,
            (0..70 * 50 * 3).map(|_| stream.below(256) as u8).collect(),
        )
    }

    #[test]
    fn view_0_is_the_test_view_and_the_others_differ() {
        let picture = picture();
        for mix in [false, true] {
            let views = tpt_views(&picture, 32, 9, mix, &mut Stream::named(1, "views", 4));
            assert_eq!(views.len(), 9);
            assert_eq!(views[0], normalised(&test_view(&picture, 32)));
            for (i, view) in views.iter().enumerate() {
                assert_eq!(view.len(), 3 * 32 * 32);
                assert!(view.iter().all(|value| value.is_finite()));
                assert!(views[..i].iter().all(|other| other != view));
            }
            assert_eq!(
                views,
                tpt_views(&picture, 32, 9, mix, &mut Stream::named(1, "views", 4))
            );
            assert_ne!(
                views[1],
                tpt_views(&picture, 32, 9, mix, &mut Stream::named(1, "views", 5))[1]
            );
        }
    }

    #[test]
    fn mixing_changes_a_view_but_keeps_its_range() {
        let picture = picture();
        let plain = tpt_views(&picture, 32, 30, false, &mut Stream::named(1, "views", 4));
        let mixed = tpt_views(&picture, 32, 30, true, &mut Stream::named(1, "views", 4));
        let black_to_white = -1.8..2.2;
        for (plain, mixed) in plain.iter().zip(&mixed).skip(1) {
            assert_ne!(plain, mixed);
            assert!(
                mixed
                    .iter()
                    .all(|&value| black_to_white.contains(&f64::from(value)))
            );
        }
    }
}
