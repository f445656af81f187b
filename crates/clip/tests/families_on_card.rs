//! Text towers and backbones beyond CLIP's own, once more with the towers on a card: the same tests, on the null driver.

#[path = "families.rs"]
mod families;
