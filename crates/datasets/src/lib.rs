//! From folders of pictures to pixels: the catalogue of datasets, their splits, few-shot picks, and what a CLIP is
//! shown of a picture, as the published code of the CoOp family sees it.
//!
//! ```text
//! catalogue row -> reader -> split -> picks -> class set
//!      pictures -> decode -> transform, views -> pixels
//! ```
//! Nothing here knows a model. Nothing prints: what should be said is a [`Note`] or an [`Error`].

pub mod catalogue;
pub mod check;
pub mod cpython;
pub mod decode;
pub mod drawn;
pub mod fetch;
pub mod load;
pub mod numpy;
pub mod pack;
pub mod picks;
pub mod sheet;
pub mod stream;
pub mod transform;
pub mod views;

mod class_set;
mod dataset;
mod error;
mod picture;
mod readers;
mod split;

pub use catalogue::{Catalogue, Row};
pub use class_set::{ClassSet, Order, Sessions};
pub use dataset::{Dataset, Folder, Note, open, open_picture};
pub use decode::{DecodeError, decode};
pub use error::{Error, Problem, ProblemKind};
pub use pack::Pack;
pub use picks::Picks;
pub use picture::{Pictures, Rgb};
pub use readers::{ClassNames, class_names_file, is_picture_name, split_file};
pub use split::{Item, Origin, Part, Split, class_names};
pub use stream::Stream;
