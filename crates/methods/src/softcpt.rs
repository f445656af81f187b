//! SoftCPT: contexts that a projection makes of the name of the task, learned on several tasks at once.
//!
//! Ding et al., *Prompt Tuning with Soft Context Sharing for Vision-Language Models*, <https://arxiv.org/abs/2208.13474>.
//! Follows the authors' `trainers/mtcoop.py` at 7cab4b9 (github.com/kding1225/softcpt), where it is called MTCoOp. With
//! `per_task = false` it is the paper's NATA, else NATS; with `class_features` CATA and CSTA.
//!
//! `T` tasks, `K` classes of all of them, `B` images, `M` context vectors, `W` text width, `E` joint width.
//!
//! The authors register the one optimizer under three names, and Dassl steps it once a name: three updates on one gradient,
//! and a schedule that goes through one and a half periods. That is [`Training::steps_per_batch`]; with `class_features`
//! there are four names, which a suite says with `steps_per_batch = 4`.
//!
//! Differs: a task is called as its dataset unless `task_names` says otherwise (the authors' names are files beside their
//! data). The names of tasks and classes stand behind their contexts in the texts that features are made of. No class is
//! left out of a step (the authors' `CLS_SAMPLE_RATE`, which saves memory), and the projection is their `lin`.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Result, Tensor, Var, bail};
use clip::{Clip, TextPlan, TextPrompt, model::unit};

use crate::parts::context::{Start, read_position};
use crate::parts::image_tokens::tracked;
use crate::parts::layout::{self, Position};
use crate::parts::tasks::Tasks;
use crate::replay::{self, Comparison, Recording, Stage};
use crate::{
    Backbones, Batch, Classes, Config, Cosine, Cost, Entry, Group, ImageCost, Init, Loss, Method,
    Needs, Predict, Replay, Settings, TextCost, Training,
};

/// Registry entry, as the authors' `configs/trainers/MTCoOp` for 50 epochs.
pub const ENTRY: Entry = Entry {
    name: "softcpt",
    title: "SoftCPT",
    source: "https://arxiv.org/abs/2208.13474",
    group: Group::TextPrompts,
    training: Some(Training {
        steps_per_batch: 3,
        ..Training::sgd(50, 32, 0.002)
    }),
    read: |s| Box::new(SoftCptConfig::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["softcpt"], replayed),
};

#[derive(Clone)]
struct SoftCptConfig {
    count: usize,
    position: Position,
    /// Context of the texts that speak of tasks.
    task: Start,
    /// Of those that speak of classes, where their features are used.
    class: Option<Start>,
    /// By dataset.
    names: BTreeMap<String, String>,
}

impl SoftCptConfig {
    fn read(s: &mut Settings) -> Self {
        let count = s.count("n_ctx", 16, 1..=72, "context vectors of a class, M");
        let position = read_position(s);
        let start = |count, init, per_class| Start {
            count,
            init,
            position: Position::End,
            per_class,
        };
        let task_count = s.count("task_n_ctx", 4, 1..=72, "context vectors of a task's text");
        let task_init = s.words(
            "task_init",
            "",
            "words that context starts from; none: noise",
        );
        let help = "a context of its own for each task's text instead of one for all";
        let per_task = s.flag("per_task", false, help);
        if per_task && task_init.is_some() {
            s.refuse(
                "per_task",
                "contexts for each task start from noise; leave out `task_init`",
            );
        }
        let help = "make each class's context of its own features beside the task's";
        let of_classes = s.flag("class_features", false, help);
        let help = "context vectors of a class's text, for `class_features`";
        let class_count = s.count("class_n_ctx", 4, 1..=72, help);
        let help = "how datasets are called as tasks, \"dataset = name\" each; the others by their own name";
        let listed = s.texts("task_names", help);
        let mut names = BTreeMap::new();
        for line in &listed {
            match line
                .split_once('=')
                .map(|(id, name)| (id.trim(), name.trim()))
            {
                Some((id, name)) if !id.is_empty() && !name.is_empty() => {
                    names.insert(id.to_owned(), name.replace('_', " "));
                }
                _ => s.refuse("task_names", format!("{line:?} is not \"dataset = name\"")),
            }
        }
        Self {
            count,
            position,
            task: start(task_count, task_init, per_task),
            class: of_classes.then(|| start(class_count, None, false)),
            names,
        }
    }

    /// How a dataset is called.
    fn name(&self, dataset: &str) -> String {
        let own = || dataset.replace(['-', '_'], " ");
        self.names.get(dataset).cloned().unwrap_or_else(own)
    }
}

impl Config for SoftCptConfig {
    fn needs(&self) -> Needs {
        Needs::features()
    }

    /// The texts of tasks, of which there are few, are not counted.
    fn cost(&self) -> Cost {
        let whole = Start {
            count: self.count,
            init: None,
            position: self.position,
            per_class: self.class.is_some(),
        };
        let passes = if self.class.is_some() { 2.0 } else { 1.0 };
        Cost {
            text: TextCost {
                forward: passes,
                backward: passes,
                ..whole.cost()
            },
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, init: &mut Init) -> Result<Box<dyn Method>> {
        let (clip, width) = (&on.clip, on.clip.text.width());
        let owners = Tasks::datasets(classes);
        let task = if self.task.per_class {
            init.normal(&[owners.len(), self.task.count, width], 0.02)?
        } else {
            self.task.values(clip, init)?.0
        };
        let class = self.class.as_ref().map(|c| c.values(clip, init));
        let class = class.transpose()?.map(|(values, _)| values);
        let features = clip.embedding_size() * (1 + usize::from(class.is_some()));
        let projection = init.normal(&[features, self.count * width], 0.02)?;
        Ok(Box::new(SoftCpt {
            clip: clip.clone(),
            task: layout::variable(&task)?,
            class: class.as_ref().map(layout::variable).transpose()?,
            projection: layout::variable(&projection)?,
            bound: Bound::new(self, clip, &owners, classes)?,
            owners,
            config: self.clone(),
        }))
    }
}

/// What depends on the classes.
struct Bound {
    tasks: Tasks,
    /// `T` texts of tasks.
    of_tasks: TextPlan,
    /// `K` texts of classes, where their features are used.
    of_classes: Option<TextPlan>,
    /// `K` texts with the contexts made of these.
    plan: TextPlan,
}

impl Bound {
    fn new(
        config: &SoftCptConfig,
        clip: &Clip,
        owners: &[String],
        classes: &Classes,
    ) -> Result<Self> {
        let (tasks, datasets) = (Tasks::of(classes), Tasks::datasets(classes));
        let owner = |dataset: &String| match owners.iter().position(|o| o == dataset) {
            Some(row) => Ok(row),
            None if !config.task.per_class => Ok(0),
            None => bail!(
                "contexts of their own for each task cannot be used with others: {dataset:?} was not trained on"
            ),
        };
        let rows = datasets.iter().map(owner).collect::<Result<Vec<_>>>()?;
        let lead = |start: &Start| match &start.init {
            Some(words) => words.clone(),
            None => layout::placeholder(start.count),
        };
        let names: Vec<String> = datasets.iter().map(|d| config.name(d)).collect();
        let (named, count) = (Classes::new(&names, "", "{}"), config.task.vectors());
        let row = |task: usize, i: usize| {
            if config.task.per_class {
                rows[task] * count + i
            } else {
                i
            }
        };
        let texts = layout::sequences(
            clip.text.wording(),
            &named,
            &lead(&config.task),
            count,
            Position::End,
            row,
        )?;
        let of_tasks = clip.text.plan(&texts).map_err(|e| {
            candle_core::Error::msg(format!("{e}; call the task otherwise with `task_names`"))
        })?;
        let of_classes = config.class.as_ref().map(|start| {
            let texts = layout::sequences(
                clip.text.wording(),
                classes,
                &lead(start),
                start.vectors(),
                Position::End,
                |_, i| i,
            )?;
            clip.text.plan(&texts)
        });
        let own = match config.class {
            Some(_) => (0..classes.len()).collect(),
            None => tasks.of_classes(),
        };
        let texts = layout::sequences(
            clip.text.wording(),
            classes,
            &layout::placeholder(config.count),
            config.count,
            config.position,
            |class, i| own[class] * config.count + i,
        )?;
        Ok(Self {
            tasks,
            of_tasks,
            of_classes: of_classes.transpose()?,
            plan: clip.text.plan(&texts)?,
        })
    }
}

struct SoftCpt {
    clip: Arc<Clip>,
    config: SoftCptConfig,
    /// `[m, W]`, or `[T, m, W]` with one for each task.
    task: Var,
    /// `[m, W]`.
    class: Option<Var>,
    /// `[E, M W]`, or `[2 E, M W]` with the features of classes.
    projection: Var,
    /// Datasets trained on, in the order of the tasks' contexts.
    owners: Vec<String>,
    bound: Bound,
}

impl SoftCpt {
    /// `[K, E]`, unit length.
    fn texts(&self, of: impl Fn(&Var) -> Tensor) -> Result<Tensor> {
        let width = self.clip.text.width();
        let encode = |plan: &TextPlan, context: &Tensor| {
            let prompt = TextPrompt {
                context: Some(context.reshape(((), width))?),
                ..TextPrompt::default()
            };
            self.clip.text.encode(plan, &prompt)
        };
        let task = encode(&self.bound.of_tasks, &of(&self.task))?; // [T, E]
        let features = match (&self.class, &self.bound.of_classes) {
            (Some(context), Some(plan)) => {
                let class = encode(plan, &of(context))?; // [K, E]
                let own = self.bound.tasks.of_classes().into_iter().map(|t| t as u32);
                let own = Tensor::new(own.collect::<Vec<_>>(), task.device())?;
                Tensor::cat(&[class, task.index_select(&own, 0)?], 1)?
            }
            _ => task,
        };
        unit(&encode(
            &self.bound.plan,
            &features.matmul(&of(&self.projection))?,
        )?)
    }
}

impl Method for SoftCpt {
    fn parameters(&self) -> Vec<(String, Var)> {
        let named = |name: &str, var: &Var| (name.to_owned(), var.clone());
        let class = self
            .class
            .iter()
            .map(|c| named("class_prompt_learner.ctx", c));
        [named("task_prompt_learner.ctx", &self.task)]
            .into_iter()
            .chain(class)
            .chain([named("prompt_gen.proj", &self.projection)])
            .collect()
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss> {
        let images = batch.images.unit_features(&self.clip)?; // [B, E]
        let logits = self.clip.logits(&images, &self.texts(tracked)?)?; // [B, K]
        Loss::sum(self.bound.tasks.shares(&logits, &batch.labels, true)?)
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.bound = Bound::new(&self.config, &self.clip, &self.owners, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Cosine {
            clip: &self.clip,
            texts: self.texts(Var::as_detached_tensor)?,
        }))
    }
}

/// As steps; labels are recorded inside of each task.
fn replayed(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let mut table = r.settings(&[
        ("n_ctx", "n_ctx"),
        ("token_position", "position"),
        ("task_n_ctx", "task_n_ctx"),
        ("task_csc", "per_task"),
        ("csc", "class_features"),
    ])?;
    table.insert("task_init".into(), r.words("task_ctx_init").into());
    if r.parameter("csc").and_then(|v| v.as_bool()) == Some(true) {
        table.extend(r.settings(&[("class_n_ctx", "class_n_ctx")])?);
    }
    let tasks = Tasks::of(&r.classes()?).of_classes();
    let first = |task: u32| tasks.iter().position(|t| *t == task as usize);
    let recorded = r.get("tasks")?;
    let firsts = recorded.flatten_all()?.to_dtype(candle_core::DType::U32)?;
    let firsts = firsts.to_vec1::<u32>()?.into_iter().map(first);
    let Some(firsts) = firsts.map(|f| Some(f? as i64)).collect::<Option<Vec<_>>>() else {
        bail!("tasks: must be places of `tasknames`");
    };
    let firsts = Tensor::from_vec(firsts, recorded.shape(), recorded.device())?;
    let mut tensors = r.tensors.clone();
    tensors.insert("labels".to_owned(), (r.get("labels")? + firsts)?);
    let among_all = Recording {
        json: r.json.clone(),
        tensors,
        dataset: r.dataset.clone(),
        template: r.template.clone(),
    };
    let stage = Stage {
        clip: stage.clip.clone(),
        entry: stage.entry,
        recording: &among_all,
    };
    replay::steps(&stage, table, c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::losses::cross_entropy;
    use crate::tests::{base, batch, clip, flat, logits, noise, novel};

    fn two() -> Vec<Classes> {
        let other = Classes {
            dataset: "sea".to_owned(),
            ..novel()
        };
        vec![base(), other]
    }

    fn built(config: &str, tasks: &[Classes]) -> Box<dyn Method> {
        let config = SoftCptConfig::read(&mut Settings::new(config.parse().unwrap()));
        let on = clip().into();
        config
            .build_tasks(&on, tasks, &mut Init::seeded(1))
            .unwrap()
    }

    const NAMES: &str = "task_names = [\"eurosat = satellite photo\"]";

    #[test]
    fn a_context_is_the_tasks_feature_times_the_projection() {
        let (clip, tasks) = (clip(), two());
        let mut method = built(
            &format!("n_ctx = 2\ntask_init = \"a photo of a\"\n{NAMES}"),
            &tasks,
        );
        let [(_, context), (_, projection)] = &method.parameters()[..] else {
            panic!("two tensors are trained")
        };
        assert_eq!(
            (context.dims(), projection.dims()),
            (&[4, 64][..], &[128, 128][..])
        );
        projection.set(&noise(&[128, 128], 3, 0.1)).unwrap();
        let feature = clip
            .encode_texts(&["a photo of a satellite photo.".to_owned()])
            .unwrap();
        let made = feature.matmul(projection.as_tensor()).unwrap();
        // CoOp with that very context.
        let coop = crate::tests::build("coop", "n_ctx = 2", &clip);
        coop.parameters()[0]
            .1
            .set(&made.reshape((2, 64)).unwrap())
            .unwrap();
        method.bind(&tasks[0]).unwrap();
        let images = batch().images;
        let ours = logits(method.as_ref(), &images);
        let theirs = logits(coop.as_ref(), &images);
        assert!(
            ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-4),
            "{ours:?} {theirs:?}"
        );
    }

    #[test]
    fn a_picture_is_told_apart_among_the_classes_of_its_task_alone() {
        for config in [
            "n_ctx = 2",
            "n_ctx = 2\nper_task = true",
            "n_ctx = 2\nclass_features = true",
        ] {
            let tasks = two();
            let mut method = built(&format!("{config}\n{NAMES}"), &tasks);
            for ((_, var), seed) in method.parameters().iter().zip(1..) {
                var.set(&noise(var.dims(), seed, 0.3)).unwrap();
            }
            let labels = Tensor::new(&[0u32, 4, 2, 3], &candle_core::Device::Cpu).unwrap();
            let together = Batch { labels, ..batch() };
            let total = method
                .loss(&together)
                .unwrap()
                .total
                .to_scalar::<f32>()
                .unwrap();
            // Each alone, bound to the classes of its task.
            let mut alone = 0.0;
            for (picture, task, label) in [(0, 0, 0u32), (1, 1, 1), (2, 0, 2), (3, 1, 0)] {
                method.bind(&tasks[task]).unwrap();
                let scores = method
                    .predictor()
                    .unwrap()
                    .logits(&together.images)
                    .unwrap();
                let own = scores.narrow(0, picture, 1).unwrap();
                let label = Tensor::new(&[label], &candle_core::Device::Cpu).unwrap();
                alone += cross_entropy(&own, &label)
                    .unwrap()
                    .to_scalar::<f32>()
                    .unwrap()
                    / 4.0;
            }
            assert!((total - alone).abs() < 1e-4, "{config}: {total} {alone}");
            method.bind(&Classes::joined(&tasks)).unwrap();
            let again = method
                .loss(&together)
                .unwrap()
                .total
                .to_scalar::<f32>()
                .unwrap();
            assert_eq!(total, again, "{config}");
        }
    }

    #[test]
    fn a_context_for_each_task_knows_its_own_and_refuses_others() {
        let tasks = two();
        let mut method = built(&format!("per_task = true\n{NAMES}"), &tasks);
        let (_, context) = &method.parameters()[0];
        assert_eq!(context.dims(), [2, 4, 64]);
        let images = batch().images;
        method.bind(&tasks[1]).unwrap();
        let before = logits(method.as_ref(), &images);
        let first = noise(&[1, 4, 64], 5, 0.5);
        context
            .set(&context.as_tensor().slice_scatter0(&first, 0).unwrap())
            .unwrap();
        assert_eq!(
            before,
            logits(method.as_ref(), &images),
            "another task's context"
        );
        method.bind(&tasks[0]).unwrap();
        assert_eq!(
            flat(&first),
            flat(&context.as_tensor().narrow(0, 0, 1).unwrap())
        );
        let other = Classes {
            dataset: "river".to_owned(),
            ..novel()
        };
        let refused = method.bind(&other).unwrap_err().to_string();
        assert!(
            refused.contains("\"river\" was not trained on"),
            "{refused}"
        );
    }

    #[test]
    fn tasks_are_named_in_pairs_and_their_words_must_be_known() {
        let mut s = Settings::new("task_names = [\"pets\", \"cars = car\"]".parse().unwrap());
        let config = SoftCptConfig::read(&mut s);
        let problems = s.finish().problems;
        assert!(
            problems.len() == 1 && problems[0].field == "task_names",
            "{problems:?}"
        );
        assert_eq!(
            [config.name("cars"), config.name("oxford-pets")],
            ["car", "oxford pets"]
        );
        let on = clip().into();
        let unheard = Classes {
            dataset: "zeppelin".to_owned(),
            ..base()
        };
        let refused = config
            .build(&on, &unheard, &mut Init::seeded(1))
            .err()
            .unwrap()
            .to_string();
        assert!(refused.contains("`task_names`"), "{refused}");
    }
}
