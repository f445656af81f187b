//! What holds for every entry of the registry; a new one is covered by being there.

use std::collections::BTreeMap;

use candle_core::Var;

use super::*;
use crate::optimizer::{Optimizer, Rule};
use crate::{Sees, load_parameters};

/// What has no gradient but by rounding: BatchNorm takes the bias before it off again.
const ROUNDING_ONLY: [&str; 1] = ["VPT_image_trans.conv1.0.bias"];

/// Ends of names of factors that are multiplied with zeros at first.
const STARTS_AT_NOTHING: [&str; 2] = [".w_lora_A", ".A"];

#[test]
fn every_trained_tensor_gets_a_gradient_and_no_frozen_one_does() {
    let clip = clip();
    let frozen = clip.tensors().unwrap();
    let again = clip.tensors().unwrap();
    assert!(clip.trained().is_empty());
    for entry in trained() {
        let mut method = build_for(entry, "", &clip, &base()).unwrap();
        assert!(!method.parameters().is_empty(), "{}", entry.name);
        let loss = method.loss(&batch()).unwrap();
        let gradients = method.gradients(&loss).unwrap();
        // A factor of a product whose other factor starts at zeros moves from the second step on.
        scatter(method.as_ref(), &clip);
        let scattered = method.loss(&batch()).unwrap();
        let later = method.gradients(&scattered).unwrap();
        for (name, var) in method.trained_now() {
            let gradient = gradients
                .get(var.as_tensor())
                .unwrap_or_else(|| panic!("{}: {name}", entry.name));
            let starts_at_nothing = STARTS_AT_NOTHING.iter().any(|end| name.ends_with(end));
            let judged = match starts_at_nothing {
                true => later.get(var.as_tensor()).unwrap(),
                false => gradient,
            };
            assert!(
                ROUNDING_ONLY.contains(&name.as_str()) || flat(judged).iter().any(|g| *g != 0.0),
                "{}: {name} has a gradient of zeros",
                entry.name
            );
            assert!(
                flat(gradient).iter().all(|g| g.is_finite()),
                "{}: {name}",
                entry.name
            );
        }
        // Both sides of a candle product get a gradient, so the projections that end the towers have an unused one.
        for (name, t) in frozen.iter().filter(|(name, t)| {
            !name.ends_with("proj") && *name != "text_projection" && t.id() == again[*name].id()
        }) {
            assert!(
                gradients.get(t).is_none(),
                "{}: frozen {name} has a gradient",
                entry.name
            );
        }
    }
    // Blocks and patches come out as copies; the rest are the very tensors that the towers compute with.
    let same = frozen
        .iter()
        .filter(|(name, t)| t.id() == again[*name].id())
        .count();
    assert!(same >= 10, "only {same} tensors can be looked for");
}

#[test]
fn training_changes_no_frozen_number() {
    let clip = clip();
    let values = || {
        clip.tensors()
            .unwrap()
            .values()
            .map(flat)
            .collect::<Vec<_>>()
    };
    let before = values();
    for entry in trained() {
        // Its published weight is for a mean over pictures and a hundred classes; over three its steps are too long.
        let config = match entry.name {
            "promptkd" => "weight = 10.0",
            _ => "",
        };
        let mut method = build_for(entry, config, &clip, &base()).unwrap();
        let training = entry.training.as_ref().unwrap();
        let mut optimizer = training.optimizer();
        let mut losses = Vec::new();
        for _ in 0..8 {
            let loss = method.loss(&batch()).unwrap();
            losses.push(number(&loss.total));
            let gradients = method.gradients(&loss).unwrap();
            optimizer
                .step(&method.parameters(), &gradients, training.lr)
                .unwrap();
        }
        assert!(
            losses[7] < losses[0],
            "{} learns nothing of one batch: {losses:?}",
            entry.name
        );
    }
    assert!(before == values());
}

/// Binds `method` to the other classes; methods that learn a row for each class say that they cannot.
fn rebinds(method: &mut dyn Method, name: &str) -> bool {
    match method.bind(&novel()) {
        Ok(()) => true,
        Err(refused) => {
            let refused = refused.to_string();
            assert!(
                refused.contains("cannot be used with others"),
                "{name}: {refused}"
            );
            false
        }
    }
}

/// Slope of the loss at `value + x direction`, by the five-point rule.
fn slope(method: &mut dyn Method, batch: &Batch, var: &Var, direction: &Tensor, step: f64) -> f64 {
    let start = var.as_detached_tensor().copy().unwrap();
    let mut at = |x: f64| {
        var.set(&(&start + (direction * x).unwrap()).unwrap())
            .unwrap();
        number(&method.loss(batch).unwrap().total)
    };
    let slope = (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * step);
    var.set(&start).unwrap();
    slope
}

#[test]
fn gradients_of_every_method_agree_with_finite_differences() {
    let clip = clip();
    let variants = [
        ("coop", "per_class = true\nposition = \"middle\""),
        ("coop", "init = \"a photo of a\"\nposition = \"front\""),
        (
            "promptsrc",
            "text_weight = 0.0\nimage_weight = 0.0\nlogit_weight = 100.0",
        ),
        ("dept", "host = \"cocoop\""),
        ("dept", "host = \"kgcoop\""),
        ("dept", "host = \"maple\""),
        // With so much entropy the plan is the same whatever is learned, and the published gradient, which leaves out how
        // it moves, is the loss's own.
        ("plot", "entropy = 1e6"),
        ("plot", "entropy = 1e6\npooled = true"),
        ("plotpp", "entropy = 1e6"),
        ("plotpp", "entropy = 1e6\nfirst_stage = 0.0"),
        ("softcpt", "class_features = true"),
        ("mvlpt", "n_ctx = 0"),
        ("mvlpt", "depth = \"shallow\"\nproject_dim = 64"),
    ];
    // At the published scale of MMA's adapters rounding hides the slope.
    let mma = "scale = 20.0";
    let defaults = trained()
        .filter(|e| !e.name.starts_with("plot"))
        .map(|e| (e.name, if e.name == "mma" { mma } else { "" }));
    for (method_name, config) in variants.into_iter().chain(defaults) {
        // MMA's rule: every adapter is trained as if its scale were 1.
        let steered = if method_name == "mma" { 20.0 } else { 1.0 };
        let mut method = build(method_name, config, &clip);
        scatter(method.as_ref(), &clip);
        let batch = batch();
        let loss = method.loss(&batch).unwrap().total;
        let gradients = loss.backward().unwrap();
        for (name, var) in method.trained_now() {
            let gradient = &(gradients.get(var.as_tensor()).unwrap() * steered).unwrap();
            if ROUNDING_ONLY.contains(&name.as_str()) {
                let length = dot(gradient, gradient).sqrt();
                assert!(
                    length < 1e-5 * number(&loss),
                    "{method_name}: {name}: {length}"
                );
                continue;
            }
            for seed in 1..4 {
                // Along the gradient, so that there is a slope to measure, and as far along anything else.
                let random = noise(var.dims(), 100 + seed, 1.0);
                let unit = |t: &Tensor| (t / dot(t, t).sqrt()).unwrap();
                let mut direction = unit(gradient);
                // Of one number there is no other direction, only one that may cancel it.
                if var.elem_count() > 1 {
                    direction = (direction + unit(&random)).unwrap();
                }
                let computed = dot(gradient, &direction);
                // Far enough for the loss to move by more than its rounding, near enough for it to be smooth. What
                // remains is largest (0.3 %) where an L1 distance has kinks on the way; it shrinks with the step.
                // Slopes of adapters, and of tokens whose features BatchNorm scales, are so small beside the loss that a step
                // of 0.01 moves it by less than a hundred roundings.
                let is_flat = ["mma", "promptkd"].contains(&method_name);
                let most = if is_flat { 5e-2 } else { 1e-2 };
                let step = (1e-3 * number(&loss) / computed).min(most);
                let measured = slope(method.as_mut(), &batch, &var, &direction, step);
                let gap = (measured - computed).abs() / computed;
                assert!(
                    gap < 5e-3,
                    "{method_name}: {name}: {measured} against {computed}"
                );
            }
        }
    }
}

#[test]
fn untrained_prompts_made_of_words_score_as_zero_shot_with_these_words() {
    let clip = clip();
    let images = batch().images;
    let photo = logits(
        build("zero-shot", "templates = \"photo\"", &clip).as_ref(),
        &images,
    );
    let own = logits(build("zero-shot", "", &clip).as_ref(), &images);
    assert!(
        largest_gap(&photo, &own) > 1e-3,
        "the two templates can be told apart"
    );
    let words = "init = \"a photo of a\"";
    let cases = [
        ("coop", words, &photo),
        ("coop", "init = \"a_photo_of_a\"", &photo),
        ("kgcoop", "", &photo),
        ("tpt", "lr = 0.0", &photo),
        ("prograd", "init = \"a photo of a\"\nn_ctx = 4", &photo),
        ("prograd", "n_ctx = 5", &own),
        ("language-prompting", "depth = 1", &photo),
        (
            "language-prompting",
            "depth = 1\nn_ctx = 2\ninit = \"a_photo_of_a\"",
            &photo,
        ),
        ("ivlp", "depth_text = 1\nn_ctx_vision = 0", &photo),
    ];
    for (name, config, want) in cases {
        let method = build(name, config, &clip);
        let got = match name {
            // One picture at a time.
            "tpt" => (0..4)
                .flat_map(|i| {
                    let Images::Pixels(p) = &images else {
                        unreachable!()
                    };
                    // Copies: at a learning rate of 0 the views do not matter.
                    let views = Tensor::cat(&vec![p.narrow(0, i, 1).unwrap(); 10], 0).unwrap();
                    logits(method.as_ref(), &Images::Pixels(views))
                })
                .collect(),
            _ => logits(method.as_ref(), &images),
        };
        assert!(
            largest_gap(&got, want) < 1e-4,
            "{name} {config:?}: {got:?} {want:?}"
        );
    }
    // A meta-net, deep prompts and image tokens move the scores from the first step on.
    for (name, config) in [
        ("cocoop", ""),
        ("language-prompting", "depth = 2"),
        ("maple", "depth = 1"),
        ("vpt", "depth = 1"),
    ] {
        let got = logits(build(name, config, &clip).as_ref(), &images);
        assert!(largest_gap(&got, &photo) > 1e-4, "{name}");
    }
    let mut silent = build("cocoop", "", &clip);
    let values = silent.parameters().into_iter().map(|(n, v)| {
        let value = if n.contains("meta_net") {
            v.as_tensor().zeros_like().unwrap()
        } else {
            v.as_tensor().copy().unwrap()
        };
        (n, value)
    });
    load_parameters(silent.as_mut(), &values.collect()).unwrap();
    assert!(
        largest_gap(&logits(silent.as_ref(), &images), &photo) < 1e-4,
        "cocoop without its meta-net"
    );
}

fn views_of(method: &Entry, images: &Images) -> Images {
    let sees = method.default_config().needs().sees;
    match sees {
        Sees::Views { .. } => Images::Pixels(pixels(20, 77)),
        _ => images.clone(),
    }
}

#[test]
fn binding_to_other_classes_and_back_gives_the_same_scores() {
    let clip = clip();
    for entry in METHODS {
        let mut method = build_for(entry, "", &clip, &base()).unwrap();
        let images = views_of(entry, &batch().images);
        let first = logits(method.as_ref(), &images);
        if !rebinds(method.as_mut(), entry.name) {
            assert_eq!(first, logits(method.as_ref(), &images), "{}", entry.name);
            method.bind(&base()).unwrap();
            assert_eq!(first, logits(method.as_ref(), &images), "{}", entry.name);
            continue;
        }
        let other = logits(method.as_ref(), &images);
        assert_eq!(other.len() * 3, first.len() * 2, "{}", entry.name);
        let fresh = build_for(entry, "", &clip, &novel()).unwrap();
        let built = logits(fresh.as_ref(), &images);
        if entry.default_config().needs().knows_split {
            assert_ne!(other, built, "{}: others are scored apart", entry.name);
        } else if entry.default_config().search().is_some() {
            // What is found depends on the classes it was searched with: put into a method built for the others, it is the same.
            let config = entry.default_config();
            let on = clip.clone().into();
            let mut given = config.build(&on, &novel(), &mut Init::seeded(2)).unwrap();
            let found = crate::kept(method.as_ref()).unwrap();
            crate::put_back(given.as_mut(), found.into_iter().collect()).unwrap();
            assert_eq!(other, logits(given.as_ref(), &images), "{}", entry.name);
        } else {
            // Trained tensors do not depend on classes, so a method built for the others scores alike.
            assert_eq!(other, built, "{}", entry.name);
        }
        method.bind(&base()).unwrap();
        assert_eq!(first, logits(method.as_ref(), &images), "{}", entry.name);
    }
}

#[test]
fn steps_read_frozen_features_at_hand_where_a_method_says_so_and_nowhere_else() {
    let clip = clip();
    let mut readers = 0;
    for entry in trained() {
        let said = entry.default_config().needs().frozen_features;
        let loss = |frozen: Option<Tensor>| {
            let mut method = build_for(entry, "", &clip, &base()).unwrap();
            let batch = Batch { frozen, ..batch() };
            number(&method.loss(&batch).unwrap().total)
        };
        let features = batch().images.features(&clip).unwrap();
        let others = features.affine(1.0, 0.5).unwrap();
        let alone = loss(None);
        assert_eq!(loss(Some(features)), alone, "{}", entry.name);
        assert_eq!(loss(Some(others)) != alone, said, "{}", entry.name);
        readers += usize::from(said);
    }
    assert!(readers > 0, "some do");
}

#[test]
fn losses_follow_the_classes_that_are_bound() {
    let clip = clip();
    let labels = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu).unwrap();
    let batch = Batch { labels, ..batch() };
    for entry in trained() {
        let mut moved = build_for(entry, "", &clip, &base()).unwrap();
        if !rebinds(moved.as_mut(), entry.name) {
            continue;
        }
        let a = match moved.loss(&batch) {
            Ok(loss) => loss,
            Err(refused) => {
                // A head of the classes trained on has no rows for others.
                let refused = refused.to_string();
                let knows_split = entry.default_config().needs().knows_split;
                assert!(
                    knows_split && refused.contains("cannot be trained on others"),
                    "{}: {refused}",
                    entry.name
                );
                continue;
            }
        };
        let mut fresh = build_for(entry, "", &clip, &novel()).unwrap();
        let b = fresh.loss(&batch).unwrap();
        assert_eq!(
            number(&a.total),
            number(&b.total),
            "{}: a teacher was left behind",
            entry.name
        );
        for (a, b) in a.parts.iter().zip(&b.parts) {
            assert_eq!((a.0, number(&a.1)), (b.0, number(&b.1)), "{}", entry.name);
        }
    }
}

#[test]
fn what_is_kept_of_a_method_that_saw_the_shots_scores_the_same_again() {
    let clip = clip();
    let images = batch().images;
    for entry in METHODS {
        if entry.default_config().needs().support.is_none() {
            continue;
        }
        let fit = build_for(entry, "", &clip, &base()).unwrap();
        let parameters = fit.parameters().into_iter();
        let parameters = parameters.map(|(n, v)| (n, v.as_detached_tensor()));
        let kept: BTreeMap<String, Tensor> = parameters.chain(fit.state()).collect();
        let config = entry.default_config();
        let on = clip.clone().into();
        let mut again = config.build(&on, &base(), &mut Init::seeded(2)).unwrap();
        let own: Vec<String> = again.parameters().into_iter().map(|(n, _)| n).collect();
        let (values, state) = kept.into_iter().partition(|(n, _)| own.contains(n));
        load_parameters(again.as_ref(), &values).unwrap();
        again.restore(&state).unwrap();
        let (a, b) = (
            logits(fit.as_ref(), &images),
            logits(again.as_ref(), &images),
        );
        assert_eq!(a, b, "{}", entry.name);
    }
}

#[test]
fn descriptions_that_are_not_there_are_asked_for_and_move_no_other_method() {
    let clip = clip();
    let bare = base().described(None);
    for entry in METHODS {
        let built = build_for(entry, "", &clip, &bare);
        if entry.default_config().needs().descriptions {
            let message = built.err().unwrap().to_string();
            assert!(
                message.contains("`descriptions`"),
                "{}: {message}",
                entry.name
            );
            continue;
        }
        let images = views_of(entry, &batch().images);
        let described = build_for(entry, "", &clip, &base()).unwrap();
        let (with, without) = (described.as_ref(), built.unwrap());
        assert_eq!(
            logits(with, &images),
            logits(without.as_ref(), &images),
            "{}",
            entry.name
        );
    }
}

#[test]
fn load_parameters_names_every_misfit_at_once_and_changes_nothing() {
    let clip = clip();
    let method = build("cocoop", "", &clip);
    let before: Vec<_> = method
        .parameters()
        .iter()
        .map(|(_, v)| flat(v.as_tensor()))
        .collect();
    let zero =
        |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let mut values: BTreeMap<String, Tensor> = method
        .parameters()
        .into_iter()
        .map(|(n, v)| (n, zero(v.dims())))
        .collect();
    values.remove("prompt_learner.ctx").unwrap();
    values.insert("prompt_learner.meta_net.linear1.bias".into(), zero(&[7]));
    values.insert("prompt_learner.token_prefix".into(), zero(&[1]));
    let message = load_parameters(method.as_ref(), &values)
        .unwrap_err()
        .to_string();
    for part in [
        "prompt_learner.ctx is missing",
        "prompt_learner.meta_net.linear1.bias is [7], this method has [8]",
        "prompt_learner.token_prefix is no parameter",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let after: Vec<_> = method
        .parameters()
        .iter()
        .map(|(_, v)| flat(v.as_tensor()))
        .collect();
    assert_eq!(before, after);
}

#[test]
fn features_and_pixels_of_the_same_pictures_score_alike() {
    let clip = clip();
    let images = batch().images;
    let features = Images::Features(clip.encode_image(images.pixels().unwrap()).unwrap());
    for entry in METHODS {
        let sees = entry.default_config().needs().sees;
        let mut method = build_for(entry, "", &clip, &base()).unwrap();
        let given = Batch::new(features.clone(), batch().labels);
        match sees {
            Sees::Features => {
                let gap = largest_gap(
                    &logits(method.as_ref(), &images),
                    &logits(method.as_ref(), &features),
                );
                assert!(gap < 1e-5, "{}", entry.name);
            }
            Sees::Pixels => {
                let refused = match entry.default_config().search() {
                    Some(_) => method.predictor().unwrap().logits(&features).err(),
                    None => method.loss(&given).err(),
                };
                let message = refused.unwrap().to_string();
                assert!(
                    message.contains("needs pixels"),
                    "{}: {message}",
                    entry.name
                );
            }
            Sees::Views { .. } => {}
        }
    }
}

#[test]
fn a_depth_beyond_the_tower_is_refused_when_it_is_asked_for_and_cut_when_it_is_not() {
    // Text tower 3 layers, image tower 2.
    let clip = clip();
    let count = |name: &str, config: &str| build(name, config, &clip).parameters().len();
    assert_eq!(count("vpt", ""), count("vpt", "depth = 2"));
    assert_eq!(
        count("language-prompting", ""),
        count("language-prompting", "depth = 3")
    );
    assert_eq!(count("maple", ""), count("maple", "depth = 2"));
    assert_eq!(
        count("ivlp", ""),
        count("ivlp", "depth_text = 3\ndepth_vision = 2")
    );
    for (name, config, wrong) in [
        (
            "vpt",
            "depth = 3",
            "depth: 3 layers cannot be prompted, the tower has 2",
        ),
        (
            "maple",
            "depth = 3",
            "depth: 3 layers cannot be prompted, the tower has 2",
        ),
        (
            "language-prompting",
            "depth = 4",
            "depth: 4 layers cannot be prompted, the tower has 3",
        ),
        (
            "promptsrc",
            "depth_text = 9",
            "depth_text: 9 layers cannot be prompted, the tower has 3",
        ),
        (
            "ivlp",
            "depth_vision = 9",
            "depth_vision: 9 layers cannot be prompted, the tower has 2",
        ),
    ] {
        let message = build_for(find(name).unwrap(), config, &clip, &base())
            .err()
            .unwrap()
            .to_string();
        assert!(message.contains(wrong), "{message}");
    }
}

#[test]
fn a_tensor_without_a_gradient_is_left_alone() {
    let clip = clip();
    let mut method = build("cocoop", "", &clip);
    let idle = Var::new(&[1f32], &Device::Cpu).unwrap();
    let loss = method.loss(&batch()).unwrap();
    let gradients = method.gradients(&loss).unwrap();
    Optimizer::new(Rule::Sgd, 0.9, 0.5)
        .step(&[("idle".into(), idle.clone())], &gradients, 1.0)
        .unwrap();
    assert_eq!(flat(idle.as_tensor()), [1.0]);
}
