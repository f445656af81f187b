use candle_core::{DType, Device, Tensor, Var};

use super::super::block::tests::{
    block, check_slope, largest_gap, layouts, noise, number, weighted,
};
use super::super::composed;
use super::*;
use crate::changes::{Beside, Dropout, LowRank};

const W: usize = 32;
const RANK: usize = 2;

fn var(shape: &[usize], seed: u64, scale: f32) -> Var {
    Var::from_tensor(&noise(shape, seed, scale)).unwrap()
}

fn ends(layout: &Layout) -> Vec<usize> {
    layout.ends().map(|n| n.length - 1).collect()
}

/// Two norms, and a low rank with dropout of its own on each projection; and all their variables in the order in which
/// they are visited.
fn everything(rows: usize, dropout: bool) -> (BlockChange, Vec<Var>) {
    let mut own = Vec::new();
    let mut draw = |shape: &[usize], seed| {
        own.push(var(shape, seed, 0.4));
        own[own.len() - 1].as_tensor().clone()
    };
    let projections = [
        Projection::Query,
        Projection::Key,
        Projection::Value,
        Projection::Out,
    ];
    let low_rank = projections.into_iter().zip(30..).map(|(of, seed)| LowRank {
        of,
        down: draw(&[RANK, W], seed),
        up: draw(&[W, RANK], seed + 10),
        scale: 0.7,
        dropout: dropout.then(|| Dropout {
            kept: noise(&[rows, W], seed + 20, 1.0).ge(-0.5f32).unwrap(),
            share: 0.75,
        }),
    });
    let low_rank = low_rank.collect();
    let mut norm = |seed| Norm {
        gain: draw(&[W], seed),
        bias: draw(&[W], seed + 1),
    };
    let change = BlockChange {
        norm_1: Some(norm(21)),
        norm_2: Some(norm(23)),
        low_rank,
        beside: None,
    };
    (change, own)
}

#[test]
fn parts_with_every_change_and_their_gradients_equal_the_composed_ones() {
    for layout in layouts() {
        for (select, dropout) in [(false, false), (false, true), (true, true)] {
            for activation in [Activation::QuickGelu, Activation::Gelu] {
                let layout = Arc::new(layout.clone());
                let ends = ends(&layout);
                let select = select.then_some(&ends[..]);
                let block = block(activation, true);
                let x = var(&[layout.rows(), W], 3, 1.0);
                let (change, own) = everything(layout.rows(), dropout);
                let parts = block
                    .forward_with(x.as_tensor(), &layout, select, &change)
                    .unwrap();
                let plain =
                    composed::block(&block, x.as_tensor(), &layout, select, &change).unwrap();
                assert!(largest_gap(&parts, &plain) < 2e-5);
                let [a, b] = [parts, plain].map(|y| weighted(&y).backward().unwrap());
                let own = own.iter().map(Var::as_tensor);
                for t in own.chain([x.as_tensor(), &block.theta]) {
                    let gap = largest_gap(a.get(t).unwrap(), b.get(t).unwrap());
                    assert!(gap < 2e-4, "{select:?} {dropout} {gap}");
                }
            }
        }
    }
}

#[test]
fn a_low_rank_is_the_fused_block_with_its_product_in_the_weights() {
    let layout = Arc::new(layouts().swap_remove(0));
    let ends = ends(&layout);
    let block = block(Activation::QuickGelu, false);
    let x = noise(&[layout.rows(), W], 3, 1.0);
    let (change, own) = everything(layout.rows(), false);
    let delta = |i: usize| -> Tensor {
        let low_rank = &change.low_rank[i];
        let product = low_rank.up.matmul(&low_rank.down).unwrap();
        (product * low_rank.scale).unwrap().flatten_all().unwrap()
    };
    let frozen = block.parts().unwrap();
    let flat = |i: usize| frozen[i].flatten_all().unwrap();
    let added = Tensor::cat(&[delta(0), delta(1), delta(2)], 0).unwrap();
    let norms = [&change.norm_1, &change.norm_2].map(|n| n.clone().unwrap());
    let theta = [
        norms[0].gain.clone(),
        norms[0].bias.clone(),
        (flat(2) + added).unwrap(),
        flat(3),
        (flat(4) + delta(3)).unwrap(),
        flat(5),
        norms[1].gain.clone(),
        norms[1].bias.clone(),
    ];
    let rest = (8..12).map(flat);
    let theta: Vec<Tensor> = theta.into_iter().chain(rest).collect();
    let merged = Block::new(block.shape, Tensor::cat(&theta, 0).unwrap());
    for select in [None, Some(&ends[..])] {
        let parts = block.forward_with(&x, &layout, select, &change).unwrap();
        let fused = merged.forward(&x, &layout, select).unwrap();
        assert!(largest_gap(&parts, &fused) < 2e-5);
        let [a, b] = [parts, fused].map(|y| weighted(&y).backward().unwrap());
        for t in own.iter().map(Var::as_tensor) {
            let gap = largest_gap(a.get(t).unwrap(), b.get(t).unwrap());
            assert!(gap < 2e-4, "{gap}");
        }
    }
}

#[test]
fn a_change_that_changes_nothing_leaves_the_block_as_it_is() {
    let block = block(Activation::QuickGelu, false);
    let [norm_1, norm_2] = block.norms().unwrap();
    for layout in layouts() {
        let layout = Arc::new(layout);
        let (mut change, _) = everything(layout.rows(), true);
        change.norm_1 = Some(norm_1.clone());
        change.norm_2 = Some(norm_2.clone());
        for low_rank in &mut change.low_rank {
            low_rank.up = low_rank.up.zeros_like().unwrap();
        }
        let x = noise(&[layout.rows(), W], 5, 1.0);
        let ends = ends(&layout);
        for select in [None, Some(&ends[..])] {
            let plain = block.forward(&x, &layout, select).unwrap();
            let changed = block.forward_with(&x, &layout, select, &change).unwrap();
            assert!(largest_gap(&changed, &plain) < 1e-6);
            let none = block
                .forward_with(&x, &layout, select, &BlockChange::default())
                .unwrap();
            let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(bits(&none), bits(&plain));
        }
    }
}

#[test]
fn gradients_of_changes_agree_with_finite_differences() {
    let layout = Arc::new(layouts().swap_remove(0));
    let ends = ends(&layout);
    let block = block(Activation::QuickGelu, false);
    let x = noise(&[layout.rows(), W], 5, 1.0);
    for select in [None, Some(&ends[..])] {
        let (change, own) = everything(layout.rows(), true);
        let y = block.forward_with(&x, &layout, select, &change).unwrap();
        let gradients = weighted(&y).backward().unwrap();
        assert!(gradients.get(&block.theta).is_none());
        for (i, one) in own.iter().enumerate() {
            check_slope(one.as_tensor(), gradients.get(one).unwrap(), |moved| {
                let changes = crate::Changes {
                    blocks: [(0, change.clone())].into(),
                    ..crate::Changes::default()
                };
                let mut place = 0..;
                let changes = changes.map(&mut |t| {
                    let is_moved = place.next() == Some(i);
                    Ok(if is_moved { moved.clone() } else { t.clone() })
                });
                let change = &changes.unwrap().blocks[&0];
                let y = block.forward_with(&x, &layout, select, change).unwrap();
                number(&(&y * noise(y.dims(), 13, 1.0)).unwrap())
            });
        }
    }
}

#[test]
fn a_branch_beside_is_added_and_sees_the_first_norm() {
    let layout = Arc::new(layouts().swap_remove(1));
    let ends = ends(&layout);
    let block = block(Activation::QuickGelu, false);
    let (inside, _) = everything(layout.rows(), false);
    let matrix = var(&[W, W], 8, 0.5);
    let beside = Beside {
        tensors: vec![matrix.as_tensor().clone()],
        f: Arc::new(|tensors, rows| rows.matmul(&tensors[0])?.tanh()),
    };
    let x = var(&[layout.rows(), W], 5, 1.0);
    for inside in [BlockChange::default(), inside] {
        for select in [None, Some(&ends[..])] {
            let change = BlockChange {
                beside: Some(beside.clone()),
                ..inside.clone()
            };
            let with = |change| block.forward_with(x.as_tensor(), &layout, select, change);
            let (y, own) = (with(&change).unwrap(), with(&inside).unwrap());
            let [norm, _] = block.norms_with(&inside).unwrap();
            let mut normed = composed::layer_norm(x.as_tensor(), &norm.gain, &norm.bias).unwrap();
            if let Some(positions) = select {
                let rows = layout.chosen(positions).into_iter().map(|r| r as u32);
                let rows = Tensor::new(rows.collect::<Vec<_>>(), &Device::Cpu).unwrap();
                normed = normed.index_select(&rows, 0).unwrap();
            }
            let branch = normed.matmul(matrix.as_tensor()).unwrap().tanh().unwrap();
            let expected = (own + branch).unwrap();
            assert!(largest_gap(&y, &expected) < 1e-5);
            let [a, b] = [y, expected].map(|y| weighted(&y).backward().unwrap());
            for t in [&x, &matrix] {
                assert!(largest_gap(a.get(t).unwrap(), b.get(t).unwrap()) < 1e-4);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_and_halves_are_widened() {
    let layout = Arc::new(layouts().swap_remove(2));
    let block = block(Activation::QuickGelu, false);
    let x = noise(&[layout.rows(), W], 5, 1.0);
    let (change, _) = everything(layout.rows() - 1, true);
    let error = block.forward_with(&x, &layout, None, &change).unwrap_err();
    assert!(error.to_string().contains("dropout of"), "{error}");
    assert!(linear(&x, &noise(&[4, 3], 1, 1.0), &noise(&[4], 1, 1.0)).is_err());

    let (change, _) = everything(layout.rows(), true);
    let small = Block::new(block.shape, block.theta.to_dtype(DType::F16).unwrap());
    let widened = Block::new(block.shape, small.theta.to_dtype(DType::F32).unwrap());
    let [a, b] = [small, widened].map(|b| b.forward_with(&x, &layout, None, &change).unwrap());
    assert!(largest_gap(&a, &b) == 0.0);
}
