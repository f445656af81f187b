//! How many classes and pictures a dataset has: counted, or as published where its folder is not there.

use anyhow::{Result, bail};
use clip::Tokenizer;
use datasets::{ClassSet, Row, Split};

/// Tokens that a class name is taken to have where the names are not at hand.
pub const NAME_TOKENS: usize = 3;

/// Sizes of a dataset.
#[derive(Clone, Debug)]
pub struct Population {
    /// Tokens of each class name, in label order.
    names: Vec<usize>,
    /// Training pictures.
    train: usize,
    /// Test pictures of the first 0, 1, 2, ... classes in label order; the last is all of them.
    test: Vec<usize>,
    /// Whether its row lets AugMix follow on views of test pictures.
    pub augmix: bool,
    /// Whether the folder was not there.
    pub is_published: bool,
    /// What must be said of what is there.
    pub notes: Vec<String>,
}

impl Population {
    /// Of a dataset on disk.
    ///
    /// # Errors
    /// A dataset without classes.
    pub fn counted(split: &Split) -> Result<Self> {
        let names = split.names_of(ClassSet::All)?;
        let (train, _) = split.counts(ClassSet::All)?;
        let mut test = vec![0];
        for count in split.tests_by_class() {
            test.push(test[test.len() - 1] + count);
        }
        let tokens = |n: &String| Tokenizer::shared().encode(&n.replace('_', " ")).len();
        Ok(Self {
            names: names.iter().map(tokens).collect(),
            train,
            test,
            augmix: true,
            is_published: false,
            notes: Vec::new(),
        })
    }

    /// Of a row of the catalogue.
    ///
    /// # Errors
    /// A row that does not say how many classes and pictures there are.
    pub fn published(row: &Row) -> Result<Self> {
        let (Some(classes), Some(pictures)) = (row.classes, row.pictures) else {
            bail!(
                "its folder is not there (--data), and its row of the catalogue has no `classes` and `pictures`"
            )
        };
        Ok(Self {
            names: vec![NAME_TOKENS; classes],
            train: pictures.train,
            // As if every class had as many.
            test: (0..=classes)
                .map(|i| pictures.test * i / classes.max(1))
                .collect(),
            augmix: row.augmix,
            is_published: true,
            notes: Vec::new(),
        })
    }

    /// The classes that are learned of several datasets at once, as one dataset's; its test pictures are nobody's.
    pub fn together(parts: &[(&Self, ClassSet)]) -> Self {
        let names = parts.iter().flat_map(|(of, set)| of.names(*set));
        let names: Vec<usize> = names.collect();
        Self {
            test: vec![0; names.len() + 1],
            names,
            train: parts.iter().map(|(of, _)| of.train).sum(),
            augmix: parts.iter().all(|(of, _)| of.augmix),
            is_published: parts.iter().any(|(of, _)| of.is_published),
            notes: Vec::new(),
        }
    }

    /// Tokens of the names of a class set.
    pub fn names(&self, set: ClassSet) -> Vec<usize> {
        let places = set.places(self.names.len()).into_iter();
        places.map(|place| self.names[place]).collect()
    }

    /// Test pictures of a class set.
    pub fn tests(&self, set: ClassSet) -> usize {
        let places = set.places(self.names.len()).into_iter();
        let of = |class: usize| self.test[class + 1] - self.test[class];
        places.map(of).sum()
    }

    /// Training pictures of all classes.
    pub fn train(&self) -> usize {
        self.train
    }

    /// Training pictures at `shots` a class. Variants of ImageNet have none of their own and are never trained on.
    pub fn picked(&self, shots: usize, set: ClassSet) -> usize {
        (shots * self.names(set).len()).min(self.train)
    }
}
