//! What a method used beside its few shots: what makes a comparison fair or not, from the methods' own entries.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use methods::{Needs, Sees, Training, Validation};

use crate::record::Record;

/// What a method of a section uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uses {
    /// Kind of method.
    pub group: &'static str,
    /// What it learned from.
    pub learned: String,
    /// What it used of the pictures it was tested on.
    pub target: &'static str,
    /// Models and texts beside CLIP and class names.
    pub extra: &'static str,
    /// Whether its settings are the same for every dataset.
    pub settings: &'static str,
    /// Whether its scores know which classes were trained on.
    pub split: &'static str,
}

/// Headings of [`Uses::row`].
pub const HEADS: [&str; 7] = [
    "Method",
    "Kind",
    "Learned from",
    "Of the test pictures",
    "Beside CLIP",
    "Settings",
    "Knows the split",
];

impl Uses {
    /// A row under [`HEADS`].
    pub fn row(&self, name: String) -> [String; 7] {
        [
            name,
            self.group.to_owned(),
            self.learned.clone(),
            self.target.to_owned(),
            self.extra.to_owned(),
            self.settings.to_owned(),
            self.split.to_owned(),
        ]
    }
}

/// What the method of a record asked for, with the settings it ran with; `None` for a method that this program has not.
fn needs(record: &Record) -> Option<Needs> {
    let entry = methods::find(&record.algorithm)?;
    let is_own = |key: &str| !Training::KEYS.contains(&key);
    let own = record.settings.iter().filter(|(k, _)| is_own(k));
    let table = own.filter_map(|(k, v)| Some((k.clone(), toml::Value::try_from(v).ok()?)));
    Some(entry.read(table.collect()).config.needs())
}

/// Whether the record's method chose by test pictures or by a whole validation split.
pub fn peeks(record: &Record) -> bool {
    needs(record).is_some_and(|n| n.peeks || n.validation == Validation::Whole)
}

/// Labels of the methods that do in any of the records.
pub(super) fn peeking<'a>(records: &[&'a Record]) -> BTreeSet<&'a str> {
    // Many records have the same settings, and reading settings takes a while.
    let mut asked: HashMap<(&str, String), bool> = HashMap::new();
    let mut found = BTreeSet::new();
    for record in records {
        let settings = serde_json::to_string(&record.settings).unwrap_or_default();
        let does = asked.entry((record.algorithm.as_str(), settings));
        if *does.or_insert_with(|| peeks(record)) {
            found.insert(record.method.as_str());
        }
    }
    found
}

/// What each method of `records` uses, by its label.
pub(super) fn uses(records: &[&Record]) -> BTreeMap<String, Uses> {
    let mut all: BTreeMap<String, Uses> = BTreeMap::new();
    for record in records {
        if all.contains_key(&record.method) {
            continue;
        }
        let (Some(needs), Some(entry)) = (needs(record), methods::find(&record.algorithm)) else {
            continue;
        };
        let learns = entry.training.is_some() || needs.support.is_some();
        // Epochs by shots are one rule for all; anything that differs between datasets at one number of shots is not.
        let mut by_shots: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for other in records.iter().filter(|r| r.method == record.method) {
            let settings = serde_json::to_string(&other.settings).unwrap_or_default();
            by_shots.entry(other.shots).or_default().insert(settings);
        }
        let is_tuned = by_shots.values().any(|settings| settings.len() > 1);
        let uses = Uses {
            group: entry.group.title(),
            learned: match (learns, needs.unlabelled, needs.validation) {
                (false, ..) => "nothing".to_owned(),
                (true, true, _) => "every training picture, without labels".to_owned(),
                (true, false, Validation::None) => "the few shots".to_owned(),
                (true, false, Validation::Few | Validation::AsShots) => {
                    "the few shots, and as few to choose by".to_owned()
                }
                (true, false, Validation::Whole) => {
                    "the few shots, and the whole validation split to choose by".to_owned()
                }
            },
            target: match (needs.peeks, needs.stream, needs.sees) {
                (true, ..) => "all, with labels, to choose by",
                (false, true, _) => "those before, without labels",
                (false, false, Sees::Views { .. }) => "each for itself, without label",
                _ => "none",
            },
            extra: match (needs.teacher, needs.descriptions) {
                (true, true) => "a second model and descriptions",
                (true, false) if needs.teacher_prompts => "a second model that learned before",
                (true, false) => "a second model",
                (false, true) => "descriptions of the classes",
                (false, false) => "nothing",
            },
            settings: if is_tuned {
                "by dataset"
            } else {
                "one for all datasets"
            },
            split: if needs.knows_split { "yes" } else { "no" },
        };
        all.insert(record.method.clone(), uses);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::summary::sample::trial;

    #[test]
    fn what_a_method_used_comes_from_its_entry_and_its_settings() {
        let tested = [("base", 50.0), ("novel", 60.0)];
        let mut tuned = trial("coop", "dtd", 16, 1, &tested);
        tuned.settings.insert("n_ctx".to_owned(), 8.into());
        let records = [
            trial("zero-shot", "dtd", 0, 1, &tested),
            trial("coop", "eurosat", 16, 1, &tested),
            tuned,
            trial("kgcoop", "dtd", 1, 1, &tested),
            trial("kgcoop", "dtd", 16, 1, &tested),
            trial("tpt", "dtd", 0, 1, &tested),
            trial("nobodys", "dtd", 16, 1, &tested),
        ];
        let uses = uses(&records.iter().collect::<Vec<_>>());
        let told = |label: &str| {
            let uses = &uses[label];
            (uses.learned.as_str(), uses.target, uses.settings)
        };
        assert_eq!(
            told("zero-shot"),
            ("nothing", "none", "one for all datasets")
        );
        assert_eq!(told("coop"), ("the few shots", "none", "by dataset"));
        assert_eq!(
            told("kgcoop"),
            ("the few shots", "none", "one for all datasets")
        );
        assert_eq!(told("tpt").1, "each for itself, without label");
        assert!(!uses.contains_key("nobodys"));
        assert!(!records.iter().any(peeks));
    }
}
