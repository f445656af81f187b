//! The methods that others build on, by one name: CoOp, CoCoOp, KgCoOp and MaPLe as they give features and similarities.
//!
//! `B` images, `K` classes, `E` joint width.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use clip::{Clip, ImagePrompt, model::unit};

use super::conditional::Conditional;
use super::context::{Context, Start};
use super::coupled::{Coupled, CoupledConfig};
use super::image_tokens::tracked;
use super::losses::mean_cosine;
use super::templates;
use crate::{
    Batch, Classes, Config, Cost, ImageCost, Images, Init, Method, Needs, Settings, TextCost,
};

/// Settings of a host.
pub(crate) enum HostConfig {
    CoOp(Start),
    CoCoOp(Start),
    /// With the weight of the distance to hand-written prompts.
    KgCoOp(Start, f64),
    Maple(CoupledConfig),
}

impl HostConfig {
    /// Those of the host that the setting `host` names, as DePT's authors run it.
    pub(crate) fn read(s: &mut Settings) -> Self {
        let names = ["coop", "cocoop", "kgcoop", "maple"];
        match s.choice(
            "host",
            &names,
            "method whose prompts are learned beside the head",
        ) {
            "cocoop" => Self::CoCoOp(Start::read(s, 4, "a photo of a")),
            "kgcoop" => {
                let start = Start::read(s, 4, "a photo of a");
                let help = "of the distance to hand-written prompts (DePT: 2)";
                Self::KgCoOp(start, s.number("weight", 2.0, 0.0..=1000.0, help))
            }
            "maple" => Self::Maple(CoupledConfig::read(s)),
            _ => Self::CoOp(Start::read(s, 16, "")),
        }
    }

    pub(crate) fn needs(&self) -> Needs {
        match self {
            Self::Maple(config) => config.needs(),
            _ => Needs::features(),
        }
    }

    pub(crate) fn cost(&self) -> Cost {
        let frozen = |text| Cost {
            text,
            image: ImageCost::FROZEN,
        };
        match self {
            Self::CoOp(start) | Self::KgCoOp(start, _) => frozen(start.cost()),
            Self::CoCoOp(start) => frozen(TextCost {
                per_picture: true,
                ..start.cost()
            }),
            Self::Maple(config) => config.cost(),
        }
    }

    pub(crate) fn make(
        &self,
        clip: &Arc<Clip>,
        classes: &Classes,
        init: &mut Init,
    ) -> Result<Host> {
        Ok(match self {
            Self::CoOp(start) => Host::Context(Context::new(clip, classes, start, init)?, None),
            Self::KgCoOp(start, weight) => {
                let near = Some((*weight, guide(clip, classes)?));
                Host::Context(Context::new(clip, classes, start, init)?, near)
            }
            Self::CoCoOp(start) => Host::Conditional(Conditional::new(clip, classes, start, init)?),
            Self::Maple(config) => Host::Coupled(config.make(clip, classes, init)?),
        })
    }
}

/// Unit features `[K, E]` of KgCoOp's hand-written prompts.
pub(crate) fn guide(clip: &Clip, classes: &Classes) -> Result<Tensor> {
    unit(&clip.encode_texts(&classes.texts(templates::of("kgcoop", classes)))?)
}

/// A host, bound.
pub(crate) enum Host {
    /// CoOp; with a weight and unit features `[K, E]` to stay near, KgCoOp.
    Context(Context, Option<(f64, Tensor)>),
    Conditional(Conditional),
    Coupled(Coupled),
}

/// What a host makes of a training batch.
pub(crate) struct Forward {
    /// `[B, E]`, not normalised.
    pub(crate) images: Tensor,
    /// Text features `[B, E]` of each picture's label, not normalised.
    pub(crate) labelled: Tensor,
    /// `[B, K]`.
    pub(crate) logits: Tensor,
    /// The host's loss beside the cross entropy, weighted.
    pub(crate) besides: Option<(&'static str, Tensor)>,
}

impl Host {
    fn clip(&self) -> &Arc<Clip> {
        match self {
            Self::Context(host, _) => &host.clip,
            Self::Conditional(host) => &host.clip,
            Self::Coupled(host) => &host.clip,
        }
    }

    pub(crate) fn parameters(&self) -> Vec<(String, Var)> {
        match self {
            Self::Context(host, _) => host.named(),
            Self::Conditional(host) => host.parameters(),
            Self::Coupled(host) => host.parameters(),
        }
    }

    pub(crate) fn bind(&mut self, classes: &Classes) -> Result<()> {
        match self {
            Self::Context(host, guide) => {
                host.rebind(classes)?;
                if let Some((_, teacher)) = guide {
                    *teacher = self::guide(&host.clip, classes)?;
                }
                Ok(())
            }
            Self::Conditional(host) => host.bind(classes),
            Self::Coupled(host) => host.bind(classes),
        }
    }

    /// Differentiable in the host's parameters.
    pub(crate) fn forward(&self, batch: &Batch) -> Result<Forward> {
        let clip = self.clip();
        let shared = |images: Tensor, texts: &Tensor| {
            Ok::<_, candle_core::Error>(Forward {
                labelled: texts.index_select(&batch.labels, 0)?,
                logits: clip.logits(&unit(&images)?, &unit(texts)?)?,
                images,
                besides: None,
            })
        };
        match self {
            Self::Context(host, guide) => {
                let texts = host.raw_texts(host.ctx.as_tensor())?;
                let mut forward = shared(batch.images.features(clip)?, &texts)?;
                if let Some((weight, teacher)) = guide {
                    let distance =
                        mean_cosine(&unit(&texts)?, teacher)?.affine(-weight, *weight)?;
                    forward.besides = Some(("text_distance", distance));
                }
                Ok(forward)
            }
            Self::Conditional(host) => {
                let images = batch.images.features(clip)?;
                let (logits, texts) = host.learned(&unit(&images)?)?;
                let (b, k, e) = texts.dims3()?;
                let first = Tensor::arange_step(0u32, (b * k) as u32, k as u32, images.device())?;
                let own = (first + &batch.labels)?;
                Ok(Forward {
                    labelled: texts.reshape((b * k, e))?.index_select(&own, 0)?,
                    logits,
                    images,
                    besides: None,
                })
            }
            Self::Coupled(host) => {
                let prompt = host.image_prompt(&tracked)?;
                let images = clip
                    .transformer()?
                    .encode(batch.images.pixels()?, &prompt)?;
                shared(images, &host.class_features(&tracked)?)
            }
        }
    }

    /// Everything that does not depend on pictures, computed once.
    pub(crate) fn fixed(&self) -> Result<Fixed<'_>> {
        let fixed = Var::as_detached_tensor;
        let (texts, prompt) = match self {
            Self::Context(host, _) => (Some(host.texts(&host.ctx.as_detached_tensor())?), None),
            Self::Conditional(_) => (None, None),
            Self::Coupled(host) => (
                Some(unit(&host.class_features(&fixed)?)?),
                Some(host.image_prompt(&fixed)?),
            ),
        };
        Ok(Fixed {
            host: self,
            texts,
            prompt,
        })
    }
}

/// A trained host.
pub(crate) struct Fixed<'a> {
    host: &'a Host,
    /// `[K, E]`, unit length, where they are the same for all pictures.
    texts: Option<Tensor>,
    prompt: Option<ImagePrompt>,
}

impl Fixed<'_> {
    /// Features `[B, E]`, not normalised.
    pub(crate) fn features(&self, images: &Images) -> Result<Tensor> {
        let clip = self.host.clip();
        match &self.prompt {
            Some(prompt) => clip.transformer()?.encode(images.pixels()?, prompt),
            None => images.features(clip),
        }
    }

    /// Logits `[B, K]` of [`Fixed::features`].
    pub(crate) fn similarities(&self, features: &Tensor) -> Result<Tensor> {
        let features = unit(features)?;
        match (&self.texts, self.host) {
            (Some(texts), host) => host.clip().logits(&features, texts),
            (None, Host::Conditional(host)) => host.scored(&features),
            (None, _) => unreachable!("only a conditional context has no texts of its own"),
        }
    }
}
