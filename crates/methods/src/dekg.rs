//! DeKg: KgCoOp that also pushes down how much learned class features depend on the hand-written ones.
//!
//! Li et al., *Divergence-enhanced Knowledge-guided Context Optimization for Visual-Language Prompt Tuning* (ICLR 2025),
//! <https://openreview.net/forum?id=6wOmHdwCC4>. Follows the authors' code (cnunlp/DeKg) at b8f2f1c.
//!
//! `B` images, `K` classes, `E` joint width.

use candle_core::{Result, Tensor, Var};
use clip::{Clip, model::unit};

use crate::parts::context::{Context, Start};
use crate::parts::losses::{cross_entropy, hsic, mean_cosine};
use crate::parts::templates;
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Init, Loss,
    Method, Needs, Predict, Replay, Settings, Training,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "dekg",
    title: "DeKg",
    source: "https://openreview.net/forum?id=6wOmHdwCC4",
    group: Group::TextPrompts,
    training: Some(Training::sgd(100, 128, 0.002)),
    read: |s| Box::new(DekgConfig::read(s)),
    checkpoint: Some(Checkpoint::PROMPT_LEARNER),
    replay: Replay::Steps(&["dekg"], |r| {
        let mut table = r.settings(&[
            ("n_ctx", "n_ctx"),
            ("w", "weight"),
            ("w_hsic", "dependence_weight"),
        ])?;
        table.insert("init".into(), r.words("ctx_init").into());
        Ok(table)
    }),
};

struct DekgConfig {
    start: Start,
    weight: f64,
    dependence: f64,
}

impl DekgConfig {
    fn read(s: &mut Settings) -> Self {
        Self {
            start: Start::read(s, 4, "a photo of a"),
            weight: s.number(
                "weight",
                8.0,
                0.0..=1000.0,
                "of the distance to hand-written prompts (released scripts: 8)",
            ),
            dependence: s.number(
                "dependence_weight",
                6.0,
                0.0..=1000.0,
                "of the dependence on hand-written prompts (released scripts: 6)",
            ),
        }
    }
}

impl Config for DekgConfig {
    fn needs(&self) -> Needs {
        Needs::features()
    }

    fn cost(&self) -> Cost {
        Cost {
            text: self.start.cost(),
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(Dekg {
            context: Context::new(&on.clip, classes, &self.start, init)?,
            teacher: teacher(&on.clip, classes)?,
            weight: self.weight,
            dependence: self.dependence,
        }))
    }
}

/// Unit features `[K, E]` of KgCoOp's hand-written prompts.
fn teacher(clip: &Clip, classes: &Classes) -> Result<Tensor> {
    unit(&clip.encode_texts(&classes.texts(templates::of("kgcoop", classes)))?)
}

struct Dekg {
    context: Context,
    teacher: Tensor,
    weight: f64,
    dependence: f64,
}

impl Method for Dekg {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.context.named()
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let clip = &self.context.clip;
        let images = batch.images.unit_features(clip)?; // [B, E]
        let texts = self.context.texts(self.context.ctx.as_tensor())?; // [K, E]
        let ce = cross_entropy(&clip.logits(&images, &texts)?, &batch.labels)?;
        let distance = mean_cosine(&texts, &self.teacher)?.affine(-self.weight, self.weight)?;
        let dependence = (hsic(&texts, &self.teacher)? * self.dependence)?;
        Loss::sum(vec![
            ("cross_entropy", ce),
            ("text_distance", distance),
            ("dependence", dependence),
        ])
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.context.rebind(classes)?;
        self.teacher = teacher(&self.context.clip, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        self.context.cosine()
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::{batch, build, clip};

    #[test]
    fn it_is_kgcoop_with_one_part_more() {
        let clip = clip();
        let parts = |name: &str, settings: &str| {
            let loss = build(name, settings, &clip).loss(&batch()).unwrap();
            let parts = loss.parts.iter();
            parts
                .map(|(_, t)| t.to_scalar::<f32>().unwrap())
                .collect::<Vec<_>>()
        };
        let (two, three) = (parts("kgcoop", ""), parts("dekg", ""));
        assert_eq!(two, three[..2]);
        let doubled = parts("dekg", "dependence_weight = 12.0");
        assert!(three[2] > 0.0 && (doubled[2] / three[2] - 2.0).abs() < 1e-5);
    }
}
