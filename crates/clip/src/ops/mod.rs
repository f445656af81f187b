//! Fused operations on `f32` rows, with exact gradients.
//!
//! candle records the graph; these ops replace the long chains of element-wise passes inside it. Each works on
//! packed rows `[R, W]` (see [`Layout`]), runs on the threads of the current rayon pool, and gives the same bits
//! whatever their number. Off the CPU, and as a second opinion in tests, [`composed`] builds the same results from
//! candle's own ops.

pub mod attention;
pub mod bfloat;
pub mod block;
pub mod composed;
pub mod gemm;
pub mod layout;
pub mod norm;
mod panels;
pub mod replace;
pub mod rows;
pub mod scratch;
pub mod work;

pub use block::{Activation, Block, BlockShape};
pub use layout::{Group, Layout};
pub use norm::layer_norm;
pub use replace::{Put, put_rows};
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

/// Runs `f` on a contiguous copy-free view of a CPU tensor's values.
pub(crate) fn with_values<T>(
    tensor: &candle_core::Tensor,
    f: impl FnOnce(&[f32]) -> Result<T>,
) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(cpu) => f(values(cpu, layout)?),
        _ => bail!("fused ops run on the CPU; use the composed path elsewhere"),
    }
}
