//! What ends a run before all is done: signals, and a time limit. Trials on their way leave a checkpoint.
//!
//! | what | exit code |
//! |---|---|
//! | Ctrl-C (SIGINT) | 130; a second one leaves at once |
//! | `--time-limit`, SIGTERM, SIGUSR1, SIGHUP | 75: come again |
//!
//! Schedulers send SIGUSR1 or SIGTERM ahead of a limit and SIGTERM at it, so what follows the first of these changes
//! nothing: only the user's second Ctrl-C cuts short.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Done;

/// When a run stops and what it leaves until then.
#[derive(Clone, Debug, clap::Args)]
pub struct Limits {
    /// Stop after so long, as 8h, 90m, 1h30m or 3600 (seconds): running trials leave a checkpoint, and the exit code is 75
    /// [default: none]. A step takes as long as it takes, so leave some room before a scheduler's own limit.
    #[arg(long, value_name = "TIME", value_parser = limit)]
    pub time_limit: Option<Duration>,
    /// How often a running trial leaves a checkpoint to go on from if it is killed, as 120 (seconds) or 5m. Changes no
    /// result.
    #[arg(long, value_name = "TIME", default_value = "120", value_parser = duration)]
    pub checkpoint_every: Duration,
}

/// Seconds of the units of a duration.
const UNITS: [(char, f64); 4] = [('d', 86_400.0), ('h', 3600.0), ('m', 60.0), ('s', 1.0)];

/// `8h`, `90m`, `1h30m`, `1.5h`, `3600`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "{text:?} is no duration; write 8h, 90m, 1h30m, 45s, or a number of seconds as 3600"
        )
    };
    let (mut seconds, mut largest, mut rest) = (0.0, f64::INFINITY, text.trim());
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, unit) = rest.split_at(end.unwrap_or(rest.len()));
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let factor = match unit.chars().next() {
            // A bare number stands alone.
            None if largest == f64::INFINITY => 1.0,
            None => return Err(wrong()),
            Some(letter) => {
                let found = UNITS.iter().find(|(unit, _)| *unit == letter);
                found.ok_or_else(wrong)?.1
            }
        };
        // Larger units first, each once.
        if factor >= largest {
            return Err(wrong());
        }
        (seconds, largest) = (seconds + number * factor, factor);
        rest = unit.get(1..).unwrap_or("");
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

fn limit(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => {
            Err("a run of no time does nothing; leave the limit out for none".to_owned())
        }
        limit => Ok(limit),
    }
}

/// What stopped a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Ctrl-C.
    Interrupt,
    /// A signal by its name.
    Signal(&'static str),
    /// `--time-limit`.
    TimeLimit,
}

impl Reason {
    /// How the run ends.
    pub fn done(self) -> Done {
        match self {
            Self::Interrupt => Done::Interrupted,
            Self::Signal(_) | Self::TimeLimit => Done::Stopped,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupt => f.write_str("interrupted"),
            Self::Signal(name) => write!(f, "stopped by {name}"),
            Self::TimeLimit => f.write_str("stopped at the time limit"),
        }
    }
}

/// Whether a run was asked to stop, and by what; whoever runs looks at it between steps.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    /// The first.
    reason: Arc<OnceLock<Reason>>,
}

impl Stop {
    /// One that signals and the end of `limit`, counted from `started`, set. Once in a process.
    ///
    /// # Errors
    /// When signals cannot be handled.
    pub fn listen(started: Instant, limit: Option<Duration>) -> Result<Self> {
        let stop = Self::default();
        stop.hear().context("signals cannot be handled")?;
        if let Some(limit) = limit {
            let stop = stop.clone();
            let wait = move || {
                std::thread::sleep(limit.saturating_sub(started.elapsed()));
                stop.ask(Reason::TimeLimit);
            };
            let thread = std::thread::Builder::new().name("time-limit".to_owned());
            thread.spawn(wait).context("no thread can be started")?;
        }
        Ok(stop)
    }

    /// Whether it was.
    pub fn asked(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// What trials look at.
    pub fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    /// By what; as if by the user where it does not say.
    pub fn reason(&self) -> Reason {
        self.reason.get().copied().unwrap_or(Reason::Interrupt)
    }

    /// Asks; who asked first is what is told.
    pub fn ask(&self, reason: Reason) {
        let is_first = self.reason.set(reason).is_ok() && !self.asked();
        self.flag.store(true, Ordering::Relaxed);
        if is_first {
            crate::say!("{reason}: running trials leave a checkpoint, then this ends");
        }
    }

    /// A Ctrl-C: the second leaves at once; what is written is whole either way.
    fn interrupt(&self, is_second: bool) {
        if is_second {
            std::process::exit(130);
        }
        self.ask(Reason::Interrupt);
    }

    #[cfg(unix)]
    fn hear(&self) -> std::io::Result<()> {
        use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
        // Under `nohup` the end of the terminal is not to be heard.
        if !crate::machine::ignores(SIGHUP) {
            signals.add_signal(SIGHUP)?;
        }
        let stop = self.clone();
        let listen = move || {
            let mut is_second = false;
            for signal in signals.forever() {
                match signal {
                    SIGINT => {
                        stop.interrupt(is_second);
                        is_second = true;
                    }
                    SIGTERM => stop.ask(Reason::Signal("SIGTERM")),
                    SIGUSR1 => stop.ask(Reason::Signal("SIGUSR1")),
                    _ => stop.ask(Reason::Signal("SIGHUP")),
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".to_owned());
        thread.spawn(listen).map(drop)
    }

    #[cfg(not(unix))]
    fn hear(&self) -> Result<(), ctrlc::Error> {
        let (stop, is_second) = (self.clone(), AtomicBool::new(false));
        ctrlc::set_handler(move || stop.interrupt(is_second.swap(true, Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("8h", 28_800.0),
            ("90m", 5400.0),
            ("3600", 3600.0),
            ("1h30m", 5400.0),
            ("1d2h3m4s", 93_784.0),
            ("1.5h", 5400.0),
            ("0", 0.0),
            (" 45s ", 45.0),
        ] {
            let want = Duration::from_secs_f64(seconds);
            assert_eq!(duration(text), Ok(want), "{text}");
        }
        for text in [
            "", "h", "8 h", "8x", "-5", "30m1h", "1h30", "1h1h", "1..5h", "1e3", "9d9e9", "ten",
        ] {
            let told = duration(text).unwrap_err();
            assert!(told.contains(&format!("{text:?} is no duration")), "{told}");
        }
        assert!(limit("0m").unwrap_err().contains("no time"));
        assert!(duration("99999999999999999999999999d").is_err());
    }

    #[test]
    fn who_asks_first_is_told() {
        let stop = Stop::default();
        assert!(!stop.asked());
        stop.ask(Reason::TimeLimit);
        stop.ask(Reason::Signal("SIGTERM"));
        assert!(stop.asked() && stop.flag().load(Ordering::Relaxed));
        assert_eq!(stop.reason(), Reason::TimeLimit);
        assert!(matches!(stop.reason().done(), Done::Stopped));
        assert!(matches!(Stop::default().reason().done(), Done::Interrupted));
    }
}
