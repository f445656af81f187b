//! Trials laid into tasks: which runs with which, and in what order. Knows nothing of any engine.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A trial and what it is expected to take.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighed {
    /// Key of its record.
    pub key: String,
    /// Seconds by the estimate; only how they compare matters.
    pub seconds: f64,
}

/// Trials that one process works through, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Task {
    /// Their keys, the longest trial first.
    pub keys: Vec<String>,
    /// Seconds of all by the estimate.
    pub seconds: f64,
}

/// Lays trials into at most `most` tasks (one where that is 0): the longest first, each into the task that has least so
/// far. The longest task is then at most 4/3 of what the best packing has (Graham 1969, *Bounds on multiprocessing
/// timing anomalies*, theorem 2).
///
/// The longest task comes first, for engines start tasks in order; none is empty.
pub fn pack(mut trials: Vec<Weighed>, most: usize) -> Vec<Task> {
    trials.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let mut tasks = vec![Task::default(); most.max(1).min(trials.len())];
    // Bits of numbers that are not negative are in the order of the numbers. Trials that take nothing spread too.
    let empty = (0..tasks.len()).map(|task| Reverse((0, 0, task)));
    let mut least: BinaryHeap<_> = empty.collect();
    for trial in trials {
        let Some(Reverse((_, _, into))) = least.pop() else {
            break;
        };
        let task = &mut tasks[into];
        task.keys.push(trial.key);
        task.seconds += trial.seconds.max(0.0);
        least.push(Reverse((task.seconds.to_bits(), task.keys.len(), into)));
    }
    tasks.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    tasks
}

/// Some of the tasks that follow each other: an engine numbers those of each chunk from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Tasks before it.
    pub offset: usize,
    /// Tasks in it, at least one.
    pub tasks: usize,
}

/// `tasks` tasks in chunks of at most `most` (at least one).
pub fn chunks(tasks: usize, most: usize) -> Vec<Chunk> {
    let most = most.max(1);
    let starts = (0..tasks).step_by(most);
    starts
        .map(|offset| Chunk {
            offset,
            tasks: most.min(tasks - offset),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighed(seconds: &[f64]) -> Vec<Weighed> {
        let trial = |(i, &seconds): (usize, &f64)| Weighed {
            key: format!("t{i}"),
            seconds,
        };
        seconds.iter().enumerate().map(trial).collect()
    }

    fn keys(tasks: &[Task]) -> Vec<String> {
        tasks.iter().map(|t| t.keys.join(" ")).collect()
    }

    #[test]
    fn the_longest_start_first_and_short_ones_share_a_task() {
        let tasks = pack(weighed(&[1.0, 7.0, 2.0, 3.0, 9.0]), 3);
        assert_eq!(keys(&tasks), ["t4", "t1", "t3 t2 t0"]);
        let seconds: Vec<f64> = tasks.iter().map(|t| t.seconds).collect();
        assert_eq!(seconds, [9.0, 7.0, 6.0]);
    }

    #[test]
    fn every_trial_is_in_one_task_and_no_task_is_empty() {
        for trials in [0, 1, 2, 7, 100] {
            let seconds: Vec<f64> = (0..trials).map(|i| f64::from(i * 37 % 11)).collect();
            for most in [0, 1, 2, 3, 64, 1000] {
                let tasks = pack(weighed(&seconds), most);
                assert!(tasks.len() <= most.max(1), "{trials} in {most}");
                assert!(tasks.iter().all(|t| !t.keys.is_empty()), "{trials}, {most}");
                let mut all: Vec<String> = tasks.into_iter().flat_map(|t| t.keys).collect();
                all.sort();
                let mut wanted: Vec<String> =
                    weighed(&seconds).into_iter().map(|t| t.key).collect();
                wanted.sort();
                assert_eq!(all, wanted, "{trials} in {most}");
            }
        }
    }

    #[test]
    fn trials_that_take_the_same_keep_the_order_of_the_suite() {
        assert_eq!(keys(&pack(weighed(&[1.0; 4]), 2)), ["t0 t2", "t1 t3"]);
    }

    #[test]
    fn chunks_start_at_zero_again_and_leave_nothing_out() {
        let chunk = |offset, tasks| Chunk { offset, tasks };
        assert_eq!(chunks(10, 4), [chunk(0, 4), chunk(4, 4), chunk(8, 2)]);
        assert_eq!(chunks(4, 4), [chunk(0, 4)]);
        assert_eq!(chunks(0, 4), []);
    }
}
