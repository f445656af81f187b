//! What measures: benchmarks, estimates before a run, replays of recorded trajectories.

pub mod bench;
pub mod estimate;
pub mod replay;
