//! MVLPT: prompts shared by several tasks, in the text, in the picture, or in both through one small network (MUPT).
//!
//! Shen et al., *Multitask Vision-Language Prompt Tuning*, <https://arxiv.org/abs/2211.11720>.
//! Follows the authors' `trainers/mvlpt.py` at 6fa518b (github.com/sIncerass/MVLPT).
//!
//! The paper's MUPT is the default; its MCoOp is `{ n_ctx = 16, n_ctx_vision = 0 }`, its MVPT `{ n_ctx = 0, n_ctx_vision = 16 }`.
//!
//! `K` classes of all tasks, `B` images, `M` context vectors, `n` image tokens in each of `L` blocks, `W` and `V` widths of the
//! text and the image tower, `d` width of the network.
//!
//! Differs: no dropout of image tokens (the authors' is 0), no CoCoOp and no projection of image tokens beside the network.
//! The network attends over sequences of length one, as released: a prompt sees only itself, and queries and keys get no
//! gradient.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, Var};
use clip::{Clip, DeepImage, How, ImagePrompt, model::unit, ops::layer_norm};

use crate::parts::context::{Context, Start};
use crate::parts::image_tokens::{Prompted, tracked};
use crate::parts::inside::{Linear, linear};
use crate::parts::layout::{Position, variable};
use crate::parts::losses::quick_gelu;
use crate::parts::tasks::Tasks;
use crate::parts::templates;
use crate::replay::{self, Comparison, Stage};
use crate::{
    Backbones, Batch, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Loss, Method,
    Needs, Predict, Replay, Settings, TextCost, Training,
};

/// Registry entry, as published for eleven datasets at once.
pub const ENTRY: Entry = Entry {
    name: "mvlpt",
    title: "MVLPT",
    source: "https://arxiv.org/abs/2211.11720",
    group: Group::BothTowers,
    training: Some(Training::sgd(200, 32, 0.002)),
    read: |s| Box::new(MvlptConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["mvlpt"], replayed),
};

struct MvlptConfig {
    text: Start,
    image: usize,
    is_deep: bool,
    project_dim: usize,
    label_per_task: bool,
}

impl MvlptConfig {
    fn read(s: &mut Settings) -> Self {
        let help = "context vectors in the text, M; 0: \"a photo of a\" stands there";
        let count = s.count("n_ctx", 4, 0..=72, help);
        let help = "prompt tokens in the picture, n; 0: none";
        let image = s.count("n_ctx_vision", 4, 0..=512, help);
        if count == 0 && image == 0 {
            s.refuse(
                "n_ctx",
                "nothing is learned: leave `n_ctx` or `n_ctx_vision` above 0",
            );
        }
        let places = ["middle", "end", "front"];
        let position = match s.choice("position", &places, "where the class name stands") {
            "end" => Position::End,
            "front" => Position::Front,
            _ => Position::Middle,
        };
        let is_deep = s.choice(
            "depth",
            &["deep", "shallow"],
            "prompted blocks of the image tower: all or the first",
        ) == "deep";
        let help = "width of the network that both kinds of prompts go through, d";
        Self {
            text: Start {
                count,
                init: None,
                position,
                per_class: false,
            },
            image,
            is_deep,
            project_dim: s.count("project_dim", 128, 1..=4096, help),
            label_per_task: s.flag(
                "label_per_task",
                false,
                "multiply the logits of other tasks' classes by 0 while training",
            ),
        }
    }
}

impl Config for MvlptConfig {
    fn needs(&self) -> Needs {
        if self.image > 0 {
            Needs::pixels()
        } else {
            Needs::features()
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            text: match self.text.count {
                0 => TextCost::FROZEN,
                _ => self.text.cost(),
            },
            image: match self.image {
                0 => ImageCost::FROZEN,
                count => ImageCost::trained(count),
            },
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let clip = &on.clip;
        let image = match self.image {
            0 => None,
            count => Some(ImageRows::new(clip, count, self.is_deep, init)?),
        };
        let text = match self.text.count {
            0 => Text::Fixed(by_hand(clip, classes)?),
            _ => Text::Learned(Context::new(clip, classes, &self.text, init)?),
        };
        let joint = match (&text, &image) {
            (Text::Learned(_), Some(_)) => Some(Joint::new(clip, self.project_dim, init)?),
            _ => None,
        };
        Ok(Box::new(Mvlpt {
            clip: clip.clone(),
            tasks: Tasks::of(classes),
            text,
            image,
            joint,
            label_per_task: self.label_per_task,
        }))
    }
}

/// `[K, E]`, unit length.
fn by_hand(clip: &Clip, classes: &Classes) -> Result<Tensor> {
    unit(&clip.encode_texts(&classes.texts(templates::PHOTO))?)
}

/// The texts of classes.
enum Text {
    Learned(Context),
    /// `[K, E]`, unit length.
    Fixed(Tensor),
}

/// Prompt tokens behind the class token.
struct ImageRows {
    /// `[1, n, V]`, before the first block.
    first: Var,
    /// `[L - 1, n, V]`, before the others.
    deep: Option<Var>,
}

impl ImageRows {
    fn new(clip: &Clip, count: usize, is_deep: bool, init: &mut Init) -> Result<Self> {
        let tower = clip.transformer()?;
        let (width, inner) = (tower.width(), 3 * tower.patch_size().pow(2));
        let bound = (6.0 / (inner + width) as f64).sqrt();
        let mut draw = |blocks| variable(&init.uniform(&[blocks, count, width], bound)?);
        Ok(Self {
            first: draw(1)?,
            deep: match tower.depth() - 1 {
                later if later > 0 && is_deep => Some(draw(later)?),
                _ => None,
            },
        })
    }

    /// `[L, n, V]`, or `[1, n, V]` where only the first block is prompted.
    fn rows(&self, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        match &self.deep {
            Some(deep) => Tensor::cat(&[of(&self.first), of(deep)], 0),
            None => Ok(of(&self.first)),
        }
    }
}

/// The network of both kinds of prompts: to its width, one block, and back.
struct Joint {
    /// Of texts, then of pictures; none where the tower is as wide as the network.
    ends: [Option<[Linear; 2]>; 2],
    /// `ln_1` and `ln_2`, attention's projections `[3 d, d]` and `[d, d]`, and the two layers between `d` and `4 d`.
    norms: [Linear; 2],
    attention: [Linear; 2],
    hidden: [Linear; 2],
}

impl Joint {
    /// As PyTorch starts its layers.
    fn new(clip: &Clip, d: usize, init: &mut Init) -> Result<Self> {
        let mut end = |width: usize| -> Result<Option<[Linear; 2]>> {
            if width == d {
                return Ok(None);
            }
            let (pre, post) = (init.linear(d, width)?, init.linear(width, d)?);
            Ok(Some([Linear::new(&pre)?, Linear::new(&post)?]))
        };
        let ends = [end(clip.text.width())?, end(clip.transformer()?.width())?];
        let (out, _) = init.linear(d, d)?;
        let projected = init.uniform(&[3 * d, d], (6.0 / (4 * d) as f64).sqrt())?;
        let zeros = |n: usize| Tensor::zeros(n, DType::F32, clip.device());
        let ones = Tensor::ones(d, DType::F32, clip.device())?;
        let hidden = [init.linear(4 * d, d)?, init.linear(d, 4 * d)?];
        let norm = || Linear::new(&(ones.clone(), zeros(d)?));
        Ok(Self {
            ends,
            norms: [norm()?, norm()?],
            attention: [
                Linear::new(&(projected, zeros(3 * d)?))?,
                Linear::new(&(out, zeros(d)?))?,
            ],
            hidden: [Linear::new(&hidden[0])?, Linear::new(&hidden[1])?],
        })
    }

    fn named(&self) -> Vec<(String, Var)> {
        let mut all = Vec::new();
        for (kind, end) in ["coop", "vpt"].iter().zip(&self.ends) {
            for (place, layer) in ["pre", "post"].iter().zip(end.iter().flatten()) {
                all.extend(layer.named(&format!("prompt_learner.mvlpt_proj_ctx_{kind}_{place}")));
            }
        }
        let block = "prompt_learner.mvlpt_proj.resblocks.0";
        let [weight, bias] = self.attention[0].named("");
        all.push((format!("{block}.attn.in_proj_weight"), weight.1));
        all.push((format!("{block}.attn.in_proj_bias"), bias.1));
        for (name, layer) in [
            ("attn.out_proj", &self.attention[1]),
            ("ln_1", &self.norms[0]),
            ("mlp.c_fc", &self.hidden[0]),
            ("mlp.c_proj", &self.hidden[1]),
            ("ln_2", &self.norms[1]),
        ] {
            all.extend(layer.named(&format!("{block}.{name}")));
        }
        all
    }

    /// `[M, W]` and `[L, n, V]` as they come out.
    fn through(
        &self,
        text: &Tensor,
        image: &Tensor,
        of: impl Fn(&Var) -> Tensor,
    ) -> Result<[Tensor; 2]> {
        let layer = |x: &Tensor, layer: &Linear| {
            let [weight, bias] = layer.tensors(&of);
            linear(x, &weight, &bias)
        };
        let end = |x: &Tensor, kind: usize, place: usize| match &self.ends[kind] {
            Some(layers) => layer(x, &layers[place]),
            None => Ok(x.clone()),
        };
        let flat = image.reshape(((), image.dim(2)?))?;
        let (m, n) = (text.dim(0)?, flat.dim(0)?);
        let rows = Tensor::cat(&[end(text, 0, 0)?, end(&flat, 1, 0)?], 0)?; // [M + L n, d]
        let rows = self.block(&rows, &of)?;
        let back = [
            end(&rows.narrow(0, 0, m)?, 0, 1)?,
            end(&rows.narrow(0, m, n)?, 1, 1)?,
        ];
        let [text, flat] = back;
        Ok([text, flat.reshape(image.shape())?])
    }

    /// A block of CLIP over rows that each see only themselves: what attention gives is the row's own value.
    fn block(&self, x: &Tensor, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let d = x.dim(1)?;
        let norm = |x: &Tensor, norm: &Linear| {
            let [gain, bias] = norm.tensors(&of);
            layer_norm(x, &gain, &bias)
        };
        let [weight, bias] = self.attention[0].tensors(&of);
        let value = linear(
            &norm(x, &self.norms[0])?,
            &weight.narrow(0, 2 * d, d)?,
            &bias.narrow(0, 2 * d, d)?,
        )?;
        let [weight, bias] = self.attention[1].tensors(&of);
        let x = (x + linear(&value, &weight, &bias)?)?;
        let [first, second] = &self.hidden;
        let [weight, bias] = first.tensors(&of);
        let hidden = quick_gelu(&linear(&norm(&x, &self.norms[1])?, &weight, &bias)?)?;
        let [weight, bias] = second.tensors(&of);
        x + linear(&hidden, &weight, &bias)?
    }
}

struct Mvlpt {
    clip: Arc<Clip>,
    tasks: Tasks,
    text: Text,
    image: Option<ImageRows>,
    joint: Option<Joint>,
    label_per_task: bool,
}

impl Mvlpt {
    /// Texts `[K, E]` of unit length, and what enters the image tower.
    fn prompted(&self, of: impl Fn(&Var) -> Tensor) -> Result<(Tensor, ImagePrompt)> {
        let mut image = self.image.as_ref().map(|i| i.rows(&of)).transpose()?;
        let texts = match &self.text {
            Text::Fixed(texts) => texts.clone(),
            Text::Learned(context) => {
                let mut text = of(&context.ctx);
                if let (Some(joint), Some(rows)) = (&self.joint, &mut image) {
                    [text, *rows] = joint.through(&text, rows, &of)?;
                }
                context.texts(&text)?
            }
        };
        let mut rows = Vec::new();
        if let Some(image) = image {
            for block in 0..image.dim(0)? {
                rows.push(DeepImage {
                    block,
                    position: 1,
                    rows: image.get(block)?,
                    how: match block {
                        0 => How::Insert,
                        _ => How::Instead,
                    },
                });
            }
        }
        let prompt = ImagePrompt {
            rows,
            ..ImagePrompt::default()
        };
        Ok((texts, prompt))
    }

    /// `[B, E]`, unit length.
    fn images(&self, images: &Images, prompt: &ImagePrompt) -> Result<Tensor> {
        if prompt.is_empty() {
            return images.unit_features(&self.clip);
        }
        unit(&self.clip.transformer()?.encode(images.pixels()?, prompt)?)
    }

    /// `[B, K]`, those of other tasks' classes times 0; they stay in a softmax as ones.
    fn of_own_task(&self, logits: &Tensor, pictures: &[usize]) -> Result<Tensor> {
        logits * self.tasks.own(pictures, logits)?
    }
}

impl Method for Mvlpt {
    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = match &self.text {
            Text::Learned(context) => context.named(),
            Text::Fixed(_) => Vec::new(),
        };
        if let Some(image) = &self.image {
            let named = |name: &str, var: &Var| (format!("prompt_learner.{name}"), var.clone());
            all.push(named("vpt_embeddings", &image.first));
            all.extend(image.deep.iter().map(|d| named("vpt_embeddings_deep", d)));
        }
        all.extend(self.joint.iter().flat_map(Joint::named));
        all
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let (texts, prompt) = self.prompted(tracked)?;
        let mut logits = self
            .clip
            .logits(&self.images(&batch.images, &prompt)?, &texts)?;
        if self.label_per_task {
            logits = self.of_own_task(&logits, &self.tasks.of_labels(&batch.labels)?)?;
        }
        Loss::sum(self.tasks.shares(&logits, &batch.labels, false)?)
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        match &mut self.text {
            Text::Learned(context) => context.rebind(classes)?,
            Text::Fixed(texts) => *texts = by_hand(&self.clip, classes)?,
        }
        self.tasks = Tasks::of(classes);
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        let (texts, prompt) = self.prompted(Var::as_detached_tensor)?;
        Ok(Box::new(Prompted {
            clip: &self.clip,
            texts,
            prompt,
        }))
    }
}

/// As steps; logits are recorded with other tasks' classes multiplied by 0 where the run does that.
fn replayed(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let table = r.settings(&[
        ("coop_n_ctx", "n_ctx"),
        ("vpt_n_ctx", "n_ctx_vision"),
        ("project_dim", "project_dim"),
        ("position", "position"),
        ("depth", "depth"),
        ("label_per_task", "label_per_task"),
    ])?;
    let classes = r.classes()?;
    let mut method = stage.start(table, &classes)?;
    let test = Images::Pixels(r.get("test_images")?.clone());
    let of_own_task = r.parameter("label_per_task").and_then(|v| v.as_bool());
    let pictures = r.numbers("test_tasks")?.unwrap_or_default();
    let pictures: Vec<usize> = pictures.iter().map(|t| *t as usize).collect();
    let compare = |method: &dyn Method, c: &mut Comparison, name: &str| {
        let mut logits = method.predictor()?.logits(&test)?;
        if of_own_task == Some(true) {
            logits = (&logits * Tasks::of(&classes).own(&pictures, &logits)?)?;
        }
        c.logits(&logits, r.get(name)?)
    };
    compare(method.as_ref(), c, "logits.before")?;
    replay::train(stage, method.as_mut(), &mut r.optimizer()?, c)?;
    c.parameters(method.as_ref(), &r.last())?;
    compare(method.as_ref(), c, "logits.after")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{base, batch, clip, flat, noise, novel};

    fn built(config: &str) -> Box<dyn Method> {
        let mut settings = Settings::new(config.parse().unwrap());
        let config = MvlptConfig::read(&mut settings);
        assert_eq!(settings.finish().problems, []);
        let on = clip().into();
        config
            .build_tasks(&on, &[base(), novel()], &mut Init::seeded(1))
            .unwrap()
    }

    #[test]
    fn the_papers_three_variants_learn_their_own_prompts() {
        let names = |config: &str| -> Vec<String> {
            let all = built(config).parameters().into_iter();
            all.map(|(n, v)| format!("{} {:?}", n.replace("prompt_learner.", ""), v.dims()))
                .collect()
        };
        assert_eq!(names("n_ctx = 16\nn_ctx_vision = 0"), ["ctx [16, 64]"]);
        assert_eq!(
            names("n_ctx = 0\nn_ctx_vision = 3"),
            [
                "vpt_embeddings [1, 3, 128]",
                "vpt_embeddings_deep [1, 3, 128]"
            ]
        );
        // Pictures' prompts are as wide as the network and need no way there and back.
        let both = names("depth = \"shallow\"");
        assert_eq!(both[..2], ["ctx [4, 64]", "vpt_embeddings [1, 4, 128]"]);
        assert!(
            both.iter()
                .any(|n| n.starts_with("mvlpt_proj_ctx_coop_post.weight [64, 128]"))
        );
        assert!(!both.iter().any(|n| n.contains("ctx_vpt")));
        let mut none = Settings::new("n_ctx = 0\nn_ctx_vision = 0".parse().unwrap());
        MvlptConfig::read(&mut none);
        assert_eq!(none.finish().problems[0].field, "n_ctx");
    }

    #[test]
    fn a_prompt_goes_through_the_network_without_seeing_another() {
        let joint = Joint::new(&clip(), 32, &mut Init::seeded(2)).unwrap();
        let fixed = Var::as_detached_tensor;
        let (text, image) = (noise(&[3, 64], 1, 1.0), noise(&[2, 4, 128], 2, 1.0));
        let [whole, _] = joint.through(&text, &image, fixed).unwrap();
        let other = noise(&[2, 4, 128], 3, 1.0);
        let [again, _] = joint.through(&text, &other, fixed).unwrap();
        assert_eq!(flat(&whole), flat(&again));
        assert_eq!(whole.dims(), [3, 64]);
    }

    #[test]
    fn classes_of_other_tasks_stay_as_ones_in_the_softmax() {
        let mut method = built("n_ctx_vision = 0\nlabel_per_task = true");
        let labels = Tensor::new(&[0u32, 4, 2, 3], &candle_core::Device::Cpu).unwrap();
        let batch = Batch { labels, ..batch() };
        let loss = method.loss(&batch).unwrap();
        let shares = loss
            .parts
            .iter()
            .map(|(_, part)| part.to_scalar::<f32>().unwrap());
        assert_eq!(loss.parts.len(), 2);
        let scores = method.predictor().unwrap().logits(&batch.images).unwrap();
        let scores: Vec<Vec<f32>> = scores.to_vec2().unwrap();
        let one = |row: usize, label: usize, own: std::ops::Range<usize>| {
            let others = (5 - own.len()) as f64;
            let sum: f64 = scores[row][own].iter().map(|s| f64::from(*s).exp()).sum();
            (sum + others).ln() - f64::from(scores[row][label])
        };
        let want = [
            (one(0, 0, 0..3) + one(2, 2, 0..3)) / 4.0,
            (one(1, 4, 3..5) + one(3, 3, 3..5)) / 4.0,
        ];
        for (share, want) in shares.zip(want) {
            assert!((f64::from(share) - want).abs() < 1e-4, "{share} {want}");
        }
    }
}
