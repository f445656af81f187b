//! BiomedCoOp: CoOp held near what a language model wrote about each class: its texts near their mean, its scores near those
//! of the sentences that score like most.
//!
//! Koleilat et al., *BiomedCoOp: Learning to Prompt for Biomedical Vision-Language Models*,
//! <https://arxiv.org/abs/2411.15232>. Follows the authors' `trainers/biomedcoop_clip.py` at 8692f77, which is the same for
//! their other backbones but for the towers.
//!
//! `K` classes, `P` sentences of each, `B` images, `E` joint width.
//!
//! The sentences are one language model's, in an order of their own for each class: sentence `i` of all classes is judged as
//! one prompt.
//!
//! Differs: a class with fewer sentences than asked for shortens the list of all (theirs stops); what is longer than 77 tokens
//! is cut (theirs stops); where no sentence is within `tau`, or half of the scores are the same, all are kept (theirs is not a
//! number). Training views are cropped and flipped, theirs cropped alone.

use std::sync::Arc;

use candle_core::{D, IndexOp, Result, Tensor, Var, bail};
use clip::{Clip, model::unit};

use crate::parts::context::{Context, Start};
use crate::parts::described;
use crate::parts::losses::{cross_entropy, log_softmax};
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Init, Loss,
    Method, Needs, Predict, Replay, Settings, Training,
};

/// Registry entry. The authors choose the weights and `tau` for each dataset and protocol; the defaults are those of their
/// few-shot runs on brain tumours (BTMRI: 0.5, 0.25, 1.5; base-to-novel 0.5, 0.5, 1.25 with 50 epochs).
pub const ENTRY: Entry = Entry {
    name: "biomedcoop",
    title: "BiomedCoOp",
    source: "https://arxiv.org/abs/2411.15232",
    group: Group::TextPrompts,
    training: Some(Training::sgd(100, 4, 0.0025)),
    read: |s| Box::new(BiomedConfig::read(s)),
    checkpoint: Some(Checkpoint::PROMPT_LEARNER),
    replay: Replay::None,
};

#[derive(Clone, Debug)]
struct BiomedConfig {
    start: Start,
    weights: Weights,
    sentences: usize,
}

#[derive(Clone, Copy, Debug)]
struct Weights {
    /// Of the distance to the mean sentence.
    text: f64,
    /// Of the divergence from the selected sentences' scores.
    logit: f64,
    tau: f64,
}

impl BiomedConfig {
    fn read(s: &mut Settings) -> Self {
        let start = Start::read(s, 4, "a photo of a");
        let help = "of the squared distance to the classes' mean sentence (SCCM_LAMBDA)";
        let text = s.number("text_weight", 0.5, 0.0..=1000.0, help);
        let help =
            "of the divergence from zero-shot scores of the selected sentences (KDSP_LAMBDA)";
        let logit = s.number("logit_weight", 0.25, 0.0..=1000.0, help);
        let help = "deviations from the mean score within which a sentence is selected";
        let tau = s.number("tau", 1.5, 0.0..=100.0, help);
        let help = "sentences of each class, P; fewer where a class has fewer";
        Self {
            start,
            weights: Weights { text, logit, tau },
            sentences: s.count("sentences", 50, 1..=10_000, help),
        }
    }
}

impl Config for BiomedConfig {
    fn needs(&self) -> Needs {
        Needs {
            descriptions: true,
            ..Needs::features()
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            text: self.start.cost(),
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(BiomedCoOp {
            teacher: Teacher::new(&on.clip, classes, self.sentences)?,
            context: Context::new(&on.clip, classes, &self.start, init)?,
            weights: self.weights,
            sentences: self.sentences,
        }))
    }
}

/// What the sentences say of the classes.
struct Teacher {
    clip: Arc<Clip>,
    /// `[P, K, E]`, unit length.
    sentences: Tensor,
    /// `[K, E]`: their mean, unit length.
    mean: Tensor,
}

/// Mean over the first dimension, of unit length.
fn mean(features: &Tensor) -> Result<Tensor> {
    unit(&features.mean(0)?)
}

impl Teacher {
    fn new(clip: &Arc<Clip>, classes: &Classes, most: usize) -> Result<Self> {
        let texts = (0..classes.len()).map(|i| described::of(classes, i));
        let texts = texts.collect::<Result<Vec<_>>>()?;
        let least = texts.iter().map(|t| t.len()).min().unwrap_or(0);
        if least == 0 {
            let name = texts
                .iter()
                .position(|t| t.is_empty())
                .map(|i| &classes.names[i]);
            bail!(
                "class {} has no description",
                name.map_or("", |n| n.as_str())
            );
        }
        let of_class = |texts: &&[String]| described::cut_features(clip, &texts[..least.min(most)]);
        let features = texts.iter().map(of_class).collect::<Result<Vec<_>>>()?;
        let sentences = Tensor::stack(&features, 1)?;
        Ok(Self {
            clip: clip.clone(),
            mean: mean(&sentences)?,
            sentences,
        })
    }

    /// Scores of unit features `[B, E]` under the sentences that score like most: `[B, K]`.
    fn logits(&self, images: &Tensor, tau: f64) -> Result<Tensor> {
        let count = self.sentences.dim(0)?;
        let score = |i: usize| -> Result<f64> {
            let logits = self.clip.logits(images, &self.sentences.i(i)?)?; // [B, K]
            let sure = logits.max(D::Minus1)?.mean_all()?.to_scalar::<f32>()?;
            Ok(f64::from(sure))
        };
        let scores = (0..count).map(score).collect::<Result<Vec<_>>>()?;
        let kept: Vec<u32> = selected(&scores, tau)
            .into_iter()
            .map(|i| i as u32)
            .collect();
        let kept = Tensor::new(kept, images.device())?;
        let texts = mean(&self.sentences.index_select(&kept, 0)?)?;
        self.clip.logits(images, &texts)
    }
}

/// The middle one; of an even number the smaller of the two in the middle, as in PyTorch.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}

/// Places of scores within `tau` of the mean, in deviations, after they are measured from their median in median distances
/// from it. As published: the second takes the first off again, but where the median distance is nothing.
fn selected(scores: &[f64], tau: f64) -> Vec<usize> {
    let count = scores.len() as f64;
    let middle = median(scores);
    let far = median(
        &scores
            .iter()
            .map(|s| (s - middle).abs())
            .collect::<Vec<_>>(),
    );
    let z: Vec<f64> = scores.iter().map(|s| (s - middle) / far).collect();
    let mean = z.iter().sum::<f64>() / count;
    let square = z.iter().map(|z| (z - mean).powi(2)).sum::<f64>();
    let deviation = (square / (count - 1.0)).sqrt();
    let near = |i: &usize| ((z[*i] - mean) / deviation).abs() <= tau;
    let kept: Vec<usize> = (0..scores.len()).filter(near).collect();
    match kept.is_empty() {
        true => (0..scores.len()).collect(),
        false => kept,
    }
}

struct BiomedCoOp {
    context: Context,
    teacher: Teacher,
    weights: Weights,
    sentences: usize,
}

impl Method for BiomedCoOp {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.context.named()
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let clip = &self.context.clip;
        let images = batch.images.unit_features(clip)?; // [B, E]
        let texts = self.context.texts(self.context.ctx.as_tensor())?; // [K, E]
        let logits = clip.logits(&images, &texts)?; // [B, K]
        let ce = cross_entropy(&logits, &batch.labels)?;
        let distance = (&texts - &self.teacher.mean)?.sqr()?.mean_all()?;
        let wanted = log_softmax(&self.teacher.logits(&images, self.weights.tau)?)?; // [B, K]
        let away = (wanted.exp()? * (&wanted - log_softmax(&logits)?)?)?.mean_all()?;
        Loss::sum(vec![
            ("cross_entropy", ce),
            ("text_distance", (distance * self.weights.text)?),
            ("logit_divergence", (away * self.weights.logit)?),
        ])
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.context.rebind(classes)?;
        self.teacher = Teacher::new(&self.context.clip, classes, self.sentences)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        self.context.cosine()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{base, batch, clip};
    use crate::{Descriptions, find};

    #[test]
    fn sentences_that_score_like_most_are_selected() {
        // Median 3 (of 1 2 3 4 10), median distance 1: z = -2 -1 0 1 7, mean 1, deviation sqrt(50 / 4) = 3.5355;
        // (z - mean) / deviation = -0.849 -0.566 -0.283 0 1.697.
        let scores = [1.0, 10.0, 2.0, 4.0, 3.0];
        assert_eq!(selected(&scores, 1.5), [0, 2, 3, 4]);
        assert_eq!(selected(&scores, 0.6), [2, 3, 4]);
        assert_eq!(selected(&scores, 1.7), [0, 1, 2, 3, 4]);
        // Of four the second smallest is the median, 2: z of 1 2 3 9 in median distance 1.
        assert_eq!((median(&[9.0, 1.0, 3.0, 2.0]), median(&[5.0])), (2.0, 5.0));
        // Where the measure is nothing, nothing is told apart.
        assert_eq!(selected(&[2.0, 2.0, 2.0, 7.0], 1.0), [0, 1, 2, 3]);
        assert_eq!(selected(&[2.0], 1.0), [0]);
        assert_eq!(selected(&scores, 0.0), [3]);
        assert_eq!(selected(&[1.0, 2.0], 0.1), [0, 1]);
    }

    #[test]
    fn a_sentence_that_scores_apart_has_no_part_in_the_scores() {
        let clip = clip();
        let describe = |name: &String| {
            let alike = ["a type of", "a photo of", "one picture of", "a small"];
            let mut texts: Vec<String> = alike.iter().map(|a| format!("{a} {name}")).collect();
            texts.push("texture of flower".to_owned());
            (name.clone(), texts)
        };
        let all: Descriptions = base().names.iter().map(describe).collect();
        let classes = base().described(Some(Arc::new(all)));
        let teacher = Teacher::new(&clip, &classes, 50).unwrap();
        let images = batch().images.unit_features(&clip).unwrap();
        let scores: Vec<f64> = (0..5)
            .map(|i| {
                let logits = clip
                    .logits(&images, &teacher.sentences.i(i).unwrap())
                    .unwrap();
                let rows: Vec<Vec<f32>> = logits.to_vec2().unwrap();
                let most = rows
                    .iter()
                    .map(|r| r.iter().fold(f32::MIN, |a, b| a.max(*b)));
                f64::from(most.sum::<f32>()) / rows.len() as f64
            })
            .collect();
        let kept = selected(&scores, 1.0);
        assert!(kept.len() < 5 && !kept.is_empty(), "{scores:?}");
        let mut sum = Tensor::zeros_like(&teacher.mean).unwrap();
        for i in &kept {
            sum = (sum + teacher.sentences.i(*i).unwrap()).unwrap();
        }
        let want = clip.logits(&images, &unit(&sum).unwrap()).unwrap();
        let got = teacher.logits(&images, 1.0).unwrap();
        let gap = (got - want).unwrap().abs().unwrap().max_all().unwrap();
        assert!(gap.to_scalar::<f32>().unwrap() < 1e-4);
    }

    #[test]
    fn the_shortest_description_sets_how_many_sentences_there_are() {
        let (clip, mut classes) = (clip(), base());
        let mut all = (**classes.descriptions.as_ref().unwrap()).clone();
        all.get_mut("cat").unwrap().pop();
        classes = classes.described(Some(Arc::new(all.clone())));
        let teacher = Teacher::new(&clip, &classes, 50).unwrap();
        assert_eq!(teacher.sentences.dim(0).unwrap(), 1);
        all.get_mut("cat").unwrap().clear();
        classes = classes.described(Some(Arc::new(all)));
        let config = find("biomedcoop").unwrap().default_config();
        let built = config.build(&clip.into(), &classes, &mut Init::seeded(1));
        let message = built.err().unwrap().to_string();
        assert!(
            message.contains("class cat has no description"),
            "{message}"
        );
    }
}
