//! LASP: CoOp's context held to hand-written prompts by classifying them with the learned texts, of every class name that
//! the dataset has; with the image tower's LayerNorms trained beside it.
//!
//! Bulat and Tzimiropoulos, *LASP: Text-to-Text Optimization for Language-Aware Soft Prompting of Vision & Language
//! Models*, <https://arxiv.org/abs/2210.01115>. Follows the authors' `prompting/lasp.py` at 5b1e8d9
//! (github.com/1adrianb/lasp).
//!
//! `B` images, `K` classes learned, `A` classes of the dataset, `G` templates, `E` joint width, `W` width of a tower.
//!
//! Gradients are clipped as on the authors' mixed-precision path, which all their configurations take.
//!
//! Differs: the texts of the classes learned are taken out of one pass over all names, where the authors make two.

use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};
use clip::ops::scaled_cosine;
use clip::{Clip, ImagePrompt, model::unit};

use crate::parts::context::{Context, Start};
use crate::parts::image_tokens::{Prompted, tracked};
use crate::parts::layout::variable;
use crate::parts::losses::cross_entropy;
use crate::parts::norms::BlockNorms;
use crate::parts::templates;
use crate::replay::{self, Comparison, Stage};
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Init, Loss,
    Method, Needs, Predict, Replay, Settings, TextCost, Training, step,
};

/// Registry entry. Defaults are those of Aircraft, Flowers, Pets, Cars and SUN397; Caltech101, DTD and UCF101: 50 epochs, 5
/// of them warm-up, text weight 10; EuroSAT: 300 epochs, 7 of them warm-up; Food101 (and the paper): 10 epochs, 1 of them
/// warm-up, batch 1, learning rate 0.002.
pub const ENTRY: Entry = Entry {
    name: "lasp",
    title: "LASP",
    source: "https://arxiv.org/abs/2210.01115",
    group: Group::BothTowers,
    training: Some(Training {
        warmup_epochs: 3,
        ..Training::sgd(25, 32, 0.032)
    }),
    read: |s| Box::new(LaspConfig::read(s)),
    checkpoint: Some(Checkpoint {
        folder: "prompt_learner",
        module: None,
    }),
    replay: Replay::Own(&["lasp"], replayed),
};

/// Share of the steps whose hand-written features get noise.
const NOISY: f64 = 0.5;

#[derive(Clone)]
struct LaspConfig {
    start: Start,
    weight: f64,
    noise: f64,
    norm_rate: f64,
    clip_norm: f64,
    templates: Vec<String>,
}

impl LaspConfig {
    fn read(s: &mut Settings) -> Self {
        let mut config = Self {
            start: Start::read(s, 4, "a photo of a"),
            weight: s.number(
                "text_weight",
                5.0,
                0.0..=1000.0,
                "of the classification of hand-written texts (10 for Caltech101, DTD and UCF101)",
            ),
            noise: s.number(
                "noise",
                0.05,
                0.0..=10.0,
                "deviation of what is added to hand-written features in half of the steps",
            ),
            norm_rate: s.number(
                "norm_rate",
                0.1,
                0.0..=100.0,
                "learning rate of the image tower's LayerNorms, as a share of lr",
            ),
            clip_norm: s.number(
                "clip_norm",
                1.0,
                0.0..=1e9,
                "largest norm of all gradients together; longer ones are scaled to it",
            ),
            templates: s.texts(
                "templates",
                "hand-written texts, `{}` for the name; none: the published 35",
            ),
        };
        if config.templates.is_empty() {
            let published = templates::lasp().into_iter().map(str::to_owned);
            config.templates = published.collect();
        }
        if let Some(bad) = config.templates.iter().find(|t| !t.contains("{}")) {
            s.refuse("templates", format!("{bad:?} has no {{}} for the name"));
        }
        config
    }

    fn lasp(&self, clip: &Arc<Clip>, classes: &Classes, init: &mut Init) -> Result<Lasp> {
        let (whole, own) = classes.whole();
        let context = Context::new(clip, &whole, &self.start, init)?;
        let width = clip.embedding_size();
        let zeros = Tensor::zeros((1, width), candle_core::DType::F32, clip.device())?;
        Ok(Lasp {
            written: Some(written(clip, &whole, &self.templates)?),
            own: Tensor::new(own, clip.device())?,
            correction: variable(&zeros)?,
            norms: BlockNorms::new("image_encoder.", clip.transformer()?.blocks())?,
            config: self.clone(),
            noise: Noise::Drawn,
            context,
            whole,
        })
    }
}

impl Config for LaspConfig {
    fn needs(&self) -> Needs {
        Needs::pixels()
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost {
                whole: true,
                ..self.start.cost()
            },
            image: ImageCost::trained(0),
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(self.lasp(&on.clip, classes, init)?))
    }
}

/// Features `[G A, E]` of the hand-written texts, template by template, unit length.
fn written(clip: &Clip, whole: &Classes, templates: &[String]) -> Result<Tensor> {
    let texts = templates.iter().map(|t| clip.encode_texts(&whole.texts(t)));
    unit(&Tensor::cat(&texts.collect::<Result<Vec<_>>>()?, 0)?)
}

/// Norm of the gradients of all `parameters` together.
fn total_norm(parameters: &[(String, Var)], gradients: &GradStore) -> Result<f64> {
    let mut squares = 0.0;
    for (_, var) in parameters {
        if let Some(gradient) = gradients.get(var.as_tensor()) {
            squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
    }
    Ok(squares.sqrt())
}

/// Noise `[G A, E]` of deviation 1 on the hand-written features.
enum Noise {
    /// From the step's seed, in half of the steps.
    Drawn,
    /// By step.
    Recorded(Vec<Option<Tensor>>),
}

struct Lasp {
    config: LaspConfig,
    /// Of every class of the dataset.
    context: Context,
    whole: Classes,
    /// `[K]`: places of the classes bound among all.
    own: Tensor,
    /// `[1, E]`, what is added to every text feature.
    correction: Var,
    norms: BlockNorms,
    /// `[G A, E]`, unit length; made again for a step where other names were bound.
    written: Option<Tensor>,
    noise: Noise,
}

impl Lasp {
    /// `[A, E]`, unit length.
    fn texts(&self, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let raw = self.context.raw_texts(&of(&self.context.ctx))?;
        unit(&raw.broadcast_add(&of(&self.correction))?)
    }

    fn prompt(&self, of: impl Fn(&Var) -> Tensor) -> ImagePrompt {
        ImagePrompt {
            changes: self.norms.changes(of),
            ..ImagePrompt::default()
        }
    }

    /// The hand-written features of a step, noise and all; not of unit length then, as published.
    fn hand_written(&mut self, seed: u64) -> Result<Tensor> {
        let clip = &self.context.clip;
        let written = match &self.written {
            Some(written) => written.clone(),
            None => written(clip, &self.whole, &self.config.templates)?,
        };
        self.written = Some(written.clone());
        let noise = match &self.noise {
            Noise::Recorded(steps) => steps.get(seed as usize).cloned().flatten(),
            Noise::Drawn if self.config.noise == 0.0 => None,
            Noise::Drawn => {
                let mut draw = Init::seeded(seed);
                let coin: Vec<f32> = draw.uniform(&[1], 0.5)?.to_vec1()?;
                match f64::from(coin[0]) < NOISY - 0.5 {
                    true => Some(draw.normal(written.dims(), 1.0)?),
                    false => None,
                }
            }
        };
        match noise {
            None => Ok(written),
            Some(noise) => &written + (noise.to_device(written.device())? * self.config.noise)?,
        }
    }
}

impl Method for Lasp {
    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all: Vec<_> = self.norms.named().collect();
        all.extend(self.context.named());
        all.push(("prompt_learner.w".to_owned(), self.correction.clone()));
        all
    }

    fn rate(&self, parameter: &str) -> f64 {
        match parameter.starts_with("image_encoder.") {
            true => self.config.norm_rate,
            false => 1.0,
        }
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let tower = self.context.clip.transformer()?;
        let images = unit(&tower.encode(batch.images.pixels()?, &self.prompt(tracked))?)?; // [B, E]
        let texts = self.texts(tracked)?; // [A, E]
        let hand_written = self.hand_written(batch.seed)?; // [G A, E]
        let clip = &self.context.clip;
        let logits = clip.logits(&images, &texts.index_select(&self.own, 0)?)?; // [B, K]
        let ce = cross_entropy(&logits, &batch.labels)?;
        // Each hand-written text is to find its class among the learned ones.
        let (rows, classes) = (hand_written.dim(0)?, texts.dim(0)?);
        let labels = Tensor::from_iter((0..rows).map(|i| (i % classes) as u32), texts.device())?;
        let found = scaled_cosine(&hand_written, &texts, clip.scale())?; // [G A, A]
        let text = (cross_entropy(&found, &labels)? * self.config.weight)?;
        Loss::sum(vec![("cross_entropy", ce), ("text_to_text", text)])
    }

    /// Scaled down where they are longer than allowed, all by the same factor.
    fn gradients(&self, loss: &Loss) -> Result<GradStore> {
        let mut gradients = loss.total.backward()?;
        let parameters = self.parameters();
        // The tiny number is `torch.nn.utils.clip_grad_norm_`'s.
        let factor = self.config.clip_norm / (total_norm(&parameters, &gradients)? + 1e-6);
        if factor < 1.0 {
            for (_, var) in &parameters {
                if let Some(gradient) = gradients.get(var.as_tensor()) {
                    let scaled = (gradient * factor)?;
                    gradients.insert(var.as_tensor(), scaled);
                }
            }
        }
        Ok(gradients)
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        let (whole, own) = classes.whole();
        self.own = Tensor::new(own, self.context.clip.device())?;
        if whole.names != self.whole.names {
            self.context.rebind(&whole)?;
            self.whole = whole;
            self.written = None;
        }
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        let texts = self.texts(Var::as_detached_tensor)?;
        Ok(Box::new(Prompted {
            clip: &self.context.clip,
            texts: texts.index_select(&self.own, 0)?,
            prompt: self.prompt(Var::as_detached_tensor),
        }))
    }
}

/// First values, hand-written features, every step, and the norms of its gradients before they are clipped.
fn replayed(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let mut table = r.settings(&[
        ("n_ctx", "n_ctx"),
        ("lambda_tt", "text_weight"),
        ("clip_grad_norm", "clip_norm"),
        ("ln_lr_mult", "norm_rate"),
    ])?;
    table.insert("init".into(), r.words("ctx_init").into());
    if let Some(templates) = r.list("templates") {
        table.insert("templates".into(), templates);
    }
    let config = stage.typed(table, LaspConfig::read)?;
    let Some(names) = r.texts("train_classnames_tt") else {
        bail!("train_classnames_tt: must be a list of names");
    };
    let classes = r.classes()?.among(&names);
    let noise = r.get("noise")?.flatten(1, 2)?; // [steps, G A, E]
    let used = r.numbers("noise.used")?.unwrap_or_default();
    let steps = used.iter().enumerate();
    let steps = steps.map(|(i, used)| (*used != 0.0).then(|| noise.get(i)).transpose());
    let steps: Vec<_> = steps.collect::<Result<_>>()?;
    let start = || -> Result<Lasp> {
        let mut method = config.lasp(&stage.clip, &classes, &mut Init::seeded(0))?;
        method.noise = Noise::Recorded(steps.clone());
        Ok(method)
    };
    let mut method = start()?;
    c.parameters(&method, &r.named("init."))?;
    let teacher = unit(&r.get("teacher.text")?.flatten(0, 1)?)?;
    c.values(
        "teacher.text",
        &written(&stage.clip, &method.whole, &config.templates)?,
        &teacher,
    )?;
    replay::follow(stage, &mut method, &mut r.optimizer()?, c)?;
    // The same way again, looking at what the clipping hides.
    let (mut method, mut optimizer) = (start()?, r.optimizer()?);
    let norms = r.numbers("grad_norm")?.unwrap_or_default();
    for (number, want) in norms.into_iter().enumerate() {
        let batch = r.batch(number)?;
        let gradients = method.loss(&batch)?.total.backward()?;
        c.loss(total_norm(&method.parameters(), &gradients)?, want);
        step(&mut method, &mut optimizer, &batch, r.rate(number)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Images;
    use crate::tests::{base, batch, clip, flat, novel};

    fn config(text: &str) -> LaspConfig {
        let mut settings = Settings::new(text.parse().unwrap());
        LaspConfig::read(&mut settings)
    }

    fn lasp(text: &str) -> Lasp {
        let (clip, mut init) = (clip(), Init::seeded(1));
        config(text).lasp(&clip, &base(), &mut init).unwrap()
    }

    fn part(method: &mut Lasp, batch: &Batch) -> f32 {
        let loss = method.loss(batch).unwrap();
        let [_, (name, text)] = &loss.parts[..] else {
            panic!("two parts");
        };
        assert_eq!(*name, "text_to_text");
        text.to_scalar::<f32>().unwrap()
    }

    #[test]
    fn the_text_term_is_the_mean_over_templates_of_classifying_them_by_the_learned_texts() {
        let two =
            "templates = [\"a photo of a {}.\", \"{} texture.\"]\ntext_weight = 2.0\nnoise = 0.0";
        let mut method = lasp(two);
        let scale = method.context.clip.scale() as f32;
        let rows = |t: &Tensor| t.to_vec2::<f32>().unwrap();
        let learned = rows(&method.texts(tracked).unwrap());
        let mut want = 0.0;
        for template in ["a photo of a {}.", "{} texture."] {
            let texts = method.context.clip.encode_texts(&base().texts(template));
            for (j, h) in rows(&unit(&texts.unwrap()).unwrap()).iter().enumerate() {
                let dot = |t: &Vec<f32>| scale * t.iter().zip(h).map(|(a, b)| a * b).sum::<f32>();
                let sum: f32 = learned.iter().map(|t| dot(t).exp()).sum();
                want -= 2.0 * (dot(&learned[j]).exp() / sum).ln() / 6.0;
            }
        }
        let got = part(&mut method, &batch());
        assert!((got - want).abs() < 1e-4, "{got} {want}");
    }

    #[test]
    fn names_that_are_not_learned_take_part_in_the_text_term_only() {
        let all: Vec<String> = [base().names, novel().names].concat();
        let among = base().among(&all);
        let (few, mut init) = (lasp("noise = 0.0"), Init::seeded(1));
        let mut few = few;
        let mut more = config("noise = 0.0")
            .lasp(&clip(), &among, &mut init)
            .unwrap();
        let (a, b) = (few.loss(&batch()).unwrap(), more.loss(&batch()).unwrap());
        let value = |loss: &Loss, i: usize| loss.parts[i].1.to_scalar::<f32>().unwrap();
        assert!((value(&a, 0) - value(&b, 0)).abs() < 1e-5);
        assert!(value(&b, 1) > value(&a, 1), "more to mistake it for");
        let scores = |m: &Lasp| flat(&m.predictor().unwrap().logits(&batch().images).unwrap());
        assert_eq!(scores(&more).len(), 4 * 3);
    }

    #[test]
    fn noise_comes_in_half_of_the_steps_and_from_the_seed_alone() {
        let mut method = lasp("");
        let quiet = part(&mut lasp("noise = 0.0"), &batch());
        let mut at = |seed| {
            let batch = Batch { seed, ..batch() };
            let got = part(&mut method, &batch);
            assert_eq!(got, part(&mut method, &batch));
            got
        };
        let noisy = (0..40).filter(|seed| at(*seed) != quiet).count();
        assert!((10..=30).contains(&noisy), "{noisy}");
    }

    #[test]
    fn long_gradients_are_scaled_to_the_norm_and_short_ones_left() {
        let norm = |text: &str| {
            let mut method = lasp(text);
            let loss = method.loss(&batch()).unwrap();
            let gradients = method.gradients(&loss).unwrap();
            total_norm(&method.parameters(), &gradients).unwrap()
        };
        let all = norm("clip_norm = 1e9");
        let (clipped, left) = (
            norm(&format!("clip_norm = {}", all / 2.0)),
            norm(&format!("clip_norm = {}", all * 2.0)),
        );
        assert!(
            (clipped / all - 0.5).abs() < 1e-4 && left == all,
            "{all} {clipped} {left}"
        );
    }

    #[test]
    fn pictures_pass_through_the_trained_norms() {
        let method = lasp("");
        let scores = |images: &Images| flat(&method.predictor().unwrap().logits(images).unwrap());
        let before = scores(&batch().images);
        let (_, gain) = method.parameters().swap_remove(0);
        gain.set(&(gain.as_tensor() * 2.0).unwrap()).unwrap();
        assert_ne!(before, scores(&batch().images));
        assert_eq!(
            method.rate("image_encoder.transformer.resblocks.0.ln_1.weight"),
            0.1
        );
        assert_eq!(method.rate("prompt_learner.ctx"), 1.0);
    }
}
