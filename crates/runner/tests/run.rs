//! `run` beside its results: what `--dry-run` tells before, what `--tensorboard` writes meanwhile, and what a report says
//! of a folder that is not whole.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

mod bed;

use std::path::Path;

use bed::{Answer, Bed};
use serde_json::Value;

const SUITE: &str = r#"
version  = 1
protocol = "base-to-novel"
datasets = ["drawn-textures"]
shots    = [2]
seeds    = [1, 2, 3]
views    = { cached = 2 }

[[method]]
name = "zero-shot"

[[method]]
name   = "coop"
epochs = 3
batch  = 4
config = { n_ctx = 4, init = "a photo of a" }

[[method]]
name   = "vpt"
epochs = 2
batch  = 4
"#;

fn fine(answer: &Answer) -> &str {
    assert_eq!(answer.code, Some(0), "{}\n{}", answer.stdout, answer.stderr);
    &answer.stdout
}

/// The names that a dry run lists, and its last line by columns.
fn listed(told: &str) -> (Vec<&str>, Vec<&str>) {
    let names = told.lines().take_while(|l| !l.is_empty()).collect();
    let all = told.lines().last().unwrap().split_whitespace().collect();
    (names, all)
}

#[test]
fn a_dry_run_lists_what_then_runs_and_counts_it() {
    let bed = Bed::with_suite(SUITE);
    let dry = bed.run(&["run", "suite.toml", "--out", "out", "--dry-run"]);
    let (names, all) = listed(fine(&dry));
    assert!(!bed.path("out").exists(), "nothing is written");
    assert!(dry.stderr.contains("An estimate"), "{}", dry.stderr);
    fine(&bed.run(&["run", "suite.toml", "--out", "out"]));
    let records = bed.records("out");
    let mut keys: Vec<String> = names.iter().map(|n| format!("{n}.json")).collect();
    keys.sort();
    assert_eq!(keys, records.keys().cloned().collect::<Vec<_>>());
    let steps: u64 = records
        .values()
        .map(|r| r["cost"]["steps"].as_u64().unwrap())
        .sum();
    assert_eq!(all[..3], ["all", "7", &steps.to_string()], "{}", dry.stdout);
    for (name, record) in &records {
        let counted = record["cost"]["operations"].as_f64().unwrap();
        assert_eq!(counted > 0.0, !name.starts_with("zero-shot"), "{name}");
    }
}

const TAUGHT: &str = r#"
version  = 1
protocol = "base-to-novel"
datasets = ["drawn-textures"]
shots    = [2]
seeds    = [1]

[[method]]
name            = "promptkd"
teacher         = "drawn"
teacher_prompts = "prompts"
epochs          = 1
batch           = 32
"#;

#[test]
fn a_teacher_is_brought_with_its_prompts_and_teaches_on_every_training_picture() {
    let teacher = TAUGHT.replace("promptkd", "promptsrc").replace(
        "teacher         = \"drawn\"\nteacher_prompts = \"prompts\"\n",
        "",
    );
    let bed = Bed::with_suite(&teacher);
    let run = |suite: &str, out: &str| {
        std::fs::write(bed.path("next.toml"), suite).unwrap();
        bed.run(&["run", "next.toml", "--out", out])
    };
    let without = TAUGHT.replace("teacher_prompts = \"prompts\"\n", "");
    let refused = run(&without, "none");
    assert_ne!(refused.code, Some(0));
    let told = "teacher_prompts: is missing: promptkd needs the prompts";
    assert!(refused.stderr.contains(told), "{}", refused.stderr);
    std::fs::create_dir(bed.path("prompts")).unwrap();
    let refused = run(TAUGHT, "none");
    let told = "drawn-textures.safetensors: does not exist (teacher_prompts)";
    assert!(refused.stderr.contains(told), "{}", refused.stderr);

    fine(&bed.run(&["run", "suite.toml", "--out", "teacher"]));
    let (_, learned) = bed.files("teacher/prompts").pop_first().unwrap();
    std::fs::write(bed.path("prompts/drawn-textures.safetensors"), learned).unwrap();
    fine(&run(TAUGHT, "taught"));
    let (trial, record) = bed.records("taught").pop_first().unwrap();
    assert_eq!(record["shots"], 0);
    let dry = bed.run(&["run", "next.toml", "--out", "taught", "--dry-run"]);
    let steps = record["cost"]["steps"].as_u64().unwrap();
    let (_, all) = listed(fine(&dry));
    assert_eq!(all[..3], ["all", "1", &steps.to_string()], "{}", dry.stdout);
    // More than two shots of each base class would be.
    assert!(steps > 2, "{steps}");

    // The same in the published code's layout is the same trial.
    let file = bed.path("prompts/drawn-textures.safetensors");
    let from = file.to_str().unwrap();
    let exported = bed.run(&["export", "--prompts", from, "--out", "published"]);
    let checkpoint = fine(&exported).trim();
    std::fs::rename(bed.path(checkpoint), file.with_extension("pth.tar")).unwrap();
    std::fs::remove_file(&file).unwrap();
    let again = run(TAUGHT, "taught");
    fine(&again);
    assert!(again.stderr.contains("1 were before"), "{}", again.stderr);

    let plain = format!("{without}config = {{ prompted = false }}\n");
    fine(&run(&plain, "taught"));
    assert_eq!(bed.records("taught").len(), 2);
    // Another method's file is told by what is in it, and makes another trial.
    let maple = teacher.replace("promptsrc", "maple");
    std::fs::write(bed.path("suite.toml"), maple).unwrap();
    fine(&bed.run(&["run", "suite.toml", "--out", "maple"]));
    let (_, learned) = bed.files("maple/prompts").pop_first().unwrap();
    std::fs::write(bed.path("prompts/drawn-textures.safetensors"), learned).unwrap();
    run(TAUGHT, "wrong");
    let (other, record) = bed.records("wrong").pop_first().unwrap();
    assert_ne!(trial, other);
    let told = record["outcome"].to_string();
    assert!(
        told.contains("prompt_learner.proj.weight is no parameter"),
        "{told}"
    );
}

#[test]
fn a_teachers_weights_can_be_a_file() {
    let unknown = TAUGHT.replace("\"drawn\"", "\"elsewhere\"");
    let plain = unknown.replace("teacher_prompts = \"prompts\"\n", "");
    let bed = Bed::with_suite(&format!("{plain}config = {{ prompted = false }}\n"));
    let refused = bed.run(&["run", "suite.toml", "--out", "none"]);
    assert_ne!(refused.code, Some(0));
    let told = "teacher (--teacher FILE): backbone \"elsewhere\"";
    assert!(refused.stderr.contains(told), "{}", refused.stderr);
    assert!(!bed.path("none").exists());

    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let file = assets.join("drawn-clip.safetensors");
    let file = file.to_str().unwrap();
    fine(&bed.run(&["run", "suite.toml", "--out", "taught", "--teacher", file]));
    assert_eq!(bed.records("taught").len(), 1);

    let without = Bed::with_suite(SUITE);
    let refused = without.run(&["run", "suite.toml", "--out", "none", "--teacher", file]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    let told = "suite.toml names 0 teachers";
    assert!(refused.stderr.contains(told), "{}", refused.stderr);
}

/// The header of a suite says how many trials it is; the published suites need neither pictures nor weights for that.
#[test]
fn every_papers_suite_says_how_many_trials_it_is_and_can_be_estimated_without_data() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../suites/papers");
    let mut suites = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let header: String = text.lines().take_while(|l| l.starts_with('#')).collect();
        let bed = Bed::with_suite(&text);
        let dry = bed.run(&["run", "suite.toml", "--dry-run"]);
        let (names, all) = listed(fine(&dry));
        let said = format!("= {} trials", names.len());
        assert!(header.contains(&said), "{}: not {said:?}", path.display());
        assert_eq!(all[1], names.len().to_string());
        assert!(dry.stderr.contains("not on disk"), "{}", dry.stderr);
        assert!(
            dry.stderr.contains("no weights were given"),
            "{}",
            dry.stderr
        );
        suites += 1;
    }
    assert!(suites >= 12, "{suites} suites");
}

#[test]
fn a_dry_run_names_what_it_cannot_count() {
    let bed = Bed::with_suite(&SUITE.replace("version", "backbone = \"vit-huge\"\nversion"));
    let told = bed.run(&["run", "suite.toml", "--dry-run"]);
    assert_eq!(told.code, Some(2));
    assert!(
        told.stderr.contains("\"vit-huge\"") && told.stderr.contains("clip-vit-b16"),
        "{}",
        told.stderr
    );
    let bed = Bed::with_suite(&SUITE.replace("drawn-textures", "dtd"));
    let told = bed.run(&["run", "suite.toml", "--dry-run", "--data", "nowhere"]);
    assert_eq!(told.code, Some(2));
    assert!(told.stderr.contains("nowhere"), "{}", told.stderr);
}

/// Steps and scalars of the events in a file: the fields that this program writes, in the order it writes them.
fn scalars(bytes: &[u8]) -> Vec<(u64, String, f32)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    fn field<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
        let length = varint(bytes) as usize;
        let (field, rest) = bytes.split_at(length);
        *bytes = rest;
        field
    }
    let (mut rest, mut found) = (bytes, Vec::new());
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let mut event = &rest[12..12 + length];
        rest = &rest[16 + length..];
        event = &event[10..]; // the wall time and the step's tag
        let step = varint(&mut event);
        if event[0] != 5 << 3 | 2 {
            continue;
        }
        event = &event[1..];
        let mut summary = field(&mut event);
        while !summary.is_empty() {
            summary = &summary[1..];
            let mut value = field(&mut summary);
            value = &value[1..];
            let tag = String::from_utf8(field(&mut value).to_vec()).unwrap();
            found.push((
                step,
                tag,
                f32::from_le_bytes(value[1..5].try_into().unwrap()),
            ));
        }
    }
    found
}

#[test]
fn event_files_hold_the_curves_of_every_trial_and_change_nothing() {
    let bed = Bed::with_suite(SUITE);
    fine(&bed.run(&["run", "suite.toml", "--out", "plain"]));
    fine(&bed.run(&[
        "run",
        "suite.toml",
        "--out",
        "out",
        "--tensorboard",
        "events",
    ]));
    let records = bed.records("out");
    assert_eq!(records, bed.records("plain"));
    for (name, record) in records {
        let key = name.strip_suffix(".json").unwrap();
        let files = bed.files(&format!("events/{key}"));
        assert_eq!(files.len(), 1, "{key}");
        let all = scalars(files.values().next().unwrap());
        let values = |tag: &str| -> Vec<(u64, f32)> {
            let own = all.iter().filter(|(_, t, _)| t == tag);
            own.map(|(step, _, value)| (*step, *value)).collect()
        };
        let steps = record["cost"]["steps"].as_u64().unwrap();
        let seen: Vec<u64> = values("step/loss").iter().map(|v| v.0).collect();
        assert_eq!(seen, (1..=steps).collect::<Vec<_>>(), "{key}");
        for (tag, field) in [
            ("epoch/loss", "losses"),
            ("epoch/learning_rate", "learning_rates"),
        ] {
            let kept: Vec<f32> = record[field]
                .as_array()
                .unwrap()
                .iter()
                .map(|v| v.as_f64().unwrap() as f32)
                .collect();
            let seen: Vec<f32> = values(tag).iter().map(|v| v.1).collect();
            assert_eq!(seen, kept, "{key} {tag}");
        }
        for test in record["tests"].as_array().unwrap() {
            let of = |field: &str| test[field].as_f64().unwrap();
            let tag = format!(
                "accuracy/drawn-textures/{}",
                test["class_set"].as_str().unwrap()
            );
            let accuracy = (100.0 * of("correct") / of("total")) as f32;
            assert_eq!(values(&tag), [(steps, accuracy)], "{key}");
        }
    }
}

/// Rewrites the record whose name begins with `start`.
fn change(bed: &Bed, start: &str, change: impl FnOnce(&mut Value) -> Option<String>) {
    let files = bed.files("out/trials");
    let (name, bytes) = files.iter().find(|(n, _)| n.starts_with(start)).unwrap();
    let mut record: Value = serde_json::from_slice(bytes).unwrap();
    let path = bed.path(format!("out/trials/{name}"));
    match change(&mut record) {
        Some(text) => std::fs::write(path, text).unwrap(),
        None => std::fs::remove_file(path).unwrap(),
    }
}

#[test]
fn a_folder_that_is_not_whole_says_so_first_and_averages_only_what_is() {
    let bed = Bed::with_suite(SUITE);
    fine(&bed.run(&["run", "suite.toml", "--out", "out"]));
    let seed = |method: &str, seed: u32| format!("{method}-drawn-textures-2shot-seed{seed}");
    change(&bed, &seed("coop", 1), |_| None);
    change(&bed, &seed("coop", 2), |r| {
        r["schema"] = 99.into();
        Some(r.to_string())
    });
    change(&bed, &seed("vpt", 1), |r| {
        let text = r.to_string();
        Some(text[..text.len() / 2].to_owned())
    });
    change(&bed, &seed("vpt", 2), |r| {
        r["outcome"] = serde_json::json!({ "status": "failed", "reason": "the loss became NaN" });
        r["tests"] = Value::Array(Vec::new());
        // As a program before checksums would have written it.
        r["schema"] = 2.into();
        r.as_object_mut().unwrap().remove("checksum");
        Some(r.to_string())
    });
    let told = bed.run(&["report", "out"]);
    let page = std::fs::read_to_string(bed.path("out/report.html")).unwrap();
    let (top, rest) = page.split_once("<nav").unwrap();
    for part in ["Read this first", "99", "the loss became NaN"] {
        assert!(
            top.contains(part),
            "{part} stands at the top\n{}",
            told.stderr
        );
    }
    for (method, number) in [("coop", 1), ("coop", 2), ("vpt", 1), ("vpt", 2)] {
        assert!(
            top.contains(&format!("{method} drawn-textures 2 shots seed {number}"))
                || top.contains(&seed(method, number)),
            "{method} {number}"
        );
    }
    // Of three seeds one is whole: no mean of it is shown as if it were of three.
    let table = bed.run(&["table", "out"]).stdout;
    let rows: Vec<&str> = table
        .lines()
        .filter(|l| l.contains("CoOp") || l.contains("VPT"))
        .collect();
    assert!(
        !rows.is_empty() && rows.iter().all(|r| r.contains('-') && !r.contains('.')),
        "{table}"
    );
    assert!(
        table
            .lines()
            .any(|l| l.contains("Zero-shot") && l.contains('.')),
        "{table}"
    );
    assert!(rest.contains("Zero-shot CLIP"));
}
