//! `promptbed run --dry-run`: what a suite would run, and what that would cost.

use std::sync::Arc;

use anyhow::{Result, bail};
use clip::Clip;
use datasets::Catalogue;

use super::Done;
use super::setup::Setup;
use super::working::{Share, Working};
use crate::device::Place;
use crate::measure::estimate::rate::Rates;
use crate::measure::estimate::{self, Line};
use crate::run::plan::{self, Cell};
use crate::run::population::NAME_TOKENS;
use crate::run::sizes;
use crate::run::suite::Suite;
use crate::run::sweep::Sweep;
use crate::run::work::Load;
use crate::{backbone, hub, start};

/// Lists the trials and what each method's take.
///
/// Trials are called by their keys where weights and pictures are there, otherwise by their names without the hash.
///
/// # Errors
/// What is wrong with the weights or data that were named; a backbone whose sizes are not known.
pub fn run(
    suite: Suite,
    catalogue: &Catalogue,
    setup: &Setup,
    working: &Working,
    place: &Place,
) -> Result<Done> {
    let (data, model) = (setup.places.data.as_deref(), setup.places.model.as_deref());
    let populations = estimate::populations(&suite, catalogue, data)?;
    for (id, population) in &populations {
        for note in &population.notes {
            crate::say!("note: {id}: {note}");
        }
    }
    let cells = plan::cells(&suite);
    let mut notes = Vec::new();
    let canonical = hub::find(&suite.backbone).map_or_else(|| suite.backbone.clone(), |(n, _)| n);
    let (architecture, clip) = if model.is_some() || suite.backbone == "drawn" {
        let weights = backbone::weights(&suite.backbone, model, &setup.told)?;
        let clip = Arc::new(Clip::from_weights(&weights)?);
        (weights.architecture, Some(clip))
    } else if let Some(released) = sizes::released(&canonical) {
        notes.push(format!(
            "{}: no weights were given (--model); counted with its published sizes",
            suite.backbone
        ));
        (released, None)
    } else {
        bail!(
            "backbone {:?}: its sizes are not known; pass its weights with --model FILE, or name one of drawn, {}",
            suite.backbone,
            sizes::NAMES.join(", ")
        );
    };
    let published = populations.iter().filter(|(_, p)| p.is_published);
    let absent: Vec<&str> = published.map(|(id, _)| id.as_str()).collect();
    if !absent.is_empty() {
        notes.push(format!(
            "{}: not on disk (--data); counted as published, with class names of {NAME_TOKENS} tokens and test pictures spread evenly over classes",
            absent.join(", ")
        ));
    }
    let is_cached = setup.places.cache.is_some();
    let lines = estimate::loads(&suite, &cells, &architecture, &populations, is_cached);
    // A released CLIP is a large one.
    let numbers = clip.as_ref().map_or(usize::MAX, |c| c.parameters());
    let share = working.share(numbers);
    let rates = estimate::rates(
        &suite,
        &cells,
        &architecture,
        &populations,
        (share.jobs, share.threads),
        place,
    )?;
    // A teacher is part of the hash and is not read here.
    let alone = suite.methods.iter().all(|m| m.teacher.is_none());
    let names: Vec<String> = match clip.filter(|_| absent.is_empty() && alone) {
        Some(clip) => {
            let sweep = Sweep::new(
                suite,
                clip,
                architecture,
                catalogue,
                data,
                None,
                std::collections::BTreeMap::new(),
            )?;
            let trials = sweep.trials.iter();
            trials.map(|t| t.planned.key.clone()).collect()
        }
        None => {
            notes.push("trials are listed without the hash of what is not there".to_owned());
            let name = |c: &Cell| {
                let label = &suite.methods[c.line].label;
                let start = start::short(&c.dataset);
                format!("{label}-{start}-{}shot-seed{}", c.shots, c.seed)
            };
            cells.iter().map(name).collect()
        }
    };
    for name in &names {
        crate::out!("{name}");
    }
    for note in notes {
        crate::say!("note: {note}");
    }
    table(&lines, &rates, &share, place);
    Ok(Done::All)
}

/// What each method's trials take, and all.
fn table(lines: &[Line], rates: &Rates, share: &Share, place: &Place) {
    let seconds = |load: &Load| rates.seconds(load) / share.jobs as f64;
    crate::out!();
    crate::out!(
        "{:<20} {:>7} {:>12} {:>14} {:>12} {:>10}",
        "method",
        "trials",
        "steps",
        "images encoded",
        "operations",
        "about"
    );
    let (mut trials, mut all) = (0, Load::default());
    for line in lines {
        trials += line.trials;
        all += line.load;
        row(&line.method, line.trials, &line.load, seconds(&line.load));
    }
    row("all", trials, &all, seconds(&all));
    let mut speeds = vec![
        format!("image tower {:.1}", rates.image_forward / 1e9),
        format!("text tower {:.1}", rates.text_forward / 1e9),
        format!("text with gradient {:.1}", rates.text_step / 1e9),
    ];
    if rates.image_step > 0.0 {
        speeds.push(format!("image with gradient {:.1}", rates.image_step / 1e9));
    }
    let on = match place.arithmetic() {
        None => format!(" on {} in {}", place.device(), place.precision().name()),
        Some(arithmetic) => format!(" by {} arithmetic", arithmetic.name()),
    };
    crate::say!(
        "An estimate: operations of both towers, over what {} at a time, {} each, did just now{on} on drawn weights of these widths (GFLOP/s each: {}). Reading and decoding pictures is not counted.",
        counted(share.jobs, "trial"),
        counted(share.threads, "thread"),
        speeds.join(", ")
    );
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn row(name: &str, trials: usize, load: &Load, seconds: f64) {
    crate::out!(
        "{name:<20} {trials:>7} {:>12} {:>14} {:>12} {:>10}",
        load.steps,
        load.images,
        scaled(load.total()),
        time(seconds)
    );
}

/// Operations with the prefix that leaves 1 to 999.
fn scaled(operations: f64) -> String {
    let (unit, name) = [(1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP")]
        .into_iter()
        .find(|(unit, _)| operations >= *unit)
        .unwrap_or((1e9, "GFLOP"));
    format!("{:.1} {name}", operations / unit)
}

/// Seconds as a person says them.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.0} days", s / 86400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_and_times_have_units_a_person_reads() {
        assert_eq!(scaled(3.21e9), "3.2 GFLOP");
        assert_eq!(scaled(1e15), "1.0 PFLOP");
        assert_eq!(scaled(5.5e18), "5.5 EFLOP");
        let shown: Vec<String> = [5.4, 119.4, 3600.0, 7200.0, 180_000.0].map(time).into();
        assert_eq!(shown, ["5 s", "119 s", "60 min", "2.0 h", "2 days"]);
    }
}
