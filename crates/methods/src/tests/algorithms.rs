//! What single methods promise: the steps of their algorithms that a gradient test cannot see.

use std::collections::BTreeMap;

use super::tiny_clip::{classes_of, novel};
use super::*;
use crate::load_parameters;
use crate::parts::layout::{self, Position};

#[test]
fn contexts_of_their_own_move_one_class_each_and_refuse_others() {
    let clip = clip();
    let mut method = build("coop", "per_class = true\nn_ctx = 2", &clip);
    assert_eq!(method.parameters()[0].1.dims(), [3, 2, 64]);
    method.bind(&base()).unwrap();
    let refused = method.bind(&novel()).unwrap_err().to_string();
    assert!(refused.contains("other classes"), "{refused}");
    // A class's own context moves its own score and no other.
    let images = batch().images;
    let before = logits(method.as_ref(), &images);
    let ctx = method.parameters()[0].1.clone();
    let own = ctx.as_tensor().narrow(0, 1, 1).unwrap();
    let moved = (own + noise(&[1, 2, 64], 9, 0.5)).unwrap();
    ctx.set(&ctx.as_tensor().slice_scatter0(&moved, 1).unwrap())
        .unwrap();
    for (before, after) in before
        .chunks(3)
        .zip(logits(method.as_ref(), &images).chunks(3))
    {
        assert_eq!((before[0], before[2]), (after[0], after[2]));
        assert!((before[1] - after[1]).abs() > 1e-4);
    }
}

#[test]
fn prograd_removes_the_opposing_part_and_nothing_else() {
    let clip = clip();
    let (mut acted, mut left) = (0, 0);
    for lambda in [1.0, 0.8] {
        let mut method = build("prograd", &format!("n_ctx = 5\nlambda = {lambda:?}"), &clip);
        scatter(method.as_ref(), &clip);
        for labels in [
            [0u32, 0, 0, 0],
            [1, 1, 1, 1],
            [2, 2, 2, 2],
            [0, 1, 2, 0],
            [1, 2, 0, 1],
        ] {
            let labels = Tensor::new(&labels, &Device::Cpu).unwrap();
            let batch = Batch::new(batch().images, labels);
            let loss = method.loss(&batch).unwrap();
            let ctx = method.parameters()[0].1.clone();
            let gradient = |t: &Tensor| t.backward().unwrap().get(ctx.as_tensor()).unwrap().clone();
            let (own, guide) = (gradient(&loss.parts[0].1), gradient(&loss.beside[0].1));
            let got = method
                .gradients(&loss)
                .unwrap()
                .get(ctx.as_tensor())
                .unwrap()
                .clone();
            let cosine = |a: &Tensor, b: &Tensor| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            if dot(&own, &guide) < 0.0 {
                acted += 1;
                let kept = dot(&got, &guide) / dot(&own, &guide);
                assert!(
                    (kept - (1.0 - lambda)).abs() < 1e-4,
                    "{lambda}: {kept} of the opposing part is left"
                );
                if lambda == 1.0 {
                    assert!(
                        cosine(&got, &guide).abs() < 1e-5,
                        "not orthogonal: {}",
                        cosine(&got, &guide)
                    );
                }
                let removed = (&own - &got).unwrap();
                assert!(
                    (cosine(&removed, &guide) + 1.0).abs() < 1e-5,
                    "something else was removed too"
                );
            } else {
                left += 1;
                assert_eq!(flat(&got), flat(&own));
            }
        }
    }
    assert!(acted > 0 && left > 0, "both cases occur: {acted} {left}");
}

#[test]
fn prograd_takes_the_placeholder_of_the_dataset_it_is_bound_to() {
    // "a type of flower, a photo of a" is 8 words and 9 tokens: one token stays frozen in front of the name.
    let clip = clip();
    let images = batch().images;
    let flowers = classes_of("flowers102", &["cat", "river"]);
    let satellite = classes_of("eurosat", &["cat", "river"]);
    let entry = find("prograd").unwrap();
    let mut moved = build_for(entry, "n_ctx = 10", &clip, &flowers).unwrap();
    let ctx = moved.parameters()[0].1.as_detached_tensor().copy().unwrap();
    let values: BTreeMap<_, _> = [("prompt_learner.ctx".to_owned(), ctx.clone())].into();
    for target in [&satellite, &flowers] {
        moved.bind(target).unwrap();
        assert_eq!(
            flat(moved.parameters()[0].1.as_tensor()),
            flat(&ctx),
            "the context stays"
        );
        let fresh = build_for(entry, "n_ctx = 10", &clip, target).unwrap();
        load_parameters(fresh.as_ref(), &values).unwrap();
        assert_eq!(
            logits(moved.as_ref(), &images),
            logits(fresh.as_ref(), &images),
            "{}",
            target.dataset
        );
    }
    let with_comma = logits(moved.as_ref(), &images);
    moved.bind(&satellite).unwrap();
    assert!(
        largest_gap(&with_comma, &logits(moved.as_ref(), &images)) > 1e-4,
        "the frozen token changes"
    );
    let refused = build_for(entry, "n_ctx = 7", &clip, &flowers)
        .err()
        .unwrap()
        .to_string();
    assert!(
        refused.contains("8 words") && refused.contains("n_ctx = 7"),
        "{refused}"
    );
}

#[test]
fn promptsrc_ends_with_the_weighted_sum_of_its_epochs() {
    let clip = clip();
    let weights = [0.5, 0.2, 0.3];
    for (config, weights) in [
        (format!("gpa_weights = {weights:?}"), weights),
        // exp(-1/8), 1, exp(-1/8), by hand.
        ("gpa_mean = 2.0\ngpa_std = 2.0".to_owned(), {
            let side = (-0.125f64).exp();
            [side, 1.0, side].map(|w| w / (1.0 + 2.0 * side))
        }),
    ] {
        let mut method = build("promptsrc", &config, &clip);
        let mut want: Vec<Vec<f64>> = Vec::new();
        for (epoch, weight) in weights.iter().enumerate() {
            for ((_, var), seed) in method.parameters().iter().zip((epoch as u64 * 50)..) {
                var.set(&noise(var.dims(), seed + 1, 1.0)).unwrap();
            }
            let now = method.parameters().into_iter().map(|(_, v)| {
                flat(v.as_tensor())
                    .into_iter()
                    .map(|x| f64::from(x) * weight)
                    .collect::<Vec<_>>()
            });
            want = if epoch == 0 {
                now.collect()
            } else {
                want.iter()
                    .zip(now)
                    .map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect())
                    .collect()
            };
            method.end_epoch(epoch, 3).unwrap();
        }
        let last: Vec<_> = method
            .parameters()
            .iter()
            .map(|(_, v)| flat(v.as_tensor()))
            .collect();
        method.finish().unwrap();
        for (((name, var), want), last) in method.parameters().iter().zip(&want).zip(&last) {
            let got = flat(var.as_tensor());
            assert!(
                got.iter()
                    .zip(want)
                    .all(|(g, w)| (f64::from(*g) - w).abs() < 1e-6),
                "{name}"
            );
            assert!(
                largest_gap(&got, last) > 0.1,
                "{name} is not the last epoch's"
            );
        }
    }
    let mut short = build("promptsrc", "gpa_weights = [0.5, 0.5]", &clip);
    let message = short.end_epoch(0, 3).unwrap_err().to_string();
    assert!(message.contains("2 weights for 3 epochs"), "{message}");
}

#[test]
fn tpt_forgets_between_pictures() {
    let clip = clip();
    let method = build("tpt", "keep = 0.3", &clip);
    let start = flat(method.parameters()[0].1.as_tensor());
    let predictor = method.predictor().unwrap();
    let (one, two) = (Images::Pixels(pixels(20, 5)), Images::Pixels(pixels(20, 6)));
    let first = flat(&predictor.logits(&one).unwrap());
    let other = flat(&predictor.logits(&two).unwrap());
    assert_eq!(first, flat(&predictor.logits(&one).unwrap()));
    assert_ne!(first, other);
    assert_eq!(start, flat(method.parameters()[0].1.as_tensor()));
    // What tuning changes is seen in the scores.
    let untuned = logits(build("tpt", "keep = 0.3\nlr = 0.0", &clip).as_ref(), &one);
    assert!(largest_gap(&first, &untuned) > 1e-4);
}

#[test]
fn cocoop_predicts_the_same_in_pieces() {
    // 200 classes are some 1650 rows a picture, so 9 pictures are predicted as 4, 4 and 1; 20 classes let them all
    // through at once. A class's score does not depend on the others'.
    let clip = clip();
    let predict = |classes: usize, images: &Tensor| {
        let names: Vec<&str> = ["cat", "river", "sea", "annual crop"]
            .into_iter()
            .cycle()
            .take(classes)
            .collect();
        let classes = classes_of("any", &names);
        let method = build_for(find("cocoop").unwrap(), "", &clip, &classes).unwrap();
        logits(method.as_ref(), &Images::Pixels(images.clone()))
    };
    let all = pixels(9, 21);
    let pieces = predict(200, &all);
    let whole = predict(20, &all);
    let single: Vec<f32> = (0..9)
        .flat_map(|i| predict(200, &all.narrow(0, i, 1).unwrap()))
        .collect();
    assert_eq!((pieces.len(), whole.len()), (9 * 200, 9 * 20));
    assert!(largest_gap(&pieces, &single) < 1e-5);
    for (piece, whole) in pieces.chunks(200).zip(whole.chunks(20)) {
        assert!(largest_gap(&piece[..20], whole) < 1e-5);
    }
    assert!(
        largest_gap(&single[..200], &single[200..400]) > 1e-3,
        "pictures differ"
    );
}

#[test]
fn no_bound_on_memory_changes_a_bit_of_training() {
    let words = ["cat", "river", "sea", "annual crop"];
    let name = |i: usize| (0..5).map(|d| words[i >> (2 * d) & 3]).collect::<Vec<_>>();
    let names: Vec<String> = (0..700).map(|i| name(i).join(" ")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let classes = classes_of("any", &names);
    let train = |entry: &Entry, memory: Option<usize>| {
        let mut clip = clip();
        Arc::make_mut(&mut clip).text.memory = memory;
        let sequences = layout::sequences(
            clip.text.wording(),
            &classes,
            "a photo of a",
            4,
            Position::End,
            |_, i| i,
        )
        .unwrap();
        let rows = clip.text.plan(&sequences).unwrap().rows();
        assert!(rows > 2048, "{rows} rows are not two pieces");
        let mut method = build_for(entry, "", &clip, &classes).unwrap();
        let mut seen = Vec::new();
        for _ in 0..2 {
            let loss = method.loss(&batch()).unwrap();
            let gradients = method.gradients(&loss).unwrap();
            seen.push(flat(&loss.total));
            for (_, var) in method.parameters() {
                let Some(gradient) = gradients.get(var.as_tensor()) else {
                    continue;
                };
                seen.push(flat(gradient));
                let next = (var.as_detached_tensor() - (gradient * 0.1).unwrap()).unwrap();
                var.set(&next).unwrap();
            }
        }
        seen
    };
    for entry in trained() {
        let free = train(entry, None);
        assert!(free.len() > 2, "{}", entry.name);
        assert!(free == train(entry, Some(1)), "{}", entry.name);
    }
}
