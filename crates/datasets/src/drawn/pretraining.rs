//! The drawings and captions on which the small CLIP is pre-trained.

use std::sync::LazyLock;

use serde::Deserialize;

use super::dice::Dice;
use super::draw;
use super::family::{FAMILIES, Family, Parts};
use super::style::Style;
use super::suite::{datasets, is_held_out};
use crate::Rgb;

/// What is said about a pre-training drawing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    /// A template filled with [`Caption::class_text`].
    pub text: String,
    /// The composed name: "red biplane".
    pub class_text: String,
}

/// CLIP's 80 ImageNet templates, in the order of OpenAI's notebook; `{}` is the class name's place.
///
/// Radford et al., <https://github.com/openai/CLIP>, `notebooks/Prompt_Engineering_for_ImageNet.ipynb`.
pub fn imagenet_templates() -> &'static [&'static str] {
    static TEMPLATES: LazyLock<Vec<&'static str>> =
        LazyLock::new(|| include_str!("imagenet-templates.txt").lines().collect());
    &TEMPLATES
}

/// A plain template, which goes with the everyday style.
const PLAIN: &str = "a photo of a {}.";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Look {
    words: Vec<String>,
    style: Style,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Looks {
    look: Vec<Look>,
}

fn looks() -> &'static [Look] {
    static LOOKS: LazyLock<Vec<Look>> = LazyLock::new(|| {
        let looks: Looks =
            toml::from_str(include_str!("looks.toml")).expect("looks.toml is part of the program");
        looks.look
    });
    &LOOKS
}

/// The look that a template speaks of.
fn look_of(template: &str) -> Option<&'static Style> {
    let speaks = |look: &&Look| look.words.iter().any(|w| template.contains(w.as_str()));
    looks().iter().find(speaks).map(|look| &look.style)
}

/// Templates of the suite's datasets that show this family, the broad one aside.
fn family_templates(family: &'static Family) -> impl Iterator<Item = &'static str> {
    let all_of =
        move |d: &&super::DrawnDataset| d.classes.iter().all(|c| std::ptr::eq(c.family, family));
    datasets()
        .iter()
        .filter(all_of)
        .map(|d| d.template.as_str())
}

/// The `index`-th drawing of a pre-training run, `size` pixels a side, with its caption.
///
/// The composition is random, but never one of a novel class of the suite. The same arguments give the
/// same sample, so a run needs no stored data and its epochs no order.
///
/// # Panics
/// When `size` is 0.
pub fn pretraining_sample(seed: u64, index: u64, size: usize) -> (Rgb, Caption) {
    let mut dice = Dice::new("pretraining", seed, index);
    let parts = composition(&mut dice);
    let class_text = name(&parts, &mut dice);
    let template = template(parts.family, &mut dice);
    let everyday = Style::everyday(&mut dice);
    let style = match look_of(template) {
        Some(look) => everyday.through(look),
        // Now and then a look that nobody mentions, so that a plain template does not promise a plain picture.
        None if dice.chance(0.1) => everyday.through(&dice.pick(looks()).style),
        None => everyday,
    };
    let picture = draw(&parts, &style, size, dice);
    (
        picture,
        Caption {
            text: template.replace("{}", &class_text),
            class_text,
        },
    )
}

/// A random composition outside the suite's novel classes.
fn composition(dice: &mut Dice) -> Parts {
    loop {
        let parts = Parts::complete(dice.pick::<&Family>(FAMILIES), &[], dice);
        if !is_held_out(&parts) {
            return parts;
        }
    }
}

/// Says some of what is there: always what a family is named by, most often the rest; one word in six
/// in a rarer way.
fn name(parts: &Parts, dice: &mut Dice) -> String {
    let mut said = Vec::new();
    for (i, slot) in parts.family.slots.iter().enumerate() {
        let word = parts.word(i);
        let rarely = !word.synonyms.is_empty() && dice.chance(0.17);
        let saying = if rarely {
            *dice.pick(word.synonyms)
        } else {
            word.id
        };
        if dice.chance(slot.said) {
            said.push(saying);
        }
    }
    said.join(" ")
}

fn template(family: &'static Family, dice: &mut Dice) -> &'static str {
    let draw = dice.unit();
    let own = family_templates(family).next();
    match own {
        Some(own) if draw < 0.3 => own,
        _ if draw < 0.6 => PLAIN,
        _ => dice.pick::<&str>(imagenet_templates()),
    }
}

/// Every text whose words the shipped token table must cover: class names, all ways to say all words,
/// and templates (with `{}` taken out).
pub fn vocabulary_texts() -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut add = |text: &str| {
        let text = text.replace("{}", " ");
        if !texts.contains(&text) {
            texts.push(text);
        }
    };
    datasets().iter().for_each(|d| {
        add(&d.template);
        d.classes.iter().for_each(|c| add(&c.name));
    });
    imagenet_templates().iter().for_each(|t| add(t));
    FAMILIES.iter().for_each(|f| add(f.id));
    FAMILIES
        .iter()
        .flat_map(|f| f.slots)
        .flat_map(|s| s.words)
        .flat_map(|w| w.sayings())
        .for_each(add);
    texts
}

#[cfg(test)]
mod tests {
    use super::super::SIZE;
    use super::super::suite::DrawnDataset;
    use super::*;
    use std::collections::{HashMap, HashSet};

    const DRAWS: u64 = 200_000;

    fn compositions() -> impl Iterator<Item = (Parts, String)> {
        (0..DRAWS).map(|i| {
            let mut dice = Dice::new("pretraining", 1, i);
            let parts = composition(&mut dice);
            let name = name(&parts, &mut dice);
            (parts, name)
        })
    }

    fn novel() -> impl Iterator<Item = &'static super::super::DrawnClass> {
        datasets()
            .iter()
            .flat_map(|d: &DrawnDataset| &d.classes[d.novel()])
    }

    #[test]
    fn novel_compositions_are_never_drawn_nor_named() {
        let names: HashSet<&str> = novel().map(|c| c.name.as_str()).collect();
        for (parts, name) in compositions() {
            for class in novel() {
                let shown = std::ptr::eq(class.family, parts.family) && parts.answers(&class.fixed);
                assert!(!shown, "{class:?} is drawn");
            }
            assert!(!names.contains(name.as_str()), "{name} is said");
        }
    }

    #[test]
    fn without_the_rule_novel_compositions_would_be_drawn() {
        // The test above can fail: free draws do hit every novel class.
        let mut dice = Dice::new("free", 0, 0);
        let mut hit = HashSet::new();
        for _ in 0..DRAWS {
            let parts = Parts::complete(dice.pick::<&Family>(FAMILIES), &[], &mut dice);
            let shown = |c: &&super::super::DrawnClass| {
                std::ptr::eq(c.family, parts.family) && parts.answers(&c.fixed)
            };
            hit.extend(novel().filter(shown).map(|c| c.name.as_str()));
        }
        let all: HashSet<&str> = novel().map(|c| c.name.as_str()).collect();
        assert_eq!(hit, all);
    }

    #[test]
    fn every_word_of_every_class_is_drawn_and_said_in_other_company() {
        let mut drawn: HashMap<(&str, usize, &str), usize> = HashMap::new();
        let mut said: HashMap<String, usize> = HashMap::new();
        for (parts, name) in compositions() {
            for i in 0..parts.family.slots.len() {
                *drawn
                    .entry((parts.family.id, i, parts.word(i).id))
                    .or_default() += 1;
            }
            for word in name.split(' ') {
                *said.entry(word.to_owned()).or_default() += 1;
            }
        }
        for class in datasets().iter().flat_map(|d| &d.classes) {
            for (slot, value) in class.attributes() {
                let key = (class.family(), class.family.slot(slot).unwrap(), value);
                let times = drawn.get(&key).copied().unwrap_or(0);
                assert!(times > 500, "{class:?}: {value} is drawn {times} times");
            }
            for word in class.name.split(' ') {
                let times = said.get(word).copied().unwrap_or(0);
                assert!(times > 100, "{class:?}: {word} is said {times} times");
            }
        }
    }

    #[test]
    fn a_sample_is_a_function_of_seed_and_index() {
        let (picture, caption) = pretraining_sample(3, 9, SIZE);
        let (again, caption_again) = pretraining_sample(3, 9, SIZE);
        assert_eq!(
            (picture.data.clone(), &caption),
            (again.data, &caption_again)
        );
        assert_ne!(picture.data, pretraining_sample(3, 10, SIZE).0.data);
        assert_ne!(picture.data, pretraining_sample(4, 9, SIZE).0.data);
        assert_eq!(picture.data, pretraining_sample(3, 9, SIZE).0.data);
        assert!(caption.text.contains(&caption.class_text));
    }

    #[test]
    fn every_caption_is_in_the_vocabulary() {
        let split = |t: &str| {
            t.split(|c: char| c.is_whitespace() || ".,".contains(c))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let known: HashSet<String> = vocabulary_texts().iter().flat_map(|t| split(t)).collect();
        for i in 0..20_000 {
            let mut dice = Dice::new("pretraining", 2, i);
            let parts = composition(&mut dice);
            let text = template(parts.family, &mut dice).replace("{}", &name(&parts, &mut dice));
            for word in split(&text) {
                assert!(known.contains(&word), "{word} of `{text}`");
            }
        }
        for class in datasets().iter().flat_map(|d| &d.classes) {
            assert!(
                split(&class.name).iter().all(|w| known.contains(w)),
                "{class:?}"
            );
        }
    }

    #[test]
    fn the_80_templates_are_80_and_every_look_is_spoken_of() {
        assert_eq!(imagenet_templates().len(), 80);
        assert_eq!(
            imagenet_templates().iter().collect::<HashSet<_>>().len(),
            80
        );
        assert!(
            imagenet_templates()
                .iter()
                .all(|t| t.matches("{}").count() == 1)
        );
        for look in looks() {
            assert_eq!(
                look.style.complaints(),
                Vec::<String>::new(),
                "{:?}",
                look.words
            );
            for word in &look.words {
                assert!(
                    imagenet_templates()
                        .iter()
                        .any(|t| t.contains(word.as_str())),
                    "{word}"
                );
            }
        }
        assert!(look_of(PLAIN).is_none());
    }
}
