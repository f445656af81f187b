//! ATPrompt: CoOp's context, with attributes of the dataset before it, each behind learned tokens of its own.
//!
//! Li et al., *Advancing Textual Prompt Learning with Anchored Attributes*, <https://arxiv.org/abs/2412.09442>.
//! Follows the authors' `trainers/coop_atp.py` at 86980a1: the host is CoOp.
//!
//! The authors count positions as if every attribute were one token. Of one that has two ("playfulness", on Oxford Pets) the
//! first stays, and all behind it is one place late: that is kept, because their numbers were made with it.
//!
//! Differs: only as many sets of learned tokens as there are attributes; the authors make three and leave the rest
//! untrained. Classes of another dataset are bound with the attributes that were trained.
//!
//! `K` classes, `N` tokens before an attribute, `M` context vectors, `W` text width, `E` joint width.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use candle_core::{Result, Tensor, Var};
use clip::{Clip, Slot, TextPlan, TextPrompt, Wording, model::unit};

use crate::parts::layout::{self, placeholder};
use crate::parts::losses::cross_entropy;
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cosine, Cost, Entry, Group, ImageCost, Init,
    Loss, Method, Needs, Predict, Replay, Settings, TextCost, Training,
};

/// Registry entry. 100 epochs are the base-to-novel setting; across datasets the authors train 10 on ImageNet with N = 4.
pub const ENTRY: Entry = Entry {
    name: "atprompt",
    title: "ATPrompt",
    source: "https://arxiv.org/abs/2412.09442",
    group: Group::TextPrompts,
    training: Some(Training::sgd(100, 32, 0.002)),
    read: |s| Box::new(AtPromptConfig::read(s)),
    checkpoint: Some(Checkpoint::PROMPT_LEARNER),
    replay: Replay::Steps(&["atprompt"], |r| {
        r.settings(&[
            ("n_ctx", "n_ctx"),
            ("n_att", "n_att"),
            ("attributes", "attributes"),
        ])
    }),
};

/// The authors' choice for each dataset.
static ATTRIBUTES: LazyLock<BTreeMap<String, Vec<String>>> = LazyLock::new(|| {
    toml::from_str(include_str!("parts/attributes.toml")).expect("attributes.toml is tested")
});

/// Those of `dataset`; where the authors chose none, ImageNet's, which they also train across datasets with.
fn published(dataset: &str) -> &'static [String] {
    let family = |id: &str| id.strip_suffix('*').is_some_and(|f| dataset.starts_with(f));
    let of_family = || {
        ATTRIBUTES
            .iter()
            .find(|(id, _)| family(id))
            .map(|(_, own)| own)
    };
    let own = ATTRIBUTES.get(dataset).or_else(of_family);
    own.unwrap_or(&ATTRIBUTES["imagenet*"])
}

#[derive(Clone, Debug)]
struct AtPromptConfig {
    count: usize,
    before: usize,
    attributes: Vec<String>,
}

impl AtPromptConfig {
    fn read(s: &mut Settings) -> Self {
        let config = Self {
            count: s.count("n_ctx", 2, 1..=60, "context vectors before the name, M"),
            before: s.count("n_att", 2, 1..=16, "learned tokens before each attribute, N"),
            attributes: s.texts(
                "attributes",
                "words that say what kinds of things the classes differ in; none: the authors' for the dataset, or ImageNet's",
            ),
        };
        if config.attributes.iter().any(|a| a.trim().is_empty()) {
            s.refuse("attributes", "an attribute is a word");
        }
        if config.attributes.len() > 3 {
            s.refuse("attributes", "the authors' prompt holds at most three");
        }
        config
    }

    fn of(&self, dataset: &str) -> &[String] {
        match self.attributes.as_slice() {
            [] => published(dataset),
            given => given,
        }
    }
}

impl Config for AtPromptConfig {
    fn needs(&self) -> Needs {
        Needs::features()
    }

    /// Where the dataset decides on the attributes, two are counted.
    fn cost(&self) -> Cost {
        let attributes = match self.attributes.len() {
            0 => 2,
            given => given,
        };
        Cost {
            text: TextCost::trained(attributes * (self.before + 1) + self.count),
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let (clip, attributes) = (on.clip.clone(), self.of(&classes.dataset).to_vec());
        let width = clip.text.width();
        let ctx = layout::variable(&init.normal(&[self.count, width], 0.02)?)?;
        let before = attributes
            .iter()
            .map(|_| layout::variable(&init.normal(&[self.before, width], 0.01)?))
            .collect::<Result<_>>()?;
        Ok(Box::new(AtPrompt {
            plan: plan(&clip, &attributes, (self.before, self.count), classes)?,
            clip,
            attributes,
            ctx,
            before,
        }))
    }
}

struct AtPrompt {
    clip: Arc<Clip>,
    attributes: Vec<String>,
    /// `[M, W]`.
    ctx: Var,
    /// `[N, W]` of each attribute.
    before: Vec<Var>,
    plan: TextPlan,
}

/// The sequence of `name`: rows of the learned tokens in the order of the attributes, the context's last.
fn slots(
    wording: &Wording,
    attributes: &[String],
    (before, count): (usize, usize),
    name: &str,
) -> Result<Vec<Slot>> {
    let behind: Vec<String> = attributes
        .iter()
        .map(|attribute| format!("{} {attribute} ", placeholder(before)))
        .collect();
    let text = format!("{}{} {name}.", behind.concat(), placeholder(count));
    let mut slots: Vec<Slot> = layout::tokens(wording, &text)?
        .into_iter()
        .map(Slot::Token)
        .collect();
    // One place is left to each attribute, whatever it takes.
    let starts = (0..=attributes.len()).map(|i| wording.starts() + i * (before + 1));
    let lengths = attributes.iter().map(|_| before).chain([count]);
    let mut row = 0;
    for (start, length) in starts.zip(lengths) {
        for slot in &mut slots[start..start + length] {
            *slot = Slot::Context(row);
            row += 1;
        }
    }
    Ok(slots)
}

/// Sequences of `classes`, of `(N, M)` learned tokens.
fn plan(
    clip: &Clip,
    attributes: &[String],
    counts: (usize, usize),
    classes: &Classes,
) -> Result<TextPlan> {
    let of_class = |name: &String| slots(clip.text.wording(), attributes, counts, name);
    let sequences = classes
        .names
        .iter()
        .map(of_class)
        .collect::<Result<Vec<_>>>()?;
    clip.text.plan(&sequences)
}

impl AtPrompt {
    /// Class features `[K, E]`, unit length.
    fn texts(&self, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let rows: Vec<Tensor> = self.before.iter().chain([&self.ctx]).map(of).collect();
        let prompt = TextPrompt {
            context: Some(Tensor::cat(&rows, 0)?),
            ..TextPrompt::default()
        };
        unit(&self.clip.text.encode(&self.plan, &prompt)?)
    }
}

impl Method for AtPrompt {
    fn parameters(&self) -> Vec<(String, Var)> {
        let name = |i: usize| format!("prompt_learner.ctx_att{i}");
        let before = (1..).zip(&self.before).map(|(i, v)| (name(i), v.clone()));
        std::iter::once(("prompt_learner.ctx".to_owned(), self.ctx.clone()))
            .chain(before)
            .collect()
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let images = batch.images.unit_features(&self.clip)?; // [B, E]
        let texts = self.texts(|v| v.as_tensor().clone())?; // [K, E]
        Ok(cross_entropy(&self.clip.logits(&images, &texts)?, &batch.labels)?.into())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        let before = self.before.first().map_or(Ok(0), |v| v.dim(0))?;
        let lengths = (before, self.ctx.dim(0)?);
        self.plan = plan(&self.clip, &self.attributes, lengths, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Cosine {
            clip: &self.clip,
            texts: self.texts(Var::as_detached_tensor)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `c` for a learned token, `.` for one of the vocabulary.
    fn shape(slots: &[Slot]) -> String {
        let mark = |s: &Slot| {
            if matches!(s, Slot::Context(_)) {
                'c'
            } else {
                '.'
            }
        };
        slots.iter().map(mark).collect()
    }

    #[test]
    fn an_attribute_of_one_token_stands_between_learned_ones() {
        let wording = Wording::default();
        let attributes = ["color".to_owned(), "shape".to_owned()];
        let got = slots(&wording, &attributes, (2, 3), "cat").unwrap();
        // Start, 2 and color, 2 and shape, 3 of the context, cat, period, end.
        assert_eq!(shape(&got), ".cc.cc.ccc...");
        let color = layout::tokens(&wording, "color").unwrap()[1];
        assert_eq!(got[3], Slot::Token(color));
    }

    #[test]
    fn an_attribute_of_two_tokens_puts_all_behind_it_one_place_late() {
        let wording = Wording::default();
        let attributes = ["playfulness".to_owned(), "energy".to_owned()];
        let got = slots(&wording, &attributes, (2, 2), "cat").unwrap();
        let playful = layout::tokens(&wording, "playfulness").unwrap();
        assert_eq!(playful.len(), 4, "start, two, end");
        let x = Slot::Token(layout::tokens(&wording, "X").unwrap()[1]);
        let energy = Slot::Token(layout::tokens(&wording, "energy").unwrap()[1]);
        // The second slot holds the last placeholder and one more precedes the name; the word itself is overwritten.
        assert_eq!(shape(&got), ".cc.cc.cc....");
        assert_eq!((got[3], got[6], got[9]), (Slot::Token(playful[1]), x, x));
        assert!(!got.contains(&energy));
    }

    #[test]
    fn every_dataset_has_the_authors_attributes() {
        assert_eq!(published("imagenet-sketch"), ["color", "shape"]);
        assert_eq!(published("eurosat"), ["habitat"]);
        assert_eq!(published("my-folder"), ["color", "shape"]);
        assert!(ATTRIBUTES.values().all(|own| (1..=3).contains(&own.len())));
    }
}
