//! What one picture costs: decoding, the test view, a training view, 64 TPT views, and reading it back from a pack.
//!
//! `cargo bench -p datasets`. The photo is made up: 500 x 375 pixels of smooth shapes and noise, JPEG quality 90.

use criterion::{Criterion, criterion_group, criterion_main};
use datasets::transform::{normalised, test_view, train_view};
use datasets::{Error, Item, Pack, Pictures, Rgb, Stream, decode, views};

fn photo() -> Vec<u8> {
    let (width, height) = (500, 375);
    let mut stream = Stream::named(1, "photo", 0);
    let mut data = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let wave = ((x + channel * 40) as f64 / 37.0).sin() * (y as f64 / 23.0).cos();
                data.push((128.0 + 90.0 * wave + 8.0 * stream.normal()).clamp(0.0, 255.0) as u8);
            }
        }
    }
    let mut jpeg = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    jpeg.set_size(width, height);
    jpeg.set_quality(90.0);
    let mut jpeg = jpeg
        .start_compress(Vec::new())
        .expect("memory can be written");
    jpeg.write_scanlines(&data).expect("all lines are there");
    jpeg.finish().expect("memory can be written")
}

/// The same photo however often.
struct Photos(Vec<u8>);

impl Pictures for Photos {
    fn rgb(&self, item: &Item) -> Result<Rgb, Error> {
        decode(&self.0).map_err(|source| Error::Picture {
            path: item.path.clone(),
            source,
        })
    }

    fn content_key(&self, _: &Item) -> Result<String, Error> {
        Ok("photo".to_owned())
    }
}

fn pictures(c: &mut Criterion) {
    let jpeg = photo();
    let picture = decode(&jpeg).expect("it was just written");
    c.bench_function("decode jpeg 500x375", |b| b.iter(|| decode(&jpeg)));
    for size in [224, 32] {
        c.bench_function(&format!("test view {size}"), |b| {
            b.iter(|| test_view(&picture, size))
        });
        let mut stream = Stream::named(1, "views", 0);
        c.bench_function(&format!("train view {size}"), |b| {
            b.iter(|| train_view(&picture, size, &mut stream))
        });
    }
    let view = test_view(&picture, 224);
    c.bench_function("normalise 224", |b| b.iter(|| normalised(&view)));
    let mut stream = Stream::named(1, "tpt", 0);
    for mix in [false, true] {
        c.bench_function(&format!("64 tpt views 224, augmix {mix}"), |b| {
            b.iter(|| views::tpt_views(&picture, 224, 64, mix, &mut stream));
        });
    }
    let photos = Photos(jpeg);
    let items: Vec<Item> = (0..256)
        .map(|number| Item {
            path: number.to_string().into(),
            label: 0,
            class_name: String::new(),
        })
        .collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pack = Pack::open_or_build(folder.path(), &photos, &items, 224).expect("the photo decodes");
    let mut turn = 0;
    c.bench_function("view 224 from a pack", |b| {
        b.iter(|| {
            turn = (turn + 1) % pack.len();
            pack.view(turn)
        });
    });
    c.bench_function("view 224 from the photo", |b| {
        b.iter(|| photos.rgb(&items[0]).map(|rgb| test_view(&rgb, 224)));
    });
}

criterion_group!(benches, pictures);
criterion_main!(benches);
