//! CPython's `random.Random`: the generator behind every published few-shot pick.
//!
//! Mersenne Twister MT19937 (Matsumoto and Nishimura 1998) seeded by `init_by_array` as in
//! `Modules/_randommodule.c`, and `randbelow`, `sample`, `choices`, `shuffle` as in `Lib/random.py` (3.8 to 3.13).

use std::collections::HashSet;

use rand_mt::Mt;

/// A `random.Random(seed)`.
#[derive(Clone)]
pub struct Random {
    generator: Mt,
}

impl Random {
    /// `random.seed(seed)` for a non-negative integer.
    pub fn seed(seed: u64) -> Self {
        // The integer's 32-bit digits, the lowest first, as many as it has; zero has one.
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let digits = if high == 0 {
            vec![low]
        } else {
            vec![low, high]
        };
        Self {
            generator: Mt::new_with_key(digits),
        }
    }

    /// The next 32 bits (`getrandbits(32)`).
    pub fn next_u32(&mut self) -> u32 {
        self.generator.next_u32()
    }

    /// A float in `[0, 1)` with 53 random bits.
    pub fn random(&mut self) -> f64 {
        let high = (self.next_u32() >> 5) as f64;
        let low = (self.next_u32() >> 6) as f64;
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }

    /// A number in `0..n`; 0 for `n = 0`, without drawing.
    pub fn randbelow(&mut self, n: usize) -> usize {
        if n == 0 {
            return 0;
        }
        let bits = usize::BITS - n.leading_zeros();
        assert!(bits <= 32, "lists are shorter than 2^32");
        loop {
            let drawn = (self.next_u32() >> (32 - bits)) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }

    /// `random.sample(items, k)`: `k` different entries in the order drawn; all of them, shuffled, when `k` is more.
    pub fn sample<T: Clone>(&mut self, items: &[T], k: usize) -> Vec<T> {
        let n = items.len();
        let k = k.min(n);
        // CPython: `setsize = 21; if k > 5: setsize += 4 ** ceil(log(k * 3, 4))`; 3k is never a power of 4.
        let mut pool_limit = 21;
        if k > 5 {
            let mut power = 1;
            while power < 3 * k {
                power *= 4;
            }
            pool_limit += power;
        }
        let mut drawn = Vec::with_capacity(k);
        if n <= pool_limit {
            let mut pool: Vec<usize> = (0..n).collect();
            for i in 0..k {
                let j = self.randbelow(n - i);
                drawn.push(items[pool[j]].clone());
                pool[j] = pool[n - i - 1];
            }
        } else {
            let mut chosen = HashSet::with_capacity(k);
            for _ in 0..k {
                let mut j = self.randbelow(n);
                while !chosen.insert(j) {
                    j = self.randbelow(n);
                }
                drawn.push(items[j].clone());
            }
        }
        drawn
    }

    /// `random.choices(items, k=k)`: `k` entries with repetition. Empty when `items` is.
    pub fn choices<T: Clone>(&mut self, items: &[T], k: usize) -> Vec<T> {
        if items.is_empty() {
            return Vec::new();
        }
        (0..k)
            .map(|_| items[(self.random() * items.len() as f64) as usize].clone())
            .collect()
    }

    /// `random.shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.randbelow(i + 1);
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(n: usize) -> Vec<usize> {
        (0..n).collect()
    }

    #[test]
    fn seed_one_gives_cpythons_first_words() {
        let mut random = Random::seed(1);
        assert_eq!(
            [random.next_u32(), random.next_u32(), random.next_u32()],
            [577090037, 2444712010, 3639700191]
        );
    }

    #[test]
    fn samples_equal_cpythons_by_pool_and_by_set() {
        let pool = [8, 36, 4, 16, 7, 31, 28, 30, 41, 24, 13, 6, 44, 1, 40, 27];
        assert_eq!(Random::seed(1).sample(&range(50), 16), pool);
        let set = [
            68, 291, 433, 410, 391, 32, 130, 60, 253, 389, 230, 241, 333, 194, 403, 107,
        ];
        assert_eq!(Random::seed(1).sample(&range(500), 16), set);
    }

    // Printed by CPython 3.11.7:
    // r = random.Random(s); [r.random(), r._randbelow(1000), r.sample(range(22), 5), r.sample(range(21), 5),
    //   r.sample(range(85), 6), r.sample(range(86), 6), r.choices(range(7), k=5), shuffled list(range(10))]
    #[test]
    fn one_stream_of_mixed_calls_equals_cpythons() {
        for golden in GOLDEN {
            let mut random = Random::seed(golden.seed);
            assert_eq!(random.random(), golden.random, "seed {}", golden.seed);
            assert_eq!(random.randbelow(1000), golden.below);
            assert_eq!(random.sample(&range(22), 5), golden.set_of_22);
            assert_eq!(random.sample(&range(21), 5), golden.pool_of_21);
            assert_eq!(random.sample(&range(85), 6), golden.pool_of_85);
            assert_eq!(random.sample(&range(86), 6), golden.set_of_86);
            assert_eq!(random.choices(&range(7), 5), golden.choices);
            let mut list = range(10);
            random.shuffle(&mut list);
            assert_eq!(list, golden.shuffled);
        }
    }

    struct Golden {
        seed: u64,
        random: f64,
        below: usize,
        set_of_22: [usize; 5],
        pool_of_21: [usize; 5],
        pool_of_85: [usize; 6],
        set_of_86: [usize; 6],
        choices: [usize; 5],
        shuffled: [usize; 10],
    }

    const GOLDEN: &[Golden] = &[
        Golden {
            seed: 0,
            random: 0.8444218515250481,
            below: 776,
            set_of_22: [13, 1, 8, 16, 15],
            pool_of_21: [12, 9, 15, 11, 6],
            pool_of_85: [64, 17, 36, 83, 12, 79],
            set_of_86: [32, 68, 77, 18, 39, 12],
            choices: [5, 6, 4, 3, 0],
            shuffled: [1, 9, 0, 2, 8, 7, 4, 3, 5, 6],
        },
        Golden {
            seed: 1,
            random: 0.13436424411240122,
            below: 867,
            set_of_22: [2, 8, 3, 15, 14],
            pool_of_21: [15, 12, 6, 3, 20],
            pool_of_85: [3, 49, 55, 77, 0, 57],
            set_of_86: [34, 29, 75, 13, 40, 3],
            choices: [0, 4, 0, 6, 4],
            shuffled: [2, 8, 4, 1, 5, 7, 9, 3, 0, 6],
        },
        Golden {
            seed: 2,
            random: 0.9560342718892494,
            below: 970,
            set_of_22: [1, 2, 11, 5, 21],
            pool_of_21: [9, 8, 6, 1, 5],
            pool_of_85: [55, 81, 50, 65, 47, 69],
            set_of_86: [56, 64, 34, 4, 3, 46],
            choices: [3, 2, 2, 6, 3],
            shuffled: [4, 7, 5, 9, 6, 0, 1, 3, 2, 8],
        },
        Golden {
            seed: 3,
            random: 0.23796462709189137,
            below: 557,
            set_of_22: [4, 11, 19, 15, 20],
            pool_of_21: [18, 2, 0, 15, 8],
            pool_of_85: [70, 29, 24, 60, 69, 84],
            set_of_86: [60, 50, 81, 19, 29, 66],
            choices: [2, 0, 5, 1, 6],
            shuffled: [7, 1, 5, 8, 3, 2, 6, 9, 4, 0],
        },
        Golden {
            seed: 42,
            random: 0.6394267984578837,
            below: 25,
            set_of_22: [8, 7, 4, 3, 21],
            pool_of_21: [17, 2, 18, 13, 1],
            pool_of_85: [3, 11, 27, 29, 64, 77],
            set_of_86: [3, 71, 25, 83, 69, 53],
            choices: [1, 4, 5, 0, 5],
            shuffled: [7, 8, 3, 0, 2, 9, 1, 4, 5, 6],
        },
        Golden {
            seed: 4294967296,
            random: 0.11299430095636409,
            below: 427,
            set_of_22: [0, 19, 10, 17, 14],
            pool_of_21: [0, 4, 2, 13, 16],
            pool_of_85: [40, 43, 48, 61, 59, 20],
            set_of_86: [15, 84, 39, 17, 71, 35],
            choices: [2, 6, 4, 6, 6],
            shuffled: [4, 3, 1, 7, 9, 8, 5, 6, 0, 2],
        },
        Golden {
            seed: 9223372036854788153,
            random: 0.30477471939133105,
            below: 217,
            set_of_22: [4, 21, 9, 7, 18],
            pool_of_21: [0, 10, 16, 12, 8],
            pool_of_85: [11, 12, 26, 71, 23, 82],
            set_of_86: [18, 62, 47, 24, 53, 50],
            choices: [3, 5, 3, 6, 1],
            shuffled: [6, 0, 5, 7, 4, 3, 2, 9, 8, 1],
        },
        Golden {
            seed: 123456789012345,
            random: 0.6744750084019356,
            below: 299,
            set_of_22: [13, 7, 16, 3, 19],
            pool_of_21: [6, 14, 4, 8, 9],
            pool_of_85: [29, 62, 68, 21, 12, 61],
            set_of_86: [79, 9, 52, 68, 12, 85],
            choices: [1, 3, 3, 6, 6],
            shuffled: [9, 0, 8, 6, 1, 5, 7, 2, 4, 3],
        },
    ];
}
