//! AttriCLIP: a bank of prompts whose keys are chosen by each picture, for classes that come in sessions.
//!
//! Wang et al., *AttriCLIP: A Non-Incremental Learner for Incremental Knowledge Learning*, <https://arxiv.org/abs/2305.11488>.
//! Follows the authors' `classifier/` at 031076a (github.com/bhrqw/AttriCLIP).
//!
//! `N` keys and prompts of `M` vectors, `k` of them chosen a picture, `B` images, `C` classes of the running session, `W` text
//! width, `E` joint width. The loss is `CE + key_weight (1 - mean cos(f, its keys)) + orthogonal_weight mean |cos|` of the
//! features of different prompts alone.
//!
//! The authors hand the optimizer the whole CLIP that the prompts' module holds, so that the text tower and the temperature are
//! trained with the bank, at the same rate; every session starts from the original ones. That is the default here;
//! `text_tower = false` trains the bank alone, as the paper has it.
//!
//! Differs: keys have the joint width (the authors' have the text width, which ViT-L/14 has too). Names are written with spaces
//! for `_`. The learning rate is not lowered for a session of less than a batch. Pictures with the same choice share the texts of
//! a step: the same numbers but for rounding.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor, Var};
use clip::{Clip, Slot, TextPrompt, TextTower, Wording, model::unit};

use crate::optimizer::Rule;
use crate::parts::image_tokens::tracked;
use crate::parts::layout::{self, variable};
use crate::parts::losses::cross_entropy;
use crate::{
    Backbones, Batch, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Loss, Method,
    Needs, Predict, Replay, Schedule, Settings, TextCost, Training,
};

mod replayed;

/// Registry entry, as the authors' `main_incremental_submit.py` at batches of 16: `1e-3 * 16 / 20`, down to a thousandth.
pub const ENTRY: Entry = Entry {
    name: "attriclip",
    title: "AttriCLIP",
    source: "https://arxiv.org/abs/2305.11488",
    group: Group::Weights,
    training: Some(Training {
        optimizer: Rule::Sgd,
        momentum: 0.0,
        weight_decay: 0.0,
        warmup_epochs: 0,
        schedule: Schedule::CosineSteps,
        floor: 8e-7,
        drop_last: false,
        ..Training::sgd(10, 16, 8e-4)
    }),
    read: |s| Box::new(AttriClipConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["attriclip"], replayed::replayed),
};

#[derive(Clone)]
struct AttriClipConfig {
    /// `M`.
    count: usize,
    /// `N`.
    bank: usize,
    /// `k`.
    chosen: usize,
    key_weight: f64,
    orthogonal_weight: f64,
    text_tower: bool,
}

impl AttriClipConfig {
    fn read(s: &mut Settings) -> Self {
        let config = Self {
            count: s.count("n_ctx", 12, 1..=72, "vectors of a prompt, M"),
            bank: s.count("num_prompt", 10, 2..=10_000, "keys and prompts, N"),
            chosen: s.count("top_k", 3, 1..=72, "prompts chosen by a picture, k"),
            key_weight: s.number(
                "key_weight",
                0.7,
                0.0..=1000.0,
                "of the pull to chosen keys",
            ),
            orthogonal_weight: s.number(
                "orthogonal_weight",
                0.3,
                0.0..=1000.0,
                "of the cosines between different prompts",
            ),
            text_tower: s.flag(
                "text_tower",
                true,
                "train the text tower and the temperature inside of each session, as released",
            ),
        };
        if config.chosen > config.bank {
            s.refuse(
                "top_k",
                format!("there are {} prompts to choose from", config.bank),
            );
        }
        if config.chosen * config.count > 72 {
            let message = format!(
                "{} prompts of {} vectors do not fit",
                config.chosen, config.count
            );
            s.refuse("top_k", message);
        }
        config
    }

    fn method(&self, clip: &Arc<Clip>, classes: &Classes, init: &mut Init) -> Result<AttriClip> {
        let keys = init.normal(&[self.bank, clip.embedding_size()], 0.02)?;
        let prompts = init.normal(&[self.bank, self.count, clip.text.width()], 0.02)?;
        let tuned = self.text_tower.then(|| Tuned::new(clip));
        Ok(AttriClip {
            clip: clip.clone(),
            config: self.clone(),
            keys: variable(&keys)?,
            prompts: variable(&prompts)?,
            tuned: tuned.transpose()?,
            ends: self.ends(clip.text.wording(), classes)?,
        })
    }

    /// What follows the chosen prompts in the text of each class.
    fn ends(&self, wording: &Wording, classes: &Classes) -> Result<Vec<Vec<Slot>>> {
        let all = self.chosen * self.count;
        let lead = layout::placeholder(all);
        let end = |name: &String| {
            let ids = layout::tokens(wording, &format!("{lead} {name}."))?;
            Ok(ids[wording.starts() + all..]
                .iter()
                .map(|t| Slot::Token(*t))
                .collect())
        };
        classes.names.iter().map(end).collect()
    }
}

impl Config for AttriClipConfig {
    fn needs(&self) -> Needs {
        Needs {
            trains_tower: self.text_tower,
            ..Needs::features()
        }
    }

    /// As if no two pictures of a batch chose alike.
    fn cost(&self) -> Cost {
        let words = self.count * self.chosen;
        Cost {
            text: TextCost {
                // The gradient of weights is a product more.
                backward: if self.text_tower { 2.0 } else { 1.0 },
                per_picture: true,
                ..TextCost::trained(words)
            },
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(self.method(&on.clip, classes, init)?))
    }
}

/// A text tower and a temperature of the method's own.
struct Tuned {
    tower: TextTower,
    /// Under OpenAI's names, the temperature's logarithm among them.
    variables: Vec<(String, Var)>,
    logit_scale: Var,
    /// Their values in the original CLIP, in order.
    original: Vec<Tensor>,
}

impl Tuned {
    fn new(clip: &Clip) -> Result<Self> {
        let (tower, mut variables) = clip.text.trainable()?;
        let logit_scale = variable(&clip.logit_scale.to_dtype(DType::F32)?.copy()?)?;
        variables.push(("logit_scale".to_owned(), logit_scale.clone()));
        let copies = variables.iter().map(|(_, v)| v.as_detached_tensor().copy());
        Ok(Self {
            original: copies.collect::<Result<_>>()?,
            tower,
            variables,
            logit_scale,
        })
    }

    fn start_anew(&self) -> Result<()> {
        for ((_, var), original) in self.variables.iter().zip(&self.original) {
            var.set(original)?;
        }
        Ok(())
    }
}

struct AttriClip {
    clip: Arc<Clip>,
    config: AttriClipConfig,
    /// `[N, E]`.
    keys: Var,
    /// `[N, M, W]`.
    prompts: Var,
    tuned: Option<Tuned>,
    /// By class: its name, the period and the end token.
    ends: Vec<Vec<Slot>>,
}

/// Places of the `count` largest of `scores`, the largest first; of equals the first.
fn largest(scores: &[f32], count: usize) -> Vec<u32> {
    let mut places: Vec<u32> = (0..scores.len() as u32).collect();
    places.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
    places.truncate(count);
    places
}

impl AttriClip {
    /// The prompts that each of the unit features `[B, E]` chooses, best first.
    fn choices(&self, images: &Tensor) -> Result<Vec<Vec<u32>>> {
        let scores = images.matmul(&self.keys.as_detached_tensor().t()?)?; // [B, N]
        let scores = scores.to_vec2::<f32>()?;
        let choose = |row: &Vec<f32>| largest(row, self.config.chosen);
        Ok(scores.iter().map(choose).collect())
    }

    /// The texts of all classes behind the prompts of `choice`.
    fn sequences(&self, choice: &[u32]) -> Vec<Vec<Slot>> {
        let m = self.config.count;
        let row = |prompt: u32| (0..m).map(move |i| Slot::Context(prompt as usize * m + i));
        let start = self.clip.text.wording().start().iter();
        let start: Vec<Slot> = start
            .map(|t| Slot::Token(*t))
            .chain(choice.iter().copied().flat_map(row))
            .collect();
        let whole = |end: &Vec<Slot>| [&start[..], &end[..]].concat();
        self.ends.iter().map(whole).collect()
    }

    fn encode(
        &self,
        tower: &TextTower,
        sequences: &[Vec<Slot>],
        prompts: &Tensor,
    ) -> Result<Tensor> {
        let prompt = TextPrompt {
            context: Some(prompts.reshape(((), tower.width()))?),
            ..TextPrompt::default()
        };
        unit(&tower.encode(&tower.plan(sequences)?, &prompt)?)
    }

    /// Mean `|cos|` of the features of different prompts. As released, what follows a prompt there is cut behind the first:
    /// the placeholders of the others stay.
    fn overlap(&self, tower: &TextTower, prompts: &Tensor) -> Result<Tensor> {
        let (n, m) = (self.config.bank, self.config.count);
        let text = format!("{}.", layout::placeholder(self.config.chosen * m));
        let (ids, first) = (
            layout::tokens(tower.wording(), &text)?,
            tower.wording().starts(),
        );
        let alone = |prompt: usize| -> Vec<Slot> {
            let context = (0..m).map(|i| Slot::Context(prompt * m + i));
            let rest = ids[first + m..].iter().map(|t| Slot::Token(*t));
            let start = ids[..first].iter().map(|t| Slot::Token(*t));
            start.chain(context).chain(rest).collect()
        };
        let features = self.encode(tower, &(0..n).map(alone).collect::<Vec<_>>(), prompts)?; // [N, E]
        let cosines = features.matmul(&features.t()?)?;
        let others = Tensor::eye(n, DType::F32, cosines.device())?.affine(-1.0, 1.0)?;
        let cosines = (cosines * others)?;
        (&cosines * cosines.detach().sign()?)?.sum_all()? / (n * (n - 1)) as f64
    }
}

impl Method for AttriClip {
    fn parameters(&self) -> Vec<(String, Var)> {
        let bank = [
            ("text_key".to_owned(), self.keys.clone()),
            ("text_prompt".to_owned(), self.prompts.clone()),
        ];
        let tuned = self.tuned.iter().flat_map(|t| t.variables.clone());
        bank.into_iter().chain(tuned).collect()
    }

    /// The bank stays; the tower is the original one.
    fn begin(&mut self) -> Result<()> {
        match &self.tuned {
            Some(tuned) => tuned.start_anew(),
            None => Ok(()),
        }
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let images = batch.images.unit_features(&self.clip)?; // [B, E]
        let (b, e) = images.dims2()?;
        let choices = self.choices(&images)?;
        let mut places: BTreeMap<&Vec<u32>, u32> = BTreeMap::new();
        let mut sequences = Vec::new();
        for choice in &choices {
            places.entry(choice).or_insert_with(|| {
                let place = sequences.len() / self.ends.len();
                sequences.extend(self.sequences(choice));
                place as u32
            });
        }
        let (tower, prompts) = match &self.tuned {
            Some(tuned) => (&tuned.tower, tracked(&self.prompts)),
            None => (&self.clip.text, tracked(&self.prompts)),
        };
        let texts = self.encode(tower, &sequences, &prompts)?;
        let texts = texts.reshape((places.len(), self.ends.len(), e))?;
        let own: Vec<u32> = choices.iter().map(|choice| places[choice]).collect();
        let texts = texts.index_select(&Tensor::new(own, images.device())?, 0)?; // [B, C, E]
        let logits = texts.broadcast_mul(&images.unsqueeze(1)?)?.sum(D::Minus1)?;
        let logits = match &self.tuned {
            Some(tuned) => logits.broadcast_mul(&tuned.logit_scale.as_tensor().exp()?)?,
            None => (logits * self.clip.scale())?,
        };

        let rows = Tensor::new(choices.concat(), images.device())?;
        let keys = unit(&tracked(&self.keys))?.index_select(&rows, 0)?;
        let keys = keys.reshape((b, self.config.chosen, e))?;
        let near = keys.broadcast_mul(&images.unsqueeze(1)?)?.sum(D::Minus1)?;
        let weight = self.config.key_weight;
        let overlap = self.overlap(tower, &prompts)?;
        Loss::sum(vec![
            ("cross_entropy", cross_entropy(&logits, &batch.labels)?),
            ("keys", near.mean_all()?.affine(-weight, weight)?),
            ("orthogonality", (overlap * self.config.orthogonal_weight)?),
        ])
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.ends = self.config.ends(self.clip.text.wording(), classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        let (tower, scale) = match &self.tuned {
            Some(tuned) => {
                let scale = tuned.logit_scale.as_detached_tensor().exp()?;
                (tuned.tower.frozen()?, f64::from(scale.to_scalar::<f32>()?))
            }
            None => (self.clip.text.clone(), self.clip.scale()),
        };
        Ok(Box::new(Chosen {
            method: self,
            tower,
            scale,
            prompts: self.prompts.as_detached_tensor(),
            texts: RefCell::default(),
        }))
    }
}

struct Chosen<'a> {
    method: &'a AttriClip,
    tower: TextTower,
    scale: f64,
    prompts: Tensor,
    /// `[C, E]` by choice, once a picture has chosen so: what they are does not depend on the picture.
    texts: RefCell<BTreeMap<Vec<u32>, Tensor>>,
}

impl Predict for Chosen<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let images = images.unit_features(&self.method.clip)?;
        let mut known = self.texts.borrow_mut();
        let mut rows = Vec::new();
        for (row, choice) in self.method.choices(&images)?.into_iter().enumerate() {
            if !known.contains_key(&choice) {
                let texts = self.method.sequences(&choice);
                let texts = self.method.encode(&self.tower, &texts, &self.prompts)?;
                known.insert(choice.clone(), texts);
            }
            rows.push(images.narrow(0, row, 1)?.matmul(&known[&choice].t()?)?);
        }
        Tensor::cat(&rows, 0)? * self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step;
    use crate::tests::{base, batch, clip, flat, logits, noise, novel};
    use candle_core::Device;

    fn built(config: &str) -> AttriClip {
        let mut settings = Settings::new(config.parse().unwrap());
        let config = AttriClipConfig::read(&mut settings);
        assert_eq!(settings.finish().problems, []);
        config
            .method(&clip(), &base(), &mut Init::seeded(1))
            .unwrap()
    }

    const SMALL: &str = "n_ctx = 2\nnum_prompt = 4\ntop_k = 2";

    #[test]
    fn a_picture_chooses_by_unnormalised_keys_best_first() {
        assert_eq!(largest(&[0.1, 0.5, -1.0, 0.5, 0.7], 3), [4, 1, 3]);
        let method = built(SMALL);
        let one = unit(&noise(&[1, 128], 1, 1.0)).unwrap();
        // A long key that points aside beats a short one that points at the picture.
        let aside = (&one + unit(&noise(&[1, 128], 2, 1.0)).unwrap()).unwrap();
        let keys = [
            (&one * 0.5).unwrap(),
            (&one * -1.0).unwrap(),
            aside,
            (&one * 0.6).unwrap(),
        ];
        method.keys.set(&Tensor::cat(&keys, 0).unwrap()).unwrap();
        assert_eq!(method.choices(&one).unwrap(), [[2, 3]]);
    }

    #[test]
    fn chosen_prompts_stand_in_their_order_before_the_name() {
        let method = built(&format!("{SMALL}\ntext_tower = false"));
        method.prompts.set(&noise(&[4, 2, 64], 3, 0.5)).unwrap();
        let images = batch().images;
        let scores: Vec<Vec<f32>> = {
            let scores = method.predictor().unwrap().logits(&images).unwrap();
            scores.to_vec2().unwrap()
        };
        let features = images.unit_features(&method.clip).unwrap();
        for (row, choice) in method.choices(&features).unwrap().iter().enumerate() {
            // CoOp whose context is these prompts.
            let coop = crate::tests::build("coop", "n_ctx = 4", &method.clip);
            let rows = choice
                .iter()
                .map(|p| method.prompts.as_tensor().get(*p as usize).unwrap());
            let context = Tensor::cat(&rows.collect::<Vec<_>>(), 0).unwrap();
            coop.parameters()[0].1.set(&context).unwrap();
            let want = logits(coop.as_ref(), &images);
            for (ours, theirs) in scores[row].iter().zip(&want[3 * row..]) {
                assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
            }
        }
    }

    #[test]
    fn a_session_starts_from_the_original_tower_and_keeps_the_bank() {
        let mut method = built(SMALL);
        let training = ENTRY.training.unwrap();
        let values = |method: &AttriClip| -> Vec<Vec<f32>> {
            method
                .parameters()
                .iter()
                .map(|(_, v)| flat(v.as_tensor()))
                .collect()
        };
        let before = values(&method);
        let mut optimizer = training.optimizer();
        for _ in 0..2 {
            step(&mut method, &mut optimizer, &batch(), 0.01).unwrap();
        }
        let tuned = values(&method);
        assert!(
            before.iter().zip(&tuned).all(|(a, b)| a != b),
            "all is trained"
        );
        // Scores of what is learned are those of the tuned tower.
        let images = batch().images;
        let scores = logits(&method, &images);
        method.bind(&novel()).unwrap();
        method.bind(&base()).unwrap();
        assert_eq!(scores, logits(&method, &images));
        method.begin().unwrap();
        let after = values(&method);
        assert_eq!(after[..2], tuned[..2]);
        assert_eq!(after[2..], before[2..]);
        assert_ne!(scores, logits(&method, &images));
    }

    #[test]
    fn terms_of_the_bank_are_those_worked_out_by_hand() {
        let mut method = built(&format!("{SMALL}\ntext_tower = false"));
        method.keys.set(&noise(&[4, 128], 2, 0.5)).unwrap();
        method.prompts.set(&noise(&[4, 2, 64], 3, 0.5)).unwrap();
        let loss = method.loss(&batch()).unwrap();
        let part = |i: usize| f64::from(loss.parts[i].1.to_scalar::<f32>().unwrap());
        let features = batch().images.unit_features(&method.clip).unwrap();
        let keys = unit(method.keys.as_tensor()).unwrap();
        let cosines: Vec<Vec<f32>> = features
            .matmul(&keys.t().unwrap())
            .unwrap()
            .to_vec2()
            .unwrap();
        let mut sum = 0.0;
        for (row, choice) in method.choices(&features).unwrap().iter().enumerate() {
            sum += choice
                .iter()
                .map(|k| f64::from(cosines[row][*k as usize]))
                .sum::<f64>();
        }
        assert!((part(1) - 0.7 * (1.0 - sum / 8.0)).abs() < 1e-5);
        // A text of two vectors and the two placeholders that stay, as CoOp has it for a class "X X".
        let coop = crate::tests::build("coop", "n_ctx = 2", &method.clip);
        let mut coop = coop;
        coop.bind(&Classes::new(&["X X".to_owned()], "any", "{}"))
            .unwrap();
        let mut texts = Vec::new();
        for prompt in 0..4 {
            coop.parameters()[0]
                .1
                .set(&method.prompts.as_tensor().get(prompt).unwrap())
                .unwrap();
            // Scores of the joint space's axes are the text's coordinates.
            let axes = Tensor::eye(128, DType::F32, &Device::Cpu).unwrap();
            texts.push(logits(coop.as_ref(), &Images::Features(axes)));
        }
        let mut overlap = 0.0;
        for a in 0..4 {
            for b in (0..4).filter(|b| *b != a) {
                let dot: f32 = texts[a]
                    .iter()
                    .zip(&texts[b])
                    .map(|(a, b)| a * b / 400.0)
                    .sum();
                overlap += f64::from(dot.abs()) / 12.0;
            }
        }
        assert!(
            (part(2) - 0.3 * overlap).abs() < 1e-5,
            "{} {overlap}",
            part(2)
        );
    }

    #[test]
    fn prompts_that_do_not_fit_are_refused() {
        for (config, told) in [
            ("num_prompt = 2", "there are 2 prompts"),
            ("n_ctx = 30", "3 prompts of 30 vectors"),
        ] {
            let mut s = Settings::new(config.parse().unwrap());
            AttriClipConfig::read(&mut s);
            let problems = s.finish().problems;
            assert!(
                problems.len() == 1 && problems[0].message.contains(told),
                "{problems:?}"
            );
        }
    }
}
