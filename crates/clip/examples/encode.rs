//! Features of a CLIP for a list of texts and normalised pixels, for comparison with other implementations.
//!
//! ```text
//! cargo run --release -p clip --example encode -- MODEL TEXTS.json PIXELS.safetensors OUT.safetensors [compact]
//! ```
//!
//! `PIXELS` holds `pixels` `[n, 3, R, R]`; `OUT` gets `tokens` `[t, 77]`, `text_features` `[t, E]` and
//! `image_features` `[n, E]`, not of unit length. One line of JSON says how long loading took and the most memory held.

#![expect(clippy::print_stdout, reason = "a program")]

use candle_core::{Device, Tensor};
use clip::{Clip, Keep, Tokenizer};
use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

/// Most memory held so far, in MiB, where the system tells.
fn peak() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (keep, arguments) = match arguments.split_last() {
        Some((last, rest)) if last == "compact" => (Keep::Compact, rest),
        _ => (Keep::Float32, arguments.as_slice()),
    };
    let [model, texts, pixels, out] = arguments else {
        return Err("MODEL TEXTS.json PIXELS.safetensors OUT.safetensors [compact]".into());
    };
    let start = Instant::now();
    let weights = clip::weights::open(Path::new(model))?;
    let (read, format) = (start.elapsed(), weights.format);
    let peak_reading = peak();
    let count = |(_, shape): (&str, &[usize])| shape.iter().product::<usize>();
    let bytes: usize = weights.shapes().map(|t| 4 * count(t)).sum();
    let clip = Clip::from_weights_in(&weights, keep)?;
    drop(weights);
    let loaded = start.elapsed();
    let peak_loading = peak();

    let texts: Vec<String> = serde_json::from_str(&std::fs::read_to_string(texts)?)?;
    let tokens: Vec<Vec<i64>> = texts
        .iter()
        .map(|t| Ok(Tokenizer::shared().padded(t)?.map(i64::from).to_vec()))
        .collect::<Result<_, clip::Error>>()?;
    let pixels = candle_core::safetensors::load(pixels, &Device::Cpu)?;
    let pixels = pixels.get("pixels").ok_or("no tensor is called pixels")?;
    let features = HashMap::from([
        ("tokens", Tensor::new(tokens, &Device::Cpu)?),
        ("text_features", clip.encode_texts(&texts)?),
        ("image_features", clip.encode_image(pixels)?),
    ]);
    let encoded = start.elapsed();
    candle_core::safetensors::save(&features, out)?;
    let report = serde_json::json!({
        "format": format.to_string(),
        "float32_mib": bytes as f64 / 1_048_576.0,
        "read_seconds": read.as_secs_f64(),
        "load_seconds": loaded.as_secs_f64(),
        "encode_seconds": encoded.as_secs_f64() - loaded.as_secs_f64(),
        "peak_mib_after_reading": peak_reading,
        "peak_mib_after_building": peak_loading,
        "peak_mib": peak(),
    });
    println!("{report}");
    Ok(())
}
