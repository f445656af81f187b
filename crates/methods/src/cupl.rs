//! CuPL: class features from sentences that a language model wrote. Nothing is learned.
//!
//! Pratt et al., *What does a platypus look like? Generating customized prompts for zero-shot image classification*,
//! <https://arxiv.org/abs/2209.03320>. Follows the authors' notebooks in `CuPL` at 719619c: a class's feature is the mean
//! of its sentences', cut at 77 tokens, alone or with hand-written prompts in the same mean.
//!
//! `K` classes, `n` texts of a class, `E` joint width.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var, bail};
use clip::{Clip, model::unit};

use crate::parts::{described, templates, texts};
use crate::replay::{Comparison, Stage};
use crate::{
    Backbones, Classes, Config, Cosine, Cost, Entry, Group, ImageCost, Images, Init, Method, Needs,
    Predict, Replay, Settings, TextCost,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "cupl",
    title: "CuPL",
    source: "https://arxiv.org/abs/2209.03320",
    group: Group::TrainingFree,
    training: None,
    read: |s| Box::new(Sentences::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["descriptions"], replay),
};

/// Hand-written prompts that join the sentences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joined {
    None,
    Dataset,
    ImageNet,
}

#[derive(Clone, Debug)]
struct Sentences(Joined);

impl Sentences {
    fn read(s: &mut Settings) -> Self {
        let help = "hand-written prompts in the same mean: none, the dataset's own, or CLIP's 80 of ImageNet";
        Self(
            match s.choice("templates", &["none", "dataset", "imagenet"], help) {
                "dataset" => Joined::Dataset,
                "imagenet" => Joined::ImageNet,
                _ => Joined::None,
            },
        )
    }

    fn texts(&self, clip: &Clip, classes: &Classes) -> Result<Tensor> {
        let joined = match self.0 {
            Joined::None => Vec::new(),
            Joined::Dataset => vec![classes.template.as_str()],
            Joined::ImageNet => templates::imagenet(),
        };
        features(clip, classes, &joined)
    }
}

/// What speaks for class `index`: `joined` filled with its name as it is written, which the authors leave to the
/// tokenizer, and its sentences.
fn texts_of(classes: &Classes, index: usize, joined: &[&str]) -> Result<Vec<String>> {
    let sentences = described::of(classes, index)?.iter().cloned();
    let name = &classes.written[index];
    let texts: Vec<String> = joined
        .iter()
        .map(|t| t.replace("{}", name))
        .chain(sentences)
        .collect();
    if texts.is_empty() {
        bail!("class {name} has no sentences, and no hand-written prompt stands in");
    }
    Ok(texts)
}

/// Class features `[K, E]`, unit length.
fn features(clip: &Clip, classes: &Classes, joined: &[&str]) -> Result<Tensor> {
    let of_class = |i: usize| {
        mean(&described::cut_features(
            clip,
            &texts_of(classes, i, joined)?,
        )?)
    };
    let rows = (0..classes.len())
        .map(of_class)
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&rows, 0)
}

/// Mean `[1, E]` of unit features `[n, E]`, made unit again.
fn mean(features: &Tensor) -> Result<Tensor> {
    unit(&features.mean_keepdim(0)?)
}

impl Config for Sentences {
    fn needs(&self) -> Needs {
        Needs {
            descriptions: true,
            ..Needs::features()
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, _: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(Cupl {
            texts: self.texts(&on.clip, classes)?,
            clip: on.clip.clone(),
            config: self.clone(),
        }))
    }
}

struct Cupl {
    clip: Arc<Clip>,
    config: Sentences,
    /// `[K, E]`, unit length.
    texts: Tensor,
}

impl Method for Cupl {
    fn parameters(&self) -> Vec<(String, Var)> {
        Vec::new()
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.texts = self.config.texts(&self.clip, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Cosine {
            clip: &self.clip,
            texts: self.texts.clone(),
        }))
    }
}

/// Class features of the sentences, of hand-written prompts, and of both, with the cosines to each.
fn replay(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let clip = &stage.clip;
    let classes = described::recorded(r, "cupl")?;
    let Some(templates) = r.texts("templates") else {
        bail!("templates: must be a list of texts");
    };
    let joined: Vec<&str> = templates.iter().map(String::as_str).collect();
    let test = Images::Pixels(r.get("test_images")?.clone());
    let images = test.unit_features(clip)?; // [B, E]
    // In the baseline alone names have spaces.
    for (what, texts) in [
        ("text", features(clip, &classes, &[])?),
        ("both", features(clip, &classes, &joined)?),
        ("base", texts::averaged(clip, &classes.names, &joined)?),
    ] {
        let name = format!("cupl.{what}");
        c.values(&name, &texts.t()?, r.get(&name)?)?;
        c.logits(
            &images.matmul(&texts.t()?)?,
            r.get(&format!("logits.cupl_{what}"))?,
        )?;
    }
    let method = stage.start(toml::Table::new(), &classes)?;
    let scores = method.predictor()?.logits(&test)?;
    c.logits(&(scores / clip.scale())?, r.get("logits.cupl_text")?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::Descriptions;

    #[test]
    fn the_mean_of_two_directions_lies_between_them_at_unit_length() {
        let features = Tensor::new(&[[1f32, 0.0], [0.28, 0.96]], &Device::Cpu).unwrap();
        let got = mean(&features).unwrap().to_vec2::<f32>().unwrap();
        // (0.64, 0.48) has length 0.8.
        assert!((got[0][0] - 0.8).abs() < 1e-6 && (got[0][1] - 0.6).abs() < 1e-6);
    }

    #[test]
    fn prompts_have_the_name_as_written_and_come_before_the_sentences() {
        let all = [
            ("a cat".to_owned(), vec!["Cats purr.".to_owned()]),
            ("dog".to_owned(), Vec::new()),
        ];
        let classes = Classes::new(&["a_cat".into(), "dog".into()], "any", "{}")
            .described(Some(Descriptions::from(all).into()));
        let got = texts_of(&classes, 0, &["see {}.", "my {}."]).unwrap();
        assert_eq!(got, ["see a_cat.", "my a_cat.", "Cats purr."]);
        assert_eq!(texts_of(&classes, 1, &["my {}."]).unwrap(), ["my dog."]);
        let message = texts_of(&classes, 1, &[]).unwrap_err().to_string();
        assert!(message.contains("class dog has no sentences"), "{message}");
    }
}
