//! Hand-written prompts that methods themselves name; a dataset's own prompt comes with its classes.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::Classes;

/// Prompts by method and dataset.
static BY_DATASET: LazyLock<BTreeMap<String, BTreeMap<String, String>>> = LazyLock::new(|| {
    toml::from_str(include_str!("templates.toml")).expect("templates.toml is tested")
});

fn listed(method: &str, dataset: &str) -> Option<&'static str> {
    let own = BY_DATASET.get(method)?;
    let family = || {
        own.iter()
            .find(|(id, _)| id.strip_suffix('*').is_some_and(|f| dataset.starts_with(f)))
            .map(|(_, template)| template)
    };
    own.get(dataset).or_else(family).map(String::as_str)
}

/// The prompt that `method`'s authors use for the dataset of `classes`: their own, or else the dataset's.
pub fn of<'a>(method: &str, classes: &'a Classes) -> &'a str {
    listed(method, &classes.dataset).unwrap_or(&classes.template)
}

/// The text that `method`'s authors list for the dataset of `classes`, or `otherwise`.
pub fn listed_or<'a>(method: &str, classes: &Classes, otherwise: &'a str) -> &'a str {
    listed(method, &classes.dataset).unwrap_or(otherwise)
}

/// Whether a dataset's own prompt joins CoOp's ensemble of seven.
pub fn joins_the_ensemble(dataset: &str) -> bool {
    listed("ensemble", dataset).is_none()
}

/// Whether the authors of TDA and Tip-Adapter use the seven instead of the dataset's own prompt.
pub fn has_the_seven(dataset: &str) -> bool {
    listed("seven", dataset).is_some()
}

/// The prompts that the methods that learn on features average: CLIP's seven on ImageNet, elsewhere the dataset's own.
pub fn on_features(classes: &Classes) -> Vec<&str> {
    match listed("seven", &classes.dataset) {
        Some(_) => SELECTED.to_vec(),
        None => vec![&classes.template],
    }
}

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

/// LASP's 35, one a line, in their order (one stands there twice).
const LASP: &str = include_str!("lasp-templates.txt");

/// All of LASP's, in their order.
pub fn lasp() -> Vec<&'static str> {
    LASP.lines().filter(|l| !l.is_empty()).collect()
}

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
    fn what_a_method_does_not_list_has_the_datasets_own_prompt() {
        let of = |method, dataset| {
            let classes = Classes::new(&[], dataset, "own {}.");
            of(method, &classes).to_owned()
        };
        assert_eq!(of("kgcoop", "dtd"), "a photo of a {}, a type of texture.");
        assert_eq!(of("kgcoop", "eurosat"), "own {}.");
        assert_eq!(of("prograd", "imagenet-sketch"), PHOTO);
        assert_eq!(of("prograd", "my-folder"), "own {}.");
        assert!(!joins_the_ensemble("imagenet") && joins_the_ensemble("imagenet-v2"));
        assert!(has_the_seven("imagenet-v2") && !has_the_seven("eurosat"));
        let v2 = Classes::new(&[], "imagenet-v2", "own {}.");
        assert_eq!(on_features(&v2), SELECTED);
        let own = Classes::new(&[], "eurosat", "own {}.");
        assert_eq!(on_features(&own), ["own {}."]);
        let all = BY_DATASET
            .iter()
            .filter(|(method, _)| !["ensemble", "seven"].contains(&method.as_str()));
        for template in all.flat_map(|(_, own)| own.values()) {
            assert_eq!(template.matches("{}").count(), 1, "{template}");
        }
    }

    #[test]
    fn there_are_as_many_as_published_and_each_has_one_place_for_the_name() {
        assert_eq!(
            (imagenet().len(), teacher().len(), lasp().len()),
            (80, 60, 35)
        );
        assert!(
            imagenet()
                .iter()
                .chain(&SELECTED)
                .chain(&lasp())
                .all(|t| t.matches("{}").count() == 1)
        );
        assert!(SELECTED.iter().all(|t| imagenet().contains(t)));
        assert_eq!(teacher()[59], "itap of the {}.");
    }
}
