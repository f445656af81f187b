//! Prompts in both towers, learned side by side: IVLP, its language half, and the student of PromptSRC.
//!
//! `K` classes, `B` images, `J` depth: layers whose input is prompted, the first included.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use clip::{Clip, TextPlan, TextPrompt, model::unit};

use super::image_tokens::{ImageTokens, Prompted, tracked};
use super::layout;
use super::lead::{Lead, deep_text};
use super::losses::cross_entropy;
use crate::replay::Recording;
use crate::settings::Depth;
use crate::{
    Batch, Classes, Cost, ImageCost, Images, Init, Loss, Method, Needs, Predict, Settings, TextCost,
};

/// How many prompts, and how deep.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub(crate) text: usize,
    pub(crate) image: usize,
    pub(crate) depth_text: Depth,
    /// `None` where the image tower is not prompted.
    pub(crate) depth_image: Option<Depth>,
    pub(crate) init: Option<String>,
}

impl Sizes {
    /// Settings that PromptSRC has too.
    pub(crate) fn read(s: &mut Settings) -> Self {
        Self {
            text: s.count("n_ctx_text", 4, 1..=72, "context tokens of the text tower"),
            image: s.count(
                "n_ctx_vision",
                4,
                0..=512,
                "prompt tokens of the image tower",
            ),
            depth_text: s.depth(
                "depth_text",
                9,
                "prompted text layers, J, the input included",
            ),
            depth_image: Some(s.depth(
                "depth_vision",
                9,
                "prompted image layers, J, the input included",
            )),
            init: s.words(
                "init",
                "a photo of a",
                "words of the text input; the first n_ctx_text are learned, the rest stay",
            ),
        }
    }

    /// The settings of a recorded run.
    pub(crate) fn recorded(r: &Recording) -> Result<toml::Table> {
        let mut table = r.settings(&[
            ("n_ctx", "n_ctx_text"),
            ("n_ctx_vision", "n_ctx_vision"),
            ("depth", "depth_text"),
            ("depth", "depth_vision"),
        ])?;
        table.insert("init".into(), r.words("ctx_init").into());
        Ok(table)
    }

    /// What they need of a picture: its pixels, where the image tower is prompted.
    pub(crate) fn needs(&self) -> Needs {
        if self.image == 0 {
            Needs::features()
        } else {
            Needs::pixels()
        }
    }

    /// Passes of a step that trains them.
    pub(crate) fn cost(&self) -> Cost {
        Cost {
            text: TextCost::trained(self.text),
            image: if self.image == 0 {
                ImageCost::FROZEN
            } else {
                ImageCost::trained(self.image)
            },
        }
    }
}

/// Prompted towers: what IVLP and PromptSRC learn.
pub(crate) struct Independent {
    pub(crate) clip: Arc<Clip>,
    pub(crate) lead: Lead,
    pub(crate) ctx: Var,
    pub(crate) deep_text: Vec<Var>,
    pub(crate) image: ImageTokens,
    pub(crate) plan: TextPlan,
}

impl Independent {
    pub(crate) fn new(
        clip: &Arc<Clip>,
        classes: &Classes,
        sizes: &Sizes,
        init: &mut Init,
    ) -> Result<Self> {
        let (lead, values) = Lead::start(clip, sizes.init.as_deref(), sizes.text, init)?;
        let deep = (1..sizes.depth_text.within(clip.text.depth())?)
            .map(|_| layout::variable(&init.normal(&[sizes.text, clip.text.width()], 0.02)?))
            .collect::<Result<_>>()?;
        Ok(Self {
            clip: clip.clone(),
            ctx: layout::variable(&values)?,
            deep_text: deep,
            image: ImageTokens::new(clip, sizes.image, sizes.depth_image, init)?,
            plan: lead.plan(clip, classes)?,
            lead,
        })
    }

    /// Class features `[K, E]`, unit length.
    pub(crate) fn texts(&self, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        self.texts_of(&self.plan, of)
    }

    /// As [`Independent::texts`], of the classes of another plan of the same lead.
    pub(crate) fn texts_of(&self, plan: &TextPlan, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let deep = deep_text(self.deep_text.iter().map(&of));
        unit(&self.clip.text.encode(
            plan,
            &TextPrompt {
                context: Some(of(&self.ctx)),
                deep,
                ..TextPrompt::default()
            },
        )?)
    }

    /// Image features `[B, E]`, unit length.
    pub(crate) fn images(&self, images: &Images, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        if self.image.tokens.is_none() {
            return images.unit_features(&self.clip);
        }
        unit(
            &self
                .clip
                .transformer()?
                .encode(images.pixels()?, &self.image.prompt(of))?,
        )
    }
}

impl Method for Independent {
    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = vec![("prompt_learner.ctx".to_owned(), self.ctx.clone())];
        all.extend(self.image.named());
        let name = |i: usize| format!("text_encoder.transformer.resblocks.{i}.VPT_shallow");
        all.extend(
            self.deep_text
                .iter()
                .zip(1..)
                .map(|(v, i)| (name(i), v.clone())),
        );
        all
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let logits = self
            .clip
            .logits(&self.images(&batch.images, tracked)?, &self.texts(tracked)?)?;
        Ok(cross_entropy(&logits, &batch.labels)?.into())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.plan = self.lead.plan(&self.clip, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Prompted {
            clip: &self.clip,
            texts: self.texts(Var::as_detached_tensor)?,
            prompt: self.image.prompt(Var::as_detached_tensor),
        }))
    }
}
