//! Hand-written prompts that methods themselves name; a dataset's own prompt comes with its classes.

/// The prompt that CLIP's authors and half of the family use for everything.
pub const PHOTO: &str = "a photo of a {}.";

/// The 80 ImageNet prompts of CLIP's authors, one a line, in their order.
const IMAGENET: &str = include_str!("imagenet-templates.txt");

/// The seven of them that CLIP's authors found to be enough ("select"), which CoOp's ensemble uses.
pub const SELECTED: [&str; 7] = [
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
];

/// All 80, in their order.
pub fn imagenet() -> Vec<&'static str> {
    IMAGENET.lines().filter(|l| !l.is_empty()).collect()
}

/// PromptSRC's teacher: the first 60 of the 80, with [`PHOTO`] moved to the front.
pub fn teacher() -> Vec<&'static str> {
    let others = imagenet().into_iter().filter(|t| *t != PHOTO);
    std::iter::once(PHOTO).chain(others).take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_published_and_each_has_one_place_for_the_name() {
        assert_eq!((imagenet().len(), teacher().len()), (80, 60));
        assert!(
            imagenet()
                .iter()
                .chain(&SELECTED)
                .all(|t| t.matches("{}").count() == 1)
        );
        assert!(SELECTED.iter().all(|t| imagenet().contains(t)));
        assert_eq!(teacher()[59], "itap of the {}.");
    }
}
