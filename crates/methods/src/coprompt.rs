//! CoPrompt: MaPLe's prompts and an adapter behind each tower, held near what the frozen CLIP makes of other inputs.
//!
//! Roy and Etemad, *Consistency-guided Prompt Learning for Vision-Language Models*, <https://arxiv.org/abs/2306.01195>.
//! Follows the authors' `trainers/coprompt.py` at a2a6c12: the texts stay near descriptions of the classes that a language
//! model wrote, the images near another view of the same picture. Both views are RandAugment's, neither cropped nor
//! flipped.
//!
//! `K` classes, `n` descriptions of each, `B` images, `E` joint width.
//!
//! Differs: descriptions are asked for when classes are learned; the authors read them of every class that is tested too,
//! and do not use them there. What is longer than 77 tokens is cut, where their code stops.

use std::sync::Arc;

use candle_core::{IndexOp, Result, Tensor, Var, bail};
use clip::{Clip, ImagePrompt, model::unit};

use crate::parts::adapter::{Adapter, read_reduction};
use crate::parts::coupled::{Coupled, CoupledConfig};
use crate::parts::described;
use crate::parts::image_tokens::tracked;
use crate::parts::losses::{cross_entropy, mean_cosine};
use crate::replay::{Comparison, Stage, follow};
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init,
    Loss, Method, Needs, Predict, Replay, Settings, Training, View, load_parameters,
};

/// Registry entry, with the defaults of the authors' `train.py` and configuration. Their table of datasets overrides them, as
/// (`depth`, `n_ctx`, `weight`): ImageNet and SUN397 (12, 4, 8), Caltech101 and Stanford Cars (12, 4, 4), UCF101 (12, 4, 2),
/// DTD (12, 2, 8), Oxford Pets and EuroSAT (12, 2, 0.1), Flowers102 (9, 4, 8), FGVC Aircraft (9, 4, 2), Food101 (9, 4, 0.5, with
/// 5 epochs).
pub const ENTRY: Entry = Entry {
    name: "coprompt",
    title: "CoPrompt",
    source: "https://arxiv.org/abs/2306.01195",
    group: Group::BothTowers,
    training: Some(Training::sgd(8, 4, 0.0035)),
    read: |s| Box::new(CoPromptConfig::read(s)),
    checkpoint: Some(Checkpoint {
        folder: "MultiModalPromptLearner",
        module: None,
    }),
    replay: Replay::Own(&["coprompt"], replayed),
};

struct CoPromptConfig {
    host: CoupledConfig,
    weight: f64,
    image_ratio: f64,
    text_ratio: f64,
    reduction: usize,
}

impl CoPromptConfig {
    fn read(s: &mut Settings) -> Self {
        let mut share = |name, default, help| s.number(name, default, 0.0..=1.0, help);
        let image_ratio = share("image_ratio", 0.1, "share of adapted image features");
        let text_ratio = share("text_ratio", 0.2, "share of adapted text features");
        let weight =
            "of the distances to frozen features (the authors choose it by dataset, 0.1 to 8)";
        Self {
            image_ratio,
            text_ratio,
            weight: s.number("weight", 8.0, 0.0..=1000.0, weight),
            reduction: read_reduction(s),
            host: CoupledConfig::read(s),
        }
    }

    fn make(&self, clip: &Arc<Clip>, classes: &Classes, init: &mut Init) -> Result<CoPrompt> {
        described_alike(classes)?;
        let host = self.host.make(clip, classes, init)?;
        let mut adapter = |ratio| Adapter::new(clip.embedding_size(), self.reduction, ratio, init);
        Ok(CoPrompt {
            host,
            image: adapter(self.image_ratio)?,
            text: adapter(self.text_ratio)?,
            weight: self.weight,
            classes: classes.clone(),
            descriptions: None,
            rows: Rows::Drawn,
        })
    }
}

impl Config for CoPromptConfig {
    fn needs(&self) -> Needs {
        Needs {
            descriptions: true,
            view: View::RandAugment,
            second_view: Some(View::RandAugment),
            ..Needs::pixels()
        }
    }

    fn cost(&self) -> Cost {
        let host = self.host.cost();
        Cost {
            image: ImageCost {
                frozen: 1.0,
                ..host.image
            },
            ..host
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(self.make(&on.clip, classes, init)?))
    }
}

/// The descriptions of each class, of which there are as many.
fn described_alike(classes: &Classes) -> Result<Vec<&[String]>> {
    let all = (0..classes.len()).map(|i| described::of(classes, i));
    let all = all.collect::<Result<Vec<_>>>()?;
    let (name, count) = match (classes.names.first(), all.first()) {
        (Some(name), Some(texts)) => (name, texts.len()),
        _ => bail!("there are no classes"),
    };
    if count == 0 {
        bail!("class {name} has no description");
    }
    if let Some(other) = all.iter().position(|texts| texts.len() != count) {
        bail!(
            "class {} has {} descriptions and class {name} {count}; one is drawn for all classes at a time, so that each \
             must have as many",
            classes.names[other],
            all[other].len(),
        );
    }
    Ok(all)
}

/// Unit features `[K, n, E]` of the descriptions.
fn features(clip: &Clip, classes: &Classes) -> Result<Tensor> {
    let texts = described_alike(classes)?.concat();
    let features = described::cut_features(clip, &texts)?;
    let width = features.dim(1)?;
    features.reshape((classes.len(), (), width))
}

/// Which description of every class a step takes.
enum Rows {
    Drawn,
    /// As recorded, by the step's number.
    Recorded(Vec<usize>),
}

impl Rows {
    fn of(&self, seed: u64, count: usize) -> Result<usize> {
        match self {
            Self::Drawn => Ok((seed % count as u64) as usize),
            Self::Recorded(rows) => match rows.get(seed as usize) {
                Some(row) => Ok(*row),
                None => bail!("no row is recorded for step {seed}"),
            },
        }
    }
}

struct CoPrompt {
    host: Coupled,
    image: Adapter,
    text: Adapter,
    weight: f64,
    classes: Classes,
    /// `[K, n, E]`, unit length; encoded when the first loss of the classes asks for them, since testing does not.
    descriptions: Option<Tensor>,
    rows: Rows,
}

impl CoPrompt {
    /// `[K, E]`, unit length.
    fn texts(&self, of: &impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        unit(&self.text.blend(&self.host.class_features(of)?, of)?)
    }

    /// `[B, E]`, unit length.
    fn images(
        &self,
        images: &Images,
        prompt: &ImagePrompt,
        of: &impl Fn(&Var) -> Tensor,
    ) -> Result<Tensor> {
        let tower = self.host.clip.transformer()?;
        let features = tower.encode(images.pixels()?, prompt)?;
        unit(&self.image.blend(&features, of)?)
    }

    /// Features `[K, E]` of the descriptions that a step takes.
    fn described(&mut self, seed: u64) -> Result<Tensor> {
        let all = match self.descriptions.take() {
            Some(all) => all,
            None => features(&self.host.clip, &self.classes)?,
        };
        let row = self.rows.of(seed, all.dim(1)?)?;
        let drawn = all.i((.., row, ..))?.contiguous();
        self.descriptions = Some(all);
        drawn
    }
}

impl Method for CoPrompt {
    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = self.host.parameters();
        all.extend(self.image.named("adapter_image"));
        all.extend(self.text.named("adapter_text"));
        all
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let prompt = self.host.image_prompt(&tracked)?;
        let images = self.images(&batch.images, &prompt, &tracked)?; // [B, E]
        let texts = self.texts(&tracked)?; // [K, E]
        let logits = self.host.clip.logits(&images, &texts)?;
        let other = batch.second()?.unit_features(&self.host.clip)?; // [B, E]
        let described = self.described(batch.seed)?; // [K, E]
        let distance = |ours: &Tensor, theirs: &Tensor| {
            mean_cosine(ours, theirs)?.affine(-self.weight, self.weight)
        };
        Loss::sum(vec![
            ("cross_entropy", cross_entropy(&logits, &batch.labels)?),
            ("text_distance", distance(&texts, &described)?),
            ("image_distance", distance(&images, &other)?),
        ])
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.host.bind(classes)?;
        self.classes = classes.clone();
        self.descriptions = None;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        let fixed = Var::as_detached_tensor;
        Ok(Box::new(Adapted {
            method: self,
            texts: self.texts(&fixed)?,
            prompt: self.host.image_prompt(&fixed)?,
        }))
    }
}

struct Adapted<'a> {
    method: &'a CoPrompt,
    /// `[K, E]`, unit length.
    texts: Tensor,
    prompt: ImagePrompt,
}

impl Predict for Adapted<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let method = self.method;
        let images = method.images(images, &self.prompt, &Var::as_detached_tensor)?;
        method.host.clip.logits(&images, &self.texts)
    }
}

/// Training steps with the recorded descriptions, and the frozen features of all of these.
fn replayed(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let mut table = r.settings(&[
        ("n_ctx", "n_ctx"),
        ("depth", "depth"),
        ("w", "weight"),
        ("image_adapter", "image_ratio"),
        ("text_adapter", "text_ratio"),
    ])?;
    table.insert("init".into(), r.words("ctx_init").into());
    let config = stage.typed(table, CoPromptConfig::read)?;
    let classes = described::recorded(r, "descriptions")?;
    let ours = features(&stage.clip, &classes)?.transpose(0, 1)?;
    c.values("teacher.gpt", &ours.contiguous()?, r.get("teacher.gpt")?)?;
    let mut method = config.make(&stage.clip, &classes, &mut Init::seeded(0))?;
    load_parameters(&method, &r.named("init."))?;
    let Some(rows) = r.numbers("gpt.index")? else {
        bail!("tensor gpt.index is missing");
    };
    method.rows = Rows::Recorded(rows.into_iter().map(|row| row as usize).collect());
    follow(stage, &mut method, &mut r.optimizer()?, c)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tests::{base, batch, build, clip, flat, novel};

    fn made(config: &str) -> CoPrompt {
        let mut s = Settings::new(config.parse().unwrap());
        let config = CoPromptConfig::read(&mut s);
        config.make(&clip(), &base(), &mut Init::seeded(1)).unwrap()
    }

    /// The base classes, the first of which `first` describes.
    fn with_first(first: &[&str]) -> Classes {
        let mut all = (*base().descriptions.unwrap()).clone();
        let texts = first.iter().map(|t| (*t).to_owned()).collect();
        all.insert(base().names[0].clone(), texts);
        base().described(Some(Arc::new(all)))
    }

    #[test]
    fn distances_are_a_weight_times_one_less_the_mean_cosine() {
        let mut method = made("weight = 3.0");
        let batch = batch();
        let loss = method.loss(&batch).unwrap();
        let names: Vec<&str> = loss.parts.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["cross_entropy", "text_distance", "image_distance"]);
        let of = |at: usize| loss.parts[at].1.to_scalar::<f32>().unwrap();
        let fixed = Var::as_detached_tensor;
        let far = |a: &Tensor, b: &Tensor| {
            let (rows, width) = a.dims2().unwrap();
            let (a, b) = (flat(a), flat(b));
            let cosines = a.chunks(width).zip(b.chunks(width)).map(|(a, b)| {
                let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                dot / (norm(a) * norm(b))
            });
            3.0 * (1.0 - cosines.sum::<f32>() / rows as f32)
        };
        // A seed of 0 draws the first description.
        let classes = base();
        let first = classes.names.iter().map(|n| format!("a type of {n}"));
        let clip = method.host.clip.clone();
        let described = clip.encode_texts(&first.collect::<Vec<_>>()).unwrap();
        let want = far(&method.texts(&fixed).unwrap(), &described);
        assert!((of(1) - want).abs() < 1e-5, "{} {want}", of(1));
        let other = batch.second().unwrap().features(&clip).unwrap();
        let prompt = method.host.image_prompt(&fixed).unwrap();
        let images = method.images(&batch.images, &prompt, &fixed).unwrap();
        let want = far(&images, &other);
        assert!((of(2) - want).abs() < 1e-5, "{} {want}", of(2));
    }

    fn norm(row: &[f32]) -> f32 {
        row.iter().map(|v| v * v).sum::<f32>().sqrt()
    }

    #[test]
    fn a_step_draws_one_description_for_all_classes_by_its_seed() {
        let mut method = made("");
        let mut of = |seed| {
            let loss = method.loss(&Batch { seed, ..batch() }).unwrap();
            loss.parts[1].1.to_scalar::<f32>().unwrap()
        };
        // Two descriptions of each class.
        let drawn = [of(0), of(1), of(2), of(3)];
        assert_eq!(drawn[..2], drawn[2..]);
        assert_ne!(drawn[0], drawn[1]);
    }

    #[test]
    fn adapters_that_are_left_out_leave_maples_scores() {
        let clip = clip();
        let scores = |name, config: &str| {
            let method = build(name, config, &clip);
            flat(&method.predictor().unwrap().logits(&batch().images).unwrap())
        };
        let without = "image_ratio = 0.0\ntext_ratio = 0.0";
        let maple = scores("maple", "");
        assert_eq!(scores("coprompt", without), maple);
        assert_ne!(scores("coprompt", ""), maple);
    }

    #[test]
    fn classes_with_more_descriptions_than_others_or_none_are_told() {
        let config = ENTRY.default_config();
        let refused = |classes: &Classes| {
            let built = config.build(&clip().into(), classes, &mut Init::seeded(1));
            built.err().unwrap().to_string()
        };
        let message = refused(&with_first(&["a cat"]));
        let want = "class sea lake has 2 descriptions and class annual crop 1";
        assert!(message.contains(want), "{message}");
        let message = refused(&with_first(&[]));
        assert!(
            message.contains("class annual crop has no description"),
            "{message}"
        );
    }

    #[test]
    fn other_classes_are_tested_without_descriptions_and_learned_with_them() {
        let mut method = made("");
        method.bind(&novel().described(None)).unwrap();
        let scores = method.predictor().unwrap().logits(&batch().images).unwrap();
        assert_eq!(scores.dims(), [4, 2]);
        let message = method.loss(&batch()).unwrap_err().to_string();
        assert!(message.contains("`descriptions`"), "{message}");
    }

    #[test]
    fn a_batch_without_second_views_is_refused() {
        let message = made("").loss(&Batch {
            second: None,
            ..batch()
        });
        let message = message.unwrap_err().to_string();
        assert!(
            message.contains("a second view of each picture"),
            "{message}"
        );
    }
}
