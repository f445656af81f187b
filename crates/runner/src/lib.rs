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

pub mod backbone;
pub mod cli;
pub mod cluster;
pub mod device;
pub mod hash;
pub mod hub;
pub mod machine;
pub mod measure;
pub mod output;
pub mod pretrain;
pub mod protocols;
pub mod reason;
pub mod record;
pub mod run;
pub mod show;
pub mod start;
pub mod stats;
pub mod store;
