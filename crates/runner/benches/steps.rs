//! One training step of every method (one test picture of those that tune on it) on the CLIP that ships, with ten of
//! its class names and the published batch size.
//!
//! `cargo bench -p promptbed`. Pixels are noise; methods that see features get them.

use std::sync::Arc;
use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use methods::{Batch, Classes, Images, Init, METHODS, Sees, Settings};
use promptbed::backbone;
use promptbed::measure::bench;

const CLASSES: usize = 10;

fn steps(c: &mut Criterion) {
    let clip = backbone::shipped().expect("it is in the program");
    let names = bench::class_names(CLASSES, true).expect("there are more");
    let classes = Classes::new(&names, "bench", "a photo of a {}.");
    let size = clip.image_size();
    for entry in METHODS {
        let mut settings = Settings::default();
        let config = (entry.read)(&mut settings);
        let mut draw = Init::seeded(1);
        let Ok(mut method) = config.build(&Arc::clone(&clip), &classes, &mut draw) else {
            panic!("{} takes the CLIP that ships", entry.name)
        };
        let mut pixels = |n: usize| draw.normal(&[n, 3, size, size], 1.0).expect("a shape");
        let Some(training) = &entry.training else {
            let images = match config.sees() {
                Sees::Views { count, .. } => Images::Pixels(pixels(count)),
                _ => Images::Features(clip.encode_image(&pixels(16)).expect("pixels fit")),
            };
            let predictor = method.predictor().expect("it is bound");
            c.bench_function(&format!("{}: test", entry.name), |b| {
                b.iter(|| predictor.logits(&images).expect("images fit"));
            });
            continue;
        };
        let images = pixels(training.batch);
        let images = match config.sees() {
            Sees::Pixels => Images::Pixels(images),
            _ => Images::Features(clip.encode_image(&images).expect("pixels fit")),
        };
        let labels = (0..training.batch).map(|i| (i % CLASSES) as u32);
        let labels = Tensor::from_iter(labels, &Device::Cpu).expect("a list");
        let batch = Batch { images, labels };
        let mut optimizer = training.optimizer();
        c.bench_function(
            &format!("{}: step of {}", entry.name, training.batch),
            |b| {
                b.iter(|| {
                    let loss = method.loss(&batch).expect("the batch fits");
                    let gradients = method.gradients(&loss).expect("it is differentiable");
                    let parameters = method.parameters();
                    optimizer
                        .step(&parameters, &gradients, 1e-4)
                        .expect("gradients fit");
                });
            },
        );
    }
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
}

criterion_group!(name = benches; config = short(); targets = steps);
criterion_main!(benches);
