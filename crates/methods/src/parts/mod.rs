//! What several methods are built of. A method's own file reads only these, never another method's.

pub(crate) mod adapter;
pub(crate) mod cache;
pub(crate) mod class_tokens;
pub(crate) mod conditional;
pub(crate) mod context;
pub(crate) mod coupled;
pub(crate) mod described;
pub(crate) mod grid;
pub(crate) mod hosts;
pub(crate) mod image_tokens;
pub(crate) mod independent;
pub(crate) mod inside;
pub mod layout;
pub(crate) mod lead;
pub mod losses;
pub(crate) mod rows;
pub(crate) mod shots;
pub(crate) mod stages;
pub mod templates;
pub(crate) mod texts;
pub(crate) mod transport;
pub(crate) mod tuning;
pub mod views;
pub(crate) mod wording;
