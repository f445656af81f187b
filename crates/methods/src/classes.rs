//! The classes that a method is bound to.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Texts that describe each class, by its name with spaces.
pub type Descriptions = BTreeMap<String, Vec<String>>;

/// The classes a method is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// In label order, `_` already turned into spaces.
    pub names: Vec<String>,
    /// The same as they are written.
    pub written: Vec<String>,
    /// Names of every class of the dataset, of which these may be a half; in label order, with spaces.
    pub dataset_names: Vec<String>,
    /// Catalogue id of the dataset. Of several that are learned at once, theirs with `+` between; asked about one of them,
    /// or about one that was not learned, that one's alone.
    pub dataset: String,
    /// Of several datasets learned at once, each one's id and number of classes, in the order of the names; empty of one.
    pub tasks: Vec<(String, usize)>,
    /// Hand-written prompt of the dataset, `{}` standing for the name.
    pub template: String,
    /// Descriptions of the dataset's classes, where the user gave some.
    pub descriptions: Option<Arc<Descriptions>>,
}

/// How the classes asked stand to those trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same, in the same order.
    Same,
    /// None of them was trained on.
    Apart,
    /// Trained classes and others together.
    Mixed,
}

impl Classes {
    /// Cleans the names as every published implementation does. They are taken to be the whole dataset.
    pub fn new(names: &[String], dataset: &str, template: &str) -> Self {
        let clean: Vec<String> = names.iter().map(|n| n.replace('_', " ")).collect();
        Self {
            dataset_names: clean.clone(),
            names: clean,
            written: names.to_vec(),
            dataset: dataset.to_owned(),
            tasks: Vec::new(),
            template: template.to_owned(),
            descriptions: None,
        }
    }

    /// Says which classes the whole dataset has.
    #[must_use]
    pub fn among(mut self, dataset_names: &[String]) -> Self {
        self.dataset_names = dataset_names.iter().map(|n| n.replace('_', " ")).collect();
        self
    }

    /// Adds what describes the classes.
    #[must_use]
    pub fn described(mut self, descriptions: Option<Arc<Descriptions>>) -> Self {
        self.descriptions = descriptions;
        self
    }

    /// The classes of several datasets as one list, in order; a name that two have stands twice.
    pub fn joined(tasks: &[Self]) -> Self {
        let counts = tasks.iter().map(|t| (t.dataset.clone(), t.len()));
        let counts: Vec<(String, usize)> = counts.filter(|_| tasks.len() > 1).collect();
        let mut tasks = tasks.iter();
        let mut all = tasks
            .next()
            .cloned()
            .unwrap_or_else(|| Self::new(&[], "", ""));
        for task in tasks {
            all.names.extend(task.names.iter().cloned());
            all.written.extend(task.written.iter().cloned());
            all.dataset_names.extend(task.dataset_names.iter().cloned());
            all.dataset = format!("{}+{}", all.dataset, task.dataset);
            // One hand-written prompt for all is the one that names no domain.
            crate::parts::templates::PHOTO.clone_into(&mut all.template);
        }
        all.tasks = counts;
        all
    }

    /// Places of the classes of `dataset` among these: all of them where these are of that dataset, its own where it is one
    /// of several that these are of; `None` where it is another.
    pub fn places_of(&self, dataset: &str) -> Option<Range<usize>> {
        if self.dataset == dataset {
            return Some(0..self.len());
        }
        let mut start = 0;
        for (task, count) in &self.tasks {
            if task == dataset {
                return Some(start..start + count);
            }
            start += count;
        }
        None
    }

    /// Every class of the dataset, and the place of each of these among them. Names that two classes have are one text,
    /// so either's place is right.
    pub fn whole(&self) -> (Self, Vec<u32>) {
        let mut names = self.dataset_names.clone();
        let place = |name: &String| match names.iter().position(|n| n == name) {
            Some(place) => place as u32,
            None => {
                names.push(name.clone());
                names.len() as u32 - 1
            }
        };
        let places = self.names.iter().map(place).collect();
        let whole = Self {
            written: names.clone(),
            dataset_names: names.clone(),
            names,
            ..self.clone()
        };
        (whole, places)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// `template` filled with each name.
    pub fn texts(&self, template: &str) -> Vec<String> {
        self.names
            .iter()
            .map(|n| template.replace("{}", n))
            .collect()
    }

    /// How these stand to the classes `trained` on.
    pub fn relation(&self, trained: &Self) -> Relation {
        let Some(places) = trained.places_of(&self.dataset) else {
            return Relation::Apart;
        };
        if self.names == trained.names {
            return Relation::Same;
        }
        let trained = &trained.names[places];
        if self.names.iter().any(|n| trained.contains(n)) {
            Relation::Mixed
        } else {
            Relation::Apart
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_several_datasets_is_found_among_them_and_another_is_apart() {
        let of = |dataset: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            Classes::new(&names, dataset, "{}.")
        };
        let (pets, toys) = (
            of("pets", &["cat", "dog"]),
            of("toys", &["cat", "car", "top"]),
        );
        let both = Classes::joined(&[pets.clone(), toys.clone()]);
        assert_eq!(both.dataset, "pets+toys");
        assert_eq!(both.places_of("pets"), Some(0..2));
        assert_eq!(both.places_of("toys"), Some(2..5));
        assert_eq!(both.places_of("pets+toys"), Some(0..5));
        assert_eq!(both.places_of("cars"), None);
        assert_eq!(toys.relation(&both), Relation::Mixed);
        assert_eq!(of("cars", &["cat"]).relation(&both), Relation::Apart);
        assert_eq!(both.relation(&both), Relation::Same);
        assert!(
            Classes::joined(std::slice::from_ref(&pets))
                .tasks
                .is_empty()
        );
        assert_eq!(pets.places_of("pets"), Some(0..2));
    }

    #[test]
    fn the_whole_dataset_knows_where_its_half_is() {
        let names = |all: &[&str]| all.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let half = Classes::new(&names(&["sea_lake", "crane", "crane"]), "any", "{}.")
            .among(&names(&["crane", "river", "crane", "sea_lake"]));
        let (whole, places) = half.whole();
        assert_eq!(whole.names, ["crane", "river", "crane", "sea lake"]);
        assert_eq!(places, [3, 0, 0]);
        assert_eq!(whole.whole().0, whole);
        // Names that the dataset was not said to have stand behind.
        let other = Classes::new(&names(&["cat"]), "any", "{}.").among(&names(&["dog"]));
        let (whole, places) = other.whole();
        assert_eq!(
            (&whole.names[..], places),
            (&names(&["dog", "cat"])[..], vec![1])
        );
    }
}
