//! What methods put into the towers, once more with the towers on a card: the same tests, on the null driver.

#[path = "seams/main.rs"]
mod seams;
