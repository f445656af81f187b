//! CLIP-LoRA: low ranks on the attention of every block of both towers.
//!
//! Zanella and Ben Ayed, *Low-Rank Few-Shot Adaptation of Vision-Language Models*, <https://arxiv.org/abs/2405.18541>.
//! Follows the authors' `lora.py` and `loralib/` at 358f0d7 (github.com/MaxZanella/CLIP-LoRA).
//!
//! `r` rank, `W` width of a tower, `K` classes, `B` images, `E` joint width.
//!
//! Differs: the authors' code without dropout has wrong gradients (the update is taken back out of the weights before
//! they are used going back); here they are those of `W + alpha / sqrt(r) B A`.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var, bail};
use clip::changes::{Dropout, LowRank, Projection};
use clip::ops::scaled_cosine;
use clip::{Changes, Clip, ImagePrompt, TextPlan, TextPrompt, model::unit};

use crate::optimizer::{Optimizer, Rule};
use crate::parts::image_tokens::tracked;
use crate::parts::layout::variable;
use crate::parts::losses::cross_entropy;
use crate::parts::templates;
use crate::replay::{self, Comparison, Recording, Stage};
use crate::{
    Backbones, Batch, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Loss, Method,
    Needs, Predict, Replay, Schedule, Settings, TextCost, Training, load_parameters,
};

/// Registry entry. 500 steps for each shot of a class, 8,000 at 16 shots.
pub const ENTRY: Entry = Entry {
    name: "clip-lora",
    title: "CLIP-LoRA",
    source: "https://arxiv.org/abs/2405.18541",
    group: Group::Weights,
    training: Some(
        Training {
            optimizer: Rule::AdamW,
            weight_decay: 1e-2,
            warmup_epochs: 0,
            schedule: Schedule::CosineSteps,
            floor: 1e-6,
            ..Training::sgd(0, 32, 2e-4)
        }
        .for_shots(500),
    ),
    read: |s| Box::new(LoraConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["clip_lora"], replayed),
};

/// What cosines are multiplied with, whatever the backbone's temperature.
const SCALE: f64 = 100.0;

struct LoraConfig {
    rank: usize,
    alpha: f64,
    dropout: f64,
    targets: Vec<(char, Projection)>,
    towers: [bool; 2],
}

impl LoraConfig {
    fn read(s: &mut Settings) -> Self {
        let rank = s.count("rank", 2, 1..=1024, "of each update, r");
        let alpha = s.number("alpha", 1.0, 0.0..=1e4, "updates count alpha / sqrt(r)");
        let dropout = s.number("dropout", 0.25, 0.0..=0.99, "of an update's input");
        let named = s.words("targets", "q k v", "projections: q, k, v, o");
        let mut targets = Vec::new();
        for name in named.as_deref().unwrap_or_default().split_whitespace() {
            match name {
                "q" => targets.push(('q', Projection::Query)),
                "k" => targets.push(('k', Projection::Key)),
                "v" => targets.push(('v', Projection::Value)),
                "o" => targets.push(('o', Projection::Out)),
                _ => s.refuse("targets", format!("{name:?} is none of q, k, v, o")),
            }
        }
        if targets.is_empty() {
            s.refuse("targets", "name one of q, k, v, o, or several");
        }
        let towers = match s.choice("encoder", &["both", "text", "vision"], "changed towers") {
            "text" => [true, false],
            "vision" => [false, true],
            _ => [true, true],
        };
        Self {
            rank,
            alpha,
            dropout,
            targets,
            towers,
        }
    }

    fn lora(&self, clip: &Arc<Clip>, classes: &Classes, init: &mut Init) -> Result<ClipLora> {
        let mut modules = Vec::new();
        let image = if self.towers[1] {
            let tower = clip.transformer()?;
            (tower.depth(), tower.width())
        } else {
            (0, 0)
        };
        let text_depth = if self.towers[0] { clip.text.depth() } else { 0 };
        let sizes = [
            (false, text_depth, clip.text.width()),
            (true, image.0, image.1),
        ];
        for (of_image, depth, width) in sizes {
            for block in 0..depth {
                for (letter, of) in &self.targets {
                    let prefix = if of_image { "visual." } else { "" };
                    let part = match letter {
                        'o' => "proj".to_owned(),
                        letter => format!("{letter}_proj"),
                    };
                    // Kaiming's uniform of a = sqrt(5).
                    let down = init.uniform(&[self.rank, width], 1.0 / (width as f64).sqrt())?;
                    let up = Tensor::zeros((width, self.rank), down.dtype(), down.device())?;
                    modules.push(Module {
                        name: format!("{prefix}transformer.resblocks.{block}.attn.{part}"),
                        of_image,
                        block,
                        of: *of,
                        down: variable(&down)?,
                        up: variable(&up)?,
                    });
                }
            }
        }
        Ok(ClipLora {
            clip: clip.clone(),
            modules,
            scale: self.alpha / (self.rank as f64).sqrt(),
            dropout: self.dropout,
            towers: self.towers,
            plan: plan(clip, classes, self.dropout > 0.0)?,
            recorded: None,
        })
    }
}

/// With rows of their own for every text where values are dropped.
fn plan(clip: &Clip, classes: &Classes, drops: bool) -> Result<TextPlan> {
    let texts = classes.texts(templates::PHOTO);
    if !drops {
        return clip.text_plan(&texts);
    }
    let slots = texts.iter().map(|t| clip.slots(t));
    clip.text.plan_apart(&slots.collect::<Result<Vec<_>>>()?)
}

impl Config for LoraConfig {
    fn needs(&self) -> Needs {
        if self.towers[1] {
            Needs::pixels()
        } else {
            Needs::features()
        }
    }

    fn cost(&self) -> Cost {
        let shared = if self.dropout > 0.0 {
            0
        } else {
            crate::cost::WORDS
        };
        Cost {
            text: match self.towers[0] {
                true => TextCost {
                    shared,
                    ..TextCost::trained(crate::cost::WORDS)
                },
                false => TextCost::FROZEN,
            },
            image: match self.towers[1] {
                true => ImageCost::trained(0),
                false => ImageCost::FROZEN,
            },
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(self.lora(&on.clip, classes, init)?))
    }
}

/// An update of one projection.
struct Module {
    name: String,
    of_image: bool,
    /// From 0.
    block: usize,
    of: Projection,
    /// `A`, `[r, W]`.
    down: Var,
    /// `B`, `[W, r]`.
    up: Var,
}

/// Kept values of a step's dropout, in the place of drawn ones, and what came of them.
struct Recorded {
    /// By step, `[rows, W]` of each module in order.
    kept: Vec<Vec<Tensor>>,
    /// `[B, K]` of each step so far.
    logits: Vec<Tensor>,
}

struct ClipLora {
    clip: Arc<Clip>,
    modules: Vec<Module>,
    /// `alpha / sqrt(r)`.
    scale: f64,
    dropout: f64,
    towers: [bool; 2],
    plan: TextPlan,
    recorded: Option<Recorded>,
}

impl ClipLora {
    /// Which values each module keeps of the inputs of a step on `pictures`; nothing where none are dropped.
    fn kept(&self, pictures: usize, seed: u64) -> Result<Option<Vec<Tensor>>> {
        if self.dropout == 0.0 {
            return Ok(None);
        }
        if let Some(recorded) = &self.recorded {
            return Ok(recorded.kept.get(seed as usize).cloned());
        }
        let mut init = Init::seeded(seed);
        let modules = self.modules.iter().map(|m| {
            let rows = match m.of_image {
                true => pictures * (1 + self.clip.transformer()?.grid().pow(2)),
                false => self.plan.rows(),
            };
            let drawn = init.uniform(&[rows, m.down.dim(1)?], 0.5)?;
            drawn.ge(self.dropout - 0.5)
        });
        modules.collect::<Result<Vec<_>>>().map(Some)
    }

    fn changes(
        &self,
        of_image: bool,
        kept: Option<&Vec<Tensor>>,
        of: impl Fn(&Var) -> Tensor,
    ) -> Changes {
        let mut changes = Changes::default();
        for (i, m) in self.modules.iter().enumerate() {
            if m.of_image != of_image {
                continue;
            }
            changes.block(m.block).low_rank.push(LowRank {
                of: m.of,
                down: of(&m.down),
                up: of(&m.up),
                scale: self.scale,
                dropout: kept.map(|kept| Dropout {
                    kept: kept[i].clone(),
                    share: 1.0 - self.dropout,
                }),
            });
        }
        changes
    }

    /// `[K, E]`, unit length.
    fn texts(&self, changes: Changes) -> Result<Tensor> {
        let prompt = TextPrompt {
            changes,
            ..TextPrompt::default()
        };
        unit(&self.clip.text.encode(&self.plan, &prompt)?)
    }

    /// `[B, E]`, unit length.
    fn images(&self, images: &Images, changes: Changes) -> Result<Tensor> {
        if !self.towers[1] {
            return images.unit_features(&self.clip);
        }
        let prompt = ImagePrompt {
            changes,
            ..ImagePrompt::default()
        };
        unit(&self.clip.transformer()?.encode(images.pixels()?, &prompt)?)
    }
}

impl Method for ClipLora {
    fn parameters(&self) -> Vec<(String, Var)> {
        let both = |m: &Module| {
            [
                (format!("{}.w_lora_A", m.name), m.down.clone()),
                (format!("{}.w_lora_B", m.name), m.up.clone()),
            ]
        };
        self.modules.iter().flat_map(both).collect()
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let kept = self.kept(batch.images.count()?, batch.seed)?;
        let texts = self.texts(self.changes(false, kept.as_ref(), tracked))?;
        let images = self.images(&batch.images, self.changes(true, kept.as_ref(), tracked))?;
        let logits = scaled_cosine(&images, &texts, SCALE)?;
        if let Some(recorded) = &mut self.recorded {
            recorded.logits.push(logits.detach());
        }
        Ok(cross_entropy(&logits, &batch.labels)?.into())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.plan = plan(&self.clip, classes, self.dropout > 0.0)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        let fixed = Var::as_detached_tensor;
        Ok(Box::new(Tuned {
            method: self,
            texts: self.texts(self.changes(false, None, fixed))?,
        }))
    }
}

struct Tuned<'a> {
    method: &'a ClipLora,
    /// `[K, E]`, unit length.
    texts: Tensor,
}

impl Predict for Tuned<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let changes = self.method.changes(true, None, Var::as_detached_tensor);
        scaled_cosine(&self.method.images(images, changes)?, &self.texts, SCALE)
    }
}

/// The recorded kept values of `module`: one bit a value, lowest first, over `[tokens, pictures or texts, W]`.
fn recorded_kept(
    r: &Recording,
    module: &Module,
    step: usize,
    sequences: &[usize],
    longest: usize,
) -> Result<Tensor> {
    let bytes = r.get(&format!("mask.{}", module.name))?.get(step)?;
    let bytes: Vec<u8> = bytes.to_vec1()?;
    let (width, count) = (module.down.dim(1)?, sequences.len());
    if bytes.len() * 8 < longest * count * width {
        bail!("mask.{}: too short", module.name);
    }
    let mut kept = Vec::new();
    for (sequence, length) in sequences.iter().enumerate() {
        for token in 0..*length {
            let first = (token * count + sequence) * width;
            kept.extend((first..first + width).map(|i| (bytes[i / 8] >> (i % 8)) & 1));
        }
    }
    let rows = kept.len() / width;
    Tensor::from_vec(kept, (rows, width), module.down.device())
}

fn replayed(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let (r, clip) = (stage.recording, &stage.clip);
    let mut table = r.settings(&[
        ("r", "rank"),
        ("alpha", "alpha"),
        ("dropout", "dropout"),
        ("encoder", "encoder"),
    ])?;
    let targets = r.parameter("targets").and_then(|t| t.as_array());
    let targets: Vec<&str> = targets
        .into_iter()
        .flatten()
        .filter_map(|t| t.as_str())
        .collect();
    table.insert("targets".into(), targets.join(" ").into());
    let mut settings = Settings::new(table);
    let config = LoraConfig::read(&mut settings);
    if let Some(p) = settings.finish().problems.first() {
        bail!("params.{}: {}", p.field, p.message);
    }
    let classes = r.classes()?;
    let mut method = config.lora(clip, &classes, &mut Init::seeded(0))?;
    load_parameters(&method, &r.named("init."))?;
    let (steps, pictures) = (r.get("images")?.dim(0)?, r.get("images")?.dim(1)?);
    let mut kept = Vec::new();
    if method.dropout > 0.0 {
        let texts = classes.texts(templates::PHOTO);
        let lengths = texts.iter().map(|t| Ok(clip.slots(t)?.len()));
        let lengths = lengths.collect::<Result<Vec<_>>>()?;
        let longest = r.field("mask_text_len").and_then(|v| v.as_u64());
        let longest = longest.unwrap_or_default() as usize;
        let tokens = 1 + clip.transformer()?.grid().pow(2);
        for step in 0..steps {
            let modules = method.modules.iter().map(|m| match m.of_image {
                true => recorded_kept(r, m, step, &vec![tokens; pictures], tokens),
                false => recorded_kept(r, m, step, &lengths, longest),
            });
            kept.push(modules.collect::<Result<Vec<_>>>()?);
        }
    }
    method.recorded = Some(Recorded {
        kept,
        logits: Vec::new(),
    });
    let decay = r.field("weight_decay").and_then(|v| v.as_f64());
    let mut optimizer = Optimizer::new(Rule::AdamW, 0.0, decay.unwrap_or_default());
    replay::follow(stage, &mut method, &mut optimizer, c)?;
    let logits = method.recorded.take().map(|r| r.logits).unwrap_or_default();
    for (step, ours) in logits.iter().enumerate() {
        c.logits(ours, &r.get("logits.train")?.get(step)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{base, batch, clip};

    fn built(config: &str) -> ClipLora {
        let mut settings = Settings::new(config.parse().unwrap());
        let config = LoraConfig::read(&mut settings);
        assert_eq!(settings.finish().problems, []);
        config.lora(&clip(), &base(), &mut Init::seeded(1)).unwrap()
    }

    #[test]
    fn a_step_drops_its_share_and_another_seed_drops_others() {
        let method = built("");
        let kept = |seed| -> Vec<f32> {
            let all = method.kept(4, seed).unwrap().unwrap();
            let flat = all.iter().map(|t| t.flatten_all().unwrap());
            let values = flat.flat_map(|t| t.to_vec1::<u8>().unwrap());
            values.map(f32::from).collect()
        };
        let (first, again, other) = (kept(1), kept(1), kept(2));
        assert!(first == again && first != other);
        let share = first.iter().sum::<f32>() / first.len() as f32;
        assert!((share - 0.75).abs() < 0.01, "{share}");
    }

    #[test]
    fn an_update_starts_at_nothing_and_counts_alpha_by_the_root_of_the_rank() {
        let mut method = built("dropout = 0.0\nrank = 4\nalpha = 3.0\nencoder = \"vision\"");
        assert!((method.scale - 1.5).abs() < 1e-12);
        let plain = built("dropout = 0.0\nencoder = \"text\"\nrank = 1")
            .loss(&batch())
            .unwrap();
        let ours = method.loss(&batch()).unwrap();
        let number = |l: &Loss| l.total.to_scalar::<f32>().unwrap();
        assert!((number(&plain) - number(&ours)).abs() < 1e-4);
    }
}
