//! numpy's legacy generator: the one behind class orders that the field fixes by a seed.

use rand_mt::Mt;

/// `numpy.random.RandomState(seed).permutation(n)`, or `numpy.random.seed(seed)` and `numpy.random.permutation(n)`: the
/// numbers below `n` in another order.
///
/// MT19937 seeded by `init_genrand`, a shuffle from the end, and each place drawn below a mask until it fits
/// (`random_interval` in `numpy/random/src/distributions/distributions.c`).
pub fn permutation(seed: u32, n: usize) -> Vec<usize> {
    let mut generator = Mt::new(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        let mask = u32::try_from(last).expect("lists are shorter than 2^32");
        let mask = u32::MAX >> mask.leading_zeros();
        let place = loop {
            let drawn = (generator.next_u32() & mask) as usize;
            if drawn <= last {
                break drawn;
            }
        };
        order.swap(last, place);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As numpy 2 prints them.
    #[test]
    fn orders_are_numpys() {
        assert!(permutation(7, 0).is_empty());
        assert_eq!(permutation(1993, 5), [0, 2, 3, 4, 1]);
        assert_eq!(permutation(0, 5), [2, 0, 1, 3, 4]);
        assert_eq!(
            permutation(0, 101)[..10],
            [26, 86, 2, 55, 75, 94, 16, 73, 54, 96]
        );
        assert_eq!(
            permutation(1, 101)[..10],
            [94, 78, 17, 100, 36, 85, 55, 83, 82, 52]
        );
        // CIFAR-100 in PyCIL, PROOF and C3Box.
        let order = permutation(1993, 100);
        assert_eq!(order[..10], [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]);
        assert_eq!(order[91..], [48, 73, 93, 39, 67, 29, 49, 57, 33]);
    }
}
