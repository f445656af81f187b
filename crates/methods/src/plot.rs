//! PLOT: several contexts for each class, matched to a picture's local features by optimal transport.
//!
//! Chen et al., *PLOT: Prompt Learning with Optimal Transport for Vision-Language Models*,
//! <https://arxiv.org/abs/2210.01253>. Follows the authors' `plot-coop/trainers/plot.py` at 728539f.
//!
//! `B` images, `K` classes, `N` contexts of `n` vectors, `M` local features, `W` text width, `E` joint width.
//!
//! As published, transport stops when the mean of the whole batch has settled, so that a score depends slightly on which
//! pictures share its batch.
//!
//! Differs: the authors' code knows ResNets only; on a transformer all tokens go through the last norm and projection, as
//! they describe it in issue 7 of their repository.

use std::sync::Arc;

use candle_core::{IndexOp, Result, Tensor, Var, bail};
use clip::resnet::ModifiedResNet;
use clip::{Clip, ImageTower, TextPlan, TextPrompt, model::unit};

use crate::parts::image_tokens::tracked;
use crate::parts::layout::{self, Position};
use crate::parts::losses::cross_entropy;
use crate::parts::transport::{Plan, Transport, pooled};
use crate::replay::{Comparison, Stage, watched};
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init,
    Loss, Method, Needs, Predict, Replay, Settings, TextCost, Training, load_parameters,
};

/// Registry entry. As released, whatever its configuration says: 50 epochs for 1 shot and on ImageNet, 100 for 2 and 4, 200
/// for more; batch 32 on Flowers102, FGVC Aircraft and Stanford Cars.
pub const ENTRY: Entry = Entry {
    name: "plot",
    title: "PLOT",
    source: "https://arxiv.org/abs/2210.01253",
    group: Group::TextPrompts,
    training: Some(Training::sgd(200, 128, 0.002)),
    read: |s| Box::new(PlotConfig::read(s)),
    checkpoint: Some(Checkpoint::PROMPT_LEARNER),
    replay: Replay::Own(&["plot"], compare),
};

struct PlotConfig {
    prompts: usize,
    count: usize,
    pooled: bool,
    transport: Transport,
}

impl PlotConfig {
    fn read(s: &mut Settings) -> Self {
        Self {
            prompts: s.count("n_prompts", 4, 1..=64, "contexts of each class, N"),
            count: s.count(
                "n_ctx",
                16,
                1..=72,
                "vectors of each context; they start from noise",
            ),
            pooled: s.flag(
                "pooled",
                false,
                "adds the scaled cosine of the pooled features (as published on ImageNet)",
            ),
            transport: Transport::read(s),
        }
    }

    fn make(&self, clip: &Arc<Clip>, classes: &Classes, init: &mut Init) -> Result<Plot> {
        let ctx = init.normal(&[self.prompts, self.count, clip.text.width()], 0.02)?;
        Ok(Plot {
            clip: clip.clone(),
            ctx: layout::variable(&ctx)?,
            pooled: self.pooled,
            transport: self.transport,
            plan: plan_of(clip, classes, self.prompts, self.count)?,
        })
    }
}

impl Config for PlotConfig {
    fn needs(&self) -> Needs {
        Needs::pixels()
    }

    fn cost(&self) -> Cost {
        let each = self.prompts as f64;
        Cost {
            text: TextCost {
                forward: each,
                backward: each,
                ..TextCost::trained(self.count)
            },
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(self.make(&on.clip, classes, init)?))
    }
}

/// The sequences of all classes for each context; context row `n count + i` is the `i`-th vector of context `n`.
fn plan_of(clip: &Clip, classes: &Classes, prompts: usize, count: usize) -> Result<TextPlan> {
    let lead = layout::placeholder(count);
    let of_context = |n: usize| {
        let row = |_, i| n * count + i;
        layout::sequences(
            clip.text.wording(),
            classes,
            &lead,
            count,
            Position::End,
            row,
        )
    };
    let sequences = (0..prompts).map(of_context).collect::<Result<Vec<_>>>()?;
    clip.text.plan(&sequences.concat())
}

struct Plot {
    clip: Arc<Clip>,
    /// `[N, n, W]`.
    ctx: Var,
    pooled: bool,
    transport: Transport,
    plan: TextPlan,
}

impl Plot {
    /// Features of all texts, `[N, K, E]`, not normalised.
    fn texts(&self, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let prompt = TextPrompt {
            context: Some(of(&self.ctx).reshape(((), self.clip.text.width()))?),
            ..TextPrompt::default()
        };
        let texts = self.clip.text.encode(&self.plan, &prompt)?;
        texts.reshape((self.ctx.dim(0)?, (), self.clip.embedding_size()))
    }

    /// Logits `[B, K]` of pictures against `texts`.
    fn score(&self, images: &Images, texts: &Tensor) -> Result<(Tensor, Plan)> {
        let tokens = self.clip.encode_image_tokens(images.pixels()?)?; // [B, 1 + M, E]
        let local = unit(&tokens.i((.., 1.., ..))?.contiguous()?)?;
        let (moved, plan) = self.transport.score(&local, &unit(texts)?)?;
        let mut logits = (moved * self.clip.scale())?;
        if self.pooled {
            let whole = unit(&tokens.i((.., 0, ..))?.contiguous()?)?;
            logits = (logits + self.clip.logits(&whole, &pooled(texts, 0)?)?)?;
        }
        Ok((logits, plan))
    }
}

impl Method for Plot {
    fn parameters(&self) -> Vec<(String, Var)> {
        vec![("prompt_learner.ctx".to_owned(), self.ctx.clone())]
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let (logits, plan) = self.score(&batch.images, &self.texts(tracked)?)?;
        let mut loss = Loss::from(cross_entropy(&logits, &batch.labels)?);
        loss.beside = plan.told(logits.device())?;
        Ok(loss)
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        let (prompts, count, _) = self.ctx.dims3()?;
        self.plan = plan_of(&self.clip, classes, prompts, count)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Matched {
            method: self,
            texts: self.texts(Var::as_detached_tensor)?,
        }))
    }
}

struct Matched<'a> {
    method: &'a Plot,
    texts: Tensor,
}

impl Predict for Matched<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        Ok(self.method.score(images, &self.texts)?.0)
    }
}

/// Replays a recorded run: training steps with their rounds, and local features where they are recorded.
fn compare(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let mut table = r.settings(&[("n_prompts", "n_prompts"), ("n_ctx", "n_ctx")])?;
    Transport::recorded(r, &mut table)?;
    let config = stage.typed(table, PlotConfig::read)?;
    let mut clip = stage.clip.clone();
    if r.field("visual").is_some() {
        let has = |name: &str| r.tensors.contains_key(name);
        let tower = ModifiedResNet::read(&has, &|name| r.get(name).cloned())?;
        let mut own = (*clip).clone();
        own.image = ImageTower::ResNet(tower);
        clip = Arc::new(own);
    }
    if let Some(tokens) = r.tensors.get("image_tokens") {
        // Recorded with the token first.
        let ours = clip
            .encode_image_tokens(r.get("test_images")?)?
            .transpose(0, 1)?;
        c.values("image_tokens", &ours.contiguous()?, tokens)?;
    }
    let mut method = config.make(&clip, &r.classes()?, &mut Init::seeded(0))?;
    load_parameters(&method, &r.named("init."))?;
    let Some(rounds) = r.numbers("sinkhorn.iters")? else {
        bail!("tensor sinkhorn.iters is missing");
    };
    watched(
        stage,
        &mut method,
        &mut r.optimizer()?,
        c,
        &mut |step, done, c| Plan::compare(&done.loss, rounds[step], step, c),
    )
}

#[cfg(test)]
mod tests {
    use crate::tests::{batch, build, clip, flat};

    #[test]
    fn each_context_gets_a_gradient_of_its_own() {
        let clip = clip();
        let mut method = build("plot", "n_prompts = 2\nn_ctx = 3", &clip);
        let (_, ctx) = method.parameters().remove(0);
        assert_eq!(ctx.dims(), [2, 3, clip.text.width()]);
        let loss = method.loss(&batch()).unwrap();
        assert_eq!(loss.parts.len(), 1);
        let gradients = loss.total.backward().unwrap();
        let gradient = gradients.get(ctx.as_tensor()).unwrap();
        assert_ne!(
            flat(&gradient.get(0).unwrap()),
            flat(&gradient.get(1).unwrap())
        );
    }
}
