//! How many classes and pictures a dataset has: counted, or as published where its folder is not there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use clip::Tokenizer;
use datasets::{ClassSet, Row, Split};

use super::texts::Texts;

/// Tokens that a class name is taken to have where the names are not at hand.
pub const NAME_TOKENS: usize = 3;

/// A class name as the text tower takes it.
#[derive(Clone, Debug)]
pub(super) enum Name {
    /// Its tokens.
    Known(Vec<u32>),
    /// As many as [`NAME_TOKENS`], whatever they are.
    Unknown,
}

/// What texts are made of beside names, their period, start and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Words {
    /// Tokens.
    pub all: usize,
    /// How many of them stand before every name and are the same for all classes.
    pub shared: usize,
}

/// Texts of classes by which classes and what stands around their names.
type Counted = HashMap<(ClassSet, Words), Arc<Texts>>;

/// Sizes of a dataset.
#[derive(Clone, Debug)]
pub struct Population {
    /// In label order.
    names: Arc<Vec<Name>>,
    /// Texts that were asked for before: a suite asks for the same ones again and again.
    texts: Arc<Mutex<Counted>>,
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
        let tokens = |n: &String| Name::Known(Tokenizer::shared().encode(&n.replace('_', " ")));
        Ok(Self {
            names: Arc::new(names.iter().map(tokens).collect()),
            texts: Arc::default(),
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
            names: Arc::new(vec![Name::Unknown; classes]),
            texts: Arc::default(),
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
        let names = parts.iter().flat_map(|(of, set)| of.named(*set));
        let names: Vec<Name> = names.cloned().collect();
        Self {
            test: vec![0; names.len() + 1],
            names: Arc::new(names),
            texts: Arc::default(),
            train: parts.iter().map(|(of, _)| of.train).sum(),
            augmix: parts.iter().all(|(of, _)| of.augmix),
            is_published: parts.iter().any(|(of, _)| of.is_published),
            notes: Vec::new(),
        }
    }

    /// Classes of a class set.
    pub fn classes(&self, set: ClassSet) -> usize {
        set.places(self.names.len()).len()
    }

    fn named(&self, set: ClassSet) -> impl Iterator<Item = &Name> {
        let places = set.places(self.names.len()).into_iter();
        places.map(|place| &self.names[place])
    }

    /// The texts of a class set with these words around its names.
    pub fn texts(&self, set: ClassSet, words: Words) -> Arc<Texts> {
        let mut kept = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let texts = kept.entry((set, words));
        let texts = texts.or_insert_with(|| Arc::new(Texts::of(self.named(set), words)));
        texts.clone()
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
        (shots * self.classes(set)).min(self.train)
    }
}
