//! What rows are multiplied with weights by.

use super::tiles;

/// Instructions that multiply, whatever the precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// Multiply-adds of vectors, on every processor.
    #[default]
    Portable,
    /// The matrix unit of Intel processors from Sapphire Rapids on (AMX, `tdpbf16ps`): float32 inputs as two halves in
    /// bfloat16.
    Amx,
    /// The same bits as [`Arithmetic::Amx`] from any processor, by following the manual of its instructions: slow, for
    /// looking again at results of a machine that has the unit.
    Emulated,
}

impl Arithmetic {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Amx, Self::Emulated];

    /// As suites, records and the environment write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Amx => "amx",
            Self::Emulated => "emulated",
        }
    }

    /// Whether this machine can.
    pub fn is_supported(self) -> bool {
        self != Self::Amx || tiles::Unit::is_there()
    }

    /// The fastest of float32's grade here.
    pub fn fastest() -> Self {
        match Self::Amx.is_supported() {
            true => Self::Amx,
            false => Self::Portable,
        }
    }

    /// What multiplies tiles, where tiles are multiplied.
    pub(crate) fn unit(self) -> Option<tiles::Unit> {
        match self {
            Self::Portable => None,
            Self::Amx => Some(tiles::Unit::Amx),
            Self::Emulated => Some(tiles::Unit::Emulated),
        }
    }
}

/// What sums of a product begin with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    /// Nothing.
    Zero,
    /// What is in the output.
    Output,
    /// A value for each column, `[columns]`.
    Bias(&'a [f32]),
    /// A value for each column, on top of rows `[rows, columns]`: `base + bias`.
    Onto(&'a [f32], &'a [f32]),
}
