//! Growing prototypes: the mean feature of each class's pictures, added stage by stage, beside zero-shot. Nothing is trained.
//!
//! What is published: classifying by the cosine to class means of frozen features, which classes of later sessions join without
//! a change to earlier ones (SimpleCIL: Zhou et al., *Revisiting Class-Incremental Learning with Pre-Trained Models*,
//! <https://arxiv.org/abs/2303.07338>), which `share = 1` is; and zero-shot CLIP over the classes met so far (Continual-CLIP,
//! <https://arxiv.org/abs/2210.03114>), which `share = 0` is but for its wording.
//!
//! What is ours: the mix of both on the sphere, so that a class without pictures is scored by its text. No released code is
//! followed, and no published number is of it.
//!
//! `K` classes, `B` images, `E` joint width. Class `k` with mean `m` and text `t`, all of unit length, is scored by the scaled
//! cosine to `share m + (1 - share) t`.
//!
//! Differs: SimpleCIL takes class means of features as they leave the tower; here, as in Tip-Adapter's cache, of unit features.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor, Var, bail};
use clip::{Clip, model::unit};

use crate::parts::seen::{self, Known};
use crate::parts::shots;
use crate::parts::wording::Wording;
use crate::{
    Backbones, Classes, Config, Cosine, Cost, Entry, Group, ImageCost, Init, Method, Needs,
    Predict, Replay, Settings, Shots, Support, TextCost,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "prototypes",
    title: "Class means",
    source: "https://arxiv.org/abs/2303.07338",
    group: Group::TrainingFree,
    training: None,
    read: |s| Box::new(PrototypesConfig::read(s)),
    checkpoint: None,
    replay: Replay::None,
};

#[derive(Clone)]
struct PrototypesConfig {
    share: f64,
    passes: usize,
    wording: Wording,
}

impl PrototypesConfig {
    fn read(s: &mut Settings) -> Self {
        let help = "of the mean picture in a class's vector; the rest is its text";
        let share = s.number("share", 0.5, 0.0..=1.0, help);
        let help = "views a mean is taken over; 1: each picture as in testing";
        Self {
            share,
            passes: s.count("passes", 1, 1..=1000, help),
            wording: Wording::read(s, &["dataset", "photo", "ensemble"], "hand-written prompts"),
        }
    }
}

impl Config for PrototypesConfig {
    fn needs(&self) -> Needs {
        Needs {
            support: Some(match self.passes {
                1 => Support::Plain,
                passes => Support::Passes(passes),
            }),
            knows_split: true,
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
        Ok(Box::new(Prototypes {
            clip: on.clip.clone(),
            config: self.clone(),
            texts: self.wording.texts(&on.clip, classes)?,
            bound: Known::of(classes),
            seen: Vec::new(),
            sums: Vec::new(),
        }))
    }
}

struct Prototypes {
    clip: Arc<Clip>,
    config: PrototypesConfig,
    /// `[K, E]`, unit length.
    texts: Tensor,
    bound: Vec<Known>,
    /// Classes that pictures were seen of, in the order of `sums`.
    seen: Vec<Known>,
    /// `[E]` each: the sum of unit features of a class's pictures, whose direction is that of their mean.
    sums: Vec<Tensor>,
}

/// Name of the sums `[S, E]` in the state.
const SUMS: &str = "feature_sums";

impl Method for Prototypes {
    fn parameters(&self) -> Vec<(String, Var)> {
        Vec::new()
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        if self.sums.is_empty() {
            return Vec::new();
        }
        let sums = Tensor::stack(&self.sums, 0).expect("sums are alike");
        let mut all = seen::state(&self.seen);
        all.push((SUMS.to_owned(), sums));
        all
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        if let Some(other) = state
            .keys()
            .find(|k| ![SUMS, seen::KEPT].contains(&k.as_str()))
        {
            bail!("{other} is no state of this method");
        }
        let seen = seen::restored(state)?;
        let width = self.clip.embedding_size();
        let sums = match state.get(SUMS) {
            None => Vec::new(),
            Some(sums) if sums.dims() == [seen.len(), width] => {
                let sums = sums.to_dtype(DType::F32)?.to_device(self.clip.device())?;
                (0..seen.len())
                    .map(|row| sums.get(row))
                    .collect::<Result<_>>()?
            }
            Some(sums) => bail!(
                "{SUMS} is {:?}, there are {} classes of {width}",
                sums.dims(),
                seen.len()
            ),
        };
        if sums.len() != seen.len() {
            bail!("{SUMS} is missing");
        }
        (self.seen, self.sums) = (seen, sums);
        Ok(())
    }

    /// Adds the pictures of the classes bound to what is there.
    fn fit(&mut self, shots: &Shots) -> Result<()> {
        let features = shots::unit_features(&self.clip, &shots.train)?;
        for (class, known) in (0u32..).zip(self.bound.clone()) {
            let rows = (0u32..)
                .zip(&shots.train.labels)
                .filter(|(_, l)| **l == class);
            let rows: Vec<u32> = rows.map(|(row, _)| row).collect();
            if rows.is_empty() {
                continue;
            }
            let rows = Tensor::new(rows, features.device())?;
            let sum = features.index_select(&rows, 0)?.sum(0)?;
            match self.seen.iter().position(|k| k.is(&known)) {
                Some(place) => self.sums[place] = (&self.sums[place] + sum)?,
                None => {
                    self.seen.push(known);
                    self.sums.push(sum);
                }
            }
        }
        Ok(())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.texts = self.config.wording.texts(&self.clip, classes)?;
        self.bound = Known::of(classes);
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        let share = self.config.share;
        let vector = |(class, known): (usize, &Known)| {
            let text = self.texts.get(class)?;
            match self.seen.iter().position(|k| k.is(known)) {
                None => Ok(text),
                Some(place) => {
                    let mean = unit(&self.sums[place].unsqueeze(0)?)?.squeeze(0)?;
                    (mean * share)? + (text * (1.0 - share))?
                }
            }
        };
        let vectors = self.bound.iter().enumerate().map(vector);
        let vectors = Tensor::stack(&vectors.collect::<Result<Vec<_>>>()?, 0)?;
        Ok(Box::new(Cosine {
            clip: &self.clip,
            texts: unit(&vectors)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{base, clip, flat, noise, novel};
    use crate::{Images, Labelled};
    use candle_core::Device;

    fn built(config: &str) -> Box<dyn Method> {
        let config = PrototypesConfig::read(&mut Settings::new(config.parse().unwrap()));
        config
            .build(&clip().into(), &base(), &mut Init::seeded(1))
            .unwrap()
    }

    fn shots(features: Tensor, labels: &[u32]) -> Shots {
        Shots {
            train: Labelled {
                passes: vec![Images::Features(features)],
                labels: labels.to_vec(),
            },
            validation: None,
            test: None,
            seed: 1,
        }
    }

    fn scores(method: &dyn Method, features: &Tensor) -> Vec<Vec<f32>> {
        let images = Images::Features(features.clone());
        method
            .predictor()
            .unwrap()
            .logits(&images)
            .unwrap()
            .to_vec2()
            .unwrap()
    }

    #[test]
    fn later_stages_add_classes_and_pictures_and_move_no_other_class() {
        let mut method = built("share = 1.0");
        let first = noise(&[3, 128], 1, 1.0);
        method.fit(&shots(first.clone(), &[0, 1, 1])).unwrap();
        let asked = noise(&[2, 128], 9, 1.0);
        let before = scores(method.as_ref(), &asked);
        method.bind(&novel()).unwrap();
        method
            .fit(&shots(noise(&[2, 128], 2, 1.0), &[0, 1]))
            .unwrap();
        method.bind(&base()).unwrap();
        assert_eq!(before, scores(method.as_ref(), &asked));
        // One more picture of the second class, whose mean is that of all three.
        let more = noise(&[1, 128], 3, 1.0);
        method.fit(&shots(more.clone(), &[1])).unwrap();
        let after = scores(method.as_ref(), &asked);
        let length = |t: &Tensor| flat(t).iter().map(|v| v * v).sum::<f32>().sqrt();
        let unit = |t: Tensor| (&t / f64::from(length(&t))).unwrap();
        let all = [
            first.get(1).unwrap(),
            first.get(2).unwrap(),
            more.get(0).unwrap(),
        ]
        .map(unit);
        let mean = ((&all[0] + &all[1]).unwrap() + &all[2]).unwrap();
        let mean = unit((mean / 3.0).unwrap());
        for (row, (before, after)) in before.iter().zip(&after).enumerate() {
            assert_eq!((before[0], before[2]), (after[0], after[2]));
            let picture = unit(asked.get(row).unwrap());
            let want = 20.0 * flat(&(picture * &mean).unwrap()).iter().sum::<f32>();
            assert!((after[1] - want).abs() < 1e-4, "{} {want}", after[1]);
        }
    }

    #[test]
    fn a_class_without_pictures_is_scored_by_its_text_and_the_share_mixes() {
        let clip = clip();
        let asked = noise(&[2, 128], 9, 1.0);
        let pictures = shots(noise(&[1, 128], 1, 1.0), &[2]);
        let all = ["0.0", "0.5", "1.0"].map(|share| {
            let mut method = built(&format!("share = {share}"));
            method.fit(&pictures).unwrap();
            scores(method.as_ref(), &asked)
        });
        let zero_shot = crate::tests::build("zero-shot", "", &clip);
        let zero_shot = scores(zero_shot.as_ref(), &asked);
        for row in 0..2 {
            for (ours, theirs) in all
                .iter()
                .flat_map(|a| a[row][..2].iter().zip(&zero_shot[row][..2]))
            {
                assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
            }
            assert!((all[0][row][2] - zero_shot[row][2]).abs() < 1e-4);
            assert!((all[2][row][2] - zero_shot[row][2]).abs() > 1e-2);
            // Halfway on the sphere: the mean of both scores, longer by what the mean vector is shorter.
            let half = (all[0][row][2] + all[2][row][2]) / 2.0;
            assert!(all[1][row][2].abs() > half.abs() && all[1][row][2] * half > 0.0);
        }
    }

    #[test]
    fn what_was_seen_is_state() {
        let mut method = built("");
        assert!(method.state().is_empty());
        method
            .fit(&shots(noise(&[2, 128], 1, 1.0), &[2, 0]))
            .unwrap();
        let state: BTreeMap<_, _> = method.state().into_iter().collect();
        let mut again = built("");
        again.restore(&state).unwrap();
        let asked = noise(&[2, 128], 9, 1.0);
        assert_eq!(
            scores(method.as_ref(), &asked),
            scores(again.as_ref(), &asked)
        );
        for (without, told) in [(SUMS, "missing"), (seen::KEPT, "0 classes")] {
            let mut part = state.clone();
            part.remove(without).unwrap();
            let refused = again.restore(&part).unwrap_err().to_string();
            assert!(refused.contains(told), "{refused}");
        }
        let other = BTreeMap::from([(
            "alpha".to_owned(),
            Tensor::new(&[1f32], &Device::Cpu).unwrap(),
        )]);
        assert!(
            again
                .restore(&other)
                .unwrap_err()
                .to_string()
                .contains("alpha")
        );
    }
}
