//! CLIP (arXiv 2103.00020) with prompts as data.
//!
//! Weights in every format the field uses, the real tokenizer, and towers that take context embeddings, deep prompts
//! and extra image tokens as arguments and are differentiable in those, with nothing else in the graph. No method ever
//! needs a tower of its own.

pub mod changes;
pub mod device;
mod error;
pub mod image;
pub mod model;
pub mod ops;
pub mod pooled;
pub mod prompts;
mod remembered;
pub mod resnet;
pub mod text;
pub mod tokenizer;
pub mod weights;
pub mod wording;

pub use changes::Changes;
pub use error::Error;
pub use image::VisionTransformer;
pub use model::{Clip, ImageTower, Keep};
pub use prompts::{At, DeepImage, DeepText, How, ImagePrompt, TextPrompt};
pub use text::{Slot, TextPlan, TextTower};
pub use tokenizer::Tokenizer;
pub use wording::Wording;
