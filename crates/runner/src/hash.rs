//! SHA-256 as lower-case hex.

use sha2::{Digest, Sha256};

/// Of bytes.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}
