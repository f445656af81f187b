//! What goes to standard output, and whether it got there.

use std::io::{self, ErrorKind, Write};
use std::sync::Mutex;

/// Why the result could not be printed, once it could not.
static LOST: Mutex<Option<io::Error>> = Mutex::new(None);

/// Notes how a write to standard output went. A reader that went away (`promptbed ... | head`) is no error of ours; a
/// full disk is one, which the end of the program tells, once.
pub fn printed(outcome: io::Result<()>) {
    let Err(error) = outcome else { return };
    if error.kind() != ErrorKind::BrokenPipe {
        let mut lost = LOST.lock().expect("no panic while held");
        lost.get_or_insert(error);
    }
}

/// Writes out what is still held back, and gives the first error of all that was printed.
///
/// # Errors
/// Standard output could not be written.
pub fn finish() -> io::Result<()> {
    printed(io::stdout().flush());
    match LOST.lock().expect("no panic while held").take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
