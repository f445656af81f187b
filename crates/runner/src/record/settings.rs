//! Settings of records: many records have the same, and share them in memory.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// Values by name. Copies share them until one is changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings(Arc<BTreeMap<String, Value>>);

impl From<BTreeMap<String, Value>> for Settings {
    fn from(values: BTreeMap<String, Value>) -> Self {
        Self(Arc::new(values))
    }
}

impl Deref for Settings {
    type Target = BTreeMap<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Settings {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}

/// Settings met so far, so that equal ones become shared ones.
#[derive(Debug, Default)]
pub struct Shared {
    /// By what they are settings of.
    met: BTreeMap<String, Vec<Settings>>,
}

impl Shared {
    /// Replaces the settings of `of` by equal ones that were met before.
    pub fn share(&mut self, of: &str, settings: &mut Settings) {
        if !self.met.contains_key(of) {
            self.met.insert(of.to_owned(), Vec::new());
        }
        let met = self.met.get_mut(of).expect("it was just put there");
        // Records come in order: the last is the likeliest.
        match met.iter().rev().find(|other| *other == settings) {
            Some(same) => *settings = same.clone(),
            None => met.push(settings.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_settings_are_shared_and_changing_one_changes_no_other() {
        let make = || Settings::from(BTreeMap::from([("lr".to_owned(), Value::from(0.5))]));
        let (mut one, mut two) = (make(), make());
        let mut shared = Shared::default();
        shared.share("coop", &mut one);
        shared.share("coop", &mut two);
        assert!(Arc::ptr_eq(&one.0, &two.0));
        two.insert("lr".to_owned(), 0.25.into());
        assert_eq!((&one["lr"], &two["lr"]), (&0.5.into(), &0.25.into()));
        assert_eq!(serde_json::to_string(&one).unwrap(), "{\"lr\":0.5}");
        assert_eq!(
            serde_json::from_str::<Settings>("{\"lr\":0.5}").unwrap(),
            one
        );
    }
}
