//! `precision = "bfloat16"`: other keys, the setting in every record, cached features kept apart, float32 untouched.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]

mod bed;

use bed::Bed;

const SUITE: &str = r#"
version  = 1
protocol = "few-shot"
datasets = ["drawn-textures"]
shots    = [1]
seeds    = [1]
views    = { cached = 2 }

[[method]]
name = "zero-shot"

[[method]]
name   = "coop"
epochs = 2
"#;

fn rounded() -> String {
    SUITE.replace("version  = 1", "version = 1\nprecision = \"bfloat16\"")
}

#[test]
fn another_precision_is_refused_with_those_there_are() {
    let bed =
        Bed::with_suite(&SUITE.replace("version  = 1", "version = 1\nprecision = \"float16\""));
    let answer = bed.run(&["run", "suite.toml"]);
    assert_eq!(answer.code, Some(2), "{}", answer.stderr);
    let wanted = "suite.toml:3: precision: must be \"float32\" or, on a processor with AVX512-BF16, \"bfloat16\", on a \
                  matrix unit \"bfloat16x3\"; on a GPU \"float32\", \"tf32\" or \"half\"";
    assert!(answer.stderr.contains(wanted), "{}", answer.stderr);
    assert_eq!(
        answer.stdout, "",
        "the result goes to standard output, an error does not"
    );
}

#[test]
fn bfloat16_is_refused_where_the_processor_has_it_not() {
    if clip::ops::bfloat::is_supported() {
        eprintln!("SKIPPED: this processor has AVX512-BF16");
        return;
    }
    let answer = Bed::with_suite(&rounded()).run(&["run", "suite.toml"]);
    assert_eq!(answer.code, Some(2), "{}", answer.stderr);
    let wanted = "suite.toml:3: precision: \"bfloat16\" needs a processor with AVX512-BF16";
    assert!(answer.stderr.contains(wanted), "{}", answer.stderr);
}

#[test]
fn bfloat16_trials_have_keys_records_and_cached_features_of_their_own() {
    if !clip::ops::bfloat::is_supported() {
        eprintln!("SKIPPED: this processor has no AVX512-BF16");
        return;
    }
    let bed = Bed::with_suite(SUITE);
    std::fs::write(bed.path("rounded.toml"), rounded()).unwrap();
    let run = |suite: &str, results: &str| {
        let answer = bed.run(&["run", suite, "--out", results, "--cache", "features"]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        bed.records(results)
    };
    let files = || {
        let folders = std::fs::read_dir(bed.path("features")).unwrap();
        // Packed pictures are the same whatever the features.
        let features = folders
            .map(Result::unwrap)
            .filter(|f| f.file_name() != "packs");
        features
            .map(|f| std::fs::read_dir(f.path()).unwrap().count())
            .sum::<usize>()
    };
    let plain = run("suite.toml", "plain");
    let before = files();
    let other = run("rounded.toml", "other");
    assert_eq!(
        files(),
        2 * before,
        "features of another precision are others"
    );
    assert_eq!(
        run("rounded.toml", "again"),
        other,
        "the same numbers again"
    );
    assert_eq!(files(), 2 * before);
    assert_eq!((plain.len(), other.len()), (2, 2));
    for (records, name) in [(&plain, "float32"), (&other, "bfloat16")] {
        for record in records.values() {
            assert_eq!(record["suite_settings"]["precision"], name);
        }
    }
    assert!(plain.keys().all(|key| !other.contains_key(key)));
    // Rounding moves confidences a little, and hardly a picture.
    let of = |records: &std::collections::BTreeMap<String, serde_json::Value>| {
        let record = records
            .values()
            .find(|r| r["method"] == "zero-shot")
            .unwrap();
        let test = &record["tests"][0];
        let (correct, total) = (test["correct"].as_f64(), test["total"].as_f64());
        (
            100.0 * correct.unwrap() / total.unwrap(),
            test["ece"].clone(),
        )
    };
    let ((a, a_error), (b, b_error)) = (of(&plain), of(&other));
    assert!((a - b).abs() < 2.0, "{a} and {b} percent");
    assert_ne!(a_error, b_error, "bfloat16 was used");
}
