//! `trials.parquet`: the records as one flat table, a row for each trial and test.

use std::collections::BTreeMap;

use polars::prelude::*;

use super::{Loaded, Store, StoreError, predictions::write_parquet};
use crate::record::{Outcome, Record, Test};

impl Loaded {
    /// One row a trial and test; a failed trial is one row whose test columns are null.
    ///
    /// # Errors
    /// When polars refuses a column, which it has no reason to.
    pub fn frame(&self) -> PolarsResult<DataFrame> {
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
        let text = |field: fn(&Record) -> &str| {
            rows.iter()
                .map(|(r, _)| field(r).to_owned())
                .collect::<Vec<_>>()
        };
        let whole =
            |field: fn(&Record) -> u64| rows.iter().map(|(r, _)| field(r)).collect::<Vec<_>>();
        let real =
            |field: fn(&Record) -> f64| rows.iter().map(|(r, _)| field(r)).collect::<Vec<_>>();
        let tested =
            |field: fn(&Test) -> f64| rows.iter().map(|(_, t)| t.map(field)).collect::<Vec<_>>();
        let counted =
            |field: fn(&Test) -> u64| rows.iter().map(|(_, t)| t.map(field)).collect::<Vec<_>>();
        let named =
            |field: fn(&Test) -> &str| rows.iter().map(|(_, t)| t.map(field)).collect::<Vec<_>>();
        type Settings = BTreeMap<String, serde_json::Value>;
        let json = |field: fn(&Record) -> &Settings| {
            let text = |(r, _): &(&Record, _)| {
                serde_json::to_string(field(r)).expect("a map of JSON values is JSON")
            };
            rows.iter().map(text).collect::<Vec<_>>()
        };
        df!(
            "key" => text(|r| &r.key),
            "suite" => text(|r| &r.suite),
            "suite_hash" => text(|r| &r.suite_hash),
            "schema" => whole(|r| u64::from(r.schema)),
            "protocol" => text(|r| r.protocol.name),
            "method" => text(|r| &r.method),
            "algorithm" => text(|r| &r.algorithm),
            "trained_on" => text(|r| &r.dataset),
            "shots" => whole(|r| r.shots as u64),
            "seed" => whole(|r| r.seed),
            "status" => text(|r| match r.outcome {
                Outcome::Finished => "finished",
                Outcome::Failed { .. } => "failed",
            }),
            "reason" => rows.iter().map(|(r, _)| match &r.outcome {
                Outcome::Finished => None,
                Outcome::Failed { reason, .. } => Some(reason.as_str()),
            }).collect::<Vec<_>>(),
            "dataset" => named(|t| &t.dataset),
            "class_set" => rows.iter().map(|(_, t)| t.map(|t| t.class_set.to_string())).collect::<Vec<_>>(),
            "stage" => rows.iter().map(|(_, t)| t.map(|t| t.stage as u64)).collect::<Vec<_>>(),
            "correct" => counted(|t| t.correct),
            "total" => counted(|t| t.total),
            "accuracy" => tested(Test::accuracy),
            "ece" => tested(|t| t.ece),
            "test_seconds" => tested(|t| t.seconds),
            "train_seconds" => real(|r| r.cost.train_seconds),
            "steps" => whole(|r| r.cost.steps),
            "parameters" => whole(|r| r.cost.parameters),
            "peak_memory" => whole(|r| r.cost.peak_memory),
            "operations" => real(|r| r.cost.operations),
            "final_loss" => rows.iter().map(|(r, _)| r.losses.last().copied()).collect::<Vec<_>>(),
            "settings" => json(|r| &r.settings),
            "suite_settings" => json(|r| &r.suite_settings),
            "version" => text(|r| &r.provenance.version),
            "commit" => text(|r| &r.provenance.commit),
            "backbone" => text(|r| &r.provenance.backbone),
            "backbone_fingerprint" => text(|r| &r.provenance.backbone_fingerprint),
            "split_hash" => text(|r| &r.provenance.split_hash),
            "picks_hash" => text(|r| &r.provenance.picks_hash),
            "processor" => text(|r| &r.provenance.processor),
            "threads" => whole(|r| r.provenance.threads as u64),
            "started" => whole(|r| r.provenance.started),
        )
    }
}

impl Store {
    /// Writes `trials.parquet` from what was loaded.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_frame(&self, loaded: &Loaded) -> Result<(), StoreError> {
        let path = self.dir.join("trials.parquet");
        let frame = loaded.frame().map_err(|source| StoreError::Parquet {
            path: path.clone(),
            source,
        })?;
        write_parquet(path, frame)
    }
}
