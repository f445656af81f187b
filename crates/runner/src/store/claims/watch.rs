//! Workers on other machines, watched: one whose counter stands still for long enough is dead.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Worker;

/// Beats that a worker may miss, whatever the silence it is watched with.
const BEATS: u32 = 4;

/// What has been seen of other machines' workers, by this process's own clock.
pub(super) struct Watch {
    workers: PathBuf,
    silence: Duration,
    seen: HashMap<String, Seen>,
}

struct Seen {
    /// The counter; none where the worker has no file.
    beat: Option<u64>,
    /// When this value was seen first.
    since: Instant,
    /// Whether it has changed while we watched.
    has_changed: bool,
    /// The longest it may stand still.
    silence: Duration,
}

impl Watch {
    pub(super) fn new(workers: PathBuf, silence: Duration) -> Self {
        Self {
            workers,
            silence,
            seen: HashMap::new(),
        }
    }

    /// Looks at a worker now: whether it is dead, or lives; `None` as long as neither is known.
    pub(super) fn is_dead(&mut self, id: &str, now: Instant) -> Option<bool> {
        let file = std::fs::read(self.workers.join(format!("{id}.json"))).ok();
        let worker: Option<Worker> = file.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let beat = worker.as_ref().map(|w| w.beat);
        let every = worker.map_or(0.0, |w| w.every);
        let slowest = Duration::try_from_secs_f64(every).unwrap_or_default() * BEATS;
        let silence = self.silence.max(slowest);
        let seen = self.seen.entry(id.to_owned()).or_insert(Seen {
            beat,
            since: now,
            has_changed: false,
            silence,
        });
        if seen.beat != beat {
            // A worker that took its file away has left, and its claims with it; any that remain are nobody's.
            seen.has_changed = beat.is_some();
            (seen.beat, seen.since, seen.silence) = (beat, now, silence);
        }
        if now.duration_since(seen.since) >= seen.silence {
            return Some(true);
        }
        seen.has_changed.then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts a worker's counter where it belongs.
    fn tell(folder: &std::path::Path, beat: u64, every: f64) {
        let worker = Worker {
            beat,
            every,
            ..Worker::default()
        };
        let json = serde_json::to_vec(&worker).unwrap();
        std::fs::write(folder.join("w.json"), json).unwrap();
    }

    #[test]
    fn a_worker_is_dead_once_its_counter_stood_still_for_the_silence() {
        let folder = tempfile::tempdir().unwrap();
        let seconds = Duration::from_secs;
        let mut watch = Watch::new(folder.path().to_owned(), seconds(300));
        let start = Instant::now();
        tell(folder.path(), 7, 10.0);
        // Not known at first: it may have been dead for days.
        assert_eq!(watch.is_dead("w", start), None);
        assert_eq!(watch.is_dead("w", start + seconds(299)), None);
        // Any other value is a sign of life, one that goes back as well.
        tell(folder.path(), 3, 10.0);
        assert_eq!(watch.is_dead("w", start + seconds(299)), Some(false));
        assert_eq!(watch.is_dead("w", start + seconds(598)), Some(false));
        assert_eq!(watch.is_dead("w", start + seconds(599)), Some(true));
        // One that stirs again lives.
        tell(folder.path(), 4, 10.0);
        assert_eq!(watch.is_dead("w", start + seconds(700)), Some(false));
        // Without a file there is nothing to hear from it.
        std::fs::remove_file(folder.path().join("w.json")).unwrap();
        assert_eq!(watch.is_dead("w", start + seconds(800)), None);
        assert_eq!(watch.is_dead("w", start + seconds(1100)), Some(true));
    }

    #[test]
    fn a_worker_that_beats_slowly_is_given_some_beats() {
        let folder = tempfile::tempdir().unwrap();
        let seconds = Duration::from_secs;
        let mut watch = Watch::new(folder.path().to_owned(), seconds(2));
        let start = Instant::now();
        tell(folder.path(), 1, 10.0);
        assert_eq!(watch.is_dead("w", start), None);
        assert_eq!(watch.is_dead("w", start + seconds(39)), None);
        assert_eq!(watch.is_dead("w", start + seconds(40)), Some(true));
    }
}
