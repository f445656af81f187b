//! What shows records: summaries, tables, charts, reports, comparisons, published numbers. Sees the store, never a run.

pub mod analysis;
pub mod compare;
pub(crate) mod looks;
pub mod plot;
pub mod published;
pub mod report;
pub mod summary;
pub mod table;
