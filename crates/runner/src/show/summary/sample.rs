//! Made-up records for tests of whatever reads a store.

use std::collections::BTreeMap;

use datasets::{ClassSet, Order, Sessions};

use crate::protocols::{Protocol, Wanted, base_to_novel, few_shot};
use crate::record::{ClassTally, Cost, Outcome, Provenance, Record, SCHEMA, Test};
use crate::store::{Loaded, Planned};

/// Pictures of every made-up test; accuracies in steps of 0.05 points are exact.
const TOTAL: u64 = 2000;

/// A test with this accuracy in percent, spread over two classes.
pub fn test(dataset: &str, class_set: &str, accuracy: f64) -> Test {
    let correct = (accuracy * TOTAL as f64 / 100.0).round() as u64;
    let half = TOTAL / 2;
    let first = correct.min(half);
    Test {
        dataset: dataset.to_owned(),
        class_set: class_set.parse().expect("tests name class sets that are"),
        stage: 0,
        correct,
        total: TOTAL,
        classes: vec![
            ClassTally {
                name: "first".to_owned(),
                correct: first,
                total: half,
            },
            ClassTally {
                name: "second".to_owned(),
                correct: correct - first,
                total: half,
            },
        ],
        recall: None,
        ece: 4.0,
        seconds: 1.5,
    }
}

/// A finished trial on its own dataset: base-to-novel when it has a base set, else few-shot.
pub fn trial(method: &str, dataset: &str, shots: usize, seed: u64, sets: &[(&str, f64)]) -> Record {
    let tests = sets
        .iter()
        .map(|(set, accuracy)| test(dataset, set, *accuracy))
        .collect();
    let protocol = if sets.iter().any(|s| s.0 == "base") {
        &base_to_novel::PROTOCOL
    } else {
        &few_shot::PROTOCOL
    };
    record(protocol, method, dataset, shots, seed, tests)
}

/// A failed base-to-novel trial.
pub fn failed(method: &str, dataset: &str, shots: usize, seed: u64, reason: &str) -> Record {
    let outcome = Outcome::Failed {
        reason: reason.to_owned(),
        step: Some(12),
        last_loss: Some(2.5),
    };
    Record {
        outcome,
        ..record(
            &base_to_novel::PROTOCOL,
            method,
            dataset,
            shots,
            seed,
            vec![],
        )
    }
}

/// A finished trial with these tests.
pub fn record(
    protocol: &'static Protocol,
    method: &str,
    dataset: &str,
    shots: usize,
    seed: u64,
    tests: Vec<Test>,
) -> Record {
    let protocol_name = protocol.name;
    Record {
        schema: SCHEMA,
        key: format!("{protocol_name}-{method}-{dataset}-{shots}shots-seed{seed}-abc123"),
        suite: "sample".to_owned(),
        suite_hash: "00".repeat(32),
        protocol,
        method: method.to_owned(),
        algorithm: method.split("-m").next().unwrap_or(method).to_owned(),
        settings: BTreeMap::from([("n_ctx".to_owned(), 4.into())]).into(),
        suite_settings: BTreeMap::from([("precision".to_owned(), "float32".into())]).into(),
        dataset: dataset.to_owned(),
        shots,
        seed,
        outcome: Outcome::Finished,
        tests,
        losses: vec![1.5, 0.75, 0.5],
        learning_rates: vec![1e-5, 2e-3, 1e-3],
        found: Default::default(),
        notes: Vec::new(),
        titles: BTreeMap::new(),
        cost: Cost {
            train_seconds: 2.5 * method.len() as f64 * shots as f64,
            test_seconds: 3.0,
            scored: 0,
            steps: 50 * shots as u64,
            parameters: 2048 * (1 + method.len() as u64),
            peak_memory: 400_000_000,
            operations: 5e9 * shots as f64,
        },
        provenance: Provenance {
            version: "0.1.0".to_owned(),
            commit: "0123abc".to_owned(),
            backbone: "drawn".to_owned(),
            backbone_fingerprint: "feed".repeat(16),
            split_hash: "5b".repeat(32),
            picks_hash: "91".repeat(32),
            processor: "a processor".to_owned(),
            device: None,
            arithmetic: None,
            threads: 2,
            started: 1_700_000_000 + seed,
        },
    }
}

/// Ten methods.
pub const METHODS: [&str; 10] = [
    "zero-shot",
    "coop",
    "cocoop",
    "kgcoop",
    "prograd",
    "vpt",
    "language-prompting",
    "ivlp",
    "maple",
    "promptsrc",
];

/// Eleven datasets.
pub const DATASETS: [&str; 11] = [
    "imagenet",
    "caltech101",
    "oxford-pets",
    "stanford-cars",
    "flowers102",
    "food101",
    "fgvc-aircraft",
    "sun397",
    "dtd",
    "eurosat",
    "ucf101",
];

/// A number in [-1, 1] that depends on its arguments only.
fn noise(parts: &[usize]) -> f64 {
    let hash = parts.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, p| {
        (h ^ *p as u64).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (hash >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
}

/// Accuracies that look like a paper's: base rises with shots, novel falls for the greedy methods.
fn plausible(method: usize, dataset: usize, shots: usize, seed: usize, class_set: &str) -> f64 {
    let zero = 45.0 + 4.5 * dataset as f64 + 3.0 * noise(&[dataset, 7]);
    let growth = (1.0 + shots as f64).log2() / 4.1;
    let gain = match class_set {
        set if set.starts_with("novel") => {
            growth * (1.1 * (method as f64 - 5.0) + 2.5 * noise(&[method, dataset]))
        }
        _ => {
            growth
                * (100.0 - zero)
                * (0.25 + 0.03 * method as f64 + 0.06 * noise(&[method, dataset]))
        }
    };
    let spread = if method == 0 {
        0.0
    } else {
        1.2 / (1.0 + shots as f64).sqrt()
    };
    let accuracy = zero
        + if method == 0 { 0.0 } else { gain }
        + spread * noise(&[method, dataset, shots, seed, 3]);
    (accuracy.clamp(2.0, 99.5) * 20.0).round() / 20.0
}

/// A test of sessions over as many classes as have been seen, all asked about alike.
fn among(mut test: Test) -> Test {
    let set = test.class_set.among;
    if let ClassSet::Sessions { .. } = set {
        let classes = set.range(20);
        let one = ClassTally {
            name: "one of many".to_owned(),
            correct: test.correct * 100 / test.total,
            total: 100,
        };
        test.classes = vec![one; classes.len()];
        test.correct = test.classes.iter().map(|c| c.correct).sum();
        test.total = test.classes.iter().map(|c| c.total).sum();
    }
    test
}

/// A whole made-up sweep under one protocol; zero-shot once, the others at every number of shots for three seeds.
pub fn sweep(
    protocol: &'static Protocol,
    methods: &[&str],
    datasets: &[&str],
    shots: &[usize],
) -> Loaded {
    let ids: Vec<String> = datasets.iter().map(|d| (*d).to_owned()).collect();
    // Of those that learn several together, the last is never learned.
    let (learned, unseen) = if protocol.fields.contains(&"unseen") && ids.len() > 1 {
        ids.split_at(ids.len() - 1)
    } else {
        (&ids[..], &[][..])
    };
    let wanted = Wanted {
        datasets: learned,
        source: ids.first().map(String::as_str),
        variants: None,
        unseen: Some(unseen),
        sessions: Some(Sessions {
            count: 5,
            first: None,
            order: Order::Shuffled(1993),
        }),
    };
    let starts = protocol.starts(&wanted);
    let mut loaded = Loaded::default();
    for (m, method) in methods.iter().enumerate() {
        let is_trained = *method != "zero-shot";
        for start in &starts {
            let stages = (protocol.stages)(&wanted, start);
            for &k in if is_trained { shots } else { &[0] } {
                for seed in if is_trained { 1..4 } else { 1..2 } {
                    let tests = stages.iter().enumerate().flat_map(|(stage, all)| {
                        all.tests.iter().map(move |(id, set)| {
                            let d = datasets.iter().position(|d| d == id).unwrap_or(0);
                            let name = set.to_string();
                            let accuracy = plausible(m, d, k, seed as usize + 10 * stage, &name);
                            Test {
                                stage,
                                ..among(test(id, &name, accuracy))
                            }
                        })
                    });
                    loaded
                        .records
                        .push(record(protocol, method, start, k, seed, tests.collect()));
                }
            }
        }
    }
    loaded.planned = loaded.records.iter().map(Planned::of).collect();
    loaded
}
