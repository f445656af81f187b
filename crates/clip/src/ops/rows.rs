//! Row-wise kernels on slices: LayerNorm, the GELUs (`gelu`), exponentials. Compiled for the widest vectors at run time.

use pulp::Arch;
use rayon::prelude::*;

mod gelu;

pub use gelu::{
    erf_gelu, erf_gelu_backward, quick_gelu, quick_gelu_backward, tanh_gelu, tanh_gelu_backward,
};
pub(crate) use gelu::{
    erf_gelu_backward_row, erf_gelu_row, quick_gelu_backward_row, quick_gelu_of_sum,
    quick_gelu_row, tanh_gelu_backward_row, tanh_gelu_row,
};

/// Rows one parallel task takes. Fixed, so that sums do not depend on the number of threads.
pub const ROWS_PER_TASK: usize = 16;
const LANES: usize = 16;

/// What CLIP's LayerNorms add to the variance.
pub const NORM_EPSILON: f32 = 1e-5;

/// `exp(x)` to about one unit in the last place, in a form the compiler turns into vectors.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Cody-Waite reduction and the minimax polynomial of the Cephes library (expf).
    let x = x.clamp(-87.3, 88.3);
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the last bits, where the exponent is made of it.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    y * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().sum();
    for c in chunks {
        for (l, v) in lanes.iter_mut().zip(c) {
            *l += v;
        }
    }
    lanes.iter().sum::<f32>() + tail
}

#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (cx, cy) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let tail: f32 = cx
        .remainder()
        .iter()
        .zip(cy.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in cx.zip(cy) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let mut top = chunks
        .remainder()
        .iter()
        .fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
    for c in chunks {
        for (l, &v) in lanes.iter_mut().zip(c) {
            *l = if v > *l { v } else { *l };
        }
    }
    for l in lanes {
        top = if l > top { l } else { top };
    }
    top
}

/// Mean and inverse deviation of one row.
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x) / n;
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail: f32 = chunks
        .remainder()
        .iter()
        .map(|v| (v - mean) * (v - mean))
        .sum();
    for c in chunks {
        for (l, v) in lanes.iter_mut().zip(c) {
            *l += (v - mean) * (v - mean);
        }
    }
    let variance = (lanes.iter().sum::<f32>() + tail) / n;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// `out = (x - mean) / sqrt(variance + epsilon) * gain + bias`, row by row.
pub fn norm_forward(x: &[f32], gain: &[f32], bias: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = gain.len();
    let arch = Arch::new();
    out.par_chunks_mut(width * ROWS_PER_TASK)
        .zip(x.par_chunks(width * ROWS_PER_TASK))
        .for_each(|(out, x)| {
            arch.dispatch(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        let (mean, scale) = moments(x, epsilon);
                        let (gain, bias) = (&gain[..width], &bias[..width]);
                        let (out, x) = (&mut out[..width], &x[..width]);
                        for i in 0..width {
                            out[i] = (x[i] - mean) * scale * gain[i] + bias[i];
                        }
                    }
                },
            );
        });
}

/// As [`norm_forward`], of one row.
pub(crate) fn norm_row(
    arch: Arch,
    x: &[f32],
    (gain, bias): (&[f32], &[f32]),
    epsilon: f32,
    out: &mut [f32],
) {
    arch.dispatch(
        #[inline(always)]
        || {
            let (mean, scale) = moments(x, epsilon);
            let width = x.len();
            let (gain, bias, out) = (&gain[..width], &bias[..width], &mut out[..width]);
            for i in 0..width {
                out[i] = (x[i] - mean) * scale * gain[i] + bias[i];
            }
        },
    );
}

/// Adds LayerNorm's gradient to `into`: for `into += dx` given `grad` = dy. Row statistics are computed again.
pub fn norm_backward(x: &[f32], gain: &[f32], grad: &[f32], epsilon: f32, into: &mut [f32]) {
    let width = gain.len();
    let arch = Arch::new();
    let task = width * ROWS_PER_TASK;
    into.par_chunks_mut(task)
        .zip(x.par_chunks(task))
        .zip(grad.par_chunks(task))
        .for_each(|((into, x), grad)| {
            arch.dispatch(
                #[inline(always)]
                || {
                    for ((into, x), grad) in into
                        .chunks_exact_mut(width)
                        .zip(x.chunks_exact(width))
                        .zip(grad.chunks_exact(width))
                    {
                        add_norm_gradient(x, gain, grad, epsilon, into);
                    }
                },
            );
        });
}

/// As [`norm_backward`], with `out = base + dx`.
pub(crate) fn norm_backward_onto(
    x: &[f32],
    gain: &[f32],
    grad: &[f32],
    epsilon: f32,
    base: &[f32],
    out: &mut [f32],
) {
    let width = gain.len();
    let arch = Arch::new();
    let task = width * ROWS_PER_TASK;
    out.par_chunks_mut(task)
        .zip(base.par_chunks(task))
        .zip(x.par_chunks(task).zip(grad.par_chunks(task)))
        .for_each(|((out, base), (x, grad))| {
            arch.dispatch(
                #[inline(always)]
                || {
                    out.copy_from_slice(base);
                    for ((out, x), grad) in out
                        .chunks_exact_mut(width)
                        .zip(x.chunks_exact(width))
                        .zip(grad.chunks_exact(width))
                    {
                        add_norm_gradient(x, gain, grad, epsilon, out);
                    }
                },
            );
        });
}

/// [`norm_backward`] of one row.
#[inline(always)]
fn add_norm_gradient(x: &[f32], gain: &[f32], grad: &[f32], epsilon: f32, into: &mut [f32]) {
    let width = gain.len();
    let (mean, scale) = moments(x, epsilon);
    let mut first = [0f32; LANES];
    let mut second = [0f32; LANES];
    let whole = width - width % LANES;
    for base in (0..whole).step_by(LANES) {
        for l in 0..LANES {
            let g = grad[base + l] * gain[base + l];
            first[l] += g;
            second[l] += g * (x[base + l] - mean);
        }
    }
    let (mut a, mut b) = (first.iter().sum::<f32>(), second.iter().sum::<f32>());
    for i in whole..width {
        let g = grad[i] * gain[i];
        a += g;
        b += g * (x[i] - mean);
    }
    let (a, b) = (a / width as f32, b * scale * scale / width as f32);
    let (into, x) = (&mut into[..width], &x[..width]);
    let (grad, gain) = (&grad[..width], &gain[..width]);
    for i in 0..width {
        into[i] += scale * (grad[i] * gain[i] - a - (x[i] - mean) * b);
    }
}

/// Gradients of LayerNorm's own weights: `gain += sum dy * normalised x`, `bias += sum dy`.
pub fn norm_weights_backward(
    x: &[f32],
    grad: &[f32],
    epsilon: f32,
    gain: &mut [f32],
    bias: &mut [f32],
) {
    let width = gain.len();
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
                let (mean, scale) = moments(x, epsilon);
                for i in 0..width {
                    gain[i] += grad[i] * (x[i] - mean) * scale;
                    bias[i] += grad[i];
                }
            }
        },
    );
}

/// Column sums: `into[j] += sum_i x[i, j]`.
pub fn column_sums(x: &[f32], into: &mut [f32]) {
    let width = into.len();
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for row in x.chunks_exact(width) {
                for (s, v) in into.iter_mut().zip(row) {
                    *s += v;
                }
            }
        },
    );
}

/// Fills every row of `out` with `bias`, plus the matching row of `base` when there is one.
pub fn fill_rows(out: &mut [f32], bias: &[f32], base: Option<&[f32]>) {
    let width = bias.len();
    let task = width * ROWS_PER_TASK;
    match base {
        None => out.par_chunks_mut(task).for_each(|out| {
            for row in out.chunks_exact_mut(width) {
                row.copy_from_slice(bias);
            }
        }),
        Some(base) => out
            .par_chunks_mut(task)
            .zip(base.par_chunks(task))
            .for_each(|(out, base)| {
                for (row, base) in out.chunks_exact_mut(width).zip(base.chunks_exact(width)) {
                    for i in 0..width {
                        row[i] = base[i] + bias[i];
                    }
                }
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_a_few_units_in_the_last_place() {
        let mut worst = 0f64;
        for i in -80_000..80_000 {
            let x = i as f32 * 1e-3;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(worst < 3e-7, "{worst}");
        assert!(exp(-1e30) < 1e-37);
    }

    #[test]
    fn norm_gradient_agrees_with_finite_differences() {
        let width = 37;
        let x: Vec<f32> = (0..width)
            .map(|i| ((i * 7919) % 101) as f32 / 50.0 - 1.0)
            .collect();
        let gain: Vec<f32> = (0..width).map(|i| 1.0 + 0.01 * i as f32).collect();
        let bias = vec![0.1; width];
        let grad: Vec<f32> = (0..width)
            .map(|i| ((i * 31) % 17) as f32 / 8.0 - 1.0)
            .collect();
        let loss = |x: &[f32]| {
            let mut y = vec![0.0; width];
            norm_forward(x, &gain, &bias, NORM_EPSILON, &mut y);
            y.iter()
                .zip(&grad)
                .map(|(a, b)| f64::from(a * b))
                .sum::<f64>()
        };
        let mut dx = vec![0.0; width];
        norm_backward(&x, &gain, &grad, NORM_EPSILON, &mut dx);
        for i in 0..width {
            let (mut up, mut down) = (x.clone(), x.clone());
            up[i] += 1e-2;
            down[i] -= 1e-2;
            let slope = (loss(&up) - loss(&down)) / 2e-2;
            assert!(
                (slope - f64::from(dx[i])).abs() < 2e-3,
                "{i}: {slope} {}",
                dx[i]
            );
        }
    }
}
