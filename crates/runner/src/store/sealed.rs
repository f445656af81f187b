//! A record's file: its JSON, and a checksum that tells every change of it.
//!
//! The last field is `"checksum"`, the SHA-256 (hex) of all bytes before the comma in front of it. Files of older schemas
//! have none.

use serde::Deserialize;
use serde_json::Value;

use crate::record::{Outcome, Record, SCHEMA, from_1};

/// The first schema whose files end in a checksum.
const SEALED_SINCE: u32 = 3;
/// What stands between the bytes that count and their checksum, and after it.
const BEFORE: &[u8] = b",\n  \"checksum\": \"";
const AFTER: &[u8] = b"\"\n}";
const DIGITS: usize = 64;

/// Why a record cannot be had from a file.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// A newer program has written it.
    #[error("{0}")]
    Newer(String),
    /// It is not what was written.
    #[error("{0}")]
    Damaged(String),
}

/// The bytes of a record's file.
///
/// # Errors
/// A value that JSON cannot hold.
pub(super) fn seal(record: &Record) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(record)?;
    let end = bytes.strip_suffix(b"\n}").map_or(bytes.len(), <[u8]>::len);
    bytes.truncate(end);
    let sum = crate::hash::hex(&bytes);
    bytes.extend_from_slice(BEFORE);
    bytes.extend_from_slice(sum.as_bytes());
    bytes.extend_from_slice(AFTER);
    Ok(bytes)
}

/// Whether the file's checksum is that of its bytes; `None` where it has none.
fn holds(bytes: &[u8]) -> Option<bool> {
    let body = bytes.strip_suffix(AFTER)?;
    let (body, sum) = body.split_at_checked(body.len().checked_sub(DIGITS)?)?;
    let body = body.strip_suffix(BEFORE)?;
    Some(crate::hash::hex(body).as_bytes() == sum)
}

/// A record from its file's bytes, or the reason why it cannot be trusted.
pub(super) fn parse(bytes: &[u8], key: &str) -> Result<Record, Unreadable> {
    let is_sealed = match holds(bytes) {
        Some(false) => {
            let reason = "corrupted: its checksum is of other bytes".to_owned();
            return Err(Unreadable::Damaged(reason));
        }
        Some(true) => true,
        None => false,
    };
    let record = record(bytes)?;
    if record.schema >= SEALED_SINCE && !is_sealed {
        let reason = "corrupted: its checksum is missing".to_owned();
        return Err(Unreadable::Damaged(reason));
    }
    match wrong(&record, key) {
        None => Ok(record),
        Some(problem) => Err(Unreadable::Damaged(problem)),
    }
}

/// As much of a record as tells what became of its trial.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Brief {
    schema: u32,
    key: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What it took.
    pub cost: BriefCost,
    /// Where it comes from.
    pub provenance: BriefProvenance,
}

/// As much of a [`crate::record::Provenance`].
#[derive(Clone, Debug, Deserialize)]
pub(super) struct BriefProvenance {
    /// Unix seconds when the trial started.
    pub started: u64,
}

/// As much of a [`crate::record::Cost`].
#[derive(Clone, Debug, Deserialize)]
pub(super) struct BriefCost {
    /// Wall seconds of training.
    pub train_seconds: f64,
    /// Wall seconds of testing.
    pub test_seconds: f64,
}

/// As [`parse`], but reads no more than a [`Brief`] holds where the checksum vouches for the rest.
pub(super) fn brief(bytes: &[u8], key: &str) -> Result<Brief, Unreadable> {
    if holds(bytes) == Some(true)
        && let Ok(brief) = serde_json::from_slice::<Brief>(bytes)
        && brief.schema <= SCHEMA
        && brief.key == key
    {
        return Ok(brief);
    }
    let record = parse(bytes, key)?;
    Ok(Brief {
        schema: record.schema,
        key: record.key,
        outcome: record.outcome,
        cost: BriefCost {
            train_seconds: record.cost.train_seconds,
            test_seconds: record.cost.test_seconds,
        },
        provenance: BriefProvenance {
            started: record.provenance.started,
        },
    })
}

/// Today's record, from any schema.
fn record(bytes: &[u8]) -> Result<Record, Unreadable> {
    let damaged = |e: serde_json::Error| Unreadable::Damaged(format!("corrupted: {e}"));
    // Nearly all are of today's shape: these are read once.
    let read = serde_json::from_slice::<Record>(bytes);
    if let Ok(record) = &read
        && (2..=SCHEMA).contains(&record.schema)
    {
        return read.map_err(damaged);
    }
    #[derive(Deserialize)]
    struct Schema {
        schema: Option<u64>,
    }
    let schema = serde_json::from_slice::<Schema>(bytes).map_err(damaged)?;
    match schema.schema {
        None => Err(Unreadable::Damaged(
            "schema: missing; not a record".to_owned(),
        )),
        Some(0) => Err(Unreadable::Damaged("schema: 0 was never in use".to_owned())),
        Some(newer) if newer > u64::from(SCHEMA) => Err(Unreadable::Newer(format!(
            "schema: {newer} is newer than {SCHEMA}, the newest this program reads; update it"
        ))),
        Some(1) => {
            let mut value: Value = serde_json::from_slice(bytes).map_err(damaged)?;
            from_1(&mut value);
            serde_json::from_value(value).map_err(damaged)
        }
        Some(_) => read.map_err(damaged),
    }
}

/// What no finished trial could have given.
fn wrong(record: &Record, key: &str) -> Option<String> {
    if record.key != key {
        return Some(format!(
            "key: {:?} does not match the file's name",
            record.key
        ));
    }
    if record.outcome == Outcome::Finished && record.tests.is_empty() {
        return Some("tests: a finished trial has at least one".to_owned());
    }
    for (i, test) in record.tests.iter().enumerate() {
        if test.total == 0 || test.correct > test.total {
            return Some(format!(
                "tests[{i}]: {} correct of {} pictures",
                test.correct, test.total
            ));
        }
        let correct: u64 = test.classes.iter().map(|class| class.correct).sum();
        let total: u64 = test.classes.iter().map(|class| class.total).sum();
        if !test.classes.is_empty() && (correct, total) != (test.correct, test.total) {
            return Some(format!(
                "tests[{i}].classes: sum to {correct} of {total}, not {} of {}",
                test.correct, test.total
            ));
        }
    }
    None
}

/// A file with this text for a record, as a program that knows no better would have sealed it.
#[cfg(test)]
pub(super) fn seal_anew(text: &str) -> Vec<u8> {
    let at = text.rfind(",\n  \"checksum\"");
    let body = &text[..at.expect("it was sealed")];
    let sum = crate::hash::hex(body.as_bytes());
    [body.as_bytes(), BEFORE, sum.as_bytes(), AFTER].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::summary::sample;

    fn sealed() -> (Record, Vec<u8>) {
        let record = sample::trial("coop", "dtd", 4, 1, &[("base", 71.5), ("novel", 62.25)]);
        let bytes = seal(&record).unwrap();
        (record, bytes)
    }

    #[test]
    fn a_sealed_record_is_json_and_comes_back() {
        let (record, bytes) = sealed();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["checksum"].as_str().unwrap().len(), DIGITS);
        let back = parse(&bytes, &record.key).unwrap();
        assert_eq!(
            serde_json::to_value(&back).unwrap(),
            serde_json::to_value(&record).unwrap()
        );
    }

    #[test]
    fn a_record_cut_anywhere_is_damaged() {
        let (record, bytes) = sealed();
        for length in 0..bytes.len() {
            let read = parse(&bytes[..length], &record.key);
            assert!(matches!(read, Err(Unreadable::Damaged(_))), "{length}");
        }
        for more in [&b"\n"[..], b"}", b"\0"] {
            let read = parse(&[&bytes[..], more].concat(), &record.key);
            assert!(matches!(read, Err(Unreadable::Damaged(_))));
        }
    }

    #[test]
    fn a_record_with_any_bit_flipped_is_damaged() {
        let (record, mut bytes) = sealed();
        for i in 0..bytes.len() {
            for bit in 0..8 {
                bytes[i] ^= 1 << bit;
                let read = parse(&bytes, &record.key);
                assert!(read.is_err(), "byte {i}, bit {bit}");
                bytes[i] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn a_record_of_schema_2_needs_no_checksum_and_one_of_schema_3_does() {
        let (mut record, _) = sealed();
        for (schema, is_fine) in [(2, true), (3, false)] {
            record.schema = schema;
            let bytes = serde_json::to_vec_pretty(&record).unwrap();
            assert_eq!(parse(&bytes, &record.key).is_ok(), is_fine, "{schema}");
        }
    }
}
