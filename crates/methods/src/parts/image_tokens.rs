//! Learned tokens behind the patches of the image tower, renewed at deeper blocks; and the predictor of whoever has some.

use candle_core::{Result, Tensor, Var, bail};
use clip::{Clip, ImagePrompt, model::unit};

use super::layout;
use crate::settings::Depth;
use crate::{Images, Init, Predict};

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
        let mut draw = || layout::variable(&init.normal(&[count, tower.width()], 0.02)?);
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

/// Fixed texts and a prompted image tower.
pub(crate) struct Prompted<'a> {
    pub(crate) clip: &'a Clip,
    /// `[K, E]`, unit length.
    pub(crate) texts: Tensor,
    pub(crate) prompt: ImagePrompt,
}

impl Predict for Prompted<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let features = if self.prompt.is_empty() {
            images.unit_features(self.clip)?
        } else {
            let tower = self.clip.transformer()?;
            unit(&tower.encode(images.pixels()?, &self.prompt)?)?
        };
        if features.dim(1)? != self.texts.dim(1)? {
            bail!("image and text features differ in width");
        }
        self.clip.logits(&features, &self.texts)
    }
}
