//! What a stage of a trial learns: pictures of one dataset or of several at once, handed to a method whole or in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use datasets::{ClassSet, Item, Stream};
use methods::{
    Batch, Descriptions, Images, Labelled, Method, Needs, Rate, Sees, Shots, Support, Training,
    Validation,
};

use crate::record::Outcome;
use crate::run::checkpoint::{Checkpoint, Learning};
use crate::run::feed::{self, Feed};
use crate::run::suite::Views;
use crate::run::testing::Answers;
use crate::run::trial::{Epoch, Interrupted, Outcomes, Stage, Step, Task};

/// Steps that the random streams of one stage have to themselves.
const STAGE: u64 = 1 << 40;

/// A dataset that is learned, or that a method is built for.
pub struct Lesson {
    /// The dataset.
    pub feed: Arc<Feed>,
    /// Which of its classes.
    pub set: ClassSet,
    /// What describes them, for methods that need it.
    pub descriptions: Option<Arc<Descriptions>>,
    /// What is learned from.
    pub learned: Learned,
}

/// Pictures that a method learns from, labels renumbered for the classes trained on.
#[derive(Default)]
pub struct Learned {
    /// The few shots; every training picture of the dataset for a method that takes them without labels; none where
    /// nothing is learned.
    pub train: Vec<Item>,
    /// Validation pictures, where the method chooses by some.
    pub validation: Vec<Item>,
    /// Test pictures, where it chooses by these.
    pub test: Vec<Item>,
}

/// Training pictures of several lessons as one list: labels go on from one dataset's classes to the next's.
struct Together<'a> {
    /// Each with the place of its first picture and its first label.
    parts: Vec<(feed::Training<'a>, &'a [Item], usize, u32)>,
}

impl<'a> Together<'a> {
    fn new(
        stage: &'a Stage,
        items: impl Fn(&'a Lesson) -> &'a [Item],
        (views, needs): (Views, &Needs),
        seed: u64,
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        let (mut first, mut label, mut parts) = (0, 0, Vec::new());
        for lesson in &stage.lessons {
            let items = items(lesson);
            let source = lesson.feed.training(items, (views, needs), seed, stop);
            parts.push((source, items, first, label));
            first += items.len();
            label += lesson.feed.dataset.split.names_of(lesson.set)?.len() as u32;
        }
        Ok(Self { parts })
    }

    fn len(&self) -> usize {
        self.parts.iter().map(|(_, items, ..)| items.len()).sum()
    }

    /// The part of a picture.
    fn part(&self, index: usize) -> usize {
        self.parts
            .partition_point(|(_, _, first, _)| *first <= index)
            - 1
    }

    /// Labels of the pictures at `indices`.
    fn labels(&self, indices: &[usize]) -> Vec<u32> {
        let label = |&i: &usize| {
            let (_, items, first, label) = &self.parts[self.part(i)];
            items[i - first].label + label
        };
        indices.iter().map(label).collect()
    }

    /// Which dataset each picture is of, where there are several.
    fn tasks(&self, indices: &[usize]) -> Result<Option<Tensor>> {
        if self.parts.len() == 1 {
            return Ok(None);
        }
        let tasks: Vec<u32> = indices.iter().map(|i| self.part(*i) as u32).collect();
        Ok(Some(Tensor::new(tasks, &Device::Cpu)?))
    }

    /// What `of` gives for the pictures at `indices`, in their order, each part asked once.
    fn gather(
        &self,
        indices: &[usize],
        of: impl Fn(&feed::Training<'a>, &[usize]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if let [(only, ..)] = &self.parts[..] {
            return of(only, indices);
        }
        let (mut rows, mut pieces) = (vec![0u32; indices.len()], Vec::new());
        let mut done = 0;
        for (number, (source, _, first, _)) in self.parts.iter().enumerate() {
            let places: Vec<usize> = (0..indices.len())
                .filter(|place| self.part(indices[*place]) == number)
                .collect();
            if places.is_empty() {
                continue;
            }
            let own: Vec<usize> = places.iter().map(|p| indices[*p] - first).collect();
            pieces.push(of(source, &own)?);
            for place in places {
                rows[place] = done;
                done += 1;
            }
        }
        let rows = Tensor::new(rows, &Device::Cpu)?;
        Ok(Tensor::cat(&pieces, 0)?.index_select(&rows, 0)?)
    }

    fn images(&self, indices: &[usize], epoch: usize, sees: Sees) -> Result<Images> {
        Ok(match sees {
            Sees::Pixels => Images::Pixels(self.gather(indices, |s, i| s.pixels(i, epoch))?),
            _ => Images::Features(self.gather(indices, |s, i| s.features(i, epoch))?),
        })
    }
}

/// The few shots as a whole, and what a method chooses by.
///
/// # Errors
/// [`Interrupted`]; a list without pictures; a picture that is missing or broken.
pub fn shots(task: &Task, stage: &Stage, needs: &Needs, support: Support) -> Result<Shots> {
    type List = fn(&Lesson) -> &[Item];
    let whole = |items: List, what: &str, views: Views, passes: usize| -> Result<Labelled> {
        if let Some(lesson) = stage.lessons.iter().find(|l| items(l).is_empty()) {
            bail!(
                "dataset {}: has no {what} pictures of these classes, which {} needs",
                lesson.feed.dataset.id,
                task.method.name
            );
        }
        let source = Together::new(stage, items, (views, needs), task.seed, task.stop)?;
        let all: Vec<usize> = (0..source.len()).collect();
        let passes = (0..passes).map(|pass| {
            if task.stop.load(Ordering::Relaxed) {
                return Err(Interrupted.into());
            }
            source.images(&all, pass, needs.sees)
        });
        Ok(Labelled {
            passes: passes.collect::<Result<_>>()?,
            labels: source.labels(&all),
        })
    };
    // Passes are views that no step sees again, kept so that trials of one seed share them.
    let (views, passes) = match support {
        Support::Plain => (Views::None, 1),
        Support::Passes(n) => (Views::Cached(n), n),
    };
    let chosen_by = |wanted: bool, items: List, what| {
        wanted
            .then(|| whole(items, what, Views::None, 1))
            .transpose()
    };
    Ok(Shots {
        train: whole(|l| &l.learned.train, "training", views, passes)?,
        validation: chosen_by(
            needs.validation != Validation::None,
            |l| &l.learned.validation,
            "validation",
        )?,
        test: chosen_by(needs.peeks, |l| &l.learned.test, "test")?,
        seed: task.seed,
    })
}

/// A step's batch.
fn batch(
    task: &Task,
    source: &Together,
    needs: &Needs,
    chunk: &[usize],
    epoch: usize,
    seed: u64,
) -> Result<Batch> {
    if task.stop.load(Ordering::Relaxed) {
        return Err(Interrupted.into());
    }
    let labels = source.labels(chunk);
    Ok(Batch {
        second: needs
            .second_view
            .map(|view| source.gather(chunk, |s, i| s.second(view, i, epoch)))
            .transpose()?
            .map(Images::Pixels),
        tasks: source.tasks(chunk)?,
        seed,
        ..Batch::new(
            source.images(chunk, epoch, needs.sees)?,
            Tensor::new(labels, &Device::Cpu)?,
        )
    })
}

/// Trains a method on a stage's pictures, on from where a checkpoint left it; a loss that is not finite gives the outcome
/// to record.
///
/// Whatever a step sees follows from the seed, the stage, the epoch and the step alone.
///
/// # Errors
/// [`Interrupted`], with a checkpoint left; no pictures; a picture that is missing or broken; a parameter without a
/// gradient.
pub fn train(
    task: &Task,
    number: usize,
    training: &Training,
    needs: &Needs,
    method: &mut dyn Method,
    out: &mut Outcomes,
    from: Option<Learning>,
) -> Result<Option<Outcome>> {
    let mut clock = Instant::now();
    let stage = &task.stages[number];
    let source = Together::new(
        stage,
        |l| &l.learned.train,
        (task.views, needs),
        task.seed,
        task.stop,
    )?;
    let n = source.len();
    let length = training.length(n);
    if length.per_epoch == 0 {
        bail!(
            "dataset {}: no training pictures were picked",
            stage.lessons[0].feed.dataset.id
        );
    }
    // Every stage draws its own numbers; the first draws those of a trial without stages.
    let stream = STAGE * number as u64;
    let mut optimizer = training.optimizer();
    let mut at = from.unwrap_or_default();
    optimizer.restore(&std::mem::take(&mut at.optimizer))?;
    let failed = |at: &Learning, value: f64| Outcome::Failed {
        reason: format!(
            "the loss became {value} at step {}; a lower lr may help",
            at.done
        ),
        step: Some(at.done),
        last_loss: at.last,
    };
    let mut spent = |out: &mut Outcomes| {
        out.cost.train_seconds += clock.elapsed().as_secs_f64();
        clock = Instant::now();
    };
    while at.epoch < length.epochs {
        let epoch = at.epoch;
        // The last epoch ends where the steps do.
        let before = at.done as usize - at.step;
        let steps = length.per_epoch.min(length.steps - before);
        let order = Stream::named(task.seed, "batches", stream + epoch as u64).permutation(n);
        for chunk in order.chunks(training.batch).take(steps).skip(at.step) {
            let seed = Stream::named(task.seed, "steps", stream + at.done).next_u64();
            let batch = batch(task, &source, needs, chunk, epoch, seed);
            let is_stopped = batch.as_ref().is_err_and(|e| e.is::<Interrupted>());
            if let Some(keeper) = task.keeper.filter(|k| is_stopped || k.is_due()) {
                spent(out);
                keeper.write(&Checkpoint {
                    stage: number,
                    learning: Some(Learning {
                        optimizer: optimizer.state()?.into_iter().collect(),
                        ..at.clone()
                    }),
                    learned: methods::kept(method)?.into_iter().collect(),
                    ..out.checkpoint(number, Answers::default())
                })?;
            }
            let rate = Rate {
                lr: training.lr_at(at.done as usize, &length),
                by_parameter: !training.is_warm_up(at.done as usize, &length),
            };
            if training.starts_anew(at.done as usize, &length) {
                optimizer = training.optimizer();
            }
            let step = methods::step(method, &mut optimizer, &batch?, rate)?;
            let value = step.value;
            if step.gradients.is_none() {
                spent(out);
                return Ok(Some(failed(&at, value)));
            }
            at.sum += value;
            at.last = Some(value);
            at.step += 1;
            at.done += 1;
            method.stepped(at.done as usize, length.steps)?;
            task.observer.stepped(&Step {
                done: at.done as usize,
                all: length.steps,
                loss: value,
                learning_rate: rate.lr,
            });
        }
        let (mean, lr) = (
            at.sum / steps as f64,
            training.lr_at(epoch * length.per_epoch, &length),
        );
        out.losses.push(mean);
        out.learning_rates.push(lr);
        task.observer.epoch_ended(&Epoch {
            done: epoch + 1,
            loss: mean,
            learning_rate: lr,
        });
        method.end_epoch(epoch, length.epochs)?;
        (at.epoch, at.step, at.sum) = (epoch + 1, 0, 0.0);
    }
    method.finish()?;
    out.cost.steps += at.done;
    spent(out);
    let finite = |t: &Tensor| -> Result<bool> {
        let values = t.flatten_all()?.to_vec1::<f32>()?;
        Ok(values.iter().all(|v| v.is_finite()))
    };
    for (_, var) in method.parameters() {
        if !finite(&var.as_detached_tensor())? {
            return Ok(Some(failed(&at, f64::NAN)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use datasets::{Catalogue, picks};
    use methods::Backbones;

    use super::*;
    use crate::record::{Outcome, TestSet};
    use crate::run::checkpoint::Keeper;
    use crate::run::suite::Resolved;
    use crate::run::trial::{self, Observer, Target};

    struct Deaf;

    impl Observer for Deaf {}

    fn coop() -> Resolved {
        let entry = methods::find("coop").unwrap();
        let reading = entry.read("n_ctx = 2".parse().unwrap());
        Resolved {
            name: entry.name,
            config: reading.config,
            training: Some(Training::sgd(2, 8, 0.01)),
            settings: reading.resolved,
        }
    }

    fn lesson(feed: &Arc<Feed>, set: ClassSet) -> Lesson {
        let split = &feed.dataset.split;
        let picked = split.with_picks(&picks::draw(split, 1, 1));
        Lesson {
            feed: feed.clone(),
            set,
            descriptions: None,
            learned: Learned {
                train: picked.subset(set).unwrap().0.train,
                ..Learned::default()
            },
        }
    }

    fn target(feed: &Arc<Feed>, set: ClassSet) -> Target {
        Target {
            feed: feed.clone(),
            set: TestSet::of(set),
            descriptions: None,
        }
    }

    fn run(stages: &[Stage]) -> Outcomes {
        let on = Backbones::from(crate::backbone::shipped().unwrap());
        trial::run(&Task {
            on: &on,
            method: &coop(),
            stages,
            views: Views::None,
            seed: 1,
            stop: &AtomicBool::new(false),
            observer: &Deaf,
            keeper: None,
        })
        .unwrap()
    }

    fn feed(id: &str) -> Arc<Feed> {
        let clip = crate::backbone::shipped().unwrap();
        let dataset = feed::open(id, &Catalogue::built_in(), None).unwrap();
        Arc::new(Feed::new(dataset, clip))
    }

    #[test]
    fn stages_go_on_with_what_was_learned_and_are_tested_each() {
        let feed = feed("drawn-textures");
        let parts = |first, last| ClassSet::Parts { first, last, of: 2 };
        let stage = |i| Stage {
            lessons: vec![lesson(&feed, parts(i, i))],
            targets: vec![target(&feed, parts(1, i))],
        };
        let both = run(&[stage(1), stage(2)]);
        assert_eq!(both.outcome, Outcome::Finished);
        let stages: Vec<usize> = both.tests.iter().map(|t| t.stage).collect();
        assert_eq!((stages, both.losses.len()), (vec![0, 1], 4));
        assert!(both.tests[1].classes.len() > both.tests[0].classes.len());
        // The first stage is what it is alone, and the second goes on from it.
        let first = run(&[stage(1)]);
        assert_eq!(first.losses, both.losses[..2]);
        assert_eq!(first.tests[0].correct, both.tests[0].correct);
        let second = run(&[stage(2)]);
        assert_ne!(second.losses, both.losses[2..]);
    }

    /// Sets its flag at the second thing that it hears.
    #[derive(Default)]
    struct Impatient(AtomicUsize, AtomicBool);

    impl Impatient {
        fn hear(&self) {
            let is_second = self.0.fetch_add(1, Ordering::Relaxed) == 1;
            self.1.fetch_or(is_second, Ordering::Relaxed);
        }
    }

    impl Observer for Impatient {
        fn stepped(&self, _: &Step) {
            self.hear();
        }

        fn answered(&self, _: usize) {
            self.hear();
        }
    }

    #[test]
    fn a_trial_of_several_stages_and_datasets_goes_on_from_anywhere() {
        let feeds = [feed("drawn-textures"), feed("drawn-pets")];
        let parts = |first, last| ClassSet::Parts { first, last, of: 2 };
        let stages = [1, 2].map(|i| Stage {
            lessons: feeds.iter().map(|f| lesson(f, parts(i, i))).collect(),
            targets: feeds.iter().map(|f| target(f, parts(1, i))).collect(),
        });
        let mut whole = run(&stages);
        let folder = tempfile::tempdir().unwrap();
        let on = Backbones::from(crate::backbone::shipped().unwrap());
        let mut parts = 0;
        let mut again = loop {
            parts += 1;
            let observer = Impatient::default();
            let keeper = Keeper::new(folder.path(), "key", Duration::from_secs(3600));
            let ran = trial::run(&Task {
                on: &on,
                method: &coop(),
                stages: &stages,
                views: Views::None,
                seed: 1,
                stop: &observer.1,
                observer: &observer,
                keeper: Some(&keeper),
            });
            match ran {
                Ok(outcomes) => break outcomes,
                Err(e) => assert!(e.is::<Interrupted>() && parts < 100, "{e:#}"),
            }
        };
        assert!(parts > 8, "{parts} parts");
        for outcomes in [&mut whole, &mut again] {
            outcomes.tests.iter_mut().for_each(|t| t.seconds = 0.0);
        }
        assert_eq!(again.losses, whole.losses);
        assert_eq!(again.tests, whole.tests);
        assert_eq!(again.predictions, whole.predictions);
        assert_eq!(again.cost.steps, whole.cost.steps);
        assert_eq!(again.classes, whole.classes);
        for ((name, ours), (_, theirs)) in again.prompts.iter().zip(&whole.prompts) {
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(ours), flat(theirs), "{name}");
        }
    }

    #[test]
    fn several_datasets_are_learned_as_one_list_and_each_is_tested_by_itself() {
        let feeds = [feed("drawn-textures"), feed("drawn-pets")];
        let stage = Stage {
            lessons: feeds.iter().map(|f| lesson(f, ClassSet::All)).collect(),
            targets: feeds.iter().map(|f| target(f, ClassSet::All)).collect(),
        };
        let never = AtomicBool::new(false);
        let source = Together::new(
            &stage,
            |l| &l.learned.train,
            (Views::None, &Needs::features()),
            1,
            &never,
        )
        .unwrap();
        let (first, second) = (
            stage.lessons[0].learned.train.len(),
            stage.lessons[1].learned.train.len(),
        );
        assert_eq!(source.len(), first + second);
        // Out of order, over the border: each picture keeps its own label, features and dataset.
        let indices = [first, 0, first + second - 1, first - 1];
        let offset = feeds[0].dataset.split.class_names().len() as u32;
        let items = [
            &stage.lessons[1].learned.train[0],
            &stage.lessons[0].learned.train[0],
            &stage.lessons[1].learned.train[second - 1],
            &stage.lessons[0].learned.train[first - 1],
        ];
        let want: Vec<u32> = [offset, 0, offset, 0]
            .iter()
            .zip(items)
            .map(|(offset, item)| offset + item.label)
            .collect();
        assert_eq!(source.labels(&indices), want);
        let tasks = source.tasks(&indices).unwrap().unwrap();
        assert_eq!(tasks.to_vec1::<u32>().unwrap(), [1, 0, 1, 0]);
        let Images::Pixels(all) = source.images(&indices, 0, Sees::Pixels).unwrap() else {
            unreachable!("pixels were asked for")
        };
        let alone =
            feeds[0].test_pixels(&items[1..2].iter().map(|i| (*i).clone()).collect::<Vec<_>>());
        let gap = (all.get(1).unwrap() - alone.unwrap().get(0).unwrap()).unwrap();
        let gap = gap
            .abs()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert_eq!(gap, 0.0);
        let out = run(&[stage]);
        assert_eq!(out.tests.len(), 2);
        assert!(out.losses[1] < out.losses[0] * 1.5 && out.classes.len() > offset as usize);
    }

    /// Asks for what no other test here gives: a teacher, pictures without labels, a second view of each.
    struct Asking;

    impl methods::Config for Asking {
        fn needs(&self) -> Needs {
            Needs {
                teacher: true,
                unlabelled: true,
                second_view: Some(methods::View::Crop),
                ..Needs::pixels()
            }
        }

        fn cost(&self) -> methods::Cost {
            methods::Cost {
                text: methods::TextCost::FROZEN,
                image: methods::ImageCost::FROZEN,
            }
        }

        fn build(
            &self,
            on: &Backbones,
            classes: &methods::Classes,
            _: &mut methods::Init,
        ) -> candle_core::Result<Box<dyn Method>> {
            let texts = on.clip.encode_texts(&classes.texts("{}"))?;
            Ok(Box::new(Asked {
                teacher: on.teacher()?.clone(),
                clip: on.clip.clone(),
                weight: candle_core::Var::new(&[1f32], &Device::Cpu)?,
                texts: clip::model::unit(&texts)?,
            }))
        }
    }

    struct Asked {
        teacher: Arc<clip::Clip>,
        clip: Arc<clip::Clip>,
        weight: candle_core::Var,
        texts: Tensor,
    }

    impl Method for Asked {
        fn parameters(&self) -> Vec<(String, candle_core::Var)> {
            vec![("weight".to_owned(), self.weight.clone())]
        }

        fn loss(&mut self, batch: &Batch) -> candle_core::Result<methods::Loss> {
            let (first, second) = (&batch.images, batch.second.as_ref().expect("asked for"));
            let gap = (first.pixels()? - second.pixels()?)?.abs()?.sum_all()?;
            assert!(
                gap.to_scalar::<f32>()? > 1.0,
                "two views of a picture differ"
            );
            let own = first.unit_features(&self.teacher)?;
            let far = (own - second.unit_features(&self.teacher)?)?
                .sqr()?
                .mean_all()?;
            Ok((far * self.weight.as_tensor().sum_all()?)?.into())
        }

        fn bind(&mut self, classes: &methods::Classes) -> candle_core::Result<()> {
            let texts = self.clip.encode_texts(&classes.texts("{}"))?;
            self.texts = clip::model::unit(&texts)?;
            Ok(())
        }

        fn predictor(&self) -> candle_core::Result<Box<dyn methods::Predict + '_>> {
            Ok(Box::new(methods::Cosine {
                clip: &self.clip,
                texts: self.texts.clone(),
            }))
        }
    }

    #[test]
    fn a_teacher_unlabelled_pictures_and_second_views_reach_a_method_that_asks_for_them() {
        let feed = feed("drawn-textures");
        let method = Resolved {
            name: "asking",
            config: Box::new(Asking),
            training: Some(Training::sgd(1, 8, 0.01)),
            settings: std::collections::BTreeMap::new(),
        };
        assert!(method.learns() && !method.takes_shots());
        let stages = [Stage {
            lessons: vec![lesson(&feed, ClassSet::All)],
            targets: vec![target(&feed, ClassSet::All)],
        }];
        let clip = crate::backbone::shipped().unwrap();
        let mut on = Backbones::from(clip.clone());
        let mut task = Task {
            on: &on.clone(),
            method: &method,
            stages: &stages,
            views: Views::Fresh,
            seed: 1,
            stop: &AtomicBool::new(false),
            observer: &Deaf,
            keeper: None,
        };
        let refused = trial::run(&task).err().unwrap().to_string();
        assert!(refused.contains("second backbone"), "{refused}");
        on.teacher = Some(clip);
        task.on = &on;
        let out = trial::run(&task).unwrap();
        assert_eq!((out.outcome, out.tests.len()), (Outcome::Finished, 1));
        assert!(out.cost.steps > 0);
    }
}
