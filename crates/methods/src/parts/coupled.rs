//! Deep text prompts, and image prompts that are made from them: MaPLe, and what builds on it.
//!
//! `K` classes, `n` context tokens, `J` prompted layers, `W` text width, `V` image width, `B` images.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use clip::{Clip, ImagePrompt, TextPlan, TextPrompt, model::unit};

use super::image_tokens::{Prompted, tracked};
use super::layout::variable;
use super::lead::{Lead, deep_text};
use super::losses::cross_entropy;
use crate::settings::Depth;
use crate::{
    Backbones, Batch, Classes, Config, Cost, ImageCost, Init, Loss, Method, Needs, Predict,
    Settings, TextCost,
};

/// Settings.
pub(crate) struct CoupledConfig {
    count: usize,
    depth: Depth,
    init: Option<String>,
}

impl CoupledConfig {
    pub(crate) fn read(s: &mut Settings) -> Self {
        Self {
            count: s.count("n_ctx", 2, 1..=72, "context tokens of both towers"),
            depth: s.depth(
                "depth",
                9,
                "prompted layers of both towers, J, the input included",
            ),
            init: s.words(
                "init",
                "a photo of a",
                "words of the text input; the first n_ctx are learned, the rest stay",
            ),
        }
    }

    pub(crate) fn make(
        &self,
        clip: &Arc<Clip>,
        classes: &Classes,
        init: &mut Init,
    ) -> Result<Coupled> {
        let tower = clip.transformer()?;
        let (w, v) = (clip.text.width(), tower.width());
        let (lead, values) = Lead::start(clip, self.init.as_deref(), self.count, init)?;
        let layers = self.depth.within(clip.text.depth().min(tower.depth()))? - 1;
        let linear = |(weight, bias): &(Tensor, Tensor)| {
            Ok::<_, candle_core::Error>((variable(weight)?, variable(bias)?))
        };
        let project = linear(&init.linear(v, w)?)?;
        let texts = (0..layers)
            .map(|_| variable(&init.normal(&[self.count, w], 0.02)?))
            .collect::<Result<_>>()?;
        // One fresh layer, copied: the published projections all start equal.
        let first = init.linear(v, w)?;
        let projections = (0..layers).map(|_| linear(&first)).collect::<Result<_>>()?;
        let plan = lead.plan(clip, classes)?;
        Ok(Coupled {
            clip: clip.clone(),
            lead,
            ctx: variable(&values)?,
            project,
            texts,
            projections,
            plan,
        })
    }
}

impl Config for CoupledConfig {
    fn needs(&self) -> Needs {
        Needs::pixels()
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::trained(self.count),
            image: ImageCost::trained(self.count),
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(self.make(&on.clip, classes, init)?))
    }
}

/// The method, bound.
pub(crate) struct Coupled {
    pub(crate) clip: Arc<Clip>,
    lead: Lead,
    /// `[n, W]`.
    ctx: Var,
    /// Weight `[V, W]` and bias: input context to image tokens.
    project: (Var, Var),
    /// `J - 1` of `[n, W]`.
    texts: Vec<Var>,
    /// `J - 1` weights `[V, W]` and biases.
    projections: Vec<(Var, Var)>,
    plan: TextPlan,
}

impl Coupled {
    /// Class features `[K, E]`, not normalised.
    pub(crate) fn class_features(&self, of: &impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let prompt = TextPrompt {
            context: Some(of(&self.ctx)),
            deep: deep_text(self.texts.iter().map(of)),
            ..TextPrompt::default()
        };
        self.clip.text.encode(&self.plan, &prompt)
    }

    pub(crate) fn image_prompt(&self, of: &impl Fn(&Var) -> Tensor) -> Result<ImagePrompt> {
        let apply = |text: &Var, (weight, bias): &(Var, Var)| {
            of(text).matmul(&of(weight).t()?)?.broadcast_add(&of(bias))
        };
        Ok(ImagePrompt {
            tokens: Some(apply(&self.ctx, &self.project)?),
            deep: self
                .texts
                .iter()
                .zip(&self.projections)
                .map(|(t, p)| apply(t, p))
                .collect::<Result<_>>()?,
            ..ImagePrompt::default()
        })
    }
}

impl Method for Coupled {
    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = vec![
            ("prompt_learner.ctx".to_owned(), self.ctx.clone()),
            (
                "prompt_learner.proj.weight".to_owned(),
                self.project.0.clone(),
            ),
            (
                "prompt_learner.proj.bias".to_owned(),
                self.project.1.clone(),
            ),
        ];
        for (i, v) in self.texts.iter().enumerate() {
            all.push((
                format!("prompt_learner.compound_prompts_text.{i}"),
                v.clone(),
            ));
        }
        for (i, (weight, bias)) in self.projections.iter().enumerate() {
            let base = format!("prompt_learner.compound_prompt_projections.{i}");
            all.push((format!("{base}.weight"), weight.clone()));
            all.push((format!("{base}.bias"), bias.clone()));
        }
        all
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let prompt = self.image_prompt(&tracked)?;
        let images = unit(
            &self
                .clip
                .transformer()?
                .encode(batch.images.pixels()?, &prompt)?,
        )?; // [B, E]
        let logits = self
            .clip
            .logits(&images, &unit(&self.class_features(&tracked)?)?)?;
        Ok(cross_entropy(&logits, &batch.labels)?.into())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.plan = self.lead.plan(&self.clip, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        let fixed = Var::as_detached_tensor;
        let prompt = self.image_prompt(&fixed)?;
        Ok(Box::new(Prompted {
            clip: &self.clip,
            texts: unit(&self.class_features(&fixed)?)?,
            prompt,
        }))
    }
}
