//! Training curves as TensorBoard event files, one folder a trial, written while the trial runs.
//!
//! Written here rather than by a crate: of those published, `tboard` builds only where `protoc` is installed,
//! `tensorboard-rs` brings protobuf 2 (no longer kept) and a second, old copy of `image`, and `tfrecord` some twenty
//! crates. A scalar takes two nested messages of four fields, all of which are below.
//!
//! A file is a row of records: length (u64, little endian), its masked CRC-32C, the bytes, their masked CRC-32C
//! (`tensorflow/core/lib/io/record_writer.cc`). The bytes are an `Event` (`tensorflow/core/util/event.proto`):
//!
//! ```text
//! Event   { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; SessionLog session_log = 7 }
//! Summary { repeated Value { string tag = 1; float simple_value = 2 } value = 1 }
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::record::Test;
use crate::run::trial::{Epoch, Observer, Resumed, Step};

mod history;

/// How the name of an event file of ours ends.
const ENDING: &str = ".promptbed";

/// What a reader follows is at most this old.
const FLUSHED_EVERY: Duration = Duration::from_secs(1);

/// A folder of event files.
#[derive(Clone, Debug)]
pub struct Events {
    folder: PathBuf,
}

impl Events {
    /// Makes `folder`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be made (--tensorboard)", folder.display()))?;
        let folder = folder.to_owned();
        Ok(Self { folder })
    }

    /// The curves of the trial called `key`: a new file in the trial's folder, which takes the place of what an
    /// interrupted run has left there; a trial that goes on takes over what that holds of it.
    pub fn trial(&self, key: &str) -> Curves {
        let folder = self.folder.join(key);
        let now = now();
        let path = folder.join(format!(
            "events.out.tfevents.{:010}.{}{ENDING}",
            now as u64,
            std::process::id()
        ));
        let opened = std::fs::create_dir_all(&folder)
            .and_then(|()| File::create(&path))
            .and_then(|file| Writer::start(BufWriter::new(file), now));
        let mut state = State {
            writer: None,
            flushed: Instant::now(),
            steps: 0,
        };
        match opened {
            Ok(writer) => state.writer = Some(writer),
            Err(e) => lost(&path, &e),
        }
        Curves {
            path,
            state: Mutex::new(state),
        }
    }
}

fn lost(path: &Path, error: &io::Error) {
    crate::say!(
        "note: {}: {error}; the curves of this trial end here, its results do not",
        path.display()
    );
}

/// The curves of one trial. What goes wrong with them is said once and changes nothing of the trial.
pub struct Curves {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    /// None when the file could not be written.
    writer: Option<Writer<BufWriter<File>>>,
    flushed: Instant,
    /// Steps heard of; tests stand after the last.
    steps: u64,
}

impl Curves {
    fn put(&self, step: u64, scalars: &[(&str, f64)], at_once: bool) {
        let mut state = self.state.lock().expect("no panic while held");
        let due = at_once || state.flushed.elapsed() >= FLUSHED_EVERY;
        let Some(writer) = &mut state.writer else {
            return;
        };
        let mut written = writer.scalars(now(), step, scalars);
        if due {
            written = written.and_then(|()| writer.flush());
            state.flushed = Instant::now();
        }
        if let Err(e) = written {
            lost(&self.path, &e);
            state.writer = None;
        }
    }
}

impl Observer for Curves {
    fn resumed(&self, before: &Resumed) {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let events = history::before(folder, &self.path, before);
        let mut state = self.state.lock().expect("no panic while held");
        state.steps = before.steps;
        let Some(writer) = &mut state.writer else {
            return;
        };
        let written = events.iter().try_for_each(|event| writer.record(event));
        if let Err(e) = written.and_then(|()| writer.flush()) {
            lost(&self.path, &e);
            state.writer = None;
        }
    }

    fn stepped(&self, step: &Step) {
        self.state.lock().expect("no panic while held").steps = step.done as u64;
        let rate = step.learning_rate.map(|rate| ("step/learning_rate", rate));
        let scalars: Vec<_> = std::iter::once(("step/loss", step.loss))
            .chain(rate)
            .collect();
        self.put(step.done as u64, &scalars, false);
    }

    fn epoch_ended(&self, epoch: &Epoch) {
        let scalars = [
            ("epoch/loss", epoch.loss),
            ("epoch/learning_rate", epoch.learning_rate),
        ];
        self.put(epoch.done as u64, &scalars, false);
    }

    fn tested(&self, test: &Test) {
        let steps = self.state.lock().expect("no panic while held").steps;
        let tag = format!("accuracy/{}/{}", test.dataset, test.class_set);
        self.put(steps, &[(&tag, test.accuracy())], true);
    }
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |d| d.as_secs_f64())
}

/// Writes events.
struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    fn start(out: W, time: f64) -> io::Result<Self> {
        let mut writer = Self { out };
        let mut version = event(time, 0);
        bytes_field(&mut version, 3, b"brain.Event:2");
        writer.record(&version)?;
        // `SessionLog { status = START }`: a reader forgets what an earlier file of the folder has from step 0 on.
        let mut session = event(time, 0);
        bytes_field(&mut session, 7, &[1 << 3, 1]);
        writer.record(&session)?;
        writer.flush()?;
        Ok(writer)
    }

    fn scalars(&mut self, time: f64, step: u64, scalars: &[(&str, f64)]) -> io::Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut entry = Vec::new();
            bytes_field(&mut entry, 1, tag.as_bytes());
            entry.push(2 << 3 | 5); // 32 bits
            entry.extend((*value as f32).to_le_bytes());
            bytes_field(&mut summary, 1, &entry);
        }
        let mut event = event(time, step);
        bytes_field(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = (bytes.len() as u64).to_le_bytes();
        self.out.write_all(&length)?;
        self.out.write_all(&masked(crc32c(&length)).to_le_bytes())?;
        self.out.write_all(bytes)?;
        self.out.write_all(&masked(crc32c(bytes)).to_le_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn event(time: f64, step: u64) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1]; // 64 bits
    event.extend(time.to_le_bytes());
    event.push(2 << 3); // a varint
    varint(&mut event, step);
    event
}

/// A field of length and bytes.
fn bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// CRC-32C (Castagnoli), bit by bit: an event is a hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

/// So that a checksum of bytes that hold a checksum says something (`tensorflow/core/lib/hash/crc32c.h`).
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, B.4, and the check value of the CRC catalogue.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_scalar_is_laid_out_as_the_published_schema_says() {
        let mut writer = Writer { out: Vec::new() };
        writer.scalars(1.5, 300, &[("a", 0.25)]).unwrap();
        let mut expected = vec![9];
        expected.extend(1.5f64.to_le_bytes());
        expected.extend([16, 0xac, 2]); // 300 = 0b10_0101100
        expected.extend([42, 10, 10, 8, 10, 1, b'a', 21]);
        expected.extend(0.25f32.to_le_bytes());
        assert_eq!(writer.out[..8], (expected.len() as u64).to_le_bytes());
        assert_eq!(writer.out[12..12 + expected.len()], expected);
        assert_eq!(writer.out.len(), 16 + expected.len());
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_only_the_curves() {
        let folder = tempfile::tempdir().unwrap();
        let events = Events::create(&folder.path().join("tb")).unwrap();
        // A file where the trial's folder should be.
        std::fs::write(folder.path().join("tb/key"), "").unwrap();
        let curves = events.trial("key");
        curves.stepped(&Step {
            done: 1,
            all: 2,
            loss: 1.0,
            learning_rate: Some(0.1),
        });
        assert!(curves.state.lock().unwrap().writer.is_none());
    }
}
