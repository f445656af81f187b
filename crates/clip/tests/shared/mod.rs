//! What lies beside the checkout on a development machine, too large or not ours to ship: `../shared`.
//!
//! Each check that needs it has a smaller one beside it that always runs, on what does ship.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Set to anything but nothing or 0, it makes a check that cannot run a failure.
const REQUIRE: &str = "PROMPTBED_REQUIRE_SHARED";

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// `../shared/WHAT`; `None` where it is not there, which is counted and said aloud.
///
/// # Panics
/// Where it is not there and `PROMPTBED_REQUIRE_SHARED` is set.
pub fn shared(what: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let path = root.join(what);
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var(REQUIRE).is_ok_and(|value| !matches!(value.as_str(), "" | "0"));
    assert!(
        !required,
        "{} is not there, and {REQUIRE} is set",
        path.display()
    );
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // Not `eprintln`, which the harness keeps to itself when a test passes.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED ({count} in {} so far): shared/{what} is not beside the checkout; {REQUIRE}=1 makes that a failure",
        env!("CARGO_CRATE_NAME"),
    );
    None
}
