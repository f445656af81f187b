//! MMRL and MMRL++: tokens of one learned space that enter the upper blocks of both towers.
//!
//! Guo and Gu, *MMRL: Multi-Modal Representation Learning for Vision-Language Models*, <https://arxiv.org/abs/2503.08497>,
//! and *MMRL++*, <https://arxiv.org/abs/2505.10088>. Follows the authors' `trainers/mmrl.py` and `trainers/mmrlpp.py` at
//! 27d8821 (github.com/yunncheng/MMRL).
//!
//! `n` tokens of width `S`, `W` width of a tower, `E` joint width, `K` classes, `B` images, `r` ranks.
//!
//! The tokens stand behind the class or start token. MMRL makes them by a linear layer for each block; MMRL++ by one
//! weight for all plus a low rank for each block, and mixes them with what the block before made of them. Classes
//! trained on are scored by both image features, others by the class token's alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor, Var, bail};
use clip::ops::scaled_cosine;
use clip::{At, Clip, DeepImage, DeepText, How, ImagePrompt, TextPlan, TextPrompt, model::unit};

use crate::method::no_state;
use crate::optimizer::Rule;
use crate::parts::image_tokens::tracked;
use crate::parts::inside::{Linear, Span};
use crate::parts::layout::variable;
use crate::parts::losses::{cross_entropy, mean_cosine};
use crate::replay::{self, Comparison, Stage};
use crate::{
    Backbones, Batch, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Loss, Method,
    Needs, Predict, Relation, Replay, Settings, TextCost, Training, load_parameters,
};

/// Registry entry. Defaults are base-to-novel's of ImageNet; the weight of the distances is set by dataset, from 0.01
/// (EuroSAT, whose space is 2,048 wide) to 7 (Cars). ImageNet: 5 epochs, batch 32; cross-dataset: 1 epoch, batch 32, no
/// warm-up, weight 0.2; few-shot: 50 epochs, batch 32.
pub const ENTRY: Entry = Entry {
    name: "mmrl",
    title: "MMRL",
    source: "https://arxiv.org/abs/2503.08497",
    group: Group::BothTowers,
    training: Some(TRAINING),
    read: |s| Box::new(MmrlConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["mmrl"], replayed),
};

/// Registry entry of MMRL++. Weight 0.01 to 7 and share of the new tokens 0.1 to 0.9 by dataset; defaults are ImageNet's.
pub const PLUS_PLUS: Entry = Entry {
    name: "mmrlpp",
    title: "MMRL++",
    source: "https://arxiv.org/abs/2505.10088",
    group: Group::BothTowers,
    training: Some(TRAINING),
    read: |s| Box::new(MmrlConfig::read_plus_plus(s)),
    checkpoint: None,
    replay: Replay::Own(&["mmrlpp"], replayed),
};

const TRAINING: Training = Training {
    optimizer: Rule::AdamW,
    ..Training::sgd(10, 4, 1e-3)
};

/// What cosines are multiplied with, whatever the backbone's temperature.
const SCALE: f64 = 100.0;

struct MmrlConfig {
    span: Span,
    count: usize,
    space: usize,
    alpha: f64,
    weight: f64,
    plus_plus: Option<PlusPlus>,
}

/// What MMRL++ has besides.
#[derive(Clone, Copy)]
struct PlusPlus {
    beta: f64,
    rank: usize,
    projection_rank: usize,
}

impl MmrlConfig {
    fn read_with(s: &mut Settings, weight: f64) -> Self {
        Self {
            span: Span::read(s, 6, 12),
            count: s.count("n_tokens", 5, 1..=72, "tokens of the space, n"),
            space: s.count("width", 512, 1..=65_536, "of the space (EuroSAT: 2048)"),
            alpha: s.number(
                "alpha",
                0.7,
                0.0..=1.0,
                "share of the class token's loss and scores",
            ),
            weight: s.number(
                "weight",
                weight,
                0.0..=1e4,
                "of the distances to frozen features, by dataset",
            ),
            plus_plus: None,
        }
    }

    fn read(s: &mut Settings) -> Self {
        Self::read_with(s, 0.5)
    }

    fn read_plus_plus(s: &mut Settings) -> Self {
        Self {
            plus_plus: Some(PlusPlus {
                beta: s.number(
                    "beta",
                    0.9,
                    0.0..=1.0,
                    "share of new tokens in blocks behind the first, by dataset",
                ),
                rank: s.count("rank", 4, 1..=4096, "of a block's own part of the tokens"),
                projection_rank: s.count(
                    "projection_rank",
                    64,
                    1..=4096,
                    "of the update of the projection",
                ),
            }),
            ..Self::read_with(s, 0.2)
        }
    }

    fn mmrl(&self, clip: &Arc<Clip>, classes: &Classes, init: &mut Init) -> Result<Mmrl> {
        let tower = clip.transformer()?;
        let blocks = self.span.blocks(clip)?;
        let tokens = variable(&init.normal(&[self.count, self.space], 0.02)?)?;
        let mut maps = |width| match &self.plus_plus {
            None => Maps::linear(width, self.space, blocks.len(), init),
            Some(p) => Maps::shared(width, self.space, p.rank, blocks.len(), init),
        };
        let (image, text) = (maps(tower.width())?, maps(clip.text.width())?);
        let shape = tower.projection().dims2()?;
        let deviation = 1.0 / (shape.0 as f64).sqrt();
        let projection = match &self.plus_plus {
            // The release loads CLIP's weights by name, and this one has none there.
            None => Projection::Own(variable(&init.normal(&[shape.0, shape.1], deviation)?)?),
            Some(p) => Projection::Update(low_rank(shape, p.projection_rank, init)?),
        };
        let mut method = Mmrl {
            clip: clip.clone(),
            alpha: self.alpha,
            weight: self.weight,
            later: self.plus_plus.map_or(How::Instead, |p| How::Mixed(p.beta)),
            blocks,
            tokens,
            image,
            text,
            projection,
            plan: clip.text_plan(&[])?,
            teacher: clip.logit_scale.clone(),
            trained: classes.clone(),
            bound: classes.clone(),
        };
        method.bind(classes)?;
        Ok(method)
    }
}

/// `A` `[out, r]`, uniform within `1 / sqrt(r)` (Kaiming's of a = sqrt(5)), and `B` `[r, in]`, zeros.
fn low_rank((out, inner): (usize, usize), rank: usize, init: &mut Init) -> Result<[Var; 2]> {
    let a = init.uniform(&[out, rank], 1.0 / (rank as f64).sqrt())?;
    let b = Tensor::zeros((rank, inner), DType::F32, a.device())?;
    Ok([variable(&a)?, variable(&b)?])
}

impl Config for MmrlConfig {
    fn needs(&self) -> Needs {
        Needs {
            crop: (0.5, 1.0),
            knows_split: true,
            frozen_features: true,
            ..Needs::pixels()
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost {
                words: crate::cost::WORDS + self.count,
                ..TextCost::trained(crate::cost::WORDS)
            },
            image: ImageCost {
                frozen: 1.0,
                below: self.span.below(),
                ..ImageCost::trained(self.count)
            },
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(self.mmrl(&on.clip, classes, init)?))
    }
}

/// How the tokens of each block come from the space, in one tower.
enum Maps {
    /// A layer for each block.
    Linear(Vec<Linear>),
    /// One weight `[W, S]`, and for each block `A`, `B` and bias.
    Shared { weight: Var, own: Vec<Own> },
}

struct Own {
    low_rank: [Var; 2],
    bias: Var,
}

impl Maps {
    /// All start as copies of one.
    fn linear(width: usize, space: usize, blocks: usize, init: &mut Init) -> Result<Self> {
        let first = init.linear(width, space)?;
        let layers = (0..blocks).map(|_| Linear::new(&first));
        Ok(Self::Linear(layers.collect::<Result<_>>()?))
    }

    fn shared(
        width: usize,
        space: usize,
        rank: usize,
        blocks: usize,
        init: &mut Init,
    ) -> Result<Self> {
        let (weight, bias) = init.linear(width, space)?;
        let own = (0..blocks).map(|_| {
            Ok(Own {
                low_rank: low_rank((width, space), rank, init)?,
                bias: variable(&bias)?,
            })
        });
        Ok(Self::Shared {
            own: own.collect::<Result<_>>()?,
            weight: variable(&weight)?,
        })
    }

    fn named(&self, tower: &str) -> Vec<(String, Var)> {
        let base = "representation_learner";
        match self {
            Self::Linear(layers) => {
                let named = |(i, l): (usize, &Linear)| {
                    l.named(&format!("{base}.compound_rep_tokens_{tower}.{i}"))
                };
                layers.iter().enumerate().flat_map(named).collect()
            }
            Self::Shared { weight, own } => {
                let mut all = vec![(format!("{base}.srra_{tower}.weight"), weight.clone())];
                for (i, own) in own.iter().enumerate() {
                    let base = format!("{base}.srra_{tower}.srra.{i}");
                    all.push((format!("{base}.A"), own.low_rank[0].clone()));
                    all.push((format!("{base}.B"), own.low_rank[1].clone()));
                    all.push((format!("{base}.bias"), own.bias.clone()));
                }
                all
            }
        }
    }

    /// `[n, W]` for each block, of the space's tokens `[n, S]`.
    fn tokens(&self, space: &Tensor, of: &impl Fn(&Var) -> Tensor) -> Result<Vec<Tensor>> {
        match self {
            Self::Linear(layers) => {
                let apply = |l: &Linear| {
                    space
                        .matmul(&of(&l.weight).t()?)?
                        .broadcast_add(&of(&l.bias))
                };
                layers.iter().map(apply).collect()
            }
            Self::Shared { weight, own } => {
                let weight = of(weight);
                let apply = |own: &Own| {
                    let [a, b] = &own.low_rank;
                    let weight = (&weight + of(a).matmul(&of(b))?)?;
                    space.matmul(&weight.t()?)?.broadcast_add(&of(&own.bias))
                };
                own.iter().map(apply).collect()
            }
        }
    }
}

/// Of the mean of the tokens, `[W, E]`.
enum Projection {
    Own(Var),
    /// On top of CLIP's.
    Update([Var; 2]),
}

struct Mmrl {
    clip: Arc<Clip>,
    alpha: f64,
    weight: f64,
    /// What happens to the tokens behind their first block.
    later: How,
    /// From 0.
    blocks: Vec<usize>,
    /// `[n, S]`.
    tokens: Var,
    image: Maps,
    text: Maps,
    projection: Projection,
    plan: TextPlan,
    /// `[K, E]` of frozen CLIP, unit length.
    teacher: Tensor,
    trained: Classes,
    bound: Classes,
}

/// Unit features `[B, E]`: of the class token, and of the tokens of the space.
struct Seen {
    class: Tensor,
    space: Tensor,
}

impl Mmrl {
    fn how(&self, i: usize) -> How {
        if i == 0 { How::Insert } else { self.later }
    }

    /// `[K, E]`, unit length.
    fn texts(&self, of: &impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let rows = self.text.tokens(&of(&self.tokens), of)?;
        let rows = self.blocks.iter().zip(rows).enumerate();
        let deep = rows.map(|(i, (block, rows))| DeepText {
            block: *block,
            at: At::Position(1),
            rows,
            how: self.how(i),
        });
        let prompt = TextPrompt {
            deep: deep.collect(),
            ..TextPrompt::default()
        };
        unit(&self.clip.text.encode(&self.plan, &prompt)?)
    }

    fn image_prompt(&self, of: &impl Fn(&Var) -> Tensor) -> Result<ImagePrompt> {
        let rows = self.image.tokens(&of(&self.tokens), of)?;
        let rows = self.blocks.iter().zip(rows).enumerate();
        let rows = rows.map(|(i, (block, rows))| DeepImage {
            block: *block,
            position: 1,
            rows,
            how: self.how(i),
        });
        Ok(ImagePrompt {
            rows: rows.collect(),
            ..ImagePrompt::default()
        })
    }

    fn images(&self, images: &Images, of: &impl Fn(&Var) -> Tensor) -> Result<Seen> {
        let prompt = self.image_prompt(of)?;
        let tower = self.clip.transformer()?;
        self.read(&tower.hidden(images.pixels()?, &prompt)?, of)
    }

    /// Of last hidden states `[B, T, W]`.
    fn read(&self, hidden: &Tensor, of: &impl Fn(&Var) -> Tensor) -> Result<Seen> {
        let (tower, plain) = (self.clip.transformer()?, ImagePrompt::default());
        let class = hidden.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        let space = hidden.narrow(1, 1, self.tokens.dim(0)?)?.contiguous()?;
        let space = tower.post(&space, &plain)?.mean(1)?; // [B, W]
        let projection = match &self.projection {
            Projection::Own(own) => of(own),
            Projection::Update([a, b]) => (tower.projection() + of(a).matmul(&of(b))?)?,
        };
        Ok(Seen {
            class: unit(&tower.read(&class, &plain)?)?,
            space: unit(&space.matmul(&projection)?)?,
        })
    }

    /// Of a batch's features, those of frozen CLIP `[B, E]`, and texts `[K, E]`, all of unit length.
    fn scored(
        &self,
        seen: &Seen,
        frozen: &Tensor,
        texts: &Tensor,
        labels: &Tensor,
    ) -> Result<Loss> {
        let entropy = |features: &Tensor, share: f64| {
            cross_entropy(&scaled_cosine(features, texts, SCALE)?, labels)? * share
        };
        let distance =
            |ours: &Tensor, theirs: &Tensor| (1.0 - mean_cosine(ours, theirs)?)? * self.weight;
        Loss::sum(vec![
            ("cross_entropy", entropy(&seen.class, self.alpha)?),
            (
                "space_cross_entropy",
                entropy(&seen.space, 1.0 - self.alpha)?,
            ),
            ("image_distance", distance(&seen.class, frozen)?),
            ("text_distance", distance(texts, &self.teacher)?),
        ])
    }
}

impl Method for Mmrl {
    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = vec![(
            "representation_learner.compound_rep_tokens".to_owned(),
            self.tokens.clone(),
        )];
        all.extend(self.image.named("r2vproj"));
        all.extend(self.text.named("r2tproj"));
        match &self.projection {
            Projection::Own(own) => all.push(("image_encoder.proj_rep".to_owned(), own.clone())),
            Projection::Update([a, b]) => {
                all.push(("image_encoder.A".to_owned(), a.clone()));
                all.push(("image_encoder.B".to_owned(), b.clone()));
            }
        }
        all
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        self.trained.clone_from(&self.bound);
        let texts = self.texts(&tracked)?; // [K, E]
        let prompt = self.image_prompt(&tracked)?;
        // The teacher sees the same pictures: up to where tokens enter, both passes are one.
        let tower = self.clip.transformer()?;
        let below = tower.below(batch.images.pixels()?, &prompt)?;
        let frozen = match &batch.frozen {
            Some(features) => unit(features)?,
            None => unit(&below.encode(&ImagePrompt::default())?)?,
        }; // [B, E]
        let seen = self.read(&below.hidden(&prompt)?, &tracked)?;
        self.scored(&seen, &frozen, &texts, &batch.labels)
    }

    /// Which classes were trained on goes without saying: those it is bound to.
    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.trained.clone_from(&self.bound);
        no_state(state)
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        let texts = classes.texts(&classes.template);
        self.plan = self.clip.text_plan(&texts)?;
        self.teacher = unit(&self.clip.encode_texts(&texts)?)?;
        self.bound.clone_from(classes);
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Scores {
            texts: self.texts(&Var::as_detached_tensor)?,
            fused: self.bound.relation(&self.trained) == Relation::Same,
            method: self,
        }))
    }
}

struct Scores<'a> {
    method: &'a Mmrl,
    /// `[K, E]`, unit length.
    texts: Tensor,
    /// Whether the tokens of the space have a say.
    fused: bool,
}

impl Scores<'_> {
    /// `[B, K]` of the class token and of the tokens of the space.
    fn both(&self, images: &Images) -> Result<[Tensor; 2]> {
        let seen = self.method.images(images, &Var::as_detached_tensor)?;
        Ok([
            scaled_cosine(&seen.class, &self.texts, SCALE)?,
            scaled_cosine(&seen.space, &self.texts, SCALE)?,
        ])
    }
}

impl Predict for Scores<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let [class, space] = self.both(images)?;
        if !self.fused {
            return Ok(class);
        }
        let alpha = self.method.alpha;
        (class * alpha)? + (space * (1.0 - alpha))?
    }
}

fn replayed(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let mut table = r.settings(&[
        ("n_rep_tokens", "n_tokens"),
        ("rep_dim", "width"),
        ("alpha", "alpha"),
        ("reg_weight", "weight"),
        ("beta", "beta"),
        ("proj_lora_dim", "projection_rank"),
        ("res_lora_dim", "rank"),
    ])?;
    let layers = r.parameter("rep_layers").and_then(|v| v.as_array());
    let mut ends = layers.map(|l| [l.first(), l.last()]).into_iter().flatten();
    for name in ["first", "last"] {
        let Some(layer) = ends.next().flatten().and_then(|v| v.as_i64()) else {
            bail!("params.rep_layers: must be a list of layers");
        };
        table.insert(name.into(), layer.into());
    }
    let mut settings = Settings::new(table);
    let config = match stage.entry.name {
        "mmrl" => MmrlConfig::read(&mut settings),
        _ => MmrlConfig::read_plus_plus(&mut settings),
    };
    if let Some(p) = settings.finish().problems.first() {
        bail!("params.{}: {}", p.field, p.message);
    }
    let classes = r.classes()?;
    let mut method = config.mmrl(&stage.clip, &classes, &mut Init::seeded(0))?;
    c.values("teacher.text", &method.teacher, r.get("teacher.text")?)?;
    load_parameters(&method, &r.named("init."))?;
    replay::follow(stage, &mut method, &mut r.optimizer()?, c)?;
    method.bind(&classes)?;
    let scores = Scores {
        texts: method.texts(&Var::as_detached_tensor)?,
        fused: true,
        method: &method,
    };
    let [class, space] = scores.both(&Images::Pixels(r.get("test_images")?.clone()))?;
    c.logits(&class, r.get("logits.class.after")?)?;
    c.logits(&space, r.get("logits.rep.after")?)
}

#[cfg(test)]
mod tests;
