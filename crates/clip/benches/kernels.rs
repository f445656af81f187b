//! The kernels that towers spend their time in, at the sizes of ViT-B/16: its image tower with 8 pictures (1576 rows of
//! width 768) and its text tower with 50 class names behind a shared context (405 rows of width 512).
//!
//! `cargo bench -p clip`. Weights and inputs are drawn. What this machine cannot do is skipped, and said.

#![expect(clippy::print_stderr, reason = "says what is skipped")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use candle_core::{DType, Device, Tensor, Var};
use clip::ops::attention::{self, Heads, Plan};
use clip::ops::bfloat;
use clip::ops::gemm::{Mat, Threads, product};
use clip::ops::{Activation, Arithmetic, Block, BlockShape, Group, Layout, Norms, rows};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const IMAGE: BlockShape = BlockShape {
    width: 768,
    heads: 12,
    hidden: 3072,
    activation: Activation::QuickGelu,
    norms: Norms::Clip,
};
const TEXT: BlockShape = BlockShape {
    width: 512,
    heads: 8,
    hidden: 2048,
    activation: Activation::QuickGelu,
    norms: Norms::Clip,
};

fn pictures() -> Layout {
    Layout::full(8, 197)
}

fn names() -> Layout {
    Layout::causal(&[Group {
        prefix: 5,
        own: vec![8; 50],
    }])
}

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..n)
        .map(|_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1u32 << 24) as f32 - 0.5
        })
        .collect()
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("product");
    for (m, k, n) in [(1576, 768, 3072), (1576, 3072, 768), (405, 512, 2048)] {
        let (a, w) = (noise(m * k, 1), noise(n * k, 2));
        let mut out = vec![0f32; m * n];
        group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
        group.bench_function(format!("float32 {m}x{k}x{n}"), |b| {
            b.iter(|| {
                let (a, w) = (Mat::new(&a, m, k, k), Mat::new(&w, n, k, k));
                product(&mut out, n, a, w.t(), false, Threads::Pool);
            });
        });
    }
    group.finish();
}

fn attentions(c: &mut Criterion) {
    let by = Arithmetic::Portable;
    for (name, shape, layout) in [("pictures", IMAGE, pictures()), ("names", TEXT, names())] {
        let (r, w) = (layout.rows(), shape.width);
        let heads = Heads {
            count: shape.heads,
            size: w / shape.heads,
        };
        let plan = Plan::all(&layout);
        let (q, kv, grad) = (noise(r * w, 3), noise(r * 2 * w, 4), noise(r * w, 5));
        let (mut out, mut logsum) = (vec![0f32; r * w], vec![0f32; r * shape.heads]);
        c.bench_function(&format!("attention forward, {name}"), |b| {
            b.iter(|| attention::forward(by, &plan, heads, &q, &kv, &mut out, &mut logsum));
        });
        let (mut dq, mut dkv) = (vec![0f32; r * w], vec![0f32; r * 2 * w]);
        let saved = attention::Saved {
            q: &q,
            kv: &kv,
            out: &out,
            logsum: &logsum,
        };
        c.bench_function(&format!("attention backward, {name}"), |b| {
            b.iter(|| {
                dq.fill(0.0);
                dkv.fill(0.0);
                attention::backward(by, &plan, heads, &saved, &grad, &mut dq, &mut dkv);
            });
        });
    }
}

fn row_kernels(c: &mut Criterion) {
    let (r, w, h) = (1576, IMAGE.width, IMAGE.hidden);
    let (x, gain, bias, grad) = (noise(r * w, 6), noise(w, 7), noise(w, 8), noise(r * w, 9));
    let mut out = vec![0f32; r * w];
    c.bench_function("layer norm forward 1576x768", |b| {
        b.iter(|| rows::norm_forward(&x, &gain, &bias, rows::NORM_EPSILON, &mut out));
    });
    c.bench_function("layer norm backward 1576x768", |b| {
        b.iter(|| rows::norm_backward(&x, &gain, &grad, rows::NORM_EPSILON, &mut out));
    });
    let hidden = noise(r * h, 10);
    let mut active = vec![0f32; r * h];
    c.bench_function("quick gelu forward 1576x3072", |b| {
        b.iter(|| rows::quick_gelu(&hidden, &mut active));
    });
    c.bench_function("quick gelu backward 1576x3072", |b| {
        b.iter(|| rows::quick_gelu_backward(&hidden, &mut active));
    });
}

fn blocks(c: &mut Criterion) {
    for (name, shape, layout) in [("pictures", IMAGE, pictures()), ("names", TEXT, names())] {
        let (rows, layout) = (layout.rows(), Arc::new(layout));
        let weights: Vec<f32> = noise(shape.len(), 11).iter().map(|v| v * 0.05).collect();
        let theta = Tensor::from_vec(weights, shape.len(), &Device::Cpu).expect("a flat tensor");
        let x = Tensor::from_vec(
            noise(rows * shape.width, 12),
            (rows, shape.width),
            &Device::Cpu,
        )
        .expect("rows of the width");
        let halves = theta.to_dtype(DType::F16).expect("on the CPU");
        let block = Block::new(shape, theta);
        c.bench_function(&format!("block forward, {name}"), |b| {
            b.iter(|| black_box(block.forward(&x, &layout, None).expect("shapes fit")));
        });
        let compact = Block::new(shape, halves);
        c.bench_function(&format!("block forward of half precision, {name}"), |b| {
            b.iter(|| black_box(compact.forward(&x, &layout, None).expect("shapes fit")));
        });
        if bfloat::is_supported() {
            let rounded = block.rounded();
            c.bench_function(&format!("block forward in bfloat16, {name}"), |b| {
                b.iter(|| black_box(rounded.forward(&x, &layout, None).expect("shapes fit")));
            });
        }
        for arithmetic in [Arithmetic::Amx, Arithmetic::Emulated] {
            let by = arithmetic.name();
            if !arithmetic.is_supported() {
                eprintln!(
                    "SKIPPED: block forward by {by}, {name}: this machine has no matrix unit"
                );
                continue;
            }
            let mut exact = block.clone();
            exact.use_arithmetic(arithmetic);
            c.bench_function(&format!("block forward by {by}, {name}"), |b| {
                b.iter(|| black_box(exact.forward(&x, &layout, None).expect("shapes fit")));
            });
            let rounded = exact.rounded();
            c.bench_function(&format!("block forward by {by} in bfloat16, {name}"), |b| {
                b.iter(|| black_box(rounded.forward(&x, &layout, None).expect("shapes fit")));
            });
        }
        let tracked = Var::from_tensor(&x).expect("a copy");
        c.bench_function(&format!("block forward and backward, {name}"), |b| {
            b.iter(|| {
                let out = block
                    .forward(tracked.as_tensor(), &layout, None)
                    .expect("shapes fit");
                let loss = out.sum_all().expect("a sum");
                black_box(loss.backward().expect("the block is differentiable"))
            });
        });
    }
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group!(name = benches; config = short(); targets = products, attentions, row_kernels, blocks);
criterion_main!(benches);
