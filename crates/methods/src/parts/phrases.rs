//! Templates as words: how one is changed into another, by chance that a seed draws.

use rand_mt::Mt64;

/// Where the class name stands.
const PLACE: &str = "{}";

/// Words that templates are made of beside those of the hand-written ones.
const WORDS: &str = include_str!("template-words.txt");

/// Longest template that is proposed, in words.
const LONGEST: usize = 14;

/// Chances of one round.
pub(crate) struct Chance(Mt64);

impl Chance {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Mt64::new(seed))
    }

    /// A number below `n`, which is not 0. Its bias is below `n / 2^64`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        match of.len() {
            0 => None,
            n => of.get(self.below(n)),
        }
    }
}

/// Every word of `templates` and of the list that ships, once, without the place of the name.
pub(crate) fn words<'a>(templates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let of_templates = templates.into_iter().flat_map(str::split_whitespace);
    for word in of_templates.chain(WORDS.split_whitespace()) {
        let word = word.trim_end_matches(['.', ',']);
        if !word.is_empty() && !word.contains(PLACE) && !all.iter().any(|w| w == word) {
            all.push(word.to_owned());
        }
    }
    all
}

/// Whether the name stands in `template` once, and nothing is odd about the rest.
pub(crate) fn is_template(template: &str) -> bool {
    template.matches(PLACE).count() == 1
        && template.trim() == template
        && !template.contains(|c: char| c.is_control())
}

/// Another template, made of one or two of `parents` by a change or two of their words; `None` where chance made none.
pub(crate) fn changed(parents: &[&str], words: &[String], chance: &mut Chance) -> Option<String> {
    let parent = chance.one(parents)?;
    let mut own: Vec<String> = parent.split_whitespace().map(str::to_owned).collect();
    for _ in 0..=chance.below(2) {
        let place = own.iter().position(|w| w.contains(PLACE))?;
        match chance.below(4) {
            // One word for another.
            0 if own.len() > 1 => {
                let at = chance.below(own.len() - 1);
                let at = if at >= place { at + 1 } else { at };
                let end: String = own[at].chars().filter(|c| ".,".contains(*c)).collect();
                own[at] = chance.one(words)?.clone() + &end;
            }
            // One less.
            1 if own.len() > 1 => {
                let at = chance.below(own.len() - 1);
                own.remove(if at >= place { at + 1 } else { at });
            }
            // What stands before the name, of this; what stands behind, of that.
            2 => {
                let other = chance.one(parents)?;
                let other: Vec<&str> = other.split_whitespace().collect();
                let from = other.iter().position(|w| w.contains(PLACE))?;
                own.truncate(place);
                own.extend(other[from..].iter().map(|w| (*w).to_owned()));
            }
            // One more, before the name.
            _ => {
                let at = chance.below(place + 1);
                own.insert(at, chance.one(words)?.clone());
            }
        }
    }
    let template = own.join(" ");
    (own.len() <= LONGEST && is_template(&template)).then_some(template)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_a_template_with_one_place_and_follows_from_the_seed() {
        let parents = ["a photo of a {}.", "{} texture.", "a {} in a video game."];
        let words = words(parents);
        assert_eq!(words[..4], ["a", "photo", "of", "texture"]);
        assert!(words.iter().all(|w| !w.contains(['{', '.'])));
        let draw = |seed| -> Vec<String> {
            let mut chance = Chance::seeded(seed);
            let all = (0..200).filter_map(|_| changed(&parents, &words, &mut chance));
            all.collect()
        };
        let drawn = draw(1);
        assert!(drawn.len() > 190 && drawn.iter().all(|t| is_template(t)));
        assert_eq!(drawn, draw(1));
        assert_ne!(drawn, draw(2));
        let new = drawn.iter().filter(|t| !parents.contains(&t.as_str()));
        assert!(new.count() > 150);
        let crossed = "a photo of a {} texture.".to_owned();
        let mut chance = Chance::seeded(3);
        let found =
            (0..2000).any(|_| changed(&parents, &words, &mut chance).as_ref() == Some(&crossed));
        assert!(found, "two parents make a child");
    }

    #[test]
    fn a_name_alone_can_grow_and_nothing_comes_of_nobody() {
        let mut chance = Chance::seeded(1);
        let words = words([]);
        let grown = (0..50).filter_map(|_| changed(&["{}"], &words, &mut chance));
        assert!(grown.filter(|t| t != "{}").count() > 5);
        assert_eq!(changed(&[], &words, &mut chance), None);
        assert!(!is_template("no place") && !is_template("{} and {}") && !is_template(" {}"));
    }
}
