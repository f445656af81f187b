//! ZERO: the sure views of a test picture vote; the temperature is set to zero, nothing is tuned.
//!
//! Farina et al., *Frustratingly Easy Test-Time Adaptation of Vision-Language Models*, <https://arxiv.org/abs/2405.18330>.
//! Follows the authors' `ttas/zero.py` at c609f7c.
//!
//! Differs: votes are counted, where the authors take a softmax at the number type's epsilon: the same in float32, fractions
//! of votes between near-ties in half precision. Where no view left out votes for a tied class, the first of the tied wins;
//! the authors' code then takes what the first view left out says, of entries that a slip of theirs masks.
//!
//! `V` views, the first of them the test view; `K` classes, `E` joint width.

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor, Var};
use clip::Clip;

use crate::parts::views;
use crate::parts::wording::Wording;
use crate::replay::{Comparison, Stage};
use crate::{
    Backbones, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Method, Needs,
    Predict, Replay, Settings, TextCost,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "zero",
    title: "ZERO",
    source: "https://arxiv.org/abs/2405.18330",
    group: Group::TestTime,
    training: None,
    read: |s| Box::new(ZeroConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["zero"], replay),
};

#[derive(Clone, Debug)]
struct ZeroConfig {
    wording: Wording,
    views: usize,
    keep: f64,
    augmix: bool,
}

impl ZeroConfig {
    fn read(s: &mut Settings) -> Self {
        let help = "\"a photo of a {}.\", the seven of CLIP's authors, or the dataset's own prompt";
        let wording = Wording::read(s, &["photo", "seven", "dataset"], help);
        let views = views::read_count(s, 64);
        Self {
            wording,
            views,
            keep: views::read_share(s, 0.3, views),
            augmix: s.flag(
                "augmix",
                false,
                "AugMix on the views of fine-grained datasets",
            ),
        }
    }
}

impl Config for ZeroConfig {
    fn needs(&self) -> Needs {
        Needs::views(self.views, self.augmix)
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, _: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(Zero {
            clip: on.clip.clone(),
            texts: self.wording.texts(&on.clip, classes)?,
            config: self.clone(),
        }))
    }
}

struct Zero {
    clip: Arc<Clip>,
    config: ZeroConfig,
    /// `[K, E]`, unit length.
    texts: Tensor,
}

/// How the views voted.
struct Votes {
    /// `[V, K]`.
    logits: Tensor,
    /// Of each view, in nats.
    entropies: Vec<f32>,
    /// Views, the surest first.
    order: Vec<usize>,
    /// Of each class; the one that wins a tie has one more.
    votes: Vec<f32>,
    /// Whether there was a tie.
    tied: bool,
}

/// Votes of the first `kept` of `choices` (the class of each view, the surest first) among `classes`, and whether the most
/// are shared. A tie gives one vote more to the first of the remaining choices that is among the tied.
fn count(choices: &[u32], kept: usize, classes: usize) -> (Vec<f32>, bool) {
    let mut votes = vec![0f32; classes];
    for choice in &choices[..kept] {
        votes[*choice as usize] += 1.0;
    }
    let most = votes.iter().copied().fold(0.0, f32::max);
    let tied: Vec<usize> = (0..classes).filter(|c| votes[*c] == most).collect();
    if tied.len() > 1 {
        let left = choices[kept..].iter().map(|c| *c as usize);
        let winner = left.into_iter().find(|c| tied.contains(c));
        votes[winner.unwrap_or(tied[0])] += 1.0;
    }
    (votes, tied.len() > 1)
}

impl Zero {
    fn vote(&self, images: &Images) -> Result<Votes> {
        let features = images.unit_features(&self.clip)?; // [V, E]
        let kept = views::kept(features.dim(0)?, self.config.keep)?;
        let logits = self.clip.logits(&features, &self.texts)?; // [V, K]
        let entropies = views::entropies(&logits)?;
        let order = views::surest_first(&entropies);
        let best: Vec<u32> = logits.argmax(D::Minus1)?.to_vec1()?;
        let choices: Vec<u32> = order.iter().map(|view| best[*view]).collect();
        let (votes, tied) = count(&choices, kept, logits.dim(1)?);
        Ok(Votes {
            logits,
            entropies,
            order,
            votes,
            tied,
        })
    }
}

impl Method for Zero {
    fn parameters(&self) -> Vec<(String, Var)> {
        Vec::new()
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.texts = self.config.wording.texts(&self.clip, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(TestTime(self)))
    }
}

struct TestTime<'a>(&'a Zero);

impl Predict for TestTime<'_> {
    /// Votes, not cosines.
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let votes = self.0.vote(images)?.votes;
        Tensor::new(votes, self.0.texts.device())?.unsqueeze(0)
    }
}

/// Every recorded picture: its views' logits and entropies, their order, which are kept, the votes, ties, the answer.
fn replay(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let classes = r.classes()?;
    let template = r.field("template").and_then(|t| t.as_str());
    let wording = Wording::These(template.map(str::to_owned).into_iter().collect());
    let config = ZeroConfig {
        views: r.count("n_views")?,
        keep: r.number("gamma")?,
        augmix: false,
        wording,
    };
    let zero = Zero {
        clip: stage.clip.clone(),
        texts: config.wording.texts(&stage.clip, &classes)?,
        config,
    };
    c.values("texts", &zero.texts, r.get("text_features")?)?;
    let whole = |name: &str| r.get(name)?.to_dtype(DType::I64)?.to_vec2::<i64>();
    let (order, selected) = (whole("order")?, whole("selected")?);
    let answers: Vec<i64> = r.get("pred")?.to_dtype(DType::I64)?.to_vec1()?;
    let votes: Vec<Vec<f32>> = r.get("votes")?.to_vec2()?;
    let entropy = r.get("entropy")?;
    let ties = r.field("ties").and_then(serde_json::Value::as_array);
    let all = r.get("views")?;
    for picture in 0..all.dim(0)? {
        let ours = zero.vote(&Images::Pixels(all.get(picture)?))?;
        c.logits(&ours.logits, &r.get("logits.views")?.get(picture)?)?;
        let entropies = Tensor::new(ours.entropies, entropy.device())?;
        c.values("entropy", &entropies, &entropy.get(picture)?)?;
        let of = |views: &[usize]| views.iter().map(|v| *v as i64).collect::<Vec<_>>();
        c.choice("order", &of(&ours.order), &order[picture]);
        let kept = views::kept(ours.order.len(), zero.config.keep)?;
        let mut chosen = ours.order[..kept].to_vec();
        chosen.sort_unstable();
        c.choice("kept views", &of(&chosen), &selected[picture]);
        c.choice("votes", &ours.votes, &votes[picture]);
        let tied = ties.and_then(|t| t.get(picture)?.as_bool());
        c.choice("tie", Some(ours.tied), tied);
        let best = Tensor::new(ours.votes, entropy.device())?.argmax(0)?;
        c.choice(
            "answer",
            i64::from(best.to_scalar::<u32>()?),
            answers[picture],
        );
        c.steps += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_majority_of_the_kept_views_wins() {
        // The last three would turn it; they are not kept.
        let (votes, tied) = count(&[1, 0, 1, 0, 0, 0], 3, 3);
        assert_eq!(
            (votes.as_slice(), tied),
            ([1.0, 2.0, 0.0].as_slice(), false)
        );
    }

    #[test]
    fn the_surest_view_left_out_that_votes_for_a_tied_class_decides() {
        // 0 and 2 are tied; the fifth view votes for 1, which is not among them, the sixth for 2.
        let (votes, tied) = count(&[0, 2, 0, 2, 1, 2, 0], 4, 3);
        assert_eq!((votes.as_slice(), tied), ([2.0, 0.0, 3.0].as_slice(), true));
        let (votes, _) = count(&[0, 2, 1], 2, 3);
        assert_eq!(
            votes,
            [2.0, 0.0, 1.0],
            "nobody decides: the first of the tied"
        );
    }
}
