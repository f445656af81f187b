//! PLOT++: several text contexts and several sets of image tokens, whose features are matched by optimal transport.
//!
//! Chen et al., *PLOT: Prompt Learning with Optimal Transport for Vision-Language Models*,
//! <https://arxiv.org/abs/2210.01253>, in its form for ViTs. Follows the authors' `plot-pp/trainers/plotpp.py` at 728539f.
//!
//! `B` images, `K` classes, `N` text contexts of `n` vectors, `M` sets of `t` image tokens, `W` text width, `V` image width,
//! `E` joint width.
//!
//! In a first stage the image tokens are learned alone, and the scaled cosine of the mean features is added to the
//! logits; in a second stage both are learned, without it, from a fresh update rule and learning rate.
//!
//! As published, every context has as many vectors as the first has words. Of a longer one the words behind stay, fixed;
//! a shorter one goes on with what ends its text, and its names lose as many of their first tokens. Transport stops when
//! the mean of the whole batch has settled, so that a score depends slightly on which pictures share its batch.
//!
//! Differs: both stages see the shots of the trial's own seed; the authors run the first on seed 1 and start all seeds
//! from it. Contexts from noise, which their code names but cannot build, are not there.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use candle_core::{Result, Tensor, Var, bail};
use clip::{Clip, ImagePrompt, TextPlan, TextPrompt, model::unit};

use crate::parts::image_tokens::tracked;
use crate::parts::layout::{self, Position};
use crate::parts::losses::cross_entropy;
use crate::parts::stages::Stages;
use crate::parts::transport::{Plan, Transport, pooled};
use crate::replay::{Comparison, Stage, watched};
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init,
    Loss, Method, Needs, Predict, Replay, Settings, TextCost, Training, load_parameters,
};

/// Registry entry. As released, whatever its configuration says: each stage has 50 epochs for 1 shot and on ImageNet, 100
/// for 2 and 4, 200 for more; here both are counted together.
pub const ENTRY: Entry = Entry {
    name: "plotpp",
    title: "PLOT++",
    source: "https://arxiv.org/abs/2210.01253",
    group: Group::BothTowers,
    training: Some(Training {
        restart: 0.5,
        ..Training::sgd(400, 32, 0.002)
    }),
    read: |s| Box::new(PlotPpConfig::read(s)),
    // The whole model under the name of its learner.
    checkpoint: Some(Checkpoint {
        folder: "prompt_learner",
        module: None,
    }),
    replay: Replay::Own(&["plotpp"], compare),
};

/// The authors' words for each dataset.
static PREFIXES: LazyLock<BTreeMap<String, Vec<String>>> = LazyLock::new(|| {
    toml::from_str(include_str!("parts/prefixes.toml")).expect("prefixes.toml is tested")
});

/// Those of `dataset`; where the authors have none, Caltech101's, which name no domain.
fn published(dataset: &str) -> &'static [String] {
    let family = |id: &str| id.strip_suffix('*').is_some_and(|f| dataset.starts_with(f));
    let mut all = PREFIXES.iter();
    let own = all.find(|(id, _)| *id == dataset || family(id));
    own.map_or(&PREFIXES["caltech101"], |(_, prefixes)| prefixes)
}

#[derive(Clone, Debug)]
struct PlotPpConfig {
    prompts: usize,
    image_prompts: usize,
    image_count: usize,
    prefixes: Vec<String>,
    first_stage: f64,
    transport: Transport,
}

impl PlotPpConfig {
    fn read(s: &mut Settings) -> Self {
        let config = Self {
            prompts: s.count("n_prompts", 4, 1..=64, "text contexts of each class, N"),
            image_prompts: s.count("n_prompts_vision", 4, 1..=64, "sets of image tokens, M"),
            image_count: s.count("n_ctx_vision", 2, 1..=512, "tokens of each set"),
            prefixes: s.texts(
                "prefixes",
                "words that the contexts start from, of which the first N are used; none: the authors' for the dataset, or Caltech101's",
            ),
            first_stage: s.number(
                "first_stage",
                0.5,
                0.0..=1.0,
                "share of the steps that train image tokens alone; `restart` starts the learning rate anew there",
            ),
            transport: Transport::read(s),
        };
        if config.prefixes.iter().any(|p| p.trim().is_empty()) {
            s.refuse("prefixes", "a context starts from words");
        }
        let there = match config.prefixes.len() {
            0 => 4,
            given => given,
        };
        if config.prompts > there {
            let message = format!("{} contexts start from {there} prefixes", config.prompts);
            s.refuse("n_prompts", message);
        }
        config
    }

    fn make(&self, clip: &Arc<Clip>, classes: &Classes, init: &mut Init) -> Result<PlotPp> {
        let all = match self.prefixes.as_slice() {
            [] => published(&classes.dataset),
            given => given,
        };
        let prefixes = all[..self.prompts].to_vec();
        let count = prefixes[0].split_whitespace().count();
        let ctx = prefixes.iter().map(|p| start(clip, p, count));
        let ctx = Tensor::stack(&ctx.collect::<Result<Vec<_>>>()?, 0)?;
        let width = clip.transformer()?.width();
        let tokens = init.normal(&[self.image_prompts, self.image_count, width], 0.02)?;
        Ok(PlotPp {
            plan: plan_of(clip, classes, &prefixes, count)?,
            clip: clip.clone(),
            prefixes,
            ctx: layout::variable(&ctx)?,
            tokens: layout::variable(&tokens)?,
            stages: Stages::new(self.first_stage),
            transport: self.transport,
        })
    }
}

impl Config for PlotPpConfig {
    fn needs(&self) -> Needs {
        Needs::pixels()
    }

    /// Where the dataset decides on the words, four a context are counted.
    fn cost(&self) -> Cost {
        let words = |p: &String| p.split_whitespace().count();
        let (texts, images) = (self.prompts as f64, self.image_prompts as f64);
        Cost {
            text: TextCost {
                forward: texts,
                backward: texts * (1.0 - self.first_stage),
                ..TextCost::trained(self.prefixes.first().map_or(crate::cost::WORDS, words))
            },
            image: ImageCost {
                trained: images,
                ..ImageCost::trained(self.image_count)
            },
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(self.make(&on.clip, classes, init)?))
    }
}

/// Embeddings `[n, W]` of the first `count` tokens of `prefix`, of what ends its text where it has fewer.
fn start(clip: &Clip, prefix: &str, count: usize) -> Result<Tensor> {
    let wording = clip.text.wording();
    let (mut ids, first) = (layout::tokens(wording, prefix)?, wording.starts());
    // What fills a text of 77 tokens has the id 0.
    ids.resize(ids.len().max(first + count), 0);
    clip.text.embed(&ids[first..first + count])
}

/// The sequences of all classes for each context; context row `i count + j` is the `j`-th vector of context `i`.
fn plan_of(clip: &Clip, classes: &Classes, prefixes: &[String], count: usize) -> Result<TextPlan> {
    let of_context = |(i, prefix): (usize, &String)| {
        let row = |_, j| i * count + j;
        layout::sequences(
            clip.text.wording(),
            classes,
            prefix,
            count,
            Position::End,
            row,
        )
    };
    let sequences = prefixes.iter().enumerate().map(of_context);
    clip.text
        .plan(&sequences.collect::<Result<Vec<_>>>()?.concat())
}

struct PlotPp {
    clip: Arc<Clip>,
    prefixes: Vec<String>,
    /// `[N, n, W]`.
    ctx: Var,
    /// `[M, t, V]`.
    tokens: Var,
    stages: Stages,
    transport: Transport,
    plan: TextPlan,
}

impl PlotPp {
    /// Features of all texts, `[N, K, E]`, not normalised.
    fn texts(&self, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let prompt = TextPrompt {
            context: Some(of(&self.ctx).reshape(((), self.clip.text.width()))?),
            ..TextPrompt::default()
        };
        let texts = self.clip.text.encode(&self.plan, &prompt)?;
        texts.reshape((self.ctx.dim(0)?, (), self.clip.embedding_size()))
    }

    /// Features of pictures with each set of tokens, `[B, M, E]`, not normalised.
    fn images(&self, images: &Images, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let (tower, tokens, pixels) =
            (self.clip.transformer()?, of(&self.tokens), images.pixels()?);
        let with = |set: usize| {
            let prompt = ImagePrompt {
                tokens: Some(tokens.get(set)?),
                ..ImagePrompt::default()
            };
            tower.encode(pixels, &prompt)
        };
        let all = (0..tokens.dim(0)?).map(with).collect::<Result<Vec<_>>>()?;
        Tensor::stack(&all, 1)
    }

    /// Logits `[B, K]`.
    fn score(&self, images: &Tensor, texts: &Tensor) -> Result<(Tensor, Plan)> {
        let (moved, plan) = self.transport.score(&unit(images)?, &unit(texts)?)?;
        let mut logits = (moved * self.clip.scale())?;
        if !self.stages.is_second() {
            let whole = self.clip.logits(&pooled(images, 1)?, &pooled(texts, 0)?)?;
            logits = (whole + logits)?;
        }
        Ok((logits, plan))
    }

    fn named(&self) -> [(String, Var); 2] {
        [
            ("prompt_learner.ctx".to_owned(), self.ctx.clone()),
            ("prompt_learner.ctx_vision".to_owned(), self.tokens.clone()),
        ]
    }
}

impl Method for PlotPp {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.named().to_vec()
    }

    fn trained_now(&self) -> Vec<(String, Var)> {
        let first = usize::from(!self.stages.is_second());
        self.named()[first..].to_vec()
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        self.stages.state(self.clip.device())
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.stages.restore(state)
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let images = self.images(&batch.images, tracked)?;
        let texts = match self.stages.is_second() {
            true => self.texts(tracked)?,
            false => self.texts(Var::as_detached_tensor)?,
        };
        let (logits, plan) = self.score(&images, &texts)?;
        let mut loss = Loss::from(cross_entropy(&logits, &batch.labels)?);
        loss.beside = plan.told(logits.device())?;
        Ok(loss)
    }

    fn stepped(&mut self, done: usize, all: usize) -> Result<()> {
        if self.stages.turns_after(done, all) {
            self.stages.begin_second();
        }
        Ok(())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        let count = self.ctx.dim(1)?;
        self.plan = plan_of(&self.clip, classes, &self.prefixes, count)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Matched {
            method: self,
            texts: self.texts(Var::as_detached_tensor)?,
        }))
    }
}

struct Matched<'a> {
    method: &'a PlotPp,
    /// `[N, K, E]`, not normalised.
    texts: Tensor,
}

impl Predict for Matched<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let images = self.method.images(images, Var::as_detached_tensor)?;
        Ok(self.method.score(&images, &self.texts)?.0)
    }
}

/// Replays a recorded run of one of the stages, with the rounds of each step.
fn compare(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let mut table = r.settings(&[
        ("n_prompts", "n_prompts"),
        ("n_prompts_vision", "n_prompts_vision"),
        ("n_ctx_vision", "n_ctx_vision"),
    ])?;
    Transport::recorded(r, &mut table)?;
    let Some(prefixes) = r.list("prefixes") else {
        bail!("prefixes: must be a list of texts");
    };
    table.insert("prefixes".into(), prefixes);
    let update = r.parameter("update").and_then(|u| u.as_str());
    let adds = r.parameter("trade_off").and_then(|t| t.as_bool());
    let share = match (update, adds) {
        (Some("vision"), Some(true)) => 1.0,
        (Some("joint"), Some(false)) => 0.0,
        _ => bail!("params: update \"vision\" goes with trade_off, \"joint\" without"),
    };
    table.insert("first_stage".into(), share.into());
    let config = stage.typed(table, PlotPpConfig::read)?;
    let mut method = config.make(&stage.clip, &r.classes()?, &mut Init::seeded(0))?;
    // Contexts start from words: where they are recorded, these are what is built here.
    let recorded = r.initial();
    for (name, var) in method.parameters().iter().take(1) {
        if let Some(want) = recorded.get(name) {
            c.values(name, &var.as_detached_tensor(), want)?;
        }
    }
    load_parameters(&method, &recorded)?;
    let Some(rounds) = r.numbers("sinkhorn.iters")? else {
        bail!("tensor sinkhorn.iters is missing");
    };
    watched(
        stage,
        &mut method,
        &mut r.optimizer()?,
        c,
        &mut |step, done, c| Plan::compare(&done.loss, rounds[step], step, c),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::IndexOp;

    use crate::tests::{base, batch, build, clip, flat};

    fn made(config: &str) -> PlotPp {
        let mut s = Settings::new(config.parse().unwrap());
        let config = PlotPpConfig::read(&mut s);
        assert_eq!(s.finish().problems, []);
        config.make(&clip(), &base(), &mut Init::seeded(1)).unwrap()
    }

    #[test]
    fn every_dataset_has_four_prefixes_and_others_the_ones_without_a_domain() {
        assert_eq!(PREFIXES.len(), 11);
        assert!(PREFIXES.values().all(|prefixes| prefixes.len() == 4));
        assert_eq!(published("imagenet-a")[2], "this is a");
        assert_eq!(published("my-folder"), published("caltech101"));
        assert_eq!(published("oxford-pets")[0], "a photo of a pet");
    }

    #[test]
    fn a_longer_prefix_keeps_its_last_words_and_a_shorter_one_eats_into_the_name() {
        let method = made(
            "prefixes = ['a photo of a', 'a centered satellite photo of a', 'a photo of']\nn_prompts = 3",
        );
        let clip = &method.clip;
        assert_eq!(method.ctx.dims(), [3, 4, clip.text.width()]);
        let wording = clip.text.wording();
        let id = |word: &str| layout::tokens(wording, word).unwrap()[1];
        let end = *layout::tokens(wording, "").unwrap().last().unwrap();
        let ids = |words: &[&str]| words.iter().map(|w| id(w)).collect::<Vec<_>>();
        let long = ids(&["a", "centered", "satellite", "photo"]);
        let short = [ids(&["a", "photo", "of"]), vec![end]].concat();
        let of = |prompt: usize| flat(&method.ctx.as_tensor().get(prompt).unwrap());
        assert_eq!(of(1), flat(&clip.text.embed(&long).unwrap()));
        assert_eq!(of(2), flat(&clip.text.embed(&short).unwrap()));
        let classes = Classes::new(&["annual crop".into()], "any", "{}");
        let behind = |prefix: &str| {
            let slots =
                layout::sequences(wording, &classes, prefix, 4, Position::End, |_, i| i).unwrap();
            slots[0][5..].to_vec()
        };
        let slots = |text: &str, from: usize| {
            let ids = layout::tokens(wording, text).unwrap();
            ids[from..]
                .iter()
                .map(|t| clip::Slot::Token(*t))
                .collect::<Vec<_>>()
        };
        let long = "a centered satellite photo of a";
        assert_eq!(behind(long), slots("of a annual crop.", 1));
        assert_eq!(behind("a photo of"), slots("annual crop.", 2));
    }

    #[test]
    fn the_first_stage_trains_image_tokens_alone_and_adds_the_pooled_cosine() {
        let mut method = made("");
        let trained = |m: &PlotPp| {
            m.trained_now()
                .into_iter()
                .map(|(n, _)| n)
                .collect::<Vec<_>>()
        };
        let scores = |m: &PlotPp| {
            let scores = m.predictor().unwrap().logits(&batch().images).unwrap();
            scores.to_vec2::<f32>().unwrap()
        };
        assert_eq!(trained(&method), ["prompt_learner.ctx_vision"]);
        let first = scores(&method);
        method.stepped(1, 4).unwrap();
        assert_eq!(trained(&method).len(), 1);
        method.stepped(2, 4).unwrap();
        assert_eq!(trained(&method).len(), 2);
        let second = scores(&method);
        // By hand: unit means of the features of one picture and one class.
        let fixed = Var::as_detached_tensor;
        let mean = |rows: Vec<Vec<f32>>| {
            let sums = (0..rows[0].len()).map(|i| rows.iter().map(|r| r[i]).sum::<f32>());
            let sums: Vec<f32> = sums.collect();
            let length = sums.iter().map(|v| v * v).sum::<f32>().sqrt();
            sums.into_iter().map(|v| v / length).collect::<Vec<f32>>()
        };
        let images = method
            .images(&batch().images, fixed)
            .unwrap()
            .get(1)
            .unwrap();
        let texts = method.texts(fixed).unwrap().i((.., 2, ..)).unwrap();
        let (image, text) = (
            mean(images.to_vec2().unwrap()),
            mean(texts.to_vec2().unwrap()),
        );
        let cosine: f32 = image.iter().zip(&text).map(|(a, b)| a * b).sum();
        let want = cosine * method.clip.scale() as f32;
        assert!((first[1][2] - second[1][2] - want).abs() < 1e-4, "{want}");
    }

    #[test]
    fn more_contexts_than_prefixes_are_refused() {
        let problems = |config: &str| {
            let read = ENTRY.read(config.parse().unwrap());
            read.problems
                .into_iter()
                .map(|p| p.message)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            problems("n_prompts = 5"),
            ["5 contexts start from 4 prefixes"]
        );
        assert_eq!(
            problems("prefixes = ['a photo']\nn_prompts = 2"),
            ["2 contexts start from 1 prefixes"]
        );
        assert_eq!(
            problems("prefixes = [' ']\nn_prompts = 1"),
            ["a context starts from words"]
        );
    }

    #[test]
    fn sets_of_tokens_are_learned_apart() {
        let mut method = build("plotpp", "first_stage = 0.0", &clip());
        let loss = method.loss(&batch()).unwrap();
        let gradients = loss.total.backward().unwrap();
        for (name, var) in method.parameters() {
            let gradient = gradients.get(var.as_tensor()).unwrap();
            let of = |i| flat(&gradient.get(i).unwrap());
            assert_ne!(of(0), of(1), "{name}");
        }
    }
}
