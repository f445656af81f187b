//! Every recorded run of released code that is at hand replays, step for step. The recordings lie beside the checkout, in
//! `../shared/traces` and `../shared/traces-newer`; where they are not, the fixtures of the runner's tests stand in.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use clip::Clip;
use methods::replay::{Recording, recorded_as, replay};

/// Largest deviation of losses and parts, first gradients, final values, logits.
const BOUNDS: [f64; 4] = [2e-5, 1e-3, 1.5e-4, 1e-4];

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = ["../../../shared/traces", "../../../shared/traces-newer"];
    let mut found: Vec<PathBuf> = places
        .iter()
        .filter_map(|place| std::fs::read_dir(root.join(place)).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("trace.json").exists())
        .collect();
    found.sort();
    found
}

fn recording(folder: &Path) -> Option<(Arc<Clip>, Recording)> {
    let text = std::fs::read_to_string(folder.join("trace.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let named = |key: &str| json.get(key).and_then(|v| v.as_str()).unwrap_or_default();
    recorded_as(named("method"))?;
    let clip = Clip::load(&folder.parent().unwrap().join(named("model"))).unwrap();
    let catalogue = datasets::Catalogue::built_in();
    let row = catalogue.find(named("dataset")).ok();
    let recording = Recording {
        dataset: row.map_or(named("dataset"), |r| &r.id).to_owned(),
        template: row
            .map_or(methods::parts::templates::PHOTO, |r| &r.template)
            .to_owned(),
        tensors: candle_core::safetensors::load(folder.join("trace.safetensors"), &Device::Cpu)
            .unwrap(),
        json,
    };
    Some((Arc::new(clip), recording))
}

/// `RECORDING=tcp cargo test -p methods --test recordings` replays the folders whose names hold that text.
#[test]
fn every_recorded_run_that_is_at_hand_replays() {
    let wanted = std::env::var("RECORDING").unwrap_or_default();
    let (mut replayed, mut wrong) = (0, Vec::new());
    for folder in folders() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        if !name.contains(&wanted) {
            continue;
        }
        let Some((clip, recording)) = recording(&folder) else {
            eprintln!("SKIPPED: {name}: no method replays it");
            continue;
        };
        replayed += 1;
        match replay(clip, &recording) {
            Err(e) => wrong.push(format!("{name}: {e}")),
            Ok(c) => {
                eprintln!(
                    "{name:<20} {:>3} steps, loss {:.1e}, gradient {:.1e}, values {:.1e}, logits {:.1e}",
                    c.steps, c.loss, c.gradient, c.values, c.logits
                );
                let off = [c.loss, c.gradient, c.values, c.logits];
                if off
                    .iter()
                    .zip(BOUNDS)
                    .any(|(off, bound)| off.is_nan() || *off > bound)
                {
                    wrong.push(format!("{name}: {off:?} against {BOUNDS:?}"));
                }
                wrong.extend(c.choices.iter().map(|choice| format!("{name}: {choice}")));
            }
        }
    }
    if replayed == 0 {
        eprintln!("SKIPPED: no recorded runs beside this checkout");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
