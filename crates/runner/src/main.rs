//! `promptbed`: benchmarks and reproduces prompt tuning of vision-language models.

use std::process::ExitCode;

use clap::Parser;
use promptbed::cli::{Cli, Done};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(Done::All) => ExitCode::SUCCESS,
        Ok(Done::NotAll) => ExitCode::from(1),
        Ok(Done::Interrupted) => ExitCode::from(130),
        Err(error) => {
            promptbed::say!("error: {}", promptbed::reason::reason(&error));
            ExitCode::from(2)
        }
    }
}
