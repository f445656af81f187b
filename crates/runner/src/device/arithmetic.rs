//! What the processor multiplies by: said by a command line, a suite or the environment, or left to the machine.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use clip::ops::Arithmetic;

/// Says what the processor multiplies by, where neither the command line nor a suite does.
const VARIABLE: &str = "PROMPTBED_ARITHMETIC";
/// The option of command lines.
const OPTION: &str = "--arithmetic";

/// What a user wants the processor to multiply by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The fastest of float32's grade that the machine has.
    Auto,
    /// This.
    One(Arithmetic),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => named(text)
                .map(Self::One)
                .ok_or_else(|| "must be auto, portable, amx or emulated".to_owned()),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::One(arithmetic) => arithmetic.name(),
        })
    }
}

/// The arithmetic of this name.
pub fn named(name: &str) -> Option<Arithmetic> {
    Arithmetic::ALL.into_iter().find(|a| a.name() == name)
}

/// What a command line says of the arithmetic.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct InArithmetic {
    /// What the processor multiplies by: portable, amx (the matrix unit of Intel processors from Sapphire Rapids on),
    /// emulated (its bits on any processor, slowly) or auto (amx where it is there, else portable); all in float32's grade,
    /// with other last digits [default: the suite's, else PROMPTBED_ARITHMETIC, else portable: the unit's kernels have never
    /// run on a real one]
    #[arg(long, value_name = "NAME")]
    arithmetic: Option<Wanted>,
}

impl InArithmetic {
    /// What the command line and the environment say.
    ///
    /// # Errors
    /// An environment that says something else.
    pub fn said(&self) -> Result<Said> {
        let text = std::env::var_os(VARIABLE).filter(|t| !t.is_empty());
        let read = |text: std::ffi::OsString| -> Result<Wanted> {
            let text = text.to_string_lossy();
            let read = text.parse().map_err(anyhow::Error::msg);
            read.with_context(|| format!("{VARIABLE}={text}"))
        };
        Ok(Said {
            line: self.arithmetic,
            environment: text.map(read).transpose()?,
        })
    }
}

/// What was said beside a suite.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    line: Option<Wanted>,
    environment: Option<Wanted>,
}

/// An arithmetic that was asked for, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Which.
    pub arithmetic: Arithmetic,
    /// Where it says so, as an error begins.
    pub at: String,
    /// Whether the environment does, which speaks of a machine and not of this run.
    pub by_environment: bool,
}

impl Said {
    /// What is asked for with a suite, that says so `at` a place, or without. The command line counts before the suite, and
    /// the suite, which says what an experiment is, before the environment. Nothing where it is left to the machine.
    ///
    /// # Errors
    /// A command line that asks for other bits than the suite.
    pub fn over(&self, suite: Option<(Arithmetic, &str)>) -> Result<Option<Asked>, String> {
        let asked = |arithmetic, at: &str, by_environment| {
            let at = at.to_owned();
            Some(Asked {
                arithmetic,
                at,
                by_environment,
            })
        };
        Ok(match (self.line, suite, self.environment) {
            (Some(Wanted::One(line)), Some((own, at)), _) if line.bits() != own.bits() => {
                return Err(format!(
                    "{at}: {:?} has other bits than {OPTION} {}; leave one of them away",
                    own.name(),
                    line.name()
                ));
            }
            (Some(Wanted::One(line)), ..) => asked(line, OPTION, false),
            (_, Some((own, at)), _) => asked(own, at, false),
            (None, None, Some(Wanted::One(other))) => asked(other, VARIABLE, true),
            _ => None,
        })
    }

    /// The arithmetic where [`Said::over`] asks for none: the fastest that the machine has where it was told to choose
    /// (`auto`), else the one that every machine has.
    pub fn left_open(&self) -> Arithmetic {
        match self.line.or(self.environment) {
            Some(Wanted::Auto) => Arithmetic::fastest(),
            _ => Arithmetic::Portable,
        }
    }

    /// What a process that is started elsewhere must be told, to have the same said to it with this suite.
    pub fn passed_on(&self, suite: Option<Arithmetic>) -> Option<Wanted> {
        self.line.or(self.environment.filter(|_| suite.is_none()))
    }
}

/// Why this machine cannot multiply by it, if it cannot, and what would do.
pub(super) fn lacking(arithmetic: Arithmetic) -> Option<String> {
    let why = arithmetic.lack()?;
    Some(format!(
        "{:?} cannot be had: {why}; write \"portable\", or \"emulated\" for the unit's bits, slowly",
        arithmetic.name()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arithmetic_is_written_as_it_is_read_and_nothing_else_is_one() {
        for text in ["auto", "portable", "amx", "emulated"] {
            assert_eq!(text.parse::<Wanted>().unwrap().to_string(), text);
        }
        for wrong in ["", "AMX", "float32", "avx512", "Portable"] {
            assert!(wrong.parse::<Wanted>().is_err(), "{wrong}");
        }
    }

    fn over(line: &str, suite: &str, environment: &str) -> Result<Option<Asked>, String> {
        let read = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        let said = Said {
            line: read(line),
            environment: read(environment),
        };
        said.over(named(suite).map(|a| (a, "suite.toml:3: arithmetic")))
    }

    #[test]
    fn the_command_line_counts_before_the_suite_and_the_suite_before_the_environment() {
        for (line, suite, environment, wanted, at) in [
            ("portable", "", "amx", "portable", "--arithmetic"),
            ("auto", "amx", "portable", "amx", "suite.toml:3: arithmetic"),
            (
                "",
                "portable",
                "amx",
                "portable",
                "suite.toml:3: arithmetic",
            ),
            ("", "", "emulated", "emulated", "PROMPTBED_ARITHMETIC"),
            // The same bits from elsewhere: what a suite promises is kept.
            ("emulated", "amx", "", "emulated", "--arithmetic"),
        ] {
            let asked = over(line, suite, environment).unwrap().unwrap();
            assert_eq!((asked.arithmetic.name(), &*asked.at), (wanted, at));
            assert_eq!(asked.by_environment, at == VARIABLE);
        }
        for (line, environment) in [("", ""), ("auto", "amx"), ("", "auto")] {
            assert_eq!(over(line, "", environment), Ok(None), "left to the machine");
        }
    }

    #[test]
    fn a_machine_chooses_only_where_it_is_told_to() {
        let of = |line, environment| Said { line, environment }.left_open();
        assert_eq!(of(None, None), Arithmetic::Portable);
        assert_eq!(of(Some(Wanted::Auto), None), Arithmetic::fastest());
        assert_eq!(of(None, Some(Wanted::Auto)), Arithmetic::fastest());
    }

    #[test]
    fn what_is_started_elsewhere_is_told_what_the_suite_does_not_say() {
        let [amx, portable] = [Arithmetic::Amx, Arithmetic::Portable].map(Wanted::One);
        let of = |line, environment| Said { line, environment };
        assert_eq!(of(None, Some(amx)).passed_on(None), Some(amx));
        assert_eq!(
            of(None, Some(amx)).passed_on(Some(Arithmetic::Portable)),
            None
        );
        assert_eq!(
            of(Some(portable), Some(amx)).passed_on(None),
            Some(portable)
        );
        assert_eq!(of(None, None).passed_on(None), None);
    }

    #[test]
    fn a_command_line_that_asks_for_other_bits_than_the_suite_is_refused() {
        let told = over("amx", "portable", "").unwrap_err();
        let wanted = "suite.toml:3: arithmetic: \"portable\" has other bits than --arithmetic amx; leave one of them away";
        assert_eq!(told, wanted);
        assert!(over("portable", "emulated", "").is_err());
    }
}
