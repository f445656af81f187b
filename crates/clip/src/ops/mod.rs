//! Fused operations on `f32` rows, with exact gradients.
//!
//! candle records the graph; these ops replace the long chains of element-wise passes inside it. Each works on
//! packed rows `[R, W]` (see [`Layout`]), runs on the threads of the current rayon pool, and gives the same bits
//! whatever their number. Off the CPU, and as a second opinion in tests, [`composed`] builds the same results from
//! candle's own ops.

pub mod alone;
pub mod attention;
pub mod bfloat;
pub mod block;
pub mod composed;
pub mod cosine;
pub mod gemm;
mod kept;
pub mod layout;
pub mod norm;
mod panels;
pub mod parts;
pub(crate) mod products;
pub mod replace;
pub mod rows;
pub mod scale;
pub mod scratch;
mod tiles;
mod times;
mod variants;
pub mod work;

pub use block::{Activation, Block, BlockShape, Norms};
pub use cosine::{cross_entropy, scaled_cosine, unit};
pub(crate) use kept::Kept;
pub use layout::{Group, Layout, Node};
pub use norm::{layer_norm, layer_norm_by};
pub use parts::linear;
pub use products::Arithmetic;
pub use replace::{Put, put_rows};
pub use scale::scale_gradient;
pub use times::times;
pub use work::Work;

use candle_core::{CpuStorage, Layout as Strides, Result, bail};

/// The contiguous `f32` values behind a custom op's argument.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Strides) -> Result<&'a [f32]> {
    let data = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("fused ops take contiguous rows; call `.contiguous()` first"),
    }
}

/// Runs `f` on a thread of the current pool: once on it, parallel pieces of work start at once, whereas a thread from
/// outside goes to sleep and is woken again for each of them (a CoOp step of ViT-B/16 has 1,600 and took 5 to 10 %
/// longer).
pub(crate) fn on_pool<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    match rayon::current_thread_index() {
        Some(_) => f(),
        None => rayon::scope(|_| f()),
    }
}

/// Runs `f` on a contiguous view of a CPU tensor's numbers as they are kept.
pub(crate) fn with_kept<T>(
    tensor: &candle_core::Tensor,
    f: impl FnOnce(Kept) -> Result<T>,
) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(cpu) => f(Kept::of(cpu, layout)?),
        _ => bail!("fused ops run on the CPU; use the composed path elsewhere"),
    }
}

/// As [`with_kept`], in float32: copy-free where they are, else widened into a buffer that is used again.
pub(crate) fn with_values<T>(
    tensor: &candle_core::Tensor,
    f: impl FnOnce(&[f32]) -> Result<T>,
) -> Result<T> {
    with_kept(tensor, |kept| {
        if let Kept::Float32(values) = kept {
            return f(values);
        }
        let mut buffer = scratch::take(kept.len());
        kept.widen(&mut buffer);
        f(&buffer)
    })
}

/// `n` values from -0.5 to 0.5 that look drawn, for tests.
#[cfg(test)]
pub(crate) fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..n)
        .map(|_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1u32 << 24) as f32 - 0.5
        })
        .collect()
}
