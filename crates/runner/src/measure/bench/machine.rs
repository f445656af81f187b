//! What a machine's products can do.

use std::time::Instant;

use clip::ops::Arithmetic;
use clip::ops::alone::Alone;

use super::median;

/// Side of the square product that the machine's rate is measured with: 17 GFLOP, three matrices of 16 MB.
const SIDE: usize = 2048;
/// The same where software plays the matrix unit, for as long as it takes.
const EMULATED_SIDE: usize = 256;

/// GFLOP/s of one large product of float32's grade in this arithmetic, on all threads of the current pool: the median of
/// five.
///
/// # Panics
/// Where this machine has not the arithmetic.
pub fn machine_rate(arithmetic: Arithmetic) -> f64 {
    let side = match arithmetic {
        Arithmetic::Emulated => EMULATED_SIDE,
        Arithmetic::Portable | Arithmetic::Amx => SIDE,
    };
    let mut alone = Alone::new(arithmetic, side, [0.5, 0.25]);
    let mut run = || {
        let clock = Instant::now();
        alone.multiply();
        clock.elapsed().as_secs_f64()
    };
    run();
    let seconds = median((0..5).map(|_| run()).collect());
    alone.operations() / seconds / 1e9
}
