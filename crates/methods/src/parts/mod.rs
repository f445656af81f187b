//! What several methods are built of. A method's own file reads only these, never another method's.

pub(crate) mod class_tokens;
pub(crate) mod conditional;
pub(crate) mod context;
pub(crate) mod coupled;
pub(crate) mod hosts;
pub(crate) mod image_tokens;
pub(crate) mod independent;
pub mod layout;
pub(crate) mod lead;
pub mod losses;
pub mod templates;
pub(crate) mod transport;
