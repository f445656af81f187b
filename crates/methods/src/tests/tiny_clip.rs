//! A tiny random CLIP, its classes and pictures: every method runs on it in milliseconds, without a file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Classes, Descriptions, templates};
use candle_core::{Device, Tensor};
use clip::weights::{Activation, Transformer, Weights};
use clip::{Clip, Tokenizer};

const TEXT: Transformer = Transformer {
    width: 64,
    layers: 3,
    hidden: 128,
    heads: 1,
};
const VISION: Transformer = Transformer {
    width: 128,
    layers: 2,
    hidden: 128,
    heads: 2,
};
const EMBEDDING: usize = 128;
const PATCH: usize = 8;
const IMAGE: usize = 16;

const BASE: [&str; 3] = ["annual crop", "sea_lake", "cat"];
const NOVEL: [&str; 2] = ["river", "annual sea"];
/// Words of the tests beside class names and the crate's own templates.
const WORDS: [&str; 6] = [
    "X",
    "a photo of a",
    "a type of flower, of pet, texture",
    "a centered satellite photo of",
    "this is one picture of",
    "habitat, color, shape, which is, which has",
];

/// Words that came later: their rows stand behind all others, which stay as they were.
const LATER: [&str; 2] = ["a person doing, a type of aircraft", "eurosat, any"];

/// Evenly spread values within `scale` of 0, the same for the same `seed`.
pub fn noise(shape: &[usize], seed: u64, scale: f32) -> Tensor {
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

/// Classes of `dataset` with a template that is nobody's default; each is described by two texts.
pub fn classes_of(dataset: &str, names: &[&str]) -> Classes {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let classes = Classes::new(&names, dataset, "a centered satellite photo of {}.");
    let describe = |name: &String| {
        let texts = vec![format!("a type of {name}"), "texture of flower".to_owned()];
        (name.clone(), texts)
    };
    let all: Descriptions = classes.names.iter().map(describe).collect();
    classes.described(Some(Arc::new(all)))
}

/// Three classes.
pub fn base() -> Classes {
    classes_of("eurosat", &BASE)
}

/// Two others.
pub fn novel() -> Classes {
    classes_of("eurosat", &NOVEL)
}

/// `[count, 3, 16, 16]`.
pub fn pixels(count: usize, seed: u64) -> Tensor {
    noise(&[count, 3, IMAGE, IMAGE], seed, 1.5)
}

/// Token ids of every text that a method makes of the tests' classes.
fn vocabulary() -> Vec<u32> {
    let tokenizer = Tokenizer::shared();
    let mut ids: BTreeSet<u32> = BTreeSet::new();
    for text in WORDS.iter().chain(&BASE).chain(&NOVEL) {
        ids.extend(tokenizer.sequence(&text.replace('_', " ")).unwrap());
        ids.extend(tokenizer.sequence(text).unwrap());
    }
    for template in templates::imagenet().iter().chain(&templates::SELECTED) {
        ids.extend(tokenizer.sequence(&template.replace("{}", "")).unwrap());
    }
    let mut rows: Vec<u32> = ids.iter().copied().collect();
    for text in LATER {
        let new = tokenizer.sequence(text).unwrap().into_iter();
        rows.extend(new.filter(|id| ids.insert(*id)));
    }
    rows
}

struct Tensors {
    named: BTreeMap<String, Tensor>,
    seed: u64,
}

impl Tensors {
    /// Numbers of deviation `deviation`.
    fn put(&mut self, name: &str, shape: &[usize], deviation: f32) {
        self.seed += 1;
        self.named.insert(
            name.to_owned(),
            noise(shape, self.seed, deviation * 3f32.sqrt()),
        );
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.put(&format!("{name}.bias"), &[width], 0.1);
        self.seed += 1;
        let gain = (noise(&[width], self.seed, 0.2) + 1.0).unwrap();
        self.named.insert(format!("{name}.weight"), gain);
    }

    fn linear(&mut self, weight: &str, bias: &str, out: usize, from: usize) {
        self.put(weight, &[out, from], 1.0 / (from as f32).sqrt());
        self.put(bias, &[out], 0.1);
    }

    fn tower(&mut self, base: &str, sizes: &Transformer) {
        let (w, h) = (sizes.width, sizes.hidden);
        for i in 0..sizes.layers {
            let block = format!("{base}transformer.resblocks.{i}");
            self.norm(&format!("{block}.ln_1"), w);
            self.linear(
                &format!("{block}.attn.in_proj_weight"),
                &format!("{block}.attn.in_proj_bias"),
                3 * w,
                w,
            );
            self.norm(&format!("{block}.ln_2"), w);
            for (part, out, from) in [
                ("attn.out_proj", w, w),
                ("mlp.c_fc", h, w),
                ("mlp.c_proj", w, h),
            ] {
                self.linear(
                    &format!("{block}.{part}.weight"),
                    &format!("{block}.{part}.bias"),
                    out,
                    from,
                );
            }
        }
    }
}

/// 3 text layers of width 64, 2 image layers of width 128, 2 by 2 patches, a vocabulary of the tests' words, and a
/// temperature of 20, so that probabilities stay away from 0 and 1.
pub fn clip() -> Arc<Clip> {
    let vocabulary = vocabulary();
    let mut t = Tensors {
        named: BTreeMap::new(),
        seed: 40,
    };
    t.put(
        "token_embedding.weight",
        &[vocabulary.len(), TEXT.width],
        0.5,
    );
    t.put("positional_embedding", &[77, TEXT.width], 0.2);
    t.tower("", &TEXT);
    t.norm("ln_final", TEXT.width);
    t.put("text_projection", &[TEXT.width, EMBEDDING], 0.125);
    t.put(
        "visual.conv1.weight",
        &[VISION.width, 3, PATCH, PATCH],
        0.07,
    );
    t.put("visual.class_embedding", &[VISION.width], 0.5);
    t.put(
        "visual.positional_embedding",
        &[1 + (IMAGE / PATCH).pow(2), VISION.width],
        0.5,
    );
    t.norm("visual.ln_pre", VISION.width);
    t.tower("visual.", &VISION);
    t.norm("visual.ln_post", VISION.width);
    t.put("visual.proj", &[VISION.width, EMBEDDING], 0.1);
    t.named.insert(
        "logit_scale".to_owned(),
        Tensor::new(20f32.ln(), &Device::Cpu).unwrap(),
    );
    let weights = Weights::made_of(t.named, Activation::QuickGelu, Some(vocabulary)).unwrap();
    Arc::new(Clip::from_weights(&weights).unwrap())
}
