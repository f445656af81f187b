//! 2SFS: first the LayerNorms inside the blocks of both towers, then a classifier that starts from the tuned texts.
//!
//! Farina et al., *Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages*,
//! <https://arxiv.org/abs/2503.11609>. Follows the authors' `run_twostage` at 64ac143
//! (github.com/FarinaMatteo/rethinking_fewshot_vlms).
//!
//! `K` classes, `C` those of the classifier, `B` images, `E` joint width.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Result, Tensor, Var, bail};
use clip::ops::scaled_cosine;
use clip::{Clip, ImagePrompt, TextPlan, TextPrompt, model::unit};

use crate::optimizer::Rule;
use crate::parts::image_tokens::tracked;
use crate::parts::layout::variable;
use crate::parts::losses::cross_entropy;
use crate::parts::norms::BlockNorms;
use crate::parts::stages::Stages;
use crate::replay::{Comparison, Stage};
use crate::{
    Backbones, Batch, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Loss, Method,
    Needs, Predict, Replay, Schedule, Settings, TextCost, Training, load_parameters, step,
};

/// Registry entry. 300 steps for each shot of a class, 4,800 at 16 shots.
pub const ENTRY: Entry = Entry {
    name: "2sfs",
    title: "2SFS",
    source: "https://arxiv.org/abs/2503.11609",
    group: Group::Weights,
    training: Some(
        Training {
            optimizer: Rule::AdamW,
            weight_decay: 1e-2,
            warmup_epochs: 0,
            schedule: Schedule::CosineSteps,
            floor: 1e-6,
            restart: 0.6,
            ..Training::sgd(0, 32, 2e-4)
        }
        .for_shots(300),
    ),
    read: |s| Box::new(TwoStageConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["2sfs"], replayed),
};

struct TwoStageConfig {
    share: f64,
}

impl TwoStageConfig {
    fn read(s: &mut Settings) -> Self {
        Self {
            share: s.number(
                "first_stage",
                0.6,
                0.0..=1.0,
                "share of the steps that train LayerNorms; `restart` starts the learning rate anew there",
            ),
        }
    }

    fn two_stage(&self, clip: &Arc<Clip>, classes: &Classes) -> Result<TwoStage> {
        let text = BlockNorms::new("", clip.text.blocks())?;
        let image = BlockNorms::new("visual.", clip.transformer()?.blocks())?;
        let plan = plan(clip, classes)?;
        let texts = unit(&clip.text.encode(&plan, &TextPrompt::default())?)?;
        Ok(TwoStage {
            clip: clip.clone(),
            stages: Stages::new(self.share),
            text,
            image,
            classifier: variable(&texts)?,
            learned: classes.names.clone(),
            bound: classes.names.clone(),
            plan,
        })
    }
}

fn plan(clip: &Clip, classes: &Classes) -> Result<TextPlan> {
    clip.text_plan(&classes.texts(&classes.template))
}

impl Config for TwoStageConfig {
    fn needs(&self) -> Needs {
        Needs::pixels()
    }

    /// Of a mean step: the second stage goes forward only, through the image tower alone.
    fn cost(&self) -> Cost {
        Cost {
            text: TextCost {
                forward: self.share,
                backward: self.share,
                ..TextCost::trained(crate::cost::WORDS)
            },
            image: ImageCost {
                frozen: 1.0 - self.share,
                trained: self.share,
                ..ImageCost::trained(0)
            },
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, _: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(self.two_stage(&on.clip, classes)?))
    }
}

struct TwoStage {
    clip: Arc<Clip>,
    stages: Stages,
    text: BlockNorms,
    image: BlockNorms,
    /// `[C, E]`.
    classifier: Var,
    /// Classes of the classifier's rows.
    learned: Vec<String>,
    bound: Vec<String>,
    plan: TextPlan,
}

impl TwoStage {
    /// `[K, E]` of the tuned text tower, unit length.
    fn texts(&self, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let prompt = TextPrompt {
            changes: self.text.changes(of),
            ..TextPrompt::default()
        };
        unit(&self.clip.text.encode(&self.plan, &prompt)?)
    }

    /// `[B, E]` of the tuned image tower, unit length.
    fn images(&self, images: &Images, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let prompt = ImagePrompt {
            changes: self.image.changes(of),
            ..ImagePrompt::default()
        };
        unit(&self.clip.transformer()?.encode(images.pixels()?, &prompt)?)
    }

    fn norms(&self) -> Vec<(String, Var)> {
        self.text.named().chain(self.image.named()).collect()
    }

    /// From here on the classifier is trained, from the texts as they are tuned now.
    fn begin_second(&mut self) -> Result<()> {
        let texts = self.texts(Var::as_detached_tensor)?;
        if self.bound != self.learned {
            bail!("the second stage begins with other classes bound than the first was trained on");
        }
        self.classifier.set(&texts)?;
        self.stages.begin_second();
        Ok(())
    }

    /// `[K, E]`: the classifier's rows of classes that have one, tuned texts of others.
    fn rows(&self) -> Result<Tensor> {
        let texts = self.texts(Var::as_detached_tensor)?;
        if !self.stages.is_second() {
            return unit(&texts);
        }
        let own = self.classifier.as_detached_tensor();
        let row = |(i, name): (usize, &String)| match self.learned.iter().position(|l| l == name) {
            Some(learned) => own.get(learned),
            None => texts.get(i),
        };
        let rows = self.bound.iter().enumerate().map(row);
        unit(&Tensor::stack(&rows.collect::<Result<Vec<_>>>()?, 0)?)
    }
}

impl Method for TwoStage {
    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = self.norms();
        all.push(("classifier".to_owned(), self.classifier.clone()));
        all
    }

    fn trained_now(&self) -> Vec<(String, Var)> {
        if self.stages.is_second() {
            vec![("classifier".to_owned(), self.classifier.clone())]
        } else {
            self.norms()
        }
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        self.stages.state(self.clip.device())
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.stages.restore(state)
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let scale = self.clip.scale();
        let logits = if self.stages.is_second() {
            if self.bound != self.learned {
                bail!("the classifier was trained for other classes than those bound");
            }
            let images = self.images(&batch.images, Var::as_detached_tensor)?;
            scaled_cosine(&images, &unit(self.classifier.as_tensor())?, scale)?
        } else {
            let images = self.images(&batch.images, tracked)?; // [B, E]
            scaled_cosine(&images, &self.texts(tracked)?, scale)? // [B, K]
        };
        Ok(cross_entropy(&logits, &batch.labels)?.into())
    }

    fn stepped(&mut self, done: usize, all: usize) -> Result<()> {
        if self.stages.turns_after(done, all) {
            self.begin_second()?;
        }
        Ok(())
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.plan = plan(&self.clip, classes)?;
        self.bound.clone_from(&classes.names);
        if !self.stages.is_second() {
            // No row is trained yet: the classifier is of whatever is learned next.
            self.learned.clone_from(&classes.names);
            self.classifier = variable(&self.texts(Var::as_detached_tensor)?)?;
        }
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Tuned {
            method: self,
            rows: self.rows()?,
        }))
    }
}

struct Tuned<'a> {
    method: &'a TwoStage,
    /// `[K, E]`, unit length.
    rows: Tensor,
}

impl Predict for Tuned<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let images = self.method.images(images, Var::as_detached_tensor)?;
        scaled_cosine(&images, &self.rows, self.method.clip.scale())
    }
}

fn replayed(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let mut method = TwoStageConfig { share: 0.6 }.two_stage(&stage.clip, &r.classes()?)?;
    let first = r.count("stage1_steps")?;
    let (mut init, gradients) = (r.named("init."), r.named("grad0."));
    let Some(classifier) = init.insert(
        "classifier".to_owned(),
        method.classifier.as_detached_tensor().copy()?,
    ) else {
        bail!("tensor init.classifier is missing");
    };
    load_parameters(&method, &init)?;
    let test = Images::Pixels(r.get("test_images")?.clone());
    c.logits(&method.predictor()?.logits(&test)?, r.get("logits.before")?)?;
    let Some(losses) = r.numbers("loss")? else {
        bail!("tensor loss is missing");
    };
    let labels = r.get("labels")?.to_dtype(candle_core::DType::U32)?;
    let mut optimizer = r.optimizer()?;
    for (number, want) in losses.iter().enumerate() {
        if number == first {
            method.begin_second()?;
            c.values(
                "init.classifier",
                method.classifier.as_tensor(),
                &classifier,
            )?;
            optimizer = r.optimizer()?;
        }
        let images = Images::Pixels(r.get("images")?.get(number)?);
        let batch = Batch::new(images, labels.get(number)?);
        let done = step(&mut method, &mut optimizer, &batch, r.rate(number)?)?;
        c.loss(done.value, *want);
        if number == 0 || number == first {
            for (name, var) in method.trained_now() {
                let ours = done.gradients.as_ref().and_then(|g| g.get(var.as_tensor()));
                match (ours, gradients.get(&name)) {
                    (Some(ours), Some(theirs)) => c.gradient(&name, ours, theirs)?,
                    _ => bail!("no gradient for {name}"),
                }
            }
        }
        c.steps += 1;
    }
    c.parameters(&method, &r.named("final."))?;
    c.logits(&method.predictor()?.logits(&test)?, r.get("logits.after")?)?;
    let Some(names) = r.texts("novel_classnames") else {
        bail!("novel_classnames: must be a list of names");
    };
    method.bind(&r.classes_of(&names))?;
    c.logits(&method.predictor()?.logits(&test)?, r.get("logits.novel")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{base, batch, clip, logits};

    #[test]
    fn trained_classes_are_scored_by_their_rows_and_others_by_the_text_tower() {
        let mut method = TwoStageConfig { share: 0.6 }
            .two_stage(&clip(), &base())
            .unwrap();
        let images = batch().images;
        let before = logits(&method, &images);
        method.stepped(1, 2).unwrap();
        assert_eq!(
            before,
            logits(&method, &images),
            "rows start from the texts"
        );
        assert_eq!(method.trained_now().len(), 1);
        // The second row turned around turns the second score around and no other.
        let rows = method.classifier.as_tensor();
        let turned = rows.get(1).unwrap().neg().unwrap().unsqueeze(0).unwrap();
        let turned = rows.slice_scatter0(&turned, 1).unwrap();
        method.classifier.set(&turned.copy().unwrap()).unwrap();
        for (a, b) in before.chunks(3).zip(logits(&method, &images).chunks(3)) {
            assert_eq!((a[0], -a[1], a[2]), (b[0], b[1], b[2]));
        }
        // One known class among others: its row goes with it.
        let names = ["river".to_owned(), base().names[1].clone()];
        method
            .bind(&Classes::new(&names, "eurosat", &base().template))
            .unwrap();
        for (a, b) in before.chunks(3).zip(logits(&method, &images).chunks(2)) {
            assert_eq!(-a[1], b[1]);
        }
        assert!(
            method
                .loss(&batch())
                .unwrap_err()
                .to_string()
                .contains("other classes")
        );
    }

    #[test]
    fn the_state_says_which_stage_it_is() {
        let mut method = TwoStageConfig { share: 0.6 }
            .two_stage(&clip(), &base())
            .unwrap();
        assert!(!method.stages.is_second() && method.trained_now().len() == 2 * 2 * (3 + 2));
        method.stepped(5, 10).unwrap();
        assert!(!method.stages.is_second());
        method.stepped(6, 10).unwrap();
        let state = method.state().into_iter().collect();
        let mut other = TwoStageConfig { share: 0.6 }
            .two_stage(&clip(), &base())
            .unwrap();
        other.restore(&state).unwrap();
        assert!(other.stages.is_second());
        assert!(other.restore(&BTreeMap::new()).is_err());
    }
}
