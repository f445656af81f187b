//! Every method of the registry, stopped between any two steps or test pictures and built anew, goes on bit for bit as if it
//! had not been stopped.

use std::collections::BTreeMap;

use super::*;
use crate::optimizer::Optimizer;
use crate::training::Length;
use crate::{Predict, Rate, Sees, Training, kept, put_back, step};

const EPOCHS: usize = 3;
const PER_EPOCH: usize = 2;
const STEPS: usize = EPOCHS * PER_EPOCH;
const LENGTH: Length = Length {
    epochs: EPOCHS,
    per_epoch: PER_EPOCH,
    steps: STEPS,
};

/// Settings under which a method remembers what it does not by default.
const VARIANTS: [(&str, &str); 7] = [
    ("tip-adapter-f", "paper_compat = true"),
    ("tip-adapter-f", "search = false"),
    ("dept", "host = \"cocoop\""),
    ("dept", "host = \"maple\""),
    ("clip-lora", "dropout = 0.5"),
    ("2sfs", "first_stage = 1.0"),
    ("attriclip", "text_tower = false"),
];

fn cases(is_one: impl Fn(&Entry) -> bool) -> Vec<(&'static Entry, &'static str)> {
    let plain = METHODS.iter().map(|entry| (entry, ""));
    let variants = VARIANTS.iter().map(|(n, c)| (find(n).unwrap(), *c));
    plain.chain(variants).filter(|(e, _)| is_one(e)).collect()
}

/// The same method without shots or steps.
fn fresh(entry: &Entry, config: &str, clip: &Arc<Clip>) -> Box<dyn Method> {
    let config = entry.read(config.parse().unwrap()).config;
    let on = backbones(clip, &config.needs());
    config.build(&on, &base(), &mut Init::seeded(1)).unwrap()
}

fn batch_of(number: usize, classes: u32) -> Batch {
    let labels: Vec<u32> = (0..4).map(|i| (i + number as u32) % classes).collect();
    Batch {
        seed: 7 + number as u64,
        second: Some(Images::Pixels(pixels(4, 60 + number as u64))),
        ..Batch::new(
            Images::Pixels(pixels(4, 30 + number as u64)),
            Tensor::new(labels, &Device::Cpu).unwrap(),
        )
    }
}

fn training(entry: &Entry) -> Training {
    Training {
        epochs: EPOCHS,
        steps: STEPS,
        ..entry.training.clone().unwrap()
    }
}

/// Steps `from..to` with the ends of their epochs, and of the whole; gives the losses.
fn train(
    training: &Training,
    method: &mut dyn Method,
    optimizer: &mut Optimizer,
    steps: std::ops::Range<usize>,
) -> Vec<u64> {
    let mut losses = Vec::new();
    for number in steps {
        if number == 0 {
            method.begin().unwrap();
        }
        let epoch = number / PER_EPOCH;
        let rate = Rate {
            lr: training.lr_at(number, &LENGTH),
            by_parameter: !training.is_warm_up(number, &LENGTH),
        };
        if training.starts_anew(number, &LENGTH) {
            *optimizer = training.optimizer();
        }
        let done = step(method, optimizer, &batch_of(number, 3), rate).unwrap();
        losses.push(done.value.to_bits());
        method.stepped(number + 1, STEPS).unwrap();
        if (number + 1) % PER_EPOCH == 0 {
            method.end_epoch(epoch, EPOCHS).unwrap();
        }
        if number + 1 == STEPS {
            method.finish().unwrap();
        }
    }
    losses
}

fn bits(t: &Tensor) -> (Vec<usize>, Vec<u32>) {
    let values = flat(&t.to_dtype(candle_core::DType::F32).unwrap());
    let bits = values.iter().map(|v| v.to_bits()).collect();
    (t.dims().to_vec(), bits)
}

type Bits = BTreeMap<String, (Vec<usize>, Vec<u32>)>;

fn all_bits(tensors: Vec<(String, Tensor)>) -> Bits {
    tensors.iter().map(|(n, t)| (n.clone(), bits(t))).collect()
}

fn map(tensors: Vec<(String, Tensor)>) -> BTreeMap<String, Tensor> {
    let count = tensors.len();
    let map: BTreeMap<_, _> = tensors.into_iter().collect();
    assert_eq!(map.len(), count, "no two tensors have one name");
    map
}

#[test]
fn a_method_stopped_after_any_step_goes_on_as_if_it_had_not_been() {
    let clip = clip();
    let images = batch().images;
    for (entry, config) in cases(|e| e.training.is_some()) {
        let training = training(entry);
        let mut whole = build_for(entry, config, &clip, &base()).unwrap();
        let mut optimizer = training.optimizer();
        let want = train(&training, whole.as_mut(), &mut optimizer, 0..STEPS);
        for stop in 0..STEPS {
            let told = format!("{} {config} stopped after step {stop}", entry.name);
            let mut before = build_for(entry, config, &clip, &base()).unwrap();
            let mut own = training.optimizer();
            let mut losses = train(&training, before.as_mut(), &mut own, 0..stop);
            let (of_method, of_optimizer) = (kept(before.as_ref()).unwrap(), own.state().unwrap());
            // What is kept is kept: steps that a killed run has done behind it do not move it.
            let then = all_bits(of_method.clone());
            train(&training, before.as_mut(), &mut own, stop..stop + 1);
            assert_eq!(all_bits(of_method.clone()), then, "{told}");

            let mut after = fresh(entry, config, &clip);
            put_back(after.as_mut(), map(of_method)).unwrap();
            let mut own = training.optimizer();
            own.restore(&map(of_optimizer)).unwrap();
            losses.extend(train(&training, after.as_mut(), &mut own, stop..STEPS));
            assert_eq!(losses, want, "{told}: losses");
            assert_eq!(
                all_bits(kept(after.as_ref()).unwrap()),
                all_bits(kept(whole.as_ref()).unwrap()),
                "{told}: parameters and state"
            );
            assert_eq!(
                all_bits(own.state().unwrap()),
                all_bits(optimizer.state().unwrap()),
                "{told}: optimizer"
            );
            let scores = [&after, &whole].map(|m| bits(&scored(m.as_ref(), &images)));
            assert_eq!(scores[0], scores[1], "{told}: scores");
        }
    }
}

/// Settings under which searches are short enough to be stopped after every round.
const SEARCHES: [(&str, &str); 2] = [
    ("template-search", "budget = 22\nper_round = 6\nstart = 8"),
    (
        "bpt-vlm",
        "n_ctx = 2\nn_ctx_vision = 2\ndim = 4\ndim_vision = 3\npopsize = 6\nbudget = 24",
    ),
];

#[test]
fn a_search_stopped_after_any_round_goes_on_as_if_it_had_not_been() {
    let clip = clip();
    let images = batch().images;
    let searches = METHODS
        .iter()
        .filter(|e| e.default_config().search().is_some());
    let names: Vec<&str> = searches.map(|e| e.name).collect();
    assert_eq!(names, SEARCHES.map(|(name, _)| name));
    let labelled = |seed| Labelled {
        passes: vec![Images::Pixels(pixels(6, seed))],
        labels: vec![0, 0, 1, 1, 2, 2],
    };
    let shots = Shots {
        train: labelled(1000),
        validation: Some(labelled(900)),
        test: None,
        seed: 1,
    };
    for (name, config) in SEARCHES {
        let entry = find(name).unwrap();
        let rounds = entry
            .read(config.parse().unwrap())
            .config
            .search()
            .unwrap()
            .rounds;
        let search = |method: &mut dyn Method, rounds: std::ops::Range<usize>| -> Vec<u64> {
            let mut one = |n| method.search(&shots, 40 + n as u64).unwrap().loss.to_bits();
            rounds.map(&mut one).collect()
        };
        let begun = || {
            let mut method = fresh(entry, config, &clip);
            method.fit(&shots).unwrap();
            method
        };
        let mut whole = begun();
        let want = search(whole.as_mut(), 0..rounds);
        whole.finish().unwrap();
        for stop in 0..=rounds {
            let told = format!("{name} stopped after round {stop}");
            let mut before = begun();
            let mut losses = search(before.as_mut(), 0..stop);
            let of_method = kept(before.as_ref()).unwrap();
            let then = all_bits(of_method.clone());
            search(before.as_mut(), stop..stop + 1);
            assert_eq!(all_bits(of_method.clone()), then, "{told}");
            let mut after = fresh(entry, config, &clip);
            put_back(after.as_mut(), map(of_method)).unwrap();
            losses.extend(search(after.as_mut(), stop..rounds));
            after.finish().unwrap();
            assert_eq!(losses, want, "{told}: losses");
            let kept = [&after, &whole].map(|m| all_bits(kept(m.as_ref()).unwrap()));
            assert_eq!(kept[0], kept[1], "{told}: parameters and state");
            let scores = [&after, &whole].map(|m| bits(&scored(m.as_ref(), &images)));
            assert_eq!(scores[0], scores[1], "{told}: scores");
            assert_eq!(after.found(), whole.found(), "{told}");
        }
    }
}

fn scored(method: &dyn Method, images: &Images) -> Tensor {
    method.predictor().unwrap().logits(images).unwrap()
}

#[test]
fn a_method_stopped_behind_its_second_stage_knows_which_classes_it_learned_last() {
    let clip = clip();
    let images = batch().images;
    for (entry, config) in cases(|e| e.training.is_some()) {
        let training = training(entry);
        let mut whole = build_for(entry, config, &clip, &base()).unwrap();
        train(&training, whole.as_mut(), &mut training.optimizer(), 0..1);
        if whole.bind(&novel()).is_err() {
            continue;
        }
        let mut optimizer = training.optimizer();
        let rate = training.lr;
        if step(whole.as_mut(), &mut optimizer, &batch_of(1, 2), rate).is_err() {
            continue;
        }
        let mut after = fresh(entry, config, &clip);
        after.bind(&novel()).unwrap();
        put_back(after.as_mut(), map(kept(whole.as_ref()).unwrap())).unwrap();
        for classes in [novel(), base(), novel()] {
            let scores = [&mut whole, &mut after].map(|method| {
                method.bind(&classes).unwrap();
                bits(&scored(method.as_ref(), &images))
            });
            assert_eq!(scores[0], scores[1], "{} {config}", entry.name);
        }
    }
}

#[test]
fn a_predictor_stopped_after_any_picture_goes_on_as_if_it_had_not_been() {
    const PICTURES: u64 = 8;
    let clip = clip();
    for (entry, config) in cases(|_| true) {
        let method = build_for(entry, config, &clip, &base()).unwrap();
        let needs = entry.read(config.parse().unwrap()).config.needs();
        let views = match needs.sees {
            Sees::Views { .. } => 20,
            _ => 1,
        };
        let score = |predictor: &dyn Predict, numbers: std::ops::Range<u64>| -> Vec<_> {
            let one = |n| predictor.logits(&Images::Pixels(pixels(views, 200 + n)));
            numbers.map(|n| bits(&one(n).unwrap())).collect()
        };
        let whole = method.predictor().unwrap();
        let want = score(whole.as_ref(), 0..PICTURES);
        let remembers = !whole.state().unwrap().is_empty();
        assert_eq!(
            remembers, needs.stream,
            "{}: what it says it needs",
            entry.name
        );
        // Whoever remembers nothing has nothing to lose, so one stop is as good as another.
        let stops = if remembers { 0..PICTURES } else { 3..4 };
        for stop in stops {
            let before = method.predictor().unwrap();
            let mut got = score(before.as_ref(), 0..stop);
            let state = map(before.state().unwrap());
            let after = method.predictor().unwrap();
            after.restore(&state).unwrap();
            got.extend(score(after.as_ref(), stop..PICTURES));
            let told = format!("{} {config} after picture {stop}", entry.name);
            assert_eq!(got, want, "{told}");
            let state = [whole.as_ref(), after.as_ref()].map(|p| all_bits(p.state().unwrap()));
            assert_eq!(state[0], state[1], "{told}");
        }
    }
}
