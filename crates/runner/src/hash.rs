//! SHA-256 as lower-case hex.

use sha2::{Digest, Sha256};

/// The SHA-256 of bytes.
pub fn hex(bytes: &[u8]) -> String {
    written(&Sha256::digest(bytes))
}

/// What a hasher came to, two digits a byte.
pub(crate) fn written(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
