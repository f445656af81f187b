//! Reads event files of ours back, so that the curves of a trial that goes on hold every step once.

use std::path::{Path, PathBuf};

use super::{ENDING, crc32c, masked};
use crate::run::trial::Resumed;

/// What an event tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Step,
    Epoch,
    Test,
}

/// A record's bytes, and what follows it; nothing at the end, or where a writer was killed.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (_, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (event, rest) = rest.split_at_checked(length)?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    (masked(crc32c(event)) == u32::from_le_bytes(*crc)).then_some((event, rest))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

/// The first field `number` that holds bytes.
fn field(mut bytes: &[u8], number: u64) -> Option<&[u8]> {
    while !bytes.is_empty() {
        let (key, rest) = varint(bytes)?;
        bytes = match key & 7 {
            0 => varint(rest)?.1,
            1 => rest.get(8..)?,
            2 => {
                let (length, rest) = varint(rest)?;
                let (inside, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                if key >> 3 == number {
                    return Some(inside);
                }
                rest
            }
            5 => rest.get(4..)?,
            _ => return None,
        };
    }
    None
}

/// By the tag of an event's first scalar.
fn kind(event: &[u8]) -> Option<Kind> {
    let tag = field(field(field(event, 5)?, 1)?, 1)?;
    let tag = std::str::from_utf8(tag).ok()?;
    match tag.split_once('/')?.0 {
        "step" => Some(Kind::Step),
        "epoch" => Some(Kind::Epoch),
        "accuracy" => Some(Kind::Test),
        _ => None,
    }
}

/// Events of what was done before, of one file.
fn of(file: &[u8], before: &Resumed) -> Vec<Vec<u8>> {
    let (mut rest, mut kept) = (file, Vec::new());
    let mut left = [before.steps, before.epochs as u64, before.tests as u64];
    while let Some((event, others)) = record(rest) {
        rest = others;
        let Some(kind) = kind(event) else {
            continue;
        };
        let left = &mut left[kind as usize];
        if *left > 0 {
            *left -= 1;
            kept.push(event.to_vec());
        }
    }
    kept
}

/// Events of what was done before, of the file in `folder` other than `own` that holds most of them: each holds the trial
/// from its first step.
pub(super) fn before(folder: &Path, own: &Path, before: &Resumed) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|e| e.path())
        .filter(|p| p != own && p.to_string_lossy().ends_with(ENDING))
        .collect();
    paths.sort();
    let all = paths.iter().filter_map(|path| std::fs::read(path).ok());
    all.map(|bytes| of(&bytes, before))
        .max_by_key(Vec::len)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::run::tensorboard::{Curves, Events};
    use crate::run::trial::{Epoch, Observer, Step};

    fn epochs(curves: &Curves, epochs: std::ops::Range<usize>) {
        for epoch in epochs {
            for step in 0..2 {
                curves.stepped(&Step {
                    done: 2 * epoch + step + 1,
                    all: 8,
                    loss: 0.5,
                    learning_rate: Some(0.1),
                });
            }
            curves.epoch_ended(&Epoch {
                done: epoch + 1,
                loss: 0.5,
                learning_rate: 0.1,
            });
        }
    }

    fn kinds(path: &Path) -> Vec<Kind> {
        let bytes = std::fs::read(path).unwrap();
        let (mut rest, mut kinds) = (&bytes[..], Vec::new());
        while let Some((event, others)) = record(rest) {
            kinds.extend(kind(event));
            rest = others;
        }
        kinds
    }

    #[test]
    fn curves_of_a_trial_that_goes_on_hold_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let events = Events::create(folder.path()).unwrap();
        let killed = events.trial("key");
        epochs(&killed, 0..3);
        let path = killed.path.clone();
        drop(killed);
        // A name of another process, and half a record at the end.
        let older = path.with_file_name(format!("events.out.tfevents.0000000001.1{ENDING}"));
        std::fs::rename(&path, &older).unwrap();
        let mut bytes = std::fs::read(&older).unwrap();
        assert_eq!(kinds(&older).len(), 9);
        bytes.extend_from_within(..20);
        std::fs::write(&older, bytes).unwrap();

        let again = events.trial("key");
        again.resumed(&Resumed {
            steps: 3,
            epochs: 1,
            tests: 0,
        });
        again.stepped(&Step {
            done: 4,
            all: 8,
            loss: 0.5,
            learning_rate: Some(0.1),
        });
        let path = again.path.clone();
        drop(again);
        use Kind::{Epoch as E, Step as S};
        assert_eq!(kinds(&path), [S, S, E, S, S]);
    }
}
