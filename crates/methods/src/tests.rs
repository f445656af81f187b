//! Claims about the methods, on a tiny random CLIP.

mod algorithms;
mod every_method;
mod going_on;
mod other_towers;
mod tiny_clip;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use clip::Clip;

use crate::parts::coupled::CoupledConfig;
use crate::parts::templates;
use crate::{
    Backbones, Batch, Classes, Descriptions, Entry, Images, Init, Labelled, METHODS, Method, Needs,
    Settings, Shots, Support, Validation, find, load_parameters,
};
pub(crate) use tiny_clip::{base, clip, noise, novel, pixels};

/// What a method with these needs is built on: where it learns from a second backbone, that is the same CLIP again, with
/// prompts of noise.
pub(crate) fn backbones(clip: &Arc<Clip>, needs: &Needs) -> Backbones {
    let mut on = Backbones::from(clip.clone());
    if needs.teacher {
        on.teacher = Some(clip.clone());
    }
    if needs.teacher_prompts {
        let prompts = build("ivlp", "n_ctx_text = 2\ndepth_text = 2", clip).parameters();
        let prompts = prompts.into_iter().zip(700..);
        let noisy = prompts.map(|((name, var), seed)| (name, noise(var.dims(), seed, 1.0)));
        on.teacher_prompts = Some(Arc::new(noisy.collect()));
    }
    on
}

fn build_for(
    entry: &Entry,
    config: &str,
    clip: &Arc<Clip>,
    classes: &Classes,
) -> candle_core::Result<Box<dyn Method>> {
    let reading = entry.read(config.parse().unwrap());
    assert_eq!(reading.problems, [], "{}", entry.name);
    let needs = reading.config.needs();
    let on = backbones(clip, &needs);
    let mut method = reading.config.build(&on, classes, &mut Init::seeded(1))?;
    if let Some(support) = needs.support {
        let passes = match support {
            Support::Plain => 1,
            Support::Passes(n) => n as u64,
        };
        // Two shots of each class, whose pictures are noise.
        let labels: Vec<u32> = (0..2 * classes.len() as u32).map(|i| i / 2).collect();
        let labelled = |passes: std::ops::Range<u64>| Labelled {
            passes: passes
                .map(|seed| Images::Pixels(pixels(labels.len(), seed)))
                .collect(),
            labels: labels.clone(),
        };
        let validation = (needs.validation != Validation::None).then(|| labelled(900..901));
        let shots = Shots {
            train: labelled(1000..1000 + passes),
            validation,
            test: needs.peeks.then(|| labelled(901..902)),
            seed: 1,
        };
        method.fit(&shots)?;
        if let Some(search) = reading.config.search() {
            for round in 0..search.rounds.min(2) as u64 {
                method.search(&shots, 70 + round)?;
            }
            method.finish()?;
        }
    }
    Ok(method)
}

pub(crate) fn build(name: &str, config: &str, clip: &Arc<Clip>) -> Box<dyn Method> {
    build_for(find(name).unwrap(), config, clip, &base()).unwrap()
}

/// Methods that are trained before testing.
fn trained() -> impl Iterator<Item = &'static Entry> {
    METHODS.iter().filter(|e| e.training.is_some())
}

pub(crate) fn batch() -> Batch {
    let labels = Tensor::new(&[0u32, 2, 1, 1], &Device::Cpu).unwrap();
    Batch {
        second: Some(Images::Pixels(pixels(4, 4))),
        ..Batch::new(Images::Pixels(pixels(4, 3)), labels)
    }
}

pub(crate) fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn logits(method: &dyn Method, images: &Images) -> Vec<f32> {
    flat(&method.predictor().unwrap().logits(images).unwrap())
}

fn number(t: &Tensor) -> f64 {
    f64::from(t.to_scalar::<f32>().unwrap())
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    flat(a)
        .iter()
        .zip(flat(b))
        .map(|(a, b)| f64::from(*a) * f64::from(b))
        .sum()
}

fn largest_gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// Features `[n, E]` that the adapter whose layer is called `name` gets of the batch: CoPrompt's stand behind MaPLe's
/// prompts, which have their values by now.
fn seen_by_adapter(name: &str, method: &dyn Method, clip: &Arc<Clip>) -> Tensor {
    let images = batch().images;
    let pixels = images.pixels().unwrap();
    if name.starts_with("adapter.") {
        return clip.encode_image(pixels).unwrap();
    }
    let config = CoupledConfig::read(&mut Settings::new(toml::Table::new()));
    let host = config.make(clip, &base(), &mut Init::seeded(1)).unwrap();
    let own: Vec<String> = host.parameters().into_iter().map(|(n, _)| n).collect();
    let all = method.parameters().into_iter();
    let values = all.filter(|(n, _)| own.contains(n));
    let values = values.map(|(n, v)| (n, v.as_detached_tensor())).collect();
    load_parameters(&host, &values).unwrap();
    let fixed = candle_core::Var::as_detached_tensor;
    if name.starts_with("adapter_text") {
        return host.class_features(&fixed).unwrap();
    }
    let prompt = host.image_prompt(&fixed).unwrap();
    clip.transformer().unwrap().encode(pixels, &prompt).unwrap()
}

/// Whether a tensor is of a text tower that a method trains as a whole.
fn is_of_own_tower(name: &str) -> bool {
    let block = name.strip_prefix("transformer.resblocks.");
    let others = [
        "positional_embedding",
        "ln_final.weight",
        "ln_final.bias",
        "text_projection",
        "logit_scale",
    ];
    others.contains(&name) || block.is_some_and(|number| number.parse::<usize>().is_ok())
}

/// Moves every trained tensor to values of the towers' own size, where curvature is moderate, and hidden units away from
/// the kink of their ReLU; a whole tower that is trained is that by itself.
fn scatter(method: &dyn Method, clip: &Arc<Clip>) {
    let parameters = method.parameters();
    let has_tower = parameters.iter().any(|(n, _)| n == "positional_embedding");
    for ((name, var), seed) in parameters.iter().zip(500..) {
        if has_tower && is_of_own_tower(name) {
            continue;
        }
        let values = noise(var.dims(), seed, 1.0);
        if name.starts_with("adapter") && name.contains(".fc.") {
            // Rows that see all pictures alike, every other one with the other sign.
            let seen = seen_by_adapter(name, method, clip);
            let seen = seen.mean_keepdim(0).unwrap();
            let alike = match name.contains("fc.0") {
                true => (seen * 0.1)
                    .unwrap()
                    .broadcast_add(&(values * 0.003).unwrap()),
                false => values.abs().unwrap() * 0.2,
            };
            let signs = (0..var.dims()[0]).map(|i| if i % 2 == 0 { 1f32 } else { -1.0 });
            let signs = Tensor::from_iter(signs, &Device::Cpu)
                .unwrap()
                .unsqueeze(1)
                .unwrap();
            var.set(&alike.unwrap().broadcast_mul(&signs).unwrap())
                .unwrap();
            continue;
        }
        let hidden = name.contains("adapter");
        let values = match name.rsplit("meta_net.").next() {
            Some(_) if hidden && name.ends_with(".down.0.weight") => values * 0.02,
            Some(_) if hidden && name.ends_with(".0.bias") => values.sign().unwrap() * 0.6,
            Some("linear1.weight") => values * 0.1,
            Some("linear1.bias" | "VPT_image_trans.conv1.1.bias") => values.sign().unwrap() * 0.6,
            Some("linear2.weight") => values * 0.6,
            _ if name.ends_with("weight") => values * 0.2,
            _ => values * 0.8,
        };
        var.set(&values.unwrap()).unwrap();
    }
}
