//! CoOp: learn the words around the class name; CLIP stays frozen.
//!
//! Zhou et al., *Learning to Prompt for Vision-Language Models*, <https://arxiv.org/abs/2109.01134>.
//! Follows the authors' `trainers/coop.py` at ff61507.
//!
//! `K` classes, `M` context vectors, `W` text width, `E` joint width, `B` images.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var, bail};
use clip::{Clip, TextPlan, TextPrompt, model::unit};

use crate::context::{self, Position};
use crate::losses::cross_entropy;
use crate::{
    Batch, Classes, Config, Cosine, Entry, Init, Loss, Method, Predict, Sees, Settings, Training,
};

/// Registry entry. 200 epochs are the paper's for 8 and 16 shots; 50 for 1 shot, 100 for 2 and 4, 50 on ImageNet.
pub const ENTRY: Entry = Entry {
    name: "coop",
    title: "CoOp",
    source: "https://arxiv.org/abs/2109.01134",
    training: Some(Training::sgd(200, 32, 0.002)),
    read: |s| Box::new(CoOpConfig::read(s)),
};

/// Settings.
#[derive(Clone, Debug)]
struct CoOpConfig {
    count: usize,
    init: Option<String>,
    position: Position,
    per_class: bool,
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

impl CoOpConfig {
    fn read(s: &mut Settings) -> Self {
        let count = s.count(
            "n_ctx",
            16,
            1..=72,
            "context vectors, M; the words' count replaces it when `init` is set",
        );
        let init = s.words(
            "init",
            "",
            "words the context starts from; none: normal noise of deviation 0.02",
        );
        let position = read_position(s);
        let per_class = s.flag(
            "per_class",
            false,
            "a context for each class instead of one for all",
        );
        if per_class && init.is_some() {
            s.refuse(
                "per_class",
                "contexts for each class start from noise; leave out `init`",
            );
        }
        Self {
            count,
            init,
            position,
            per_class,
        }
    }
}

impl Config for CoOpConfig {
    fn sees(&self) -> Sees {
        Sees::Features
    }

    fn build(
        &self,
        clip: &Arc<Clip>,
        classes: &Classes,
        init: &mut Init,
    ) -> Result<Box<dyn Method>> {
        Ok(Box::new(Context::new(clip, classes, self, init)?))
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
    fn new(
        clip: &Arc<Clip>,
        classes: &Classes,
        config: &CoOpConfig,
        init: &mut Init,
    ) -> Result<Self> {
        let width = clip.text.width();
        let (ctx, count, lead) = match &config.init {
            Some(words) => {
                let count = context::word_count(words);
                (
                    context::word_embeddings(clip, words, count)?,
                    count,
                    words.clone(),
                )
            }
            None => {
                let rows = if config.per_class {
                    vec![classes.len(), config.count, width]
                } else {
                    vec![config.count, width]
                };
                (
                    init.normal(&rows, 0.02)?,
                    config.count,
                    context::placeholder(config.count),
                )
            }
        };
        let owners = config.per_class.then(|| classes.names.clone());
        Self::from_parts(clip, classes, ctx, count, lead, config.position, owners)
    }

    /// One context before the name, from words or of `count` vectors of noise, as KgCoOp and TPT have it.
    pub(crate) fn at_end(
        clip: &Arc<Clip>,
        classes: &Classes,
        words: Option<&str>,
        count: usize,
        init: &mut Init,
    ) -> Result<Self> {
        let words = words.map(str::to_owned);
        Self::new(
            clip,
            classes,
            &CoOpConfig {
                count,
                init: words,
                position: Position::End,
                per_class: false,
            },
            init,
        )
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
            ctx: context::variable(&ctx)?,
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
        clip.text
            .plan(&[context::sequences(classes, lead, count, position, row)?])
    }

    /// Class features `[K, E]`, unit length, of a context of any shape whose last dimension is `W`.
    pub(crate) fn texts(&self, ctx: &Tensor) -> Result<Tensor> {
        let rows = ctx.reshape(((), self.clip.text.width()))?;
        let prompt = TextPrompt {
            context: Some(rows),
            ..TextPrompt::default()
        };
        unit(&self.clip.text.encode(&self.plan, &prompt)?)
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

impl Method for Context {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.named()
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let images = batch.images.unit_features(&self.clip)?; // [B, E]
        let texts = self.texts(self.ctx.as_tensor())?; // [K, E]
        Ok(cross_entropy(&self.clip.logits(&images, &texts)?, &batch.labels)?.into())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.rebind(classes)
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        self.cosine()
    }
}
