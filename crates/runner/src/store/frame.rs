//! `trials.parquet`: the records as one flat table, a row for each trial and test.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::columns::{self, Values};
use super::{Loaded, Store, StoreError};
use crate::record::{Outcome, Record, Test};

impl Loaded {
    /// One row a trial and test; a failed trial is one row whose test columns are null.
    fn columns(&self) -> Vec<(&'static str, Values<'_>)> {
        let rows: Vec<(&Record, Option<&Test>)> = self
            .records
            .iter()
            .flat_map(|record| {
                let alone = record.tests.is_empty().then_some((record, None));
                record
                    .tests
                    .iter()
                    .map(move |test| (record, Some(test)))
                    .chain(alone)
            })
            .collect();
        let text = |field: fn(&Record) -> &String| {
            let rows = rows.iter().map(|&(r, _)| Some(field(r).as_str().into()));
            Values::Text(rows.collect())
        };
        let word = |field: fn(&Record) -> Option<&str>| {
            let rows = rows.iter().map(|&(r, _)| field(r).map(Cow::from));
            Values::Text(rows.collect())
        };
        let whole = |field: fn(&Record) -> u64| {
            Values::Whole(rows.iter().map(|(r, _)| Some(field(r))).collect())
        };
        let real = |field: fn(&Record) -> Option<f64>| {
            Values::Real(rows.iter().map(|(r, _)| field(r)).collect())
        };
        let tested = |field: fn(&Test) -> f64| {
            Values::Real(rows.iter().map(|(_, t)| t.map(field)).collect())
        };
        let perhaps = |field: fn(&Test) -> Option<f64>| {
            Values::Real(rows.iter().map(|(_, t)| t.and_then(field)).collect())
        };
        let counted = |field: fn(&Test) -> u64| {
            Values::Whole(rows.iter().map(|(_, t)| t.map(field)).collect())
        };
        let named = |field: fn(&Test) -> &String| {
            let rows = rows
                .iter()
                .map(|&(_, t)| t.map(|t| field(t).as_str().into()));
            Values::Text(rows.collect())
        };
        let sets = rows
            .iter()
            .map(|(_, t)| t.map(|t| t.class_set.to_string().into()));
        let sets = Values::Text(sets.collect());
        type Settings = BTreeMap<String, serde_json::Value>;
        let json = |field: fn(&Record) -> &Settings| {
            let text = |(r, _): &(&Record, _)| {
                let json = serde_json::to_string(field(r));
                Some(json.expect("a map of JSON values is JSON").into())
            };
            Values::Text(rows.iter().map(text).collect())
        };
        vec![
            ("key", text(|r| &r.key)),
            ("suite", text(|r| &r.suite)),
            ("suite_hash", text(|r| &r.suite_hash)),
            ("schema", whole(|r| u64::from(r.schema))),
            ("protocol", word(|r| Some(r.protocol.name))),
            ("method", text(|r| &r.method)),
            ("algorithm", text(|r| &r.algorithm)),
            ("trained_on", text(|r| &r.dataset)),
            ("shots", whole(|r| r.shots as u64)),
            ("seed", whole(|r| r.seed)),
            (
                "status",
                word(|r| match r.outcome {
                    Outcome::Finished => Some("finished"),
                    Outcome::Failed { .. } => Some("failed"),
                }),
            ),
            (
                "reason",
                word(|r| match &r.outcome {
                    Outcome::Finished => None,
                    Outcome::Failed { reason, .. } => Some(reason),
                }),
            ),
            ("dataset", named(|t| &t.dataset)),
            ("class_set", sets),
            ("stage", counted(|t| t.stage as u64)),
            ("correct", counted(|t| t.correct)),
            ("total", counted(|t| t.total)),
            ("accuracy", tested(Test::accuracy)),
            ("macro_accuracy", perhaps(Test::macro_accuracy)),
            ("ece", tested(|t| t.ece)),
            ("test_seconds", tested(|t| t.seconds)),
            ("train_seconds", real(|r| Some(r.cost.train_seconds))),
            ("steps", whole(|r| r.cost.steps)),
            ("parameters", whole(|r| r.cost.parameters)),
            ("peak_memory", whole(|r| r.cost.peak_memory)),
            ("operations", real(|r| Some(r.cost.operations))),
            ("final_loss", real(|r| r.losses.last().copied())),
            ("settings", json(|r| &r.settings)),
            ("suite_settings", json(|r| &r.suite_settings)),
            ("version", text(|r| &r.provenance.version)),
            ("commit", text(|r| &r.provenance.commit)),
            ("backbone", text(|r| &r.provenance.backbone)),
            (
                "backbone_fingerprint",
                text(|r| &r.provenance.backbone_fingerprint),
            ),
            ("split_hash", text(|r| &r.provenance.split_hash)),
            ("picks_hash", text(|r| &r.provenance.picks_hash)),
            ("processor", text(|r| &r.provenance.processor)),
            ("device", word(|r| r.provenance.device.as_deref())),
            ("arithmetic", word(|r| r.provenance.arithmetic.as_deref())),
            ("threads", whole(|r| r.provenance.threads as u64)),
            ("started", whole(|r| r.provenance.started)),
        ]
    }
}

impl Store {
    /// Writes `trials.parquet` from what was loaded.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_frame(&self, loaded: &Loaded) -> Result<(), StoreError> {
        columns::write(self.dir.join("trials.parquet"), &loaded.columns())
    }
}
