//! What the processor multiplies by: asked for in a suite, on the command line and in the environment, in every record, in
//! keys where a suite fixes it, refused where a machine has it not.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]

mod bed;

use std::collections::BTreeMap;
use std::path::Path;

use bed::{Answer, Bed};
use clip::ops::Arithmetic;
use serde_json::Value;

const SUITE: &str = r#"
version  = 1
protocol = "few-shot"
datasets = ["drawn-textures"]
shots    = [1]
seeds    = [1]
views    = { cached = 2 }

[[method]]
name   = "coop"
epochs = 2
"#;

const VARIABLE: &str = "PROMPTBED_ARITHMETIC";
/// What a machine without the unit says of it.
fn lacks() -> String {
    let why = Arithmetic::Amx.lack().unwrap();
    format!(
        "\"amx\" cannot be had: {why}; write \"portable\", or \"emulated\" for the unit's bits, slowly"
    )
}

fn suite_by(arithmetic: &str) -> String {
    let line = format!("version  = 1\narithmetic = \"{arithmetic}\"");
    SUITE.replace("version  = 1", &line)
}

/// Runs it with this in the environment.
fn run_where(bed: &Bed, environment: &str, arguments: &[&str]) -> Answer {
    let mut command = bed.command(arguments);
    match environment {
        "" => command.env_remove(VARIABLE),
        said => command.env(VARIABLE, said),
    };
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Answer {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn fine(answer: Answer) -> Answer {
    assert_eq!(answer.code, Some(0), "{}\n{}", answer.stdout, answer.stderr);
    answer
}

fn refused(answer: &Answer, wanted: &str) {
    assert_eq!(answer.code, Some(2), "{}", answer.stderr);
    assert!(answer.stderr.contains(wanted), "{}", answer.stderr);
    assert_eq!(answer.stderr.matches("error:").count(), 1);
    assert_eq!(answer.stdout, "");
}

/// The arithmetics that records name, in the order of keys.
fn recorded(records: &BTreeMap<String, Value>) -> Vec<&str> {
    let named = records.values();
    let named = named.map(|r| r["provenance"]["arithmetic"].as_str());
    named
        .map(|name| name.expect("every record names it"))
        .collect()
}

#[test]
fn another_word_is_refused_with_those_there_are_beside_all_else_that_is_wrong() {
    let text = suite_by("avx512").replace("shots    = [1]", "shots    = [0]");
    let bed = Bed::with_suite(&text);
    let answer = bed.run(&["run", "suite.toml", "--model", "no/such/weights"]);
    let wanted = "suite.toml:3: arithmetic: must be \"portable\", \"amx\" or \"emulated\"; without it, the processor \
                  does \"portable\"\n";
    refused(&answer, wanted);
    assert!(answer.stderr.contains("shots: 0 must be 1 or more"));
    let bed = Bed::with_suite(SUITE);
    let option = bed.run(&["run", "suite.toml", "--arithmetic", "float32"]);
    refused(&option, "must be auto, portable, amx or emulated");
    let variable = run_where(&bed, "avx2", &["run", "suite.toml"]);
    refused(
        &variable,
        "PROMPTBED_ARITHMETIC=avx2: must be auto, portable, amx or emulated",
    );
}

#[test]
fn without_a_matrix_unit_it_is_refused_wherever_it_is_asked_for_before_weights_are_read() {
    if Arithmetic::Amx.is_supported() {
        eprintln!("SKIPPED: this machine has the matrix unit");
        return;
    }
    let lacks = lacks();
    let bed = Bed::with_suite(&suite_by("amx"));
    std::fs::write(bed.path("open.toml"), SUITE).unwrap();
    let nowhere = ["--model", "no/such/weights"];
    for more in [&[][..], &["--dry-run"]] {
        let run = [&["run", "suite.toml"], &nowhere[..], more].concat();
        let wanted = format!("suite.toml:3: arithmetic: {lacks}");
        refused(&run_where(&bed, "portable", &run), &wanted);
    }
    let open = [&["run", "open.toml"], &nowhere[..]].concat();
    let option = [&open[..], &["--arithmetic", "amx"]].concat();
    refused(&bed.run(&option), &format!("--arithmetic: {lacks}"));
    let told = run_where(&bed, "amx", &open);
    refused(&told, &format!("PROMPTBED_ARITHMETIC: {lacks}"));
    refused(
        &bed.run(&["verify", "--arithmetic", "amx"]),
        &format!("--arithmetic: {lacks}"),
    );
    // The same bits from software are no contradiction, and what each machine has is always there.
    fine(bed.run(&["run", "suite.toml", "--arithmetic", "emulated", "--dry-run"]));
    fine(run_where(&bed, "auto", &["run", "open.toml", "--dry-run"]));
}

#[test]
fn a_command_line_against_a_suite_is_refused() {
    let bed = Bed::with_suite(&suite_by("portable"));
    let run = ["run", "suite.toml", "--arithmetic", "emulated"];
    let wanted = "suite.toml:3: arithmetic: \"portable\" has other bits than --arithmetic emulated; leave one of them away";
    refused(&bed.run(&run), wanted);
}

#[test]
fn a_suite_that_leaves_it_open_has_one_key_everywhere_and_every_record_says_what_ran() {
    let bed = Bed::with_suite(SUITE);
    let run = |environment, more: &[&str]| {
        let arguments = [&["run", "suite.toml", "--out", "out"], more].concat();
        fine(run_where(&bed, environment, &arguments))
    };
    let told = "Trials ran on different devices or by different arithmetics";
    let first = run("", &["--arithmetic", "portable"]);
    assert!(!first.stdout.contains(told));
    let records = bed.records("out");
    assert_eq!(recorded(&records), ["portable"]);
    let settings = &records.values().next().unwrap()["suite_settings"];
    assert_eq!(settings.get("arithmetic"), None, "the suite says nothing");
    let again = run("emulated", &[]);
    assert!(again.stderr.contains("1 were before"), "{}", again.stderr);
    assert_eq!(bed.records("out"), records);
    // One more trial by another: it is recorded, and told with the table.
    let more = SUITE.replace("seeds    = [1]", "seeds    = [1, 2]");
    std::fs::write(bed.path("suite.toml"), more).unwrap();
    let mixed = run("emulated", &[]);
    let mut both = bed.records("out");
    let mut names = recorded(&both);
    names.sort_unstable();
    assert_eq!(names, ["emulated", "portable"]);
    let line = "  few-shot on drawn: 1 trial on the processor, 1 trial on the processor (amx)";
    let shown = &mixed.stdout;
    assert!(shown.contains(told) && shown.contains(line), "{shown}");
    let page = ["report", "out", "--out", "page.html"];
    fine(bed.run(&page));
    let page = std::fs::read_to_string(bed.path("page.html")).unwrap();
    assert!(page.contains(told) && page.contains("emulated"));
    // The bits of the emulation are the same again.
    let apart = [
        "run",
        "suite.toml",
        "--out",
        "apart",
        "--arithmetic",
        "emulated",
    ];
    fine(bed.run(&apart));
    both.retain(|_, r| r["provenance"]["arithmetic"] == "emulated");
    let apart = bed.records("apart");
    assert!(both.iter().all(|(name, record)| apart[name] == *record));
}

#[test]
fn a_suite_that_fixes_it_has_keys_and_settings_of_its_own() {
    let bed = Bed::with_suite(SUITE);
    std::fs::write(bed.path("portable.toml"), suite_by("portable")).unwrap();
    std::fs::write(bed.path("emulated.toml"), suite_by("emulated")).unwrap();
    let run = |suite| {
        let out = format!("{suite}.out");
        fine(run_where(&bed, "portable", &["run", suite, "--out", &out]));
        bed.records(&out)
    };
    let all = ["suite.toml", "portable.toml", "emulated.toml"].map(run);
    let keys = all.each_ref().map(|records| records.keys().next().unwrap());
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[2] != keys[0]);
    let names = all.each_ref().map(|records| recorded(records)[0]);
    assert_eq!(names, ["portable", "portable", "emulated"]);
    let settings = all.each_ref().map(|records| {
        let record = records.values().next().unwrap();
        record["suite_settings"]["arithmetic"].as_str()
    });
    assert_eq!(settings, [None, Some("portable"), Some("emulated")]);
    // What was changed in a suite is told.
    std::fs::write(bed.path("suite.toml"), suite_by("portable")).unwrap();
    fine(bed.run(&["run", "suite.toml", "--out", "suite.toml.out"]));
    std::fs::write(bed.path("suite.toml"), suite_by("emulated")).unwrap();
    let told = fine(bed.run(&["run", "suite.toml", "--out", "suite.toml.out"]));
    let wanted = "  arithmetic: emulated, was portable";
    assert!(told.stderr.contains(wanted), "{}", told.stderr);
}

#[test]
fn cached_features_and_predictions_are_those_of_the_bits_that_made_them() {
    let rounded = |arithmetic: &str| {
        let line = "version  = 1\nprecision = \"bfloat16\"";
        suite_by(arithmetic).replace("version  = 1", line)
    };
    let bed = Bed::with_suite(SUITE);
    std::fs::write(bed.path("rounded.toml"), rounded("emulated")).unwrap();
    let files = || {
        let folders = std::fs::read_dir(bed.path("features")).unwrap();
        // Packed pictures are the same whatever the features.
        let features = folders.map(Result::unwrap);
        let features = features.filter(|f| f.file_name() != "packs");
        let counts = features.map(|f| std::fs::read_dir(f.path()).unwrap().count());
        counts.sum::<usize>()
    };
    let run = |suite: &str, arithmetic, out: &str| {
        let arguments = ["run", suite, "--out", out, "--cache", "features"];
        fine(run_where(&bed, arithmetic, &arguments));
        files()
    };
    let one = run("suite.toml", "portable", "portable");
    assert_eq!(run("suite.toml", "emulated", "emulated"), 2 * one);
    assert_eq!(
        run("suite.toml", "emulated", "again"),
        2 * one,
        "found again"
    );
    assert_eq!(run("rounded.toml", "", "rounded"), 3 * one);
    // Other last digits, and hardly another picture.
    let of = |out: &str| {
        let records = bed.records(out);
        let record = records.values().next().unwrap();
        let test = &record["tests"][0];
        let (correct, total) = (test["correct"].as_f64(), test["total"].as_f64());
        let ece = test["ece"].as_f64().unwrap();
        (100.0 * correct.unwrap() / total.unwrap(), ece)
    };
    let [portable, emulated, again] = ["portable", "emulated", "again"].map(of);
    assert_eq!(emulated, again);
    assert_ne!(portable.1, emulated.1, "it multiplied otherwise");
    let far = [portable.0 - emulated.0, portable.1 - emulated.1];
    assert!(
        far.into_iter().all(|d| d.abs() < 1.0),
        "{portable:?} {emulated:?}"
    );
}

#[test]
fn what_has_no_suite_takes_an_arithmetic_and_says_which_ran() {
    let bed = Bed::with_suite(SUITE);
    let trace = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/traces/cocoop");
    let verify = [
        "verify",
        trace.to_str().unwrap(),
        "--arithmetic",
        "emulated",
    ];
    let told = fine(bed.run(&verify)).stdout;
    assert!(told.starts_with("cpu, float32, emulated\n"), "{told}");
    let largest = told.lines().find(|l| l.starts_with("(largest)")).unwrap();
    assert_eq!(largest.split_whitespace().count(), 5, "{largest}");
    assert!(told.ends_with("\n1 of 1 pass\n"), "{told}");
    let rows = fine(bed.run(&[&verify[..], &["--json"]].concat())).stdout;
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    assert_eq!(rows[0]["arithmetic"], "emulated");
    for arithmetic in ["portable", "emulated"] {
        let bench = [
            "bench",
            "--method",
            "coop",
            "--steps",
            "1",
            "--classes",
            "3",
        ];
        let bench = [&bench[..], &["--arithmetic", arithmetic]].concat();
        let told = fine(bed.run(&bench)).stdout;
        let head = told.lines().next().unwrap();
        let wanted = format!("cpu, float32, {arithmetic}: products at ");
        assert!(head.starts_with(&wanted), "{head}");
        assert!(head.ends_with(" GFLOP/s"), "{head}");
        let line = fine(bed.run(&[&bench[..], &["--json"]].concat())).stdout;
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["arithmetic"], arithmetic);
        assert!(line["machine_gflops"].as_f64().unwrap() > 0.0, "{line}");
        assert!(line["share"].as_f64().unwrap() > 0.0, "{line}");
        let dry = ["run", "suite.toml", "--dry-run", "--arithmetic", arithmetic];
        let told = fine(bed.run(&dry)).stderr;
        let wanted = format!("did just now by {arithmetic} arithmetic on drawn weights");
        assert!(told.contains(&wanted), "{told}");
    }
}

#[test]
fn tasks_of_a_cluster_are_told_and_the_machine_that_submits_need_not_have_it() {
    let bed = Bed::with_suite(SUITE);
    std::fs::write(bed.path("amx.toml"), suite_by("amx")).unwrap();
    let script = |environment, more: &[&str]| {
        let arguments = [&["submit", "--print"], more].concat();
        fine(run_where(&bed, environment, &arguments)).stdout
    };
    let told = script("", &["suite.toml", "--arithmetic", "emulated"]);
    assert!(told.contains("--arithmetic emulated"), "{told}");
    assert!(script("portable", &["suite.toml"]).contains("--arithmetic portable"));
    let own = script("portable", &["amx.toml"]);
    assert!(!own.contains("--arithmetic"), "the suite says it: {own}");
    let told = bed.run(&["submit", "--print", "amx.toml", "--arithmetic", "portable"]);
    let wanted = "error: amx.toml:3: arithmetic: \"amx\" has other bits than --arithmetic portable";
    assert_eq!(told.code, Some(2), "{}", told.stderr);
    assert!(told.stderr.contains(wanted), "{}", told.stderr);
}
