//! Slurm's own programs, and what they answer. Its accounting is never asked: many clusters have none.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::jobs::{JobId, Queued};

/// What went wrong between us and Slurm.
#[derive(Debug, thiserror::Error)]
pub enum SlurmError {
    /// One of its programs is not there or cannot be started.
    #[error("{program}: cannot be started: {source}; is this a machine of a Slurm cluster?")]
    Missing {
        /// The program.
        program: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// One of its programs said no.
    #[error("{program}: {ended}: {said}")]
    Refused {
        /// The program.
        program: &'static str,
        /// How it ended.
        ended: String,
        /// Its own words.
        said: String,
    },
    /// One of its programs answered what we do not understand.
    #[error("{program}: answered {answer:?}, where {wanted} was expected")]
    Answer {
        /// The program.
        program: &'static str,
        /// Its answer.
        answer: String,
        /// What would be right.
        wanted: &'static str,
    },
    /// A word that Slurm's or the shell's syntax has no place for.
    #[error(
        "{word:?}: cannot be written into a job script (control characters, a backslash in the results folder, or a path \
         that is not UTF-8)"
    )]
    Word {
        /// The word.
        word: String,
    },
}

/// Runs a program to its end; its standard output.
fn ask(program: &'static str, command: &mut Command) -> Result<String, SlurmError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| SlurmError::Missing { program, source })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let said = [text(&output.stderr), text(&output.stdout)];
    let said = said.into_iter().find(|s| !s.is_empty());
    Err(SlurmError::Refused {
        program,
        ended: output.status.to_string(),
        said: said.unwrap_or_else(|| "it said nothing".to_owned()),
    })
}

/// Most tasks of one array: an index must be below `MaxArraySize`.
///
/// # Errors
/// No Slurm here; an answer without it; a cluster that has arrays switched off.
pub fn most_tasks() -> Result<usize, SlurmError> {
    let answer = ask(
        "scontrol",
        Command::new("scontrol").args(["show", "config"]),
    )?;
    most_tasks_in(&answer)
}

fn most_tasks_in(config: &str) -> Result<usize, SlurmError> {
    let mut lines = config.lines().filter_map(|l| l.split_once('='));
    let found = lines.find(|(name, _)| name.trim() == "MaxArraySize");
    let number = found.and_then(|(_, n)| n.trim().parse().ok());
    // 0 switches arrays off; 1 leaves the index 0 alone.
    number.filter(|n| *n > 0).ok_or_else(|| SlurmError::Answer {
        program: "scontrol",
        answer: found.map_or_else(String::new, |(name, n)| {
            format!("{} = {}", name.trim(), n.trim())
        }),
        wanted: "MaxArraySize, at least 1",
    })
}

/// Submits one chunk of an array: `script` with the indices from 0, and the chunk's offset as its argument.
///
/// # Errors
/// No Slurm here; Slurm's words where it refuses.
pub fn submit_array(script: &Path, tasks: usize, offset: usize) -> Result<JobId, SlurmError> {
    let mut command = Command::new("sbatch");
    command.arg("--parsable");
    command.arg(format!("--array=0-{}", tasks.saturating_sub(1)));
    submit(command.arg(script).arg(offset.to_string()))
}

/// Submits a script that starts when all of `before` have ended, however they ended.
///
/// # Errors
/// As [`submit_array`].
pub fn submit_after(script: &Path, before: &[JobId]) -> Result<JobId, SlurmError> {
    let ids: Vec<&str> = before.iter().map(|b| b.id.as_str()).collect();
    let mut command = Command::new("sbatch");
    command.arg("--parsable");
    // Of arrays on another cluster: jobs there wait for each other there.
    if let Some(cluster) = before.iter().find_map(|b| b.cluster.as_ref()) {
        command.arg(format!("--clusters={cluster}"));
    }
    command.arg(format!("--dependency=afterany:{}", ids.join(":")));
    submit(command.arg(script))
}

fn submit(command: &mut Command) -> Result<JobId, SlurmError> {
    let answer = ask("sbatch", command)?;
    // Plug-ins of a site may print before it.
    let last = answer.lines().last().unwrap_or_default().trim();
    JobId::parsed(last).ok_or(SlurmError::Answer {
        program: "sbatch",
        answer,
        wanted: "a job id",
    })
}

/// What stands in the queue of these jobs: waiting, running or leaving, a line a task.
///
/// # Errors
/// No Slurm here; Slurm's words where it does not answer.
pub fn queue(jobs: &[JobId]) -> Result<Vec<Queued>, SlurmError> {
    let mut queued = Vec::new();
    for (cluster, ids) in by_cluster(jobs) {
        let mut command = Command::new("squeue");
        command.args(["-h", "-r", "-o", "%i|%T|%r"]);
        command.args(cluster.map(|c| format!("--clusters={c}")));
        // One id that is gone is an error, but not several: 1 stands beside them, ours or not.
        command.arg(format!("--jobs=1,{}", ids.join(",")));
        let answer = ask("squeue", &mut command)?;
        let of_cluster = queued_in(&answer).map(|mut one| {
            one.job.cluster = cluster.map(str::to_owned);
            one
        });
        queued.extend(of_cluster.filter(|q| ids.contains(&q.job.id.as_str())));
    }
    Ok(queued)
}

fn queued_in(answer: &str) -> impl Iterator<Item = Queued> {
    answer.lines().filter_map(|line| {
        let mut words = line.trim().splitn(3, '|');
        let (name, state, reason) = (words.next()?, words.next()?, words.next()?);
        let (id, task) = match name.split_once('_') {
            Some((id, task)) => (id, Some(task.parse().ok()?)),
            None => (name, None),
        };
        Some(Queued {
            job: JobId::parsed(id)?,
            task,
            state: state.to_owned(),
            reason: reason.to_owned(),
        })
    })
}

/// Cancels jobs.
///
/// # Errors
/// No Slurm here; Slurm's words where it refuses.
pub fn cancel(jobs: &[JobId]) -> Result<(), SlurmError> {
    for (cluster, ids) in by_cluster(jobs) {
        let mut command = Command::new("scancel");
        command.args(cluster.map(|c| format!("--clusters={c}")));
        ask("scancel", command.args(ids))?;
    }
    Ok(())
}

/// The ids of each cluster, in their order.
fn by_cluster(jobs: &[JobId]) -> Vec<(Option<&str>, Vec<&str>)> {
    let mut found: Vec<(Option<&str>, Vec<&str>)> = Vec::new();
    for job in jobs {
        let cluster = job.cluster.as_deref();
        match found.iter_mut().find(|(of, _)| *of == cluster) {
            Some((_, ids)) => ids.push(&job.id),
            None => found.push((cluster, vec![&job.id])),
        }
    }
    found
}

/// Seconds of a time as Slurm writes it: `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM`, `D-HH:MM:SS`. Without days the last
/// number is seconds, with days the first is hours.
pub fn seconds(text: &str) -> Option<u64> {
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (Some(days.parse::<u64>().ok()?), rest),
        None => (None, text),
    };
    let parts: Option<Vec<u64>> = rest.split(':').map(|n| n.parse().ok()).collect();
    let units: &[u64] = match (days.is_some(), parts.as_ref()?.len()) {
        (true, 1..=3) => &[3600, 60, 1],
        (false, 2) => &[60, 1],
        (false, 3) => &[3600, 60, 1],
        _ => return None,
    };
    let mut seconds = days.unwrap_or(0).checked_mul(86400)?;
    for (part, unit) in parts?.into_iter().zip(units) {
        seconds = seconds.checked_add(part.checked_mul(*unit)?)?;
    }
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_slurm_writes_them() {
        for (text, wanted) in [
            ("1:01", 61),
            ("04:00:00", 14_400),
            ("1-12", 129_600),
            ("1-00:30", 88_200),
            ("0-00:00:01", 1),
        ] {
            assert_eq!(seconds(text), Some(wanted), "{text}");
        }
        for wrong in [
            "",
            "45",
            "1:2:3:4",
            "-5",
            "1-",
            "4h:3",
            "99999999999999999999-1",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_bound_of_an_array_is_read_from_the_configuration() {
        let config =
            "Configuration data as of 2026\nMaxArrayTasks = 3\nMaxArraySize            = 1001\n";
        assert_eq!(most_tasks_in(config).unwrap(), 1001);
        for (wrong, said) in [
            ("MaxArraySize = 0", "answered \"MaxArraySize = 0\""),
            ("Nothing = 1", "answered \"\""),
        ] {
            let error = most_tasks_in(wrong).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_queue_tells_tasks_from_jobs() {
        let answer = "12_0|RUNNING|None\n12_17|PENDING|JobHeldUser\n13|PENDING|Dependency\nCLUSTER: far\n12_[3-4]|x|y\n";
        let found: Vec<_> = queued_in(answer)
            .map(|q| (q.job.id, q.task, q.state, q.reason))
            .collect();
        let one = |id: &str, task, state: &str, reason: &str| {
            (id.to_owned(), task, state.to_owned(), reason.to_owned())
        };
        assert_eq!(
            found,
            [
                one("12", Some(0), "RUNNING", "None"),
                one("12", Some(17), "PENDING", "JobHeldUser"),
                one("13", None, "PENDING", "Dependency"),
            ]
        );
    }

    #[test]
    fn each_cluster_is_asked_for_its_own_jobs() {
        let jobs: Vec<JobId> = ["1", "2;far", "3", "4;far"]
            .iter()
            .filter_map(|id| JobId::parsed(id))
            .collect();
        assert_eq!(
            by_cluster(&jobs),
            [(None, vec!["1", "3"]), (Some("far"), vec!["2", "4"])]
        );
    }
}
