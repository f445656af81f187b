//! Pre-training of a small CLIP on the drawings, contrastively, in this code base: how the shipped checkpoint was made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{D, DType, Device, Tensor, Var};
use clip::model::unit;
use clip::{Clip, Slot, TextPrompt, Tokenizer};
use datasets::drawn;
use methods::optimizer::Optimizer;
use methods::parts::losses::{cross_entropy, log_softmax};
use methods::{Init, Rule};
use rayon::prelude::*;
use serde::Deserialize;

/// A recipe file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Of the recipe language.
    pub version: u32,
    /// Image tower.
    pub image: ImageSizes,
    /// Text tower.
    pub text: TextSizes,
    /// Joint width, E.
    pub embedding: usize,
    /// Optimizer steps.
    pub steps: usize,
    /// Drawings a step.
    pub batch: usize,
    /// Peak learning rate of AdamW.
    pub lr: f64,
    /// Steps of linear warm-up; a cosine to zero follows.
    pub warmup: usize,
    /// Decoupled weight decay of every tensor.
    pub weight_decay: f64,
    /// Of initial values and drawings.
    pub seed: u64,
    /// When to stop before `steps`; never, where not given.
    pub stop: Option<Stop>,
}

/// Stops as soon as zero-shot accuracy on VALIDATION pictures of the drawn suite, all classes, is neither hopeless nor
/// perfect: within `low..=high` percent on at least `datasets` of its datasets. Test pictures are never looked at.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Steps between looks.
    pub every: usize,
    /// Lowest accuracy in percent.
    pub low: f64,
    /// Highest accuracy in percent.
    pub high: f64,
    /// How many datasets must be between the two.
    pub datasets: usize,
}

impl Stop {
    /// How many datasets are within.
    fn within(self, accuracies: &[ZeroShot]) -> usize {
        let is_within = |z: &&ZeroShot| (self.low..=self.high).contains(&z.all);
        accuracies.iter().filter(is_within).count()
    }
}

/// Sizes of the image tower.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSizes {
    /// Pixels a side.
    pub size: usize,
    /// Pixels a patch side.
    pub patch: usize,
    /// A multiple of 64, the width of a head.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
}

/// Sizes of the text tower.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSizes {
    /// A multiple of 64, the width of a head.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
}

impl Recipe {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// Names the file, line and field.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: cannot be read", path.display()))?;
        let recipe: Self =
            toml::from_str(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
        let mut wrong = Vec::new();
        let mut check = |ok: bool, what: &str| {
            if !ok {
                wrong.push(format!("{}: {what}", path.display()));
            }
        };
        check(recipe.version == 1, "version: this program reads version 1");
        check(
            recipe.image.width.is_multiple_of(64) && recipe.image.width > 0,
            "image.width: must be a multiple of 64",
        );
        check(
            recipe.text.width.is_multiple_of(64) && recipe.text.width > 0,
            "text.width: must be a multiple of 64",
        );
        check(
            recipe.image.patch > 0
                && recipe.image.size.is_multiple_of(recipe.image.patch.max(1))
                && recipe.image.size > 0,
            "image.patch: must divide image.size",
        );
        check(
            recipe.image.layers > 0 && recipe.text.layers > 0,
            "layers: both towers need at least one",
        );
        check(
            recipe.steps > 0 && recipe.batch > 1,
            "steps, batch: at least 1 step of at least 2 drawings",
        );
        check(recipe.embedding > 0, "embedding: must be 1 or more");
        check(
            recipe.stop.is_none_or(|s| s.every > 0 && s.low < s.high),
            "stop: every must be 1 or more, low less than high",
        );
        if wrong.is_empty() {
            Ok(recipe)
        } else {
            bail!(wrong.join("\n"))
        }
    }

    fn lr(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.lr * (step + 1) as f64 / self.warmup as f64;
        }
        let done = (step - self.warmup) as f64 / (self.steps - self.warmup).max(1) as f64;
        self.lr * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

/// Fresh tensors under OpenAI's names, with the deviations of OpenAI's `initialize_parameters`.
fn fresh(recipe: &Recipe, tokens: usize) -> Result<BTreeMap<String, Tensor>> {
    let mut init = Init::seeded(recipe.seed);
    let mut out = BTreeMap::new();
    let mut put = |name: String, t: Tensor| out.insert(name, t);
    let (image, text, e) = (recipe.image, recipe.text, recipe.embedding);
    let device = Device::Cpu;
    let ones = |n: usize| Tensor::ones(n, DType::F32, &device);
    let zeros = |n: usize| Tensor::zeros(n, DType::F32, &device);
    put(
        "token_embedding.weight".into(),
        init.normal(&[tokens, text.width], 0.02)?,
    );
    put(
        "positional_embedding".into(),
        init.normal(&[77, text.width], 0.01)?,
    );
    put(
        "text_projection".into(),
        init.normal(&[text.width, e], (text.width as f64).powf(-0.5))?,
    );
    put(
        "logit_scale".into(),
        Tensor::new((1.0f32 / 0.07).ln(), &device)?,
    );
    let scale = (image.width as f64).powf(-0.5);
    let places = (image.size / image.patch).pow(2) + 1;
    let conv = init.uniform(
        &[image.width, 3, image.patch, image.patch],
        1.0 / ((3 * image.patch * image.patch) as f64).sqrt(),
    )?;
    put("visual.conv1.weight".into(), conv);
    put(
        "visual.class_embedding".into(),
        init.normal(&[image.width], scale)?,
    );
    put(
        "visual.positional_embedding".into(),
        init.normal(&[places, image.width], scale)?,
    );
    put("visual.proj".into(), init.normal(&[image.width, e], scale)?);
    for (norm, width) in [
        ("ln_final", text.width),
        ("visual.ln_pre", image.width),
        ("visual.ln_post", image.width),
    ] {
        put(format!("{norm}.weight"), ones(width)?);
        put(format!("{norm}.bias"), zeros(width)?);
    }
    for (base, w, layers) in [
        ("transformer", text.width, text.layers),
        ("visual.transformer", image.width, image.layers),
    ] {
        let attention = (w as f64).powf(-0.5);
        let into = attention * (2.0 * layers as f64).powf(-0.5);
        for i in 0..layers {
            let name = |part: &str| format!("{base}.resblocks.{i}.{part}");
            for norm in ["ln_1", "ln_2"] {
                put(name(&format!("{norm}.weight")), ones(w)?);
                put(name(&format!("{norm}.bias")), zeros(w)?);
            }
            put(
                name("attn.in_proj_weight"),
                init.normal(&[3 * w, w], attention)?,
            );
            put(name("attn.in_proj_bias"), zeros(3 * w)?);
            put(name("attn.out_proj.weight"), init.normal(&[w, w], into)?);
            put(name("attn.out_proj.bias"), zeros(w)?);
            put(
                name("mlp.c_fc.weight"),
                init.normal(&[4 * w, w], (2.0 * w as f64).powf(-0.5))?,
            );
            put(name("mlp.c_fc.bias"), zeros(4 * w)?);
            put(name("mlp.c_proj.weight"), init.normal(&[w, 4 * w], into)?);
            put(name("mlp.c_proj.bias"), zeros(w)?);
        }
    }
    Ok(out)
}

/// Token ids that the drawn suite, its captions and the hand-written templates use, ascending.
fn vocabulary() -> Vec<u32> {
    let tokenizer = Tokenizer::shared();
    let mut ids: BTreeSet<u32> = [clip::tokenizer::SOT, clip::tokenizer::EOT].into();
    let mut texts = drawn::vocabulary_texts();
    texts.push(methods::parts::layout::placeholder(1)); // the word that stands for a learned vector
    texts.extend(
        methods::parts::templates::imagenet()
            .into_iter()
            .map(|t| t.replace("{}", "")),
    );
    texts.iter().for_each(|t| ids.extend(tokenizer.encode(t)));
    ids.into_iter().collect()
}

/// Normalised pixels `[n, 3, R, R]` of drawings.
fn pixels(pictures: &[datasets::Rgb], size: usize) -> Result<Tensor> {
    let each = 3 * size * size;
    let mut data = vec![0f32; pictures.len() * each];
    data.par_chunks_mut(each)
        .zip(pictures)
        .for_each(|(out, p)| datasets::transform::normalise(p, out));
    Ok(Tensor::from_vec(
        data,
        (pictures.len(), 3, size, size),
        &Device::Cpu,
    )?)
}

/// What is reported now and then.
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Mean loss since the last report.
    pub loss: f64,
    /// Wall seconds so far.
    pub seconds: f64,
    /// At a look of the stop rule: datasets within its bounds.
    pub within: Option<usize>,
}

/// Trains a CLIP by `recipe`; `report` hears of progress every `every` steps and may look at the model.
///
/// # Errors
/// When the loss stops being finite.
pub fn pretrain(
    recipe: &Recipe,
    every: usize,
    mut report: impl FnMut(Progress, &Clip),
) -> Result<(Clip, Vec<u32>)> {
    let ids = vocabulary();
    let clip = Clip::trainable(&fresh(recipe, ids.len())?, Some(&ids))?;
    let parameters: Vec<(String, Var)> = clip
        .trained()
        .iter()
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect();
    let mut optimizer = Optimizer::new(Rule::AdamW, 0.0, recipe.weight_decay);
    let started = Instant::now();
    let (mut sum, mut count) = (0.0, 0);
    for step in 0..recipe.steps {
        let first = (step * recipe.batch) as u64;
        let samples: Vec<_> = (0..recipe.batch as u64)
            .into_par_iter()
            .map(|i| drawn::pretraining_sample(recipe.seed, first + i, recipe.image.size))
            .collect();
        // One text a composition, so that two drawings of one thing do not push each other away.
        let mut names: BTreeMap<&str, u32> = BTreeMap::new();
        let (mut texts, mut labels) = (Vec::new(), Vec::new());
        for (_, caption) in &samples {
            let next = names.len() as u32;
            let label = *names.entry(&caption.class_text).or_insert(next);
            if label == next {
                texts.push(caption.text.clone());
            }
            labels.push(label);
        }
        let pictures: Vec<_> = samples.iter().map(|(p, _)| p.clone()).collect();
        let loss = loss(
            &clip,
            &pixels(&pictures, recipe.image.size)?,
            &texts,
            &labels,
        )?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        if !value.is_finite() {
            bail!(
                "the loss is {value} at step {step}; lower lr ({}) or raise warmup ({})",
                recipe.lr,
                recipe.warmup
            );
        }
        optimizer.step(&parameters, &loss.backward()?, recipe.lr(step))?;
        if let Some(scale) = clip.trained().get("logit_scale") {
            let value = scale.as_tensor().to_scalar::<f32>()?;
            if value > 100f32.ln() {
                scale.set(&Tensor::new(100f32.ln(), &Device::Cpu)?)?;
            }
        }
        sum += value;
        count += 1;
        let due = recipe.stop.filter(|s| (step + 1) % s.every == 0);
        let within = match due {
            Some(stop) => Some(stop.within(&zero_shot(&clip, drawn::VAL)?)),
            None => None,
        };
        let done = due.zip(within).is_some_and(|(s, n)| n >= s.datasets);
        if done || within.is_some() || (step + 1) % every == 0 || step + 1 == recipe.steps {
            report(
                Progress {
                    step: step + 1,
                    loss: sum / f64::from(count.max(1)),
                    seconds: started.elapsed().as_secs_f64(),
                    within,
                },
                &clip,
            );
            (sum, count) = (0.0, 0);
        }
        if done {
            break;
        }
    }
    Ok((clip, ids))
}

/// Symmetric contrastive loss of pictures `[B, 3, R, R]` and texts, `labels[b]` being the text of picture `b`.
fn loss(clip: &Clip, pixels: &Tensor, texts: &[String], labels: &[u32]) -> Result<Tensor> {
    let sequences = texts
        .iter()
        .map(|t| clip.slots(t))
        .collect::<candle_core::Result<Vec<Vec<Slot>>>>()?;
    let words = unit(
        &clip
            .text
            .encode(&clip.text.plan(&sequences)?, &TextPrompt::default())?,
    )?; // [C, E]
    let images = unit(&clip.encode_image(pixels)?)?; // [B, E]
    let logits = images
        .matmul(&words.t()?)?
        .broadcast_mul(&clip.logit_scale.exp()?)?; // [B, C]
    let labels_t = Tensor::new(labels, pixels.device())?;
    let to_text = cross_entropy(&logits, &labels_t)?;
    let mut share = vec![0f32; texts.len() * labels.len()];
    let mut of = vec![0f32; texts.len()];
    labels.iter().for_each(|l| of[*l as usize] += 1.0);
    for (b, l) in labels.iter().enumerate() {
        share[*l as usize * labels.len() + b] = 1.0 / of[*l as usize];
    }
    let share = Tensor::from_vec(share, (texts.len(), labels.len()), pixels.device())?;
    let to_image = (log_softmax(&logits.t()?.contiguous()?)? * share)?
        .sum(D::Minus1)?
        .mean_all()?
        .neg()?;
    Ok(((to_text + to_image)? * 0.5)?)
}

/// Writes a trained CLIP as float16 safetensors under OpenAI's names, with only the token rows it has.
///
/// # Errors
/// When the file cannot be written.
pub fn save(clip: &Clip, ids: &[u32], path: &Path) -> Result<()> {
    let mut tensors: std::collections::HashMap<String, Tensor> = std::collections::HashMap::new();
    for (name, t) in clip.tensors()? {
        let t = if name == "logit_scale" {
            t
        } else {
            t.to_dtype(DType::F16)?
        };
        tensors.insert(name, t);
    }
    let ids: Vec<i64> = ids.iter().map(|i| i64::from(*i)).collect();
    tensors.insert(
        "token_embedding.ids".into(),
        Tensor::new(ids, &Device::Cpu)?,
    );
    candle_core::safetensors::save(&tensors, path)
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    Ok(())
}

/// Zero-shot accuracy on a drawn dataset, in percent.
#[derive(Clone, Debug)]
pub struct ZeroShot {
    /// Id of the dataset.
    pub dataset: String,
    /// Among all classes.
    pub all: f64,
    /// Base pictures among base classes.
    pub base: f64,
    /// Novel pictures among novel classes.
    pub novel: f64,
}

/// Zero-shot accuracy on the eleven drawn datasets, on the drawings numbered `numbers` of each class
/// ([`drawn::VAL`] or [`drawn::TEST`]).
///
/// # Errors
/// Those of the towers.
pub fn zero_shot(clip: &Clip, numbers: std::ops::Range<u64>) -> Result<Vec<ZeroShot>> {
    let size = clip.image_size();
    drawn::datasets()
        .iter()
        .filter(|d| d.shift_of.is_none())
        .map(|d| {
            let k = d.classes.len();
            let items: Vec<(usize, u64)> = (0..k)
                .flat_map(|c| numbers.clone().map(move |i| (c, i)))
                .collect();
            let pictures: Vec<_> = items
                .par_iter()
                .map(|(c, i)| drawn::render(d, *c, *i, size))
                .collect();
            let images = unit(&clip.encode_image(&pixels(&pictures, size)?)?.detach())?;
            let texts: Vec<String> = d
                .classes
                .iter()
                .map(|c| d.template.replace("{}", &c.name))
                .collect();
            let words = unit(&clip.encode_texts(&texts)?.detach())?;
            let scores: Vec<Vec<f32>> = images.matmul(&words.t()?)?.to_vec2()?;
            let half = k.div_ceil(2);
            let accuracy = |classes: std::ops::Range<usize>| {
                let best = |s: &[f32]| classes.clone().max_by(|a, b| s[*a].total_cmp(&s[*b]));
                let mine: Vec<bool> = items
                    .iter()
                    .zip(&scores)
                    .filter(|((c, _), _)| classes.contains(c))
                    .map(|((c, _), s)| best(s) == Some(*c))
                    .collect();
                100.0 * mine.iter().filter(|r| **r).count() as f64 / mine.len() as f64
            };
            Ok(ZeroShot {
                dataset: d.id.clone(),
                all: accuracy(0..k),
                base: accuracy(0..half),
                novel: accuracy(half..k),
            })
        })
        .collect()
}
