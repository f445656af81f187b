//! Families: a kind of thing that can be drawn, with the words that say what varies about it.
//!
//! A family is one file: its words, the order in which they are said, and its drawing. To add one, write
//! the file and add its `FAMILY` to [`FAMILIES`].

use super::canvas::Canvas;
use super::dice::Dice;
use super::{actions, aircraft, cars, flowers, food, objects, pets, satellite, scenes, textures};

/// One value of a slot: its name in `drawn.toml`, which is also how it is usually said, and rarer ways
/// to say it.
#[derive(Debug)]
pub(super) struct Word {
    pub(super) id: &'static str,
    pub(super) synonyms: &'static [&'static str],
}

impl Word {
    pub(super) const fn new(id: &'static str, synonyms: &'static [&'static str]) -> Self {
        Self { id, synonyms }
    }

    /// Every way to say it, the usual one first.
    pub(super) fn sayings(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.id).chain(self.synonyms.iter().copied())
    }
}

/// Something that varies: the kind, the colour, the weather.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: &'static str,
    pub(super) words: &'static [Word],
    /// Share of pre-training captions that say it.
    pub(super) said: f32,
}

/// A kind of thing that can be drawn.
pub(super) struct Family {
    pub(super) id: &'static str,
    /// In the order in which a name says them: "striped", "orange", "cat".
    pub(super) slots: &'static [Slot],
    /// What lies behind the subject; covers the sheet.
    pub(super) ground: fn(&mut Canvas, &Parts, &mut Dice),
    /// The subject, in the box that the pose has placed.
    pub(super) subject: fn(&mut Canvas, &Parts, &mut Dice),
    /// Whether its mirror image is the same thing.
    pub(super) flips: bool,
    /// Whether the subject fills the sheet (a scene, a texture), so that strays lie upon it.
    pub(super) fills: bool,
}

/// The families, in no particular order but a fixed one: pre-training picks by position.
pub(super) static FAMILIES: &[&Family] = &[
    &objects::FAMILY,
    &pets::FAMILY,
    &cars::FAMILY,
    &flowers::FAMILY,
    &food::FAMILY,
    &aircraft::FAMILY,
    &scenes::FAMILY,
    &textures::FAMILY,
    &satellite::FAMILY,
    &actions::FAMILY,
];

impl Family {
    /// The family of that name.
    pub(super) fn named(id: &str) -> Option<&'static Family> {
        FAMILIES.iter().copied().find(|f| f.id == id)
    }

    /// Position of the slot of that name.
    pub(super) fn slot(&self, name: &str) -> Option<usize> {
        self.slots.iter().position(|s| s.name == name)
    }
}

impl std::fmt::Debug for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Family({})", self.id)
    }
}

/// More slots than any family has.
pub(super) const MOST_SLOTS: usize = 4;

/// A value for every slot of a family: what one picture shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) family: &'static Family,
    /// Position of each slot's value among its words.
    values: [u8; MOST_SLOTS],
}

impl Parts {
    /// The given values; the slots left open are drawn.
    pub(super) fn complete(family: &'static Family, fixed: &[Option<u8>], dice: &mut Dice) -> Self {
        let mut values = [0; MOST_SLOTS];
        for (i, slot) in family.slots.iter().enumerate() {
            let drawn = dice.below(slot.words.len()) as u8;
            values[i] = fixed.get(i).copied().flatten().unwrap_or(drawn);
        }
        Self { family, values }
    }

    /// Value of a slot, as the name in its list of words. The slot must be one of the family's.
    pub(super) fn get(&self, slot: &str) -> &'static str {
        let i = self
            .family
            .slot(slot)
            .expect("a drawing asks for its own family's slots");
        self.word(i).id
    }

    pub(super) fn word(&self, slot: usize) -> &'static Word {
        &self.family.slots[slot].words[usize::from(self.values[slot])]
    }

    /// Whether these parts are among those that `fixed` describes.
    pub(super) fn answers(&self, fixed: &[Option<u8>]) -> bool {
        fixed
            .iter()
            .zip(self.values)
            .all(|(want, have)| want.is_none_or(|w| w == have))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_names_of_its_own_and_few_enough_slots() {
        for (i, family) in FAMILIES.iter().enumerate() {
            assert!(
                FAMILIES[..i].iter().all(|other| other.id != family.id),
                "{}",
                family.id
            );
            assert!(
                (2..=MOST_SLOTS).contains(&family.slots.len()),
                "{}",
                family.id
            );
        }
    }

    #[test]
    fn no_saying_of_a_family_means_two_things() {
        for family in FAMILIES {
            let mut seen = Vec::new();
            for word in family.slots.iter().flat_map(|s| s.words) {
                for saying in word.sayings() {
                    assert!(!seen.contains(&saying), "{}: {saying}", family.id);
                    seen.push(saying);
                }
            }
        }
    }

    #[test]
    fn open_slots_vary_and_fixed_ones_do_not() {
        let family = Family::named("cars").unwrap();
        let fixed = [Some(2), None];
        let mut dice = Dice::new("parts", 0, 0);
        let drawn: Vec<Parts> = (0..50)
            .map(|_| Parts::complete(family, &fixed, &mut dice))
            .collect();
        assert!(drawn.iter().all(|p| p.answers(&fixed)));
        assert!(drawn.iter().any(|p| p.word(1).id != drawn[0].word(1).id));
    }
}
