//! `promptbed`: benchmarks and reproduces prompt tuning of vision-language models.

use std::process::ExitCode;

use promptbed::cli::{Cli, Done};

fn main() -> ExitCode {
    let ended = match Cli::read() {
        Ok(cli) => cli.run(),
        Err(told) => {
            // Help and versions go to standard output, mistakes to standard error.
            if !told.use_stderr() {
                promptbed::output::printed(told.print());
                return finished(ExitCode::SUCCESS);
            }
            let _ = told.print();
            return finished(ExitCode::from(2));
        }
    };
    finished(match ended {
        Ok(Done::All) => ExitCode::SUCCESS,
        Ok(Done::NotAll) => ExitCode::from(1),
        Ok(Done::Interrupted) => ExitCode::from(130),
        Ok(Done::Stopped) => ExitCode::from(promptbed::cluster::COME_AGAIN),
        Err(error) => {
            promptbed::say!("error: {}", promptbed::reason::reason(&error));
            ExitCode::from(2)
        }
    })
}

/// The exit code, unless what was printed did not arrive.
fn finished(code: ExitCode) -> ExitCode {
    match promptbed::output::finish() {
        Ok(()) => code,
        Err(error) => {
            promptbed::say!("error: standard output: cannot be written: {error}");
            ExitCode::from(2)
        }
    }
}
