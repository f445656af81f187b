//! The text towers, which take prompts as data: CLIP's causal one, and BERT's and SigLIP's, in which all rows of a text see
//! each other.
//!
//! Sequences are cut after their end token, lie packed without padding, and what some of them share at their start (start
//! token, shared context, shared deep prompts, first words of class names) is computed once for them. All three are
//! exact: the tower is causal, and its output is read at the end token (arXiv 2103.00020, section 2.4). In the other towers
//! sequences lie packed just the same, each for itself.
//!
//! # One example through all stages
//!
//! *"a photo of a sea horse."* and *"a photo of a sea lion."*
//!
//! 1. **Sequences** ([`Slot`]): two times nine slots, from the start token to the end token. A method puts
//!    [`Slot::Context`] where its learned vectors stand in place of words.
//! 2. **Plan** (`plan.rs`, made by [`TextTower::plan`]): sequences are sorted, so that those that start with the same
//!    slots lie side by side, and cut into pieces of at most 1,024 rows (step 7): one piece, here. A [`TextPlan`] is its
//!    pieces, and the order in which features were asked for: that of the two texts is theirs already.
//! 3. **Tree** (`tree.rs`), one a piece: what sequences start with once, then what is each one's own; three nodes, twelve
//!    rows. The last row of a sequence is always its own, for there it is read.
//!
//!    ```text
//!    node 0   rows 0-5    start a photo of a sea
//!    node 1   rows 6-8      horse . end
//!    node 2   rows 9-11     lion . end
//!    ```
//! 4. **Layout** ([`crate::ops::Layout`]): which rows see which. A row sees the rows of the nodes above its own, those
//!    before it in its own, and itself: row 10 sees 0 to 5, 9 and 10, at the positions 0 to 7 of its sequence. Rows get
//!    the embeddings of their tokens or context rows, and of these positions.
//! 5. **Blocks** (`tower.rs`): each takes all twelve rows, but for the last: there keys and values are of all rows,
//!    queries and the MLP of the two rows that are read, 8 and 11. Rows that enter at a block ([`crate::How::Insert`])
//!    enter a node: three of them behind the start token make node 0 nine rows long, and the layout anew. A prompt that
//!    begins behind the first block (MMRL's rows enter at the sixth) finds what enters its first block done: it depends on
//!    nothing that is trained, so that each piece keeps it from the first time on.
//! 6. **Features**: two, from `ln_final` and the projection of the two rows.
//! 7. **Pieces** (`pieces.rs`): forward takes one after the other and keeps as many of their graphs as
//!    [`TextTower::memory`] lets; backward encodes the others again, one at a time, so that the bound changes no bit.
//!
//! The order of stages 2 and 3 makes contexts of their own (of each class, task or picture) nothing special: their slots
//! name other rows, so that the tree parts where they begin.

mod family;
mod pieces;
mod plan;
mod sequence;
mod tower;
mod tree;

pub(crate) use family::Head;
pub use family::{Family, Pooling};
pub(crate) use pieces::of_piece;
pub(crate) use plan::{Identity, Part};
pub use plan::{TextPlan, layouts};
pub use sequence::Slot;
pub use tower::TextTower;
pub(crate) use tree::Packed;
