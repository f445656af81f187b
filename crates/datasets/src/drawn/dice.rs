//! The draws that drawings are made of, in single precision, from the crate's one generator.

use crate::stream::Stream;

/// A stream of random draws that depends on its seeds and on nothing else.
#[derive(Clone, Debug)]
pub(super) struct Dice {
    stream: Stream,
}

/// A number in `[0, 1)` that belongs to a cell of a grid: noise that needs no stored state.
pub(super) fn cell(seed: u64, x: i32, y: i32) -> f32 {
    // SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014, <https://doi.org/10.1145/2660193.2660195>), twice.
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let place = u64::from(x as u32) << 32 | u64::from(y as u32);
    unit(mix(seed ^ mix(place.wrapping_add(0x9E37_79B9_7F4A_7C15))))
}

/// The upper 24 of 64 random bits, as a number in `[0, 1)`.
fn unit(bits: u64) -> f32 {
    (bits >> 40) as f32 / (1 << 24) as f32
}

impl Dice {
    /// The stream of a name and two numbers.
    pub(super) fn new(name: &str, a: u64, b: u64) -> Self {
        Self {
            stream: Stream::named(a, name, b),
        }
    }

    /// 64 random bits.
    pub(super) fn bits(&mut self) -> u64 {
        self.stream.next_u64()
    }

    /// A stream of its own, so that what one consumer draws never shifts another's draws.
    pub(super) fn fork(&mut self) -> Self {
        Self::new("fork", self.bits(), 0)
    }

    /// Uniform in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f32 {
        unit(self.bits())
    }

    /// Uniform in `[low, high)`.
    pub(super) fn within(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `[-reach, reach)`.
    pub(super) fn about(&mut self, reach: f32) -> f32 {
        self.within(-reach, reach)
    }

    /// True with probability `p`.
    pub(super) fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    /// Uniform in `0..n`; `n` is at least 1.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.stream.below(n)
    }

    /// One of `items`, which is never empty.
    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// 1 or -1.
    pub(super) fn sign(&mut self) -> f32 {
        if self.bits() >> 63 == 0 { 1.0 } else { -1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_stays_in_its_range() {
        let mut dice = Dice::new("range", 1, 2);
        let mut seen = [0; 7];
        for _ in 0..7000 {
            seen[dice.below(7)] += 1;
            let x = dice.within(-2.0, 3.0);
            assert!((-2.0..3.0).contains(&x));
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
    }

    #[test]
    fn every_seed_moves_the_stream() {
        let first = |name, a, b| Dice::new(name, a, b).bits();
        let all = [
            first("a", 0, 0),
            first("b", 0, 0),
            first("a", 1, 0),
            first("a", 0, 1),
            first("a", 1, 1),
        ];
        for (i, x) in all.iter().enumerate() {
            assert!(!all[..i].contains(x));
        }
    }

    #[test]
    fn neighbouring_cells_are_unrelated() {
        let pairs: Vec<(f32, f32)> = (0..4000)
            .map(|i| (cell(5, i % 64, i / 64), cell(5, i % 64 + 1, i / 64)))
            .collect();
        let mean = pairs.iter().map(|p| p.0).sum::<f32>() / 4000.0;
        let together = pairs.iter().map(|p| (p.0 - 0.5) * (p.1 - 0.5)).sum::<f32>() / 4000.0;
        assert!(
            (mean - 0.5).abs() < 0.02 && together.abs() < 0.006,
            "{mean} {together}"
        );
    }
}
