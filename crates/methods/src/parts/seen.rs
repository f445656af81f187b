//! The classes that a method has met from stage to stage, each by its name and its dataset's hand-written prompt.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::tasks::Tasks;
use crate::Classes;

/// A class, wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) name: String,
    dataset: String,
    /// `{}` standing for the name.
    template: String,
}

impl Known {
    /// All of `classes`, in label order.
    pub(crate) fn of(classes: &Classes) -> Vec<Self> {
        let datasets = Tasks::datasets(classes);
        let tasks = Tasks::of(classes).of_classes().into_iter();
        let known = |(name, task): (&String, usize)| Self {
            name: name.clone(),
            dataset: datasets[task].clone(),
            template: classes.template.clone(),
        };
        classes.names.iter().zip(tasks).map(known).collect()
    }

    /// Whether both are the same class of the same dataset, whatever is said of it.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.dataset == other.dataset
    }

    /// The hand-written prompt with the name.
    pub(crate) fn text(&self) -> String {
        self.template.replace("{}", &self.name)
    }
}

/// Name of the tensor that keeps them.
pub(crate) const KEPT: &str = "seen_classes";

/// As part of a method's state; nothing while there are none.
pub(crate) fn state(seen: &[Known]) -> Vec<(String, Tensor)> {
    // No name holds a line's end: class lists are read line by line or from file names.
    let lines: Vec<String> = seen
        .iter()
        .flat_map(|k| [k.name.clone(), k.dataset.clone(), k.template.clone()])
        .collect();
    if lines.is_empty() {
        return Vec::new();
    }
    let bytes = lines.join("\n").into_bytes();
    let kept = Tensor::new(bytes, &Device::Cpu).expect("a list of bytes is a tensor");
    vec![(KEPT.to_owned(), kept)]
}

/// What [`state`] kept; none where nothing was.
///
/// # Errors
/// A tensor that is no list of classes.
pub(crate) fn restored(state: &BTreeMap<String, Tensor>) -> Result<Vec<Known>> {
    let Some(kept) = state.get(KEPT) else {
        return Ok(Vec::new());
    };
    let bytes = kept.to_dtype(DType::U8)?.flatten_all()?.to_vec1::<u8>()?;
    let text = String::from_utf8(bytes).map_err(candle_core::Error::wrap)?;
    let lines: Vec<&str> = text.split('\n').collect();
    let (classes, rest) = lines.as_chunks::<3>();
    if !rest.is_empty() {
        bail!("{KEPT}: a class without its dataset or prompt");
    }
    let known = classes.iter().map(|[name, dataset, template]| Known {
        name: (*name).to_owned(),
        dataset: (*dataset).to_owned(),
        template: (*template).to_owned(),
    });
    Ok(known.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_of_several_datasets_is_that_of_its_own() {
        let of = |dataset: &str| Classes::new(&["cat".to_owned()], dataset, "one {}.");
        let both = Known::of(&Classes::joined(&[of("pets"), of("toys")]));
        let alone = &Known::of(&of("toys"))[0];
        assert_eq!(
            both.iter().map(|k| k.is(alone)).collect::<Vec<_>>(),
            [false, true]
        );
    }

    #[test]
    fn classes_come_back_with_their_prompts_and_nothing_keeps_nothing() {
        let names = ["Übersee".to_owned(), "sea_lake".to_owned()];
        let seen = Known::of(&Classes::new(&names, "any", "a photo of {}."));
        assert_eq!(seen[1].text(), "a photo of sea lake.");
        let kept: BTreeMap<_, _> = state(&seen).into_iter().collect();
        assert_eq!(restored(&kept).unwrap(), seen);
        assert!(state(&[]).is_empty() && restored(&BTreeMap::new()).unwrap().is_empty());
        let odd = Tensor::new(b"one".to_vec(), &Device::Cpu).unwrap();
        assert!(restored(&BTreeMap::from([(KEPT.to_owned(), odd)])).is_err());
    }
}
