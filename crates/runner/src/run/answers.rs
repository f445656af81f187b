//! Answers of commands that methods ask: read from where they are kept, or from the command, never both.
//!
//! `DIR/answers/<key>/<stage>-<round>.jsonl`: the question on the first line, then the answer's lines as they came.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use methods::Question;

use crate::run::trial::Interrupted;
use crate::store::replace;

/// Most bytes of an answer: what is longer is a command gone wrong.
const MOST: u64 = 16 << 20;

/// How often a running command is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The first line of the file: what tells that an answer is to this question.
fn head(question: &Question) -> String {
    serde_json::json!({ "command": question.command, "request": question.request }).to_string()
}

/// The answer that is kept in `path`, if it is to `question`.
///
/// # Errors
/// A file that cannot be read.
pub fn read(path: &Path, question: &Question) -> Result<Option<Vec<String>>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("{}: cannot be read", path.display())),
    };
    let mut lines = text.lines().map(str::to_owned);
    if lines.next() != Some(head(question)) {
        crate::say!(
            "note: {}: answers another question; it is asked again",
            path.display()
        );
        return Ok(None);
    }
    Ok(Some(lines.collect()))
}

/// Keeps an answer.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, question: &Question, lines: &[String]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
    }
    let mut text = head(question) + "\n";
    for line in lines {
        text += line;
        text.push('\n');
    }
    Ok(replace(path, text.as_bytes())?)
}

/// A command that is killed where it is dropped before its end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail where it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the command: one line in, lines out. What it writes to standard error goes to ours. Empty lines are left out.
///
/// # Errors
/// A command that cannot be started, takes too long, ends with another status than 0, or writes no text; [`Interrupted`].
pub fn of_command(question: &Question, stop: &AtomicBool) -> Result<Vec<String>> {
    let told = question.command.join(" ");
    let Some((program, arguments)) = question.command.split_first() else {
        bail!("proposer: names no command");
    };
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut running = Running(child.with_context(|| format!("{told}: cannot be started"))?);
    let mut request = question.request.to_string();
    request.push('\n');
    let input = running.0.stdin.take();
    let output = running.0.stdout.take().expect("it is piped");
    let read = std::thread::spawn(move || -> std::io::Result<Vec<String>> {
        BufReader::new(output.take(MOST)).lines().collect()
    });
    // A command that does not read its question may still answer; a large one must not block us.
    std::thread::spawn(move || input.map(|mut input| input.write_all(request.as_bytes())));
    let clock = Instant::now();
    let status = loop {
        if let Some(status) = running.0.try_wait().with_context(|| told.clone())? {
            break status;
        }
        if stop.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        if clock.elapsed() >= Duration::from_secs(question.seconds) {
            bail!("{told}: gave no answer within {} s", question.seconds);
        }
        std::thread::sleep(LOOK);
    };
    if !status.success() {
        bail!("{told}: ended with {status}");
    }
    let lines = read.join().expect("the reader does not panic");
    let mut lines = lines.with_context(|| format!("{told}: wrote what is no text"))?;
    lines.retain(|line| !line.trim().is_empty());
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(script: &str, seconds: u64) -> Question {
        Question {
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            request: serde_json::json!({ "round": 3 }),
            seconds,
        }
    }

    fn asked(script: &str, seconds: u64) -> Result<Vec<String>> {
        of_command(&question(script, seconds), &AtomicBool::new(false))
    }

    #[test]
    fn a_command_reads_a_line_and_its_lines_are_the_answer() {
        let lines = asked("read x; echo \"$x\"; echo; echo two", 20).unwrap();
        assert_eq!(lines, ["{\"round\":3}", "two"]);
        assert_eq!(asked("echo deaf", 20).unwrap(), ["deaf"]);
    }

    #[test]
    fn what_goes_wrong_with_a_command_is_said() {
        let wrong = |result: Result<Vec<String>>| format!("{:#}", result.unwrap_err());
        assert!(wrong(asked("echo half; exit 3", 20)).contains("ended with exit status: 3"));
        assert!(wrong(asked("sleep 30", 1)).contains("gave no answer within 1 s"));
        let mut missing = question("", 1);
        missing.command = vec!["no-such-command-of-ours".to_owned()];
        let never = AtomicBool::new(false);
        assert!(wrong(of_command(&missing, &never)).contains("cannot be started"));
        let stopped = of_command(&question("sleep 30", 20), &AtomicBool::new(true));
        assert!(stopped.unwrap_err().is::<Interrupted>());
    }

    #[test]
    fn an_answer_is_kept_for_its_question_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key/0-1.jsonl");
        let one = question("true", 1);
        assert_eq!(read(&path, &one).unwrap(), None);
        let lines = ["{\"template\": \"a {}.\"}".to_owned(), "odd".to_owned()];
        write(&path, &one, &lines).unwrap();
        assert_eq!(read(&path, &one).unwrap().unwrap(), lines);
        assert_eq!(read(&path, &question("false", 1)).unwrap(), None);
    }
}
