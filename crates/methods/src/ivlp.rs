//! Independent vision-language prompting: deep prompts in both towers, learned side by side.
//!
//! Rasheed et al., *Fine-tuned CLIP Models are Efficient Video Learners*, <https://arxiv.org/abs/2212.03640>, as the
//! `IVLP` trainer of MaPLe's code (69bce21) and PromptSRC's (bb95c77) has it. Also the parts that deep vision, deep
//! language prompting and PromptSRC share with it.
//!
//! `K` classes, `B` images, `J` depth: layers whose input is prompted, the first included.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var, bail};
use clip::{Clip, DeepText, ImagePrompt, Slot, TextPlan, TextPrompt, model::unit};

use crate::context::{self, Position};
use crate::losses::cross_entropy;
use crate::settings::Depth;
use crate::{
    Batch, Classes, Config, Entry, Images, Init, Loss, Method, Predict, Sees, Settings, Training,
};

/// Registry entry. Defaults are PromptSRC's baseline; MaPLe's repository has 2 + 2 tokens, depth 12, lr 0.0035, 5 epochs.
pub const ENTRY: Entry = Entry {
    name: "ivlp",
    title: "IVLP",
    source: "https://arxiv.org/abs/2212.03640",
    training: Some(Training::sgd(20, 4, 0.0025)),
    read: |s| Box::new(Sizes::read(s)),
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
}

impl Config for Sizes {
    fn sees(&self) -> Sees {
        if self.image == 0 {
            Sees::Features
        } else {
            Sees::Pixels
        }
    }

    fn build(
        &self,
        clip: &Arc<Clip>,
        classes: &Classes,
        init: &mut Init,
    ) -> Result<Box<dyn Method>> {
        Ok(Box::new(Independent::new(clip, classes, self, init)?))
    }
}

/// The text input of the deep family: words, of which the first `count` are learned.
#[derive(Clone, Debug)]
pub(crate) struct Lead {
    pub(crate) words: String,
    pub(crate) count: usize,
}

impl Lead {
    /// The words and the first values of their learned part. As published, more than four context tokens, or no words,
    /// start from noise with `X` in the words' place.
    pub(crate) fn start(
        clip: &Clip,
        words: Option<&str>,
        count: usize,
        init: &mut Init,
    ) -> Result<(Self, Tensor)> {
        match words {
            Some(words) if count <= 4 => {
                let lead = Self {
                    words: words.to_owned(),
                    count,
                };
                Ok((lead, context::word_embeddings(clip, words, count)?))
            }
            _ => {
                let values = init.normal(&[count, clip.text.width()], 0.02)?;
                Ok((
                    Self {
                        words: context::placeholder(count),
                        count,
                    },
                    values,
                ))
            }
        }
    }

    /// Sequences of `classes`.
    pub(crate) fn plan(&self, clip: &Clip, classes: &Classes) -> Result<TextPlan> {
        let sequences: Vec<Vec<Slot>> =
            context::sequences(classes, &self.words, self.count, Position::End, |_, i| i)?;
        clip.text.plan(&[sequences])
    }
}

/// Deep text rows for blocks 1, 2, ...: they overwrite the places of the input context.
pub(crate) fn deep_text(rows: impl IntoIterator<Item = Tensor>) -> Vec<DeepText> {
    rows.into_iter()
        .zip(1..)
        .map(|(rows, block)| DeepText::instead(block, 1, rows))
        .collect()
}

/// Prompt tokens of the image tower and how they are named.
pub(crate) struct ImageTokens {
    pub(crate) tokens: Option<Var>,
    pub(crate) deep: Vec<Var>,
}

impl ImageTokens {
    /// `count` tokens in as many layers as `depth` says; nothing where it says nothing or there are no tokens.
    pub(crate) fn new(
        clip: &Clip,
        count: usize,
        depth: Option<Depth>,
        init: &mut Init,
    ) -> Result<Self> {
        let Some(depth) = depth.filter(|_| count > 0) else {
            return Ok(Self {
                tokens: None,
                deep: Vec::new(),
            });
        };
        let tower = clip.transformer()?;
        let mut draw = || context::variable(&init.normal(&[count, tower.width()], 0.02)?);
        let tokens = Some(draw()?);
        let deep = (1..depth.within(tower.depth())?)
            .map(|_| draw())
            .collect::<Result<_>>()?;
        Ok(Self { tokens, deep })
    }

    pub(crate) fn named(&self) -> Vec<(String, Var)> {
        let first = self
            .tokens
            .iter()
            .map(|v| ("image_encoder.VPT".to_owned(), v.clone()));
        let name = |i: usize| format!("image_encoder.transformer.resblocks.{i}.VPT_shallow");
        first
            .chain(self.deep.iter().zip(1..).map(|(v, i)| (name(i), v.clone())))
            .collect()
    }

    pub(crate) fn prompt(&self, of: impl Fn(&Var) -> Tensor) -> ImagePrompt {
        ImagePrompt {
            tokens: self.tokens.as_ref().map(&of),
            deep: self.deep.iter().map(&of).collect(),
            ..ImagePrompt::default()
        }
    }
}

/// A tensor that is part of the graph.
pub(crate) fn tracked(v: &Var) -> Tensor {
    v.as_tensor().clone()
}

/// Prompted towers: what IVLP and PromptSRC learn.
pub(crate) struct Independent {
    pub(crate) clip: Arc<Clip>,
    pub(crate) lead: Lead,
    pub(crate) ctx: Var,
    deep_text: Vec<Var>,
    image: ImageTokens,
    plan: TextPlan,
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
            .map(|_| context::variable(&init.normal(&[sizes.text, clip.text.width()], 0.02)?))
            .collect::<Result<_>>()?;
        Ok(Self {
            clip: clip.clone(),
            ctx: context::variable(&values)?,
            deep_text: deep,
            image: ImageTokens::new(clip, sizes.image, sizes.depth_image, init)?,
            plan: lead.plan(clip, classes)?,
            lead,
        })
    }

    /// Class features `[K, E]`, unit length.
    pub(crate) fn texts(&self, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let deep = deep_text(self.deep_text.iter().map(&of));
        unit(&self.clip.text.encode(
            &self.plan,
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

/// Fixed texts and a prompted image tower.
pub(crate) struct Prompted<'a> {
    pub(crate) clip: &'a Clip,
    /// `[K, E]`, unit length.
    pub(crate) texts: Tensor,
    pub(crate) prompt: ImagePrompt,
}

impl Predict for Prompted<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let features = match &self.prompt.tokens {
            None => images.unit_features(self.clip)?,
            Some(_) => unit(
                &self
                    .clip
                    .transformer()?
                    .encode(images.pixels()?, &self.prompt)?,
            )?,
        };
        if features.dim(1)? != self.texts.dim(1)? {
            bail!("image and text features differ in width");
        }
        self.clip.logits(&features, &self.texts)
    }
}
