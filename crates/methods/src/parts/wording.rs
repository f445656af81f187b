//! Hand-written prompts as class features: one prompt, or several averaged.
//!
//! `K` classes, `E` joint width.

use candle_core::{Result, Tensor};
use clip::{Clip, model::unit};

use super::{templates, texts};
use crate::{Classes, Settings};

/// Which hand-written prompts speak for the classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wording {
    /// The dataset's own.
    Dataset,
    /// "a photo of a {}." whatever the dataset.
    Photo,
    /// CoOp's ensemble: the seven, plus the dataset's own.
    Ensemble,
    /// The seven alone.
    Seven,
    /// The seven on ImageNet and its variants, elsewhere the dataset's own.
    SevenOnImageNet,
    /// These.
    These(Vec<String>),
}

impl Wording {
    /// Reads one of `choices`, the first being the default: `dataset`, `photo`, `ensemble`, `seven`, `seven-on-imagenet`.
    pub(crate) fn read(s: &mut Settings, choices: &[&'static str], help: &'static str) -> Self {
        match s.choice("templates", choices, help) {
            "ensemble" => Self::Ensemble,
            "photo" => Self::Photo,
            "seven" => Self::Seven,
            "seven-on-imagenet" => Self::SevenOnImageNet,
            _ => Self::Dataset,
        }
    }

    /// The prompts, `{}` standing for the name.
    pub(crate) fn templates<'a>(&'a self, classes: &'a Classes) -> Vec<&'a str> {
        match self {
            Self::Dataset => vec![&classes.template],
            Self::Photo => vec![templates::PHOTO],
            Self::Seven => templates::SELECTED.to_vec(),
            Self::SevenOnImageNet if templates::has_the_seven(&classes.dataset) => {
                templates::SELECTED.to_vec()
            }
            Self::SevenOnImageNet => vec![&classes.template],
            Self::Ensemble => {
                let mut used = templates::SELECTED.to_vec();
                if templates::joins_the_ensemble(&classes.dataset) {
                    used.push(&classes.template);
                }
                used
            }
            Self::These(templates) => templates.iter().map(String::as_str).collect(),
        }
    }

    /// Class features `[K, E]` of unit length: the mean over prompts of unit features, made unit again.
    ///
    /// # Errors
    /// Those of the text tower.
    pub(crate) fn texts(&self, clip: &Clip, classes: &Classes) -> Result<Tensor> {
        let texts: Vec<Vec<String>> = self
            .templates(classes)
            .into_iter()
            .map(|template| classes.texts(template))
            .collect();
        unit(&texts::sum(clip, &texts, texts::UNIT)?)
    }
}
