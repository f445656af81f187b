//! The non-linearities of MLPs, and their gradients.

use pulp::Arch;
use rayon::prelude::*;

use super::exp;

/// `x * sigmoid(1.702 x)`.
#[inline(always)]
fn quick(x: f32) -> f32 {
    x / (1.0 + exp(-1.702 * x))
}

/// Its slope.
#[inline(always)]
fn quick_slope(x: f32) -> f32 {
    let s = 1.0 / (1.0 + exp(-1.702 * x));
    s + 1.702 * x * s * (1.0 - s)
}

/// QuickGELU, `x * sigmoid(1.702 x)`, of every value of `h`.
pub fn quick_gelu(h: &[f32], out: &mut [f32]) {
    let arch = Arch::new();
    out.par_chunks_mut(1 << 14)
        .zip(h.par_chunks(1 << 14))
        .for_each(|(out, h)| {
            arch.dispatch(
                #[inline(always)]
                || {
                    for (o, &x) in out.iter_mut().zip(h) {
                        *o = quick(x);
                    }
                },
            );
        });
}

/// As [`quick_gelu`], of one row.
pub(crate) fn quick_gelu_row(arch: Arch, h: &[f32], out: &mut [f32]) {
    arch.dispatch(
        #[inline(always)]
        || {
            for (o, &x) in out.iter_mut().zip(h) {
                *o = quick(x);
            }
        },
    );
}

/// As [`quick_gelu_row`], of `h + bias`.
pub(crate) fn quick_gelu_of_sum(arch: Arch, h: &[f32], bias: &[f32], out: &mut [f32]) {
    arch.dispatch(
        #[inline(always)]
        || {
            for ((o, x), b) in out.iter_mut().zip(h).zip(bias) {
                *o = quick(x + b);
            }
        },
    );
}

/// `grad *= d quick_gelu(h) / dh`.
pub fn quick_gelu_backward(h: &[f32], grad: &mut [f32]) {
    let arch = Arch::new();
    grad.par_chunks_mut(1 << 14)
        .zip(h.par_chunks(1 << 14))
        .for_each(|(grad, h)| {
            arch.dispatch(
                #[inline(always)]
                || {
                    for (g, &x) in grad.iter_mut().zip(h) {
                        *g *= quick_slope(x);
                    }
                },
            );
        });
}

/// As [`quick_gelu_backward`], of one row: `out = grad * d quick_gelu(h) / dh`.
pub(crate) fn quick_gelu_backward_row(arch: Arch, h: &[f32], grad: &[f32], out: &mut [f32]) {
    arch.dispatch(
        #[inline(always)]
        || {
            for ((o, g), &x) in out.iter_mut().zip(grad).zip(h) {
                *o = g * quick_slope(x);
            }
        },
    );
}

/// GELU with the error function, `x * Phi(x)`, of every value of `h`.
pub fn erf_gelu(h: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(1 << 12)
        .zip(h.par_chunks(1 << 12))
        .for_each(|(out, h)| {
            for (o, &x) in out.iter_mut().zip(h) {
                *o = x * normal_cdf(x);
            }
        });
}

/// As [`erf_gelu`], of one row.
pub(crate) fn erf_gelu_row(h: &[f32], out: &mut [f32]) {
    for (o, &x) in out.iter_mut().zip(h) {
        *o = x * normal_cdf(x);
    }
}

/// `grad *= d gelu(h) / dh` for the error-function GELU.
pub fn erf_gelu_backward(h: &[f32], grad: &mut [f32]) {
    grad.par_chunks_mut(1 << 12)
        .zip(h.par_chunks(1 << 12))
        .for_each(|(grad, h)| {
            for (g, &x) in grad.iter_mut().zip(h) {
                *g *= erf_slope(x);
            }
        });
}

/// As [`erf_gelu_backward`], of one row: `out = grad * d gelu(h) / dh`.
pub(crate) fn erf_gelu_backward_row(h: &[f32], grad: &[f32], out: &mut [f32]) {
    for ((o, g), &x) in out.iter_mut().zip(grad).zip(h) {
        *o = g * erf_slope(x);
    }
}

fn erf_slope(x: f32) -> f32 {
    let density = (-0.5 * x * x).exp() * 0.398_942_3;
    normal_cdf(x) + x * density
}

/// `tanh` of GELU's approximation: `sqrt(2 / pi) (x + 0.044715 x^3)`, and its slope.
#[inline(always)]
fn approximated(x: f32) -> (f32, f32) {
    const ROOT: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.044_715;
    let t = (ROOT * (x + CUBIC * x * x * x)).tanh();
    (t, (1.0 - t * t) * ROOT * (1.0 + 3.0 * CUBIC * x * x))
}

/// GELU by the hyperbolic tangent, `x / 2 (1 + tanh(..))`, of every value of `h`.
pub fn tanh_gelu(h: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(1 << 12)
        .zip(h.par_chunks(1 << 12))
        .for_each(|(out, h)| tanh_gelu_row(h, out));
}

/// As [`tanh_gelu`], of one row.
pub(crate) fn tanh_gelu_row(h: &[f32], out: &mut [f32]) {
    for (o, &x) in out.iter_mut().zip(h) {
        *o = 0.5 * x * (1.0 + approximated(x).0);
    }
}

/// `grad *= d gelu(h) / dh` for the GELU by the hyperbolic tangent.
pub fn tanh_gelu_backward(h: &[f32], grad: &mut [f32]) {
    grad.par_chunks_mut(1 << 12)
        .zip(h.par_chunks(1 << 12))
        .for_each(|(grad, h)| {
            for (g, &x) in grad.iter_mut().zip(h) {
                *g *= tanh_slope(x);
            }
        });
}

/// As [`tanh_gelu_backward`], of one row: `out = grad * d gelu(h) / dh`.
pub(crate) fn tanh_gelu_backward_row(h: &[f32], grad: &[f32], out: &mut [f32]) {
    for ((o, g), &x) in out.iter_mut().zip(grad).zip(h) {
        *o = g * tanh_slope(x);
    }
}

#[inline(always)]
fn tanh_slope(x: f32) -> f32 {
    let (t, slope) = approximated(x);
    0.5 * (1.0 + t) + 0.5 * x * slope
}

fn normal_cdf(x: f32) -> f32 {
    (0.5 * (1.0 + candle_core::cpu::erf::erf_f64(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2)))
        as f32
}
