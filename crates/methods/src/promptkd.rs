//! PromptKD: an image tower with prompts and a projector learns, on pictures without labels, to score as a larger
//! prompted CLIP does against that one's texts.
//!
//! Li et al., *PromptKD: Unsupervised Prompt Distillation for Vision-Language Models*, <https://arxiv.org/abs/2403.03173>.
//! Follows the authors' `trainers/promptkd.py` at ec244f7 (github.com/zhengli97/PromptKD).
//!
//! `B` images, `A` classes of the dataset, `K` classes asked about, `E` joint width here, `T` joint width of the teacher.
//!
//! The user brings the teacher: a second backbone (the authors': ViT-L/14) and the prompts that PromptSRC learned on it, for
//! each dataset. The authors' own lie where no program can fetch them.
//!
//! Differs: what is tested is the last epoch's; the authors keep the epoch that scores best on the base classes' test
//! pictures. The teacher's texts are computed once. What the teacher computes is not in the counts of operations.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Result, Tensor, Var, bail};
use clip::ops::scaled_cosine;
use clip::{Clip, model::unit};

use crate::parts::image_tokens::{ImageTokens, tracked};
use crate::parts::independent::{Independent, Sizes};
use crate::parts::losses::{log_softmax, softmax};
use crate::parts::projector::Projector;
use crate::replay::{self, Comparison, Stage};
use crate::settings::Depth;
use crate::{
    Backbones, Batch, Checkpoint, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init,
    Loss, Method, Needs, Predict, Replay, Settings, TextCost, Training, load_parameters,
};

/// Registry entry. Weight 200 for Aircraft, Flowers and DTD; cross-dataset: depth 3, weight 1.
pub const ENTRY: Entry = Entry {
    name: "promptkd",
    title: "PromptKD",
    source: "https://arxiv.org/abs/2403.03173",
    group: Group::BothTowers,
    training: Some(Training::sgd(20, 8, 0.005)),
    read: |s| Box::new(PromptKdConfig::read(s)),
    checkpoint: Some(Checkpoint::WHOLE_MODEL),
    replay: Replay::Own(&["promptkd"], replayed),
};

/// Words of the teacher's text input, whose places its prompts take.
const WORDS: &str = "a photo of a";

struct PromptKdConfig {
    count: usize,
    depth: Depth,
    temperature: f64,
    weight: f64,
    is_prompted: bool,
}

impl PromptKdConfig {
    fn read(s: &mut Settings) -> Self {
        Self {
            count: s.count("n_ctx", 4, 1..=512, "prompt tokens of the image tower"),
            depth: s.depth("depth", 9, "prompted image layers, J, the input included"),
            temperature: s.number("temperature", 1.0, 0.01..=100.0, "of both scores"),
            weight: s.number(
                "weight",
                1000.0,
                0.0..=1e6,
                "of the divergence from the teacher's scores (200 for Aircraft, Flowers and DTD)",
            ),
            is_prompted: s.flag(
                "prompted",
                true,
                "the teacher has prompts that it learned before (`teacher_prompts`), as published; else hand-written texts",
            ),
        }
    }

    fn student(
        &self,
        clip: &Arc<Clip>,
        teacher: Teacher,
        classes: &Classes,
        init: &mut Init,
    ) -> Result<PromptKd> {
        let (whole, own) = classes.whole();
        let texts = teacher.texts(&whole)?;
        let image = ImageTokens::new(clip, self.count, Some(self.depth), init)?;
        Ok(PromptKd {
            clip: clip.clone(),
            image,
            projector: Projector::new(clip.embedding_size(), texts.dim(1)?, init)?,
            temperature: self.temperature,
            weight: self.weight,
            own: Tensor::new(own, clip.device())?,
            texts,
            teacher,
            whole,
        })
    }
}

impl Config for PromptKdConfig {
    fn needs(&self) -> Needs {
        Needs {
            unlabelled: true,
            teacher: true,
            teacher_prompts: self.is_prompted,
            ..Needs::pixels()
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::trained(self.count),
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let (clip, teacher) = (&on.clip, on.teacher()?);
        if teacher.image_size() != clip.image_size() || teacher.look() != clip.look() {
            bail!(
                "the teacher sees pictures of {} pixels a side, this backbone of {}, or made ready in another way: both \
                 must see the same",
                teacher.image_size(),
                clip.image_size()
            );
        }
        let teacher = if self.is_prompted {
            Teacher::prompted(teacher, on.teacher_prompts()?, classes)?
        } else {
            Teacher::Plain(teacher.clone())
        };
        Ok(Box::new(self.student(clip, teacher, classes, init)?))
    }
}

/// Who is learned from.
enum Teacher {
    /// With prompts in both towers.
    Prompted(Box<Independent>),
    /// As it is, with the dataset's hand-written texts.
    Plain(Arc<Clip>),
    /// What one said: texts `[A, T]`, and scores `[B, A]` by step.
    Recorded(Tensor, Vec<Tensor>),
}

impl Teacher {
    /// `clip` with `prompts` of IVLP's or PromptSRC's, as many and as deep as they are.
    fn prompted(
        clip: &Arc<Clip>,
        prompts: &BTreeMap<String, Tensor>,
        classes: &Classes,
    ) -> Result<Self> {
        let rows = |name: &str| prompts.get(name).map_or(Ok(0), |t| t.dim(0));
        let layers = |tower: &str| {
            let deep = |n: &&String| n.starts_with(tower) && n.ends_with("VPT_shallow");
            Depth::exactly("teacher_prompts", 1 + prompts.keys().filter(deep).count())
        };
        let sizes = Sizes {
            text: rows("prompt_learner.ctx")?,
            image: rows("image_encoder.VPT")?,
            depth_text: layers("text_encoder."),
            depth_image: Some(layers("image_encoder.")),
            init: Some(WORDS.to_owned()),
        };
        if sizes.text == 0 {
            bail!(
                "the teacher's prompts have no prompt_learner.ctx: they are not those of PromptSRC or IVLP"
            );
        }
        // Drawn values are overwritten; the student's stream is left alone.
        let towers = Independent::new(clip, classes, &sizes, &mut Init::seeded(0))?;
        load_parameters(&towers, prompts)?;
        Ok(Self::Prompted(Box::new(towers)))
    }

    /// `[A, T]`, unit length.
    fn texts(&self, classes: &Classes) -> Result<Tensor> {
        match self {
            Self::Prompted(towers) => {
                let plan = towers.lead.plan(&towers.clip, classes)?;
                towers.texts_of(&plan, Var::as_detached_tensor)
            }
            Self::Plain(clip) => unit(&clip.encode_texts(&classes.texts(&classes.template))?),
            Self::Recorded(texts, _) => Ok(texts.clone()),
        }
    }

    /// Scores `[B, A]` of a batch against `texts`.
    fn scores(&self, batch: &Batch, texts: &Tensor) -> Result<Tensor> {
        let (clip, images) = match self {
            Self::Prompted(towers) => {
                let images = towers.images(&batch.images, Var::as_detached_tensor)?;
                (&towers.clip, images)
            }
            Self::Plain(clip) => (clip, batch.images.unit_features(clip)?),
            Self::Recorded(_, scores) => match scores.get(batch.seed as usize) {
                Some(scores) => return Ok(scores.clone()),
                None => bail!("no scores are recorded of step {}", batch.seed),
            },
        };
        clip.logits(&images, texts)
    }
}

struct PromptKd {
    clip: Arc<Clip>,
    image: ImageTokens,
    projector: Projector,
    temperature: f64,
    weight: f64,
    teacher: Teacher,
    whole: Classes,
    /// `[A, T]`, unit length: the teacher's, of every class of the dataset.
    texts: Tensor,
    /// `[K]`: places of the classes bound among all.
    own: Tensor,
}

impl Method for PromptKd {
    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = self.image.named();
        all.extend(self.projector.named());
        all
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        self.projector.state()
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.projector.restore(state)
    }

    /// `w t^2 / (B A) sum_ba p_ba (log p_ba - log q_ba)`, `p` the teacher's probabilities and `q` the student's at
    /// temperature `t`.
    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let tower = self.clip.transformer()?;
        let features = tower.encode(batch.images.pixels()?, &self.image.prompt(tracked))?; // [B, E]
        let images = unit(&self.projector.train(&features)?)?; // [B, T]
        let scores = scaled_cosine(&images, &self.texts, self.clip.scale())?; // [B, A]
        let wanted = self.teacher.scores(batch, &self.texts)?.detach(); // [B, A]
        let (scores, wanted) = ((scores / self.temperature)?, (wanted / self.temperature)?);
        let gap = (log_softmax(&wanted)? - log_softmax(&scores)?)?;
        // Divided by all B A elements, as published, not by B.
        let divergence = (softmax(&wanted)? * gap)?.mean_all()?;
        let factor = self.weight * self.temperature * self.temperature;
        Loss::sum(vec![("distillation", (divergence * factor)?)])
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        let (whole, own) = classes.whole();
        self.own = Tensor::new(own, self.clip.device())?;
        if whole != self.whole {
            self.texts = self.teacher.texts(&whole)?;
            self.whole = whole;
        }
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Student {
            method: self,
            texts: self.texts.index_select(&self.own, 0)?,
        }))
    }
}

struct Student<'a> {
    method: &'a PromptKd,
    /// `[K, T]`, unit length.
    texts: Tensor,
}

impl Predict for Student<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let PromptKd {
            clip,
            image,
            projector,
            ..
        } = self.method;
        let prompt = image.prompt(Var::as_detached_tensor);
        let features = clip.transformer()?.encode(images.pixels()?, &prompt)?;
        let images = unit(&projector.forward(&features)?)?;
        scaled_cosine(&images, &self.texts, clip.scale())
    }
}

/// Every step, learned from recorded scores of a teacher of another width.
fn replayed(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let table = r.settings(&[
        ("n_ctx_vision", "n_ctx"),
        ("depth", "depth"),
        ("temperature", "temperature"),
        ("kd_weight", "weight"),
    ])?;
    let config = stage.typed(table, PromptKdConfig::read)?;
    let scores = r.get("teacher.logits")?;
    let steps = (0..scores.dim(0)?).map(|i| scores.get(i));
    let scores = steps.collect::<Result<Vec<_>>>()?;
    let teacher = Teacher::Recorded(r.get("teacher.text")?.clone(), scores);
    let classes = r.classes()?;
    let mut method = config.student(&stage.clip, teacher, &classes, &mut Init::seeded(0))?;
    load_parameters(&method, &r.named("init."))?;
    replay::follow(stage, &mut method, &mut r.optimizer()?, c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find;
    use crate::tests::{backbones, base, batch, build, clip, logits, novel};

    fn made(config: &str, classes: &Classes) -> Result<Box<dyn Method>> {
        let reading = find("promptkd").unwrap().read(config.parse().unwrap());
        let on = backbones(&clip(), &reading.config.needs());
        reading.config.build(&on, classes, &mut Init::seeded(1))
    }

    fn value(method: &mut dyn Method) -> f32 {
        let loss = method.loss(&batch()).unwrap();
        loss.total.to_scalar().unwrap()
    }

    #[test]
    fn the_loss_is_the_weighted_mean_divergence_from_the_teachers_scores() {
        // A teacher whose scores are said: of one class in four, of three.
        let texts = unit(&crate::tests::noise(&[2, 8], 5, 1.0)).unwrap();
        let p = [[0.25f32, 0.75]; 4];
        let said = Tensor::new(&p, &candle_core::Device::Cpu).unwrap().log();
        let teacher = Teacher::Recorded(texts.clone(), vec![said.unwrap()]);
        let mut settings = Settings::new("weight = 6.0".parse().unwrap());
        let config = PromptKdConfig::read(&mut settings);
        let mut init = Init::seeded(1);
        let mut method = config
            .student(&clip(), teacher, &novel(), &mut init)
            .unwrap();
        let got = value(&mut method);
        let tower = method.clip.clone();
        let tower = tower.transformer().unwrap();
        let prompt = method.image.prompt(tracked);
        let features = tower
            .encode(batch().images.pixels().unwrap(), &prompt)
            .unwrap();
        let images = unit(&method.projector.train(&features).unwrap()).unwrap();
        let scores = scaled_cosine(&images, &texts, method.clip.scale()).unwrap();
        let q: Vec<Vec<f32>> = softmax(&scores).unwrap().to_vec2().unwrap();
        let pairs = p.iter().zip(&q).flat_map(|(p, q)| p.iter().zip(q));
        let want = 6.0 / 8.0 * pairs.map(|(p, q)| p * (p / q).ln()).sum::<f32>();
        assert!((got - want).abs() < 1e-5 * want.abs(), "{got} {want}");
    }

    #[test]
    fn what_is_remembered_is_state_and_scores_the_same_again() {
        let (mut method, images) = (build("promptkd", "", &clip()), batch().images);
        let before = logits(method.as_ref(), &images);
        method.loss(&batch()).unwrap();
        let after = logits(method.as_ref(), &images);
        assert_ne!(before, after, "a step's batch is remembered");
        let state = method.state().into_iter().collect();
        let mut again = build("promptkd", "", &clip());
        again.restore(&state).unwrap();
        assert_eq!(after, logits(again.as_ref(), &images));
        assert!(again.restore(&BTreeMap::new()).is_err());
    }

    #[test]
    fn every_class_of_the_dataset_is_learned_and_those_bound_are_asked_about() {
        let all: Vec<String> = [base().names, novel().names].concat();
        let mut half = made("", &base().among(&all)).unwrap();
        let mut whole = made("", &Classes::new(&all, "eurosat", &base().template)).unwrap();
        assert_eq!(value(half.as_mut()), value(whole.as_mut()));
        let (few, many) = (
            logits(half.as_ref(), &batch().images),
            logits(whole.as_ref(), &batch().images),
        );
        for (few, many) in few.chunks(3).zip(many.chunks(5)) {
            assert_eq!(few, &many[..3]);
        }
    }

    #[test]
    fn a_teacher_and_its_prompts_are_asked_for_and_prompts_change_what_it_says() {
        let told = |on: &Backbones, config: &str| {
            let reading = find("promptkd").unwrap().read(config.parse().unwrap());
            let built = reading.config.build(on, &base(), &mut Init::seeded(1));
            built.err().map(|e| e.to_string()).unwrap_or_default()
        };
        let mut on = Backbones::from(clip());
        assert!(told(&on, "").contains("`teacher`"));
        on.teacher = Some(clip());
        assert!(told(&on, "").contains("`teacher_prompts`"));
        assert_eq!(told(&on, "prompted = false"), "");
        let foreign = BTreeMap::from([("ctx".to_owned(), crate::tests::noise(&[2], 1, 1.0))]);
        on.teacher_prompts = Some(Arc::new(foreign));
        assert!(told(&on, "").contains("no prompt_learner.ctx"));
        let mut prompted = made("", &base()).unwrap();
        let mut plain = made("prompted = false", &base()).unwrap();
        assert_ne!(value(prompted.as_mut()), value(plain.as_mut()));
    }
}
