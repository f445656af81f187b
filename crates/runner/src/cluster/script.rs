//! The script that Slurm runs, a shell around the worker: it passes the warning before a limit on, and comes back when
//! the worker asks for it.

use std::fmt::Write;
use std::path::Path;

use super::COME_AGAIN;
use super::slurm::SlurmError;

/// Requeues of one task after which it is left to a person: a limit shorter than a step would else go on for ever.
const MOST_REQUEUES: u32 = 100;
/// Seconds before the limit at which the worker is told, where the limit is long enough.
const WARNING: u64 = 120;

/// What a job asks of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Cores of a task; as the cluster has it by default where not given.
    pub cpus: Option<u16>,
    /// Memory of a task, as `sbatch --mem` takes it.
    pub memory: Option<String>,
    /// Limit of a task in minutes.
    pub minutes: Option<u64>,
    /// Partition.
    pub partition: Option<String>,
    /// More options of sbatch, each as one word; they win over the ones above.
    pub more: Vec<String>,
}

/// A job array that works through a list of tasks.
pub struct Array<'a> {
    /// Name of the suite.
    pub suite: &'a str,
    /// Folder that the tasks start in: the one that paths on the command line were meant in.
    pub from: &'a Path,
    /// Folder of the job's logs.
    pub folder: &'a Path,
    /// Tasks of the first chunk.
    pub tasks: usize,
    /// What it asks for.
    pub wishes: &'a Wishes,
    /// The worker and its arguments, but for the index of the task, which comes last.
    pub worker: &'a [String],
}

impl Array<'_> {
    /// The script. Its argument is the offset of a chunk; without one it is the first chunk.
    ///
    /// # Errors
    /// Words that no line of a script can hold.
    pub fn script(&self) -> Result<String, SlurmError> {
        let Wishes {
            cpus,
            memory,
            minutes,
            partition,
            more,
        } = self.wishes;
        let mut options = vec![
            format!("--job-name=promptbed-{}", self.suite),
            format!("--array=0-{}", self.tasks.saturating_sub(1)),
            format!("--chdir={}", text(self.from)?),
            format!("--output={}/%A_%a.log", in_pattern(self.folder)?),
            "--open-mode=append".to_owned(),
            "--requeue".to_owned(),
            format!("--signal=B:USR1@{}", warning(*minutes)),
        ];
        options.extend(cpus.map(|n| format!("--cpus-per-task={n}")));
        options.extend(memory.as_ref().map(|m| format!("--mem={m}")));
        options.extend(minutes.map(|m| format!("--time={m}")));
        options.extend(partition.as_ref().map(|p| format!("--partition={p}")));
        options.extend(more.iter().cloned());
        let worker: Vec<String> = self.worker.iter().map(|word| quoted(word)).collect();
        let mut script = head(&options)?;
        let _ = write!(
            script,
            r#"
# Written by promptbed {version}. The argument is the number of tasks before this array's: its own start at 0.
index=$((${{1:-0}} + SLURM_ARRAY_TASK_ID))
task=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
threads=${{SLURM_CPUS_PER_TASK:-${{SLURM_CPUS_ON_NODE:-1}}}}
export RAYON_NUM_THREADS=$threads CANDLE_NUM_THREADS=$threads

# The warning before the limit reaches this shell alone, so it is passed on. The TERM of an end (scancel, a limit, a
# pre-emption) reaches every process; here it only says that Slurm has decided what becomes of the task.
worker= ending=
trap 'kill -USR1 "$worker" 2> /dev/null' USR1
trap 'ending=yes' TERM

{worker} --index "$index" &
worker=$!

# A signal interrupts `wait`: what counts is how the worker ended.
wait "$worker"
code=$?
while kill -0 "$worker" 2> /dev/null; do
    wait "$worker"
    code=$?
done
if [ "$code" -gt 128 ]; then
    wait "$worker" 2> /dev/null
    again=$?
    [ "$again" -eq 127 ] || code=$again
fi

# {COME_AGAIN}: it stopped early, and what it has is saved. 138: it was warned before it could listen.
if {{ [ "$code" -eq {COME_AGAIN} ] || [ "$code" -eq 138 ]; }} && [ -z "$ending" ]; then
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {MOST_REQUEUES} ]; then
        echo "task $task: goes on after a requeue" >&2
        scontrol requeue "$task" && exit 0
    else
        echo "task $task: was requeued {MOST_REQUEUES} times; promptbed submit submits what is left" >&2
    fi
fi
exit "$code"
"#,
            version = env!("CARGO_PKG_VERSION"),
            worker = worker.join(" "),
        );
        Ok(script)
    }
}

/// The script of the job that shows a results folder once the arrays have ended: each of `lines` is a program and its
/// arguments. One that fails keeps none from running.
///
/// # Errors
/// Words that no line of a script can hold.
pub fn after(
    suite: &str,
    from: &Path,
    folder: &Path,
    wishes: &Wishes,
    lines: &[Vec<String>],
) -> Result<String, SlurmError> {
    let mut options = vec![
        format!("--job-name=promptbed-{suite}-tables"),
        format!("--chdir={}", text(from)?),
        format!("--output={}/%j-tables.log", in_pattern(folder)?),
        "--open-mode=append".to_owned(),
        "--requeue".to_owned(),
    ];
    options.extend(
        wishes
            .partition
            .as_ref()
            .map(|p| format!("--partition={p}")),
    );
    options.extend(wishes.memory.as_ref().map(|m| format!("--mem={m}")));
    options.extend(wishes.minutes.map(|m| format!("--time={m}")));
    // Accounts and the like are needed here too; a warning is of no use.
    let more = wishes.more.iter().filter(|o| !o.starts_with("--signal"));
    options.extend(more.cloned());
    let mut script = head(&options)?;
    script.push_str("\ncode=0\n");
    for line in lines {
        let words: Vec<String> = line.iter().map(|word| quoted(word)).collect();
        let _ = writeln!(script, "{} || code=$?", words.join(" "));
    }
    script.push_str("exit \"$code\"\n");
    Ok(script)
}

/// Seconds of warning before a limit: two minutes, or a quarter of a short limit.
fn warning(minutes: Option<u64>) -> u64 {
    minutes.map_or(WARNING, |m| WARNING.min(m.saturating_mul(60) / 4))
}

/// The first line and the options.
fn head(options: &[String]) -> Result<String, SlurmError> {
    let mut script = String::from("#!/bin/bash\n");
    for option in options {
        if option.chars().any(char::is_control) {
            return Err(SlurmError::Word {
                word: option.clone(),
            });
        }
        let _ = writeln!(script, "#SBATCH {}", option_quoted(option));
    }
    Ok(script)
}

/// A path in words.
///
/// # Errors
/// A path that is not UTF-8.
pub fn text(path: &Path) -> Result<&str, SlurmError> {
    path.to_str().ok_or_else(|| SlurmError::Word {
        word: path.display().to_string(),
    })
}

/// A path as the pattern of a log has it, where `%` starts a replacement and a backslash switches them all off.
fn in_pattern(path: &Path) -> Result<String, SlurmError> {
    let path = text(path)?;
    if path.contains('\\') {
        return Err(SlurmError::Word {
            word: path.to_owned(),
        });
    }
    Ok(path.replace('%', "%%"))
}

/// A word for the shell.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A word for a line of options, which sbatch reads like a shell: quotes, backslashes, and `#` for the rest of the line.
fn option_quoted(word: &str) -> String {
    if word
        .chars()
        .any(|c| c.is_whitespace() || "\"'\\#".contains(c))
    {
        format!("\"{}\"", word.replace('\\', r"\\").replace('"', "\\\""))
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array<'a>(folder: &'a Path, wishes: &'a Wishes, worker: &'a [String]) -> Array<'a> {
        Array {
            suite: "quick",
            from: Path::new("/home/a lab"),
            folder,
            tasks: 36,
            wishes,
            worker,
        }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn a_script_has_every_wish_and_the_users_own_words_last() {
        let wishes = Wishes {
            cpus: Some(4),
            memory: Some("8G".to_owned()),
            minutes: Some(90),
            partition: Some("cpu".to_owned()),
            more: words(&["--account=lab", "--comment=a \"b\" # c"]),
        };
        let worker = words(&["/r/bin/promptbed-0123", "worker", "/r/it's", "--jobs", "1"]);
        let script = array(Path::new("/r/100%/jobs/1"), &wishes, &worker)
            .script()
            .unwrap();
        let options: Vec<&str> = script.lines().take_while(|l| !l.is_empty()).collect();
        assert_eq!(
            options,
            [
                "#!/bin/bash",
                "#SBATCH --job-name=promptbed-quick",
                "#SBATCH --array=0-35",
                "#SBATCH \"--chdir=/home/a lab\"",
                "#SBATCH --output=/r/100%%/jobs/1/%A_%a.log",
                "#SBATCH --open-mode=append",
                "#SBATCH --requeue",
                "#SBATCH --signal=B:USR1@120",
                "#SBATCH --cpus-per-task=4",
                "#SBATCH --mem=8G",
                "#SBATCH --time=90",
                "#SBATCH --partition=cpu",
                "#SBATCH --account=lab",
                "#SBATCH \"--comment=a \\\"b\\\" # c\"",
            ]
        );
        let command = r#"/r/bin/promptbed-0123 worker '/r/it'\''s' --jobs 1 --index "$index" &"#;
        assert!(script.contains(command), "{script}");
    }

    #[test]
    fn the_script_is_as_read_and_approved() {
        let worker = words(&["/r/bin/promptbed-0123", "worker", "/r"]);
        let script = array(Path::new("/r/jobs/1"), &Wishes::default(), &worker)
            .script()
            .unwrap();
        insta::assert_snapshot!("job", script);
        let lines = [
            words(&["/r/bin/promptbed-0123", "table", "/r"]),
            words(&["/r/bin/promptbed-0123", "report", "/r"]),
        ];
        let wishes = Wishes {
            more: words(&["--account=lab", "--signal=USR2@9"]),
            ..Wishes::default()
        };
        let folder = Path::new("/r/jobs/1");
        let script = after("quick", Path::new("/home"), folder, &wishes, &lines).unwrap();
        insta::assert_snapshot!("tables", script);
    }

    #[test]
    fn a_short_limit_is_not_all_warning() {
        let all = [None, Some(1), Some(2), Some(8), Some(9), Some(u64::MAX)].map(warning);
        assert_eq!(all, [120, 15, 30, 120, 120, 120]);
    }

    #[test]
    fn what_no_line_can_hold_is_refused() {
        let wishes = Wishes {
            partition: Some("a\n#SBATCH --uid=0".to_owned()),
            ..Wishes::default()
        };
        assert!(array(Path::new("/r"), &wishes, &[]).script().is_err());
        let none = Wishes::default();
        assert!(array(Path::new("/r\\x"), &none, &[]).script().is_err());
    }
}
