//! Which pictures a test counts, and among which classes they are told apart.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use datasets::ClassSet;
use serde::{Deserialize, Serialize};

/// Test pictures of one class set, told apart among the classes of another that holds it. Written `base` where both are
/// one, else `base-among-all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TestSet {
    /// Classes whose test pictures count.
    pub pictures: ClassSet,
    /// Classes they are told apart among.
    pub among: ClassSet,
}

impl TestSet {
    /// All pictures among all classes.
    pub const ALL: Self = Self::of(ClassSet::All);
    /// Base pictures among base classes.
    pub const BASE: Self = Self::of(ClassSet::Base);
    /// Novel pictures among novel classes.
    pub const NOVEL: Self = Self::of(ClassSet::Novel);

    /// Pictures of a class set among its own classes.
    pub const fn of(set: ClassSet) -> Self {
        Self {
            pictures: set,
            among: set,
        }
    }

    /// Labels of the pictures, as they are numbered among the classes asked, in a dataset of `n` classes.
    pub fn labels(self, n: usize) -> Range<u32> {
        let (pictures, among) = (self.pictures.range(n), self.among.range(n));
        let renumbered = |label: usize| label.saturating_sub(among.start) as u32;
        renumbered(pictures.start)..renumbered(pictures.end)
    }

    /// What it is called over a panel of a chart.
    pub fn title(self) -> String {
        let name = match self.pictures {
            ClassSet::All => "All classes".to_owned(),
            ClassSet::Base => "Base classes".to_owned(),
            ClassSet::Novel => "Novel classes".to_owned(),
            ClassSet::Parts { .. } => self.pictures.name(),
            ClassSet::Sessions { last, cut, .. } if last == cut.count => "All classes".to_owned(),
            ClassSet::Sessions { .. } => self.pictures.name(),
        };
        if self.pictures == self.among {
            name
        } else {
            format!("{name} among {}", self.among)
        }
    }
}

impl fmt::Display for TestSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from(*self))
    }
}

impl From<TestSet> for String {
    fn from(set: TestSet) -> Self {
        if set.pictures == set.among {
            set.pictures.name()
        } else {
            format!("{}-among-{}", set.pictures, set.among)
        }
    }
}

impl FromStr for TestSet {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let read = |name: &str| ClassSet::try_from(name.to_owned());
        match name.split_once("-among-") {
            Some((pictures, among)) => Ok(Self {
                pictures: read(pictures)?,
                among: read(among)?,
            }),
            None => read(name).map(Self::of),
        }
    }
}

impl TryFrom<String> for TestSet {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_by_the_name_it_is_written_with() {
        let part = |first, last| ClassSet::Parts {
            first,
            last,
            of: 10,
        };
        let one = TestSet {
            pictures: part(2, 2),
            among: part(1, 3),
        };
        assert_eq!(one.to_string(), "part-2-of-10-among-parts-1-3-of-10");
        for (set, name) in [
            (TestSet::ALL, "all"),
            (TestSet::BASE, "base"),
            (TestSet::NOVEL, "novel"),
            (one, "part-2-of-10-among-parts-1-3-of-10"),
        ] {
            assert_eq!(serde_json::to_value(set).unwrap(), name);
            assert_eq!(name.parse(), Ok(set));
        }
        assert!("old".parse::<TestSet>().unwrap_err().contains("\"old\""));
    }

    #[test]
    fn labels_are_those_among_the_classes_asked() {
        let novel = TestSet {
            pictures: ClassSet::Novel,
            among: ClassSet::All,
        };
        assert_eq!(novel.labels(5), 3..5);
        assert_eq!(TestSet::NOVEL.labels(5), 0..2);
        assert_eq!(TestSet::ALL.labels(5), 0..5);
    }
}
