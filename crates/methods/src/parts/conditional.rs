//! A context that a small network shifts for each picture: CoCoOp, and what builds on it.
//!
//! `B` images, `K` classes, `M` context vectors, `W` text width, `E` joint width, `h = E / 16`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{D, Result, Tensor, Var};
use clip::{Clip, Slot, TextPlan, TextPrompt, model::unit};

use super::context::Start;
use super::layout::{self, Position};
use super::losses::{cross_entropy, relu};
use crate::{Batch, Classes, Images, Init, Loss, Method, Predict};

/// Text rows computed at once while predicting: bounds memory, changes no number.
const ROWS_AT_ONCE: usize = 8192;

/// The method, bound.
pub(crate) struct Conditional {
    pub(crate) clip: Arc<Clip>,
    ctx: Var,
    /// First weight `[h, E]` and bias, second `[W, h]` and bias.
    meta: [Var; 4],
    count: usize,
    lead: String,
    /// One a class, for a context in rows 0..M.
    sequences: Vec<Vec<Slot>>,
    /// Where the rows of so many images go, which is the same for any: by how many.
    plans: Mutex<BTreeMap<usize, Arc<TextPlan>>>,
}

impl Conditional {
    pub(crate) fn new(
        clip: &Arc<Clip>,
        classes: &Classes,
        start: &Start,
        init: &mut Init,
    ) -> Result<Self> {
        let (width, joint) = (clip.text.width(), clip.embedding_size());
        let count = start.vectors();
        let (ctx, lead) = start.values(clip, init)?;
        let hidden = (joint / 16).max(1);
        let (w1, b1) = init.linear(hidden, joint)?;
        let (w2, b2) = init.linear(width, hidden)?;
        let var = |t: &Tensor| layout::variable(t);
        let meta = [var(&w1)?, var(&b1)?, var(&w2)?, var(&b2)?];
        let mut method = Self {
            clip: clip.clone(),
            ctx: var(&ctx)?,
            meta,
            count,
            lead,
            sequences: Vec::new(),
            plans: Mutex::default(),
        };
        method.bind(classes)?;
        Ok(method)
    }

    /// Text features `[B, K, E]`, not normalised, for unit features `[B, E]`.
    fn texts(&self, images: &Tensor, ctx: &Tensor, meta: &[Tensor; 4]) -> Result<Tensor> {
        let (b, e) = images.dims2()?;
        let (k, m, w) = (self.sequences.len(), self.count, self.clip.text.width());
        let [w1, b1, w2, b2] = meta;
        let shift = relu(&images.matmul(&w1.t()?)?.broadcast_add(b1)?)?; // [B, h]
        let shift = shift.matmul(&w2.t()?)?.broadcast_add(b2)?; // [B, W]
        let contexts = ctx
            .unsqueeze(0)?
            .broadcast_add(&shift.unsqueeze(1)?)?
            .reshape((b * m, w))?;
        let plan = self.plan(b)?;
        let prompt = TextPrompt {
            context: Some(contexts),
            ..TextPrompt::default()
        };
        self.clip.text.encode(&plan, &prompt)?.reshape((b, k, e))
    }

    /// The texts of `b` images, each with a context of its own. Laying out the rows of many classes takes longer than a
    /// GPU takes to compute them.
    fn plan(&self, b: usize) -> Result<Arc<TextPlan>> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans.get(&b) {
            return Ok(plan.clone());
        }
        let of_image = |image: usize| {
            let moved = move |s: &Slot| match s {
                Slot::Context(row) => Slot::Context(image * self.count + row),
                Slot::Token(t) => Slot::Token(*t),
            };
            let sequences = self.sequences.iter();
            sequences.map(move |s| s.iter().map(moved).collect())
        };
        let sequences: Vec<Vec<Slot>> = (0..b).flat_map(of_image).collect();
        let plan = Arc::new(self.clip.text.plan(&sequences)?);
        Ok(plans.entry(b).or_insert(plan).clone())
    }

    /// Logits `[B, K]` of unit features `[B, E]` and texts `[B, K, E]`, not normalised.
    fn compared(&self, images: &Tensor, texts: &Tensor) -> Result<Tensor> {
        let (b, k, e) = texts.dims3()?;
        let texts = unit(&texts.reshape((b * k, e))?)?.reshape((b, k, e))?;
        (texts * self.clip.scale())?
            .broadcast_mul(&images.unsqueeze(1)?)?
            .sum(D::Minus1)
    }

    /// Logits `[B, K]` of unit features `[B, E]`, with the texts `[B, K, E]`, not normalised, that they come from.
    pub(crate) fn learned(&self, images: &Tensor) -> Result<(Tensor, Tensor)> {
        let meta = self.meta_tensors(|v| v.as_tensor().clone());
        let texts = self.texts(images, self.ctx.as_tensor(), &meta)?;
        Ok((self.compared(images, &texts)?, texts))
    }

    /// Logits `[B, K]` of unit features `[B, E]`, without a graph.
    pub(crate) fn scored(&self, images: &Tensor) -> Result<Tensor> {
        let rows: usize = self.sequences.iter().map(Vec::len).sum::<usize>().max(1);
        let at_once = (ROWS_AT_ONCE / rows).max(1);
        let ctx = self.ctx.as_detached_tensor();
        let meta = self.meta_tensors(Var::as_detached_tensor);
        let b = images.dim(0)?;
        let piece = |i: usize| {
            let some = images.narrow(0, i, at_once.min(b - i))?;
            self.compared(&some, &self.texts(&some, &ctx, &meta)?)
        };
        let pieces = (0..b)
            .step_by(at_once)
            .map(piece)
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&pieces, 0)
    }

    fn meta_tensors(&self, of: impl Fn(&Var) -> Tensor) -> [Tensor; 4] {
        std::array::from_fn(|i| of(&self.meta[i]))
    }
}

impl Method for Conditional {
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
        let (logits, _) = self.learned(&images)?;
        Ok(cross_entropy(&logits, &batch.labels)?.into())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.sequences = layout::sequences(
            self.clip.text.wording(),
            classes,
            &self.lead,
            self.count,
            Position::End,
            |_, i| i,
        )?;
        self.plans = Mutex::default();
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Scored { method: self }))
    }
}

struct Scored<'a> {
    method: &'a Conditional,
}

impl Predict for Scored<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let m = self.method;
        m.scored(&images.unit_features(&m.clip)?)
    }
}
