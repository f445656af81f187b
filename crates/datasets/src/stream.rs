//! Named streams of one seed: every random choice of a trial has a stream of its own.
//!
//! xoshiro256++ (Blackman and Vigna, <https://prng.di.unimi.it>), its state the SHA-256 of seed, name and index,
//! so that two streams never overlap by arithmetic on seeds and adding one moves no other.

use sha2::{Digest, Sha256};

/// A seeded generator of numbers. The same seed, name and index give the same numbers on every machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    state: [u64; 4],
}

impl Stream {
    /// The `index`-th stream called `name` of `seed`, e.g. `Stream::named(1, "views", step)`.
    pub fn named(seed: u64, name: &str, index: u64) -> Self {
        let digest = Sha256::new()
            .chain_update(seed.to_le_bytes())
            .chain_update((name.len() as u64).to_le_bytes())
            .chain_update(name)
            .chain_update(index.to_le_bytes())
            .finalize();
        let mut state = [0; 4];
        for (word, bytes) in state.iter_mut().zip(digest.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("chunks of 8 bytes"));
        }
        Self { state }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number in `[low, high)`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// A number in `0..n` without bias; 0 for `n = 0`.
    pub fn below(&mut self, n: usize) -> usize {
        // Lemire 2019, <https://arxiv.org/abs/1805.10941>.
        let n = n as u64;
        if n == 0 {
            return 0;
        }
        let mut product = u128::from(self.next_u64()) * u128::from(n);
        if (product as u64) < n {
            let threshold = n.wrapping_neg() % n;
            while (product as u64) < threshold {
                product = u128::from(self.next_u64()) * u128::from(n);
            }
        }
        (product >> 64) as usize
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// A draw from the normal distribution with mean 0 and variance 1 (Box and Muller; one of the pair).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// A permutation of `0..n` (Fisher and Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }

    /// A draw from Beta(`a`, `b`), both positive. Beta(1, 1) is uniform.
    pub fn beta(&mut self, a: f64, b: f64) -> f64 {
        let (x, y) = (self.gamma(a), self.gamma(b));
        x / (x + y)
    }

    /// A draw from the Dirichlet distribution: `alpha.len()` positive numbers that sum to 1.
    pub fn dirichlet(&mut self, alpha: &[f64]) -> Vec<f64> {
        let mut shares: Vec<f64> = alpha.iter().map(|&a| self.gamma(a)).collect();
        let sum: f64 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= sum);
        shares
    }

    /// A draw from Gamma(`shape`, 1): Marsaglia and Tsang 2000; the boost of shapes below 1 is theirs too.
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let boost = (1.0 - self.uniform()).powf(1.0 / shape);
            return self.gamma(shape + 1.0) * boost;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.uniform()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_name_and_index() {
        let first = |seed, name, index| Stream::named(seed, name, index).next_u64();
        let all = [
            first(1, "views", 0),
            first(2, "views", 0),
            first(1, "view", 0),
            first(1, "views", 1),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
        assert_eq!(first(1, "views", 0), first(1, "views", 0));
    }

    // The first outputs of the authors' xoshiro256plusplus.c from the state 1, 2, 3, 4.
    #[test]
    fn state_1234_gives_the_reference_outputs() {
        let mut stream = Stream {
            state: [1, 2, 3, 4],
        };
        let drawn: Vec<u64> = (0..4).map(|_| stream.next_u64()).collect();
        assert_eq!(
            drawn,
            [41943041, 58720359, 3588806011781223, 3591011842654386]
        );
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut stream = Stream::named(7, "moments", 0);
        let n = 200_000;
        let moments = |mut draw: Box<dyn FnMut() -> f64 + '_>| {
            let values: Vec<f64> = (0..n).map(|_| draw()).collect();
            let mean = values.iter().sum::<f64>() / n as f64;
            (
                mean,
                values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64,
            )
        };
        let near = |(mean, variance): (f64, f64), m: f64, v: f64| {
            assert!(
                (mean - m).abs() < 0.01 && (variance - v).abs() < 0.015,
                "{mean} {variance}, expected {m} {v}"
            );
        };
        near(moments(Box::new(|| stream.normal())), 0.0, 1.0);
        near(moments(Box::new(|| stream.uniform())), 0.5, 1.0 / 12.0);
        near(moments(Box::new(|| stream.beta(1.0, 1.0))), 0.5, 1.0 / 12.0);
        near(
            moments(Box::new(|| stream.beta(0.5, 2.0))),
            0.2,
            0.2 * 0.8 / 3.5,
        );
        near(
            moments(Box::new(|| stream.dirichlet(&[1.0, 1.0, 1.0])[1])),
            1.0 / 3.0,
            2.0 / 36.0,
        );
        near(
            moments(Box::new(|| stream.below(10) as f64 / 10.0)),
            0.45,
            0.0825,
        );
    }

    #[test]
    fn permutations_hold_every_number_once() {
        let mut order = Stream::named(3, "order", 0).permutation(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
