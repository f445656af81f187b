use super::*;
use crate::changes::{Beside, Changes, Dropout, LowRank, Norm, Projection};
use crate::ops::{Activation, Arithmetic, Block, BlockShape, Norms};
use crate::prompts::{At, DeepText, How};
use crate::text::tree::Sharing;
use crate::text::{Family, Head, Slot};
use crate::wording::Wording;
use candle_core::Device;

fn noise(shape: &[usize], seed: u32) -> Tensor {
    let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1u32 << 24) as f32 * 0.4 - 0.2
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn tower() -> TextTower {
    let shape = BlockShape {
        width: 16,
        heads: 2,
        hidden: 32,
        activation: Activation::QuickGelu,
        norms: Norms::Clip,
    };
    TextTower {
        family: Family::Clip,
        wording: Wording::default(),
        type_embedding: None,
        norm_before: None,
        token_embedding: noise(&[20, 16], 1),
        token_rows: None,
        positional_embedding: noise(&[12, 16], 2),
        blocks: (0..3)
            .map(|i| Block::new(shape, noise(&[shape.len()], 10 + i)))
            .collect(),
        norm: Some((noise(&[16], 3), noise(&[16], 4))),
        head: Head::Linear(noise(&[16, 8], 5), None),
        memory: None,
        card: None,
    }
}

/// Rows of no piece are more.
const WHOLE: usize = usize::MAX;

/// 1,600 sequences behind one of two contexts.
fn many() -> Vec<Vec<Slot>> {
    [names(0, 700), names(1, 900)].concat()
}

/// `count` sequences: start, two context rows, a drawn name, end.
fn names(context: usize, count: u32) -> Vec<Vec<Slot>> {
    (0..count)
        .map(|n| {
            let context = [Slot::Context(2 * context), Slot::Context(2 * context + 1)];
            // The digits of `n`, so that no two share more than some first words.
            let words =
                (0..3 + n % 3).map(|i| Slot::Token(1 + (n / 17u32.pow(i.min(2)) + 5 * i) % 17));
            let start = [Slot::Token(0)].into_iter().chain(context);
            start.chain(words).chain([Slot::Token(19)]).collect()
        })
        .collect()
}

/// Features, and gradients of context and of a deep prompt.
fn run(tower: &TextTower, plan: &TextPlan) -> [Vec<f32>; 3] {
    let context = Var::from_tensor(&noise(&[4, 16], 6)).unwrap();
    let deep = Var::from_tensor(&noise(&[2, 16], 7)).unwrap();
    let prompt = TextPrompt {
        context: Some(context.as_tensor().clone()),
        deep: vec![DeepText::instead(1, 1, deep.as_tensor().clone())],
        ..TextPrompt::default()
    };
    let features = tower.encode(plan, &prompt).unwrap();
    let weights = noise(&[plan.sequences(), 8], 8);
    let loss = (&features * &weights).unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    [
        flat(&features),
        flat(gradients.get(context.as_tensor()).unwrap()),
        flat(gradients.get(deep.as_tensor()).unwrap()),
    ]
}

#[test]
fn no_bound_changes_a_bit() {
    let mut tower = tower();
    let plan = tower.plan(&many()).unwrap();
    let pieces = &plan.pieces;
    assert!(pieces.len() > 3, "{}", pieces.len());
    let unbounded = run(&tower, &plan);
    let largest = pieces.iter().map(|p| p.packed.rows.len()).max().unwrap();
    let some = (pieces[0].packed.rows.len() + largest) * tower.bytes_a_row();
    for (most, kept) in [(1, 0), (some, 1), (usize::MAX, pieces.len())] {
        tower.memory = Some(most);
        assert_eq!(tower.kept(pieces), kept);
        assert_eq!(run(&tower, &plan), unbounded, "{most}");
    }
}

#[test]
fn pieces_have_the_features_and_gradients_of_the_whole() {
    let tower = tower();
    let whole = tower.plan_in(&many(), Sharing::Starts, WHOLE).unwrap();
    assert_eq!(whole.pieces.len(), 1);
    let pieces = run(&tower, &tower.plan(&many()).unwrap());
    for (a, b) in pieces.iter().zip(&run(&tower, &whole)) {
        let largest = b.iter().fold(1f32, |m, v| m.max(v.abs()));
        let gaps = a.iter().zip(b).map(|(a, b)| (a - b).abs() / largest);
        let worst = gaps.fold(0f32, f32::max);
        assert!(worst < 1e-5, "{worst}");
    }
}

#[test]
fn features_come_in_the_order_in_which_texts_were_given() {
    let tower = tower();
    let mut sequences = many();
    sequences.reverse();
    let plan = tower.plan(&sequences).unwrap();
    assert!(plan.sequences() == 1600 && !plan.is_apart());
    let prompt = TextPrompt {
        context: Some(noise(&[4, 16], 6)),
        ..TextPrompt::default()
    };
    let features = tower.encode(&plan, &prompt).unwrap();
    for i in [0, 1, 777, 1599] {
        let alone = tower.plan(&sequences[i..=i]).unwrap();
        let alone = tower.encode(&alone, &prompt).unwrap();
        let gap = (features.narrow(0, i, 1).unwrap() - alone).unwrap();
        let gap = gap.abs().unwrap().max_all().unwrap();
        assert!(gap.to_scalar::<f32>().unwrap() < 1e-6, "{i}");
    }
    assert!(tower.encode(&tower.plan(&[]).unwrap(), &prompt).is_err());
    assert!(tower.plan(&[Vec::new()]).is_err());
    let longest = vec![Slot::Token(1); 12];
    assert!(tower.plan(std::slice::from_ref(&longest)).is_ok());
    assert!(
        tower
            .plan(&[[longest, vec![Slot::Token(2)]].concat()])
            .is_err()
    );
}

#[test]
fn a_trained_block_gets_its_gradient_whatever_the_number_of_rows() {
    let mut tower = tower();
    let theta = Var::from_tensor(&tower.blocks[1].theta).unwrap();
    tower.blocks[1].theta = theta.as_tensor().clone();
    let (gain, bias) = tower.norm.clone().unwrap();
    let norm = Var::from_tensor(&bias).unwrap();
    tower.norm = Some((gain, norm.as_tensor().clone()));
    let plan = tower.plan(&many()).unwrap();
    assert!(plan.pieces.len() > 1);
    let context = Var::from_tensor(&noise(&[4, 16], 6)).unwrap();
    let prompt = TextPrompt {
        context: Some(context.as_tensor().clone()),
        ..TextPrompt::default()
    };
    let features = tower.encode(&plan, &prompt).unwrap();
    let gradients = features
        .sqr()
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    for own in [&context, &theta, &norm] {
        let gradient = gradients.get(own).expect("a gradient of each");
        let largest = gradient.abs().unwrap().max_all().unwrap();
        assert!(largest.to_scalar::<f32>().unwrap() > 0.0);
    }
}

/// A prompt of every kind, with its variables; `dropout` for so many rows.
fn everything(dropout: Option<usize>) -> (TextPrompt, Vec<Var>) {
    let mut own = Vec::new();
    let mut draw = |shape: &[usize]| {
        own.push(Var::from_tensor(&noise(shape, 60 + own.len() as u32)).unwrap());
        own[own.len() - 1].as_tensor().clone()
    };
    let context = Some(draw(&[4, 16]));
    let mut deep = |block, at, how, count| DeepText {
        block,
        at,
        rows: draw(&[count, 16]),
        how,
    };
    let mut all = vec![
        deep(0, At::Position(1), How::Mixed(0.5), 1),
        deep(1, At::Context, How::Mixed(0.7), 4),
    ];
    if dropout.is_none() {
        all.push(deep(1, At::Position(1), How::Insert, 3));
        all.push(deep(2, At::Position(1), How::Instead, 3));
    }
    let mut changes = Changes::default();
    for (block, of) in [
        (0, Projection::Query),
        (1, Projection::Value),
        (2, Projection::Out),
    ] {
        changes.block(block).low_rank.push(LowRank {
            of,
            down: draw(&[2, 16]),
            up: draw(&[16, 2]),
            scale: 0.5,
            dropout: dropout.map(|rows| Dropout {
                kept: noise(&[rows, 16], 90 + block as u32).ge(-0.1f32).unwrap(),
                share: 0.75,
            }),
        });
    }
    let mut norm = || {
        Some(Norm {
            gain: draw(&[16]),
            bias: draw(&[16]),
        })
    };
    changes.block(1).norm_1 = norm();
    changes.block(2).norm_2 = norm();
    changes.norm_after = norm();
    changes.block(0).beside = Some(Beside {
        tensors: vec![draw(&[16, 16])],
        f: Arc::new(|tensors, rows| rows.matmul(&tensors[0])?.tanh()),
    });
    let prompt = TextPrompt {
        context,
        deep: all,
        changes,
    };
    (prompt, own)
}

/// Prompts that begin behind the first block, with their variables: rows that enter, and changes of each kind.
fn late(block: usize) -> Vec<(TextPrompt, Vec<Var>)> {
    let draw = |shape: &[usize], seed| Var::from_tensor(&noise(shape, seed)).unwrap();
    let mut all = Vec::new();
    for how in [How::Insert, How::Mixed(0.5)] {
        let rows = draw(&[2, 16], 70);
        let deep = DeepText {
            block,
            at: At::Position(1),
            rows: rows.as_tensor().clone(),
            how,
        };
        let prompt = TextPrompt {
            deep: vec![deep],
            ..TextPrompt::default()
        };
        all.push((prompt, vec![rows]));
    }
    let (one, two, three) = (draw(&[16, 16], 71), draw(&[16, 2], 72), draw(&[2, 16], 73));
    let mut prompt = TextPrompt::default();
    prompt.changes.block(block).beside = Some(Beside {
        tensors: vec![one.as_tensor().clone()],
        f: Arc::new(|tensors, rows| rows.matmul(&tensors[0])?.tanh()),
    });
    all.push((prompt, vec![one]));
    let mut prompt = TextPrompt::default();
    prompt.changes.block(block).low_rank.push(LowRank {
        of: Projection::Key,
        down: three.as_tensor().clone(),
        up: two.as_tensor().clone(),
        scale: 0.5,
        dropout: None,
    });
    all.push((prompt, vec![two, three]));
    all
}

/// Features and gradients of a weighted sum of them.
fn step(tower: &TextTower, plan: &TextPlan, prompt: &TextPrompt, own: &[Var]) -> Vec<Vec<f32>> {
    let features = tower.encode(plan, prompt).unwrap();
    let weights = noise(&[plan.sequences(), 8], 8);
    let loss = (&features * &weights).unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let own = own.iter().map(|v| gradients.get(v).unwrap());
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    [&features].into_iter().chain(own).map(flat).collect()
}

/// Texts without context.
fn plain(count: u32) -> Vec<Vec<Slot>> {
    let mut all = names(0, count);
    for (i, sequence) in (0..).zip(&mut all) {
        sequence[1] = Slot::Token(1 + i % 4);
        sequence[2] = Slot::Token(1 + i / 4 % 17);
    }
    all
}

#[test]
fn what_enters_the_first_prompted_block_is_computed_once_to_the_bit() {
    let mut tower = tower();
    for (count, pieces) in [(20, 1), (1500, 3)] {
        for block in [1, 2] {
            for (prompt, own) in late(block) {
                let plan = tower.plan(&plain(count)).unwrap();
                assert!(plan.pieces.len() >= pieces);
                let kept = || -> Vec<_> {
                    let of = |p: &Part| p.entering(tower.identity(block), || bail!("nothing"));
                    plan.pieces.iter().filter_map(|p| of(p).ok()).collect()
                };
                // A change of the first block, which changes nothing, has all of them run.
                let mut whole = prompt.clone();
                whole.changes.block(0);
                let expected = step(&tower, &plan, &whole, &own);
                assert!(kept().is_empty());
                assert_eq!(step(&tower, &plan, &prompt, &own), expected);
                let rows = kept();
                assert_eq!(rows.len(), plan.pieces.len());
                assert!(rows.iter().all(|rows| !rows.track_op()));
                assert_eq!(step(&tower, &plan, &prompt, &own), expected);
                let again = kept();
                let same = rows.iter().zip(&again).all(|(a, b)| a.id() == b.id());
                assert!(same, "nothing was computed anew");
            }
        }
        tower.memory = Some(1);
    }
}

#[test]
fn a_prompt_that_changes_no_block_has_them_run_once() {
    let tower = tower();
    let norm = [74, 75].map(|seed| Var::from_tensor(&noise(&[16], seed)).unwrap());
    let mut prompt = TextPrompt::default();
    prompt.changes.norm_after = Some(Norm {
        gain: norm[0].as_tensor().clone(),
        bias: norm[1].as_tensor().clone(),
    });
    let mut whole = prompt.clone();
    whole.changes.block(0);
    for count in [20, 1500] {
        let plan = tower.plan(&plain(count)).unwrap();
        let expected = step(&tower, &plan, &whole, &norm);
        for _ in 0..2 {
            assert_eq!(step(&tower, &plan, &prompt, &norm), expected);
        }
        let of = |p: &Part| p.entering(tower.identity(3), || bail!("nothing"));
        let kept = plan.pieces.iter().map(|p| of(p).unwrap().dim(0).unwrap());
        assert_eq!(kept.sum::<usize>(), plan.sequences());
    }
}

#[test]
fn rows_of_one_tower_do_not_enter_another() {
    let one = tower();
    let (mut trained, mut emulated) = (one.clone(), one.clone());
    trained.blocks[0].theta = noise(&[one.blocks[0].shape.len()], 99);
    // The same weights, multiplied otherwise.
    emulated.blocks[0].use_arithmetic(Arithmetic::Emulated);
    for other in [trained, emulated] {
        for (prompt, own) in late(1) {
            let plan = one.plan(&plain(20)).unwrap();
            let of_one = step(&one, &plan, &prompt, &own);
            let of_other = step(&other, &plan, &prompt, &own);
            let fresh = other.plan(&plain(20)).unwrap();
            assert_eq!(of_other, step(&other, &fresh, &prompt, &own));
            assert_ne!(of_other, of_one);
            assert_eq!(of_one, step(&one, &plan, &prompt, &own));
        }
    }
}

#[test]
fn a_block_that_is_trained_below_the_prompt_gets_its_gradient_at_every_step() {
    let mut tower = tower();
    let theta = Var::from_tensor(&tower.blocks[0].theta).unwrap();
    tower.blocks[0].theta = theta.as_tensor().clone();
    let (prompt, mut own) = late(2).swap_remove(0);
    let plan = tower.plan(&plain(20)).unwrap();
    own.push(theta.clone());
    let before = step(&tower, &plan, &prompt, &own);
    assert!(before[2].iter().any(|g| *g != 0.0));
    theta
        .set(&noise(&[tower.blocks[0].shape.len()], 99))
        .unwrap();
    assert_ne!(step(&tower, &plan, &prompt, &own)[0], before[0]);
}

#[test]
fn pieces_of_any_prompt_have_the_features_and_gradients_of_the_whole() {
    let mut tower = tower();
    let sequences = many();
    for drops in [false, true] {
        let (sharing, apart) = match drops {
            true => (
                Sharing::Nothing { causal: true },
                tower.plan_apart(&sequences),
            ),
            false => (Sharing::Starts, tower.plan(&sequences)),
        };
        let whole = tower.plan_in(&sequences, sharing, WHOLE).unwrap();
        let in_pieces = apart.unwrap();
        assert!(whole.pieces.len() == 1 && in_pieces.pieces.len() > 3);
        let (prompt, own) = everything(drops.then(|| whole.rows()));
        let mut results = Vec::new();
        for plan in [&whole, &in_pieces] {
            for memory in [None, Some(1)] {
                tower.memory = memory;
                let features = tower.encode(plan, &prompt).unwrap();
                let weights = noise(&[plan.sequences(), 8], 8);
                let loss = (&features * &weights).unwrap().sum_all().unwrap();
                let gradients = loss.backward().unwrap();
                let mut all = vec![features.clone()];
                all.extend(own.iter().map(|v| gradients.get(v).unwrap().clone()));
                results.push(all);
            }
        }
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let [whole, _, pieces, bounded] = &results[..] else {
            panic!("four results")
        };
        for ((a, b), bounded) in pieces.iter().zip(whole).zip(bounded) {
            let (a, b) = (flat(a), flat(b));
            assert_eq!(a, flat(bounded));
            let largest = b.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
            let gaps = a.iter().zip(&b).map(|(a, b)| (a - b).abs() / largest);
            let worst = gaps.fold(0f32, f32::max);
            assert!(worst < 1e-4, "{drops} {worst}");
        }
    }
}
