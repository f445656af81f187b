//! What holds of towers on a card beside what the seams' tests show: bits, memory, precisions, and how many launches a
//! step takes. On the null driver.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "../../gpu/tests/null_driver.rs"]
mod null_driver;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use clip::device::{Gpu, Precision};
use clip::ops::Activation;
use clip::{Clip, DeepText, How, ImagePrompt, Slot, TextPrompt};

const WIDTH: usize = 64;
const JOINT: usize = 32;
const VOCABULARY: usize = 40;

fn noise(shape: &[usize], seed: u64, scale: f32) -> Tensor {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            ((s >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A CLIP of `depth` blocks and pictures of 32 pixels.
fn clip(depth: usize) -> Clip {
    let mut tensors = BTreeMap::new();
    let mut put = |name: String, shape: &[usize], scale: f32| {
        let seed = 1 + tensors.len() as u64;
        let drawn = noise(shape, seed, scale);
        let gain = name.contains("ln_") && name.ends_with("weight");
        let drawn = if gain { (drawn + 1.0).unwrap() } else { drawn };
        tensors.insert(name, drawn);
    };
    for tower in ["", "visual."] {
        for i in 0..depth {
            let of = |part: &str| format!("{tower}transformer.resblocks.{i}.{part}");
            for norm in ["ln_1", "ln_2"] {
                put(of(&format!("{norm}.weight")), &[WIDTH], 0.1);
                put(of(&format!("{norm}.bias")), &[WIDTH], 0.1);
            }
            put(of("attn.in_proj_weight"), &[3 * WIDTH, WIDTH], 0.2);
            put(of("attn.in_proj_bias"), &[3 * WIDTH], 0.1);
            put(of("attn.out_proj.weight"), &[WIDTH, WIDTH], 0.1);
            put(of("attn.out_proj.bias"), &[WIDTH], 0.1);
            put(of("mlp.c_fc.weight"), &[4 * WIDTH, WIDTH], 0.1);
            put(of("mlp.c_fc.bias"), &[4 * WIDTH], 0.1);
            put(of("mlp.c_proj.weight"), &[WIDTH, 4 * WIDTH], 0.1);
            put(of("mlp.c_proj.bias"), &[WIDTH], 0.1);
        }
    }
    put(
        "token_embedding.weight".to_owned(),
        &[VOCABULARY, WIDTH],
        0.5,
    );
    put("positional_embedding".to_owned(), &[77, WIDTH], 0.2);
    put("text_projection".to_owned(), &[WIDTH, JOINT], 0.2);
    put("visual.conv1.weight".to_owned(), &[WIDTH, 3, 8, 8], 0.1);
    put("visual.class_embedding".to_owned(), &[WIDTH], 0.5);
    put("visual.positional_embedding".to_owned(), &[17, WIDTH], 0.3);
    put("visual.proj".to_owned(), &[WIDTH, JOINT], 0.2);
    for norm in ["ln_final", "visual.ln_pre", "visual.ln_post"] {
        put(format!("{norm}.weight"), &[WIDTH], 0.1);
        put(format!("{norm}.bias"), &[WIDTH], 0.1);
    }
    let scale = Tensor::new(3f32, &Device::Cpu).unwrap();
    tensors.insert("logit_scale".to_owned(), scale);
    Clip::frozen(&tensors, Activation::QuickGelu).unwrap()
}

fn on(gpu: &Gpu, clip: &Clip, precision: Precision) -> Clip {
    let mut clip = clip.clone();
    assert!(clip.use_gpu(gpu, precision).unwrap().is_empty());
    clip
}

/// `classes` texts of four context rows and names of one to three words.
fn classes(classes: usize) -> Vec<Vec<Slot>> {
    let of = |class: usize| {
        let context = (0..4).map(Slot::Context);
        let words = (0..=class % 3).map(|i| Slot::Token((3 + (class * 7 + i * 11) % 30) as u32));
        let start = [Slot::Token(1)].into_iter().chain(context);
        start.chain(words).chain([Slot::Token(39)]).collect()
    };
    (0..classes).map(of).collect()
}

fn pixels(count: usize) -> Tensor {
    noise(&[count, 3, 32, 32], 70, 1.0)
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest gap beside the largest number.
fn gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let most = b.iter().fold(0f32, |m, v| m.max(v.abs()));
    let gaps = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    gaps.fold(0f32, f32::max) / most
}

/// Prompts of MaPLe's kind: context and deep rows in both towers, which a gradient goes to.
struct Prompts {
    context: Var,
    deep: Vec<Var>,
    tokens: Var,
    deep_tokens: Vec<Var>,
}

impl Prompts {
    fn new(depth: usize) -> Self {
        let var = |rows, seed| Var::from_tensor(&noise(&[rows, WIDTH], seed, 0.5)).unwrap();
        Self {
            context: var(4, 1),
            deep: (1..depth).map(|i| var(4, 10 + i as u64)).collect(),
            tokens: var(2, 2),
            deep_tokens: (1..depth).map(|i| var(2, 30 + i as u64)).collect(),
        }
    }

    fn text(&self) -> TextPrompt {
        let deep = self.deep.iter().enumerate();
        TextPrompt {
            context: Some(self.context.as_tensor().clone()),
            deep: deep
                .map(|(i, rows)| DeepText::instead(i + 1, 1, rows.as_tensor().clone()))
                .collect(),
            ..TextPrompt::default()
        }
    }

    fn image(&self) -> ImagePrompt {
        ImagePrompt {
            tokens: Some(self.tokens.as_tensor().clone()),
            deep: self
                .deep_tokens
                .iter()
                .map(|v| v.as_tensor().clone())
                .collect(),
            ..ImagePrompt::default()
        }
    }

    fn variables(&self) -> Vec<&Var> {
        let text = [&self.context].into_iter().chain(&self.deep);
        text.chain([&self.tokens])
            .chain(&self.deep_tokens)
            .collect()
    }
}

/// Logits of a step and the gradients of a weighted sum of them.
fn step(clip: &Clip, prompts: &Prompts, texts: &[Vec<Slot>]) -> (Vec<f32>, Vec<Vec<f32>>) {
    let plan = clip.text.plan(texts).unwrap();
    let texts = clip.text.encode(&plan, &prompts.text()).unwrap();
    let tower = clip.transformer().unwrap();
    let images = tower.encode(&pixels(3), &prompts.image()).unwrap();
    let logits = images.matmul(&texts.t().unwrap()).unwrap();
    let weights = noise(logits.dims(), 77, 1.0);
    let loss = (&logits * weights).unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let own = prompts.variables().into_iter();
    let own = own.map(|v| flat(gradients.get(v).unwrap()));
    (flat(&logits), own.collect())
}

#[test]
fn every_precision_is_as_near_to_the_processor_as_its_rounding_lets_it() {
    let Some(gpu) = null_driver::card() else {
        return;
    };
    let (clip, prompts, texts) = (clip(3), Prompts::new(3), classes(9));
    let (logits, gradients) = step(&clip, &prompts, &texts);
    for (precision, bound) in [
        (Precision::Float32, 2e-5),
        (Precision::Tf32, 1e-2),
        (Precision::Half, 1e-2),
    ] {
        let (found, own) = step(&on(&gpu, &clip, precision), &prompts, &texts);
        let of_logits = gap(&found, &logits);
        assert!(of_logits < bound, "{precision:?}: logits {of_logits}");
        // Something was rounded.
        assert!(precision == Precision::Float32 || of_logits > 1e-6);
        for (i, (found, expected)) in own.iter().zip(&gradients).enumerate() {
            let gap = gap(found, expected);
            assert!(gap < 3.0 * bound, "{precision:?}: gradient {i}: {gap}");
        }
    }
}

#[test]
fn a_step_has_the_same_bits_again_and_on_two_threads_at_once() {
    let Some(gpu) = null_driver::card() else {
        return;
    };
    let (clip, prompts, texts) = (clip(2), Prompts::new(2), classes(7));
    let clip = on(&gpu, &clip, Precision::Half);
    let first = step(&clip, &prompts, &texts);
    let others = std::thread::scope(|scope| {
        let steps =
            [(); 2].map(|()| scope.spawn(|| [(); 3].map(|()| step(&clip, &prompts, &texts))));
        steps.map(|s| s.join().unwrap())
    });
    assert!(others.iter().flatten().all(|other| *other == first));
}

#[test]
fn a_bound_on_memory_changes_no_bit_and_a_gradient_can_be_asked_for_twice() {
    let Some(gpu) = null_driver::card() else {
        return;
    };
    // Contexts of their own: nothing is shared but the start, so that there is more than one piece.
    let own = |class: usize| {
        let context = (0..30).map(|i| Slot::Context(class * 30 + i));
        let start = [Slot::Token(1)].into_iter().chain(context);
        start.chain([Slot::Token(39)]).collect()
    };
    let texts: Vec<Vec<Slot>> = (0..140).map(own).collect();
    let context = Var::from_tensor(&noise(&[140 * 30, WIDTH], 5, 0.5)).unwrap();
    let mut clip = on(&gpu, &clip(1), Precision::Float32);
    let plan = clip.text.plan(&texts).unwrap();
    assert!(plan.rows() > 4096);
    let prompt = TextPrompt {
        context: Some(context.as_tensor().clone()),
        ..TextPrompt::default()
    };
    let mut all = Vec::new();
    for memory in [None, Some(1)] {
        clip.text.memory = memory;
        let features = clip.text.encode(&plan, &prompt).unwrap();
        for seed in [1, 2] {
            let weights = noise(features.dims(), seed, 1.0);
            let loss = (&features * weights).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            all.push(flat(gradients.get(&context).unwrap()));
        }
    }
    assert!(all[0] == all[2] && all[1] == all[3] && all[0] != all[1]);
}

#[test]
fn rows_that_enter_at_a_late_block_have_the_same_bits_with_what_is_below_kept() {
    let Some(gpu) = null_driver::card() else {
        return;
    };
    let clip = on(&gpu, &clip(3), Precision::Half);
    let mut texts = classes(9);
    for slot in texts.iter_mut().flatten() {
        if let Slot::Context(row) = slot {
            *slot = Slot::Token(2 + *row as u32);
        }
    }
    let plan = clip.text.plan(&texts).unwrap();
    let rows = Var::from_tensor(&noise(&[2, WIDTH], 3, 0.5)).unwrap();
    let late = TextPrompt {
        deep: vec![DeepText {
            how: How::Insert,
            ..DeepText::instead(2, 1, rows.as_tensor().clone())
        }],
        ..TextPrompt::default()
    };
    // A change of the first block, which changes nothing, has all blocks run.
    let mut whole = late.clone();
    whole.changes.block(0);
    let results = [whole.clone(), late.clone(), late].map(|prompt| {
        let features = clip.text.encode(&plan, &prompt).unwrap();
        let weights = noise(features.dims(), 7, 1.0);
        let loss = (&features * weights).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        (flat(&features), flat(gradients.get(&rows).unwrap()))
    });
    assert!(results[0] == results[1] && results[1] == results[2]);
    assert!(results[0].1.iter().any(|g| *g != 0.0));

    // One that changes nothing at all.
    whole.deep.clear();
    let encode = |prompt: &TextPrompt| flat(&clip.text.encode(&plan, prompt).unwrap());
    let expected = encode(&whole);
    for _ in 0..2 {
        assert!(encode(&TextPrompt::default()) == expected);
    }
}

/// Bytes of a card of little memory.
const ROOM: u64 = 130_000_000;

/// Runs an ignored test of this file in a process of its own.
fn alone(test: &str, variable: (&str, &str)) -> std::process::Output {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env(variable.0, variable.1)
        .output()
        .unwrap()
}

#[test]
fn memory_that_waits_in_one_thread_makes_room_for_another_and_what_is_too_much_is_said() {
    if null_driver::card().is_none() {
        return;
    }
    let output = alone("room_alone", ("NULL_DRIVER_MEMORY", &ROOM.to_string()));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("the GPU's memory is used up"), "{said}");
}

#[test]
#[ignore = "run by the test above, on a card of little memory"]
fn room_alone() {
    let Some(gpu) = null_driver::card() else {
        return;
    };
    let clip = on(&gpu, &clip(1), Precision::Float32);
    let tower = clip.transformer().unwrap();
    let encode = |count| tower.encode(&pixels(count), &ImagePrompt::default());
    std::thread::scope(|scope| {
        let (first, wait) = std::sync::mpsc::channel();
        let (_done, over) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            encode(3000).unwrap();
            first.send(()).unwrap();
            // Until the other is done, or has failed.
            let _ = over.recv();
        });
        wait.recv().unwrap();
        // Each takes more than half of what there is, and keeps it waiting for its next call.
        let held = null_driver::counted("null_live_bytes");
        assert!(2 * held > ROOM, "{held}");
        encode(3000).unwrap();
    });
    // Pixels alone are more than the card has.
    let too_many = (ROOM / (3 * 32 * 32 * 4) + 1) as usize;
    let tokens = Var::from_tensor(&noise(&[2, WIDTH], 2, 0.5)).unwrap();
    let prompt = ImagePrompt {
        tokens: Some(tokens.as_tensor().clone()),
        ..ImagePrompt::default()
    };
    let refused = tower.encode(&pixels(too_many), &prompt).unwrap_err();
    println!("{refused}");
}

/// Kernels and products of what `f` does, once everything that is made once is there.
fn launches(f: impl Fn()) -> u64 {
    f();
    null_driver::reset();
    f();
    null_driver::counted("null_launches") + null_driver::counted("null_products")
}

#[test]
fn a_step_of_twelve_blocks_keeps_to_its_launches() {
    let Some(gpu) = null_driver::card() else {
        return;
    };
    // The counts are of the whole process.
    let count = |what: &str| -> u64 {
        let output = alone("counted_alone", ("COUNTED", what));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = said.lines().find_map(|l| l.split_once("launches: "));
        let (_, count) = line.unwrap_or_else(|| panic!("{said}"));
        count.trim().parse().unwrap()
    };
    drop(gpu);
    for (what, most) in [
        ("cached", 250),
        ("fresh", 350),
        ("maple", 450),
        ("tpt", 450),
    ] {
        let found = count(what);
        println!("{what}: {found} of {most}");
        assert!(
            found <= most,
            "{what}: {found} launches, {most} are the budget"
        );
        assert!(
            found > most / 2,
            "{what}: {found} launches are too few to be all"
        );
    }
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn counted_alone() {
    let Some(gpu) = null_driver::card() else {
        return;
    };
    let clip = on(&gpu, &clip(12), Precision::Half);
    let prompts = Prompts::new(9);
    let plan = clip.text.plan(&classes(100)).unwrap();
    let tower = clip.transformer().unwrap();
    null_driver::skip(true);
    let text = |gradient: bool| {
        let deep = std::env::var("COUNTED").as_deref() == Ok("maple");
        let prompt = match deep {
            true => prompts.text(),
            false => TextPrompt {
                context: Some(prompts.context.as_tensor().clone()),
                ..TextPrompt::default()
            },
        };
        let features = clip.text.encode(&plan, &prompt).unwrap();
        if gradient {
            features.sum_all().unwrap().backward().unwrap();
        }
    };
    let plain = |count: usize| {
        tower
            .encode(&pixels(count), &ImagePrompt::default())
            .unwrap();
    };
    let count = match std::env::var("COUNTED").unwrap().as_str() {
        "cached" => launches(|| text(true)),
        "fresh" => launches(|| {
            text(true);
            plain(32);
        }),
        "maple" => launches(|| {
            text(true);
            let images = tower.encode(&pixels(4), &prompts.image()).unwrap();
            images.sum_all().unwrap().backward().unwrap();
        }),
        "tpt" => launches(|| {
            plain(64);
            text(true);
            text(false);
        }),
        other => panic!("{other}"),
    };
    println!("launches: {count}");
}
