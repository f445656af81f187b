//! Files that hold tensors: how each kind is recognised and read. A new kind is a file of this folder and a line of
//! [`CONTAINERS`]; what tensors are called in it is not its business.

use super::settled::Hint;
use super::stored::{Mapped, Stored};
use super::{Format, pickle, safetensors};
use crate::error::Error;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every kind of file, the first that recognises its beginning reads it.
pub(super) const CONTAINERS: &[Container] = &[safetensors::CONTAINER, pickle::CONTAINER];

/// A kind of file.
pub(super) struct Container {
    /// Whether a file that begins like this is one.
    pub(super) is_likely: fn(&[u8]) -> bool,
    /// Finds its tensors; their numbers are read later.
    pub(super) read: fn(Arc<Mapped>) -> Result<Held, Error>,
}

/// What a file holds.
pub(super) struct Held {
    /// Tensors as the file names them.
    pub(super) tensors: BTreeMap<String, Stored>,
    /// How it was stored.
    pub(super) format: Format,
    /// What the file says of the activation.
    pub(super) hint: Option<Hint>,
    /// Classes of a pickle that weights do not need.
    pub(super) skipped: Vec<String>,
    /// Where they stand.
    pub(super) strangers: BTreeMap<String, String>,
}

impl Held {
    /// Nothing yet.
    pub(super) fn none(format: Format) -> Self {
        Self {
            tensors: BTreeMap::new(),
            format,
            hint: None,
            skipped: Vec::new(),
            strangers: BTreeMap::new(),
        }
    }
}
