//! A learned context in the text input: CoOp's, and the base of every method that changes only its loss.
//!
//! `K` classes, `M` context vectors, `W` text width, `E` joint width.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var, bail};
use clip::{Clip, TextPlan, TextPrompt, model::unit};

use super::layout::{self, Position};
use crate::{Classes, Cosine, Init, Predict, Settings, TextCost};

/// What a context starts from.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    /// `M`, where there are no words.
    pub(crate) count: usize,
    /// Words that it starts from; their count replaces `count`.
    pub(crate) init: Option<String>,
    pub(crate) position: Position,
    /// Whether each class has its own.
    pub(crate) per_class: bool,
}

impl Start {
    /// One context before the name, from words or noise, as KgCoOp, TPT and CoCoOp declare it.
    pub(crate) fn read(s: &mut Settings, count: usize, words: &str) -> Self {
        Self {
            count: s.count(
                "n_ctx",
                count,
                1..=72,
                "context vectors, M; the words' count replaces it when `init` is set",
            ),
            init: s.words(
                "init",
                words,
                "words the context starts from; none: normal noise of deviation 0.02",
            ),
            position: Position::End,
            per_class: false,
        }
    }

    /// `M`.
    pub(crate) fn vectors(&self) -> usize {
        self.init.as_deref().map_or(self.count, layout::word_count)
    }

    /// How many of them stand before every name and are the same for all.
    pub(crate) fn shared(&self) -> usize {
        match self.position {
            _ if self.per_class => 0,
            Position::End => self.vectors(),
            Position::Middle => self.vectors() / 2,
            Position::Front => 0,
        }
    }

    /// Passes of a step that trains it.
    pub(crate) fn cost(&self) -> TextCost {
        TextCost {
            shared: self.shared(),
            ..TextCost::trained(self.vectors())
        }
    }

    /// Values `[M, W]` (one context for all) with the text they stand for.
    pub(crate) fn values(&self, clip: &Clip, init: &mut Init) -> Result<(Tensor, String)> {
        match &self.init {
            Some(words) => {
                let count = layout::word_count(words);
                Ok((layout::word_embeddings(clip, words, count)?, words.clone()))
            }
            None => Ok((
                init.normal(&[self.count, clip.text.width()], 0.02)?,
                layout::placeholder(self.count),
            )),
        }
    }
}

/// Reads the place of the class name.
pub(crate) fn read_position(s: &mut Settings) -> Position {
    match s.choice(
        "position",
        &["end", "middle", "front"],
        "where the class name stands",
    ) {
        "middle" => Position::Middle,
        "front" => Position::Front,
        _ => Position::End,
    }
}

/// A learned input context; shared by the methods that differ from CoOp only in their loss.
pub(crate) struct Context {
    pub(crate) clip: Arc<Clip>,
    pub(crate) ctx: Var,
    count: usize,
    lead: String,
    position: Position,
    /// Classes the contexts belong to, when each class has its own.
    owners: Option<Vec<String>>,
    plan: TextPlan,
}

impl Context {
    /// With fresh values.
    pub(crate) fn new(
        clip: &Arc<Clip>,
        classes: &Classes,
        start: &Start,
        init: &mut Init,
    ) -> Result<Self> {
        let (ctx, lead) = if start.per_class && start.init.is_none() {
            let rows = [classes.len(), start.count, clip.text.width()];
            (init.normal(&rows, 0.02)?, layout::placeholder(start.count))
        } else {
            start.values(clip, init)?
        };
        let count = start.vectors();
        let owners = start.per_class.then(|| classes.names.clone());
        Self::from_parts(clip, classes, ctx, count, lead, start.position, owners)
    }

    /// One context of given values, with the placeholder it stands for.
    pub(crate) fn of_values(
        clip: &Arc<Clip>,
        classes: &Classes,
        ctx: Tensor,
        lead: String,
    ) -> Result<Self> {
        let count = ctx.dim(0)?;
        Self::from_parts(clip, classes, ctx, count, lead, Position::End, None)
    }

    fn from_parts(
        clip: &Arc<Clip>,
        classes: &Classes,
        ctx: Tensor,
        count: usize,
        lead: String,
        position: Position,
        owners: Option<Vec<String>>,
    ) -> Result<Self> {
        let plan = Self::plan(clip, classes, &lead, count, position, owners.is_some())?;
        Ok(Self {
            clip: clip.clone(),
            ctx: layout::variable(&ctx)?,
            count,
            lead,
            position,
            owners,
            plan,
        })
    }

    fn plan(
        clip: &Clip,
        classes: &Classes,
        lead: &str,
        count: usize,
        position: Position,
        own: bool,
    ) -> Result<TextPlan> {
        let row = |class: usize, i: usize| if own { class * count + i } else { i };
        clip.text.plan(&layout::sequences(
            clip.text.wording(),
            classes,
            lead,
            count,
            position,
            row,
        )?)
    }

    /// Class features `[K, E]`, unit length, of a context of any shape whose last dimension is `W`.
    pub(crate) fn texts(&self, ctx: &Tensor) -> Result<Tensor> {
        unit(&self.raw_texts(ctx)?)
    }

    /// As [`Context::texts`], as they leave the tower.
    pub(crate) fn raw_texts(&self, ctx: &Tensor) -> Result<Tensor> {
        self.raw_texts_of(&self.plan, ctx)
    }

    /// As [`Context::raw_texts`], of the classes of another plan.
    pub(crate) fn raw_texts_of(&self, plan: &TextPlan, ctx: &Tensor) -> Result<Tensor> {
        let rows = ctx.reshape(((), self.clip.text.width()))?;
        let prompt = TextPrompt {
            context: Some(rows),
            ..TextPrompt::default()
        };
        self.clip.text.encode(plan, &prompt)
    }

    /// A plan of other classes with the one context for all, which stays bound to its own.
    pub(crate) fn plan_of(&self, classes: &Classes) -> Result<TextPlan> {
        let (clip, lead) = (&self.clip, &self.lead);
        Self::plan(clip, classes, lead, self.count, self.position, false)
    }

    pub(crate) fn named(&self) -> Vec<(String, Var)> {
        vec![("prompt_learner.ctx".into(), self.ctx.clone())]
    }

    pub(crate) fn rebind(&mut self, classes: &Classes) -> Result<()> {
        self.rebind_behind(classes, self.lead.clone())
    }

    /// Binds to other classes with another placeholder before their names.
    pub(crate) fn rebind_behind(&mut self, classes: &Classes, lead: String) -> Result<()> {
        if self.owners.as_ref().is_some_and(|o| *o != classes.names) {
            bail!("contexts of their own for each class cannot be used with other classes");
        }
        self.plan = Self::plan(
            &self.clip,
            classes,
            &lead,
            self.count,
            self.position,
            self.owners.is_some(),
        )?;
        self.lead = lead;
        Ok(())
    }

    pub(crate) fn cosine(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Cosine {
            clip: &self.clip,
            texts: self.texts(&self.ctx.as_detached_tensor())?,
        }))
    }
}
