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

fn named(name: &str, config: &str) -> Resolved {
    let entry = methods::find(name).unwrap();
    let reading = entry.read(config.parse().unwrap());
    Resolved {
        name: entry.name,
        config: reading.config,
        training: entry.training.is_some().then(|| Training::sgd(2, 8, 0.01)),
        settings: reading.resolved,
    }
}

fn coop() -> Resolved {
    named("coop", "n_ctx = 2")
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
    run_of(&coop(), stages)
}

fn run_of(method: &Resolved, stages: &[Stage]) -> Outcomes {
    let on = Backbones::from(crate::backbone::shipped().unwrap());
    trial::run(&Task {
        on: &on,
        method,
        stages,
        views: Views::None,
        seed: 1,
        ran: &crate::device::ran::Ran::default(),
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
    let mut parts = goes_on(&coop(), &stages);
    assert!(parts > 8, "{parts} parts");
    // What an earlier stage learned is state, or begins anew in each.
    for (name, config) in [
        ("coop-distilled", "n_ctx = 2"),
        ("attriclip", "n_ctx = 2\nnum_prompt = 3\ntop_k = 1"),
        ("prototypes", ""),
    ] {
        parts = goes_on(&named(name, config), &stages);
        assert!(parts > 1, "{name}: {parts} parts");
    }
}

/// Stopped again and again, the trial comes to what it comes to undisturbed; gives how often it was begun.
fn goes_on(method: &Resolved, stages: &[Stage]) -> usize {
    let mut whole = run_of(method, stages);
    let folder = tempfile::tempdir().unwrap();
    let on = Backbones::from(crate::backbone::shipped().unwrap());
    let mut parts = 0;
    let mut again = loop {
        parts += 1;
        let observer = Impatient::default();
        let keeper = Keeper::new(folder.path(), "key", Duration::from_secs(3600));
        let ran = trial::run(&Task {
            on: &on,
            method,
            stages,
            views: Views::None,
            seed: 1,
            ran: &crate::device::ran::Ran::default(),
            stop: &observer.1,
            observer: &observer,
            keeper: Some(&keeper),
        });
        match ran {
            Ok(outcomes) => break outcomes,
            Err(e) => assert!(e.is::<Interrupted>() && parts < 100, "{e:#}"),
        }
    };
    for outcomes in [&mut whole, &mut again] {
        outcomes.tests.iter_mut().for_each(|t| t.seconds = 0.0);
    }
    assert_eq!(again.losses, whole.losses);
    assert_eq!(again.tests, whole.tests);
    assert_eq!(again.predictions, whole.predictions);
    assert_eq!(again.cost.steps, whole.cost.steps);
    assert_eq!(again.classes, whole.classes);
    for ((name, ours), (_, theirs)) in again.prompts.iter().zip(&whole.prompts) {
        let flat = |t: &Tensor| {
            let t = t.to_dtype(candle_core::DType::F32).unwrap();
            t.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(flat(ours), flat(theirs), "{name}");
    }
    parts
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
    let alone = feeds[0].test_pixels(&items[1..2].iter().map(|i| (*i).clone()).collect::<Vec<_>>());
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
        ran: &crate::device::ran::Ran::default(),
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
