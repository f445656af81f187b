use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;

use super::*;

/// A process of this machine that has ended.
fn dead() -> Process {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let mut process = Process::this().clone();
    process.pid = child.id();
    process
}

/// A process of another machine.
fn elsewhere(number: u32) -> Process {
    Process {
        host: format!("host-{number}"),
        machine: format!("{number:012x}"),
        pid: 1,
        started: 1,
    }
}

const SHORT: Duration = Duration::from_millis(600);

fn left(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for folder in [CLAIMS, WORKERS] {
        for entry in std::fs::read_dir(dir.join(folder)).unwrap() {
            names.push(entry.unwrap().file_name().into_string().unwrap());
        }
    }
    names
}

fn is_ours(tried: &Tried) -> bool {
    matches!(tried, Tried::Ours(_))
}

#[test]
fn a_trial_is_one_worker_s_until_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let one = Claims::join(dir.path(), SILENCE).unwrap();
    let two = Claims::join_as(dir.path(), SILENCE, elsewhere(2)).unwrap();
    let Tried::Ours(claim) = one.claim("k").unwrap() else {
        panic!("nobody else had it");
    };
    match two.claim("k").unwrap() {
        Tried::Held { by, .. } => assert_eq!(by.process, *Process::this()),
        Tried::Ours(_) => panic!("it was held"),
    }
    assert_eq!(
        all(dir.path()).unwrap()["k"].process.pid,
        std::process::id()
    );
    let written = claim.end(|| Ok::<_, StoreError>(7)).unwrap();
    assert_eq!(written, Some(7));
    assert!(is_ours(&two.claim("k").unwrap()));
    // Dropped unfinished, it is free as well.
    assert!(is_ours(&one.claim("k").unwrap()));
    drop((one, two));
    assert_eq!(left(dir.path()), [""; 0]);
}

#[test]
fn a_dead_worker_s_trial_is_taken_over_at_once_on_its_machine() {
    let dir = tempfile::tempdir().unwrap();
    let gone = Claims::join_as(dir.path(), SILENCE, dead()).unwrap();
    let Tried::Ours(claim) = gone.claim("k").unwrap() else {
        panic!("nobody else had it");
    };
    let heir = Claims::join(dir.path(), SILENCE).unwrap();
    assert!(is_ours(&heir.claim("k").unwrap()));
    assert_eq!(heir.taken_over(), 1);
    // It was not dead after all (in this test): it learns that the trial is another's before it writes anything.
    let written = claim.end(|| Ok::<_, StoreError>(()));
    assert_eq!(written.unwrap(), None);
}

#[test]
fn a_silent_worker_of_another_machine_loses_its_trials_and_notices() {
    let dir = tempfile::tempdir().unwrap();
    let far = Claims::join_as(dir.path(), SHORT, elsewhere(1)).unwrap();
    let Tried::Ours(claim) = far.claim("k").unwrap() else {
        panic!("nobody else had it");
    };
    let near = Claims::join(dir.path(), SHORT).unwrap();
    far.beating.fall_silent();
    let silent = Instant::now();
    assert!(!is_ours(&near.claim("k").unwrap()));
    let taken = loop {
        match near.claim("k").unwrap() {
            Tried::Ours(taken) => break taken,
            Tried::Held { lives, .. } => assert!(!lives && silent.elapsed() < 200 * SHORT),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(silent.elapsed() >= SHORT);
    assert!(!claim.is_lost());
    beat::look(&far.shared);
    assert!(claim.is_lost());
    assert_eq!(claim.end(|| Ok::<_, StoreError>(())).unwrap(), None);
    assert_eq!(taken.end(|| Ok::<_, StoreError>(())).unwrap(), Some(()));
}

#[test]
fn a_process_that_died_while_it_ended_a_claim_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let gone = Claims::join_as(dir.path(), SILENCE, dead()).unwrap();
    let Tried::Ours(claim) = gone.claim("k").unwrap() else {
        panic!("nobody else had it");
    };
    let token = all(dir.path()).unwrap()["k"].token.clone();
    // One dead process was about to end the claim of another, and a third to end that.
    let (_, end) = gone.take_end(&token).unwrap().unwrap();
    gone.take_end(&end.token).unwrap().unwrap();
    let heir = Claims::join(dir.path(), SILENCE).unwrap();
    assert!(is_ours(&heir.claim("k").unwrap()));
    std::mem::forget(claim);
    drop((gone, heir));
    assert_eq!(left(dir.path()), [""; 0]);
}

#[test]
fn what_dead_workers_left_is_tidied_away_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let gone = Claims::join_as(dir.path(), SILENCE, dead()).unwrap();
    let far = Claims::join_as(dir.path(), SILENCE, elsewhere(1)).unwrap();
    let near = Claims::join(dir.path(), SILENCE).unwrap();
    for (claims, key) in [(&gone, "gone"), (&far, "far"), (&near, "near")] {
        let Tried::Ours(claim) = claims.claim(key).unwrap() else {
            panic!("nobody else had it");
        };
        std::mem::forget(claim);
    }
    let Some((_, end)) = gone.take_end("of nothing").unwrap() else {
        panic!("nobody else had it");
    };
    assert_eq!(end.key, "of nothing");
    near.tidy().unwrap();
    let mut left = left(dir.path());
    left.sort();
    let mut expected = vec!["far.json".to_owned(), "near.json".to_owned()];
    for process in [&elsewhere(1), Process::this()] {
        expected.push(format!("{}.json", process.id()));
    }
    expected.sort();
    assert_eq!(left, expected);
}

#[test]
fn a_claim_cut_short_by_a_power_failure_is_dead_after_the_silence() {
    let dir = tempfile::tempdir().unwrap();
    let near = Claims::join(dir.path(), SHORT).unwrap();
    std::fs::write(near.path("k"), "{\"tok").unwrap();
    let started = Instant::now();
    assert!(!is_ours(&near.claim("k").unwrap()));
    while !is_ours(&near.claim("k").unwrap()) {
        assert!(started.elapsed() < 20 * SHORT);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(started.elapsed() >= SHORT);
}

/// 64 workers on 640 trials, of which some die with a claim in their hands: each trial is ended exactly once, and a
/// claim takes less than 5 ms.
#[test]
fn sixty_four_workers_do_every_trial_once() {
    const WORKERS_: usize = 64;
    const TRIALS: usize = 640;
    let dir = tempfile::tempdir().unwrap();
    let done: Vec<AtomicUsize> = (0..TRIALS).map(|_| AtomicUsize::new(0)).collect();
    // A third of the workers bear the names of dead processes, so that the others take over what they hold.
    let workers: Vec<Claims> = (0..WORKERS_)
        .map(|i| {
            let process = if i % 3 == 0 {
                dead()
            } else {
                Process::this().clone()
            };
            Claims::join_as(dir.path(), SILENCE, process).unwrap()
        })
        .collect();
    let start = Barrier::new(WORKERS_);
    std::thread::scope(|scope| {
        for (number, claims) in workers.iter().enumerate() {
            let (done, start) = (&done, &start);
            scope.spawn(move || {
                start.wait();
                for (i, done) in done.iter().enumerate() {
                    let dies = number % 3 == 0;
                    if done.load(Ordering::SeqCst) > 0 || dies && i % 5 > 0 {
                        continue;
                    }
                    let Tried::Ours(claim) = claims.claim(&format!("trial-{i}")).unwrap() else {
                        continue;
                    };
                    if dies {
                        std::mem::forget(claim);
                        continue;
                    }
                    if done.load(Ordering::SeqCst) > 0 {
                        continue;
                    }
                    let count = || {
                        done.fetch_add(1, Ordering::SeqCst);
                        Ok::<_, StoreError>(())
                    };
                    claim.end(count).unwrap();
                }
            });
        }
    });
    let last = Claims::join(dir.path(), SILENCE).unwrap();
    for (i, done) in done.iter().enumerate() {
        let times = done.load(Ordering::SeqCst);
        if times == 0 {
            let claimed = last.claim(&format!("trial-{i}")).unwrap();
            assert!(is_ours(&claimed), "trial {i} is held by nobody who lives");
        }
        assert!(times <= 1, "trial {i} was ended {times} times");
    }
    last.tidy().unwrap();
    let claims = files(&dir.path().join(CLAIMS)).unwrap();
    assert!(claims.is_empty(), "{claims:?}");
}
