//! One training step of every method (one test picture of those that tune on it) on the CLIP that ships, with ten of
//! its class names and the published batch size.
//!
//! `cargo bench -p promptbed`. Pixels are noise; methods that see features get them.

use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use methods::{Batch, Classes, Images, Init, METHODS, Sees};
use promptbed::backbone;
use promptbed::measure::bench;

const CLASSES: usize = 10;

fn steps(c: &mut Criterion) {
    let clip = backbone::shipped().expect("it is in the program");
    let names = bench::class_names(CLASSES, true).expect("there are more");
    let classes = Classes::new(&names, "bench", "a photo of a {}.");
    let size = clip.image_size();
    for entry in METHODS {
        let case = bench::find(entry.name).and_then(|case| case.config());
        let config = case.unwrap_or_else(|_| entry.default_config());
        let needs = config.needs();
        // What only a suite can give is timed in a run.
        if needs.teacher || needs.descriptions || needs.support.is_some() {
            continue;
        }
        let mut draw = Init::seeded(1);
        let Ok(mut method) = config.build(&clip.clone().into(), &classes, &mut draw) else {
            panic!("{} takes the CLIP that ships", entry.name)
        };
        let mut pixels = |n: usize| draw.normal(&[n, 3, size, size], 1.0).expect("a shape");
        let Some(training) = &entry.training else {
            let images = match needs.sees {
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
        let images = match needs.sees {
            Sees::Pixels => Images::Pixels(images),
            _ => Images::Features(clip.encode_image(&images).expect("pixels fit")),
        };
        let labels = (0..training.batch).map(|i| (i % CLASSES) as u32);
        let labels = Tensor::from_iter(labels, &Device::Cpu).expect("a list");
        let batch = Batch::new(images, labels);
        let mut optimizer = training.optimizer();
        c.bench_function(
            &format!("{}: step of {}", entry.name, training.batch),
            |b| {
                b.iter(|| {
                    methods::step(method.as_mut(), &mut optimizer, &batch, 1e-4)
                        .expect("the batch fits");
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
