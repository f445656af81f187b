//! Which process this is, and whether another one that left a name in a shared folder still lives.

use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// Hex digits that stand for a machine in the id of a process.
const DIGITS: usize = 12;

/// One process among all that share a folder, on this machine or another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Name of its machine, for people.
    pub host: String,
    /// Stands for its running system: a hash of the boot's id and of the namespaces that process ids and times are
    /// counted in, so that two containers on one host, or one host before and after a reboot, are two machines.
    pub machine: String,
    /// Process id.
    pub pid: u32,
    /// When it started, in clock ticks since its machine did: two processes that had the same id differ in this.
    pub started: u64,
}

impl Process {
    /// This process.
    pub fn this() -> &'static Self {
        static THIS: OnceLock<Process> = OnceLock::new();
        THIS.get_or_init(|| {
            let pid = std::process::id();
            let own = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
            let started = match fields(&own) {
                // Where processes are numbered anew and /proc still shows the old numbers, they say nothing of us.
                Some((_, started)) if own.starts_with(&format!("{pid} ")) => Some(started),
                _ => None,
            };
            let machine = started.and_then(|_| machine());
            Self {
                host: host(),
                // A machine of its own then: nobody takes this process for dead by its number.
                machine: machine.unwrap_or_else(|| {
                    let now = std::time::SystemTime::now();
                    digits(&format!("{}{pid}{now:?}", host()))
                }),
                pid,
                started: started.unwrap_or(0),
            }
        })
    }

    /// Its name in file names: machine, process id and start time.
    pub fn id(&self) -> String {
        format!("{}-{}-{}", self.machine, self.pid, self.started)
    }

    /// The process with this [id](Self::id); its host is not in it.
    pub fn of_id(id: &str) -> Option<Self> {
        let (machine, rest) = id.split_once('-')?;
        let (pid, started) = rest.split_once('-')?;
        let is_machine = machine.len() == DIGITS && machine.bytes().all(|b| b.is_ascii_hexdigit());
        Some(Self {
            host: String::new(),
            machine: is_machine.then(|| machine.to_owned())?,
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        })
    }

    /// Whether it still runs; `None` where that cannot be told from here: it is on another machine, or hidden.
    pub fn lives(&self) -> Option<bool> {
        if self.machine != Self::this().machine {
            return None;
        }
        match state_of(self.pid) {
            State::Lives(started) => Some(started == self.started),
            State::Gone => Some(false),
            State::Hidden => None,
        }
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// What the system says of a process id.
enum State {
    /// Started so many ticks after the system.
    Lives(u64),
    /// There is none, or only what its parent has not taken note of yet.
    Gone,
    /// It may be there.
    Hidden,
}

fn state_of(pid: u32) -> State {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => match fields(&stat) {
            Some(("Z" | "X", _)) => State::Gone,
            Some((_, started)) => State::Lives(started),
            None => State::Hidden,
        },
        // Where other users' processes are hidden (`hidepid`), so is the first one, which is always there.
        Err(e)
            if e.kind() == std::io::ErrorKind::NotFound && Path::new("/proc/1/stat").exists() =>
        {
            State::Gone
        }
        Err(_) => State::Hidden,
    }
}

/// State and start time of a line of `/proc/PID/stat`. The name before them is in brackets and may hold anything.
fn fields(stat: &str) -> Option<(&str, u64)> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace();
    let state = fields.next()?;
    // Field 22 of the line (proc(5)); the state is the third.
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn host() -> String {
    let named = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match named.trim() {
        "" => std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned()),
        name => name.to_owned(),
    }
}

/// Stands for the running system, where that says enough of itself.
fn machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).ok();
    // Older systems know no namespaces of time.
    let (pids, times) = (namespace("pid")?, namespace("time"));
    Some(digits(&format!("{boot}{pids:?}{times:?}")))
}

fn digits(text: &str) -> String {
    crate::hash::hex(text.as_bytes())[..DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_one_that_has_ended_does_not() {
        let this = Process::this();
        assert_eq!(this.lives(), Some(true));
        let back = Process::of_id(&this.id()).unwrap();
        assert_eq!(
            (&back.machine, back.pid, back.started),
            (&this.machine, this.pid, this.started)
        );
        // Another start time is another process with the same number.
        let mut other = this.clone();
        other.started += 1;
        assert_eq!(other.lives(), Some(false));
        other.machine = "0123456789ab".to_owned();
        assert_eq!(other.lives(), None);
    }

    #[test]
    fn a_child_nobody_has_waited_for_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let mut process = Process::this().clone();
        process.pid = child.id();
        let patience = std::time::Instant::now();
        while !matches!(state_of(child.id()), State::Gone) {
            assert!(patience.elapsed().as_secs() < 30, "it never ended");
            std::thread::yield_now();
        }
        assert_eq!(process.lives(), Some(false));
        child.wait().unwrap();
    }

    #[test]
    fn names_in_brackets_do_not_confuse_the_fields() {
        let line = "7 (a) b) R 1 7 7 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(fields(line), Some(("R", 4242)));
        assert_eq!(fields("7 (a"), None);
        assert!(Process::of_id("abc-1-2").is_none());
        assert!(Process::of_id("0123456789ab-1").is_none());
    }
}
