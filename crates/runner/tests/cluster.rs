//! Submitting to a cluster, with programs on the path that answer as Slurm does, or fail as it does. A real one is asked
//! by `scripts/slurm-test.sh`.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

#[allow(dead_code, reason = "the bed does more than these tests need")]
mod bed;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use bed::{Answer, Bed};
use promptbed::cluster::script::{Array, Wishes};
use serde_json::Value;

/// Six trials, none of which takes long.
const SUITE: &str = r#"
version  = 1
protocol = "few-shot"
datasets = ["drawn-textures"]
shots    = [1]
seeds    = [1, 2, 3, 4, 5]

[[method]]
name = "zero-shot"

[[method]]
name   = "coop"
epochs = 1
"#;

/// A bed with a Slurm of our own, whose programs note how they were called. `sbatch` gives the ids 10, 11, ...; the
/// others answer what the test lays into a file of their name.
fn cluster() -> Bed {
    let bed = Bed::with_suite(SUITE);
    let bin = bed.path("slurm");
    fs::create_dir(&bin).unwrap();
    fs::create_dir(bed.path("answers")).unwrap();
    for program in ["sbatch", "squeue", "scancel", "scontrol"] {
        let answer = if program == "sbatch" {
            r#"echo $((9 + $(grep -c ^sbatch calls)))"#
        } else {
            r#"cat answers/$name 2> /dev/null"#
        };
        // A file NAME.fails with a number N in it: the call fails from the Nth on, with words as Slurm's.
        let text = format!(
            "#!/bin/sh\ncd '{}'\nname={program}\necho \"$name $*\" >> calls\n\
             if [ -e answers/$name.fails ] && [ \"$(grep -c ^$name calls)\" -ge \"$(cat answers/$name.fails)\" ]; then\n\
             echo \"$name: error: as if something were wrong\" >&2\nexit 1\nfi\n{answer}\nexit 0\n",
            bed.path("").display()
        );
        let path = bin.join(program);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    answers(&bed, "scontrol", "MaxArraySize            = 4\n");
    bed
}

fn answers(bed: &Bed, name: &str, text: &str) {
    fs::write(bed.path("answers").join(name), text).unwrap();
}

/// `promptbed ARGUMENTS` with our Slurm first on the path.
fn run(bed: &Bed, arguments: &[&str]) -> Answer {
    let path = format!(
        "{}:{}",
        bed.path("slurm").display(),
        std::env::var("PATH").unwrap()
    );
    let mut command = bed.command(arguments);
    let output = command.env("PATH", path).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Answer {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn submit(bed: &Bed, more: &[&str]) -> Answer {
    let mut arguments = vec!["submit", "suite.toml", "--out", "results"];
    arguments.extend(more);
    run(bed, &arguments)
}

/// How the programs were called, and forget it.
fn calls(bed: &Bed) -> Vec<String> {
    let calls = fs::read_to_string(bed.path("calls")).unwrap_or_default();
    let root = bed.path("").display().to_string();
    calls.lines().map(|l| l.replace(&root, "")).collect()
}

fn tasks(bed: &Bed, job: u32) -> Vec<Vec<String>> {
    let path = bed.path(format!("results/jobs/{job}/tasks.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn job(bed: &Bed, number: u32) -> Value {
    let path = bed.path(format!("results/jobs/{number}/job.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn more_tasks_than_an_array_may_have_go_in_chunks_that_start_at_zero() {
    let bed = cluster();
    let answer = submit(&bed, &[]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert_eq!(answer.stdout, "10\n11\n", "ids of the arrays, a line each");
    let calls = calls(&bed);
    let batch: Vec<&String> = calls.iter().filter(|c| c.starts_with("sbatch")).collect();
    assert_eq!(
        batch,
        [
            "sbatch --parsable --array=0-3 results/jobs/1/job.sh 0",
            "sbatch --parsable --array=0-1 results/jobs/1/job.sh 4",
            "sbatch --parsable --dependency=afterany:10:11 results/jobs/1/tables.sh",
        ]
    );
    let tasks = tasks(&bed, 1);
    assert_eq!(tasks.len(), 6);
    assert!(
        tasks[5][0].starts_with("zero-shot"),
        "the shortest is last: {tasks:?}"
    );
    assert_eq!(job(&bed, 1)["arrays"][1]["offset"], 4);
    assert_eq!(job(&bed, 1)["tables"]["id"], "12");
}

#[test]
fn trials_share_tasks_where_fewer_are_wanted() {
    let bed = cluster();
    assert_eq!(submit(&bed, &["--array-size", "2"]).code, Some(0));
    let tasks = tasks(&bed, 1);
    let sizes: Vec<usize> = tasks.iter().map(Vec::len).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 6);
    assert_eq!(sizes.len(), 2);
}

#[test]
fn the_script_names_what_was_asked_for_and_a_copy_of_the_program() {
    let bed = cluster();
    let wishes = [
        "--cpus",
        "4",
        "--mem",
        "8G",
        "--time",
        "90s",
        "--partition",
        "cpu",
        "--sbatch-arg=--account=lab",
    ];
    assert_eq!(submit(&bed, &wishes).code, Some(0));
    let script = fs::read_to_string(bed.path("results/jobs/1/job.sh")).unwrap();
    for line in [
        "--cpus-per-task=4",
        "--mem=8G",
        "--time=2",
        "--signal=B:USR1@30",
        "--partition=cpu",
        "--account=lab",
    ] {
        assert!(
            script.contains(&format!("#SBATCH {line}\n")),
            "{line}: {script}"
        );
    }
    let programs = bed.files("results/bin");
    let (name, bytes) = programs.first_key_value().unwrap();
    assert!(
        script.contains(&format!("/results/bin/{name} worker ")),
        "{script}"
    );
    assert!(*bytes == fs::read(env!("CARGO_BIN_EXE_promptbed")).unwrap());
}

#[test]
fn what_slurm_refuses_is_told_in_its_words_and_leaves_nothing() {
    let bed = cluster();
    answers(&bed, "sbatch.fails", "1");
    let answer = submit(&bed, &[]);
    assert_eq!(answer.code, Some(2));
    assert_eq!(answer.stdout, "");
    let words = "sbatch: exit status: 1: sbatch: error: as if something were wrong";
    assert!(answer.stderr.contains(words), "{}", answer.stderr);
    assert!(!bed.path("results/jobs/1").exists());
}

#[test]
fn a_second_chunk_that_is_refused_leaves_the_first_and_the_next_submission_takes_the_rest() {
    let bed = cluster();
    answers(&bed, "sbatch.fails", "2");
    let answer = submit(&bed, &[]);
    assert_eq!(answer.code, Some(2));
    let words = "4 of 6 tasks were submitted, as 10; the same command submits what is left";
    assert!(answer.stderr.contains(words), "{}", answer.stderr);
    fs::remove_file(bed.path("answers/sbatch.fails")).unwrap();
    answers(
        &bed,
        "squeue",
        "10_0|RUNNING|None\n10_1|PENDING|Resources\n10_2|PENDING|Resources\n10_3|PENDING|Priority\n",
    );
    let answer = submit(&bed, &[]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert_eq!(tasks(&bed, 2).len(), 2);
    let mut all = tasks(&bed, 1)[4..].to_vec();
    all.sort();
    let mut rest = tasks(&bed, 2);
    rest.sort();
    assert_eq!(rest, all);
}

#[test]
fn nothing_is_submitted_twice_and_held_tasks_are_named() {
    let bed = cluster();
    assert_eq!(submit(&bed, &["--array-size", "2"]).code, Some(0));
    answers(
        &bed,
        "squeue",
        "10_0|RUNNING|None\n10_1|PENDING|JobHeldUser\n11|PENDING|Dependency\n",
    );
    let answer = submit(&bed, &[]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert_eq!(answer.stdout, "");
    assert!(
        answer.stderr.contains("nothing is left to submit"),
        "{}",
        answer.stderr
    );
    assert!(
        answer.stderr.contains("10_1 (JobHeldUser)"),
        "{}",
        answer.stderr
    );
    assert!(!bed.path("results/jobs/2").exists());
}

#[test]
fn tasks_that_have_left_the_queue_are_submitted_again() {
    let bed = cluster();
    assert_eq!(submit(&bed, &["--array-size", "2"]).code, Some(0));
    // Leaving is as good as gone: whatever comes of it is in the records.
    answers(&bed, "squeue", "10_0|COMPLETING|None\n");
    assert_eq!(submit(&bed, &[]).code, Some(0));
    assert_eq!(tasks(&bed, 2).len(), 6);
}

#[test]
fn a_queue_that_does_not_answer_stops_a_submission_and_nothing_else() {
    let bed = cluster();
    assert_eq!(submit(&bed, &[]).code, Some(0));
    answers(&bed, "squeue.fails", "1");
    let answer = submit(&bed, &[]);
    assert_eq!(answer.code, Some(2));
    assert!(
        answer.stderr.contains("squeue: exit status: 1"),
        "{}",
        answer.stderr
    );
    let answer = run(&bed, &["status", "results"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(
        answer.stderr.contains("squeue: exit status: 1"),
        "{}",
        answer.stderr
    );
}

#[test]
fn an_answer_that_is_no_id_is_told() {
    let bed = cluster();
    let path = bed.path("slurm/sbatch");
    fs::write(&path, "#!/bin/sh\necho Submitted\n").unwrap();
    let answer = submit(&bed, &[]);
    assert_eq!(answer.code, Some(2));
    assert!(
        answer
            .stderr
            .contains("sbatch: answered \"Submitted\", where a job id was expected"),
        "{}",
        answer.stderr
    );
}

#[test]
fn without_slurm_it_is_said_what_is_missing_and_printing_still_works() {
    let bed = Bed::with_suite(SUITE);
    let path = bed.path("empty");
    let run = |arguments: &[&str]| {
        let output = bed.command(arguments).env("PATH", &path).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, _, stderr) = run(&["submit", "suite.toml"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("scontrol: cannot be started"), "{stderr}");
    let (code, stdout, stderr) = run(&["submit", "suite.toml", "--print"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.starts_with("#!/bin/bash\n#SBATCH --job-name=promptbed-suite\n"),
        "{stdout}"
    );
    assert!(stdout.contains("#SBATCH --array=0-5\n"), "{stdout}");
    assert!(!bed.path("results").exists(), "nothing is written");
}

#[test]
fn cancelled_tasks_are_submitted_again_though_they_are_still_leaving() {
    let bed = cluster();
    assert_eq!(submit(&bed, &["--array-size", "2"]).code, Some(0));
    answers(
        &bed,
        "squeue",
        "10_0|RUNNING|None\n10_1|PENDING|Resources\n11|PENDING|Dependency\n",
    );
    let answer = run(&bed, &["cancel", "results"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(
        calls(&bed).contains(&"scancel 10 11".to_owned()),
        "{:?}",
        calls(&bed)
    );
    assert_eq!(job(&bed, 1)["is_cancelled"], true);
    assert_eq!(submit(&bed, &[]).code, Some(0));
    assert_eq!(tasks(&bed, 2).len(), 6);
}

#[test]
fn a_cancellation_that_slurm_refuses_is_told() {
    let bed = cluster();
    assert_eq!(submit(&bed, &[]).code, Some(0));
    answers(&bed, "squeue", "10_0|RUNNING|None\n");
    answers(&bed, "scancel.fails", "1");
    let answer = run(&bed, &["cancel", "results"]);
    assert_eq!(answer.code, Some(2));
    assert!(
        answer
            .stderr
            .contains("scancel: exit status: 1: scancel: error:"),
        "{}",
        answer.stderr
    );
    assert_eq!(job(&bed, 1)["is_cancelled"], false);
}

#[test]
fn status_says_what_waits_runs_and_is_held() {
    let bed = cluster();
    assert_eq!(submit(&bed, &["--array-size", "3"]).code, Some(0));
    answers(
        &bed,
        "squeue",
        "10_0|RUNNING|None\n10_1|PENDING|Resources\n10_2|PENDING|JobHeldAdmin\n11|PENDING|Dependency\n",
    );
    let answer = run(&bed, &["status", "results"]);
    let shown = answer.stdout + &answer.stderr;
    assert!(shown.contains("10_2 (JobHeldAdmin)"), "{shown}");
}

/// A worker that does what `$1` in its folder says, and the script around it.
struct Shell {
    folder: tempfile::TempDir,
}

impl Shell {
    fn new(worker: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shell = Self { folder };
        shell.program("worker", worker);
        shell.program("scontrol", "echo \"$*\" >> \"${0%/*}/requeued\"");
        let worker = vec![shell.path("worker")];
        let array = Array {
            suite: "quick",
            from: Path::new("/"),
            folder: shell.folder.path(),
            tasks: 4,
            wishes: &Wishes::default(),
            worker: &worker,
        };
        fs::write(shell.path("job.sh"), array.script().unwrap()).unwrap();
        shell
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The script as Slurm starts task 3 of array 12, for the chunk after `offset` tasks.
    fn command(&self, offset: &str) -> Command {
        let mut command = Command::new("bash");
        let path = format!(
            "{}:{}",
            self.folder.path().display(),
            std::env::var("PATH").unwrap()
        );
        command
            .args([&self.path("job.sh"), offset])
            .env("PATH", path)
            .env("SLURM_ARRAY_JOB_ID", "12")
            .env("SLURM_ARRAY_TASK_ID", "3")
            .env("SLURM_CPUS_PER_TASK", "2")
            .env("SLURM_JOB_ID", "99")
            .env_remove("SLURM_RESTART_COUNT")
            .stdin(Stdio::null());
        command
    }

    fn requeued(&self) -> String {
        fs::read_to_string(self.path("requeued")).unwrap_or_default()
    }
}

#[test]
fn the_script_gives_the_worker_its_index_and_threads_and_ends_as_it_does() {
    let shell = Shell::new("echo \"$* $RAYON_NUM_THREADS $CANDLE_NUM_THREADS\"; exit 7");
    let output = shell.command("40").output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "--index 43 2 2\n"
    );
    assert_eq!(shell.requeued(), "");
}

#[test]
fn a_worker_that_is_to_come_again_is_requeued_by_the_name_of_its_task_but_not_for_ever() {
    let shell = Shell::new("exit 75");
    assert_eq!(shell.command("0").status().unwrap().code(), Some(0));
    assert_eq!(shell.requeued(), "requeue 12_3\n");
    let mut last = shell.command("0");
    let status = last.env("SLURM_RESTART_COUNT", "100").status().unwrap();
    assert_eq!(status.code(), Some(75));
    assert_eq!(shell.requeued(), "requeue 12_3\n", "not once more");
    shell.program("scontrol", "exit 1");
    let status = shell.command("0").status().unwrap();
    assert_eq!(
        status.code(),
        Some(75),
        "a requeue that is refused is no success"
    );
}

/// A worker that says when it listens, and leaves 0.3 s after a signal with the code of that signal.
const LISTENING: &str = "trap 'sleep 0.3; exit 75' USR1\ntrap 'sleep 0.3; exit 75' TERM\n\
    echo $$ > \"${0%/*}/pid\"\nfor i in {1..200}; do sleep 0.05; done\nexit 9";

fn signalled(shell: &Shell, signals: impl Fn(&str, &str)) -> Option<i32> {
    let mut script = shell.command("0").spawn().unwrap();
    let pid = loop {
        let pid = fs::read_to_string(shell.path("pid")).unwrap_or_default();
        if pid.ends_with('\n') {
            break pid.trim().to_owned();
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    signals(&script.id().to_string(), &pid);
    script.wait().unwrap().code()
}

fn kill(signal: &str, pid: &str) {
    let status = Command::new("kill").args([signal, pid]).status().unwrap();
    assert!(status.success());
}

#[test]
fn the_warning_before_a_limit_reaches_the_worker_and_the_script_waits_for_it() {
    let shell = Shell::new(LISTENING);
    let code = signalled(&shell, |script, _| kill("-USR1", script));
    assert_eq!(code, Some(0));
    assert_eq!(shell.requeued(), "requeue 12_3\n");
}

#[test]
fn a_task_that_slurm_ends_does_not_put_itself_into_the_queue_again() {
    let shell = Shell::new(LISTENING);
    // As scancel does: every process.
    let code = signalled(&shell, |script, worker| {
        kill("-TERM", script);
        kill("-TERM", worker);
    });
    assert_eq!(code, Some(75));
    assert_eq!(shell.requeued(), "");
}

#[test]
fn a_worker_that_is_killed_fails_its_task() {
    let shell = Shell::new(LISTENING);
    let code = signalled(&shell, |_, worker| kill("-KILL", worker));
    assert_eq!(code, Some(137));
    assert_eq!(shell.requeued(), "");
}
