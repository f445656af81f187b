//! `--device cuda` on the null driver: the same numbers as the processor's up to their last digits, recorded, resumed and
//! refused as everywhere else.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]
#![cfg(unix)]

mod bed;
#[path = "../../gpu/tests/null_driver.rs"]
mod null_driver;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bed::{Answer, Bed};
use promptbed::store::Store;
use serde_json::{Value, json};

/// As records have the null driver's card.
const CARD: &str = "cuda:0 null driver (no GPU)";

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

/// The program where the null driver is found.
fn on_card(bed: &Bed, arguments: &[&str]) -> Option<Command> {
    let folder = null_driver::folder()?;
    let mut command = bed.command(arguments);
    command.env("LD_LIBRARY_PATH", folder);
    Some(command)
}

fn answer(mut command: Command) -> Answer {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Answer {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Runs it to an end that must be good.
fn fine(command: Command) -> Answer {
    let answer = answer(command);
    assert_eq!(answer.code, Some(0), "{}\n{}", answer.stdout, answer.stderr);
    answer
}

fn refused(answer: &Answer, wanted: &str) {
    assert_eq!(answer.code, Some(2), "{}", answer.stderr);
    assert!(answer.stderr.contains(wanted), "{}", answer.stderr);
    assert_eq!(answer.stderr.matches("error:").count(), 1);
    assert_eq!(answer.stdout, "");
}

/// Recorded runs of all methods go through the card, within the bounds of the processor.
#[test]
fn every_recorded_run_replays_through_the_card() {
    let bed = Bed::with_suite("");
    let Some(command) = on_card(&bed, &["verify", "--device", "cuda"]) else {
        return;
    };
    let told = fine(command).stdout;
    assert!(told.starts_with(&format!("{CARD}, float32\n")), "{told}");
    assert!(told.ends_with("\n53 of 53 pass\n"), "{told}");
}

#[test]
fn rounded_runs_are_shown_and_have_no_bound() {
    let bed = Bed::with_suite("");
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/published");
    let traces = traces.to_str().unwrap();
    for precision in ["tf32", "half"] {
        let arguments = [
            "verify",
            traces,
            "--device",
            "cuda",
            "--precision",
            precision,
        ];
        let Some(command) = on_card(&bed, &arguments) else {
            return;
        };
        let told = fine(command).stdout;
        assert!(
            told.contains(&format!("no bound yet for {precision}\n")),
            "{told}"
        );
        assert!(told.ends_with("\n6 of 6 ran\n"), "{told}");
        let json = answer(on_card(&bed, &[&arguments[..], &["--json"]].concat()).unwrap());
        let rows: Vec<Value> = serde_json::from_str(&json.stdout).unwrap();
        let worst = rows.iter().map(|r| r["logits"].as_f64().unwrap());
        let worst = worst.fold(0.0, f64::max);
        assert!((1e-4..5e-2).contains(&worst), "{precision}: {worst}");
    }
}

/// `suites/drawn-methods.toml`, which has every method, on a few of the pictures: an epoch each.
fn every_method(bed: &Bed) -> [String; 4] {
    const CLASSES: u64 = 6;
    let drawn = bed.run(&["data", "draw", "drawn-textures", "--out", "."]);
    assert_eq!(drawn.code, Some(0), "{}", drawn.stderr);
    let file = bed.path("textures/split.json");
    let mut split: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for (part, each) in [("train", 4), ("val", 2), ("test", 2)] {
        let mut counts = BTreeMap::new();
        let items = split[part].as_array_mut().unwrap();
        items.retain(|item| {
            let label = item[1].as_u64().unwrap();
            let count = counts.entry(label).or_insert(0);
            *count += 1;
            label < CLASSES && *count <= each
        });
    }
    std::fs::write(&file, split.to_string()).unwrap();
    let suites = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../suites");
    for kind in ["phrases", "sentences"] {
        let to = bed.path("descriptions").join(kind);
        std::fs::create_dir_all(&to).unwrap();
        let from = suites
            .join("descriptions")
            .join(kind)
            .join("drawn-textures.json");
        std::fs::copy(from, to.join("textures.json")).unwrap();
    }
    let text = std::fs::read_to_string(suites.join("drawn-methods.toml")).unwrap();
    let text = text.replace("drawn-textures = texture", "textures = texture");
    let mut suite: toml::Table = text.parse().unwrap();
    let head: toml::Table = r#"
        protocol = ["few-shot", "test-time"]
        datasets = ["textures"]
        shots    = [1]
        views    = "fresh"
    "#
    .parse()
    .unwrap();
    suite.extend(head);
    let methods = suite["method"].as_array_mut().unwrap();
    let mut named: Vec<&str> = methods
        .iter()
        .map(|m| m["name"].as_str().unwrap())
        .collect();
    named.sort_unstable();
    let mut all: Vec<&str> = methods::METHODS.iter().map(|m| m.name).collect();
    all.sort_unstable();
    assert_eq!(named, all, "the suite has every method");
    for method in methods {
        let method = method.as_table_mut().unwrap();
        for (key, value) in [("epochs", 1), ("warmup_epochs", 0)] {
            if method.contains_key(key) {
                method.insert(key.to_owned(), value.into());
            }
        }
    }
    std::fs::write(bed.path("suite.toml"), suite.to_string()).unwrap();
    ["--data", ".", "--catalogue", "textures.toml"].map(str::to_owned)
}

#[test]
fn every_method_runs_on_the_card_to_the_processors_numbers_however_many_beside_it() {
    let bed = Bed::with_suite("");
    if null_driver::folder().is_none() {
        return;
    }
    let data = every_method(&bed);
    let data: Vec<&str> = data.iter().map(String::as_str).collect();
    let run = |out, more: &[&str]| {
        let arguments = [&["run", "suite.toml", "--out", out], &data[..], more].concat();
        fine(on_card(&bed, &arguments).unwrap())
    };
    run("cpu", &["--jobs", "2"]);
    run("card", &["--jobs", "2", "--device", "cuda"]);
    run("alone", &["--jobs", "1", "--device", "cuda:0"]);
    let (cpu, card) = (bed.records("cpu"), bed.records("card"));
    assert!(cpu.keys().eq(card.keys()), "a device is no part of a key");
    assert_eq!(card, bed.records("alone"), "trials side by side");
    for folder in ["predictions", "prompts", "tables"] {
        let [both, alone] = ["card", "alone"].map(|f| bed.files(&format!("{f}/{folder}")));
        assert!(both == alone, "{folder}/");
    }
    let stores = ["cpu", "card"].map(|dir| Store::open(bed.path(dir)).unwrap());
    for (name, there) in &card {
        let here = &cpu[name];
        assert_eq!(here["outcome"], json!({"status": "finished"}), "{name}");
        assert_eq!(there["outcome"], here["outcome"], "{name}");
        let field = |record: &Value, name| record["provenance"].get(name).cloned();
        let device = |record| field(record, "device");
        assert_eq!((device(here), device(there)), (None, Some(CARD.into())));
        let arithmetic = |record| field(record, "arithmetic").is_some();
        assert_eq!((arithmetic(here), arithmetic(there)), (true, false));
        let [losses, others] = [here, there].map(|r| r["losses"].as_array().unwrap().clone());
        assert_eq!(losses.len(), others.len(), "{name}");
        for (a, b) in losses.iter().zip(&others) {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!(
                (a - b).abs() <= 1e-4 * a.abs().max(1.0),
                "{name}: losses {a} and {b}"
            );
        }
        let key = here["key"].as_str().unwrap();
        let [ours, theirs] =
            [0, 1].map(|i| stores[i].read_predictions(key).unwrap().expect("written"));
        for (a, b) in ours.iter().zip(&theirs) {
            let is_near = (a.confidence - b.confidence).abs() < 1e-3;
            // Two classes that are equally likely have half each at most.
            let is_tie = a.confidence < 0.5 + 1e-3;
            let same = a.predicted == b.predicted || is_tie;
            assert!(is_near && same, "{name}: {a:?} and {b:?}");
        }
    }
    let answer = run("cpu", &["--device", "cuda"]);
    assert!(
        answer.stderr.contains("55 were before"),
        "{}",
        answer.stderr
    );
}

#[test]
fn a_run_that_is_stopped_goes_on_to_the_same_bits_on_the_card() {
    let suite = SUITE.replace(
        "name   = \"coop\"\nepochs = 2",
        "name   = \"maple\"\nepochs = 4",
    );
    let bed = Bed::with_suite(&suite);
    let run = [
        "run",
        "suite.toml",
        "--device",
        "cuda",
        "--jobs",
        "1",
        "--checkpoint-every",
    ];
    let every = |seconds, out| on_card(&bed, &[&run[..], &[seconds, "--out", out]].concat());
    let Some(mut command) = every("0", "stopped") else {
        return;
    };
    let child = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    let patience = Instant::now();
    while bed.files("stopped/checkpoints").is_empty() {
        assert!(patience.elapsed() < Duration::from_secs(120));
        assert!(child.try_wait().unwrap().is_none(), "it is over too soon");
        std::thread::sleep(Duration::from_millis(2));
    }
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status();
    assert!(sent.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(75), "come again");
    let again = fine(every("120", "stopped").unwrap());
    assert!(!again.stderr.contains("anew"), "{}", again.stderr);
    fine(every("120", "whole").unwrap());
    assert_eq!(bed.records("stopped"), bed.records("whole"));
    for folder in ["predictions", "prompts"] {
        let [ours, theirs] = ["stopped", "whole"].map(|f| bed.files(&format!("{f}/{folder}")));
        assert!(ours == theirs, "{folder}/");
    }
}

#[test]
fn trials_of_one_table_from_several_devices_are_told() {
    let bed = Bed::with_suite(SUITE);
    let Some(command) = on_card(&bed, &["run", "suite.toml", "--out", "out"]) else {
        return;
    };
    let told = "Trials ran on different devices";
    let by_amx = |records: &BTreeMap<String, Value>| {
        let of = |r: &Value| r["provenance"]["arithmetic"] == "amx";
        records.values().any(of)
    };
    assert!(!fine(command).stdout.contains(told));
    let more = SUITE.replace("seeds    = [1]", "seeds    = [1, 2]");
    std::fs::write(bed.path("suite.toml"), more).unwrap();
    // What starts a worker may say it, too.
    let mut command = on_card(&bed, &["run", "suite.toml", "--out", "out"]).unwrap();
    command.env("PROMPTBED_DEVICE", "cuda");
    let shown = fine(command).stdout;
    // What the processor did without being asked depends on what it has.
    let here = if by_amx(&bed.records("out")) {
        "the processor (amx)"
    } else {
        "the processor"
    };
    let line = format!("  few-shot on drawn: 1 trial on null driver (no GPU), 1 trial on {here}");
    assert!(shown.contains(told) && shown.contains(&line), "{shown}");
    let page = fine(on_card(&bed, &["report", "out", "--out", "page.html"]).unwrap());
    drop(page);
    let page = std::fs::read_to_string(bed.path("page.html")).unwrap();
    assert!(page.contains(told) && page.contains(CARD));
}

#[test]
fn precisions_of_a_card_have_keys_of_their_own_and_the_processor_has_none_of_them() {
    let rounded = |precision| {
        let line = format!("version  = 1\nprecision = \"{precision}\"");
        Bed::with_suite(&SUITE.replace("version  = 1", &line))
    };
    let mut keys = std::collections::BTreeSet::new();
    for precision in ["float32", "tf32", "half"] {
        let bed = rounded(precision);
        if precision != "float32" {
            let needs =
                format!("suite.toml:3: precision: \"{precision}\" needs a GPU (--device cuda)");
            for more in [&[][..], &["--dry-run"]] {
                let arguments = [&["run", "suite.toml", "--model", "no/such"], more].concat();
                refused(&bed.run(&arguments), &needs);
            }
        }
        let run = ["run", "suite.toml", "--out", "out", "--device", "cuda"];
        let Some(command) = on_card(&bed, &run) else {
            return;
        };
        fine(command);
        let records = bed.records("out");
        assert_eq!(records.len(), 1);
        for record in records.values() {
            assert_eq!(record["suite_settings"]["precision"], precision);
            assert!(keys.insert(record["key"].to_string()), "{precision}");
        }
    }
    if clip::ops::bfloat::is_supported() {
        let bed = rounded("bfloat16");
        let run = [
            "run",
            "suite.toml",
            "--model",
            "no/such",
            "--device",
            "cuda",
        ];
        let told = answer(on_card(&bed, &run).unwrap());
        refused(
            &told,
            "suite.toml:3: precision: \"bfloat16\" is of the processor",
        );
    }
}

#[test]
fn what_has_no_suite_takes_a_device_and_a_precision() {
    let bed = Bed::with_suite(SUITE);
    std::fs::write(
        bed.path("texts.json"),
        "[\"a photo of a texture\", \"a texture\"]",
    )
    .unwrap();
    let encode = |out, more: &[&str]| {
        let arguments = [&["encode", "--texts", "texts.json", "--out", out], more].concat();
        fine(on_card(&bed, &arguments)?);
        let read = candle_core::safetensors::load(bed.path(out), &candle_core::Device::Cpu);
        let features = read.unwrap()["text_features"].flatten_all().unwrap();
        Some(features.to_vec1::<f32>().unwrap())
    };
    let Some(cpu) = encode("cpu", &[]) else {
        return;
    };
    let far = |other: &[f32]| {
        let pairs = cpu.iter().zip(other);
        let far = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        far / cpu.iter().map(|v| v.abs()).fold(0.0, f32::max)
    };
    let float32 = far(&encode("card", &["--device", "cuda"]).unwrap());
    let half = far(&encode("half", &["--device", "cuda", "--precision", "half"]).unwrap());
    assert!(
        float32 < 1e-5 && (1e-5..1e-2).contains(&half),
        "{float32} {half}"
    );
    let told = "--precision: \"half\" needs a GPU (--device cuda)";
    let half = [
        "encode",
        "--texts",
        "texts.json",
        "--out",
        "x",
        "--precision",
        "half",
    ];
    refused(&bed.run(&half), told);
    let bench = [
        "bench",
        "--method",
        "coop",
        "--steps",
        "1",
        "--classes",
        "3",
        "--device",
        "cuda",
    ];
    let timed = fine(on_card(&bed, &bench).unwrap()).stdout;
    assert!(timed.starts_with(&format!("{CARD}, float32\n")), "{timed}");
    let dry = ["run", "suite.toml", "--dry-run", "--device", "cuda"];
    let told = fine(on_card(&bed, &dry).unwrap()).stderr;
    assert!(told.contains(&format!("on {CARD} in float32")), "{told}");
    let submit = ["submit", "suite.toml", "--print", "--device", "cuda:1"];
    let script = fine(bed.command(&submit)).stdout;
    assert!(script.contains("--device cuda:1"), "{script}");
    // Of the processor's arithmetic a card knows nothing; what the environment says of the machine is no mistake.
    let mut command = on_card(&bed, &dry).unwrap();
    command.env("PROMPTBED_ARITHMETIC", "emulated");
    fine(command);
    let by = [&dry[..], &["--arithmetic", "emulated"]].concat();
    let told = answer(on_card(&bed, &by).unwrap());
    refused(
        &told,
        "--arithmetic: \"emulated\" is of the processor; on a GPU leave it away",
    );
    let fixed = SUITE.replace("version  = 1", "version  = 1\narithmetic = \"portable\"");
    std::fs::write(bed.path("fixed.toml"), fixed).unwrap();
    let told = answer(on_card(&bed, &["run", "fixed.toml", "--device", "cuda"]).unwrap());
    refused(
        &told,
        "fixed.toml:3: arithmetic: \"portable\" is of the processor",
    );
    let line = fine(on_card(&bed, &[&bench[..], &["--json"]].concat()).unwrap()).stdout;
    let line: Value = serde_json::from_str(&line).unwrap();
    let measured = |name| line.get(name).is_some();
    assert!(
        !["machine_gflops", "share", "arithmetic"]
            .into_iter()
            .any(measured)
    );
    let pretrain = ["pretrain", "recipe.toml", "--out", "x", "--device", "cuda"];
    refused(&bed.run(&pretrain), "runs on the processor only");
}

/// Whether a library of NVIDIA's is found by its name.
fn is_there(names: &[&str]) -> bool {
    // SAFETY: NVIDIA's libraries run their initialisers.
    names
        .iter()
        .any(|name| unsafe { libloading::Library::new(*name) }.is_ok())
}

#[test]
fn without_a_driver_a_card_is_refused_with_what_is_missing_and_auto_takes_the_processor() {
    let all = [
        &["libcuda.so", "libcuda.so.1"][..],
        &["libnvrtc.so", "libnvrtc.so.12", "libnvrtc.so.13"],
        &["libcublasLt.so", "libcublasLt.so.12", "libcublasLt.so.13"],
    ];
    if all.into_iter().any(is_there) {
        eprintln!("SKIPPED: this machine has libraries of NVIDIA's");
        return;
    }
    let bed = Bed::with_suite(SUITE);
    let without = |device, more: &[&str]| {
        let arguments = [&["run", "suite.toml", "--device", device], more].concat();
        let mut command = bed.command(&arguments);
        command.env("LD_LIBRARY_PATH", "");
        answer(command)
    };
    let told = without("cuda", &["--model", "no/such/weights"]);
    refused(&told, "--device cuda:0: no GPU can be used here");
    insta::assert_snapshot!("no-driver", told.stderr);
    refused(&without("gpu", &[]), "must be auto, cpu, cuda or cuda:N");
    let auto = without("auto", &["--out", "out"]);
    assert_eq!(auto.code, Some(0), "{}", auto.stderr);
    assert!(
        auto.stderr.starts_with("device: cpu; no GPU"),
        "{}",
        auto.stderr
    );
    assert!(
        bed.records("out")
            .values()
            .all(|r| r["provenance"].get("device").is_none())
    );
}

#[test]
fn auto_takes_the_card_and_says_so_and_a_card_that_is_not_there_is_refused() {
    let bed = Bed::with_suite(SUITE);
    let auto = ["run", "suite.toml", "--out", "out", "--device", "auto"];
    let Some(command) = on_card(&bed, &auto) else {
        return;
    };
    let told = fine(command).stderr;
    assert!(told.starts_with(&format!("device: {CARD}\n")), "{told}");
    let records = bed.records("out");
    assert!(records.values().all(|r| r["provenance"]["device"] == CARD));
    let other = answer(on_card(&bed, &["verify", "--device", "cuda:7"]).unwrap());
    refused(
        &other,
        "cuda:7 is not there: this machine has one GPU, cuda:0",
    );
}
