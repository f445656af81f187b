//! What makes records: suites, their trials, the pictures these see, and the sweep that runs them.

pub mod answers;
pub mod cache;
pub mod changed;
pub mod checkpoint;
pub mod described;
pub mod feed;
pub mod lesson;
pub mod log;
pub mod picked;
pub mod plan;
pub mod population;
pub mod progress;
pub mod prompts;
pub mod rounds;
pub mod sizes;
pub mod suite;
pub mod sweep;
pub mod taught;
pub mod tensorboard;
pub mod testing;
pub mod texts;
pub mod trial;
pub mod work;
