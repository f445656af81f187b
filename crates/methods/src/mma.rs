//! MMA: small adapters beside the upper blocks of both towers, joined in their middle.
//!
//! Yang et al., *MMA: Multi-Modal Adapter for Vision-Language Models*, CVPR 2024. Follows the authors'
//! `trainers/mma.py` and `clip/model.py` at 547ee34 (github.com/ZjjConan/Multi-Modal-Adapter).
//!
//! `W` width of a tower, `d` adapter width, `s` scale, `K` classes, `E` joint width.
//!
//! `out = block(x) + s up(relu(shared(relu(down(ln_1(x))))))`. The gradient of the branch's output is divided by `s` and
//! that of its input multiplied: adapters are trained as if `s` were 1, what is before them as the sum says.
//!
//! Differs: the authors cache text features at the first test and never again; here they follow what is trained.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use clip::changes::Beside;
use clip::ops::scale_gradient;
use clip::{Changes, Clip, ImagePrompt, TextPlan, TextPrompt, model::unit};

use crate::parts::image_tokens::{Prompted, tracked};
use crate::parts::inside::{Linear, Span, linear};
use crate::parts::losses::{cross_entropy, relu};
use crate::parts::templates;
use crate::{
    Backbones, Batch, Classes, Config, Cost, Entry, Group, ImageCost, Init, Loss, Method, Needs,
    Predict, Replay, Settings, TextCost, Training,
};

/// Registry entry. ImageNet: batch 128.
pub const ENTRY: Entry = Entry {
    name: "mma",
    title: "MMA",
    source: "https://openaccess.thecvf.com/content/CVPR2024/html/Yang_MMA_Multi-Modal_Adapter_for_Vision-Language_Models_CVPR_2024_paper.html",
    group: Group::Weights,
    training: Some(Training {
        warmup_epochs: 0,
        ..Training::sgd(5, 16, 0.0015)
    }),
    read: |s| Box::new(MmaConfig::read(s)),
    checkpoint: None,
    replay: Replay::Steps(&["mma"], |r| {
        r.settings(&[
            ("adapter_start", "first"),
            ("adapter_end", "last"),
            ("adapter_dim", "width"),
            ("adapter_scale", "scale"),
        ])
    }),
};

struct MmaConfig {
    span: Span,
    width: usize,
    scale: f64,
}

impl MmaConfig {
    fn read(s: &mut Settings) -> Self {
        Self {
            span: Span::read(s, 5, 12),
            width: s.count("width", 32, 1..=4096, "of an adapter's middle, d"),
            scale: s.number("scale", 0.001, 1e-9..=1e3, "of what an adapter adds, s"),
        }
    }
}

impl Config for MmaConfig {
    fn needs(&self) -> Needs {
        Needs::pixels()
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::trained(crate::cost::WORDS),
            image: ImageCost {
                below: self.span.below(),
                ..ImageCost::trained(0)
            },
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let clip = &on.clip;
        clip.text.take_beside()?;
        let (w, v, d) = (clip.text.width(), clip.transformer()?.width(), self.width);
        let mut adapters = Vec::new();
        for block in self.span.blocks(clip)? {
            let mut own = |width: usize| -> Result<[Linear; 2]> {
                Ok([
                    Linear::kaiming(d, width, init)?,
                    Linear::kaiming(width, d, init)?,
                ])
            };
            let (text, image) = (own(w)?, own(v)?);
            let shared = Linear::kaiming(d, d, init)?;
            adapters.push(Adapter {
                block,
                text,
                image,
                shared,
            });
        }
        Ok(Box::new(Mma {
            clip: clip.clone(),
            adapters,
            scale: self.scale,
            plan: plan(clip, classes)?,
        }))
    }
}

fn plan(clip: &Clip, classes: &Classes) -> Result<TextPlan> {
    clip.text_plan(&classes.texts(templates::PHOTO))
}

/// Of one block.
struct Adapter {
    /// From 0.
    block: usize,
    /// `[d, W]` down and `[W, d]` up.
    text: [Linear; 2],
    image: [Linear; 2],
    /// `[d, d]`, of both towers.
    shared: Linear,
}

struct Mma {
    clip: Arc<Clip>,
    adapters: Vec<Adapter>,
    scale: f64,
    plan: TextPlan,
}

/// Of rows `n` `[r, W]`, what an adapter of `[down, shared, up]` adds; its tensors are weights and biases in turn.
fn branch(t: &[Tensor], n: &Tensor, scale: f64) -> Result<Tensor> {
    let n = scale_gradient(n, scale)?;
    let down = relu(&linear(&n, &t[0], &t[1])?)?;
    let shared = relu(&linear(&down, &t[2], &t[3])?)?;
    let up = linear(&shared, &t[4], &t[5])?;
    scale_gradient(&(up * scale)?, 1.0 / scale)
}

impl Mma {
    fn changes(
        &self,
        own: impl Fn(&Adapter) -> &[Linear; 2],
        of: impl Fn(&Var) -> Tensor,
    ) -> Changes {
        let mut changes = Changes::default();
        for adapter in &self.adapters {
            let [down, up] = own(adapter);
            let layers = [down, &adapter.shared, up];
            let scale = self.scale;
            changes.block(adapter.block).beside = Some(Beside {
                tensors: layers.iter().flat_map(|l| l.tensors(&of)).collect(),
                f: Arc::new(move |tensors, rows| branch(tensors, rows, scale)),
            });
        }
        changes
    }

    /// `[K, E]`, unit length.
    fn texts(&self, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let prompt = TextPrompt {
            changes: self.changes(|a| &a.text, of),
            ..TextPrompt::default()
        };
        unit(&self.clip.text.encode(&self.plan, &prompt)?)
    }

    fn image_prompt(&self, of: impl Fn(&Var) -> Tensor) -> ImagePrompt {
        ImagePrompt {
            changes: self.changes(|a| &a.image, of),
            ..ImagePrompt::default()
        }
    }
}

impl Method for Mma {
    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = Vec::new();
        for a in &self.adapters {
            let number = a.block + 1;
            for (tower, [down, up]) in [("text", &a.text), ("visual", &a.image)] {
                let base = format!("adapter_learner.{tower}_adapter.{number}");
                all.extend(down.named(&format!("{base}.down.0")));
                all.extend(up.named(&format!("{base}.up")));
            }
            let base = format!("adapter_learner.shared_adapter.{number}.0");
            all.extend(a.shared.named(&base));
        }
        all
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let tower = self.clip.transformer()?;
        let prompt = self.image_prompt(tracked);
        let images = unit(&tower.encode(batch.images.pixels()?, &prompt)?)?; // [B, E]
        let logits = self.clip.logits(&images, &self.texts(tracked)?)?;
        Ok(cross_entropy(&logits, &batch.labels)?.into())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.plan = plan(&self.clip, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Prompted {
            clip: &self.clip,
            texts: self.texts(Var::as_detached_tensor)?,
            prompt: self.image_prompt(Var::as_detached_tensor),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn an_adapter_is_trained_as_if_its_scale_were_one_and_passes_on_the_scaled_gradient() {
        // Width 1: down 2, shared 3, up 5, no bias; of x = 4 it adds 0.1 * 5 * 3 * 2 * 4 = 12.
        let var = |v: f32| Var::new(&[[v]], &Device::Cpu).unwrap();
        let zero = Tensor::new(&[0f32], &Device::Cpu).unwrap();
        let (down, shared, up, x) = (var(2.0), var(3.0), var(5.0), var(4.0));
        let t = [&down, &shared, &up].map(|v| v.as_tensor().clone());
        let tensors = [
            t[0].clone(),
            zero.clone(),
            t[1].clone(),
            zero.clone(),
            t[2].clone(),
            zero,
        ];
        let y = branch(&tensors, x.as_tensor(), 0.1).unwrap();
        let number = |t: &Tensor| t.to_vec2::<f32>().unwrap()[0][0];
        assert!((number(&y) - 12.0).abs() < 1e-5);
        let gradients = y.sum_all().unwrap().backward().unwrap();
        for (v, want) in [(&down, 60.0), (&shared, 40.0), (&up, 24.0), (&x, 3.0)] {
            let got = number(gradients.get(v).unwrap());
            assert!((got - want).abs() < 1e-4, "{got} {want}");
        }
    }
}
