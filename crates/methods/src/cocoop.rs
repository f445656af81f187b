//! CoCoOp: a context that a small network shifts for each picture.
//!
//! Zhou et al., *Conditional Prompt Learning for Vision-Language Models*, <https://arxiv.org/abs/2203.05557>.
//! Follows the authors' `trainers/cocoop.py` at ff61507.
//!
//! `B` images, `K` classes, `M` context vectors, `W` text width, `E` joint width, `h = E / 16`.

use std::sync::Arc;

use candle_core::{D, Result, Tensor, Var};
use clip::{Clip, Slot, TextPrompt, model::unit};

use crate::parts::context::Start;
use crate::parts::layout::{self, Position};
use crate::parts::losses::{cross_entropy, relu};
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init,
    Loss, Method, Needs, Predict, Replay, TextCost, Training,
};

/// Text rows computed at once while predicting: bounds memory, changes no number.
const ROWS_AT_ONCE: usize = 8192;

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "cocoop",
    title: "CoCoOp",
    source: "https://arxiv.org/abs/2203.05557",
    group: Group::TextPrompts,
    training: Some(Training::sgd(10, 1, 0.002)),
    read: |s| Box::new(CoCoOpConfig(Start::read(s, 4, "a photo of a"))),
    checkpoint: Some(Checkpoint::PROMPT_LEARNER),
    replay: Replay::Steps(&["cocoop"], |r| {
        let mut table = r.settings(&[("n_ctx", "n_ctx")])?;
        table.insert("init".into(), r.words("ctx_init").into());
        Ok(table)
    }),
};

struct CoCoOpConfig(Start);

impl Config for CoCoOpConfig {
    fn needs(&self) -> Needs {
        Needs::features()
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost {
                per_picture: true,
                ..self.0.cost()
            },
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let clip = &on.clip;
        let (width, joint) = (clip.text.width(), clip.embedding_size());
        let count = self.0.vectors();
        let (ctx, lead) = self.0.values(clip, init)?;
        let hidden = (joint / 16).max(1);
        let (w1, b1) = init.linear(hidden, joint)?;
        let (w2, b2) = init.linear(width, hidden)?;
        let var = |t: &Tensor| layout::variable(t);
        let meta = [var(&w1)?, var(&b1)?, var(&w2)?, var(&b2)?];
        let mut method = CoCoOp {
            clip: clip.clone(),
            ctx: var(&ctx)?,
            meta,
            count,
            lead,
            sequences: Vec::new(),
        };
        method.bind(classes)?;
        Ok(Box::new(method))
    }
}

struct CoCoOp {
    clip: Arc<Clip>,
    ctx: Var,
    /// First weight `[h, E]` and bias, second `[W, h]` and bias.
    meta: [Var; 4],
    count: usize,
    lead: String,
    /// One a class, for a context in rows 0..M.
    sequences: Vec<Vec<Slot>>,
}

impl CoCoOp {
    /// Logits `[B, K]` of unit features `[B, E]`.
    fn score(&self, images: &Tensor, ctx: &Tensor, meta: &[Tensor; 4]) -> Result<Tensor> {
        let (b, e) = images.dims2()?;
        let (k, m, w) = (self.sequences.len(), self.count, self.clip.text.width());
        let [w1, b1, w2, b2] = meta;
        let shift = relu(&images.matmul(&w1.t()?)?.broadcast_add(b1)?)?; // [B, h]
        let shift = shift.matmul(&w2.t()?)?.broadcast_add(b2)?; // [B, W]
        let contexts = ctx
            .unsqueeze(0)?
            .broadcast_add(&shift.unsqueeze(1)?)?
            .reshape((b * m, w))?;
        let groups: Vec<Vec<Vec<Slot>>> = (0..b)
            .map(|image| {
                let moved = |s: &Slot| match s {
                    Slot::Context(row) => Slot::Context(image * m + row),
                    Slot::Token(t) => Slot::Token(*t),
                };
                self.sequences
                    .iter()
                    .map(|s| s.iter().map(moved).collect())
                    .collect()
            })
            .collect();
        let plan = self.clip.text.plan(&groups)?;
        let prompt = TextPrompt {
            context: Some(contexts),
            ..TextPrompt::default()
        };
        let texts = unit(&self.clip.text.encode(&plan, &prompt)?)?.reshape((b, k, e))?;
        (texts * self.clip.scale())?
            .broadcast_mul(&images.unsqueeze(1)?)?
            .sum(D::Minus1)
    }

    fn meta_tensors(&self, of: impl Fn(&Var) -> Tensor) -> [Tensor; 4] {
        std::array::from_fn(|i| of(&self.meta[i]))
    }
}

impl Method for CoCoOp {
    fn parameters(&self) -> Vec<(String, Var)> {
        let names = [
            "linear1.weight",
            "linear1.bias",
            "linear2.weight",
            "linear2.bias",
        ];
        let meta = names
            .iter()
            .zip(&self.meta)
            .map(|(n, v)| (format!("prompt_learner.meta_net.{n}"), v.clone()));
        [("prompt_learner.ctx".to_owned(), self.ctx.clone())]
            .into_iter()
            .chain(meta)
            .collect()
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let images = batch.images.unit_features(&self.clip)?;
        let logits = self.score(
            &images,
            self.ctx.as_tensor(),
            &self.meta_tensors(|v| v.as_tensor().clone()),
        )?;
        Ok(cross_entropy(&logits, &batch.labels)?.into())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.sequences =
            layout::sequences(classes, &self.lead, self.count, Position::End, |_, i| i)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Conditional { method: self }))
    }
}

struct Conditional<'a> {
    method: &'a CoCoOp,
}

impl Predict for Conditional<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let m = self.method;
        let features = images.unit_features(&m.clip)?;
        let rows: usize = m.sequences.iter().map(Vec::len).sum::<usize>().max(1);
        let at_once = (ROWS_AT_ONCE / rows).max(1);
        let ctx = m.ctx.as_detached_tensor();
        let meta = m.meta_tensors(Var::as_detached_tensor);
        let b = features.dim(0)?;
        let pieces = (0..b)
            .step_by(at_once)
            .map(|i| m.score(&features.narrow(0, i, at_once.min(b - i))?, &ctx, &meta))
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&pieces, 0)
    }
}
