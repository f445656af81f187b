//! How fast this machine is at each kind of pass: a CLIP of the same widths with few blocks and drawn weights, timed for
//! some hundred milliseconds, as many at a time as trials would run.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use clip::Clip;
use clip::weights::{Architecture, ImageTower};
use methods::{Batch, Classes, Images, Init, Method, Training};

use crate::device::Place;
use crate::measure::bench::{backbone, class_names, prompts};
use crate::run::work;

/// Seconds that a kind of pass is timed for, once at least.
const TIMED: f64 = 0.15;
/// Blocks of the timed towers, where these do not make a pass longer than [`LONG`] operations.
const MOST_BLOCKS: usize = 4;
const FEWEST_BLOCKS: usize = 2;
const LONG: f64 = 10e9;
/// Operations a timed image batch has about.
const BATCH: f64 = 15e9;

/// Operations a second that one job does, by kind of pass as in [`work::Load`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Text with a gradient.
    pub text_step: f64,
    /// Text without.
    pub text_forward: f64,
    /// Images with prompts and a gradient; 0 where the image tower takes none.
    pub image_step: f64,
    /// Images without.
    pub image_forward: f64,
}

impl Rates {
    /// Seconds of one job.
    pub fn seconds(&self, load: &work::Load) -> f64 {
        let part = |operations: f64, rate: f64| {
            if operations > 0.0 {
                operations / rate
            } else {
                0.0
            }
        };
        part(load.text_step, self.text_step)
            + part(load.text_forward, self.text_forward)
            + part(load.image_step, self.image_step)
            + part(load.image_forward, self.image_forward)
    }
}

/// Times `jobs` jobs of `threads` threads at once with the towers at `place`, over texts of `classes` classes; the mean job.
///
/// # Errors
/// A method that cannot take these sizes.
pub fn measure(
    a: &Architecture,
    classes: usize,
    (jobs, threads): (usize, usize),
    place: &Place,
) -> Result<Rates> {
    let thin = thin(a);
    let mut clip = backbone::build(&thin)?;
    place.take(&mut clip)?;
    let clip = Arc::new(clip);
    let one = || {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()?;
        pool.install(|| timed(&thin, &clip, classes))
    };
    let all = std::thread::scope(|scope| {
        let started: Vec<_> = (0..jobs)
            .map(|_| {
                std::thread::Builder::new()
                    .stack_size(16 << 20)
                    .spawn_scoped(scope, one)
                    .expect("threads can be started")
            })
            .collect();
        let ended = started.into_iter().map(|t| t.join().expect("no panic"));
        ended.collect::<Result<Vec<Rates>>>()
    })?;
    let mean = |of: fn(&Rates) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
    Ok(Rates {
        text_step: mean(|r| r.text_step),
        text_forward: mean(|r| r.text_forward),
        image_step: mean(|r| r.image_step),
        image_forward: mean(|r| r.image_forward),
    })
}

/// The same widths with fewer blocks.
fn thin(a: &Architecture) -> Architecture {
    let mut thin = a.clone();
    thin.text.layers = a.text.layers.min(FEWEST_BLOCKS);
    // What is drawn is a CLIP of these sizes: its products are as fast.
    thin.family = clip::text::Family::Clip;
    if let ImageTower::Pooled {
        blocks,
        patch,
        image,
    } = a.image.clone()
    {
        thin.image = ImageTower::Transformer {
            blocks,
            patch,
            image,
        };
    }
    match &mut thin.image {
        ImageTower::Transformer { blocks, .. } => {
            let all = blocks.layers;
            blocks.layers = all.min(MOST_BLOCKS);
            let is_long = work::image(&thin, 0).forward > LONG;
            let few = all.min(if is_long { FEWEST_BLOCKS } else { MOST_BLOCKS });
            if let ImageTower::Transformer { blocks, .. } = &mut thin.image {
                blocks.layers = few;
            }
            if !is_long {
                thin.text.layers = a.text.layers.min(MOST_BLOCKS);
            }
        }
        ImageTower::Pooled { .. } => unreachable!("it has become a transformer"),
        ImageTower::ResNet { layers, .. } => *layers = [1; 4],
    }
    thin
}

/// Operations a second of `operations` done again and again; the first time warms up.
fn rate(operations: f64, mut pass: impl FnMut() -> Result<()>) -> Result<f64> {
    pass()?;
    let (clock, mut times) = (Instant::now(), 0);
    while times == 0 || clock.elapsed().as_secs_f64() < TIMED {
        pass()?;
        times += 1;
    }
    Ok(f64::from(times) * operations / clock.elapsed().as_secs_f64())
}

fn method(
    name: &str,
    config: &str,
    clip: &Arc<Clip>,
    classes: &Classes,
) -> Result<Box<dyn Method>> {
    let entry = methods::find(name).context("the registry has it")?;
    let config = entry.read(config.parse()?).checked()?;
    Ok(config.build(&clip.clone().into(), classes, &mut Init::seeded(1))?)
}

/// One training step after another: no change, but all the work of one.
fn step(method: &mut dyn Method, batch: &Batch) -> Result<()> {
    let mut optimizer = Training::sgd(1, 1, 0.0).optimizer();
    methods::step(method, &mut optimizer, batch, 0.0)?;
    Ok(())
}

fn timed(a: &Architecture, clip: &Arc<Clip>, count: usize) -> Result<Rates> {
    let names = class_names(count, false)?;
    let classes = Classes::new(&names, "calibration", "a photo of a {}.");
    let text = clip.text.work(&prompts(clip, &classes)?.0);
    let frozen = work::image(a, 0);
    let batch = (BATCH / frozen.forward).clamp(2.0, 32.0) as usize;
    let size = a.image.image_size();
    let mut draw = Init::seeded(1);
    let pixels = draw.normal(&[batch, 3, size, size], 1.0)?;
    let labels: Vec<u32> = (0..batch).map(|i| (i % count) as u32).collect();
    let labels = Tensor::new(labels, &Device::Cpu)?;
    let features = draw.normal(&[batch, a.embedding], 1.0)?;
    let mut words = method("coop", "init = 'a photo of a'", clip, &classes)?;
    let cached = Batch::new(Images::Features(features), labels.clone());
    let mut rates = Rates {
        image_forward: rate(batch as f64 * frozen.forward, || {
            clip.encode_image(&pixels)?;
            Ok(())
        })?,
        text_step: rate(text.both(), || step(words.as_mut(), &cached))?,
        text_forward: rate(text.forward, || {
            words.predictor()?;
            Ok(())
        })?,
        image_step: 0.0,
    };
    if let ImageTower::Transformer { blocks, .. } = &a.image {
        // Deep prompts enter every block but the first.
        let config = format!("n_ctx = 4\ndepth = {}", blocks.layers);
        let mut vision = method("vpt", &config, clip, &classes)?;
        let prompted = Batch::new(Images::Pixels(pixels), labels);
        rates.image_step = rate(batch as f64 * work::image(a, 4).both(), || {
            step(vision.as_mut(), &prompted)
        })?;
    }
    Ok(rates)
}
