//! The text tower's seams.

use super::naive::{
    self, Hooks, JOINT, LAYERS, Naive, Tensors, WIDTH, gap, insert, mix, noise, same, var,
};
use super::{All, clip, hooked, mask, on_card, tensor};
use candle_core::Tensor;
use clip::{At, DeepText, How, Slot, TextPrompt};

const N: usize = 2;

/// Start, context rows, a name of one to three tokens, end.
fn sequences(own: bool) -> Vec<Vec<Slot>> {
    let names: [&[u32]; 4] = [&[3, 4], &[3, 5, 6], &[7], &[3, 4]];
    let of = |(class, name): (usize, &&[u32])| {
        let context = (0..N).map(|i| Slot::Context(if own { class * N + i } else { i }));
        let words = name.iter().map(|t| Slot::Token(*t));
        let start = [Slot::Token(1)].into_iter().chain(context);
        start.chain(words).chain([Slot::Token(9)]).collect()
    };
    names.iter().enumerate().map(of).collect()
}

fn deep(block: usize, at: At, rows: &candle_core::Var, how: How) -> DeepText {
    DeepText {
        block,
        at,
        rows: tensor(rows),
        how,
    }
}

#[test]
fn contexts_that_differ_by_sequence_are_each_ones_own() {
    let tensors = naive::tensors();
    let (clip, all) = (clip(&tensors), sequences(true));
    let context = var(&[4 * N, WIDTH], 1, 0.5);
    let plan = clip.text.plan(&all).unwrap();
    let prompt = TextPrompt {
        context: Some(tensor(&context)),
        ..TextPrompt::default()
    };
    let features = clip.text.encode(&plan, &prompt).unwrap();
    let naive = Naive { tensors: &tensors };
    let again = || naive.texts(&all, Some(&context), &|_, run| run(&Hooks::default()));
    same(&features, &again, &[&context]);
}

#[test]
fn class_aware_rows_go_where_each_classs_context_stands() {
    let tensors = naive::tensors();
    let (clip, all) = (clip(&tensors), sequences(true));
    let context = var(&[N, WIDTH], 1, 0.5);
    let aware = var(&[4 * N, WIDTH], 2, 0.5);
    let repeated = |context: &Tensor| Tensor::cat(&[context; 4], 0).unwrap();
    let plan = clip.text.plan(&all).unwrap();
    for (how, share) in [(How::Instead, 1.0), (How::Mixed(0.3), 0.3)] {
        let prompt = TextPrompt {
            context: Some(repeated(&context)),
            deep: vec![deep(1, At::Context, &aware, how)],
            ..TextPrompt::default()
        };
        let features = clip.text.encode(&plan, &prompt).unwrap();
        let naive = Naive { tensors: &tensors };
        let again = || {
            naive.texts(&all, Some(&repeated(&context)), &|class, run| {
                let own = aware.narrow(0, class * N, N)?;
                run(&Hooks {
                    before: &|block, x| match block {
                        1 => mix(&x, 1, &own, share),
                        _ => Ok(x),
                    },
                    ..Hooks::default()
                })
            })
        };
        same(&features, &again, &[&context, &aware]);
    }
}

#[test]
fn rows_that_enter_at_a_block_are_overwritten_or_mixed_later() {
    let tensors = naive::tensors();
    let (clip, all) = (clip(&tensors), sequences(false));
    let context = var(&[N, WIDTH], 1, 0.5);
    let (first, second) = (var(&[3, WIDTH], 2, 0.5), var(&[3, WIDTH], 3, 0.5));
    let plan = clip.text.plan(&all).unwrap();
    // Entering before the first block, too, and two times.
    for (block, how, share) in [
        (1, How::Instead, 1.0),
        (1, How::Mixed(0.4), 0.4),
        (0, How::Mixed(0.8), 0.8),
    ] {
        let deep = vec![
            deep(block, At::Position(1), &first, How::Insert),
            deep(block + 1, At::Position(1), &second, how),
            deep(block + 1, At::Context, &context, How::Mixed(0.5)),
        ];
        let prompt = TextPrompt {
            context: Some(tensor(&context)),
            deep,
            ..TextPrompt::default()
        };
        let features = clip.text.encode(&plan, &prompt).unwrap();
        let naive = Naive { tensors: &tensors };
        let before = |i: usize, x: Tensor| match i {
            i if i == block => insert(&x, 1, &first),
            i if i == block + 1 => mix(&mix(&x, 1, &second, share)?, 4, &context, 0.5),
            _ => Ok(x),
        };
        let again = || {
            naive.texts(&all, Some(&context), &|_, run| {
                run(&Hooks {
                    before: &before,
                    ..Hooks::default()
                })
            })
        };
        same(&features, &again, &[&context, &first, &second]);
    }
}

#[test]
fn rows_of_zero_share_change_nothing_and_misplaced_ones_are_refused() {
    let tensors = naive::tensors();
    let (clip, all) = (clip(&tensors), sequences(false));
    let context = noise(&[N, WIDTH], 1, 0.5);
    let plan = clip.text.plan(&all).unwrap();
    let encode = |deep| {
        let context = Some(context.clone());
        clip.text.encode(
            &plan,
            &TextPrompt {
                context,
                deep,
                ..TextPrompt::default()
            },
        )
    };
    let plain = encode(Vec::new()).unwrap();
    let rows = var(&[2, WIDTH], 3, 0.5);
    let mixed = deep(1, At::Position(1), &rows, How::Mixed(0.0));
    assert!(gap(&encode(vec![mixed]).unwrap(), &plain) < 1e-6);
    let at = |position| deep(1, At::Position(position), &rows, How::Insert);
    assert!(encode(vec![at(4)]).is_ok());
    for bad in [
        at(0),
        at(5), // the shortest text ends at 4
        deep(1, At::Context, &rows, How::Insert),
        deep(LAYERS, At::Position(1), &rows, How::Instead),
    ] {
        assert!(encode(vec![bad]).is_err());
    }
}

/// Features of the tower with all changes, and what the naive one makes of them.
fn all_changes(apart: bool) {
    let tensors = naive::tensors();
    let (clip, texts) = (clip(&tensors), sequences(false));
    let context = var(&[N, WIDTH], 1, 0.5);
    let all = All::new(false);
    let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
    let rows: usize = lengths.iter().sum();
    let whole = |block, p| apart.then(|| mask(rows, block, p));
    let prompt = TextPrompt {
        context: Some(tensor(&context)),
        changes: all.changes(&whole),
        ..TextPrompt::default()
    };
    let plan = if apart {
        clip.text.plan_apart(&texts).unwrap()
    } else {
        let plan = clip.text.plan(&texts).unwrap();
        let mut dropped = prompt.clone();
        dropped.changes = all.changes(&|block, p| Some(mask(plan.rows(), block, p)));
        assert!(
            clip.text.encode(&plan, &dropped).is_err(),
            "rows are shared"
        );
        plan
    };
    assert_eq!(plan.rows() == rows, apart);
    let features = clip.text.encode(&plan, &prompt).unwrap();
    let again = || {
        let replaced = all.tensors(tensors.clone(), "");
        let naive = Naive { tensors: &replaced };
        naive.texts(&texts, Some(&context), &|i, run| {
            let first = lengths[..i].iter().sum::<usize>();
            let own = |block, p| {
                let whole = whole(block, p)?;
                Some(whole.narrow(0, first, lengths[i]).unwrap())
            };
            run(&hooked(
                &|block, p, x| all.project(block, p, x, &own),
                &|block, normed| all.beside(block, normed),
            ))
        })
    };
    let mut of = all.variables();
    of.push(&context);
    same(&features, &again, &of);
}

#[test]
fn changed_norms_low_ranks_and_branches_are_those_of_the_plain_tower() {
    all_changes(false);
}

#[test]
fn each_row_has_its_own_dropout() {
    all_changes(true);
}

#[test]
fn a_trainable_tower_trains_all_its_tensors_under_their_names() {
    let tensors: Tensors = naive::tensors();
    let (clip, texts) = (clip(&tensors), sequences(false));
    let context = var(&[N, WIDTH], 1, 0.5);
    let prompt = TextPrompt {
        context: Some(tensor(&context)),
        ..TextPrompt::default()
    };
    let plan = clip.text.plan(&texts).unwrap();
    let (tower, variables) = clip.text.trainable().unwrap();
    let names: Vec<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[0], "positional_embedding");
    assert_eq!(names[1], "transformer.resblocks.0");
    assert_eq!(
        names[LAYERS + 1..],
        ["ln_final.weight", "ln_final.bias", "text_projection"]
    );
    assert!(tower.is_tracked() && !clip.text.is_tracked());

    // The frozen tower's plan goes, and does not hide the positions' gradient.
    let features = tower.encode(&plan, &prompt).unwrap();
    let frozen = clip.text.encode(&plan, &prompt).unwrap();
    // The trained one runs on the processor wherever the frozen one does.
    let bound = if on_card() { 2e-6 } else { 0.0 };
    assert!(gap(&features, &frozen) <= bound);
    let loss = (&features * noise(&[4, JOINT], 5, 1.0))
        .unwrap()
        .sum_all()
        .unwrap();
    let gradients = loss.backward().unwrap();
    for (name, var) in &variables {
        let gradient = gradients
            .get(var)
            .unwrap_or_else(|| panic!("no gradient of {name}"));
        let step = (gradient * -0.1).unwrap();
        assert!(
            step.abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                > 0.0
        );
        var.set(&(var.as_tensor() + step).unwrap().detach())
            .unwrap();
    }
    assert!(gradients.get(&context).is_some());

    // After a step: what the naive tower makes of the moved tensors, and what a frozen copy keeps.
    let moved = tower.encode(&plan, &prompt).unwrap();
    assert!(gap(&moved, &features) > 1e-3);
    let mut after = tensors.clone();
    for (name, var) in &variables {
        let Some(block) = name.strip_prefix("transformer.resblocks.") else {
            after.insert(name.clone(), tensor(var));
            continue;
        };
        let shape = tower.blocks()[block.parse::<usize>().unwrap()].shape;
        let mut at = 0;
        for (part, shape) in clip::ops::block::PARTS.iter().zip(shape.parts()) {
            let n = shape.iter().product();
            let t = var.narrow(0, at, n).unwrap().reshape(shape).unwrap();
            after.insert(format!("{name}.{part}"), t);
            at += n;
        }
    }
    let naive = Naive { tensors: &after };
    let expected = naive.texts(&texts, Some(&context), &|_, run| run(&Hooks::default()));
    assert!(gap(&moved, &expected) < 5e-5);
    let frozen = tower.frozen().unwrap();
    variables[0]
        .1
        .set(&variables[0].1.zeros_like().unwrap())
        .unwrap();
    assert!(!frozen.is_tracked());
    assert_eq!(gap(&frozen.encode(&plan, &prompt).unwrap(), &moved), 0.0);
    assert!(gap(&tower.encode(&plan, &prompt).unwrap(), &moved) > 1e-3);
}
