//! Transformer towers on one CUDA card: kernels, memory, products, and gradients through them.
//!
//! Everything of NVIDIA's (the driver, NVRTC, cuBLASLt) is opened when [`Gpu::open`] is called, so that the same program
//! runs where none of it is. The kernels are one file of CUDA C, `kernels.cu`, which NVRTC compiles then; the same file is
//! compiled by a C++ compiler against an emulator and stands behind a null driver (`emulator/`), with which everything
//! here is tested on machines without a card.
//!
//! A [`Tape`] is one pass through a tower: values go in ([`Tape::input`]), operations are launched as they are called,
//! and, where something is tracked, noted; [`Tape::backward`] walks the notes back. There is one stream and one store of
//! memory for each thread of the program ([`Lane`]): passes of different threads run beside each other. All sums have a
//! fixed order: the same call gives the same bits.

mod attention;
mod backward;
mod card;
mod error;
mod kernels;
mod memory;
mod parts;
mod products;
mod tape;

pub use attention::Attention;
pub use card::{Gpu, Precision};
pub use error::{Error, Result};
pub use memory::{Buffer, Lane};
pub use parts::{Activation, Gather, HostBack, LowRank, Matrix, Norm, Puts, Value, Want};
pub use tape::Tape;
