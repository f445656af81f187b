//! What a run leaves: where it goes, and whether it got there.

use super::*;

// cockroachdb/cockroach#14435
#[test]
fn a_tilde_that_no_shell_expands_is_the_home_folder() {
    let bed = Bed::with_suite(ZERO_SHOT);
    std::fs::create_dir(bed.path("home")).unwrap();
    let run = |out: &str| {
        let mut command = bed.command(&["run", "suite.toml", out]);
        let output = command.env("HOME", bed.path("home")).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    let (code, told) = run("--out=~/results");
    assert_eq!(code, Some(0), "{told}");
    assert!(bed.path("home/results/trials").is_dir() && !bed.path("~").exists());
    let (code, told) = run("--out=~nobody/results");
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("another user's home"), "{told}");
    assert!(!bed.path("~nobody").exists());
}

// sharkdp/fd#737; torognes/vsearch#243
#[test]
#[cfg(target_os = "linux")]
fn a_result_that_cannot_be_printed_is_an_error_said_once() {
    let bed = Bed::with_suite(ZERO_SHOT);
    picture(&bed, "p.png", 40, 30);
    let split = json!({"train": [["a", 0, "a"]], "val": [], "test": [["b", 0, "a"]]});
    write(&bed, "split.json", split.to_string());
    ends(&bed, 0, &["run", "suite.toml", "--out", "done"]);
    for arguments in [
        &["methods"][..],
        &["data", "list"],
        &[
            "data",
            "picks",
            "--split-file",
            "split.json",
            "--shots",
            "1",
            "--seed",
            "1",
        ],
        &["data", "check", "--data", "."],
        &["data", "pixels", "p.png", "--size", "8"],
        &["model", "list"],
        &["model", "check", "drawn"],
        &["predict", "p.png", "--classes", "cat,dog"],
        &["encode", "--images", "p.png", "--out", "f"],
        &["run", "suite.toml", "--out", "done"],
        &["run", "suite.toml", "--dry-run"],
        &["table", "done"],
        &["report", "done"],
        &["compare", "done", "done"],
        &["cache", "list", "."],
        &["run", "--help"],
        &["--help"],
        &["--version"],
    ] {
        let full = || {
            Stdio::from(
                std::fs::File::options()
                    .write(true)
                    .open("/dev/full")
                    .unwrap(),
            )
        };
        let output = bed.command(arguments).stdout(full()).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        let lines: Vec<&str> = told.lines().filter(|l| l.starts_with("error:")).collect();
        assert_eq!(lines.len(), 1, "{arguments:?}: {told}");
        assert!(
            lines[0].contains("standard output: cannot be written"),
            "{told}"
        );
    }
    // A reader that went away is no error.
    let mut child = bed
        .command(&["methods"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

#[test]
#[cfg(unix)]
fn outputs_that_are_no_plain_files_stay_what_they_are() {
    let bed = Bed::with_suite("");
    picture(&bed, "p.png", 40, 30);
    let encode = |out: &str| ["encode", "--images", "p.png", "--out", out].map(str::to_owned);
    let run = |code: i32, out: &str| {
        let arguments = encode(out);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        ends(&bed, code, &arguments)
    };
    run(0, "whole");
    let whole = std::fs::read(bed.path("whole")).unwrap();
    // A link is followed, over several links, and one that leads nowhere yet makes its file.
    std::fs::create_dir(bed.path("far")).unwrap();
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, bed.path(at)).unwrap();
    write(&bed, "far/file", b"old");
    link("far/file", "one");
    link("one", "two");
    run(0, "two");
    assert!(bed.path("one").is_symlink() && bed.path("two").is_symlink());
    assert_eq!(std::fs::read(bed.path("far/file")).unwrap(), whole);
    link("far/new", "dangling");
    run(0, "dangling");
    assert!(bed.path("dangling").is_symlink());
    assert_eq!(std::fs::read(bed.path("far/new")).unwrap(), whole);
    link("knot", "knot");
    assert!(run(2, "knot").stderr.contains("leads to itself"));
    // A folder is refused and kept.
    let answer = run(2, "far");
    assert!(
        answer.stderr.contains("far: is a folder"),
        "{}",
        answer.stderr
    );
    assert!(bed.path("far/file").is_file());
    // A device is written to.
    run(0, "/dev/null");
    let kind = std::fs::metadata("/dev/null").unwrap().file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&kind));
    // A pipe too: whoever reads it gets the bytes.
    let made = std::process::Command::new("mkfifo")
        .arg(bed.path("pipe"))
        .status();
    if made.is_ok_and(|s| s.success()) {
        let path = bed.path("pipe");
        let reader = std::thread::spawn(move || std::fs::read(path).unwrap());
        run(0, "pipe");
        assert_eq!(reader.join().unwrap(), whole);
        let kind = std::fs::symlink_metadata(bed.path("pipe"))
            .unwrap()
            .file_type();
        assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind));
    } else {
        eprintln!("skipped: a pipe, there is no mkfifo");
    }
    // Standard output is written through, before the lines that tell what was written.
    if Path::new("/dev/stdout").exists() {
        let output = bed
            .command(&["encode", "--images", "p.png", "--out", "/dev/stdout"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stdout.starts_with(&whole));
    }
    let names = std::fs::read_dir(bed.path(".")).unwrap();
    let names = names.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let left: Vec<String> = names.filter(|n| n.ends_with(".tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_reason_that_many_trials_share_is_told_once() {
    let suite = suite_on("mine")
        .replace("zero-shot", "coop")
        .replace("seeds = [1]", "seeds = [1, 2, 3]");
    let bed = Bed::with_suite(&suite);
    let long = "very ".repeat(90);
    let list = |range: std::ops::Range<u32>| -> Vec<_> {
        let named = [(0, long.trim()), (1, "dog")];
        let of = |(c, name)| {
            range
                .clone()
                .map(move |i| json!([format!("c{c}/{i}.png"), c, name]))
        };
        named.into_iter().flat_map(of).collect()
    };
    let split = json!({"train": list(0..2), "val": [], "test": list(2..4)});
    for class in 0..2 {
        for i in 0..4 {
            picture(&bed, &format!("pics/c{class}/{i}.png"), 40, 30);
        }
    }
    write(&bed, "split.json", split.to_string());
    let row = "[mine]\nimages = \"pics\"\nreader = \"split-json\"\nsplit = \"split.json\"\n";
    write(&bed, "cat.toml", row);
    let run = [
        "run",
        "suite.toml",
        "--data",
        ".",
        "--catalogue",
        "cat.toml",
        "--out",
        "out",
    ];
    let answer = ends(&bed, 1, &run);
    for text in [&answer.stdout, &answer.stderr] {
        assert_eq!(
            text.matches("very very").count().min(1),
            text.matches("tokens").count().min(1)
        );
        assert!(text.matches("tokens").count() <= 1, "{text}");
        assert_eq!(text.matches(": as ").count(), 2, "{text}");
    }
}
