use candle_core::{Device, Tensor, Var};

use super::super::composed;
use super::super::layout::{Group, Layout};
use super::super::norm::layer_norm;
use super::super::replace::{Put, put_rows};
use super::*;
use passes::Passes;

mod passes;

pub(in crate::ops) fn noise(shape: &[usize], seed: u64, scale: f32) -> Tensor {
    let n = shape.iter().product();
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let data: Vec<f32> = (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            ((s >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
        })
        .collect();
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

pub(in crate::ops) fn block(activation: Activation, train: bool) -> Block {
    block_of(activation, Norms::Clip, train)
}

fn block_of(activation: Activation, norms: Norms, train: bool) -> Block {
    let shape = BlockShape {
        width: 32,
        heads: 2,
        hidden: 128,
        activation,
        norms,
    };
    let theta = noise(&[shape.len()], 7, 0.25);
    let theta = if train {
        Var::from_tensor(&theta).unwrap().as_tensor().clone()
    } else {
        theta
    };
    Block::new(shape, theta)
}

pub(in crate::ops) fn layouts() -> Vec<Layout> {
    vec![
        Layout::causal(&[
            Group {
                prefix: 3,
                own: vec![2, 5, 1],
            },
            Group {
                prefix: 1,
                own: vec![4; 40],
            },
            Group {
                prefix: 0,
                own: vec![6],
            },
        ]),
        branching(),
        Layout::full(3, 9),
        Layout::full(2, 60),
        Layout::apart(&[2, 5, 1]),
    ]
}

/// Trees of several levels, of more nodes than a task takes, so that tasks begin and end inside of branches.
fn branching() -> Layout {
    let (mut nodes, mut ends) = (Vec::new(), Vec::new());
    for root in 0..2 {
        let top = nodes.len();
        nodes.push((None, 2 + root));
        for branch in 0..5 {
            let middle = nodes.len();
            nodes.push((Some(top), 1 + branch % 3));
            let lower = nodes.len();
            nodes.push((Some(middle), 2));
            for leaf in 0..3 {
                ends.push(nodes.len());
                nodes.push((Some(lower), 1 + (leaf + branch) % 3));
            }
            ends.push(nodes.len());
            nodes.push((Some(middle), 1));
            if branch % 2 == 0 {
                ends.push(nodes.len());
                nodes.push((Some(top), 4));
            }
        }
    }
    ends.reverse(); // the order of sequences is not that of nodes
    Layout::trees(&nodes, ends)
}

pub(in crate::ops) fn largest_gap(a: &Tensor, b: &Tensor) -> f32 {
    let scale = b
        .abs()
        .unwrap()
        .max_all()
        .unwrap()
        .to_scalar::<f32>()
        .unwrap()
        .max(1e-6);
    (a - b)
        .unwrap()
        .abs()
        .unwrap()
        .max_all()
        .unwrap()
        .to_scalar::<f32>()
        .unwrap()
        / scale
}

#[test]
fn fused_block_and_its_gradients_equal_the_composed_ones() {
    for (activation, norms) in [
        (Activation::QuickGelu, Norms::Clip),
        (Activation::Gelu, Norms::Clip),
        (Activation::GeluTanh, Norms::Vit),
        (Activation::Gelu, Norms::Bert),
    ] {
        for layout in layouts() {
            for select in [false, true] {
                let layout = Arc::new(layout.clone());
                let ends: Vec<usize> = layout.ends().map(|n| n.length - 1).collect();
                let select = select.then_some(&ends[..]);
                let block = block_of(activation, norms, true);
                let x = Var::from_tensor(&noise(&[layout.rows(), 32], 3, 1.0)).unwrap();
                let fused = block.forward(x.as_tensor(), &layout, select).unwrap();
                let plain = composed::block(
                    &block,
                    x.as_tensor(),
                    &layout,
                    select,
                    &BlockChange::default(),
                )
                .unwrap();
                assert!(largest_gap(&fused, &plain) < 2e-5);
                let upstream = noise(fused.dims(), 11, 1.0);
                let a = (fused * &upstream)
                    .unwrap()
                    .sum_all()
                    .unwrap()
                    .backward()
                    .unwrap();
                let b = (plain * &upstream)
                    .unwrap()
                    .sum_all()
                    .unwrap()
                    .backward()
                    .unwrap();
                for t in [x.as_tensor(), &block.theta] {
                    let gap = largest_gap(a.get(t).unwrap(), b.get(t).unwrap());
                    assert!(gap < 1e-4, "{activation:?} {select:?} {gap}");
                }
            }
        }
    }
}

#[test]
fn fused_passes_in_the_portable_arithmetic_have_the_bits_of_one_pass_after_the_other() {
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    // Products of few rows and of many, whose inner side is cut into one block and into several.
    for (w, hidden) in [(32, 128), (640, 1300)] {
        for activation in [
            Activation::QuickGelu,
            Activation::Gelu,
            Activation::GeluTanh,
        ] {
            for layout in [branching(), Layout::full(1, 130), Layout::full(70, 3)] {
                for select in [false, true] {
                    let shape = BlockShape {
                        width: w,
                        heads: w / 16,
                        hidden,
                        activation,
                        norms: Norms::Clip,
                    };
                    let theta = noise(&[shape.len()], 7, 0.1);
                    let layout = Arc::new(layout.clone());
                    let ends: Vec<usize> = layout.ends().map(|n| n.length - 1).collect();
                    let select = select.then_some(&ends[..]);
                    let block = Block::new(shape, theta.clone());
                    let x = Var::from_tensor(&noise(&[layout.rows(), w], 3, 1.0)).unwrap();
                    let plain = block.forward(&x.detach(), &layout, select).unwrap();
                    let kept = block.forward(x.as_tensor(), &layout, select).unwrap();
                    let upstream = noise(kept.dims(), 11, 1.0);
                    let loss = (&kept * &upstream).unwrap().sum_all().unwrap();
                    let grads = loss.backward().unwrap();
                    let passes = Passes {
                        shape,
                        theta: &flat(&theta),
                        layout: &layout,
                        select,
                    };
                    let [a, b, c] = passes.run(&flat(&x), &flat(&upstream));
                    let told = format!("{w} {activation:?} {} rows, {select:?}", layout.rows());
                    let a = if activation == Activation::QuickGelu {
                        &a
                    } else {
                        &b
                    };
                    assert!(flat(&plain) == *a, "nothing kept: {told}");
                    assert!(flat(&kept) == b, "kept: {told}");
                    assert!(flat(grads.get(&x).unwrap()) == c, "gradient: {told}");
                }
            }
        }
    }
}

#[test]
fn blocks_of_every_kind_of_product_equal_the_composed_one_within_its_grade() {
    use super::super::tiles::{Grade, Unit};
    for (by, grade) in [
        (Products::Float32, 2e-5),
        (Products::Tiles(Unit::Amx, Grade::Six), 2e-5),
        (Products::Tiles(Unit::Emulated, Grade::Six), 2e-5),
        (Products::Tiles(Unit::Amx, Grade::Split), 5e-5),
        (Products::Tiles(Unit::Emulated, Grade::Split), 5e-5),
        (Products::Pairs, 3e-2),
        (Products::Tiles(Unit::Amx, Grade::Rounded), 3e-2),
        (Products::Tiles(Unit::Emulated, Grade::Rounded), 3e-2),
    ] {
        if !by.is_supported() {
            eprintln!("SKIPPED: this processor has no {by:?}");
            continue;
        }
        for layout in layouts() {
            for select in [false, true] {
                let layout = Arc::new(layout.clone());
                let ends: Vec<usize> = layout.ends().map(|n| n.length - 1).collect();
                let select = select.then_some(&ends[..]);
                let mut block = block(Activation::QuickGelu, false);
                block.products = by;
                let x = Var::from_tensor(&noise(&[layout.rows(), 32], 3, 1.0)).unwrap();
                let plain = BlockChange::default();
                let parts = |x: &Tensor| parts::forward(&block, &plain, x, &layout, select);
                let composed = composed::block(&block, x.as_tensor(), &layout, select, &plain);
                let composed = composed.unwrap();
                let wanted = weighted(&composed).backward().unwrap();
                let fused = block.forward(x.as_tensor(), &layout, select).unwrap();
                for out in [fused, parts(x.as_tensor()).unwrap()] {
                    let gap = largest_gap(&out, &composed);
                    assert!(gap < grade, "{by:?} {select:?}: {gap}");
                    let grads = weighted(&out).backward().unwrap();
                    let gap = largest_gap(grads.get(&x).unwrap(), wanted.get(&x).unwrap());
                    assert!(
                        gap < 4.0 * grade,
                        "{by:?} {select:?}: {gap} of the gradient"
                    );
                }
            }
        }
    }
}

#[test]
fn weights_that_are_trained_stay_in_the_portable_arithmetic() {
    let layout = Arc::new(branching());
    let x = noise(&[layout.rows(), 32], 3, 1.0);
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for change in [false, true] {
        let run = |arithmetic| {
            let mut block = block(Activation::QuickGelu, true);
            block.use_arithmetic(arithmetic);
            let norm_1 = change.then(|| block.norms().unwrap()[0].clone());
            let change = BlockChange {
                norm_1,
                ..BlockChange::default()
            };
            let y = block.forward_with(&x, &layout, None, &change).unwrap();
            let grads = weighted(&y).backward().unwrap();
            (flat(&y), flat(grads.get(&block.theta).unwrap()))
        };
        assert!(run(Arithmetic::Portable) == run(Arithmetic::Emulated));
    }
}

#[test]
fn matrices_that_are_kept_laid_out_give_the_bits_of_those_that_are_not() {
    let shape = BlockShape {
        width: 96,
        heads: 2,
        hidden: 384,
        activation: Activation::QuickGelu,
        norms: Norms::Clip,
    };
    let theta = noise(&[shape.len()], 8, 0.2);
    let frozen = Block::new(shape, theta.clone());
    let trained = Block::new(shape, Var::from_tensor(&theta).unwrap().as_tensor().clone());
    for rows in [7, 33, 100] {
        let layout = Arc::new(Layout::full(1, rows));
        let x = Var::from_tensor(&noise(&[rows, 96], 9, 1.0)).unwrap();
        let run = |block: &Block| {
            let out = block.forward(x.as_tensor(), &layout, None).unwrap();
            let grads = (&out * noise(&[rows, 96], 10, 1.0))
                .unwrap()
                .backward()
                .unwrap();
            let gradient = grads.get(x.as_tensor()).unwrap().clone();
            [out, gradient].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        };
        let wanted = run(&trained);
        // The first pass lays out, the second reads.
        assert_eq!(run(&frozen), wanted, "{rows} rows");
        assert_eq!(run(&frozen), wanted, "{rows} rows again");
    }
    let other = frozen.with((&theta * 2.0).unwrap());
    let layout = Arc::new(Layout::full(1, 33));
    let x = noise(&[33, 96], 9, 1.0);
    let [out, anew] = [&other, &Block::new(shape, other.theta.clone())]
        .map(|block| block.forward(&x, &layout, None).unwrap());
    assert_eq!(
        largest_gap(&out, &anew),
        0.0,
        "other weights are laid out anew"
    );
}

#[test]
fn a_block_kept_in_halves_gives_the_bits_of_its_numbers_in_float32() {
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let layout = Arc::new(Layout::full(1, 130));
    let block = block(Activation::QuickGelu, false);
    for kind in [candle_core::DType::F16, candle_core::DType::BF16] {
        let small = block.with(block.theta.to_dtype(kind).unwrap());
        let whole = block.with(small.theta.to_dtype(candle_core::DType::F32).unwrap());
        let [a, b] = [small, whole].map(|block| {
            let x = Var::from_tensor(&noise(&[layout.rows(), 32], 3, 1.0)).unwrap();
            let y = block.forward(x.as_tensor(), &layout, None).unwrap();
            let grads = weighted(&y).backward().unwrap();
            (flat(&y), flat(grads.get(&x).unwrap()))
        });
        assert!(a == b, "{kind:?}");
    }
}

/// Slope of `loss` along a random direction, by central differences, against the gradient's.
pub(in crate::ops) fn check_slope(x: &Tensor, gradient: &Tensor, loss: impl Fn(&Tensor) -> f64) {
    for seed in 1..4 {
        let direction = noise(x.dims(), 100 + seed, 1.0);
        let step = 2e-3;
        let up = loss(&(x + (&direction * step).unwrap()).unwrap());
        let down = loss(&(x - (&direction * step).unwrap()).unwrap());
        let measured = (up - down) / (2.0 * step);
        let computed = f64::from(
            (gradient * &direction)
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap(),
        );
        let scale = measured.abs().max(1.0);
        assert!(
            (measured - computed).abs() / scale < 5e-3,
            "{measured} against {computed}"
        );
    }
}

pub(in crate::ops) fn weighted(y: &Tensor) -> Tensor {
    (y * noise(y.dims(), 13, 1.0)).unwrap().sum_all().unwrap()
}

pub(in crate::ops) fn number(t: &Tensor) -> f64 {
    // In double, term by term: the differences are small against the sum.
    t.flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap()
        .iter()
        .map(|v| f64::from(*v))
        .sum()
}

#[test]
fn block_gradient_agrees_with_finite_differences() {
    for layout in layouts() {
        let layout = Arc::new(layout);
        for arithmetic in [Arithmetic::Portable, Arithmetic::Emulated] {
            let mut block = block(Activation::QuickGelu, false);
            block.use_arithmetic(arithmetic);
            let x = Var::from_tensor(&noise(&[layout.rows(), 32], 5, 1.0)).unwrap();
            let y = block.forward(x.as_tensor(), &layout, None).unwrap();
            let weights = noise(y.dims(), 13, 1.0);
            let grads = weighted(&y).backward().unwrap();
            assert!(
                grads.get(&block.theta).is_none(),
                "frozen weights get no gradient"
            );
            check_slope(&x.as_detached_tensor(), grads.get(&x).unwrap(), |x| {
                number(&(block.forward(x, &layout, None).unwrap() * &weights).unwrap())
            });
        }
    }
}

#[test]
fn put_rows_and_norm_gradients_agree_with_finite_differences() {
    let rows = Arc::new(vec![(0, 1), (2, 0), (4, 1)]);
    let (gain, bias) = (noise(&[16], 1, 1.0), noise(&[16], 2, 1.0));
    for put in [Put::Instead, Put::OnTop] {
        let run = |x: &Tensor, p: &Tensor| {
            layer_norm(&put_rows(x, p, &rows, put).unwrap(), &gain, &bias).unwrap()
        };
        let x = Var::from_tensor(&noise(&[5, 16], 3, 1.0)).unwrap();
        let p = Var::from_tensor(&noise(&[2, 16], 4, 1.0)).unwrap();
        let y = run(&x, &p);
        let weights = noise(y.dims(), 13, 1.0);
        let grads = weighted(&y).backward().unwrap();
        let (x0, p0) = (x.as_detached_tensor(), p.as_detached_tensor());
        check_slope(&x0, grads.get(&x).unwrap(), |x| {
            number(&(run(x, &p0) * &weights).unwrap())
        });
        check_slope(&p0, grads.get(&p).unwrap(), |p| {
            number(&(run(&x0, p) * &weights).unwrap())
        });
        let row0: Vec<f32> = grads.get(&x).unwrap().get(0).unwrap().to_vec1().unwrap();
        assert_eq!(
            row0.iter().all(|v| *v == 0.0),
            put == Put::Instead,
            "a replaced row gets no gradient"
        );
    }
}

#[test]
fn threads_do_not_change_a_bit_of_forward_or_backward() {
    for layout in [
        Layout::causal(&[Group {
            prefix: 5,
            own: vec![7; 60],
        }]),
        branching(),
    ] {
        same_on_any_threads(Arc::new(layout));
    }
}

fn same_on_any_threads(layout: Arc<Layout>) {
    let block = block(Activation::QuickGelu, true);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let x = Var::from_tensor(&noise(&[layout.rows(), 32], 5, 1.0)).unwrap();
            let y = block.forward(x.as_tensor(), &layout, None).unwrap();
            let grads = weighted(&y).backward().unwrap();
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            (
                flat(&y),
                flat(grads.get(&x).unwrap()),
                flat(grads.get(&block.theta).unwrap()),
            )
        })
    };
    assert_eq!(run(1), run(2));
}
