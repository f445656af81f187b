//! What a claim costs: 64 workers on one folder, each claiming and ending trials until all are done.
//!
//! `cargo bench --bench claims [-- TRIALS]`; for a shared file system set TMPDIR to a folder on it.

#![allow(clippy::print_stdout, reason = "prints its figures")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use promptbed::store::StoreError;
use promptbed::store::claims::{Claims, SILENCE, Tried};

const WORKERS: usize = 64;

fn main() {
    let told = std::env::args().skip(1).find_map(|a| a.parse().ok());
    let trials: usize = told.unwrap_or(6400);
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let join = || Claims::join(dir.path(), SILENCE).expect("the folder is ours");
    let workers: Vec<Claims> = (0..WORKERS).map(|_| join()).collect();
    let next = AtomicUsize::new(0);
    let clock = Instant::now();
    let times: Vec<Duration> = std::thread::scope(|scope| {
        let started: Vec<_> = workers
            .iter()
            .map(|claims| {
                let next = &next;
                scope.spawn(move || {
                    let mut times = Vec::new();
                    loop {
                        // Two workers want each trial, as where all go through one list.
                        let number = next.fetch_add(1, Ordering::Relaxed) / 2;
                        if number >= trials {
                            return times;
                        }
                        let clock = Instant::now();
                        let key = format!("coop-drawn-textures-16shot-seed{number}-0123456789");
                        if let Tried::Ours(claim) = claims.claim(&key).expect("the folder is ours")
                        {
                            let ended = claim.end(|| Ok::<_, StoreError>(()));
                            ended.expect("the folder is ours").expect("it was ours");
                        }
                        times.push(clock.elapsed());
                    }
                })
            })
            .collect();
        let ended = started.into_iter().map(|t| t.join().expect("no panic"));
        ended.flatten().collect()
    });
    let all = clock.elapsed().as_secs_f64();
    let mut times: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!(
        "{WORKERS} workers, {} claims tried for {trials} trials: {:.3} ms of the folder's time each; median {:.2} ms, 99 of \
         100 within {:.2} ms",
        times.len(),
        all * 1e3 / times.len() as f64,
        at(0.5),
        at(0.99)
    );
}
