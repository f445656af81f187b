//! Products with weights and activations rounded to bfloat16 (to nearest, ties to even) and sums in float32.
//!
//! In the portable arithmetic processors with AVX512-BF16 multiply pairs of bfloat16. That is twice the products of
//! float32 a second on an AMD EPYC (Zen 4), and no more than in float32 on an Intel Xeon (Sapphire Rapids): see [`gain`].
//!
//! Weights are rounded as they are laid out for each product, activations as they are made. What is between products
//! (norms, attention, activations, the residual sum) stays float32.

use std::time::Instant;

use super::gemm::Mat;
use super::products::{Arithmetic, Left, Products, Start};

/// Whether this processor has the instructions for it in the portable arithmetic.
pub fn is_supported() -> bool {
    Arithmetic::Portable.is_supported_in_bfloat16()
}

/// How many times faster than in float32 a product runs in bfloat16 here, in the same arithmetic: a quick look for a hint,
/// not a measurement. About 50 ms.
///
/// # Panics
/// Where `arithmetic` cannot ([`Arithmetic::is_supported_in_bfloat16`]).
pub fn gain(arithmetic: Arithmetic) -> f64 {
    let (m, k, n) = (384, 768, 1536);
    let (rows, weight) = (vec![0.5f32; m * k], vec![0.25f32; n * k]);
    let mut out = vec![0f32; m * n];
    let exact = Products::exact(arithmetic);
    let mut best = [f64::INFINITY; 2];
    for _ in 0..5 {
        for (best, by) in best.iter_mut().zip([exact, exact.rounded()]) {
            let clock = Instant::now();
            let weight = Mat::new(&weight, n, k, k);
            Left::of(by, [m, k], n, &rows).product(&mut out, weight.t(), Start::Zero);
            *best = clock.elapsed().as_secs_f64().min(*best);
        }
    }
    best[0] / best[1]
}
