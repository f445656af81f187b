use super::*;
use crate::protocols::{base_to_novel, cross_dataset, few_shot};
use crate::record::Record;
use crate::show::summary::sample;

fn fill(store: &Store, records: &[Record]) {
    let planned: Vec<Planned> = records.iter().map(Planned::of).collect();
    store.write_plan("sample", &planned).unwrap();
    for record in records {
        store.write(record).unwrap();
        let mut predictions = Vec::new();
        for (index, test) in record.tests.iter().enumerate() {
            for i in 0..test.total {
                // The sample's first class is filled with right answers first.
                let label = u32::from(i >= test.total / 2);
                let is_right = i < test.classes[0].correct
                    || label == 1 && i - test.total / 2 < test.classes[1].correct;
                predictions.push(Prediction {
                    test_index: index as u32,
                    dataset: test.dataset.clone(),
                    class_set: test.class_set,
                    image: format!("images/{i:04}.jpg"),
                    label,
                    predicted: if is_right { label } else { 1 - label },
                    confidence: 0.3 + 0.7 * (i % 97) as f32 / 97.0,
                });
            }
        }
        store.write_predictions(&record.key, &predictions).unwrap();
    }
}

fn store(records: &[Record]) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path().join("sample")).unwrap();
    fill(&store, records);
    std::fs::write(store.dir().join("suite.toml"), "version = 1 # <script>\n").unwrap();
    (dir, store)
}

#[test]
fn a_whole_folder_says_that_it_is_whole() {
    let loaded = sample::sweep(
        &base_to_novel::PROTOCOL,
        &["zero-shot", "coop"],
        &["dtd", "eurosat"],
        &[1, 16],
    );
    let (_dir, store) = store(&loaded.records);
    let page = render(std::slice::from_ref(&store)).unwrap();
    assert!(page.contains("Every trial asked for is finished"));
    assert!(!page.contains("Read this first"));
    for part in [
        "Base-to-novel generalization",
        "McNemar",
        "Wilcoxon",
        "ECE, base (%)",
        "Trained numbers",
        "CoOp has",
    ] {
        assert!(page.contains(part), "the page lacks {part}");
    }
    assert!(!page.contains("Left out of the tests"));
    // Charts: average, three grids, scatter, cost, reliability.
    assert_eq!(page.matches("<svg ").count(), 7);
}

#[test]
fn the_page_needs_nothing_from_outside() {
    let loaded = sample::sweep(
        &few_shot::PROTOCOL,
        &["zero-shot", "coop"],
        &["dtd"],
        &[1, 16],
    );
    let (_dir, store) = store(&loaded.records);
    let page = render(std::slice::from_ref(&store)).unwrap();
    for outside in ["src=", "<link", "@import", "url(", "fetch("] {
        assert!(!page.contains(outside), "{outside} is in the page");
    }
    let addresses = page.matches("http").count();
    assert_eq!(
        addresses,
        page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count()
    );
}

#[test]
fn everything_is_escaped() {
    let mut loaded = sample::sweep(
        &few_shot::PROTOCOL,
        &["zero-shot", "coop"],
        &["dtd"],
        &[1, 16],
    );
    for record in &mut loaded.records {
        if record.method == "coop" {
            record.method = "<img onerror=alert(1)>".to_owned();
        }
        for test in &mut record.tests {
            test.classes[0].name = "</table><script>alert(2)</script>".to_owned();
        }
        record.provenance.processor = "\"quoted\" & <b>".to_owned();
    }
    let (_dir, store) = store(&loaded.records);
    let page = render(std::slice::from_ref(&store)).unwrap();
    assert!(!page.contains("<img"));
    assert!(!page.contains("<b>"));
    assert_eq!(page.matches("<script>").count(), 1);
    assert!(page.contains("version = 1 # &lt;script&gt;"));
}

#[test]
fn what_is_broken_stands_at_the_top() {
    let mut loaded = sample::sweep(
        &base_to_novel::PROTOCOL,
        &["zero-shot", "coop"],
        &["dtd", "eurosat"],
        &[1, 16],
    );
    let failed = loaded
        .records
        .iter_mut()
        .find(|r| (r.method.as_str(), r.shots, r.seed) == ("coop", 16, 2))
        .unwrap();
    *failed = Record {
        key: failed.key.clone(),
        ..sample::failed("coop", "dtd", 16, 2, "the loss became NaN at step 12")
    };
    let (_dir, store) = store(&loaded.records);
    let path = |key: &str| store.record_path(key);
    let missing = loaded
        .records
        .iter()
        .find(|r| (r.method.as_str(), r.shots, r.seed) == ("coop", 1, 3))
        .unwrap();
    std::fs::remove_file(path(&missing.key)).unwrap();
    std::fs::write(path("half"), "{\"schema\": 1,").unwrap();
    std::fs::write(path("newer"), "{\"schema\": 99}").unwrap();
    let page = render(std::slice::from_ref(&store)).unwrap();
    let top = &page[..page.find("<nav").unwrap()];
    for part in [
        "Read this first",
        "2 files cannot be read",
        "half.json: corrupted",
        "99 is newer than 3",
        "1 trial failed",
        "the loss became NaN at step 12",
        "1 trial missing",
    ] {
        assert!(
            top.contains(part),
            "{part} is not at the top: {}",
            &top[top.find("<header").unwrap()..]
        );
    }
    assert!(page.contains("2 of 3 seeds (1 failed)"));
}

#[test]
fn several_folders_make_one_report() {
    let b2n = sample::sweep(
        &base_to_novel::PROTOCOL,
        &["zero-shot", "coop"],
        &["dtd", "eurosat"],
        &[16],
    );
    let few = sample::sweep(
        &few_shot::PROTOCOL,
        &["zero-shot", "coop"],
        &["dtd", "eurosat"],
        &[1, 16],
    );
    let (_one, first) = store(&b2n.records);
    let (_two, second) = store(&few.records);
    std::fs::remove_file(second.suite_folder("sample").join("plan.json")).unwrap();
    let page = render(&[first, second]).unwrap();
    assert!(
        page.contains("Every trial asked for is finished"),
        "{}",
        &page[..page.find("<nav").unwrap()]
    );
    assert!(page.contains("id=\"base-to-novel\"") && page.contains("id=\"few-shot\""));
}

#[test]
fn an_empty_folder_is_a_page_too() {
    let (_dir, store) = store(&[]);
    let out = store.dir().join("report.html");
    write(&[store.dir().to_owned()], &out).unwrap();
    assert!(
        std::fs::read_to_string(out)
            .unwrap()
            .contains("No trial here yet.")
    );
}

/// `PROMPTBED_LOOK=<folder>` keeps a large made-up report, to be looked at.
#[test]
fn report_to_look_at() {
    let Some(folder) = std::env::var_os("PROMPTBED_LOOK") else {
        return;
    };
    let folder = Path::new(&folder).join("report");
    let mut records = Vec::new();
    for (protocol, shots) in [
        (&base_to_novel::PROTOCOL, &[1, 4, 16][..]),
        (&few_shot::PROTOCOL, &[1, 2, 4, 8, 16]),
        (&cross_dataset::PROTOCOL, &[16]),
    ] {
        records.extend(
            sample::sweep(protocol, &sample::METHODS, &sample::DATASETS[..6], shots).records,
        );
    }
    let broken = records
        .iter()
        .position(|r| (r.method.as_str(), r.shots, r.seed) == ("ivlp", 16, 2))
        .unwrap();
    records[broken].outcome = crate::record::Outcome::Failed {
        reason: "the loss became NaN".to_owned(),
        step: Some(3),
        last_loss: None,
    };
    records[broken].tests.clear();
    let store = Store::create(&folder).unwrap();
    fill(&store, &records);
    std::fs::write(folder.join("trials").join("half.json"), "{").unwrap();
    write(std::slice::from_ref(&folder), &folder.join("report.html")).unwrap();
}
