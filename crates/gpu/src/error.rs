//! What can go wrong with a card, in words for the person who asked for it.

use cudarc::cublaslt::result::CublasError;
use cudarc::driver::DriverError;
use cudarc::nvrtc::result::NvrtcError;

/// Why something did not happen on the card.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Libraries that are not on this machine.
    #[error(
        "no GPU can be used here: {}; folders named in PROMPTBED_CUDA_LIBRARIES are looked into, too", .0.join("; ")
    )]
    Missing(Vec<&'static str>),
    /// The driver is there and has no such card.
    #[error("cuda:{asked} is not there: {there}")]
    NoCard {
        /// Which card was asked for, from 0.
        asked: usize,
        /// What is there.
        there: String,
    },
    /// The card's memory is used up.
    #[error(
        "the GPU's memory is used up: {asked} MB more were asked for, {free} of {total} MB are free; a smaller `memory`, \
         a smaller batch or fewer `--jobs` need less"
    )]
    Memory {
        /// MB.
        asked: usize,
        /// MB.
        free: usize,
        /// MB.
        total: usize,
    },
    /// The kernels did not compile.
    #[error("the GPU's kernels do not compile (NVRTC): {0}")]
    Compile(String),
    /// The driver refused a call.
    #[error("the GPU's driver: {0}")]
    Driver(#[from] DriverError),
    /// The library of products refused a call.
    #[error("the GPU's products (cuBLASLt): {0}")]
    Products(#[from] CublasError),
    /// The compiler refused a call.
    #[error("the GPU's compiler (NVRTC): {0}")]
    Nvrtc(#[from] NvrtcError),
    /// Shapes, or uses of a value, that do not go together.
    #[error("{0}")]
    Shape(String),
    /// What ran on the processor in between failed.
    #[error("{0}")]
    Host(String),
}

/// What calls of this crate give.
pub type Result<T> = std::result::Result<T, Error>;
