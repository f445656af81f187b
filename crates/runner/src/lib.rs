//! Running suites of trials, keeping what they leave, and showing it: everything of `promptbed` that prints or writes.

/// Prints a line of the result to standard output.
#[macro_export]
macro_rules! out {
    ($($argument:tt)*) => {{
        use std::io::Write;
        $crate::output::printed(writeln!(std::io::stdout(), $($argument)*));
    }};
}

/// Prints a line about the run, not of the result, to standard error.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}

pub mod analysis;
pub mod backbone;
pub mod bench;
pub mod cache;
pub mod cli;
pub mod compare;
pub mod data;
pub mod estimate;
pub mod hash;
pub mod hub;
mod looks;
pub mod output;
pub mod picked;
pub mod plan;
pub mod plot;
pub mod pretrain;
pub mod progress;
pub mod prompts;
pub mod published;
pub mod reason;
pub mod record;
pub mod report;
pub mod stats;
pub mod store;
pub mod suite;
pub mod summary;
pub mod sweep;
pub mod table;
pub mod tensorboard;
pub mod trial;
pub mod verify;
